//! A component that changes, on real nodes under load: a bad definition is taken back, earlier ones are kept, and
//! `maelctl` says how far it is.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

#[path = "support/cluster.rs"]
mod cluster;

use cluster::Cluster;
use cluster::daemon::{Daemon, try_exchange};

/// Exit code and all that was printed.
fn maelctl(node: &Daemon, words: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maelctl"));
    command.args(["--node", &format!("http://{}", node.api)]).args(words);
    let output = command.env_remove("MAEL_NODE").stdin(Stdio::null()).output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// The first document in what was printed: stdout comes first.
fn first_json(text: &str) -> Value {
    let mut documents = serde_json::Deserializer::from_str(text).into_iter();
    documents.next().and_then(Result::ok).unwrap_or_default()
}

fn document(more: Value) -> Value {
    let mut document = json!({"command": [cluster::sample::testapp()], "concurrency": 100, "min": 1, "max": 1});
    if let (Some(document), Some(more)) = (document.as_object_mut(), more.as_object()) {
        document.extend(more.clone());
    }
    document
}

fn put(node: &Daemon, more: Value) {
    node.put("components", "api", &document(more).to_string());
}

fn rollout(node: &Daemon) -> Value {
    node.look("/v1/components/api/rollout")
}

fn state(node: &Daemon) -> String {
    rollout(node)["state"].as_str().unwrap_or_default().to_owned()
}

/// The newest first: number, reason and outcome.
fn history(node: &Daemon) -> Vec<(u64, String, String)> {
    let list = node.look("/v1/components/api/revisions");
    let text = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .map(|item| (item["revision"].as_u64().unwrap_or(0), text(item, "reason"), text(item, "outcome")))
        .collect()
}

/// Requests at all entrances, without a pause, as long as `during` runs: how many, and the answers that are not 200.
fn under_load(entrances: &[SocketAddr], during: impl FnOnce()) -> (usize, Vec<u16>) {
    let done = AtomicBool::new(false);
    let request = "GET / HTTP/1.1\r\nHost: api.localhost\r\nConnection: close\r\n\r\n";
    std::thread::scope(|scope| {
        let ask = |entrance: SocketAddr| {
            let done = &done;
            scope.spawn(move || {
                let (mut asked, mut failed) = (0, Vec::new());
                while !done.load(Ordering::Relaxed) {
                    let answer = TcpStream::connect(entrance).and_then(|stream| try_exchange(stream, request));
                    let status = answer.map_or(0, |(status, _)| status);
                    asked += 1;
                    failed.extend((status != 200).then_some(status));
                }
                (asked, failed)
            })
        };
        let asking: Vec<_> = entrances.iter().map(|entrance| ask(*entrance)).collect();
        // Also if it panics, or the others would go on for ever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
        done.store(true, Ordering::Relaxed);
        let all = asking.into_iter().map(|asking| asking.join().expect("asked"));
        let (asked, failed) = all.fold((0, Vec::new()), |(sum, mut all), (asked, failed)| {
            all.extend(failed);
            (sum + asked, all)
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (asked, failed)
    })
}

fn start(test: &str) -> Cluster {
    let cluster = Cluster::start(test, 3);
    put(&cluster.nodes[0], json!({"env": {"MARK": "1"}}));
    let source = json!({"component": "api", "http": {"host": "api.localhost"}});
    cluster.nodes[0].put("sources", "api", &source.to_string());
    cluster.everywhere("/v1/sources/api", 200);
    cluster.until("all know that it runs", || cluster.nodes.iter().all(|node| state(node) == "done"));
    cluster
}

#[test]
fn a_definition_that_fails_is_taken_back_while_the_one_before_answers_every_request() {
    let cluster = start("taken-back");
    let entrances: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.http).collect();
    let taken_back = |number: u64, reason: &str| {
        cluster.until("all say that it was rolled back", || {
            cluster.nodes.iter().all(|node| {
                let view = rollout(node);
                view["state"] == "rolled-back" && view["revision"] == number && view["ready"] == 1 && view["old"] == 0
            })
        });
        let history = history(&cluster.nodes[1]);
        assert_eq!((history[0].0, history[0].1.contains(reason)), (number, true), "{history:?}");
        assert_eq!((history[1].0, history[1].2.as_str()), (number - 1, "failed"), "{history:?}");
        let env = cluster.nodes[2].ask("api.localhost", "/env").1;
        assert!(env.contains("MARK=1"), "{env}");
    };
    let (asked, failed) = under_load(&entrances, || {
        put(&cluster.nodes[0], json!({"env": {"MARK": "2", "EXIT_AT_ONCE": "7"}}));
        taken_back(3, "rollback of revision 2 to revision 1: ");
        // One that runs and is never healthy.
        put(&cluster.nodes[1], json!({"env": {"MARK": "3"}, "health": "/status/500", "start_timeout": "300ms"}));
        taken_back(5, "rollback of revision 4 to revision 3: ");
        // And one that is still starting at its deadline.
        put(&cluster.nodes[2], json!({"env": {"MARK": "4", "NEVER_LISTEN": "1"}, "rollout": {"deadline": "1s"}}));
        taken_back(7, "not ready within 1s");
    });
    assert!(asked > 100 && failed.is_empty(), "{failed:?} of {asked} failed\n{}", cluster.logs());
}

#[test]
fn the_definitions_before_are_kept_through_a_crash_of_all_and_undo_brings_each_of_them_back() {
    let mut cluster = start("kept");
    for mark in 2..=3 {
        let env = format!("MARK={mark}");
        let command = cluster::sample::testapp().display().to_string();
        let words = ["comp", "put", "api", "--command", &command, "--env", &env, "--min", "1", "--max", "1", "--wait"];
        let (code, text) = maelctl(&cluster.nodes[mark % 3], &words);
        assert!(code == 0 && text.contains("done"), "{code} {text}\n{}", cluster.logs());
    }
    // Scale is no part of what an instance is.
    put(&cluster.nodes[0], json!({"env": {"MARK": "3"}, "max": 2}));
    cluster.until("all have all three", || cluster.nodes.iter().all(|node| history(node).len() == 3));
    let gone: Vec<_> = (0..3).map(|_| cluster.kill_9(0)).collect();
    for (index, site) in gone.into_iter().enumerate() {
        cluster.start_again(index, site);
    }
    cluster.all_alive();
    let numbers = |node: &Daemon| history(node).into_iter().map(|(number, ..)| number).collect::<Vec<_>>();
    cluster.nodes.iter().for_each(|node| assert_eq!(numbers(node), [3, 2, 1]));
    let (code, text) = maelctl(&cluster.nodes[0], &["comp", "rollout", "undo", "api", "--wait"]);
    assert!(code == 0 && text.contains("undo to revision 2"), "{code} {text}\n{}", cluster.logs());
    assert!(cluster.nodes[0].ask("api.localhost", "/env").1.contains("MARK=2"));
    let (code, text) = maelctl(&cluster.nodes[1], &["comp", "rollout", "undo", "api", "--to", "1", "--wait"]);
    assert_eq!(code, 0, "{text}");
    assert!(cluster.nodes[1].ask("api.localhost", "/env").1.contains("MARK=1"));
    let (code, text) = maelctl(&cluster.nodes[1], &["comp", "rollout", "history", "api", "-o", "json"]);
    let list = first_json(&text);
    let newest = &list["items"][0];
    assert_eq!((code, &newest["revision"], &newest["in_force"]), (0, &json!(5), &json!(true)), "{text}");
    assert_eq!(newest["definition"]["env"], json!({"MARK": "1"}), "{text}");
    let (code, text) = maelctl(&cluster.nodes[2], &["comp", "rollout", "undo", "api", "--to", "9"]);
    assert!(code == 5 && text.contains("has no revision 9; kept are 1, 2, 3, 4, 5"), "{code} {text}");
    assert_eq!(maelctl(&cluster.nodes[2], &["comp", "rm", "api"]).0, 0);
    let (code, text) = maelctl(&cluster.nodes[2], &["comp", "rollout", "status", "api"]);
    assert!(code == 5 && text.contains("component api does not exist"), "{code} {text}");
    put(&cluster.nodes[2], json!({}));
    assert_eq!(numbers(&cluster.nodes[2]), [1], "a new component begins anew");
    let (code, text) = maelctl(&cluster.nodes[2], &["comp", "rollout", "undo", "api"]);
    assert!(code == 5 && text.contains("no revision before 1"), "{code} {text}");
}

#[test]
fn waiting_for_a_put_ends_with_the_code_that_scripts_expect() {
    let daemon = Daemon::start("process");
    let command = cluster::sample::testapp().display().to_string();
    let put = |more: &[&str]| {
        let words = ["comp", "put", "api", "--command", &command, "--min", "1", "--start-timeout", "2s", "--wait"];
        maelctl(&daemon, &[&words[..], more].concat())
    };
    let (code, text) = put(&["-o", "json"]);
    let view = first_json(&text);
    assert_eq!((code, &view["state"], &view["revision"]), (0, &json!("done"), &json!(1)), "{text}");
    let (code, text) = put(&["--env", "NEVER_LISTEN=1", "--timeout", "300ms"]);
    assert!(code == 7 && text.contains("component api is rolled out: not within 300ms"), "{code} {text}");
    let (code, text) = put(&["--env", "EXIT_AT_ONCE=3", "--rollback", "false"]);
    assert!(code == 1 && text.contains("revision 3 failed") && text.contains("3 starts failed"), "{code} {text}");
    let (code, text) = put(&["--env", "EXIT_AT_ONCE=4"]);
    assert!(code == 1 && text.contains("revision 4 failed and was rolled back to revision 1"), "{code} {text}");
    let (code, text) = maelctl(&daemon, &["comp", "rollout", "status", "api"]);
    assert!(code == 1 && text.contains("rolled-back"), "{code} {text}");
    assert_eq!(maelctl(&daemon, &["comp", "put", "api", "--command", "x", "--rollout-order", "serial"]).0, 1);
}

#[test]
fn a_definition_that_fails_when_the_first_event_comes_is_taken_back_although_nothing_ran_any_more() {
    let daemon = Daemon::start("process");
    put(&daemon, json!({"min": 0, "env": {"MARK": "1"}}));
    let source = json!({"component": "api", "http": {"host": "api.localhost"}});
    daemon.put("sources", "api", &source.to_string());
    assert_eq!(daemon.get("api.localhost"), 200);
    daemon.until("it has served for a while", || history(&daemon).first().is_some_and(|first| first.2 == "healthy"));
    put(&daemon, json!({"min": 0, "env": {"MARK": "1"}, "idle": "1s"}));
    daemon.until("nothing runs", || daemon.instances().is_empty());
    put(&daemon, json!({"min": 0, "env": {"MARK": "2", "EXIT_AT_ONCE": "1"}}));
    assert_eq!((state(&daemon).as_str(), rollout(&daemon)["revision"].clone()), ("done", json!(2)));
    daemon.until("it is answered again", || daemon.get("api.localhost") == 200);
    assert!(daemon.ask("api.localhost", "/env").1.contains("MARK=1"));
    let history = history(&daemon);
    assert!(history[0].1.starts_with("rollback of revision 2 to revision 1: 3 starts failed"), "{history:?}");
    assert_eq!((history[1].2.as_str(), history[2].2.as_str()), ("failed", "healthy"), "{history:?}");
}
