//! Several daemons as one system: real processes, real QUIC, kill -9, broken networks, refusals.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

use std::time::Duration;

#[path = "support/cluster.rs"]
mod cluster;

use cluster::daemon::{Daemon, Ports};
use cluster::{Cluster, component, count, dir, put, states};

/// A process that ends with the test, whatever becomes of it. It runs no instances.
struct Stopped(std::process::Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_put_on_any_of_five_nodes_is_on_all_and_kill_9_of_two_loses_nothing() {
    let mut cluster = Cluster::start("five", 5);
    for (index, node) in cluster.nodes.iter().enumerate() {
        put(node, &format!("from-{index}"));
    }
    for index in 0..5 {
        cluster.everywhere(&format!("/v1/components/from-{index}"), 200);
    }
    // The last words of the two: acknowledged and killed at once.
    put(&cluster.nodes[4], "last-of-4");
    let four = cluster.kill_9(4);
    put(&cluster.nodes[0], "last-of-0");
    let zero = cluster.kill_9(0);
    cluster.until("the others know", || cluster.nodes.iter().all(|node| count(node, "down") == 2));
    put(&cluster.nodes[1], "while-away");
    assert_eq!(cluster.nodes[1].api("DELETE", "/v1/components/from-3", "").0, 200);
    cluster.start_again(0, zero);
    cluster.start_again(4, four);
    cluster.all_alive();
    for name in ["last-of-4", "last-of-0", "while-away", "from-0", "from-4"] {
        cluster.everywhere(&format!("/v1/components/{name}"), 200);
    }
    cluster.everywhere("/v1/components/from-3", 404);
}

#[test]
fn puts_of_one_name_on_both_sides_of_a_partition_end_in_one_winner_and_a_conflict_that_a_put_settles() {
    let cluster = Cluster::start_behind_relays("split", 5);
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.ports.peer).collect();
    put(&cluster.nodes[0], "api");
    cluster.everywhere("/v1/components/api", 200);
    cluster.weather.split(&ports[..2], &ports[2..]);
    cluster.until("each side sees the other down", || {
        count(&cluster.nodes[0], "down") == 3 && count(&cluster.nodes[4], "down") == 2
    });
    cluster.nodes[0].put("components", "api", &component("left"));
    cluster.nodes[4].put("components", "api", &component("right"));
    put(&cluster.nodes[0], "only-left");
    put(&cluster.nodes[4], "only-right");
    cluster.weather.heal();
    cluster.everywhere("/v1/components/only-left", 200);
    cluster.everywhere("/v1/components/only-right", 200);
    cluster.all_alive();
    cluster.conflict_everywhere("api");
    cluster.nodes[2].put("components", "api", &component("settled"));
    cluster.until("a put settles it everywhere", || {
        cluster.nodes.iter().all(|node| {
            let view = node.look("/v1/components/api");
            view["conflict"].is_null() && view["definition"].to_string().contains("settled")
        })
    });
}

#[test]
fn a_cluster_works_through_loss_delay_and_reorder() {
    let cluster = Cluster::start_behind_relays("rain", 3);
    cluster.weather.set_loss(100);
    cluster.weather.set_delay(Duration::from_millis(20));
    for round in 0..10 {
        put(&cluster.nodes[round % 3], &format!("c{round}"));
    }
    for round in 0..10 {
        cluster.everywhere(&format!("/v1/components/c{round}"), 200);
    }
    cluster.weather.heal();
    cluster.all_alive();
}

#[test]
fn a_node_that_is_stopped_in_order_has_left_and_not_failed() {
    let mut cluster = Cluster::start("leave", 3);
    let mut last = cluster.nodes.pop().expect("three");
    assert_eq!(last.terminate(), Some(0));
    cluster.until("the others see it leave", || {
        cluster.nodes.iter().all(|node| states(node).contains(&("n2".to_owned(), "left".to_owned())))
    });
}

#[test]
fn a_wiped_node_at_the_same_address_is_a_new_node_and_gets_everything() {
    let mut cluster = Cluster::start("wiped", 3);
    put(&cluster.nodes[0], "kept");
    cluster.everywhere("/v1/components/kept", 200);
    let (dir, site) = cluster.kill_9(2);
    std::fs::remove_dir_all(&dir).expect("wiped");
    cluster.start_again(2, (dir, site));
    cluster.everywhere("/v1/components/kept", 200);
    cluster.until("three are alive", || cluster.nodes.iter().all(|node| count(node, "alive") == 3));
}

#[test]
fn a_removed_node_is_refused_and_says_why() {
    let mut cluster = Cluster::start("removed", 3);
    let (status, body) = cluster.nodes[0].api("DELETE", "/v1/nodes/n2", "");
    assert_eq!(status, 409, "it is alive: {body}");
    let (dir, site) = cluster.kill_9(2);
    cluster.until("it is down", || states(&cluster.nodes[0]).contains(&("n2".to_owned(), "down".to_owned())));
    let (status, body) = cluster.nodes[0].api("DELETE", "/v1/nodes/n2", "");
    assert_eq!(status, 200, "{body}");
    let more = ["--join", &format!("127.0.0.1:{}", cluster.nodes[0].ports.peer), "--token", &cluster.token];
    let back = Daemon::start_at(dir, "process", site, &more);
    cluster.until("it is told", || back.log().contains("removed"));
    assert!(!states(&cluster.nodes[1]).contains(&("n2".to_owned(), "alive".to_owned())));
}

#[test]
fn a_token_of_another_cluster_is_refused_with_a_sentence() {
    let cluster = Cluster::start("one", 1);
    let mut other = Cluster::start("other", 1);
    put(&other.nodes[0], "mine");
    let ports = Ports::free();
    let more = ["--join", &format!("127.0.0.1:{}", cluster.nodes[0].ports.peer), "--token", &other.token];
    let stranger = Daemon::start_at(dir("stranger"), "process", ports, &more);
    stranger.until("both sides say so", || {
        stranger.log().contains("another cluster") && cluster.nodes[0].log().contains("another cluster")
    });
    // A data directory with content does not change its cluster.
    let home = other.nodes.remove(0).kill_9();
    let mut command = Daemon::command(&home, "process", Ports::free());
    let status = command.args(["--token", &cluster.token]).status().expect("it runs");
    assert_eq!(status.code(), Some(1));
    let log = std::fs::read_to_string(home.join("daemon.log")).expect("a log");
    assert!(log.contains("the data directory belongs to cluster"), "{log}");
    let _ = std::fs::remove_dir_all(home);
}

#[test]
fn of_two_nodes_with_a_copied_data_directory_one_stops_and_says_why() {
    let mut cluster = Cluster::start("copied", 3);
    let (home, site) = cluster.kill_9(2);
    let copy = dir("copied-copy");
    let copied = std::process::Command::new("cp").arg("-r").arg(&home).arg(&copy).status().expect("cp runs");
    assert!(copied.success());
    cluster.start_again(2, (home, site));
    cluster.all_alive();
    let _ = std::fs::remove_file(copy.join("daemon.log"));
    let more = ["--join", &format!("127.0.0.1:{}", cluster.nodes[0].ports.peer), "--token", &cluster.token];
    let ports = Ports::free();
    let child = Stopped(Daemon::command(&copy, "process", ports).args(more).spawn().expect("it starts"));
    let says = |log: String| log.contains("data directory was copied");
    cluster.until("one of them says so", || {
        let log = std::fs::read_to_string(copy.join("daemon.log")).unwrap_or_default();
        says(log) || says(cluster.nodes[2].log())
    });
    drop(child);
    let _ = std::fs::remove_dir_all(copy);
}
