//! On which lane, and when? Jobs of one model stand in line; the first in line chooses, and waits where it must.
//!
//! Waiting is not failing: it costs no attempt and no money, and only the job's deadline, `give_up_after` or the worker's
//! own end cuts it short. Who waits for tokens keeps its place, so that smaller jobs behind it cannot starve it; who waits
//! for a cool-down or a back-off steps aside.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::select_all;

use crate::job::failure::{Class, Failure};
use crate::job::intake::{WireBody, wire_body};
use crate::job::spec::Job;
use crate::job::units::{Tokens, Usd};
use crate::ports::{CallBody, Gate as Shut, LaneId};
use crate::rules::breaker::Gate;
use crate::rules::budget::reservation_price;
use crate::rules::pace::{Binding, Refusal};
use crate::rules::route::{Candidate, Choice, RoutingRules, choose};

use super::context::Context;
use super::lanes::{Plan, Route, Size};
use super::placement::{Held, Placement, now};
use super::proof::{Claim, Delivery, Exit, Verdict};

/// What routing came to.
#[derive(Debug)]
pub enum Routed {
    /// A lane and a reservation on it. Boxed: it is carried across the longest await there is.
    Placed(Box<Placement>),
    /// The job is over without a call.
    Over(Verdict),
}

/// A gate that holds for less than this is not worth a word.
const WORTH_SAYING: Duration = Duration::from_secs(1);
/// Gates are looked at again at least this often: another process may have changed what is known.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Chooses a lane and reserves on it, however long that takes.
///
/// # Errors
/// [`Exit`]: the job is somebody else's, or the worker stops.
pub async fn route(context: &Context, delivery: &Delivery, claim: &mut Claim) -> Result<Routed, Exit> {
    let started = now();
    let routed = find_place(context, delivery, claim).await;
    claim.journey.paced += now().duration_since(started);
    routed
}

async fn find_place(context: &Context, delivery: &Delivery, claim: &mut Claim) -> Result<Routed, Exit> {
    let Some(plan) = context.catalogue.find(&claim.job.model) else {
        let message = format!("no model is called `{}`", claim.job.model);
        return Ok(over(Class::BadInput, message));
    };
    let size = plan.size_of(&claim.job);
    if let Some(failure) = plan.no_residence(&claim.job).or_else(|| plan.too_large(&size)) {
        return Ok(Routed::Over(Verdict::of_failure(failure)));
    }
    loop {
        if let Some(not_before) = claim.journey.not_before.filter(|not_before| now() < *not_before) {
            if let Some(verdict) = wait(context, delivery, claim, not_before, For::Service).await? {
                return Ok(Routed::Over(verdict));
            }
            continue;
        }
        if !context.credentials.is_open() {
            tokio::select! {
                () = context.credentials.opened() => {}
                ended = cut_short(context, delivery, &claim.job) => return ended.map(Routed::Over),
            }
        }
        match take_turn(context, delivery, claim, &plan, &size).await? {
            Turn::Placed(held, size) => return Ok(Routed::Placed(Box::new(placement(claim, plan, size, held)))),
            Turn::Over(verdict) => return Ok(Routed::Over(verdict)),
            Turn::StepAside { until } => {
                if let Some(verdict) = wait(context, delivery, claim, until, For::Service).await? {
                    return Ok(Routed::Over(verdict));
                }
            }
            Turn::Again => {}
        }
    }
}

fn placement(claim: &Claim, plan: Arc<Plan>, size: Size, held: Held) -> Placement {
    let body = match wire_body(&claim.job, size.cap) {
        WireBody::Converse(body) => CallBody::Converse(body.into()),
        WireBody::Invoke(body) => CallBody::Invoke(body.into()),
    };
    let price = plan.price.map_or(Usd::ZERO, |price| reservation_price(&price, size.input, size.output()));
    let timeout = plan.call_timeout.of(size.cap);
    Placement { plan, held, body, size, price, timeout }
}

enum Turn {
    /// And under which size: the one it came with may have been right-sized since.
    Placed(Held, Size),
    Over(Verdict),
    StepAside {
        until: Instant,
    },
    /// Credentials were refused while it stood in line.
    Again,
}

/// Stands in line, then chooses; waits for tokens without giving up its place.
async fn take_turn(
    context: &Context,
    delivery: &Delivery,
    claim: &mut Claim,
    plan: &Arc<Plan>,
    size: &Size,
) -> Result<Turn, Exit> {
    let _turn = tokio::select! {
        turn = plan.turn.lock() => turn,
        ended = cut_short(context, delivery, &claim.job) => return ended.map(Turn::Over),
    };
    loop {
        if !context.credentials.is_open() {
            return Ok(Turn::Again);
        }
        // Whatever ended the wait, nothing is begun that should not be any more.
        if let Some(ended) = cut_short(context, delivery, &claim.job).now_or_never() {
            return ended.map(Turn::Over);
        }
        let size = plan.resized(claim, size, now());
        let candidates = candidates(claim, plan, &size);
        let rules = RoutingRules {
            multi_region: context.settings.multi_region,
            spread_primaries: context.settings.spread_primaries,
            attempts_per_endpoint: context.settings.attempts_per_endpoint,
        };
        let choice = choose(now(), &rules, &candidates, &mut plan.spread());
        let until = match choice {
            Choice::Lane(index) => {
                let Some(route) = plan.routes.get(index) else { continue };
                match take(route, size.reserve()) {
                    Some(held) => {
                        leave_last_lane(context, claim, plan, &route.lane.id);
                        open_gate(context, route).await;
                        return Ok(Turn::Placed(held, size));
                    }
                    // Somebody of another model that shares the lane was faster: look again.
                    None => continue,
                }
            }
            Choice::WaitUntil(until) => until,
            Choice::RestUntil(until) => {
                shut_gates(context, plan, &candidates, until).await;
                return Ok(Turn::StepAside { until });
            }
            Choice::NoneLeft => return Ok(Turn::Over(none_left(claim, plan))),
        };
        shut_gates(context, plan, &candidates, until).await;
        if let Some(verdict) = wait(context, delivery, claim, until, For::Quota(&plan.routes)).await? {
            return Ok(Turn::Over(verdict));
        }
    }
}

fn candidates(claim: &Claim, plan: &Plan, size: &Size) -> Vec<Candidate> {
    let now = now();
    let several = plan.routes.len() > 1;
    let candidate = |route: &Route| {
        let mut state = route.lane.state();
        let (admits_at, never) = match state.ledger.ask(now, size.reserve()) {
            Ok(()) => (now, false),
            Err(Refusal::NotUntil { at, binding }) => {
                if matches!(binding, Binding::Tokens | Binding::Throttled) {
                    plan.estimates().short_of_tokens(now);
                }
                (at, false)
            }
            Err(Refusal::Never { .. }) => (now, true),
        };
        let rest = if several { state.cool_down.available_at(now) } else { now };
        Candidate {
            primary: route.primary,
            out: never || state.out.is_some() || !is_resident(claim, &route.lane.id),
            available_at: rest,
            shut_until: state.breaker.shut_until(now).unwrap_or(now),
            admits_at,
            sent: claim.journey.failures(&route.lane.id) > 0,
            failures: claim.journey.failures(&route.lane.id),
        }
    };
    plan.routes.iter().map(candidate).collect()
}

fn is_resident(claim: &Claim, lane: &LaneId) -> bool {
    claim.job.residency.as_ref().is_none_or(|regions| regions.iter().any(|region| **region == *lane.region))
}

/// Takes tokens and the breaker's permit together, or nothing.
fn take(route: &Route, reserve: Tokens) -> Option<Held> {
    let mut state = route.lane.state();
    let reservation = state.ledger.reserve(now(), reserve).ok()?;
    let (permit, probe) = match state.breaker.may_call(now()) {
        Gate::Go(permit) => (permit, false),
        Gate::Probe(permit) => (permit, true),
        Gate::Open { .. } => {
            state.ledger.release(reservation);
            return None;
        }
    };
    drop(state);
    Some(Held::new(Arc::clone(&route.lane), reservation, permit, probe))
}

/// A lane that failed a job rests once the job has gone elsewhere; where there is no elsewhere, nobody would be helped.
fn leave_last_lane(context: &Context, claim: &mut Claim, plan: &Plan, next: &LaneId) {
    let Some(last) = claim.journey.last_lane.take_if(|last| last != next) else { return };
    let failed = claim.journey.failed.iter().find(|failed| failed.lane == last);
    let route = plan.routes.iter().find(|route| route.lane.id == last);
    if let (Some(failed), Some(route)) = (failed, route) {
        route.lane.state().cool_down.stamp(failed.sent, now(), failed.class, context.settings.cool_down);
    }
}

/// Every lane is out for this job: access was denied there, or its quota is too small.
fn none_left(claim: &Claim, plan: &Plan) -> Verdict {
    let mut resident = plan.routes.iter().filter(|route| is_resident(claim, &route.lane.id));
    let denied = resident.find_map(|route| route.lane.state().out.clone());
    let failure = claim.journey.last_failure.clone().filter(|failure| failure.class == Class::Denied);
    Verdict::of_failure(failure.or(denied).unwrap_or_else(|| {
        Failure::new(Class::TooLarge, "it needs more tokens than any lane it may use has in a minute")
    }))
}

/// What a job waits for.
#[derive(Clone, Copy)]
enum For<'a> {
    /// A service that is not well, which may stay so: `give_up_after` bounds it.
    Service,
    /// Quota on one of these lanes, which will come: only the deadline bounds it.
    Quota(&'a [Route]),
}

/// Waits until then, or until a lane has changed. `Some` if the job ran out of time instead.
async fn wait(
    context: &Context,
    delivery: &Delivery,
    claim: &mut Claim,
    until: Instant,
    what: For<'_>,
) -> Result<Option<Verdict>, Exit> {
    let start = now();
    let end = match (claim.job.deadline, what) {
        (Some(_), _) => None,
        (None, For::Service) => Some(*claim.journey.away_since.get_or_insert(start) + context.settings.give_up_after),
        (None, For::Quota(_)) => {
            claim.journey.away_since = None;
            None
        }
    };
    let until = until.min(start + LOOK_AGAIN).min(end.unwrap_or(until));
    let changed = async {
        match what {
            For::Service => std::future::pending().await,
            For::Quota(routes) => {
                select_all(routes.iter().map(|route| Box::pin(route.lane.changed.notified()))).await;
            }
        }
    };
    tokio::select! {
        () = tokio::time::sleep_until(until.into()) => {}
        () = changed => {}
        ended = cut_short(context, delivery, &claim.job) => return ended.map(Some),
    }
    if end.is_none_or(|end| now() < end) {
        return Ok(None);
    }
    let gave_up = || Failure::new(Class::Unavailable, "the service stayed away past `give_up_after`");
    Ok(Some(Verdict::of_failure(claim.journey.last_failure.clone().unwrap_or_else(gave_up))))
}

/// Ends when a job may not be waited with any longer, whatever it waits for: the worker stops, the job is somebody
/// else's, or its deadline passes.
async fn cut_short(context: &Context, delivery: &Delivery, job: &Job) -> Result<Verdict, Exit> {
    let late = async {
        match job.deadline {
            Some(deadline) if deadline <= context.now() => {}
            Some(deadline) => tokio::time::sleep(deadline.since(context.now())).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = context.stop.drained() => Err(Exit::HandBack { after: Duration::ZERO }),
        () = delivery.lease.lost() => Err(Exit::Lost),
        () = late => {
            let message = "its deadline passed while it waited to be sent";
            Ok(Verdict::of_failure(Failure::new(Class::Expired, message)))
        }
    }
}

fn over(class: Class, message: String) -> Routed {
    Routed::Over(Verdict::of_failure(Failure::new(class, message)))
}

/// Says which lanes hold the first in line, since when and until when.
async fn shut_gates(context: &Context, plan: &Plan, candidates: &[Candidate], until: Instant) {
    let (wall, now) = (context.now(), now());
    if until.saturating_duration_since(now) < WORTH_SAYING {
        return;
    }
    for (route, candidate) in plan.routes.iter().zip(candidates) {
        if candidate.out {
            continue;
        }
        let opens = candidate.available_at.max(candidate.shut_until).max(candidate.admits_at);
        let shut = {
            let mut state = route.lane.state();
            let binding = state.ledger.paused_until(now).map(|(_, binding)| binding);
            let reason = reason(candidate, binding, now);
            let since =
                state.posted.as_ref().filter(|posted| posted.reason == reason).map_or(wall, |posted| posted.since);
            let shut = Shut { reason, since, until: wall.after(opens.saturating_duration_since(now)) };
            let is_news = state
                .posted
                .as_ref()
                .is_none_or(|posted| posted.reason != shut.reason || posted.until.0.abs_diff(shut.until.0) >= 1_000);
            if is_news {
                state.posted = Some(shut.clone());
            }
            is_news.then_some(shut)
        };
        post(context, &route.lane.id, shut).await;
    }
}

fn reason(candidate: &Candidate, paused: Option<Binding>, now: Instant) -> String {
    if candidate.available_at.max(candidate.shut_until) > now {
        return "resting after failures (cool-down or open breaker)".to_owned();
    }
    paused.unwrap_or(Binding::Tokens).to_string()
}

async fn post(context: &Context, lane: &LaneId, shut: Option<Shut>) {
    if let Some(shut) = shut {
        context.meter.gate(lane, Some(&shut));
        if let Err(error) = context.ledger.post_gate(&lane.to_string(), Some(shut)).await {
            context.meter.store_trouble(&error);
        }
    }
}

/// Takes back what was said of a lane that lets something through again.
async fn open_gate(context: &Context, route: &Route) {
    if route.lane.state().posted.take().is_some() {
        context.meter.gate(&route.lane.id, None);
        if let Err(error) = context.ledger.post_gate(&route.lane.id.to_string(), None).await {
            context.meter.store_trouble(&error);
        }
    }
}
