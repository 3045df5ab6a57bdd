//! The daemon, assembled: ports first, then the store, then the runtime and what it still runs, then everything that
//! serves. Read [`Daemon::build`] from top to bottom to see the whole process.

mod ask;
mod board;
mod catalog;
mod chronicle;
mod clock;
mod cluster;
mod consent;
mod control;
mod driver;
mod duty;
mod explain;
mod fires;
pub mod guard;
mod history;
mod intake;
mod keeper;
mod logs;
mod pin;
mod registrar;
mod rollback;
mod rollouts;
mod runs;
mod scheduler;
mod seal;
mod seats;
mod streams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::activation::Fact;
use crate::admin::server as admin;
use crate::config::{Config, OnShutdown, RuntimeChoice};
use crate::crdt::Registry;
use crate::crdt::replica::{self, Replica, Saved};
use crate::gossip::{self, Membership, Peer};
use crate::intake::Intake;
use crate::model::duty::Duty;
use crate::model::happening::What;
use crate::node::{Input, Node};
use crate::placement::Places;
use crate::proxy::{Forwarder, Peers};
use crate::rng::Rng;
use crate::runtime::docker::DockerRuntime;
use crate::runtime::logs::LogBook;
use crate::runtime::process::ProcessRuntime;
use crate::runtime::{Found, Owner, Runtime, RuntimeError, RuntimeEvent};
use crate::schedule::ledger::Holder;
use crate::slots::Gates;
use crate::source::HttpSource;
use crate::source::attend::Attendant;
use crate::source::courier::{Components, Courier};
use crate::source::cron::Schedules;
use crate::source::once::Later;
use crate::source::sqs::SqsSource;
use crate::source::sqs::inspect::Queues;
use crate::source::sqs::status::Book;
use crate::store::{Store, StoreError};
use crate::telemetry;
use crate::time::Wall;
use crate::timeline::Subject;
use crate::transport::token::{Secret, Token};
use crate::transport::trust::Trust;
use crate::transport::{self, Hello, Transport};

pub use cluster::identity::IdentityError;

use board::{Board, Facts};
use catalog::{Catalog, Definitions};
use clock::Clock;
use consent::Consent;
use driver::{Driver, MESSAGES, Message};
use intake::CoreHandle;
use keeper::Workshop;
use registrar::Registrar;
use streams::Streams;

/// Runtime events that may wait for the daemon; each becomes one message to the loop.
const RUNTIME_EVENTS: usize = 1024;

/// The unix socket of the admin API in the data directory.
pub const SOCKET: &str = "maelstrom.sock";

/// The join token in the data directory, for its owner alone.
const TOKEN: &str = "token";

/// Between two clean-ups of the logs of removed components.
const SWEEP: Duration = Duration::from_secs(3600);

/// The share of the machine's memory that instances may set aside unless the operator says otherwise, as a fraction. The
/// rest is for the system, the container engine and the page cache: of 4 GiB some 800 MiB, about what a Debian with
/// Docker takes.
const MEMORY_SHARE: (u64, u64) = (4, 5);

/// Between two tries to find out what a runtime runs that was away and is back.
const ADOPT_AGAIN: Duration = Duration::from_secs(2);

/// The daemon could not start, or could not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A port is taken or not allowed.
    #[error("cannot listen on {address} ({what}): {source}; choose another with {flag}")]
    Listen {
        /// For what.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The admin API cannot be offered.
    #[error("{0}{because}; choose another address with --api", because = cause(.0))]
    Admin(#[from] admin::BindError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The settings do not fit the cluster in the data directory.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Peers cannot be spoken to.
    #[error("cannot speak to peers on {address}: {because}; choose another address with --peer")]
    Peer {
        /// Where.
        address: SocketAddr,
        /// Why.
        because: String,
    },
    /// Something in the data directory or the system cannot be used.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The runtime cannot be used.
    #[error("runtime {name}: {source}")]
    Runtime {
        /// Which.
        name: &'static str,
        /// Why.
        source: RuntimeError,
    },
}

/// A daemon that serves.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
    http: SocketAddr,
    api: SocketAddr,
    runtime: &'static str,
    stop_serving: CancellationToken,
    leave: CancellationToken,
    http_source: HttpSource,
    api_task: JoinHandle<()>,
    driver_task: JoinHandle<()>,
    registrar_task: JoinHandle<()>,
    messages: mpsc::Sender<Message>,
    peer: SocketAddr,
    token: Token,
    part: CancellationToken,
    cluster_task: JoinHandle<()>,
    fatal: watch::Receiver<Option<String>>,
    board: Arc<Board>,
    peer_requests: TaskTracker,
    seats_leaving: seats::Leaving,
}

impl Daemon {
    /// Builds and starts everything. When it returns, requests are answered.
    ///
    /// # Errors
    /// Says what could not be used, and the flag that changes it. Nothing is left running.
    pub async fn build(config: Config) -> Result<Self, DaemonError> {
        // Ports first: the most common mistake is found before anything is touched.
        let http_listener = listen(config.http, "requests", "--http").await?;
        let http = http_listener.local_addr().unwrap_or(config.http);

        let io = |doing: &str| {
            let doing = doing.to_owned();
            move |source| DaemonError::Io { doing, source }
        };
        let seed = clock::seed().map_err(io("read randomness from the system"))?;
        let mut rng = Rng::from_seed(seed);
        let (data_dir, store_seed) = (config.data_dir.clone(), rng.next_u64());
        let opened = tokio::task::spawn_blocking(move || Store::open(&data_dir, store_seed)).await;
        let (mut store, mut loaded) = opened.map_err(|error| DaemonError::Io {
            doing: "open the store".to_owned(),
            source: std::io::Error::other(error),
        })??;
        // After the store, whose lock says that no other daemon uses this directory and its socket.
        let settings = admin::Settings { tcp: Some(config.api), socket: Some(config.data_dir.join(SOCKET)) };
        let api_server = admin::Server::bind(&settings).await?;
        let api = api_server.address().unwrap_or(config.api);
        for row in &loaded.quarantined {
            tracing::warn!(key = row.key, why = row.why, "a stored row is damaged and was put aside");
        }
        let token = config.token.as_ref();
        let mut seeds = config.join.clone();
        seeds.extend(token.into_iter().flat_map(|token| token.seeds.iter().cloned()));
        let secret = cluster::identity::settle(&mut store, &mut loaded, token, !seeds.is_empty())?;
        let token = Token { cluster: loaded.cluster, secret, seeds: Vec::new() };
        write_token(&config.data_dir, &token).map_err(io("write the join token"))?;
        let last_peers = cluster::identity::read_peers(&mut store)?;
        let voters = consent::read_known(&mut store)?;
        let known = cluster::identity::read_known(&mut store)?;
        let saved = match store.note(registrar::SYNCED)? {
            Some(bytes) => Saved::decode(&bytes).map_err(|error| DaemonError::Io {
                doing: "read what was replicated; restore the data directory, or start with an empty one".to_owned(),
                source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
            })?,
            None => Saved::default(),
        };
        let registry = Registry::restore(loaded.node, loaded.hlc, std::mem::take(&mut loaded.registers));
        let definitions = Definitions::of(&registry);

        let logs = Arc::new(LogBook::open(&config.data_dir).map_err(io("open the logs in the data directory"))?);
        let owner = Owner { node: loaded.node, cluster: loaded.cluster };
        let (events, runtime_events) = mpsc::channel(RUNTIME_EVENTS);
        let runtime = open_runtime(&config, owner, &logs, events).await?;

        let clock = Clock::new();
        let gates = Arc::new(Gates::default());
        let memory = config.memory.unwrap_or_else(|| control::total_memory() / MEMORY_SHARE.1 * MEMORY_SHARE.0);
        let mut node = Node::new(rng.child("node"), Arc::clone(&gates)).with_capacity(memory);
        for name in definitions.kept() {
            if let Some(entry) = definitions.component(name) {
                node.define(Arc::clone(&entry.value), definitions.fingerprint(&entry.value));
            }
        }
        let peer =
            |error: &dyn std::fmt::Display| DaemonError::Peer { address: config.peer, because: error.to_string() };
        let seal = seal::Seal::new(loaded.cluster, &token.secret).map_err(|error| peer(&error))?;
        let catalog = Arc::new(Catalog::new(definitions, gates, seal));
        let (duties, duties_seen) = watch::channel(duty::duties(&registry));
        let duty = duties_seen.borrow().get(&loaded.node).copied().unwrap_or_default();
        let facts = Facts {
            name: config.name.to_string(),
            runtime: runtime.name().to_owned(),
            draining: duty == Duty::Draining,
            attends: false,
            duty,
            memory,
            labels: config.labels.clone(),
        };
        let board = Board::new(loaded.node, loaded.epoch, facts);
        board.note(
            What::Up,
            Subject::Node(config.name.to_string()),
            None,
            &format!("maelstromd {} began, with runtime {}", env!("CARGO_PKG_VERSION"), runtime.name()),
        );
        let (messages, inbox) = mpsc::channel(MESSAGES);
        let missed = Arc::new(AtomicBool::new(false));
        let places = Arc::<ArcSwap<Places>>::default();
        let core = CoreHandle::new(
            messages.clone(),
            Arc::clone(&missed),
            clock,
            rng.next_u64(),
            Arc::clone(&board),
            Arc::clone(&catalog),
            Arc::clone(&places),
        );
        let core: Arc<dyn Intake> = Arc::new(core);
        let streams = Arc::<Streams>::default();
        let forwarder =
            Forwarder::new(crate::proxy::Options::default()).with_peers(Arc::clone(&streams) as Arc<dyn Peers>);
        let forwarder = Arc::new(forwarder);
        let post = guard::Post {
            data_dir: config.data_dir.clone(),
            runtime: runtime.name().to_owned(),
            docker_host: config.docker_host.clone().unwrap_or_default(),
            node: loaded.node,
            cluster: loaded.cluster,
        };
        let guards = guard::Guards::new(post, clock);
        let workshop = Arc::new(Workshop {
            guards: Arc::clone(&guards),
            runtime: Arc::clone(&runtime),
            catalog: Arc::clone(&catalog),
            logs: Arc::clone(&logs),
            forwarder: Arc::clone(&forwarder),
            messages: messages.clone(),
        });
        let shown = Arc::clone(&board);
        let consent = Consent::new(loaded.node, loaded.epoch, &voters, clock, guards);
        let given = Arc::clone(&consent);
        let driver = Driver::new(node, clock, inbox, missed, Arc::clone(&workshop), shown, given);
        let driver_task = telemetry::spawn("loop", driver.run());

        // What ran before is known to the loop before the first request can ask for an instance.
        let found = runtime.adopt().await.map_err(|source| DaemonError::Runtime { name: runtime.name(), source })?;
        load(&messages, found).await;
        telemetry::spawn("runtime events", follow_runtime(runtime_events, Arc::clone(&workshop)));

        let trust =
            Trust::new(loaded.cluster, &token.secret, loaded.node, Clock::wall()).map_err(|error| peer(&error))?;
        // Peers reach the HTTP listener where they reach the node, or not at all.
        let is_reachable = http.ip().is_unspecified() || http.ip() == config.peer.ip();
        let hello = Hello {
            node: loaded.node,
            name: config.name.clone(),
            address: config.peer,
            start: loaded.epoch,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            http: if is_reachable { http.port() } else { 0 },
            wall: Wall(0),
        };
        let options = transport::Options { line_path: crate::source::HEALTH, ..transport::Options::default() };
        let (transport, incoming) =
            Transport::bind(config.peer, trust, hello, options, Clock::wall).map_err(|error| peer(&error))?;
        let address = cluster::identity::address(transport.local_addr(), config.advertise.as_deref(), &seeds)?;
        transport.set_hello_address(address);
        let me = Peer { node: loaded.node, address, start: loaded.epoch, life: 0 };
        // Its packets are as long as every connection carries from its beginning.
        let gossip_options = gossip::Options::fast();
        let membership = Membership::new(me, gossip_options, rng.child("membership"), clock.mono());
        let post = Arc::new(cluster::Post::new(transport.clone()));
        let (removed, removed_seen) = watch::channel(duty::removed_nodes(&registry));
        let replica_options = replica::Options::default();
        let replica = Replica::new(registry, loaded.node, saved, replica_options, rng.child("replica"), clock.now());
        let (registrar, registrar_task) = Registrar::start(registrar::Desk {
            replica,
            store,
            catalog: Arc::clone(&catalog),
            messages: messages.clone(),
            clock,
            post: Arc::clone(&post),
            removed,
            duties,
        });
        let (stop_serving, leave) = (CancellationToken::new(), CancellationToken::new());
        telemetry::spawn("duty", duty::follow(Arc::clone(&board), duties_seen.clone(), stop_serving.clone()));
        telemetry::spawn("log clean-up", sweep_logs(Arc::clone(&logs), Arc::clone(&catalog), leave.clone()));
        let http_source = HttpSource::serve(
            http_listener,
            Arc::clone(&catalog.table),
            Arc::clone(&core),
            Arc::clone(&forwarder),
            crate::source::Options { drain: config.drain_timeout, ..Default::default() },
            stop_serving.clone(),
        );
        let looks_on = rollback::run(
            Arc::clone(&board),
            Arc::clone(&catalog),
            Arc::clone(&places),
            registrar.clone(),
            clock,
            stop_serving.clone(),
        );
        telemetry::spawn("rollouts", looks_on);
        let cluster = cluster::Cluster { transport, view: Arc::default() };
        streams.begin(cluster.clone());
        let (scheduler, questions) = scheduler::Task::new(
            Arc::clone(&board),
            Arc::clone(&catalog),
            Arc::clone(&cluster.view),
            places,
            messages.clone(),
            clock,
        );
        let courier =
            Courier::new(Arc::clone(&core), Arc::clone(&forwarder), Arc::clone(&catalog) as Arc<dyn Components>);
        // A kind of source that nodes are elected for has its line here.
        let records = Arc::new(fires::Office {
            me: Holder { node: loaded.node, life: loaded.epoch },
            began: clock.mono(),
            clock,
            catalog: Arc::clone(&catalog),
            registrar: registrar.clone(),
            cluster: cluster.clone(),
            core: Arc::clone(&core),
            courier: courier.clone(),
        });
        let queues = Arc::<Book>::default();
        let sqs = SqsSource::new(
            courier.clone(),
            Clock::wall,
            Arc::clone(&queues),
            stop_serving.clone(),
            config.drain_timeout,
        );
        let attendants: Vec<Arc<dyn Attendant>> = vec![
            Arc::new(Later::new(courier.clone(), Clock::wall)),
            Arc::new(Schedules::new(courier.clone(), records)),
            Arc::new(sqs),
        ];
        let (seats, seats_leaving) = seats::Task::new(
            Arc::clone(&board),
            Arc::clone(&catalog),
            scheduler.nodes(),
            clock,
            registrar.clone(),
            attendants,
        );
        telemetry::spawn("seats", seats.run(leave.clone()));
        telemetry::spawn("scheduler", scheduler.run());
        let around = consent::Surroundings {
            me: loaded.node,
            known: voters,
            cluster: cluster.clone(),
            removed: removed_seen.clone(),
            registrar: registrar.clone(),
            messages: messages.clone(),
        };
        telemetry::spawn("consents", Arc::clone(&consent).run(around));
        let peer_requests = TaskTracker::new();
        let server = streams::Server {
            catalog: Arc::clone(&catalog),
            core: Arc::clone(&core),
            forwarder: Arc::clone(&forwarder),
            logs: Arc::clone(&logs),
            name: config.name.clone(),
        };
        let serving = streams::serve(cluster.clone(), Arc::new(server), peer_requests.clone());
        telemetry::spawn("peer requests", serving);
        let desk = control::Desk {
            node: loaded.node,
            name: config.name.clone(),
            address: http.to_string(),
            started: Clock::wall(),
            clock,
            runtime: runtime.name(),
            engine: Arc::clone(&runtime),
            courier,
            queues,
            catalog,
            registrar: registrar.clone(),
            cluster: cluster.clone(),
            peer: address,
            messages: messages.clone(),
            logs,
            core,
            board: Arc::clone(&board),
            duties: duties_seen,
            questions,
            consent,
            services: Queues::default(),
        };
        let desk = Arc::new(desk);
        let part = CancellationToken::new();
        let (fatal, failed) = watch::channel(None);
        let task = cluster::Task {
            membership,
            cluster,
            incoming,
            registrar,
            post,
            desk: Arc::clone(&desk),
            board: Arc::clone(&board),
            removed: removed_seen,
            known,
            seek: cluster::Seek::new(seeds, last_peers, address, rng.child("seek"), fatal.clone()),
            clock,
            leave: part.clone(),
            fatal,
        };
        let cluster_task = telemetry::spawn("cluster", task.run());
        let api_task = telemetry::spawn("admin API", api_server.run(desk, leave.clone()));
        tracing::info!(
            node = %loaded.node, name = %config.name, cluster = %loaded.cluster, %http, %api, peer = %address, runtime = runtime.name(),
            data_dir = %config.data_dir.display(), epoch = loaded.epoch, "serving"
        );
        Ok(Self {
            config,
            http,
            api,
            runtime: runtime.name(),
            stop_serving,
            leave,
            http_source,
            api_task,
            driver_task,
            registrar_task,
            messages,
            peer: address,
            token,
            part,
            cluster_task,
            fatal: failed,
            board,
            peer_requests,
            seats_leaving,
        })
    }

    /// Where requests are taken.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where the admin API answers.
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// Where peers reach this node.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What lets another node join, without seeds.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Waits until this node may not go on, and says why; then it is to be stopped.
    pub async fn failed(&self) -> String {
        let mut fatal = self.fatal.clone();
        match fatal.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// The runtime in use.
    pub fn runtime(&self) -> &'static str {
        self.runtime
    }

    /// Stops: takes no new connection, lets requests finish within the drain timeout, refuses the rest, stops or
    /// leaves the instances, closes the store.
    pub async fn stop(self) {
        tracing::info!(timeout = ?self.config.drain_timeout, "stopping: no new connections, requests may finish");
        self.board.change(|facts| facts.draining = true);
        self.stop_serving.cancel();
        // The listener bounds this by the drain timeout itself.
        tokio::join!(self.http_source.drained(), self.seats_leaving.wait(self.config.drain_timeout));
        // What other nodes sent here before they heard of it.
        self.peer_requests.close();
        if tokio::time::timeout(self.config.drain_timeout, self.peer_requests.wait()).await.is_err() {
            tracing::info!(open = self.peer_requests.len(), "leaving requests of other nodes that did not end in time");
        }
        let _ = self.messages.send(Message::Input(Input::Drain)).await;
        // A strict singleton may not run where nobody asks for the consent to it.
        let (done, stopped) = oneshot::channel();
        let only_strict = self.config.on_shutdown != OnShutdown::Stop;
        let _ = self.messages.send(Message::StopAll { done, only_strict }).await;
        let _ = stopped.await;
        self.leave.cancel();
        let _ = self.api_task.await;
        // Peers hear of it before the process is gone, and need not find out.
        self.part.cancel();
        let _ = self.cluster_task.await;
        let _ = self.messages.send(Message::Leave).await;
        let _ = self.driver_task.await;
        // The registrar ends when the last handle to it is gone, and closes the store.
        let _ = self.registrar_task.await;
        tracing::info!("stopped");
    }
}

/// The join token of a data directory whose daemon may run.
///
/// # Errors
/// No node has run in it yet, or it cannot be read.
pub fn token(data_dir: &std::path::Path) -> Result<Token, DaemonError> {
    let path = data_dir.join(TOKEN);
    let io = |source| DaemonError::Io { doing: format!("read {}", path.display()), source };
    let text = std::fs::read_to_string(&path).map_err(io)?;
    text.trim().parse().map_err(|error| io(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))
}

/// The join token of a cluster that does not exist yet: the first node that is given it begins it.
///
/// # Errors
/// The system gives no randomness.
pub fn new_token(seeds: Vec<String>) -> Result<Token, DaemonError> {
    let io = |source| DaemonError::Io { doing: "draw a secret".to_owned(), source };
    let secret = Secret::generate().map_err(|error| io(std::io::Error::other(error.to_string())))?;
    Ok(Token { cluster: crate::id::ClusterId(clock::seed().map_err(io)?), secret, seeds })
}

/// Writes the join token beside the store, so that `maelstromd token` needs not the lock that the daemon holds.
fn write_token(data_dir: &std::path::Path, token: &Token) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let new = data_dir.join(format!("{TOKEN}.new"));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(file, "{token}")?;
    std::fs::rename(new, data_dir.join(TOKEN))
}

/// What is below an error, for a message of one line.
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map(|source| format!(": {source}")).unwrap_or_default()
}

async fn listen(address: SocketAddr, what: &'static str, flag: &'static str) -> Result<TcpListener, DaemonError> {
    TcpListener::bind(address).await.map_err(|source| DaemonError::Listen { what, address, flag, source })
}

async fn open_runtime(
    config: &Config,
    owner: Owner,
    logs: &Arc<LogBook>,
    events: mpsc::Sender<RuntimeEvent>,
) -> Result<Arc<dyn Runtime>, DaemonError> {
    let host = config.docker_host.as_deref();
    let docker = match config.runtime {
        RuntimeChoice::Docker => true,
        RuntimeChoice::Process => false,
        RuntimeChoice::Auto => match DockerRuntime::ping(host).await {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(%error, "runtime auto: Docker does not answer, so components run as processes");
                false
            }
        },
    };
    let failed = |name| move |source| DaemonError::Runtime { name, source };
    Ok(if docker {
        let connected = DockerRuntime::connect(host, &config.data_dir, owner, Arc::clone(logs), events).await;
        Arc::new(connected.map_err(failed("docker"))?)
    } else {
        Arc::new(ProcessRuntime::open(&config.data_dir, owner, Arc::clone(logs), events).map_err(failed("process"))?)
    })
}

fn found_input(found: Found) -> Input {
    Input::Found {
        id: found.id.clone(),
        fact: Fact::Found {
            id: found.id,
            fingerprint: found.version,
            address: found.started.address,
            handle: found.started.handle,
            frozen: found.frozen,
        },
    }
}

/// Hands the loop what runs already, and waits until it has taken it in.
async fn load(messages: &mpsc::Sender<Message>, found: Vec<Found>) {
    let (done, taken) = oneshot::channel();
    let inputs = found.into_iter().map(found_input).collect();
    let _ = messages.send(Message::Load { inputs, done }).await;
    let _ = taken.await;
}

/// Turns what the runtime tells into facts.
async fn follow_runtime(mut events: mpsc::Receiver<RuntimeEvent>, workshop: Arc<Workshop>) {
    while let Some(event) = events.recv().await {
        match event {
            RuntimeEvent::Exited(id, exit) => {
                let log = workshop.last_lines(&id);
                workshop.report(&id, Fact::Exited { id: id.clone(), how: exit.to_string(), log }).await;
            }
            RuntimeEvent::Lost(reason) => {
                tracing::warn!(reason, "the runtime does not answer; instances may go on running");
            }
            RuntimeEvent::Back => {
                tracing::info!("the runtime answers again");
                telemetry::spawn("adopt again", adopt_again(Arc::clone(&workshop)));
            }
        }
    }
}

/// Asks until the runtime tells what it runs.
async fn adopt_again(workshop: Arc<Workshop>) {
    // The runtime reports its loss again if it goes away again; then this is tried anew.
    for _ in 0..30 {
        match workshop.runtime.adopt().await {
            Ok(found) => return load(&workshop.messages, found).await,
            Err(error) => tracing::warn!(%error, "cannot see yet what the runtime runs"),
        }
        tokio::time::sleep(ADOPT_AGAIN).await;
    }
}

async fn sweep_logs(logs: Arc<LogBook>, catalog: Arc<Catalog>, leave: CancellationToken) {
    let mut tick = tokio::time::interval(SWEEP);
    while leave.run_until_cancelled(tick.tick()).await.is_some() {
        let known = catalog.read().names().cloned().collect();
        let logs = Arc::clone(&logs);
        let swept = tokio::task::spawn_blocking(move || logs.sweep(Clock::wall(), &known)).await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(%error, "old logs could not be removed");
        }
    }
}
