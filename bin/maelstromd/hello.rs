//! The sample component of the demo: a small blocking HTTP/1.1 server on `$PORT`, as any program of a user could be.
//!
//! Standard library only; knows nothing of Maelstrom but two environment variables.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) fn run() -> ExitCode {
    let Some(port) = std::env::var("PORT").ok().and_then(|port| port.parse::<u16>().ok()) else {
        eprintln!("hello: PORT is not set; maelstromd sets it when it starts a component");
        return ExitCode::FAILURE;
    };
    let listener = match TcpListener::bind(("127.0.0.1", port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("hello: cannot listen on port {port}: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("hello: listening on port {port}");
    let served = Arc::new(AtomicU64::new(0));
    for stream in listener.incoming().flatten() {
        let served = Arc::clone(&served);
        std::thread::spawn(move || serve(stream, &served));
    }
    ExitCode::SUCCESS
}

/// Answers every request on one connection; a request body is not expected and not read.
fn serve(stream: TcpStream, served: &AtomicU64) -> Option<()> {
    let mut out = stream.try_clone().ok()?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(request)) = lines.next() {
        while !lines.next()?.ok()?.is_empty() {}
        let count = served.fetch_add(1, Ordering::Relaxed) + 1;
        let instance = std::env::var("MAELSTROM_INSTANCE_ID").unwrap_or_else(|_| "nobody".to_owned());
        println!("hello: {request}");
        let body = format!("Hello from {instance} (process {}), request {count}.\n", std::process::id());
        write!(out, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .ok()?;
    }
    Some(())
}
