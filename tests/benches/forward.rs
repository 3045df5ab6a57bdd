//! A request that enters at one node and is served by another: failures, added latency, processor time beside nginx in
//! front of nginx over TLS, large bodies, many WebSockets. Run by `./scripts/bench forward [--requests N] [--rounds N]`.
//!
//! Three nodes, one instance. "Here" is the node of the instance, "away" another one; all rounds are interleaved.
//! Processor time is that of the daemons or nginxes; the instance is the same program on both sides and not counted.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark reports to the terminal")]
#![expect(clippy::disallowed_methods, reason = "a benchmark waits on the real clock")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[path = "../support/backend.rs"]
mod backend;
#[path = "../support/bench.rs"]
mod bench;
#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/load.rs"]
mod load;

use bench::{Lines, Process, cpu_seconds, free_address, median, number, start_nginx, wait_for_answer};
use cluster::Cluster;
use cluster::daemon::quantile;
use load::{Answer, Closed, Connection};

const HOST: &str = "bench.localhost";
/// Enough to keep all entrances busy; for the exact account, at each of them.
const CONNECTIONS: usize = 32;
/// Requests of one measurement of latency on one connection, and of processor time on many.
const ALONE: u64 = 3_000;
const BUSY: u64 = 15_000;
/// The large body.
const LARGE: u64 = 1 << 30;
const SOCKETS: usize = 2_000;
/// How long the open sockets are silent: longer than the idle timeout of a data connection's streams would be noticed.
const SILENCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_backend = arguments.iter().any(|argument| argument == "--backend");
    match if is_backend { backend::run() } else { measure(&arguments) } {
        Ok(code) => code,
        Err(error) => {
            eprintln!("!!!! {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let requests = number(arguments, "--requests", 100_000)?;
    let rounds = number(arguments, "--rounds", 5)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rig = Rig::start()?;
    let folder = tempfile::Builder::new().prefix("maelstrom-bench-").tempdir()?;
    let peers = Peers::start(folder.path());
    if let Err(error) = &peers {
        println!("!!!! NOT MEASURED: nginx: {error:#}");
    }
    let mut lines = Lines::default();
    let is_whole = runtime.block_on(rig.all_entrances(requests, &mut lines));
    runtime.block_on(rig.rounds(peers.as_ref().ok(), rounds, &mut lines));
    rig.large_bodies(&mut lines)?;
    let is_open = runtime.block_on(rig.sockets(&mut lines));
    lines.print();
    let is_right = is_whole && is_open && peers.is_ok();
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Three nodes, of which one has the instance.
struct Rig {
    cluster: Cluster,
    home: usize,
}

impl Rig {
    fn start() -> anyhow::Result<Self> {
        let cluster = Cluster::start_with("forward", 3, &["--log", "info"]);
        let this = std::env::current_exe()?.display().to_string();
        let component = serde_json::json!({
            "command": [this, "--backend"], "concurrency": 5_000, "instances": {"min": 1, "max": 1},
            "max_body": "unlimited",
        });
        cluster.nodes[0].put("components", "bench", &component.to_string());
        let source = serde_json::json!({"component": "bench", "http": {"host": HOST}});
        cluster.nodes[0].put("sources", "bench", &source.to_string());
        cluster.everywhere("/v1/sources/bench", 200);
        for node in &cluster.nodes {
            wait_for_answer(node.http, HOST)?;
        }
        let is_home = |node: &cluster::daemon::Daemon| {
            let name = node.look("/v1/version")["node"].clone();
            node.instances().iter().any(|instance| instance["node"] == name)
        };
        let homes: Vec<usize> = (0..3).filter(|&place| is_home(&cluster.nodes[place])).collect();
        ensure!(homes.len() == 1, "one node should have the instance: {homes:?}");
        // What nodes say of themselves is a moment old.
        std::thread::sleep(Duration::from_secs(1));
        Ok(Self { home: homes[0], cluster })
    }

    fn away(&self) -> usize {
        (self.home + 1) % 3
    }

    fn address(&self, place: usize) -> SocketAddr {
        self.cluster.nodes[place].http
    }

    fn pid(&self, place: usize) -> u32 {
        self.cluster.nodes[place].pid()
    }

    /// Processor time of the two nodes that a forwarded request passes.
    fn cpu(&self) -> f64 {
        cpu_seconds(self.pid(self.home)) + cpu_seconds(self.pid(self.away()))
    }

    async fn all_entrances(&self, requests: u64, lines: &mut Lines) -> bool {
        let entrances: Vec<SocketAddr> = self.cluster.nodes.iter().map(|node| node.http).collect();
        let all = load::closed(&entrances, CONNECTIONS, requests, &load::get(HOST, "/"), is_hello).await;
        println!("{} requests at three entrances: {} failed {:?}", all.asked, all.failed, all.reasons);
        lines.put("forward.requests", all.asked as f64, 0);
        lines.put("forward.failed", all.failed as f64, 0);
        all.failed == 0 && all.asked == requests
    }

    async fn rounds(&self, peers: Option<&Peers>, rounds: u64, lines: &mut Lines) {
        let mut ways: Vec<Way<'_>> = vec![
            Way::new("here", self.address(self.home), Box::new(|| self.cpu())),
            Way::new("away", self.address(self.away()), Box::new(|| self.cpu())),
        ];
        if let Some(peers) = peers {
            ways.push(Way::new("nginx", peers.back_plain, Box::new(|| peers.back.cpu_seconds())));
            let both = || peers.front.cpu_seconds() + peers.back.cpu_seconds();
            ways.push(Way::new("nginx -> nginx", peers.front_address, Box::new(both)));
        }
        for round in 0..=rounds {
            for way in &mut ways {
                let sample = way.sample().await;
                // The first round warms connections and caches.
                if round > 0 {
                    way.samples.push(sample);
                }
            }
            eprintln!("round {round} of {rounds}");
        }
        println!(
            "\n{:<16} {:>9} {:>9} {:>11} {:>11} {:>9} {:>12}",
            "way", "p50 us", "p99 us", "busy p50 us", "busy p99 us", "req/s", "cpu us/req"
        );
        for way in &ways {
            let [p50, p99, busy50, busy99, rps, cpu] = std::array::from_fn(|column| way.median(column));
            println!("{:<16} {p50:>9.0} {p99:>9.0} {busy50:>11.0} {busy99:>11.0} {rps:>9.0} {cpu:>12.1}", way.name);
        }
        let over = |one: usize, other: usize, column: usize, combine: fn(f64, f64) -> f64| {
            // Of each round by itself: what slows the machine for a while slows both.
            let pairs = ways[one].samples.iter().zip(&ways[other].samples);
            median(pairs.map(|(one, other)| combine(one[column], other[column])))
        };
        lines.put("forward.added_p50_ms", over(1, 0, 0, |away, here| (away - here) / 1e3), 3);
        lines.put("forward.added_p99_ms", over(1, 0, 1, |away, here| (away - here) / 1e3), 3);
        lines.put("forward.busy_added_p50_ms", over(1, 0, 2, |away, here| (away - here) / 1e3), 3);
        lines.put("forward.cpu_us", ways[1].median(5), 1);
        if ways.len() > 2 {
            lines.put("forward.nginx_added_p50_ms", over(3, 2, 0, |chain, one| (chain - one) / 1e3), 3);
            lines.put("forward.nginx_added_p99_ms", over(3, 2, 1, |chain, one| (chain - one) / 1e3), 3);
            lines.put("forward.nginx_chain_cpu_us", ways[3].median(5), 1);
            lines.put("forward.cpu_ratio_vs_nginx_chain", over(1, 3, 5, |ours, theirs| ours / theirs), 3);
        }
    }

    /// One body each way through one hop, and what it costs in memory.
    fn large_bodies(&self, lines: &mut Lines) -> anyhow::Result<()> {
        let pids = [self.pid(self.home), self.pid(self.away())];
        let before = pids.map(bench::rss_mib);
        pids.into_iter().for_each(bench::forget_peak);
        for (name, is_up) in [("up", true), ("down", false)] {
            let begun = Instant::now();
            self.large(is_up).with_context(|| format!("1 GiB {name}"))?;
            let rate = LARGE as f64 / 1e6 / begun.elapsed().as_secs_f64();
            println!("1 GiB {name}: {rate:.0} MB/s");
            lines.put(&format!("forward.large_{name}_mb_s"), rate, 0);
        }
        let growth = [0, 1].map(|at| bench::peak_mib(pids[at]) - before[at]);
        println!("memory at its peak over before: home {:.1} MiB, entrance {:.1} MiB", growth[0], growth[1]);
        lines.put("forward.rss_growth_mib", growth[0].max(growth[1]), 1);
        Ok(())
    }

    fn large(&self, is_up: bool) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(self.address(self.away()))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let common = format!("HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n");
        let mut part = vec![0; 64 * 1024];
        if is_up {
            stream.write_all(format!("POST /sink {common}Content-Length: {LARGE}\r\n\r\n").as_bytes())?;
            for _ in 0..LARGE / part.len() as u64 {
                stream.write_all(&part)?;
            }
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            ensure!(answer.ends_with(&format!("\r\n\r\n{LARGE}")), "{answer}");
            return Ok(());
        }
        stream.write_all(format!("GET /bytes?n={LARGE} {common}\r\n").as_bytes())?;
        let (mut total, mut head) = (0, 0);
        loop {
            let count = stream.read(&mut part)?;
            if head == 0 {
                let end = part[..count].windows(4).position(|four| four == b"\r\n\r\n");
                head = end.context("the head comes at once")? as u64 + 4;
            }
            if count == 0 {
                break;
            }
            total += count as u64;
        }
        ensure!(total - head == LARGE, "{} bytes came", total - head);
        Ok(())
    }

    /// Many sockets across the hop that are silent for a while, and then all say something.
    async fn sockets(&self, lines: &mut Lines) -> bool {
        let pids = [self.pid(self.home), self.pid(self.away())];
        let before = pids.map(bench::rss_mib);
        let mut open = Vec::new();
        let mut reasons = Vec::new();
        for _ in 0..SOCKETS {
            match socket(self.address(self.away())).await {
                Ok(stream) => open.push(stream),
                Err(reason) => reasons.push(reason),
            }
            // Each may cost the whole patience: the figure is known by then.
            if reasons.len() > 20 {
                break;
            }
        }
        tokio::time::sleep(SILENCE).await;
        let each = [0, 1].map(|at| (bench::rss_mib(pids[at]) - before[at]) * 1024.0 / open.len() as f64);
        let mut echoed = 0;
        for stream in &mut open {
            match echo(stream).await {
                Ok(()) => echoed += 1,
                Err(reason) => reasons.push(reason),
            }
        }
        let failed = SOCKETS - echoed;
        reasons.truncate(5);
        println!(
            "{SOCKETS} WebSockets across the hop: {failed} failed {reasons:?}; KiB each: home {:.1}, entrance {:.1}",
            each[0], each[1]
        );
        lines.put("forward.sockets_failed", failed as f64, 0);
        lines.put("forward.socket_home_kib", each[0], 1);
        lines.put("forward.socket_entrance_kib", each[1], 1);
        failed == 0
    }
}

fn is_hello(answer: &Answer) -> bool {
    answer.body == "Hello, world\n"
}

async fn socket(entrance: SocketAddr) -> Result<tokio::net::TcpStream, String> {
    let request = format!(
        "GET /socket HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let opened = async {
        let mut connection = Connection::open(entrance).await.map_err(|error| error.to_string())?;
        let head = connection.upgrade(request.as_bytes()).await?;
        if !head.starts_with("http/1.1 101") {
            return Err(head);
        }
        let mut stream = connection.into_stream();
        echo(&mut stream).await?;
        Ok(stream)
    };
    tokio::time::timeout(Duration::from_secs(5), opened).await.unwrap_or_else(|_| Err("not open in 5 s".to_owned()))
}

/// The proxy reads nothing of it, so what a frame is need not be right.
async fn echo(stream: &mut tokio::net::TcpStream) -> Result<(), String> {
    let echoed = async {
        stream.write_all(b"are you there?").await?;
        let mut answer = [0; 14];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match tokio::time::timeout(Duration::from_secs(5), echoed).await {
        Ok(Ok(answer)) if &answer == b"are you there?" => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// One way to the instance, and what was measured of it.
struct Way<'a> {
    name: &'static str,
    address: SocketAddr,
    cpu: Box<dyn Fn() -> f64 + 'a>,
    /// p50 and p99 alone, p50 and p99 busy, requests per second, processor time; times in microseconds.
    samples: Vec<[f64; 6]>,
}

impl<'a> Way<'a> {
    fn new(name: &'static str, address: SocketAddr, cpu: Box<dyn Fn() -> f64 + 'a>) -> Self {
        Self { name, address, cpu, samples: Vec::new() }
    }

    async fn sample(&self) -> [f64; 6] {
        let mut alone = self.load(1, ALONE).await.latencies_us;
        let before = (self.cpu)();
        let mut busy = self.load(CONNECTIONS, BUSY).await;
        let cpu = ((self.cpu)() - before) * 1e6 / BUSY as f64;
        [
            quantile(&mut alone, 0.5),
            quantile(&mut alone, 0.99),
            quantile(&mut busy.latencies_us, 0.5),
            quantile(&mut busy.latencies_us, 0.99),
            BUSY as f64 / busy.took.as_secs_f64(),
            cpu,
        ]
    }

    async fn load(&self, connections: usize, requests: u64) -> Closed {
        let closed = load::closed(&[self.address], connections, requests, &load::get(HOST, "/"), is_hello).await;
        if closed.failed > 0 {
            println!("!!!! {}: {} of {requests} failed: {:?}", self.name, closed.failed, closed.reasons);
        }
        closed
    }

    fn median(&self, column: usize) -> f64 {
        median(self.samples.iter().map(|sample| sample[column]))
    }
}

/// nginx in front of nginx over TLS that is kept alive, in front of the same program as our instance.
struct Peers {
    front: Process,
    front_address: SocketAddr,
    back: Process,
    /// Where the second one takes requests without TLS.
    back_plain: SocketAddr,
    _backend: Process,
}

impl Peers {
    fn start(folder: &Path) -> anyhow::Result<Self> {
        let (backend_process, backend) = bench::start_backend(HOST)?;
        let (front_address, back_plain, back_tls) = (free_address()?, free_address()?, free_address()?);
        let [back_home, front_home] = ["back", "front"].map(|name| folder.join(name));
        fs::create_dir_all(&back_home)?;
        let mut certificate = Command::new("openssl");
        certificate.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        certificate.args(["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=bench"]);
        let status = certificate.current_dir(&back_home).stderr(Stdio::null()).status().context("openssl")?;
        ensure!(status.success(), "openssl made no certificate");
        let headers = "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;";
        let upstream = |server: SocketAddr| {
            format!("    upstream next {{ server {server}; keepalive 128; keepalive_requests 1000000000; }}\n")
        };
        let back_blocks = format!(
            "{}    server {{
        listen {back_plain}; listen {back_tls} ssl; server_name {HOST};
        ssl_certificate {home}/cert.pem; ssl_certificate_key {home}/key.pem;
        location / {{ proxy_pass http://next; {headers} }}
    }}",
            upstream(backend),
            home = back_home.display()
        );
        let front_blocks = format!(
            "{}    server {{
        listen {front_address}; server_name {HOST};
        location / {{ proxy_pass https://next; proxy_ssl_session_reuse on; {headers} }}
    }}",
            upstream(back_tls)
        );
        let back = start_nginx(&back_home, &back_blocks)?;
        wait_for_answer(back_plain, HOST)?;
        let front = start_nginx(&front_home, &front_blocks)?;
        wait_for_answer(front_address, HOST)?;
        Ok(Self { front, front_address, back, back_plain, _backend: backend_process })
    }
}
