//! Nodes that are told what to do: drained, cordoned, and back. Real daemons, and `maelctl` as a user has it.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

use std::process::{Command, Stdio};

use serde_json::{Value, json};

#[path = "support/cluster.rs"]
mod cluster;

use cluster::Cluster;
use cluster::daemon::Daemon;

/// Exit code and all that was printed.
fn maelctl(node: &Daemon, words: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maelctl"));
    command.args(["--node", &format!("http://{}", node.api)]).args(words);
    let output = command.env_remove("MAEL_NODE").stdin(Stdio::null()).output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

fn deploy(cluster: &Cluster, name: &str, more: Value) {
    let mut document = json!({"command": [env!("CARGO_BIN_EXE_maelstromd"), "hello"], "concurrency": 100});
    if let (Some(document), Some(more)) = (document.as_object_mut(), more.as_object()) {
        document.extend(more.clone());
    }
    cluster.nodes[0].put("components", name, &document.to_string());
    let source = json!({"component": name, "http": {"host": format!("{name}.localhost")}});
    cluster.nodes[0].put("sources", name, &source.to_string());
    cluster.everywhere(&format!("/v1/sources/{name}"), 200);
}

/// The place of the node that has the instances of a component, once the first node knows of one.
fn home(cluster: &Cluster, component: &str) -> usize {
    let mut place = None;
    cluster.until(&format!("an instance of {component} is known"), || {
        let found = cluster.nodes[0].instances().into_iter().find(|item| item["component"] == component);
        place = found.and_then(|item| item["node"].as_str()?.strip_prefix('n')?.parse().ok());
        place.is_some()
    });
    place.expect("known")
}

/// What every node says that the node of this place is to do.
fn duties(cluster: &Cluster, place: usize) -> Vec<Value> {
    cluster.nodes.iter().map(|node| node.look(&format!("/v1/nodes/n{place}"))["duty"].clone()).collect()
}

fn all_say(cluster: &Cluster, place: usize, duty: &str) {
    cluster.until(&format!("all say that it is {duty}"), || duties(cluster, place).iter().all(|said| said == duty));
}

#[test]
fn a_drained_node_is_left_by_its_instances_gets_no_new_ones_and_stays_drained_after_a_restart() {
    let mut cluster = Cluster::start("drained", 3);
    deploy(&cluster, "api", json!({"idle": "1s", "instances": {"max": 1}}));
    assert_eq!(cluster.nodes[0].get("api.localhost"), 200);
    let old = home(&cluster, "api");
    let name = format!("n{old}");
    let asked = &cluster.nodes[(old + 1) % 3];
    let (code, text) = maelctl(asked, &["node", "drain", &name, "--wait"]);
    assert!(code == 0 && text.contains("draining, without instances"), "{code} {text}\n{}", cluster.logs());
    all_say(&cluster, old, "draining");
    // Also of what comes in at the node itself.
    for node in &cluster.nodes {
        assert_eq!(node.get("api.localhost"), 200, "{}", cluster.logs());
    }
    assert_ne!(home(&cluster, "api"), old);
    let node = cluster.nodes.remove(old);
    let site = node.site.clone();
    cluster.start_again(old, (node.stop(), site));
    cluster.all_alive();
    all_say(&cluster, old, "draining");
    for index in 0..4 {
        deploy(&cluster, &format!("c{index}"), json!({}));
        cluster.until("it is answered", || cluster.nodes[old].get(&format!("c{index}.localhost")) == 200);
        assert_ne!(home(&cluster, &format!("c{index}")), old, "{}", cluster.logs());
    }
    assert_eq!(maelctl(&cluster.nodes[0], &["node", "uncordon", &name]).0, 0);
    all_say(&cluster, old, "active");
}

#[test]
fn a_cordoned_node_goes_on_serving_what_it_has_and_is_given_nothing_new() {
    let cluster = Cluster::start("cordoned", 3);
    deploy(&cluster, "api", json!({"instances": {"max": 1}}));
    assert_eq!(cluster.nodes[0].get("api.localhost"), 200);
    let old = home(&cluster, "api");
    assert_eq!(maelctl(&cluster.nodes[old], &["node", "cordon", &format!("n{old}")]).0, 0);
    all_say(&cluster, old, "cordoned");
    cluster.nodes[old].until("it follows", || cluster.nodes[old].log().contains("told what to do"));
    for index in 0..4 {
        let name = format!("c{index}");
        deploy(&cluster, &name, json!({}));
        cluster.until("it is answered", || cluster.nodes[old].get(&format!("{name}.localhost")) == 200);
        assert_ne!(home(&cluster, &name), old, "{}", cluster.logs());
    }
    for node in &cluster.nodes {
        assert_eq!(node.get("api.localhost"), 200);
    }
    assert_eq!(home(&cluster, "api"), old, "it serves where it was");
}

#[test]
fn drain_says_why_it_does_not_and_what_it_waits_for() {
    let cluster = Cluster::start("refused", 2);
    let node = &cluster.nodes[0];
    let (code, text) = maelctl(node, &["node", "drain", "n9"]);
    assert!(code == 5 && text.contains("node n9 does not exist"), "{code} {text}");
    assert_eq!(maelctl(node, &["node", "drain", "n1", "-o", "json"]).0, 0);
    let (code, text) = maelctl(node, &["node", "cordon", "n0"]);
    assert!(code == 6 && text.contains("no other node is alive and active") && text.contains("--force"), "{text}");
    // An open request keeps its instance, and who waits is told after the time that it gave.
    let nap = json!({"command": [cluster::sample::testapp()], "concurrency": 100, "min": 1});
    node.put("components", "nap", &nap.to_string());
    let source = json!({"component": "nap", "http": {"host": "nap.localhost"}});
    node.put("sources", "nap", &source.to_string());
    node.until("it is ready", || node.states().contains(&"ready".to_owned()));
    std::thread::scope(|scope| {
        let open = scope.spawn(|| node.ask("nap.localhost", "/sleep?ms=2000").0);
        node.until("it has the request", || node.instances().iter().any(|instance| instance["in_flight"] == 1));
        let (code, text) = maelctl(node, &["node", "drain", "n0", "--force", "--wait", "--timeout", "300ms"]);
        assert!(code == 7 && text.contains("node n0 is empty: not within 300ms"), "{code} {text}");
        assert_eq!(maelctl(node, &["node", "uncordon", "n0", "n1"]).0, 0);
        assert_eq!(open.join().expect("asked"), 200);
    });
}
