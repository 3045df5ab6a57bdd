//! Servers that speak SQS, started on a free loopback port and ended with their value: `fauxqs`, the one that tests run
//! against, and `moto`, a second opinion written by others. `scripts/test` installs both.
//!
//! Knows nothing of sources and nodes.

#![allow(
    dead_code,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "each test uses its part, in real time, and says what did not run"
)]
#![allow(missing_docs, unreachable_pub, reason = "shared by tests only")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Credentials;
use aws_sdk_sqs::types::QueueAttributeName;
use maelstrom::source::sqs::client::{Clients, Place};

/// Where the servers are, set by `scripts/test`: then a test that cannot run fails.
const MUST: &str = "MAELSTROM_TEST_SQS";

/// Of all queues here; both servers keep queues apart by it.
pub const REGION: &str = "us-east-1";

/// Both end when their standard input does: also if the test is killed.
const FAUXQS: &str = "\
import { buildApp } from 'fauxqs';
const app = buildApp({ logger: false });
await app.listen({ port: 0, host: '127.0.0.1' });
console.log(app.server.address().port);
process.stdin.resume().on('end', () => process.exit());
";
const MOTO: &str = "\
import os, sys, threading
from werkzeug.serving import make_server
from moto.server import DomainDispatcherApplication, create_backend_app
import logging
logging.getLogger('werkzeug').setLevel(logging.ERROR)
server = make_server('127.0.0.1', 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.server_port, flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
server.serve_forever()
";

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Fauxqs,
    Moto,
}

/// A server that runs until it is dropped. Its queues are in memory.
pub struct Server {
    child: Child,
    pub kind: Kind,
    pub address: SocketAddr,
}

impl Server {
    /// `None`, and a loud word, if it is not installed and need not be.
    pub fn start(kind: Kind) -> Option<Self> {
        let home = home();
        let program = program(kind, &home);
        if !program.exists() {
            let missing = format!("{kind:?} is not in {}: ./scripts/test installs it", home.display());
            assert!(std::env::var_os(MUST).is_none(), "{MUST} is set, and {missing}");
            eprintln!("!!!! NOT RUN: {missing}");
            return None;
        }
        Some(Self::launch(kind, &home, &program))
    }

    fn launch(kind: Kind, home: &Path, program: &Path) -> Self {
        let mut command = Command::new(program);
        match kind {
            Kind::Fauxqs => command
                .args(["--no-warnings", "--input-type=module", "--eval", FAUXQS])
                .current_dir(home.join("fauxqs")),
            Kind::Moto => command.args(["-c", MOTO]),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("the server starts");
        let mut line = String::new();
        let _ = BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line);
        let Ok(port) = line.trim().parse::<u16>() else {
            let _ = child.kill();
            panic!("{kind:?} said {line:?} and not its port: {:?}", child.wait());
        };
        Self { child, kind, address: (Ipv4Addr::LOCALHOST, port).into() }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Processor time is the server's, not ours.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn home() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache"))).unwrap_or_default();
    set(MUST).unwrap_or_else(|| cache().join("maelstrom-tests"))
}

fn program(kind: Kind, home: &Path) -> PathBuf {
    match kind {
        Kind::Fauxqs => home.join("fauxqs/node"),
        Kind::Moto => home.join("moto/bin/python"),
    }
}

/// Our own clients, as a node makes them, of the server at an address or of what stands in front of it.
pub async fn clients(address: SocketAddr) -> Clients {
    let place = Place { region: Some(REGION.to_owned()), endpoint: Some(format!("http://{address}")) };
    let clients = Clients::new(&place).await;
    let known = |client: &Client| {
        // In the test's own process the environment cannot be changed.
        let credentials = Credentials::new("test", "test", None, None, "tests");
        Client::from_conf(client.config().to_builder().credentials_provider(credentials).build())
    };
    Clients { polls: known(&clients.polls), calls: known(&clients.calls) }
}

/// Makes a queue and gives its URL.
pub async fn create(client: &Client, name: &str, attributes: &[(QueueAttributeName, &str)]) -> String {
    let mut call = client.create_queue().queue_name(name);
    if name.ends_with(".fifo") {
        call = call.attributes(QueueAttributeName::FifoQueue, "true");
    }
    for (attribute, value) in attributes {
        call = call.attributes(attribute.clone(), *value);
    }
    call.send().await.expect("a queue").queue_url.expect("its URL")
}

/// Makes a queue whose messages go to `NAME-dead` after so many receives; gives the URLs of both.
pub async fn create_with_dlq(client: &Client, name: &str, receives: u32, visibility: u32) -> (String, String) {
    let dead = match name.strip_suffix(".fifo") {
        Some(stem) => format!("{stem}-dead.fifo"),
        None => format!("{name}-dead"),
    };
    let dlq = create(client, &dead, &[]).await;
    let arn = attributes(client, &dlq).await.remove("QueueArn").expect("an ARN");
    let policy = format!("{{\"deadLetterTargetArn\":\"{arn}\",\"maxReceiveCount\":\"{receives}\"}}");
    let visibility = visibility.to_string();
    let given = [
        (QueueAttributeName::RedrivePolicy, policy.as_str()),
        (QueueAttributeName::VisibilityTimeout, visibility.as_str()),
    ];
    (create(client, name, &given).await, dlq)
}

/// All that a queue says of itself.
pub async fn attributes(client: &Client, url: &str) -> BTreeMap<String, String> {
    let call = client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
    let attributes = call.send().await.expect("attributes").attributes.unwrap_or_default();
    attributes.into_iter().map(|(name, value)| (name.as_str().to_owned(), value)).collect()
}

/// Visible and in flight.
pub async fn depth(client: &Client, url: &str) -> (u64, u64) {
    let attributes = attributes(client, url).await;
    let number = |name: &str| attributes.get(name).and_then(|text| text.parse().ok()).unwrap_or_default();
    (number("ApproximateNumberOfMessages"), number("ApproximateNumberOfMessagesNotVisible"))
}

/// Sends bodies in batches of 10; in a FIFO queue each with the group that `group` gives for it.
pub async fn send(client: &Client, url: &str, bodies: &[String], group: impl Fn(&str) -> Option<String>) {
    use aws_sdk_sqs::types::SendMessageBatchRequestEntry as Entry;
    for (number, chunk) in bodies.chunks(10).enumerate() {
        let mut call = client.send_message_batch().queue_url(url);
        for (index, body) in chunk.iter().enumerate() {
            let group = group(body);
            let twin = group.as_ref().map(|_| format!("{number}-{index}-{body}"));
            let entry = Entry::builder().id(index.to_string()).message_body(body);
            let entry = entry.set_message_group_id(group).set_message_deduplication_id(twin);
            call = call.entries(entry.build().expect("an entry"));
        }
        let sent = call.send().await.expect("sent");
        assert!(sent.failed().is_empty(), "{:?}", sent.failed());
    }
}

/// Waits until a queue has nothing visible and nothing in flight.
pub async fn until_empty(client: &Client, url: &str, patience: Duration) {
    let end = Instant::now() + patience;
    loop {
        let depth = depth(client, url).await;
        if depth == (0, 0) {
            return;
        }
        assert!(Instant::now() < end, "{url} has still {depth:?} after {patience:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
