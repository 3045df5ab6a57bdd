//! What users define and what nodes say of themselves, as values that cannot be wrong: each is parsed once, and every
//! refusal names the field, the value and what is allowed.
//!
//! Knows nothing of files, sockets or the registry.

pub mod address;
pub mod cfg;
pub mod component;
pub mod constraint;
pub mod duty;
pub mod happening;
pub mod image;
pub mod instance;
pub mod invalid;
mod reader;
pub mod schedule;
pub mod share;
pub mod source;
pub mod suggest;
pub mod units;
pub mod words;

pub use component::Component;
pub use invalid::{FieldError, Invalid, Refusal};
pub use source::Source;

/// The largest definition in bytes of its canonical JSON. Every node keeps every definition and pushes it whole when
/// it changes: at 256 KiB, the size of an event that hosted buses take, a thousand of the largest ones still fit into
/// a quarter of a gigabyte of each node.
pub const DOCUMENT_MAX: usize = 256 * 1024;

/// Notes a definition that is too large for [`DOCUMENT_MAX`].
fn check_size(doc: &serde_json::Value, errors: &mut reader::Errors) {
    let size = serde_json::to_vec(doc).map_or(usize::MAX, |bytes| bytes.len());
    if size > DOCUMENT_MAX {
        let problem = format!("is {size} bytes long");
        errors.add("document", String::new(), Refusal::new(problem, format!("at most {DOCUMENT_MAX} bytes")));
    }
}
