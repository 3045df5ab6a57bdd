//! Maelstrom: "Lambda on your own machines". Equal nodes start containers when HTTP, cron or SQS events ask for them.
//!
//! The way of an event: a source takes it in, the router names the component, activation finds a live instance or
//! holds the event and raises demand, a runtime starts what is missing, the proxy delivers. Results come back as new
//! facts; nothing calls upward. Cores decide without IO; the shell (feature `daemon`) acts.

pub mod activation;
pub mod consumer;
pub mod crdt;
pub mod failure;
pub mod gossip;
pub mod hash;
pub mod id;
pub mod model;
pub mod node;
pub mod placement;
pub mod rng;
pub mod rollout;
pub mod router;
pub mod schedule;
pub mod slots;
pub mod time;
pub mod timeline;
pub mod wire;

#[cfg(feature = "daemon")]
pub mod admin;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod intake;
#[cfg(feature = "daemon")]
pub mod proxy;
#[cfg(feature = "daemon")]
pub mod runtime;
#[cfg(feature = "daemon")]
pub mod source;
#[cfg(feature = "daemon")]
pub mod store;
#[cfg(feature = "daemon")]
pub mod telemetry;
#[cfg(feature = "daemon")]
pub mod transport;
