//! `maelctl queue` against a real daemon and a server that speaks SQS: what is shown, what is moved, what is deleted, and
//! what people are told when the service cannot be asked.

#![allow(clippy::disallowed_methods, reason = "tests wait in real time")]

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use aws_sdk_sqs::types::{MessageAttributeValue, MessageSystemAttributeName as Said};
use serde_json::Value;

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/fault.rs"]
mod fault;
#[path = "support/queue.rs"]
mod queue;

use daemon::Daemon;
use fault::{Fault, Proxy};
use queue::{Kind, Server};

/// Exit code, stdout, stderr.
type Outcome = (i32, String, String);

fn maelctl(daemon: &Daemon, words: &[&str]) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_maelctl"))
        .args(["--node", &format!("http://{}", daemon.api)])
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn json(outcome: Outcome) -> Value {
    let (code, out, error) = outcome;
    assert_eq!(code, 0, "{error}");
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}"))
}

/// A node with a source that is switched off: it is looked at, and nothing is read from it.
fn node_with(source: &str, queue: &str, endpoint: &str) -> Daemon {
    let daemon = Daemon::start("process");
    daemon.put("components", "worker", r#"{"command": ["true"]}"#);
    put_source(&daemon, source, queue, endpoint);
    daemon
}

fn put_source(daemon: &Daemon, source: &str, queue: &str, endpoint: &str) -> String {
    let words = ["es", "put", source, "--component", "worker", "--sqs", queue, "--path", "/", "--endpoint", endpoint];
    let (code, _, said) = maelctl(daemon, &[&words[..], &["--disabled"]].concat());
    assert_eq!(code, 0, "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_listed_with_their_depth_and_that_of_their_dead_letters() {
    for kind in [Kind::Fauxqs, Kind::Moto] {
        let Some(server) = Server::start(kind) else { return };
        let client = queue::clients(server.address).await.calls;
        let (jobs, dead) = queue::create_with_dlq(&client, "jobs", 3, 30).await;
        queue::create(&client, "plain-one", &[]).await;
        queue::create(&client, "plain-two", &[]).await;
        queue::send(&client, &jobs, &["a", "b", "c"].map(str::to_owned), |_| None).await;
        queue::send(&client, &dead, &["d".to_owned()], |_| None).await;
        client.receive_message().queue_url(&jobs).send().await.expect("received");

        let daemon = node_with("jobs", "jobs", &server.endpoint());
        let url = put_source(&daemon, "by-url", &jobs, &server.endpoint());
        assert!(!url.contains("warning"), "{url}");
        let endpoint = server.endpoint();
        let prefix = ["es", "put", "plain", "--component", "worker", "--sqs", "plain-", "--prefix", "--path", "/"];
        let (code, _, said) = maelctl(&daemon, &[&prefix[..], &["--endpoint", &endpoint, "--disabled"]].concat());
        assert!(code == 0 && said.matches("no redrive policy").count() == 2, "{said}");

        let list = json(maelctl(&daemon, &["queue", "ls", "-o", "json"]));
        let items = list["items"].as_array().expect("items");
        let names: Vec<_> = items.iter().map(|item| (item["name"].as_str(), item["source"].as_str())).collect();
        let all = [("jobs", "by-url"), ("jobs", "jobs"), ("plain-one", "plain"), ("plain-two", "plain")];
        assert_eq!(names, all.map(|(name, source)| (Some(name), Some(source))), "{kind:?}");
        for item in &items[..2] {
            assert_eq!((&item["messages"], &item["in_flight"]), (&2.into(), &1.into()), "{item}");
            assert_eq!((&item["dlq"], &item["dlq_messages"]), (&"jobs-dead".into(), &1.into()), "{item}");
            assert_eq!(item["max_receives"], 3, "{item}");
        }
        assert_eq!((&items[2]["dlq"], &items[2]["messages"]), (&Value::Null, &0.into()));
        let (_, table, _) = maelctl(&daemon, &["queue", "ls"]);
        assert!(table.starts_with("QUEUE") && table.contains("jobs-dead"), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_leaves_messages_where_they_are_and_says_what_it_costs() {
    for kind in [Kind::Fauxqs, Kind::Moto] {
        let Some(server) = Server::start(kind) else { return };
        let client = queue::clients(server.address).await.calls;
        let (jobs, dead) = queue::create_with_dlq(&client, "jobs", 5, 300).await;
        let bodies: Vec<String> = (0..25).map(|number| format!("body {number}")).collect();
        queue::send(&client, &jobs, &bodies, |_| None).await;
        queue::send(&client, &dead, &["died".to_owned()], |_| None).await;
        let daemon = node_with("jobs", "jobs", &server.endpoint());

        let outcome = maelctl(&daemon, &["queue", "peek", "jobs", "-n", "20", "-o", "json"]);
        assert!(outcome.2.contains("received once more") && outcome.2.contains("after 5"), "{}", outcome.2);
        let shown = json(outcome);
        let messages = shown["messages"].as_array().expect("messages");
        let seen: BTreeSet<_> = messages.iter().filter_map(|message| message["body"].as_str()).collect();
        assert_eq!((messages.len(), seen.len()), (20, 20), "each once");
        assert!(messages.iter().all(|message| message["receives"] == 1 && message["sent_at"].is_string()), "{shown}");
        assert_eq!(queue::depth(&client, &jobs).await, (25, 0), "all are visible again");

        let (code, table, note) = maelctl(&daemon, &["queue", "peek", "jobs", "--dlq"]);
        assert!(code == 0 && table.contains("died") && note.is_empty(), "{table}{note}");
        assert_eq!(queue::depth(&client, &dead).await, (1, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_go_back_in_order_with_their_attributes_and_none_is_lost() {
    for kind in [Kind::Fauxqs, Kind::Moto] {
        let Some(server) = Server::start(kind) else { return };
        let client = queue::clients(server.address).await.calls;
        let (orders, dead) = queue::create_with_dlq(&client, "orders.fifo", 1, 1).await;
        let text = MessageAttributeValue::builder().data_type("String").string_value("eu").build().expect("a value");
        for number in 0..23 {
            let send = client.send_message().queue_url(&dead).message_body(format!("{number:02}"));
            let send = send.message_group_id(format!("g{}", number % 2)).message_deduplication_id(number.to_string());
            send.message_attributes("zone", text.clone()).send().await.expect("sent");
        }
        let daemon = node_with("orders", "orders.fifo", &server.endpoint());
        let (code, _, refusal) = maelctl(&daemon, &["queue", "redrive", "orders.fifo"]);
        assert!(code == 2 && refusal.contains("--yes"), "without a terminal nothing is done: {refusal}");
        let (code, out, error) = maelctl(&daemon, &["queue", "redrive", "orders.fifo", "--max", "3", "--yes"]);
        assert!(code == 0 && out.contains("3 messages moved from orders-dead.fifo"), "{kind:?}: {out}{error}");
        assert_eq!(queue::depth(&client, &dead).await, (20, 0));
        let moved = json(maelctl(&daemon, &["queue", "redrive", "orders.fifo", "--yes", "-o", "json"]));
        assert_eq!((&moved["moved"], &moved["started"]), (&20.into(), &false.into()), "{kind:?}: {moved}");
        assert_eq!(queue::depth(&client, &dead).await, (0, 0));

        let mut seen: Vec<(String, String)> = Vec::new();
        while seen.len() < 23 {
            let receive = client.receive_message().queue_url(&orders).max_number_of_messages(10);
            let receive = receive.message_system_attribute_names(Said::All).message_attribute_names("All");
            let got = receive.send().await.expect("received").messages.unwrap_or_default();
            assert!(!got.is_empty(), "{kind:?}: after {seen:?}");
            for message in got {
                let group = message.attributes().and_then(|all| all.get(&Said::MessageGroupId)).cloned();
                let zone = message.message_attributes().and_then(|all| all.get("zone"));
                assert_eq!(zone.and_then(|zone| zone.string_value()), Some("eu"), "{kind:?}: {message:?}");
                seen.push((group.unwrap_or_default(), message.body.clone().unwrap_or_default()));
                let handle = message.receipt_handle.unwrap_or_default();
                client.delete_message().queue_url(&orders).receipt_handle(handle).send().await.expect("deleted");
            }
        }
        for group in ["g0", "g1"] {
            let bodies: Vec<&String> = seen.iter().filter(|(of, _)| of == group).map(|(_, body)| body).collect();
            assert!(bodies.is_sorted(), "{kind:?}: {bodies:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_breaks_off_says_how_far_it_came_and_loses_nothing() {
    let Some(server) = Server::start(Kind::Fauxqs) else { return };
    let proxy = Proxy::start(server.address);
    let client = queue::clients(server.address).await.calls;
    let (jobs, dead) = queue::create_with_dlq(&client, "jobs", 3, 30).await;
    let bodies: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    queue::send(&client, &dead, &bodies, |_| None).await;
    let daemon = node_with("jobs", "jobs", &format!("http://{}", proxy.address));
    proxy.set(Fault::Throttled, &["DeleteMessage"], 100);
    let mut breaks = 0;
    loop {
        let (code, _, error) = maelctl(&daemon, &["queue", "redrive", "jobs", "--yes"]);
        if code == 0 {
            break;
        }
        breaks += 1;
        assert!(error.contains("throttling") && breaks < 30, "{error}");
    }
    assert!(breaks > 0, "no delete was refused");
    assert_eq!(queue::depth(&client, &dead).await, (0, 0));
    // A delete that was refused leaves its message in both: one more of it.
    let (there, _) = queue::depth(&client, &jobs).await;
    assert_eq!(there, 30 + breaks, "none is lost, and only those are doubled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_moves_messages_by_itself_is_told_to_unless_a_number_is_given() {
    let Some(server) = Server::start(Kind::Fauxqs) else { return };
    let proxy = Proxy::start(server.address);
    let client = queue::clients(server.address).await.calls;
    let (_, dead) = queue::create_with_dlq(&client, "jobs", 3, 30).await;
    queue::send(&client, &dead, &["a".to_owned(), "b".to_owned()], |_| None).await;
    let daemon = node_with("jobs", "jobs", &format!("http://{}", proxy.address));
    proxy.set(Fault::Instead(r#"{"TaskHandle":"task"}"#), &["StartMessageMoveTask"], 1000);
    let moved = json(maelctl(&daemon, &["queue", "redrive", "jobs", "--yes", "-o", "json"]));
    assert_eq!((&moved["started"], &moved["moved"]), (&true.into(), &0.into()), "{moved}");
    assert_eq!(proxy.count("SendMessage").calls, 0);
    let moved = json(maelctl(&daemon, &["queue", "redrive", "jobs", "--yes", "--max", "1", "-o", "json"]));
    assert_eq!((&moved["started"], &moved["moved"]), (&false.into(), &1.into()), "{moved}");
    assert_eq!((proxy.count("StartMessageMoveTask").calls, proxy.count("SendMessage").calls), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_asks_first_and_empties_the_queue_that_is_meant() {
    for kind in [Kind::Fauxqs, Kind::Moto] {
        let Some(server) = Server::start(kind) else { return };
        let client = queue::clients(server.address).await.calls;
        let (jobs, dead) = queue::create_with_dlq(&client, "jobs", 3, 30).await;
        for url in [&jobs, &dead] {
            queue::send(&client, url, &["a".to_owned(), "b".to_owned()], |_| None).await;
        }
        let daemon = node_with("jobs", "jobs", &server.endpoint());
        let (code, _, error) = maelctl(&daemon, &["queue", "purge", "jobs"]);
        assert!(code == 2 && error.contains("--yes"), "{error}");
        assert_eq!(queue::depth(&client, &jobs).await.0, 2);
        let (code, out, error) = maelctl(&daemon, &["queue", "purge", "jobs", "--dlq", "--yes"]);
        assert!(code == 0 && out.contains("2 messages of queue jobs-dead"), "{out}{error}");
        assert_eq!((queue::depth(&client, &jobs).await.0, queue::depth(&client, &dead).await.0), (2, 0));
        assert_eq!(maelctl(&daemon, &["queue", "purge", "jobs", "--yes"]).0, 0);
        assert_eq!(queue::depth(&client, &jobs).await.0, 0);
        let (code, _, error) = maelctl(&daemon, &["queue", "purge", "job", "--yes"]);
        assert!(code == 5 && error.contains("did you mean jobs?"), "only queues that a source reads: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_is_warned_of_what_a_queue_lacks_and_never_refused() {
    let Some(server) = Server::start(Kind::Fauxqs) else { return };
    let client = queue::clients(server.address).await.calls;
    queue::create_with_dlq(&client, "once", 1, 30).await;
    queue::create_with_dlq(&client, "good.fifo", 5, 30).await;
    queue::create(&client, "bare", &[]).await;
    let daemon = node_with("good", "good.fifo", &server.endpoint());
    let nowhere = format!("http://127.0.0.1:{}", daemon::free_port());
    for (queue, endpoint, said) in [
        ("good.fifo", &server.endpoint(), ""),
        ("once", &server.endpoint(), "warning: queue once has maxReceiveCount 1"),
        ("bare", &server.endpoint(), "warning: queue bare has no redrive policy"),
        ("gone", &server.endpoint(), "warning: queue gone does not exist"),
        ("far", &nowhere, "note: queue far was not looked at"),
    ] {
        let told = put_source(&daemon, "tried", queue, endpoint);
        assert!(told.contains(said) && told.is_empty() == said.is_empty(), "{queue}: {told:?}");
        assert_eq!(daemon.look("/v1/sources/tried")["definition"]["sqs"]["queue"], queue);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_asked_is_named_with_what_to_do_about_it() {
    let Some(server) = Server::start(Kind::Fauxqs) else { return };
    let proxy = Proxy::start(server.address);
    let client = queue::clients(server.address).await.calls;
    queue::create(&client, "jobs", &[]).await;
    let daemon = node_with("jobs", "jobs", &format!("http://{}", proxy.address));
    for (fault, words) in [
        (Fault::Expired, ["expired", "renew the credentials"]),
        (Fault::Throttled, ["throttling", "try again"]),
        (Fault::Unavailable, ["GetQueueUrl failed", "try again"]),
        (Fault::Denied, ["not authorized", "allow sqs:GetQueueUrl"]),
    ] {
        proxy.set(fault, &[], 1000);
        let (code, _, error) = maelctl(&daemon, &["queue", "peek", "jobs"]);
        assert!(code == 1 && words.iter().all(|word| error.contains(word)), "{fault:?}: {error}");
        let (code, table, warning) = maelctl(&daemon, &["queue", "ls"]);
        assert!(code == 0 && table.contains("jobs") && warning.contains(words[1]), "{fault:?}: {table}{warning}");
        proxy.heal();
    }
    put_source(&daemon, "jobs", "gone", &server.endpoint());
    let (code, _, error) = maelctl(&daemon, &["queue", "peek", "gone"]);
    assert!(code == 5 && error.contains("create it"), "{error}");
    let nowhere = format!("http://127.0.0.1:{}", daemon::free_port());
    put_source(&daemon, "jobs", "jobs", &nowhere);
    let (code, _, error) = maelctl(&daemon, &["queue", "redrive", "jobs", "--yes"]);
    assert!(code == 1 && error.contains("cannot be reached") && error.contains("endpoint"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_credentials_or_region_says_what_it_lacks() {
    let Some(server) = Server::start(Kind::Fauxqs) else { return };
    let endpoint = server.endpoint();
    for (lacks, more, words) in [
        ("AWS_ACCESS_KEY_ID", &["--region", "eu-central-1"][..], ["no AWS credentials", "set AWS_ACCESS_KEY_ID"]),
        ("AWS_REGION", &[], ["AWS region", "--region"]),
    ] {
        let dir = std::env::temp_dir().join(format!("maelstrom-test-{}-{lacks}", std::process::id()));
        let daemon = Daemon::start_changed(dir, "process", |command| {
            command.env_remove(lacks).env("HOME", "/nonexistent");
        });
        daemon.put("components", "worker", r#"{"command": ["true"]}"#);
        let words_of_put = ["es", "put", "jobs", "--component", "worker", "--sqs", "jobs", "--path", "/", "--disabled"];
        let (code, _, said) = maelctl(&daemon, &[&words_of_put[..], &["--endpoint", &endpoint], more].concat());
        assert!(code == 0 && said.starts_with("note: queue jobs was not looked at"), "{said}");
        assert!(words.iter().all(|word| said.contains(word)) && said.lines().count() == 1, "{said}");
    }
}
