//! Real processes on loopback, ours and serf in one run: how fast a change, a death and a farewell are known by all, and
//! what a cluster costs when nothing happens. Run by `./scripts/bench cluster`.
//!
//! Both are observed alike: by the lines that their processes write, stamped when they are read.

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark waits, measures and prints")]
#![allow(missing_docs, reason = "a program")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[path = "../support/daemon.rs"]
mod support;

use support::{Ports, exchange, free_port, quantile};

/// The longest wait for all to know something.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long deaths and farewells of one cluster are repeated; fewer rounds are said, and the figures are of those.
const ROUNDS: Duration = Duration::from_secs(150);
/// How long nothing happens while bytes are counted.
const IDLE: Duration = Duration::from_secs(20);

type Lines = Arc<Mutex<Vec<(Instant, String)>>>;

/// A process whose lines are read; killed when dropped.
struct Process {
    child: Child,
    lines: Lines,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(source: impl Read + Send + 'static, lines: &Lines) {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            lines.lock().expect("not poisoned").push((Instant::now(), line));
        }
    });
}

impl Process {
    fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let lines = Lines::default();
        follow(child.stdout.take().expect("piped"), &lines);
        follow(child.stderr.take().expect("piped"), &lines);
        Self { child, lines }
    }

    /// When the first line after `from` came that has all parts.
    fn seen(&self, from: Instant, parts: &[&str]) -> Option<Instant> {
        let lines = self.lines.lock().expect("not poisoned");
        let fits = |line: &String| parts.iter().all(|part| line.contains(part));
        lines.iter().rev().take_while(|(at, _)| *at >= from).filter(|(_, line)| fits(line)).last().map(|(at, _)| *at)
    }

    fn rss_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
    }

    fn signal(&self, name: &str) {
        let _ = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
    }
}

/// Milliseconds until the last of them has seen it.
fn known(all: &BTreeMap<usize, Process>, from: Instant, parts: &[&str]) -> Option<f64> {
    while from.elapsed() < PATIENCE {
        let seen: Option<Vec<Instant>> = all.values().map(|process| process.seen(from, parts)).collect();
        if let Some(last) = seen.and_then(|seen| seen.into_iter().max()) {
            return Some((last - from).as_secs_f64() * 1e3);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

/// Bytes that the loopback interface has carried.
fn loopback() -> f64 {
    let text = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let line = text.lines().find(|line| line.trim_start().starts_with("lo:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|bytes| bytes.parse().ok()).unwrap_or(f64::NAN)
}

/// What is measured of a cluster.
trait Cluster {
    fn all(&mut self) -> &mut BTreeMap<usize, Process>;
    fn start(&mut self, index: usize);
    /// Makes a change on a node, and what a line says that shows it.
    fn change(&mut self, on: usize, number: usize) -> Vec<String>;
    fn up(&self, index: usize) -> Vec<String>;
    fn down(&self, index: usize) -> Vec<String>;
    fn left(&self, index: usize) -> Vec<String>;
    /// Asks a node to leave; gives the moment that counts as its farewell.
    fn leave(&mut self, index: usize) -> Instant;
}

fn strs(parts: &[String]) -> Vec<&str> {
    parts.iter().map(String::as_str).collect()
}

/// The figures of one cluster in the order of the table.
fn measure(name: &str, count: usize, cluster: &mut dyn Cluster) -> Vec<(String, f64)> {
    let (changes, deaths) = if count > 10 { (60, 8) } else { (100, 15) };
    for index in 0..count {
        let from = Instant::now();
        cluster.start(index);
        if index > 0 {
            let up = cluster.up(index);
            let mut rest: BTreeMap<usize, Process> = std::mem::take(cluster.all());
            let own = rest.remove(&index);
            if known(&rest, from, &strs(&up)).is_none() {
                println!("!!!! {name}: node {index} was not seen by all");
            }
            rest.extend(own.map(|own| (index, own)));
            *cluster.all() = rest;
        }
    }
    std::thread::sleep(Duration::from_secs(3));
    let before = loopback();
    std::thread::sleep(IDLE);
    let idle = (loopback() - before) / IDLE.as_secs_f64() / count as f64;
    let rss = cluster.all().values().map(Process::rss_mb).sum::<f64>() / count as f64;
    let mut times = Vec::new();
    for number in 0..changes {
        let from = Instant::now();
        let parts = cluster.change(number % count, number);
        times.extend(known(cluster.all(), from, &strs(&parts)));
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{name}: {} of {changes} changes were seen by all", times.len());
    let (change_p50, change_p99) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
    let mut crashes = Vec::new();
    let mut leaves = Vec::new();
    let mut tried = [0, 0];
    let begun = Instant::now();
    for round in (0..deaths * 2).take_while(|_| begun.elapsed() < ROUNDS) {
        let index = 1 + round % (count - 1);
        let is_crash = round % 2 == 0;
        let parts = if is_crash { cluster.down(index) } else { cluster.left(index) };
        let mut from = Instant::now();
        if !is_crash {
            from = cluster.leave(index);
        }
        let Some(mut gone) = cluster.all().remove(&index) else { continue };
        if is_crash {
            from = Instant::now();
            let _ = gone.child.kill();
        }
        tried[usize::from(!is_crash)] += 1;
        let times = if is_crash { &mut crashes } else { &mut leaves };
        times.extend(known(cluster.all(), from, &strs(&parts)));
        let _ = gone.child.wait();
        let again = Instant::now();
        let up = cluster.up(index);
        let rest = std::mem::take(cluster.all());
        cluster.start(index);
        let own = std::mem::take(cluster.all());
        let _ = known(&rest, again, &strs(&up));
        cluster.all().extend(rest.into_iter().chain(own));
        // A node that has just come is not yet connected to all.
        std::thread::sleep(Duration::from_millis(1500));
    }
    let [killed, asked] = tried;
    println!(
        "{name}: {} of {killed} crashes and {} of {asked} farewells were seen by all (of so few p99 is the longest)",
        crashes.len(),
        leaves.len()
    );
    crashes.sort_by(f64::total_cmp);
    println!("{name}: the slowest crashes took {:.0?} ms", &crashes[crashes.len().saturating_sub(5)..]);
    let figure = |what: &str, value: f64| {
        // At once, so that a run that is cut off has said what it knew.
        println!("{name}.{what} {value:.1}");
        (format!("{name}.{what}"), value)
    };
    vec![
        figure("change_everywhere_p50_ms", change_p50),
        figure("change_everywhere_p99_ms", change_p99),
        figure("crash_known_p50_ms", quantile(&mut crashes, 0.5)),
        figure("crash_known_p99_ms", quantile(&mut crashes, 0.99)),
        figure("leave_known_p99_ms", quantile(&mut leaves, 0.99)),
        figure("idle_bytes_per_node_s", idle),
        figure("rss_mb", rss),
    ]
}

struct Ours {
    all: BTreeMap<usize, Process>,
    dir: PathBuf,
    ports: BTreeMap<usize, Ports>,
    token: String,
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.all.clear();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Cluster for Ours {
    fn all(&mut self) -> &mut BTreeMap<usize, Process> {
        &mut self.all
    }

    fn start(&mut self, index: usize) {
        let ports = *self.ports.entry(index).or_insert_with(Ports::free);
        let dir = self.dir.join(index.to_string());
        let mut command = Command::new(env!("CARGO_BIN_EXE_maelstromd"));
        command.args(["serve", "--runtime", "process", "--name", &format!("node-{index}-"), "--data-dir"]).arg(&dir);
        command.args(["--log", "info,maelstrom::daemon::registrar=debug"]);
        for (flag, port) in [("--http", ports.http), ("--api", ports.api), ("--peer", ports.peer)] {
            command.args([flag, &format!("127.0.0.1:{port}")]);
        }
        if index > 0 {
            let seed = format!("127.0.0.1:{}", self.ports[&0].peer);
            command.args(["--join", &seed, "--token", &self.token]);
        }
        let from = Instant::now();
        let process = Process::start(command);
        while process.seen(from, &["serving"]).is_none() && from.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
        }
        if index == 0 {
            self.token = std::fs::read_to_string(dir.join("token")).expect("a token").trim().to_owned();
        }
        self.all.insert(index, process);
    }

    fn change(&mut self, on: usize, number: usize) -> Vec<String> {
        let name = format!("change-{number}-");
        let body = format!(r#"{{"command":["sleep","{number}"]}}"#);
        let api = std::net::SocketAddr::from(([127, 0, 0, 1], self.ports[&on].api));
        let request = format!(
            "PUT /v1/components/{name} HTTP/1.1\r\nHost: {api}\r\nContent-Type: application/json\r\nContent-Length: {}\
             \r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let (status, answer) = exchange(std::net::TcpStream::connect(api).expect("it accepts"), &request);
        assert_eq!(status, 201, "{answer}");
        vec!["in effect here".into(), name]
    }

    fn up(&self, index: usize) -> Vec<String> {
        vec!["node is up".into(), format!("127.0.0.1:{}", self.ports.get(&index).map_or(0, |ports| ports.peer))]
    }

    fn down(&self, index: usize) -> Vec<String> {
        vec!["node is down".into(), format!("node-{index}-")]
    }

    fn left(&self, index: usize) -> Vec<String> {
        vec!["node has left".into(), format!("node-{index}-")]
    }

    fn leave(&mut self, index: usize) -> Instant {
        let from = Instant::now();
        let process = &self.all[&index];
        process.signal("TERM");
        loop {
            if let Some(at) = process.seen(from, &["leaving the cluster"]) {
                return at;
            }
            if from.elapsed() > PATIENCE {
                return from;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// serf agents; their own log says what they know.
struct Serf {
    all: BTreeMap<usize, Process>,
    ports: BTreeMap<usize, (u16, u16)>,
}

impl Serf {
    fn ask(&self, index: usize, arguments: &[&str]) {
        let rpc = format!("-rpc-addr=127.0.0.1:{}", self.ports[&index].1);
        let mut command = Command::new("serf");
        command.arg(arguments[0]).arg(rpc).args(&arguments[1..]).stdout(Stdio::null()).stderr(Stdio::null());
        let _ = command.status();
    }
}

impl Cluster for Serf {
    fn all(&mut self) -> &mut BTreeMap<usize, Process> {
        &mut self.all
    }

    fn start(&mut self, index: usize) {
        let (bind, rpc) = *self.ports.entry(index).or_insert_with(|| (free_port(), free_port()));
        let mut command = Command::new("serf");
        command.args(["agent", "-profile=lan", "-log-level=info", &format!("-node=node-{index}-")]);
        command.args([&format!("-bind=127.0.0.1:{bind}"), &format!("-rpc-addr=127.0.0.1:{rpc}")]);
        if index > 0 {
            command.arg(format!("-retry-join=127.0.0.1:{}", self.ports[&0].0));
        }
        self.all.insert(index, Process::start(command));
        std::thread::sleep(Duration::from_millis(500));
    }

    fn change(&mut self, on: usize, number: usize) -> Vec<String> {
        let name = format!("change-{number}-");
        self.ask(on, &["event", "-coalesce=false", &name]);
        vec!["user-event".into(), name]
    }

    fn up(&self, index: usize) -> Vec<String> {
        vec!["EventMemberJoin: ".into(), format!("node-{index}-")]
    }

    fn down(&self, index: usize) -> Vec<String> {
        vec!["EventMemberFailed: ".into(), format!("node-{index}-")]
    }

    fn left(&self, index: usize) -> Vec<String> {
        vec!["EventMemberLeave: ".into(), format!("node-{index}-")]
    }

    fn leave(&mut self, index: usize) -> Instant {
        let from = Instant::now();
        self.ask(index, &["leave"]);
        from
    }
}

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![5, 20] } else { sizes };
    // `ours` leaves serf out, whose deaths take seven seconds each.
    let alone = std::env::args().any(|argument| argument == "ours");
    let has_serf = Command::new("serf").arg("version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
    let mut figures = Vec::new();
    for count in sizes {
        let dir = std::env::temp_dir().join(format!("maelstrom-bench-cluster-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let mut ours = Ours { all: BTreeMap::new(), dir, ports: BTreeMap::new(), token: String::new() };
        let mine = measure(&format!("cluster.n{count}"), count, &mut ours);
        drop(ours);
        let theirs = if has_serf && !alone {
            let mut serf = Serf { all: BTreeMap::new(), ports: BTreeMap::new() };
            measure(&format!("serf.n{count}"), count, &mut serf)
        } else {
            println!("!!!! serf was not started: its figures are missing");
            Vec::new()
        };
        println!("\n{:<28} {:>12} {:>12} {:>10}", format!("N = {count}"), "ours", "serf", "ratio");
        for (place, (name, value)) in mine.iter().enumerate() {
            let other = theirs.get(place).map_or(f64::NAN, |(_, value)| *value);
            let label = name.rsplit('.').next().unwrap_or(name);
            println!("{label:<28} {value:>12.1} {other:>12.1} {:>10.3}", value / other);
        }
        println!();
        figures.extend(mine.into_iter().chain(theirs));
    }
    for (name, value) in figures {
        println!("{name}={value:.2}");
    }
}
