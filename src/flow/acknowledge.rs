//! What happens to the message? The only place where one is deleted.

use std::time::Duration;

use crate::ports::{Entry, StoreError};

use super::context::Context;
use super::patience::insist;
use super::proof::{Delivery, Disposition};

/// Carries out a disposition. What fails here for good is repeated by the redelivery that follows: nothing is lost by it.
///
/// # Errors
/// [`StoreError`], after which the message comes back when its lease ends.
pub async fn acknowledge(context: &Context, delivery: Delivery, disposition: Disposition) -> Result<(), StoreError> {
    let handle = delivery.message.handle.clone();
    match disposition {
        Disposition::Done { proof: _ } => {
            for entry in insist(context, || context.queue.delete(vec![handle.clone()])).await? {
                note(context, &delivery, entry);
            }
        }
        Disposition::Bury { proof: _, reason } | Disposition::Reject { reason } => {
            let entry = insist(context, || context.queue.dead_letter(&delivery.message, &reason)).await?;
            context.meter.dead_lettered(&delivery.message.id.0, &reason);
            note(context, &delivery, entry);
        }
        Disposition::Release { after, claim } => {
            // The row first: a message that is delivered again must find its job queued.
            if let Some((fence, tally)) = claim {
                let entry = insist(context, || context.ledger.hand_back(&fence, tally)).await?;
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

/// A stale handle means that the job went on elsewhere: nothing to mend, but worth knowing.
fn note(context: &Context, delivery: &Delivery, entry: Entry) {
    if let Err(error) = entry {
        context.meter.entry_refused(&delivery.message.id.0, &error);
    }
}
