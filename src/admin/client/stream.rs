//! Answers that come in parts: a component's body, and values that come one by one.
//!
//! Knows nothing of who asked.

use std::marker::PhantomData;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::admin::api::{EventView, LogLine};
use crate::admin::client::{ClientError, Target, chain};

/// The longest line in bytes that is taken: 16 KiB of text, six times longer if JSON escapes all of it, and the rest.
const LINE_MAX: usize = 128 * 1024;

/// A body that comes in parts. Dropping it closes the connection.
#[derive(Debug)]
pub struct BodyStream {
    target: Target,
    body: Incoming,
}

impl BodyStream {
    pub(super) fn new(target: Target, body: Incoming) -> Self {
        Self { target, body }
    }

    /// The next part; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// The connection broke: what came so far is not the whole.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(self.protocol(&format!("it broke off: {}", chain(&error)))),
            }
        }
    }

    fn protocol(&self, what: &str) -> ClientError {
        ClientError::Protocol { target: self.target.clone(), what: what.to_owned() }
    }
}

/// Values as they come, one a line. Dropping it ends the stream on the node too.
#[derive(Debug)]
pub struct LineStream<T> {
    body: BodyStream,
    rest: BytesMut,
    of: PhantomData<fn() -> T>,
}

/// Lines of a log.
pub type LogStream = LineStream<LogLine>;

/// What happened in the cluster.
pub type EventStream = LineStream<EventView>;

impl<T: DeserializeOwned> LineStream<T> {
    pub(super) fn new(body: BodyStream) -> Self {
        Self { body, rest: BytesMut::new(), of: PhantomData }
    }

    /// The next one; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// The connection broke, or what came is none.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = self.rest.iter().position(|&b| b == b'\n') {
                let line = self.rest.split_to(end);
                self.rest.advance(1);
                let line = serde_json::from_slice(&line);
                return line.map(Some).map_err(|error| self.body.protocol(&format!("a line that is none: {error}")));
            }
            if self.rest.len() > LINE_MAX {
                return Err(self.body.protocol("a line without end"));
            }
            match self.body.next().await? {
                Some(part) => self.rest.extend_from_slice(&part),
                None if self.rest.is_empty() => return Ok(None),
                None => return Err(self.body.protocol("half a line")),
            }
        }
    }
}
