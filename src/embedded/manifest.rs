//! Which jobs made up a batch that is complete, and where does each result lie?
//!
//! The manifest is written before the batch is announced, from one snapshot of the database, so that its lines and the
//! sums of the notice agree. One line a job, those of the newest roll in input order, then the batch's other jobs.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, params};
use serde::Serialize;
use tempfile::NamedTempFile;

use super::batch::BatchRow;
use super::process::Inner;
use super::rows::{self, pointer};
use super::segments::{folder_name, sync_folder};
use super::{roll, trouble};
use crate::job::ident::{BatchKey, Digest};
use crate::job::lifecycle::Status;
use crate::job::outcome::Pointer;
use crate::ports::{CompleteBatch, StoreError};

/// The folder of all manifests below the state directory.
pub(super) const FOLDER: &str = "manifests";

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    status: &'a str,
    object: &'a str,
    offset: u64,
    length: u64,
    sha256: Digest,
}

/// The batch, with its manifest written, if it waits to be announced.
pub(super) async fn complete(inner: &Arc<Inner>, key: BatchKey) -> Result<Option<CompleteBatch>, StoreError> {
    let doing = "writing a manifest";
    let dir = inner.dir.clone();
    let look = move |conn: &Connection| -> rusqlite::Result<io::Result<Option<CompleteBatch>>> {
        let snapshot = conn.unchecked_transaction()?;
        let Some(batch) = BatchRow::load(&snapshot, &key)? else { return Ok(Ok(None)) };
        if !batch.waits_for_announcement(&snapshot)? {
            return Ok(Ok(None));
        }
        let name = format!("{}-{}.jsonl", folder_name(&key), batch.completion);
        let refused = match write(&snapshot, &dir.join(FOLDER), &name, &batch)? {
            Ok(refused) => refused,
            Err(error) => return Ok(Err(error)),
        };
        let sums = batch.sums(refused);
        Ok(Ok((sums.total > 0).then(|| CompleteBatch {
            completion: batch.completion,
            sums,
            manifest: format!("{FOLDER}/{name}"),
            is_news: true,
            // Workflows wait for the workers of a fleet alone.
            waiting: Vec::new(),
        })))
    };
    let outcome = inner.readers.read(doing, look).await?;
    outcome.map_err(|error| trouble::of_io(doing, &error))
}

/// Writes the file under a name that no other writer has and renames it: a reader sees all of it or none. Counts
/// refused lines.
fn write(conn: &Connection, folder: &Path, name: &str, batch: &BatchRow) -> rusqlite::Result<io::Result<u64>> {
    let mut file = match NamedTempFile::new_in(folder) {
        Ok(file) => BufWriter::new(file),
        Err(error) => return Ok(Err(error)),
    };
    let refused = match write_lines(conn, &mut file, batch)? {
        Ok(refused) => refused,
        Err(error) => return Ok(Err(error)),
    };
    let durable = || -> io::Result<u64> {
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        std::fs::rename(file.into_temp_path(), folder.join(name))?;
        sync_folder(folder)?;
        Ok(refused)
    };
    Ok(durable())
}

fn write_lines(conn: &Connection, file: &mut impl Write, batch: &BatchRow) -> rusqlite::Result<io::Result<u64>> {
    let mut refused = 0;
    let newest = roll::newest(conn, &batch.key.batch)?.unwrap_or(-1);
    let mut in_order = conn.prepare_cached(
        "SELECT j.id, j.state, j.uri, j.offset, j.length, j.sha256 FROM roll_line l JOIN job j ON j.no = l.job
            WHERE l.roll = ?1 AND j.batch = ?2 AND j.uri IS NOT NULL AND l.position = ?3
         UNION ALL
         SELECT r.id, NULL, r.uri, r.offset, r.length, r.sha256 FROM roll_line l JOIN refusal r ON r.no = l.refusal
            WHERE l.roll = ?1 AND r.batch = ?2 AND l.position = ?3",
    )?;
    let mut positions = conn.prepare_cached("SELECT position FROM roll_line WHERE roll = ?1 ORDER BY position")?;
    let mut places = positions.query([newest])?;
    while let Some(place) = places.next()? {
        let mut lines = in_order.query(params![newest, batch.no, place.get::<_, i64>(0)?])?;
        while let Some(line) = lines.next()? {
            refused += u64::from(line.get_ref(1)?.as_str_or_null()?.is_none());
            if let Err(error) = write_line(file, line)? {
                return Ok(Err(error));
            }
        }
    }
    let mut others = conn.prepare_cached(
        "SELECT id, state, uri, offset, length, sha256 FROM job WHERE batch = ?1 AND uri IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM roll_line l WHERE l.job = job.no AND l.roll = ?2)
         ORDER BY no",
    )?;
    let mut lines = others.query(params![batch.no, newest])?;
    while let Some(line) = lines.next()? {
        if let Err(error) = write_line(file, line)? {
            return Ok(Err(error));
        }
    }
    Ok(Ok(refused))
}

fn write_line(file: &mut impl Write, row: &rusqlite::Row<'_>) -> rusqlite::Result<io::Result<()>> {
    let status = match row.get_ref(1)?.as_str_or_null()? {
        Some(word) => rows::state(word)?.word(),
        None => Status::Rejected.word(),
    };
    let Pointer { uri, offset, length, sha256 } = pointer(row, 2)?;
    let line = Line { id: row.get_ref(0)?.as_str()?, status, object: &uri, offset, length, sha256 };
    let written = serde_json::to_writer(&mut *file, &line).map_err(io::Error::from);
    Ok(written.and_then(|()| file.write_all(b"\n")))
}
