//! What is said of a lane that lets nothing through? Which gate holds it, since when and until when, for the progress line,
//! `status` and `explain`.

use std::time::Duration;

use crate::job::ident::BatchName;
use crate::ports::Gate;
use crate::rules::pace::Binding;

use super::context::Context;
use super::denial::AWAITED;
use super::lane::Lane;
use super::lanes::{Plan, Route};

/// A gate that holds for less than this is not worth a word.
const WORTH_SAYING: Duration = Duration::from_secs(1);

/// What shuts a lane for a job.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shutter {
    /// The lane's own quota, or what was learned of it.
    Quota(Binding),
    /// The tokens a day that the account's models share in a region.
    AccountsDay,
    /// As many calls are open as the service can do at once.
    Full,
    /// The rest after a job left it for its failures.
    CoolDown,
    Breaker,
    /// Its calls are not permitted.
    Denied,
}

impl Shutter {
    const fn words(self) -> &'static str {
        match self {
            Self::Quota(binding) => binding.words(),
            Self::AccountsDay => "tokens a day of the account",
            Self::Full => "as many calls are open as the service can do at once",
            Self::CoolDown => "cool-down after failures",
            Self::Breaker => "open breaker",
            Self::Denied => AWAITED,
        }
    }

    /// Whether a place in line is worth nothing while one waits for it: it keeps out whoever else is first as well, but for a
    /// few so small that they fit into what is left of a day.
    const fn is_for_all(self) -> bool {
        match self {
            Self::Quota(Binding::Throttled | Binding::Day) | Self::AccountsDay | Self::Denied => true,
            Self::Quota(Binding::Tokens | Binding::Requests | Binding::Trial) => false,
            // Opens any moment; and who rests for the others is out of line already.
            Self::Full | Self::CoolDown | Self::Breaker => false,
        }
    }
}

/// One gate of a lane that is shut for a job.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShutGate {
    pub by: Shutter,
    /// How long it stays shut, as things stand.
    pub opens_in: Duration,
}

impl ShutGate {
    /// What the lane waits for, in words, without the lane.
    pub(super) const fn reason(&self) -> &'static str {
        self.by.words()
    }
}

/// Whether nobody at all is sent to any lane that a job could use: a place in line is worth nothing to it then.
pub(super) fn are_shut_to_all(gates: &[Option<ShutGate>]) -> bool {
    let mut gates = gates.iter().flatten().peekable();
    gates.peek().is_some() && gates.all(|gate| gate.by.is_for_all())
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
        let before = state.posted.as_ref().filter(|posted| posted.reason == gate.reason());
        let since = before.map_or(now, |posted| posted.since);
        let shut = Gate { reason: gate.reason().to_owned(), since, until: now.after(gate.opens_in) };
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

/// Says of a lane that its calls are not permitted, and until when nobody asks again. Of one that is never asked again nothing
/// is said here: whoever would read it reads of the failed jobs.
pub(super) async fn denied(context: &Context, lane: &Lane) {
    let now = lane.now();
    let asks_in = lane.state().out.as_ref().and_then(|denial| denial.asks_in(now));
    if let Some(opens_in) = asks_in {
        shut_one(context, lane, ShutGate { by: Shutter::Denied, opens_in }).await;
    }
}

/// Takes back what was said of a lane that lets something through again. A call that only asks whether it is permitted proves
/// nothing yet.
pub(super) async fn opened(context: &Context, route: &Route) {
    if route.lane.state().out.is_some() {
        return denied(context, &route.lane).await;
    }
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
