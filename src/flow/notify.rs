//! Who hears of it? Only what is on record is made known, and it is made known before the message goes.

use std::fmt;

use crate::job::ident::BatchKey;
use crate::job::notice::Notice;
use crate::job::spec::TaskToken;
use crate::ports::{Callbacks, Ledger, Notices, Seals, StoreError};

use super::context::Context;
use super::patience::insist;
use super::proof::{Exit, Notified, Receipt};

/// Publishes the job's notice, answers who waits under the token of this very message, and announces its batch if this
/// was the last job of it.
///
/// # Errors
/// [`Exit::Store`]: the message comes back and is notified again.
pub async fn notify(context: &Context, receipt: Receipt, waits: Option<&TaskToken>) -> Result<Notified, Exit> {
    let row = receipt.row();
    if row.key.batch.is_of_parts() {
        return wake(context, receipt).await;
    }
    let notice = Notice::of_job(&row.key, row.generation, &row.tally, &row.ending);
    if context.settings.notify_jobs {
        insist(context, || context.notices.publish(&notice)).await?;
    }
    insist(context, || answer(context.callbacks.as_deref(), waits, &notice)).await?;
    if receipt.batch_complete() {
        let batch = row.key.batch_key();
        insist(context, || Announcer::of(context).announce(&batch)).await?;
    }
    let is_told = context.settings.notify_jobs || (context.callbacks.is_some() && waits.is_some());
    Ok(Notified::of(&receipt, is_told.then(|| context.now())))
}

/// A part has no notice of its own: the job that it is a part of is delivered, if it was the last one.
async fn wake(context: &Context, receipt: Receipt) -> Result<Notified, Exit> {
    if let Some(ports) = context.documents.as_ref().filter(|_| receipt.batch_complete()) {
        let batch = receipt.row().key.batch_key();
        insist(context, || ports.parts.wake(&batch)).await?;
    }
    Ok(Notified::of_part(&receipt))
}

/// Makes the end of a batch known.
#[derive(Clone, Copy)]
pub struct Announcer<'a> {
    /// Who knows whether it is complete.
    pub ledger: &'a dyn Ledger,
    /// Who is told, if [`is_told`](Self::is_told).
    pub notices: &'a dyn Notices,
    /// Who answers workflows that wait for it.
    pub callbacks: Option<&'a dyn Callbacks>,
    /// Where it stands who waits.
    pub seals: Option<&'a dyn Seals>,
    /// Whether a notice is wanted.
    pub is_told: bool,
}

impl<'a> Announcer<'a> {
    /// With what a worker has.
    pub fn of(context: &'a Context) -> Self {
        Self {
            ledger: &*context.ledger,
            notices: &*context.notices,
            callbacks: context.callbacks.as_deref(),
            seals: context.batches.as_ref().map(|ports| &*ports.seals),
            is_told: context.settings.notify_batches,
        }
    }

    /// Announces a batch if it is complete and nobody did, and answers whoever waits for it, however late; asked again after a
    /// crash, it says the same again.
    ///
    /// # Errors
    /// [`StoreError`]: what was not marked will be said again.
    pub async fn announce(self, batch: &BatchKey) -> Result<(), StoreError> {
        let Some(complete) = self.ledger.complete_unannounced(batch).await? else { return Ok(()) };
        let notice = Notice::of_batch(batch, complete.completion, complete.sums, complete.manifest);
        if complete.is_news && self.is_told {
            self.notices.publish(&notice).await?;
        }
        for token in &complete.waiting {
            answer(self.callbacks, Some(token), &notice).await?;
            if let Some(seals) = self.seals {
                seals.answered(batch, token).await?;
            }
        }
        if !complete.is_news {
            return Ok(());
        }
        self.ledger.mark_announced(batch, complete.completion).await
    }
}

impl fmt::Debug for Announcer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcer").field("is_told", &self.is_told).finish_non_exhaustive()
    }
}

async fn answer(
    callbacks: Option<&dyn Callbacks>,
    waits: Option<&TaskToken>,
    notice: &Notice,
) -> Result<(), StoreError> {
    match (callbacks, waits) {
        (Some(callbacks), Some(token)) => callbacks.answer(token, notice).await,
        // Without anybody to answer, intake refuses jobs that ask for it.
        (None, _) | (_, None) => Ok(()),
    }
}
