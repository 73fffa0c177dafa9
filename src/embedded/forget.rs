//! How does a batch go without a trace? Marked first, then its files, then its rows, then the write-ahead log; a crash on
//! the way is carried on with when the directory is next opened.
//!
//! Notices stay, since they hold neither prompt nor answer. SQLite overwrites what it deletes (`secure_delete`).

use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use rusqlite::params;

use super::batch::BatchRow;
use super::process::Inner;
use super::segments::{self, folder_name, sync_folder};
use super::transaction::Tx;
use super::{manifest, parts, queue, trouble};
use crate::job::ident::{BatchKey, BatchName};
use crate::ports::{StoreError, StoreTrouble};

const DOING: &str = "forgetting a batch";
/// Rows removed in one transaction.
const CHUNK: usize = 2_000;

/// What was purged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Forgotten {
    /// Rows of jobs.
    pub jobs: u64,
    /// Files of results and manifests.
    pub files: u64,
}

pub(super) async fn forget(inner: &Arc<Inner>, name: &BatchName) -> Result<Forgotten, StoreError> {
    let batch = name.clone();
    let marked = inner.committer.commit(DOING, move |tx| mark(tx, &batch)).await?;
    marked.map_err(|why| trouble::of_ours(StoreTrouble::Denied, DOING, why))?;
    carry_out(inner, name).await
}

pub(super) async fn purge_older_than(inner: &Arc<Inner>, keep: Duration) -> Result<Vec<BatchName>, StoreError> {
    let now = inner.clock.now();
    let batches = inner.readers.read(DOING, |conn| BatchRow::list(conn, None)).await?;
    let mut names: Vec<BatchName> = batches.iter().map(|row| row.key.batch.clone()).collect();
    names.dedup();
    names.retain(|name| {
        let mut rows = batches.iter().filter(|row| row.key.batch == *name);
        rows.all(|row| row.announced && row.counts.open() == 0 && now.since(row.last) > keep)
    });
    let mut purged = Vec::new();
    for name in names {
        let batch = name.clone();
        // Not complete any more, or being worked on: its time will come.
        if inner.committer.commit(DOING, move |tx| mark(tx, &batch)).await?.is_ok() {
            carry_out(inner, &name).await?;
            purged.push(name);
        }
    }
    Ok(purged)
}

/// Carries on with what a crash interrupted.
pub(super) async fn resume(inner: &Arc<Inner>) -> Result<(), StoreError> {
    let batches = inner.readers.read(DOING, |conn| BatchRow::list(conn, None)).await?;
    for batch in batches.iter().filter(|batch| batch.forgetting) {
        carry_out(inner, &batch.key.batch).await?;
    }
    Ok(())
}

/// Marks the batch, or says why not. Its leftover messages go in the same step: nothing of it can be delivered again.
fn mark(tx: &mut Tx<'_>, name: &BatchName) -> rusqlite::Result<Result<(), String>> {
    let rows = BatchRow::list(tx.conn, Some(name))?;
    if rows.is_empty() {
        return Ok(Err(format!("there is no batch {name}")));
    }
    let pool = queue::pool(tx.conn, name)?;
    let has_input: bool = tx
        .conn
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM roll WHERE pool = ?1)")?
        .query_row([pool], |row| row.get(0))?;
    for row in &rows {
        // Asked through the transaction: it may hold changes that are not written yet.
        let Some(row) = tx.batch(&row.key)? else { continue };
        let open = row.counts.open();
        if open > 0 {
            return Ok(Err(format!("{open} jobs of {name} have not ended")));
        }
        // One whose jobs came by themselves has no input that could end.
        if !row.sealed && has_input {
            return Ok(Err(format!("{name} is not complete: its input was never read to its end")));
        }
    }
    let busy: bool = tx
        .conn
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM roll r JOIN process p ON p.epoch = r.epoch WHERE r.pool = ?1)
                 OR EXISTS (SELECT 1 FROM message WHERE pool = ?1 AND hidden_until > ?2 AND epoch IS NOT NULL)",
        )?
        .query_row(params![pool, tx.now.0], |row| row.get(0))?;
    if busy {
        return Ok(Err(format!("a process is working on {name}")));
    }
    tx.conn
        .prepare_cached("DELETE FROM body WHERE message IN (SELECT id FROM message WHERE pool = ?1)")?
        .execute([pool])?;
    tx.conn.prepare_cached("DELETE FROM message WHERE pool = ?1")?.execute([pool])?;
    tx.conn.prepare_cached("UPDATE batch SET forgetting = 1 WHERE name = ?1")?.execute([name.as_str()])?;
    Ok(Ok(()))
}

async fn carry_out(inner: &Arc<Inner>, name: &BatchName) -> Result<Forgotten, StoreError> {
    let batch = name.clone();
    for below in inner.readers.read(DOING, move |conn| parts::below(conn, &batch)).await? {
        let marked = below.clone();
        // One that is still at work has lost its document, and goes when it is old.
        if inner.committer.commit(DOING, move |tx| mark(tx, &marked)).await?.is_ok() {
            purge(inner, &below).await?;
        }
    }
    purge(inner, name).await
}

async fn purge(inner: &Arc<Inner>, name: &BatchName) -> Result<Forgotten, StoreError> {
    let batch = name.clone();
    let rows = inner.readers.read(DOING, move |conn| BatchRow::list(conn, Some(&batch))).await?;
    let keys: Vec<BatchKey> = rows.into_iter().map(|row| row.key).collect();
    let dir = inner.dir.clone();
    let files = tokio::task::spawn_blocking(move || keys.iter().map(|key| remove_files(&dir, key)).sum());
    let files: io::Result<u64> =
        files.await.map_err(|gone| trouble::of_ours(StoreTrouble::Other, DOING, gone.to_string()))?;
    let files = files.map_err(|error| trouble::of_io(DOING, &error))?;
    let mut jobs = 0;
    loop {
        let batch = name.clone();
        let (removed, more) = inner.committer.commit(DOING, move |tx| remove_rows(tx, &batch)).await?;
        jobs += removed;
        if !more {
            break;
        }
    }
    inner.checkpoint().await?;
    Ok(Forgotten { jobs, files })
}

fn remove_files(dir: &std::path::Path, key: &BatchKey) -> io::Result<u64> {
    let (bodies, manifests) = (dir.join(segments::FOLDER), dir.join(manifest::FOLDER));
    let name = folder_name(key);
    let folder = bodies.join(&name);
    let mut count = 0;
    if folder.is_dir() {
        count += fs::read_dir(&folder)?.count() as u64;
        fs::remove_dir_all(&folder)?;
        sync_folder(&bodies)?;
    }
    for file in fs::read_dir(&manifests)? {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with(&format!("{name}-")) {
            fs::remove_file(file.path())?;
            count += 1;
        }
    }
    sync_folder(&manifests)?;
    Ok(count)
}

/// Removes some of the rows; how many jobs, and whether there is more.
fn remove_rows(tx: &mut Tx<'_>, name: &BatchName) -> rusqlite::Result<(u64, bool)> {
    let batches = "SELECT no FROM batch WHERE name = ?1 AND forgetting = 1";
    let rolls = "SELECT roll.no FROM roll JOIN pool ON pool.no = roll.pool WHERE pool.name = ?1";
    let some = |sql: String| -> rusqlite::Result<usize> { tx.conn.prepare_cached(&sql)?.execute([name.as_str()]) };
    let lines = some(format!(
        "DELETE FROM roll_line WHERE (roll, position) IN
            (SELECT roll, position FROM roll_line WHERE roll IN ({rolls}) LIMIT {CHUNK})"
    ))?;
    if lines > 0 {
        return Ok((0, true));
    }
    // A job's number can be another's once it is gone: what is marked by it goes first.
    for (marks, of) in [("redriven", "job"), ("trail", "job"), ("parts", "parent")] {
        some(format!(
            "DELETE FROM {marks} WHERE {of} IN (SELECT no FROM job WHERE batch IN ({batches}) LIMIT {CHUNK})"
        ))?;
    }
    let jobs =
        some(format!("DELETE FROM job WHERE no IN (SELECT no FROM job WHERE batch IN ({batches}) LIMIT {CHUNK})"))?;
    if jobs > 0 {
        return Ok((jobs as u64, true));
    }
    some(format!("DELETE FROM parts WHERE batch IN ({batches})"))?;
    some(format!("DELETE FROM batch_savings WHERE batch IN ({batches})"))?;
    some(format!("DELETE FROM refusal WHERE batch IN ({batches})"))?;
    some("DELETE FROM dead WHERE pool IN (SELECT no FROM pool WHERE name = ?1)".to_owned())?;
    some(format!("DELETE FROM roll WHERE no IN ({rolls})"))?;
    some("DELETE FROM batch WHERE name = ?1 AND forgetting = 1".to_owned())?;
    Ok((0, false))
}
