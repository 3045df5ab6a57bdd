//! What crosses between real nodes: over a slow network, gRPC with its trailers, and streams that rest.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::sync::mpsc;

#[path = "support/cluster.rs"]
mod cluster;

use cluster::Cluster;
use cluster::daemon::{PATIENCE, try_exchange};

fn deploy(cluster: &Cluster, more: Value) {
    let mut document = json!({"command": [cluster::sample::testapp()], "concurrency": 100});
    if let (Some(document), Some(more)) = (document.as_object_mut(), more.as_object()) {
        document.extend(more.clone());
    }
    cluster.nodes[0].put("components", "api", &document.to_string());
    let source = json!({"component": "api", "http": {"host": "api.localhost"}});
    cluster.nodes[0].put("sources", "api", &source.to_string());
    cluster.everywhere("/v1/sources/api", 200);
}

/// Where the instances are that take events.
fn places(cluster: &Cluster) -> Vec<usize> {
    let ready = |item: &Value| {
        let node = item["node"].as_str().filter(|_| item["state"] == "ready")?;
        node.strip_prefix('n')?.parse().ok()
    };
    cluster.nodes[0].instances().iter().filter_map(ready).collect()
}

/// The entrance of a node that has no instance.
fn elsewhere(cluster: &Cluster) -> SocketAddr {
    cluster.until("an instance is ready", || !places(cluster).is_empty());
    let places = places(cluster);
    cluster.nodes.iter().enumerate().find(|(index, _)| !places.contains(index)).expect("one without").1.http
}

#[test]
fn nodes_far_from_each_other_lose_no_request_in_a_change_and_a_drain() {
    let cluster = Cluster::start_behind_relays("far", 3);
    cluster.weather.set_delay(Duration::from_millis(50));
    cluster.weather.set_least_delay(Duration::from_millis(5));
    deploy(&cluster, json!({"min": 2, "max": 2, "env": {"MARK": "1"}}));
    cluster.until("two are ready, on two nodes", || {
        let places = places(&cluster);
        places.len() == 2 && places[0] != places[1]
    });
    let done = AtomicBool::new(false);
    let request = "GET /env HTTP/1.1\r\nHost: api.localhost\r\nConnection: close\r\n\r\n";
    std::thread::scope(|scope| {
        let ask = |entrance: SocketAddr| {
            let done = &done;
            scope.spawn(move || {
                let mut answers = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let answer = TcpStream::connect(entrance).and_then(|stream| try_exchange(stream, request));
                    answers.push(answer.unwrap_or_default());
                }
                answers
            })
        };
        let asking: Vec<_> = cluster.nodes.iter().map(|node| ask(node.http)).collect();
        let work = || {
            deploy(&cluster, json!({"min": 2, "max": 2, "env": {"MARK": "2"}}));
            cluster.until("both are new", || {
                let view = cluster.nodes[1].look("/v1/components/api/rollout");
                view["state"] == "done" && view["ready"] == 2 && view["old"] == 0 && view["revision"] == 2
            });
            let place = places(&cluster)[0];
            let (status, body) = cluster.nodes[(place + 1) % 3].api("POST", &format!("/v1/nodes/n{place}/drain"), "");
            assert_eq!(status / 100, 2, "{body}");
            cluster.until("the drained node has none, and two are ready elsewhere", || {
                let places = places(&cluster);
                places.len() == 2 && !places.contains(&place)
            });
        };
        // Also if it panics, or the others would go on for ever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        let answers: Vec<(u16, String)> = asking.into_iter().flat_map(|asking| asking.join().expect("asked")).collect();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let failed: Vec<_> = answers.iter().filter(|(status, _)| *status != 200).collect();
        assert!(failed.is_empty(), "{} of {} failed: {failed:?}\n{}", failed.len(), answers.len(), cluster.logs());
        let count = |mark: &str| answers.iter().filter(|(_, body)| body.contains(mark)).count();
        assert!(count("MARK=1") > 10 && count("MARK=2") > 10, "{} answers", answers.len());
    });
    cluster.nobody_was_given_up();
}

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

fn frames(from: mpsc::Receiver<Frame<Bytes>>) -> Body {
    let next = |mut from: mpsc::Receiver<Frame<Bytes>>| async move { Some((Ok(from.recv().await?), from)) };
    BodyExt::boxed(StreamBody::new(futures_util::stream::unfold(from, next)))
}

/// Gives every message back as it comes, and says at the end how many bytes there were.
async fn echo(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (into, from) = mpsc::channel(1);
    let mut body = request.into_body();
    tokio::spawn(async move {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                bytes += data.len();
                let _ = into.send(Frame::data(data)).await;
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", 0.into());
        trailers.insert("bytes", bytes.into());
        let _ = into.send(Frame::trailers(trailers)).await;
    });
    Ok(Response::builder().header("content-type", "application/grpc").body(frames(from)).expect("a response"))
}

/// A server of HTTP/2 in this process.
async fn serve() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), hyper::service::service_fn(echo));
            tokio::spawn(connection);
        }
    });
    address
}

#[test]
fn grpc_calls_and_streams_cross_to_another_node_with_their_trailers() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = runtime.block_on(serve());
    let cluster = Cluster::start("grpc", 2);
    deploy(&cluster, json!({"min": 1, "max": 1, "env": {"FORWARD": server.to_string()}}));
    let entrance = elsewhere(&cluster);
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(entrance).await.expect("the entrance accepts");
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut client, connection) = handshake.await.expect("HTTP/2");
        tokio::spawn(connection);
        let call = |method: &str, body: Body| {
            let request = Request::post(format!("http://api.localhost/Echo/{method}"));
            request.header("content-type", "application/grpc").header("te", "trailers").body(body).expect("a request")
        };
        let message = Bytes::from_static(b"\0\0\0\0\x05hello");

        let (into, from) = mpsc::channel(1);
        into.send(Frame::data(message.clone())).await.expect("room");
        drop(into);
        let answer = client.send_request(call("Unary", frames(from))).await.expect("an answer");
        assert_eq!(answer.status(), 200, "{:?}", answer.headers());
        let answer = answer.into_body().collect().await.expect("a whole answer");
        let trailers = answer.trailers().cloned().expect("trailers");
        assert_eq!((trailers["grpc-status"].as_bytes(), trailers["bytes"].as_bytes()), (&b"0"[..], &b"10"[..]));
        assert_eq!(answer.to_bytes(), message);

        // Each message is answered before the next one is sent.
        let (into, from) = mpsc::channel(1);
        into.send(Frame::data(message.clone())).await.expect("room");
        let answer = client.send_request(call("Stream", frames(from))).await.expect("an answer");
        let mut answer = answer.into_body();
        for round in 0..50 {
            let frame = tokio::time::timeout(PATIENCE, answer.frame()).await.expect("in time");
            let data = frame.expect("a frame").expect("no error").into_data().expect("a message");
            assert_eq!(data, message, "round {round}");
            if round < 49 {
                into.send(Frame::data(message.clone())).await.expect("room");
            }
        }
        drop(into);
        let last = tokio::time::timeout(PATIENCE, answer.frame()).await.expect("in time");
        let trailers = last.expect("a frame").expect("no error").into_trailers().expect("trailers");
        assert_eq!((trailers["grpc-status"].as_bytes(), trailers["bytes"].as_bytes()), (&b"0"[..], &b"500"[..]));
    });
}

#[test]
fn server_sent_events_rest_longer_than_an_unused_instance_may_and_end_with_their_instance() {
    let cluster = Cluster::start("events", 2);
    // Unused, it would be frozen and stopped many times in the pause.
    deploy(&cluster, json!({"min": 0, "max": 1, "idle": {"freeze": "200ms", "stop": "1s"}}));
    assert_eq!(cluster.nodes[0].get("api.localhost"), 200);
    let entrance = elsewhere(&cluster);
    let open = |pause: u32| {
        let mut stream = TcpStream::connect(entrance).expect("the entrance accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let head = format!("GET /events?ms={pause} HTTP/1.1\r\nHost: api.localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        let mut reader = BufReader::new(stream);
        let mut text = String::new();
        while !text.contains("data: first") {
            assert!(reader.read_line(&mut text).expect("a line") > 0, "{text}");
        }
        reader
    };
    let mut reader = open(8000);
    let (mut text, id) = (String::new(), cluster.nodes[0].instances()[0]["id"].clone());
    while !text.ends_with("0\r\n\r\n") {
        assert!(reader.read_line(&mut text).expect("a line") > 0, "it ends before its end: {text:?}");
    }
    assert!(text.contains("data: second"), "{text}");
    assert_eq!(cluster.nodes[0].instances()[0]["id"], id, "it is the same instance");
    // One that goes in the middle ends the stream at once, and not as if all had been said.
    let mut reader = open(600_000);
    // The one that answers is gone.
    let _ = cluster.nodes[0].ask("api.localhost", "/exit?code=3");
    let mut rest = Vec::new();
    let _ = reader.read_to_end(&mut rest);
    let rest = String::from_utf8_lossy(&rest);
    assert!(!rest.contains("second") && !rest.contains("0\r\n\r\n"), "{rest:?}");
}
