//! The warm path beside nginx and HAProxy: processor time per request, latency, throughput.
//!
//! All of them stand in front of the same backend on loopback, keep connections to it alive, choose it by host name
//! and set the forwarded headers. One run interleaves them over several rounds, since a machine changes its speed, and
//! takes medians. Processor time is that of the proxy's own processes; the backend is this program once more.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark reports to the terminal")]
#![expect(clippy::disallowed_methods, reason = "a benchmark waits on the real clock")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

#[path = "../support/backend.rs"]
mod backend;
#[path = "../support/bench.rs"]
mod bench;

use bench::{Lines, Process, START, exchange, free_address, median, number, start_backend, wait_for_answer};

/// The host by which all proxies find the backend.
const HOST: &str = "bench.localhost";
/// Alone, to see the latency that a proxy adds; and enough to keep it busy.
const CONNECTIONS: [u32; 2] = [1, 64];
const OURS: &str = "maelstrom";
const RATIO_AT: u32 = 64;

/// Prints one line in a form that needs no reading between the words.
const REPORT: &str = r#"
done = function(summary, latency, requests)
    local e = summary.errors
    print(string.format("REPORT %d %d %d %d %d", summary.requests, summary.duration, latency:percentile(50),
        latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result =
        if arguments.iter().any(|argument| argument == "--backend") { backend::run() } else { compare(&arguments) };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("!!!! {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What one run of wrk says of one proxy.
#[derive(Debug, Clone, Copy)]
struct Sample {
    rps: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
}

/// A proxy that runs, or the backend itself.
struct Peer {
    name: &'static str,
    address: SocketAddr,
    /// `None` for the backend itself: its processor time is not a proxy's.
    process: Option<Process>,
}

fn compare(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let seconds = number(arguments, "--seconds", 3)?;
    let rounds = number(arguments, "--rounds", 5)?;
    let folder = tempfile::Builder::new().prefix("maelstrom-bench-").tempdir()?;
    let script = folder.path().join("report.lua");
    fs::write(&script, REPORT)?;

    let (_backend, backend) = start_backend(HOST).context("the backend did not start")?;
    let mut peers = vec![Peer { name: "direct", address: backend, process: None }];
    let mut absent = Vec::new();
    for (name, start) in [
        ("nginx", start_nginx as fn(&Path, SocketAddr) -> anyhow::Result<_>),
        ("haproxy", start_haproxy),
        (OURS, start_ours),
    ] {
        match start(folder.path(), backend) {
            Ok((process, address)) => peers.push(Peer { name, address, process: Some(process) }),
            Err(error) => {
                eprintln!("!!!! NOT MEASURED: {name}: {error:#}");
                absent.push(name);
            }
        }
    }

    let mut samples: BTreeMap<(&str, u32), Vec<Sample>> = BTreeMap::new();
    for peer in &peers {
        measure(peer, CONNECTIONS[1], 1, &script)?; // Warms caches and connections; not counted.
    }
    for round in 1..=rounds {
        for connections in CONNECTIONS {
            for peer in &peers {
                let sample = measure(peer, connections, seconds, &script)?;
                samples.entry((peer.name, connections)).or_default().push(sample);
            }
        }
        eprintln!("round {round} of {rounds}");
    }
    for name in &absent {
        println!("!!!! NOT MEASURED: {name} (see above)");
    }
    report(&peers, &samples);
    Ok(if absent.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

// ---- measuring ------------------------------------------------------------------------------------------------------

fn measure(peer: &Peer, connections: u32, seconds: u64, script: &Path) -> anyhow::Result<Sample> {
    let cpu_before = peer.process.as_ref().map_or(0.0, Process::cpu_seconds);
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--latency"])
        .args(["-H", &format!("Host: {HOST}"), "-s"])
        .arg(script)
        .arg(format!("http://{}/", peer.address))
        .output()
        .context("wrk did not start")?;
    let cpu = peer.process.as_ref().map_or(0.0, Process::cpu_seconds) - cpu_before;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("REPORT ")).with_context(|| format!("wrk: {text}"))?;
    let numbers: Vec<f64> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
    let [requests, duration_us, p50_us, p99_us, errors] = numbers[..] else { bail!("wrk: {line}") };
    ensure!(requests > 0.0 && errors == 0.0, "{}: {errors} of {requests} requests failed", peer.name);
    Ok(Sample { rps: requests * 1e6 / duration_us, p50_us, p99_us, cpu_us: cpu * 1e6 / requests })
}

fn report(peers: &[Peer], samples: &BTreeMap<(&str, u32), Vec<Sample>>) {
    type Column = (&'static str, fn(&Sample) -> f64);
    const COLUMNS: [Column; 4] =
        [("rps", |s| s.rps), ("p50_us", |s| s.p50_us), ("p99_us", |s| s.p99_us), ("cpu_us", |s| s.cpu_us)];
    let of = |name: &str, connections: u32, column: fn(&Sample) -> f64| {
        let found = samples.iter().find(|(key, _)| **key == (name, connections));
        median(found.into_iter().flat_map(|(_, list)| list).map(column))
    };
    let mut lines = Lines::default();
    println!("\n{:<10} {:>5} {:>10} {:>9} {:>9} {:>12}", "proxy", "conns", "req/s", "p50 us", "p99 us", "cpu us/req");
    for connections in CONNECTIONS {
        for peer in peers {
            print!("{:<10} {connections:>5}", peer.name);
            for ((column, value), width) in COLUMNS.into_iter().zip([10, 9, 9, 12]) {
                let value = of(peer.name, connections, value);
                if column == "cpu_us" && peer.process.is_none() {
                    print!(" {:>width$}", "-");
                    continue;
                }
                let digits = usize::from(column == "cpu_us") * 2;
                print!(" {value:>width$.digits$}");
                lines.put(&format!("proxy.{}_c{connections}_{column}", peer.name), value, digits);
            }
            println!();
        }
    }
    for peer in peers.iter().filter(|peer| peer.process.is_some()) {
        for (column, value) in [COLUMNS[1], COLUMNS[2]] {
            let added = of(peer.name, 1, value) - of("direct", 1, value);
            lines.put(&format!("proxy.{}_c1_added_{column}", peer.name), added, 0);
        }
    }
    // Of each round by itself: what slows the machine for a while slows both.
    if let (Some(ours), Some(theirs)) = (samples.get(&(OURS, RATIO_AT)), samples.get(&("nginx", RATIO_AT))) {
        let ratio = median(ours.iter().zip(theirs).map(|(ours, theirs)| ours.cpu_us / theirs.cpu_us));
        lines.put("proxy.cpu_ratio_vs_nginx", ratio, 3);
    }
    lines.print();
}

// ---- the proxies ----------------------------------------------------------------------------------------------------

fn start_nginx(folder: &Path, backend: SocketAddr) -> anyhow::Result<(Process, SocketAddr)> {
    let address = free_address()?;
    let blocks = format!(
        "    upstream backend {{ server {backend}; keepalive 128; keepalive_requests 1000000000; }}
    server {{ listen {address} default_server; return 404; }}
    server {{
        listen {address}; server_name {HOST};
        location / {{
            proxy_pass http://backend; proxy_http_version 1.1;
            proxy_set_header Connection \"\"; proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}"
    );
    let process = bench::start_nginx(&folder.join("nginx"), &blocks)?;
    wait_for_answer(address, HOST)?;
    Ok((process, address))
}

fn start_haproxy(folder: &Path, backend: SocketAddr) -> anyhow::Result<(Process, SocketAddr)> {
    let address = free_address()?;
    let config = format!(
        "global
    nbthread 1
    maxconn 2000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend front
    bind {address}
    option forwardfor
    http-request set-header X-Forwarded-Host %[req.hdr(Host)]
    http-request set-header X-Forwarded-Proto http
    use_backend back if {{ hdr(host) -i {HOST} }}
backend back
    http-reuse always
    server one {backend}
"
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, config)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    let process = Process::start(command)?;
    wait_for_answer(address, HOST)?;
    Ok((process, address))
}

/// The whole product: the daemon with a component and an event source put through its API. Its instance is this
/// program as a backend, so that the far end is the same as for the others.
fn start_ours(folder: &Path, _backend: SocketAddr) -> anyhow::Result<(Process, SocketAddr)> {
    let (address, api) = (free_address()?, free_address()?);
    let this = std::env::current_exe()?;
    let binary = binary_beside(&this)?;
    let mut command = Command::new(&binary);
    command.arg("serve").arg("--data-dir").arg(folder.join("data")).args([
        "--runtime",
        "process",
        "--peer",
        "127.0.0.1:0",
    ]);
    command.args(["--http", &address.to_string(), "--api", &api.to_string()]);
    let mut process = Process::start(command)?;
    wait_for_port(api, &mut process)?;
    // One instance, which may have all connections at once, and which stays.
    let component = serde_json::json!({
        "command": [this.to_string_lossy(), "--backend"],
        "concurrency": 1000, "instances": {"min": 1, "max": 1},
    });
    put(api, "/v1/components/bench", &component)?;
    put(api, "/v1/sources/bench", &serde_json::json!({"component": "bench", "http": {"host": HOST}}))?;
    wait_for_answer(address, HOST)?;
    Ok((process, address))
}

/// `target/release/maelstromd` beside `target/release/deps/proxy-…`.
fn binary_beside(this: &Path) -> anyhow::Result<PathBuf> {
    let binary = this.parent().and_then(Path::parent).context("an unusual place")?.join("maelstromd");
    ensure!(binary.exists(), "maelstromd is not built beside this benchmark; run it by ./scripts/bench");
    Ok(binary)
}

fn put(api: SocketAddr, path: &str, body: &serde_json::Value) -> anyhow::Result<()> {
    let body = body.to_string();
    let head = format!("PUT {path} HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\nContent-Type: application/json\r\n");
    let answer = exchange(api, &format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()))?;
    ensure!(answer.starts_with("HTTP/1.1 2"), "PUT {path}: {answer}");
    Ok(())
}

fn wait_for_port(address: SocketAddr, process: &mut Process) -> anyhow::Result<()> {
    let end = Instant::now() + START;
    while TcpStream::connect(address).is_err() {
        if let Some(status) = process.0.try_wait()? {
            bail!("it ended by itself: {status}");
        }
        ensure!(Instant::now() < end, "nothing listens on {address} after {START:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
