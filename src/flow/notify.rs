//! Who hears of it? Only what is on record is made known, and it is made known before the message goes.

use crate::job::ident::BatchKey;
use crate::job::notice::Notice;
use crate::ports::{Ledger, Notices, StoreError};

use super::context::Context;
use super::patience::insist;
use super::proof::{Exit, Notified, Receipt};

/// Publishes the job's notice, and its batch's if this was the last job of it.
///
/// # Errors
/// [`Exit::Store`]: the message comes back and is notified again.
pub async fn notify(context: &Context, receipt: Receipt) -> Result<Notified, Exit> {
    let row = receipt.row();
    if context.settings.notify_jobs {
        let notice = Notice::of_job(&row.key, row.generation, &row.tally, &row.ending);
        insist(context, || context.notices.publish(&notice)).await?;
    }
    if receipt.batch_complete() {
        let batch = row.key.batch_key();
        let is_told = context.settings.notify_batches;
        insist(context, || announce(&*context.ledger, &*context.notices, is_told, &batch)).await?;
    }
    Ok(Notified::of(&receipt))
}

/// Announces a batch if it is complete and nobody did; asked again after a crash, it says the same again. Unless `is_told`
/// nobody hears of it.
///
/// # Errors
/// [`StoreError`]: nothing is marked, so it will be announced again.
pub async fn announce(
    ledger: &dyn Ledger,
    notices: &dyn Notices,
    is_told: bool,
    batch: &BatchKey,
) -> Result<(), StoreError> {
    let Some(complete) = ledger.complete_unannounced(batch).await? else { return Ok(()) };
    if is_told {
        let notice = Notice::of_batch(batch, complete.completion, complete.sums, complete.manifest);
        notices.publish(&notice).await?;
    }
    ledger.mark_announced(batch, complete.completion).await
}
