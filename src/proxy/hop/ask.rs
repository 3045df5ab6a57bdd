//! The side where a request came in: sends it to another node and reads the answer.
//!
//! The body waits until the other side has a slot for it, so that a request that is refused there is whole and can go
//! elsewhere. Dropping what the answer is read from cancels the request. Knows nothing of which node is a good choice.

use std::time::Duration;

use bytes::BytesMut;
use futures_util::{FutureExt as _, StreamExt as _};
use http::{Request, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use super::body::{Hold, Inflow, Receiver};
use super::wire::{self, Answered, Asked, Frame, Frames};
use super::{PeerStream, Peers, ROOM};
use crate::failure::Failure;
use crate::id::{ComponentName, NodeId};
use crate::proxy::body::Payload;
use crate::telemetry;

/// How much later than the deadline the other side's own word on it may come.
const GRACE: Duration = Duration::from_millis(100);

/// Bytes that are gathered before they are written: what a reader usually gives at once, and a frame's header.
const GATHER: usize = 16 * 1024;

/// What became of it.
pub(crate) enum Outcome {
    /// The head of the answer, and what its body comes from.
    Answer(Answered, Source),
    /// It was not handed to any instance; here it is again, and why.
    Back(Box<Request<Payload>>, String),
    /// It may have been handed to an instance, and no answer will come.
    Lost(String),
    /// The other node tried, and this is its answer.
    Failed(Failure),
    /// The time is over, and the other node says nothing.
    Deadline,
}

/// Where the rest of an answer comes from.
pub(crate) enum Source {
    /// A body.
    Body(Box<Inflow>),
    /// The protocol was changed: bytes both ways.
    Switched(PeerStream),
}

/// A request on its way to another node.
pub(crate) struct Ask<'a> {
    pub(crate) peers: &'a dyn Peers,
    pub(crate) node: NodeId,
    pub(crate) component: &'a ComponentName,
    pub(crate) remaining: Duration,
    pub(crate) is_grpc: bool,
    pub(crate) is_upgrade: bool,
}

impl Ask<'_> {
    pub(crate) async fn send(self, request: Request<Payload>) -> Outcome {
        let patience = self.remaining.saturating_add(GRACE);
        tokio::time::timeout(patience, self.exchange(request)).await.unwrap_or(Outcome::Deadline)
    }

    async fn exchange(self, request: Request<Payload>) -> Outcome {
        let stream = match self.peers.open(self.node).await {
            Ok(stream) => stream,
            Err(reason) => return Outcome::Back(Box::new(request), reason),
        };
        let (mut parts, payload) = request.into_parts();
        if let Some(length) = payload.size_hint().exact().filter(|length| *length > 0 && !self.is_grpc) {
            // The other side sees frames and not the whole.
            parts.headers.entry(http::header::CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        let asked = Asked {
            component: self.component.clone(),
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            remaining: self.remaining,
            is_grpc: self.is_grpc,
            is_upgrade: self.is_upgrade,
            has_body: !payload.is_end_stream(),
        };
        let PeerStream { mut send, receive } = stream;
        let mut buf = BytesMut::with_capacity(ROOM);
        asked.put(&mut buf);
        // Nothing follows: the end goes with the head, and no packet is made for it alone.
        let is_all = !asked.has_body && !asked.is_upgrade;
        if let Err(error) = write(&mut send, &mut buf, is_all).await {
            let reason = format!("the stream to the other node broke: {error}");
            // Without a body the head is all of it, and some of it may have arrived.
            return if asked.has_body { back(asked, payload, reason) } else { Outcome::Lost(reason) };
        }
        let mut frames = FramedRead::with_capacity(receive, Frames, ROOM);
        let (mut payload, mut hold) = (Some(payload), Hold::Half(send));
        loop {
            let reason = match frames.next().await {
                Some(Ok(Frame::Go)) => match (payload.take_if(|_| asked.has_body), hold) {
                    (Some(payload), Hold::Half(send)) => {
                        hold = pump(payload, send);
                        continue;
                    }
                    _ => return Outcome::Lost("the other node asked for a body twice".to_owned()),
                },
                Some(Ok(Frame::Head(bytes))) => match Answered::get(bytes) {
                    Ok(Ok(answered)) => return answer(answered, frames, hold),
                    Ok(Err(failure)) => match payload {
                        Some(payload) if may_go_elsewhere(&failure) => {
                            return back(asked, payload, failure.to_string());
                        }
                        Some(_) | None => return Outcome::Failed(failure),
                    },
                    Err(error) => error.to_string(),
                },
                Some(Ok(_)) => "the other node sent a body without a head".to_owned(),
                Some(Err(error)) => error.to_string(),
                None => "the other node ended the stream".to_owned(),
            };
            return match payload {
                // The instance gets nothing of a request with a body before that is asked for.
                Some(payload) if asked.has_body => back(asked, payload, reason),
                Some(_) | None => Outcome::Lost(reason),
            };
        }
    }
}

fn back(asked: Asked, payload: Payload, reason: String) -> Outcome {
    Outcome::Back(Box::new(asked.into_request(payload)), reason)
}

/// Whether a failure says that the request was handed to no instance, and another node may fare better. A full queue is
/// not one: the component has as many instances as it may have.
fn may_go_elsewhere(failure: &Failure) -> bool {
    match failure {
        Failure::Draining
        | Failure::NotStarted { .. }
        | Failure::NoComponent(_)
        | Failure::NoRoom { .. }
        | Failure::Nowhere { .. }
        | Failure::Elsewhere(_) => true,
        Failure::NoRoute
        | Failure::QueueFull { .. }
        | Failure::Deadline { .. }
        | Failure::Upstream { .. }
        | Failure::BodyTooLarge { .. } => false,
    }
}

fn answer(answered: Answered, frames: Receiver, hold: Hold) -> Outcome {
    if answered.status != StatusCode::SWITCHING_PROTOCOLS {
        return Outcome::Answer(answered, Source::Body(Box::new(Inflow::new(frames, hold))));
    }
    match hold {
        Hold::Half(send) => {
            let parts = frames.into_parts();
            // What came with the head belongs to the new protocol.
            let early = std::io::Cursor::new(parts.read_buf.freeze());
            let receive = Box::new(tokio::io::AsyncReadExt::chain(early, parts.io));
            Outcome::Answer(answered, Source::Switched(PeerStream { send, receive }))
        }
        Hold::Task(_) => Outcome::Lost("the protocol was changed in the middle of a body".to_owned()),
    }
}

/// Writes what was gathered, and the end if that is all.
pub(crate) async fn write(
    send: &mut Box<dyn AsyncWrite + Send + Unpin>,
    buf: &mut BytesMut,
    is_all: bool,
) -> std::io::Result<()> {
    send.write_all_buf(buf).await?;
    if is_all { send.shutdown().await } else { send.flush().await }
}

/// Sends a body on a task of its own: an answer may begin before it ends.
fn pump(mut payload: Payload, mut send: Box<dyn AsyncWrite + Send + Unpin>) -> Hold {
    let done = CancellationToken::new();
    let hold = Hold::Task(done.clone().drop_guard());
    telemetry::spawn("hop body", async move {
        // Fails if the other side wants no more of it; the answer says why. Without the last frame it is broken off.
        let _ = done.run_until_cancelled(send_body(&mut payload, &mut send)).await;
    });
    hold
}

/// Writes all frames of a body and the end: what is there at once together, and at most [`GATHER`] of it.
pub(crate) async fn send_body<B>(body: &mut B, send: &mut Box<dyn AsyncWrite + Send + Unpin>) -> std::io::Result<()>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
{
    let mut buf = BytesMut::with_capacity(GATHER);
    send_rest(body, send, &mut buf).await
}

/// The same, behind what is in `buf` already.
pub(crate) async fn send_rest<B>(
    body: &mut B,
    send: &mut Box<dyn AsyncWrite + Send + Unpin>,
    buf: &mut BytesMut,
) -> std::io::Result<()>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
{
    loop {
        let next = match body.frame().now_or_never() {
            Some(next) => next,
            None => {
                write(send, buf, false).await?;
                body.frame().await
            }
        };
        match next.map(|frame| frame.map(http_body::Frame::into_data)) {
            Some(Ok(Ok(data))) => wire::put_data(buf, &data),
            Some(Ok(Err(frame))) => {
                if let Ok(trailers) = frame.into_trailers() {
                    wire::put_trailers(buf, &trailers);
                }
            }
            Some(Err(_)) => {
                wire::put_broken(buf);
                return write(send, buf, true).await;
            }
            None => {
                wire::put_end(buf);
                return write(send, buf, true).await;
            }
        }
        if buf.len() >= GATHER {
            write(send, buf, false).await?;
        }
    }
}
