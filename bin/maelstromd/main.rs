//! The daemon's program: flags, settings, build, wait for a signal, stop, exit code. Everything else is in the library.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal prints")]

mod cli;
mod demo;
mod hello;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use maelstrom::config::{Config, Layer};
use maelstrom::daemon::{self, Daemon};
use maelstrom::telemetry;
use tokio::signal::unix::{Signal, SignalKind, signal};

use cli::{Cli, Command, Serve};

/// Exit code for wrong settings, as for wrong flags.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Hello => return hello::run(),
        Command::Version => {
            println!("maelstromd {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Command::Serve(serve) => match settings(&serve) {
            Ok(config) => {
                if serve.end_with_parent {
                    end_with_parent();
                }
                run(config, serve_until)
            }
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::from(USAGE);
            }
        },
        Command::Guard(flags) => guard(flags),
        Command::Demo(flags) => demo::run(&flags),
        Command::Token(flags) => token(&flags),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Watches one instance until the daemon beside it ends it, or is gone for too long.
fn guard(flags: cli::Guard) -> anyhow::Result<ExitCode> {
    let cli::Guard { data_dir, runtime, docker_host, node, cluster, instance } = flags;
    let post = daemon::guard::Post { data_dir, runtime, docker_host, node, cluster };
    daemon::guard::guard(&post, &instance, std::io::stdin())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the join token.
fn token(flags: &cli::Token) -> anyhow::Result<ExitCode> {
    let dir = flags.data_dir.clone().unwrap_or_else(default_dir);
    let mut token = daemon::token(&dir)
        .with_context(|| format!("has a node run with {}? start it, or name another with --data-dir", dir.display()))?;
    token.seeds.clone_from(&flags.seeds);
    println!("{token}");
    Ok(ExitCode::SUCCESS)
}

/// The settings of `serve`.
fn settings(serve: &Serve) -> anyhow::Result<Config> {
    let environment = Layer::from_env(|name| std::env::var(name).ok());
    let file = match &serve.config {
        Some(path) => Some((path.as_path(), Layer::from_file(path)?)),
        None => None,
    };
    let file = file.as_ref().map(|(path, layer)| (*path, layer));
    Ok(Config::resolve(&serve.layer(), &environment, file, &default_dir(), &host_name())?)
}

fn default_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/maelstrom");
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(|| PathBuf::from(".")).join("maelstrom")
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default()
}

/// Builds the daemon and hands it to `body` on a runtime of its own.
fn run<F, Fut>(config: Config, body: F) -> anyhow::Result<ExitCode>
where
    F: FnOnce(Daemon, Signals) -> Fut,
    Fut: Future<Output = anyhow::Result<ExitCode>>,
{
    telemetry::init_tracing(config.log_format, &config.log)?;
    allow_many_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let signals = Signals::new()?;
        let daemon = Daemon::build(config).await?;
        body(daemon, signals).await
    });
    // Nothing that matters is under way by now; a blocked thread must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

/// Every connection is a file, and 1,024, the usual soft limit, is there for programs that use `select`. Instances inherit
/// it, as they do from systemd's `LimitNOFILE`.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(?current, %error, "the number of open files stays limited");
    }
}

async fn serve_until(daemon: Daemon, mut signals: Signals) -> anyhow::Result<ExitCode> {
    let reason = tokio::select! {
        () = signals.first() => None,
        reason = daemon.failed() => Some(reason),
    };
    signals.end_at_the_second();
    daemon.stop().await;
    match reason {
        None => Ok(ExitCode::SUCCESS),
        Some(reason) => Err(anyhow::anyhow!(reason)),
    }
}

/// Asks the kernel for a SIGTERM when the parent ends, however it ends.
fn end_with_parent() {
    use rustix::process::{Signal, set_parent_process_death_signal};
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        eprintln!("warning: this node may outlive the demo: {error}");
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    last: i32,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())?, last: 0 })
    }

    async fn first(&mut self) {
        let number = tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
        };
        self.last = number;
    }

    /// From now on a signal ends the process at once. Instances are adopted, or cleared away, by the next start.
    fn end_at_the_second(mut self) {
        telemetry::spawn("second signal", async move {
            self.first().await;
            eprintln!("second signal: ending at once; instances may be left running, the next start adopts them");
            #[expect(clippy::disallowed_methods, reason = "the user asked for an end without clean-up")]
            std::process::exit(128 + self.last);
        });
    }
}
