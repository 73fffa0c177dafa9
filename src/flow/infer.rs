//! What does the model say? One call, on record before it is made, and its reservation settled on every path.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::job::failure::{Class, Consequence};
use crate::job::outcome::{Tally, Usage};
use crate::job::spec::Request;
use crate::job::trail::{Call, CameTo, What};
use crate::job::units::{Timestamp, Tokens, Usd};
use crate::ports::{BeginReply, Billing, CallFailure, LaneId, ModelCall, StoreError};
use crate::rules::pace::{LONGEST_HINT, Quota};
use crate::rules::retry;
use crate::telemetry::Answered;

use super::context::Context;
use super::denial::Denial;
use super::gates;
use super::lanes::{Plan, Size};
use super::patience::insist;
use super::placement::{Held, Placement, now};
use super::proof::{Claim, Delivery, Exit, Verdict};
use super::sizing;
use super::stop::Reason;

/// What a call came to.
#[derive(Debug)]
pub enum Inferred {
    /// The job is over.
    Over(Verdict),
    /// It goes on: route it again.
    Again,
}

/// How long a job waits for open calls to settle when their price is what stands between it and the cap.
const CAP_RECHECK: Duration = Duration::from_millis(200);
/// After that long it makes room in its slot for so long: the call it waits for can be one that nobody sees the end of
/// before its job is delivered again, and that needs a slot.
const CAP_PATIENCE: Duration = Duration::from_secs(10);
/// A call that the ledger did not take on record is tried again after this.
const LEDGER_RECHECK: Duration = Duration::from_secs(1);

/// Calls once.
///
/// # Errors
/// [`Exit`]: the job is somebody else's, the worker stops, the cap is reached, or the ledger is in trouble.
pub async fn infer(
    context: &Context,
    delivery: &Delivery,
    claim: &mut Claim,
    placement: Placement,
) -> Result<Inferred, Exit> {
    let Placement { plan, mut held, body, size, price, timeout } = placement;
    let lane = held.lane().id.clone();
    match begin(context, claim, price).await {
        Ok(true) => {}
        Ok(false) => {
            held.unused();
            return Ok(Inferred::Again);
        }
        Err(Exit::Store(error)) if context.settings.patience.outlasts(error.kind) => {
            // Quota is not kept for a call that may not begin for hours: it is routed again.
            held.unused();
            return sit_out(context, delivery, &error).await;
        }
        Err(exit) => {
            held.unused();
            return Err(exit);
        }
    }
    claim.journey.sizing.sent(&plan, &claim.job.key.batch, &size);
    if !context.settings.multi_region {
        claim.journey.bound_to.get_or_insert_with(|| Arc::clone(&lane.region));
    }
    held.send(&*context.allowance, &context.meter).await;
    let (started, at) = (Instant::now(), context.now());
    let called = |came_to: CameTo| {
        let (region, model) = (lane.region.to_string(), lane.model_id.to_string());
        What::Called(Call { region, model, took: started.elapsed(), came_to })
    };
    let span = delivery.span.calls(&lane, &body, size.cap);
    let call = ModelCall { lane: lane.clone(), body, timeout };
    let reply = tokio::select! {
        // An answer that is there is never thrown away.
        biased;
        reply = context.model.call(call) => reply,
        () = context.stop.aborted() => {
            span.cut_off(Class::Shutdown);
            claim.tally.unknown += price;
            claim.trail.add(at, called(CameTo::Failed(Class::Shutdown)));
            return Err(Exit::HandBack { after: Duration::ZERO });
        }
        () = delivery.lease.lost() => {
            span.cut_off(Class::LostLease);
            return Err(Exit::Lost);
        }
        never = held.watch() => match never {},
    };
    match &reply {
        Ok(answer) => span.answered(answer),
        Err(failed) => span.failed(&failed.failure),
    }
    let took = started.elapsed();
    claim.journey.in_calls += took;
    if let Some(usage) = sizing::cut(&size, &reply) {
        claim.trail.add(at, called(CameTo::Cut));
        let cost = accept(context, claim, &plan, held, &size, (&usage, took));
        claim.tally.savings.cut(cost);
        claim.journey.sizing.cut(&size);
        context.meter.answer_cut(&lane, size.cap, size.full_cap, cost);
        settle(context, claim).await?;
        return Ok(Inferred::Again);
    }
    match reply {
        Ok(answer) => {
            claim.trail.add(at, called(CameTo::Answered));
            accept(context, claim, &plan, held, &size, (&answer.usage, took));
            plan.estimates().learn_output(&claim.job.key.batch, Tokens(answer.usage.output_tokens));
            claim.journey.sizing.answered(&mut claim.tally, &size, &answer.usage, took);
            context.meter.right_sized(size.cap, size.full_cap);
            let degraded = claim.journey.fallen > 0;
            Ok(Inferred::Over(Verdict::Answered { answer, lane, degraded }))
        }
        Err(failure) => {
            claim.trail.add(at, called(CameTo::Failed(failure.failure.class)));
            let billed = match failure.billing {
                Billing::Nothing => Usd::ZERO,
                Billing::Billed(usage) => plan.price.map_or(Usd::ZERO, |price| price.of(&usage)),
                Billing::Unknown => {
                    claim.tally.unknown += price;
                    Usd::ZERO
                }
            };
            claim.tally.spent += billed;
            context.meter.call_failed(&lane, &failure.failure, billed);
            claim.journey.sizing.failed(failure.failure.class);
            let (probe, sent, failed) = (held.probe, held.sent(), held.lane().now());
            let counts_tokens = !matches!(claim.job.request, Request::Agent(_));
            let asked = Arc::clone(held.lane());
            tell_lane(context, held, &failure, (plan.burndown, counts_tokens));
            if failure.failure.class.consequence() == Consequence::LaneOut {
                gates::denied(context, &asked).await;
            }
            let inferred = consequence(context, claim, &lane, failure, probe, (sent, failed));
            if matches!(inferred, Inferred::Again) {
                settle(context, claim).await?;
            }
            Ok(inferred)
        }
    }
}

/// Waits a moment for a ledger in trouble, then lets the job be routed again.
async fn sit_out(context: &Context, delivery: &Delivery, error: &StoreError) -> Result<Inferred, Exit> {
    context.meter.store_trouble(error);
    tokio::select! {
        () = context.stop.drained() => Err(Exit::HandBack { after: Duration::ZERO }),
        () = delivery.lease.lost() => Err(Exit::Lost),
        () = tokio::time::sleep(LEDGER_RECHECK) => Ok(Inferred::Again),
    }
}

/// Puts on record what a call came to that did not end its job.
async fn settle(context: &Context, claim: &Claim) -> Result<(), Exit> {
    let settled = insist(context, || context.ledger.settle(&claim.fence, claim.tally, claim.trail.clone())).await?;
    settled.map_err(|_| Exit::Lost)
}

/// The service answered, after so long, whatever the answer is worth: it is paid for, and its tokens are known. What it cost.
fn accept(
    context: &Context,
    claim: &mut Claim,
    plan: &Plan,
    held: Held,
    size: &Size,
    (usage, took): (&Usage, Duration),
) -> Usd {
    let cost = plan.price.map_or(Usd::ZERO, |price| price.of(usage));
    claim.tally.spent += cost;
    let used = usage.quota_tokens(plan.burndown);
    plan.estimates().learn_input(size.text, usage);
    context.credentials.accepted();
    let answered = Answered { usage: *usage, reserved: held.reserved(), used, cost, took };
    context.meter.answered(&held.lane().id, &answered);
    held.answered(used);
    cost
}

/// Puts the call on record; `false` means: route again, there may be room under the cap later.
async fn begin(context: &Context, claim: &mut Claim, price: Usd) -> Result<bool, Exit> {
    let counted = Tally { model_calls: claim.tally.model_calls + 1, ..claim.tally };
    match context.ledger.begin(&claim.fence, counted, price, context.settings.cost_cap).await? {
        BeginReply::Begun => {
            claim.tally = counted;
            claim.journey.at_cap_since = None;
            if context.settings.cost_cap.is_some() {
                gates::below_cap(context, &claim.job.key.batch).await;
            }
            Ok(true)
        }
        BeginReply::Lost => Err(Exit::Lost),
        BeginReply::OverCap { open, .. } if open > Usd::ZERO => {
            gates::at_cap(context, &claim.job.key.batch, CAP_PATIENCE).await;
            let since = *claim.journey.at_cap_since.get_or_insert_with(now);
            if now().duration_since(since) >= CAP_PATIENCE {
                return Err(Exit::HandBack { after: CAP_PATIENCE });
            }
            claim.journey.rest("the cost cap", now() + CAP_RECHECK);
            Ok(false)
        }
        BeginReply::OverCap { committed, .. } => {
            context.meter.cap_reached(&claim.job.key.batch, committed);
            context.stop.drain(Reason::CapReached { committed });
            Err(Exit::HandBack { after: Duration::ZERO })
        }
    }
}

/// Settles the reservation of a failed call, and lets the lane learn from it. Where no tokens are counted, as with an agent, it is
/// the requests that were too many.
fn tell_lane(context: &Context, held: Held, failed: &CallFailure, (burndown, counts_tokens): (u32, bool)) {
    let CallFailure { failure, billing, retry_after } = failed;
    match failure.class.consequence() {
        Consequence::Wait => {
            let quota = if counts_tokens { quota_of(&failure.message) } else { Quota::Requests };
            return held.throttled(failure.class, quota, *retry_after);
        }
        Consequence::LaneOut => {
            context.meter.lane_out(&held.lane().id, failure);
            let (lane, patience) = (held.lane(), context.settings.patience);
            let (now, mut state) = (lane.now(), lane.state());
            state.out = Some(Denial::new(failure.clone(), state.out.as_ref(), now, patience));
        }
        Consequence::Pause => context.credentials.refused(&failure.message),
        Consequence::Again | Consequence::Fail | Consequence::Reject | Consequence::Expire | Consequence::HandBack => {}
    }
    let charged = match billing {
        Billing::Nothing => Some(Tokens(0)),
        Billing::Billed(usage) => Some(usage.quota_tokens(burndown)),
        Billing::Unknown => None,
    };
    held.failed(failure.class, charged);
}

/// Which quota a refusal names: "Too many tokens" or "Too many requests". Source: observed in public issues.
fn quota_of(message: &str) -> Quota {
    if message.to_lowercase().contains("too many requests") { Quota::Requests } else { Quota::Tokens }
}

/// What a failed call means for the job; `sent` and `at` are when it was sent and when it failed.
fn consequence(
    context: &Context,
    claim: &mut Claim,
    lane: &LaneId,
    failed: CallFailure,
    probe: bool,
    (sent, at): (Timestamp, Timestamp),
) -> Inferred {
    let CallFailure { failure, retry_after, .. } = failed;
    match failure.class.consequence() {
        Consequence::Wait => Inferred::Again,
        Consequence::LaneOut | Consequence::Pause => {
            claim.journey.last_failure = Some(failure);
            Inferred::Again
        }
        Consequence::Again => {
            if !probe {
                claim.tally.attempts += 1;
            }
            claim.journey.failed_on(lane, failure.class, sent, at);
            if claim.tally.attempts >= context.settings.max_attempts {
                return Inferred::Over(Verdict::of_failure(failure));
            }
            context.meter.tried_again(lane);
            let back_off = retry::back_off(failure.class, claim.tally.attempts, rand::random());
            let hint = retry_after.unwrap_or_default().min(LONGEST_HINT);
            claim.journey.rest("a back-off after a failure", now() + back_off.max(hint));
            claim.journey.last_failure = Some(failure);
            Inferred::Again
        }
        Consequence::Fail | Consequence::Reject | Consequence::Expire | Consequence::HandBack => {
            Inferred::Over(Verdict::of_failure(failure))
        }
    }
}
