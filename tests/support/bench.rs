//! What benchmarks share beside daemons: programs and what they cost, arguments, medians, the lines of a report.

#![allow(
    dead_code,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "each benchmark uses its part, waits in real time and prints"
)]
#![allow(missing_docs, unreachable_pub, reason = "shared by benchmarks only")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal};

/// Ticks of `/proc/<pid>/stat` in a second: fixed in the kernel's interface on all machines that we build for.
const TICKS_PER_SECOND: f64 = 100.0;
/// How long a program may take until its first answer.
pub const START: Duration = Duration::from_secs(15);

/// The number after `name` among the arguments.
pub fn number(arguments: &[String], name: &str, default: u64) -> anyhow::Result<u64> {
    let Some(at) = arguments.iter().position(|argument| argument == name) else { return Ok(default) };
    let text = arguments.get(at + 1).with_context(|| format!("{name} needs a number"))?;
    text.parse().ok().filter(|number| *number > 0).with_context(|| format!("{name} {text}: not a number above 0"))
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

/// The lines that a program reads, kept for the end of the report.
#[derive(Debug, Default)]
pub struct Lines(Vec<String>);

impl Lines {
    pub fn put(&mut self, name: &str, value: f64, digits: usize) {
        self.0.push(format!("{name}={value:.digits$}"));
    }

    pub fn print(&self) {
        println!("\n{}", self.0.join("\n"));
    }
}

// ---- programs -------------------------------------------------------------------------------------------------------

/// A program that ends with this value, by a signal that lets it end its own children.
pub struct Process(pub Child);

impl Process {
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        child.map(Self).with_context(|| format!("{:?} did not start", command.get_program()))
    }

    /// Processor time of the program and its children, less backends, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.0.id())
    }
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

/// Processor time of a process and its children, less those that run the program of this benchmark, in seconds.
pub fn cpu_seconds(pid: u32) -> f64 {
    let mut left = vec![pid];
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

/// User and system time of all threads of a process, past ones included.
fn ticks_of(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold spaces; fields 14 and 15 are 12 and 13 from 1 behind it.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// A line of `/proc/<pid>/status` that is an amount of memory, in MiB.
fn memory(pid: u32, line: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let found = status.lines().find(|text| text.starts_with(line)).unwrap_or_default();
    found.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

/// Resident memory, in MiB.
pub fn rss_mib(pid: u32) -> f64 {
    memory(pid, "VmRSS:")
}

/// The most resident memory since [`forget_peak`], in MiB.
pub fn peak_mib(pid: u32) -> f64 {
    memory(pid, "VmHWM:")
}

pub fn forget_peak(pid: u32) {
    // 5 is the kernel's word for it, see proc_pid_clear_refs(5).
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

// ---- what runs beside us ---------------------------------------------------------------------------------------------

/// nginx with one worker and the given blocks inside `http`.
pub fn start_nginx(home: &Path, blocks: &str) -> anyhow::Result<Process> {
    fs::create_dir_all(home)?;
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let config = format!(
        "{user} daemon off; worker_processes 1; pid nginx.pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 1000000000;
{blocks}
}}
"
    );
    fs::write(home.join("nginx.conf"), config)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(home).args(["-c", "nginx.conf", "-e", "stderr"]);
    Process::start(command)
}

/// Starts this program again as the component that [`super::backend`] is.
pub fn start_backend(host: &str) -> anyhow::Result<(Process, SocketAddr)> {
    let address = free_address()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--backend").env("PORT", address.port().to_string());
    let process = Process::start(command)?;
    wait_for_answer(address, host)?;
    Ok((process, address))
}

/// Sends and reads until the other side closes.
pub fn exchange(address: SocketAddr, request: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(START))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

pub fn wait_for_answer(address: SocketAddr, host: &str) -> anyhow::Result<()> {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
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

/// An address that was free a moment ago.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
