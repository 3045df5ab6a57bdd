//! `maelctl` as a user has it, against a real daemon: what it prints where, and its exit codes, which scripts rely on.

#![allow(clippy::disallowed_methods, reason = "tests wait in real time")]

use std::process::{Command, Stdio};

use support::daemon::Daemon;

mod support {
    pub(crate) mod daemon;
}

/// Exit code, stdout, stderr.
type Outcome = (i32, String, String);

fn maelctl_at(node: &str, words: &[&str]) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_maelctl"))
        .args(["--node", node])
        .args(words)
        .env_remove("MAEL_NODE")
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn maelctl(daemon: &Daemon, words: &[&str]) -> Outcome {
    maelctl_at(&format!("http://{}", daemon.api), words)
}

fn put_hello(daemon: &Daemon) {
    let command = format!("{} hello", env!("CARGO_BIN_EXE_maelstromd"));
    let (code, _, error) = maelctl(daemon, &["comp", "put", "hello", "--command", &command, "--idle", "5m"]);
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = maelctl(daemon, &["es", "put", "web", "--component", "hello", "--http-host", "h.localhost"]);
    assert_eq!(code, 0, "{error}");
}

#[test]
fn the_story_of_a_component_from_put_to_rm() {
    let daemon = Daemon::start("process");
    put_hello(&daemon);
    assert_eq!(daemon.get("h.localhost"), 200);
    let (code, table, _) = maelctl(&daemon, &["ps"]);
    assert!(code == 0 && table.starts_with("INSTANCE") && table.contains("ready"), "{table}");
    let (_, names, _) = maelctl(&daemon, &["comp", "ls", "-o", "name"]);
    assert_eq!(names.trim(), "hello");
    let (_, json, _) = maelctl(&daemon, &["es", "ls", "-o", "json"]);
    let sources: serde_json::Value = serde_json::from_str(&json).expect("stable JSON");
    assert_eq!((&sources["apiVersion"], &sources["items"][0]["name"]), (&"v1".into(), &"web".into()), "{json}");
    let (code, answer, timing) = maelctl(&daemon, &["invoke", "hello", "--show-timing"]);
    assert!(code == 0 && answer.starts_with("Hello from hello-"), "{answer}");
    assert!(timing.contains("handler") && timing.contains("total"), "chatter goes to stderr: {timing}");
    let (_, log, _) = maelctl(&daemon, &["logs", "hello"]);
    assert!(log.contains("starting") && log.contains("hello: listening"), "{log}");
    let (code, nodes, _) = maelctl(&daemon, &["node", "ls"]);
    assert!(code == 0 && nodes.contains("alive"), "{nodes}");
    assert_eq!(maelctl(&daemon, &["es", "disable", "web"]).0, 0);
    assert_eq!(daemon.get("h.localhost"), 404);
    assert_eq!(maelctl(&daemon, &["es", "enable", "web"]).0, 0);
    assert_eq!(daemon.get("h.localhost"), 200);
    assert_eq!(maelctl(&daemon, &["comp", "rm", "hello"]).0, 0);
    let (_, _, hint) = maelctl(&daemon, &["es", "ls"]);
    assert!(!hint.is_empty(), "an empty list says so");
    daemon.until("its logs are kept after it is gone", || maelctl(&daemon, &["logs", "hello"]).1.contains("listening"));
}

#[test]
fn exit_codes_tell_scripts_what_happened() {
    let daemon = Daemon::start("process");
    put_hello(&daemon);
    let (_, shown, _) = maelctl(&daemon, &["comp", "show", "hello", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let version = shown["version"].as_str().expect("a version").to_owned();
    let put = ["comp", "put", "hello", "--command", "true", "--if-version"];
    assert_eq!(maelctl(&daemon, &[&put[..], &[&version]].concat()).0, 0);
    for (code, words, part) in [
        (6, [&put[..], &[&version]].concat(), "version"),
        (5, vec!["comp", "show", "helo"], "did you mean hello?"),
        (2, vec!["comp", "put"], "--help"),
        (1, vec!["comp", "put", "x", "--command", "true", "--memory", "much"], "memory"),
        (5, vec!["es", "put", "x", "--component", "helo", "--http-host", "x.localhost"], "hello"),
    ] {
        let (found, _, error) = maelctl(&daemon, &words);
        assert_eq!(found, code, "{words:?}: {error}");
        assert!(error.contains(part), "{words:?}: {part:?} is not in {error}");
    }
    let (code, _, error) = maelctl_at("http://127.0.0.1:1", &["ps"]);
    assert!(code == 8 && error.contains("127.0.0.1:1"), "{code} {error}");
    let socket = format!("unix:{}", daemon.dir.join("maelstrom.sock").display());
    assert_eq!(maelctl_at(&socket, &["ps"]).0, 0);
}
