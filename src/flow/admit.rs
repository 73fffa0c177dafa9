//! Is this a job, and is it ours to work on? One conditional write decides, however many ask.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::job::failure::{Class, Failure};
use crate::job::ident::BatchName;
use crate::job::intake::{self, Defaults};
use crate::job::spec::{Job, Request, TaskToken};
use crate::job::trail::Trail;
use crate::ports::{ClaimReply, Claimed, StoreError};

use super::context::Context;
use super::patience::{BackOff, by_age, no_longer};
use super::proof::{Claim, Delivery, Exit, Journey, Receipt, Verdict};

/// What a delivery turned out to be.
#[derive(Debug)]
pub enum Admitted {
    /// A job to work on.
    Ours(Claim),
    /// A job of ours that is over before it began: its deadline passed, or it is poison.
    Over(Claim, Verdict),
    /// A job whose end is on record already, and who waits for this delivery of it.
    Ended(Receipt, Option<TaskToken>),
}

/// Not sooner than this after somebody else's lease, so that a busy job is not asked for in a loop.
const BUSY_LEAST: Duration = Duration::from_secs(1);

/// A message whose job cannot be claimed is held for so long before others may try.
const HELD_UNCLAIMED: Duration = Duration::from_secs(20);

/// Claims the job of a delivery.
///
/// # Errors
/// [`Exit`]: it is no job, its identity is taken by other content, somebody else has it, its model has enough
/// jobs waiting, or the ledger is in trouble.
pub async fn admit(context: &Context, delivery: &Delivery) -> Result<Admitted, Exit> {
    let message = &delivery.message;
    let job = Job { trace: delivery.span.context(), ..parse(context, &message.body, &message.id.0)? };
    delivery.span.is(&job);
    if !context.settings.senders.may_send(&job.key.tenant, message.sender.as_deref()) {
        let reason = format!("{}: its sender may not send jobs of tenant `{}`", Class::BadInput, job.key.tenant);
        return Err(Exit::Reject { reason });
    }
    match context.catalogue.find(&job.model) {
        Some(own) if !delivery.place.turned_out(&own) => {
            let deadline = job.deadline.map(|at| at.since(context.now()));
            let rest = own.line.rest(Instant::now().into_std());
            delivery.place.put_away(no_longer(rest, deadline));
            let after = no_longer(rest.max(by_age(context.now().since(message.sent))), deadline);
            // Not again and again, once the deadline is past.
            return Err(Exit::HandBack { after: after.max(by_age(Duration::ZERO)) });
        }
        Some(_) => {}
        // It will not stand in any line.
        None => delivery.place.leave(),
    }
    let (reply, asked) = claim(context, delivery, &job).await?;
    match reply {
        ClaimReply::Claimed(claimed) => {
            delivery.lease.guard(&claimed.fence, asked);
            Ok(judge(context, job, claimed))
        }
        ClaimReply::Busy { until } => {
            Err(Exit::HandBack { after: until.since(context.now()).max(BUSY_LEAST).min(context.settings.lease) })
        }
        ClaimReply::AlreadyFinal(row) => Ok(Admitted::Ended(Receipt::standing(row), job.callback)),
        ClaimReply::Conflict => {
            Err(Exit::Reject { reason: "id_conflict: this id was used before with other content".to_owned() })
        }
    }
}

/// The ledger's reply, and when it was asked. A worker asks again while the ledger is in trouble, so that what it holds
/// goes on with the ledger; but not for long, since the trouble may be this worker's own and the message is wanted elsewhere.
async fn claim(context: &Context, delivery: &Delivery, job: &Job) -> Result<(ClaimReply, Instant), Exit> {
    let digest = job.digest();
    let (mut back_off, began) = (BackOff::new(), Instant::now());
    loop {
        let asked = Instant::now();
        let claimed = context.ledger.claim(&job.key, digest, delivery.message.sent, context.settings.lease).await;
        let error: StoreError = match claimed {
            Ok(reply) => {
                context.claims.answered();
                return Ok((reply, asked));
            }
            Err(error) if !context.settings.patience.outlasts(error.kind) => return Err(error.into()),
            Err(error) => error,
        };
        context.claims.failed();
        context.meter.store_trouble(&error);
        if began.elapsed() >= HELD_UNCLAIMED {
            return Err(Exit::HandBack { after: BUSY_LEAST });
        }
        tokio::select! {
            () = context.stop.drained() => return Err(Exit::HandBack { after: Duration::ZERO }),
            () = delivery.lease.lost() => return Err(Exit::Lost),
            () = tokio::time::sleep(back_off.next()) => {}
        }
    }
}

fn parse(context: &Context, body: &str, message_id: &str) -> Result<Job, Exit> {
    let batch = BatchName::none();
    let is_known = |name: &str| context.catalogue.find(name).is_some();
    let answers_callbacks = context.callbacks.is_some();
    let documents = context.documents.as_ref().map(|ports| ports.reader.place()).ok_or(intake::NO_DOCUMENTS_HERE);
    let no_ingestions = context.ingestions.is_none().then_some(intake::NO_INGESTIONS_HERE);
    let defaults = Defaults {
        batch: &batch,
        model: None,
        only_model: context.settings.uploads.default_model(),
        answers_callbacks,
        documents,
        no_ingestions,
        is_known: &is_known,
    };
    intake::parse_message(body, message_id, &defaults)
        .map_err(|refusal| Exit::Reject { reason: format!("{}: {}", refusal.class, refusal.reason) })
}

fn judge(context: &Context, job: Job, claimed: Claimed) -> Admitted {
    let now = context.now();
    // A document's chunks pass their deadline each by itself, and what was answered until then is kept.
    let is_document = matches!(job.request, Request::Document(_));
    let late = !is_document && job.deadline.is_some_and(|deadline| deadline <= now);
    let suspicion = claimed.suspicion;
    let mut journey = Journey::after(&claimed.trail, Instant::now().into_std());
    if !context.settings.multi_region {
        journey.bound_to = first_region(context, &job, &claimed.trail);
    }
    let claim = Claim {
        fence: claimed.fence,
        job,
        generation: claimed.generation,
        tally: claimed.tally,
        enqueued: claimed.enqueued,
        claimed: now,
        journey,
        trail: claimed.trail,
    };
    if late {
        let failure = Failure::new(Class::Expired, "its deadline passed before it could be sent");
        return Admitted::Over(claim, Verdict::of_failure(failure));
    }
    if suspicion >= f64::from(context.settings.max_claims) {
        let message = format!("claimed {} times and left no outcome each time", context.settings.max_claims);
        return Admitted::Over(claim, Verdict::of_failure(Failure::new(Class::Poison, message)));
    }
    Admitted::Ours(claim)
}

/// Where the job was sent under an earlier claim, if it can be sent there at all any more.
fn first_region(context: &Context, job: &Job, trail: &Trail) -> Option<Arc<str>> {
    let (sent, plan) = (trail.region()?, context.catalogue.find(&job.model)?);
    let mut regions = plan.routes.iter().map(|route| &route.lane.id.region);
    regions.find(|region| ***region == *sent).cloned()
}
