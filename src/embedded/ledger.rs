//! Who owns a job, what was counted, what became of it? Conditional writes on one row a job.
//!
//! The lifecycle's own table decides every change of state; a row and its batch's counts change in one transaction.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::params;

use super::batch::BatchRow;
use super::manifest;
use super::parts;
use super::process::Inner;
use super::rows::{JobRow, final_row};
use super::savings;
use super::trail;
use super::transaction::Tx;
use super::trouble;
use crate::job::ident::{BatchKey, BatchName, Digest, JobKey};
use crate::job::lifecycle::{State, Step};
use crate::job::outcome::{Ending, Savings, Tally, Usage};
use crate::job::trail::{Trail, What};
use crate::job::units::{Timestamp, Usd};
use crate::ports::{
    BeginReply, ClaimReply, Claimed, CompleteBatch, Entry, EntryError, Fence, FencingToken, FinalRow, FinishReply,
    Gate, Ledger, StoreError,
};

/// The ledger of one state directory.
#[derive(Clone, Debug)]
pub(super) struct EmbeddedLedger {
    pub(super) inner: Arc<Inner>,
}

#[async_trait]
impl Ledger for EmbeddedLedger {
    async fn claim(
        &self,
        key: &JobKey,
        content: Digest,
        enqueued: Timestamp,
        lease: Duration,
    ) -> Result<ClaimReply, StoreError> {
        let key = key.clone();
        self.inner.committer.commit("claiming a job", move |tx| claim(tx, &key, content, enqueued, lease)).await
    }

    async fn begin(&self, fence: &Fence, tally: Tally, open: Usd, cap: Option<Usd>) -> Result<BeginReply, StoreError> {
        let fence = fence.clone();
        self.inner.committer.commit("recording a call", move |tx| begin(tx, &fence, tally, open, cap)).await
    }

    async fn settle(&self, fence: &Fence, tally: Tally, trail: Trail) -> Result<Entry, StoreError> {
        let fence = fence.clone();
        let work = move |tx: &mut Tx<'_>| settle(tx, &fence, tally, &trail);
        self.inner.committer.commit("recording the end of a call", work).await
    }

    async fn extend(&self, fences: Vec<Fence>, lease: Duration) -> Result<Vec<Entry>, StoreError> {
        let work = move |tx: &mut Tx<'_>| fences.iter().map(|fence| extend(tx, fence, lease)).collect();
        self.inner.committer.commit("extending leases", work).await
    }

    async fn hand_back(&self, fence: &Fence, tally: Tally, trail: Trail) -> Result<Entry, StoreError> {
        let fence = fence.clone();
        self.inner.committer.commit("handing back a job", move |tx| hand_back(tx, &fence, tally, &trail)).await
    }

    async fn finish(
        &self,
        fence: &Fence,
        tally: Tally,
        ending: Ending,
        trail: Trail,
    ) -> Result<FinishReply, StoreError> {
        let fence = fence.clone();
        self.inner.committer.commit("recording a result", move |tx| finish(tx, &fence, tally, ending, &trail)).await
    }

    async fn notified(&self, key: &JobKey, at: Timestamp) -> Result<(), StoreError> {
        let key = key.clone();
        let work = move |tx: &mut Tx<'_>| {
            let Some(batch) = tx.batch(&key.batch_key())?.map(|batch| batch.no) else { return Ok(()) };
            match JobRow::find(tx.conn, batch, &key.id)? {
                Some(row) => trail::told(tx.conn, row.no, at),
                None => Ok(()),
            }
        };
        self.inner.committer.commit("recording a notice", work).await
    }

    async fn look_up(&self, key: &JobKey) -> Result<Option<(State, Option<FinalRow>)>, StoreError> {
        let key = key.clone();
        let look = move |conn: &rusqlite::Connection| {
            let Some(batch) = BatchRow::load(conn, &key.batch_key())? else { return Ok(None) };
            let Some(row) = JobRow::find(conn, batch.no, &key.id)? else { return Ok(None) };
            let ended = match row.state {
                State::Final(status) => Some(final_row(conn, &key, &row, status)?),
                State::Queued | State::Running => None,
            };
            Ok(Some((row.state, ended)))
        };
        self.inner.readers.read("looking up a job", look).await
    }

    async fn complete_unannounced(&self, batch: &BatchKey) -> Result<Option<CompleteBatch>, StoreError> {
        manifest::complete(&self.inner, batch.clone()).await
    }

    async fn mark_announced(&self, batch: &BatchKey, completion: u64) -> Result<(), StoreError> {
        let batch = batch.clone();
        let work = move |tx: &mut Tx<'_>| {
            if let Some(row) = tx.batch(&batch)?
                && row.completion == completion
            {
                row.mark_announced();
            }
            Ok(())
        };
        self.inner.committer.commit("recording an announcement", work).await
    }

    async fn post_gate(&self, lane: &str, gate: Option<Gate>) -> Result<(), StoreError> {
        let lane = lane.to_owned();
        let work = move |tx: &mut Tx<'_>| {
            match &gate {
                Some(gate) => tx
                    .conn
                    .prepare_cached(
                        "INSERT OR REPLACE INTO gate (lane, epoch, reason, since, until) VALUES (?1, ?2, ?3, ?4, ?5)",
                    )?
                    .execute(params![lane, tx.epoch, gate.reason, gate.since.0, gate.until.0])?,
                None => tx
                    .conn
                    .prepare_cached("DELETE FROM gate WHERE lane = ?1 AND epoch = ?2")?
                    .execute(params![lane, tx.epoch])?,
            };
            Ok(())
        };
        self.inner.committer.commit("publishing why a lane waits", work).await
    }
}

/// Hands back the jobs of a process that is no more; how its open calls ended nobody will know. `suspect`: whether its
/// end is held against them. It weighs one in all, spread over the jobs whose calls were open.
pub(super) fn release_held_by(tx: &mut Tx<'_>, epoch: i64, suspect: bool) -> rusqlite::Result<()> {
    let mut held = JobRow::held_by(tx.conn, epoch)?;
    let begun = u32::try_from(held.iter().filter(|row| row.open.is_some()).count()).unwrap_or(u32::MAX);
    for row in &mut held {
        let before = row.share();
        row.state = row.state.after(Step::Release).ok_or_else(|| trouble::unreadable("state"))?;
        if let Some(open) = row.open.take() {
            row.tally.unknown += open;
            if suspect {
                row.suspicion += 1.0 / f64::from(begun);
            }
        }
        (row.epoch, row.lease_until) = (None, Timestamp(0));
        row.store_owner(tx.conn)?;
        let parted = if suspect { What::Abandoned } else { What::HandedBack { after: Duration::ZERO } };
        trail::add(tx.conn, row.no, tx.now, parted)?;
        let key = BatchRow::key_of(tx.conn, row.batch)?.ok_or_else(|| trouble::unreadable("batch"))?;
        tx.batch_or_new(&key)?.swap(Some(before), Some(row.share()));
    }
    Ok(())
}

fn claim(
    tx: &mut Tx<'_>,
    key: &JobKey,
    content: Digest,
    enqueued: Timestamp,
    lease: Duration,
) -> rusqlite::Result<ClaimReply> {
    let batch = tx.batch_or_new(&key.batch_key())?.no;
    let Some(mut row) = JobRow::find(tx.conn, batch, &key.id)? else {
        return claim_new(tx, key, batch, content, enqueued, lease);
    };
    if row.digest != content {
        return Ok(ClaimReply::Conflict);
    }
    let step = match row.state {
        State::Final(status) => return Ok(ClaimReply::AlreadyFinal(final_row(tx.conn, key, &row, status)?)),
        State::Running if row.lease_until > tx.now => return Ok(ClaimReply::Busy { until: row.lease_until }),
        State::Running => Step::Takeover,
        State::Queued => Step::Claim,
    };
    let before = row.share();
    row.state = row.state.after(step).ok_or_else(|| trouble::unreadable("state"))?;
    if let Some(open) = row.open.take() {
        row.tally.unknown += open;
        row.suspicion += 1.0;
    }
    row.token += 1;
    row.epoch = Some(tx.epoch);
    row.lease_until = tx.now.after(lease);
    row.store_owner(tx.conn)?;
    let mut trail = trail::of(tx.conn, row.no)?;
    if step == Step::Takeover {
        trail.add(tx.now, What::Abandoned);
    }
    trail.add(tx.now, What::Claimed { by: tx.epoch.to_string() });
    trail::store(tx.conn, row.no, &trail)?;
    if row.tally.model_calls > 0 {
        row.tally.savings = savings::of_job(tx.conn, row.no)?;
    }
    tx.batch_or_new(&key.batch_key())?.swap(Some(before), Some(row.share()));
    Ok(claimed(key, &row, trail))
}

fn claim_new(
    tx: &mut Tx<'_>,
    key: &JobKey,
    batch: i64,
    content: Digest,
    enqueued: Timestamp,
    lease: Duration,
) -> rusqlite::Result<ClaimReply> {
    let row = JobRow {
        no: 0,
        batch,
        state: State::Queued.after(Step::Claim).ok_or_else(|| trouble::unreadable("state"))?,
        generation: 0,
        token: 1,
        epoch: Some(tx.epoch),
        lease_until: tx.now.after(lease),
        tally: Tally::default(),
        open: None,
        suspicion: 0.0,
        digest: content,
        enqueued,
        message: None,
        done: None,
        usage: Usage::default(),
    };
    let no = row.insert(tx.conn, &key.id)?;
    let trail = trail::add(tx.conn, no, tx.now, What::Claimed { by: tx.epoch.to_string() })?;
    let batch = tx.batch_or_new(&key.batch_key())?;
    batch.swap(None, Some(row.share()));
    batch.reopen();
    Ok(claimed(key, &row, trail))
}

fn claimed(key: &JobKey, row: &JobRow, trail: Trail) -> ClaimReply {
    ClaimReply::Claimed(Claimed {
        fence: Fence { key: key.clone(), token: FencingToken(row.token) },
        generation: row.generation,
        tally: row.tally,
        suspicion: row.suspicion,
        enqueued: row.enqueued,
        trail,
    })
}

/// The row under this fence, if it is the newest.
fn fenced(tx: &mut Tx<'_>, fence: &Fence) -> rusqlite::Result<Option<JobRow>> {
    let Some(batch) = tx.batch(&fence.key.batch_key())?.map(|batch| batch.no) else { return Ok(None) };
    let row = JobRow::find(tx.conn, batch, &fence.key.id)?;
    Ok(row.filter(|row| row.token == fence.token.0))
}

/// Likewise, and still at work.
pub(super) fn ours(tx: &mut Tx<'_>, fence: &Fence) -> rusqlite::Result<Option<JobRow>> {
    Ok(fenced(tx, fence)?.filter(|row| row.state == State::Running))
}

fn begin(tx: &mut Tx<'_>, fence: &Fence, tally: Tally, open: Usd, cap: Option<Usd>) -> rusqlite::Result<BeginReply> {
    let Some(mut row) = ours(tx, fence)? else { return Ok(BeginReply::Lost) };
    let before = row.share();
    row.tally = tally;
    row.open = None;
    let settled = row.share();
    row.open = Some(open);
    if let Some(cap) = cap {
        let (whole, others) = committed_and_open(tx, &fence.key.batch)?;
        let committed = whole.saturating_sub(before.committed()) + settled.committed();
        if committed + open > cap {
            let open = others.saturating_sub(before.open.unwrap_or_default());
            return Ok(BeginReply::OverCap { committed, open });
        }
    }
    tx.batch_or_new(&fence.key.batch_key())?.swap(Some(before), Some(row.share()));
    row.store_tally(tx.conn)?;
    Ok(BeginReply::Begun)
}

/// Of all tenants of a batch and of the parts of its open jobs, this group's own changes included.
fn committed_and_open(tx: &mut Tx<'_>, name: &BatchName) -> rusqlite::Result<(Usd, Usd)> {
    let mut sums = (Usd::ZERO, Usd::ZERO);
    for key in parts::counted_with(tx.conn, name)? {
        if let Some(batch) = tx.batch(&key)? {
            sums = (sums.0 + batch.committed, sums.1 + batch.open);
        }
    }
    Ok(sums)
}

fn settle(tx: &mut Tx<'_>, fence: &Fence, tally: Tally, trail: &Trail) -> rusqlite::Result<Entry> {
    let Some(mut row) = ours(tx, fence)? else { return Ok(Err(EntryError::NotOurs)) };
    let before = row.share();
    (row.tally, row.open) = (tally, None);
    row.store_tally(tx.conn)?;
    trail::store(tx.conn, row.no, trail)?;
    savings::store(tx.conn, row.batch, row.no, tally.savings)?;
    tx.batch_or_new(&fence.key.batch_key())?.swap(Some(before), Some(row.share()));
    Ok(Ok(()))
}

fn extend(tx: &mut Tx<'_>, fence: &Fence, lease: Duration) -> rusqlite::Result<Entry> {
    let Some(row) = ours(tx, fence)? else { return Ok(Err(EntryError::NotOurs)) };
    tx.conn
        .prepare_cached("UPDATE job SET lease_until = ?2 WHERE no = ?1")?
        .execute([row.no, tx.now.after(lease).0])?;
    Ok(Ok(()))
}

fn hand_back(tx: &mut Tx<'_>, fence: &Fence, tally: Tally, trail: &Trail) -> rusqlite::Result<Entry> {
    let Some(mut row) = fenced(tx, fence)? else { return Ok(Err(EntryError::NotOurs)) };
    let Some(state) = row.state.after(Step::Release) else { return Ok(Err(EntryError::NotOurs)) };
    let before = row.share();
    (row.state, row.tally, row.open) = (state, tally, None);
    (row.epoch, row.lease_until) = (None, Timestamp(0));
    row.store_owner(tx.conn)?;
    trail::store(tx.conn, row.no, trail)?;
    savings::store(tx.conn, row.batch, row.no, tally.savings)?;
    tx.batch_or_new(&fence.key.batch_key())?.swap(Some(before), Some(row.share()));
    Ok(Ok(()))
}

fn finish(
    tx: &mut Tx<'_>,
    fence: &Fence,
    tally: Tally,
    ending: Ending,
    trail: &Trail,
) -> rusqlite::Result<FinishReply> {
    let Some(mut row) = fenced(tx, fence)? else { return Ok(FinishReply::Lost) };
    let batch_key = fence.key.batch_key();
    if let State::Final(status) = row.state {
        let row = final_row(tx.conn, &fence.key, &row, status)?;
        if row.ending.result != ending.result {
            return Ok(FinishReply::Lost);
        }
        let batch_complete = completes(tx, &batch_key)?;
        return Ok(FinishReply::Recorded { row: Box::new(row), batch_complete });
    }
    let Some(state) = row.state.after(Step::Record(ending.status)) else { return Ok(FinishReply::Lost) };
    let before = row.share();
    (row.state, row.tally, row.open, row.usage) = (state, tally, None, ending.usage);
    let done = tx.next_done()?;
    row.store_ending(tx.conn, &ending, done, tx.now)?;
    trail::store(tx.conn, row.no, trail)?;
    savings::end(tx.conn, row.batch, row.no, tally.savings)?;
    tx.batch_or_new(&batch_key)?.swap(Some(before), Some(row.share()));
    let batch_complete = completes(tx, &batch_key)?;
    let tally = Tally { savings: Savings::default(), ..tally };
    let row = FinalRow { key: fence.key.clone(), generation: row.generation, tally, ending };
    Ok(FinishReply::Recorded { row: Box::new(row), batch_complete })
}

fn completes(tx: &mut Tx<'_>, key: &BatchKey) -> rusqlite::Result<bool> {
    let conn = tx.conn;
    match tx.batch(key)? {
        Some(batch) => batch.waits_for_announcement(conn),
        None => Ok(false),
    }
}
