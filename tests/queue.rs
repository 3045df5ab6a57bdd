//! What stands for SQS in tests: that the servers do what tests of sources rely on, asked through our own client, and
//! that the proxy in front of them fails calls as it is told and counts them.

#![allow(clippy::disallowed_methods, reason = "a test in real time, with tasks of its own")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use aws_sdk_sqs::error::ProvideErrorMetadata as _;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName, QueueAttributeName};

#[path = "support/fault.rs"]
mod fault;
#[path = "support/queue.rs"]
mod queue;

use fault::{Fault, Proxy};
use queue::{Kind, Server};

/// Of the message's system attributes.
fn attribute<'a>(message: &'a Message, name: &str) -> &'a str {
    let attributes = message.attributes().expect("attributes");
    attributes.get(&MessageSystemAttributeName::from(name)).map_or("", String::as_str)
}

async fn receive(client: &aws_sdk_sqs::Client, url: &str, wait: i32) -> Vec<Message> {
    let call = client.receive_message().queue_url(url).max_number_of_messages(10).wait_time_seconds(wait);
    let call = call.message_system_attribute_names(MessageSystemAttributeName::All).message_attribute_names("All");
    call.send().await.expect("received").messages.unwrap_or_default()
}

async fn check(kind: Kind) {
    let Some(server) = Server::start(kind) else { return };
    let clients = queue::clients(server.address).await;
    let client = &clients.calls;

    // A message, kept until it is deleted, and counted.
    let (jobs, dead) = queue::create_with_dlq(client, "jobs", 2, 30).await;
    queue::send(client, &jobs, &["one".to_owned()], |_| None).await;
    assert_eq!(queue::depth(client, &jobs).await, (1, 0));
    let got = receive(&clients.polls, &jobs, 1).await;
    assert_eq!(got.iter().filter_map(Message::body).collect::<Vec<_>>(), ["one"]);
    assert_eq!(attribute(&got[0], "ApproximateReceiveCount"), "1");
    assert!(attribute(&got[0], "SentTimestamp").parse::<u64>().is_ok());
    assert_eq!(queue::depth(client, &jobs).await, (0, 1));

    // Given back at once, and after the last receive it is among the dead.
    for receives in ["2", "gone"] {
        let handle = got_handle(&got, client, &jobs, receives).await;
        let release = client.change_message_visibility().queue_url(&jobs).receipt_handle(handle).visibility_timeout(0);
        release.send().await.expect("given back");
    }
    assert!(receive(&clients.polls, &jobs, 0).await.is_empty());
    assert_eq!((queue::depth(client, &jobs).await, queue::depth(client, &dead).await), ((0, 0), (1, 0)));
    let policy = queue::attributes(client, &jobs).await.remove("RedrivePolicy").expect("a policy");
    assert!(policy.contains("jobs-dead") && policy.contains('2'), "{policy}");

    // A group is in order, and held back while one of it is in flight.
    let ordered = queue::create(client, "ordered.fifo", &[(QueueAttributeName::VisibilityTimeout, "30")]).await;
    let bodies = ["a1", "b1", "a2", "b2"].map(str::to_owned);
    queue::send(client, &ordered, &bodies, |body| Some(body[..1].to_owned())).await;
    let mut seen: Vec<String> = Vec::new();
    while seen.len() < 4 {
        let got = receive(&clients.polls, &ordered, 0).await;
        assert!(!got.is_empty(), "after {seen:?}");
        assert!(receive(&clients.polls, &ordered, 0).await.iter().all(|other| {
            got.iter().all(|one| attribute(one, "MessageGroupId") != attribute(other, "MessageGroupId"))
        }));
        for message in got {
            seen.push(message.body.expect("a body"));
            let delete =
                client.delete_message().queue_url(&ordered).receipt_handle(message.receipt_handle.unwrap_or_default());
            delete.send().await.expect("deleted");
        }
    }
    for group in ["a", "b"] {
        let of_group: Vec<_> = seen.iter().filter(|body| body.starts_with(group)).collect();
        assert_eq!(of_group, [&format!("{group}1"), &format!("{group}2")], "{seen:?}");
    }
}

/// The handle of the message that was received, or of the next receive.
async fn got_handle(first: &[Message], client: &aws_sdk_sqs::Client, url: &str, receives: &str) -> String {
    if receives == "2" {
        return first[0].receipt_handle.clone().expect("a handle");
    }
    let got = receive(client, url, 0).await;
    assert_eq!(attribute(&got[0], "ApproximateReceiveCount"), "2");
    got[0].receipt_handle.clone().expect("a handle")
}

#[tokio::test]
async fn fauxqs_takes_messages_groups_and_redrive_policies_from_our_client() {
    check(Kind::Fauxqs).await;
}

#[tokio::test]
async fn moto_takes_messages_groups_and_redrive_policies_from_our_client() {
    check(Kind::Moto).await;
}

#[tokio::test]
async fn a_long_poll_ends_with_the_message_it_waited_for() {
    for kind in [Kind::Fauxqs, Kind::Moto] {
        let Some(server) = Server::start(kind) else { return };
        let proxy = Proxy::start(server.address);
        let clients = queue::clients(proxy.address).await;
        let url = queue::create(&clients.calls, "late", &[]).await;
        let (polls, place) = (clients.polls.clone(), url.clone());
        let waiting = tokio::spawn(async move { receive(&polls, &place, 20).await });
        // The poll is at the server before there is anything to receive.
        let end = Instant::now() + Duration::from_secs(30);
        while proxy.count("ReceiveMessage").calls == 0 {
            assert!(Instant::now() < end, "no poll");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        queue::send(&clients.calls, &url, &["now".to_owned()], |_| None).await;
        let got = waiting.await.expect("no panic");
        assert_eq!(got.iter().filter_map(Message::body).collect::<Vec<_>>(), ["now"], "{kind:?}");
        assert_eq!(proxy.count("ReceiveMessage").calls, 1, "{kind:?}");
    }
}

/// Answers every call of each connection with the same JSON, and says how many there were.
fn stub(body: &'static str) -> (SocketAddr, std::sync::Arc<std::sync::atomic::AtomicU64>) {
    use std::sync::atomic::{AtomicU64, Ordering};
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (address, seen) = (listener.local_addr().expect("an address"), std::sync::Arc::<AtomicU64>::default());
    let count = std::sync::Arc::clone(&seen);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let count = std::sync::Arc::clone(&count);
            std::thread::spawn(move || {
                let (mut got, mut part) = (Vec::new(), [0; 4096]);
                while let Ok(length @ 1..) = stream.read(&mut part) {
                    got.extend_from_slice(&part[..length]);
                    // Calls come one after the other, each with a body that is JSON.
                    if !got.ends_with(b"}") {
                        continue;
                    }
                    got.clear();
                    count.fetch_add(1, Ordering::SeqCst);
                    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0";
                    let _ = write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                }
            });
        }
    });
    (address, seen)
}

const TWO: &str = r#"{"Messages":[{"MessageId":"1","ReceiptHandle":"a","Body":"x"},{"MessageId":"2","ReceiptHandle":"b","Body":"y"}]}"#;

#[tokio::test]
async fn a_fault_falls_on_the_calls_it_names_until_it_is_healed() {
    use std::sync::atomic::Ordering;
    let (server, seen) = stub(TWO);
    let proxy = Proxy::start(server);
    let client = queue::clients(proxy.address).await.calls;
    let receive = || client.receive_message().queue_url("http://x/1/q").send();
    for (fault, code) in [
        (Fault::Unavailable, None),
        (Fault::Throttled, Some("RequestThrottled")),
        (Fault::Expired, Some("ExpiredTokenException")),
    ] {
        let before = seen.load(Ordering::SeqCst);
        proxy.set(fault, &["ReceiveMessage"], 1000);
        let error = receive().await.expect_err("a fault");
        assert_eq!(error.code(), code, "{error:?}");
        client.delete_message().queue_url("q").receipt_handle("a").send().await.expect("another action");
        assert_eq!(seen.load(Ordering::SeqCst), before + 1, "the server sees no call that was refused");
        proxy.heal();
        assert_eq!(receive().await.expect("healed").messages().len(), 2);
    }
    let (receives, deletes) = (proxy.count("ReceiveMessage"), proxy.count("DeleteMessage"));
    assert_eq!((receives.calls, receives.faults, receives.answers, receives.messages), (6, 3, 3, 6));
    assert_eq!((deletes.calls, deletes.faults, deletes.answers), (3, 0, 3));
    assert_eq!(proxy.calls(), 9);
}

#[tokio::test]
async fn an_answer_that_is_cut_was_given_by_the_server_and_never_arrives() {
    use std::sync::atomic::Ordering;
    let (server, seen) = stub(TWO);
    let proxy = Proxy::start(server);
    let client = queue::clients(proxy.address).await.calls;
    proxy.set(Fault::Cut, &[], 1000);
    let error = client.receive_message().queue_url("http://x/1/q").send().await.expect_err("a broken answer");
    assert!(error.as_service_error().is_none(), "{error:?}");
    let count = proxy.count("ReceiveMessage");
    assert_eq!((seen.load(Ordering::SeqCst), count.lost, count.messages, count.answers), (1, 2, 0, 0));
}

#[tokio::test]
async fn a_slow_answer_arrives_whole_and_faults_can_fall_on_a_share_of_the_calls() {
    let (server, _) = stub(TWO);
    let proxy = Proxy::start(server);
    let client = queue::clients(proxy.address).await.calls;
    proxy.set(Fault::Slow(Duration::from_millis(50)), &[], 1000);
    let begun = Instant::now();
    let got = client.receive_message().queue_url("http://x/1/q").send().await.expect("slow, and whole");
    assert_eq!(got.messages().len(), 2);
    assert!(begun.elapsed() >= Duration::from_millis(50));
    proxy.heal();
    proxy.set(Fault::Throttled, &[], 300);
    let mut failed = 0;
    for _ in 0..200 {
        failed += u32::from(client.receive_message().queue_url("http://x/1/q").send().await.is_err());
    }
    assert!((30..90).contains(&failed), "{failed} of 200 at 30 %");
}
