//! Maelstrom: "Lambda on your own machines". Equal nodes start containers when HTTP, cron or SQS events ask for them.
//!
//! The way of an event: a source takes it in, the router names the component, activation finds a live instance or
//! holds the event and raises demand, a runtime starts what is missing, the proxy delivers. Results come back as new
//! facts; nothing calls upward. Cores decide without IO; the shell (feature `daemon`) acts.

pub mod crdt;
pub mod failure;
pub mod hash;
pub mod id;
pub mod model;
pub mod rng;
pub mod slots;
pub mod time;
pub mod wire;

#[cfg(feature = "daemon")]
pub mod intake;
#[cfg(feature = "daemon")]
pub mod runtime;
#[cfg(feature = "daemon")]
pub mod store;
