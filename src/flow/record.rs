//! How does an end become durable? The body before the row: a final row never names a body that is not there.

use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use bytes::Bytes;

use crate::job::intake;
use crate::job::lifecycle::Status;
use crate::job::outcome::{Ending, JobResult, Timing};
use crate::ports::{FinishReply, StoreError, StoreTrouble};
use crate::telemetry::Ended;

use super::context::Context;
use super::patience::{Patience, insist};
use super::proof::{Claim, Delivery, Exit, Receipt, Verdict};
use super::stop::Reason;

/// Between two attempts to record an answer that is paid for.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Writes the result line, then the final row.
///
/// # Errors
/// [`Exit::Lost`] if the job is somebody else's by now; [`Exit::Store`] if the back end could not take it. With
/// [`Patience::Bounded`] that is after `drain` and stops the worker, whatever the trouble: an answer that cannot be recorded
/// must not be followed by another. With [`Patience::Endless`] it keeps its slot instead until it is recorded, and the end
/// of its lease changes nothing: under its fence it is recorded if nobody else has begun, and never over somebody else's.
pub async fn record(context: &Context, delivery: &Delivery, claim: &Claim, verdict: Verdict) -> Result<Receipt, Exit> {
    let (result, line) = compose(context, claim, verdict);
    if delivery.lease.is_lost() {
        return Err(Exit::Lost);
    }
    let (status, usage) = (result.status, result.usage);
    let failed = result.error.as_ref().map(|failure| failure.class);
    let reply = write(context, claim, result, line)
        .await
        .inspect_err(|error| context.stop.drain(Reason::Store(error.clone())))?;
    let receipt = Receipt::recorded(reply).ok_or(Exit::Lost)?;
    // A document's chunks are counted with it.
    if !claim.fence.key.batch.is_of_parts() {
        let ended = Ended { key: &claim.fence.key, status, failed, usage, spent: claim.tally.spent };
        context.meter.ended(context.now(), &ended);
    }
    Ok(receipt)
}

async fn write(context: &Context, claim: &Claim, result: JobResult, line: Bytes) -> Result<FinishReply, StoreError> {
    let batch = claim.fence.key.batch_key();
    let pointer = patiently(context, || context.bodies.append(&batch, line.clone())).await?;
    let ending = Ending {
        status: result.status,
        model_used: result.model_used,
        usage: result.usage,
        error: result.error,
        result: pointer,
    };
    let trail = &claim.trail;
    patiently(context, || context.ledger.finish(&claim.fence, claim.tally, ending.clone(), trail.clone())).await
}

/// Tries again while the trouble may pass: as long as a shutdown would wait for it, or for as long as it takes.
async fn patiently<T, F>(context: &Context, write: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    match context.settings.patience {
        Patience::Bounded => {}
        Patience::Endless => return insist(context, write).await,
    }
    let times = context.settings.drain.as_millis() / RETRY_EVERY.as_millis();
    let policy =
        ConstantBuilder::default().with_delay(RETRY_EVERY).with_max_times(usize::try_from(times).unwrap_or(usize::MAX));
    write
        .retry(policy)
        .when(|error: &StoreError| {
            matches!(error.kind, StoreTrouble::Away | StoreTrouble::Full) && !context.stop.is_aborting()
        })
        .notify(|error, _| context.meter.store_trouble(error))
        .await
}

/// The result, and the line that says it.
fn compose(context: &Context, claim: &Claim, verdict: Verdict) -> (JobResult, Bytes) {
    let mut result = JobResult {
        model: Some(claim.job.model.clone()).filter(|model| !model.is_empty()),
        cost_usd: claim.tally.spent,
        attempts: claim.tally.attempts,
        model_calls: claim.tally.model_calls,
        timing: Timing {
            queued_ms: millis(claim.claimed.since(claim.enqueued)),
            paced_ms: millis(claim.journey.paced),
            model_ms: millis(claim.journey.in_calls),
        },
        right_sized: claim.journey.sizing.outcome(&claim.tally),
        metadata: claim.job.metadata.clone(),
        ..JobResult::blank(&claim.job.key, context.settings.simulated)
    };
    match verdict {
        Verdict::Answered { answer, lane, degraded } => {
            result.status = Status::Succeeded;
            result.usage = answer.usage;
            result.text_bytes = Some(intake::text_bytes(&claim.job.request));
            (result.text, result.output, result.stop_reason) = (answer.text, Some(answer.output), answer.stop_reason);
            (result.model_used, result.region) = (Some(lane.model_id.to_string()), Some(lane.region.to_string()));
            result.degraded = degraded;
        }
        Verdict::Assembled(of) => {
            let of = *of;
            (result.status, result.error, result.document) = (of.status, of.error, Some(of.document));
            (result.text, result.output, result.stop_reason) = (of.text, of.output, of.stop_reason);
            (result.model_used, result.region, result.degraded) = (of.model_used, of.region, of.degraded);
            (result.usage, result.text_bytes, result.timing.model_ms) = (of.usage, of.text_bytes, of.model_ms);
        }
        Verdict::Ingested { output, region, failure } => {
            result.status = failure.as_ref().map_or(Status::Succeeded, |failure| failure.class.end());
            (result.output, result.region, result.error) = (Some(output), Some(region), failure);
        }
        Verdict::Ended { status, failure } => (result.status, result.error) = (status, Some(failure)),
    }
    // Text keys and plain values throughout: there is nothing here that JSON cannot say.
    let line = Bytes::from(serde_json::to_vec(&result).unwrap_or_default());
    (result, line)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
