//! Who hears of it? Only what is on record is made known, and it is made known before the message goes.

use crate::job::ident::BatchKey;
use crate::job::notice::Notice;
use crate::ports::StoreError;

use super::context::Context;
use super::proof::{Exit, Notified, Receipt};

/// Publishes the job's notice, and its batch's if this was the last job of it.
///
/// # Errors
/// [`Exit::Store`]: the message comes back and is notified again.
pub async fn notify(context: &Context, receipt: Receipt) -> Result<Notified, Exit> {
    let row = receipt.row();
    if context.settings.notify_jobs {
        context.notices.publish(&Notice::of_job(&row.key, row.generation, &row.tally, &row.ending)).await?;
    }
    if receipt.batch_complete() {
        announce(context, &row.key.batch_key()).await?;
    }
    Ok(Notified::of(&receipt))
}

/// Announces a batch if it is complete and nobody did; asked again after a crash, it says the same again.
///
/// # Errors
/// [`StoreError`]: nothing is marked, so it will be announced again.
pub async fn announce(context: &Context, batch: &BatchKey) -> Result<(), StoreError> {
    let Some(complete) = context.ledger.complete_unannounced(batch).await? else { return Ok(()) };
    if context.settings.notify_batches {
        let notice = Notice::of_batch(batch, complete.completion, complete.sums, complete.manifest);
        context.notices.publish(&notice).await?;
    }
    context.ledger.mark_announced(batch, complete.completion).await
}
