//! Messages on streams: four bytes of length, then the bytes, then the end of the stream.
//!
//! The length first lets a reader refuse or wait before it takes memory, and tells a cut message from a whole one.
//! Knows nothing of what is in a message.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The longest message in bytes. A batch of rows is 64 KiB; a snapshot is cut into pieces below this.
pub const MESSAGE_MAX: usize = 4 << 20;

/// How long the bytes of one message may take. 4 MiB in 10 s is 3.4 Mbit/s: less than the slowest link that a cluster
/// is run on.
pub(super) const MESSAGE_TIME: Duration = Duration::from_secs(10);

/// Budgets count in pieces of this many bytes, so that they fit the 32 bits of a permit and small messages count too.
pub(super) const PIECE: usize = 1 << 10;

/// What was wrong with one message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a message of {0} bytes; allowed are at most {MESSAGE_MAX}")]
    TooLong(usize),
    #[error("a message was cut short or has bytes after its end")]
    Malformed,
    #[error("the bytes of a message did not come within {} s", MESSAGE_TIME.as_secs())]
    TooSlow,
    #[error("the other side took nothing for {} s", MESSAGE_TIME.as_secs())]
    Stalled,
    /// The stream or its connection ended; the connection knows why.
    #[error("the stream ended")]
    Ended,
}

/// The permits that a message of `bytes` needs.
pub(super) fn pieces(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PIECE).max(1)).unwrap_or(u32::MAX)
}

/// Reads one message. Waits for room in `budget` before it takes memory, and holds it for as long as the bytes live:
/// as long as this side is the slow one, the sender waits and is not blamed. `patience` is for the first bytes alone.
pub(super) async fn read(
    stream: &mut RecvStream,
    limit: usize,
    budget: &Arc<Semaphore>,
    patience: Duration,
) -> Result<Bytes, FrameError> {
    let mut head = [0; 4];
    let first = tokio::time::timeout(patience, stream.read_exact(&mut head)).await;
    first.map_err(|_| FrameError::TooSlow)?.map_err(|error| ended(&error))?;
    let length = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(FrameError::TooLong(length));
    }
    let room = Arc::clone(budget).acquire_many_owned(pieces(length)).await.map_err(|_| FrameError::Ended)?;
    let body = tokio::time::timeout(MESSAGE_TIME, async {
        let mut body = BytesMut::zeroed(length);
        stream.read_exact(&mut body).await.map_err(|error| ended(&error))?;
        match stream.read(&mut [0]).await {
            Ok(None) => Ok(body),
            Ok(Some(_)) => Err(FrameError::Malformed),
            Err(_) => Err(FrameError::Ended),
        }
    })
    .await
    .map_err(|_| FrameError::TooSlow)??;
    Ok(Bytes::from_owner(Held { bytes: body, _room: room }))
}

/// Writes one message and ends the stream.
pub(super) async fn write(stream: &mut SendStream, bytes: &Bytes) -> Result<(), FrameError> {
    let length = u32::try_from(bytes.len()).map_err(|_| FrameError::TooLong(bytes.len()))?;
    let head = Bytes::copy_from_slice(&length.to_be_bytes());
    let written = tokio::time::timeout(MESSAGE_TIME, stream.write_all_chunks(&mut [head, bytes.clone()])).await;
    written.map_err(|_| FrameError::Stalled)?.map_err(|_| FrameError::Ended)?;
    stream.finish().map_err(|_| FrameError::Ended)
}

/// The end of the stream in the middle is the sender's fault; everything else is the end of the connection.
fn ended(error: &quinn::ReadExactError) -> FrameError {
    match error {
        quinn::ReadExactError::FinishedEarly(_) => FrameError::Malformed,
        quinn::ReadExactError::ReadError(_) => FrameError::Ended,
    }
}

/// Bytes together with the room that they take.
struct Held {
    bytes: BytesMut,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
