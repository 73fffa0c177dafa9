//! What happens to the message? The only place where one is deleted.

use std::time::Duration;

use crate::job::intake::task_token_of;
use crate::job::trail::What;
use crate::ports::{Entry, StoreError};

use super::context::Context;
use super::patience::insist;
use super::proof::{Delivery, Disposition, Notified};

/// Carries out a disposition. What fails here for good is repeated by the redelivery that follows: nothing is lost by it.
///
/// # Errors
/// [`StoreError`], after which the message comes back when its lease ends.
pub async fn acknowledge(context: &Context, delivery: Delivery, disposition: Disposition) -> Result<(), StoreError> {
    let handle = delivery.message.handle.clone();
    match disposition {
        Disposition::Done { proof } => {
            let deletion = insist(context, || context.queue.delete(vec![handle.clone()]));
            let (deleted, ()) = tokio::join!(deletion, put_notice_on_record(context, &proof));
            for entry in deleted? {
                note(context, &delivery, entry);
            }
        }
        Disposition::Bury { proof: _, reason } => bury(context, &delivery, &reason).await?,
        Disposition::Reject { reason } => {
            // Before the message goes: it is all that knows of who waits.
            if let (Some(callbacks), Some(token)) = (&context.callbacks, task_token_of(&delivery.message.body)) {
                insist(context, || callbacks.refuse(&token, &reason)).await?;
            }
            bury(context, &delivery, &reason).await?;
        }
        Disposition::Release { after, claim } => {
            // The row first: a message that is delivered again must find its job queued.
            if let Some((fence, tally, mut trail)) = claim {
                trail.add(context.now(), What::HandedBack { after });
                let entry = insist(context, || context.ledger.hand_back(&fence, tally, trail.clone())).await?;
                note(context, &delivery, entry);
            }
            let after = after.max(Duration::ZERO);
            for entry in insist(context, || context.queue.change_visibility(vec![(handle.clone(), after)])).await? {
                note(context, &delivery, entry);
            }
        }
        Disposition::Drop => {}
    }
    Ok(())
}

async fn bury(context: &Context, delivery: &Delivery, reason: &str) -> Result<(), StoreError> {
    let entry = insist(context, || context.queue.dead_letter(&delivery.message, reason)).await?;
    context.meter.dead_lettered(&delivery.message.id.0, reason);
    note(context, delivery, entry);
    Ok(())
}

/// For those who ask later: that it fails changes nothing.
async fn put_notice_on_record(context: &Context, proof: &Notified) {
    let Some((key, at)) = proof.told() else { return };
    if let Err(error) = context.ledger.notified(key, at).await {
        context.meter.store_trouble(&error);
    }
}

/// A stale handle means that the job went on elsewhere: nothing to mend, but worth knowing.
fn note(context: &Context, delivery: &Delivery, entry: Entry) {
    if let Err(error) = entry {
        context.meter.entry_refused(&delivery.message.id.0, &error);
    }
}
