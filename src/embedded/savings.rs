//! What has right-sizing saved a batch, and what did its reruns cost? Sums in a table of their own, because most jobs have
//! nothing to add to them: rows of jobs and batches stay as small as they are.
//!
//! A job's share is kept while it is open and some answer of it was cut, so that whoever claims it next counts on; what
//! grows there grows in its batch in the same transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::rows::int;
use crate::job::outcome::Savings;
use crate::job::units::{Tokens, Usd};

/// What was counted for an open job so far.
pub(super) fn of_job(conn: &Connection, job: i64) -> rusqlite::Result<Savings> {
    conn.prepare_cached("SELECT 0, reruns, rerun_cost FROM job_savings WHERE job = ?1")?
        .query_row([job], read)
        .optional()
        .map(Option::unwrap_or_default)
}

/// What was counted for the jobs of a batch.
pub(super) fn of_batch(conn: &Connection, batch: i64) -> rusqlite::Result<Savings> {
    conn.prepare_cached("SELECT saved, reruns, rerun_cost FROM batch_savings WHERE batch = ?1")?
        .query_row([batch], read)
        .optional()
        .map(Option::unwrap_or_default)
}

/// An open job now stands at this.
pub(super) fn store(conn: &Connection, batch: i64, job: i64, savings: Savings) -> rusqlite::Result<()> {
    if savings.reruns == 0 {
        return Ok(());
    }
    let before = of_job(conn, job)?;
    if before != savings {
        add(conn, batch, before, savings)?;
        conn.prepare_cached("INSERT OR REPLACE INTO job_savings (job, reruns, rerun_cost) VALUES (?1, ?2, ?3)")?
            .execute(params![job, int(savings.reruns), int(savings.rerun_cost.nanos())])?;
    }
    Ok(())
}

/// A job ends with this.
pub(super) fn end(conn: &Connection, batch: i64, job: i64, savings: Savings) -> rusqlite::Result<()> {
    if savings.is_none() {
        return Ok(());
    }
    let before = of_job(conn, job)?;
    if !before.is_none() {
        conn.prepare_cached("DELETE FROM job_savings WHERE job = ?1")?.execute([job])?;
    }
    add(conn, batch, before, savings)
}

fn add(conn: &Connection, batch: i64, before: Savings, after: Savings) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO batch_savings (batch, saved, reruns, rerun_cost) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (batch) DO UPDATE SET
            saved = saved + excluded.saved, reruns = reruns + excluded.reruns,
            rerun_cost = rerun_cost + excluded.rerun_cost",
    )?
    .execute(params![
        batch,
        int((after.saved - before.saved).0),
        int(after.reruns.saturating_sub(before.reruns)),
        int(after.rerun_cost.saturating_sub(before.rerun_cost).nanos()),
    ])?;
    Ok(())
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Savings> {
    let count = |column: usize| -> rusqlite::Result<u64> { Ok(row.get::<_, i64>(column)?.unsigned_abs()) };
    Ok(Savings { saved: Tokens(count(0)?), reruns: count(1)?, rerun_cost: Usd::from_nanos(count(2)?) })
}
