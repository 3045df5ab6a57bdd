//! The source `sqs`: messages of queues, each handed to its component like a request.
//!
//! What to do next is decided in `consumer`; here it is done.

pub mod client;
