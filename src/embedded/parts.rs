//! Which jobs are parts of another, and when may that go on? One row a round of parts, over a batch of its own.
//!
//! Parts wait in the pool of the job that they are parts of, at its place in the line: a document that was begun is finished
//! before the next one is opened.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::batch::{BatchRow, Share};
use super::clerk::run_again;
use super::ledger;
use super::process::Inner;
use super::queue;
use super::rows::{JobRow, final_row};
use super::transaction::Tx;
use super::trouble;
use crate::job::ident::{BatchKey, BatchName, JobId, JobKey};
use crate::job::lifecycle::{State, Step};
use crate::job::outcome::{Savings, Tally, Usage};
use crate::job::spec::Job;
use crate::job::units::{Timestamp, Usd};
use crate::ports::{Fence, FinalRow, MessageId, Parts, Round, RoundStanding, StoreError};

/// The parts of one state directory's jobs.
#[derive(Clone, Debug)]
pub(super) struct EmbeddedParts {
    pub(super) inner: Arc<Inner>,
}

#[async_trait]
impl Parts for EmbeddedParts {
    async fn standing(&self, job: &Fence, generation: u32, round: u32) -> Result<Option<RoundStanding>, StoreError> {
        let key = job.key.clone();
        let look = move |conn: &Connection| standing(conn, &key, generation, round);
        self.inner.readers.read("looking for a document's chunks", look).await
    }

    async fn hand_out(
        &self,
        job: &Fence,
        generation: u32,
        message: &MessageId,
        round: Round,
    ) -> Result<bool, StoreError> {
        let (fence, message) = (job.clone(), message.0.parse::<i64>().ok());
        // Its own message is still here, and is all that is needed of it.
        let Round { number, of: _, parts, about } = round;
        // What can be done before the transaction, like every digest.
        let parts: Vec<_> = parts.into_iter().map(|part| (part.to_message(), part)).collect();
        let work = move |tx: &mut Tx<'_>| {
            let Some(parent) = ledger::ours(tx, &fence)? else { return Ok(false) };
            let Some((_, first)) = parts.first() else { return Ok(false) };
            let key = first.key.batch_key();
            let place = place_of(tx, &parent, message)?;
            let batch = tx.batch_or_new(&key)?.no;
            let before: Option<u32> = tx
                .conn
                .prepare_cached("SELECT generation FROM parts WHERE batch = ?1")?
                .query_row([batch], |row| row.get(0))
                .optional()?;
            let is_again = before.is_some_and(|before| before < generation);
            for (body, part) in &parts {
                put(tx, part, body, batch, place, is_again)?;
            }
            tx.batch_or_new(&key)?.seal();
            tx.conn
                .prepare_cached("INSERT OR REPLACE INTO parts (batch, parent, generation, round, about) VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![batch, parent.no, generation, number, about])?;
            Ok(true)
        };
        self.inner.committer.commit("queueing a document's chunks", work).await
    }

    async fn ends(&self, batch: &BatchKey, ids: &[JobId]) -> Result<Vec<Option<FinalRow>>, StoreError> {
        let (key, ids) = (batch.clone(), ids.to_vec());
        let look = move |conn: &Connection| {
            let Some(batch) = BatchRow::load(conn, &key)? else { return Ok(vec![None; ids.len()]) };
            let end = |id: &JobId| {
                let Some(row) = JobRow::find(conn, batch.no, id)? else { return Ok(None) };
                let State::Final(status) = row.state else { return Ok(None) };
                let key = JobKey { tenant: key.tenant.clone(), batch: key.batch.clone(), id: id.clone() };
                final_row(conn, &key, &row, status).map(Some)
            };
            ids.iter().map(end).collect()
        };
        self.inner.readers.read("reading the ends of chunks", look).await
    }

    async fn sum(&self, job: &Fence) -> Result<Tally, StoreError> {
        let key = job.key.clone();
        let look = move |conn: &Connection| {
            let Some(parent) = find(conn, &key)? else { return Ok(Tally::default()) };
            conn.prepare_cached(
                "SELECT coalesce(sum(attempts), 0), coalesce(sum(model_calls), 0), coalesce(sum(spent), 0),
                    coalesce(sum(unknown), 0)
                 FROM job WHERE batch IN (SELECT batch FROM parts WHERE parent = ?1)",
            )?
            .query_row([parent.no], |row| {
                let usd = |column| row.get::<_, i64>(column).map(|nanos| Usd::from_nanos(nanos.unsigned_abs()));
                let savings = Savings::default();
                Ok(Tally { attempts: row.get(0)?, model_calls: row.get(1)?, spent: usd(2)?, unknown: usd(3)?, savings })
            })
        };
        self.inner.readers.read("adding up chunks", look).await
    }

    async fn wake(&self, batch: &BatchKey) -> Result<(), StoreError> {
        let key = batch.clone();
        let work = move |tx: &mut Tx<'_>| {
            let Some(batch) = tx.batch(&key)?.filter(|batch| batch.counts.open() == 0) else { return Ok(()) };
            batch.mark_announced();
            let no = batch.no;
            let woken = tx
                .conn
                .prepare_cached(
                    "UPDATE message SET hidden_until = NULL, epoch = NULL WHERE id =
                        (SELECT j.message FROM parts p JOIN job j ON j.no = p.parent
                         WHERE p.batch = ?1 AND j.state = 'queued')",
                )?
                .execute([no])?;
            tx.effects.arrived |= woken > 0;
            Ok(())
        };
        self.inner.committer.commit("waking a document", work).await
    }
}

/// From the parts to their jobs, and not the other way round: a batch may have a million jobs and no document.
pub(super) const UNSETTLED: &str = "SELECT batch, sum(max(spent - own, 0)), sum(max(committed - own, 0)) FROM (
    SELECT j.batch, sum(b.spent) AS spent, sum(b.committed) AS committed, j.spent + j.unknown AS own
    FROM parts p CROSS JOIN job j ON j.no = p.parent JOIN batch b ON b.no = p.batch
    WHERE j.done IS NULL GROUP BY j.no) GROUP BY batch";

/// What the open jobs of documents have cost by their chunks, beyond what stands in their own rows: spent and committed, by
/// the number of the jobs' batch.
pub(super) fn unsettled(conn: &Connection) -> rusqlite::Result<HashMap<i64, (Usd, Usd)>> {
    let usd = |nanos: i64| Usd::from_nanos(nanos.unsigned_abs());
    conn.prepare_cached(UNSETTLED)?
        .query_map([], |row| Ok((row.get(0)?, (usd(row.get(1)?), usd(row.get(2)?)))))?
        .collect()
}

/// The batches whose costs count together under a cap, with this one: those of parts count where their jobs do. With each
/// batch of parts, what its job's own row holds of it already is none: an open document's row counts nothing yet.
pub(super) fn counted_with(conn: &Connection, name: &BatchName) -> rusqlite::Result<Vec<BatchKey>> {
    let owner: Option<String> = conn
        .prepare_cached(
            "SELECT o.name FROM batch b JOIN parts p ON p.batch = b.no JOIN job j ON j.no = p.parent
                JOIN batch o ON o.no = j.batch WHERE b.name = ?1",
        )?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()?;
    let owner = match owner {
        Some(owner) => BatchName::new(&owner).map_err(|_| trouble::unreadable("name"))?,
        None => name.clone(),
    };
    let mut keys = BatchRow::keys(conn, &owner)?;
    let mut parts = conn.prepare_cached(
        "SELECT p.batch FROM parts p JOIN job j ON j.no = p.parent JOIN batch o ON o.no = j.batch
         WHERE o.name = ?1 AND j.done IS NULL",
    )?;
    for no in parts.query_map([owner.as_str()], |row| row.get(0))? {
        keys.extend(BatchRow::key_of(conn, no?)?);
    }
    Ok(keys)
}

/// The batches of parts of this batch's jobs.
pub(super) fn below(conn: &Connection, batch: &BatchName) -> rusqlite::Result<Vec<BatchName>> {
    let mut names = conn.prepare_cached(
        "SELECT DISTINCT b.name FROM parts p JOIN batch b ON b.no = p.batch JOIN job j ON j.no = p.parent
            JOIN batch o ON o.no = j.batch WHERE o.name = ?1",
    )?;
    let names = names.query_and_then([batch.as_str()], |row| {
        BatchName::new(row.get_ref(0)?.as_str()?).map_err(|_| trouble::unreadable("name"))
    })?;
    names.collect()
}

/// The rounds of a job's parts: the number of each batch, in their order.
pub(super) fn rounds(conn: &Connection, job: i64) -> rusqlite::Result<Vec<i64>> {
    let mut rounds = conn.prepare_cached("SELECT batch FROM parts WHERE parent = ?1 ORDER BY round, generation")?;
    rounds.query_map([job], |row| row.get(0))?.collect()
}

/// Takes out the parts of a job that is withdrawn, as far as they wait; what they have cost stays in their batch.
pub(super) fn withdraw(tx: &mut Tx<'_>, job: i64) -> rusqlite::Result<()> {
    for batch in rounds(tx.conn, job)? {
        let Some(key) = BatchRow::key_of(tx.conn, batch)? else { continue };
        let waiting: Vec<i64> = tx
            .conn
            .prepare_cached("SELECT no FROM job WHERE batch = ?1 AND state = 'queued'")?
            .query_map([batch], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for no in waiting {
            let Some(row) = JobRow::by_no(tx.conn, no)? else { continue };
            if let Some(message) = row.message {
                queue::remove(tx.conn, message)?;
            }
            tx.conn.prepare_cached("DELETE FROM job WHERE no = ?1")?.execute([no])?;
            tx.batch_or_new(&key)?.swap(Some(Share { spent: Usd::ZERO, unknown: Usd::ZERO, ..row.share() }), None);
        }
    }
    tx.conn.prepare_cached("DELETE FROM parts WHERE parent = ?1")?.execute([job])?;
    Ok(())
}

fn find(conn: &Connection, key: &JobKey) -> rusqlite::Result<Option<JobRow>> {
    match BatchRow::load(conn, &key.batch_key())? {
        Some(batch) => JobRow::find(conn, batch.no, &key.id),
        None => Ok(None),
    }
}

fn standing(conn: &Connection, key: &JobKey, generation: u32, round: u32) -> rusqlite::Result<Option<RoundStanding>> {
    let Some(parent) = find(conn, key)? else { return Ok(None) };
    let found: Option<(i64, String)> = conn
        .prepare_cached("SELECT batch, about FROM parts WHERE parent = ?1 AND generation = ?2 AND round = ?3")?
        .query_row(params![parent.no, generation, round], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((no, about)) = found else { return Ok(None) };
    let Some(batch) = BatchRow::key_of(conn, no)? else { return Ok(None) };
    let Some(row) = BatchRow::load(conn, &batch)? else { return Ok(None) };
    Ok(Some(RoundStanding { batch, about, open: row.counts.open(), total: row.counts.total() }))
}

/// Pool and place in the line of the job's message, whose number goes into its row if nobody wrote it there yet.
fn place_of(tx: &mut Tx<'_>, parent: &JobRow, message: Option<i64>) -> rusqlite::Result<(i64, Option<i64>)> {
    let message = parent.message.or(message);
    tx.conn
        .prepare_cached("UPDATE job SET message = ?2 WHERE no = ?1 AND message IS NULL")?
        .execute(params![parent.no, message])?;
    let found = tx
        .conn
        .prepare_cached("SELECT pool, seq FROM message WHERE id = ?1")?
        .query_row([message], |row| Ok((row.get(0)?, Some(row.get(1)?))))
        .optional()?;
    match found {
        Some(place) => Ok(place),
        // Its message is gone: somebody else ends the job, and the parts are found to be there.
        None => Ok((queue::pool_or_new(tx.conn, &BatchName::none())?, None)),
    }
}

fn put(
    tx: &mut Tx<'_>,
    part: &Job,
    body: &str,
    batch: i64,
    (pool, seq): (i64, Option<i64>),
    is_again: bool,
) -> rusqlite::Result<()> {
    let key = part.key.batch_key();
    let row = JobRow::find(tx.conn, batch, &part.key.id)?;
    let again = row.as_ref().and_then(|row| row.state.after(Step::Redrive)).filter(|_| is_again);
    if row.is_some() && again.is_none() {
        return Ok(());
    }
    let message = (body, part.trace.as_ref());
    let message = queue::put(tx, pool, Some(&part.model), part.priority.get(), message, None)?;
    if let Some(seq) = seq {
        tx.conn.prepare_cached("UPDATE message SET seq = ?2 WHERE id = ?1")?.execute([message, seq])?;
    }
    if let (Some(row), Some(state)) = (row, again) {
        return run_again(tx, &row, state, &key, part.digest(), message);
    }
    let row = JobRow {
        no: 0,
        batch,
        state: State::Queued,
        generation: 0,
        token: 0,
        epoch: None,
        lease_until: Timestamp(0),
        tally: Tally::default(),
        open: None,
        suspicion: 0.0,
        digest: part.digest(),
        enqueued: tx.now,
        message: Some(message),
        done: None,
        usage: Usage::default(),
    };
    row.insert(tx.conn, &part.key.id)?;
    let batch = tx.batch_or_new(&key)?;
    batch.swap(None, Some(row.share()));
    batch.reopen();
    Ok(())
}
