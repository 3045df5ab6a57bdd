//! Clusters whose processes come and go: all restarted in turn, stopped for a while, many at once, other addresses.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[path = "support/cluster.rs"]
mod cluster;

use cluster::daemon::{Ports, Site, request, try_exchange};
use cluster::{Cluster, component, components, count, put, states};

/// A put that may fail; whether it was acknowledged.
fn try_put(api: SocketAddr, name: &str) -> bool {
    let request = request("PUT", &format!("/v1/components/{name}"), &component(name));
    let answer = TcpStream::connect(api).and_then(|stream| try_exchange(stream, &request));
    answer.is_ok_and(|(status, _)| (200..300).contains(&status))
}

#[test]
fn a_rolling_restart_of_all_loses_nothing_that_was_acknowledged_meanwhile() {
    let mut cluster = Cluster::start("rolling", 5);
    let apis: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.api).collect();
    let done = AtomicBool::new(false);
    let mut acknowledged = BTreeSet::new();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut acknowledged = BTreeSet::new();
            for round in 0.. {
                let name = format!("c{round}");
                if try_put(apis[round % apis.len()], &name) {
                    acknowledged.insert(name);
                }
                if done.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            acknowledged
        });
        for index in 0..5 {
            let node = cluster.nodes.remove(index);
            let site = node.site.clone();
            cluster.start_again(index, (node.stop(), site));
            cluster.until("it is back for all", || cluster.nodes.iter().all(|node| count(node, "alive") == 5));
        }
        done.store(true, Ordering::Relaxed);
        acknowledged = writer.join().expect("the writer");
    });
    assert!(acknowledged.len() > 50, "only {} puts were acknowledged", acknowledged.len());
    cluster.until("all have all that was acknowledged, and the same", || {
        let lists: Vec<_> = cluster.nodes.iter().map(components).collect();
        lists.iter().all(|list| list.is_superset(&acknowledged) && *list == lists[0])
    });
    cluster.nobody_was_given_up();
}

#[test]
fn a_process_that_stood_still_for_ten_seconds_comes_back_with_all_it_missed_and_blames_nobody() {
    let cluster = Cluster::start("still", 3);
    let stopped = Instant::now();
    cluster.nodes[2].signal("STOP");
    cluster.until("the others find it down", || {
        cluster.nodes[..2].iter().all(|node| states(node).contains(&("n2".to_owned(), "down".to_owned())))
    });
    put(&cluster.nodes[0], "missed");
    std::thread::sleep(Duration::from_secs(10).saturating_sub(stopped.elapsed()));
    cluster.nodes[2].signal("CONT");
    cluster.everywhere("/v1/components/missed", 200);
    cluster.all_alive();
    let log = cluster.nodes[2].log();
    assert!(!log.contains("node is down"), "{log}");
}

#[test]
fn twenty_processes_join_and_hold_the_same() {
    let cluster = Cluster::start("twenty", 20);
    let mut expected = BTreeSet::new();
    for (index, node) in cluster.nodes.iter().enumerate() {
        let name = format!("from-{index}");
        put(node, &name);
        expected.insert(name);
    }
    cluster.components_everywhere(&expected);
}

#[test]
fn a_cluster_on_ipv6_holds_the_same_everywhere_and_knows_who_is_gone() {
    let site = |_| Site { host: Ipv6Addr::LOCALHOST.into(), ..Ports::free().into() };
    let mut cluster = Cluster::start_at("ipv6", (0..3).map(site).collect());
    for (index, node) in cluster.nodes.iter().enumerate() {
        put(node, &format!("from-{index}"));
    }
    let expected = (0..3).map(|index| format!("from-{index}")).collect();
    cluster.components_everywhere(&expected);
    let last = cluster.kill_9(2);
    cluster.until("the others know", || cluster.nodes.iter().all(|node| count(node, "down") == 1));
    cluster.start_again(2, last);
    cluster.all_alive();
    cluster.components_everywhere(&expected);
}

#[test]
fn nodes_behind_a_nat_are_known_and_reached_by_the_address_that_they_advertise() {
    let mut cluster = Cluster::start_behind_relays("nat", 3);
    let advertised: BTreeSet<String> = cluster.relays.iter().map(|relay| relay.address.to_string()).collect();
    let known = |node: &cluster::daemon::Daemon| -> BTreeSet<String> {
        let list = node.look("/v1/nodes");
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item["peer"].as_str().unwrap_or_default().to_owned()).collect()
    };
    for node in &cluster.nodes {
        assert_eq!(known(node), advertised);
    }
    // Who was connected to through the NAT is dialled through it as well: the others must find a restarted node, and
    // it them, when nobody's earlier connection is left.
    let zero = cluster.kill_9(0);
    let one = cluster.kill_9(0);
    cluster.start_again(0, zero);
    cluster.start_again(1, one);
    cluster.all_alive();
    put(&cluster.nodes[2], "through-the-nat");
    cluster.everywhere("/v1/components/through-the-nat", 200);
}
