//! One control connection: takes in what the peer sends, within bounds, and notices when its process is gone.
//!
//! Knows nothing of other connections; who is told of its end is the table's matter.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, Semaphore};

use super::Incoming;
use super::close::{Code, Ending, is_duplicate};
use super::frame::{self, FrameError, MESSAGE_MAX, MESSAGE_TIME, PIECE};
use super::hello::PeerInfo;
use super::probe;
use super::settings::DATAGRAMS;
use crate::telemetry;

/// Bytes that one peer may have in this process, read and not yet dropped by the daemon: four of the longest messages.
const BUDGET: usize = 4 * MESSAGE_MAX;

/// Datagrams in a row that found the queue full before the peer is taken for one that floods. A full queue of small
/// rows is a thousand; a healthy peer sends a few datagrams a second.
const FLOOD: u32 = 10_000;

/// How long after a packet went out something must have come back: the delay of an acknowledgement (25 ms) and as much
/// again for a busy host; two round trips are added.
const SILENCE: Duration = Duration::from_millis(50);

/// One control connection and who is at its other end.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) peer: PeerInfo,
    /// This side dialled it.
    pub(super) dialled: bool,
    /// How this side ended it, if it did.
    ended: Mutex<Option<Ending>>,
    /// This side gave it up for another one to the same peer.
    retired: AtomicBool,
    budget: Arc<Semaphore>,
    /// A packet went out and the answer is being waited for.
    armed: AtomicBool,
    /// Packets received when it went out.
    received: AtomicU64,
    wake: Notify,
}

impl Link {
    pub(super) fn new(connection: Connection, peer: PeerInfo, dialled: bool) -> Self {
        Self {
            connection,
            peer,
            dialled,
            ended: Mutex::new(None),
            retired: AtomicBool::new(false),
            budget: Arc::new(Semaphore::new(BUDGET / PIECE)),
            armed: AtomicBool::new(false),
            received: AtomicU64::new(0),
            wake: Notify::new(),
        }
    }

    /// Ends the connection from this side. The first reason stays.
    pub(super) fn end(&self, code: Code, ending: Ending) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let ending = ended.get_or_insert(ending);
        self.connection.close(code.number(), ending.to_string().as_bytes());
    }

    /// How it ended.
    pub(super) fn ending(&self) -> Ending {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let reason = || self.connection.close_reason().map(|reason| Ending::of(&reason));
        ended.or_else(reason).unwrap_or_else(|| Ending::Failed("it was given up".to_owned()))
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Ends it because another connection to the same peer is in use.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.end(Code::Duplicate, Ending::Failed("another connection is in use".to_owned()));
    }

    /// Whether what was on the way may simply be sent again on the other connection.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed) || self.connection.close_reason().as_ref().is_some_and(is_duplicate)
    }

    /// To be called before anything is sent: from now on the peer must be heard.
    pub(super) fn expect_answer(&self) {
        if !self.armed.swap(true, Ordering::AcqRel) {
            self.received.store(self.packets(), Ordering::Release);
            self.wake.notify_one();
        }
    }

    /// Sends one message on a stream of its own, and waits until the peer's side has all of it.
    pub(super) async fn push(&self, bytes: &Bytes) -> Result<(), FrameError> {
        self.expect_answer();
        let opened = tokio::time::timeout(MESSAGE_TIME, self.connection.open_uni()).await;
        let mut stream = opened.map_err(|_| FrameError::Stalled)?.map_err(|_| FrameError::Ended)?;
        frame::write(&mut stream, bytes).await?;
        match tokio::time::timeout(MESSAGE_TIME, stream.stopped()).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(_)) | Err(_)) => Err(FrameError::Ended),
            Err(_) => Err(FrameError::Stalled),
        }
    }

    /// Sends a request and waits `patience` for the first byte of its answer.
    pub(super) async fn call(&self, bytes: &Bytes, patience: Duration) -> Result<Bytes, FrameError> {
        self.expect_answer();
        let (mut send, mut receive) = self.connection.open_bi().await.map_err(|_| FrameError::Ended)?;
        frame::write(&mut send, bytes).await?;
        // The caller waits for this answer, so it has room of its own.
        let room = Arc::new(Semaphore::new(MESSAGE_MAX / PIECE));
        frame::read(&mut receive, MESSAGE_MAX, &room, patience).await
    }

    /// Ends the connection if the peer is at fault.
    pub(super) fn blame(&self, error: &FrameError) {
        let code = match error {
            FrameError::TooLong(_) | FrameError::Malformed | FrameError::TooSlow => Code::Misbehaved,
            FrameError::Stalled => Code::Stalled,
            FrameError::Ended => return,
        };
        tracing::warn!(node = %self.peer.node, seen = %self.peer.seen, "connection to a peer ended: {error}");
        self.end(code, Ending::Failed(error.to_string()));
    }

    /// Whether no datagram waits for its packet.
    pub(super) fn has_sent_datagrams(&self) -> bool {
        self.connection.datagram_send_buffer_space() >= DATAGRAMS
    }

    fn packets(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// Says so and asks the host about the port whenever something was sent and nothing came back: the process of a dead peer is
    /// noticed by the next packet to it, while an idle connection costs nothing.
    async fn watch(&self, events: &Sender<Incoming>) {
        loop {
            self.wake.notified().await;
            tokio::time::sleep(SILENCE + 2 * self.connection.rtt().min(Duration::from_secs(1))).await;
            let silent = self.packets() == self.received.load(Ordering::Acquire);
            self.armed.store(false, Ordering::Release);
            if !silent {
                continue;
            }
            // Where the queue is full there is more to hear than silence.
            let _ = events.try_send(Incoming::Silent { node: self.peer.node });
            if probe::is_closed(self.peer.seen).await {
                self.end(Code::Unused, Ending::Reset);
                return;
            }
        }
    }
}

/// Takes in everything that the peer sends, until the connection ends.
pub(super) async fn serve(link: &Arc<Link>, events: &Sender<Incoming>) {
    let work = async {
        tokio::join!(datagrams(link, events), pushes(link, events), calls(link, events), link.watch(events));
    };
    tokio::select! {
        _ = link.connection.closed() => {}
        () = work => {}
    }
}

async fn datagrams(link: &Link, events: &Sender<Incoming>) {
    let mut dropped = 0;
    while let Ok(bytes) = link.connection.read_datagram().await {
        match events.try_send(Incoming::Datagram { from: link.peer.node, bytes }) {
            Ok(()) => dropped = 0,
            Err(TrySendError::Full(_)) => dropped += 1,
            Err(TrySendError::Closed(_)) => return,
        }
        if dropped > FLOOD {
            tracing::warn!(node = %link.peer.node, seen = %link.peer.seen, "connection to a peer ended: it floods");
            link.end(Code::Misbehaved, Ending::Failed("it sends datagrams faster than they are read".to_owned()));
        }
    }
}

async fn pushes(link: &Arc<Link>, events: &Sender<Incoming>) {
    while let Ok(stream) = link.connection.accept_uni().await {
        telemetry::spawn("peer push", take_push(Arc::clone(link), stream, events.clone()));
    }
}

async fn take_push(link: Arc<Link>, mut stream: RecvStream, events: Sender<Incoming>) {
    match frame::read(&mut stream, MESSAGE_MAX, &link.budget, MESSAGE_TIME).await {
        // The receiver is gone only when the daemon is.
        Ok(bytes) => drop(events.send(Incoming::Push { from: link.peer.node, bytes }).await),
        Err(error) => link.blame(&error),
    }
}

async fn calls(link: &Arc<Link>, events: &Sender<Incoming>) {
    while let Ok((send, receive)) = link.connection.accept_bi().await {
        telemetry::spawn("peer call", take_call(Arc::clone(link), send, receive, events.clone()));
    }
}

async fn take_call(link: Arc<Link>, send: SendStream, mut receive: RecvStream, events: Sender<Incoming>) {
    let reply = Reply { stream: Some(send), link: Arc::clone(&link) };
    match frame::read(&mut receive, MESSAGE_MAX, &link.budget, MESSAGE_TIME).await {
        Ok(bytes) => drop(events.send(Incoming::Call { from: link.peer.node, bytes, reply }).await),
        Err(error) => link.blame(&error),
    }
}

/// Where the answer to a call goes. Dropped without an answer, it tells the caller that there is none.
#[derive(Debug)]
pub struct Reply {
    stream: Option<SendStream>,
    link: Arc<Link>,
}

impl Reply {
    /// Answers. The bytes go out in the background; more than [`MESSAGE_MAX`] are no answer.
    pub fn send(mut self, bytes: Bytes) {
        if bytes.len() > MESSAGE_MAX {
            return;
        }
        let Some(mut stream) = self.stream.take() else { return };
        let link = Arc::clone(&self.link);
        telemetry::spawn("peer reply", async move {
            link.expect_answer();
            if let Err(error) = frame::write(&mut stream, &bytes).await {
                link.blame(&error);
            }
        });
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            // Fails only if the stream has ended already.
            let _ = stream.reset(Code::Unused.number());
        }
    }
}
