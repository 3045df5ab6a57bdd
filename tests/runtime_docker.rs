//! The Docker runtime keeps the contract of all runtimes, and what is its own. Runs against the Docker of this
//! machine; without one it says so and passes (`MAELSTROM_TEST_DOCKER=1` makes that a failure).

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "tests measure real time and say what did not run")]

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use maelstrom::failure::Phase;
use maelstrom::id::InstanceId;
use maelstrom::model::cfg::{Delivery, Given};
use maelstrom::model::component::{Component, Image, PullPolicy, Volume, VolumeKind, Workload};
use maelstrom::runtime::docker::DockerRuntime;
use maelstrom::runtime::{BoxFuture, Exit, InstanceSpec, LogBook, Owner, Runtime, RuntimeError, RuntimeEvent, Started};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use support::contract::{self, Bench, PATIENCE, eventually, get, quiet, unique};
use support::image::{self, TestImage};

mod support {
    pub mod contract;
    pub mod image;
}

contract_tests!(DockerBench::new());

struct DockerBench {
    image: Arc<TestImage>,
    owners: Mutex<Vec<Owner>>,
}

impl DockerBench {
    fn new() -> Option<Self> {
        TestImage::get().map(|image| Self { image, owners: Mutex::default() })
    }
}

impl Drop for DockerBench {
    fn drop(&mut self) {
        for owner in self.owners.lock().expect("no test panics in it").iter() {
            image::remove_containers(&format!("maelstrom.node={}", owner.node));
        }
    }
}

impl Bench for DockerBench {
    fn open<'a>(
        &'a self,
        data_dir: &'a Path,
        owner: Owner,
        logs: Arc<LogBook>,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> BoxFuture<'a, Arc<dyn Runtime>> {
        self.owners.lock().expect("no test panics in it").push(owner);
        Box::pin(async move {
            let runtime = DockerRuntime::connect(image::socket().to_str(), data_dir, owner, logs, events).await;
            Arc::new(runtime.expect("Docker answers")) as Arc<dyn Runtime>
        })
    }

    fn testapp(&self) -> (Workload, Option<NonZeroU16>) {
        (workload(&self.image.name), None)
    }

    fn extra_env(&self) -> Vec<(String, String)> {
        vec![("BIND".into(), "0.0.0.0".into())]
    }

    fn broken(&self) -> Workload {
        absent()
    }

    fn remains<'a>(&'a self, _: &'a Path, id: &'a InstanceId) -> BoxFuture<'a, Vec<String>> {
        let left = image::containers(&format!("maelstrom.instance={id}"));
        let left = left.iter().map(|container| format!("{} {}", container["Names"][0], container["Status"]));
        let left = left.collect();
        Box::pin(async move { left })
    }

    fn kill<'a>(&'a self, started: &'a Started) -> BoxFuture<'a, ()> {
        image::json("POST", &format!("/containers/{}/kill", started.handle), None);
        Box::pin(async {})
    }
}

fn workload(reference: &str) -> Workload {
    Workload::Image(Image {
        pinned: None,
        reference: reference.into(),
        command: Vec::new(),
        entrypoint: Vec::new(),
        pull: PullPolicy::Missing,
        credentials: None,
    })
}

/// An image that is not there and must not be fetched.
fn absent() -> Workload {
    let Workload::Image(image) = workload("no-such-image") else { unreachable!("an image") };
    Workload::Image(Image { pull: PullPolicy::Never, ..image })
}

/// A runtime with an owner of its own, and what it tells.
struct Node {
    bench: DockerBench,
    owner: Owner,
    logs: Arc<LogBook>,
    runtime: Arc<dyn Runtime>,
    events: mpsc::Receiver<RuntimeEvent>,
    _dir: tempfile::TempDir,
}

impl Node {
    async fn new() -> Option<Self> {
        let bench = DockerBench::new()?;
        let dir = tempfile::tempdir().expect("a directory");
        let logs = Arc::new(LogBook::open(dir.path()).expect("a log book"));
        let owner = contract::new_owner();
        let (sender, events) = mpsc::channel(64);
        let runtime = bench.open(dir.path(), owner, Arc::clone(&logs), sender).await;
        Some(Self { bench, owner, logs, runtime, events, _dir: dir })
    }

    fn spec(&self, change: impl FnOnce(&mut Component)) -> InstanceSpec {
        let mut component = contract::component("docker-test", workload(&self.bench.image.name), None);
        component.env = BTreeMap::from([("BIND".to_owned(), "0.0.0.0".to_owned())]);
        change(&mut component);
        let id = InstanceId::new(&component.name, unique());
        InstanceSpec { id, component: Arc::new(component), version: "v7".into(), cfg: Vec::new() }
    }

    async fn start(&self, spec: &InstanceSpec) -> Started {
        let started = self.runtime.start(spec, quiet()).await.expect("started");
        get(started.address, "/").await;
        started
    }

    async fn stop(&self, spec: &InstanceSpec) {
        self.runtime.stop(&spec.id, "SIGTERM", Duration::from_secs(2)).await.expect("stopped");
    }

    async fn refused(&self, spec: &InstanceSpec) -> RuntimeError {
        self.runtime.start(spec, quiet()).await.expect_err("it cannot start")
    }

    async fn exit(&mut self) -> Exit {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event").expect("open");
        let RuntimeEvent::Exited(_, exit) = event else { panic!("{event:?}") };
        exit
    }
}

fn inspect(started: &Started) -> Value {
    image::json("GET", &format!("/containers/{}/json", started.handle), None)
}

fn freezer_state(started: &Started) -> Option<String> {
    std::fs::read_to_string(format!("/sys/fs/cgroup/freezer/docker/{}/freezer.state", started.handle)).ok()
}

#[tokio::test]
async fn an_image_that_no_registry_can_be_asked_for_is_an_error_of_the_pull_with_its_name() {
    let Some(node) = Node::new().await else { return };
    let spec = node.spec(|component| component.workload = workload("registry.invalid/no/such:1"));
    let error = node.refused(&spec).await;
    assert_eq!((error.phase, error.unavailable), (Phase::Pull, false));
    for part in ["registry.invalid/no/such:1", "cannot be reached", "docker load"] {
        assert!(error.reason.contains(part), "{error}");
    }
}

#[tokio::test]
async fn an_image_that_must_not_be_pulled_and_is_not_there_says_so() {
    let Some(node) = Node::new().await else { return };
    let spec = node.spec(|component| component.workload = absent());
    let error = node.refused(&spec).await;
    assert_eq!(error.phase, Phase::Pull);
    assert!(error.reason.contains("no-such-image") && error.reason.contains("`never`"), "{error}");
}

#[tokio::test]
async fn a_container_that_was_created_and_cannot_be_started_is_removed() {
    let Some(mut node) = Node::new().await else { return };
    let spec = node.spec(|component| component.network = Some("no-such-network".into()));
    let error = node.refused(&spec).await;
    assert!(error.phase == Phase::Start && error.reason.contains("no-such-network"), "{error}");
    assert_eq!(image::containers(&format!("maelstrom.instance={}", spec.id)), Vec::<Value>::new());
    assert!(node.events.try_recv().is_err());
}

#[tokio::test]
async fn an_entry_point_that_does_not_exist_ends_with_a_line_that_names_it() {
    let Some(mut node) = Node::new().await else { return };
    let spec = node.spec(|component| {
        if let Workload::Image(image) = &mut component.workload {
            image.entrypoint = vec!["/does-not-exist".into()];
        }
    });
    // The init inside starts; what it shall run does not.
    node.runtime.start(&spec, quiet()).await.expect("started");
    assert_eq!(node.exit().await.code, Some(127));
    let lines = node.logs.last_lines(&spec.id, 10);
    assert!(lines.iter().any(|line| line.contains("/does-not-exist") && line.contains("No such file")), "{lines:?}");
}

#[tokio::test]
async fn limits_labels_and_volumes_are_what_docker_was_told() {
    let Some(node) = Node::new().await else { return };
    let volume = |kind, source: &str, target: &str| Volume {
        kind,
        source: source.into(),
        target: target.into(),
        read_only: true,
    };
    let dir = tempfile::tempdir().expect("a directory");
    let spec = node.spec(|component| {
        component.memory_limit = Some(64 << 20);
        component.cpu = NonZeroU32::new(500);
        component.labels.insert("team".into(), "blue".into());
        component.volumes = vec![
            volume(VolumeKind::Bind, dir.path().to_str().expect("text"), "/data"),
            Volume { read_only: false, ..volume(VolumeKind::Tmpfs, "", "/scratch") },
        ];
    });
    let started = node.start(&spec).await;
    let found = inspect(&started);
    let host = &found["HostConfig"];
    assert_eq!(host["Memory"], 64 << 20);
    assert_eq!(host["MemorySwap"], 64 << 20);
    assert_eq!(host["MemoryReservation"], 16 << 20);
    assert_eq!(host["NanoCpus"], 500_000_000);
    assert_eq!(host["RestartPolicy"]["Name"], "no");
    let labels = &found["Config"]["Labels"];
    assert_eq!(labels["maelstrom.node"], node.owner.node.to_string());
    assert_eq!(labels["maelstrom.cluster"], node.owner.cluster.to_string());
    assert_eq!(labels["maelstrom.component"], "docker-test");
    assert_eq!(labels["maelstrom.instance"], spec.id.as_str());
    assert_eq!((&labels["maelstrom.version"], &labels["team"]), (&json!("v7"), &json!("blue")));
    assert_eq!(found["Name"], format!("/maelstrom-{}", spec.id));
    let mut mounts: Vec<_> =
        found["Mounts"].as_array().expect("a list").iter().map(|mount| &mount["Destination"]).collect();
    mounts.sort_by_key(|mount| mount.to_string());
    assert_eq!(mounts, ["/data", "/scratch"]);
    node.stop(&spec).await;
}

#[tokio::test]
async fn a_setting_is_a_file_at_the_path_that_the_definition_names_and_in_no_label() {
    let Some(node) = Node::new().await else { return };
    let mut spec = node.spec(|_| {});
    let file = Delivery::File { path: "/etc/tls/api.key".into(), variable: Some("KEY_FILE".into()) };
    spec.cfg = vec![Given::new(file, b"hush of the key\n").expect("a file")];
    let started = node.start(&spec).await;
    assert!(get(started.address, "/env").await.lines().any(|line| line == "KEY_FILE=/etc/tls/api.key"));
    assert_eq!(get(started.address, "/read?path=/etc/tls/api.key").await, "hush of the key\n");
    let found = inspect(&started);
    let mounts = found["Mounts"].as_array().expect("a list");
    let mount = mounts.iter().find(|mount| mount["Destination"] == "/etc/tls/api.key").expect("a mount");
    assert_eq!((&mount["Type"], &mount["RW"]), (&json!("bind"), &json!(false)));
    assert!(!found.to_string().contains("hush of the key"), "Docker was told the value: {found}");
    let source = std::path::PathBuf::from(mount["Source"].as_str().expect("a path"));
    assert!(source.starts_with("/dev/shm") && source.exists(), "{source:?}");
    node.stop(&spec).await;
    eventually("its file is gone", || async { !source.exists() }).await;
}

#[tokio::test]
async fn on_the_network_of_the_host_an_instance_is_on_the_loopback() {
    let Some(node) = Node::new().await else { return };
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let spec = node.spec(|component| {
        component.network = Some("host".into());
        component.port = NonZeroU16::new(port);
    });
    let started = node.start(&spec).await;
    assert_eq!(started.address, ([127, 0, 0, 1], port).into());
    node.stop(&spec).await;
}

#[tokio::test]
async fn an_instance_beyond_its_memory_is_told_to_be_so() {
    let Some(mut node) = Node::new().await else { return };
    let spec = node.spec(|component| component.memory_limit = Some(32 << 20));
    let started = node.start(&spec).await;
    assert_eq!(contract::try_get(started.address, "/alloc?mb=200").await, None);
    assert_eq!(node.exit().await, Exit { code: Some(137), out_of_memory: true });
}

#[tokio::test]
async fn where_permitted_an_instance_is_frozen_by_file_and_docker_does_not_know() {
    let Some(node) = Node::new().await else { return };
    let spec = node.spec(|_| {});
    let started = node.start(&spec).await;
    if freezer_state(&started).is_none() {
        println!("NOT RUN: cgroup v1 freezer");
        return node.stop(&spec).await;
    }
    node.runtime.freeze(&spec.id).await.expect("frozen");
    assert_eq!(freezer_state(&started).as_deref(), Some("FROZEN\n"));
    assert_eq!(inspect(&started)["State"]["Paused"], false);
    let before = Instant::now();
    node.runtime.thaw(&spec.id).await.expect("thawed");
    println!("thawed in {:?}", before.elapsed());
    assert_eq!(freezer_state(&started).as_deref(), Some("THAWED\n"));
    node.stop(&spec).await;
}

#[tokio::test]
async fn an_instance_that_someone_else_paused_is_adopted_as_frozen_and_unpaused_by_docker() {
    let Some(mut node) = Node::new().await else { return };
    let spec = node.spec(|_| {});
    let started = node.start(&spec).await;
    let (sender, events) = mpsc::channel(64);
    node.events = events;
    let dir = tempfile::tempdir().expect("a directory");
    image::json("POST", &format!("/containers/{}/pause", started.handle), None);
    node.runtime = node.bench.open(dir.path(), node.owner, Arc::clone(&node.logs), sender).await;
    let found = node.runtime.adopt().await.expect("adopted");
    assert!(found[0].frozen && found[0].started == started && found[0].version == "v7", "{found:?}");
    node.runtime.thaw(&spec.id).await.expect("thawed");
    assert_eq!(inspect(&started)["State"]["Paused"], false);
    get(started.address, "/").await;
    node.stop(&spec).await;
}

#[tokio::test]
async fn one_paused_from_outside_while_it_runs_is_unpaused_before_it_is_stopped() {
    let Some(mut node) = Node::new().await else { return };
    let spec = node.spec(|_| {});
    let started = node.start(&spec).await;
    image::json("POST", &format!("/containers/{}/pause", started.handle), None);
    // Told by an event; freezing what is frozen then does nothing.
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.runtime.freeze(&spec.id).await.expect("frozen already");
    node.stop(&spec).await;
    assert_eq!(node.exit().await.code, Some(143));
}

#[tokio::test]
async fn a_container_of_someone_else_in_the_way_is_reported_and_left_alone() {
    let Some(node) = Node::new().await else { return };
    let spec = node.spec(|_| {});
    let label = format!("maelstrom.test.stranger={}", unique());
    let (name, value) = label.split_once('=').expect("two parts");
    let body = json!({ "Image": node.bench.image.name, "Labels": { name: value } });
    image::json("POST", &format!("/containers/create?name=maelstrom-{}", spec.id), Some(&body));
    let error = node.refused(&spec).await;
    assert!(error.reason.contains("is not ours") && error.phase == Phase::Start, "{error}");
    assert_eq!(image::containers(&label).len(), 1);
    image::remove_containers(&label);
}

#[tokio::test]
async fn a_leftover_of_ours_in_the_way_is_replaced() {
    let Some(node) = Node::new().await else { return };
    let spec = node.spec(|_| {});
    let labels = json!({
        "maelstrom.node": node.owner.node.to_string(), "maelstrom.cluster": node.owner.cluster.to_string(),
    });
    let body = json!({ "Image": node.bench.image.name, "Labels": labels });
    image::json("POST", &format!("/containers/create?name=maelstrom-{}", spec.id), Some(&body));
    node.start(&spec).await;
    node.stop(&spec).await;
}

#[tokio::test]
async fn a_start_that_is_called_off_leaves_nothing() {
    let Some(mut node) = Node::new().await else { return };
    for wait in [0, 5, 20, 60, 120] {
        let spec = node.spec(|_| {});
        let start = node.runtime.start(&spec, quiet());
        if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(wait), start).await {
            node.stop(&spec).await;
            node.exit().await;
        }
        eventually("nothing remains", || async {
            image::containers(&format!("maelstrom.node={}", node.owner.node)).is_empty()
        })
        .await;
    }
    assert!(node.events.try_recv().is_err());
}

#[tokio::test]
async fn a_log_driver_that_cannot_be_read_is_told_in_the_log() {
    let Some(node) = Node::new().await else { return };
    let spec = node.spec(|component| component.log.driver = Some("none".into()));
    node.start(&spec).await;
    eventually("a line says so", || async {
        let lines = node.logs.last_lines(&spec.id, 10);
        lines.iter().any(|line| line.contains("log driver does not allow reading"))
    })
    .await;
    node.stop(&spec).await;
}

#[tokio::test]
async fn without_docker_the_error_says_where_and_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let logs = Arc::new(LogBook::open(dir.path()).expect("a log book"));
    let (sender, _events) = mpsc::channel(1);
    let host = Some("/nonexistent/docker.sock");
    let error = DockerRuntime::connect(host, dir.path(), contract::new_owner(), logs, sender).await;
    let error = error.expect_err("no Docker there");
    assert!(error.unavailable);
    assert_eq!(
        error.reason,
        "Docker does not answer on /nonexistent/docker.sock: is it running? (systemctl status docker)"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_docker_goes_and_comes_back_it_is_told_and_no_end_is_missed() {
    let Some(mut node) = Node::new().await else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let way = dir.path().join("docker.sock");
    let open = Door::open(&way);
    let (sender, events) = mpsc::channel(64);
    node.events = events;
    let runtime = DockerRuntime::connect(way.to_str(), dir.path(), node.owner, Arc::clone(&node.logs), sender).await;
    node.runtime = Arc::new(runtime.expect("Docker answers"));
    let (stays, ends) = (node.spec(|_| {}), node.spec(|_| {}));
    let (stays_at, ends_at) = (node.start(&stays).await, node.start(&ends).await);
    node.runtime.freeze(&stays.id).await.expect("frozen");

    open.close();
    let lost = tokio::time::timeout(PATIENCE, node.events.recv()).await.expect("told").expect("open");
    assert!(matches!(&lost, RuntimeEvent::Lost(reason) if reason.contains("is it running?")), "{lost:?}");
    let error = node.refused(&node.spec(|_| {})).await;
    assert!(error.unavailable, "{error:?}");
    node.runtime.thaw(&stays.id).await.expect("a thaw needs no Docker");
    get(stays_at.address, "/log?lines=2&text=meanwhile").await;
    image::json("POST", &format!("/containers/{}/kill", ends_at.handle), None);

    let _open = Door::open(&way);
    let (mut back, mut exit) = (0, None);
    while back == 0 || exit.is_none() {
        match tokio::time::timeout(PATIENCE, node.events.recv()).await.expect("told").expect("open") {
            RuntimeEvent::Back => back += 1,
            RuntimeEvent::Exited(id, end) if id == ends.id && exit.is_none() => exit = Some(end),
            event @ (RuntimeEvent::Exited(..) | RuntimeEvent::Lost(_)) => panic!("{event:?}"),
        }
    }
    assert_eq!(exit, Some(Exit { code: Some(137), out_of_memory: false }));
    let found = node.runtime.adopt().await.expect("adopted");
    assert_eq!(found.iter().map(|found| &found.id).collect::<Vec<_>>(), [&stays.id]);
    let count = || node.logs.last_lines(&stays.id, 100).iter().filter(|line| line.contains("out meanwhile")).count();
    eventually("what was written meanwhile is in the book", || async { count() >= 2 }).await;
    node.stop(&stays).await;
    assert_eq!(node.exit().await.code, Some(143));
    let lines = node.logs.last_lines(&stays.id, 100);
    let starts = lines.iter().filter(|line| *line == "testapp starts").count();
    assert_eq!((starts, lines.iter().filter(|line| line.contains("out meanwhile")).count()), (1, 2), "{lines:?}");
}

#[tokio::test]
async fn a_frozen_instance_can_be_stopped_by_someone_else() {
    let Some(mut node) = Node::new().await else { return };
    let spec = node.spec(|_| {});
    let started = node.start(&spec).await;
    node.runtime.freeze(&spec.id).await.expect("frozen");
    let path = format!("/containers/{}/stop?t=30", started.handle);
    let begin = Instant::now();
    tokio::task::spawn_blocking(move || image::json("POST", &path, None)).await.expect("stopped");
    assert!(begin.elapsed() < Duration::from_secs(20), "Docker waited for a frozen process: {:?}", begin.elapsed());
    assert_eq!(node.exit().await.code, Some(143));
}

/// A way to Docker that can be closed, as a Docker that stops.
struct Door(tokio::task::JoinHandle<()>, std::path::PathBuf);

impl Door {
    fn open(path: &Path) -> Self {
        let listener = tokio::net::UnixListener::bind(path).expect("a socket");
        let task = tokio::spawn(async move {
            let mut ways = tokio::task::JoinSet::new();
            while let Ok((mut one, _)) = listener.accept().await {
                ways.spawn(async move {
                    let mut other = tokio::net::UnixStream::connect(image::socket()).await.expect("Docker answers");
                    _ = tokio::io::copy_bidirectional(&mut one, &mut other).await;
                });
            }
        });
        Self(task, path.to_owned())
    }

    fn close(self) {
        self.0.abort();
        std::fs::remove_file(self.1).expect("removed");
    }
}
