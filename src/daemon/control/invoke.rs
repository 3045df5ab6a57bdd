//! An event made by hand: sent like any other, and its answer passed on as it comes.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;

use super::{Desk, stopping};
use crate::admin::api::{ApiError, Code, Invoke, Invoked};
use crate::failure::Failure;
use crate::id::ComponentName;
use crate::source::courier::{Components as _, Event};

impl Desk {
    /// Sends an event to a component.
    pub(super) async fn call(&self, component: ComponentName, event: Invoke) -> Result<Invoked, ApiError> {
        if self.catalog.live(&component).is_none() {
            return Err(self.unknown_component(&component));
        }
        let Invoke { method, path, headers, body, timeout } = event;
        let event = Event {
            source: "invoke".parse().map_err(|_| stopping())?,
            component: component.clone(),
            method,
            path,
            headers,
            said: http::HeaderMap::new(),
            body,
            timeout: None,
        };
        let begun = self.core.now();
        let call = self.courier.open(event);
        let response = match timeout {
            None => call.await,
            Some(limit) => tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
                let phase = crate::failure::Phase::Handler;
                Err(Failure::Deadline { component: component.clone(), phase, limit })
            }),
        };
        let response = response.map_err(|failure| failed(&failure))?;
        let timing = self.timing(begun, &response);
        let (head, mut body) = response.into_parts();
        let (sender, receiver) = mpsc::channel::<Result<Bytes, ApiError>>(16);
        crate::telemetry::spawn("invoke", async move {
            while let Some(frame) = body.frame().await {
                let part = match frame {
                    Ok(frame) => frame.into_data().map_err(|_| ()),
                    Err(error) => {
                        let _ = sender.send(Err(ApiError::new(Code::Upstream, error.to_string()))).await;
                        return;
                    }
                };
                if let Ok(bytes) = part
                    && sender.send(Ok(bytes)).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(Invoked { status: head.status, headers: head.headers, body: receiver, timing })
    }

    /// Splits the wait for a slot by the steps of the start that fell into it.
    fn timing<B>(&self, begun: crate::time::Mono, response: &http::Response<B>) -> crate::admin::api::Timing {
        let Some(timing) = response.extensions().get::<crate::proxy::Timing>() else {
            return crate::admin::api::Timing::default();
        };
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (_, gate) = match self.catalog.live(&timing.instance.component()) {
            Some(live) => live,
            None => return crate::admin::api::Timing::default(),
        };
        let live = gate.live();
        let born = live.iter().find(|slots| slots.instance == timing.instance).map(|slots| slots.born);
        let (mut pull, mut start, mut ready) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        if let Some(born) = born {
            let part = |from: crate::time::Mono, to: crate::time::Mono| to.since(from.max(begun));
            (pull, start, ready) =
                (part(born.asked, born.pulled), part(born.pulled, born.started), part(born.started, born.ready));
        }
        let rest = timing.wait.saturating_sub(pull + start + ready);
        crate::admin::api::Timing {
            queue_ms: ms(rest),
            pull_ms: ms(pull),
            start_ms: ms(start),
            ready_ms: ms(ready),
            handler_ms: ms(timing.connect + timing.first_byte),
            total_ms: ms(timing.wait + timing.connect + timing.first_byte),
        }
    }
}

fn failed(failure: &Failure) -> ApiError {
    let code = match failure {
        Failure::NoRoute | Failure::NoComponent(_) => Code::NotFound,
        Failure::QueueFull { .. }
        | Failure::NotStarted { .. }
        | Failure::NoRoom { .. }
        | Failure::Nowhere { .. }
        | Failure::Elsewhere(_)
        | Failure::Draining => Code::Unavailable,
        Failure::Deadline { .. } => Code::Timeout,
        Failure::Upstream { .. } => Code::Upstream,
        Failure::BodyTooLarge { .. } => Code::TooLarge,
    };
    let mut error = ApiError::new(code, failure.to_string());
    if let Failure::NotStarted { log, .. } = failure
        && !log.is_empty()
    {
        error = error.hint(format!("its last lines:\n{}", log.join("\n")));
    }
    error
}
