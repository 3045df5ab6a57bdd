//! What the API promises about writes, expectations, batches and rows from the future.

use crate::crdt::clock::Ahead;

use super::*;

const NOW: Wall = Wall(1_000_000);

fn registry(node: u64) -> Registry {
    Registry::restore(NodeId(node), Hlc::default(), [])
}

fn row(text: &str) -> Row {
    Row { format: 1, bytes: text.as_bytes().into() }
}

fn key(kind: Kind, name: &str) -> Key {
    Key::new(kind, name).expect("a key")
}

fn put(registry: &mut Registry, name: &str, text: &str, expect: Expect) -> Result<Written, PutError> {
    registry.put(Kind::COMPONENT, name, row(text), expect, NOW)
}

fn text(registry: &Registry, name: &str) -> Option<String> {
    let register = registry.get(Kind::COMPONENT, name)?;
    register.winner().map(|row| String::from_utf8_lossy(&row.bytes).into_owned())
}

/// Brings everything that `from` knows to `to`.
fn sync(from: &Registry, to: &mut Registry, now: Wall) {
    for (key, register) in from.registers() {
        let bytes = register.encode().expect("a register");
        to.merge(key.clone(), Register::decode(&bytes).expect("a register"), now);
    }
}

#[test]
fn a_put_is_read_back_and_says_what_must_become_durable() {
    let mut registry = registry(1);
    let written = put(&mut registry, "api", "v1", Expect::Absent).expect("a put");
    assert_eq!(text(&registry, "api").as_deref(), Some("v1"));
    let [change] = &written.changed[..] else { panic!("{written:?}") };
    assert_eq!(Register::decode(&change.encoded).as_ref(), Ok(registry.register(&change.key).expect("there")));
    assert_eq!(written.version, registry.get(Kind::COMPONENT, "api").map(Register::version));
}

#[test]
fn the_same_put_again_changes_nothing() {
    let mut registry = registry(1);
    let first = put(&mut registry, "api", "v1", Expect::Any).expect("a put");
    let root = registry.root();
    let again = put(&mut registry, "api", "v1", Expect::Any).expect("a put");
    assert!(again.is_unchanged() && !first.is_unchanged());
    assert_eq!((again.version, registry.root()), (first.version, root));
}

#[test]
fn a_stale_version_is_refused_and_names_both() {
    let mut registry = registry(1);
    let first = put(&mut registry, "api", "v1", Expect::Any).expect("a put").version.expect("there");
    let second = put(&mut registry, "api", "v2", Expect::Version(first)).expect("a put").version.expect("there");
    let error = put(&mut registry, "api", "v3", Expect::Version(first)).expect_err("stale");
    assert_eq!(
        error.to_string(),
        format!(
            "component api was changed in the meantime: it has version {second}, expected was {first}; read it again"
        )
    );
    assert_eq!(text(&registry, "api").as_deref(), Some("v2"));
}

#[test]
fn a_row_that_must_be_absent_or_present_is_checked() {
    let mut registry = registry(1);
    let version = put(&mut registry, "api", "v1", Expect::Any).expect("a put").version.expect("there");
    assert!(matches!(put(&mut registry, "api", "v2", Expect::Absent), Err(PutError::Exists { .. })));
    let error = put(&mut registry, "web", "v1", Expect::Version(version)).expect_err("absent");
    assert_eq!(error.to_string(), format!("component web does not exist; expected was version {version}"));
}

#[test]
fn a_deleted_row_is_gone_can_be_deleted_again_and_made_again() {
    let mut registry = registry(1);
    assert!(registry.delete(Kind::COMPONENT, "api", Expect::Any, NOW).expect("nothing to do").is_unchanged());
    put(&mut registry, "api", "v1", Expect::Any).expect("a put");
    assert!(!registry.delete(Kind::COMPONENT, "api", Expect::Any, NOW).expect("a delete").is_unchanged());
    assert!(registry.delete(Kind::COMPONENT, "api", Expect::Any, NOW).expect("nothing to do").is_unchanged());
    assert_eq!((text(&registry, "api"), registry.len()), (None, 1));
    put(&mut registry, "api", "v1", Expect::Absent).expect("a put");
    assert_eq!(text(&registry, "api").as_deref(), Some("v1"));
}

#[test]
fn a_batch_with_one_stale_write_changes_nothing() {
    let mut registry = registry(1);
    put(&mut registry, "api", "v1", Expect::Any).expect("a put");
    let (root, hlc) = (registry.root(), registry.hlc());
    let good = Write { key: key(Kind::SOURCE, "web"), row: Some(row("s")), expect: Expect::Any };
    let bad = Write { key: key(Kind::COMPONENT, "api"), row: None, expect: Expect::Absent };
    assert!(matches!(registry.write(vec![good.clone(), bad], NOW), Err(PutError::Exists { .. })));
    assert!(matches!(registry.write(vec![good.clone(), good], NOW), Err(PutError::Repeated(_))));
    assert_eq!((registry.root(), registry.hlc()), (root, hlc));
}

#[test]
fn a_component_and_its_sources_go_in_one_change() {
    let mut registry = registry(1);
    let keys = [key(Kind::COMPONENT, "api"), key(Kind::SOURCE, "one"), key(Kind::SOURCE, "two")];
    let batch = |row: Option<Row>| {
        keys.iter().map(|key| Write { key: key.clone(), row: row.clone(), expect: Expect::Any }).collect::<Vec<_>>()
    };
    registry.write(batch(Some(row("x"))), NOW).expect("puts");
    assert_eq!(registry.list(Kind::SOURCE).map(|(name, _)| name).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(registry.write(batch(None), NOW).expect("deletes").changed.len(), 3);
    assert_eq!(registry.list(Kind::SOURCE).count() + registry.list(Kind::COMPONENT).count(), 0);
}

#[test]
fn a_write_that_could_not_be_made_durable_is_taken_back() {
    let mut registry = registry(1);
    put(&mut registry, "api", "v1", Expect::Any).expect("a put");
    let root = registry.root();
    let changed = put(&mut registry, "api", "v2", Expect::Any).expect("a put");
    let made = put(&mut registry, "web", "v1", Expect::Any).expect("a put");
    registry.undo(made);
    registry.undo(changed);
    assert_eq!((registry.root(), text(&registry, "api").as_deref(), registry.len()), (root, Some("v1"), 1));
}

#[test]
fn concurrent_puts_are_a_conflict_on_both_nodes_until_a_re_put_settles_it() {
    let (mut a, mut b) = (registry(1), registry(2));
    put(&mut a, "api", "from a", Expect::Any).expect("a put");
    put(&mut b, "api", "from b", Expect::Any).expect("a put");
    sync(&a.clone(), &mut b, NOW);
    sync(&b, &mut a, NOW);
    assert_eq!((a.root(), a.conflicts().count(), b.conflicts().count()), (b.root(), 1, 1));
    // The time is the same, so the greater node wins, everywhere.
    assert_eq!((text(&a, "api"), text(&b, "api")), (Some("from b".to_owned()), Some("from b".to_owned())));
    // The winner's own row once more: not a no-op, since it settles the conflict.
    assert!(!put(&mut a, "api", "from b", Expect::Any).expect("a put").is_unchanged());
    sync(&a, &mut b, NOW);
    assert_eq!((b.conflicts().count(), a.root()), (0, b.root()));
}

#[test]
fn a_put_at_the_same_time_as_a_delete_is_not_lost() {
    let (mut a, mut b) = (registry(1), registry(2));
    put(&mut a, "api", "v1", Expect::Any).expect("a put");
    sync(&a, &mut b, NOW);
    put(&mut a, "api", "v2", Expect::Any).expect("a put");
    b.delete(Kind::COMPONENT, "api", Expect::Any, NOW).expect("a delete");
    sync(&b, &mut a, NOW);
    let (_, register) = a.conflicts().next().expect("a conflict");
    assert!(register.siblings().iter().any(|sibling| sibling.row == Some(row("v2"))));
    assert!(matches!(put(&mut a, "api", "v3", Expect::Absent), Err(PutError::Exists { .. })));
}

#[test]
fn a_row_from_the_future_waits_until_the_clock_catches_up() {
    let (mut a, mut b) = (registry(1), registry(2));
    a.put(Kind::COMPONENT, "api", row("v1"), Expect::Any, Wall(NOW.0 + 2000)).expect("a put");
    let (key, register) = a.registers().map(|(key, register)| (key.clone(), register.clone())).next().expect("one");
    let held = b.merge(key.clone(), register.clone(), NOW);
    assert_eq!(held, Merged::Held(Ahead { ahead_ms: 2000, due: Wall(NOW.0 + 1500) }));
    assert_eq!((text(&b, "api"), b.hlc(), b.held()), (None, Hlc::default(), 1));
    assert!(matches!(b.merge(key, register, NOW), Merged::Held(_)), "again, and it is held once");
    assert_eq!(b.held(), 1);
    assert_eq!(b.poll_timeout(), Some(Wall(NOW.0 + 1500)));
    assert_eq!(b.handle_timeout(Wall(NOW.0 + 1499)).len(), 0);
    assert_eq!(b.handle_timeout(Wall(NOW.0 + 1500)).len(), 1);
    assert_eq!((text(&b, "api").as_deref(), b.held(), a.root()), (Some("v1"), 0, b.root()));
}

#[test]
fn rows_from_the_future_cannot_take_all_memory() {
    let mut registry = registry(1);
    let dot = Dot { at: Hlc::from_wall(Wall(NOW.0 + 9999)), by: NodeId(2) };
    let big = Row { format: 1, bytes: vec![0; ROW_MAX].into() };
    let register = Register::write(None, dot, Some(big));
    let outcomes = (0..200).map(|n| registry.merge(key(Kind::CONFIG, &n.to_string()), register.clone(), NOW));
    assert!(outcomes.collect::<Vec<_>>().iter().any(|outcome| matches!(outcome, Merged::NoRoom(_))));
    assert!(registry.held_weight <= HELD_MAX);
}

#[test]
fn a_restarted_node_knows_the_same_and_writes_later() {
    let mut before = registry(1);
    put(&mut before, "api", "v1", Expect::Any).expect("a put");
    let rows: Vec<(Key, Register)> =
        before.registers().map(|(key, register)| (key.clone(), register.clone())).collect();
    let mut after = Registry::restore(NodeId(1), Hlc::default(), rows);
    assert_eq!(after.root(), before.root());
    after.put(Kind::COMPONENT, "api", row("v2"), Expect::Any, Wall(0)).expect("a put with a clock that went back");
    sync(&after, &mut before, NOW);
    assert_eq!((text(&before, "api").as_deref(), before.conflicts().count()), (Some("v2"), 0));
}

#[test]
fn a_kind_that_nobody_knows_is_stored_and_handed_on() {
    let (mut a, mut b) = (registry(1), registry(2));
    a.put(Kind(999), "x", row("?"), Expect::Any, NOW).expect("a put");
    sync(&a, &mut b, NOW);
    assert_eq!(b.list(Kind(999)).map(|(name, _)| name).collect::<Vec<_>>(), ["x"]);
}

#[test]
fn only_a_key_with_nothing_but_deletes_is_forgotten() {
    let mut registry = registry(1);
    put(&mut registry, "api", "v1", Expect::Any).expect("a put");
    assert!(!registry.forget(&key(Kind::COMPONENT, "api")));
    registry.delete(Kind::COMPONENT, "api", Expect::Any, NOW).expect("a delete");
    assert!(registry.forget(&key(Kind::COMPONENT, "api")));
    assert_eq!((registry.len(), registry.root()), (0, 0));
}

#[test]
fn a_row_or_key_over_the_limit_is_refused_with_its_size() {
    let mut registry = registry(1);
    let error = put(&mut registry, "api", &"x".repeat(ROW_MAX + 1), Expect::Any).expect_err("too long");
    assert_eq!(error.to_string(), "component api would have 65537 bytes; allowed are at most 65536");
    assert_eq!(put(&mut registry, "", "x", Expect::Any).expect_err("empty"), PutError::Key(KeyError::Empty));
}
