//! Where do spans go? To a collector that speaks OTLP over HTTP, in batches, from a thread of the library's that keeps a bounded
//! number of them. The calls themselves are made by the client that the rest of the program uses, on its runtime.
//!
//! A collector is no part of the work: while it is away its spans are lost, which is said once, and once when it is back.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use opentelemetry::Key;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing::warn;

/// Where a collector takes traces, unless the URL names another path (source: the OTLP specification, "OTLP/HTTP Request").
const PATH: &str = "/v1/traces";
/// For one batch, however often it is tried.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a service is called of which nobody said a name (source: OpenTelemetry's semantic conventions, "Service").
const NOBODY_SAID: &str = "unknown_service";
/// Of an answer at most so much is read.
const ANSWER_BYTES: usize = 64 << 10;

/// Nothing can be sent to a collector.
#[derive(Debug, thiserror::Error)]
pub enum NoCollector {
    /// This machine has no certificates by which to know an `https://` server.
    #[error("reading this machine's certificates: {0}")]
    Certificates(#[from] std::io::Error),
    /// The library refuses, mostly because of one of its own variables, `OTEL_*`.
    #[error("traces: {0}")]
    Unfit(#[from] ExporterBuildError),
}

/// Everything that the library needs. How much is kept and sent at once, which traces are recorded, what else is said of this
/// process and in which headers: in the library's own variables, and their defaults.
pub(super) fn provider(collector: &Uri) -> Result<SdkTracerProvider, NoCollector> {
    // Where nothing is encrypted this machine may be without certificates, as a small container is.
    if collector.scheme_str() == Some("https") {
        let connector = HttpsConnectorBuilder::new().with_native_roots()?.https_only().enable_http1().build();
        through(connector, collector)
    } else {
        through(HttpConnector::new(), collector)
    }
}

fn through<C: Connector>(connector: C, collector: &Uri) -> Result<SdkTracerProvider, NoCollector> {
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let link = Link { client, runtime: Handle::current(), is_away: AtomicBool::new(false) };
    let exporter = SpanExporter::builder().with_http().with_http_client(link).with_timeout(PATIENCE);
    // Who is away for longer than a moment is away: what waits behind is not held up for that, and least of all a shutdown.
    let exporter = exporter.with_retry_policy(RetryPolicy::recommended().with_max_retries(1));
    let exporter = exporter.with_endpoint(endpoint(collector)).build()?;
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build())
}

/// As the library's variables say, and under our name unless they say another.
fn resource() -> Resource {
    let told = Resource::builder().build();
    let is_named =
        told.get(&Key::from_static_str("service.name")).is_some_and(|name| !name.as_str().starts_with(NOBODY_SAID));
    if is_named { told } else { Resource::builder().with_service_name("aquifer").build() }
}

/// Its query stays: some services know by it who sends.
fn endpoint(collector: &Uri) -> String {
    let typed = collector.to_string();
    if !matches!(collector.path(), "" | "/") {
        return typed;
    }
    match typed.split_once('?') {
        Some((host, query)) => format!("{}{PATH}?{query}", host.trim_end_matches('/')),
        None => format!("{}{PATH}", typed.trim_end_matches('/')),
    }
}

/// What reaches a server, encrypted or not.
trait Connector: Connect + Clone + fmt::Debug + Send + Sync + 'static {}

impl<C: Connect + Clone + fmt::Debug + Send + Sync + 'static> Connector for C {}

/// The way to the collector. The library's thread has no runtime, so that each call is made on ours and waited for there.
#[derive(Debug)]
struct Link<C> {
    client: Client<C, Full<Bytes>>,
    runtime: Handle,
    is_away: AtomicBool,
}

#[async_trait]
impl<C: Connector> HttpClient for Link<C> {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, host) = (self.client.clone(), request.uri().authority().map(ToString::to_string));
        let exchange =
            self.runtime.spawn(async move { tokio::time::timeout(PATIENCE, exchange(&client, request)).await });
        let answer = match exchange.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(late)) => Err(late.into()),
            Err(ended) => Err(ended.into()),
        };
        let refusal = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status())),
            Err(error) => Some(in_words(&**error)),
        };
        let (host, was_away) = (host.unwrap_or_default(), self.is_away.swap(refusal.is_some(), Ordering::Relaxed));
        match (refusal, was_away) {
            (Some(why), false) => warn!("the collector at {host} takes no traces, which are lost meanwhile: {why}"),
            (None, true) => warn!("over: the collector at {host} takes traces again"),
            (Some(_), true) | (None, false) => {}
        }
        answer
    }
}

async fn exchange<C: Connector>(
    client: &Client<C, Full<Bytes>>,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES).collect().await?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

/// The error and what it came of: the outermost alone says "client error (Connect)".
fn in_words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |words, cause| format!("{words}: {cause}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_collector_without_a_path_is_asked_where_the_specification_says() {
        for (typed, asked) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://collector.example/own/path", "https://collector.example/own/path"),
            ("http://collector:4318?dataset=jobs", "http://collector:4318/v1/traces?dataset=jobs"),
            ("http://collector:4318/?dataset=a/b", "http://collector:4318/v1/traces?dataset=a/b"),
            ("https://collector.example/own/path?dataset=jobs", "https://collector.example/own/path?dataset=jobs"),
        ] {
            assert_eq!(endpoint(&typed.parse().unwrap()), asked);
        }
    }
}
