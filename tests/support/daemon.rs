//! What tests and benchmarks of the whole daemon share: one on free ports, plain blocking HTTP, raw Docker, medians.
//!
//! Blocking sockets of the standard library only, so that what is measured is not our own client.

#![allow(
    dead_code,
    clippy::disallowed_methods,
    reason = "each test and benchmark uses its part, and waits in real time"
)]
#![allow(missing_docs, unreachable_pub, reason = "shared by tests only")]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest wait for anything here.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the servers that stand for SQS take for credentials. Nothing here runs in a cloud, and asking for its metadata
/// takes seconds.
pub const CLOUD: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test"),
    ("AWS_REGION", "us-east-1"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// The ports that were given out. Tests of one process run side by side, and the system may give one out twice.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

fn fresh(mut draw: impl FnMut() -> std::io::Result<SocketAddr>) -> u16 {
    loop {
        let port = draw().expect("a free port").port();
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return port;
        }
    }
}

pub fn free_port() -> u16 {
    fresh(|| TcpListener::bind("127.0.0.1:0")?.local_addr())
}

/// Where a daemon listens on loopback.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub http: u16,
    pub api: u16,
    /// UDP.
    pub peer: u16,
}

impl Ports {
    pub fn free() -> Self {
        let peer = fresh(|| UdpSocket::bind("127.0.0.1:0")?.local_addr());
        Self { http: free_port(), api: free_port(), peer }
    }
}

/// Where a daemon runs.
#[derive(Debug, Clone)]
pub struct Site {
    pub ports: Ports,
    /// Where other nodes reach it, UDP and HTTP.
    pub host: IpAddr,
    /// The network namespace, if not that of the test. The API is then asked over its unix socket.
    pub netns: Option<String>,
}

impl From<Ports> for Site {
    fn from(ports: Ports) -> Self {
        Self { ports, host: Ipv4Addr::LOCALHOST.into(), netns: None }
    }
}

/// A `maelstromd serve` of the build beside the test; stopped when dropped.
pub struct Daemon {
    child: Child,
    /// It was asked to stop; a second signal would end it at once, and leave its instances behind.
    asked: std::sync::atomic::AtomicBool,
    pub ports: Ports,
    /// Where other nodes reach it.
    pub peer: SocketAddr,
    pub http: SocketAddr,
    pub api: SocketAddr,
    pub dir: PathBuf,
    pub site: Site,
}

impl Daemon {
    pub fn start(runtime: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("maelstrom-test-{}-{}", std::process::id(), free_port()));
        Self::start_in(dir, runtime, &[])
    }

    pub fn start_in(dir: PathBuf, runtime: &str, more: &[&str]) -> Self {
        Self::start_at(dir, runtime, Ports::free(), more)
    }

    pub fn start_at(dir: PathBuf, runtime: &str, site: impl Into<Site>, more: &[&str]) -> Self {
        let daemon = Self::spawn(dir, runtime, site, more);
        daemon.until("the daemon answers", || daemon.answers());
        daemon
    }

    /// The same with changes to its command, such as another environment.
    pub fn start_changed(dir: PathBuf, runtime: &str, change: impl FnOnce(&mut Command)) -> Self {
        let daemon = Self::launch(dir, runtime, Ports::free().into(), change);
        daemon.until("the daemon answers", || daemon.answers());
        daemon
    }

    /// The same without waiting until it answers.
    pub fn spawn(dir: PathBuf, runtime: &str, site: impl Into<Site>, more: &[&str]) -> Self {
        Self::launch(dir, runtime, site.into(), |command| _ = command.args(more))
    }

    fn launch(dir: PathBuf, runtime: &str, site: Site, change: impl FnOnce(&mut Command)) -> Self {
        std::fs::create_dir_all(&dir).expect("a data directory");
        let mut command = Self::command(&dir, runtime, site.clone());
        change(&mut command);
        let child = command.spawn().expect("maelstromd starts");
        let Site { ports, host, .. } = site;
        let api = (Ipv4Addr::LOCALHOST, ports.api).into();
        let (http, peer) = ((host, ports.http).into(), (host, ports.peer).into());
        Self { child, asked: false.into(), ports, peer, http, api, dir, site }
    }

    pub fn answers(&self) -> bool {
        match self.site.netns {
            Some(_) => UnixStream::connect(self.socket()).is_ok(),
            None => TcpStream::connect(self.api).is_ok() && TcpStream::connect(self.http).is_ok(),
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("maelstrom.sock")
    }

    pub fn command(dir: &std::path::Path, runtime: &str, site: impl Into<Site>) -> Command {
        let Site { ports, host, netns } = site.into();
        let log = std::fs::OpenOptions::new().append(true).create(true).open(dir.join("daemon.log"));
        let binary = env!("CARGO_BIN_EXE_maelstromd");
        let mut command = match netns {
            // It becomes the daemon: one process, the child of the test.
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &netns, binary]);
                command
            }
            None => Command::new(binary),
        };
        command.args(["serve", "--runtime", runtime, "--data-dir"]).arg(dir);
        let api = (Ipv4Addr::LOCALHOST, ports.api).into();
        let addresses: [SocketAddr; 3] = [(host, ports.http).into(), api, (host, ports.peer).into()];
        for (flag, address) in ["--http", "--api", "--peer"].into_iter().zip(addresses) {
            command.args([flag, &address.to_string()]);
        }
        command.envs(CLOUD).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("a log file"));
        command
    }

    /// What lets other nodes join this one's cluster.
    pub fn token(&self) -> String {
        let mut token = String::new();
        self.until("it has a token", || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_maelstromd"));
            let output = command.arg("token").arg("--data-dir").arg(&self.dir).output().expect("maelstromd runs");
            token = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            output.status.success()
        });
        token
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// The JSON of a GET.
    pub fn look(&self, path: &str) -> serde_json::Value {
        serde_json::from_str(&self.api("GET", path, "").1).unwrap_or_default()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default()
    }

    /// As a crash would: nothing is stopped. Gives the data directory to start again in.
    pub fn kill_9(mut self) -> PathBuf {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for");
        std::mem::take(&mut self.dir)
    }

    /// Stops it in order. Gives the data directory to start again in.
    pub fn stop(mut self) -> PathBuf {
        assert_eq!(self.terminate(), Some(0));
        std::mem::take(&mut self.dir)
    }

    /// Asks it to stop, and gives its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it did not end within {PATIENCE:?}");
    }

    /// Asks it to stop, once, and does not wait.
    pub fn ask_to_stop(&self) {
        if !self.asked.swap(true, std::sync::atomic::Ordering::Relaxed) {
            let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn put(&self, kind: &str, name: &str, document: &str) {
        let (status, body) = self.api("PUT", &format!("/v1/{kind}/{name}"), document);
        assert!((200..300).contains(&status), "put {kind} {name}: {status} {body}");
    }

    pub fn api(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let request = request(method, path, body);
        match self.site.netns {
            Some(_) => exchange(UnixStream::connect(self.socket()).expect("the API accepts"), &request),
            None => exchange(TcpStream::connect(self.api).expect("the API accepts"), &request),
        }
    }

    /// One request through the proxy on a connection of its own.
    pub fn get(&self, host: &str) -> u16 {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        exchange(TcpStream::connect(self.http).expect("the proxy accepts"), &request).0
    }

    /// The same with its answer.
    pub fn ask(&self, host: &str, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        exchange(TcpStream::connect(self.http).expect("the proxy accepts"), &request)
    }

    /// All instances as the API shows them.
    pub fn instances(&self) -> Vec<serde_json::Value> {
        let (_, body) = self.api("GET", "/v1/instances", "");
        let value: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        value["items"].as_array().cloned().unwrap_or_default()
    }

    /// The states of all instances.
    pub fn states(&self) -> Vec<String> {
        self.instances().iter().map(|item| item["state"].as_str().unwrap_or_default().to_owned()).collect()
    }

    pub fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            if start.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default();
                panic!("{what}: not within {PATIENCE:?}\n{log}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.dir.as_os_str().is_empty() || matches!(self.child.try_wait(), Ok(Some(_))) {
            if !self.dir.as_os_str().is_empty() {
                let _ = std::fs::remove_dir_all(&self.dir);
            }
            return;
        }
        // Gracefully, so that no instance is left behind. The receive of a queue may take 20 s, and is never cut off.
        self.ask_to_stop();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(40) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A request to the API.
pub fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Writes a request, reads until the other side closes; gives the status and the body.
pub fn exchange(stream: impl std::io::Read + std::io::Write, request: &str) -> (u16, String) {
    try_exchange(stream, request).expect("the request is sent")
}

/// The same with a daemon that may go away meanwhile: then there is no answer, and its status is 0.
pub fn try_exchange(mut stream: impl std::io::Read + std::io::Write, request: &str) -> std::io::Result<(u16, String)> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(parse(&answer))
}

fn parse(answer: &[u8]) -> (u16, String) {
    let text = String::from_utf8_lossy(answer);
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let body =
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { unchunk(body) } else { body.into() };
    (status, body)
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// Asks the address again and again, every half millisecond, until it answers 200.
pub fn first_200(address: SocketAddr) {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
            let mut answer = [0; 256];
            if stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").is_ok()
                && stream.read(&mut answer).is_ok_and(|read| read > 12)
                && &answer[9..12] == b"200"
            {
                return;
            }
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    panic!("{address} never answered 200");
}

/// The Docker API without a client.
pub struct Docker;

pub const SOCKET: &str = "/var/run/docker.sock";
pub const IMAGE: &str = "maelstrom-bench:latest";

impl Docker {
    pub fn answers() -> bool {
        UnixStream::connect(SOCKET).is_ok()
    }

    pub fn call(method: &str, path: &str, body: &str) -> (u16, String) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        exchange(UnixStream::connect(SOCKET).expect("Docker accepts"), &request)
    }

    /// An image of busybox and one page, from a tarball.
    pub fn import() -> Result<(), String> {
        let dir = std::env::temp_dir().join(format!("maelstrom-bench-image-{}", std::process::id()));
        let script = format!(
            "set -e; mkdir -p {0}/bin {0}/www; cp /bin/busybox {0}/bin/busybox; echo hello > {0}/www/index.html; \
             tar -C {0} -c . | docker import --change 'CMD [\"/bin/busybox\",\"httpd\",\"-f\",\"-p\",\"8080\",\"-h\",\"/www\"]' \
             - {IMAGE} >/dev/null; rm -rf {0}",
            dir.display()
        );
        let output = Command::new("sh").args(["-c", &script]).output().map_err(|error| error.to_string())?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// Create, start, first 200, with nothing of ours in between. Gives the time and removes the container.
    pub fn floor() -> Duration {
        let start = Instant::now();
        let (status, body) = Self::call("POST", "/v1.41/containers/create", &format!("{{\"Image\":\"{IMAGE}\"}}"));
        assert_eq!(status, 201, "{body}");
        let created: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let id = created["Id"].as_str().expect("an id").to_owned();
        let (status, body) = Self::call("POST", &format!("/v1.41/containers/{id}/start"), "");
        assert_eq!(status, 204, "{body}");
        let (_, body) = Self::call("GET", &format!("/v1.41/containers/{id}/json"), "");
        let shown: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let ip = shown["NetworkSettings"]["Networks"]["bridge"]["IPAddress"].as_str().expect("an address");
        first_200(format!("{ip}:8080").parse().expect("an address"));
        let time = start.elapsed();
        let _ = Self::call("DELETE", &format!("/v1.41/containers/{id}?force=true&v=true"), "");
        time
    }
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value below which this share of the values lies.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = ((values.len() as f64 - 1.0) * share).round() as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}
