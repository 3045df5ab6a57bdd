//! Several daemons as one system: real processes, real QUIC, kill -9, stopped processes, broken networks.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

#[path = "support/relay.rs"]
mod relay;
#[path = "support/daemon.rs"]
mod support;

use relay::{Relay, Weather};
use support::{Daemon, Ports};

struct Cluster {
    nodes: Vec<Daemon>,
    token: String,
    /// One in front of each node, if the network is to be broken.
    relays: Vec<Relay>,
    weather: Arc<Weather>,
}

fn dir(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("maelstrom-cluster-{}-{name}", std::process::id()))
}

impl Cluster {
    fn start(test: &str, count: usize, relayed: bool) -> Self {
        let weather = Arc::new(Weather::default());
        let mut cluster = Self { nodes: Vec::new(), token: String::new(), relays: Vec::new(), weather };
        for index in 0..count {
            let ports = Ports::free();
            if relayed {
                cluster.relays.push(Relay::start(ports.peer, &cluster.weather));
            }
            let node = cluster.run(dir(&format!("{test}-{index}")), index, ports);
            if index == 0 {
                cluster.token = node.token();
            }
            cluster.nodes.push(node);
        }
        cluster.all_alive();
        cluster
    }

    /// Starts the node of this place, anew or again.
    fn run(&self, dir: PathBuf, index: usize, ports: Ports) -> Daemon {
        let name = format!("n{index}");
        let mut more = vec!["--name".to_owned(), name, "--log".to_owned(), "debug,quinn=warn".to_owned()];
        if let Some(relay) = self.relays.get(index) {
            more.extend(["--advertise".to_owned(), relay.address.to_string()]);
        }
        if index > 0 {
            let seed = self
                .relays
                .first()
                .map_or_else(|| format!("127.0.0.1:{}", self.nodes[0].ports.peer), |relay| relay.address.to_string());
            more.extend(["--join".to_owned(), seed, "--token".to_owned(), self.token.clone()]);
        }
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        Daemon::start_at(dir, "process", ports, &more)
    }

    fn kill_9(&mut self, index: usize) -> (PathBuf, Ports) {
        let node = self.nodes.remove(index);
        let ports = node.ports;
        (node.kill_9(), ports)
    }

    fn start_again(&mut self, index: usize, (dir, ports): (PathBuf, Ports)) {
        let node = if index == 0 {
            let more = ["--name", "n0", "--log", "debug,quinn=warn"];
            Daemon::start_at(dir, "process", ports, &more)
        } else {
            self.run(dir, index, ports)
        };
        self.nodes.insert(index, node);
    }

    fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let start = std::time::Instant::now();
        while !done() {
            if start.elapsed() > support::PATIENCE {
                let mut logs = String::new();
                for (index, node) in self.nodes.iter().enumerate() {
                    let log = node.log();
                    let lines: Vec<&str> = log.lines().collect();
                    logs.push_str(&format!(
                        "--- node {index}\n{}\n",
                        lines[lines.len().saturating_sub(40)..].join("\n")
                    ));
                }
                panic!("{what}: not within {:?}\n{logs}", support::PATIENCE);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn all_alive(&self) {
        self.until("all see all alive", || {
            self.nodes.iter().all(|node| states(node).iter().filter(|(_, s)| s == "alive").count() == self.nodes.len())
        });
    }

    fn everywhere(&self, path: &str, status: u16) {
        self.until(&format!("{path} is {status} everywhere"), || {
            self.nodes.iter().all(|node| node.api("GET", path, "").0 == status)
        });
    }
}

/// A process that ends with the test, whatever becomes of it. It runs no instances.
struct Stopped(std::process::Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn states(node: &Daemon) -> Vec<(String, String)> {
    let list = node.look("/v1/nodes");
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let text = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    items.iter().map(|item| (text(item, "name"), text(item, "state"))).collect()
}

fn component(mark: &str) -> String {
    json!({"command": ["sh", "-c", format!("echo {mark}; exec sleep 1000")]}).to_string()
}

fn put(node: &Daemon, name: &str) {
    node.put("components", name, &component(name));
}

#[test]
fn what_is_put_on_any_of_five_nodes_is_on_all_and_kill_9_of_two_loses_nothing() {
    let mut cluster = Cluster::start("five", 5, false);
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
    cluster.until("the others know", || {
        cluster.nodes.iter().all(|node| states(node).iter().filter(|(_, state)| state == "down").count() == 2)
    });
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
    let cluster = Cluster::start("split", 5, true);
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.ports.peer).collect();
    put(&cluster.nodes[0], "api");
    cluster.everywhere("/v1/components/api", 200);
    cluster.weather.split(&ports[..2], &ports[2..]);
    cluster.until("each side sees the other down", || {
        let down = |node: &Daemon| states(node).iter().filter(|(_, state)| state == "down").count();
        down(&cluster.nodes[0]) == 3 && down(&cluster.nodes[4]) == 2
    });
    cluster.nodes[0].put("components", "api", &component("left"));
    cluster.nodes[4].put("components", "api", &component("right"));
    put(&cluster.nodes[0], "only-left");
    put(&cluster.nodes[4], "only-right");
    cluster.weather.heal();
    cluster.everywhere("/v1/components/only-left", 200);
    cluster.everywhere("/v1/components/only-right", 200);
    cluster.all_alive();
    let shown = |node: &Daemon| node.look("/v1/components/api");
    cluster.until("all show the conflict and the same winner", || {
        let views: Vec<Value> = cluster.nodes.iter().map(shown).collect();
        views.iter().all(|view| {
            view["conflict"]["others"].as_array().is_some_and(|others| others.len() == 1)
                && view["version"] == views[0]["version"]
                && view["definition"] == views[0]["definition"]
        })
    });
    cluster.nodes[2].put("components", "api", &component("settled"));
    cluster.until("a put settles it everywhere", || {
        cluster.nodes.iter().all(|node| {
            let view = shown(node);
            view["conflict"].is_null() && view["definition"].to_string().contains("settled")
        })
    });
}

#[test]
fn a_cluster_works_through_loss_delay_and_reorder() {
    let cluster = Cluster::start("rain", 3, true);
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
fn a_node_that_was_stopped_for_a_while_comes_back_with_all_it_missed() {
    let cluster = Cluster::start("stop", 3, false);
    cluster.nodes[2].signal("STOP");
    cluster.until("the others find it down", || {
        cluster.nodes[..2].iter().all(|node| states(node).contains(&("n2".to_owned(), "down".to_owned())))
    });
    put(&cluster.nodes[0], "missed");
    cluster.nodes[2].signal("CONT");
    cluster.everywhere("/v1/components/missed", 200);
    cluster.all_alive();
}

#[test]
fn a_node_that_is_stopped_in_order_has_left_and_not_failed() {
    let mut cluster = Cluster::start("leave", 3, false);
    let mut last = cluster.nodes.pop().expect("three");
    assert_eq!(last.terminate(), Some(0));
    cluster.until("the others see it leave", || {
        cluster.nodes.iter().all(|node| states(node).contains(&("n2".to_owned(), "left".to_owned())))
    });
}

#[test]
fn a_wiped_node_at_the_same_address_is_a_new_node_and_gets_everything() {
    let mut cluster = Cluster::start("wiped", 3, false);
    put(&cluster.nodes[0], "kept");
    cluster.everywhere("/v1/components/kept", 200);
    let (dir, ports) = cluster.kill_9(2);
    std::fs::remove_dir_all(&dir).expect("wiped");
    cluster.start_again(2, (dir, ports));
    cluster.everywhere("/v1/components/kept", 200);
    cluster.until("three are alive", || {
        cluster.nodes.iter().all(|node| states(node).iter().filter(|(_, state)| state == "alive").count() == 3)
    });
}

#[test]
fn a_removed_node_is_refused_and_says_why() {
    let mut cluster = Cluster::start("removed", 3, false);
    let (status, body) = cluster.nodes[0].api("DELETE", "/v1/nodes/n2", "");
    assert_eq!(status, 409, "it is alive: {body}");
    let (dir, ports) = cluster.kill_9(2);
    cluster.until("it is down", || states(&cluster.nodes[0]).contains(&("n2".to_owned(), "down".to_owned())));
    let (status, body) = cluster.nodes[0].api("DELETE", "/v1/nodes/n2", "");
    assert_eq!(status, 200, "{body}");
    let more = ["--join", &format!("127.0.0.1:{}", cluster.nodes[0].ports.peer), "--token", &cluster.token];
    let back = Daemon::start_at(dir, "process", ports, &more);
    cluster.until("it is told", || back.log().contains("removed"));
    assert!(!states(&cluster.nodes[1]).contains(&("n2".to_owned(), "alive".to_owned())));
}

#[test]
fn a_token_of_another_cluster_is_refused_with_a_sentence() {
    let cluster = Cluster::start("one", 1, false);
    let other = Cluster::start("other", 1, false);
    put(&other.nodes[0], "mine");
    let ports = Ports::free();
    let more = ["--join", &format!("127.0.0.1:{}", cluster.nodes[0].ports.peer), "--token", &other.token];
    let stranger = Daemon::start_at(dir("stranger"), "process", ports, &more);
    stranger.until("both sides say so", || {
        stranger.log().contains("another cluster") && cluster.nodes[0].log().contains("another cluster")
    });
    // A data directory with content does not change its cluster.
    let home = other.nodes.into_iter().next().expect("one").kill_9();
    let mut command = Daemon::command(&home, "process", Ports::free());
    let status = command.args(["--token", &cluster.token]).status().expect("it runs");
    assert_eq!(status.code(), Some(1));
    let log = std::fs::read_to_string(home.join("daemon.log")).expect("a log");
    assert!(log.contains("the data directory belongs to cluster"), "{log}");
    let _ = std::fs::remove_dir_all(home);
}

#[test]
fn of_two_nodes_with_a_copied_data_directory_one_stops_and_says_why() {
    let mut cluster = Cluster::start("copied", 3, false);
    let (home, ports) = cluster.kill_9(2);
    let copy = dir("copied-copy");
    let copied = std::process::Command::new("cp").arg("-r").arg(&home).arg(&copy).status().expect("cp runs");
    assert!(copied.success());
    cluster.start_again(2, (home, ports));
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
