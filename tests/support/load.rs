//! The load of benchmarks: HTTP/1.1 on connections that are kept alive, and an exact account of every request.
//!
//! Two ways: closed, where each connection sends its next request after an answer; open, where requests are due at fixed
//! times whatever becomes of those before them, and latency counts from the time when one was due.

#![allow(dead_code, clippy::disallowed_methods, reason = "each benchmark uses its part, in real time")]
#![allow(missing_docs, unreachable_pub, reason = "shared by benchmarks only")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use maelstrom::telemetry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The longest wait for an answer, after which a request counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Texts of failures that are kept; all are counted.
const SHOWN: usize = 20;

/// A connection that carries one exchange at a time.
pub struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

pub struct Answer {
    pub status: u16,
    pub body: String,
    /// The connection is of no more use.
    pub closes: bool,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::with_capacity(4096) })
    }

    /// Sends a request and waits for the whole answer, or says what happened instead.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer, String> {
        let answered = async {
            self.stream.write_all(request).await.map_err(|error| format!("sending: {error}"))?;
            self.answer().await
        };
        tokio::time::timeout(PATIENCE, answered).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    /// The head of an answer; what follows stays in the buffer.
    pub async fn head(&mut self) -> Result<String, String> {
        loop {
            if let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = self.read.split_off(at + 4);
                return Ok(String::from_utf8_lossy(&std::mem::replace(&mut self.read, rest)).to_ascii_lowercase());
            }
            self.more().await?;
        }
    }

    /// Asks for another protocol; gives the head of the answer.
    pub async fn upgrade(&mut self, request: &[u8]) -> Result<String, String> {
        self.stream.write_all(request).await.map_err(|error| format!("sending: {error}"))?;
        self.head().await
    }

    async fn more(&mut self) -> Result<(), String> {
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) if self.read.is_empty() => Err("the connection was closed before an answer".to_owned()),
            Ok(0) => Err("the connection was closed within an answer".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("reading: {error}")),
        }
    }

    async fn answer(&mut self) -> Result<Answer, String> {
        let head = self.head().await?;
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.and_then(|text| text.parse().ok()).ok_or_else(|| format!("no length: {head}"))?;
        while self.read.len() < length {
            self.more().await?;
        }
        let rest = self.read.split_off(length);
        let body = String::from_utf8_lossy(&std::mem::replace(&mut self.read, rest)).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Ok(Answer { status, body, closes: head.contains("connection: close") })
    }

    /// Whether it can be used again, as far as is known here: the other side has not closed it.
    fn is_open(&self) -> bool {
        let mut byte = [0; 1];
        matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// The stream after an upgrade.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// A GET without anything that is not needed.
pub fn get(host: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

// ---- closed ---------------------------------------------------------------------------------------------------------

/// What became of a closed load.
#[derive(Debug, Default)]
pub struct Closed {
    pub asked: u64,
    pub failed: u64,
    /// What some of them failed of.
    pub reasons: Vec<String>,
    pub latencies_us: Vec<f64>,
    pub took: Duration,
}

/// Sends `total` requests, spread evenly over the entrances on `connections` to each. Anything but the expected body
/// with 200 is a failure.
pub async fn closed(
    entrances: &[SocketAddr],
    connections: usize,
    total: u64,
    request: &[u8],
    is_right: fn(&Answer) -> bool,
) -> Closed {
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for (place, &entrance) in entrances.iter().enumerate() {
        let share = total / entrances.len() as u64 + u64::from((place as u64) < total % entrances.len() as u64);
        let left = Arc::new(AtomicU64::new(share));
        for _ in 0..connections {
            let (left, request) = (Arc::clone(&left), request.to_vec());
            tasks.push(telemetry::spawn("load", run(entrance, left, request, is_right)));
        }
    }
    let mut whole = Closed::default();
    for task in tasks {
        let Ok(part) = task.await else { continue };
        whole.asked += part.asked;
        whole.failed += part.failed;
        whole.reasons.extend(part.reasons);
        whole.latencies_us.extend(part.latencies_us);
    }
    whole.reasons.truncate(SHOWN);
    whole.took = begun.elapsed();
    whole
}

async fn run(entrance: SocketAddr, left: Arc<AtomicU64>, request: Vec<u8>, is_right: fn(&Answer) -> bool) -> Closed {
    let mut part = Closed::default();
    let mut connection = None;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        part.asked += 1;
        let begun = Instant::now();
        let answered = async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => Connection::open(entrance).await.map_err(|error| format!("connecting: {error}"))?,
            };
            let answer = open.exchange(&request).await?;
            if !answer.closes {
                connection = Some(open);
            }
            if answer.status == 200 && is_right(&answer) { Ok(()) } else { Err(shown(&answer)) }
        };
        match answered.await {
            Ok(()) => part.latencies_us.push(begun.elapsed().as_secs_f64() * 1e6),
            Err(reason) => {
                part.failed += 1;
                if part.reasons.len() < SHOWN {
                    part.reasons.push(reason);
                }
            }
        }
    }
    part
}

fn shown(answer: &Answer) -> String {
    format!("{} {}", answer.status, answer.body.trim())
}

// ---- open -----------------------------------------------------------------------------------------------------------

/// Entrances as a load balancer knows them: one that refuses a connection is not used any more.
pub struct Entrances(Mutex<Vec<Entrance>>);

struct Entrance {
    address: SocketAddr,
    is_used: bool,
    idle: Vec<Connection>,
}

impl Entrances {
    pub fn new(addresses: &[SocketAddr]) -> Arc<Self> {
        let entrance = |&address| Entrance { address, is_used: true, idle: Vec::new() };
        Arc::new(Self(Mutex::new(addresses.iter().map(entrance).collect())))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entrance>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All are used again.
    pub fn restore(&self) {
        self.lock().iter_mut().for_each(|entrance| entrance.is_used = true);
    }

    /// A connection for the request of this number, in turns. Those that cannot be reached are passed over, since
    /// nothing was sent to them.
    async fn connect(&self, number: u64) -> Result<(usize, Connection), String> {
        loop {
            let (place, address, mut idle) = {
                let mut all = self.lock();
                let used: Vec<usize> = (0..all.len()).filter(|place| all[*place].is_used).collect();
                if used.is_empty() {
                    return Err("no entrance takes connections".to_owned());
                }
                let place = used[number as usize % used.len()];
                (place, all[place].address, all[place].idle.pop())
            };
            if let Some(idle) = idle.take() {
                if idle.is_open() {
                    return Ok((place, idle));
                }
                continue;
            }
            match Connection::open(address).await {
                Ok(connection) => return Ok((place, connection)),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    let mut all = self.lock();
                    all[place].is_used = false;
                    all[place].idle.clear();
                }
                Err(error) => return Err(format!("connecting: {error}")),
            }
        }
    }

    fn give_back(&self, place: usize, connection: Connection) {
        let mut all = self.lock();
        if all[place].is_used {
            all[place].idle.push(connection);
        }
    }
}

/// One request of an open load.
#[derive(Debug)]
pub struct Shot {
    pub id: u64,
    /// The entrance that took it, if one did.
    pub entrance: Option<usize>,
    /// When it was due and when it was over.
    pub planned: Instant,
    pub done: Instant,
    /// The body of its answer, or why there is none.
    pub result: Result<String, String>,
}

impl Shot {
    pub fn latency_ms(&self) -> f64 {
        (self.done - self.planned).as_secs_f64() * 1e3
    }
}

/// What is sent: the bytes of a request by its id.
pub type Request = fn(u64) -> Vec<u8>;

/// Runs on a thread of its own until it is told to end, and then waits for the last answers.
pub struct Open {
    end: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Shot>>,
}

impl Open {
    /// `rate` requests in a second; ids count up from `first`.
    pub fn start(entrances: &Arc<Entrances>, rate: u32, first: u64, request: Request) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let (entrances, ended) = (Arc::clone(entrances), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(shoot(entrances, rate, first, request, ended))
        });
        Self { end, thread }
    }

    pub fn end(self) -> Vec<Shot> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load runs")
    }
}

async fn shoot(
    entrances: Arc<Entrances>,
    rate: u32,
    first: u64,
    request: Request,
    ended: Arc<AtomicBool>,
) -> Vec<Shot> {
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for number in 0.. {
        let planned = begun + Duration::from_secs(1) * number / rate;
        tokio::time::sleep_until(planned.into()).await;
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let entrances = Arc::clone(&entrances);
        let id = first + u64::from(number);
        tasks.push(telemetry::spawn("shot", async move {
            let (entrance, result) = one(&entrances, id, &request(id)).await;
            Shot { id, entrance, planned, done: Instant::now(), result }
        }));
    }
    let mut shots = Vec::with_capacity(tasks.len());
    for task in tasks {
        shots.push(task.await.expect("no panic"));
    }
    shots
}

async fn one(entrances: &Entrances, id: u64, request: &[u8]) -> (Option<usize>, Result<String, String>) {
    let (place, mut connection) = match entrances.connect(id).await {
        Ok(found) => found,
        Err(reason) => return (None, Err(reason)),
    };
    let result = match connection.exchange(request).await {
        Ok(answer) => {
            if !answer.closes {
                entrances.give_back(place, connection);
            }
            if answer.status == 200 { Ok(answer.body) } else { Err(shown(&answer)) }
        }
        Err(reason) => Err(reason),
    };
    (Some(place), result)
}
