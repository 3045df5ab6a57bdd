//! Sources of the kind `sqs` on real nodes, against a real server that speaks SQS.

#![allow(clippy::disallowed_methods, reason = "a test in real time")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::MessageAttributeValue;
use serde_json::{Value, json};

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/fault.rs"]
mod fault;
#[path = "support/queue.rs"]
mod queue;

use cluster::Cluster;
use cluster::daemon::Daemon;
use queue::{Kind, REGION, Server};

/// A node with a component whose handler notes what it got, and a queue server.
struct Stage {
    server: Server,
    client: Client,
    cluster: Cluster,
    log: PathBuf,
}

impl Stage {
    async fn new(test: &str, nodes: usize) -> Option<Self> {
        Self::with(Kind::Fauxqs, test, nodes).await
    }

    async fn with(kind: Kind, test: &str, nodes: usize) -> Option<Self> {
        let server = Server::start(kind)?;
        let client = queue::clients(server.address).await.calls;
        let cluster = Cluster::start(&format!("sqs-{test}"), nodes);
        let log = cluster.nodes[0].dir.join("handled.log");
        let stage = Self { server, client, cluster, log };
        stage.roll(0);
        Some(stage)
    }

    fn node(&self) -> &Daemon {
        &self.cluster.nodes[0]
    }

    /// Puts the component, or another revision of it.
    fn roll(&self, mark: u32) {
        let doc = json!({
            "command": [cluster::sample::testapp()], "concurrency": 20, "max": 6, "env": {"MARK": mark.to_string()},
        });
        self.node().put("components", "worker", &doc.to_string());
    }

    /// A source of this name, with `more` in its section; `query` for the handler.
    fn source(&self, name: &str, query: &str, more: Value) {
        self.source_at(self.server.address, name, query, more);
    }

    fn source_at(&self, address: SocketAddr, name: &str, query: &str, more: Value) {
        let path = format!("/job?log={}&{query}", self.log.display());
        // A short wait, because a node that stops waits for it.
        let mut section =
            json!({"path": path, "region": REGION, "endpoint": format!("http://{address}"), "wait": "2s"});
        section.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        self.node().put("sources", name, &json!({"component": "worker", "sqs": section}).to_string());
    }

    /// What the handler noted: `begin COUNT TEXT` and `end COUNT TEXT STATUS`.
    fn notes(&self) -> Vec<String> {
        std::fs::read_to_string(&self.log).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    async fn send(&self, url: &str, bodies: &[&str]) {
        let bodies: Vec<String> = bodies.iter().map(|&body| body.to_owned()).collect();
        let group = |body: &str| url.ends_with(".fifo").then(|| body.split(' ').next().unwrap_or_default().to_owned());
        queue::send(&self.client, url, &bodies, group).await;
    }

    async fn until_empty(&self, url: &str) {
        queue::until_empty(&self.client, url, Duration::from_secs(90)).await;
    }
}

fn count(notes: &[String], text: &str) -> usize {
    notes.iter().filter(|note| note.contains(text)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_wakes_its_component_is_told_in_headers_and_deleted_when_it_was_handled() {
    let Some(stage) = Stage::new("message", 1).await else { return };
    let (jobs, dead) = queue::create_with_dlq(&stage.client, "jobs", 2, 30).await;
    stage.source("jobs", "", json!({"queue": "jobs", "backoff": "0s"}));
    let colour = MessageAttributeValue::builder().data_type("String").string_value("green").build().expect("whole");
    let call =
        stage.client.send_message().queue_url(&jobs).message_body("headers").message_attributes("Colour", colour);
    let id = call.send().await.expect("sent").message_id.expect("an id");
    stage.send(&jobs, &["poison", "busy"]).await;
    stage.until_empty(&jobs).await;
    let notes = stage.notes();
    let head = notes.iter().find(|note| note.starts_with("end 1 headers 200")).expect("the message");
    for expected in [
        format!("maelstrom-message-id: {id}"),
        format!("idempotency-key: {id}"),
        "maelstrom-receive-count: 1".to_owned(),
        "maelstrom-queue: jobs".to_owned(),
        "maelstrom-attribute-colour: green".to_owned(),
        "maelstrom-sent-at: 20".to_owned(),
        "content-type: text/plain; charset=utf-8".to_owned(),
    ] {
        assert!(head.contains(&expected), "{expected} is not in {head}");
    }
    assert_eq!(notes.iter().filter(|note| note.ends_with("poison 500")).count(), 2, "{notes:?}");
    assert!(notes.contains(&"end 1 busy 429".to_owned()) && notes.contains(&"end 2 busy 200".to_owned()), "{notes:?}");
    assert_eq!(queue::depth(&stage.client, &dead).await, (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_make_is_read_as_well() {
    let Some(stage) = Stage::with(Kind::Moto, "moto", 1).await else { return };
    let (jobs, dead) = queue::create_with_dlq(&stage.client, "jobs", 2, 30).await;
    let (line, _) = queue::create_with_dlq(&stage.client, "line.fifo", 5, 30).await;
    stage.source("jobs", "", json!({"queue": "jobs", "backoff": "1s"}));
    stage.source("line", "", json!({"queue": "line.fifo", "backoff": "1s"}));
    stage.send(&jobs, &["one", "poison", "two"]).await;
    stage.send(&line, &["g1 1", "g1 2", "g2 3", "g1 4"]).await;
    stage.until_empty(&jobs).await;
    stage.until_empty(&line).await;
    let notes = stage.notes();
    assert_eq!((count(&notes, " 200"), count(&notes, "poison 500")), (6, 2), "{notes:?}");
    in_order(&notes);
    assert_eq!(queue::depth(&stage.client, &dead).await, (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_lambdas_form_and_only_what_it_reports_comes_back() {
    let Some(stage) = Stage::new("batch", 1).await else { return };
    let (jobs, dead) = queue::create_with_dlq(&stage.client, "jobs", 3, 30).await;
    stage.send(&jobs, &["a", "b", "poison", "c", "d"]).await;
    stage.source("jobs", "", json!({"queue": jobs, "backoff": "0s", "batch": 5, "window": "1s"}));
    stage.until_empty(&jobs).await;
    let notes = stage.notes();
    let begun: Vec<_> = notes.iter().filter(|note| note.starts_with("begin")).collect();
    for good in ["a", "b", "c", "d"] {
        assert_eq!(count(&notes, &format!("\"body\":\"{good}\"")), 2, "once begun and once ended: {notes:?}");
    }
    assert_eq!(begun.iter().filter(|note| note.contains("poison")).count(), 3, "{notes:?}");
    let last = begun.iter().rfind(|note| note.contains("poison")).expect("the last");
    assert_eq!(last.matches("\"body\"").count(), 1, "alone at last");
    assert_eq!(queue::depth(&stage.client, &dead).await, (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_goes_to_the_dead_letters_at_once_if_the_source_says_so() {
    let Some(stage) = Stage::new("refused", 1).await else { return };
    let (jobs, dead) = queue::create_with_dlq(&stage.client, "jobs", 5, 30).await;
    stage.source("jobs", "", json!({"queue": "jobs", "refused": "dead-letter"}));
    stage.send(&jobs, &["refuse", "fine"]).await;
    stage.until_empty(&jobs).await;
    assert_eq!(count(&stage.notes(), "begin 1 refuse"), 1);
    assert_eq!(queue::depth(&stage.client, &dead).await, (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_with_a_prefix_are_all_read_but_not_their_dead_letters() {
    let Some(stage) = Stage::new("prefix", 1).await else { return };
    let (first, dead) = queue::create_with_dlq(&stage.client, "job-a", 1, 30).await;
    let second = queue::create(&stage.client, "job-b", &[]).await;
    let other = queue::create(&stage.client, "other", &[]).await;
    stage.source("jobs", "", json!({"queue": "job-", "prefix": true, "concurrency": 2}));
    for queue in [&first, &second, &other] {
        stage.send(queue, &["one", "two", "three"]).await;
    }
    stage.send(&first, &["poison"]).await;
    stage.until_empty(&first).await;
    stage.until_empty(&second).await;
    assert_eq!(count(&stage.notes(), "begin"), 7);
    assert_eq!(queue::depth(&stage.client, &dead).await, (1, 0), "nobody reads it");
    assert_eq!(queue::depth(&stage.client, &other).await, (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_handled_in_order_and_a_failure_holds_back_no_other() {
    let Some(stage) = Stage::new("fifo", 1).await else { return };
    let (jobs, _) = queue::create_with_dlq(&stage.client, "jobs.fifo", 3, 30).await;
    stage.send(&jobs, &["a 1", "a 2 poison", "a 3", "b 1", "b 2", "b 3", "a 4"]).await;
    stage.source("jobs", "ms=20", json!({"queue": "jobs.fifo", "backoff": "1s"}));
    stage.until_empty(&jobs).await;
    let notes = stage.notes();
    let begun = |group: &str| -> Vec<String> {
        let start = format!(" {group} ");
        let of = notes.iter().filter(|note| note.starts_with("begin") && note.contains(&start));
        of.map(|note| note.split_once(&start).expect("its group").1.to_owned()).collect()
    };
    assert_eq!(begun("a"), ["1", "2 poison", "2 poison", "2 poison", "3", "4"]);
    assert_eq!(begun("b"), ["1", "2", "3"]);
    let at = |text: &str| notes.iter().position(|note| note.contains(text)).expect("noted");
    assert!(at("begin 1 b 3") < at("begin 3 a 2 poison"), "{notes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_gives_back_what_it_cannot_finish() {
    let Some(mut stage) = Stage::new("stop", 1).await else { return };
    let jobs = queue::create(&stage.client, "jobs", &[]).await;
    stage.source("jobs", "ms=500", json!({"queue": "jobs"}));
    stage.send(&jobs, &["slow 1", "slow 2", "slow 3"]).await;
    stage.node().until("all have begun", || count(&stage.notes(), "begin") == 3);
    stage.cluster.nodes[0].terminate();
    // Handled within the grace and deleted: nothing waits for its visibility.
    assert_eq!(queue::depth(&stage.client, &jobs).await, (0, 0));
    assert_eq!(count(&stage.notes(), "end 1 slow"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_request_keeps_its_message_and_the_source_says_how_it_fares() {
    let Some(stage) = Stage::new("long", 1).await else { return };
    let (jobs, _) = queue::create_with_dlq(&stage.client, "jobs", 5, 10).await;
    // Its lease of ten seconds would end twice in the time that it takes.
    stage.source("jobs", "ms=1600", json!({"queue": "jobs", "visibility": "10s"}));
    stage.send(&jobs, &["slow"]).await;
    stage.until_empty(&jobs).await;
    let notes = stage.notes();
    assert_eq!(notes, ["begin 1 slow", "end 1 slow 200"]);
    let shown = |what: &str| stage.node().look("/v1/sources/jobs")["pollers"][0][what].clone();
    stage.node().until("it is shown", || shown("deleted") == 1);
    assert!(shown("extended").as_u64() >= Some(1), "{}", stage.node().look("/v1/sources/jobs"));
    assert_eq!((shown("received"), shown("lease_lost"), shown("in_flight")), (json!(1), json!(0), json!(0)));
    assert_eq!((shown("queue"), shown("node")), (json!("jobs"), json!("n0")));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_fail_break_off_or_are_late_lose_nothing() {
    let Some(stage) = Stage::new("faults", 1).await else { return };
    let (jobs, dead) = queue::create_with_dlq(&stage.client, "jobs", 20, 10).await;
    let (line, _) = queue::create_with_dlq(&stage.client, "line.fifo", 20, 10).await;
    let proxy = fault::Proxy::start(stage.server.address);
    let more = json!({"visibility": "10s", "backoff": "1s", "concurrency": 20});
    let with = |queue: &str| {
        let mut more = more.clone();
        more["queue"] = json!(queue);
        more
    };
    stage.source_at(proxy.address, "jobs", "ms=20", with("jobs"));
    stage.source_at(proxy.address, "line", "ms=20", with("line.fifo"));
    let plain: Vec<String> = (0..200).map(|n| format!("p {n}")).collect();
    let groups: Vec<String> = (0..60).map(|n| format!("g{} {n}", n % 6)).collect();
    proxy.set(fault::Fault::Cut, &["ReceiveMessage", "DeleteMessageBatch"], 200);
    proxy.set(fault::Fault::Unavailable, &[], 200);
    proxy.set(fault::Fault::Throttled, &[], 100);
    proxy.set(fault::Fault::Slow(Duration::from_millis(300)), &[], 100);
    queue::send(&stage.client, &jobs, &plain, |_| None).await;
    queue::send(&stage.client, &line, &groups, |body| body.split(' ').next().map(str::to_owned)).await;
    stage.node().until("some are handled", || count(&stage.notes(), "end") > 40);
    proxy.heal();
    // And a storm in which nothing works.
    proxy.set(fault::Fault::Unavailable, &[], 1000);
    let before = proxy.counts().values().map(|count| count.faults).sum::<u64>();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let storm = proxy.counts().values().map(|count| count.faults).sum::<u64>() - before;
    // What has to be mended by somebody is said, with what to do.
    proxy.heal();
    proxy.set(fault::Fault::Expired, &[], 1000);
    let problem = || stage.node().look("/v1/sources/jobs")["problem"].as_str().unwrap_or_default().to_owned();
    stage.node().until("it says that its credentials have expired", || problem().contains("credentials"));
    proxy.heal();
    stage.until_empty(&jobs).await;
    stage.until_empty(&line).await;
    stage.node().until("all is well again", || problem().is_empty());
    let notes = stage.notes();
    for text in plain.iter().chain(&groups) {
        assert!(count(&notes, &format!(" {text} 200")) > 0, "{text} is lost");
    }
    in_order(&notes);
    assert_eq!(queue::depth(&stage.client, &dead).await, (0, 0));
    println!(
        "{} requests for 260 messages; {storm} calls in a storm of 3 s; {:?}",
        count(&notes, "begin"),
        proxy.counts()
    );
    assert!(storm < 200, "the service is not left alone: {storm} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_queue_costs_one_long_poll_in_the_cluster_and_a_busy_one_few_calls() {
    let Some(stage) = Stage::new("calls", 3).await else { return };
    let jobs = queue::create(&stage.client, "jobs", &[]).await;
    let proxy = fault::Proxy::start(stage.server.address);
    stage.source_at(proxy.address, "jobs", "", json!({"queue": "jobs", "concurrency": 50, "wait": "20s"}));
    stage.send(&jobs, &["first"]).await;
    stage.until_empty(&jobs).await;
    let bodies: Vec<String> = (0..2000).map(|n| format!("p {n}")).collect();
    queue::send(&stage.client, &jobs, &bodies, |_| None).await;
    stage.until_empty(&jobs).await;
    let counts = proxy.counts();
    let calls: u64 = counts.values().map(|count| count.calls).sum();
    println!("{:.3} calls a message: {counts:?}", calls as f64 / 2001.0);
    // Two calls for ten messages are the floor.
    assert!(calls < 2001 * 30 / 100, "{calls}: {counts:?}");
    // What was asked before may end within the time of a poll.
    tokio::time::sleep(Duration::from_secs(21)).await;
    let before = proxy.count("ReceiveMessage").calls;
    tokio::time::sleep(Duration::from_secs(21)).await;
    let after = proxy.count("ReceiveMessage").calls;
    assert!((1..=2).contains(&(after - before)), "{} receives in 21 s", after - before);
}

/// What the big test counts.
#[derive(Debug, Default)]
struct Counts {
    handled: usize,
    requests: usize,
    failures: usize,
    handled_twice: usize,
    begun_and_cut: usize,
    dead: u64,
    poison: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_a_node_dies_another_drains_and_the_component_is_rolled() {
    let total: usize = std::env::var("SQS_MESSAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(1_500);
    let Some(mut stage) = Stage::new("big", 3).await else { return };
    let (jobs, jobs_dead) = queue::create_with_dlq(&stage.client, "big", 5, 30).await;
    let (line, line_dead) = queue::create_with_dlq(&stage.client, "line.fifo", 5, 30).await;
    let poison = |n: usize| if n % 499 == 7 { " poison" } else { "" };
    let ordered = total / 5;
    let plain: Vec<String> = (0..total - ordered).map(|n| format!("p {n}{}", poison(n))).collect();
    let groups: Vec<String> = (0..ordered).map(|n| format!("g{} {n}{}", n % 40, poison(n))).collect();
    let group = |body: &str| body.split(' ').next().map(str::to_owned);
    queue::send(&stage.client, &jobs, &plain, |_| None).await;
    queue::send(&stage.client, &line, &groups, group).await;
    let begin = std::time::Instant::now();
    stage.source("big", "ms=50&fail=2", json!({"queue": "big", "concurrency": 40, "backoff": "1s"}));
    stage.source("line", "ms=50&fail=2", json!({"queue": "line.fifo", "concurrency": 20, "backoff": "1s"}));
    let done = |stage: &Stage, share: usize| count(&stage.notes(), "end ") * 100 > total * share;
    let patience = Duration::from_secs(120 + total as u64 / 20);
    let wait = |stage: &Stage, share: usize| {
        let until = std::time::Instant::now() + patience;
        while !done(stage, share) {
            assert!(std::time::Instant::now() < until, "{share} % are not handled: {}", stage.cluster.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    // Node 2 dies, the component is rolled, the node comes back, node 1 is drained.
    wait(&stage, 15);
    let killed = stage.cluster.kill_9(2);
    wait(&stage, 35);
    stage.roll(1);
    wait(&stage, 50);
    stage.cluster.start_again(2, killed);
    wait(&stage, 60);
    let drained = stage.node().api("POST", "/v1/nodes/n1/drain", "{}");
    assert!(drained.0 < 300, "{drained:?}");
    for url in [&jobs, &line] {
        queue::until_empty(&stage.client, url, patience).await;
    }
    let took = begin.elapsed();

    let notes = stage.notes();
    let mut counts = Counts::default();
    let mut begun: BTreeMap<&str, usize> = BTreeMap::new();
    let mut good: BTreeMap<&str, usize> = BTreeMap::new();
    for note in &notes {
        let Some((kind, rest)) = note.split_once(' ') else { continue };
        let Some((_, text)) = rest.split_once(' ') else { continue };
        match kind {
            "begin" => {
                counts.requests += 1;
                *begun.entry(text).or_default() += 1;
            }
            _ => {
                let (text, status) = text.rsplit_once(' ').expect("a status");
                match status {
                    "200" => *good.entry(text).or_default() += 1,
                    _ => counts.failures += 1,
                }
            }
        }
    }
    counts.handled = good.len();
    counts.handled_twice = good.values().map(|times| times - 1).sum();
    counts.begun_and_cut = counts.requests - counts.failures - good.values().sum::<usize>();
    counts.poison = plain.iter().chain(&groups).filter(|text| text.ends_with("poison")).count();
    counts.dead = queue::depth(&stage.client, &jobs_dead).await.0 + queue::depth(&stage.client, &line_dead).await.0;
    println!("{total} messages in {took:?}: {counts:?}");

    let missing: Vec<_> = plain.iter().chain(&groups).filter(|text| !begun.contains_key(text.as_str())).collect();
    assert!(missing.is_empty(), "never handed to a handler: {missing:?}");
    let is_good = |text: &&String| text.ends_with("poison") || good.contains_key(text.as_str());
    let lost: Vec<_> = plain.iter().chain(&groups).filter(|text| !is_good(text)).collect();
    assert!(lost.is_empty(), "never handled: {lost:?}");
    let dead = [dead_letters(&stage.client, &jobs_dead).await, dead_letters(&stage.client, &line_dead).await].concat();
    let healthy: Vec<_> = dead.iter().filter(|text| !text.ends_with("poison")).collect();
    assert!(healthy.is_empty(), "dead and not poison: {healthy:?}");
    assert_eq!(dead.len(), counts.poison, "all poison is among the dead");
    // A message is handled again only if its node was killed, or its instance.
    let most = 40 + 20;
    assert!(counts.handled_twice <= most, "more than a killed node can have had: {counts:?}");
    in_order(&notes);
}

/// In each group, whatever begins is the first that is not handled: a repetition comes before everything later.
fn in_order(notes: &[String]) {
    let mut last: BTreeMap<String, usize> = BTreeMap::new();
    for note in notes.iter().filter(|note| note.starts_with("begin")) {
        let words: Vec<&str> = note.split(' ').collect();
        if let [_, _, group, number, ..] = words[..]
            && group.starts_with('g')
        {
            let number: usize = number.parse().expect("a number");
            let before = last.entry(group.to_owned()).or_default();
            assert!(number >= *before, "{group}: {number} began after {before}");
            *before = number;
        }
    }
}

/// The texts of all messages of a queue; deletes them.
async fn dead_letters(client: &Client, url: &str) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        let call = client.receive_message().queue_url(url).max_number_of_messages(10).wait_time_seconds(0);
        let messages = call.send().await.expect("received").messages.unwrap_or_default();
        if messages.is_empty() {
            return texts;
        }
        for message in messages {
            texts.push(message.body.clone().unwrap_or_default());
            let receipt = message.receipt_handle.unwrap_or_default();
            client.delete_message().queue_url(url).receipt_handle(receipt).send().await.expect("deleted");
        }
    }
}
