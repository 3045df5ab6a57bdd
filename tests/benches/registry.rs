//! A registry of 100,000 components: restart, a new node that joins, bytes per row, and a put on top. Run by
//! `./scripts/bench registry`.

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark waits, measures and prints")]
#![allow(missing_docs, reason = "a program")]

use std::path::Path;
use std::time::{Duration, Instant};

use maelstrom::crdt::{Expect, Kind, Registry, Row};
use maelstrom::id::ComponentName;
use maelstrom::model::Component;
use maelstrom::store::Store;
use maelstrom::time::Wall;

#[path = "../support/daemon.rs"]
mod support;

use support::{Daemon, Ports, millis, quantile};

const ROWS: usize = 100_000;
const PUTS: usize = 100;

/// Writes the store of a node that has them all, as its registrar would.
fn fill(dir: &Path) {
    let (mut store, loaded) = Store::open(dir, 0x6d61_656c).expect("a store");
    let mut registry = Registry::restore(loaded.node, loaded.hlc, loaded.registers);
    let mut changes = Vec::new();
    for number in 0..ROWS {
        let name: ComponentName = format!("component-{number}").parse().expect("a name");
        let doc = serde_json::json!({"command": ["sleep", number.to_string()], "env": {"NUMBER": number.to_string()}});
        let component = Component::parse(&name, &doc).expect("a component");
        let row = Row { format: 1, bytes: component.to_doc().to_string().into_bytes().into() };
        let now = Wall(1_700_000_000_000 + number as u64);
        let written = registry.put(Kind::COMPONENT, name.as_str(), row, Expect::Any, now).expect("written");
        changes.extend(written.changed);
        if changes.len() == 1000 || number + 1 == ROWS {
            store.commit(&changes, registry.hlc()).expect("durable");
            changes.clear();
        }
    }
}

fn components(node: &Daemon) -> Vec<(String, u64, Option<u64>)> {
    let list = node.look("/v1/nodes");
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let view = |item: &serde_json::Value| {
        let name = item["name"].as_str().unwrap_or_default().to_owned();
        (name, item["components"].as_u64().unwrap_or(0), item["registry_lag_ms"].as_u64())
    };
    items.iter().map(view).collect()
}

fn rss(node: &Daemon) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(f64::NAN) * 1024.0
}

fn main() {
    let base = std::env::temp_dir().join(format!("maelstrom-bench-registry-{}", std::process::id()));
    let full = base.join("full");
    std::fs::create_dir_all(&full).expect("a directory");
    fill(&full);
    let bytes = std::fs::metadata(full.join("registry.redb")).expect("a store").len() as f64 / ROWS as f64;

    let start = |dir: &Path, name: &str, more: &[&str]| {
        let mut all = vec!["--name", name];
        all.extend(more);
        let begun = Instant::now();
        let node = Daemon::start_at(dir.to_owned(), "process", Ports::free(), &all);
        node.until("it answers", || node.api("GET", "/v1/version", "").0 == 200);
        (node, begun.elapsed())
    };
    let (first, _) = start(&full, "full", &[]);
    let dir = first.kill_9();
    let (node, restart) = start(&dir, "full", &[]);
    let rss_row = rss(&node) / ROWS as f64;

    let token = node.token();
    let seed = format!("127.0.0.1:{}", node.ports.peer);
    let begun = Instant::now();
    let (joiner, _) = start(&base.join("new"), "new", &["--join", &seed, "--token", &token]);
    let serving = Instant::now();
    let all = |node: &Daemon| components(node).iter().filter(|(_, count, _)| *count == ROWS as u64).count() == 2;
    while !all(&joiner) && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let join = serving.elapsed();
    assert!(all(&joiner), "not all arrived: {:?}", components(&joiner));
    joiner.until("the registries are equal", || components(&joiner).iter().any(|(_, _, lag)| *lag == Some(0)));
    let equal = serving.elapsed();

    let mut puts = Vec::new();
    for number in 0..PUTS {
        let begun = Instant::now();
        node.put("components", &format!("put-{number}"), r#"{"command":["sleep","1"]}"#);
        puts.push(millis(begun.elapsed()));
    }
    let last = format!("/v1/components/put-{}", PUTS - 1);
    joiner.until("the last put is there", || joiner.api("GET", &last, "").0 == 200);

    println!("{ROWS} components");
    println!("registry.join_100k_ms={:.0}", millis(join));
    println!("registry.join_100k_equal_ms={:.0}", millis(equal));
    println!("registry.restart_100k_ms={:.0}", millis(restart));
    println!("registry.bytes_per_row={bytes:.0}");
    println!("registry.rss_bytes_per_row={rss_row:.0}");
    println!("registry.put_fsync_p50_ms={:.2}", quantile(&mut puts, 0.5));
    println!("registry.put_fsync_p99_ms={:.2}", quantile(&mut puts, 0.99));
    drop((node, joiner));
    let _ = std::fs::remove_dir_all(base);
}
