//! What the way from a client to an instance must do, whether both are on one node or on two.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::rig::{AnyBody, Client, PATIENCE, Rig, component, eventually, honest, refusing, scripted};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Empty, Full};
use maelstrom::proxy::{Payload, Timing};
use maelstrom::source::http::Options;
use tokio::io::AsyncWriteExt as _;

const GET: &str = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn has(answer: &str, part: &str) {
    assert!(answer.to_ascii_lowercase().contains(&part.to_ascii_lowercase()), "no {part:?} in {answer}");
}

fn lacks(answer: &str, part: &str) {
    assert!(!answer.to_ascii_lowercase().contains(&part.to_ascii_lowercase()), "{part:?} in {answer}");
}

// --- heads

#[tokio::test]
async fn a_request_reaches_the_instance_with_our_headers_and_its_host() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    let answer = rig.ask("GET /head?q=1 HTTP/1.1\r\nHost: Example.com:81\r\nAccept: */*\r\n\r\n").await;
    has(&answer, "GET /head?q=1 HTTP/1.1");
    has(&answer, "host: Example.com:81\n");
    has(&answer, "x-forwarded-for: 127.0.0.1\n");
    has(&answer, "x-forwarded-proto: http\n");
    has(&answer, "x-forwarded-host: Example.com:81\n");
    has(&answer, &format!("x-forwarded-port: {}\n", rig.address.port()));
    has(&answer, "maelstrom-component: api\n");
    has(&answer, "maelstrom-deadline-ms: 19");
    rig.all_released().await;
    assert_eq!(rig.served(), 1);
}

#[tokio::test]
async fn what_belongs_to_one_connection_or_to_us_passes_in_neither_direction() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    let answer = rig
        .ask(
            "GET /head HTTP/1.1\r\nHost: a\r\nConnection: x-mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: 5\r\n\
             Proxy-Authorization: s\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
             Maelstrom-Deadline-Ms: 1\r\nMaelstrom-Evil: 1\r\nTE: gzip\r\nUpgrade: h2c\r\n\r\n",
        )
        .await;
    for gone in ["x-mine", "keep-alive", "proxy-auth", "6.6.6.6", "evil", "\nte:", "upgrade", "deadline-ms: 1\n"] {
        lacks(&answer, gone);
    }
    let answer = rig.ask("GET /reply-headers HTTP/1.1\r\nHost: a\r\n\r\n").await;
    has(&answer, "x-own: 1");
    has(&answer, "maelstrom-request-id: ");
    for gone in ["x-hop", "keep-alive", "maelstrom-x", "connection:"] {
        lacks(&answer, gone);
    }
}

#[tokio::test]
async fn a_prefix_is_cut_off_and_the_query_stays() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    has(&rig.ask("GET /cut/head?a=%2F HTTP/1.1\r\nHost: cut.example\r\n\r\n").await, "GET /head?a=%2F HTTP/1.1");
    has(&rig.ask("GET /cut HTTP/1.1\r\nHost: CUT.example:80\r\n\r\n").await, "GET / HTTP/1.1");
    // The target's authority goes before the Host header.
    let absolute = rig.ask("GET http://cut.example/cut/x HTTP/1.1\r\nHost: other\r\n\r\n").await;
    has(&absolute, "GET /x HTTP/1.1\nhost: cut.example");
}

#[tokio::test]
async fn a_head_of_more_than_64_kib_is_431_and_one_of_60_kib_passes() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    let with = |size: usize| format!("GET /x HTTP/1.1\r\nHost: a\r\nX-Big: {}\r\n\r\n", "y".repeat(size));
    has(&rig.ask(&with(60 * 1024)).await, "HTTP/1.1 200");
    has(&rig.ask(&with(65 * 1024)).await, "HTTP/1.1 431");
    rig.all_released().await;
}

#[tokio::test]
async fn requests_whose_end_or_host_is_ambiguous_are_refused_and_the_connection_is_closed() {
    let (instance, seen) = honest().await;
    let rig = Rig::new(&[instance]).await;
    for request in [
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
        "POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET /x HTTP/1.1\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost : a\r\n\r\n",
    ] {
        let mut client = rig.connect().await;
        client.send(request).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"), "{request:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1").count(), 1, "{request:?}: {answer}");
    }
    assert_eq!(seen.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_ambiguous_request_behind_another_one_on_the_connection_is_refused_too() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    let mut client = rig.connect().await;
    client.send("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
    has(&client.answer().await, "HTTP/1.1 200");
    client
        .send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG")
        .await;
    has(&client.rest().await, "HTTP/1.1 400");
}

#[tokio::test]
async fn an_http_1_0_client_is_answered_without_chunks_and_its_connection_closed() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    let mut client = rig.connect().await;
    client.send("GET /big?100000 HTTP/1.0\r\n\r\n").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{}", &answer[..100]);
    lacks(&answer, "transfer-encoding");
    assert!(answer.len() > 100_000);
    rig.all_released().await;
}

#[tokio::test]
async fn answers_without_body_keep_the_connection_in_step() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    let mut client = rig.connect().await;
    for (request, status) in
        [("HEAD /x", "200"), ("GET /status?204", "204"), ("GET /status?304", "304"), ("GET /x", "200")]
    {
        client.send(format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let answer = if request.starts_with("GET /x") { client.answer().await } else { client.until("\r\n\r\n").await };
        has(&answer, &format!("HTTP/1.1 {status}"));
    }
    rig.all_released().await;
    assert_eq!(rig.served(), 4);
}

#[tokio::test]
async fn informational_answers_are_not_taken_for_the_answer() {
    let instance = scripted(|_, mut client: Client| async move {
        client.until("\r\n\r\n").await;
        client.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
        client.send(OK).await;
        client.rest().await;
    })
    .await;
    let rig = Rig::new(&[instance]).await;
    has(&rig.ask(GET).await, "HTTP/1.1 200");
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_before_it_sends_its_body() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    let mut client = rig.connect().await;
    client.send("POST /count HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").await;
    has(&client.until("\r\n\r\n").await, "HTTP/1.1 100");
    client.send("abc").await;
    has(&client.answer().await, "3 {}");
}

#[tokio::test]
async fn the_health_path_wakes_nothing_and_unknown_hosts_are_404_in_the_form_asked_for() {
    let rig = Rig::new(&[]).await;
    has(&rig.ask("GET /.well-known/maelstrom/health HTTP/1.1\r\nHost: b\r\n\r\n").await, "HTTP/1.1 200");
    assert_eq!(rig.core.waits.load(Ordering::SeqCst), 0);
    rig.table.store(std::sync::Arc::default());
    let json = rig.ask("GET /x HTTP/1.1\r\nHost: b\r\n\r\n").await;
    has(&json, "HTTP/1.1 404");
    has(&json, "\"code\":\"no_route\"");
    let text = rig.ask("GET /x HTTP/1.1\r\nHost: b\r\nAccept: text/html\r\n\r\n").await;
    has(&text, "content-type: text/plain");
    has(&rig.ask("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n").await, "HTTP/1.1 405");
}

// --- bodies

#[tokio::test]
async fn bodies_of_any_size_pass_in_both_directions() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    for size in [0_usize, 1, 8191, 65_536, 1_000_003] {
        let mut client = rig.connect().await;
        client.send(format!("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")).await;
        client.send(vec![b'z'; size]).await;
        has(&client.answer().await, &format!("{size} {{}}"));
        client.send(format!("GET /big?{size} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(client.body_until_closed(b'x').await, size);
    }
    rig.all_released().await;
}

#[tokio::test]
async fn fifty_megabytes_pass_both_ways_over_http2_and_chunked() {
    const SIZE: usize = 50_000_000;
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    let mut sender = rig.http2::<Full<Bytes>>().await;
    let body = Full::new(Bytes::from(vec![b'z'; SIZE]));
    let request = Request::post("http://a/count").body(body).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer").into_body().collect().await.expect("a body");
    assert!(answer.to_bytes().starts_with(SIZE.to_string().as_bytes()));

    let mut client = rig.connect().await;
    client.send(format!("GET /big?{SIZE} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
    assert_eq!(client.body_until_closed(b'x').await, SIZE);
    rig.all_released().await;
}

#[tokio::test]
async fn the_slower_side_sets_the_pace() {
    // More than all socket buffers on the way together can hold.
    const SIZE: u64 = 200_000_000;
    const HELD: u64 = 60_000_000;
    let (instance, seen) = honest().await;
    let mut hasty = component();
    hasty.request_timeout = Duration::from_secs(2);
    let rig = Rig::with(hasty, Options::default(), &[instance]).await;
    let mut client = rig.connect().await;
    client.send(format!("GET /big?{SIZE} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    client.until("\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let sent = seen.sent.load(Ordering::SeqCst);
    assert!(sent < HELD, "{sent} bytes were taken from the instance while the client read nothing");
    assert_eq!(rig.in_flight(), 1);
    drop(client);
    rig.all_released().await;

    let instance = scripted(|_, mut client: Client| async move {
        client.until("\r\n\r\n").await;
        tokio::time::sleep(PATIENCE).await;
    })
    .await;
    rig.set(&[instance]);
    let mut client = rig.connect().await;
    client.send(format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n")).await;
    let chunk = vec![0; 1 << 20];
    let mut sent = 0;
    while let Ok(Ok(count)) = tokio::time::timeout(Duration::from_millis(500), client.stream.write(&chunk)).await {
        sent += count as u64;
        assert!(sent < HELD, "{sent} bytes were taken from the client while the instance read nothing");
    }
    // Its end cannot be seen behind the bytes that nobody reads: the deadline ends it.
    drop(client);
    rig.all_released().await;
}

#[tokio::test]
async fn a_client_may_send_and_receive_at_the_same_time() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    let mut client = rig.connect().await;
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send("3\r\none\r\n").await;
    client.until("3\r\none\r\n").await;
    client.send("3\r\ntwo\r\n").await;
    client.until("3\r\ntwo\r\n").await;
    client.send("0\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
    rig.all_released().await;
}

#[tokio::test]
async fn trailers_pass_in_both_directions_over_http_1() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    let answer = {
        let mut client = rig.connect().await;
        client.send("GET /trailers HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\n\r\n").await;
        client.until("x-sum: 42\r\n\r\n").await
    };
    has(&answer, "trailer: x-sum");
    lacks(&answer, "maelstrom-evil: 1");
    let answer = rig
        .ask(
            "POST /count HTTP/1.1\r\nHost: a\r\nTrailer: x-sum, x-forwarded-for\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nabc\r\n0\r\nx-sum: 7\r\nx-forwarded-for: 6.6.6.6\r\n\r\n",
        )
        .await;
    has(&answer, "3 {\"x-sum\": \"7\"}");
    rig.all_released().await;
}

#[tokio::test]
async fn a_grpc_call_goes_over_http2_with_its_trailers() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    let mut sender = rig.http2::<AnyBody>().await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().expect("a value"));
    let body = Full::new(Bytes::from_static(b"abc")).with_trailers(async move { Some(Ok(trailers)) }).boxed_unsync();
    let grpc = |path: &str, body: AnyBody| {
        Request::post(format!("http://a{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .expect("a request")
    };
    let answer = sender.send_request(grpc("/count", body)).await.expect("an answer");
    let answer = answer.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(answer, Bytes::from_static(b"3 {\"x-sum\": \"7\"}"));
    let answer = sender.send_request(grpc("/trailers", Empty::new().boxed_unsync())).await.expect("an answer");
    let answer = answer.into_body().collect().await.expect("a body");
    let trailers = answer.trailers().expect("trailers");
    assert_eq!((&trailers["x-sum"], trailers.len()), (&"42".parse().expect("a value"), 1));
    let answer =
        sender.send_request(grpc("/grpc/only-trailers", Empty::new().boxed_unsync())).await.expect("an answer");
    assert_eq!(
        (&answer.headers()["grpc-status"], &answer.headers()["x-version"]),
        (&"5".parse().expect("a value"), &"HTTP/2.0".parse().expect("a value"))
    );
    rig.all_released().await;
    rig.set(&[refusing().await]);
    let answer = sender.send_request(grpc("/x", Empty::new().boxed_unsync())).await.expect("an answer");
    assert_eq!(answer.headers()["grpc-status"], "14");
    rig.all_released().await;
}

#[tokio::test]
async fn a_plain_http2_request_goes_over_http_1_with_host_and_forwarding_headers() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    let mut sender = rig.http2::<Empty<Bytes>>().await;
    for _ in 0..3 {
        let request = Request::get("http://shop.example/head").body(Empty::new()).expect("a request");
        let answer =
            sender.send_request(request).await.expect("an answer").into_body().collect().await.expect("a body");
        let answer = String::from_utf8(answer.to_bytes().to_vec()).expect("text");
        has(&answer, "GET /head HTTP/1.1");
        has(&answer, "host: shop.example\n");
        has(&answer, "x-forwarded-host: shop.example\n");
    }
    rig.all_released().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_whether_or_not_its_length_was_said() {
    let (instance, _) = honest().await;
    let mut limited = component();
    limited.max_body = Some(1000);
    let rig = Rig::with(limited, Options::default(), &[instance]).await;
    let mut client = rig.connect().await;
    client.send("POST /count HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n").await;
    has(&client.until("\r\n\r\n").await, "HTTP/1.1 413");
    assert_eq!(rig.served(), 0, "it is refused before an instance is asked");
    let chunk = format!("1f4\r\n{}\r\n", "y".repeat(500));
    let head = "POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = rig.ask(&format!("{head}{chunk}{chunk}{chunk}0\r\n\r\n")).await;
    has(&answer, "HTTP/1.1 413");
    has(&answer, "\"code\":\"body_too_large\"");
    has(&rig.ask(&format!("{head}{chunk}{chunk}0\r\n\r\n")).await, "1000 {}");
    assert!(rig.core.suspects.lock().expect("no panic").is_empty(), "no fault of the instance");
    rig.all_released().await;
}

// --- ends that nobody wished for

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request_at_the_instance() {
    let (instance, seen) = honest().await;
    let rig = Rig::new(&[instance]).await;
    let mut client = rig.connect().await;
    client.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it arrives", || seen.requests.load(Ordering::SeqCst) == 1).await;
    drop(client);
    eventually("it is cancelled", || seen.cancelled.load(Ordering::SeqCst) == 1).await;
    let mut sender = rig.http2::<Empty<Bytes>>().await;
    let request = Request::get("http://a/hang").body(Empty::new()).expect("a request");
    tokio::time::timeout(Duration::from_millis(200), sender.send_request(request)).await.expect_err("it hangs");
    eventually("it is cancelled", || seen.cancelled.load(Ordering::SeqCst) == 2).await;
    rig.all_released().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_complete() {
    for head in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let instance = scripted(move |_, mut client: Client| async move {
            client.until("\r\n\r\n").await;
            client.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n")).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        })
        .await;
        let rig = Rig::new(&[instance]).await;
        let mut client = rig.connect().await;
        client.send(GET).await;
        let answer = client.rest().await;
        has(&answer, "HTTP/1.1 200");
        assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
        let mut sender = rig.http2::<Empty<Bytes>>().await;
        let request = Request::get("http://a/x").body(Empty::new()).expect("a request");
        let body = sender.send_request(request).await.expect("a head").into_body();
        body.collect().await.expect_err("the stream is reset");
        rig.all_released().await;
    }
}

#[tokio::test]
async fn a_request_that_an_instance_refuses_is_answered_by_another() {
    let (instance, _) = honest().await;
    let refusing = refusing().await;
    let rig = Rig::new(&[refusing, instance]).await;
    for _ in 0..20 {
        has(&rig.ask("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await, "HTTP/1.1 200");
    }
    let suspects = rig.core.suspects.lock().expect("no panic").clone();
    assert!(!suspects.is_empty() && suspects.iter().all(|name| name == "api-00000000"), "{suspects:?}");
    rig.set(&[refusing]);
    let answer = rig.ask(GET).await;
    has(&answer, "HTTP/1.1 502");
    has(&answer, "\"component\":\"api\"");
    rig.all_released().await;
}

#[tokio::test]
async fn what_died_with_a_request_is_502_for_a_post_and_once_more_for_a_get() {
    let instance = scripted(|_, mut client: Client| async move {
        client.until("\r\n\r\n").await;
    })
    .await;
    let rig = Rig::new(&[instance]).await;
    let post = rig.ask("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
    has(&post, "HTTP/1.1 502");
    has(&post, "\"phase\":\"handler\"");
    rig.all_released().await;
    assert_eq!(rig.served(), 1);
    has(&rig.ask(GET).await, "HTTP/1.1 502");
    rig.all_released().await;
    assert_eq!(rig.served(), 3);
}

#[tokio::test]
async fn a_waiting_connection_that_the_instance_closed_is_invisible_to_the_client() {
    let instance = scripted(|_, mut client: Client| async move {
        client.until("\r\n\r\n").await;
        client.bytes(3).await;
        // Keep-alive is promised, and the connection closed right after.
        client.send(OK).await;
    })
    .await;
    let rig = Rig::new(&[instance]).await;
    let mut client = rig.connect().await;
    for _ in 0..10 {
        client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
        has(&client.answer().await, "HTTP/1.1 200");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(rig.core.suspects.lock().expect("no panic").is_empty());
    assert_eq!(rig.served(), 10);
}

#[tokio::test]
async fn connections_to_instances_are_used_again_and_dropped_when_the_instance_is_forgotten() {
    use std::sync::atomic::AtomicUsize;
    static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
    let instance = scripted(|count, mut client: Client| async move {
        CONNECTIONS.store(count + 1, Ordering::SeqCst);
        loop {
            client.until("\r\n\r\n").await;
            client.send(OK).await;
        }
    })
    .await;
    let rig = Rig::new(&[instance]).await;
    for _ in 0..5 {
        has(&rig.ask(GET).await, "HTTP/1.1 200");
    }
    assert_eq!((CONNECTIONS.load(Ordering::SeqCst), rig.forwarder.pool().idle()), (1, 1));
    let id = rig.slots.lock().expect("no panic")[0].instance.clone();
    rig.forwarder.pool().forget(&id);
    assert_eq!(rig.forwarder.pool().idle(), 0);
    has(&rig.ask(GET).await, "HTTP/1.1 200");
    assert_eq!(CONNECTIONS.load(Ordering::SeqCst), 2);
    rig.forwarder.pool().sweep();
    rig.forwarder.pool().sweep();
    assert_eq!(rig.forwarder.pool().idle(), 0, "what waited for two sweeps is closed");
}

#[tokio::test]
async fn a_passed_deadline_is_504_and_says_in_which_phase() {
    let (instance, _) = honest().await;
    let mut hasty = component();
    hasty.request_timeout = Duration::from_millis(200);
    let rig = Rig::with(hasty, Options::default(), &[instance]).await;
    let answer = rig.ask("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await;
    has(&answer, "HTTP/1.1 504");
    has(&answer, "\"phase\":\"handler\"");
    rig.all_released().await;
    // Its head came in time: the rest may take as long as it likes.
    let slow = scripted(|_, mut client: Client| async move {
        client.until("\r\n\r\n").await;
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.send("cd").await;
    })
    .await;
    rig.set(&[slow]);
    has(&rig.ask(GET).await, "abcd");
    rig.set(&[]);
    let answer = rig.ask(GET).await;
    has(&answer, "HTTP/1.1 504");
    assert!(answer.contains("\"phase\":\"start\"") || answer.contains("\"phase\":\"queue\""), "{answer}");
}

#[tokio::test]
async fn who_dawdles_over_a_head_or_says_nothing_is_cut_off() {
    let (instance, _) = honest().await;
    let options = Options {
        head_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(800),
        ..Options::default()
    };
    let rig = Rig::with(component(), options, &[instance]).await;
    let mut slow = rig.connect().await;
    let drip = async {
        for byte in GET.bytes().cycle() {
            if slow.stream.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    };
    // A head of 27 bytes would take 1.6 s.
    tokio::time::timeout(Duration::from_millis(1400), drip).await.expect("it is cut off");
    let mut second = rig.connect().await;
    second.send(GET).await;
    has(&second.answer().await, "HTTP/1.1 200");
    second.send("GET /x HT").await;
    assert_eq!(second.rest().await, "");
    let mut silent = rig.connect().await;
    assert_eq!(silent.rest().await, "");
    // A request that takes longer than both is none of that.
    let mut busy = rig.connect().await;
    busy.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na").await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    busy.send("b").await;
    has(&busy.answer().await, "ab");
    rig.all_released().await;
}

#[tokio::test]
async fn a_connection_that_was_opened_ahead_may_wait_longer_than_a_head() {
    let (instance, _) = honest().await;
    let options = Options { head_timeout: Duration::from_millis(100), ..Options::default() };
    let rig = Rig::with(component(), options, &[instance]).await;
    let mut early = rig.connect().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    early.send(GET).await;
    has(&early.answer().await, "HTTP/1.1 200");
    rig.all_released().await;
}

#[tokio::test]
async fn a_connection_beyond_the_bound_waits_for_another_to_end() {
    let (instance, _) = honest().await;
    let options = Options { connections: 1, ..Options::default() };
    let rig = Rig::with(component(), options, &[instance]).await;
    let mut first = rig.connect().await;
    first.send(GET).await;
    has(&first.answer().await, "HTTP/1.1 200");
    let mut second = rig.connect().await;
    second.send(GET).await;
    tokio::time::timeout(Duration::from_millis(100), second.stream.readable()).await.expect_err("it waits");
    drop(first);
    has(&second.answer().await, "HTTP/1.1 200");
}

// --- cold starts, upgrades, calls, shutdown

#[tokio::test]
async fn a_websocket_waits_for_a_cold_instance_and_holds_its_slot_until_both_sides_are_closed() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[]).await;
    let mut client = rig.connect().await;
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    eventually("it waits", || rig.core.waits.load(Ordering::SeqCst) == 1).await;
    rig.set(&[instance]);
    let head = client.until("\r\n\r\n").await;
    has(&head, "HTTP/1.1 101");
    has(&head, "connection: upgrade");
    has(&head, "upgrade: websocket");
    for text in ["one", "two"] {
        client.send(text).await;
        client.until(text).await;
    }
    assert_eq!((rig.in_flight(), rig.forwarder.tunnels()), (1, 1));
    drop(client);
    rig.all_released().await;
    eventually("the tunnel ends", || rig.forwarder.tunnels() == 0).await;
}

#[tokio::test]
async fn an_upgrade_that_the_instance_declines_is_an_ordinary_answer() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    let mut client = rig.connect().await;
    for _ in 0..2 {
        client.send("GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        has(&client.answer().await, "HTTP/1.1 200");
    }
    rig.all_released().await;
    assert_eq!(rig.forwarder.tunnels(), 0);
}

#[tokio::test]
async fn a_call_of_our_own_says_where_its_time_went() {
    let (instance, _) = honest().await;
    let rig = Rig::new(&[instance]).await;
    let target = std::sync::Arc::clone(rig.table.load().lookup("a", "/").expect("a target"));
    let core: std::sync::Arc<dyn maelstrom::intake::Intake> = rig.entrance().1.clone();
    let request = Request::post("/head").body(Payload::from(Bytes::from_static(b"abc"))).expect("a request");
    let answer = rig.entrance().0.call(&core, &target, request, HeaderMap::new()).await.expect("an answer");
    let timing = answer.extensions().get::<Timing>().expect("timing").clone();
    assert_eq!((timing.tries, timing.instance.as_str()), (1, "api-00000000"));
    assert!(timing.connect > Duration::ZERO && timing.first_byte > Duration::ZERO);
    let text =
        String::from_utf8(answer.into_body().collect().await.expect("a body").to_bytes().to_vec()).expect("text");
    has(&text, "content-length: 3\n");
    has(&text, "maelstrom-component: api\n");
    lacks(&text, "forwarded");
    rig.all_released().await;
}

#[tokio::test]
async fn a_shutdown_lets_requests_end_and_closes_what_rests() {
    let slow = scripted(|_, mut client: Client| async move {
        client.until("\r\n\r\n").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.send(OK).await;
    })
    .await;
    let mut rig = Rig::new(&[slow]).await;
    let mut resting = rig.connect().await;
    resting.send("GET /.well-known/maelstrom/health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    has(&resting.answer().await, "HTTP/1.1 200");
    let mut busy = rig.connect().await;
    busy.send(GET).await;
    let mut http2 = rig.http2::<Empty<Bytes>>().await;
    let request = Request::get("http://a/x").body(Empty::new()).expect("a request");
    let stream = maelstrom::telemetry::spawn("test request", http2.send_request(request));
    eventually("both arrive", || rig.in_flight() == 2).await;
    rig.shutdown.cancel();
    assert_eq!(resting.rest().await, "");
    let answer = busy.rest().await;
    has(&answer, "HTTP/1.1 200");
    has(&answer, "connection: close");
    assert_eq!(stream.await.expect("no panic").expect("an answer").status(), 200);
    let drained = rig.source.take().expect("a listener").drained();
    tokio::time::timeout(PATIENCE, drained).await.expect("it drains");
    assert!(tokio::net::TcpStream::connect(rig.address).await.is_err());
    rig.all_released().await;
}

#[tokio::test]
async fn a_request_that_is_on_its_way_when_the_node_stops_is_answered_as_the_last_of_its_connection() {
    let (instance, _) = honest().await;
    // The rest of the time is not waited for.
    let options = Options { linger: PATIENCE, ..Options::default() };
    let mut rig = Rig::with(component(), options, &[instance]).await;
    let mut resting = rig.connect().await;
    resting.send(GET).await;
    has(&resting.answer().await, "HTTP/1.1 200");
    // By this thread, so that the listener cannot have taken it in before it stops.
    let mut waiting = std::net::TcpStream::connect(rig.address).expect("a connection");
    std::io::Write::write_all(&mut waiting, GET.as_bytes()).expect("the connection takes bytes");
    rig.shutdown.cancel();
    resting.send(GET).await;
    waiting.set_nonblocking(true).expect("a socket");
    let waiting = tokio::net::TcpStream::from_std(waiting).expect("a socket");
    for mut client in [resting, Client::of(waiting)] {
        let answer = client.rest().await;
        has(&answer, "HTTP/1.1 200");
        has(&answer, "connection: close");
    }
    let drained = rig.source.take().expect("a listener").drained();
    tokio::time::timeout(PATIENCE, drained).await.expect("it drains");
}

#[tokio::test]
async fn connections_that_were_opened_ahead_and_say_nothing_do_not_hold_up_a_drain() {
    let hour = Duration::from_secs(3600);
    let options = Options { head_timeout: hour, drain: hour, ..Options::default() };
    let mut rig = Rig::with(component(), options, &[]).await;
    let mut silent = [rig.connect().await, rig.connect().await];
    let source = rig.source.take().expect("a listener");
    eventually("both are taken in", || source.stats().connections.load(Ordering::Relaxed) == 2).await;
    rig.shutdown.cancel();
    tokio::time::timeout(PATIENCE, source.drained()).await.expect("it drains");
    for silent in &mut silent {
        assert_eq!(silent.rest().await, "");
    }
}

#[tokio::test]
async fn what_does_not_end_within_the_drain_is_closed() {
    let (instance, _) = honest().await;
    let options = Options { drain: Duration::from_millis(200), ..Options::default() };
    let mut rig = Rig::with(component(), options, &[instance]).await;
    let mut hanging = rig.connect().await;
    hanging.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut socket = rig.connect().await;
    socket.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    socket.until("\r\n\r\n").await;
    eventually("both are there", || rig.in_flight() == 2).await;
    rig.shutdown.cancel();
    let drained = rig.source.take().expect("a listener").drained();
    tokio::time::timeout(PATIENCE, drained).await.expect("it drains");
    assert_eq!((hanging.rest().await, socket.rest().await), (String::new(), String::new()));
    rig.all_released().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_requests_from_many_connections_leave_no_slot_behind() {
    let (one, _) = honest().await;
    let (two, _) = honest().await;
    let rig = Rig::new(&[one, two]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..32 {
        let mut client = rig.connect().await;
        tasks.spawn(async move {
            for round in 0..100 {
                if (n + round) % 3 == 0 {
                    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
                    has(&client.answer().await, "hello");
                } else {
                    // Two at once: the second is answered after the first.
                    client.send(GET.repeat(2)).await;
                    has(&client.answer().await, "HTTP/1.1 200");
                    has(&client.answer().await, "HTTP/1.1 200");
                }
            }
        });
    }
    tasks.join_all().await;
    rig.all_released().await;
    assert!(rig.served() >= 3200);
}
