//! The data directory under bad luck: killed processes, full disks, files that were cut or altered, other releases.
#![allow(
    clippy::disallowed_methods,
    reason = "the kill comes at a moment of real time, and what is printed was measured"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use maelstrom::crdt::{Change, Expect, Key, Kind, Registry, Row};
use maelstrom::id::ClusterId;
use maelstrom::rng::Rng;
use maelstrom::store::{Loaded, Store, StoreError};
use maelstrom::time::Wall;
use redb::{Database, ReadableTable as _, TableDefinition};

const CHILD: &str = "MAELSTROM_STORE_CHILD";
const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("placed");
const ROWS_1: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

#[test]
fn a_restart_finds_the_same_node_a_higher_epoch_and_every_row() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut store, first) = open(dir.path());
    assert!(first.is_first_start && first.registers.is_empty());
    let mut registry = Registry::restore(first.node, first.hlc, first.registers);
    put(&mut store, &mut registry, "api", b"v1").expect("a put");
    store.set_note("token", Some(b"secret")).expect("a note");
    store.set_cluster(ClusterId(7)).expect("a cluster");
    drop(store);

    let (mut store, second) = open(dir.path());
    assert_eq!((second.node, second.epoch, first.epoch), (first.node, 2, 1));
    assert_eq!((second.cluster, second.hlc, second.is_first_start), (ClusterId(7), registry.hlc(), false));
    assert_eq!(store.note("token").expect("a note").as_deref(), Some(&b"secret"[..]));
    assert_eq!(Registry::restore(second.node, second.hlc, second.registers).root(), registry.root());
}

#[test]
fn a_forgotten_row_is_gone_after_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    fill(dir.path(), 2);
    let (mut store, _) = open(dir.path());
    store.forget(&[Key::new(Kind::COMPONENT, "c-00000").expect("a key")]).expect("forgotten");
    drop(store);
    assert_eq!(names(&open(dir.path()).1), BTreeSet::from(["c-00001".to_owned()]));
}

#[test]
fn a_data_dir_in_use_is_refused_and_says_by_whom() {
    let dir = tempfile::tempdir().expect("a folder");
    let _first = open(dir.path());
    let error = Store::open(dir.path(), 1).expect_err("in use").to_string();
    let holder = format!("in use by another maelstromd (process {})", std::process::id());
    assert!(error.contains(&holder) && error.contains("--data-dir"), "{error}");
}

#[test]
fn a_data_dir_that_cannot_be_made_is_refused_with_its_path() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("file"), b"").expect("a file");
    let path = dir.path().join("file/data");
    let error = Store::open(&path, 1).expect_err("a file is in the way").to_string();
    assert!(error.contains(path.to_str().expect("a path")), "{error}");
}

#[test]
fn a_data_dir_of_somebody_else_is_refused_with_what_to_do() {
    if is_root() {
        println!("SKIPPED a_data_dir_of_somebody_else_is_refused: root may do everything");
        return;
    }
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o500)).expect("our folder");
    let error = Store::open(dir.path(), 1).expect_err("read-only").to_string();
    assert!(error.contains("own the directory"), "{error}");
}

#[test]
fn a_file_of_a_newer_release_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    fill(dir.path(), 3);
    raw(dir.path(), |change| set_format(change, 7));
    for _ in 0..2 {
        let error = Store::open(dir.path(), 1).expect_err("newer").to_string();
        let expected = "was written by a newer maelstromd (format 7, this one knows 2): \
                        upgrade this node, or start with an empty --data-dir";
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn a_damaged_row_is_put_aside_and_the_others_load() {
    let dir = tempfile::tempdir().expect("a folder");
    fill(dir.path(), 5);
    raw(dir.path(), |change| {
        let (place, _) = row_of(change, "c-00002");
        change.open_table(ROWS).expect("rows").insert(&place[..], &b"nonsense, no register"[..]).expect("an insert");
    });
    let (store, loaded) = open(dir.path());
    let [aside] = &loaded.quarantined[..] else { panic!("{:?}", loaded.quarantined) };
    assert_eq!((aside.key.as_str(), aside.why.as_str()), ("component c-00002", "its checksum is wrong"));
    assert_eq!(names(&loaded).len(), 4);
    drop(store);
    assert_eq!(open(dir.path()).1.quarantined, [], "it is reported once");
}

#[test]
fn a_row_in_the_place_of_another_is_put_aside() {
    let dir = tempfile::tempdir().expect("a folder");
    fill(dir.path(), 5);
    raw(dir.path(), |change| {
        let (mut place, value) = row_of(change, "c-00002");
        let mut rows = change.open_table(ROWS).expect("rows");
        rows.remove(&place[..]).expect("a removal");
        place[0] ^= 1;
        rows.insert(&place[..], &value[..]).expect("an insert");
    });
    let (_store, loaded) = open(dir.path());
    let [aside] = &loaded.quarantined[..] else { panic!("{:?}", loaded.quarantined) };
    assert_eq!((aside.key.as_str(), aside.why.as_str()), ("component c-00002", "it stands in the place of another"));
    assert_eq!(names(&loaded).len(), 4);
}

#[test]
fn a_file_of_format_1_is_taken_over_with_every_row_and_what_is_damaged_in_it_is_put_aside() {
    let dir = tempfile::tempdir().expect("a folder");
    fill(dir.path(), 50);
    let registers = open(dir.path()).1.registers;
    raw(dir.path(), as_format_1);
    let (store, loaded) = open(dir.path());
    assert_eq!((&loaded.registers, &loaded.quarantined[..]), (&registers, &[][..]));
    drop(store);
    let (store, loaded) = open(dir.path());
    assert_eq!(loaded.registers, registers, "and again");
    drop(store);

    raw(dir.path(), as_format_1);
    let key = Key::new(Kind::COMPONENT, "c-00002").expect("a key").to_bytes();
    raw(dir.path(), |change| {
        let mut rows = change.open_table(ROWS_1).expect("rows");
        rows.insert(&key[..], &b"nonsense, no register"[..]).expect("an insert");
        rows.insert(&b"x"[..], &b"under a key that is none"[..]).expect("an insert");
    });
    let (mut store, loaded) = open(dir.path());
    assert_eq!((loaded.quarantined.len(), names(&loaded).len()), (2, 49));
    let mut registry = Registry::restore(loaded.node, loaded.hlc, loaded.registers);
    put(&mut store, &mut registry, "c-00002", b"again").expect("a put");
    drop(store);
    assert_eq!(names(&open(dir.path()).1).len(), 50);
}

#[test]
fn of_two_changes_of_one_key_in_one_commit_the_later_stays() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut store, loaded) = open(dir.path());
    let mut registry = Registry::restore(loaded.node, loaded.hlc, loaded.registers);
    let mut changes = Vec::new();
    for text in [&b"first"[..], b"second"] {
        changes.extend(put_in_memory(&mut registry, "api", text).0);
        changes.extend(put_in_memory(&mut registry, "other", text).0);
    }
    store.commit(&changes, registry.hlc()).expect("durable");
    drop(store);
    let loaded = open(dir.path()).1;
    assert_eq!(Registry::restore(loaded.node, loaded.hlc, loaded.registers).root(), registry.root());
}

#[test]
fn a_file_that_was_emptied_is_not_taken_for_a_first_start() {
    let dir = tempfile::tempdir().expect("a folder");
    fill(dir.path(), 1);
    fs::write(file(dir.path()), b"").expect("our file");
    let error = Store::open(dir.path(), 1).expect_err("empty");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("registry.redb is damaged"), "{error}");
}

#[test]
fn a_first_start_that_was_cut_short_begins_again() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("registry.redb.new"), b"half").expect("a file");
    assert!(open(dir.path()).1.is_first_start);
}

#[test]
fn a_file_cut_anywhere_is_refused_or_whole_and_never_a_panic() {
    let (dir, whole) = whole_file();
    let step = (whole.len() / 150).max(1);
    let cuts = (0..whole.len()).step_by(step).chain([1, 63, 64, 319, 320, 4095, 4096, 4097, whole.len() - 1]);
    let mut refused = 0;
    for cut in cuts {
        fs::write(file(dir.path()), &whole[..cut]).expect("our file");
        refused += check_altered(dir.path(), &format!("cut at {cut}"), true);
    }
    println!("cut files refused: {refused}");
}

#[test]
fn a_file_with_any_altered_byte_is_refused_or_its_rows_are_put_aside_and_never_a_panic() {
    let (dir, whole) = whole_file();
    let step = (whole.len() / 300).max(1);
    let mut refused = 0;
    for at in (0..whole.len()).step_by(step).chain(0..330) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        fs::write(file(dir.path()), &bytes).expect("our file");
        refused += check_altered(dir.path(), &format!("byte {at} altered"), false);
    }
    println!("altered files refused: {refused}");
}

#[test]
fn every_acknowledged_put_outlives_a_kill() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut rng = Rng::from_seed(u64::from(std::process::id()));
    let mut acknowledged = BTreeSet::new();
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child_that_writes_until_it_is_killed", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut news = 0;
        let mut deadline = None;
        // The kill comes at a random moment after the first put, in the middle of whatever it does then.
        let pause = Duration::from_micros(rng.below(60_000));
        while let Some(Ok(line)) = lines.next() {
            let Some((_, key)) = line.split_once("ack ") else { continue };
            acknowledged.insert(key.to_owned());
            news += 1;
            if *deadline.get_or_insert_with(|| Instant::now() + pause) <= Instant::now() {
                let _ = child.kill();
            }
        }
        let _ = child.wait();
        assert!(news > 0, "round {round}: the child wrote nothing");
        let (_store, loaded) = open(dir.path());
        let found = names(&loaded);
        let lost: Vec<&String> = acknowledged.difference(&found).collect();
        assert_eq!(lost, Vec::<&String>::new(), "round {round}: acknowledged and lost");
        assert_eq!(loaded.quarantined, []);
        assert_eq!(loaded.epoch, 2 * (round + 1), "each start of either side counts");
    }
    println!("{} acknowledged puts outlived 8 kills", acknowledged.len());
}

/// Not a test of its own: the process that the test above starts and kills.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let (mut store, loaded) = open(&dir);
    let mut registry = Registry::restore(loaded.node, loaded.hlc, loaded.registers);
    for n in 0.. {
        let name = format!("{}-{n}", loaded.epoch);
        put(&mut store, &mut registry, &name, &[7; 300]).expect("a put");
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "\nack {name}").and_then(|()| out.flush());
    }
}

#[test]
fn a_full_disk_refuses_the_put_keeps_what_was_and_works_again_when_there_is_room() {
    if std::env::var_os("MAELSTROM_TEST_ROOT").is_none() || !is_root() {
        println!("SKIPPED a_full_disk_refuses_the_put: set MAELSTROM_TEST_ROOT=1 and be root to mount a small disk");
        return;
    }
    let disk = SmallDisk::mount();
    let dir = disk.0.path().join("data");
    let (mut store, loaded) = open(&dir);
    let mut registry = Registry::restore(loaded.node, loaded.hlc, loaded.registers);
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![0; 512 * 1024]).expect("half of the disk");
    let mut kept = BTreeSet::new();
    let error = (0..)
        .find_map(|n| {
            let name = format!("c-{n}");
            let written = put(&mut store, &mut registry, &name, &[n as u8; 8000]);
            written.map(|()| kept.insert(name)).err()
        })
        .expect("it must fill up");
    assert!(error.to_string().contains("no room is left on its disk; nothing was changed"), "{error}");
    let again = put(&mut store, &mut registry, "again", &[1; 8000]).expect_err("still full");
    assert!(matches!(again, StoreError::Full { .. }), "{again}");
    let root = registry.root();
    fs::remove_file(&ballast).expect("room");
    put(&mut store, &mut registry, "with-room", &[2; 8000]).expect("there is room");
    kept.insert("with-room".to_owned());
    assert_ne!(registry.root(), root);
    drop(store);
    let (_store, loaded) = open(&dir);
    assert_eq!(names(&loaded), kept, "refused puts are not there, acknowledged ones are");
    assert_eq!(Registry::restore(loaded.node, loaded.hlc, loaded.registers).root(), registry.root());
}

fn open(dir: &Path) -> (Store, Loaded) {
    Store::open(dir, 42).unwrap_or_else(|error| panic!("{error}"))
}

fn file(dir: &Path) -> PathBuf {
    dir.join("registry.redb")
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

fn put_in_memory(registry: &mut Registry, name: &str, bytes: &[u8]) -> (Vec<Change>, maelstrom::crdt::Written) {
    let row = Row { format: 1, bytes: bytes.into() };
    let written = registry.put(Kind::COMPONENT, name, row, Expect::Any, Wall(1_000_000)).expect("a put");
    (written.changed.clone(), written)
}

/// A put as the daemon does it: in memory, on disk, and taken back if the disk refuses.
fn put(store: &mut Store, registry: &mut Registry, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let (_, written) = put_in_memory(registry, name, bytes);
    store.commit(&written.changed, written.hlc).inspect_err(|_| registry.undo(written))
}

fn fill(dir: &Path, rows: usize) {
    let (mut store, loaded) = open(dir);
    let mut registry = Registry::restore(loaded.node, loaded.hlc, loaded.registers);
    for n in 0..rows {
        put(&mut store, &mut registry, &format!("c-{n:05}"), &[n as u8; 300]).expect("a put");
    }
}

fn names(loaded: &Loaded) -> BTreeSet<String> {
    loaded.registers.iter().map(|(key, _)| key.name().to_owned()).collect()
}

/// Changes the file behind the store's back.
fn raw(dir: &Path, act: impl FnOnce(&redb::WriteTransaction)) {
    let database = Database::open(file(dir)).expect("a database");
    let change = database.begin_write().expect("a change");
    act(&change);
    change.commit().expect("a commit");
}

/// Where the row of a component stands, and its bytes.
fn row_of(change: &redb::WriteTransaction, name: &str) -> (Vec<u8>, Vec<u8>) {
    let rows = change.open_table(ROWS).expect("rows");
    let mut all = rows.iter().expect("rows").map(|row| row.expect("a row"));
    let row = all.find(|(place, _)| place.value().ends_with(name.as_bytes())).expect("it is there");
    (row.0.value().to_vec(), row.1.value().to_vec())
}

/// Writes the file as the first release had it: under keys without their hashes.
fn as_format_1(change: &redb::WriteTransaction) {
    let mut old = change.open_table(ROWS_1).expect("rows");
    for row in change.open_table(ROWS).expect("rows").iter().expect("rows") {
        let (place, value) = row.expect("a row");
        old.insert(&place.value()[8..], value.value()).expect("an insert");
    }
    change.delete_table(ROWS).expect("it is there");
    set_format(change, 1);
}

/// The format's number under its checksum.
fn set_format(change: &redb::WriteTransaction, format: u64) {
    let mut hash = maelstrom::hash::Hash64::default();
    hash.bytes(b"format");
    hash.bytes(&format.to_le_bytes());
    let sealed = [hash.finish().to_le_bytes(), format.to_le_bytes()].concat();
    change.open_table(META).expect("meta").insert("format", &sealed[..]).expect("an insert");
}

const WHOLE: usize = 120;

fn whole_file() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a folder");
    fill(dir.path(), WHOLE);
    let whole = fs::read(file(dir.path())).expect("our file");
    (dir, whole)
}

/// An altered file must be refused with its path, or hold every row, be it put aside. 1 if it was refused.
fn check_altered(dir: &Path, what: &str, every_row: bool) -> usize {
    let opened = std::panic::catch_unwind(|| Store::open(dir, 1));
    match opened.unwrap_or_else(|_| panic!("{what}: it panicked")) {
        Ok((_store, loaded)) => {
            let aside = if every_row { 0 } else { loaded.quarantined.len() };
            assert_eq!(names(&loaded).len() + aside, WHOLE, "{what}: rows are missing and nobody said so");
            assert!(!loaded.is_first_start, "{what}");
            0
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("registry.redb"), "{what}: {text}");
            1
        }
    }
}

/// A disk of 1.5 MiB, gone with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1536k", "tmpfs"]).arg(dir.path()).status();
        assert!(mounted.expect("mount").success(), "a small disk");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
