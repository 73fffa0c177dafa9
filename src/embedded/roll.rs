//! What became of the lines of one input? The reading side of a roll: its ends in the order in which they were
//! committed, whichever process did it, and how far it is.

use rusqlite::{Connection, OptionalExtension, params};

use super::batch::{BatchRow, Counts};
use super::rows::{digest, int, pointer, state};
use super::{parts, trouble};
use crate::job::ident::{BatchName, Tenant};
use crate::job::lifecycle::{State, Status};
use crate::job::outcome::{Pointer, Savings, Tally};
use crate::job::units::{Timestamp, Usd};

/// The place of an end in the order of all ends of a state directory; zero comes before the first.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct DoneSeq(pub u64);

/// A line of a roll that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// When, in the order of all ends.
    pub done: DoneSeq,
    /// Whose job it is.
    pub tenant: Tenant,
    /// Its id; of a refused line, what was there instead of one.
    pub id: String,
    /// How it ended.
    pub status: Status,
    /// What was counted; nothing for a refused line.
    pub tally: Tally,
    /// Where its result line lies.
    pub result: Pointer,
}

/// How far a roll is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// Its jobs and refused lines by state; refused lines count as rejected.
    pub counts: Counts,
    /// The sum over every billed call of the batch, over all its runs.
    pub spent: Usd,
    /// That, and the price of calls that are open or whose end nobody saw.
    pub committed: Usd,
}

/// The roll that says what the batch's input is: the newest that was read to its end, else the newest.
pub(super) fn newest(conn: &Connection, batch: &BatchName) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached(
        "SELECT roll.no FROM roll JOIN pool ON pool.no = roll.pool WHERE name = ?1
         ORDER BY roll.sealed = 1 DESC, roll.no DESC LIMIT 1",
    )?
    .query_row([batch.as_str()], |row| row.get(0))
    .optional()
}

/// At most `limit` lines of the roll that ended after `after`, in that order.
pub(super) fn finals(conn: &Connection, roll: i64, after: DoneSeq, limit: usize) -> rusqlite::Result<Vec<Ended>> {
    let after = int(after.0);
    let rows = int(limit as u64);
    let mut ends = Vec::new();
    let mut jobs = conn.prepare_cached(
        "SELECT j.done, b.tenant, j.id, j.state, j.attempts, j.model_calls, j.spent, j.unknown,
                j.uri, j.offset, j.length, j.sha256
         FROM job j INDEXED BY job_done JOIN batch b ON b.no = j.batch
         WHERE j.done > ?1 AND EXISTS (SELECT 1 FROM roll_line l WHERE l.job = j.no AND l.roll = ?2)
         ORDER BY j.done LIMIT ?3",
    )?;
    let mut found = jobs.query([after, roll, rows])?;
    while let Some(row) = found.next()? {
        let State::Final(status) = state(row.get_ref(3)?.as_str()?)? else {
            return Err(trouble::unreadable("state"));
        };
        let usd =
            |column: usize| -> rusqlite::Result<Usd> { Ok(Usd::from_nanos(row.get::<_, i64>(column)?.unsigned_abs())) };
        ends.push(Ended {
            done: DoneSeq(row.get::<_, i64>(0)?.unsigned_abs()),
            tenant: tenant(row.get_ref(1)?.as_str()?)?,
            id: row.get(2)?,
            status,
            tally: Tally {
                attempts: row.get(4)?,
                model_calls: row.get(5)?,
                spent: usd(6)?,
                unknown: usd(7)?,
                savings: Savings::default(),
            },
            result: pointer(row, 8)?,
        });
    }
    let mut refusals = conn.prepare_cached(
        "SELECT r.done, b.tenant, r.id, r.uri, r.offset, r.length, r.sha256
         FROM refusal r INDEXED BY refusal_done JOIN batch b ON b.no = r.batch
         WHERE r.done > ?1 AND EXISTS (SELECT 1 FROM roll_line l WHERE l.refusal = r.no AND l.roll = ?2)
         ORDER BY r.done LIMIT ?3",
    )?;
    let mut found = refusals.query([after, roll, rows])?;
    while let Some(row) = found.next()? {
        ends.push(Ended {
            done: DoneSeq(row.get::<_, i64>(0)?.unsigned_abs()),
            tenant: tenant(row.get_ref(1)?.as_str()?)?,
            id: row.get(2)?,
            status: Status::Rejected,
            tally: Tally::default(),
            result: pointer(row, 3)?,
        });
    }
    ends.sort_unstable_by_key(|end| end.done);
    ends.truncate(limit);
    Ok(ends)
}

/// What ended after `after`, by state, and up to where that was.
pub(super) fn ended_since(conn: &Connection, roll: i64, after: i64) -> rusqlite::Result<(Vec<State>, i64)> {
    let mut jobs = conn.prepare_cached(
        "SELECT j.done, j.state, EXISTS (SELECT 1 FROM roll_line l WHERE l.job = j.no AND l.roll = ?2)
         FROM job j INDEXED BY job_done WHERE j.done > ?1 ORDER BY j.done",
    )?;
    let mut found = jobs.query([after, roll])?;
    let (mut states, mut last) = (Vec::new(), after);
    while let Some(row) = found.next()? {
        last = row.get(0)?;
        if row.get(2)? {
            states.push(state(row.get_ref(1)?.as_str()?)?);
        }
    }
    Ok((states, last))
}

/// Jobs at work, money spent and money committed in all batches of that name.
pub(super) fn batch_sums(conn: &Connection, batch: &BatchName) -> rusqlite::Result<(u64, Usd, Usd)> {
    let batches = BatchRow::list(conn, Some(batch))?;
    let unsettled = parts::unsettled(conn)?;
    Ok(batches.iter().fold((0, Usd::ZERO, Usd::ZERO), |(running, spent, committed), batch| {
        let open = unsettled.get(&batch.no).copied().unwrap_or_default();
        (running + batch.counts.running, spent + batch.spent + open.0, committed + batch.committed + open.1)
    }))
}

/// An exact count of the roll's lines by state, at the price of reading all of them.
pub(super) fn census(conn: &Connection, roll: i64) -> rusqlite::Result<Counts> {
    let mut counts = Counts::default();
    let mut jobs = conn.prepare_cached(
        "SELECT j.state, count(*) FROM roll_line l JOIN job j ON j.no = l.job WHERE l.roll = ?1 GROUP BY j.state",
    )?;
    let mut found = jobs.query([roll])?;
    while let Some(row) = found.next()? {
        *counts.of(state(row.get_ref(0)?.as_str()?)?) += row.get::<_, i64>(1)?.unsigned_abs();
    }
    let refused: i64 = conn
        .prepare_cached("SELECT count(*) FROM roll_line WHERE roll = ?1 AND refusal IS NOT NULL")?
        .query_row([roll], |row| row.get(0))?;
    counts.rejected += refused.unsigned_abs();
    Ok(counts)
}

/// Whether messages of ended jobs on the roll are deliverable, or in the hands of the process of this epoch, which has not
/// let go of them yet.
pub(super) fn has_ended_in_queue(
    conn: &Connection,
    roll: i64,
    pool: i64,
    epoch: i64,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let deliverable = "SELECT id FROM message WHERE pool = ?1 AND hidden_until IS NULL
        UNION ALL SELECT id FROM message WHERE hidden_until IS NOT NULL AND pool = ?1 AND (hidden_until <= ?2 OR epoch = ?4)";
    let some: bool = conn
        .prepare_cached(&format!("SELECT EXISTS ({deliverable}) AND ?3 = ?3"))?
        .query_row([pool, now.0, roll, epoch], |row| row.get(0))?;
    if !some {
        return Ok(false);
    }
    conn.prepare_cached(&format!(
        "SELECT EXISTS (SELECT 1 FROM roll_line l JOIN job j ON j.no = l.job
            WHERE l.roll = ?3 AND j.done IS NOT NULL AND j.message IN ({deliverable}))"
    ))?
    .query_row([pool, now.0, roll, epoch], |row| row.get(0))
}

/// Where the same refused line was stored before, for a batch.
pub(super) fn stored_refusal(
    conn: &Connection,
    batch: i64,
    sha256: &crate::job::ident::Digest,
) -> rusqlite::Result<Option<Pointer>> {
    conn.prepare_cached("SELECT uri, offset, length, sha256 FROM refusal WHERE batch = ?1 AND sha256 = ?2 LIMIT 1")?
        .query_row(params![batch, sha256.as_bytes()], |row| {
            digest(row.get_ref(3)?.as_blob()?)?;
            pointer(row, 0)
        })
        .optional()
}

fn tenant(text: &str) -> rusqlite::Result<Tenant> {
    Tenant::new(text).map_err(|_| trouble::unreadable("tenant"))
}
