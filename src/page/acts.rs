//! What can be done from the page? Pause and resume this worker, open, close or probe a breaker, put dead letters back. Each is
//! a POST that [`super::guard`] has let through; all else only looks.

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tracing::warn;

use crate::flow::by_hand::{Set, set_breaker};
use crate::flow::context::Context;
use crate::rules::breaker::Hand;
use crate::telemetry::figures::BreakerState;

use super::answer::{self, Body, words};
use super::desk::Desk;

/// More than any of them has to say, in bytes.
const LONGEST: usize = 4 * 1_024;

/// What a person does with a breaker, and how it stood when they decided that.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BreakerAct {
    lane: String,
    hand: HandWord,
    /// Its word in `/api/status`.
    seen: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HandWord {
    Open,
    Close,
    Probe,
}

/// Whether something is done there.
pub(super) fn is_one(path: &str) -> bool {
    matches!(path, "/api/pause" | "/api/resume" | "/api/breaker" | "/api/redrive")
}

/// Does it.
pub(super) async fn act(context: &Context, desk: &dyn Desk, path: &str, body: Incoming) -> Response<Body> {
    let Ok(body) = Limited::new(body, LONGEST).collect().await else {
        return words(StatusCode::PAYLOAD_TOO_LARGE, "at most 4 KiB");
    };
    match path {
        "/api/pause" => pause(context, true),
        "/api/resume" => pause(context, false),
        "/api/breaker" => match serde_json::from_slice(&body.to_bytes()) {
            Ok(act) => breaker(context, &act).await,
            Err(error) => words(StatusCode::BAD_REQUEST, &format!("lane, hand and seen: {error}")),
        },
        "/api/redrive" => match desk.redrive().await {
            Ok(redriven) => {
                warn!(redriven, "dead letters put back into the queue from the page");
                answer::json(StatusCode::OK, &json!({ "redriven": redriven }))
            }
            Err(why) => words(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        _ => words(StatusCode::NOT_FOUND, "nothing is done here"),
    }
}

fn pause(context: &Context, is_paused: bool) -> Response<Body> {
    context.stop.pause(is_paused);
    warn!("{} from the page", if is_paused { "paused" } else { "resumed" });
    answer::json(StatusCode::OK, &json!({ "paused": is_paused }))
}

async fn breaker(context: &Context, act: &BreakerAct) -> Response<Body> {
    let lane = context.catalogue.lanes().into_iter().find(|lane| lane.id.to_string() == act.lane);
    let Some(lane) = lane else { return words(StatusCode::NOT_FOUND, "this worker knows no such lane") };
    let Some(seen) = BreakerState::ALL.into_iter().find(|state| state.word() == act.seen) else {
        return words(
            StatusCode::BAD_REQUEST,
            "`seen` is how the breaker stood: closed, half-open, open, open by hand",
        );
    };
    let hand = match act.hand {
        HandWord::Open => Hand::Open,
        HandWord::Close => Hand::Close,
        HandWord::Probe => Hand::Probe,
    };
    match set_breaker(context, &lane, seen, hand).await {
        Ok(Set::Done(state)) => answer::json(StatusCode::OK, &json!({ "breaker": state.word() })),
        Ok(Set::Otherwise(state)) => {
            words(StatusCode::CONFLICT, &format!("the breaker is {} by now; nothing was done", state.word()))
        }
        Err(error) => {
            context.meter.store_trouble(&error);
            words(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
        }
    }
}
