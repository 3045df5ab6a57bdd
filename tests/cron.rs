//! Schedules on real clusters: fired by whoever is there, whatever happens to the nodes; and a hand on them.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

#[path = "support/cluster.rs"]
mod cluster;

use cluster::daemon::{Daemon, quantile};
use cluster::sample::testapp;
use cluster::{Cluster, count};

/// A request as the component saw it.
struct Fired {
    /// Milliseconds since 1970.
    came: u64,
    headers: BTreeMap<String, String>,
}

impl Fired {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn planned(&self) -> u64 {
        let at: jiff::Timestamp = self.header("maelstrom-planned-at").parse().expect("a time");
        u64::try_from(at.as_millisecond()).expect("after 1970")
    }
}

fn fired(record: &Path) -> Vec<Fired> {
    let text = std::fs::read_to_string(record).unwrap_or_default();
    let lines = text.lines().map(|line| {
        let mut parts = line.split('\t');
        let came = parts.next().and_then(|came| came.parse().ok()).expect("a time");
        let headers = parts.filter_map(|part| part.split_once(": "));
        Fired { came, headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect() }
    });
    lines.collect()
}

/// The planned times that were fired, and how often.
fn planned(fired: &[Fired]) -> BTreeMap<u64, usize> {
    let mut all = BTreeMap::new();
    fired.iter().for_each(|one| *all.entry(one.planned()).or_default() += 1);
    all
}

fn record(test: &str, source: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("maelstrom-cron-{}-{test}-{source}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

fn component(node: &Daemon) {
    let document = json!({"command": [testapp().to_string_lossy()], "concurrency": 8, "memory": "16MiB"});
    node.put("components", "job", &document.to_string());
}

fn schedule(node: &Daemon, name: &str, record: &Path, more: Value) {
    let mut cron = json!({"schedule": "* * * * * *", "path": format!("/record?path={}", record.display())});
    cron.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    node.put("sources", name, &json!({"component": "job", "cron": cron}).to_string());
}

fn runs(node: &Daemon, name: &str) -> Vec<Value> {
    let answer = node.look(&format!("/v1/sources/{name}/runs"));
    answer["items"].as_array().cloned().unwrap_or_default()
}

fn with_status<'a>(runs: &'a [Value], status: &str) -> Vec<&'a Value> {
    runs.iter().filter(|run| run["status"] == status).collect()
}

#[test]
fn every_planned_second_is_fired_through_restarts_and_a_crash_and_at_most_once_never_twice() {
    let mut cluster = Cluster::start("cron", 3);
    let (often, once) = (record("survive", "often"), record("survive", "once"));
    component(&cluster.nodes[0]);
    schedule(&cluster.nodes[0], "often", &often, json!({"missed": "all", "retries": 8}));
    schedule(&cluster.nodes[1], "once", &once, json!({"missed": "all", "delivery": "at-most-once"}));
    let fires = |count: usize| planned(&fired(&often)).len() >= count;
    cluster.until("it begins", || fires(8) && planned(&fired(&once)).len() >= 5);
    for index in 0..3 {
        let node = cluster.nodes.remove(index);
        let site = node.site.clone();
        cluster.start_again(index, (node.stop(), site));
        cluster.until("it is back for all", || cluster.nodes.iter().all(|node| count(node, "alive") == 3));
        let so_far = planned(&fired(&often)).len();
        cluster.until("it goes on", || fires(so_far + 4));
    }
    let before = planned(&fired(&often));
    let rolled = before.values().filter(|count| **count > 1).count();

    // Who fires dies.
    let node = runs(&cluster.nodes[0], "often").iter().find_map(|run| run["node"].as_str().map(str::to_owned));
    let index = ["n0", "n1", "n2"].iter().position(|name| Some(*name) == node.as_deref()).expect("who fires");
    let killed = cluster.kill_9(index);
    let so_far = planned(&fired(&often)).len();
    cluster.until("others go on", || fires(so_far + 6));
    cluster.start_again(index, killed);
    cluster.until("it is back for all", || cluster.nodes.iter().all(|node| count(node, "alive") == 3));
    cluster.until("sixty", || fires(60) && planned(&fired(&once)).len() >= 40);

    for name in ["often", "once"] {
        assert_eq!(cluster.nodes[0].api("POST", &format!("/v1/sources/{name}/disable"), "").0, 200);
        cluster.until("nothing is under way", || {
            let runs = runs(&cluster.nodes[0], name);
            with_status(&runs, "running").is_empty() && with_status(&runs, "waiting").is_empty()
        });
    }
    let (often, once) = (fired(&often), fired(&once));
    let times = planned(&often);
    let (first, last) = (*times.keys().next().expect("some"), *times.keys().next_back().expect("some"));
    let missing: Vec<u64> = (first..=last).step_by(1000).filter(|second| !times.contains_key(second)).collect();
    let mut errors: Vec<f64> = often
        .iter()
        .filter(|one| one.header("maelstrom-cause") == "schedule")
        .map(|one| one.came.abs_diff(one.planned()) as f64)
        .collect();
    println!("cron.planned {} cron.fired {} cron.doubled_by_restarts {rolled}", times.len(), often.len());
    println!("cron.once_planned {} cron.once_fired {}", (last - first) / 1000 + 1, once.len());
    println!(
        "cron.fire_error_p50_ms {} cron.fire_error_p99_ms {}",
        quantile(&mut errors, 0.5),
        quantile(&mut errors, 0.99)
    );
    assert_eq!(missing, [0; 0], "planned and not fired; {}", cluster.logs());
    assert!(times.len() >= 60);
    let doubled: Vec<_> = planned(&once).into_iter().filter(|(_, count)| *count > 1).collect();
    assert_eq!(doubled, [], "fired twice; {}", cluster.logs());
    let identities: BTreeSet<&str> = often.iter().map(|one| one.header("idempotency-key")).collect();
    assert_eq!(identities.len(), times.len());
    let one = often.first().expect("some");
    assert_eq!(one.header("maelstrom-cron-source"), "often");
    assert_eq!(one.header("maelstrom-run-id"), one.header("idempotency-key"));
    assert_eq!(one.header("maelstrom-attempt"), "1");
}

#[test]
fn a_schedule_is_shown_run_by_hand_paused_and_resumed_without_a_burst() {
    let cluster = Cluster::start("cron-hand", 2);
    let path = record("hand", "hand");
    let (node, other) = (&cluster.nodes[0], &cluster.nodes[1]);
    component(node);
    let document = json!({"component": "job", "cron": {"schedule": "30 2 * * *", "timezone": "Europe/Berlin",
        "path": format!("/record?path={}", path.display())}});
    let (status, answer) = node.api("PUT", "/v1/sources/hand", &document.to_string());
    assert_eq!(status, 201, "{answer}");
    assert!(answer.contains("runs next at ") && answer.contains("T02:30:00+0"), "{answer}");
    cluster.until("all have it", || other.api("GET", "/v1/sources/hand/next?count=7", "").0 == 200);
    let next = other.look("/v1/sources/hand/next?count=7");
    assert_eq!(next["times"].as_array().map(Vec::len), Some(7), "{next}");

    // Asked for at one node, begun by whoever has the seat, seen by all.
    assert_eq!(other.api("POST", "/v1/sources/hand/run", "").0, 200);
    cluster.until("it ran", || cluster.nodes.iter().all(|node| with_status(&runs(node, "hand"), "ok").len() == 1));
    let ran = runs(node, "hand").remove(0);
    assert_eq!(
        (&ran["cause"], &ran["http_status"], &ran["output"]),
        (&json!("manual"), &json!(200), &json!("recorded\n"))
    );
    assert_eq!(fired(&path).iter().map(|one| one.header("maelstrom-cause").to_owned()).collect::<Vec<_>>(), ["manual"]);

    // A failure is shown with its reason.
    let failing = json!({"component": "job", "cron": {"schedule": "@yearly", "path": "/status/500"}});
    node.put("sources", "failing", &failing.to_string());
    assert_eq!(node.api("POST", "/v1/sources/failing/run", "").0, 200);
    cluster.until("it failed", || with_status(&runs(node, "failing"), "failed").len() == 1);

    // What is planned while it rests is not made up for.
    schedule(node, "rests", &path, json!({"missed": "all"}));
    cluster.until("it fires", || fired(&path).iter().any(|one| one.header("maelstrom-cron-source") == "rests"));
    assert_eq!(node.api("POST", "/v1/sources/rests/disable", "").0, 200);
    let (status, refusal) = node.api("POST", "/v1/sources/rests/run", "");
    assert_eq!(status, 409, "{refusal}");
    let rested = || planned(&fired(&path)).into_keys().max();
    let mut last = rested();
    std::thread::sleep(std::time::Duration::from_secs(4));
    last = last.max(rested());
    assert_eq!(node.api("POST", "/v1/sources/rests/enable", "").0, 200);
    cluster.until("it fires again", || rested() > last.map(|last| last + 1000));
    let gaps: Vec<u64> = planned(&fired(&path)).into_keys().filter(|at| at % 1000 == 0).collect();
    let widest = gaps.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(widest > Some(3000), "nothing of the rest was made up for: {gaps:?}");

    assert_eq!(node.api("DELETE", "/v1/sources/rests", "").0, 200);
    let (status, refusal) = node.api("GET", "/v1/sources/rests/runs", "");
    assert_eq!(status, 404, "{refusal}");
}
