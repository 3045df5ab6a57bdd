//! A client's connection below HTTP: which version it speaks, whether it dawdles, and the raw head of a request where
//! the parser hides something that matters.
//!
//! Knows nothing of routes or answers.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What an HTTP/2 client sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until it is clear whether the client speaks HTTP/2 without TLS. Gives what was read.
pub(super) async fn version(stream: &mut TcpStream) -> io::Result<(Vec<u8>, bool)> {
    let mut read = vec![0; PREFACE.len()];
    let mut length = 0;
    loop {
        let count = stream.read(&mut read[length..]).await?;
        length += count;
        let same = read[..length] == PREFACE[..length];
        if count == 0 || !same || length == PREFACE.len() {
            read.truncate(length);
            return Ok((read, same && length == PREFACE.len()));
        }
    }
}

/// What a connection is doing, shared between its stream, its requests and the watch over it.
#[derive(Debug)]
pub(super) struct Activity {
    /// Requests that are being answered.
    active: AtomicU64,
    /// Grows with every change, so that the watch sees a standstill without anyone reading a clock.
    turn: AtomicU64,
    /// Bytes read since the last request began, while none is being answered: the head of the next one.
    head: Mutex<Vec<u8>>,
    /// Bytes of a head that are kept at most.
    head_max: usize,
}

impl Activity {
    pub(super) fn new(head_max: usize) -> Arc<Self> {
        Arc::new(Self { active: AtomicU64::new(0), turn: AtomicU64::new(0), head: Mutex::default(), head_max })
    }

    /// A request begins; it ends with the drop of what comes back.
    pub(super) fn begin(self: &Arc<Self>) -> Visit {
        self.active.fetch_add(1, Ordering::AcqRel);
        self.turn.fetch_add(1, Ordering::AcqRel);
        Visit(Arc::clone(self))
    }

    /// How many requests are being answered, and a number that differs whenever anything happened in between.
    pub(super) fn state(&self) -> (u64, u64) {
        (self.active.load(Ordering::Acquire), self.turn.load(Ordering::Acquire))
    }

    /// Whether the head of a next request has begun to arrive.
    pub(super) fn in_head(&self) -> bool {
        !self.lock().is_empty()
    }

    /// The raw head of the request that began just now, if it came after the end of the one before (not pipelined).
    /// The record starts anew.
    pub(super) fn take_head<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        let mut head = self.lock();
        let seen = look(&head);
        head.clear();
        seen
    }

    fn record(&self, bytes: &[u8]) {
        if self.active.load(Ordering::Acquire) > 0 {
            return;
        }
        let mut head = self.lock();
        if head.is_empty() {
            self.turn.fetch_add(1, Ordering::AcqRel);
        }
        let room = self.head_max.saturating_sub(head.len());
        head.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Visit(Arc<Activity>);

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::AcqRel);
        self.0.turn.fetch_add(1, Ordering::AcqRel);
    }
}

/// Whether a raw request head has both `Content-Length` and `Transfer-Encoding`. hyper takes the latter and drops the
/// former unseen; a proxy in front of us may have done the opposite, and then the two disagree where the request ends.
pub(super) fn has_two_lengths(head: &[u8]) -> bool {
    let (mut length, mut encoding) = (false, false);
    for line in head.split(|&byte| byte == b'\n') {
        if line.is_empty() || line == b"\r" {
            break;
        }
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        length |= name.eq_ignore_ascii_case(b"content-length");
        encoding |= name.eq_ignore_ascii_case(b"transfer-encoding");
    }
    length && encoding
}

/// The stream of a client, with what [`version`] read put back in front.
#[derive(Debug)]
pub(super) struct ClientStream {
    stream: TcpStream,
    first: Vec<u8>,
    activity: Option<Arc<Activity>>,
}

impl ClientStream {
    /// `activity` is for HTTP/1, where heads are recorded.
    pub(super) fn new(stream: TcpStream, first: Vec<u8>, activity: Option<Arc<Activity>>) -> Self {
        Self { stream, first, activity }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.first.is_empty() {
            std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        } else {
            let count = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first[..count]);
            self.first.drain(..count);
        }
        let new = &buf.filled()[before..];
        if let (Some(activity), false) = (&self.activity, new.is_empty()) {
            activity.record(new);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lengths_are_seen_in_any_order_and_case_and_not_in_the_body() {
        for (head, expected) in [
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTRANSFER-ENCODING: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\ncontent-length: 1\r\n", false),
            ("POST / HTTP/1.1\r\nx: content-length\r\ntransfer-encoding: chunked\r\n\r\n", false),
            ("", false),
        ] {
            assert_eq!(has_two_lengths(head.as_bytes()), expected, "{head}");
        }
    }
}
