//! What lies among the dead letters, and how does it get out again? A message goes back into the queue, or for good, in one
//! transaction; with it a job that had failed or expired runs again, out of its batch's counts as by `--retry-failed`.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::clerk::run_again;
use super::process::Inner;
use super::queue;
use super::report::DeadLetter;
use super::rows::JobRow;
use super::transaction::Tx;
use super::trouble;
use crate::job::document::Place;
use crate::job::ident::{BatchName, JobKey};
use crate::job::intake::{Defaults, parse_message};
use crate::job::lifecycle::Step;
use crate::job::spec::Job;
use crate::job::units::Timestamp;
use crate::ports::{MessageId, StoreError};

/// A message among the dead letters.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadMessage {
    /// Its name.
    pub id: MessageId,
    /// Of which batch it was sent.
    pub batch: BatchName,
    /// Which job it holds, if it is one at all.
    pub job: Option<JobKey>,
    /// Why it lies there, since when, and how often it was delivered.
    pub letter: DeadLetter,
    /// When it was sent.
    pub sent: Timestamp,
}

/// What putting a message back came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Redriven {
    /// It is in the queue; the job it holds had not ended, has succeeded, or is not known.
    Queued,
    /// Likewise, and its job, which had failed or expired, runs again under the next generation.
    RunsAgain,
    /// It was not there any more.
    Gone,
}

/// All of them, oldest first.
pub(super) fn list(conn: &Connection) -> rusqlite::Result<Vec<DeadMessage>> {
    let mut statement = conn.prepare_cached(
        "SELECT dead.id, pool.name, reason, died, receives, sent, text
         FROM dead JOIN pool ON pool.no = dead.pool ORDER BY died, dead.id",
    )?;
    let found = statement.query_and_then([], |row| {
        let id = MessageId(row.get::<_, i64>(0)?.to_string());
        let batch = BatchName::new(row.get_ref(1)?.as_str()?).map_err(|_| trouble::unreadable("name"))?;
        let job = job(row.get_ref(6)?.as_str()?, &id, &batch).map(|job| job.key);
        let letter = DeadLetter { reason: row.get(2)?, died: Timestamp(row.get(3)?), receives: row.get(4)? };
        Ok(DeadMessage { id, batch, job, letter, sent: Timestamp(row.get(5)?) })
    })?;
    found.collect()
}

/// What one of them holds.
pub(super) fn body(conn: &Connection, id: &MessageId) -> rusqlite::Result<Option<String>> {
    let Ok(id) = id.0.parse::<i64>() else { return Ok(None) };
    conn.prepare_cached("SELECT text FROM dead WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()
}

/// Puts them back, in one transaction; what became of each.
pub(super) async fn put_back(inner: &Arc<Inner>, ids: Vec<MessageId>) -> Result<Vec<Redriven>, StoreError> {
    let work = move |tx: &mut Tx<'_>| ids.iter().map(|id| put_back_one(tx, id)).collect();
    inner.committer.commit("putting dead letters back", work).await
}

/// Throws them away, in one transaction; how many were there.
pub(super) async fn drop_all(inner: &Arc<Inner>, ids: Vec<MessageId>) -> Result<usize, StoreError> {
    let work = move |tx: &mut Tx<'_>| {
        let mut count = 0;
        for id in ids.iter().filter_map(|id| id.0.parse::<i64>().ok()) {
            count += tx.conn.prepare_cached("DELETE FROM dead WHERE id = ?1")?.execute([id])?;
        }
        Ok(count)
    };
    inner.committer.commit("throwing dead letters away", work).await
}

fn put_back_one(tx: &mut Tx<'_>, id: &MessageId) -> rusqlite::Result<Redriven> {
    let Ok(no) = id.0.parse::<i64>() else { return Ok(Redriven::Gone) };
    let found = tx
        .conn
        .prepare_cached(
            "DELETE FROM dead WHERE id = ?1 RETURNING pool, priority, reason, text,
                (SELECT name FROM pool WHERE pool.no = dead.pool)",
        )?
        .query_row([no], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, u8>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, String>(3)?,
                row.get::<_, String>(4)?,
            ))
        })
        .optional()?;
    let Some((pool, priority, reason, text, name)) = found else { return Ok(Redriven::Gone) };
    let batch = BatchName::new(&name).map_err(|_| trouble::unreadable("name"))?;
    let Some(job) = job(&text, id, &batch) else {
        queue::put(tx, pool, None, priority, (&text, None), None)?;
        return Ok(Redriven::Queued);
    };
    let known = match tx.batch(&job.key.batch_key())?.map(|batch| batch.no) {
        Some(batch) => JobRow::find(tx.conn, batch, &job.key.id)?,
        None => None,
    };
    let message = queue::put(tx, pool, Some(&job.model), priority, (&text, None), None)?;
    let Some(row) = known else { return Ok(Redriven::Queued) };
    let outcome = if let Some(state) = row.state.after(Step::Redrive) {
        run_again(tx, &row, state, &job.key.batch_key(), job.digest(), message)?;
        Redriven::RunsAgain
    } else {
        if row.message == Some(no) {
            tx.conn.prepare_cached("UPDATE job SET message = ?2 WHERE no = ?1")?.execute([row.no, message])?;
        }
        Redriven::Queued
    };
    tx.conn
        .prepare_cached("INSERT OR REPLACE INTO redriven (job, at, reason) VALUES (?1, ?2, ?3)")?
        .execute(params![row.no, tx.now.0, reason])?;
    Ok(outcome)
}

/// The job that a message holds, as a worker would read it.
fn job(text: &str, id: &MessageId, batch: &BatchName) -> Option<Job> {
    // Every name is taken for one of a model here: which there are, a worker decides.
    let defaults = Defaults {
        batch,
        model: None,
        only_model: None,
        answers_callbacks: true,
        documents: Ok(Place::Files),
        no_ingestions: None,
        is_known: &|_| true,
    };
    parse_message(text, &id.0, &defaults).ok()
}
