//! Why a call to the queue service failed, in the words of who has to mend it: whose credentials, which permission, which
//! endpoint.
//!
//! Knows nothing of when a call is repeated.

use std::error::Error;
use std::fmt;

use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};

/// What kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The node has none, or they could not be loaded.
    NoCredentials,
    /// The service does not accept those of the node: wrong, or expired.
    BadCredentials,
    /// They are known and may not do this.
    Denied,
    /// Nobody said in which region.
    NoRegion,
    /// The service answers, and has no such queue.
    NoQueue,
    /// The service cannot be reached.
    Unreachable,
    /// No answer within the deadline.
    Late,
    /// Too many calls, or the service is not well.
    Busy,
    /// An answer that is none of SQS: of something before it, or of a make that lacks something.
    Strange,
    /// The service does not know this action; other makes than AWS's lack some.
    Unknown,
    /// The service refuses for another reason.
    Refused,
}

/// A call that failed. State: of a call that was [`Cause::Late`] it is not known whether it was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct Trouble {
    /// What kind.
    pub cause: Cause,
    /// The action of the service, as permissions name it: `ReceiveMessage`.
    pub action: &'static str,
    /// Of which queue.
    pub what: String,
    reason: String,
}

impl Trouble {
    /// No answer within the deadline of the whole task.
    pub fn late(action: &'static str, what: &str) -> Self {
        let reason = format!("the queue service did not answer {action} in time");
        Self { cause: Cause::Late, action, what: what.to_owned(), reason }
    }

    /// Reads what the SDK says.
    pub fn of<E, R>(action: &'static str, what: &str, error: &SdkError<E, R>) -> Self
    where
        E: Error + ProvideErrorMetadata + 'static,
        R: fmt::Debug + 'static,
    {
        let chain = chain(error);
        let (cause, reason) = match error {
            SdkError::ServiceError(service) => {
                let code = service.err().code().unwrap_or_default();
                let said = service.err().message().unwrap_or("it says no more");
                match code {
                    "" => (Cause::Strange, format!("{action} failed, and the queue service does not say why")),
                    _ => (by_code(code), format!("the queue service refuses {action}: {said} ({code})")),
                }
            }
            SdkError::TimeoutError(_) => {
                return Self::late(action, what);
            }
            SdkError::ResponseError(_) => {
                (Cause::Strange, format!("{action} had an answer that is none of a queue service: {chain}"))
            }
            _ if chain.contains("redential") || chain.contains("dentity") => {
                (Cause::NoCredentials, format!("this node has no AWS credentials: {chain}"))
            }
            _ if chain.contains("egion") => {
                (Cause::NoRegion, "it is not known in which AWS region the queue is".to_owned())
            }
            SdkError::ConstructionFailure(_) | SdkError::DispatchFailure(_) | _ => {
                (Cause::Unreachable, format!("the queue service cannot be reached: {chain}"))
            }
        };
        Self { cause, action, what: what.to_owned(), reason }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        let action = self.action;
        match self.cause {
            Cause::NoCredentials => "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role in the \
                 environment of its maelstromd, or ask another node with --node"
                .to_owned(),
            Cause::BadCredentials => {
                "renew the credentials in the environment of this node's maelstromd, or ask another node".to_owned()
            }
            Cause::Denied => format!("allow sqs:{action} on this queue to the user or role of the node"),
            Cause::NoRegion => {
                "give the source a --region, or set AWS_REGION in the environment of maelstromd".to_owned()
            }
            Cause::NoQueue => "create it, or check the queue's name, region and endpoint in the source".to_owned(),
            Cause::Unreachable => {
                "check the endpoint and the region of the source, and the network of this node".to_owned()
            }
            Cause::Late | Cause::Busy => "try again in a moment".to_owned(),
            Cause::Strange => "try again in a moment; if it stays, check that SQS is behind the endpoint".to_owned(),
            Cause::Unknown | Cause::Refused => format!("the service's manual on {action} says when it refuses"),
        }
    }
}

/// The codes are those of both protocols of SQS, and of what checks signatures before it.
fn by_code(code: &str) -> Cause {
    let code = code.rsplit(['.', '#']).next().unwrap_or_default();
    match code {
        "NonExistentQueue" | "QueueDoesNotExist" => Cause::NoQueue,
        "AccessDenied" | "AccessDeniedException" | "NotAuthorized" => Cause::Denied,
        "ExpiredToken"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "InvalidSecurity"
        | "MissingAuthenticationToken"
        | "RequestExpired"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException" => Cause::BadCredentials,
        "RequestThrottled"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "OverLimit"
        | "ServiceUnavailable"
        | "InternalError"
        | "InternalFailure" => Cause::Busy,
        "InvalidAction" | "UnknownOperationException" | "UnknownOperation" | "NotImplemented" => Cause::Unknown,
        _ => Cause::Refused,
    }
}

/// The innermost causes say most: all of them in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        let said = said.lines().map(str::trim).collect::<Vec<_>>().join("; ");
        if !text.contains(&said) {
            text.push(said);
        }
        cause = error.source();
    }
    if text.is_empty() { error.to_string() } else { text.join(": ") }
}
