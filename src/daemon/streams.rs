//! Streams between nodes: opens them for the proxy, and hands those of others to it; what carries no request asks for
//! lines of logs.
//!
//! Knows nothing of what is in them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::catalog::Catalog;
use super::cluster::Cluster;
use super::logs;
use crate::id::{NodeId, NodeName};
use crate::intake::Intake;
use crate::proxy::{Forwarder, PeerStream, Peers};
use crate::runtime::logs::LogBook;
use crate::source::courier::Components as _;
use crate::telemetry;

use tokio_util::task::TaskTracker;

/// For a stream to another node, its connection included: two round trips where it is new, and one lost packet. Who is
/// not reached by then is passed over for another.
const OPEN: Duration = Duration::from_secs(1);

/// Opens streams, as soon as the cluster is there.
#[derive(Debug, Default)]
pub(crate) struct Streams(OnceLock<Cluster>);

impl Streams {
    pub(crate) fn begin(&self, cluster: Cluster) {
        // Called once, when the daemon is built.
        let _ = self.0.set(cluster);
    }
}

impl Peers for Streams {
    fn open(&self, node: NodeId) -> Pin<Box<dyn Future<Output = Result<PeerStream, String>> + Send + '_>> {
        Box::pin(async move {
            let cluster = self.0.get().ok_or("this node is starting")?;
            let address = {
                let view = cluster.view.load();
                view.members.iter().find(|member| member.peer.node == node).map(|member| member.peer.address)
            };
            let address = address.ok_or_else(|| format!("node {node} is not known"))?;
            let opened = cluster.transport.open_data(node, address, OPEN).await;
            let (receive, send) = opened.map_err(|error| format!("node {node}: {error}"))?.into_halves();
            Ok(PeerStream { send, receive })
        })
    }
}

/// What serves others. Nothing of the registrar is in it: a request that does not end must not hold that up.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) core: Arc<dyn Intake>,
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) logs: Arc<LogBook>,
    /// The name of this node.
    pub(crate) name: NodeName,
}

/// Serves the requests of others until the transport ends, and what else they ask for; `requests` counts those under
/// way.
pub(crate) async fn serve(cluster: Cluster, server: Arc<Server>, requests: TaskTracker) {
    while let Some((_, stream)) = cluster.transport.accept_data().await {
        let server = Arc::clone(&server);
        // Large, and on its way to a task it would be copied several times.
        let request = Box::pin(async move {
            let abandoned = stream.abandoned();
            let (receive, send) = stream.into_halves();
            let stream = PeerStream { send, receive };
            let question =
                server.forwarder.serve_peer(&server.core, |name| server.catalog.live(name), stream, abandoned).await;
            if let Some(question) = question {
                // Nobody waits for its end when this node stops.
                telemetry::spawn("peer logs", logs::serve(Arc::clone(&server.logs), server.name.clone(), question));
            }
        });
        telemetry::spawn("peer request", requests.track_future(request));
    }
}
