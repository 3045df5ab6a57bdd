//! Where events come from. HTTP is here: the listener, and the one place where a failure becomes a status code; schedules;
//! and what sources have in common that make their events themselves.
//!
//! Knows the router's table and hands requests to the proxy; knows nothing of instances.

pub mod attend;
pub mod courier;
pub mod cron;
pub mod http;
pub mod once;
pub mod respond;
pub mod sqs;
mod stream;

pub use http::{HEALTH, HttpSource, Options};
