//! What happened to a job, and when? A table of its own beside the jobs: their rows, which every step rewrites, stay as small
//! as they are.

use rusqlite::{Connection, OptionalExtension, params};

use super::trouble;
use crate::job::trail::{Trail, What};
use crate::job::units::Timestamp;

/// Nothing has to fit beside it here; what a worker's process can make of it is far less.
const TEXT_BYTES: usize = 16 * 1_024;

/// What is on record. Jobs of an earlier version's state have nothing.
pub(super) fn of(conn: &Connection, job: i64) -> rusqlite::Result<Trail> {
    let text: Option<String> =
        conn.prepare_cached("SELECT text FROM trail WHERE job = ?1")?.query_row([job], |row| row.get(0)).optional()?;
    Trail::parse(&text.unwrap_or_default()).ok_or_else(|| trouble::unreadable("trail"))
}

/// When its end was last made known.
pub(super) fn notified(conn: &Connection, job: i64) -> rusqlite::Result<Option<Timestamp>> {
    let at: Option<Option<i64>> = conn
        .prepare_cached("SELECT notified FROM trail WHERE job = ?1")?
        .query_row([job], |row| row.get(0))
        .optional()?;
    Ok(at.flatten().map(Timestamp))
}

/// This is what happened to it, and its end is not known to anybody.
pub(super) fn store(conn: &Connection, job: i64, trail: &Trail) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO trail (job, text) VALUES (?1, ?2)")?
        .execute(params![job, trail.text(TEXT_BYTES)])?;
    Ok(())
}

/// This happened to it, too.
pub(super) fn add(conn: &Connection, job: i64, at: Timestamp, what: What) -> rusqlite::Result<Trail> {
    let mut trail = of(conn, job)?;
    trail.add(at, what);
    store(conn, job, &trail)?;
    Ok(trail)
}

/// Its end was made known.
pub(super) fn told(conn: &Connection, job: i64, at: Timestamp) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE trail SET notified = ?2 WHERE job = ?1")?.execute([job, at.0])?;
    Ok(())
}
