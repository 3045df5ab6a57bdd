//! The process runtime keeps the contract of all runtimes, and what is its own.

#![allow(clippy::disallowed_methods, reason = "tests measure real time")]

use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;

use maelstrom::failure::Phase;
use maelstrom::id::InstanceId;
use maelstrom::model::component::{Command, Image, PullPolicy, Workload};
use maelstrom::runtime::process::ProcessRuntime;
use maelstrom::runtime::{BoxFuture, InstanceSpec, LogBook, Owner, Runtime, RuntimeEvent, Started};
use tokio::sync::mpsc;

use support::contract::{self, Bench, component, new_owner, quiet};
use support::sample::testapp;

mod support {
    pub mod contract;
    pub mod sample;
}

contract_tests!(Some(ProcessBench));

struct ProcessBench;

fn program(argv: &[&str]) -> Workload {
    Workload::Command(Command { argv: argv.iter().map(|&word| word.into()).collect(), cwd: None })
}

impl Bench for ProcessBench {
    fn open<'a>(
        &'a self,
        data_dir: &'a Path,
        owner: Owner,
        logs: Arc<LogBook>,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> BoxFuture<'a, Arc<dyn Runtime>> {
        Box::pin(async move {
            let runtime = ProcessRuntime::open(data_dir, owner, logs, events).expect("a data directory");
            Arc::new(runtime) as Arc<dyn Runtime>
        })
    }

    fn testapp(&self) -> (Workload, Option<NonZeroU16>) {
        (program(&[&testapp().to_string_lossy()]), None)
    }

    fn broken(&self) -> Workload {
        program(&["no-such-program-anywhere"])
    }

    fn remains<'a>(&'a self, data_dir: &'a Path, id: &'a InstanceId) -> BoxFuture<'a, Vec<String>> {
        Box::pin(async move {
            let mark = format!("MAELSTROM_INSTANCE_ID={id}");
            let mut left = Vec::new();
            for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
                let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
                if environ.split(|byte| *byte == 0).any(|one| one == mark.as_bytes()) {
                    left.push(format!("process {}", entry.file_name().display()));
                }
            }
            let home = data_dir.join("instances").join(id.as_str());
            if home.exists() {
                left.push(home.display().to_string());
            }
            left
        })
    }

    fn kill<'a>(&'a self, started: &'a Started) -> BoxFuture<'a, ()> {
        let status = std::process::Command::new("kill").args(["-KILL", &started.handle]).status().expect("kill");
        assert!(status.success());
        Box::pin(async {})
    }
}

/// Why a component cannot be started.
async fn refusal(workload: Workload, port: Option<NonZeroU16>) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let logs = Arc::new(LogBook::open(dir.path()).expect("a log book"));
    let (events, _receiver) = mpsc::channel(8);
    let runtime = ProcessBench.open(dir.path(), new_owner(), logs, events).await;
    let component = Arc::new(component("api", workload, port));
    let spec =
        InstanceSpec { id: InstanceId::new(&component.name, 7), component, version: "1".into(), cfg: Vec::new() };
    let error = runtime.start(&spec, quiet()).await.expect_err("it cannot be started");
    assert_eq!(error.phase, Phase::Start);
    assert_eq!(ProcessBench.remains(dir.path(), &spec.id).await, Vec::<String>::new());
    error.reason
}

#[tokio::test]
async fn a_command_that_is_not_found_is_refused_with_what_was_looked_for_and_where() {
    let reason = refusal(program(&["no-such-program-anywhere"]), None).await;
    assert!(reason.contains("no-such-program-anywhere") && reason.contains("PATH"), "{reason}");
}

#[tokio::test]
async fn a_file_that_is_no_program_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("notes.txt");
    std::fs::write(&file, "no program").expect("written");
    let reason = refusal(program(&[&file.to_string_lossy()]), None).await;
    assert!(reason.contains("not executable"), "{reason}");
}

#[tokio::test]
async fn an_image_is_refused_with_what_to_do() {
    let image = Image {
        pinned: None,
        reference: "nginx:1".into(),
        command: Vec::new(),
        entrypoint: Vec::new(),
        pull: PullPolicy::Missing,
        credentials: None,
    };
    let reason = refusal(Workload::Image(image), None).await;
    assert!(reason.contains("nginx:1") && reason.contains("--runtime docker"), "{reason}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_before_anything_starts() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let reason = refusal(program(&[&testapp().to_string_lossy()]), NonZeroU16::new(port)).await;
    assert!(reason.contains(&port.to_string()) && reason.contains("taken"), "{reason}");
}

#[tokio::test]
async fn the_kernels_killer_does_not_spare_a_component_as_it_spares_the_daemon() {
    let dir = tempfile::tempdir().expect("a directory");
    let logs = Arc::new(LogBook::open(dir.path()).expect("a log book"));
    let (events, _receiver) = mpsc::channel(8);
    let runtime = ProcessBench.open(dir.path(), new_owner(), logs, events).await;
    let component = Arc::new(component("api", program(&["sleep", "100"]), None));
    let spec =
        InstanceSpec { id: InstanceId::new(&component.name, 7), component, version: "1".into(), cfg: Vec::new() };
    let started = runtime.start(&spec, quiet()).await.expect("it starts");
    let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", started.handle)).expect("its score");
    assert_eq!(score.trim(), "0");
    runtime.stop(&spec.id, "SIGKILL", std::time::Duration::from_secs(1)).await.expect("it stops");
}
