//! The replicated registry: what every node knows of components, sources and settings, without a leader.
//!
//! **Shared rows** may be written on any node. Per key there is one register (`crdts::MVReg`, several values at most
//! while writes are concurrent) whose dots are hybrid logical clocks. The contract of [`Register::merge`]: it commutes,
//! associates and repeats harmlessly, so copies may be lost, doubled and reordered on the way; nodes that have seen the
//! same registers hold equal bytes. It holds because
//! - a delete is a write of nothing, kept with its clock, so that an older copy cannot bring the row back;
//! - the context of a write is the clock of its own register and no more (a wider one would hide removals);
//! - a dot is (time, node), never a count, so a key that was forgotten and made again is still newer.
//!
//! **Owned rows** have one writer and the greatest (epoch, seq) wins; [`Bulletin`] spreads them.
//!
//! Does no IO, reads no clock and draws no random number. A row is opaque here: a node stores and forwards kinds that
//! it does not know. Changes are returned to be made durable *before* they are acknowledged or sent to anybody.

pub mod bulletin;
pub mod clock;
pub mod context;
#[cfg(test)]
mod laws;
pub mod owned;
pub mod registry;
pub mod replica;
pub mod row;
pub mod tree;

pub use bulletin::Bulletin;
pub use clock::{Clock, Hlc};
pub use context::Context;
pub use owned::{Owned, OwnedRow, OwnedVersion};
pub use registry::{Change, Expect, Merged, PutError, Registry, Write, Written};
pub use replica::{BadFrame, Collect, Lag, Options, Output, Replica, Saved, Stats};
pub use row::{Dot, Key, Kind, Register, Row, Sibling, Version};
