//! Who may ask, and who may act? Anybody who reaches the address may look, but no page of another site may do so with the
//! browser of somebody who is allowed to; and only whoever knows the token changes anything.
//!
//! The token travels in a header that no browser sends by itself, so that another site has nothing to misuse; that the
//! question comes from our own page is asked for all the same.

use std::net::IpAddr;

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::http::uri::{Authority, Uri};
use sha2::{Digest as _, Sha256};

use crate::config::PageToken;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why nothing was done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) why: &'static str,
}

/// A page that listens to this machine alone answers to this machine's names alone: any other name that leads here was made
/// to do so by somebody else's name server.
pub(super) fn may_ask(headers: &HeaderMap, bound: IpAddr) -> Result<(), Refusal> {
    let Some(host) = headers.get(HOST).filter(|_| bound.is_loopback()) else { return Ok(()) };
    let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    if host.is_some_and(|authority| is_this_machine(authority.host())) {
        return Ok(());
    }
    Err(Refusal {
        status: StatusCode::MISDIRECTED_REQUEST,
        why: "this page listens on loopback and answers to localhost, 127.0.0.1 and [::1] only; a proxy before it must set \
              the Host header to one of them",
    })
}

fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether this may change something.
pub(super) fn may_act(headers: &HeaderMap, token: Option<&PageToken>) -> Result<(), Refusal> {
    let refuse = |status, why| Err(Refusal { status, why });
    let Some(token) = token else {
        return refuse(StatusCode::FORBIDDEN, "this page only shows; `worker.page_token` lets it act");
    };
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if text(&SEC_FETCH_SITE).is_some_and(|site| site != "same-origin") || !is_of_this_page(text(&ORIGIN), text(&HOST)) {
        return refuse(StatusCode::FORBIDDEN, "asked by a page of another site");
    }
    let is_json = |kind: &str| kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json");
    if !text(&CONTENT_TYPE).is_some_and(is_json) {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type must be application/json");
    }
    match text(&AUTHORIZATION).and_then(|said| said.strip_prefix("Bearer ")) {
        Some(said) if is_same(said, token.reveal()) => Ok(()),
        Some(_) => refuse(StatusCode::UNAUTHORIZED, "this is not the token of `worker.page_token`"),
        None => refuse(StatusCode::UNAUTHORIZED, "say the token of `worker.page_token` as `Authorization: Bearer ...`"),
    }
}

/// Compared by digest, so that how long it takes tells nothing of how much was right.
fn is_same(said: &str, token: &str) -> bool {
    Sha256::digest(said.as_bytes()) == Sha256::digest(token.as_bytes())
}

/// A program that is no browser names no origin.
fn is_of_this_page(origin: Option<&str>, host: Option<&str>) -> bool {
    let Some(origin) = origin else { return true };
    let origin = origin.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
    origin.is_some_and(|origin| host.is_some_and(|host| origin.eq_ignore_ascii_case(host)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const TOKEN: &str = "a-token-of-24-characters";

    fn headers(all: &[(&str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    fn status(refused: Result<(), Refusal>) -> u16 {
        refused.map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn a_page_on_loopback_answers_to_no_other_name() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        for (host, wanted) in [
            ("localhost:9464", 200),
            ("LOCALHOST", 200),
            ("127.0.0.1:9464", 200),
            ("127.1.2.3", 200),
            ("[::1]:9464", 200),
            ("evil.example:9464", 421),
            ("localhost.evil.example", 421),
            ("127.0.0.1.evil.example", 421),
            ("10.0.0.7:9464", 421),
            ("not a host", 421),
            ("", 421),
        ] {
            assert_eq!(status(may_ask(&headers(&[("host", host)]), loopback)), wanted, "{host}");
            let everywhere = "0.0.0.0".parse().unwrap();
            assert_eq!(status(may_ask(&headers(&[("host", host)]), everywhere)), 200, "{host}");
        }
        assert_eq!(status(may_ask(&headers(&[]), loopback)), 200, "no browser asks without naming a host");
    }

    #[test]
    fn only_our_own_page_or_a_program_with_the_token_acts() {
        let bearer = format!("Bearer {TOKEN}");
        let right = [("host", "localhost:1"), ("content-type", "application/json"), ("authorization", &bearer)];
        let token = PageToken::new(TOKEN).unwrap();
        let asked = |more: &[(&str, &str)]| {
            let mut all = headers(&right);
            all.extend(headers(more));
            status(may_act(&all, Some(&token)))
        };
        assert_eq!(status(may_act(&headers(&right), None)), 403, "without a token nothing can be done");
        for (more, wanted) in [
            (&[][..], 200),
            (&[("origin", "http://localhost:1"), ("sec-fetch-site", "same-origin")], 200),
            (&[("content-type", "application/json; charset=utf-8")], 200),
            (&[("origin", "http://evil.example")], 403),
            (&[("origin", "http://localhost:2")], 403),
            (&[("origin", "null")], 403),
            (&[("sec-fetch-site", "cross-site")], 403),
            (&[("sec-fetch-site", "same-site")], 403),
            (&[("sec-fetch-site", "none")], 403),
            (&[("content-type", "text/plain")], 415),
            (&[("authorization", "Bearer a-token-of-24-characterZ")], 401),
            (&[("authorization", TOKEN)], 401),
            (&[("authorization", "Bearer ")], 401),
        ] {
            assert_eq!(asked(more), wanted, "{more:?}");
        }
        let cookie = [("host", "localhost:1"), ("content-type", "application/json"), ("cookie", TOKEN)];
        assert_eq!(status(may_act(&headers(&cookie), Some(&token))), 401, "a cookie is no token");
    }
}
