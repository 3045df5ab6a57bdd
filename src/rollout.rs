//! What happens when a component changes: which definitions it had, how far the newest has come, and whether it must be
//! taken back.
//!
//! A core without IO. It knows a definition as a document and a fingerprint, and an instance as what its node says of it.

mod judge;
mod revisions;
mod status;

pub use judge::{Seen, Verdict, judge};
pub use revisions::{KEPT, Outcome, Revision, Revisions, Why};
pub use status::{Standing, State, Told, Trouble, standing};
