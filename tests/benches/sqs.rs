//! What our queue source costs beside the plainest consumer that works: a loop that receives ten, hands each to the
//! component by a POST, and deletes ten. Same SDK, server, component process and concurrency, rounds in turn. And what an
//! idle queue costs in a cluster. Run by `./scripts/bench sqs [--messages N] [--rounds N] [--concurrency N] [--work MS]`.
//!
//! All calls pass the proxy of the fault tests, which counts them.

#![expect(clippy::print_stdout, reason = "a benchmark reports to the terminal")]
#![expect(clippy::disallowed_methods, reason = "a benchmark waits on the real clock, with tasks of its own")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use maelstrom::source::sqs::client::Clients;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[path = "../support/backend.rs"]
mod backend;
#[path = "../support/bench.rs"]
mod bench;
#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/fault.rs"]
mod fault;
#[path = "../support/queue.rs"]
mod queue;

use bench::{Lines, cpu_seconds, median, number};
use cluster::Cluster;
use fault::Proxy;
use queue::{Kind, Server};

/// Enough for a round of some seconds.
const MESSAGES: u64 = 3_000;
const ROUNDS: u64 = 5;
/// Messages at the component at once, of both.
const CONCURRENCY: u64 = 20;
/// What a message takes in the component, in milliseconds: a small database query.
const WORK: u64 = 5;
/// Messages of one receive, and of one delete.
const TEN: i32 = 10;
/// How long an idle queue is watched: three long polls.
const IDLE: Duration = Duration::from_secs(60);
/// How long a round may take.
const LONGEST: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--backend") {
        return backend::run().unwrap_or(ExitCode::FAILURE);
    }
    let option = |name, default| number(&arguments, name, default).expect("a number");
    let setup = Setup {
        messages: option("--messages", MESSAGES),
        concurrency: option("--concurrency", CONCURRENCY),
        work: option("--work", WORK),
    };
    let rounds = option("--rounds", ROUNDS);
    let Some(server) = Server::start(Kind::Fauxqs) else { return ExitCode::FAILURE };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut lines = Lines::default();
    runtime.block_on(async {
        rate(&setup, rounds, &server, &mut lines).await;
        idle(&server, &mut lines).await;
    });
    lines.print();
    ExitCode::SUCCESS
}

struct Setup {
    messages: u64,
    concurrency: u64,
    work: u64,
}

impl Setup {
    /// Of the request for a message.
    fn path(&self) -> String {
        format!("/once?id=1&ms={}", self.work)
    }
}

/// What one round of one consumer came to.
struct Round {
    rate: f64,
    calls: f64,
    /// Processor time of the node for a message; none of a loop in this process.
    cpu_us: Option<f64>,
}

async fn rate(setup: &Setup, rounds: u64, server: &Server, lines: &mut Lines) {
    let cluster = Cluster::start_with("sqs-rate", 1, &["--log", "info"]);
    let node = &cluster.nodes[0];
    put_component(&cluster);
    node.put("sources", "web", &json!({"component": "worker", "http": {"host": "w.localhost"}}).to_string());
    node.until("the component answers", || node.get("w.localhost") == 200);
    let address = node.instances()[0]["address"].as_str().expect("an address").parse().expect("an address");
    let proxy = Proxy::start(server.address);
    let straight = queue::clients(server.address).await.calls;
    let through = queue::clients(proxy.address).await;

    println!("{:<7} {:>12} {:>14} {:>14} {:>12}", "round", "consumer", "messages/s", "calls/message", "node us/msg");
    let (mut plain, mut ours) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        // The first round of both warms up and is not counted. Then who begins changes.
        let order = if round % 2 == 0 { ["plain", "ours"] } else { ["ours", "plain"] };
        for who in order {
            let name = format!("{who}-{round}");
            let url = queue::create(&straight, &name, &[]).await;
            let bodies: Vec<String> = (0..setup.messages).map(|number| format!("message {number}")).collect();
            queue::send(&straight, &url, &bodies, |_| None).await;
            proxy.forget();
            let done = if who == "plain" {
                let stop = Arc::new(AtomicBool::new(false));
                let loops = (0..setup.concurrency.div_ceil(10)).map(|_| {
                    tokio::spawn(consume(through.clone(), url.clone(), address, setup.path(), Arc::clone(&stop)))
                });
                let loops: Vec<_> = loops.collect();
                let done = finished(setup, &proxy, || None).await;
                stop.store(true, Ordering::Relaxed);
                // What waits for more at the server waits there for nothing.
                loops.iter().for_each(tokio::task::JoinHandle::abort);
                done
            } else {
                let source = json!({"component": "worker", "sqs": {
                    "queue": name, "path": setup.path(), "concurrency": setup.concurrency,
                    "region": queue::REGION, "endpoint": format!("http://{}", proxy.address),
                }});
                let cpu = cpu_seconds(node.pid());
                node.put("sources", "queue", &source.to_string());
                let done = finished(setup, &proxy, || Some(cpu_seconds(node.pid()) - cpu)).await;
                let (status, _) = node.api("DELETE", "/v1/sources/queue", "");
                assert_eq!(status, 200);
                done
            };
            let counts = proxy.counts();
            let cpu = done.cpu_us.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.0}"));
            println!("{round:<7} {who:>12} {:>14.0} {:>14.3} {cpu:>12}", done.rate, done.calls);
            if round == rounds {
                for (action, count) in &counts {
                    println!("{:20}{action}: {} calls, {} messages", "", count.calls, count.messages + count.entries);
                }
            }
            if round > 0 {
                if who == "plain" { plain.push(done) } else { ours.push(done) }
            }
            // An answer that is on its way belongs to this round.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    let of = |rounds: &[Round], value: fn(&Round) -> f64| median(rounds.iter().map(value));
    let ratio = |value: fn(&Round) -> f64| of(&ours, value) / of(&plain, value);
    lines.put("sqs.rate_plain_loop", of(&plain, |round| round.rate), 0);
    lines.put("sqs.rate_ours", of(&ours, |round| round.rate), 0);
    lines.put("sqs.calls_per_message_plain_loop", of(&plain, |round| round.calls), 3);
    lines.put("sqs.calls_per_message_ours", of(&ours, |round| round.calls), 3);
    lines.put("sqs.node_cpu_us_per_message", of(&ours, |round| round.cpu_us.unwrap_or(f64::NAN)), 0);
    lines.put("sqs.rate_ratio_vs_plain_loop", ratio(|round| round.rate), 3);
    // Above 1 is fewer calls than the plain loop.
    lines.put("sqs.calls_ratio_vs_plain_loop", 1.0 / ratio(|round| round.calls), 3);
}

fn put_component(cluster: &Cluster) {
    let this = std::env::current_exe().expect("a path").display().to_string();
    let component = json!({
        "command": [this, "--backend"], "concurrency": 1000, "instances": {"min": 1, "max": 1},
    });
    cluster.nodes[0].put("components", "worker", &component.to_string());
}

/// Waits until all messages are deleted. The rate is that from the first receive that brought some to the last delete.
async fn finished(setup: &Setup, proxy: &Proxy, cpu: impl Fn() -> Option<f64>) -> Round {
    let end = Instant::now() + LONGEST;
    loop {
        let deleted = proxy.count("DeleteMessage").entries + proxy.count("DeleteMessageBatch").entries;
        if deleted >= setup.messages {
            let (began, now, calls) = (proxy.began().expect("messages"), Instant::now(), proxy.calls());
            let messages = setup.messages as f64;
            let rate = messages / now.duration_since(began).as_secs_f64();
            return Round { rate, calls: calls as f64 / messages, cpu_us: cpu().map(|cpu| cpu * 1e6 / messages) };
        }
        assert!(Instant::now() < end, "{deleted} of {} after {LONGEST:?}: {:?}", setup.messages, proxy.counts());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The plain loop. No lease is extended, a failure waits for its visibility, nobody else is thought of.
async fn consume(clients: Clients, url: String, component: SocketAddr, path: String, stop: Arc<AtomicBool>) {
    let mut connections = Vec::new();
    for _ in 0..TEN {
        let stream = TcpStream::connect(component).await.expect("the component accepts");
        stream.set_nodelay(true).expect("a socket");
        connections.push(stream);
    }
    while !stop.load(Ordering::Relaxed) {
        let receive = clients.polls.receive_message().queue_url(&url).max_number_of_messages(TEN).wait_time_seconds(20);
        let got = receive.send().await.expect("received").messages.unwrap_or_default();
        let handled = connections.iter_mut().zip(&got).map(async |(stream, message)| {
            post(stream, &path, message.body().unwrap_or_default())
                .await
                .then(|| message.receipt_handle().map(str::to_owned))
        });
        let handled = futures_util::future::join_all(handled).await;
        let mut delete = clients.calls.delete_message_batch().queue_url(&url);
        for (index, handle) in handled.into_iter().flatten().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string()).set_receipt_handle(handle);
            delete = delete.entries(entry.build().expect("an entry"));
        }
        if !got.is_empty() {
            delete.send().await.expect("deleted");
        }
    }
}

/// Whether the component answered 200.
async fn post(stream: &mut TcpStream, path: &str, body: &str) -> bool {
    let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("sent");
    let (mut answer, mut part) = (Vec::new(), [0; 1024]);
    loop {
        let count = stream.read(&mut part).await.expect("an answer");
        assert!(count > 0, "the component closed");
        answer.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        if length.and_then(|length| length.parse().ok()).is_some_and(|length: usize| body.len() >= length) {
            return head.starts_with("HTTP/1.1 200");
        }
    }
}

/// What one queue without messages costs while three nodes stand ready to read it.
async fn idle(server: &Server, lines: &mut Lines) {
    let cluster = Cluster::start_with("sqs-idle", 3, &["--log", "info"]);
    put_component(&cluster);
    let proxy = Proxy::start(server.address);
    let straight = queue::clients(server.address).await.calls;
    queue::create(&straight, "idle", &[]).await;
    let source = json!({"component": "worker", "sqs": {
        "queue": "idle", "path": "/", "region": queue::REGION, "endpoint": format!("http://{}", proxy.address),
    }});
    cluster.nodes[0].put("sources", "idle", &source.to_string());
    cluster.until("somebody polls", || proxy.count("ReceiveMessage").calls > 0);
    // The first poll and what comes with it is no part of being idle.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = proxy.counts();
    println!("\nwatching an idle queue for {IDLE:?}");
    tokio::time::sleep(IDLE).await;
    for (action, count) in proxy.counts() {
        let was = before.get(&action).map_or(0, |count| count.calls);
        println!("{action}: {} calls", count.calls - was);
    }
    let receives = proxy.count("ReceiveMessage").calls - before.get("ReceiveMessage").map_or(0, |count| count.calls);
    let all = proxy.calls() - before.values().map(|count| count.calls).sum::<u64>();
    lines.put("sqs.idle_polls_cluster", receives as f64, 0);
    lines.put("sqs.idle_calls_cluster", all as f64, 0);
}
