//! From host and path of a request to the component that answers it: an immutable [`Table`], built anew when a source
//! or a component changes and read by every request without a lock.
//!
//! Does no IO, waits for nothing, and knows neither HTTP versions nor instances.

pub mod pattern;
pub mod table;

pub use table::{Shadowed, Table, Target, conflict};
