//! The admin API: HTTP/JSON for `maelctl` and for scripts, over a unix socket and over loopback TCP.
//!
//! [`api`] says what can be asked and what is answered; the daemon implements [`Control`], [`server`] puts it on
//! sockets, [`client`] asks. Knows nothing of how the daemon does what it is asked.

pub mod api;
pub mod client;
pub mod server;

pub use api::{ApiError, Code, Control};
