//! Who hears of it? Only what is on record is made known, and it is made known before the message goes.

use crate::job::ident::BatchKey;
use crate::job::notice::Notice;
use crate::job::spec::TaskToken;
use crate::ports::StoreError;

use super::context::Context;
use super::proof::{Exit, Notified, Receipt};

/// Publishes the job's notice, answers who waits under the token of this very message, and announces its batch if this
/// was the last job of it.
///
/// # Errors
/// [`Exit::Store`]: the message comes back and is notified again.
pub async fn notify(context: &Context, receipt: Receipt, waits: Option<&TaskToken>) -> Result<Notified, Exit> {
    let row = receipt.row();
    let notice = Notice::of_job(&row.key, row.generation, &row.tally, &row.ending);
    if context.settings.notify_jobs {
        context.notices.publish(&notice).await?;
    }
    answer(context, waits, &notice).await?;
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
    let notice = Notice::of_batch(batch, complete.completion, complete.sums, complete.manifest);
    if context.settings.notify_batches {
        context.notices.publish(&notice).await?;
    }
    answer(context, complete.callback.as_ref(), &notice).await?;
    context.ledger.mark_announced(batch, complete.completion).await
}

async fn answer(context: &Context, waits: Option<&TaskToken>, notice: &Notice) -> Result<(), StoreError> {
    match (&context.callbacks, waits) {
        (Some(callbacks), Some(token)) => callbacks.answer(token, notice).await,
        // Without anybody to answer, intake refuses jobs that ask for it.
        (None, _) | (_, None) => Ok(()),
    }
}
