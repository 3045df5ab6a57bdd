//! Connections that changed their protocol (WebSockets and anything else that upgrades): bytes both ways until both
//! sides are done. The slot is held all that time, so the instance counts as used.
//!
//! Knows nothing of what the bytes mean.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use crate::intake::Lease;
use crate::proxy::hop::PeerStream;

/// Bytes per direction that are under way in a tunnel. WebSocket messages are small and tunnels may be many; tokio's
/// default of 8 KiB is kept.
const BUFFER: usize = 8 * 1024;

/// All open tunnels. Their number is bounded by the slots of the instances.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    open: AtomicUsize,
    closing: CancellationToken,
}

impl Tunnels {
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// Copies until both directions have ended, one broke, or the node closes its tunnels.
    pub(crate) async fn run(&self, client: OnUpgrade, instance: OnUpgrade, lease: Lease) {
        self.carry(copy(client, instance)).await;
        drop(lease);
    }

    /// The same between one of the two and a stream to another node. `lease` is held on the node of the instance.
    pub(crate) async fn run_hop(&self, end: OnUpgrade, stream: PeerStream, lease: Option<Lease>) {
        let copied = async {
            let mut end = TokioIo::new(end.await.map_err(TunnelError::Upgrade)?);
            let mut stream = tokio::io::join(stream.receive, stream.send);
            let copied = tokio::io::copy_bidirectional_with_sizes(&mut end, &mut stream, BUFFER, BUFFER).await;
            copied.map_err(TunnelError::Copy)
        };
        self.carry(copied).await;
        drop(lease);
    }

    async fn carry(&self, copied: impl Future<Output = Result<(u64, u64), TunnelError>>) {
        self.open.fetch_add(1, Ordering::AcqRel);
        let _open = Open(&self.open);
        match self.closing.run_until_cancelled(copied).await {
            Some(Ok((sent, received))) => tracing::debug!(sent, received, "tunnel closed"),
            Some(Err(error)) => tracing::debug!(%error, "tunnel broke"),
            None => tracing::debug!("tunnel closed by the node"),
        }
    }
}

struct Open<'a>(&'a AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error("one side did not change its protocol")]
    Upgrade(#[source] hyper::Error),
    #[error("copying failed")]
    Copy(#[source] std::io::Error),
}

async fn copy(client: OnUpgrade, instance: OnUpgrade) -> Result<(u64, u64), TunnelError> {
    let (client, instance) = tokio::try_join!(client, instance).map_err(TunnelError::Upgrade)?;
    let (mut client, mut instance) = (TokioIo::new(client), TokioIo::new(instance));
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut instance, BUFFER, BUFFER)
        .await
        .map_err(TunnelError::Copy)
}
