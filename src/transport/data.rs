//! Data connections: streams of bytes between two nodes, apart from the control connection, so that a large answer
//! never stands in the way of a probe. They close when idle and their end is no evidence of anything.
//!
//! Knows nothing of what is in a stream.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Mutex, Notify};

use super::close::{Code, DialError};
use super::{Inner, settings};
use crate::id::NodeId;
use crate::telemetry;

/// A stream in both directions. Ending the writing side (`shutdown`) leaves the other one open; dropping it ends both.
#[derive(Debug)]
pub struct DataStream {
    send: SendStream,
    receive: RecvStream,
}

/// What the other side wrote.
pub type DataIncoming = Box<dyn AsyncRead + Send + Unpin>;

/// What the other side is to read.
pub type DataOutgoing = Box<dyn AsyncWrite + Send + Unpin>;

impl DataStream {
    /// Both directions apart. A dropped one ends, and the other goes on.
    #[must_use]
    pub fn into_halves(self) -> (DataIncoming, DataOutgoing) {
        (Box::new(self.receive), Box::new(self.send))
    }

    /// Ends when the other side wants no more of what this one writes: it dropped its reading half, or is gone.
    pub fn abandoned(&self) -> impl Future<Output = ()> + Send + use<> {
        let stopped = self.send.stopped();
        async move { drop(stopped.await) }
    }

    /// Breaks both directions off: the other side sees an error and not an end.
    pub fn abort(mut self) {
        // Both fail only if the stream has ended already.
        let _ = self.send.reset(Code::Unused.number());
        let _ = self.receive.stop(Code::Unused.number());
    }
}

impl AsyncRead for DataStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buffer)
    }
}

impl AsyncWrite for DataStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}

/// An open data connection. Either side opens streams on it, whoever dialled.
#[derive(Debug)]
pub(super) struct DataLink {
    pub(super) node: NodeId,
    pub(super) connection: Connection,
}

/// Opens a stream; dials if there is no data connection to the node.
pub(super) async fn open(
    inner: &Arc<Inner>,
    node: NodeId,
    address: SocketAddr,
    deadline: Duration,
) -> Result<DataStream, DialError> {
    let opened = async {
        if let Some(connection) = find(inner, node) {
            match connection.open_bi().await {
                Ok((send, receive)) => return Ok(DataStream { send, receive }),
                Err(error @ ConnectionError::LocallyClosed) => return Err(DialError::of(&error)),
                // It ended a moment ago, by its idle timeout for example.
                Err(_) => {}
            }
        }
        let connection = dial_unless_gone(inner, node, address).await?;
        let (send, receive) = connection.open_bi().await.map_err(|error| DialError::of(&error))?;
        Ok(DataStream { send, receive })
    };
    tokio::time::timeout(deadline, opened).await.unwrap_or(Err(DialError::TimedOut))
}

/// Who dials a node.
#[derive(Debug, Default)]
pub(super) struct Dials {
    turn: Mutex<()>,
    /// The node is known to be gone.
    gone: Notify,
}

fn dials(inner: &Inner, node: NodeId) -> Arc<Dials> {
    let mut all = inner.data_dials.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(all.entry(node).or_default())
}

/// Whoever dials a node hears at once that it is gone.
pub(super) fn give_up(inner: &Inner, node: NodeId) {
    dials(inner, node).gone.notify_waiters();
}

async fn dial_unless_gone(inner: &Arc<Inner>, node: NodeId, address: SocketAddr) -> Result<Connection, DialError> {
    let dials = dials(inner, node);
    tokio::select! {
        biased;
        () = dials.gone.notified() => Err(DialError::Failed("the node is known to be gone".to_owned())),
        dialled = dial(inner, &dials.turn, node, address) => dialled,
    }
}

/// One dial per node at a time: whoever waited finds the connection of the one before.
async fn dial(
    inner: &Arc<Inner>,
    turn: &Mutex<()>,
    node: NodeId,
    address: SocketAddr,
) -> Result<Connection, DialError> {
    let _turn = turn.lock().await;
    if let Some(connection) = find(inner, node).filter(|connection| connection.close_reason().is_none()) {
        return Ok(connection);
    }
    {
        let table = inner.table();
        if table.stopping {
            return Err(DialError::Stopping);
        }
        if table.banned.contains(&node) {
            return Err(DialError::BannedThere(node));
        }
    }
    let config = inner.configs().data.clone();
    let (connection, _) = inner.connect(config, address, Some(node)).await?;
    keep(inner, node, connection.clone());
    Ok(connection)
}

/// The connection in use. Whether it has ended is not asked: that takes a lock for which its own work is waited for.
fn find(inner: &Inner, node: NodeId) -> Option<Connection> {
    let links = inner.data_links();
    links.iter().rev().find(|link| link.node == node).map(|link| link.connection.clone())
}

/// Takes a data connection into use and its streams in.
pub(super) fn keep(inner: &Arc<Inner>, node: NodeId, connection: Connection) {
    // Whoever accepts a connection knows only now that it is for data.
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(settings::DATA_STREAMS_OPEN));
    connection.set_receive_window(VarInt::from_u32(settings::DATA_WINDOW));
    inner.data_links().push(DataLink { node, connection: connection.clone() });
    let inner = Arc::clone(inner);
    telemetry::spawn("peer data", async move {
        while let Ok((send, receive)) = connection.accept_bi().await {
            if inner.data_streams.send((node, DataStream { send, receive })).await.is_err() {
                break;
            }
        }
        inner.data_links().retain(|link| link.connection.stable_id() != connection.stable_id());
    });
}
