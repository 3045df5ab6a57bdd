//! One HTTP/1.1 connection to an instance, driven by whoever waits for its answer: no task of its own, so a request
//! costs no wake-up of another thread, and dropping the request closes the connection at once.
//!
//! Knows nothing of pools' bounds, leases or headers.

use std::fmt;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::proxy::body::Payload;
use crate::proxy::pool::Home;
use crate::telemetry;

/// Why there is no connection. State: nothing was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connecting to {0} failed")]
    Connect(SocketAddr, #[source] std::io::Error),
    #[error("connecting to {0} took longer than {1:?}")]
    Timeout(SocketAddr, Duration),
    #[error("the handshake with {0} failed")]
    Handshake(SocketAddr, #[source] hyper::Error),
}

/// Opens a TCP connection to an instance.
pub(crate) async fn dial(address: SocketAddr, limit: Duration) -> Result<TcpStream, ConnectError> {
    match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // A head and the first chunk are two writes; held back by Nagle the second waits for a delayed ACK.
            stream.set_nodelay(true).map_err(|error| ConnectError::Connect(address, error))?;
            Ok(stream)
        }
        Ok(Err(error)) => Err(ConnectError::Connect(address, error)),
        Err(_) => Err(ConnectError::Timeout(address, limit)),
    }
}

type Driver = http1::Connection<TokioIo<TcpStream>, Payload>;

/// A connection that carries one exchange at a time.
pub(crate) struct Upstream {
    sender: http1::SendRequest<Payload>,
    /// `None` once it is closed, or if it has a task.
    driver: Option<Driver>,
    task: Option<Task>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("open", &self.driver.is_some())
            .field("task", &self.task)
            .finish_non_exhaustive()
    }
}

impl Upstream {
    pub(crate) async fn open(address: SocketAddr, limit: Duration) -> Result<Box<Self>, ConnectError> {
        let stream = dial(address, limit).await?;
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| ConnectError::Handshake(address, error))?;
        Ok(Box::new(Self { sender, driver: Some(driver), task: None }))
    }

    /// Opens a connection that may change its protocol: a task drives it and hands it over.
    pub(crate) async fn open_to_upgrade(address: SocketAddr, limit: Duration) -> Result<Box<Self>, ConnectError> {
        let mut this = Self::open(address, limit).await?;
        if let Some(driver) = this.driver.take() {
            this.task = Some(Task::spawn(async move {
                // Its error reaches whoever waits for the answer or the body.
                driver.with_upgrades().await.ok();
            }));
        }
        Ok(this)
    }

    /// Sends a request and waits for the head of its answer. The error has the request if no byte of it was written.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Payload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Payload>>> {
        let answer = self.sender.try_send_request(request);
        if self.driver.is_none() {
            return answer.await;
        }
        // Only the driver fills the answer, and it is polled right before: the answer needs no waker of its own, and
        // no share of the task's budget, which could make it wait for one.
        let mut answer = pin!(tokio::task::unconstrained(answer));
        let driver = &mut self.driver;
        poll_fn(|cx| {
            drive(driver, cx);
            answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        })
        .await
    }

    /// What keeps the answer coming. `early`: it began before the request was wholly sent.
    pub(crate) fn into_link(mut self: Box<Self>, home: Arc<Home>, early: bool) -> Link {
        if let Some(task) = self.task.take() {
            return Link::Task(task);
        }
        match self.driver.take() {
            Some(driver) if early => Link::Task(Task::spawn(async move {
                driver.await.ok();
            })),
            driver => {
                self.driver = driver;
                Link::Own(self, home)
            }
        }
    }

    /// Whether it can carry another exchange. Also leaves all its wakers pointing at nobody, so that a later use by
    /// another task does not wake the one that used it before.
    pub(crate) fn settle(&mut self) -> bool {
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }
}

fn drive(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if let Some(connection) = driver
        && Pin::new(connection).poll(cx).is_ready()
    {
        // Its error was given to whoever waits for the answer or the body.
        *driver = None;
    }
}

/// What keeps an answer coming.
#[derive(Debug)]
pub(crate) enum Link {
    /// The connection is driven by the reader of the answer, and goes home at its end.
    Own(Box<Upstream>, Arc<Home>),
    /// The connection has a task: it may change its protocol, or the answer began before the request was wholly sent,
    /// and both must go on even when the reader of the answer stands still.
    Task(#[expect(dead_code, reason = "held for its drop, which ends the connection")] Task),
    /// One of many streams of a shared connection.
    Stream,
}

impl Link {
    pub(crate) fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self {
            Self::Own(upstream, _) => {
                let mut unheard = Context::from_waker(Waker::noop());
                if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(&mut unheard) {
                    return Poll::Ready(frame);
                }
                drive(&mut upstream.driver, cx);
                Pin::new(body).poll_frame(&mut unheard)
            }
            Self::Task(_) | Self::Stream => Pin::new(body).poll_frame(cx),
        }
    }

    /// The answer is complete.
    pub(crate) fn end(self) {
        match self {
            Self::Own(upstream, home) => home.check_in(upstream),
            Self::Task(_) | Self::Stream => {}
        }
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct Task(JoinHandle<()>);

impl Task {
    pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(telemetry::spawn("upstream", work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
