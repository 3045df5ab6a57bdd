//! How we speak with the queue service: whose credentials, which region and endpoint, and how long a call may take.
//!
//! Knows nothing of messages, nor of when a call is repeated: the SDK repeats nothing here, its caller decides.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::{Region, SharedHttpClient, StalledStreamProtectionConfig};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use crate::model::source::defaults::WAIT;

/// For a connection with TLS: three round trips around the world, and two lost packets (1 s and 2 s).
const CONNECT: Duration = Duration::from_secs(5);

/// For a call that does not wait. SQS answers within tens of milliseconds; who is slower than this is down, and the
/// shortest visibility (30 s) must leave room for more than one try.
const CALL: Duration = Duration::from_secs(8);

/// For a long poll: its wait, and then as long as every other call. A client that gives up before the service has
/// answered loses messages until their visibility ends.
const POLL: Duration = Duration::from_secs(WAIT.as_secs() + CALL.as_secs());

/// Of the credential chain as well, which asks the instance's metadata: connections at rest that are kept per host.
/// A source with all its seats here polls with several of these at once.
const IDLE: usize = 64;

/// Where a queue is.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Region; that of the environment if none.
    pub region: Option<String>,
    /// Endpoint URL in place of the provider's.
    pub endpoint: Option<String>,
}

/// Clients of one place. They share credentials, which the SDK renews before they expire, and no connection: a delete
/// never waits behind a long poll.
#[derive(Debug, Clone)]
pub struct Clients {
    /// For receives that wait.
    pub polls: Client,
    /// For everything else.
    pub calls: Client,
}

impl Clients {
    /// With the standard chain of credentials: environment, profile, web identity, container, instance. Nothing is
    /// asked of the service; the chain may look at the instance's metadata, for some seconds at most, if the region is
    /// said nowhere else.
    pub async fn new(place: &Place) -> Self {
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http())
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).operation_timeout(CALL).build());
        if let Some(region) = &place.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &place.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        let shared = loader.load().await;
        let polls = aws_sdk_sqs::config::Builder::from(&shared)
            .http_client(http())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).operation_timeout(POLL).build());
        Self { polls: Client::from_conf(polls.build()), calls: Client::new(&shared) }
    }
}

/// Connections of their own, over the TLS that everything here uses.
fn http() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .pool_max_idle_per_host(IDLE)
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https()
}
