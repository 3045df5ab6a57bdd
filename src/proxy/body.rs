//! Bodies on their way through: [`Payload`] to the instance, [`Body`] to the client. Nothing is collected; the slower
//! side sets the pace. A [`Body`] holds the lease and the connection until its last byte.
//!
//! Knows nothing of routes or retries.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::intake::Lease;
use crate::proxy::headers;
use crate::proxy::hop::body::Inflow;
use crate::proxy::upstream::Link;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The sender failed or went away before the end.
    #[error("the body broke off")]
    Broken(#[source] hyper::Error),
    /// More bytes came than allowed.
    #[error("the request body is larger than allowed")]
    TooLarge,
    /// The other node broke it off, or could not send it whole.
    #[error("the body broke off on its way between nodes")]
    Lost,
}

/// How far a streamed request body has come; shared with the one who waits for the answer.
#[derive(Debug, Default)]
pub(crate) struct Progress(AtomicU8);

const RUNNING: u8 = 0;
const DONE: u8 = 1;
const TOO_LARGE: u8 = 2;
const BROKEN: u8 = 3;

impl Progress {
    pub(crate) fn is_running(&self) -> bool {
        self.0.load(Ordering::Acquire) == RUNNING
    }

    pub(crate) fn is_too_large(&self) -> bool {
        self.0.load(Ordering::Acquire) == TOO_LARGE
    }

    /// Whether it ended by the client's fault, so that the instance is not to blame.
    pub(crate) fn failed(&self) -> bool {
        matches!(self.0.load(Ordering::Acquire), TOO_LARGE | BROKEN)
    }

    fn set(&self, state: u8) {
        self.0.store(state, Ordering::Release);
    }
}

impl Source {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Incoming(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(BodyError::Broken)))
            }
            Self::Pieces { pieces, left } => Poll::Ready(match std::task::ready!(pieces.poll_recv(cx)) {
                Some(Piece::Frame(frame)) => {
                    let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                    *left = left.map(|left| left.saturating_sub(length));
                    Some(Ok(frame))
                }
                Some(Piece::End) => {
                    *self = Self::Empty;
                    None
                }
                None => Some(Err(BodyError::Lost)),
            }),
            Self::Inflow(inflow) => inflow.poll_frame(cx),
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Pieces { left, .. } => *left == Some(0),
            Self::Incoming(body) => body.is_end_stream(),
            Self::Inflow(inflow) => inflow.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Incoming(body) => body.size_hint(),
            // The head says how long it is, if anybody knows.
            Self::Pieces { left: Some(left), .. } => SizeHint::with_exact(*left),
            Self::Pieces { left: None, .. } | Self::Inflow(_) => SizeHint::default(),
        }
    }
}

/// The body of a request on its way to an instance.
#[derive(Debug, Default)]
pub struct Payload {
    source: Source,
    /// Bytes that may still come.
    left: Option<u64>,
    progress: Option<Arc<Progress>>,
}

#[derive(Debug, Default)]
enum Source {
    #[default]
    Empty,
    Full(Bytes),
    Incoming(Incoming),
    /// Of a request of another node.
    Pieces {
        pieces: mpsc::Receiver<Piece>,
        /// Bytes that still come, if its head says so.
        left: Option<u64>,
    },
    /// Of an answer of another node.
    Inflow(Box<Inflow>),
}

/// A part of a body that another task reads.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Data or trailers.
    Frame(Frame<Bytes>),
    /// It is complete.
    End,
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        let source = if bytes.is_empty() { Source::Empty } else { Source::Full(bytes) };
        Self { source, left: None, progress: None }
    }
}

impl From<Incoming> for Payload {
    fn from(body: Incoming) -> Self {
        if body.is_end_stream() {
            return Self::default();
        }
        Self { source: Source::Incoming(body), left: None, progress: Some(Arc::default()) }
    }
}

impl Payload {
    /// A body that another task reads, of `length` bytes if its head says so.
    pub(crate) fn pieces(pieces: mpsc::Receiver<Piece>, length: Option<u64>) -> Self {
        Self { source: Source::Pieces { pieces, left: length }, left: None, progress: Some(Arc::default()) }
    }

    /// Bytes that it holds in memory already.
    pub(crate) fn held(&self) -> u64 {
        match &self.source {
            Source::Full(bytes) => bytes.len() as u64,
            Source::Empty | Source::Incoming(_) | Source::Pieces { .. } | Source::Inflow(_) => 0,
        }
    }

    /// Bounds the bytes that may come. False if it is known already that there are more.
    pub(crate) fn limit(&mut self, most: u64) -> bool {
        self.left = Some(most);
        self.size_hint().lower() <= most
    }

    pub(crate) fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.clone()
    }

    fn mark(&self, state: u8) {
        if let Some(progress) = &self.progress {
            progress.set(state);
        }
    }
}

impl HttpBody for Payload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut frame = match std::task::ready!(this.source.poll(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                this.mark(BROKEN);
                return Poll::Ready(Some(Err(error)));
            }
            None => {
                this.mark(DONE);
                return Poll::Ready(None);
            }
        };
        let ended = this.source.is_end();
        if let (Some(data), Some(left)) = (frame.data_ref(), &mut this.left) {
            let Some(rest) = left.checked_sub(data.len() as u64) else {
                this.mark(TOO_LARGE);
                return Poll::Ready(Some(Err(BodyError::TooLarge)));
            };
            *left = rest;
        }
        if let Some(trailers) = frame.trailers_mut() {
            headers::strip_outside(trailers);
        }
        if ended || frame.is_trailers() {
            this.mark(DONE);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

/// The body of an answer on its way to the client.
///
/// Invariant: as long as more can come it holds the lease of the instance and its connection; at the end the connection
/// goes back to the pool, and before the end it is closed, so the instance sees that nobody reads any more.
#[derive(Default)]
pub struct Body {
    source: Source,
    hold: Option<(Link, Lease)>,
    /// Dropped last, with the body.
    guard: Option<Box<dyn Send>>,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("source", &self.source).field("hold", &self.hold).finish_non_exhaustive()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self { source: Payload::from(bytes).source, hold: None, guard: None }
    }
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Keeps `guard` until the body is dropped, which is when its last byte was taken or nobody wants it any more.
    #[must_use]
    pub fn keep(mut self, guard: Box<dyn Send>) -> Self {
        self.guard = Some(guard);
        self
    }

    /// An answer of another node.
    pub(crate) fn inflow(inflow: Box<Inflow>) -> Self {
        Self { source: Source::Inflow(inflow), hold: None, guard: None }
    }

    pub(crate) fn streamed(body: Incoming, link: Link, lease: Lease) -> Self {
        let mut this = Self { source: Source::Incoming(body), hold: Some((link, lease)), guard: None };
        if this.is_end_stream() {
            this.finish();
        }
        this
    }

    /// The last byte came: the connection is free for the next request, and so is the slot.
    fn finish(&mut self) {
        if let Some((link, lease)) = self.hold.take() {
            link.end();
            drop(lease);
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match (&mut this.source, &mut this.hold) {
            (Source::Incoming(body), Some((link, _))) => {
                link.poll_body(body, cx).map(|frame| frame.map(|frame| frame.map_err(BodyError::Broken)))
            }
            (source, _) => source.poll(cx),
        };
        match std::task::ready!(polled) {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_inside(trailers);
                }
                if frame.is_trailers() || this.source.is_end() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                this.hold = None;
                Poll::Ready(Some(Err(error)))
            }
            None => {
                this.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}
