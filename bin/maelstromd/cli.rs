//! The daemon's command line. Flags arrive as text and are checked where settings are put together.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use maelstrom::config::Layer;

/// Lambda on your own machines: equal nodes start containers when HTTP, cron or SQS events ask for them.
#[derive(Debug, Parser)]
#[command(
    name = "maelstromd",
    version,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  maelstromd demo                                  see it work, on loopback, without Docker
  maelstromd serve                                 a node with the defaults
  maelstromd serve --data-dir /srv/m --runtime docker
  MAEL_HTTP=127.0.0.1:80 maelstromd serve --config /etc/maelstrom.toml"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node until SIGTERM or SIGINT; a second signal ends it at once
    Serve(Serve),
    /// Run a node with a sample component on loopback; leaves nothing behind
    Demo(Demo),
    /// Print the version
    Version,
    /// The sample component: answers HTTP on $PORT
    #[command(hide = true)]
    Hello,
}

/// Every flag is also `MAEL_*` in the environment and a key of the TOML file; flag > environment > file > default.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where everything of this node is kept [default: /var/lib/maelstrom for root, else ~/.local/share/maelstrom]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Where requests are taken [default: 0.0.0.0:8008]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Where the admin API answers, loopback only [default: 127.0.0.1:8374]
    #[arg(long, value_name = "ADDR")]
    api: Option<String>,
    /// Name of this node [default: the host's name]
    #[arg(long)]
    name: Option<String>,
    /// What runs components: auto, docker or process [default: auto: docker if it answers]
    #[arg(long)]
    runtime: Option<String>,
    /// Docker's address [default: $DOCKER_HOST or its usual socket]
    #[arg(long, value_name = "HOST")]
    docker_host: Option<String>,
    /// What becomes of instances when the daemon stops: stop or leave [default: stop]
    #[arg(long)]
    on_shutdown: Option<String>,
    /// How long requests may finish after a stop was asked for [default: 30s]
    #[arg(long, value_name = "DURATION")]
    drain_timeout: Option<String>,
    /// text or json [default: text]
    #[arg(long)]
    log_format: Option<String>,
    /// Which log lines are written [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// A TOML file with the same keys
    #[arg(long, value_name = "FILE", env = "MAEL_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

impl Serve {
    pub(crate) fn layer(&self) -> Layer {
        Layer {
            data_dir: self.data_dir.clone(),
            http: self.http.clone(),
            api: self.api.clone(),
            name: self.name.clone(),
            runtime: self.runtime.clone(),
            docker_host: self.docker_host.clone(),
            on_shutdown: self.on_shutdown.clone(),
            drain_timeout: self.drain_timeout.clone(),
            log_format: self.log_format.clone(),
            log: self.log.clone(),
        }
    }
}

/// Flags of the demo.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Where requests are taken
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8008")]
    pub(crate) http: String,
    /// Where the admin API answers
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8374")]
    pub(crate) api: String,
    /// Which log lines are written
    #[arg(long, value_name = "FILTER", default_value = "warn,maelstrom::daemon::keeper=info")]
    pub(crate) log: String,
}
