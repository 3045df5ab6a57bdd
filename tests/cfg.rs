//! Settings and secrets in a real cluster: put on one node, given to an instance on another as a variable and as a file;
//! a change costs no request; and a secret is nowhere in clear.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

#[path = "support/cluster.rs"]
mod cluster;

use cluster::Cluster;
use cluster::daemon::{Daemon, try_exchange};
use support::image::TestImage;

mod support {
    pub(crate) mod contract;
    pub(crate) mod image;
}

/// What is put as secrets, one after the other. Each is distinct enough to be found wherever it is.
const SECRETS: [&str; 4] = ["token-one-7f3a91", "token-two-c04b5e", "cert-one-91d2aa", "cert-two-3be67f"];

/// What is put plain: it must be found, or the search would find nothing at all.
const PLAIN: &str = "level-plain-55c1d8";

fn put(node: &Daemon, path: &str, value: &str) -> Value {
    let (status, body) = node.api("PUT", &format!("/v1/cfg/{path}"), value);
    assert!((200..300).contains(&status), "put {path}: {status} {body}");
    serde_json::from_str(&body).expect("JSON")
}

fn deploy(node: &Daemon, name: &str, more: Value) {
    let mut document = json!({"command": [cluster::sample::testapp()], "concurrency": 100, "instances": {"max": 1}});
    if let (Some(document), Some(more)) = (document.as_object_mut(), more.as_object()) {
        document.extend(more.clone());
    }
    node.put("components", name, &document.to_string());
    node.put("sources", name, &json!({"component": name, "http": {"host": format!("{name}.localhost")}}).to_string());
}

/// One request: its status, 0 if the connection broke, and its body.
fn ask(address: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: api.localhost\r\nConnection: close\r\n\r\n");
    TcpStream::connect(address).and_then(|stream| try_exchange(stream, &request)).unwrap_or_default()
}

/// A variable of the instance that answers.
fn variable(node: &Daemon, name: &str) -> String {
    let (_, env) = ask(node.http, "/env");
    let value = env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_default().to_owned()
}

/// The place of the node that has the one instance.
fn home(cluster: &Cluster) -> usize {
    let own = |node: &Daemon| {
        let name = node.look("/v1/version")["node"].clone();
        node.instances().iter().any(|item| item["node"] == name)
    };
    cluster.nodes.iter().position(own).expect("an instance")
}

/// All files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

fn holds(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

/// Exit code, stdout, stderr.
fn maelctl(node: &Daemon, words: &[&str], stdin: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_maelctl"))
        .args(["--node", &format!("http://{}", node.api)])
        .args(words)
        .env_remove("MAEL_NODE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut input = child.stdin.take().expect("a pipe");
    // It may end without having read.
    let _ = input.write_all(stdin.as_bytes());
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Every answer of the API and every output of `maelctl` that could show a setting.
fn shown(node: &Daemon) -> Vec<(String, String)> {
    let paths = [
        "/v1/cfg",
        "/v1/cfg/TOKEN",
        "/v1/cfg/CERT",
        "/v1/cfg/LEVEL",
        "/v1/components",
        "/v1/components/api",
        "/v1/sources",
        "/v1/instances",
        "/v1/nodes",
        "/v1/logs/api?tail=1000",
    ];
    let mut all: Vec<_> = paths.iter().map(|path| ((*path).to_owned(), node.api("GET", path, "").1)).collect();
    for words in [
        &["cfg", "ls", "-o", "wide"][..],
        &["cfg", "ls", "-o", "json"],
        &["cfg", "show", "TOKEN"],
        &["cfg", "show", "LEVEL"],
        &["comp", "show", "api"],
        &["comp", "show", "api", "-o", "json"],
        &["ps", "-o", "wide"],
        &["logs", "api"],
    ] {
        let (code, out, error) = maelctl(node, words, "");
        assert_eq!(code, 0, "{words:?}: {error}");
        all.push((words.join(" "), out + &error));
    }
    all
}

/// Ends the load also when what is done under it fails.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks all nodes again and again while something is done; how many requests there were, and the statuses that were not
/// 200.
fn under_load(cluster: &Cluster, act: impl FnOnce()) -> (u64, Vec<u16>) {
    let done = AtomicBool::new(false);
    let entrances: Vec<_> = cluster.nodes.iter().map(|node| node.http).collect();
    std::thread::scope(|scope| {
        let load = |entrance: SocketAddr| {
            let done = &done;
            scope.spawn(move || {
                let (mut asked, mut failed) = (0, Vec::new());
                while !done.load(Ordering::Relaxed) {
                    let (status, _) = ask(entrance, "/");
                    asked += 1;
                    failed.extend((status != 200).then_some(status));
                }
                (asked, failed)
            })
        };
        let loads: Vec<_> = entrances.iter().flat_map(|entrance| [load(*entrance), load(*entrance)]).collect();
        let end = SetWhenDropped(&done);
        act();
        // What was replaced drains meanwhile.
        std::thread::sleep(Duration::from_millis(500));
        drop(end);
        loads.into_iter().map(|load| load.join().expect("asked")).fold((0, Vec::new()), |(all, mut failed), one| {
            failed.extend(one.1);
            (all + one.0, failed)
        })
    })
}

#[test]
fn a_secret_reaches_an_instance_on_another_node_and_a_change_costs_no_request_and_shows_it_nowhere() {
    let mut cluster = Cluster::start("cfg", 3);
    let first = &cluster.nodes[0];
    put(first, "TOKEN?secret=true", SECRETS[0]);
    put(first, "CERT?secret=true", SECRETS[2]);
    put(first, "LEVEL", PLAIN);
    deploy(first, "api", json!({"cfg": ["TOKEN", "LEVEL", {"name": "CERT", "file": "cert.pem", "env": "CERT_FILE"}]}));
    cluster.everywhere("/v1/sources/api", 200);
    cluster.everywhere("/v1/cfg/LEVEL", 200);
    assert_eq!(ask(first.http, "/").0, 200, "{}", cluster.logs());
    let home = home(&cluster);
    let other = &cluster.nodes[(home + 1) % 3];
    assert_eq!((variable(other, "TOKEN"), variable(other, "LEVEL")), (SECRETS[0].to_owned(), PLAIN.to_owned()));
    let certificate = || ask(other.http, &format!("/read?path={}", variable(other, "CERT_FILE"))).1;
    assert_eq!(certificate(), SECRETS[2]);
    let before = variable(other, "MAELSTROM_INSTANCE_ID");

    let (asked, failed) = under_load(&cluster, || {
        put(other, "TOKEN?secret=true", SECRETS[1]);
        cluster.until("the new token is in use", || variable(other, "TOKEN") == SECRETS[1]);
        put(other, "CERT?secret=true", SECRETS[3]);
        cluster.until("the new certificate is in use", || certificate() == SECRETS[3]);
    });
    assert!(asked > 100 && failed.is_empty(), "{failed:?} of {asked} failed\n{}", cluster.logs());
    println!("0 of {asked} requests failed while two settings changed");
    assert_ne!(variable(other, "MAELSTROM_INSTANCE_ID"), before);
    cluster.until("the old ones are gone", || other.instances().len() == 1);

    let mut controls = 0;
    for node in &cluster.nodes {
        for (what, text) in shown(node) {
            SECRETS.iter().for_each(|secret| assert!(!text.contains(secret), "{what} shows a secret: {text}"));
            controls += usize::from(text.contains(PLAIN));
        }
    }
    assert!(controls >= 3 * 4, "the API shows what is plain, {controls} times");
    let mut stores = 0;
    for node in &cluster.nodes {
        let files = files(&node.dir);
        assert!(files.iter().any(|file| file.ends_with("daemon.log")) && files.len() > 3, "{files:?}");
        for file in files {
            let bytes = std::fs::read(&file).unwrap_or_default();
            let found = SECRETS.iter().find(|secret| holds(&bytes, secret));
            assert_eq!(found, None, "{} holds a secret", file.display());
            stores += usize::from(file.ends_with("registry.redb") && holds(&bytes, PLAIN));
        }
    }
    assert_eq!(stores, 3, "a value that is no secret is in the store of every node");

    let root = |node: &Daemon| {
        let id = node.look("/v1/version")["nodeId"].as_str().expect("an id").to_owned();
        Path::new("/dev/shm").join(format!("maelstrom-{id}"))
    };
    let roots: Vec<PathBuf> = cluster.nodes.iter().map(root).collect();
    assert!(roots[home].exists(), "its file is in memory");
    // In order, one after the other: the instance moves until there is no node left.
    for dir in cluster.nodes.drain(..).map(Daemon::stop) {
        std::fs::remove_dir_all(&dir).expect("a data directory");
    }
    assert_eq!(roots.iter().filter(|root| root.exists()).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
}

#[test]
fn a_secret_of_a_container_is_in_no_file_of_ours_however_much_is_logged() {
    let Some(image) = TestImage::get() else { return };
    let dir = std::env::temp_dir().join(format!("maelstrom-cfg-docker-{}", std::process::id()));
    let node = Daemon::start_in(dir, "docker", &["--log", "trace"]);
    put(&node, "TOKEN?secret=true", SECRETS[0]);
    put(&node, "CERT?secret=true", SECRETS[2]);
    put(&node, "LEVEL", PLAIN);
    let document = json!({
        "image": image.name, "pull": "never", "env": {"BIND": "0.0.0.0"},
        "cfg": ["TOKEN", "LEVEL", "CERT=/etc/tls/cert.pem", {"name": "CERT", "file": "cert.pem", "env": "CERT_FILE"}],
    });
    node.put("components", "api", &document.to_string());
    node.put("sources", "api", &json!({"component": "api", "http": {"host": "api.localhost"}}).to_string());
    assert_eq!(ask(node.http, "/").0, 200, "{}", node.look("/v1/components/api"));
    assert_eq!((variable(&node, "TOKEN"), variable(&node, "LEVEL")), (SECRETS[0].to_owned(), PLAIN.to_owned()));
    for path in [variable(&node, "CERT_FILE"), "/etc/tls/cert.pem".to_owned()] {
        assert_eq!(ask(node.http, &format!("/read?path={path}")).1, SECRETS[2], "{path}");
    }
    put(&node, "CERT?secret=true", SECRETS[3]);
    node.until("the new one is in use", || ask(node.http, "/read?path=/etc/tls/cert.pem").1 == SECRETS[3]);
    node.until("the old one is gone", || node.instances().len() == 1);
    for (what, text) in shown(&node) {
        SECRETS.iter().for_each(|secret| assert!(!text.contains(secret), "{what} shows a secret: {text}"));
    }
    assert!(node.log().contains("TRACE"), "it logs much");
    let mut controls = 0;
    for file in files(&node.dir) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        let found = SECRETS.iter().find(|secret| holds(&bytes, secret));
        assert_eq!(found, None, "{} holds a secret", file.display());
        controls += usize::from(holds(&bytes, PLAIN));
    }
    assert!(controls > 0, "what is no secret is found");
}

#[test]
fn a_missing_setting_is_named_with_the_command_that_creates_it_and_then_the_component_starts_by_itself() {
    let node = Daemon::start("process");
    deploy(&node, "api", json!({"cfg": ["GREETING"], "instances": {"min": 1, "max": 1}}));
    let problem = || node.look("/v1/components/api")["problem"]["message"].as_str().unwrap_or_default().to_owned();
    node.until("it fails", || !problem().is_empty());
    for part in ["setting GREETING", "component api", "`maelctl cfg put GREETING=VALUE`"] {
        assert!(problem().contains(part), "{part} is not in {}", problem());
    }
    let (status, body) = ask(node.http, "/");
    assert!(status == 503 && body.contains("setting GREETING"), "{status} {body}");
    put(&node, "GREETING", "hello");
    node.until("it starts by itself", || node.states() == ["ready"]);
    assert_eq!(variable(&node, "GREETING"), "hello");

    let (code, _, error) = maelctl(&node, &["cfg", "rm", "GREETING"], "");
    assert!(code == 6 && error.contains("component api") && error.contains("--force"), "{code} {error}");
    // Its own one hides that for all, which may go then; and comes without being named.
    put(&node, "GREETING?component=api", "own");
    put(&node, "EXTRA?component=api", "unnamed");
    node.until("both are in use", || {
        (variable(&node, "GREETING"), variable(&node, "EXTRA")) == ("own".into(), "unnamed".into())
    });
    assert_eq!(maelctl(&node, &["cfg", "rm", "GREETING"], "").0, 0);
    assert_eq!(maelctl(&node, &["cfg", "rm", "GREETING", "--component", "api"], "").0, 6);
    assert_eq!(maelctl(&node, &["cfg", "rm", "EXTRA", "--component", "api"], "").0, 0);
    node.until("it is taken away", || variable(&node, "EXTRA").is_empty());
    assert_eq!(maelctl(&node, &["cfg", "rm", "GREETING", "--component", "api", "--force"], "").0, 0);
    node.until("it cannot start any more", || problem().contains("setting GREETING"));

    put(&node, "GREETING?component=api", "again");
    let (code, text, _) = maelctl(&node, &["comp", "rm", "api"], "");
    assert!(code == 0 && text.contains("setting GREETING of component api removed"), "{text}");
    assert_eq!(node.look("/v1/cfg")["items"], json!([]));
}

#[test]
fn settings_are_put_listed_shown_and_removed_on_the_command_line() {
    let node = Daemon::start("process");
    let run = |words: &[&str], stdin: &str| maelctl(&node, &[&["cfg"], words].concat(), stdin);
    assert_eq!(run(&["put", "LEVEL=debug", "--dry-run"], "").1, "setting LEVEL created (dry run)\n");
    assert_eq!(run(&["put", "LEVEL=debug"], ""), (0, "setting LEVEL created\n".into(), String::new()));
    assert_eq!(run(&["put", "LEVEL=debug"], "").1, "setting LEVEL unchanged\n");
    assert_eq!(run(&["put", "LEVEL=debug", "--dry-run"], "").1, "setting LEVEL unchanged (dry run)\n");
    assert_eq!(run(&["put", "LEVEL=trace", "--dry-run"], "").1, "setting LEVEL updated (dry run)\n");
    assert_eq!(node.look("/v1/cfg/LEVEL")["value"], "debug");
    let secret = ["put", "TOKEN", "--secret", "--file", "-", "--component", "api"];
    let (code, text, warning) = run(&secret, "hush-hush\n");
    assert!(code == 0 && text == "secret TOKEN created\n" && warning.contains("component api does not exist yet"));
    let (_, _, warning) = run(&["put", "TOKEN=hush-again", "--component", "api"], "");
    assert!(warning.contains("stays one"), "{warning}");
    let (_, shown, _) = run(&["show", "TOKEN", "--component", "api", "-o", "json"], "");
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((&shown["secret"], &shown["value"], &shown["size"]), (&json!(true), &Value::Null, &Value::Null));
    let (_, list, _) = run(&["ls"], "");
    assert!(list.contains("debug") && list.contains("(secret)") && !list.contains("hush"), "{list}");
    let version = shown["version"].as_str().expect("a version");
    let large = "x".repeat(64 * 1024);
    for (code, words, stdin, part) in [
        (2, &["put", "LEVEL"][..], "", "--file"),
        (2, &["put", "1=hush"], "", "not the name"),
        (1, &["put", "BIG", "--file", "-"], large.as_str(), "64512 bytes"),
        (6, &["put", "LEVEL=x", "--if-absent"], "", "exists already"),
        (6, &["put", "LEVEL=x", "--if-absent", "--dry-run"], "", "exists already"),
        (6, &["put", "LEVEL=x", "--if-version", version], "", "version"),
        (5, &["show", "LEVLE"], "", "did you mean LEVEL?"),
        (5, &["rm", "TOKEN"], "", "setting TOKEN does not exist"),
    ] {
        let (found, _, error) = run(words, stdin);
        assert!(found == code && error.contains(part) && !error.contains("hush"), "{words:?}: {found} {error}");
    }
    let (status, body) = node.api("PUT", "/v1/cfg/BIG?secret=true", &large);
    assert!(status == 413 && body.contains("65536 bytes") && body.contains("64512"), "{status} {body}");
    assert_eq!(run(&["rm", "LEVEL"], "").1, "setting LEVEL removed\n");
    assert_eq!(run(&["rm", "TOKEN", "--component", "api"], "").1, "setting TOKEN of component api removed\n");
}

#[test]
fn after_a_crash_instances_are_adopted_as_they_are_and_secrets_open_again() {
    let node = Daemon::start("process");
    put(&node, "TOKEN?secret=true", SECRETS[0]);
    deploy(&node, "api", json!({"cfg": ["TOKEN"], "instances": {"min": 1, "max": 1}}));
    node.until("it is ready", || node.states() == ["ready"]);
    let before = variable(&node, "MAELSTROM_INSTANCE_ID");
    let ports = node.ports;
    let node = Daemon::start_at(node.kill_9(), "process", ports, &[]);
    node.until("it is ready again", || node.states() == ["ready"]);
    assert_eq!((variable(&node, "MAELSTROM_INSTANCE_ID"), variable(&node, "TOKEN")), (before, SECRETS[0].to_owned()));
    put(&node, "TOKEN?secret=true", SECRETS[1]);
    node.until("the new one is in use", || variable(&node, "TOKEN") == SECRETS[1]);
}
