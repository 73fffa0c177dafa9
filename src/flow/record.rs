//! How does an end become durable? The body before the row: a final row never names a body that is not there.

use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use bytes::Bytes;

use crate::job::intake;
use crate::job::lifecycle::Status;
use crate::job::outcome::{Ending, JobResult, Timing, Usage};
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
    let ended = Ended { key: &claim.fence.key, status, failed, usage, spent: claim.tally.spent };
    context.meter.ended(context.now(), &ended);
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
    let (status, answer, lane, degraded, error) = match verdict {
        Verdict::Answered { answer, lane, degraded } => (Status::Succeeded, Some(answer), Some(lane), degraded, None),
        Verdict::Ended { status, failure } => (status, None, None, false, Some(failure)),
    };
    let usage = answer.as_ref().map_or_else(Usage::default, |answer| answer.usage);
    let text_bytes = answer.as_ref().map(|_| intake::text_bytes(&claim.job.request));
    let (text, output, stop_reason) = match answer {
        Some(answer) => (answer.text, Some(answer.output), answer.stop_reason),
        None => (None, None, None),
    };
    let result = JobResult {
        id: claim.job.key.id.to_string(),
        batch: claim.job.key.batch.clone(),
        tenant: claim.job.key.tenant.clone(),
        status,
        model: Some(claim.job.model.clone()),
        model_used: lane.as_ref().map(|lane| lane.model_id.to_string()),
        region: lane.map(|lane| lane.region.to_string()),
        degraded,
        simulated: context.settings.simulated,
        text,
        output,
        stop_reason,
        usage,
        text_bytes,
        cost_usd: claim.tally.spent,
        attempts: claim.tally.attempts,
        model_calls: claim.tally.model_calls,
        timing: Timing {
            queued_ms: millis(claim.claimed.since(claim.enqueued)),
            paced_ms: millis(claim.journey.paced),
            model_ms: millis(claim.journey.in_calls),
        },
        error,
        right_sized: claim.journey.sizing.outcome(&claim.tally),
        metadata: claim.job.metadata.clone(),
    };
    // Text keys and plain values throughout: there is nothing here that JSON cannot say.
    let line = Bytes::from(serde_json::to_vec(&result).unwrap_or_default());
    (result, line)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
