//! Daemons on hosts of their own: partitions, silent hosts, loss and one-way cuts in a real network stack.
//!
//! The hosts are network namespaces and the cuts are rules of iptables, which needs root; see `support/netns.rs`.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/netns.rs"]
mod netns;
#[path = "support/witness.rs"]
mod witness;

use cluster::{Cluster, component, count, put, states};
use netns::Hosts;
use witness::Witness;

/// How long a network that loses packets is watched: some forty periods of probing, and longer than any suspicion.
const WATCHED: Duration = Duration::from_secs(20);

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_partition_loses_nothing_that_was_acknowledged_on_either_side_and_ends_in_one_winner() {
    let Some(hosts) = Hosts::build(5) else { return };
    let cluster = Cluster::start_at("partition", hosts.sites());
    put(&cluster.nodes[0], "api");
    cluster.everywhere("/v1/components/api", 200);
    hosts.split(&[0, 1], &[2, 3, 4]);
    cluster.until("each side finds the other down", || {
        let (small, large) = cluster.nodes.split_at(2);
        small.iter().all(|node| count(node, "down") == 3) && large.iter().all(|node| count(node, "down") == 2)
    });
    cluster.nodes[1].put("components", "api", &component("left"));
    cluster.nodes[3].put("components", "api", &component("right"));
    for (index, node) in cluster.nodes.iter().enumerate() {
        put(node, &format!("apart-{index}"));
    }
    hosts.heal();
    cluster.components_everywhere(&names(&["api", "apart-0", "apart-1", "apart-2", "apart-3", "apart-4"]));
    cluster.all_alive();
    cluster.conflict_everywhere("api");
}

#[test]
fn a_host_that_falls_silent_is_down_for_all_and_comes_back_with_what_it_took_in() {
    let Some(hosts) = Hosts::build(5) else { return };
    let cluster = Cluster::start_at("silent", hosts.sites());
    hosts.split(&[4], &[0, 1, 2, 3]);
    cluster.until("all find it down, and nobody else", || {
        cluster.nodes[..4].iter().all(|node| {
            let down = |(name, state): &(String, String)| (state == "down") == (name == "n4");
            states(node).iter().all(down)
        })
    });
    put(&cluster.nodes[4], "taken-in-alone");
    put(&cluster.nodes[0], "missed");
    hosts.heal();
    cluster.components_everywhere(&names(&["taken-in-alone", "missed"]));
    cluster.all_alive();
}

#[test]
fn loss_of_packets_gives_no_healthy_node_up_and_puts_reach_all() {
    let Some(hosts) = Hosts::build(5) else { return };
    let cluster = Cluster::start_at("loss", hosts.sites());
    hosts.lose("0.1");
    let start = Instant::now();
    let mut expected = BTreeSet::new();
    for round in 0.. {
        let name = format!("c{round}");
        put(&cluster.nodes[round % 5], &name);
        expected.insert(name);
        cluster.components_everywhere(&expected);
        if start.elapsed() > WATCHED {
            break;
        }
    }
    cluster.nobody_was_given_up();
    hosts.heal();
    cluster.all_alive();
}

#[test]
fn two_hosts_of_which_one_does_not_hear_the_other_stay_alive_and_equal() {
    let Some(hosts) = Hosts::build(5) else { return };
    let cluster = Cluster::start_at("one-way", hosts.sites());
    hosts.cut(1, 0);
    let mut expected = BTreeSet::new();
    for index in 0..5 {
        let name = format!("c{index}");
        put(&cluster.nodes[index], &name);
        expected.insert(name);
    }
    cluster.components_everywhere(&expected);
    hosts.heal();
    cluster.all_alive();
    put(&cluster.nodes[0], "healed");
    cluster.everywhere("/v1/components/healed", 200);
    cluster.nobody_was_given_up();
}

#[test]
fn a_strict_singleton_is_on_the_larger_side_alone_and_a_best_effort_one_on_both_until_they_are_one() {
    let Some(hosts) = Hosts::build(3) else { return };
    let cluster = Cluster::start_at("singletons", hosts.sites());
    let witness = Witness::new("singletons");
    // It does not stop by itself: the bound is kept by a kill.
    let strict = serde_json::json!({"singleton": "strict", "env": {"IGNORE_TERM": "1"}});
    let best = serde_json::json!({"command": [cluster::sample::testapp()], "min": 1, "singleton": "best-effort"});
    cluster.nodes[0].put("components", "strict", &witness.component(&strict));
    cluster.nodes[0].put("components", "best", &best.to_string());
    let ready = |index: usize, component: &str| {
        let all = cluster.nodes[index].instances();
        let name = format!("n{index}");
        let is =
            |one: &&serde_json::Value| one["component"] == component && one["state"] == "ready" && one["node"] == *name;
        all.iter().filter(is).count()
    };
    let places = |component: &str| (0..3).filter(|index| ready(*index, component) > 0).collect::<Vec<_>>();
    cluster.until("each has its place", || places("strict").len() == 1 && places("best").len() == 1);
    let place = places("strict")[0];
    let others: Vec<usize> = (0..3).filter(|index| *index != place).collect();
    hosts.split(&[place], &others);
    cluster.until("the larger side has it", || others.iter().any(|index| ready(*index, "strict") == 1));
    witness.never_two();
    let log = cluster.nodes[place].log();
    assert!(log.contains("with the consent of more than half"), "the node that was cut off says why:\n{log}");
    cluster.until("one on each side", || {
        ready(place, "best") == 1 && others.iter().any(|index| ready(*index, "best") == 1)
    });
    let (status, body) = cluster.nodes[place].api("POST", "/v1/invoke/strict", "");
    assert!(status == 503 && body.contains("no more than half"), "{status} {body}");
    hosts.heal();
    cluster.all_alive();
    cluster.until("one of the two goes", || places("best").len() == 1);
    cluster.until("there is one", || places("strict").len() == 1);
    witness.never_two();
}
