//! The sample component of the tests: a small HTTP/1.1 server with keep-alive, one thread per connection. It needs
//! nothing but std, so that it also runs in an image made `FROM scratch`. Must not know anything of maelstrom but
//! the environment that every instance is given.
//!
//! Paths: `/` instance id, port and request head · `/env` environment · `/sleep?ms=` · `/echo` body as it came ·
//! `/exit?code=` · `/alloc?mb=` · `/status/<code>` · `/spawn-child` a sleeping child in a process group of its
//! own, answers its pid · `/events?ms=` two server-sent events with that pause between · `/record?path=` appends when it
//! came (milliseconds since 1970) and the head's lines, tabs between, to a file, then waits `ms=` · `/cwd` ·
//! `/read?path=` a file · `/log?lines=&text=` to both streams · `/count` requests so far ·
//! `/job?log=&ms=&fail=` a message of a queue, or Lambda's batch of them: `begin` and `end` are noted in the file, it takes
//! up to so many ms, and in so many of a hundred cases it fails the first time. Words in the text: `poison` always fails,
//! `busy` is too much the first time, `refuse` is answered with 400, `slow` takes ten times `ms`.
//! Environment: `FORWARD=<address>` (takes connections for it and does nothing else), `START_DELAY_MS`,
//! `EXIT_AT_ONCE=<code>`, `NEVER_LISTEN`, `IGNORE_TERM` (runs under a shell that ignores it), `WITNESS=<file>` to which it
//! adds its id every 10 ms while it lives, `BIND` (default 127.0.0.1; 0.0.0.0 in a container).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_in_result,
    reason = "a sample program: printing is what it is for"
)]
#![allow(clippy::disallowed_methods, reason = "a program that stands for a user's may end as it likes")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

static REQUESTS: AtomicU64 = AtomicU64::new(0);

fn main() {
    let env = |name: &str| std::env::var(name).ok();
    if std::env::args().nth(1).as_deref() == Some("sleep") {
        std::thread::sleep(Duration::from_secs(1000));
        exit(0);
    }
    if env("IGNORE_TERM").is_some() && env("IGNORES_TERM").is_none() {
        // Ignored signals stay ignored across exec; std alone cannot ignore one itself.
        let me = std::env::current_exe().expect("own path");
        let error = Command::new("/bin/sh")
            .args(["-c", "trap '' TERM INT; exec \"$0\"", &me.to_string_lossy()])
            .env("IGNORES_TERM", "1")
            .exec();
        panic!("no shell: {error}");
    }
    if let Some(path) = env("WITNESS") {
        std::thread::spawn(move || witness(&path));
    }
    println!("testapp starts");
    eprintln!("testapp warns");
    if let Some(code) = env("EXIT_AT_ONCE") {
        eprintln!("testapp gives up");
        exit(code.parse().unwrap_or(1));
    }
    if let Some(ms) = env("START_DELAY_MS") {
        std::thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0)));
    }
    while env("NEVER_LISTEN").is_some() {
        std::thread::sleep(Duration::from_secs(3600));
    }
    let bind = env("BIND").unwrap_or_else(|| "127.0.0.1".into());
    let port = env("PORT").unwrap_or_else(|| "8080".into());
    let listener = match TcpListener::bind(format!("{bind}:{port}")) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("cannot listen on {bind}:{port}: {error}");
            exit(98);
        }
    };
    println!("testapp listens on {bind}:{port}");
    if let Some(to) = env("FORWARD") {
        for stream in listener.incoming().flatten() {
            let to = to.clone();
            std::thread::spawn(move || _ = forward(stream, &to));
        }
    }
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || _ = serve(stream));
    }
}

/// Shows in a file that several may share that it lives.
fn witness(path: &str) -> io::Result<()> {
    let line = format!("{}\n", std::env::var("MAELSTROM_INSTANCE_ID").unwrap_or_default());
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
    loop {
        file.write_all(line.as_bytes())?;
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Carries bytes both ways, whatever they mean.
fn forward(stream: TcpStream, to: &str) -> io::Result<()> {
    use std::net::Shutdown;
    let other = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    other.set_nodelay(true)?;
    let (mut there, mut back) = (stream.try_clone()?, other.try_clone()?);
    let (mut into, mut out) = (other, stream);
    std::thread::spawn(move || {
        _ = io::copy(&mut there, &mut into);
        into.shutdown(Shutdown::Write)
    });
    _ = io::copy(&mut back, &mut out);
    out.shutdown(Shutdown::Write)
}

/// Answers requests of one connection until it ends.
fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while let Some(request) = read_head(&mut reader)? {
        REQUESTS.fetch_add(1, Ordering::Relaxed);
        let keep = !request.header("connection").eq_ignore_ascii_case("close");
        answer(&request, &mut reader, &mut writer)?;
        if !keep {
            break;
        }
    }
    Ok(())
}

/// The head of a request.
struct Request {
    text: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.query.get(name).and_then(|text| text.parse().ok()).unwrap_or(default)
    }
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut text = String::new();
    loop {
        let before = text.len();
        if reader.read_line(&mut text)? == 0 {
            return Ok(None);
        }
        if text[before..].trim_end().is_empty() && before > 0 {
            break;
        }
    }
    let mut lines = text.lines();
    let target = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("/").to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Ok(Some(Request { path: path.to_owned(), query, headers, text }))
}

fn answer(request: &Request, reader: &mut impl BufRead, writer: &mut impl Write) -> io::Result<()> {
    if request.path == "/echo" {
        return echo(request, reader, writer);
    }
    if request.path == "/events" {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        write!(writer, "{head}d\r\ndata: first\n\n\r\n")?;
        writer.flush()?;
        std::thread::sleep(Duration::from_millis(request.number("ms", 100)));
        write!(writer, "e\r\ndata: second\n\n\r\n0\r\n\r\n")?;
        return writer.flush();
    }
    if request.path == "/job" {
        return job(request, reader, writer);
    }
    // The rest of a body that nobody wants would be taken for the next request.
    let length: u64 = request.header("content-length").parse().unwrap_or(0);
    io::copy(&mut reader.take(length), &mut io::sink())?;
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    let mut status = 200;
    let body = match request.path.as_str() {
        "/" => format!("instance {}\nport {}\n\n{}", env("MAELSTROM_INSTANCE_ID"), env("PORT"), request.text),
        "/env" => std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect(),
        "/cwd" => std::env::current_dir()?.display().to_string(),
        "/read" => {
            let path = request.query.get("path").map_or("", String::as_str);
            std::fs::read_to_string(path).unwrap_or_else(|error| {
                status = 404;
                error.to_string()
            })
        }
        "/record" => {
            let path = request.query.get("path").map_or("", String::as_str);
            let came = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let line = format!("{}\t{}\n", came.as_millis(), request.text.trim_end().replace("\r\n", "\t"));
            // One write, so that lines of several instances do not mix.
            std::fs::OpenOptions::new().append(true).create(true).open(path)?.write_all(line.as_bytes())?;
            std::thread::sleep(Duration::from_millis(request.number("ms", 0)));
            "recorded\n".to_owned()
        }
        "/count" => REQUESTS.load(Ordering::Relaxed).to_string(),
        "/sleep" => {
            std::thread::sleep(Duration::from_millis(request.number("ms", 100)));
            "slept\n".to_owned()
        }
        "/exit" => {
            let code = request.number("code", 0);
            println!("testapp exits with {code}");
            exit(i32::try_from(code).unwrap_or(1));
        }
        "/alloc" => {
            let bytes = request.number("mb", 1) as usize * 1024 * 1024;
            // Every page is written, and the memory is kept.
            let memory = vec![1_u8; bytes].leak();
            format!("{} bytes\n", memory.len())
        }
        "/spawn-child" => {
            let child = Command::new(std::env::current_exe()?).arg("sleep").process_group(0).spawn()?;
            child.id().to_string()
        }
        "/log" => {
            let text = request.query.get("text").map_or("line", String::as_str);
            for n in 0..request.number("lines", 1) {
                println!("out {text} {n}");
                eprintln!("err {text} {n}");
            }
            "logged\n".to_owned()
        }
        other => {
            status = other.strip_prefix("/status/").and_then(|code| code.parse().ok()).unwrap_or(404);
            format!("status {status}\n")
        }
    };
    write!(
        writer,
        "HTTP/1.1 {status} Status\r\ncontent-type: text/plain\r\nmaelstrom-instance: {}\r\ncontent-length: {}\r\n\r\n{body}",
        env("MAELSTROM_INSTANCE_ID"),
        body.len()
    )?;
    writer.flush()
}

/// Handles a message, or a batch.
fn job(request: &Request, reader: &mut impl BufRead, writer: &mut impl Write) -> io::Result<()> {
    let mut body = vec![0; request.header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let path = request.query.get("log").map_or("/dev/null", String::as_str);
    let mut log = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
    let count = request.header("maelstrom-receive-count").to_owned();
    // One write for each line, so that lines of many instances do not mix.
    let mut note = |line: String| log.write_all(line.as_bytes());
    note(format!("begin {count} {body}\n").replace("{\"Records\"", "batch"))?;
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in body.bytes().chain(count.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 29;
    let most = request.number("ms", 0);
    let pause = if body.contains("slow") { most * 10 } else { hash % (most + 1) };
    std::thread::sleep(Duration::from_millis(pause));
    let first = count == "1";
    let fails = first && hash / 1000 % 100 < request.number("fail", 0);
    let (mut status, mut answer, mut retry) = (200, String::new(), "");
    if body.starts_with("{\"Records\"") {
        let failed = body.split("\"body\":\"").skip(1).filter_map(|record| {
            let (text, rest) = record.split_once('"')?;
            let id = rest.split_once("\"messageId\":\"")?.1.split_once('"')?.0;
            text.contains("poison").then(|| format!("{{\"itemIdentifier\":\"{id}\"}}"))
        });
        answer = format!("{{\"batchItemFailures\":[{}]}}", failed.collect::<Vec<_>>().join(","));
    } else if body.contains("poison") || fails {
        status = 500;
    } else if body.contains("refuse") {
        status = 400;
    } else if body.contains("busy") && first {
        (status, retry) = (429, "retry-after: 2\r\n");
    }
    let headers: String =
        request.text.lines().skip(1).filter(|line| !line.is_empty()).map(|line| format!(" {line} |")).collect();
    note(format!("end {count} {body} {status}{}\n", if body.contains("headers") { headers } else { String::new() }))?;
    let length = answer.len();
    write!(writer, "HTTP/1.1 {status} Status\r\n{retry}content-length: {length}\r\n\r\n{answer}")?;
    writer.flush()
}

/// Sends the body back while it comes.
fn echo(request: &Request, reader: &mut impl BufRead, writer: &mut impl Write) -> io::Result<()> {
    if request.header("expect").eq_ignore_ascii_case("100-continue") {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if request.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
        writer.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            writer.write_all(line.as_bytes())?;
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
            // The chunk and the line end after it.
            io::copy(&mut reader.take(size + 2), writer)?;
            writer.flush()?;
            if size == 0 {
                return Ok(());
            }
        }
    }
    let length: u64 = request.header("content-length").parse().unwrap_or(0);
    write!(writer, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")?;
    io::copy(&mut reader.take(length), writer)?;
    writer.flush()
}
