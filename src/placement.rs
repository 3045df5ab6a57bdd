//! Which node does what: every node works out the same from what it has heard of the others.
//!
//! The way of a decision: one node, the [`owner`] of a component, turns demand into a count ([`scale`]); the counts and
//! the nodes give targets, how many instances of what on which node ([`planner`]), and each node acts on its own share.
//! Targets are absolute: a step that was lost or done twice is made up for by the next look. [`poller`] elects who polls
//! a queue or fires a schedule and [`seats`] hands that over, [`way`] says where an event goes that found no free slot where it came in.
//!
//! A core without IO. It knows nothing of membership, of the registry or of runtimes: the shell hands it facts.

mod elect;
pub mod lease;
mod places;
pub mod planner;
pub mod rendezvous;
#[cfg(test)]
mod samples;
pub mod scale;
pub mod scheduler;
pub mod seats;
pub mod view;
pub mod way;

pub use elect::{owner, poller};
pub use places::Places;
pub use planner::{Explanation, Needs, Planner, Refusal, Targets, Verdict};
pub use scale::{Because, Rule, Scale};
pub use scheduler::Scheduler;
pub use view::{Constraint, Duty, Engine, Node, Presence, Singleton, View, Want};
