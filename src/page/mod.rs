//! Is this worker well, and what is it doing? A small HTTP server for whoever watches it: a container's health checks, a
//! person with a browser.
//!
//! ```text
//! /healthz      200 while the process lives
//! /readyz       200 while it receives and its stores answer; else 503, and why in words
//! /api/status   what it has in hand, has done, and waits for, as JSON
//! /metrics      the same numbers for Prometheus; telemetry/metrics.rs lists them
//! ```
//!
//! It tells counts, names of lanes and what stores said; never a prompt or an answer.

mod status;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::flow::context::Context;
use crate::flow::figures::figures;
use crate::telemetry::exposition;

pub use status::unreadiness;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 64;
/// A request's head must be here by then.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// After trouble with accepting: out of file descriptors, mostly.
const PAUSE: Duration = Duration::from_millis(200);

/// A server under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Page {
    address: SocketAddr,
    _ended: DropGuard,
}

impl Page {
    /// Begins to serve there; port 0 takes a free one.
    ///
    /// # Errors
    /// What the system said: the port is taken, or not ours to take.
    pub async fn open(address: SocketAddr, context: Arc<Context>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let ended = CancellationToken::new();
        tokio::spawn(ended.clone().run_until_cancelled_owned(accept(listener, context, ended.clone())));
        Ok(Self { address, _ended: ended.drop_guard() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, context: Arc<Context>, ended: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (context, ended) = (Arc::clone(&context), ended.clone());
                tokio::spawn(async move {
                    ended.run_until_cancelled(serve(stream, context)).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn serve(stream: TcpStream, context: Arc<Context>) {
    let handler = service_fn(move |request: Request<Incoming>| {
        let response = respond(&context, request.method(), request.uri().path());
        std::future::ready(Ok::<_, std::convert::Infallible>(response))
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    // How a connection ends is the caller's business.
    let _ = http.serve_connection(TokioIo::new(stream), handler).await;
}

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static(exposition::MEDIA_TYPE);
const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn respond(context: &Context, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/healthz" => answer(StatusCode::OK, TEXT, "alive\n".to_owned()),
        "/readyz" => match unreadiness(context) {
            None => answer(StatusCode::OK, TEXT, "ready\n".to_owned()),
            Some(why) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
        },
        "/api/status" => answer(StatusCode::OK, JSON, format!("{}\n", status::json(context))),
        "/metrics" => answer(StatusCode::OK, METRICS, exposition::text(&figures(context))),
        _ => answer(StatusCode::NOT_FOUND, TEXT, "there are /healthz, /readyz, /api/status and /metrics\n".to_owned()),
    }
}

fn answer(status: StatusCode, kind: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
