//! Does another model answer instead? Only where the job allows it, and only because its own is overloaded on every lane the
//! job may use: a model that waits for its quota is waited for.

use std::sync::Arc;

use crate::job::failure::Class;
use crate::job::spec::{Job, Request};

use super::context::Context;
use super::lanes::Plan;
use super::proof::{Claim, Failed};

/// The model whose turn it is for this job: its own, or the one it has fallen back to.
pub(super) fn model_in_turn(context: &Context, claim: &Claim) -> Option<Arc<Plan>> {
    let own = context.catalogue.find(&claim.job.model)?;
    match claim.journey.fallen.checked_sub(1).and_then(|place| own.fallback.get(place)) {
        Some(name) => context.catalogue.find(name),
        None => Some(own),
    }
}

/// Goes on to the next model that could do it, if this one is overloaded wherever the job may go. After the last it is the
/// own model's turn again.
pub(super) fn fall_back(context: &Context, claim: &mut Claim) -> bool {
    let Some(own) = context.catalogue.find(&claim.job.model) else { return false };
    if own.fallback.is_empty() || !allows(&claim.job) {
        return false;
    }
    let Some(plan) = model_in_turn(context, claim) else { return false };
    if !is_overloaded_everywhere(claim, &plan) {
        return false;
    }
    let mut left = own.fallback.iter().enumerate().skip(claim.journey.fallen);
    if let Some((place, name)) = left.find(|(_, name)| could_do(context, claim, name)) {
        claim.journey.fallen = place + 1;
        context.meter.fell_back(plan.names.first().unwrap_or(name), name);
        claim.journey.not_before = None;
        return true;
    }
    if claim.journey.fallen > 0 {
        // All of them were tried: from here on only time helps.
        claim.journey.fallen = 0;
        claim.journey.failed.clear();
    }
    false
}

/// Whether this model may be sent the job at all, and is not overloaded itself: a job does not end because of a model that it
/// never asked for.
fn could_do(context: &Context, claim: &Claim, model: &str) -> bool {
    context.catalogue.find(model).is_some_and(|plan| {
        let fits = plan.too_large(&plan.size_of(&claim.job)).is_none();
        fits && plan.routes.iter().any(|route| claim.may_use(&route.lane.id)) && !is_overloaded_everywhere(claim, &plan)
    })
}

/// Whether what the job has been through leads it to another model, so that it would be lost by beginning anew.
pub(super) fn is_under_way(context: &Context, claim: &Claim) -> bool {
    let journey = &claim.journey;
    let leads_on = journey.fallen > 0 || journey.failed.iter().any(|failed| failed.class == Class::Overloaded);
    leads_on
        && allows(&claim.job)
        && context.catalogue.find(&claim.job.model).is_some_and(|own| !own.fallback.is_empty())
}

/// A body for `InvokeModel` is one model's own, and an agent is asked for itself.
fn allows(job: &Job) -> bool {
    job.fallback && matches!(job.request, Request::Prompt(_) | Request::Converse(_))
}

/// Whether a lane of this model was overloaded, for this job or for so many others that its breaker opened, and the job has
/// failed on every other that it may use, or could not be sent there.
fn is_overloaded_everywhere(claim: &Claim, plan: &Plan) -> bool {
    let failed = |lane: &crate::ports::LaneId| claim.journey.failed.iter().find(|failed| failed.lane == *lane);
    let mut lanes = plan.routes.iter().filter(|route| claim.may_use(&route.lane.id)).peekable();
    let any = lanes.peek().is_some();
    let (mut overloaded, mut all) = (false, true);
    for route in lanes {
        let now = route.lane.now();
        match failed(&route.lane.id) {
            Some(Failed { class: Class::Overloaded, .. }) => overloaded = true,
            Some(_) => {}
            None => {
                let state = route.lane.state();
                overloaded |= state.book.breaker.is_shut_by_overload(now);
                let rests = !state.book.cool_down.is_available(now) || state.book.breaker.shut_until(now).is_some();
                all &= rests || state.is_out(now);
            }
        }
    }
    any && overloaded && all
}
