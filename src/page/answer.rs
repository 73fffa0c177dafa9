//! How does every answer look? Its headers tell a browser to run nothing that is not ours, to keep nothing, and to show it in
//! nobody else's frame.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde_json::Value;

use crate::telemetry::exposition;

/// What is sent: a text, or events without end.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
pub(super) const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
pub(super) const CSS: HeaderValue = HeaderValue::from_static("text/css; charset=utf-8");
pub(super) const SCRIPT: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");
pub(super) const SVG: HeaderValue = HeaderValue::from_static("image/svg+xml");
pub(super) const METRICS: HeaderValue = HeaderValue::from_static(exposition::MEDIA_TYPE);
pub(super) const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Scripts, styles and questions from and to this address alone; no inline code, no form, no frame.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);
const ON_EVERY_ANSWER: [(HeaderName, HeaderValue); 5] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// A whole answer.
pub(super) fn whole(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<Body> {
    with(status, kind, Full::new(body.into()).boxed_unsync())
}

/// An answer to a person or a probe.
pub(super) fn words(status: StatusCode, words: &str) -> Response<Body> {
    whole(status, TEXT, format!("{words}\n"))
}

/// An answer to a program.
pub(super) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    whole(status, JSON, format!("{value}\n"))
}

/// An answer of whatever length.
pub(super) fn with(status: StatusCode, kind: HeaderValue, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.extend(ON_EVERY_ANSWER);
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Another method would be answered.
pub(super) fn only(methods: &'static str) -> Response<Body> {
    let mut response = words(StatusCode::METHOD_NOT_ALLOWED, &format!("only {methods}"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}
