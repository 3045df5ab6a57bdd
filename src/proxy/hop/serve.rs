//! The side where an instance takes a request of another node: what it reads of the stream.
//!
//! Knows nothing of instances.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::codec::FramedRead;

use super::body::Receiver;
use super::wire::{self, Asked, Frame, Frames, WireError};
use crate::proxy::body::{Payload, Piece};

/// How long the head may take: it is one write of the other side.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// Frames of a body that may wait for the instance. Each is at most 64 KiB.
const PIECES: usize = 4;

/// What a stream begins with.
#[expect(clippy::large_enum_variant, reason = "nearly all are requests, and each would be boxed for the others")]
pub(crate) enum First {
    /// The head of a request, and what the rest comes from.
    Request(Asked, Receiver),
    /// Something else is asked for.
    Question(Bytes),
}

/// Reads the head of a request, or what stands in its place.
pub(crate) async fn read_first(receive: Box<dyn AsyncRead + Send + Unpin>) -> Result<First, WireError> {
    let mut frames = FramedRead::with_capacity(receive, Frames, super::ROOM);
    match tokio::time::timeout(HEAD_TIME, frames.next()).await {
        Ok(Some(Ok(Frame::Head(bytes)))) => Ok(First::Request(Asked::get(bytes)?, frames)),
        Ok(Some(Ok(Frame::Question(bytes)))) => Ok(First::Question(bytes)),
        Ok(Some(Err(error))) => Err(error),
        Ok(Some(Ok(_)) | None) => Err(WireError::Malformed("something else than the head of a request")),
        Err(_) => Err(WireError::Malformed("no head in time")),
    }
}

/// The rest of what the other side says: the body, and then its end.
pub(crate) struct Feed {
    frames: Receiver,
    pieces: Option<mpsc::Sender<Piece>>,
    /// More is to come than the head.
    is_open: bool,
}

impl Feed {
    pub(crate) fn new(frames: Receiver, asked: &Asked) -> (Self, Payload) {
        if !asked.has_body {
            return (Self { frames, pieces: None, is_open: asked.is_upgrade }, Payload::default());
        }
        let (pieces, receiver) = mpsc::channel(PIECES);
        // Over HTTP/2 trailers may follow a body whose length was said.
        let length = asked.headers.get(http::header::CONTENT_LENGTH).filter(|_| !asked.is_grpc);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        (Self { frames, pieces: Some(pieces), is_open: true }, Payload::pieces(receiver, length))
    }

    /// Hands the body on. Returns only if the other side talks nonsense, or ends before all was said.
    pub(crate) async fn run(&mut self) {
        while self.is_open {
            let Some(Ok(frame)) = self.frames.next().await else { return };
            let piece = match frame {
                Frame::Data(data) => Piece::Frame(http_body::Frame::data(data)),
                Frame::Trailers(trailers) => Piece::Frame(http_body::Frame::trailers(trailers)),
                Frame::End => {
                    self.is_open = false;
                    Piece::End
                }
                // Without its end the body counts as broken off.
                Frame::Broken => break,
                Frame::Head(_) | Frame::Go | Frame::Question(_) => return,
            };
            let Some(pieces) = &self.pieces else { return };
            // An instance that wants no more of it gets no more; the other side is listened to all the same.
            let _ = pieces.send(piece).await;
        }
        self.pieces = None;
        std::future::pending().await
    }

    /// What follows as bytes, once the protocol was changed.
    pub(crate) fn into_raw(self) -> Box<dyn AsyncRead + Send + Unpin> {
        let parts = self.frames.into_parts();
        Box::new(std::io::Cursor::new(parts.read_buf.freeze()).chain(parts.io))
    }
}

/// Asks for the body of a request, once its slot is there.
pub(crate) struct Go<'a> {
    pub(crate) send: &'a mut Box<dyn AsyncWrite + Send + Unpin>,
    pub(crate) is_due: bool,
}

impl Go<'_> {
    /// Asks, the first time. If it cannot, the other side is gone, which is noticed by whoever reads.
    pub(crate) async fn say(&mut self) {
        if std::mem::take(&mut self.is_due) {
            let mut buf = bytes::BytesMut::new();
            wire::put_go(&mut buf);
            if self.send.write_all(&buf).await.is_ok() {
                let _ = self.send.flush().await;
            }
        }
    }
}
