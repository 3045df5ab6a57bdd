//! Requests that enter at any node of a real cluster: one instance for all, found wherever it lives, and again elsewhere
//! when its node goes.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

#[path = "support/cluster.rs"]
mod cluster;

use cluster::Cluster;
use cluster::daemon::try_exchange;

fn deploy(cluster: &Cluster, name: &str, more: serde_json::Value) {
    let mut document = json!({"command": [env!("CARGO_BIN_EXE_maelstromd"), "hello"]});
    if let (Some(document), Some(more)) = (document.as_object_mut(), more.as_object()) {
        document.extend(more.clone());
    }
    cluster.nodes[0].put("components", name, &document.to_string());
    let source = json!({"component": name, "http": {"host": format!("{name}.localhost")}});
    cluster.nodes[0].put("sources", name, &source.to_string());
    cluster.everywhere(&format!("/v1/sources/{name}"), 200);
}

/// Which node has how many instances.
fn instances(cluster: &Cluster) -> Vec<usize> {
    let own = |node: &cluster::daemon::Daemon| {
        let name = node.look("/v1/version")["node"].clone();
        node.instances().iter().filter(|item| item["node"] == name).count()
    };
    cluster.nodes.iter().map(own).collect()
}

/// One request; its status, 0 if the connection broke.
fn ask(address: std::net::SocketAddr, host: &str) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = TcpStream::connect(address).and_then(|stream| try_exchange(stream, &request));
    answer.map_or(0, |(status, _)| status)
}

#[test]
fn cold_requests_at_all_nodes_at_once_start_one_instance_and_it_answers_all() {
    let cluster = Cluster::start("cold", 3);
    deploy(&cluster, "api", json!({"concurrency": 100, "instances": {"max": 1}}));
    let entrances: Vec<_> = cluster.nodes.iter().map(|node| node.http).collect();
    std::thread::scope(|scope| {
        let asked = |index: usize| {
            let entrance = entrances[index % 3];
            scope.spawn(move || ask(entrance, "api.localhost"))
        };
        let asked: Vec<_> = (0..30).map(asked).collect();
        asked.into_iter().for_each(|asked| assert_eq!(asked.join().expect("asked"), 200));
    });
    assert_eq!(instances(&cluster).iter().sum::<usize>(), 1, "{}", cluster.logs());
    let answers: BTreeSet<String> = cluster.nodes.iter().map(|node| node.ask("api.localhost", "/").1).collect();
    let process =
        |text: &String| text.split("process ").nth(1).map(|rest| rest.split(')').next().unwrap_or("").to_owned());
    assert_eq!(answers.iter().map(process).collect::<BTreeSet<_>>().len(), 1, "{answers:?}");
}

#[test]
fn when_the_node_of_the_instance_dies_another_one_takes_its_work() {
    let mut cluster = Cluster::start("takeover", 3);
    deploy(&cluster, "api", json!({"concurrency": 100, "instances": {"max": 1}}));
    assert_eq!(ask(cluster.nodes[0].http, "api.localhost"), 200);
    let home = instances(&cluster).iter().position(|count| *count == 1).expect("one instance");
    let gone = cluster.kill_9(home);
    for node in &cluster.nodes {
        // Safe requests are tried elsewhere as soon as the node is known to be gone.
        node.until("it is answered", || ask(node.http, "api.localhost") == 200);
    }
    assert_eq!(instances(&cluster).iter().sum::<usize>(), 1, "{}", cluster.logs());
    cluster.start_again(home, gone);
    cluster.all_alive();
    for node in &cluster.nodes {
        assert_eq!(ask(node.http, "api.localhost"), 200);
    }
}

#[test]
fn a_node_that_is_stopped_under_load_costs_no_request_at_the_other_nodes() {
    let mut cluster = Cluster::start("stopped", 3);
    deploy(&cluster, "api", json!({"concurrency": 100, "instances": {"max": 1}}));
    assert_eq!(ask(cluster.nodes[0].http, "api.localhost"), 200);
    let home = instances(&cluster).iter().position(|count| *count == 1).expect("one instance");
    let entrances: Vec<_> =
        cluster.nodes.iter().enumerate().filter(|(index, _)| *index != home).map(|(_, node)| node.http).collect();
    let done = AtomicBool::new(false);
    let node = cluster.nodes.remove(home);
    let (asked, failed) = std::thread::scope(|scope| {
        let load = |entrance: std::net::SocketAddr| {
            let done = &done;
            scope.spawn(move || {
                let (mut asked, mut failed) = (0, Vec::new());
                while !done.load(Ordering::Relaxed) {
                    let status = ask(entrance, "api.localhost");
                    asked += 1;
                    if status != 200 {
                        failed.push(status);
                    }
                }
                (asked, failed)
            })
        };
        let loads: Vec<_> = entrances.iter().flat_map(|entrance| [load(*entrance), load(*entrance)]).collect();
        std::thread::sleep(Duration::from_millis(500));
        node.stop();
        let stopped = Instant::now();
        while stopped.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(50));
        }
        done.store(true, Ordering::Relaxed);
        let results = loads.into_iter().map(|load| load.join().expect("asked"));
        results.fold((0, Vec::new()), |(all, mut failed), (asked, more)| {
            failed.extend(more);
            (all + asked, failed)
        })
    });
    assert!(asked > 100 && failed.is_empty(), "{failed:?} of {asked} failed\n{}", cluster.logs());
    assert_eq!(instances(&cluster).iter().sum::<usize>(), 1);
}

#[test]
fn a_minimum_is_kept_by_the_cluster_and_elsewhere_when_a_node_dies() {
    let mut cluster = Cluster::start("minimum", 3);
    deploy(&cluster, "api", json!({"instances": {"min": 2, "max": 2}, "idle": "1s"}));
    let kept = |cluster: &Cluster| {
        let mut counts = instances(cluster);
        counts.sort_unstable();
        counts
    };
    cluster.until("two nodes keep one each", || kept(&cluster) == [0, 1, 1]);
    let home = instances(&cluster).iter().position(|count| *count == 1).expect("a home");
    cluster.kill_9(home);
    cluster.until("the two that are left keep one each", || kept(&cluster) == [1, 1]);
}
