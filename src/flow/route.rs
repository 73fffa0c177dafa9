//! On which lane, and when? Jobs of one model stand in line; the first in line chooses, and waits where it must.
//!
//! Waiting is not failing: it costs no attempt and no money, and only the job's deadline, `give_up_after` or the worker's
//! own end cuts it short. Who waits for tokens keeps its place, so that smaller jobs behind it cannot starve it; who waits
//! for a cool-down or a back-off steps aside.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::select_all;
use tokio::time::Instant;

use crate::job::failure::{Class, Failure};
use crate::job::intake::{WireBody, wire_body};
use crate::job::trail::What;
use crate::job::units::{Timestamp, Usd};
use crate::ports::{CallBody, StoreError};
use crate::rules::budget::reservation_price;
use crate::rules::lane::Word;
use crate::rules::pace::{Binding, Refusal};
use crate::rules::route::{Candidate, Choice, RoutingRules, choose, has_left};

use super::context::Context;
use super::denial::AWAITED;
use super::fallback;
use super::gates::{self, ShutGate, Shutter};
use super::lane::Asked;
use super::lanes::{Plan, Route, Size};
use super::placement::{Got, Held, Placement, now};
use super::proof::{Claim, Delivery, Exit, Verdict};

/// What routing came to.
#[derive(Debug)]
pub enum Routed {
    /// A lane and a reservation on it. Boxed: it is carried across the longest await there is.
    Placed(Box<Placement>),
    /// The job is over without a call.
    Over(Verdict),
}

/// Gates are looked at again at least this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A lane that has answered so lately is full when it says that it is overloaded, or not there.
const FULL_NOT_AWAY: Duration = Duration::from_secs(2);
/// Who waits for tokens looks this often whether another worker has given any back.
const ASK_OTHERS: Duration = Duration::from_secs(1);
/// A store in trouble is asked again after this.
const STORE_RECHECK: Duration = Duration::from_millis(500);
/// Who waits for less is as good as sent at once, and its trail says nothing of it.
const WORTH_SAYING: Duration = Duration::from_millis(20);
/// Who waits where nobody is sent keeps its place for less than that: whoever stands in line when the lane opens is sent.
const KEEPS_PLACE: Duration = Duration::from_secs(1);

/// Chooses a lane and reserves on it, however long that takes.
///
/// # Errors
/// [`Exit`]: the job is somebody else's, it gives way to other models' jobs, or the worker stops.
pub async fn route(context: &Context, delivery: &Delivery, claim: &mut Claim) -> Result<Routed, Exit> {
    let (started, at) = (now(), context.now());
    let routed = find_place(context, delivery, claim).await;
    delivery.place.leave();
    let waited = now().duration_since(started);
    claim.journey.paced += waited;
    let reason = claim.journey.waited_most(waited);
    if waited >= WORTH_SAYING {
        claim.trail.add(at, What::Waited { took: waited, reason: reason.to_owned() });
    }
    if let Ok(Routed::Placed(placement)) = &routed {
        context.meter.paced(&placement.held.lane().id, waited);
    }
    routed
}

async fn find_place(context: &Context, delivery: &Delivery, claim: &mut Claim) -> Result<Routed, Exit> {
    loop {
        fallback::fall_back(context, claim);
        let Some(plan) = fallback::model_in_turn(context, claim) else {
            let message = format!("no model is called `{}`", claim.job.model);
            return Ok(over(Class::BadInput, message));
        };
        delivery.place.line_up(&plan);
        let size = plan.size_of(&claim.job);
        if let Some(failure) = plan.no_residence(&claim.job).or_else(|| plan.too_large(&size)) {
            return Ok(Routed::Over(Verdict::of_failure(failure)));
        }
        if let Some(rest) =
            claim.journey.not_before.and_then(|at| at.checked_duration_since(now())).filter(|r| !r.is_zero())
        {
            let reason = claim.journey.rests_for;
            if let Some(verdict) = wait(context, delivery, claim, (rest, reason), For::Service).await? {
                return Ok(Routed::Over(verdict));
            }
            continue;
        }
        if !context.credentials.is_open() {
            let since = now();
            let ended = tokio::select! {
                () = context.credentials.opened() => None,
                ended = cut_short(context, delivery, claim) => Some(ended),
            };
            claim.journey.waited("credentials that the service accepts", now().duration_since(since));
            if let Some(ended) = ended {
                return ended.map(Routed::Over);
            }
        }
        match take_turn(context, delivery, claim, &plan, &size).await? {
            Turn::Placed(held, size) => return Ok(Routed::Placed(Box::new(placement(claim, plan, size, held)))),
            Turn::Over(verdict) => return Ok(Routed::Over(verdict)),
            // While it stood in line, others may have found out that only another model helps.
            Turn::StepAside { .. } if fallback::fall_back(context, claim) => {}
            Turn::StepAside { rest, reason, what } => {
                if let Some(verdict) = wait(context, delivery, claim, (rest, reason), what).await? {
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
        WireBody::Agent(call) => CallBody::Agent(call),
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
        rest: Duration,
        reason: &'static str,
        what: For<'static>,
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
    let place = plan.line.enter(plan.resized(claim, size, now()).reserve_under(plan.largest));
    let lined_up = now();
    let turn = tokio::select! {
        turn = plan.turn.lock() => Ok(turn),
        ended = cut_short(context, delivery, claim) => Err(ended),
    };
    // Those before it wait for quota, which is no absence of the service.
    claim.journey.away_since = claim.journey.away_since.map(|since| since + now().duration_since(lined_up));
    let _turn = match turn {
        Ok(turn) => turn,
        Err(ended) => return ended.map(Turn::Over),
    };
    loop {
        if !context.credentials.is_open() {
            return Ok(Turn::Again);
        }
        // Whatever ended the wait, nothing is begun that should not be any more.
        if let Some(ended) = cut_short(context, delivery, claim).now_or_never() {
            return ended.map(Turn::Over);
        }
        if let Err(error) = look_around(context, plan).await {
            match sit_out(context, delivery, claim, error).await? {
                Some(verdict) => return Ok(Turn::Over(verdict)),
                None => continue,
            }
        }
        let size = plan.resized(claim, size, now());
        let standing = standing(claim, plan, &size);
        let rules = RoutingRules {
            multi_region: context.settings.multi_region,
            spread_primaries: context.settings.spread_primaries,
            attempts_per_endpoint: context.settings.attempts_per_endpoint,
        };
        let time = context.catalogue.clock().now();
        if has_left(&rules, &standing.candidates) {
            leave_last_lane(context, claim, plan);
        }
        let choice = choose(time, &rules, &standing.candidates, &mut plan.spread());
        if !matches!(choice, Choice::WaitUntil(_)) {
            plan.line.waits_until(None);
        }
        let until = match choice {
            Choice::Lane(index) => {
                let Some(route) = plan.routes.get(index) else { continue };
                let asked =
                    Asked { tokens: size.reserve_under(route.lane.quota()), behind: place.behind(plan.routes.len()) };
                match Held::take(&*context.allowance, route, &asked).await {
                    Ok(Got::Place(held)) => {
                        if claim.journey.last_lane.as_ref().is_some_and(|last| *last != route.lane.id) {
                            leave_last_lane(context, claim, plan);
                            claim.journey.last_lane = None;
                        }
                        gates::opened(context, route).await;
                        return Ok(Turn::Placed(held, size));
                    }
                    // Somebody of another model or worker that shares the lane was faster: look again.
                    Ok(Got::Shut) => continue,
                    Ok(Got::NotBefore(draw)) => {
                        let rest = (draw.saturating_duration_since(Instant::now()), "the next draw on the quota");
                        match wait(context, delivery, claim, rest, For::Quota(&plan.routes)).await? {
                            Some(verdict) => return Ok(Turn::Over(verdict)),
                            None => continue,
                        }
                    }
                    Err(error) => match sit_out(context, delivery, claim, error).await? {
                        Some(verdict) => return Ok(Turn::Over(verdict)),
                        None => continue,
                    },
                }
            }
            Choice::WaitUntil(until) => until,
            Choice::RestUntil(until) => {
                gates::shut(context, plan, &standing.gates).await;
                let (rest, reason) = (until.since(time), standing.reason());
                return Ok(Turn::StepAside { rest, reason, what: For::Service });
            }
            Choice::NoneLeft => {
                let Some(rest) = hope(claim, plan) else { return Ok(Turn::Over(none_left(claim, plan))) };
                for route in &plan.routes {
                    gates::denied(context, &route.lane).await;
                }
                return Ok(Turn::StepAside { rest, reason: AWAITED, what: For::Service });
            }
        };
        gates::shut(context, plan, &standing.gates).await;
        // What keeps this one from some of the lanes need not keep others.
        let is_anyones = plan.routes.iter().all(|route| claim.may_use(&route.lane.id));
        plan.line.waits_until(is_anyones.then(|| now() + until.since(time)));
        let rest = until.since(time);
        if !is_anyones && rest > KEEPS_PLACE && gates::are_shut_to_all(&standing.gates) {
            return Ok(Turn::StepAside { rest: rest - KEEPS_PLACE, reason: standing.reason(), what: For::Pause });
        }
        let rest = (until_asked(context, plan, rest), standing.reason());
        if let Some(verdict) = wait(context, delivery, claim, rest, For::Quota(&plan.routes)).await? {
            return Ok(Turn::Over(verdict));
        }
        for route in plan.routes.iter().filter(|route| route.lane.state().book.ledger.has_limits()) {
            match route.lane.refresh(&*context.allowance).await {
                Ok(()) => {}
                // The next thing is to look around, which then waits.
                Err(error) if context.settings.patience.outlasts(error.kind) => context.meter.store_trouble(&error),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// How long to wait before the lanes are looked at again. Where each look costs something, that is done half as often; and those
/// who wait for the same moment do not all come at once, since only one of them can be first.
fn until_asked(context: &Context, plan: &Plan, rest: Duration) -> Duration {
    let pace = context.allowance.pace();
    let rest = rest.min(ASK_OTHERS.max(2 * pace));
    let is_crowded = !pace.is_zero() && plan.routes.iter().any(|route| route.lane.is_shared());
    if is_crowded { rest + pace.mul_f64(rand::random::<f64>() / 4.0) } else { rest }
}

/// Sees what other workers have written of the lanes.
async fn look_around(context: &Context, plan: &Plan) -> Result<(), StoreError> {
    for route in &plan.routes {
        route.lane.look(&*context.allowance).await?;
    }
    Ok(())
}

/// Waits a moment for a store in trouble, first in line all the while: nothing is reserved on a guess. `Some` if the job ran
/// out of time instead.
async fn sit_out(
    context: &Context,
    delivery: &Delivery,
    claim: &mut Claim,
    error: StoreError,
) -> Result<Option<Verdict>, Exit> {
    if !context.settings.patience.outlasts(error.kind) {
        return Err(error.into());
    }
    context.meter.store_trouble(&error);
    wait(context, delivery, claim, (STORE_RECHECK, "a store that is away"), For::Store).await
}

/// How the lanes of a plan stand for one job.
struct Standings {
    candidates: Vec<Candidate>,
    /// What holds each of them, if anything does.
    gates: Vec<Option<ShutGate>>,
}

impl Standings {
    /// What it waits for: the gate that opens first.
    fn reason(&self) -> &'static str {
        let first = self.gates.iter().flatten().min_by_key(|gate| gate.opens_in);
        first.map_or("a lane that it may use", ShutGate::reason)
    }
}

fn standing(claim: &Claim, plan: &Plan, size: &Size) -> Standings {
    let several = plan.routes.len() > 1;
    let (candidates, gates) = plan.routes.iter().map(|route| lane_for(claim, plan, route, size, several)).unzip();
    Standings { candidates, gates }
}

fn lane_for(claim: &Claim, plan: &Plan, route: &Route, size: &Size, several: bool) -> (Candidate, Option<ShutGate>) {
    let lane = &route.lane;
    let now = lane.now();
    let reserve = size.reserve_under(lane.quota());
    let (account, beyond_account) = match &route.account {
        Some(account) => when(account.state().ask(now, reserve)),
        None => (None, false),
    };
    let account = account.map(|(at, _)| (at, Shutter::AccountsDay));
    let mut state = lane.state();
    let state = &mut *state;
    let (quota, never) = when(state.ask(now, reserve));
    let is_short = match quota {
        Some((_, Binding::Tokens | Binding::Throttled)) => true,
        // Near the end of a quota calls go by and by: less reserved is farther from it.
        Some((_, Binding::Trial)) => state.book.ledger.is_near_its_limit(now),
        Some((_, Binding::Requests | Binding::Day)) | None => false,
    };
    if is_short {
        plan.estimates().short_of_tokens(super::placement::now());
    }
    let quota = quota.map(|(at, binding)| (at, Shutter::Quota(binding)));
    // Whoever ends a call says so: this is only how long to wait at most.
    let is_full = state.open >= state.concurrency.limit();
    let full = is_full.then(|| (now + ASK_OTHERS, Shutter::Full));
    let admits = quota.into_iter().chain(full).chain(account).max_by_key(|(at, _)| *at);
    let cooled = several.then(|| state.book.cool_down.available_at(now)).filter(|at| *at > now);
    let outside = lane.not_before.filter(|at| *at > now);
    let rests = cooled.into_iter().chain(outside).max();
    let shut = state.book.breaker.shut_until(now);
    let out = never || beyond_account || state.is_out(now) || !claim.may_use(&lane.id);
    let failures = claim.journey.failures(&lane.id);
    let candidate = Candidate {
        primary: route.primary,
        out,
        available_at: rests.unwrap_or(now),
        shut_until: shut.unwrap_or(now),
        admits_at: admits.map_or(now, |(at, _)| at),
        sent: failures > 0 || (claim.journey.bound_to.is_some() && claim.may_use(&lane.id)),
        failures,
        last: claim.journey.last_lane.as_ref() == Some(&lane.id),
    };
    let gates = [rests.map(|at| (at, Shutter::CoolDown)), shut.map(|at| (at, Shutter::Breaker)), admits];
    let last = gates.into_iter().flatten().max_by_key(|(at, _): &(Timestamp, _)| *at).filter(|_| !out);
    (candidate, last.map(|(at, by)| ShutGate { by, opens_in: at.since(now) }))
}

/// A lane that failed a job rests once the job has gone elsewhere; where there is no elsewhere, nobody would be helped.
fn leave_last_lane(context: &Context, claim: &mut Claim, plan: &Plan) {
    let Some(last) = claim.journey.last_lane.clone().filter(|_| !claim.journey.has_left) else { return };
    claim.journey.has_left = true;
    let failed = claim.journey.failed.iter().find(|failed| failed.lane == last);
    let route = plan.routes.iter().find(|route| route.lane.id == last);
    if let (Some(failed), Some(route)) = (failed, route) {
        // A service that answers others meanwhile is not away: it is full, and fewer calls are open there already.
        let answered = route.lane.state().answered;
        let may_be_full = matches!(failed.class, Class::Overloaded | Class::Unavailable);
        if may_be_full && answered.is_some_and(|at| at.after(FULL_NOT_AWAY) >= failed.at) {
            return;
        }
        let window = context.settings.cool_down;
        route.lane.say([Word::Left { sent: failed.sent, failed: failed.at, class: failed.class, window }]);
    }
}

/// How long until a lane that is out is asked again whether it permits calls now, if that is worth waiting for.
fn hope(claim: &Claim, plan: &Plan) -> Option<Duration> {
    let resident = plan.routes.iter().filter(|route| claim.may_use(&route.lane.id));
    resident.filter_map(|route| route.lane.state().out.as_ref()?.hope(route.lane.now())).min()
}

/// Every lane is out for this job: access was denied there, or its quota is too small.
fn none_left(claim: &Claim, plan: &Plan) -> Verdict {
    let mut resident = plan.routes.iter().filter(|route| claim.may_use(&route.lane.id));
    let denied = resident.find_map(|route| Some(route.lane.state().out.as_ref()?.failure.clone()));
    let failure = claim.journey.last_failure.clone().filter(|failure| failure.class == Class::Denied);
    Verdict::of_failure(
        failure.or(denied).unwrap_or_else(|| {
            Failure::new(Class::TooLarge, "it needs more tokens than the quota of any lane it may use")
        }),
    )
}

/// What a job waits for.
#[derive(Clone, Copy)]
enum For<'a> {
    /// A service that is not well, which may stay so: `give_up_after` bounds it.
    Service,
    /// Quota on one of these lanes, which will come: only the deadline bounds it.
    Quota(&'a [Route]),
    /// The end of a pause after a throttle, out of line: likewise.
    Pause,
    /// A store that is in trouble: likewise.
    Store,
}

/// Waits so long, for that reason, or until a lane has changed. `Some` if the job ran out of time instead.
async fn wait(
    context: &Context,
    delivery: &Delivery,
    claim: &mut Claim,
    (rest, reason): (Duration, &'static str),
    what: For<'_>,
) -> Result<Option<Verdict>, Exit> {
    let start = now();
    let end = match (claim.job.deadline, what) {
        (Some(_), _) => None,
        (None, For::Service) => Some(*claim.journey.away_since.get_or_insert(start) + context.settings.give_up_after),
        (None, For::Quota(_) | For::Pause) => {
            claim.journey.away_since = None;
            None
        }
        (None, For::Store) => None,
    };
    let until = start + rest.min(LOOK_AGAIN);
    let until = end.map_or(until, |end| end.min(until));
    let changed = async {
        match what {
            For::Service | For::Pause | For::Store => std::future::pending().await,
            For::Quota(routes) => {
                select_all(routes.iter().map(|route| Box::pin(route.lane.changed.notified()))).await;
            }
        }
    };
    let ended = tokio::select! {
        () = tokio::time::sleep_until(until.into()) => None,
        () = changed => None,
        ended = cut_short(context, delivery, claim) => Some(ended),
    };
    claim.journey.waited(reason, now().duration_since(start));
    if let Some(ended) = ended {
        return ended.map(Some);
    }
    if end.is_none_or(|end| now() < end) {
        return Ok(None);
    }
    let gave_up = || Failure::new(Class::Unavailable, "the service stayed away past `give_up_after`");
    Ok(Some(Verdict::of_failure(claim.journey.last_failure.clone().unwrap_or_else(gave_up))))
}

/// Ends when a job may not be waited with any longer, whatever it waits for: the worker stops, the job is somebody
/// else's, its message was held for as long as one may be, its deadline passes, or so many of its model wait that it would keep others from their slots.
async fn cut_short(context: &Context, delivery: &Delivery, claim: &Claim) -> Result<Verdict, Exit> {
    let late = async {
        match claim.job.deadline {
            Some(deadline) if deadline <= context.now() => {}
            Some(deadline) => tokio::time::sleep(deadline.since(context.now())).await,
            None => std::future::pending().await,
        }
    };
    let crowded = async {
        let may_stay = delivery.place.waits().await;
        if may_stay || fallback::is_under_way(context, claim) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = context.stop.drained() => Err(Exit::HandBack { after: Duration::ZERO }),
        () = delivery.lease.lost() => Err(Exit::Lost),
        () = delivery.lease.worn_out() => Err(Exit::HandBack { after: Duration::ZERO }),
        () = late => {
            let message = "its deadline passed while it waited to be sent";
            Ok(Verdict::of_failure(Failure::new(Class::Expired, message)))
        }
        () = crowded => {
            let back_off = claim.journey.not_before.map(|at| at.saturating_duration_since(now()));
            Err(Exit::HandBack { after: back_off.unwrap_or_default() })
        }
    }
}

/// When a ledger admits a call, if not now; and whether it never does.
fn when(asked: Result<(), Refusal>) -> (Option<(Timestamp, Binding)>, bool) {
    match asked {
        Ok(()) => (None, false),
        Err(Refusal::NotUntil { at, binding }) => (Some((at, binding)), false),
        Err(Refusal::Never { .. }) => (None, true),
    }
}

fn over(class: Class, message: String) -> Routed {
    Routed::Over(Verdict::of_failure(Failure::new(class, message)))
}
