//! The whole daemon as a user has it: the program, real sockets, real processes, `kill -9`.

#![allow(clippy::disallowed_methods, reason = "tests wait in real time")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use support::daemon::{Daemon, PATIENCE, Ports, exchange, free_port};

mod support {
    pub(crate) mod daemon;
}

/// The daemon's own sample component.
fn hello() -> Value {
    json!([env!("CARGO_BIN_EXE_maelstromd"), "hello"])
}

fn put(daemon: &Daemon, name: &str, mut document: Value) {
    if document.get("command").is_none() {
        document["command"] = hello();
    }
    daemon.put("components", name, &document.to_string());
    let source = json!({"component": name, "http": {"host": format!("{name}.localhost")}});
    daemon.put("sources", name, &source.to_string());
}

fn shell(script: &str) -> Value {
    json!({"command": ["sh", "-c", script]})
}

#[test]
fn a_thousand_simultaneous_cold_requests_start_one_instance_and_all_are_answered() {
    let daemon = Daemon::start("process");
    put(&daemon, "api", json!({"concurrency": 1000, "instances": {"max": 1}}));
    let mut streams: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(daemon.http).expect("accepted")).collect();
    for stream in &mut streams {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: api.localhost\r\nConnection: close\r\n\r\n").expect("sent");
    }
    for stream in &mut streams {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let (_, log) = daemon.api("GET", "/v1/logs/api?tail=100000", "");
    assert_eq!(log.matches("\"text\":\"starting").count(), 1, "{log}");
    assert_eq!(daemon.instances().len(), 1);
}

#[test]
fn after_kill_9_everything_that_was_acknowledged_is_there_and_the_instance_is_adopted() {
    let daemon = Daemon::start("process");
    put(&daemon, "api", json!({}));
    for n in 0..20 {
        daemon.put("components", &format!("c{n}"), &json!({"command": hello()}).to_string());
    }
    let before = daemon.ask("api.localhost", "/");
    let handle = daemon.instances()[0]["handle"].clone();
    let dir = daemon.kill_9();
    let daemon = Daemon::start_in(dir, "process", &[]);
    for n in 0..20 {
        assert_eq!(daemon.api("GET", &format!("/v1/components/c{n}"), "").0, 200);
    }
    assert_eq!(daemon.instances()[0]["handle"], handle);
    let after = daemon.ask("api.localhost", "/");
    assert_eq!((before.0, after.0), (200, 200));
    let process = |text: &str| text.split("process ").nth(1).and_then(|rest| rest.split(')').next()).map(str::to_owned);
    assert_eq!(process(&before.1), process(&after.1));
}

#[test]
fn an_unused_instance_freezes_wakes_for_a_request_and_stops() {
    let daemon = Daemon::start("process");
    put(&daemon, "api", json!({"idle": {"freeze": "200ms", "stop": "3s"}}));
    assert_eq!(daemon.ask("api.localhost", "/").0, 200);
    daemon.until("it freezes", || daemon.states() == ["frozen"]);
    let handle = daemon.instances()[0]["handle"].clone();
    assert_eq!(daemon.ask("api.localhost", "/").0, 200);
    assert_eq!(daemon.instances()[0]["handle"], handle, "the same one answered");
    daemon.until("it stops", || daemon.states().is_empty());
    assert_eq!(daemon.ask("api.localhost", "/").0, 200, "and a new one starts");
}

#[test]
fn a_removed_component_takes_its_sources_and_instances_along() {
    let daemon = Daemon::start("process");
    put(&daemon, "api", json!({}));
    assert_eq!(daemon.ask("api.localhost", "/").0, 200);
    assert_eq!(daemon.api("DELETE", "/v1/components/api", "").0, 200);
    assert_eq!(daemon.ask("api.localhost", "/").0, 404);
    assert_eq!(daemon.api("GET", "/v1/sources/api", "").0, 404);
    daemon.until("its instance is gone", || daemon.instances().is_empty());
}

#[test]
fn an_identical_put_changes_nothing_and_a_stale_one_is_a_conflict() {
    let daemon = Daemon::start("process");
    let document = json!({"command": hello(), "idle": "300s"}).to_string();
    let put = |document: &str, head: &str| {
        let request = format!(
            "PUT /v1/components/api HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{head}Connection: close\r\n\r\n{document}",
            document.len()
        );
        let (status, body) = exchange(TcpStream::connect(daemon.api).expect("accepted"), &request);
        (status, serde_json::from_str::<Value>(&body).expect("JSON"))
    };
    let (_, first) = put(&document, "");
    let (status, again) = put(&document.replace("300s", "5m"), "");
    assert_eq!((status, &again["changed"], &again["version"]), (200, &json!("unchanged"), &first["version"]));
    let (status, _) = put(&document.replace("300s", "6m"), "");
    assert_eq!(status, 200);
    let version = first["version"].as_str().expect("a version");
    let (status, refused) = put(&document, &format!("If-Match: \"{version}\"\r\n"));
    assert_eq!((status, &refused["code"]), (409, &json!("conflict")), "{refused}");
}

#[test]
fn what_cannot_start_is_answered_with_the_reason() {
    let daemon = Daemon::start("process");
    put(&daemon, "absent", json!({"command": ["no-such-program"]}));
    put(&daemon, "dies", shell("echo cannot find config.json >&2; exit 3"));
    let mut silent = shell("sleep 100");
    silent["start_timeout"] = json!("500ms");
    silent["stop"] = json!({"grace": "100ms"});
    put(&daemon, "silent", silent);
    for (name, parts) in [
        ("absent", &["no-such-program", "PATH"][..]),
        ("dies", &["code 3", "cannot find config.json"][..]),
        ("silent", &["nothing accepts connections", "ready"][..]),
    ] {
        let (status, body) = daemon.ask(&format!("{name}.localhost"), "/");
        assert_eq!(status, 503, "{name}: {body}");
        for part in parts {
            assert!(body.contains(part), "{name}: {part:?} is not in {body}");
        }
    }
    daemon.until("nothing is left", || daemon.instances().is_empty());
}

#[test]
fn bad_input_is_refused_with_field_and_allowed_values_and_nothing_is_lost() {
    let daemon = Daemon::start("process");
    put(&daemon, "api", json!({}));
    let long = "a".repeat(61);
    for (method, path, body, status, part) in [
        ("PUT", format!("/v1/components/{long}"), "{}".to_owned(), 400, "60"),
        ("PUT", "/v1/components/x".to_owned(), "{\"image\": ".to_owned(), 400, "line 1"),
        ("PUT", "/v1/components/x".to_owned(), json!({"imaje": "a"}).to_string(), 400, "image"),
        ("PUT", "/v1/components/x".to_owned(), json!({"image": "a", "port": 70000}).to_string(), 400, "65535"),
        (
            "PUT",
            "/v1/sources/x".to_owned(),
            json!({"component": "apj", "http": {"path": "/x"}}).to_string(),
            404,
            "api",
        ),
        (
            "PUT",
            "/v1/sources/x".to_owned(),
            json!({"component": "api", "http": {"host": "API.localhost"}}).to_string(),
            409,
            "api",
        ),
        ("GET", "/v1/components/apj".to_owned(), String::new(), 404, "api"),
        ("POST", "/v1/components/api".to_owned(), String::new(), 405, "PUT"),
    ] {
        let (found, answer) = daemon.api(method, &path, &body);
        assert_eq!(found, status, "{method} {path}: {answer}");
        assert!(answer.contains(part), "{method} {path}: {part:?} is not in {answer}");
    }
    assert_eq!(daemon.ask("api.localhost", "/").0, 200);
}

#[test]
fn sigterm_lets_requests_finish_leaves_no_process_and_ends_with_code_0() {
    let mut daemon = Daemon::start("process");
    put(&daemon, "api", json!({}));
    assert_eq!(daemon.ask("api.localhost", "/").0, 200);
    let pid = daemon.instances()[0]["handle"].as_str().expect("a process id").to_owned();
    assert_eq!(daemon.terminate(), Some(0));
    assert!(!std::path::Path::new("/proc").join(pid).exists());
}

#[test]
fn instances_are_left_running_when_the_operator_asks_for_it() {
    let dir = std::env::temp_dir().join(format!("maelstrom-test-leave-{}", std::process::id()));
    let mut daemon = Daemon::start_in(dir.clone(), "process", &["--on-shutdown", "leave"]);
    put(&daemon, "api", json!({}));
    assert_eq!(daemon.ask("api.localhost", "/").0, 200);
    let handle = daemon.instances()[0]["handle"].clone();
    assert_eq!(daemon.terminate(), Some(0));
    std::mem::forget(daemon);
    let daemon = Daemon::start_in(dir, "process", &[]);
    assert_eq!(daemon.instances()[0]["handle"], handle);
}

#[test]
fn a_second_daemon_on_the_same_directory_or_port_is_refused_in_words() {
    let daemon = Daemon::start("process");
    for (http, part) in [(free_port(), "use"), (daemon.http.port(), "--http")] {
        let mut command = Daemon::command(&daemon.dir, "process", Ports { http, ..Ports::free() });
        let output = command.stderr(std::process::Stdio::piped()).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn a_changed_definition_is_rolled_without_a_failed_request() {
    let daemon = Daemon::start("process");
    put(&daemon, "api", json!({}));
    assert_eq!(daemon.ask("api.localhost", "/").0, 200);
    let first = daemon.instances()[0]["id"].clone();
    daemon.put("components", "api", &json!({"command": hello(), "env": {"CHANGED": "1"}}).to_string());
    daemon.until("the new instance took over", || {
        assert_eq!(daemon.ask("api.localhost", "/").0, 200);
        let instances = daemon.instances();
        instances.len() == 1 && instances[0]["id"] != first
    });
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(daemon.ask("api.localhost", "/").0, 200);
}
