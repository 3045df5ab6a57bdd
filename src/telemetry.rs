//! Tasks with names. Knows nothing of what they do.

use std::future::Future;

use tokio::task::JoinHandle;

/// Starts a task. The name says in logs and dumps what it is for; a panic ends the task and never the process.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tracing::trace!(task = name, "spawned");
    tokio::spawn(future)
}
