//! The warm path beside nginx and HAProxy: processor time per request, latency, throughput.
//!
//! All of them stand in front of the same backend on loopback, keep connections to it alive, choose it by host name
//! and set the forwarded headers. One run interleaves them over several rounds, since a machine changes its speed, and
//! takes medians. Processor time is that of the proxy's own processes; the backend is this program once more.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark reports to the terminal")]
#![expect(clippy::disallowed_methods, reason = "a benchmark waits on the real clock")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use maelstrom::telemetry;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The host by which all proxies find the backend.
const HOST: &str = "bench.localhost";
/// Alone, to see the latency that a proxy adds; and enough to keep it busy.
const CONNECTIONS: [u32; 2] = [1, 64];
/// Ticks of `/proc/<pid>/stat` in a second: fixed in the kernel's interface on all machines that we build for.
const TICKS_PER_SECOND: f64 = 100.0;
/// How long a proxy may take until its first answer.
const START: Duration = Duration::from_secs(15);
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
    let result = if arguments.iter().any(|argument| argument == "--backend") { backend() } else { compare(&arguments) };
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

    let (_backend, backend) = start_backend().context("the backend did not start")?;
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

fn number(arguments: &[String], name: &str, default: u64) -> anyhow::Result<u64> {
    let Some(at) = arguments.iter().position(|argument| argument == name) else { return Ok(default) };
    let text = arguments.get(at + 1).with_context(|| format!("{name} needs a number"))?;
    text.parse().ok().filter(|number| *number > 0).with_context(|| format!("{name} {text}: not a number above 0"))
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

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

fn report(peers: &[Peer], samples: &BTreeMap<(&str, u32), Vec<Sample>>) {
    type Column = (&'static str, fn(&Sample) -> f64);
    const COLUMNS: [Column; 4] =
        [("rps", |s| s.rps), ("p50_us", |s| s.p50_us), ("p99_us", |s| s.p99_us), ("cpu_us", |s| s.cpu_us)];
    let of = |name: &str, connections: u32, column: fn(&Sample) -> f64| {
        let found = samples.iter().find(|(key, _)| **key == (name, connections));
        median(found.into_iter().flat_map(|(_, list)| list).map(column))
    };
    let mut lines = Vec::new();
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
                lines.push(format!("proxy.{}_c{connections}_{column}={value:.digits$}", peer.name));
            }
            println!();
        }
    }
    for peer in peers.iter().filter(|peer| peer.process.is_some()) {
        for (column, value) in [COLUMNS[1], COLUMNS[2]] {
            let added = of(peer.name, 1, value) - of("direct", 1, value);
            lines.push(format!("proxy.{}_c1_added_{column}={added:.0}", peer.name));
        }
    }
    // Of each round by itself: what slows the machine for a while slows both.
    if let (Some(ours), Some(theirs)) = (samples.get(&(OURS, RATIO_AT)), samples.get(&("nginx", RATIO_AT))) {
        let ratio = median(ours.iter().zip(theirs).map(|(ours, theirs)| ours.cpu_us / theirs.cpu_us));
        lines.push(format!("proxy.cpu_ratio_vs_nginx={ratio:.3}"));
    }
    println!("\n{}", lines.join("\n"));
}

// ---- the proxies ----------------------------------------------------------------------------------------------------

fn start_nginx(folder: &Path, backend: SocketAddr) -> anyhow::Result<(Process, SocketAddr)> {
    let address = free_address()?;
    let home = folder.join("nginx");
    fs::create_dir(&home)?;
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let config = format!(
        "{user} daemon off; worker_processes 1; pid nginx.pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 1000000000;
    upstream backend {{ server {backend}; keepalive 128; keepalive_requests 1000000000; }}
    server {{ listen {address} default_server; return 404; }}
    server {{
        listen {address}; server_name {HOST};
        location / {{
            proxy_pass http://backend; proxy_http_version 1.1;
            proxy_set_header Connection \"\"; proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"
    );
    fs::write(home.join("nginx.conf"), config)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&home).args(["-c", "nginx.conf", "-e", "stderr"]);
    let process = Process::start(command)?;
    wait_for_answer(address)?;
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
    wait_for_answer(address)?;
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
    wait_for_answer(address)?;
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

/// Sends and reads until the other side closes.
fn exchange(address: SocketAddr, request: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(START))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn wait_for_answer(address: SocketAddr) -> anyhow::Result<()> {
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let end = Instant::now() + START;
    loop {
        let answer = exchange(address, &request);
        if matches!(&answer, Ok(text) if text.starts_with("HTTP/1.1 200")) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "no 200 from {address} within {START:?}: {answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
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

/// An address that was free a moment ago.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A program that ends with this value, by a signal that lets it end its own children.
struct Process(Child);

impl Process {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        child.map(Self).with_context(|| format!("{:?} did not start", command.get_program()))
    }

    /// Processor time of the program and its children, less backends, in seconds.
    fn cpu_seconds(&self) -> f64 {
        let mut left = vec![self.0.id()];
        let mut ticks = 0_u64;
        let this = fs::read_link("/proc/self/exe").ok();
        while let Some(pid) = left.pop() {
            if fs::read_link(format!("/proc/{pid}/exe")).ok() == this {
                continue;
            }
            ticks += ticks_of(pid);
            let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            for thread in threads {
                let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                left.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
        }
        ticks as f64 / TICKS_PER_SECOND
    }
}

/// User and system time of all threads of a process, past ones included.
fn ticks_of(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold spaces; fields 14 and 15 are 12 and 13 from 1 behind it.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        let end = Instant::now() + Duration::from_secs(10);
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// ---- the backend ----------------------------------------------------------------------------------------------------

fn start_backend() -> anyhow::Result<(Process, SocketAddr)> {
    let address = free_address()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--backend").env("PORT", address.port().to_string());
    let process = Process::start(command)?;
    wait_for_answer(address)?;
    Ok((process, address))
}

/// Answers every request with the same hundred bytes or so, as cheaply as tokio can.
fn backend() -> anyhow::Result<ExitCode> {
    let port: u16 = std::env::var("PORT").context("PORT is not set")?.parse().context("PORT is not a port")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            telemetry::spawn("connection", serve(stream));
        }
    })
}

/// Requests without a body, one after another, until the other side closes or asks to.
async fn serve(mut stream: tokio::net::TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world\n";
    let mut buffer = vec![0; 16 * 1024];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await {
            Ok(count) if count > 0 => filled += count,
            _ => return,
        }
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..filled]).to_ascii_lowercase();
            filled = 0;
            if stream.write_all(ANSWER).await.is_err() || head.contains("connection: close") {
                return;
            }
        }
    }
}
