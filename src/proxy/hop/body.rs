//! A body that comes from another node: taken out of the stream as it is read, so that the reader sets the pace.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream as _;
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::FramedRead;
use tokio_util::sync::DropGuard;

use super::wire::{self, Frames};
use crate::proxy::body::BodyError;

/// What the other side writes, as frames.
pub(crate) type Receiver = FramedRead<Box<dyn AsyncRead + Send + Unpin>, Frames>;

/// What is still to be said.
pub(crate) enum Hold {
    /// Nothing, unless the protocol is changed.
    Half(Box<dyn AsyncWrite + Send + Unpin>),
    /// A task sends the body of the request, for as long as the answer is wanted.
    Task(#[expect(dead_code, reason = "held for its drop, which ends the task")] DropGuard),
}

/// The body of an answer.
pub(crate) struct Inflow {
    frames: Receiver,
    is_over: bool,
    _hold: Hold,
}

impl fmt::Debug for Inflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflow").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}

impl Inflow {
    pub(crate) fn new(frames: Receiver, hold: Hold) -> Self {
        Self { frames, is_over: false, _hold: hold }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(Pin::new(&mut self.frames).poll_next(cx));
        let frame = match next {
            Some(Ok(wire::Frame::Data(data))) => Frame::data(data),
            Some(Ok(wire::Frame::Trailers(trailers))) => Frame::trailers(trailers),
            Some(Ok(wire::Frame::End)) => {
                self.is_over = true;
                return Poll::Ready(None);
            }
            Some(
                Ok(wire::Frame::Broken | wire::Frame::Head(_) | wire::Frame::Go | wire::Frame::Question(_)) | Err(_),
            )
            | None => {
                self.is_over = true;
                return Poll::Ready(Some(Err(BodyError::Lost)));
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }
}
