//! What users define and what nodes say of themselves, as values that cannot be wrong: each is parsed once, and every
//! refusal names the field, the value and what is allowed.
//!
//! Knows nothing of files, sockets or the registry.

pub mod component;
pub mod instance;
pub mod source;

pub use component::Component;
pub use source::Source;
