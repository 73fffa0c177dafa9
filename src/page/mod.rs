//! Is this worker well, and what is it doing? A small HTTP server for whoever watches it: a container's health checks, a
//! person with a browser.
//!
//! ```text
//! /             the page: queue, lanes, batches, failures, as they change
//! /healthz      200 while the process lives
//! /readyz       200 while it receives and its stores answer; else 503, and why in words
//! /api/status   what it has in hand, has done, and waits for, as JSON
//! /api/events   the same, again every second, as server-sent events
//! /api/explain  what `aquifer explain` tells of a job: ?id=, and if there are several &batch= and &tenant=
//! /metrics      the numbers for Prometheus; telemetry/metrics.rs lists them
//! ```
//!
//! It tells counts, names of lanes and jobs, and what stores said; never a prompt or an answer. It only looks, but for what
//! `acts` lists, which takes a token. The page is three files that are part of the binary, written as a browser runs
//! them: there is nothing to build and nothing to fetch.

mod acts;
mod answer;
mod board;
mod desk;
mod guard;
mod live;
mod status;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::PageToken;
use crate::flow::context::Context;
use crate::flow::figures::figures;
use crate::telemetry::exposition;

use answer::{Body, whole, words};
use board::Board;
use live::Live;
use status::Beside;

pub use desk::{AskedJob, BATCHES, BatchProgress, Desk, Explained};
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
    /// Begins to serve there; port 0 takes a free one. Without a token it only shows.
    ///
    /// # Errors
    /// What the system said: the port is taken, or not ours to take.
    pub async fn open(
        address: SocketAddr,
        context: Arc<Context>,
        desk: Arc<dyn Desk>,
        token: Option<PageToken>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let ended = CancellationToken::new();
        let site = Arc::new(Site { context, board: Arc::new(Board::new(desk)), live: Arc::default(), token, address });
        tokio::spawn(ended.clone().run_until_cancelled_owned(keep(Arc::clone(&site))));
        tokio::spawn(ended.clone().run_until_cancelled_owned(accept(listener, site, ended.clone())));
        Ok(Self { address, _ended: ended.drop_guard() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// What is served from.
struct Site {
    context: Arc<Context>,
    board: Arc<Board>,
    live: Arc<Live>,
    token: Option<PageToken>,
    address: SocketAddr,
}

impl Site {
    fn status(&self) -> Value {
        status::json(&self.context, |figures| Beside {
            per_second: self.live.per_second(figures.counts.ended),
            batches: self.board.heard(),
            acts: self.token.is_some(),
            snapshots: self.live.made(),
        })
    }
}

async fn keep(site: Arc<Site>) {
    let snapshot = || {
        // What is on record comes with one of the next snapshots: this one does not wait for it.
        let board = Arc::clone(&site.board);
        tokio::spawn(async move { board.refresh_unless_asking().await });
        site.status()
    };
    site.live.run(|| (site.context.now().0, figures(&site.context)), snapshot).await;
}

async fn accept(listener: TcpListener, site: Arc<Site>, ended: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (site, ended) = (Arc::clone(&site), ended.clone());
                tokio::spawn(async move {
                    ended.run_until_cancelled(serve(stream, site)).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn serve(stream: TcpStream, site: Arc<Site>) {
    let handler = service_fn(move |request: Request<Incoming>| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(respond(&site, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    // How a connection ends is the caller's business.
    let _ = http.serve_connection(TokioIo::new(stream), handler).await;
}

async fn respond(site: &Site, request: Request<Incoming>) -> Response<Body> {
    if let Err(refusal) = guard::may_ask(request.headers(), site.address.ip()) {
        return words(refusal.status, refusal.why);
    }
    let path = request.uri().path().to_owned();
    if acts::is_one(&path) {
        if request.method() != Method::POST {
            return answer::only("POST");
        }
        if let Err(refusal) = guard::may_act(request.headers(), site.token.as_ref()) {
            return words(refusal.status, refusal.why);
        }
        return acts::act(&site.context, site.board.desk(), &path, request.into_body()).await;
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return answer::only("GET, HEAD");
    }
    match path.as_str() {
        "/" => whole(StatusCode::OK, answer::HTML, include_str!("assets/page.html")),
        "/page.css" => whole(StatusCode::OK, answer::CSS, include_str!("assets/page.css")),
        "/page.js" => whole(StatusCode::OK, answer::SCRIPT, include_str!("assets/page.js")),
        "/icon.svg" => whole(StatusCode::OK, answer::SVG, include_str!("assets/icon.svg")),
        "/healthz" => words(StatusCode::OK, "alive"),
        "/readyz" => match unreadiness(&site.context) {
            None => words(StatusCode::OK, "ready"),
            Some(why) => words(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        "/api/status" => {
            site.board.refresh().await;
            answer::json(StatusCode::OK, &site.status())
        }
        "/api/events" if request.method() == Method::GET => match Arc::clone(&site.live).watch() {
            Some(events) => answer::with(StatusCode::OK, answer::EVENTS, StreamBody::new(events).boxed_unsync()),
            None => words(StatusCode::SERVICE_UNAVAILABLE, "too many look already"),
        },
        "/api/explain" => explain(site.board.desk(), request.uri().query().unwrap_or_default()).await,
        "/metrics" => whole(StatusCode::OK, answer::METRICS, exposition::text(&figures(&site.context))),
        _ => words(
            StatusCode::NOT_FOUND,
            "there are /, /healthz, /readyz, /api/status, /api/events, /api/explain and /metrics",
        ),
    }
}

async fn explain(desk: &dyn Desk, query: &str) -> Response<Body> {
    let mut said: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let spaced = value.replace('+', " ");
        said.insert(name, percent_decode_str(&spaced).decode_utf8_lossy().into_owned());
    }
    let Some(id) = said.remove("id") else { return words(StatusCode::BAD_REQUEST, "which job? ?id=...") };
    let asked = AskedJob { id, batch: said.remove("batch"), tenant: said.remove("tenant") };
    match desk.explain(&asked).await {
        Ok(jobs) => answer::json(StatusCode::OK, &json!({ "jobs": jobs })),
        // A person reads it where the answer would be.
        Err(why) => answer::json(StatusCode::OK, &json!({ "jobs": [], "why": why })),
    }
}
