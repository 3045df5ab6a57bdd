//! The bytes of a hop: frames of a kind, a length and that many bytes; what a request's head and an answer's are made of.
//!
//! Made by hand, because a head is written and read for every request: no names, no numbers as text, one buffer. Knows
//! nothing of streams or of who speaks. Whatever bytes come, decoding ends in a value or an error.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri, Version};
use tokio_util::codec::Decoder;

use crate::failure::Failure;
use crate::id::{ComponentName, InstanceId};
use crate::wire;

/// The version of all this; the first byte of a head.
const VERSION: u8 = 1;

/// Bytes of a head at most: the largest head of a client (64 KiB) with what we add, and the lengths of its parts.
const HEAD_MAX: usize = 160 * 1024;

/// Bytes of one data frame at most; a longer chunk becomes several. What hyper reads at once is at most as long.
pub(crate) const DATA_MAX: usize = 64 * 1024;

/// Bytes of trailers at most.
const TRAILERS_MAX: usize = 64 * 1024;

/// Bytes of a failure's description at most: the last twenty lines of an instance.
const FAILURE_MAX: usize = 64 * 1024;

/// Bytes of a question at most: some names and numbers.
const QUESTION_MAX: usize = 4 * 1024;

/// Headers for which room is made at once, whatever number is said: more than most requests have.
const USUAL: usize = 32;

/// Of a kind and a length.
const HEADER: usize = 5;

/// Bytes that are not a hop's, or of a later release. The stream is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the stream to the other node broke")]
    Broken(#[from] std::io::Error),
    #[error("the other node sent a frame of unknown kind {0}")]
    Kind(u8),
    #[error("the other node sent a frame of {found} bytes; allowed are at most {limit}")]
    TooLong { found: usize, limit: usize },
    #[error("the other node sent {0} that cannot be read")]
    Malformed(&'static str),
    #[error("the other node speaks version {0} of forwarding, this one knows {VERSION}; upgrade the older of the two")]
    Version(u8),
}

/// What travels in either direction.
#[derive(Debug)]
pub(crate) enum Frame {
    /// Of a request or an answer, the first frame.
    Head(Bytes),
    /// From the one that serves: the instance is ready for the body.
    Go,
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body is complete.
    End,
    /// The body broke off at its source.
    Broken,
    /// The first frame of a stream that carries no request: what is asked for.
    Question(Bytes),
}

const HEAD: u8 = 0;
const GO: u8 = 1;
const DATA: u8 = 2;
const TRAILERS: u8 = 3;
const END: u8 = 4;
const BROKEN: u8 = 5;
const QUESTION: u8 = 6;

fn put_header(buf: &mut BytesMut, kind: u8, length: usize) {
    buf.put_u8(kind);
    // Every frame is far below 4 GiB.
    buf.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

pub(crate) fn put_go(buf: &mut BytesMut) {
    put_header(buf, GO, 0);
}

pub(crate) fn put_end(buf: &mut BytesMut) {
    put_header(buf, END, 0);
}

pub(crate) fn put_broken(buf: &mut BytesMut) {
    put_header(buf, BROKEN, 0);
}

/// At most [`QUESTION_MAX`] bytes.
pub(crate) fn put_question(buf: &mut BytesMut, question: &[u8]) {
    put_header(buf, QUESTION, question.len());
    buf.put_slice(question);
}

/// In as many frames as it takes.
pub(crate) fn put_data(buf: &mut BytesMut, data: &[u8]) {
    for part in data.chunks(DATA_MAX) {
        put_header(buf, DATA, part.len());
        buf.put_slice(part);
    }
}

pub(crate) fn put_trailers(buf: &mut BytesMut, trailers: &HeaderMap) {
    with_length(buf, TRAILERS, |buf| put_headers(buf, trailers));
}

fn with_length(buf: &mut BytesMut, kind: u8, put: impl FnOnce(&mut BytesMut)) {
    let start = buf.len();
    put_header(buf, kind, 0);
    put(buf);
    let length = u32::try_from(buf.len() - start - HEADER).unwrap_or(u32::MAX);
    buf[start + 1..start + HEADER].copy_from_slice(&length.to_be_bytes());
}

/// Takes frames out of a stream.
#[derive(Debug, Default)]
pub(crate) struct Frames;

impl Decoder for Frames {
    type Item = Frame;
    type Error = WireError;

    fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        let Some((header, _)) = buf.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [kind, a, b, c, d] = *header;
        let found = u32::from_be_bytes([a, b, c, d]) as usize;
        let limit = match kind {
            HEAD => HEAD_MAX,
            DATA => DATA_MAX,
            TRAILERS => TRAILERS_MAX,
            QUESTION => QUESTION_MAX,
            GO | END | BROKEN => 0,
            kind => return Err(WireError::Kind(kind)),
        };
        if found > limit {
            return Err(WireError::TooLong { found, limit });
        }
        if buf.len() < HEADER + found {
            buf.reserve(HEADER + found - buf.len());
            return Ok(None);
        }
        buf.advance(HEADER);
        let bytes = buf.split_to(found).freeze();
        Ok(Some(match kind {
            HEAD => Frame::Head(bytes),
            DATA => Frame::Data(bytes),
            TRAILERS => {
                let mut bytes = bytes;
                let trailers = get_headers(&mut bytes).ok_or(WireError::Malformed("trailers"))?;
                Frame::Trailers(trailers)
            }
            GO => Frame::Go,
            QUESTION => Frame::Question(bytes),
            END => Frame::End,
            _ => Frame::Broken,
        }))
    }
}

// ---- heads --------------------------------------------------------------------------------------------------------

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) component: ComponentName,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    /// What is left of its time.
    pub(crate) remaining: Duration,
    /// It goes to the instance over HTTP/2.
    pub(crate) is_grpc: bool,
    /// Its client wants to change the protocol.
    pub(crate) is_upgrade: bool,
    /// A body follows, once the other side says go.
    pub(crate) has_body: bool,
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) instance: InstanceId,
    /// As in [`crate::proxy::Timing`].
    pub(crate) wait: Duration,
    pub(crate) connect: Duration,
    pub(crate) first_byte: Duration,
}

impl Asked {
    /// The request as it is for an instance.
    pub(crate) fn into_request<B>(self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.version_mut() = if self.is_grpc { Version::HTTP_2 } else { Version::HTTP_11 };
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }

    pub(crate) fn put(&self, buf: &mut BytesMut) {
        with_length(buf, HEAD, |buf| {
            buf.put_u8(VERSION);
            buf.put_u8(u8::from(self.is_grpc) | u8::from(self.is_upgrade) << 1 | u8::from(self.has_body) << 2);
            buf.put_u64(u64::try_from(self.remaining.as_micros()).unwrap_or(u64::MAX));
            put_bytes(buf, self.component.as_str().as_bytes());
            put_bytes(buf, self.method.as_str().as_bytes());
            put_bytes(buf, self.uri.to_string().as_bytes());
            put_headers(buf, &self.headers);
        });
    }

    pub(crate) fn get(mut bytes: Bytes) -> Result<Self, WireError> {
        let buf = &mut bytes;
        check_version(buf)?;
        let asked = get_asked(buf).filter(|_| buf.is_empty());
        asked.ok_or(WireError::Malformed("the head of a request"))
    }
}

fn get_asked(buf: &mut Bytes) -> Option<Asked> {
    let flags = get_u8(buf)?;
    if flags > 7 {
        return None;
    }
    Some(Asked {
        is_grpc: flags & 1 != 0,
        is_upgrade: flags & 2 != 0,
        has_body: flags & 4 != 0,
        remaining: Duration::from_micros(get_u64(buf)?),
        component: std::str::from_utf8(&get_bytes(buf)?).ok()?.parse().ok()?,
        method: Method::from_bytes(&get_bytes(buf)?).ok()?,
        uri: Uri::from_maybe_shared(get_bytes(buf)?).ok()?,
        headers: get_headers(buf)?,
    })
}

impl Answered {
    pub(crate) fn put(&self, buf: &mut BytesMut) {
        with_length(buf, HEAD, |buf| {
            buf.put_u8(VERSION);
            buf.put_u8(0);
            buf.put_u16(self.status.as_u16());
            put_bytes(buf, self.instance.as_str().as_bytes());
            for time in [self.wait, self.connect, self.first_byte] {
                buf.put_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
            }
            put_headers(buf, &self.headers);
        });
    }

    /// The answer, or why there is none.
    pub(crate) fn get(mut bytes: Bytes) -> Result<Result<Self, Failure>, WireError> {
        let buf = &mut bytes;
        check_version(buf)?;
        match get_u8(buf) {
            Some(0) => {
                let answered = get_answered(buf).filter(|_| buf.is_empty());
                answered.map(Ok).ok_or(WireError::Malformed("the head of an answer"))
            }
            Some(1) => {
                let failure = wire::decode::<Failure, FAILURE_MAX>(buf);
                failure.map(Err).map_err(|_| WireError::Malformed("a failure"))
            }
            Some(_) | None => Err(WireError::Malformed("an answer")),
        }
    }
}

/// Why there is no answer.
pub(crate) fn put_failure(buf: &mut BytesMut, failure: &Failure) {
    let bytes = wire::encode(failure).unwrap_or_default();
    with_length(buf, HEAD, |buf| {
        buf.put_u8(VERSION);
        buf.put_u8(1);
        buf.put_slice(&bytes);
    });
}

fn get_answered(buf: &mut Bytes) -> Option<Answered> {
    let status = StatusCode::from_u16(get_u16(buf)?).ok()?;
    let instance = std::str::from_utf8(&get_bytes(buf)?).ok()?.parse().ok()?;
    let mut time = || get_u64(buf).map(Duration::from_micros);
    let (wait, connect, first_byte) = (time()?, time()?, time()?);
    Some(Answered { status, instance, wait, connect, first_byte, headers: get_headers(buf)? })
}

fn check_version(buf: &mut Bytes) -> Result<(), WireError> {
    match get_u8(buf) {
        Some(VERSION) => Ok(()),
        Some(version) => Err(WireError::Version(version)),
        None => Err(WireError::Malformed("a head")),
    }
}

// ---- parts --------------------------------------------------------------------------------------------------------

fn put_bytes(buf: &mut BytesMut, bytes: &[u8]) {
    buf.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    buf.put_slice(bytes);
}

fn get_bytes(buf: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(get_u32(buf)?).ok()?;
    (length <= buf.len()).then(|| buf.split_to(length))
}

fn put_headers(buf: &mut BytesMut, headers: &HeaderMap) {
    buf.put_u16(u16::try_from(headers.len()).unwrap_or(u16::MAX));
    for (name, value) in headers.iter().take(usize::from(u16::MAX)) {
        put_bytes(buf, name.as_str().as_bytes());
        put_bytes(buf, value.as_bytes());
    }
}

fn get_headers(buf: &mut Bytes) -> Option<HeaderMap> {
    let count = usize::from(get_u16(buf)?);
    let mut headers = HeaderMap::with_capacity(count.min(USUAL));
    for _ in 0..count {
        let name = HeaderName::from_bytes(&get_bytes(buf)?).ok()?;
        let value = HeaderValue::from_maybe_shared(get_bytes(buf)?).ok()?;
        headers.try_append(name, value).ok()?;
    }
    Some(headers)
}

fn get_u8(buf: &mut Bytes) -> Option<u8> {
    buf.try_get_u8().ok()
}

fn get_u16(buf: &mut Bytes) -> Option<u16> {
    buf.try_get_u16().ok()
}

fn get_u32(buf: &mut Bytes) -> Option<u32> {
    buf.try_get_u32().ok()
}

fn get_u64(buf: &mut Bytes) -> Option<u64> {
    buf.try_get_u64().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked() -> Asked {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_bytes(b"\xff").expect("a value"));
        Asked {
            component: "api".parse().expect("a name"),
            method: Method::from_bytes(b"PURGE").expect("a method"),
            uri: Uri::from_static("/a?b=c"),
            headers,
            remaining: Duration::from_millis(1500),
            is_grpc: false,
            is_upgrade: true,
            has_body: true,
        }
    }

    fn answered() -> Answered {
        Answered {
            status: StatusCode::IM_A_TEAPOT,
            headers: asked().headers,
            instance: "api-abcdefgh".parse().expect("an id"),
            wait: Duration::from_micros(1),
            connect: Duration::from_micros(2),
            first_byte: Duration::from_micros(3),
        }
    }

    fn frames(mut buf: BytesMut) -> Vec<Frame> {
        let frames = std::iter::from_fn(|| Frames.decode(&mut buf).expect("frames")).collect();
        assert!(buf.is_empty());
        frames
    }

    fn head(put: impl FnOnce(&mut BytesMut)) -> Bytes {
        let mut buf = BytesMut::new();
        put(&mut buf);
        match frames(buf).pop() {
            Some(Frame::Head(bytes)) => bytes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn heads_and_failures_come_out_as_they_went_in() {
        assert_eq!(Asked::get(head(|buf| asked().put(buf))).expect("a head"), asked());
        assert_eq!(Answered::get(head(|buf| answered().put(buf))).expect("a head"), Ok(answered()));
        let failures = [
            Failure::Draining,
            Failure::QueueFull {
                component: "api".parse().expect("a name"),
                what: "2 wait".into(),
                retry_after: Duration::from_secs(1),
            },
            Failure::Upstream { component: "api".parse().expect("a name"), sent: true, reason: "reset".into() },
        ];
        for failure in failures {
            assert_eq!(Answered::get(head(|buf| put_failure(buf, &failure))).expect("a failure"), Err(failure));
        }
    }

    #[test]
    fn a_long_chunk_becomes_several_frames_and_the_rest_follows() {
        let mut buf = BytesMut::new();
        put_go(&mut buf);
        put_data(&mut buf, &vec![7; DATA_MAX * 2 + 1]);
        put_trailers(&mut buf, &asked().headers);
        put_end(&mut buf);
        put_broken(&mut buf);
        put_question(&mut buf, b"what?");
        let shown: Vec<String> = frames(buf)
            .into_iter()
            .map(|frame| match frame {
                Frame::Data(bytes) => format!("data {}", bytes.len()),
                Frame::Trailers(trailers) => format!("trailers {}", trailers.len()),
                Frame::Question(bytes) => format!("question {}", bytes.len()),
                other @ (Frame::Head(_) | Frame::Go | Frame::End | Frame::Broken) => format!("{other:?}"),
            })
            .collect();
        let (first, last) =
            (["Go", "data 65536", "data 65536", "data 1"], ["trailers 2", "End", "Broken", "question 5"]);
        assert_eq!(shown, [first, last].concat());
    }

    #[test]
    fn a_frame_that_is_too_long_or_of_no_kind_is_refused_before_it_is_read() {
        for (bytes, why) in [
            (&[9, 0, 0, 0, 0][..], "unknown kind 9"),
            (&[2, 0, 1, 0, 1][..], "65537 bytes; allowed are at most 65536"),
            (&[0, 255, 255, 255, 255][..], "allowed are at most 163840"),
            (&[4, 0, 0, 0, 1][..], "allowed are at most 0"),
            (&[6, 0, 0, 16, 1][..], "4097 bytes; allowed are at most 4096"),
        ] {
            let error = Frames.decode(&mut BytesMut::from(bytes)).expect_err("refused").to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    proptest! {
        #[test]
        fn cut_altered_and_random_heads_are_an_error_or_another_head(
            cut in 0..400_usize, at in 0..400_usize, byte in any::<u8>(), noise in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            for whole in [head(|buf| asked().put(buf)), head(|buf| answered().put(buf))] {
                let cut = whole.slice(..cut.min(whole.len()));
                let mut altered = whole.to_vec();
                if let Some(place) = altered.get_mut(at) {
                    *place = byte;
                }
                for bytes in [cut, Bytes::from(altered), Bytes::from(noise.clone())] {
                    let _ = Asked::get(bytes.clone());
                    let _ = Answered::get(bytes);
                }
            }
            let _ = Frames.decode(&mut BytesMut::from(&noise[..]));
        }
    }
}
