//! What does one line of an input become? Decided and written inside the transaction of its call.

use std::collections::HashMap;

use rusqlite::params;

use super::batch::Counts;
use super::queue;
use super::rows::{JobRow, int};
use super::transaction::Tx;
use super::{trail, trouble};
use crate::job::ident::{BatchKey, BatchName, Digest, JobId, JobKey};
use crate::job::lifecycle::{State, Step};
use crate::job::outcome::{Pointer, Tally, Usage};
use crate::job::spec::Job;
use crate::job::trail::What as Happened;
use crate::job::units::Timestamp;
use crate::ports::rolls::{Entry, Line, Standing};

/// A line with everything that needs no transaction.
pub(super) struct Ready {
    position: u64,
    pub(super) what: What,
}

pub(super) enum What {
    Job { job: Box<Job>, digest: Digest, message: String, auto_id: bool, stale_deadline: bool },
    Refused { key: BatchKey, id: String, line: Vec<u8>, sha256: Digest, result: Option<Pointer> },
}

impl Ready {
    pub(super) fn of(entry: Entry, batch: &BatchName) -> Self {
        let what = match entry.line {
            Line::Job { mut job, auto_id, stale_deadline } => {
                job.key.batch = batch.clone();
                let (digest, message) = (job.digest(), job.to_message());
                What::Job { job, digest, message, auto_id, stale_deadline }
            }
            Line::Refused { tenant, id, result_line } => What::Refused {
                key: BatchKey { tenant, batch: batch.clone() },
                id,
                sha256: Digest::of(&result_line),
                line: result_line,
                result: None,
            },
        };
        Self { position: entry.position, what }
    }

    pub(super) fn refusal(&self) -> Option<(BatchKey, Digest)> {
        match &self.what {
            What::Refused { key, sha256, .. } => Some((key.clone(), *sha256)),
            What::Job { .. } => None,
        }
    }
}

/// Enrols the lines of one call inside their transaction.
pub(super) struct Clerk<'t, 'c> {
    pub(super) tx: &'t mut Tx<'c>,
    pub(super) pool: i64,
    pub(super) roll: i64,
    pub(super) retry_failed: bool,
    pub(super) counted: i64,
    pub(super) repeats: &'t HashMap<Digest, u32>,
    pub(super) more: HashMap<Digest, u32>,
    pub(super) ended: Counts,
}

impl Clerk<'_, '_> {
    pub(super) fn enrol(&mut self, line: &Ready) -> rusqlite::Result<Standing> {
        match &line.what {
            What::Refused { key, id, sha256, result, .. } => self.enrol_refused(line.position, key, id, sha256, result),
            What::Job { job, digest, message, auto_id: false, stale_deadline } => {
                self.enrol_job(line.position, job, *digest, message, *stale_deadline)
            }
            What::Job { job, digest, message, auto_id: true, stale_deadline } => {
                self.enrol_unnamed(line.position, job, *digest, message, *stale_deadline)
            }
        }
    }

    /// The first of its content keeps the digest as its id; the others are numbered.
    fn enrol_unnamed(
        &mut self,
        position: u64,
        job: &Job,
        digest: Digest,
        message: &str,
        stale: bool,
    ) -> rusqlite::Result<Standing> {
        let standing = self.enrol_job(position, job, digest, message, stale)?;
        if standing != Standing::SameLineTwice {
            return Ok(standing);
        }
        // Content of two tenants is counted apart, as their jobs are.
        let count = Digest::of(format!("{}\0{}", job.key.tenant, job.key.id).as_bytes());
        loop {
            let nth = self.more.get(&count).or_else(|| self.repeats.get(&count)).copied().unwrap_or(1) + 1;
            self.more.insert(count, nth);
            let Ok(id) = JobId::new(&format!("{}-{nth}", job.key.id)) else { return Ok(standing) };
            let mut renamed = job.clone();
            renamed.key = JobKey { id, ..renamed.key };
            let standing = self.enrol_job(position, &renamed, digest, &renamed.to_message(), stale)?;
            if standing != Standing::SameLineTwice {
                return Ok(standing);
            }
        }
    }

    fn enrol_job(
        &mut self,
        position: u64,
        job: &Job,
        digest: Digest,
        message: &str,
        stale: bool,
    ) -> rusqlite::Result<Standing> {
        let key = job.key.batch_key();
        let batch = self.tx.batch_or_new(&key)?.no;
        let Some(row) = JobRow::find(self.tx.conn, batch, &job.key.id)? else {
            if stale {
                return Ok(Standing::StaleDeadline);
            }
            return self.enrol_new(position, job, batch, digest, message);
        };
        let here = self.is_on_roll(row.no)?;
        let redrive = if self.retry_failed && !here { row.state.after(Step::Redrive) } else { None };
        // It would only expire once more. Under other content it is a job that is not known.
        let redrive = match redrive {
            Some(_) if stale && row.digest != digest => return Ok(Standing::StaleDeadline),
            Some(_) if stale => None,
            redrive => redrive,
        };
        let standing = match (redrive, row.state) {
            (Some(state), _) => {
                let message = self.put(job, message)?;
                run_again(self.tx, &row, state, &job.key.batch_key(), digest, message)?;
                Standing::Redriven
            }
            (None, with) if row.digest != digest => return Ok(Standing::Conflict { with }),
            (None, _) if here => return Ok(Standing::SameLineTwice),
            (None, State::Final(status)) => {
                // Later ends are found when ends are read; earlier ones were read past.
                if row.done.is_none_or(|done| done <= self.counted) {
                    *self.ended.of(row.state) += 1;
                }
                Standing::Final(status)
            }
            (None, State::Queued | State::Running) => {
                self.ensure_message(&row, job, message)?;
                if row.state == State::Queued { Standing::Queued } else { Standing::Running }
            }
        };
        self.put_on_roll(position, Some(row.no), None)?;
        Ok(standing)
    }

    fn enrol_new(
        &mut self,
        position: u64,
        job: &Job,
        batch: i64,
        digest: Digest,
        message: &str,
    ) -> rusqlite::Result<Standing> {
        let no = queue_new(self.tx, self.pool, job, batch, digest, message)?;
        self.put_on_roll(position, Some(no), None)?;
        Ok(Standing::New)
    }

    /// Puts the job's message into the queue; its id.
    fn put(&mut self, job: &Job, message: &str) -> rusqlite::Result<i64> {
        queue::put(self.tx, self.pool, Some(&job.model), job.priority.get(), (message, job.trace.as_ref()), None)
    }

    /// A job that waits must be in the queue; its message can have gone to the dead letters.
    fn ensure_message(&mut self, row: &JobRow, job: &Job, message: &str) -> rusqlite::Result<()> {
        let there: bool = self
            .tx
            .conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM message WHERE id = ?1)")?
            .query_row([row.message], |row| row.get(0))?;
        if !there {
            let id = self.put(job, message)?;
            self.tx.conn.prepare_cached("UPDATE job SET message = ?2 WHERE no = ?1")?.execute([row.no, id])?;
        }
        Ok(())
    }

    /// The same refused line in the next run of the same input is the same result, with the same place in the order.
    fn enrol_refused(
        &mut self,
        position: u64,
        key: &BatchKey,
        id: &str,
        sha256: &Digest,
        result: &Option<Pointer>,
    ) -> rusqlite::Result<Standing> {
        let batch = self.tx.batch_or_new(key)?.no;
        let known: Option<i64> = self
            .tx
            .conn
            .prepare_cached(
                "SELECT min(no) FROM refusal r WHERE batch = ?1 AND sha256 = ?2
                    AND NOT EXISTS (SELECT 1 FROM roll_line l WHERE l.refusal = r.no AND l.roll = ?3)",
            )?
            .query_row(params![batch, sha256.as_bytes(), self.roll], |row| row.get(0))?;
        let refusal = match (known, result) {
            (Some(no), _) => no,
            (None, Some(result)) => {
                let done = self.tx.next_done()?;
                self.tx
                    .conn
                    .prepare_cached(
                        "INSERT INTO refusal (batch, id, done, uri, offset, length, sha256)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    )?
                    .execute(params![
                        batch,
                        id,
                        done,
                        result.uri,
                        int(result.offset),
                        int(result.length),
                        result.sha256.as_bytes()
                    ])?;
                self.tx.conn.last_insert_rowid()
            }
            (None, None) => return Err(trouble::unreadable("refusal")),
        };
        self.put_on_roll(position, None, Some(refusal))?;
        Ok(Standing::Refused)
    }

    fn is_on_roll(&self, job: i64) -> rusqlite::Result<bool> {
        self.tx
            .conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM roll_line WHERE job = ?1 AND roll = ?2)")?
            .query_row([job, self.roll], |row| row.get(0))
    }

    fn put_on_roll(&self, position: u64, job: Option<i64>, refusal: Option<i64>) -> rusqlite::Result<()> {
        self.tx
            .conn
            .prepare_cached("INSERT INTO roll_line (roll, position, job, refusal) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![self.roll, int(position), job, refusal])?;
        Ok(())
    }
}

/// Queues a job of which there is no row: its message and its row, whose number it returns.
pub(super) fn queue_new(
    tx: &mut Tx<'_>,
    pool: i64,
    job: &Job,
    batch: i64,
    digest: Digest,
    message: &str,
) -> rusqlite::Result<i64> {
    let message = queue::put(tx, pool, Some(&job.model), job.priority.get(), (message, job.trace.as_ref()), None)?;
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
        digest,
        enqueued: tx.now,
        message: Some(message),
        done: None,
        usage: Usage::default(),
    };
    let no = row.insert(tx.conn, &job.key.id)?;
    let batch = tx.batch_or_new(&job.key.batch_key())?;
    batch.swap(None, Some(row.share()));
    batch.reopen();
    Ok(no)
}

/// Opens the next generation of a job that had failed or expired, under its new content and message, and takes it out of its
/// batch's counts.
pub(super) fn run_again(
    tx: &mut Tx<'_>,
    row: &JobRow,
    state: State,
    key: &BatchKey,
    digest: Digest,
    message: i64,
) -> rusqlite::Result<()> {
    let mut again = row.clone();
    (again.state, again.generation, again.digest) = (state, row.generation + 1, digest);
    (again.enqueued, again.usage, again.tally.attempts) = (tx.now, Usage::default(), 0);
    again.message = Some(message);
    again.store_redriven(tx.conn)?;
    trail::add(tx.conn, row.no, tx.now, Happened::Redriven)?;
    let batch = tx.batch_or_new(key)?;
    batch.swap(Some(row.share()), Some(again.share()));
    batch.reopen();
    Ok(())
}
