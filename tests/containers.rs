//! Clusters whose components are containers of a real Docker: requests at all entrances, a daemon that is killed while its
//! containers run on, and a change. Without Docker it says so and passes; under `MAELSTROM_TEST_DOCKER=1` it fails.

#![allow(clippy::disallowed_methods, unreachable_pub, reason = "a test of real processes waits in real time")]

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

#[path = "support/cluster.rs"]
mod cluster;

mod support {
    pub mod contract {
        /// Different for each image of this run.
        pub fn unique() -> u64 {
            use std::sync::atomic::{AtomicU64, Ordering};
            static COUNT: AtomicU64 = AtomicU64::new(0);
            COUNT.fetch_add(1, Ordering::Relaxed)
        }
    }
    #[path = "image.rs"]
    pub mod image;
}

use cluster::Cluster;
use cluster::daemon::try_exchange;
use support::image::{self, TestImage};

fn deploy(cluster: &Cluster, image: &TestImage, mark: &str) {
    let document = json!({
        "image": image.name, "pull": "never", "env": {"BIND": "0.0.0.0", "MARK": mark}, "concurrency": 100,
        "min": 2, "max": 2, "memory": "16MiB", "stop": {"grace": "1s"},
    });
    cluster.nodes[0].put("components", "api", &document.to_string());
}

/// The containers of this test in one of these states; of any if none is named.
fn in_state(image: &TestImage, state: Option<&str>) -> BTreeSet<String> {
    let all = image::containers("maelstrom.component=api");
    let is = |one: &&Value| one["Image"] == *image.name && state.is_none_or(|state| one["State"] == *state);
    all.iter().filter(is).filter_map(|one| one["Id"].as_str().map(str::to_owned)).collect()
}

fn containers(image: &TestImage) -> BTreeSet<String> {
    in_state(image, None)
}

fn running(image: &TestImage) -> BTreeSet<String> {
    in_state(image, Some("running"))
}

/// The nodes of the instances that take events.
fn places(cluster: &Cluster) -> Vec<String> {
    let all = cluster.nodes[0].instances();
    let ready = all.iter().filter(|item| item["state"] == "ready");
    ready.filter_map(|item| item["node"].as_str().map(str::to_owned)).collect()
}

fn two_of_two(cluster: &Cluster, image: &TestImage, what: &str) {
    cluster.until(what, || places(cluster).len() == 2 && running(image).len() == 2);
}

/// Requests at these entrances, without a pause, as long as `during` runs: how many, and the answers that are not 200.
fn under_load(entrances: &[SocketAddr], during: impl FnOnce()) -> (usize, Vec<(u16, String)>) {
    let done = AtomicBool::new(false);
    let request = "GET / HTTP/1.1\r\nHost: api.localhost\r\nConnection: close\r\n\r\n";
    std::thread::scope(|scope| {
        let ask = |entrance: SocketAddr| {
            let done = &done;
            scope.spawn(move || {
                let (mut asked, mut failed) = (0, Vec::new());
                while !done.load(Ordering::Relaxed) {
                    let answer = TcpStream::connect(entrance).and_then(|stream| try_exchange(stream, request));
                    let answer = answer.unwrap_or_default();
                    asked += 1;
                    failed.extend(Some(answer).filter(|(status, _)| *status != 200));
                }
                (asked, failed)
            })
        };
        let asking: Vec<_> = entrances.iter().map(|entrance| ask(*entrance)).collect();
        // Also if it panics, or the others would go on for ever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
        done.store(true, Ordering::Relaxed);
        let all = asking.into_iter().map(|asking| asking.join().expect("asked"));
        let (asked, failed) = all.fold((0, Vec::new()), |(sum, mut all), (asked, failed)| {
            all.extend(failed);
            (sum + asked, all)
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (asked, failed)
    })
}

/// Removes the containers of a test that failed.
struct Sweep<'a>(&'a TestImage);

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        for id in containers(self.0) {
            drop(image::call("DELETE", &format!("/containers/{id}?force=1&v=1"), "text/plain", b""));
        }
    }
}

fn check(test: &str, count: usize) {
    let Some(image) = TestImage::get() else { return };
    let mut cluster = Cluster::start_of(test, count, "docker");
    let _sweep = Sweep(&image);
    deploy(&cluster, &image, "1");
    let source = json!({"component": "api", "http": {"host": "api.localhost"}});
    cluster.nodes[0].put("sources", "api", &source.to_string());
    cluster.everywhere("/v1/sources/api", 200);
    two_of_two(&cluster, &image, "two containers run");
    let entrances: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.http).collect();
    let (asked, failed) = under_load(&entrances, || {
        deploy(&cluster, &image, "2");
        cluster.until("both are new", || {
            let view = cluster.nodes[1].look("/v1/components/api/rollout");
            view["state"] == "done" && view["revision"] == 2 && view["ready"] == 2 && view["old"] == 0
        });
    });
    assert!(asked > 50 && failed.is_empty(), "{failed:?} of {asked} failed\n{}", cluster.logs());
    two_of_two(&cluster, &image, "the old ones are gone");

    let before = running(&image);
    let place: usize = places(&cluster)[0].trim_start_matches('n').parse().expect("a number");
    let others: Vec<SocketAddr> =
        entrances.iter().enumerate().filter(|(index, _)| *index != place).map(|(_, entrance)| *entrance).collect();
    let home = cluster.kill_9(place);
    assert_eq!(running(&image), before, "containers outlive their daemon");
    cluster.until("the others have made up for it", || places(&cluster).len() == 2);
    assert!(running(&image).len() == 3 && running(&image).is_superset(&before), "its container still runs");
    let (asked, failed) = under_load(&others, || {
        cluster.start_again(place, home);
        cluster.all_alive();
        two_of_two(&cluster, &image, "the one too many goes");
    });
    assert!(asked > 0 && failed.is_empty(), "{failed:?} of {asked} failed\n{}", cluster.logs());
    let log = cluster.nodes[place].log();
    assert!(log.contains("adopted"), "it takes over what it finds\n{log}");
    for node in &cluster.nodes {
        assert_eq!(node.get("api.localhost"), 200);
    }
    assert_eq!(cluster.nodes[0].api("DELETE", "/v1/components/api", "").0 / 100, 2);
    cluster.until("nothing is left", || containers(&image).is_empty());
}

#[test]
fn three_and_five_nodes_run_containers_through_a_change_and_the_death_of_a_daemon() {
    check("containers-3", 3);
    check("containers-5", 5);
}
