//! Puts a [`Control`] on sockets: loopback TCP, and a unix socket that only its owner may open.
//!
//! hyper and a match over a table of a dozen paths, not a web framework: hyper is in the tree for the proxy anyway,
//! and the table is what the OpenAPI document is checked against. Knows nothing of what the requests mean.

use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::api::Control;

mod body;
pub(crate) mod events;
mod guard;
mod query;
mod routes;

pub use routes::routes;

/// From the head of a request to the head of its answer, the body's arrival included. Exempt is `invoke`, which
/// waits for cold starts.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// For the head of a request, and for the next one on a connection that is kept. A client asks at once.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Connections at once over both sockets; more wait in the kernel. Each can hold a body of 6 MiB, so 64 stay below
/// 400 MiB in the worst case; people and scripts need a handful.
const CONNECTIONS_MAX: usize = 64;

/// For running requests once the server is asked to stop: the admin API answers in milliseconds, and only an
/// `invoke` may lose its answer.
const DRAIN: Duration = Duration::from_secs(5);

/// After a failed accept, which means that descriptors ran out: long enough for some to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where to listen.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// TCP; must be loopback. Port 0 takes a free one.
    pub tcp: Option<SocketAddr>,
    /// Path of the unix socket.
    pub socket: Option<PathBuf>,
}

/// The server cannot listen. State: nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Whoever reaches the address could start programs on this machine.
    #[error(
        "the admin API may not listen on {0}: that is not a loopback address, and anyone who reaches it could start \
         programs here. Beyond loopback it needs a token and TLS, which this version does not have. Use \
         127.0.0.1:{port} and reach it from elsewhere by `ssh -L {port}:127.0.0.1:{port}`",
        port = .0.port()
    )]
    NotLoopback(SocketAddr),
    /// The address is taken or not ours.
    #[error("the admin API cannot listen on {address}")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Another process answers on the socket.
    #[error("the admin API cannot listen on {}: another maelstromd answers there; stop it or use another data directory", .0.display())]
    InUse(PathBuf),
    /// The path exists and is not a socket, so it is not ours to replace.
    #[error("the admin API cannot listen on {}: there is a file that is not a socket; move it away", .0.display())]
    NotASocket(PathBuf),
    /// The file cannot be made.
    #[error("the admin API cannot listen on {}", path.display())]
    Unix {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Sockets that listen and are not served yet.
#[derive(Debug)]
pub struct Server {
    tcp: Option<TcpListener>,
    unix: Option<(UnixListener, SocketFile)>,
}

/// Removes the socket's file when dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "the socket file is gone already");
        }
    }
}

impl Server {
    /// Opens the sockets.
    ///
    /// # Errors
    /// See [`BindError`].
    pub async fn bind(settings: &Settings) -> Result<Self, BindError> {
        let tcp = match settings.tcp {
            None => None,
            Some(address) if !address.ip().is_loopback() => return Err(BindError::NotLoopback(address)),
            Some(address) => {
                Some(TcpListener::bind(address).await.map_err(|source| BindError::Tcp { address, source })?)
            }
        };
        let unix = match &settings.socket {
            None => None,
            Some(path) => Some((bind_unix(path).await?, SocketFile(path.clone()))),
        };
        Ok(Self { tcp, unix })
    }

    /// Where TCP listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }

    /// Serves until `stop`; then finishes running requests within 5 s, ends log streams, and removes the socket.
    pub async fn run(self, control: Arc<dyn Control>, stop: CancellationToken) {
        let shared =
            Shared { control, stop, tasks: TaskTracker::new(), permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
        let tcp = async {
            if let Some(tcp) = &self.tcp {
                shared.accept(|| async { tcp.accept().await.map(|(stream, _)| stream) }).await;
            }
        };
        let unix = async {
            if let Some((unix, _)) = &self.unix {
                shared.accept(|| async { unix.accept().await.map(|(stream, _)| stream) }).await;
            }
        };
        tokio::join!(tcp, unix, shared.stop.cancelled());
        shared.tasks.close();
        if tokio::time::timeout(DRAIN, shared.tasks.wait()).await.is_err() {
            tracing::info!(open = shared.tasks.len(), "admin requests still run after {DRAIN:?}; they are cut off");
        }
    }
}

struct Shared {
    control: Arc<dyn Control>,
    stop: CancellationToken,
    tasks: TaskTracker,
    permits: Arc<Semaphore>,
}

impl Shared {
    async fn accept<S, F>(&self, mut next: impl FnMut() -> F)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = io::Result<S>>,
    {
        loop {
            let accepted = async {
                let permit = Arc::clone(&self.permits).acquire_owned().await;
                (permit, next().await)
            };
            let (permit, stream) = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = accepted => accepted,
            };
            match stream {
                Ok(stream) => {
                    let connection = connection(stream, Arc::clone(&self.control), self.stop.clone());
                    let tracked = self.tasks.track_future(async move {
                        connection.await;
                        drop(permit);
                    });
                    crate::telemetry::spawn("admin connection", tracked);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection<S>(stream: S, control: Arc<dyn Control>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let until = stop.clone();
    let service = service_fn(move |request| {
        let (control, stop) = (Arc::clone(&control), until.clone());
        async move { Ok::<_, std::convert::Infallible>(routes::answer(request, &control, stop).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection ended early");
    }
}

/// Listens on a unix socket of mode 0600, in place of one that a killed daemon left behind.
async fn bind_unix(path: &Path) -> Result<UnixListener, BindError> {
    let failed = |source| BindError::Unix { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(BindError::InUse(path.to_owned()));
            }
            fs::remove_file(path).map_err(failed)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // Bound under another name and moved into place once it has its mode: nobody can connect in between.
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(".new");
    let hidden = PathBuf::from(hidden);
    let _ = fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden).map_err(failed)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    fs::rename(&hidden, path).map_err(failed)?;
    Ok(listener)
}
