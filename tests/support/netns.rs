//! Hosts that can be cut off: network namespaces on one bridge, joined by veth pairs, with iptables between them.
//!
//! Needs root, `ip` and `iptables`. Where they are missing a test says loudly that it did not run, and fails where they
//! must be there. Dropped traffic is silent, as that of a dead host is: nobody answers that a port is closed.

#![allow(dead_code, clippy::print_stderr, reason = "each test uses its part, and says what did not run")]
#![allow(missing_docs, unreachable_pub, reason = "shared by tests only")]

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cluster::daemon::{Ports, Site};

/// Set to 1 where namespaces have to work: tests fail without them then. So they do under `CI=true`.
const MUST: &str = "MAELSTROM_TEST_NETNS";

/// What the name of every namespace of these tests begins with; the process id of the test run follows.
const PREFIX: &str = "maelstrom";

/// Groups of hosts that this process has made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Some hosts and the switch between them; gone when dropped.
pub struct Hosts {
    hosts: Vec<String>,
    switch: String,
}

impl Hosts {
    /// None if this machine cannot do it, and then the test is over.
    pub fn build(count: u8) -> Option<Self> {
        remove_leftovers();
        match Self::try_build(count) {
            Ok(hosts) => Some(hosts),
            Err(why) => {
                let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|set| set == value);
                assert!(!is(MUST, "1") && !is("CI", "true"), "no hosts in network namespaces: {why}");
                eprintln!("!!!! NOT RUN: this test needs network namespaces (root, iproute2, iptables): {why}");
                None
            }
        }
    }

    fn try_build(count: u8) -> Result<Self, String> {
        let group = format!("{PREFIX}-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        // What is made before a failure goes with the value.
        let mut made = Self { hosts: Vec::new(), switch: format!("{group}-switch") };
        ip(&["netns", "add", &made.switch])?;
        ip(&["-n", &made.switch, "link", "add", "bridge", "up", "type", "bridge"])?;
        for index in 0..count {
            let (host, port) = (format!("{group}-{index}"), format!("port{index}"));
            ip(&["netns", "add", &host])?;
            made.hosts.push(host.clone());
            let pair = ["link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &made.switch];
            ip(&[["-n", &host].as_slice(), &pair].concat())?;
            ip(&["-n", &made.switch, "link", "set", &port, "master", "bridge", "up"])?;
            ip(&["-n", &host, "address", "add", &format!("{}/24", address(index.into())), "dev", "eth0"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
            // Fails here rather than in the middle of a test if the kernel lacks something.
            made.filter(index.into(), &["-A", "INPUT", "-i", "eth0", "-m", "statistic", "--mode", "random"], &["0.5"])?;
            made.filter(index.into(), &["-F", "INPUT"], &[])?;
        }
        Ok(made)
    }

    /// Where a daemon runs on a host. Every host is alone, so the ports may be the same on all.
    pub fn site(&self, index: usize) -> Site {
        let ports = Ports { http: 8080, api: 7401, peer: 7400 };
        Site { ports, host: address(index), netns: Some(self.hosts[index].clone()) }
    }

    pub fn sites(&self) -> Vec<Site> {
        (0..self.hosts.len()).map(|index| self.site(index)).collect()
    }

    /// From now on `at` hears nothing of `from`.
    pub fn cut(&self, at: usize, from: usize) {
        let from = address(from).to_string();
        self.filter(at, &["-A", "INPUT", "-s", &from, "-j", "DROP"], &[]).expect("a rule");
    }

    /// From now on nothing passes between the two groups.
    pub fn split(&self, one: &[usize], other: &[usize]) {
        for a in one {
            for b in other {
                self.cut(*a, *b);
                self.cut(*b, *a);
            }
        }
    }

    /// From now on each host loses this share of what comes to it.
    pub fn lose(&self, share: &str) {
        for index in 0..self.hosts.len() {
            let rule = ["-A", "INPUT", "-i", "eth0", "-m", "statistic", "--mode", "random"];
            self.filter(index, &rule, &[share]).expect("a rule");
        }
    }

    /// Everything passes again.
    pub fn heal(&self) {
        for index in 0..self.hosts.len() {
            self.filter(index, &["-F", "INPUT"], &[]).expect("rules removed");
        }
    }

    /// A rule of a host; with a share, for that share of what it matches, which is dropped.
    fn filter(&self, index: usize, rule: &[&str], share: &[&str]) -> Result<(), String> {
        let mut arguments = vec!["netns", "exec", &self.hosts[index], "iptables", "-w"];
        arguments.extend(rule);
        for share in share {
            arguments.extend(["--probability", share, "-j", "DROP"]);
        }
        ip(&arguments)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // A namespace without a process takes its interfaces with it.
        for name in self.hosts.iter().chain([&self.switch]) {
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

/// The address of a host: RFC 2544 keeps this range for tests of networks.
fn address(index: usize) -> IpAddr {
    Ipv4Addr::new(198, 18, 0, u8::try_from(index + 1).expect("few hosts")).into()
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// Removes what a killed test run left behind.
fn remove_leftovers() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1)).and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid: u32| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}
