//! Several daemons joined by one token, as real processes: on loopback, behind relays that break the network, or where
//! a test says.
//!
//! Knows nothing of what a test wants of them.

#![allow(dead_code, clippy::disallowed_methods, reason = "each test uses its part, and waits in real time")]
#![allow(missing_docs, unreachable_pub, reason = "shared by tests only")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

#[path = "daemon.rs"]
pub mod daemon;
#[path = "relay.rs"]
pub mod relay;
#[path = "sample.rs"]
pub mod sample;

use daemon::{Daemon, PATIENCE, Ports, Site};
use relay::{Relay, Weather};

pub struct Cluster {
    pub nodes: Vec<Daemon>,
    pub token: String,
    /// One in front of each node, if the network is to be broken.
    pub relays: Vec<Relay>,
    pub weather: Arc<Weather>,
    /// What every node is started with besides.
    pub flags: Vec<String>,
    /// What runs components.
    pub runtime: &'static str,
}

pub fn dir(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("maelstrom-cluster-{}-{name}", std::process::id()))
}

impl Cluster {
    /// On loopback.
    pub fn start(test: &str, count: usize) -> Self {
        Self::start_at(test, (0..count).map(|_| Ports::free().into()).collect())
    }

    /// On loopback, each with these flags besides.
    pub fn start_with(test: &str, count: usize, flags: &[&str]) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut cluster = Self::empty();
        cluster.flags = flags;
        cluster.join(test, (0..count).map(|_| Ports::free().into()).collect())
    }

    /// On loopback, each behind a relay whose address it advertises, and which the others dial.
    pub fn start_behind_relays(test: &str, count: usize) -> Self {
        let sites: Vec<Site> = (0..count).map(|_| Ports::free().into()).collect();
        let weather = Arc::new(Weather::default());
        let relays = sites.iter().map(|site| Relay::start(site.ports.peer, &weather)).collect();
        let mut cluster = Self::empty();
        (cluster.relays, cluster.weather) = (relays, weather);
        cluster.join(test, sites)
    }

    pub fn start_at(test: &str, sites: Vec<Site>) -> Self {
        Self::empty().join(test, sites)
    }

    /// On loopback, with this runtime.
    pub fn start_of(test: &str, count: usize, runtime: &'static str) -> Self {
        let mut cluster = Self::empty();
        cluster.runtime = runtime;
        cluster.join(test, (0..count).map(|_| Ports::free().into()).collect())
    }

    fn empty() -> Self {
        Self {
            nodes: Vec::new(),
            token: String::new(),
            relays: Vec::new(),
            weather: Arc::default(),
            flags: Vec::new(),
            runtime: "process",
        }
    }

    fn join(mut self, test: &str, sites: Vec<Site>) -> Self {
        for (index, site) in sites.into_iter().enumerate() {
            let node = self.run(dir(&format!("{test}-{index}")), index, site);
            if index == 0 {
                node.until("the first answers", || node.answers());
                self.token = node.token();
            }
            self.nodes.push(node);
        }
        self.nodes.iter().for_each(|node| node.until("it answers", || node.answers()));
        self.all_alive();
        self
    }

    /// Starts the node of this place, anew or again, and does not wait until it answers. The first is the seed.
    fn run(&self, dir: PathBuf, index: usize, site: Site) -> Daemon {
        let name = format!("n{index}");
        let mut more = vec!["--name".to_owned(), name];
        if !self.flags.iter().any(|flag| flag == "--log") {
            // For people who look for a cause.
            more.extend(["--log".to_owned(), "debug,quinn=warn".to_owned()]);
        }
        more.extend(self.flags.iter().map(|flag| flag.replace("{index}", &index.to_string())));
        if let Some(relay) = self.relays.get(index) {
            more.extend(["--advertise".to_owned(), relay.address.to_string()]);
        }
        if index > 0 {
            let seed = self.relays.first().map_or_else(|| self.nodes[0].peer, |relay| relay.address);
            more.extend(["--join".to_owned(), seed.to_string(), "--token".to_owned(), self.token.clone()]);
        }
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        Daemon::spawn(dir, self.runtime, site, &more)
    }

    pub fn kill_9(&mut self, index: usize) -> (PathBuf, Site) {
        let node = self.nodes.remove(index);
        let site = node.site.clone();
        (node.kill_9(), site)
    }

    pub fn start_again(&mut self, index: usize, (dir, site): (PathBuf, Site)) {
        let node = self.run(dir, index, site);
        node.until("it answers", || node.answers());
        self.nodes.insert(index, node);
    }

    pub fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let start = std::time::Instant::now();
        while !done() {
            if start.elapsed() > PATIENCE {
                panic!("{what}: not within {PATIENCE:?}\n{}", self.logs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The last lines of every node.
    pub fn logs(&self) -> String {
        let mut logs = String::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let log = node.log();
            let lines: Vec<&str> = log.lines().collect();
            logs.push_str(&format!("--- node {index}\n{}\n", lines[lines.len().saturating_sub(40)..].join("\n")));
        }
        logs
    }

    pub fn all_alive(&self) {
        self.until("all see all alive", || self.nodes.iter().all(|node| count(node, "alive") == self.nodes.len()));
    }

    pub fn everywhere(&self, path: &str, status: u16) {
        self.until(&format!("{path} is {status} everywhere"), || {
            self.nodes.iter().all(|node| node.api("GET", path, "").0 == status)
        });
    }

    /// All have exactly these components.
    pub fn components_everywhere(&self, expected: &BTreeSet<String>) {
        self.until(&format!("all have these {} components", expected.len()), || {
            self.nodes.iter().all(|node| components(node) == *expected)
        });
    }

    /// Two values of one component that were put at the same moment are shown alike by all.
    pub fn conflict_everywhere(&self, name: &str) {
        self.until("all show the conflict and the same winner", || {
            let views: Vec<Value> =
                self.nodes.iter().map(|node| node.look(&format!("/v1/components/{name}"))).collect();
            views.iter().all(|view| {
                view["conflict"]["others"].as_array().is_some_and(|others| others.len() == 1)
                    && view["version"] == views[0]["version"]
                    && view["definition"] == views[0]["definition"]
            })
        });
    }

    /// Nobody has ever found anybody down.
    pub fn nobody_was_given_up(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            let log = node.log();
            let lines: Vec<&str> = log.lines().filter(|line| line.contains("node is down")).collect();
            assert!(lines.is_empty(), "node {index} gave a healthy node up: {lines:#?}\n{}", self.logs());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // All at once; each is waited for when it is dropped.
        self.nodes.iter().for_each(Daemon::ask_to_stop);
    }
}

/// Name and state of each node, as this one sees them.
pub fn states(node: &Daemon) -> Vec<(String, String)> {
    let list = node.look("/v1/nodes");
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let text = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    items.iter().map(|item| (text(item, "name"), text(item, "state"))).collect()
}

/// How many nodes are in a state.
pub fn count(node: &Daemon, state: &str) -> usize {
    states(node).iter().filter(|(_, is)| is == state).count()
}

pub fn components(node: &Daemon) -> BTreeSet<String> {
    let list = node.look("/v1/components");
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items.iter().map(|item| item["name"].as_str().unwrap_or_default().to_owned()).collect()
}

pub fn component(mark: &str) -> String {
    json!({"command": ["sh", "-c", format!("echo {mark}; exec sleep 1000")]}).to_string()
}

pub fn put(node: &Daemon, name: &str) {
    node.put("components", name, &component(name));
}
