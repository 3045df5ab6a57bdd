//! The component of the benchmarks: HTTP/1.1 as cheaply as one thread of tokio can, so that what is in front of it is
//! measured.
//!
//! `/` the same hundred bytes or so · `/once?id=&ms=` writes the id down, waits, answers with the id and `VERSION` ·
//! `/sink` takes a body · `/bytes?n=` gives that many · an upgrade is taken, and then everything is sent back.
//! With `RECORD` set, each process keeps a file in that folder: when it started, and every id that it was given.

#![allow(dead_code, clippy::disallowed_methods, reason = "each benchmark uses its part, in real time")]
#![allow(missing_docs, unreachable_pub, reason = "shared by benchmarks only")]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use maelstrom::telemetry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world\n";

/// Room for a head, and for parts of a body.
const BUFFER: usize = 64 * 1024;

/// What one process knows.
struct Backend {
    version: String,
    record: Option<File>,
}

/// Serves on `PORT` of the environment.
pub fn run() -> anyhow::Result<ExitCode> {
    let started = micros();
    let port: u16 = std::env::var("PORT").context("PORT is not set")?.parse().context("PORT is not a port")?;
    let mut backend = Backend { version: std::env::var("VERSION").unwrap_or_default(), record: None };
    if let Ok(folder) = std::env::var("RECORD") {
        let path = Path::new(&folder).join(std::process::id().to_string());
        let mut file = OpenOptions::new().create(true).append(true).open(path).context("no record can be kept")?;
        writeln!(file, "start {started}")?;
        backend.record = Some(file);
    }
    let backend = Arc::new(backend);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let backend = Arc::clone(&backend);
            telemetry::spawn("connection", async move {
                // Ends with whoever opened the connection.
                let _ = serve(&backend, stream).await;
            });
        }
    })
}

/// Microseconds since 1970: what processes on one machine can compare.
pub fn micros() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// One request after another, until the other side closes or asks to.
async fn serve(backend: &Backend, mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    loop {
        let end = loop {
            if let Some(end) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read(&mut buffer[filled..]).await? {
                0 => return Ok(()),
                count => filled += count,
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let target = head.split(' ').nth(1).unwrap_or("/").to_owned();
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if header("upgrade:").is_some() {
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(switch).await?;
            stream.write_all(&buffer[end..filled]).await?;
            drop(buffer);
            return echo(stream).await;
        }
        let length: usize = header("content-length:").and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut left = length.saturating_sub(filled - end);
        let next = (end + length).min(filled);
        buffer.copy_within(next..filled, 0);
        filled -= next;
        while left > 0 {
            let most = left.min(BUFFER);
            match stream.read(&mut buffer[..most]).await? {
                0 => return Ok(()),
                count => left -= count,
            }
        }
        match target.as_str() {
            "/" => stream.write_all(ANSWER).await?,
            _ => backend.answer(&target, length, &mut stream).await?,
        }
        if head.contains("connection: close") {
            return Ok(());
        }
    }
}

impl Backend {
    async fn answer(&self, target: &str, length: usize, stream: &mut TcpStream) -> std::io::Result<()> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let number = |name: &str| {
            let value = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
            value.and_then(|(_, value)| value.parse::<u64>().ok()).unwrap_or(0)
        };
        let text = match path {
            "/once" => {
                let id = number("id");
                if let Some(mut file) = self.record.as_ref() {
                    // One write of one line: whole, whoever else writes.
                    file.write_all(format!("{id}\n").as_bytes())?;
                }
                tokio::time::sleep(Duration::from_millis(number("ms"))).await;
                format!("{id} {}", self.version)
            }
            "/bytes" => {
                let mut left = number("n") as usize;
                stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n").as_bytes()).await?;
                let part = vec![b'x'; BUFFER];
                while left > 0 {
                    let most = left.min(BUFFER);
                    stream.write_all(&part[..most]).await?;
                    left -= most;
                }
                return Ok(());
            }
            _ => length.to_string(),
        };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        stream.write_all(answer.as_bytes()).await
    }
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    // Small: there are thousands, and their messages are short.
    let mut buffer = [0; 512];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
}

/// What the processes of a folder have written down.
#[derive(Debug, Default)]
pub struct Record {
    /// How often each id was executed.
    pub executed: BTreeMap<u64, u32>,
    /// When each process started, by [`micros`].
    pub starts: Vec<u64>,
}

impl Record {
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut record = Self::default();
        for entry in std::fs::read_dir(folder)? {
            let text = std::fs::read_to_string(entry?.path())?;
            for line in text.lines() {
                match line.strip_prefix("start ") {
                    Some(at) => record.starts.push(at.parse().context("a moment")?),
                    None => *record.executed.entry(line.parse().context("an id")?).or_default() += 1,
                }
            }
        }
        record.starts.sort_unstable();
        Ok(record)
    }
}
