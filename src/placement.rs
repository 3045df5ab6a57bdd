//! Which node does what: every node works out the same from what it has heard of the others.
//!
//! A core without IO. It knows nothing of membership, of the registry or of runtimes: the shell hands it facts.

pub mod rendezvous;
pub mod way;
