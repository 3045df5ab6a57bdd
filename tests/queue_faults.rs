//! A queue source while SQS misbehaves, with exact counts: what was handed over how often, what was deleted, and that
//! nothing is lost. The server is real, the faults are those of the proxy before it.

#![allow(clippy::disallowed_methods, reason = "a test in real time")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_sqs::Client;
use serde_json::{Value, json};

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/fault.rs"]
mod fault;
#[path = "support/queue.rs"]
mod queue;
#[path = "support/sample.rs"]
mod sample;

use daemon::Daemon;
use fault::{Fault, Proxy};
use queue::{Kind, Server};

/// The shortest that a source takes, in seconds: what is lost comes back soon.
const VISIBILITY: &str = "10s";

/// One node that reads a queue through the proxy.
struct Stage {
    _server: Server,
    proxy: Proxy,
    client: Client,
    node: Daemon,
    log: PathBuf,
}

impl Stage {
    async fn new() -> Option<Self> {
        let server = Server::start(Kind::Fauxqs)?;
        let client = queue::clients(server.address).await.calls;
        let proxy = Proxy::start(server.address);
        let node = Daemon::start("process");
        let worker = json!({"command": [sample::testapp()], "concurrency": 50});
        node.put("components", "worker", &worker.to_string());
        let log = node.dir.join("handled.log");
        Some(Self { _server: server, proxy, client, node, log })
    }

    fn read(&self, queue: &str) {
        let section = json!({
            "queue": queue, "path": format!("/job?log={}&ms=5", self.log.display()), "visibility": VISIBILITY,
            "backoff": "1s", "region": queue::REGION, "endpoint": format!("http://{}", self.proxy.address),
        });
        self.node.put("sources", "jobs", &json!({"component": "worker", "sqs": section}).to_string());
    }

    async fn send(&self, url: &str, bodies: &[String]) {
        let group = |body: &str| url.ends_with(".fifo").then(|| body.split('-').next().unwrap_or_default().to_owned());
        queue::send(&self.client, url, bodies, group).await;
    }

    /// How often each message was handed over, by its text; and the receive counts that came with it.
    fn handed(&self) -> BTreeMap<String, Vec<u32>> {
        let mut handed = BTreeMap::<String, Vec<u32>>::new();
        for line in std::fs::read_to_string(&self.log).unwrap_or_default().lines() {
            if let Some((count, text)) = line.strip_prefix("begin ").and_then(|rest| rest.split_once(' ')) {
                handed.entry(text.to_owned()).or_default().push(count.parse().expect("a count"));
            }
        }
        handed
    }

    /// In the order in which they were handed over.
    fn order(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let begun = log.lines().filter_map(|line| line.strip_prefix("begin ")?.split_once(' '));
        begun.map(|(_, text)| text.to_owned()).collect()
    }

    async fn until_empty(&self, url: &str) {
        queue::until_empty(&self.client, url, daemon::PATIENCE).await;
    }

    async fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let end = std::time::Instant::now() + daemon::PATIENCE;
        while !done() {
            assert!(std::time::Instant::now() < end, "{what}: {:?}\n{}", self.proxy.counts(), self.node.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What the source says of itself.
    fn poller(&self) -> Value {
        self.node.look("/v1/sources/jobs")["pollers"][0].clone()
    }

    /// Messages of deletes that were done.
    fn deleted(&self) -> u64 {
        self.proxy.count("DeleteMessage").entries + self.proxy.count("DeleteMessageBatch").entries
    }
}

fn texts(count: u32) -> Vec<String> {
    (0..count).map(|number| format!("m-{number:03}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_an_answer_that_broke_off_come_back_and_are_handled_once() {
    let Some(stage) = Stage::new().await else { return };
    let (jobs, dead) = queue::create_with_dlq(&stage.client, "jobs", 5, 30).await;
    let bodies = texts(40);
    stage.send(&jobs, &bodies).await;
    stage.proxy.set(Fault::Cut, &["ReceiveMessage"], 1000);
    stage.read("jobs");
    stage.until("answers broke off", || stage.proxy.count("ReceiveMessage").lost >= 10).await;
    stage.proxy.heal();
    stage.until_empty(&jobs).await;
    let (handed, lost) = (stage.handed(), stage.proxy.count("ReceiveMessage").lost);
    assert_eq!(handed.keys().collect::<Vec<_>>(), bodies.iter().collect::<Vec<_>>(), "none is lost");
    let again = handed.values().filter(|counts| counts[..] != [1]).count() as u64;
    assert!(handed.values().all(|counts| counts.len() == 1), "each is handed over once: {handed:?}");
    // A message may have been lost more than once, so there may be fewer of them than losses.
    assert!((1..=lost).contains(&again), "{again} came back of {lost} that were lost: {handed:?}");
    let receives: u32 = handed.values().flatten().sum();
    assert_eq!(u64::from(receives), 40 + lost, "each loss is one more receive, and there are no others");
    assert_eq!((stage.deleted(), queue::depth(&stage.client, &dead).await), (40, (0, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receive_of_a_fifo_queue_whose_answer_was_lost_is_asked_again_by_its_name_and_order_holds() {
    let Some(stage) = Stage::new().await else { return };
    let (line, _) = queue::create_with_dlq(&stage.client, "line.fifo", 9, 30).await;
    let bodies: Vec<String> = (0..30).map(|number| format!("g{}-{number:03}", number % 3)).collect();
    stage.proxy.set(Fault::Cut, &["ReceiveMessage"], 1000);
    stage.read("line.fifo");
    stage.send(&line, &bodies).await;
    stage.until("an answer with messages broke off", || stage.proxy.count("ReceiveMessage").lost > 0).await;
    stage.proxy.heal();
    stage.until_empty(&line).await;
    let names: Vec<String> = stage
        .proxy
        .calls_of("ReceiveMessage")
        .iter()
        .filter_map(|body| {
            serde_json::from_str::<Value>(body).ok()?["ReceiveRequestAttemptId"].as_str().map(str::to_owned)
        })
        .collect();
    assert!(names.windows(2).any(|pair| pair[0] == pair[1]), "no receive was repeated: {names:?}");
    let order = stage.order();
    assert_eq!(order.len(), 30, "each once: {order:?}");
    for group in ["g0", "g1", "g2"] {
        let of: Vec<_> = order.iter().filter(|text| text.starts_with(group)).collect();
        assert!(of.len() == 10 && of.is_sorted(), "{of:?}");
    }
    assert_eq!(stage.deleted(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_delete_works_messages_stay_ours_and_are_not_handled_again() {
    for fault in [Fault::Unavailable, Fault::Throttled] {
        let Some(stage) = Stage::new().await else { return };
        let (jobs, dead) = queue::create_with_dlq(&stage.client, "jobs", 5, 30).await;
        stage.proxy.set(fault, &["DeleteMessage", "DeleteMessageBatch"], 1000);
        stage.send(&jobs, &texts(10)).await;
        stage.read("jobs");
        stage.until("all are handled", || stage.handed().len() == 10).await;
        // Longer than a lease: it has to be extended meanwhile.
        tokio::time::sleep(Duration::from_secs(12)).await;
        assert_eq!(queue::depth(&stage.client, &jobs).await, (0, 10), "{fault:?}: they are handled, and still ours");
        stage.proxy.heal();
        stage.until_empty(&jobs).await;
        let handed = stage.handed();
        assert!(handed.values().all(|counts| counts[..] == [1]), "{fault:?}: {handed:?}");
        assert_eq!((stage.deleted(), queue::depth(&stage.client, &dead).await), (10, (0, 0)), "{fault:?}");
        stage.until("it is told", || stage.poller()["deleted"] == 10).await;
        assert_eq!(stage.poller()["lease_lost"], 0, "{fault:?}: {}", stage.poller());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_refusals_costs_few_calls_and_nothing_else() {
    for fault in [Fault::Unavailable, Fault::Throttled, Fault::Expired] {
        let Some(stage) = Stage::new().await else { return };
        let (jobs, dead) = queue::create_with_dlq(&stage.client, "jobs", 5, 30).await;
        stage.send(&jobs, &texts(50)).await;
        stage.proxy.set(fault, &["ReceiveMessage"], 1000);
        stage.read("jobs");
        stage.until("it tries and tries", || stage.proxy.count("ReceiveMessage").faults >= 4).await;
        let problem = stage.poller()["problem"].as_str().unwrap_or_default().to_owned();
        assert!(!problem.is_empty(), "{fault:?}: people are told: {}", stage.poller());
        if fault == Fault::Expired {
            assert!(problem.contains("expired") && problem.contains("renew the credentials"), "{problem}");
        }
        stage.proxy.heal();
        stage.until_empty(&jobs).await;
        let handed = stage.handed();
        assert!(handed.len() == 50 && handed.values().all(|counts| counts[..] == [1]), "{fault:?}: {handed:?}");
        assert_eq!((stage.deleted(), queue::depth(&stage.client, &dead).await), (50, (0, 0)), "{fault:?}");
        stage.until("it is well again", || stage.poller()["problem"].is_null()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_answers_are_waited_for_and_nothing_is_done_twice() {
    let Some(stage) = Stage::new().await else { return };
    let (jobs, dead) = queue::create_with_dlq(&stage.client, "jobs", 5, 30).await;
    stage.send(&jobs, &texts(30)).await;
    // Below the deadline of a call, and a third of a lease.
    stage.proxy.set(Fault::Slow(Duration::from_secs(3)), &[], 1000);
    stage.read("jobs");
    // The queue is empty before its answers to the deletes have come.
    stage.until("all deletes are answered", || stage.deleted() >= 30).await;
    stage.until_empty(&jobs).await;
    let handed = stage.handed();
    assert!(handed.len() == 30 && handed.values().all(|counts| counts[..] == [1]), "{handed:?}");
    assert_eq!((stage.deleted(), queue::depth(&stage.client, &dead).await), (30, (0, 0)));
}
