//! What a change, a drain, a stop and a crash cost those who ask meanwhile: 1,000 requests per second at fixed times, at
//! all living entrances of three nodes. Run by `./scripts/bench rollout [--rate N] [update] [drain] [sigterm] [kill]`.
//!
//! Every request has an id that the instance writes down before it answers with it, so that one that was executed twice
//! is found. Half of them are GETs, half POSTs with a body. The client is a load balancer: it keeps connections, looks
//! whether one was closed before it uses it, and passes an entrance over once that refuses connections.

#![expect(clippy::print_stdout, reason = "a benchmark reports to the terminal")]
#![expect(clippy::disallowed_methods, reason = "a benchmark waits on the real clock")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

#[path = "../support/backend.rs"]
mod backend;
#[path = "../support/bench.rs"]
mod bench;
#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/load.rs"]
mod load;

use backend::Record;
use bench::{Lines, number};
use cluster::Cluster;
use cluster::daemon::{Daemon, quantile};
use load::{Entrances, Open, Shot};

const HOST: &str = "api.localhost";
const RATE: u64 = 1_000;
/// What one request takes in the instance: some are under way at any moment.
const WORK: u64 = 20;
/// Load before what happens, and after it is over.
const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(4);
/// How long what happens may take.
const LONGEST: Duration = Duration::from_secs(40);
/// An answer that took this long was disturbed: four times what an undisturbed one takes at its p99.
const DISTURBED_MS: f64 = 100.0;
/// Between the ids of two phases.
const PHASE: u64 = 10_000_000;
const PHASES: [&str; 4] = ["update", "drain", "sigterm", "kill"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--backend") {
        return backend::run().unwrap_or(ExitCode::FAILURE);
    }
    let rate = number(&arguments, "--rate", RATE).expect("a rate");
    let wanted: Vec<&str> = PHASES.into_iter().filter(|phase| arguments.iter().any(|asked| asked == phase)).collect();
    let wanted = if wanted.is_empty() { PHASES.to_vec() } else { wanted };
    let mut rig = Rig::start(u32::try_from(rate).expect("a rate"));
    let mut lines = Lines::default();
    println!(
        "{:<8} {:>8} {:>7} {:>11} {:>9} {:>9} {:>9} {:>9}",
        "phase", "requests", "failed", "duplicated", "p50 ms", "p99 ms", "max ms", "took ms"
    );
    for (place, phase) in wanted.into_iter().enumerate() {
        rig.phase(phase, PHASE * (place as u64 + 1), &mut lines);
    }
    lines.print();
    ExitCode::SUCCESS
}

/// A request by its id: half of them may be repeated, half must not.
fn request(id: u64) -> Vec<u8> {
    let target = format!("/once?id={id}&ms={WORK} HTTP/1.1\r\nHost: {HOST}\r\n");
    match id % 2 {
        0 => format!("GET {target}\r\n"),
        _ => format!("POST {target}Content-Length: 8\r\n\r\nabcdefgh"),
    }
    .into_bytes()
}

struct Rig {
    cluster: Cluster,
    rate: u32,
    records: PathBuf,
    version: u32,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.records);
    }
}

impl Rig {
    fn start(rate: u32) -> Self {
        let records = cluster::dir("rollout-records");
        std::fs::create_dir_all(&records).expect("a folder");
        let mut rig =
            Self { cluster: Cluster::start_with("rollout", 3, &["--log", "info"]), rate, records, version: 0 };
        rig.put();
        let source = json!({"component": "api", "http": {"host": HOST}});
        rig.cluster.nodes[0].put("sources", "api", &source.to_string());
        rig.cluster.everywhere("/v1/sources/api", 200);
        rig
    }

    /// The component, with an environment that differs each time.
    fn put(&mut self) {
        self.version += 1;
        let this = std::env::current_exe().expect("a path").display().to_string();
        let component = json!({
            "command": [this, "--backend"],
            "env": {"RECORD": self.records, "VERSION": self.version.to_string()},
            "concurrency": 100,
            "instances": {"min": 2, "max": 6},
        });
        self.cluster.nodes[0].put("components", "api", &component.to_string());
    }

    fn entrances(&self) -> Vec<SocketAddr> {
        self.cluster.nodes.iter().map(|node| node.http).collect()
    }

    /// The instances of the living nodes, each as its node says.
    fn instances(&self) -> Vec<(usize, serde_json::Value)> {
        let own = |(place, node): (usize, &Daemon)| {
            let name = node.look("/v1/version")["node"].clone();
            let own = node.instances().into_iter().filter(move |instance| instance["node"] == name);
            own.map(move |instance| (place, instance)).collect::<Vec<_>>()
        };
        self.cluster.nodes.iter().enumerate().flat_map(own).collect()
    }

    /// Node and state of each instance.
    fn places(&self) -> Vec<(usize, String)> {
        let place = |(place, instance): (usize, serde_json::Value)| (place, instance["state"].to_string());
        self.instances().into_iter().map(place).collect()
    }

    /// The node that has the most instances.
    fn home(&self) -> usize {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for (place, _) in self.instances() {
            *counts.entry(place).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map_or(0, |(place, _)| place)
    }

    /// What all instances answer with is the newest version.
    fn is_current(&self) -> bool {
        let ready = |instance: &serde_json::Value| instance["state"] == "ready";
        let instances = self.instances();
        let version = json!(self.version.to_string());
        let asked = self.cluster.nodes.iter().all(|node| {
            let (status, body) = node.ask(HOST, "/once?id=0&ms=0");
            status == 200 && body.ends_with(version.as_str().unwrap_or_default())
        });
        instances.len() >= 2 && instances.iter().all(|(_, instance)| ready(instance)) && asked
    }

    fn phase(&mut self, phase: &str, first: u64, lines: &mut Lines) {
        if phase == "drain" && !has_drain() {
            println!("drain    NOT RUN: this build has no `maelctl node drain`");
            return;
        }
        let entrances = Entrances::new(&self.entrances());
        self.until("two instances serve", Self::is_current);
        let load = Open::start(&entrances, self.rate, first, request);
        std::thread::sleep(BEFORE);
        let home = self.home();
        let begun = Instant::now();
        let gone = match phase {
            "update" => {
                self.put();
                self.until("all is of the new version", Self::is_current);
                None
            }
            "drain" => {
                self.node_command("drain", home);
                self.until("nothing is left there", |rig| rig.instances().iter().all(|(place, _)| *place != home));
                None
            }
            "sigterm" => {
                let node = self.cluster.nodes.remove(home);
                let site = node.site.clone();
                Some((node.stop(), site))
            }
            _ => Some(self.cluster.kill_9(home)),
        };
        let took = begun.elapsed();
        std::thread::sleep(AFTER);
        let shots = load.end();
        if phase == "drain" {
            self.node_command("uncordon", home);
        }
        if let Some(gone) = gone {
            self.cluster.start_again(home, gone);
            self.cluster.all_alive();
        }
        let record = Record::read(&self.records).expect("a record");
        report(phase, &shots, &record, (home, begun, took), lines);
    }

    fn node_command(&self, command: &str, place: usize) {
        // Asked of another node than that which it is about.
        let node = &self.cluster.nodes[(place + 1) % self.cluster.nodes.len()];
        let name = self.cluster.nodes[place].look("/v1/version")["node"].as_str().unwrap_or_default().to_owned();
        let status = maelctl(&["--node", &format!("http://{}", node.api), "node", command, &name]).status();
        assert!(status.is_ok_and(|status| status.success()), "maelctl node {command} {name}");
    }

    /// Waits, and says so if it is in vain: what was measured by then is still worth its lines.
    fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is(self) {
            if begun.elapsed() > LONGEST {
                println!("!!!! {what}: not within {LONGEST:?}; {:?}", self.places());
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn maelctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maelctl"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn has_drain() -> bool {
    maelctl(&["node", "drain", "--help"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// What happened at which node, when, and how long it took.
type Event = (usize, Instant, Duration);

fn report(phase: &str, shots: &[Shot], record: &Record, event: Event, lines: &mut Lines) {
    let (home, at, took) = event;
    let failed: Vec<&Shot> = shots.iter().filter(|shot| shot.result.is_err()).collect();
    let executed = |shot: &&Shot| record.executed.get(&shot.id).copied().unwrap_or(0);
    let duplicated: Vec<&Shot> = shots.iter().filter(|shot| executed(shot) > 1).collect();
    let unwritten = shots.iter().filter(|shot| shot.result.is_ok() && executed(shot) == 0).count();
    let mut latencies: Vec<f64> = shots.iter().filter(|shot| shot.result.is_ok()).map(Shot::latency_ms).collect();
    println!(
        "{phase:<8} {:>8} {:>7} {:>11} {:>9.1} {:>9.1} {:>9.1} {:>9.0}",
        shots.len(),
        failed.len(),
        duplicated.len(),
        quantile(&mut latencies, 0.5),
        quantile(&mut latencies, 0.99),
        quantile(&mut latencies, 1.0),
        took.as_secs_f64() * 1e3,
    );
    if unwritten > 0 {
        println!("!!!! {unwritten} answers without an execution: the record is wrong");
    }
    explain(&failed, at);
    for shot in duplicated.iter().take(5) {
        let method = if shot.id % 2 == 0 { "GET" } else { "POST" };
        println!("    executed twice: {method} due {:+.0} ms: {:?}", since(at, shot.planned), shot.result);
    }
    if phase != "kill" {
        lines.put(&format!("rollout.{phase}_failed"), failed.len() as f64, 0);
        lines.put(&format!("rollout.{phase}_duplicated"), duplicated.len() as f64, 0);
        lines.put(&format!("rollout.{phase}_max_ms"), quantile(&mut latencies, 1.0), 1);
        return;
    }
    // On the node that died: at its entrance, or taken from another entrance by an instance there.
    let was_there = |shot: &Shot| {
        let lost = shot.result.as_ref().is_err_and(|reason| reason.contains("the node that had the request was lost"));
        shot.planned < at + Duration::from_millis(1) && (shot.entrance == Some(home) || lost)
    };
    let (in_flight, other): (Vec<&Shot>, Vec<&Shot>) = failed.into_iter().partition(|shot| was_there(shot));
    let posts_twice = duplicated.iter().filter(|shot| shot.id % 2 == 1).count();
    let is_disturbed = |shot: &&Shot| shot.done > at && (shot.result.is_err() || shot.latency_ms() > DISTURBED_MS);
    let disturbed = shots.iter().filter(|shot| !was_there(shot)).filter(is_disturbed).map(|shot| shot.done).max();
    lines.put("rollout.kill_failed_in_flight", in_flight.len() as f64, 0);
    lines.put("rollout.kill_failed_other", other.len() as f64, 0);
    lines.put("rollout.kill_posts_duplicated", posts_twice as f64, 0);
    lines.put("rollout.kill_gap_ms", disturbed.map_or(0.0, |last| since(at, last)), 0);
}

/// Why requests failed: how many of each kind, and when they were due.
fn explain(failed: &[&Shot], at: Instant) {
    let mut kinds: BTreeMap<String, (usize, f64, f64)> = BTreeMap::new();
    for shot in failed {
        let reason = shot.result.as_ref().err().cloned().unwrap_or_default();
        let method = if shot.id % 2 == 0 { "GET" } else { "POST" };
        // Ids of instances and of nodes would make a kind of each.
        let words = reason.split_whitespace().filter(|word| !word.starts_with("api-")).collect::<Vec<_>>().join(" ");
        let entrance = shot.entrance.map_or_else(|| "no".to_owned(), |place| place.to_string());
        let due = since(at, shot.planned);
        let kind = kinds.entry(format!("{method} at entrance {entrance}: {words}")).or_insert((0, due, due));
        *kind = (kind.0 + 1, kind.1.min(due), kind.2.max(due));
    }
    for (kind, (count, first, last)) in kinds {
        println!("    {count} failed, due {first:+.0} to {last:+.0} ms: {kind}");
    }
}

/// Milliseconds from `at`, negative before it.
fn since(at: Instant, moment: Instant) -> f64 {
    match moment.checked_duration_since(at) {
        Some(after) => after.as_secs_f64() * 1e3,
        None => -(at - moment).as_secs_f64() * 1e3,
    }
}
