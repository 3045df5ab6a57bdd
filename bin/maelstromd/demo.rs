//! `maelstromd demo`: a node on loopback with a sample component, and the lines to try. Leaves nothing behind.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use maelstrom::admin::api::Expect;
use maelstrom::admin::client::{Client, Kind, Target};
use maelstrom::config::{Config, Layer};
use maelstrom::daemon::Daemon;
use serde_json::json;

use crate::cli::Demo;

/// How soon the sample component freezes and stops: short, so that a visitor sees both.
const FREEZE: &str = "10s";
const STOP: &str = "60s";

/// The demo's data directory, removed when dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("could not remove {}: {error}", self.0.display());
        }
    }
}

pub(crate) fn run(flags: &Demo) -> anyhow::Result<ExitCode> {
    let dir = std::env::temp_dir().join(format!("maelstrom-demo-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let scratch = Scratch(dir);
    let layer = Layer {
        data_dir: Some(scratch.0.display().to_string()),
        http: Some(flags.http.clone()),
        api: Some(flags.api.clone()),
        name: Some("demo".to_owned()),
        runtime: Some("process".to_owned()),
        drain_timeout: Some("5s".to_owned()),
        log: Some(flags.log.clone()),
        ..Layer::default()
    };
    let config = Config::resolve(&layer, &Layer::default(), None, &scratch.0, "demo")?;
    crate::run(config, |daemon, mut signals| async move {
        let program = std::env::current_exe().context("cannot find this program's own path")?;
        tokio::select! {
            () = signals.first() => {}
            result = set_up(&daemon, &program) => {
                result?;
                tour(&daemon, &program);
                signals.first().await;
            }
        }
        println!("\nStopping: instances end, files go.");
        signals.end_at_the_second();
        daemon.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}

/// Puts the sample component and its source through the same API that `maelctl` uses.
async fn set_up(daemon: &Daemon, program: &Path) -> anyhow::Result<()> {
    let target: Target = format!("http://{}", daemon.api()).parse().context("the admin API's address")?;
    let client = Client::new(target, None).context("the admin API's client")?;
    let component = json!({"command": [program, "hello"], "idle": {"freeze": FREEZE, "stop": STOP}});
    let source = json!({"component": "hello", "http": {"host": "hello.localhost"}});
    for (kind, document) in [(Kind::Component, component), (Kind::Source, source)] {
        client.put(kind, "hello", &document, &Expect::Any, false).await.context("cannot put the sample component")?;
    }
    Ok(())
}

fn tour(daemon: &Daemon, program: &Path) {
    let port = daemon.http().port();
    let beside = program.with_file_name("maelctl");
    // `cargo run` builds the program that it runs and no other.
    let maelctl = if beside.exists() {
        beside.display().to_string()
    } else {
        "cargo run -q --release --bin maelctl --".to_owned()
    };
    let node = if daemon.api().port() == 8374 { String::new() } else { format!(" --node http://{}", daemon.api()) };
    let ctl = format!("{maelctl}{node}");
    println!(
        "\
Maelstrom demo: one node, processes as instances, nothing kept.

Component hello is registered and not running. This request starts it:

  curl http://hello.localhost:{port}/

Then look at it; unused it freezes after {FREEZE} and stops after {STOP}:

  {ctl} ps
  {ctl} logs -f hello
  {ctl} invoke hello --show-timing
  {ctl} comp show hello

Put one of your own (any program that serves HTTP on $PORT):

  {ctl} comp put files --command \"sh -c 'exec python3 -u -m http.server \\$PORT'\"
  {ctl} es put files --component files --http-host files.localhost

Ctrl-C ends the demo and leaves nothing behind."
    );
}
