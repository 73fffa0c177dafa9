//! What does `status` list, and what does `explain` tell of one job?

use rusqlite::{Connection, OptionalExtension, Row};

use super::batch::{BatchRow, Counts};
use super::rows::{JobRow, final_row};
use super::{parts, savings, trail};
use crate::job::ident::{BatchKey, BatchName, Digest, JobId, JobKey, Tenant};
use crate::job::lifecycle::State;
use crate::job::outcome::{Savings, Tally, Usage};
use crate::job::trail::Trail;
use crate::job::units::{Timestamp, Usd};
use crate::ports::{FinalRow, Gate};

/// A batch as `status` lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchSummary {
    /// Whose batch it is.
    pub tenant: Tenant,
    /// Its name.
    pub batch: BatchName,
    /// Its jobs by state; refused lines of its newest input count as rejected.
    pub counts: Counts,
    /// The sum over every billed call.
    pub cost: Usd,
    /// That, and the price of calls that are open or whose end nobody saw.
    pub committed: Usd,
    /// Tokens of the returned answers.
    pub usage: Usage,
    /// What right-sizing saved and cost.
    pub savings: Savings,
    /// Whether its input was read to its end.
    pub sealed: bool,
    /// Whether its completion was announced.
    pub announced: bool,
    /// When it was first heard of.
    pub first: Timestamp,
    /// When something in it last changed.
    pub last: Timestamp,
}

/// All that is known of one job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobReport {
    /// Which job.
    pub key: JobKey,
    /// Where it stands.
    pub state: State,
    /// How often a person ran it again.
    pub generation: u32,
    /// How often it was claimed.
    pub claims: u64,
    /// Its owner's epoch, while it is owned.
    pub owner: Option<i64>,
    /// When the owner's lease ends, while it is owned.
    pub lease_until: Option<Timestamp>,
    /// What was counted.
    pub tally: Tally,
    /// The price of its open call.
    pub open: Option<Usd>,
    /// See [`crate::ports::Claimed::suspicion`].
    pub suspicion: f64,
    /// The digest of its content.
    pub digest: Digest,
    /// When it was first queued, or set running again.
    pub enqueued: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub ending: Option<FinalRow>,
    /// What happened to it in between.
    pub trail: Trail,
    /// When its end was last made known.
    pub notified: Option<Timestamp>,
    /// The model it asks for, while it waits or is worked.
    pub model: Option<String>,
    /// Its place in the queue.
    pub waiting: Option<Waiting>,
    /// Its place among the dead letters.
    pub dead: Option<DeadLetter>,
    /// How a person last took it out of them: when, and why it lay there.
    pub redriven: Option<(Timestamp, String)>,
    /// Of a document: its parts by state, round by round.
    pub parts: Vec<Counts>,
}

/// A message in the queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Waiting {
    /// `None` if it is deliverable now.
    pub hidden_until: Option<Timestamp>,
    /// Whether a worker holds it; else it was sent with a delay.
    pub held: bool,
    /// How often it was delivered.
    pub receives: u32,
    /// When it was sent.
    pub sent: Timestamp,
    /// Which of the waiting goes first.
    pub priority: u8,
}

/// A message among the dead letters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeadLetter {
    /// Why it lies there.
    pub reason: String,
    /// Since when.
    pub died: Timestamp,
    /// How often it was delivered.
    pub receives: u32,
}

/// Why a lane lets nothing through, as one process posted it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LaneGate {
    /// The lane, as it is displayed.
    pub lane: String,
    /// Why, since when and until when.
    pub gate: Gate,
}

/// What the workers know of a lane.
#[derive(Clone, Debug)]
pub struct LaneRow {
    /// The lane, as it is displayed.
    pub lane: String,
    /// As they have written it.
    pub state: Vec<u8>,
}

/// From the refusals to their lines, and not the other way round: an input may have a million lines and none refused.
const REFUSED: &str =
    "SELECT count(*) FROM refusal r CROSS JOIN roll_line l ON l.refusal = r.no WHERE r.batch = ?1 AND l.roll = ?2";

pub(super) fn summaries(conn: &Connection) -> rusqlite::Result<Vec<BatchSummary>> {
    let unsettled = parts::unsettled(conn)?;
    BatchRow::list(conn, None)?
        .into_iter()
        .filter(|row| !row.key.batch.is_of_parts())
        .map(|row| {
            let (open_spent, open_committed) = unsettled.get(&row.no).copied().unwrap_or_default();
            let mut counts = row.counts;
            counts.rejected += refused(conn, &row)?;
            let savings = savings::of_batch(conn, row.no)?;
            Ok(BatchSummary {
                tenant: row.key.tenant,
                batch: row.key.batch,
                counts,
                cost: row.spent + open_spent,
                committed: row.committed + open_committed,
                usage: row.usage,
                savings,
                sealed: row.sealed,
                announced: row.announced,
                first: row.first,
                last: row.last,
            })
        })
        .collect()
}

/// Every job of that id, in the batch and of the tenant, if they are named.
pub(super) fn jobs(
    conn: &Connection,
    batch: Option<&BatchName>,
    id: &JobId,
    tenant: Option<&Tenant>,
) -> rusqlite::Result<Vec<JobReport>> {
    let mut reports = Vec::new();
    for row in BatchRow::list(conn, batch)? {
        if row.key.batch.is_of_parts() || tenant.is_some_and(|tenant| *tenant != row.key.tenant) {
            continue;
        }
        if let Some(job) = JobRow::find(conn, row.no, id)? {
            reports.push(report(conn, row.key, id, job)?);
        }
    }
    Ok(reports)
}

/// Every part of that name, of the jobs of that id.
pub(super) fn parts(
    conn: &Connection,
    batch: Option<&BatchName>,
    id: &JobId,
    part: &JobId,
) -> rusqlite::Result<Vec<JobReport>> {
    let mut reports = Vec::new();
    for row in BatchRow::list(conn, batch)?.into_iter().filter(|row| !row.key.batch.is_of_parts()) {
        let Some(job) = JobRow::find(conn, row.no, id)? else { continue };
        for no in parts::rounds(conn, job.no)? {
            if let Some(found) = JobRow::find(conn, no, part)? {
                // It is looked for, and found, where its document is.
                reports.push(report(conn, row.key.clone(), part, found)?);
            }
        }
    }
    Ok(reports)
}

fn counts_of_parts(conn: &Connection, job: i64) -> rusqlite::Result<Vec<Counts>> {
    let mut counts = Vec::new();
    for no in parts::rounds(conn, job)? {
        let Some(key) = BatchRow::key_of(conn, no)? else { continue };
        counts.extend(BatchRow::load(conn, &key)?.map(|row| row.counts));
    }
    Ok(counts)
}

pub(super) fn gates(conn: &Connection) -> rusqlite::Result<Vec<LaneGate>> {
    let read = |row: &Row<'_>| {
        let gate = Gate { reason: row.get(1)?, since: Timestamp(row.get(2)?), until: Timestamp(row.get(3)?) };
        Ok(LaneGate { lane: row.get(0)?, gate })
    };
    conn.prepare_cached("SELECT lane, reason, since, until FROM gate ORDER BY lane, epoch")?
        .query_map([], read)?
        .collect()
}

pub(super) fn lanes(conn: &Connection) -> rusqlite::Result<Vec<LaneRow>> {
    conn.prepare_cached("SELECT id, state FROM lane ORDER BY id")?
        .query_map([], |row| Ok(LaneRow { lane: row.get(0)?, state: row.get(1)? }))?
        .collect()
}

fn refused(conn: &Connection, batch: &BatchRow) -> rusqlite::Result<u64> {
    let Some(roll) = super::roll::newest(conn, &batch.key.batch)? else { return Ok(0) };
    let count: i64 = conn.prepare_cached(REFUSED)?.query_row([batch.no, roll], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

fn report(conn: &Connection, batch: BatchKey, id: &JobId, job: JobRow) -> rusqlite::Result<JobReport> {
    let key = JobKey { tenant: batch.tenant, batch: batch.batch, id: id.clone() };
    let ended: Option<i64> =
        conn.prepare_cached("SELECT ended FROM job WHERE no = ?1")?.query_row([job.no], |row| row.get(0))?;
    let ending = match job.state {
        State::Final(status) => Some(final_row(conn, &key, &job, status)?),
        State::Queued | State::Running => None,
    };
    let running = job.state == State::Running;
    Ok(JobReport {
        state: job.state,
        generation: job.generation,
        claims: job.token,
        owner: job.epoch,
        lease_until: running.then_some(job.lease_until),
        tally: job.tally,
        open: job.open,
        suspicion: job.suspicion,
        digest: job.digest,
        enqueued: job.enqueued,
        ended: ended.map(Timestamp),
        ending,
        trail: trail::of(conn, job.no)?,
        notified: trail::notified(conn, job.no)?,
        model: model(conn, job.message)?,
        waiting: waiting(conn, job.message)?,
        dead: dead_letter(conn, job.message)?,
        redriven: redriven(conn, job.no)?,
        parts: counts_of_parts(conn, job.no)?,
        key,
    })
}

fn model(conn: &Connection, message: Option<i64>) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT json_extract(text, '$.model') FROM body WHERE message = ?1")?
        .query_row([message], |row| row.get(0))
        .optional()
        .map(Option::flatten)
}

fn waiting(conn: &Connection, message: Option<i64>) -> rusqlite::Result<Option<Waiting>> {
    conn.prepare_cached("SELECT hidden_until, epoch IS NOT NULL, receives, sent, priority FROM message WHERE id = ?1")?
        .query_row([message], |row| {
            Ok(Waiting {
                hidden_until: row.get::<_, Option<i64>>(0)?.map(Timestamp),
                held: row.get(1)?,
                receives: row.get(2)?,
                sent: Timestamp(row.get(3)?),
                priority: row.get(4)?,
            })
        })
        .optional()
}

fn dead_letter(conn: &Connection, message: Option<i64>) -> rusqlite::Result<Option<DeadLetter>> {
    conn.prepare_cached("SELECT reason, died, receives FROM dead WHERE id = ?1")?
        .query_row([message], |row| {
            Ok(DeadLetter { reason: row.get(0)?, died: Timestamp(row.get(1)?), receives: row.get(2)? })
        })
        .optional()
}

fn redriven(conn: &Connection, job: i64) -> rusqlite::Result<Option<(Timestamp, String)>> {
    conn.prepare_cached("SELECT at, reason FROM redriven WHERE job = ?1")?
        .query_row([job], |row| Ok((Timestamp(row.get(0)?), row.get(1)?)))
        .optional()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rusqlite::{Params, StatementStatus};

    use super::super::schema;
    use super::*;

    /// As the progress of a run and an open page do, once a second.
    #[test]
    fn to_list_a_batch_its_jobs_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let conn = schema::open_writer(dir.path()).unwrap();
        let key = BatchKey { tenant: Tenant::new("t").unwrap(), batch: BatchName::new("large").unwrap() };
        let batch = BatchRow::create(&conn, &key, Timestamp(0)).unwrap();
        conn.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
             INSERT INTO roll_line SELECT 1, i, i, NULL FROM n;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
             INSERT INTO job (no, batch, hash, state, generation, token, lease_until, attempts, model_calls, spent, unknown,
                suspicion, enqueued, digest, id)
             SELECT i, 1, i, 'queued', 0, 0, 0, 0, 0, 0, 0, 0, 0, x'', 'j' || i FROM n;",
        )
        .unwrap();

        assert!(steps(&conn, REFUSED, [batch.no, 1]) < 100);
        assert!(steps(&conn, parts::UNSETTLED, []) < 100);
        let all_lines = "SELECT count(*) FROM roll_line WHERE roll = ?1 AND refusal IS NOT NULL";
        assert!(steps(&conn, all_lines, [1]) > 2_000, "what reads all of them is seen to");
    }

    fn steps(conn: &Connection, sql: &str, params: impl Params) -> i32 {
        let mut statement = conn.prepare(sql).unwrap();
        let mut rows = statement.query(params).unwrap();
        while rows.next().unwrap().is_some() {}
        drop(rows);
        statement.get_status(StatementStatus::VmStep)
    }
}
