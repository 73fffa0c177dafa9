//! What does nobody ask for any more? Waiting jobs that an edited input has lost, and the rolls of dead processes.

use std::sync::Arc;

use rusqlite::Connection;

use super::batch::{BatchRow, Share};
use super::parts;
use super::process::Inner;
use super::queue;
use super::rows::JobRow;
use super::transaction::Tx;
use crate::job::ident::BatchName;
use crate::job::units::Usd;

/// Rows removed in one transaction: few enough that the jobs at work hardly notice.
pub(super) const CHUNK: usize = 500;

const STRAY: &str = "state = 'queued'
    AND NOT EXISTS (SELECT 1 FROM roll_line l JOIN roll r ON r.no = l.roll JOIN process p ON p.epoch = r.epoch
        WHERE l.job = job.no)
    AND NOT EXISTS (SELECT 1 FROM message m WHERE m.id = job.message AND m.epoch IS NOT NULL)";

/// Waiting jobs that no living process's input asks for. `listed`: jobs on our own roll; if that is all there are, no
/// row is read.
pub(super) fn strays(conn: &Connection, name: &BatchName, listed: u64) -> rusqlite::Result<Vec<i64>> {
    // There wait those that came by themselves, which are in nobody's input.
    if *name == BatchName::none() {
        return Ok(Vec::new());
    }
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
pub(super) fn withdraw(tx: &mut Tx<'_>, no: i64) -> rusqlite::Result<bool> {
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
    tx.conn.prepare_cached("DELETE FROM redriven WHERE job = ?1")?.execute([no])?;
    tx.conn.prepare_cached("DELETE FROM trail WHERE job = ?1")?.execute([no])?;
    parts::withdraw(tx, no)?;
    tx.conn.prepare_cached("DELETE FROM job WHERE no = ?1")?.execute([no])?;
    tx.batch_or_new(&key)?.swap(Some(Share { spent: Usd::ZERO, unknown: Usd::ZERO, ..row.share() }), None);
    Ok(true)
}

/// Rolls of dead processes say nothing any more once a newer one is sealed.
pub(super) async fn drop_old_rolls(inner: Arc<Inner>, pool: i64, newest: i64) {
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
