//! Stands between us and a server of SQS, and lets calls fail on demand: refusals of SQS, answers that break off after
//! the server has handed its messages out, answers that are slow. Counts the calls by their action.
//!
//! Blocking sockets and one thread for each connection; both sides speak HTTP/1.1 with bodies whose length is said.

#![allow(dead_code, clippy::disallowed_methods, reason = "each test uses its part, in real time")]
#![allow(missing_docs, unreachable_pub, reason = "shared by tests only")]

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The longest that the server may take for an answer: more than the longest poll.
const ANSWER: Duration = Duration::from_secs(40);

/// Calls of each action whose bodies are kept: what a test looks at is among the first.
const KEPT: usize = 1000;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 503 as of a load balancer: the server never sees the call.
    Unavailable,
    /// Refused because of too many calls.
    Throttled,
    /// Refused because the credentials have expired.
    Expired,
    /// Refused because the credentials may not do this.
    Denied,
    /// This is the answer, and the server never sees the call.
    Instead(&'static str),
    /// The server does it, and the connection ends in the middle of its answer.
    Cut,
    /// The server does it, and its answer comes so much later.
    Slow(Duration),
}

/// A fault in force.
#[derive(Debug, Clone)]
struct Rule {
    fault: Fault,
    /// Of these actions; of all if none is named.
    actions: Vec<String>,
    /// Of 1,000 calls.
    of_1000: u64,
}

/// What was counted of one action.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Calls that came in.
    pub calls: u64,
    /// Of those, the ones that a fault fell upon.
    pub faults: u64,
    /// Answers of the server that arrived whole.
    pub answers: u64,
    /// Messages in answers that arrived whole.
    pub messages: u64,
    /// Messages in answers that broke off.
    pub lost: u64,
    /// Messages that calls with a whole answer were about: in a delete those that were deleted.
    pub entries: u64,
}

#[derive(Debug, Default)]
struct State {
    rules: Mutex<Vec<Rule>>,
    counts: Mutex<BTreeMap<String, Count>>,
    draw: AtomicU64,
    stop: AtomicBool,
    /// The bodies of the first calls of each action.
    bodies: Mutex<BTreeMap<String, Vec<String>>>,
    /// Since messages went through for the first time.
    began: Mutex<Option<Instant>>,
}

/// The proxy in front of one server; takes no new connections when dropped.
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                let state = Arc::clone(&shared);
                std::thread::spawn(move || _ = serve(&client, server, &state));
            }
        });
        Self { address, state }
    }

    /// From now on this falls upon so many of 1,000 calls of these actions (of all if none is named).
    pub fn set(&self, fault: Fault, actions: &[&str], of_1000: u64) {
        let actions = actions.iter().map(|&action| action.to_owned()).collect();
        self.state.rules.lock().expect("not poisoned").push(Rule { fault, actions, of_1000 });
    }

    /// From now on everything works.
    pub fn heal(&self) {
        self.state.rules.lock().expect("not poisoned").clear();
    }

    /// What was counted since the beginning, by action.
    pub fn counts(&self) -> BTreeMap<String, Count> {
        self.state.counts.lock().expect("not poisoned").clone()
    }

    pub fn count(&self, action: &str) -> Count {
        self.counts().get(action).copied().unwrap_or_default()
    }

    /// The bodies of the first thousand calls of an action, in their order.
    pub fn calls_of(&self, action: &str) -> Vec<String> {
        self.state.bodies.lock().expect("not poisoned").get(action).cloned().unwrap_or_default()
    }

    /// Begins to count anew.
    pub fn forget(&self) {
        self.state.counts.lock().expect("not poisoned").clear();
        *self.state.began.lock().expect("not poisoned") = None;
    }

    /// When the first messages since then went through.
    pub fn began(&self) -> Option<Instant> {
        *self.state.began.lock().expect("not poisoned")
    }

    /// All calls.
    pub fn calls(&self) -> u64 {
        self.counts().values().map(|count| count.calls).sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn fault(&self, action: &str) -> Option<Fault> {
        let rules = self.rules.lock().expect("not poisoned");
        let hits = |rule: &&Rule| {
            let meant = rule.actions.is_empty() || rule.actions.iter().any(|named| named == action);
            meant && self.random() % 1000 < rule.of_1000
        };
        rules.iter().find(hits).map(|rule| rule.fault)
    }

    fn begin(&self) {
        self.began.lock().expect("not poisoned").get_or_insert_with(Instant::now);
    }

    fn keep(&self, action: &str, body: &[u8]) {
        let mut bodies = self.bodies.lock().expect("not poisoned");
        let kept = bodies.entry(action.to_owned()).or_default();
        if kept.len() < KEPT {
            kept.push(String::from_utf8_lossy(body).into_owned());
        }
    }

    fn random(&self) -> u64 {
        // splitmix64 over a counter: the same sequence in every run, shared by all connections.
        let mut z = self.draw.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn note(&self, action: &str, change: impl FnOnce(&mut Count)) {
        change(self.counts.lock().expect("not poisoned").entry(action.to_owned()).or_default());
    }
}

/// A request or an answer as it came.
struct Message {
    head: String,
    body: Vec<u8>,
}

impl Message {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// How many messages an answer brings, or a call is about.
    fn messages(&self) -> u64 {
        let text = String::from_utf8_lossy(&self.body);
        text.matches("\"ReceiptHandle\"").count() as u64
    }
}

/// Carries calls of one connection until it ends.
fn serve(client: &TcpStream, server: SocketAddr, state: &State) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut asked = BufReader::new(client.try_clone()?);
    let mut there: Option<BufReader<TcpStream>> = None;
    while let Some(call) = read(&mut asked)? {
        let target = call.header("x-amz-target").unwrap_or_default();
        let action = target.rsplit('.').next().unwrap_or_default().to_owned();
        let fault = state.fault(&action);
        state.keep(&action, &call.body);
        state.note(&action, |count| {
            count.calls += 1;
            count.faults += u64::from(fault.is_some());
        });
        if let Some(refusal) = fault.and_then(refusal) {
            (&*client).write_all(refusal.as_bytes())?;
            continue;
        }
        let answer = ask(&mut there, server, &call)?;
        if let Some(Fault::Slow(time)) = fault {
            std::thread::sleep(time);
        }
        if fault == Some(Fault::Cut) {
            state.note(&action, |count| count.lost += answer.messages());
            let mut whole = answer.head.into_bytes();
            whole.extend_from_slice(&answer.body);
            (&*client).write_all(&whole[..whole.len() - answer.body.len().div_ceil(2).max(1)])?;
            return client.shutdown(Shutdown::Both);
        }
        let (messages, entries) = (answer.messages(), call.messages());
        if messages > 0 {
            state.begin();
        }
        let mut whole = answer.head.into_bytes();
        whole.extend_from_slice(&answer.body);
        (&*client).write_all(&whole)?;
        state.note(&action, |count| {
            count.answers += 1;
            count.messages += messages;
            count.entries += entries;
        });
    }
    Ok(())
}

/// Asks over the connection that is there, or over a new one if the server has closed it meanwhile.
fn ask(there: &mut Option<BufReader<TcpStream>>, server: SocketAddr, call: &Message) -> io::Result<Message> {
    let mut whole = call.head.clone().into_bytes();
    whole.extend_from_slice(&call.body);
    loop {
        let is_old = there.is_some();
        let mut stream = match there.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(server)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER))?;
                BufReader::new(stream)
            }
        };
        let answer = stream.get_mut().write_all(&whole).and_then(|()| read(&mut stream));
        match answer {
            Ok(Some(answer)) => {
                if !answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                    *there = Some(stream);
                }
                return Ok(answer);
            }
            // Nothing came: a connection at rest that the server had closed.
            Ok(None) if is_old => {}
            Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if is_old && error.kind() != io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// `None` at the end of the connection.
fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Message>> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        if stream.read_until(b'\n', &mut head)? == 0 {
            return if head.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        if head[before..].trim_ascii().is_empty() && before > 0 {
            break;
        }
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    let mut message = Message { head, body: Vec::new() };
    if message.header("transfer-encoding").is_some() {
        return Err(io::Error::other("a body in chunks, which neither side of SQS sends"));
    }
    let length = message.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    message.body = vec![0; length];
    stream.read_exact(&mut message.body)?;
    Ok(Some(message))
}

/// What SQS itself would say.
fn refusal(fault: Fault) -> Option<String> {
    let (status, kind, code, text) = match fault {
        Fault::Unavailable => {
            return Some(
                "HTTP/1.1 503 Slow Down\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\n503\n".to_owned(),
            );
        }
        Fault::Instead(body) => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0";
            return Some(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        }
        Fault::Throttled => (
            "400 Bad Request",
            "com.amazonaws.sqs",
            "RequestThrottled",
            "The request was denied due to request throttling.",
        ),
        Fault::Expired => (
            "403 Forbidden",
            "com.amazon.coral.service",
            "ExpiredTokenException",
            "The security token included in the request is expired",
        ),
        Fault::Denied => ("400 Bad Request", "com.amazonaws.sqs", "AccessDenied", "User is not authorized to do this"),
        Fault::Cut | Fault::Slow(_) => return None,
    };
    let body = format!("{{\"__type\":\"{kind}#{code}\",\"message\":\"{text}\"}}");
    let length = body.len();
    Some(format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/x-amz-json-1.0\r\nx-amzn-query-error: {code};Sender\r\n\
         content-length: {length}\r\n\r\n{body}"
    ))
}
