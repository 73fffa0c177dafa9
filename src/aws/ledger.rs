//! Who owns a job, what was counted, what became of it? Conditional writes on one row a job; what many jobs can share of a call,
//! they share.
//!
//! A job costs one call to claim; beginning and finishing are shared (see `calls` and `finish`). Settling, extending and
//! handing back are rare, and a conditional write each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream;

use super::calls::{self, Begun, Recorder};
use super::claims::Claims;
use super::company::Company;
use super::finish::{self, Ended, Finisher};
use super::rows::{self, Row};
use super::table::{self, number, text};
use super::told::Told;
use super::update::{Update, Written};
use super::{Inner, batches, manifest, mark, trouble};
use crate::job::ident::{BatchKey, Digest, JobKey};
use crate::job::lifecycle::State;
use crate::job::outcome::{Ending, Tally};
use crate::job::trail::Trail;
use crate::job::units::{Timestamp, Usd};
use crate::ports::{
    BeginReply, ClaimReply, CompleteBatch, Entry, EntryError, Fence, FinalRow, FinishReply, Gate, Ledger, StoreError,
    StoreTrouble,
};

/// Leases that are extended at once.
const EXTENDED_AT_ONCE: usize = 16;
/// A gate whose worker is gone is no longer shown after this.
const GATE_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The ledger in one table.
#[derive(Debug)]
pub(super) struct DynamoLedger {
    inner: Arc<Inner>,
    claims: Claims,
    begun: Company<Begun, BeginReply>,
    ended: Company<Ended, FinishReply>,
    told: Told,
    /// How many ends the announcements cover that were asked for and are not marked yet.
    announcing: Mutex<HashMap<BatchKey, (u64, u64)>>,
}

impl DynamoLedger {
    /// Must be called inside a runtime.
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        let recorder = Arc::new(Recorder::new(Arc::clone(&inner)));
        let finisher = Arc::new(Finisher::new(Arc::clone(&inner)));
        let begun = Company::new("recording calls", calls::ROOM, move |group| {
            let recorder = Arc::clone(&recorder);
            Box::pin(async move { recorder.record(group).await })
        });
        let ended = Company::new("recording results", finish::ROOM, move |group| {
            let finisher = Arc::clone(&finisher);
            Box::pin(async move { finisher.commit(group).await })
        });
        let told = Told::new(Arc::clone(&inner));
        Self { claims: Claims::new(Arc::clone(&inner)), begun, ended, told, announcing: Mutex::default(), inner }
    }

    /// Waits until all is written that may be written later.
    pub(super) async fn flush(&self) {
        self.told.flush().await;
    }

    /// Changes a row while it is at work under the fence.
    async fn fenced(&self, doing: &str, fence: &Fence, update: Update) -> Result<Entry, StoreError> {
        let update = rows::under_fence(update, fence);
        match update.carry_out(&self.inner, doing, table::job(&fence.key)).await? {
            Written::Done(_) => Ok(Ok(())),
            Written::Refused(_) => Ok(Err(EntryError::NotOurs)),
        }
    }
}

#[async_trait]
impl Ledger for DynamoLedger {
    async fn claim(
        &self,
        key: &JobKey,
        content: Digest,
        enqueued: Timestamp,
        lease: Duration,
    ) -> Result<ClaimReply, StoreError> {
        self.claims.claim(key, content, enqueued, lease).await
    }

    async fn begin(&self, fence: &Fence, tally: Tally, open: Usd, cap: Option<Usd>) -> Result<BeginReply, StoreError> {
        if cap.is_some() {
            // Every call would have to wait for every other one's.
            let why = "a cap on cost is not offered by a fleet";
            return Err(trouble::of_ours(StoreTrouble::Other, "recording calls", why));
        }
        let begun = Begun::new(fence, tally, open);
        let weight = begun.weight();
        self.begun.ask(begun, weight).await
    }

    async fn settle(&self, fence: &Fence, tally: Tally, trail: Trail) -> Result<Entry, StoreError> {
        self.fenced("recording the end of a call", fence, counting(fence, &tally, &trail)).await
    }

    async fn extend(&self, fences: Vec<Fence>, lease: Duration) -> Result<Vec<Entry>, StoreError> {
        let extensions = fences.into_iter().map(|fence| async move {
            let until = self.inner.clock.now().after(lease);
            self.fenced("extending leases", &fence, Update::default().set("until", number(until.0))).await
        });
        let replies: Vec<Result<Entry, StoreError>> =
            stream::iter(extensions).buffered(EXTENDED_AT_ONCE).collect().await;
        replies.into_iter().collect()
    }

    async fn hand_back(&self, fence: &Fence, tally: Tally, trail: Trail) -> Result<Entry, StoreError> {
        let update = counting(fence, &tally, &trail).set("st", text(State::Queued.word()));
        let update = ["own", "nth", "since", "until"].into_iter().fold(update, Update::remove);
        self.fenced("handing back a job", fence, update).await
    }

    async fn finish(
        &self,
        fence: &Fence,
        tally: Tally,
        ending: Ending,
        trail: Trail,
    ) -> Result<FinishReply, StoreError> {
        self.ended.ask(Ended::new(fence, tally, ending, &trail), 1).await
    }

    async fn notified(&self, key: &JobKey, at: Timestamp) -> Result<(), StoreError> {
        self.told.add(key, at);
        Ok(())
    }

    async fn look_up(&self, key: &JobKey) -> Result<Option<(State, Option<FinalRow>)>, StoreError> {
        let row = look_up(&self.inner, key).await?;
        Ok(row.map(|row| (row.state, row.final_row(key))))
    }

    async fn complete_unannounced(&self, batch: &BatchKey) -> Result<Option<CompleteBatch>, StoreError> {
        let standing = batches::standing(&self.inner, batch).await?;
        let Some((completion, is_news)) = standing.waits_for_word() else { return Ok(None) };
        let manifest = manifest::of(&self.inner, batch, &standing, completion).await?;
        if is_news {
            let mut announcing = self.announcing.lock().unwrap_or_else(PoisonError::into_inner);
            announcing.insert(batch.clone(), (completion, standing.ends()));
        }
        Ok(Some(CompleteBatch { completion, sums: standing.sums(), manifest, is_news, waiting: standing.waiting }))
    }

    async fn mark_announced(&self, batch: &BatchKey, completion: u64) -> Result<(), StoreError> {
        let covered = self.announcing.lock().unwrap_or_else(PoisonError::into_inner).get(batch).copied();
        // What nobody asked this process for, it cannot have announced.
        let Some((_, ends)) = covered.filter(|(announcing, _)| *announcing == completion) else { return Ok(()) };
        // With the rows of its jobs goes the list of them: else the same input would be taken for one that was sent.
        mark::ends(&self.inner, batch).await?;
        batches::leaves_index(&self.inner, batch).await?;
        batches::mark_announced(&self.inner, batch, completion, ends).await?;
        let mut announcing = self.announcing.lock().unwrap_or_else(PoisonError::into_inner);
        if announcing.get(batch) == Some(&(completion, ends)) {
            announcing.remove(batch);
        }
        Ok(())
    }

    async fn post_gate(&self, lane: &str, gate: Option<Gate>) -> Result<(), StoreError> {
        let doing = "publishing why a lane waits";
        let key = table::key(table::GATES.to_owned(), format!("{lane}#{}", self.inner.epoch));
        let Some(Gate { reason, since, until }) = gate else {
            let delete = self.inner.clients.dynamodb.delete_item().table_name(&self.inner.settings.table);
            let deleted = delete.set_key(Some(key)).send().await;
            return deleted.map(drop).map_err(|error| trouble::of_sdk(doing, &error));
        };
        Update::default()
            .set("reason", text(reason))
            .set("since", number(since.0))
            .set("until", number(until.0))
            .set("ttl", table::ttl(until.max(self.inner.clock.now()), GATE_KEPT))
            .carry_out(&self.inner, doing, key)
            .await
            .map(drop)
    }
}

/// The row of a job, as it stands after all that was written before.
pub(super) async fn look_up(inner: &Inner, key: &JobKey) -> Result<Option<Row>, StoreError> {
    let get = inner.clients.dynamodb.get_item().table_name(&inner.settings.table).consistent_read(true);
    let found = get.set_key(Some(table::job(key))).send().await;
    let found = found.map_err(|error| trouble::of_sdk("looking up a job", &error))?;
    found.item.map(|item| Row::read(key, &item)).transpose()
}

/// What was counted so far, and what happened.
fn counting(fence: &Fence, tally: &Tally, trail: &Trail) -> Update {
    let update = Update::default().set_or_remove(rows::TRAIL, rows::open_trail(&fence.key, trail));
    rows::tally(tally).into_iter().fold(update, |update, (name, value)| update.set_or_remove(name, value))
}
