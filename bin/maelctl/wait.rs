//! Waiting for what the nodes do after a change was made: asks again and again, until it is so or the time is over.
//!
//! Knows nothing of what is waited for. Whoever stops waiting stops nothing else.

use std::time::Duration;

use crate::cli;
use crate::exit::{Exit, Failure};

/// Between two questions: soon enough for somebody who looks on, and five small answers a second for the node.
const PAUSE: Duration = Duration::from_millis(200);

/// For how long.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct For {
    /// Wait for this long at most (then exit code 7)
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = cli::duration)]
    timeout: Duration,
}

impl For {
    /// Asks until there is an answer; `what` says in the failure what did not come.
    pub(crate) async fn until<T>(
        self,
        what: &str,
        mut ask: impl AsyncFnMut() -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        let asking = async {
            loop {
                if let Some(answer) = ask().await? {
                    return Ok(answer);
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let late = || {
            let text = maelstrom::model::units::format_duration(self.timeout);
            Failure::new(Exit::Timeout, format!("{what}: not within {text}"))
                .hint("it goes on without you; --timeout waits longer")
        };
        tokio::time::timeout(self.timeout, asking).await.unwrap_or_else(|_| Err(late()))
    }
}
