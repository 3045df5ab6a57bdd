//! When a request may be tried again. The rule: as long as no byte of it was written, any request; after that only a
//! safe one without a body, once, because a handler that is killed by a request must not be killed all over. One of our
//! own that says `maelstrom-delivery: at-most-once` is not repeated even then.
//!
//! Does nothing itself.

use http::{Method, Request, request};
use http_body::Body as _;

use crate::id::InstanceId;
use crate::proxy::body::Payload;
use crate::proxy::headers::DELIVERY;

/// What went wrong with one try.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// No byte of the request was written; here it is again.
    Unsent(Box<Request<Payload>>, String),
    /// The connection failed after the request was written, before an answer.
    Lost(String),
    /// The deadline passed.
    Deadline,
}

/// What is left to try.
#[derive(Debug)]
pub(crate) struct Retries {
    left: u32,
    /// The head of a safe request, for one more try after it was sent.
    head: Option<request::Parts>,
    avoid: Vec<InstanceId>,
}

impl Retries {
    /// `tries` is the number of instances that are asked at most.
    pub(crate) fn new(tries: u32, request: &Request<Payload>) -> Self {
        let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        let once = request.headers().get(DELIVERY).is_some_and(|value| value == "at-most-once");
        let head = (safe && !once && request.body().is_end_stream()).then(|| copy(request));
        Self { left: tries.saturating_sub(1), head, avoid: Vec::new() }
    }

    /// Instances that failed already.
    pub(crate) fn avoid(&self) -> &[InstanceId] {
        &self.avoid
    }

    /// What was lost with another node: the request for one more try, if it is safe.
    pub(crate) fn next_node(&mut self) -> Option<Request<Payload>> {
        let head = self.head.take_if(|_| self.left > 0)?;
        self.left -= 1;
        Some(Request::from_parts(head, Payload::default()))
    }

    /// The request for the next try, or why there is none: whether bytes were sent, and what failed.
    pub(crate) fn next(
        &mut self,
        instance: &InstanceId,
        trouble: Trouble,
    ) -> Result<Request<Payload>, Option<(bool, String)>> {
        let (request, reason) = match trouble {
            Trouble::Unsent(request, reason) => (Ok(*request), reason),
            Trouble::Lost(reason) => (Err(self.head.take()), reason),
            Trouble::Deadline => return Err(None),
        };
        let request = match request {
            Ok(request) if self.left > 0 => request,
            Err(Some(head)) if self.left > 0 => Request::from_parts(head, Payload::default()),
            Ok(_) => return Err(Some((false, reason))),
            Err(_) => return Err(Some((true, reason))),
        };
        self.left -= 1;
        self.avoid.push(instance.clone());
        Ok(request)
    }
}

fn copy(request: &Request<Payload>) -> request::Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = request.method().clone();
    parts.uri = request.uri().clone();
    parts.version = request.version();
    parts.headers = request.headers().clone();
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, body: &'static str) -> Request<Payload> {
        let mut request = Request::new(Payload::from(bytes::Bytes::from_static(body.as_bytes())));
        *request.method_mut() = method;
        request
    }

    fn instance() -> InstanceId {
        InstanceId::new(&"api".parse().expect("a name"), 1)
    }

    #[test]
    fn what_was_not_sent_is_tried_as_often_as_allowed() {
        let mut retries = Retries::new(3, &request(Method::POST, "x"));
        for _ in 0..2 {
            let trouble = Trouble::Unsent(Box::new(request(Method::POST, "x")), "refused".into());
            assert!(retries.next(&instance(), trouble).is_ok());
        }
        let trouble = Trouble::Unsent(Box::new(request(Method::POST, "x")), "refused".into());
        assert_eq!(retries.next(&instance(), trouble).err(), Some(Some((false, "refused".into()))));
        assert_eq!(retries.avoid().len(), 2);
    }

    #[test]
    fn what_was_sent_is_tried_once_more_only_if_it_is_safe() {
        for (method, body, again) in [(Method::GET, "", true), (Method::GET, "x", false), (Method::POST, "", false)] {
            let mut retries = Retries::new(3, &request(method.clone(), body));
            assert_eq!(retries.next(&instance(), Trouble::Lost("reset".into())).is_ok(), again, "{method} {body}");
            let second = retries.next(&instance(), Trouble::Lost("reset".into()));
            assert_eq!(second.err(), Some(Some((true, "reset".into()))));
        }
        let mut once = request(Method::GET, "");
        once.headers_mut().insert(DELIVERY, http::HeaderValue::from_static("at-most-once"));
        let lost = Retries::new(3, &once).next(&instance(), Trouble::Lost("reset".into()));
        assert_eq!(lost.err(), Some(Some((true, "reset".into()))));
    }
}
