//! Is this a job, and is it ours to work on? One conditional write decides, however many ask.

use std::time::Duration;

use crate::job::failure::{Class, Failure};
use crate::job::ident::BatchName;
use crate::job::intake::{self, Defaults};
use crate::job::spec::{Job, TaskToken};
use crate::ports::{ClaimReply, Claimed};

use super::context::Context;
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

/// A job that came although its model was to be passed over comes again after this.
const CROWDED: Duration = Duration::from_secs(5);

/// Claims the job of a delivery.
///
/// # Errors
/// [`Exit`]: it is no job, its identity is taken by other content, somebody else has it, its model has enough
/// jobs waiting, or the ledger is in trouble.
pub async fn admit(context: &Context, delivery: &Delivery) -> Result<Admitted, Exit> {
    let message = &delivery.message;
    let job = parse(context, &message.body, &message.id.0)?;
    match context.catalogue.find(&job.model) {
        Some(own) if !delivery.place.turned_out(&own) => return Err(Exit::HandBack { after: CROWDED }),
        Some(_) => {}
        // It will not stand in any line.
        None => delivery.place.leave(),
    }
    let reply = context.ledger.claim(&job.key, job.digest(), message.sent, context.settings.lease).await?;
    match reply {
        ClaimReply::Claimed(claimed) => {
            delivery.lease.guard(&claimed.fence);
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

fn parse(context: &Context, body: &str, message_id: &str) -> Result<Job, Exit> {
    let batch = BatchName::none();
    let is_known = |name: &str| context.catalogue.find(name).is_some();
    let answers_callbacks = context.callbacks.is_some();
    let defaults = Defaults { batch: &batch, model: None, only_model: None, answers_callbacks, is_known: &is_known };
    intake::parse_message(body, message_id, &defaults)
        .map_err(|refusal| Exit::Reject { reason: format!("{}: {}", refusal.class, refusal.reason) })
}

fn judge(context: &Context, job: Job, claimed: Claimed) -> Admitted {
    let now = context.now();
    let late = job.deadline.is_some_and(|deadline| deadline <= now);
    let suspicion = claimed.suspicion;
    let claim = Claim {
        fence: claimed.fence,
        job,
        generation: claimed.generation,
        tally: claimed.tally,
        enqueued: claimed.enqueued,
        claimed: now,
        journey: Journey::default(),
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
