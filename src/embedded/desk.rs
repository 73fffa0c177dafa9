//! How does an input become jobs? Line by line, each found new, known, ended or in conflict, and written down on this
//! run's roll, so that the results file can hold exactly the lines of the input that is being run.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use rusqlite::Connection;
use tokio::sync::Mutex;

use super::batch::{BatchRow, Counts};
use super::clerk::{Clerk, Ready, What};
use super::process::Inner;
use super::queue::pool_or_new;
use super::roll::{self, DoneSeq, Ended, Progress};
use super::stray::{CHUNK, drop_old_rolls, strays, withdraw};
use super::transaction::Tx;
use super::trouble;
use crate::job::ident::{BatchKey, BatchName, Digest};
use crate::job::lifecycle::{State, Status};
use crate::ports::rolls::{Entry, Standing};
use crate::ports::{StoreError, StoreTrouble};

/// What a sealed roll holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sealed {
    /// Jobs and refused lines.
    pub lines: u64,
    /// Jobs.
    pub jobs: u64,
    /// Jobs of earlier inputs that were waiting and that nobody asks for any more.
    pub withdrawn: u64,
}

/// A run's roll: the lines of its input, in input order.
#[derive(Debug)]
pub struct Run {
    inner: Arc<Inner>,
    batch: BatchName,
    pool: i64,
    roll: i64,
    /// Held while lines are prepared.
    turn: Mutex<()>,
    /// Held while lines are enrolled, so that every end is counted once.
    seen: Mutex<Seen>,
    last: std::sync::Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Seen {
    /// How often content without an id occurred; only of what occurred more than once.
    repeats: Arc<std::sync::Mutex<HashMap<Digest, u32>>>,
    jobs: u64,
    refused: u64,
    ended: Counts,
    /// Ends up to here are counted.
    counted: i64,
}

impl Run {
    pub(super) async fn begin(inner: Arc<Inner>, batch: BatchName) -> Result<Self, StoreError> {
        let name = batch.clone();
        let doing = "beginning a run";
        let work = move |tx: &mut Tx<'_>| {
            if BatchRow::list(tx.conn, Some(&name))?.iter().any(|batch| batch.forgetting) {
                return Ok(None);
            }
            let pool = pool_or_new(tx.conn, &name)?;
            tx.conn
                .prepare_cached("INSERT INTO roll (pool, epoch, sealed) VALUES (?1, ?2, 0)")?
                .execute([pool, tx.epoch])?;
            let roll = tx.conn.last_insert_rowid();
            let counted: i64 = tx
                .conn
                .prepare_cached("SELECT coalesce(max(done), 0) FROM job WHERE done IS NOT NULL")?
                .query_row([], |row| row.get(0))?;
            Ok(Some((pool, roll, counted)))
        };
        let Some((pool, roll, counted)) = inner.committer.commit(doing, work).await? else {
            return Err(trouble::of_ours(StoreTrouble::Away, doing, "the batch is just being forgotten"));
        };
        let seen = Mutex::new(Seen { counted, ..Seen::default() });
        Ok(Self { inner, batch, pool, roll, turn: Mutex::default(), seen, last: std::sync::Mutex::default() })
    }

    /// Takes lines in, in input order: one transaction a call. Standings stand in the order of the entries. Two calls
    /// polled at a time, in order, are quicker than one after the other.
    ///
    /// # Errors
    /// What the database or the file system said; then no line of the call was taken in.
    pub async fn enrol(&self, entries: Vec<Entry>, retry_failed: bool) -> Result<Vec<Standing>, StoreError> {
        // Hand over hand: calls keep their order, and one is prepared while the one before is committed.
        let turn = self.turn.lock().await;
        let lines = self.prepare(entries).await?;
        let mut seen = self.seen.lock().await;
        drop(turn);
        let (pool, roll, counted) = (self.pool, self.roll, seen.counted);
        let repeats = Arc::clone(&seen.repeats);
        let work = move |tx: &mut Tx<'_>| {
            let repeats = repeats.lock().unwrap_or_else(PoisonError::into_inner);
            let (more, ended) = (HashMap::new(), Counts::default());
            let mut clerk = Clerk { tx, pool, roll, retry_failed, counted, repeats: &repeats, more, ended };
            let standings = lines.iter().map(|line| clerk.enrol(line)).collect::<rusqlite::Result<Vec<_>>>()?;
            Ok((standings, clerk.more, clerk.ended))
        };
        let (standings, more, ended) = self.inner.committer.commit("enrolling lines", work).await?;
        seen.repeats.lock().unwrap_or_else(PoisonError::into_inner).extend(more);
        for standing in &standings {
            match standing {
                Standing::New | Standing::Queued | Standing::Running | Standing::Final(_) | Standing::Redriven => {
                    seen.jobs += 1;
                }
                Standing::Refused => seen.refused += 1,
                Standing::SameLineTwice | Standing::Conflict { .. } | Standing::StaleDeadline => {}
            }
        }
        for status in Status::ALL.map(State::Final) {
            let mut ended = ended;
            *seen.ended.of(status) += *ended.of(status);
        }
        Ok(standings)
    }

    /// Ends the input. Waiting jobs of the batch that stand on no living process's roll are withdrawn, row and
    /// message: what was taken out of an edited input is not paid for. The batch can be complete from here on.
    ///
    /// # Errors
    /// What the database said; the call may be repeated.
    pub async fn seal(&self) -> Result<Sealed, StoreError> {
        let doing = "sealing a batch";
        let _turn = self.turn.lock().await;
        let seen = self.seen.lock().await;
        let (batch, jobs) = (self.batch.clone(), seen.jobs);
        let candidates = self.inner.readers.read(doing, move |conn| strays(conn, &batch, jobs)).await?;
        let mut withdrawn = 0;
        for chunk in candidates.chunks(CHUNK) {
            let chunk = chunk.to_vec();
            let work = move |tx: &mut Tx<'_>| {
                chunk.into_iter().try_fold(0_u64, |count, no| Ok(count + u64::from(withdraw(tx, no)?)))
            };
            withdrawn += self.inner.committer.commit(doing, work).await?;
        }
        let (batch, roll) = (self.batch.clone(), self.roll);
        let work = move |tx: &mut Tx<'_>| {
            tx.conn.prepare_cached("UPDATE roll SET sealed = 1 WHERE no = ?1")?.execute([roll])?;
            for key in BatchRow::list(tx.conn, Some(&batch))?.into_iter().map(|row| row.key) {
                tx.batch_or_new(&key)?.seal();
            }
            Ok(())
        };
        self.inner.committer.commit(doing, work).await?;
        tokio::spawn(drop_old_rolls(Arc::clone(&self.inner), self.pool, self.roll));
        Ok(Sealed { lines: seen.jobs + seen.refused, jobs: seen.jobs, withdrawn })
    }

    /// How far this roll is. Cheap: only what ended since the last call is read; while lines are being taken in, the
    /// last answer is given again. A job that another process redrives meanwhile is counted at each of its ends.
    ///
    /// # Errors
    /// What the database said.
    pub async fn progress(&self) -> Result<Progress, StoreError> {
        let Ok(mut seen) = self.seen.try_lock() else { return Ok(self.last_progress()) };
        let (roll, counted, batch) = (self.roll, seen.counted, self.batch.clone());
        let look = move |conn: &Connection| {
            let snapshot = conn.unchecked_transaction()?;
            Ok((roll::ended_since(&snapshot, roll, counted)?, roll::batch_sums(&snapshot, &batch)?))
        };
        let ((ends, counted), (running, spent, committed)) =
            self.inner.readers.read("reading the progress", look).await?;
        seen.counted = counted;
        for state in ends {
            *seen.ended.of(state) += 1;
        }
        let mut counts = seen.ended;
        let open = seen.jobs.saturating_sub(counts.total());
        counts.running = running.min(open);
        counts.queued = open - counts.running;
        counts.rejected += seen.refused;
        let progress = Progress { counts, spent, committed };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = progress;
        Ok(progress)
    }

    /// The roll's lines by state, counted one by one: for the last word at the end of a run.
    ///
    /// # Errors
    /// What the database said.
    pub async fn census(&self) -> Result<Counts, StoreError> {
        let roll = self.roll;
        self.inner.readers.read("counting the lines of a run", move |conn| roll::census(conn, roll)).await
    }

    /// At most `limit` lines of this roll that ended after `after`, in the order in which they were committed, by
    /// whichever process; refused lines included. A job that had ended before it was enrolled can stand below a cursor
    /// that has passed its place: read from zero once the roll is sealed.
    ///
    /// # Errors
    /// What the database said.
    pub async fn finals(&self, after: DoneSeq, limit: usize) -> Result<Vec<Ended>, StoreError> {
        let roll = self.roll;
        self.inner.readers.read("reading ended jobs", move |conn| roll::finals(conn, roll, after, limit)).await
    }

    /// Whether messages of ended jobs of this roll wait to be delivered, or are in this process's hands: somebody died, or
    /// was in trouble, between an end and its notice, and a worker that stops now hands them back. Cheap while nothing waits.
    ///
    /// # Errors
    /// What the database said.
    pub async fn has_ended_in_queue(&self) -> Result<bool, StoreError> {
        let (roll, pool, epoch, now) = (self.roll, self.pool, self.inner.epoch, self.inner.clock.now());
        let look = move |conn: &Connection| roll::has_ended_in_queue(conn, roll, pool, epoch, now);
        self.inner.readers.read("looking for notices that are owed", look).await
    }

    /// Changes whenever this process has committed an end; to wait on instead of polling. What other processes
    /// commit is only found by [`Run::finals`].
    pub fn ended(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.bell.ended.subscribe()
    }

    fn last_progress(&self) -> Progress {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What can be done before the transaction: digests, messages, and the stored results of refused lines.
    async fn prepare(&self, entries: Vec<Entry>) -> Result<Vec<Ready>, StoreError> {
        let doing = "preparing lines";
        let batch = self.batch.clone();
        let work =
            tokio::task::spawn_blocking(move || entries.into_iter().map(|entry| Ready::of(entry, &batch)).collect());
        let mut lines: Vec<Ready> =
            work.await.map_err(|gone| trouble::of_ours(StoreTrouble::Other, doing, gone.to_string()))?;
        let refused: Vec<(BatchKey, Digest)> = lines.iter().filter_map(Ready::refusal).collect();
        if refused.is_empty() {
            return Ok(lines);
        }
        let look = move |conn: &Connection| {
            let known = |(key, sha256): &(BatchKey, Digest)| match BatchRow::load(conn, key)? {
                Some(batch) => roll::stored_refusal(conn, batch.no, sha256),
                None => Ok(None),
            };
            refused.iter().map(known).collect::<rusqlite::Result<Vec<_>>>()
        };
        let mut known = self.inner.readers.read(doing, look).await?.into_iter();
        let stores = lines.iter_mut().filter_map(|line| match &mut line.what {
            What::Refused { key, line, result, .. } => Some((key, line, result, known.next().flatten())),
            What::Job { .. } => None,
        });
        let appended = stores.map(async |(key, line, result, known)| -> Result<(), StoreError> {
            *result = match known {
                Some(pointer) => Some(pointer),
                None => Some(self.inner.segments.append(key.clone(), std::mem::take(line).into()).await?),
            };
            Ok(())
        });
        futures_util::future::try_join_all(appended).await?;
        Ok(lines)
    }
}
