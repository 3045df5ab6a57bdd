//! `maelstromd demo`: a cluster on loopback with a sample component, and the lines to try. Leaves nothing behind.
//!
//! Each node is a `maelstromd serve` of its own, so that one can be killed; this process starts them again.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use maelstrom::admin::api::Expect;
use maelstrom::admin::client::{Client, Kind, Target};
use maelstrom::daemon;
use serde_json::json;

use crate::cli::Demo;

/// How soon the sample component freezes and stops: short, so that a visitor sees both.
const FREEZE: &str = "10s";
const STOP: &str = "60s";

/// The schedule of the demo: rare enough that the sample component stops in between.
const SCHEDULE: &str = "@every 2m";

/// How long a node that was killed stays away: time to look at what the others say.
const AWAY: Duration = Duration::from_secs(10);

/// For a node to start: it takes some hundredths of a second, and a busy machine may take a hundred times that.
const START: Duration = Duration::from_secs(20);

/// Between two looks at the nodes.
const LOOK: Duration = Duration::from_millis(100);

/// The demo's data directories, removed when dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("could not remove {}: {error}", self.0.display());
        }
    }
}

/// One node.
struct Node {
    name: String,
    http: SocketAddr,
    api: SocketAddr,
    dir: PathBuf,
    child: Child,
    /// Looks until it is started again; none while it runs.
    away: Option<u128>,
}

impl Node {
    fn client(&self) -> anyhow::Result<Client> {
        let target: Target = format!("http://{}", self.api).parse().context("the admin API's address")?;
        Client::new([target], None).context("the admin API's client")
    }

    fn end(&mut self) {
        if let Some(id) = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or_default())
            && matches!(self.child.try_wait(), Ok(None))
        {
            // It may have ended in between, which is what is wanted.
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
    }
}

pub(crate) fn run(flags: &Demo) -> anyhow::Result<ExitCode> {
    let dir = std::env::temp_dir().join(format!("maelstrom-demo-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let scratch = Scratch(dir);
    // Children are started by this thread: the kernel ends them with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = crate::Signals::new()?;
        let mut nodes = Vec::new();
        let done = tokio::select! {
            () = signals.first() => Ok(()),
            done = serve(flags, &scratch.0, &mut nodes) => done,
        };
        println!("\nStopping: instances end, files go.");
        let stopped = stop(&mut nodes, flags, &scratch.0).await;
        done.and(stopped).map(|()| ExitCode::SUCCESS)
    })
}

/// Starts the nodes, shows them, and starts those again that end.
async fn serve(flags: &Demo, dir: &Path, nodes: &mut Vec<Node>) -> anyhow::Result<()> {
    let place = |base: SocketAddr, index: u16| {
        let port = base.port().checked_add(index).context("the ports of the nodes go beyond 65535")?;
        anyhow::Ok(SocketAddr::new(base.ip(), port))
    };
    let mut seeds = Vec::new();
    for index in 0..flags.nodes {
        seeds.push(place(flags.api, index)?.to_string());
    }
    let token = daemon::new_token(seeds)?;
    std::fs::write(dir.join("token"), token.to_string())?;
    for index in 0..flags.nodes {
        let name = format!("demo{}", index + 1);
        let (http, api, dir) = (place(flags.http, index)?, place(flags.api, index)?, dir.join(&name));
        std::fs::create_dir_all(&dir)?;
        let child = start(flags, &name, http, api, &dir)?;
        nodes.push(Node { name, http, api, dir, child, away: None });
    }
    for node in nodes.iter_mut() {
        ready(node).await?;
    }
    let program = std::env::current_exe().context("cannot find this program's own path")?;
    set_up(nodes, &program).await?;
    tour(nodes, &program);
    loop {
        tokio::time::sleep(LOOK).await;
        for node in nodes.iter_mut() {
            match node.away {
                None => {
                    if let Some(status) = node.child.try_wait()? {
                        println!("{} ended ({status}); it comes back in {} s", node.name, AWAY.as_secs());
                        node.away = Some(AWAY.as_millis() / LOOK.as_millis());
                    }
                }
                Some(0) => {
                    node.child = start(flags, &node.name, node.http, node.api, &node.dir)?;
                    node.away = None;
                    ready(node).await?;
                    println!("{} is back: process {}", node.name, node.child.id());
                }
                Some(looks) => node.away = Some(looks - 1),
            }
        }
    }
}

fn start(flags: &Demo, name: &str, http: SocketAddr, api: SocketAddr, dir: &Path) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("cannot find this program's own path")?;
    let mut command = Command::new(program);
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("MAEL_")) {
        command.env_remove(key);
    }
    let token = dir.parent().unwrap_or(dir).join("token");
    command
        .args(["serve", "--end-with-parent", "--runtime", "process", "--drain-timeout", "5s", "--name", name])
        .args(["--http", &http.to_string(), "--api", &api.to_string(), "--peer", &api.to_string()])
        .args(["--log", &flags.log])
        .arg("--token-file")
        .arg(token)
        .arg("--data-dir")
        .arg(dir)
        .stdin(Stdio::null())
        // Ctrl-C reaches this process alone, which then stops the nodes in order.
        .process_group(0);
    command.spawn().with_context(|| format!("cannot start {name}"))
}

async fn ready(node: &mut Node) -> anyhow::Result<()> {
    let client = node.client()?;
    let wait = async {
        while client.version().await.is_err() {
            if let Some(status) = node.child.try_wait()? {
                bail!("{} did not start ({status}); its reason is above", node.name);
            }
            tokio::time::sleep(LOOK / 10).await;
        }
        Ok(())
    };
    tokio::time::timeout(START, wait).await.with_context(|| format!("{} does not answer", node.name))?
}

/// Ends all nodes. One that is away has left instances behind: it comes back to stop them.
async fn stop(nodes: &mut [Node], flags: &Demo, dir: &Path) -> anyhow::Result<()> {
    debug_assert!(dir.exists(), "removed after the nodes");
    for node in nodes.iter_mut() {
        if node.child.try_wait()?.is_some() {
            node.child = start(flags, &node.name, node.http, node.api, &node.dir)?;
            ready(node).await?;
        }
        node.end();
    }
    for node in nodes.iter_mut() {
        while node.child.try_wait()?.is_none() {
            tokio::time::sleep(LOOK / 10).await;
        }
    }
    Ok(())
}

/// Puts the sample component and its source through the same API that `maelctl` uses, on the first node, and waits
/// until the last one has both.
async fn set_up(nodes: &[Node], program: &Path) -> anyhow::Result<()> {
    let (Some(first), Some(last)) = (nodes.first(), nodes.last()) else { return Ok(()) };
    let component = json!({"command": [program, "hello"], "idle": {"freeze": FREEZE, "stop": STOP}});
    let web = json!({"component": "hello", "http": {"host": "hello.localhost"}});
    let schedule = json!({"component": "hello", "cron": {"schedule": SCHEDULE, "path": "/tick"}});
    for (kind, name, document) in [
        (Kind::Component, "hello", component),
        (Kind::Source, "hello", web),
        (Kind::Source, "every-two-minutes", schedule),
    ] {
        let put = first.client()?;
        put.put(kind, name, &document, &Expect::Any, false).await.context("cannot put the sample component")?;
    }
    let client = last.client()?;
    let seen = async {
        while client.source("hello").await.is_err() {
            tokio::time::sleep(LOOK / 10).await;
        }
    };
    tokio::time::timeout(START, seen).await.context("the nodes do not find each other")
}

fn tour(nodes: &[Node], program: &Path) {
    let (Some(first), Some(last)) = (nodes.first(), nodes.last()) else { return };
    let beside = program.with_file_name("maelctl");
    // `cargo run` builds the program that it runs and no other.
    let maelctl = if beside.exists() {
        beside.display().to_string()
    } else {
        "cargo run -q --release --bin maelctl --".to_owned()
    };
    let at = |node: &Node| format!("{maelctl} --node http://{}", node.api);
    let ctl = if first.api.port() == 8374 { maelctl.clone() } else { at(first) };
    let port = first.http.port();
    let list: Vec<String> = nodes
        .iter()
        .map(|node| format!("  {}  requests {}  api {}  process {}", node.name, node.http, node.api, node.child.id()))
        .collect();
    println!("Maelstrom demo: {} nodes, processes as instances, nothing kept.\n\n{}", nodes.len(), list.join("\n"));
    println!(
        "
Component hello is registered and not running. This request starts it:

  curl http://hello.localhost:{port}/

Then look at it; unused it freezes after {FREEZE} and stops after {STOP}:

  {ctl} ps
  {ctl} logs -f hello
  {ctl} invoke hello --show-timing
  {ctl} comp show hello

A schedule wakes it too, {SCHEDULE}, from whichever node is elected; and so does what you leave for later:

  {ctl} cron history every-two-minutes
  {ctl} invoke hello --in 20s
  {ctl} events -f

Put one of your own (any program that serves HTTP on $PORT):

  {ctl} comp put files --command \"sh -c 'exec python3 -u -m http.server \\$PORT'\"
  {ctl} es put files --component files --http-host files.localhost"
    );
    if nodes.len() > 1 {
        println!(
            "
Every node knows it a moment later; there is no leader. Ask another one:

  {other} comp ls
  {other} node ls
  curl http://hello.localhost:{other_port}/

Kill it, look at what the others say, and see it come back {away} s later with everything it knew:

  kill -9 {pid}
  {ctl} node ls",
            other = at(last),
            other_port = last.http.port(),
            pid = last.child.id(),
            away = AWAY.as_secs(),
        );
    }
    println!("\nCtrl-C ends the demo and leaves nothing behind.");
}
