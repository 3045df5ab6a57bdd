//! Opens a connection to a node within its deadline.
//!
//! Knows nothing of what is asked.

use std::io;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::admin::client::{CONNECT_TIMEOUT, ClientError, Target};

/// Connects; the connection lives until the sender and the body of its answer are dropped.
pub(super) async fn connect(target: &Target) -> Result<SendRequest<Full<Bytes>>, ClientError> {
    let opened = async {
        match target {
            Target::Tcp { host, port } => open(TcpStream::connect((host.as_str(), *port)).await?).await,
            Target::Unix(path) => open(UnixStream::connect(path).await?).await,
        }
    };
    let late = || Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {CONNECT_TIMEOUT:?}")));
    let opened = tokio::time::timeout(CONNECT_TIMEOUT, opened).await.unwrap_or_else(|_| late());
    opened.map_err(|source| ClientError::Unreachable { target: target.clone(), source })
}

async fn open<S>(stream: S) -> io::Result<SendRequest<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    crate::telemetry::spawn("admin client", async move {
        // What went wrong reaches whoever waits for the answer.
        let _ = connection.await;
    });
    Ok(sender)
}
