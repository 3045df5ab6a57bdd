//! The data plane over real sockets: listener, proxy and router as they are, with a core of fixed instances.

#![allow(
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "tests wait in real time; the rig is a module of this file alone"
)]

#[path = "proxy/cases.rs"]
mod cases;
#[allow(dead_code, reason = "what only two nodes need is for tests/hop.rs")]
#[path = "proxy/rig.rs"]
mod rig;

/// Instances are on the node where requests come in.
const IS_HOP: bool = false;
