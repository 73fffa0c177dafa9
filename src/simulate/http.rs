//! How do calls come in and answers go out? HTTP/1.1 as Bedrock speaks it, including the ways it breaks.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body_util::{BodyExt as _, Collected, Either, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::TcpStream;

use super::answer::Answer;
use super::errors::Refused;
use super::fault::Kind;
use super::request::{self, Ask, Family, Operation};
use super::respond;
use super::service::{Open, Service};

/// Serves one connection until either side closes it.
pub(super) async fn serve(service: Arc<Service>, stream: TcpStream) {
    // Without it a small answer may wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let handler = service_fn(move |request| handle(Arc::clone(&service), request));
    // How a connection ends is the caller's business; the books are kept by the call itself.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), handler).await;
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, io::Error>> + Send>>;
type Body = Either<Full<Bytes>, StreamBody<Pieces>>;

/// The largest body of InvokeModel.
const BODY_LIMIT: usize = 25_000_000;
const JSON: &str = "application/json";
const EVENT_STREAM: &str = "application/vnd.amazon.eventstream";

/// An `Err` closes the connection without an answer.
async fn handle(service: Arc<Service>, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
    let request_id = service.request_id();
    let mut response = match respond(&service, request).await {
        Ok(response) => response,
        Err(Broken::Refused(refused)) => error(&refused),
        Err(Broken::Gone) => return Err(gone()),
    };
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert("x-amzn-requestid", value);
    }
    Ok(response)
}

/// Why there is no ordinary answer.
enum Broken {
    Refused(Refused),
    Gone,
}

impl From<Refused> for Broken {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

enum Action {
    Converse,
    ConverseStream,
    Invoke,
    CountTokens,
}

/// The model id is percent-encoded, as an ARN has slashes of its own.
fn route<'a>(method: &Method, path: &'a str) -> Option<(Cow<'a, str>, Action)> {
    let (id, action) = path.strip_prefix("/model/")?.rsplit_once('/')?;
    let action = match action {
        "converse" => Action::Converse,
        "converse-stream" => Action::ConverseStream,
        "invoke" => Action::Invoke,
        "count-tokens" => Action::CountTokens,
        _ => return None,
    };
    let id = percent_decode_str(id).decode_utf8().ok()?;
    (*method == Method::POST && !id.is_empty()).then_some((id, action))
}

enum Read {
    Count(u64),
    Ask(Operation, Ask),
}

async fn respond(service: &Arc<Service>, request: Request<Incoming>) -> Result<Response<Body>, Broken> {
    let (head, body) = request.into_parts();
    let Some((id, action)) = route(&head.method, head.uri.path()) else {
        return Err(Refused::no_operation().into());
    };
    if !head.headers.contains_key(AUTHORIZATION) {
        return Err(Refused::no_credentials().into());
    }
    let body = Limited::new(body, BODY_LIMIT).collect().await.map(Collected::to_bytes);
    match body.map_err(|_| request::malformed()).and_then(|body| read(service, &id, &action, &body)) {
        Ok(Read::Count(tokens)) => {
            service.counted_tokens();
            Ok(ok(JSON, format!("{{\"inputTokens\":{tokens}}}").into_bytes()))
        }
        Ok(Read::Ask(operation, ask)) => {
            let open = service.admit(&id, operation == Operation::ConverseStream, ask)?;
            work(&id, operation, open).await
        }
        Err(refused) => {
            service.reject();
            Err(refused.into())
        }
    }
}

fn read(service: &Service, id: &str, action: &Action, body: &[u8]) -> Result<Read, Refused> {
    let operation = match action {
        Action::CountTokens => {
            service.scenario.counts_tokens(id)?;
            return request::count_tokens(id, body).map(Read::Count);
        }
        Action::Converse => Operation::Converse,
        Action::ConverseStream => Operation::ConverseStream,
        Action::Invoke => {
            // An unknown id is that before it is a body in the wrong format.
            service.scenario.model(id)?;
            Operation::Invoke(request::family(id).ok_or_else(request::no_format)?)
        }
    };
    request::read(id, operation, body).map(|ask| Read::Ask(operation, ask))
}

async fn work(id: &str, operation: Operation, mut open: Open) -> Result<Response<Body>, Broken> {
    let fault = open.fault.take();
    if fault == Some(Kind::Hang) {
        // Ends when the caller closes the connection, which drops this call and with it `open`.
        std::future::pending::<Infallible>().await;
    }
    let latency = open.latency();
    if let Some(Kind::LateError(refused)) = fault {
        pause(latency).await;
        open.failed();
        return Err(refused.into());
    }
    let answer = if fault == Some(Kind::Empty) { Answer::empty() } else { open.answer() };
    let generating = open.model.latency.generating(answer.output_tokens);
    if operation == Operation::ConverseStream {
        pause(latency).await;
        return stream_out(open, &answer, generating, fault);
    }
    pause(latency + generating).await;
    let (body, output_tokens) = match operation {
        Operation::Converse | Operation::ConverseStream => {
            (respond::converse(&answer, open.split, open.elapsed_ms()), answer.output_tokens)
        }
        Operation::Invoke(Family::TitanEmbedding) => {
            let vector = open.embedding().filter(|_| fault != Some(Kind::Empty)).unwrap_or_default();
            (respond::embedding(&vector, open.input_tokens()), 0)
        }
        Operation::Invoke(family) => {
            (respond::invoke(family, id, &answer, open.split, open.digest()), answer.output_tokens)
        }
    };
    match fault {
        Some(Kind::Drop) => {
            open.wasted(output_tokens);
            Err(Broken::Gone)
        }
        Some(Kind::Truncate) => {
            open.wasted(output_tokens);
            let whole = body.len();
            let mut response = pieces(JSON, cut(vec![body.into()]));
            response.headers_mut().insert(CONTENT_LENGTH, whole.into());
            Ok(response)
        }
        Some(Kind::SlowBody(over)) => {
            let whole = body.len();
            let body = Bytes::from(body);
            let step = whole.div_ceil(SLOW_PIECES).max(1);
            let parts = (0..whole).step_by(step).map(|at| body.slice(at..whole.min(at + step))).collect();
            let mut response = pieces(JSON, paced(parts, over, open, output_tokens));
            response.headers_mut().insert(CONTENT_LENGTH, whole.into());
            Ok(response)
        }
        Some(Kind::Empty) => {
            open.wasted(output_tokens);
            Ok(ok(JSON, body))
        }
        Some(Kind::Garbage) => {
            open.wasted(output_tokens);
            Ok(ok(JSON, GARBAGE.to_vec()))
        }
        // The others have been dealt with, or do not concern a unary call.
        None | Some(Kind::Error(_) | Kind::LateError(_) | Kind::Hang | Kind::StreamError { .. }) => {
            open.answered(output_tokens);
            Ok(ok(JSON, body))
        }
    }
}

fn stream_out(
    open: Open,
    answer: &Answer,
    generating: Duration,
    fault: Option<Kind>,
) -> Result<Response<Body>, Broken> {
    let latency_ms = open.elapsed_ms().saturating_add(u64::try_from(generating.as_millis()).unwrap_or(u64::MAX));
    let mut frames = respond::frames(answer, open.split, latency_ms);
    let tokens = answer.output_tokens;
    Ok(match fault {
        Some(Kind::Drop) => {
            open.wasted(tokens);
            return Err(Broken::Gone);
        }
        Some(Kind::Truncate) => {
            open.wasted(tokens);
            pieces(EVENT_STREAM, cut(frames))
        }
        Some(Kind::SlowBody(over)) => pieces(EVENT_STREAM, paced(frames, over, open, tokens)),
        Some(Kind::Empty) => {
            open.wasted(tokens);
            ok(EVENT_STREAM, frames.concat())
        }
        Some(Kind::Garbage) => {
            open.wasted(tokens);
            ok(EVENT_STREAM, GARBAGE.to_vec())
        }
        Some(Kind::StreamError { exception, message }) => {
            frames.truncate(frames.len() / 2);
            frames.push(respond::exception(exception, &message));
            open.wasted(tokens / 2);
            ok(EVENT_STREAM, frames.concat())
        }
        None | Some(Kind::Error(_) | Kind::LateError(_) | Kind::Hang) => {
            if generating.is_zero() {
                open.answered(tokens);
                ok(EVENT_STREAM, frames.concat())
            } else {
                pieces(EVENT_STREAM, paced(frames, generating, open, tokens))
            }
        }
    })
}

const SLOW_PIECES: usize = 20;
const GARBAGE: &[u8] = b"<html><head><title>502 Bad Gateway</title></head><body></body></html>";

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// All pieces, evenly over this time; the call is answered with the last.
fn paced(pieces: Vec<Bytes>, over: Duration, open: Open, output_tokens: u64) -> Pieces {
    let gap = over / u32::try_from(pieces.len()).unwrap_or(u32::MAX).max(1);
    let left = pieces.into_iter();
    Box::pin(stream::unfold((left, Some(open)), move |(mut left, mut open)| async move {
        pause(gap).await;
        let piece = left.next()?;
        if let Some(open) = open.take_if(|_| left.len() == 0) {
            open.answered(output_tokens);
        }
        Some((Ok(Frame::data(piece)), (left, open)))
    }))
}

/// The first half of the bytes, then an error that closes the connection.
fn cut(pieces: Vec<Bytes>) -> Pieces {
    let whole = Bytes::from(pieces.concat());
    let half = whole.slice(..whole.len() / 2);
    Box::pin(stream::unfold(Some(half), |half| async move {
        match half {
            Some(half) if !half.is_empty() => Some((Ok(Frame::data(half)), Some(Bytes::new()))),
            Some(_) => {
                // Waiting once makes the connection send what it holds before it hears of the error.
                tokio::task::yield_now().await;
                Some((Err(gone()), None))
            }
            None => None,
        }
    }))
}

fn ok(content_type: &'static str, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(body))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn pieces(content_type: &'static str, pieces: Pieces) -> Response<Body> {
    let mut response = Response::new(Either::Right(StreamBody::new(pieces)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn error(refused: &Refused) -> Response<Body> {
    let mut response = ok(JSON, refused.body());
    *response.status_mut() = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = HeaderValue::from_str(&refused.type_header()) {
        response.headers_mut().insert("x-amzn-errortype", value);
    }
    if let Some(time) = refused.retry_after {
        // Whole seconds, and never sooner than meant.
        let seconds = u64::try_from(time.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX);
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn gone() -> io::Error {
    io::Error::other("closed on order of the scenario")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_model_id_is_decoded_from_the_path() {
        let path = "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.a.b-v1%3A0/converse";
        let (id, _) = route(&Method::POST, path).unwrap();
        assert_eq!(id, "arn:aws:bedrock:us-east-1:1:inference-profile/us.a.b-v1:0");
        for (method, path) in [
            (Method::GET, "/model/a.b/converse"),
            (Method::POST, "/model/a.b/talk"),
            (Method::POST, "/model//converse"),
            (Method::POST, "/"),
            (Method::POST, "/model/%ff/converse"),
        ] {
            assert!(route(&method, path).is_none(), "{method} {path}");
        }
    }
}
