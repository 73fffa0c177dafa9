//! What is said of a lane that lets nothing through? Which gate holds it, since when and until when, for the progress line,
//! `status` and `explain`.

use std::time::Duration;

use crate::job::ident::BatchName;
use crate::ports::Gate;
use crate::rules::pace::Binding;

use super::context::Context;
use super::lane::Lane;
use super::lanes::{Plan, Route};

/// A gate that holds for less than this is not worth a word.
const WORTH_SAYING: Duration = Duration::from_secs(1);

/// For what a job waits where the account has used up its day.
pub(super) const ACCOUNTS_DAY: &str = "tokens a day of the account";
/// While a lane is shut for these nobody is sent there.
const SHUT_TO_ALL: [&str; 3] = [Binding::Throttled.words(), Binding::Day.words(), ACCOUNTS_DAY];

/// One gate of a lane that is shut for a job.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShutGate {
    /// In words, without the lane.
    pub reason: &'static str,
    /// How long it stays shut, as things stand.
    pub opens_in: Duration,
}

/// Whether nobody at all is sent to any lane that a job could use: a place in line is worth nothing to it then.
pub(super) fn are_shut_to_all(gates: &[Option<ShutGate>]) -> bool {
    let mut gates = gates.iter().flatten().peekable();
    gates.peek().is_some() && gates.all(|gate| SHUT_TO_ALL.contains(&gate.reason))
}

/// Says which gates hold the first in line: one a lane that it could use.
pub(super) async fn shut(context: &Context, plan: &Plan, gates: &[Option<ShutGate>]) {
    for (route, gate) in plan.routes.iter().zip(gates) {
        if let Some(gate) = gate.filter(|gate| gate.opens_in >= WORTH_SAYING) {
            shut_one(context, &route.lane, gate).await;
        }
    }
}

async fn shut_one(context: &Context, lane: &Lane, gate: ShutGate) {
    let now = context.now();
    let shut = {
        let mut state = lane.state();
        let before = state.posted.as_ref().filter(|posted| posted.reason == gate.reason);
        let since = before.map_or(now, |posted| posted.since);
        let shut = Gate { reason: gate.reason.to_owned(), since, until: now.after(gate.opens_in) };
        let is_news = before.is_none_or(|posted| posted.until.0.abs_diff(shut.until.0) >= 1_000);
        if is_news {
            state.posted = Some(shut.clone());
        }
        is_news.then_some(shut)
    };
    if let Some(shut) = shut {
        tell(context, &lane.id.to_string(), Some(shut)).await;
    }
}

/// Takes back what was said of a lane that lets something through again.
pub(super) async fn opened(context: &Context, route: &Route) {
    if route.lane.state().posted.take().is_some() {
        tell(context, &route.lane.id.to_string(), None).await;
    }
}

/// Says that a batch is held by its cap: what its open calls may still cost would bring it over.
pub(super) async fn at_cap(context: &Context, batch: &BatchName, until: Duration) {
    let name = name_of(batch);
    let now = context.now();
    let before = context.meter.gates().into_iter().find(|(said, _)| *said == name).map(|(_, gate)| gate);
    if before.as_ref().is_none_or(|gate| gate.until <= now) {
        let since = before.map_or(now, |gate| gate.since);
        tell(context, &name, Some(Gate { reason: AT_CAP.to_owned(), since, until: now.after(until) })).await;
    }
}

/// Takes that back: a call of the batch has begun.
pub(super) async fn below_cap(context: &Context, batch: &BatchName) {
    let name = name_of(batch);
    if context.meter.gates().iter().any(|(said, _)| *said == name) {
        tell(context, &name, None).await;
    }
}

const AT_CAP: &str = "the cost cap, until open calls have settled";

fn name_of(batch: &BatchName) -> String {
    format!("batch {batch}")
}

/// The gate of a lane or a batch, to whoever watches this process and to the others.
async fn tell(context: &Context, name: &str, gate: Option<Gate>) {
    context.meter.gate(name, gate.as_ref());
    if let Err(error) = context.ledger.post_gate(name, gate).await {
        context.meter.store_trouble(&error);
    }
}
