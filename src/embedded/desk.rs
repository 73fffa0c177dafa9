//! How does an input become jobs? Line by line, each found new, known, ended or in conflict, and written down on this
//! run's roll, so that the results file can hold exactly the lines of the input that is being run.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use rusqlite::{Connection, params};
use tokio::sync::Mutex;

use super::process::Inner;
use super::queue::{self, pool_or_new};
use super::roll::{self, DoneSeq, Ended, Progress};
use super::rows::{JobRow, int};
use super::transaction::{BatchRow, Counts, Share, Tx};
use super::trouble;
use crate::job::ident::{BatchKey, BatchName, Digest, JobId, JobKey, Tenant};
use crate::job::lifecycle::{State, Status, Step};
use crate::job::outcome::{Pointer, Tally, Usage};
use crate::job::spec::Job;
use crate::job::units::{Timestamp, Usd};
use crate::ports::{StoreError, StoreTrouble};

/// Rows removed in one transaction: few enough that the jobs at work hardly notice.
const CHUNK: usize = 500;

/// One line of an input.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place in the input; every line has its own.
    pub position: u64,
    /// What it holds.
    pub line: Line,
}

/// What a line of an input holds.
#[derive(Clone, Debug)]
pub enum Line {
    /// A job. It is counted in the run's batch, whatever its key says.
    Job {
        /// The job.
        job: Box<Job>,
        /// The line named no id: it is the digest of the content, and repeats get `-2`, `-3` and so on.
        auto_id: bool,
        /// Its deadline has passed: only a job that is known already is let in.
        stale_deadline: bool,
    },
    /// Refused before it became a job; leaves no ledger row.
    Refused {
        /// Whose line it is.
        tenant: Tenant,
        /// The id that the result names.
        id: String,
        /// The finished result, one JSON object without its line feed.
        result_line: Vec<u8>,
    },
}

/// What became of a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// A job that was not known: queued.
    New,
    /// Known, and waiting.
    Queued,
    /// Known, and at work.
    Running,
    /// Known, and ended.
    Final(Status),
    /// Had failed or expired, and is queued again.
    Redriven,
    /// The same id and content stand earlier in this input: one job, and no line of its own.
    SameLineTwice,
    /// The id is taken by other content. Not on the roll: enrol a refused line in its place.
    Conflict {
        /// How the job stands that has it.
        with: State,
    },
    /// The deadline has passed and the job is not known. Not on the roll: enrol a refused line in its place.
    StaleDeadline,
    /// Its result is stored.
    Refused,
}

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

/// A line with everything that needs no transaction.
struct Ready {
    position: u64,
    what: What,
}

enum What {
    Job { job: Box<Job>, digest: Digest, message: String, auto_id: bool, stale_deadline: bool },
    Refused { key: BatchKey, id: String, line: Vec<u8>, sha256: Digest, result: Option<Pointer> },
}

impl Ready {
    fn of(entry: Entry, batch: &BatchName) -> Self {
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

    fn refusal(&self) -> Option<(BatchKey, Digest)> {
        match &self.what {
            What::Refused { key, sha256, .. } => Some((key.clone(), *sha256)),
            What::Job { .. } => None,
        }
    }
}

/// Enrols the lines of one call inside their transaction.
struct Clerk<'t, 'c> {
    tx: &'t mut Tx<'c>,
    pool: i64,
    roll: i64,
    retry_failed: bool,
    counted: i64,
    repeats: &'t HashMap<Digest, u32>,
    more: HashMap<Digest, u32>,
    ended: Counts,
}

impl Clerk<'_, '_> {
    fn enrol(&mut self, line: &Ready) -> rusqlite::Result<Standing> {
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
        let standing = match (redrive, row.state) {
            (Some(state), _) => {
                self.redrive(&row, state, job, digest, message)?;
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
        let message = queue::put(self.tx, self.pool, job.priority.get(), message, None)?;
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
            enqueued: self.tx.now,
            message: Some(message),
            done: None,
            usage: Usage::default(),
        };
        let no = row.insert(self.tx.conn, &job.key.id)?;
        let batch = self.tx.batch_or_new(&job.key.batch_key())?;
        batch.swap(None, Some(row.share()));
        batch.reopen();
        self.put_on_roll(position, Some(no), None)?;
        Ok(Standing::New)
    }

    fn redrive(
        &mut self,
        row: &JobRow,
        state: State,
        job: &Job,
        digest: Digest,
        message: &str,
    ) -> rusqlite::Result<()> {
        let mut again = row.clone();
        (again.state, again.generation, again.digest) = (state, row.generation + 1, digest);
        (again.enqueued, again.usage, again.tally.attempts) = (self.tx.now, Usage::default(), 0);
        again.message = Some(queue::put(self.tx, self.pool, job.priority.get(), message, None)?);
        again.store_redriven(self.tx.conn)?;
        let batch = self.tx.batch_or_new(&job.key.batch_key())?;
        batch.swap(Some(row.share()), Some(again.share()));
        batch.reopen();
        Ok(())
    }

    /// A job that waits must be in the queue; its message can have gone to the dead letters.
    fn ensure_message(&mut self, row: &JobRow, job: &Job, message: &str) -> rusqlite::Result<()> {
        let there: bool = self
            .tx
            .conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM message WHERE id = ?1)")?
            .query_row([row.message], |row| row.get(0))?;
        if !there {
            let id = queue::put(self.tx, self.pool, job.priority.get(), message, None)?;
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

const STRAY: &str = "state = 'queued'
    AND NOT EXISTS (SELECT 1 FROM roll_line l JOIN roll r ON r.no = l.roll JOIN process p ON p.epoch = r.epoch
        WHERE l.job = job.no)
    AND NOT EXISTS (SELECT 1 FROM message m WHERE m.id = job.message AND m.epoch IS NOT NULL)";

/// Waiting jobs that no living process's input asks for. `listed`: jobs on our own roll; if that is all there are, no
/// row is read.
fn strays(conn: &Connection, name: &BatchName, listed: u64) -> rusqlite::Result<Vec<i64>> {
    let batches = BatchRow::list(conn, Some(name))?;
    if batches.iter().map(|batch| batch.counts.total()).sum::<u64>() <= listed {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT no FROM job WHERE batch = ?1 AND {STRAY}");
    let mut found = Vec::new();
    for batch in batches {
        for no in conn.prepare_cached(&sql)?.query_map([batch.no], |row| row.get(0))? {
            found.push(no?);
        }
    }
    Ok(found)
}

/// Takes one of them out, unless that has changed. What it has cost stays in the batch's sums: it was paid.
fn withdraw(tx: &mut Tx<'_>, no: i64) -> rusqlite::Result<bool> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM job WHERE no = ?1 AND {STRAY})");
    if !tx.conn.prepare_cached(&sql)?.query_row([no], |row| row.get::<_, bool>(0))? {
        return Ok(false);
    }
    let Some(row) = JobRow::by_no(tx.conn, no)? else { return Ok(false) };
    let Some(key) = BatchRow::key_of(tx.conn, row.batch)? else { return Ok(false) };
    if let Some(message) = row.message {
        queue::remove(tx.conn, message)?;
    }
    tx.conn.prepare_cached("DELETE FROM roll_line WHERE job = ?1")?.execute([no])?;
    tx.conn.prepare_cached("DELETE FROM job WHERE no = ?1")?.execute([no])?;
    tx.batch_or_new(&key)?.swap(Some(Share { spent: Usd::ZERO, unknown: Usd::ZERO, ..row.share() }), None);
    Ok(true)
}

/// Rolls of dead processes say nothing any more once a newer one is sealed.
async fn drop_old_rolls(inner: Arc<Inner>, pool: i64, newest: i64) {
    let doing = "dropping an old roll";
    loop {
        let work = move |tx: &mut Tx<'_>| {
            let old = "SELECT r.no FROM roll r WHERE r.pool = ?1 AND r.no < ?2
                AND NOT EXISTS (SELECT 1 FROM process p WHERE p.epoch = r.epoch)";
            let lines = tx
                .conn
                .prepare_cached(&format!(
                    "DELETE FROM roll_line WHERE (roll, position) IN
                        (SELECT roll, position FROM roll_line WHERE roll IN ({old}) LIMIT {CHUNK})"
                ))?
                .execute([pool, newest])?;
            if lines == 0 {
                tx.conn.prepare_cached(&format!("DELETE FROM roll WHERE no IN ({old})"))?.execute([pool, newest])?;
                tx.conn
                    .prepare_cached(
                        "DELETE FROM refusal WHERE NOT EXISTS (SELECT 1 FROM roll_line l WHERE l.refusal = refusal.no)",
                    )?
                    .execute([])?;
            }
            Ok(lines)
        };
        match inner.committer.commit(doing, work).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                // The next sealed roll tries again.
                tracing::warn!(%error, "could not drop an old roll");
                return;
            }
        }
    }
}
