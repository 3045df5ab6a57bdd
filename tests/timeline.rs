//! What happened and what instances wrote, as every node of a cluster tells it: also what happened at a node that is
//! dead. Real daemons, and `maelctl` as a user has it.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};

#[path = "support/cluster.rs"]
mod cluster;

use cluster::Cluster;
use cluster::daemon::{Daemon, PATIENCE};

fn command(node: &Daemon, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maelctl"));
    command.args(["--node", &format!("http://{}", node.api)]).args(words);
    command.env_remove("MAEL_NODE").stdin(Stdio::null());
    command
}

/// Exit code, stdout, stderr.
fn maelctl(node: &Daemon, words: &[&str]) -> (i32, String, String) {
    let output = command(node, words).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// A `maelctl` that goes on, and its lines.
struct Follow(Child, mpsc::Receiver<String>);

impl Follow {
    fn start(node: &Daemon, words: &[&str]) -> Self {
        let mut child = command(node, words).stdout(Stdio::piped()).spawn().expect("it runs");
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().expect("a pipe");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self(child, lines)
    }

    fn until(&self, what: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.1.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(what) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no line with {what:?}: {seen:#?}"),
            }
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn events(node: &Daemon, query: &str) -> Vec<Value> {
    let (status, body) = node.api("GET", &format!("/v1/events?{query}"), "");
    assert_eq!(status, 200, "{body}");
    body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Whether one of them is of this kind, by this node, and says this.
fn has(events: &[Value], kind: &str, node: &str, text: &str) -> bool {
    events.iter().any(|event| {
        event["kind"] == kind && event["node"] == node && event["text"].as_str().unwrap_or_default().contains(text)
    })
}

fn deploy(cluster: &Cluster, name: &str, more: Value) {
    let mut document = json!({"command": [env!("CARGO_BIN_EXE_maelstromd"), "hello"], "concurrency": 100});
    if let (Some(document), Some(more)) = (document.as_object_mut(), more.as_object()) {
        document.extend(more.clone());
    }
    cluster.nodes[0].put("components", name, &document.to_string());
    cluster.everywhere(&format!("/v1/components/{name}"), 200);
}

/// The instances of a component as the first node tells: node and handle.
fn homes(cluster: &Cluster, component: &str) -> Vec<(usize, String)> {
    let ready = |item: &Value| item["component"] == component && item["state"] == "ready";
    let of = |item: &Value| {
        let place = item["node"].as_str()?.strip_prefix('n')?.parse().ok()?;
        Some((place, item["handle"].as_str()?.to_owned()))
    };
    cluster.nodes[0].instances().iter().filter(|item| ready(item)).filter_map(of).collect()
}

#[test]
fn every_node_tells_what_happened_on_the_others_and_goes_on_telling_of_one_that_is_dead() {
    let mut cluster = Cluster::start("timeline", 3);
    deploy(&cluster, "api", json!({"instances": {"min": 2, "max": 2, "per_node": 1}}));
    cluster.until("two instances are ready", || homes(&cluster, "api").len() == 2);
    for index in 0..3 {
        let follow = Follow::start(&cluster.nodes[index], &["events", "-f", "-o", "json"]);
        // Began before it was asked for.
        follow.until("\"created\"");
        drop(follow);
    }
    for (place, _) in homes(&cluster, "api") {
        let name = format!("n{place}");
        for node in &cluster.nodes {
            node.until("it hears of both", || {
                let events = events(node, "component=api");
                has(&events, "put", "n0", "created") && has(&events, "ready", &name, "ready after")
            });
        }
    }

    // An instance that is killed.
    let (place, handle) = homes(&cluster, "api").remove(0);
    let looker = (place + 1) % 3;
    let follow = Follow::start(&cluster.nodes[looker], &["events", "-f", "--component", "api"]);
    follow.until("created");
    let killed = Command::new("kill").args(["-9", &handle]).status().expect("kill runs");
    assert!(killed.success());
    let line = follow.until("crashed");
    assert!(line.contains(&format!("n{place}")) && line.contains("api-"), "{line}");
    cluster.until("two instances are ready again", || homes(&cluster, "api").len() == 2);

    // A node that is killed. Another that had no instance takes over.
    let homes_now = homes(&cluster, "api");
    let (dead, survivor) =
        (homes_now[0].0, (0..3).find(|at| homes_now.iter().all(|(home, _)| home != at)).expect("one"));
    let (dead_name, survivor_name) = (format!("n{dead}"), format!("n{survivor}"));
    let data = cluster.kill_9(dead);
    cluster.until("the survivors tell of its death and of the move", || {
        cluster.nodes.iter().all(|node| {
            let events = events(node, "");
            let down = events.iter().filter(|event| event["kind"] == "down").count();
            down == 1
                && events.iter().any(|event| event["kind"] == "down" && event["subject"] == dead_name.as_str())
                && has(&events, "moved", &survivor_name, &format!("takes over from node {dead_name}"))
                && has(&events, "ready", &dead_name, "ready after")
        })
    });
    let (_, shown, _) = maelctl(&cluster.nodes[0], &["comp", "show", "api"]);
    assert!(shown.contains("events") && shown.contains("takes over from node"), "{shown}");

    // It has forgotten its earlier life, and is told.
    cluster.start_again(dead, data);
    let node = &cluster.nodes[dead];
    node.until("it knows what it did before", || {
        let events = events(node, &format!("node={dead_name}"));
        has(&events, "ready", &dead_name, "ready after")
            && events.iter().filter(|event| event["kind"] == "up" && event["node"] == dead_name.as_str()).count() == 2
    });
    let (code, table, _) = maelctl(node, &["events", "--on", &dead_name]);
    assert!(code == 0 && table.starts_with("AGE") && table.contains("maelstromd"), "{code} {table}");
}

#[test]
fn what_people_change_and_what_becomes_of_it_is_told_with_its_reason() {
    let cluster = Cluster::start("told", 2);
    deploy(&cluster, "api", json!({"instances": {"min": 1, "max": 1}, "env": {"A": "1"}}));
    cluster.until("it is ready", || homes(&cluster, "api").len() == 1);
    let (place, _) = homes(&cluster, "api").remove(0);
    let (name, other) = (format!("n{place}"), &cluster.nodes[1 - place]);
    deploy(&cluster, "api", json!({"instances": {"min": 1, "max": 1}, "env": {"A": "2"}}));
    cluster.until("the old one is replaced", || {
        let events = events(other, "component=api");
        has(&events, "rollout", "n0", "revision 2 is in force") && has(&events, "stopped", &name, "replaced by the def")
    });
    assert_eq!(maelctl(other, &["node", "drain", &name, "--wait"]).0, 0);
    let asked = if place == 0 { "n1" } else { "n0" };
    cluster.until("it has moved", || {
        let all = events(other, "");
        has(&all, "drain", asked, "give away") && has(&all, "moved", &name, "its node is to be empty")
    });
    assert_eq!(maelctl(other, &["node", "uncordon", &name]).0, 0);
    assert_eq!(maelctl(other, &["cfg", "put", "LEVEL=hush"]).0, 0);
    assert_eq!(maelctl(other, &["comp", "rm", "api"]).0, 0);
    for node in &cluster.nodes {
        node.until("all is told", || {
            let all = events(node, "");
            has(&all, "removed", asked, "removed")
                && has(&all, "uncordon", asked, "as before")
                && has(&all, "put", asked, "created, for all")
                // Which node had it by then is for the plan to say.
                && (has(&all, "stopped", "n0", "component removed") || has(&all, "stopped", "n1", "component removed"))
        });
        assert!(!events(node, "").iter().any(|event| event["text"].as_str().unwrap_or_default().contains("hush")));
        // The last few of those, and of a moment ago on nothing.
        assert_eq!(events(node, "tail=2").len(), 2);
        assert!(events(node, "component=other").is_empty() && events(node, "since_ms=0").is_empty());
    }
}

#[test]
fn a_node_without_instances_prints_the_lines_of_all_and_says_whose_are_missing() {
    let mut cluster = Cluster::start("lines", 3);
    deploy(&cluster, "api", json!({"instances": {"min": 1, "max": 1}}));
    let source = json!({"component": "api", "http": {"host": "api.localhost"}});
    cluster.nodes[0].put("sources", "web", &source.to_string());
    cluster.everywhere("/v1/sources/web", 200);
    cluster.until("it is ready", || homes(&cluster, "api").len() == 1);
    let (place, _) = homes(&cluster, "api").remove(0);
    let asked = &cluster.nodes[(place + 1) % 3];
    let follow = Follow::start(asked, &["logs", "-f", "api"]);
    let line = follow.until("hello: listening");
    assert!(line.starts_with(&format!("n{place} api-")), "{line}");
    assert_eq!(asked.ask("api.localhost", "/first").0, 200);
    follow.until("hello: GET /first");
    let run = |words: &[&str]| maelctl(asked, &[&["logs", "api"], words].concat());
    asked.until("the last line of all is that", || run(&["-n", "1", "--raw"]).1 == "hello: GET /first HTTP/1.1\n");
    let (code, lines, error) = run(&["--stream", "stdout"]);
    assert!(
        code == 0 && error.is_empty() && lines.contains("listening") && !lines.contains('*'),
        "{code} {lines} {error}"
    );
    let instance = line.split(' ').nth(1).expect("an id").to_owned();
    assert!(run(&["--instance", &instance]).1.contains("ready after"));
    let (code, _, error) = run(&["--instance", "api-00000000"]);
    assert!(code == 0 && error.contains("no lines"), "{code} {error}");

    // The node dies; who follows gets the lines of the one that takes over, on whatever node that is.
    let data = cluster.kill_9(place);
    follow.until("hello: listening");
    let (code, _, error) = maelctl(&cluster.nodes[0], &["logs", "api"]);
    assert!(
        code == 9 && error.contains(&format!("node n{place} ")) && error.contains("lines are missing"),
        "{code} {error}"
    );
    cluster.start_again(place, data);
    cluster.all_alive();
    let (code, lines, error) = maelctl(&cluster.nodes[0], &["logs", "api"]);
    assert!(code == 0 && lines.contains("GET /first"), "{code} {lines} {error}");
}
