//! Schedules: when they fire (`times`), what is known of their runs (`ledger`), what to do now (`runs`), and who may fire
//! at most once (`claim`).
//!
//! Knows nothing of requests, nodes' connections or the registry: times, randomness and what is known of other nodes are
//! arguments.

pub mod claim;
pub mod ledger;
pub mod runs;
pub mod times;

pub use ledger::Ledger;
pub use runs::Runs;
pub use times::Times;
