//! Strict singletons on real nodes: changes, drains and the death of a daemon. Partitions are in `netns.rs`.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/witness.rs"]
mod witness;

use cluster::Cluster;
use cluster::daemon::Daemon;
use serde_json::json;
use witness::Witness;

/// The node that has the one instance, if it takes events.
fn place(nodes: &[Daemon]) -> Option<String> {
    let all = nodes[0].instances();
    let mut ready = all.iter().filter(|one| one["component"] == "one" && one["state"] == "ready");
    ready.next()?["node"].as_str().map(str::to_owned)
}

#[test]
fn a_strict_singleton_is_changed_and_moved_without_ever_running_twice() {
    let cluster = Cluster::start("single-moves", 3);
    let witness = Witness::new("single-moves");
    let nodes = &cluster.nodes;
    nodes[0].put("components", "one", &witness.component(&json!({"singleton": "strict"})));
    cluster.until("it runs", || place(nodes).is_some() && witness.last().is_some());
    let first = witness.last();
    nodes[1].put("components", "one", &witness.component(&json!({"singleton": "strict", "env": {"NEW": "1"}})));
    cluster.until("a new one has taken its place", || witness.last() != first && place(nodes).is_some());
    witness.never_two();
    let (second, was) = (witness.last(), place(nodes).expect("it runs"));
    assert_eq!(nodes[2].api("POST", &format!("/v1/nodes/{was}/drain"), "").0 / 100, 2);
    cluster.until("another node has it", || witness.last() != second && place(nodes).is_some_and(|place| place != was));
    witness.never_two();
}

#[test]
fn the_instance_of_a_daemon_that_was_killed_is_gone_before_the_next_one_starts() {
    let mut cluster = Cluster::start("single-killed", 3);
    let witness = Witness::new("single-killed");
    let component = witness.component(&json!({"singleton": "strict", "env": {"IGNORE_TERM": "1"}}));
    cluster.nodes[0].put("components", "one", &component);
    cluster.until("it runs", || place(&cluster.nodes).is_some() && witness.last().is_some());
    let (first, was) = (witness.last(), place(&cluster.nodes).expect("it runs"));
    let index: usize = was.trim_start_matches('n').parse().expect("a number");
    let home = cluster.kill_9(index);
    cluster.until("another node has it", || witness.last() != first && place(&cluster.nodes).is_some());
    witness.never_two();
    let second = witness.last();
    cluster.start_again(index, home);
    cluster.all_alive();
    cluster.until("there is one", || place(&cluster.nodes).is_some());
    assert!(witness.stretches().contains(&second.expect("it ran")));
    witness.never_two();
}
