//! What runs where in a real cluster: demand that enters at one node is served by all, memory is never handed out twice,
//! labels are obeyed.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

#[path = "support/cluster.rs"]
mod cluster;

use cluster::Cluster;
use cluster::daemon::{Daemon, try_exchange};

fn deploy(cluster: &Cluster, name: &str, more: Value) {
    let mut document = json!({"command": [cluster::sample::testapp()]});
    if let (Some(document), Some(more)) = (document.as_object_mut(), more.as_object()) {
        document.extend(more.clone());
    }
    cluster.nodes[0].put("components", name, &document.to_string());
    let source = json!({"component": name, "http": {"host": format!("{name}.localhost")}});
    cluster.nodes[0].put("sources", name, &source.to_string());
    cluster.everywhere(&format!("/v1/sources/{name}"), 200);
}

/// One request: status and body; status 0 if the connection broke.
fn ask(address: SocketAddr, component: &str, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {component}.localhost\r\nConnection: close\r\n\r\n");
    let answer = TcpStream::connect(address).and_then(|stream| try_exchange(stream, &request));
    answer.unwrap_or_default()
}

/// How many instances of a component a node has itself.
fn own(node: &Daemon, component: &str) -> usize {
    let name = node.look("/v1/version")["node"].clone();
    node.instances().iter().filter(|item| item["node"] == name && item["component"] == component).count()
}

fn spread(cluster: &Cluster, component: &str) -> Vec<usize> {
    let mut counts: Vec<_> = cluster.nodes.iter().map(|node| own(node, component)).collect();
    counts.sort_unstable();
    counts
}

/// Bytes that the instances of a node set aside.
fn reserved(node: &Daemon) -> u64 {
    let nodes = node.look("/v1/nodes");
    let views = nodes["items"].as_array().or_else(|| nodes.as_array()).cloned().unwrap_or_default();
    let own = views.into_iter().find(|view| view["own"] == true).unwrap_or_default();
    own["memory"]["reserved"].as_u64().unwrap_or_else(|| panic!("no memory in {nodes}"))
}

const MIB: u64 = 1 << 20;

#[test]
fn demand_that_enters_at_one_node_is_served_by_instances_on_all() {
    let cluster = Cluster::start("demand", 3);
    deploy(&cluster, "api", json!({"concurrency": 1, "instances": {"max": 6}, "idle": "1s"}));
    let entrance = cluster.nodes[0].http;
    let asked: Vec<_> = (0..6).map(|_| std::thread::spawn(move || ask(entrance, "api", "/sleep?ms=3000").0)).collect();
    cluster.until("each node has two", || spread(&cluster, "api") == [2, 2, 2]);
    asked.into_iter().for_each(|asked| assert_eq!(asked.join().expect("asked"), 200));
    cluster.until("all are gone", || spread(&cluster, "api") == [0, 0, 0]);
}

#[test]
fn what_waits_at_a_full_node_is_answered_where_room_comes_first() {
    let cluster = Cluster::start("divert", 3);
    deploy(&cluster, "api", json!({"concurrency": 1, "instances": {"max": 3}}));
    let entrance = cluster.nodes[0].http;
    // Far more than the instances take at once, and none may fail or be lost.
    let asked: Vec<_> = (0..60).map(|_| std::thread::spawn(move || ask(entrance, "api", "/sleep?ms=50").0)).collect();
    asked.into_iter().for_each(|asked| assert_eq!(asked.join().expect("asked"), 200));
    let counts: Vec<u64> = cluster
        .nodes
        .iter()
        .map(|node| {
            let name = node.look("/v1/version")["node"].clone();
            let own = node.instances().into_iter().filter(|item| item["node"] == name);
            own.map(|item| item["served"].as_u64().unwrap_or(0)).sum()
        })
        .collect();
    assert!(counts.iter().all(|served| *served > 5) && counts.iter().sum::<u64>() >= 60, "{counts:?}");
}

#[test]
fn memory_is_never_handed_out_twice_and_the_longest_unused_makes_room() {
    let cluster = Cluster::start_with("memory", 2, &["--memory", "250MiB"]);
    for name in ["one", "two", "three", "four", "five"] {
        deploy(&cluster, name, json!({"memory": "100MiB", "instances": {"max": 1}}));
    }
    for name in ["one", "two", "three", "four"] {
        assert_eq!(ask(cluster.nodes[0].http, name, "/").0, 200, "{name}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let there = |name: &str| spread(&cluster, name).iter().sum::<usize>();
    assert_eq!(["one", "two", "three", "four"].map(there), [1; 4], "{}", cluster.logs());
    assert!(cluster.nodes.iter().all(|node| reserved(node) == 200 * MIB));
    // Full: an unused one makes room.
    assert_eq!(ask(cluster.nodes[1].http, "five", "/").0, 200, "{}", cluster.logs());
    assert_eq!(there("five"), 1);
    assert!((2..=3).contains(&["one", "two", "three", "four"].map(there).iter().sum::<usize>()), "{}", cluster.logs());
    assert!(cluster.nodes.iter().all(|node| reserved(node) <= 250 * MIB));
}

#[test]
fn where_all_memory_is_in_use_a_request_hears_why_and_how_to_see_more() {
    let cluster = Cluster::start_with("full", 2, &["--memory", "120MiB"]);
    for name in ["one", "two", "three"] {
        deploy(&cluster, name, json!({"memory": "100MiB", "instances": {"max": 1}}));
    }
    let entrance = cluster.nodes[0].http;
    let busy: Vec<_> = ["one", "two"]
        .map(|name| std::thread::spawn(move || ask(entrance, name, "/sleep?ms=4000").0))
        .into_iter()
        .collect();
    cluster.until("both are at work", || {
        cluster.nodes[0].instances().iter().filter(|item| item["in_flight"] == 1).count() == 2
    });
    let (status, text) = ask(entrance, "three", "/");
    assert!(status == 503 && text.contains("100MiB") && text.contains("maelctl explain"), "{status} {text}");
    busy.into_iter().for_each(|asked| assert_eq!(asked.join().expect("asked"), 200));
    cluster.until("there is room again", || ask(entrance, "three", "/").0 == 200);
}

#[test]
fn a_component_runs_only_where_its_constraints_are_met() {
    let cluster = Cluster::start_with("labels", 3, &["--label", "place=n{index}"]);
    deploy(&cluster, "there", json!({"constraints": ["place=n2"]}));
    deploy(&cluster, "nowhere", json!({"constraints": ["place=n7"]}));
    for node in &cluster.nodes {
        assert_eq!(ask(node.http, "there", "/").0, 200);
    }
    assert_eq!(cluster.nodes.iter().map(|node| own(node, "there")).collect::<Vec<_>>(), [0, 0, 1]);
    let (status, text) = ask(cluster.nodes[0].http, "nowhere", "/");
    assert!(status == 503 && text.contains("place=n7"), "{status} {text}");
}

#[test]
fn explain_says_how_many_why_and_what_became_of_each_node() {
    let cluster = Cluster::start_with("explain", 3, &["--label", "place=n{index}", "--memory", "200MiB"]);
    let more = json!({"instances": {"min": 2, "per_node": 1}, "memory": "150MiB", "constraints": ["place!=n1"]});
    deploy(&cluster, "api", more);
    cluster.until("two are planned and ready", || {
        let plan = cluster.nodes[1].look("/v1/components/api/plan");
        let ready = plan["nodes"].as_array().into_iter().flatten().filter(|node| node["ready"] == 1).count();
        plan["wanted"] == 2 && ready == 2
    });
    let plan = cluster.nodes[1].look("/v1/components/api/plan");
    assert_eq!(plan["why"], "that is the minimum");
    let refused = plan["nodes"].as_array().into_iter().flatten().find(|node| node["node"] == "n1");
    assert_eq!(refused.map(|node| node["refused"].clone()), Some(json!("does not have place!=n1 among its labels")));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_maelctl"));
    command.args(["--node", &format!("http://{}", cluster.nodes[2].api), "explain", "comp", "api"]);
    let output = command.env_remove("MAEL_NODE").output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("2: that is the minimum"), "{text}");
    assert!(text.contains("none, because it does not have place!=n1"), "{text}");
    assert_eq!(cluster.nodes[0].api("GET", "/v1/components/none/plan", "").0, 404);
}
