//! How do calls come in and answers go out? HTTP/1.1 as Bedrock speaks it, including the ways it breaks.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body_util::{BodyExt as _, Either, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::TcpStream;

use super::call::{self, Action, BODY_LIMIT, Form, Paced, Reply};
use super::errors::Refused;
use super::request;
use super::scope::{AGENT, Target};
use super::service::Service;

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

/// An `Err` closes the connection without an answer.
async fn handle(service: Arc<Service>, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
    let request_id = service.request_id();
    let mut response = match respond(&service, request).await {
        Reply::Whole(form, body) => ok(form, body),
        Reply::Paced(form, paced) => {
            let length = paced.length();
            pieces(form, length, spread(paced))
        }
        Reply::Cut(form, body) => pieces(form, body.len(), cut(&body)),
        Reply::Refused(refused) => error(&refused),
        Reply::Gone | Reply::NoConnection => return Err(gone()),
    };
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert("x-amzn-requestid", value);
    }
    Ok(response)
}

async fn respond(service: &Arc<Service>, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let Some((id, action)) = route(&head.method, head.uri.path()) else {
        return Reply::Refused(Refused::no_operation());
    };
    let Some(authorization) = head.headers.get(AUTHORIZATION) else {
        return Reply::Refused(Refused::no_credentials());
    };
    let target = Target { region: region(authorization), id: &id };
    if let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await {
        call::answer(service, target, action, &body.to_bytes()).await
    } else {
        service.reject();
        Reply::Refused(request::malformed())
    }
}

/// The model id is percent-encoded, as an ARN has slashes of its own.
fn route<'a>(method: &Method, path: &'a str) -> Option<(Cow<'a, str>, Action)> {
    if let Some(turn) = path.strip_prefix("/agents/") {
        return (*method == Method::POST).then_some(turn).and_then(agent).map(|id| (id, Action::InvokeAgent));
    }
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

/// An alias of an agent as scenarios name it, of `AGENT/agentAliases/ALIAS/sessions/SESSION/text`.
fn agent(turn: &str) -> Option<Cow<'_, str>> {
    let (agent, rest) = turn.split_once("/agentAliases/")?;
    let (alias, rest) = rest.split_once("/sessions/")?;
    let session = rest.strip_suffix("/text")?;
    let plain = |part: &str| !part.is_empty() && !part.contains('/');
    [agent, alias, session].into_iter().all(plain).then(|| Cow::Owned(format!("{AGENT}{agent}/{alias}")))
}

/// The region that a request was signed for; empty for a bearer token, which names none.
fn region(authorization: &HeaderValue) -> &str {
    let scope = authorization.to_str().ok().and_then(|text| text.split_once("Credential=")).map(|(_, scope)| scope);
    scope.and_then(|scope| scope.split([',', ' ']).next()?.split('/').nth(2)).unwrap_or_default()
}

fn spread(paced: Box<Paced>) -> Pieces {
    Box::pin(stream::unfold(paced, |mut paced| async move {
        let piece = paced.next().await?;
        Some((Ok(Frame::data(piece)), paced))
    }))
}

/// The first half of the bytes, then an error that closes the connection.
fn cut(whole: &Bytes) -> Pieces {
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

fn ok(form: Form, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(body))));
    response.headers_mut().insert(CONTENT_TYPE, content_type(form));
    response
}

/// A stream of events has no length of its own; `length` is that of a JSON body.
fn pieces(form: Form, length: usize, pieces: Pieces) -> Response<Body> {
    let mut response = Response::new(Either::Right(StreamBody::new(pieces)));
    response.headers_mut().insert(CONTENT_TYPE, content_type(form));
    if form == Form::Json {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response
}

fn content_type(form: Form) -> HeaderValue {
    HeaderValue::from_static(match form {
        Form::Json => "application/json",
        Form::EventStream => "application/vnd.amazon.eventstream",
    })
}

fn error(refused: &Refused) -> Response<Body> {
    let mut response = ok(Form::Json, refused.body());
    *response.status_mut() = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = HeaderValue::from_str(&refused.type_header()) {
        response.headers_mut().insert("x-amzn-errortype", value);
    }
    if let Some(seconds) = refused.retry_after_seconds() {
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
    fn the_region_is_the_one_signed_for() {
        for (header, expected) in [
            (
                "AWS4-HMAC-SHA256 Credential=AKID/20261121/us-west-2/bedrock/aws4_request, SignedHeaders=host, Signature=0a/b/c",
                "us-west-2",
            ),
            ("AWS4-HMAC-SHA256 Credential=AKID, SignedHeaders=a/b/c", ""),
            ("Bearer a/b/c/d", ""),
        ] {
            assert_eq!(region(&HeaderValue::from_static(header)), expected, "{header}");
        }
    }

    #[test]
    fn a_model_id_is_decoded_from_the_path() {
        let path = "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.a.b-v1%3A0/converse";
        let (id, _) = route(&Method::POST, path).unwrap();
        assert_eq!(id, "arn:aws:bedrock:us-east-1:1:inference-profile/us.a.b-v1:0");
        let (id, _) = route(&Method::POST, "/agents/A/agentAliases/B/sessions/s%3A1/text").unwrap();
        assert_eq!(id, "agent/A/B");
        for (method, path) in [
            (Method::GET, "/agents/A/agentAliases/B/sessions/s/text"),
            (Method::POST, "/agents/A/agentAliases/B/sessions//text"),
            (Method::POST, "/agents/A/agentAliases/B/text"),
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
