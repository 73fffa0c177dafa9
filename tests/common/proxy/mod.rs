//! What does a worker do when AWS has a bad day? A proxy in front of the services that counts the calls it sees and, on
//! order, delays them, loses them, answers them with an error, or fails one entry of a batch.
//!
//! It runs on threads of its own: a test may pause its clock, and several processes may share one proxy. Faults come from
//! a script (the next call of that name) or by chance from a seed; which call meets which draw depends on the order in
//! which they arrive.

mod call;
mod reply;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::{TcpListener, TcpStream};

pub(crate) use self::call::{Call, Service};

/// What becomes of one call instead of being answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// It is answered later.
    Delay(Duration),
    /// The connection closes, and the service has never heard of it.
    LoseRequest,
    /// The service has done it, and the connection closes.
    LoseReply,
    /// A bare status, as from something in between that knows nothing of the service.
    Status(u16),
    /// The service's own internal error.
    Internal,
    /// The service's own word for "too much at once".
    Throttle,
    /// Something else is under way that this may not run beside.
    Conflict,
    /// One entry of a batch is not carried out and so answered, by its place; where there is no such entry, the last one.
    /// A call that is no batch is left alone.
    FailEntry(usize),
}

/// How likely each fault is, of 1. What is left is carried out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Odds {
    /// A delay, of any length up to this.
    pub(crate) delay: (f64, Duration),
    pub(crate) lose_request: f64,
    pub(crate) lose_reply: f64,
    pub(crate) status_503: f64,
    pub(crate) internal: f64,
    pub(crate) throttle: f64,
    /// Of a batch call; of others, nothing.
    pub(crate) fail_entry: f64,
}

impl Odds {
    /// So likely each; the delay is up to a second.
    fn each(odds: f64) -> Self {
        Self {
            delay: (odds, Duration::from_secs(1)),
            lose_request: odds,
            lose_reply: odds,
            status_503: odds,
            internal: odds,
            throttle: odds,
            fail_entry: odds,
        }
    }

    /// Any of them, so likely together.
    pub(crate) fn in_all(odds: f64) -> Self {
        Self::each(odds / 7.0)
    }

    fn draw(&self, chance: &mut StdRng) -> Option<Fault> {
        let mut left = chance.random::<f64>();
        let mut hit = |odds: f64| {
            left -= odds;
            left < 0.0
        };
        if hit(self.lose_request) {
            Some(Fault::LoseRequest)
        } else if hit(self.lose_reply) {
            Some(Fault::LoseReply)
        } else if hit(self.status_503) {
            Some(Fault::Status(503))
        } else if hit(self.internal) {
            Some(Fault::Internal)
        } else if hit(self.throttle) {
            Some(Fault::Throttle)
        } else if hit(self.fail_entry) {
            Some(Fault::FailEntry(chance.random_range(0..10)))
        } else if hit(self.delay.0) {
            Some(Fault::Delay(self.delay.1.mul_f64(chance.random())))
        } else {
            None
        }
    }
}

/// What was seen of one kind of call, faults included.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Seen {
    /// HTTP requests, those that the SDK makes again by itself included.
    pub(crate) calls: u64,
    /// What they carried: entries of batches, items of transactions, else one each.
    pub(crate) entries: u64,
    /// Bytes of request bodies.
    pub(crate) bytes: u64,
    /// Calls that met a fault.
    pub(crate) faults: u64,
}

/// A proxy; gone when dropped.
pub(crate) struct Proxy {
    url: String,
    state: Arc<State>,
    runtime: Option<tokio::runtime::Runtime>,
}

struct State {
    upstream: SocketAddr,
    orders: Mutex<Orders>,
    seen: Mutex<BTreeMap<Call, Seen>>,
    touched: Mutex<BTreeMap<(Call, String), u64>>,
}

struct Orders {
    script: Vec<(Call, VecDeque<Fault>)>,
    away: HashSet<Service>,
    odds: Odds,
    chance: StdRng,
}

impl Proxy {
    /// In front of `upstream`, as `http://127.0.0.1:4566`.
    pub(crate) fn start(upstream: &str, seed: u64) -> Self {
        let upstream = upstream.trim_start_matches("http://").parse().unwrap();
        let orders = Orders {
            script: Vec::new(),
            away: HashSet::new(),
            odds: Odds::default(),
            chance: StdRng::seed_from_u64(seed),
        };
        let state =
            Arc::new(State { upstream, orders: Mutex::new(orders), seen: Mutex::default(), touched: Mutex::default() });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(serve(listener, Arc::clone(&state)));
        Self { url, state, runtime: Some(runtime) }
    }

    /// Where to send what is meant for the services.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The next call of this name meets `fault`; the one after it the next that is ordered.
    pub(crate) fn next(&self, service: Service, operation: &str, fault: Fault) {
        let call = Call::new(service, operation);
        let script = &mut self.state.orders.lock().unwrap().script;
        match script.iter_mut().find(|(scripted, _)| *scripted == call) {
            Some((_, faults)) => faults.push_back(fault),
            None => script.push((call, VecDeque::from([fault]))),
        }
    }

    /// How likely a fault is for every call that no script is for.
    pub(crate) fn set_odds(&self, odds: Odds) {
        self.state.orders.lock().unwrap().odds = odds;
    }

    /// From now on no call of this service arrives.
    pub(crate) fn take_away(&self, service: Service) {
        self.state.orders.lock().unwrap().away.insert(service);
    }

    /// And now they do again.
    pub(crate) fn bring_back(&self, service: Service) {
        self.state.orders.lock().unwrap().away.remove(&service);
    }

    /// What was seen of each kind of call.
    pub(crate) fn seen(&self) -> BTreeMap<Call, Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// What was seen of one kind of call.
    pub(crate) fn seen_of(&self, service: Service, operation: &str) -> Seen {
        self.seen().remove(&Call::new(service, operation)).unwrap_or_default()
    }

    /// Calls by what they touched, as far as that tells one permission from another: of a row what its partition begins with, of
    /// an object its two outer folders, of a queue its name. A call that touches several counts for each.
    pub(crate) fn touched(&self) -> BTreeMap<(Call, String), u64> {
        self.state.touched.lock().unwrap().clone()
    }

    /// Forgets what was seen.
    pub(crate) fn count_anew(&self) {
        self.state.seen.lock().unwrap().clear();
        self.state.touched.lock().unwrap().clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Tests are async themselves: nothing may wait here.
            runtime.shutdown_background();
        }
    }
}

// -------------------------------------------------------------------------------------------------- connections

/// Closes the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("lost on order")]
struct Lost;

async fn serve(listener: std::net::TcpListener, state: Arc<State>) {
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            // As many to the services as there are to us, so that none waits for another.
            let upstream = tokio::sync::Mutex::new(None);
            let answer = service_fn(|request| answer(&state, &upstream, request));
            // An error is a connection that ended, which both sides can see.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

type Upstream = tokio::sync::Mutex<Option<SendRequest<Full<Bytes>>>>;

async fn answer(state: &State, upstream: &Upstream, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Lost> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Lost)?.to_bytes();
    let call = call::of(&head, &body);
    for place in call::places(&call, &head, &body) {
        *state.touched.lock().unwrap().entry((call.clone(), place)).or_default() += 1;
    }
    let fault = state.fault(&call, &body);
    if let Some(Fault::Delay(time)) = fault {
        tokio::time::sleep(time).await;
    }
    for own_of_a_connection in [CONNECTION, TRANSFER_ENCODING, EXPECT, CONTENT_LENGTH] {
        head.headers.remove(own_of_a_connection);
    }
    match fault {
        None | Some(Fault::Delay(_)) => state.forward(upstream, Request::from_parts(head, Full::new(body))).await,
        Some(Fault::LoseRequest) => Err(Lost),
        Some(Fault::LoseReply) => {
            state.forward(upstream, Request::from_parts(head, Full::new(body))).await?;
            Err(Lost)
        }
        Some(Fault::Status(status)) => Ok(reply::bare(status)),
        Some(Fault::Internal) => Ok(reply::internal(call.service)),
        Some(Fault::Throttle) => Ok(reply::throttled(call.service)),
        Some(Fault::Conflict) => Ok(reply::conflict()),
        Some(Fault::FailEntry(place)) => {
            let Some((left, failed)) = call::without_entry(&call, &body, place) else {
                return state.forward(upstream, Request::from_parts(head, Full::new(body))).await;
            };
            // A batch of none is an error of its own, so it does not travel.
            let answer = match left {
                Some(left) => state.forward(upstream, Request::from_parts(head, Full::new(left))).await?,
                None => reply::to_nothing(call.service),
            };
            reply::with_failed(call.service, answer, &failed).await
        }
    }
}

impl Orders {
    fn fault(&mut self, call: &Call) -> Option<Fault> {
        if self.away.contains(&call.service) {
            return Some(Fault::LoseRequest);
        }
        let scripted = self.script.iter_mut().find(|(scripted, _)| scripted == call);
        if let Some(fault) = scripted.and_then(|(_, faults)| faults.pop_front()) {
            return Some(fault);
        }
        // Of what cannot fail by an entry, no entry fails.
        self.odds.draw(&mut self.chance).filter(|fault| !matches!(fault, Fault::FailEntry(_)) || call.is_batch())
    }
}

impl State {
    /// Counts a call, and says what becomes of it.
    fn fault(&self, call: &Call, body: &[u8]) -> Option<Fault> {
        let fault = self.orders.lock().unwrap().fault(call);
        let mut seen = self.seen.lock().unwrap();
        let seen = seen.entry(call.clone()).or_default();
        seen.calls += 1;
        seen.entries += call::entries(call, body);
        seen.bytes += body.len() as u64;
        seen.faults += u64::from(fault.is_some());
        fault
    }

    async fn forward(&self, upstream: &Upstream, request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Lost> {
        let mut held = upstream.lock().await;
        if let Some(sender) = held.as_mut()
            && sender.ready().await.is_err()
        {
            // It was closed while it was idle.
            *held = None;
        }
        let sender = match &mut *held {
            Some(sender) => sender,
            none => none.insert(self.connect().await?),
        };
        let (mut head, body) = sender.send_request(request).await.map_err(|_| Lost)?.into_parts();
        let body = body.collect().await.map_err(|_| Lost)?.to_bytes();
        head.headers.remove(CONNECTION);
        head.headers.remove(TRANSFER_ENCODING);
        Ok(Response::from_parts(head, Full::new(body)))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Lost> {
        let stream = TcpStream::connect(self.upstream).await.map_err(|_| Lost)?;
        stream.set_nodelay(true).map_err(|_| Lost)?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|_| Lost)?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
