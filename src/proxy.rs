//! Hands a request to an instance and its answer back, both streamed: pools of connections, the headers between
//! outside and inside, new tries while nothing was sent, upgrades.
//!
//! Knows nothing of where requests come from (listener, schedule, queue, peer) nor of how a failure looks to a client;
//! decides nothing about instances: slots come from [`crate::intake`].

pub mod body;
pub mod forward;
pub mod headers;
pub mod hop;
pub mod pool;
mod retry;
mod upgrade;
mod upstream;

pub use body::{Body, Payload};
pub use forward::{Forwarder, Options, Timing};
pub use headers::{DELIVERY, Origin};
pub(crate) use hop::wire::put_question;
pub use hop::{PeerStream, Peers, Question};
