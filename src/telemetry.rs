//! The one place that spawns, so that no task is nameless.

use std::future::Future;

use tokio::task::JoinHandle;

/// Runs `future` as a task of its own.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let _ = name;
    tokio::spawn(future)
}
