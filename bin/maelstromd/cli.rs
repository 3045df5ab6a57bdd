//! The daemon's command line. Flags arrive as text and are checked where settings are put together.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use maelstrom::config::Layer;
use maelstrom::id::{ClusterId, InstanceId, NodeId};

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
  maelstromd token                                 what another machine needs to join
  maelstromd serve --join 10.0.0.1:8374 --token-file token
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
    Serve(Box<Serve>),
    /// Run a cluster with a sample component on loopback; leaves nothing behind
    Demo(Demo),
    /// Print the token that lets other nodes join this node's cluster
    Token(Token),
    /// Print the version
    Version,
    /// The sample component: answers HTTP on $PORT
    #[command(hide = true)]
    Hello,
    /// Kills an instance when the consent to it is over: the daemon starts one beside each strict singleton
    #[command(hide = true)]
    Guard(Guard),
}

/// In the order in which the daemon gives them.
#[derive(Debug, Args)]
pub(crate) struct Guard {
    pub(crate) data_dir: PathBuf,
    pub(crate) runtime: String,
    pub(crate) docker_host: String,
    pub(crate) node: NodeId,
    pub(crate) cluster: ClusterId,
    pub(crate) instance: InstanceId,
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
    /// Where peers are spoken to, over UDP [default: 0.0.0.0:8374]
    #[arg(long, value_name = "ADDR")]
    peer: Option<String>,
    /// Where peers reach this node if that is not --peer: behind NAT, or with several addresses
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// A node of the cluster to join; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    join: Vec<String>,
    /// What `maelstromd token` printed on a node of the cluster; better given as MAEL_TOKEN or --token-file
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// A file with the token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<String>,
    /// Name of this node [default: the host's name]
    #[arg(long)]
    name: Option<String>,
    /// What runs components: auto, docker or process [default: auto: docker if it answers]
    #[arg(long)]
    runtime: Option<String>,
    /// Docker's address [default: $DOCKER_HOST or its usual socket]
    #[arg(long, value_name = "HOST")]
    docker_host: Option<String>,
    /// Memory that instances may set aside on this node in all [default: four fifths of the machine's]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// What components may ask of this node, such as zone=a; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
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
    /// Stop when the process that started this one ends: for the demo
    #[arg(long, hide = true)]
    pub(crate) end_with_parent: bool,
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
            peer: self.peer.clone(),
            advertise: self.advertise.clone(),
            join: (!self.join.is_empty()).then(|| self.join.join(",")),
            token: self.token.clone(),
            token_file: self.token_file.clone(),
            name: self.name.clone(),
            runtime: self.runtime.clone(),
            docker_host: self.docker_host.clone(),
            memory: self.memory.clone(),
            labels: (!self.labels.is_empty()).then(|| self.labels.join(",")),
            on_shutdown: self.on_shutdown.clone(),
            drain_timeout: self.drain_timeout.clone(),
            log_format: self.log_format.clone(),
            log: self.log.clone(),
        }
    }
}

/// Prints a secret: whoever has it can join, and read and change everything.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  maelstromd token > token && chmod 600 token      with this machine's addresses left out
  maelstromd token --seed 10.0.0.1:8374            a node that has it needs no --join")]
pub(crate) struct Token {
    /// The data directory of the node [default: as for serve]
    #[arg(long, value_name = "DIR", env = "MAEL_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Put this node's address into the token; may be given several times
    #[arg(long = "seed", value_name = "HOST:PORT")]
    pub(crate) seeds: Vec<String>,
}

/// Flags of the demo.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How many nodes, 1 to 9
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: u16,
    /// Where the first node takes requests; each further node has the next port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8008")]
    pub(crate) http: SocketAddr,
    /// Where the admin API of the first node answers; peers use the same port over UDP
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8374")]
    pub(crate) api: SocketAddr,
    /// Which log lines are written
    #[arg(long, value_name = "FILTER", default_value = "error,maelstrom::daemon::keeper=info")]
    pub(crate) log: String,
}
