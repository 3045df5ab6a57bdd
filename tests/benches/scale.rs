//! 0 -> 1 -> 20 -> 0 on three nodes: how fast instances start once requests wait, and whether more start than are
//! needed. Run by `./scripts/bench scale [--rounds N]`.
//!
//! Looks from the outside: every instance writes down when it started, and the API says which live. The load is closed,
//! so that what is needed is known exactly: one instance for each `CONCURRENCY` connections.

#![expect(clippy::print_stdout, reason = "a benchmark reports to the terminal")]
#![expect(clippy::disallowed_methods, reason = "a benchmark waits on the real clock")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

use backend::{Record, micros};
use bench::{Lines, number};
use cluster::Cluster;
use cluster::daemon::{Daemon, quantile};
use load::{Answer, Closed};

const HOST: &str = "scale.localhost";
/// Requests that an instance takes at once.
const CONCURRENCY: usize = 5;
const NEEDED: usize = 20;
/// What one request takes in the instance.
const WORK_MS: u64 = 250;
/// How long the step lasts: forty requests on each connection.
const STEP: Duration = Duration::from_secs(10);
/// How long an instance may be idle.
const IDLE: &str = "3s";
/// For the way back to none.
const LONGEST: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--backend") {
        return backend::run().unwrap_or(ExitCode::FAILURE);
    }
    let rounds = number(&arguments, "--rounds", 3).expect("a number");
    let rig = Rig::start();
    let mut all = Figures::default();
    println!(
        "{:<6} {:>12} {:>13} {:>13} {:>9} {:>7} {:>7} {:>12}",
        "round", "0 -> 1 ms", "step p50 ms", "step max ms", "to 20 ms", "most", "failed", "back to 0 ms"
    );
    for round in 1..=rounds {
        rig.round(round, &mut all);
    }
    let over = all.most.saturating_sub(NEEDED) as f64;
    let mut lines = Lines::default();
    lines.put("scale.reaction_p50_ms", quantile(&mut all.reactions, 0.5), 1);
    lines.put("scale.reaction_max_ms", quantile(&mut all.reactions, 1.0), 1);
    lines.put("scale.reaction_ms", quantile(&mut all.reactions, 1.0), 1);
    lines.put("scale.to_needed_ms", quantile(&mut all.to_needed, 0.5), 0);
    lines.put("scale.over", over, 0);
    lines.put("scale.over_percent", over * 100.0 / NEEDED as f64, 1);
    lines.put("scale.started_over", all.started_over as f64, 0);
    lines.put("scale.failed", all.failed as f64, 0);
    lines.put("scale.to_zero_ms", quantile(&mut all.to_zero, 0.5), 0);
    lines.print();
    ExitCode::SUCCESS
}

#[derive(Debug, Default)]
struct Figures {
    /// From the moment at which more requests came than are taken, and waited, to the start of each instance that they
    /// need, in milliseconds. One that is started beyond need answers no request that waits, and counts as such.
    reactions: Vec<f64>,
    to_needed: Vec<f64>,
    to_zero: Vec<f64>,
    /// Instances that lived at once.
    most: usize,
    /// Instances beyond need that were started in any round, at once or not.
    started_over: usize,
    failed: u64,
}

struct Rig {
    cluster: Cluster,
    records: PathBuf,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.records);
    }
}

/// The instances of one node, as it says.
fn own(node: &Daemon) -> usize {
    let name = node.look("/v1/version")["node"].clone();
    node.instances().iter().filter(|instance| instance["node"] == name).count()
}

impl Rig {
    fn start() -> Self {
        let records = cluster::dir("scale-records");
        std::fs::create_dir_all(&records).expect("a folder");
        let cluster = Cluster::start_with("scale", 3, &["--log", "info"]);
        let this = std::env::current_exe().expect("a path").display().to_string();
        let component = json!({
            "command": [this, "--backend"], "env": {"RECORD": records},
            "concurrency": {"limit": CONCURRENCY, "target": CONCURRENCY},
            "instances": {"max": NEEDED * 2}, "idle": {"freeze": "never", "stop": IDLE}, "queue": 1_000,
        });
        cluster.nodes[0].put("components", "scale", &component.to_string());
        let source = json!({"component": "scale", "http": {"host": HOST}});
        cluster.nodes[0].put("sources", "scale", &source.to_string());
        cluster.everywhere("/v1/sources/scale", 200);
        // What nodes say of themselves is a moment old.
        std::thread::sleep(Duration::from_secs(1));
        Self { cluster, records }
    }

    fn living(&self) -> usize {
        self.cluster.nodes.iter().map(own).sum()
    }

    /// The moments after `from` at which instances started.
    fn starts(&self, from: u64) -> Vec<u64> {
        let record = Record::read(&self.records).expect("a record");
        record.starts.into_iter().filter(|at| *at >= from).collect()
    }

    /// Requests until `end`, on connections spread over the entrances.
    fn load(&self, connections: &[usize], requests: u64) -> Closed {
        let request = load::get(HOST, &format!("/once?id=1&ms={WORK_MS}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let entrances: Vec<SocketAddr> =
            self.cluster.nodes.iter().zip(connections).flat_map(|(node, count)| vec![node.http; *count]).collect();
        runtime.block_on(load::closed(&entrances, 1, requests, &request, is_done))
    }

    fn round(&self, round: u64, all: &mut Figures) {
        let asked = micros();
        let first = self.load(&[1], 1);
        let starts = self.starts(asked);
        let reaction = starts.first().map_or(f64::NAN, |at| (*at - asked) as f64 / 1e3);

        let (over, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let total = CONCURRENCY * NEEDED;
        let connections = [total - total / 3 * 2, total / 3, total / 3];
        let requests = total as u64 * (STEP.as_millis() as u64 / WORK_MS);
        let asked = micros();
        let step = std::thread::scope(|scope| {
            let (is_over, seen) = (Arc::clone(&over), Arc::clone(&most));
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    seen.fetch_max(self.living(), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            let step = self.load(&connections, requests);
            over.store(true, Ordering::Relaxed);
            step
        });
        let ended = Instant::now();
        let mut starts: Vec<f64> = self.starts(asked).iter().map(|at| (at - asked) as f64 / 1e3).collect();
        starts.sort_by(f64::total_cmp);
        // One lives already.
        let mut reactions: Vec<f64> = starts.iter().copied().take(NEEDED - 1).collect();
        let to_needed = reactions.get(NEEDED - 2).copied().unwrap_or(f64::NAN);
        while self.living() > 0 && ended.elapsed() < LONGEST {
            std::thread::sleep(Duration::from_millis(50));
        }
        let to_zero = if self.living() == 0 { ended.elapsed().as_secs_f64() * 1e3 } else { f64::NAN };
        let most = most.load(Ordering::Relaxed);
        let failed = first.failed + step.failed;
        println!(
            "{round:<6} {reaction:>12.1} {:>13.1} {:>13.1} {to_needed:>9.0} {most:>7} {failed:>7} {to_zero:>12.0}",
            quantile(&mut reactions, 0.5),
            quantile(&mut reactions, 1.0),
        );
        println!("       the {} starts of the step, ms: {starts:.0?}", starts.len());
        if failed > 0 {
            println!("!!!! {:?} {:?}", first.reasons, step.reasons);
        }
        all.started_over = all.started_over.max((starts.len() + 1).saturating_sub(NEEDED));
        all.reactions.push(reaction);
        all.reactions.extend(reactions);
        all.to_needed.push(to_needed);
        all.to_zero.push(to_zero);
        all.most = all.most.max(most);
        all.failed += failed;
    }
}

fn is_done(answer: &Answer) -> bool {
    answer.body.starts_with('1')
}
