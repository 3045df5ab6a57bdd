//! The contract of [`Runtime`] as tests, run against each implementation by `contract_tests!`. What differs between
//! runtimes is behind [`Bench`]; must not know of processes or containers.
//!
//! The sample component is `tests/support/testapp.rs`.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each runtime uses its part")]

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use maelstrom::id::{ClusterId, InstanceId, NodeId};
use maelstrom::model::cfg::{Delivery, Given};
use maelstrom::model::component::{Component, Health, LogOptions, RestartOrder, Stop, Workload};
use maelstrom::runtime::{BoxFuture, Exit, InstanceSpec, LogBook, OnProgress, Owner, Runtime, RuntimeEvent, Started};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Generous: the machine may be busy with other builds.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a runtime brings along to be tested.
pub trait Bench: Send + Sync + 'static {
    /// A runtime on a data directory. Opened twice on one directory it stands for a daemon before and after a crash.
    fn open<'a>(
        &'a self,
        data_dir: &'a Path,
        owner: Owner,
        logs: Arc<LogBook>,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> BoxFuture<'a, Arc<dyn Runtime>>;

    /// The test application, and the port it is to listen on if that is fixed.
    fn testapp(&self) -> (Workload, Option<NonZeroU16>);

    /// Environment that the application needs here besides that of the component.
    fn extra_env(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Something that cannot be started at all.
    fn broken(&self) -> Workload;

    /// Environment with which the application ignores SIGTERM.
    fn stubborn_env(&self) -> Vec<(String, String)> {
        vec![("IGNORE_TERM".into(), "1".into())]
    }

    /// The exit code of the application after SIGTERM.
    fn code_of_sigterm(&self) -> i32 {
        143
    }

    /// What there still is of an instance outside the log: processes, containers, directories. In words.
    fn remains<'a>(&'a self, data_dir: &'a Path, id: &'a InstanceId) -> BoxFuture<'a, Vec<String>>;

    /// Ends the instance from the outside, as an administrator or the kernel would.
    fn kill<'a>(&'a self, started: &'a Started) -> BoxFuture<'a, ()>;
}

/// One test per promise of the trait. `$bench` is an expression that makes the [`Bench`], or `None` to skip all.
#[macro_export]
macro_rules! contract_tests {
    ($bench:expr; $($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        $(
            $(#[$attribute])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bench: Option<_> = $bench;
                if let Some(bench) = bench {
                    contract::$name(bench).await;
                }
            }
        )*
    };
    ($bench:expr) => {
        $crate::contract_tests!($bench;
            an_instance_starts_and_answers,
            an_instance_is_told_who_it_is,
            an_instance_has_a_port_of_its_own,
            both_streams_are_logged_and_kept_after_the_end,
            a_follower_sees_lines_as_they_come,
            a_frozen_instance_does_not_answer_and_goes_on_where_it_was,
            freezing_and_thawing_twice_is_no_error,
            a_stopped_instance_is_asked_first,
            a_frozen_instance_can_be_stopped,
            an_instance_that_ignores_the_signal_is_killed_after_the_grace,
            stopping_what_is_gone_is_no_error,
            freezing_what_is_gone_is_an_error,
            children_of_an_instance_end_with_it,
            children_end_when_the_instance_ends_by_itself,
            an_end_is_reported_exactly_once,
            an_instance_that_fails_at_once_tells_its_code_and_last_words,
            a_restarted_daemon_adopts_what_runs,
            a_restarted_daemon_adopts_a_frozen_instance,
            what_was_written_while_no_daemon_ran_is_logged,
            what_ended_while_no_daemon_ran_is_cleared_away,
            an_instance_of_another_owner_is_not_touched,
            a_start_that_fails_leaves_nothing,
            settings_are_variables_and_files_in_memory_that_go_with_their_instance,
            settings_outlive_a_daemon_that_crashes_and_those_of_nobody_are_swept,
        );
    };
}

pub async fn an_instance_starts_and_answers(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, started) = node.start("answers", &[]).await;
    let body = get(started.address, "/").await;
    assert!(body.contains(&format!("instance {}", spec.id)), "{body}");
    node.end(&spec.id).await;
}

pub async fn an_instance_is_told_who_it_is(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, started) = node.start("told", &[("GREETING", "hello there")]).await;
    let env = get(started.address, "/env").await;
    let id = &spec.id;
    for line in [
        "GREETING=hello there".to_owned(),
        "MAELSTROM_COMPONENT=told".to_owned(),
        format!("MAELSTROM_INSTANCE_ID={id}"),
        "MAELSTROM_VERSION=v1".to_owned(),
        format!("MAELSTROM_NODE_ID={}", node.owner.node),
        format!("MAELSTROM_CLUSTER_ID={}", node.owner.cluster),
    ] {
        assert!(env.lines().any(|found| found == line), "{line} is not in:\n{env}");
    }
    assert!(env.lines().any(|line| line.starts_with("PORT=")), "{env}");
    assert!(!env.contains("CARGO_"), "the environment of the daemon leaks:\n{env}");
    node.end(id).await;
}

pub async fn an_instance_has_a_port_of_its_own(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (one, at_one) = node.start("twice", &[]).await;
    let (two, at_two) = node.start("twice", &[]).await;
    assert_ne!(at_one.address, at_two.address);
    assert!(get(at_one.address, "/").await.contains(one.id.as_str()));
    assert!(get(at_two.address, "/").await.contains(two.id.as_str()));
    node.end(&one.id).await;
    node.end(&two.id).await;
}

pub async fn both_streams_are_logged_and_kept_after_the_end(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, started) = node.start("writes", &[]).await;
    get(started.address, "/log?lines=100&text=hi").await;
    node.end(&spec.id).await;
    let lines = node.logs.tail(&spec.component.name, 1000, Some(&spec.id));
    let of = |stream: &str| {
        let lines = lines.iter().filter(|line| line.stream.to_string() == stream);
        lines.map(|line| line.text.clone()).collect::<Vec<_>>()
    };
    let (out, err) = (of("stdout"), of("stderr"));
    assert_eq!(
        (out.first().map(String::as_str), err.first().map(String::as_str)),
        (Some("testapp starts"), Some("testapp warns"))
    );
    assert_eq!(out.iter().filter(|text| text.starts_with("out hi ")).count(), 100);
    assert_eq!(err.iter().filter(|text| text.starts_with("err hi ")).count(), 100);
}

pub async fn a_follower_sees_lines_as_they_come(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, started) = node.start("followed", &[]).await;
    let (_, mut follow) = node.logs.follow(&spec.component.name, 0, None);
    get(started.address, "/log?lines=1&text=live").await;
    let seen = async {
        while let Some(line) = follow.next().await {
            if format!("{line:?}").contains("out live 0") {
                return true;
            }
        }
        false
    };
    assert!(tokio::time::timeout(PATIENCE, seen).await.expect("the line comes"));
    node.end(&spec.id).await;
}

pub async fn a_frozen_instance_does_not_answer_and_goes_on_where_it_was(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, started) = node.start("frozen", &[]).await;
    let mut connection = TcpStream::connect(started.address).await.expect("a connection");
    assert!(!ask(&mut connection, "/count").await.trim().is_empty());
    node.runtime.freeze(&spec.id).await.expect("frozen");
    send(&mut connection, "/count").await;
    let silent = tokio::time::timeout(Duration::from_millis(300), receive(&mut connection)).await;
    assert!(silent.is_err(), "a frozen instance answered: {silent:?}");
    node.runtime.thaw(&spec.id).await.expect("thawed");
    let body = tokio::time::timeout(PATIENCE, receive(&mut connection)).await.expect("an answer after the thaw");
    assert!(body.trim().parse::<u64>().is_ok(), "{body}");
    node.end(&spec.id).await;
}

pub async fn freezing_and_thawing_twice_is_no_error(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, started) = node.start("again", &[]).await;
    for _ in 0..2 {
        node.runtime.freeze(&spec.id).await.expect("frozen");
    }
    for _ in 0..2 {
        node.runtime.thaw(&spec.id).await.expect("thawed");
    }
    get(started.address, "/").await;
    node.end(&spec.id).await;
}

pub async fn a_stopped_instance_is_asked_first(bench: impl Bench) {
    let expected = bench.code_of_sigterm();
    let mut node = Node::new(bench).await;
    let (spec, _) = node.start("asked", &[]).await;
    node.runtime.stop(&spec.id, "SIGTERM", PATIENCE).await.expect("stopped");
    assert_eq!(node.exit_of(&spec.id).await.code, Some(expected));
    node.nothing_remains(&spec.id).await;
}

pub async fn a_frozen_instance_can_be_stopped(bench: impl Bench) {
    let expected = bench.code_of_sigterm();
    let mut node = Node::new(bench).await;
    let (spec, _) = node.start("cold", &[]).await;
    node.runtime.freeze(&spec.id).await.expect("frozen");
    node.runtime.stop(&spec.id, "SIGTERM", PATIENCE).await.expect("stopped");
    assert_eq!(node.exit_of(&spec.id).await.code, Some(expected));
    node.nothing_remains(&spec.id).await;
}

pub async fn an_instance_that_ignores_the_signal_is_killed_after_the_grace(bench: impl Bench) {
    let env = bench.stubborn_env();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut node = Node::new(bench).await;
    let (spec, _) = node.start("stubborn", &env).await;
    node.runtime.stop(&spec.id, "SIGTERM", Duration::from_millis(1200)).await.expect("stopped");
    assert_eq!(node.exit_of(&spec.id).await.code, Some(137));
    node.nothing_remains(&spec.id).await;
}

pub async fn stopping_what_is_gone_is_no_error(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, _) = node.start("gone", &[]).await;
    node.end(&spec.id).await;
    node.runtime.stop(&spec.id, "SIGTERM", PATIENCE).await.expect("gone already");
    assert!(node.no_more_events().await);
}

pub async fn freezing_what_is_gone_is_an_error(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, _) = node.start("nothing", &[]).await;
    node.end(&spec.id).await;
    assert!(node.runtime.freeze(&spec.id).await.is_err());
    assert!(node.runtime.thaw(&spec.id).await.is_err());
}

pub async fn children_of_an_instance_end_with_it(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, started) = node.start("parent", &[]).await;
    for _ in 0..3 {
        assert!(get(started.address, "/spawn-child").await.trim().parse::<u32>().is_ok());
    }
    node.runtime.stop(&spec.id, "SIGTERM", Duration::from_secs(1)).await.expect("stopped");
    // Nothing may be left at the moment that `stop` returns.
    node.nothing_remains(&spec.id).await;
}

pub async fn children_end_when_the_instance_ends_by_itself(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, started) = node.start("orphans", &[]).await;
    assert!(get(started.address, "/spawn-child").await.trim().parse::<u32>().is_ok());
    try_get(started.address, "/exit?code=3").await;
    assert_eq!(node.exit_of(&spec.id).await.code, Some(3));
    node.runtime.stop(&spec.id, "SIGTERM", PATIENCE).await.expect("nothing to stop");
    node.nothing_remains(&spec.id).await;
}

pub async fn an_end_is_reported_exactly_once(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, started) = node.start("once", &[]).await;
    node.bench.kill(&started).await;
    assert_eq!(node.exit_of(&spec.id).await, Exit { code: Some(137), out_of_memory: false });
    node.runtime.stop(&spec.id, "SIGTERM", PATIENCE).await.expect("gone already");
    assert!(node.no_more_events().await);
}

pub async fn an_instance_that_fails_at_once_tells_its_code_and_last_words(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let spec = node.spec("fails", &[("EXIT_AT_ONCE", "42")]);
    node.runtime.start(&spec, quiet()).await.expect("it starts, and ends then");
    assert_eq!(node.exit_of(&spec.id).await.code, Some(42));
    // What it wrote is in the book when its end is reported.
    let lines = node.logs.last_lines(&spec.id, 10);
    assert!(lines.iter().any(|line| line == "testapp gives up"), "{lines:?}");
    assert!(lines.iter().any(|line| line == "testapp starts"), "{lines:?}");
    node.runtime.stop(&spec.id, "SIGTERM", PATIENCE).await.expect("cleared away");
    node.nothing_remains(&spec.id).await;
}

pub async fn a_restarted_daemon_adopts_what_runs(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, started) = node.start("adopted", &[]).await;
    let before: u64 = get(started.address, "/count").await.trim().parse().expect("a number");
    node.crash().await;
    let found = node.runtime.adopt().await.expect("adopted");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0].id, found[0].version.as_str(), &found[0].started), (&spec.id, "v1", &started));
    assert!(!found[0].frozen);
    let after: u64 = get(started.address, "/count").await.trim().parse().expect("a number");
    assert!(after > before, "another program answers");
    get(started.address, "/log?lines=1&text=after").await;
    try_get(started.address, "/exit?code=7").await;
    // The code is the parent's to know, and the parent may be gone.
    let exit = node.exit_of(&spec.id).await;
    assert!(matches!(exit.code, Some(7) | None), "{exit:?}");
    let lines = node.logs.last_lines(&spec.id, 10);
    assert!(lines.iter().any(|line| line == "out after 0"), "{lines:?}");
    assert!(node.no_more_events().await);
    node.nothing_remains_soon(&spec.id).await;
}

pub async fn a_restarted_daemon_adopts_a_frozen_instance(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, started) = node.start("ice", &[]).await;
    node.runtime.freeze(&spec.id).await.expect("frozen");
    node.crash().await;
    let found = node.runtime.adopt().await.expect("adopted");
    assert!(found.len() == 1 && found[0].frozen, "{found:?}");
    node.runtime.thaw(&spec.id).await.expect("thawed");
    get(started.address, "/").await;
    node.end(&spec.id).await;
}

pub async fn what_was_written_while_no_daemon_ran_is_logged(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, started) = node.start("alone", &[]).await;
    node.down();
    get(started.address, "/log?lines=1&text=alone").await;
    node.up().await;
    assert_eq!(node.runtime.adopt().await.expect("adopted").len(), 1);
    node.end(&spec.id).await;
    let lines = node.logs.last_lines(&spec.id, 100);
    assert_eq!(lines.iter().filter(|line| *line == "out alone 0").count(), 1, "{lines:?}");
}

pub async fn what_ended_while_no_daemon_ran_is_cleared_away(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, started) = node.start("dead", &[]).await;
    assert!(get(started.address, "/spawn-child").await.trim().parse::<u32>().is_ok());
    node.down();
    node.bench.kill(&started).await;
    eventually("it is dead", || async { TcpStream::connect(started.address).await.is_err() }).await;
    node.up().await;
    assert_eq!(node.runtime.adopt().await.expect("adopted"), []);
    node.nothing_remains_soon(&spec.id).await;
}

pub async fn an_instance_of_another_owner_is_not_touched(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let (spec, started) = node.start("mine", &[]).await;
    let other = tempfile::tempdir().expect("a directory");
    let logs = Arc::new(LogBook::open(other.path()).expect("a log book"));
    let (events, mut ends) = mpsc::channel(16);
    let stranger = node.bench.open(other.path(), new_owner(), logs, events).await;
    assert_eq!(stranger.adopt().await.expect("adopted"), []);
    _ = stranger.stop(&spec.id, "SIGKILL", Duration::ZERO).await;
    assert!(get(started.address, "/").await.contains(spec.id.as_str()));
    assert!(ends.try_recv().is_err());
    node.end(&spec.id).await;
}

pub async fn a_start_that_fails_leaves_nothing(bench: impl Bench) {
    let broken = bench.broken();
    let mut node = Node::new(bench).await;
    let mut spec = node.spec("broken", &[]);
    Arc::make_mut(&mut spec.component).workload = broken;
    let error = node.runtime.start(&spec, quiet()).await.expect_err("it cannot start");
    assert!(!error.reason.is_empty() && !error.unavailable, "{error:?}");
    node.nothing_remains(&spec.id).await;
    assert!(node.no_more_events().await);
    assert_eq!(node.runtime.adopt().await.expect("adopted"), []);
}

/// A variable, a file that has a name, and one of which a variable holds the path.
fn settings() -> Vec<Given> {
    let file = |path: &str, variable: Option<&str>| Delivery::File {
        path: path.to_owned(),
        variable: variable.map(str::to_owned),
    };
    let given = |to, value: &str| Given::new(to, value.as_bytes()).expect("a text");
    vec![
        given(Delivery::Variable("TOKEN".into()), "of the token"),
        given(Delivery::Variable("GREETING".into()), "of the setting"),
        given(file("plain.txt", None), "of the file\n"),
        given(file("tls.key", Some("TLS_KEY_FILE")), "of the key\n"),
    ]
}

/// Where on this machine the files of an instance lie.
fn files_of<B: Bench>(node: &Node<B>, id: &InstanceId) -> PathBuf {
    Path::new("/dev/shm").join(format!("maelstrom-{}", node.owner.node)).join(id.as_str())
}

pub async fn settings_are_variables_and_files_in_memory_that_go_with_their_instance(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let mut spec = node.spec("told", &[("GREETING", "of the definition")]);
    spec.cfg = settings();
    let started = node.runtime.start(&spec, quiet()).await.expect("started");
    let env = get(started.address, "/env").await;
    let variable = |name: &str| {
        let of = |line: &str| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        let mut found = env.lines().filter_map(of);
        (found.next().unwrap_or_default(), found.next())
    };
    assert_eq!(variable("TOKEN"), ("of the token".to_owned(), None));
    assert_eq!(variable("GREETING"), ("of the setting".to_owned(), None), "a setting wins, and is there once");
    let (dir, key) = (variable("MAELSTROM_CFG").0, variable("TLS_KEY_FILE").0);
    assert_eq!(key, format!("{dir}/tls.key"));
    assert_eq!(get(started.address, &format!("/read?path={key}")).await, "of the key\n");
    assert_eq!(get(started.address, &format!("/read?path={dir}/plain.txt")).await, "of the file\n");
    let (files, data) = (files_of(&node, &spec.id), node.dir.path().to_owned());
    assert!(files.join("named/tls.key").exists());
    let found = std::process::Command::new("grep").args(["-rlF", "of the key"]).arg(&data).output().expect("grep");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "a file is on the disk");
    node.end(&spec.id).await;
    assert!(!files.exists() && !files.parent().expect("a root").exists(), "{files:?}");
}

pub async fn settings_outlive_a_daemon_that_crashes_and_those_of_nobody_are_swept(bench: impl Bench) {
    let mut node = Node::new(bench).await;
    let mut spec = node.spec("kept", &[]);
    spec.cfg = settings();
    let started = node.runtime.start(&spec, quiet()).await.expect("started");
    get(started.address, "/").await;
    node.down();
    let nobodys = files_of(&node, &InstanceId::new(&spec.component.name, unique()));
    std::fs::create_dir(&nobodys).expect("as a daemon that was killed leaves it");
    node.up().await;
    assert_eq!(node.runtime.adopt().await.expect("adopted").len(), 1);
    assert!(!nobodys.exists());
    let env = get(started.address, "/env").await;
    let dir = env.lines().find_map(|line| line.strip_prefix("MAELSTROM_CFG=")).expect("a directory");
    assert_eq!(get(started.address, &format!("/read?path={dir}/tls.key")).await, "of the key\n");
    node.end(&spec.id).await;
    assert!(!files_of(&node, &spec.id).exists());
}

/// A node as far as the runtime sees it.
struct Node<B: Bench> {
    bench: B,
    dir: tempfile::TempDir,
    owner: Owner,
    logs: Arc<LogBook>,
    runtime: Arc<dyn Runtime>,
    events: mpsc::Receiver<RuntimeEvent>,
}

impl<B: Bench> Node<B> {
    async fn new(bench: B) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let owner = new_owner();
        let logs = Arc::new(LogBook::open(dir.path()).expect("a log book"));
        let (sender, events) = mpsc::channel(64);
        let runtime = bench.open(dir.path(), owner, Arc::clone(&logs), sender).await;
        Self { bench, dir, owner, logs, runtime, events }
    }

    fn spec(&self, name: &str, env: &[(&str, &str)]) -> InstanceSpec {
        let (workload, port) = self.bench.testapp();
        let mut component = component(name, workload, port);
        component.env.extend(self.bench.extra_env());
        component.env.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let id = InstanceId::new(&component.name, unique());
        InstanceSpec { id, component: Arc::new(component), version: "v1".into(), cfg: Vec::new() }
    }

    /// Starts the application and waits until it answers.
    async fn start(&mut self, name: &str, env: &[(&str, &str)]) -> (InstanceSpec, Started) {
        let spec = self.spec(name, env);
        let started = self.runtime.start(&spec, quiet()).await.expect("started");
        eventually("it is ready", || async { TcpStream::connect(started.address).await.is_ok() }).await;
        get(started.address, "/").await;
        (spec, started)
    }

    async fn exit_of(&mut self, id: &InstanceId) -> Exit {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an exit event").expect("open");
        match event {
            RuntimeEvent::Exited(ended, exit) if ended == *id => exit,
            RuntimeEvent::Exited(..) | RuntimeEvent::Lost(_) | RuntimeEvent::Back => panic!("unexpected: {event:?}"),
        }
    }

    /// Long enough for a second report to show up, if one came.
    async fn no_more_events(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.events.recv()).await.is_err()
    }

    async fn end(&mut self, id: &InstanceId) {
        self.runtime.stop(id, "SIGTERM", Duration::from_secs(2)).await.expect("stopped");
        self.exit_of(id).await;
        self.nothing_remains(id).await;
    }

    async fn nothing_remains(&self, id: &InstanceId) {
        assert_eq!(self.bench.remains(self.dir.path(), id).await, Vec::<String>::new());
    }

    async fn nothing_remains_soon(&self, id: &InstanceId) {
        eventually("nothing remains", || async { self.bench.remains(self.dir.path(), id).await.is_empty() }).await;
    }

    /// The daemon dies; a runtime that knows nothing stands in until [`Node::up`].
    fn down(&mut self) {
        self.runtime = Arc::new(Down);
        // What the dead one still had to say, nobody hears.
        self.events = mpsc::channel(1).1;
    }

    async fn up(&mut self) {
        let (sender, events) = mpsc::channel(64);
        self.events = events;
        self.logs = Arc::new(LogBook::open(self.dir.path()).expect("a log book"));
        self.runtime = self.bench.open(self.dir.path(), self.owner, Arc::clone(&self.logs), sender).await;
    }

    async fn crash(&mut self) {
        self.down();
        self.up().await;
    }
}

/// No runtime at all.
#[derive(Debug)]
struct Down;

impl Runtime for Down {
    fn name(&self) -> &'static str {
        "down"
    }
    fn start<'a>(
        &'a self,
        _: &'a InstanceSpec,
        _: OnProgress,
    ) -> BoxFuture<'a, Result<Started, maelstrom::runtime::RuntimeError>> {
        panic!("the daemon is down")
    }
    fn freeze<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Result<(), maelstrom::runtime::RuntimeError>> {
        panic!("the daemon is down")
    }
    fn thaw<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Result<(), maelstrom::runtime::RuntimeError>> {
        panic!("the daemon is down")
    }
    fn stop<'a>(
        &'a self,
        _: &'a InstanceId,
        _: &'a str,
        _: Duration,
    ) -> BoxFuture<'a, Result<(), maelstrom::runtime::RuntimeError>> {
        panic!("the daemon is down")
    }
    fn adopt(&self) -> BoxFuture<'_, Result<Vec<maelstrom::runtime::Found>, maelstrom::runtime::RuntimeError>> {
        panic!("the daemon is down")
    }
}

/// A component with everything else at a harmless value.
pub fn component(name: &str, workload: Workload, port: Option<NonZeroU16>) -> Component {
    Component {
        name: name.parse().expect("a name"),
        workload,
        port,
        env: BTreeMap::new(),
        cfg: Vec::new(),
        memory_reserve: 16 << 20,
        memory_limit: None,
        cpu: None,
        concurrency: NonZeroU32::MIN,
        concurrency_target: NonZeroU32::MIN,
        min_instances: 0,
        max_instances: NonZeroU32::MIN,
        max_per_node: NonZeroU32::MIN,
        singleton: maelstrom::model::component::Singleton::No,
        freeze_after: None,
        idle_timeout: PATIENCE,
        start_timeout: PATIENCE,
        request_timeout: PATIENCE,
        queue_limit: 1,
        max_body: None,
        health: Health { path: None, interval: PATIENCE, timeout: PATIENCE, failures: NonZeroU32::MIN },
        restart_order: RestartOrder::StartFirst,
        rollout: maelstrom::model::component::Rollout::default(),
        volumes: Vec::new(),
        network: None,
        log: LogOptions::default(),
        constraints: Vec::new(),
        labels: BTreeMap::new(),
        stop: Stop { signal: "SIGTERM".into(), grace: PATIENCE },
    }
}

/// A start whose progress nobody watches.
pub fn quiet() -> OnProgress {
    Arc::new(|_| {})
}

/// A number that no other test of this or another run has.
pub fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let seed = time.as_nanos() as u64 ^ (u64::from(std::process::id()) << 40);
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).wrapping_add(NEXT.fetch_add(0x1_0001, Ordering::Relaxed))
}

pub fn new_owner() -> Owner {
    Owner { node: NodeId(unique()), cluster: ClusterId(unique()) }
}

/// Waits until `done`, for at most [`PATIENCE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, done: impl Fn() -> F) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        panic!("not within {PATIENCE:?}: {what}");
    }
}

/// The body of an answer, over a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> String {
    let answer = tokio::time::timeout(PATIENCE, async {
        // A port that is published before its program listens accepts and closes; so one that was seen open may
        // still refuse an answer.
        loop {
            match try_get(address, path).await {
                Some(body) => return body,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    answer.await.unwrap_or_else(|_| panic!("no answer from {address}{path}"))
}

/// Like [`get`], but the instance may end without an answer.
pub async fn try_get(address: SocketAddr, path: &str) -> Option<String> {
    let mut connection = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

/// One request on a connection that stays.
pub async fn ask(connection: &mut TcpStream, path: &str) -> String {
    send(connection, path).await;
    receive(connection).await
}

async fn send(connection: &mut TcpStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    connection.write_all(request.as_bytes()).await.expect("sent");
}

async fn receive(connection: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|text| text.parse().ok()).expect("a length");
            if body.len() >= length {
                return body.to_owned();
            }
        }
        let count = connection.read_buf(&mut answer).await.expect("an answer");
        assert!(count > 0, "closed after {answer:?}");
    }
}
