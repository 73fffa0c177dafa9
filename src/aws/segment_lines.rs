//! What became of a batch whose jobs nobody listed? Its segments are listed and read instead, day by day, as they were written.
//!
//! A segment may hold lines of attempts that a crash superseded: a line counts if its job's row points to it. Memory holds the names
//! of one day's objects (some 150 bytes each) and a few MiB of lines.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;

use super::listing::{self, Listed, Listing};
use super::objects::{Objects, Part};
use super::segments::in_key;
use super::{Inner, look_up, segments, trouble};
use crate::job::ident::{BatchName, Digest, JobId, JobKey, Tenant};
use crate::job::lifecycle::Status;
use crate::job::outcome::Pointer;
use crate::ports::{StoreError, StoreTrouble};

const DOING: &str = "reading the results of a batch";
/// Read of an object at a time.
const PIECE_BYTES: u64 = 8 << 20;

/// A line that counts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct EndedLine {
    pub(super) job: JobKey,
    pub(super) status: Status,
    pub(super) pointer: Pointer,
    pub(super) line: Bytes,
}

/// The lines of a batch, on the way through them.
#[derive(Debug)]
pub(super) struct SegmentLines {
    inner: Arc<Inner>,
    objects: Objects,
    batch: BatchName,
    tenant: Option<Tenant>,
    days: VecDeque<String>,
    today: VecDeque<Listed>,
    open: Option<Open>,
}

/// An object that is being read.
#[derive(Debug)]
struct Open {
    object: Listed,
    /// Up to here it is read.
    next: u64,
    /// The beginning of a line whose end is not read yet.
    rest: BytesMut,
}

impl SegmentLines {
    /// Of one tenant's batch, or of all tenants'.
    pub(super) async fn of(inner: &Arc<Inner>, batch: &BatchName, tenant: Option<&Tenant>) -> Result<Self, StoreError> {
        let prefix = format!("{}results/", inner.settings.prefix);
        Ok(Self {
            inner: Arc::clone(inner),
            objects: Objects::new(inner.clients.s3.clone(), inner.settings.bucket.clone()),
            batch: batch.clone(),
            tenant: tenant.cloned(),
            days: listing::folders(inner, DOING, &prefix).await?.into(),
            today: VecDeque::new(),
            open: None,
        })
    }

    /// Some more lines that count, in the order in which they were written; `None` behind the last. There may be none among those
    /// that were read.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<EndedLine>>, StoreError> {
        let mut open = loop {
            if let Some(open) = self.open.take() {
                break open;
            }
            if let Some(object) = self.today.pop_front() {
                break Open { object, next: 0, rest: BytesMut::new() };
            }
            let Some(day) = self.days.pop_front() else { return Ok(None) };
            self.today = self.listed(&day).await?;
        };
        let first = open.next;
        open.next = open.object.bytes.min(first.saturating_add(PIECE_BYTES));
        if open.next > first {
            let part = Part::Range { first, last: open.next - 1 };
            let piece = self.objects.read(DOING, &open.object.key, part).await?;
            // Purged meanwhile: rows that name it tell whoever asks for one of them.
            let Some(piece) = piece else { return Ok(Some(Vec::new())) };
            open.rest.extend_from_slice(&piece);
        }
        let (begins, text) = complete_lines(&mut open);
        let uri = self.objects.uri(&open.object.key);
        if open.next < open.object.bytes {
            self.open = Some(open);
        }
        self.that_count(&uri, begins, &text).await.map(Some)
    }

    /// A day's objects of the batch, oldest first.
    async fn listed(&self, day: &str) -> Result<VecDeque<Listed>, StoreError> {
        let tenant = self.tenant.as_ref().map_or_else(String::new, |name| format!("tenant={}/", in_key(name.as_str())));
        let prefix = format!("{day}batch={}/{tenant}", in_key(self.batch.as_str()));
        let mut listing = Listing::below(prefix);
        let mut objects = Vec::new();
        while let Some(object) = listing.next(&self.inner, DOING).await? {
            objects.push(object);
        }
        oldest_first(&mut objects);
        Ok(objects.into())
    }

    async fn that_count(&self, uri: &str, begins: u64, text: &Bytes) -> Result<Vec<EndedLine>, StoreError> {
        let lines = read_lines(uri, begins, text, &self.batch, self.tenant.as_ref())?;
        let rows = look_up::rows(&self.inner, DOING, lines.iter().map(|(job, _, _)| job.clone())).await?;
        let mut ended = Vec::new();
        for (job, pointer, line) in lines {
            let Some(row) = rows.get(&job).and_then(|row| row.ended.as_ref()) else { continue };
            let Pointer { uri, offset, length, sha256 } = &row.ending.result;
            if (uri, *offset, *length) != (&pointer.uri, pointer.offset, pointer.length) {
                continue;
            }
            if *sha256 != pointer.sha256 {
                let why = format!("the line at {offset} of {uri} is not the one that was written");
                return Err(trouble::of_ours(StoreTrouble::Damaged, DOING, why));
            }
            ended.push(EndedLine { job, status: row.ending.status, pointer, line });
        }
        Ok(ended)
    }
}

/// S3 tells seconds; within one, numbers tell the order of those that one process wrote.
fn oldest_first(objects: &mut [Listed]) {
    objects.sort_by_cached_key(|object| (object.written_s, segments::number(&object.key)));
}

/// What of it ends with a line feed, or with the object; and where in the object that begins.
fn complete_lines(open: &mut Open) -> (u64, Bytes) {
    let begins = open.next.saturating_sub(open.rest.len() as u64);
    let whole = match open.rest.iter().rposition(|byte| *byte == b'\n') {
        _ if open.next >= open.object.bytes => open.rest.len(),
        Some(last) => last + 1,
        None => 0,
    };
    (begins, open.rest.split_to(whole).freeze())
}

#[derive(Deserialize)]
struct Named {
    id: JobId,
    tenant: Option<Tenant>,
}

/// The lines of a piece that begins there, each with whose it says it is.
fn read_lines(
    uri: &str,
    begins: u64,
    text: &Bytes,
    batch: &BatchName,
    of_tenant: Option<&Tenant>,
) -> Result<Vec<(JobKey, Pointer, Bytes)>, StoreError> {
    let mut lines = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let length = line.strip_suffix(b"\n").unwrap_or(line).len();
        let (line, from) = (text.slice(start..start + length), start);
        start = from + line.len() + 1;
        let named: Option<Named> = serde_json::from_slice(&line).ok();
        let named = named.and_then(|Named { id, tenant }| Some((id, tenant.or(of_tenant.cloned())?)));
        let (id, tenant) = named.ok_or_else(|| {
            let why = format!("{uri} holds a line at {} that is no result", begins + from as u64);
            trouble::of_ours(StoreTrouble::Damaged, DOING, why)
        })?;
        let (offset, length) = (begins + from as u64, length as u64);
        let pointer = Pointer { uri: uri.to_owned(), offset, length, sha256: Digest::of(&line) };
        lines.push((JobKey { tenant, batch: batch.clone(), id }, pointer, line));
    }
    Ok(lines)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const TEXT: &str = "{\"id\":\"a\",\"tenant\":\"t\"}\n{\"id\":\"b\",\"tenant\":\"t\",\"text\":\"x\"}\n";

    /// The lines of an object of that text, read so many bytes at a time.
    fn in_pieces(text: &str, piece: usize) -> Vec<(JobKey, Pointer, Bytes)> {
        let batch = BatchName::new("b").unwrap();
        let object = Listed { written_s: 0, key: "k".into(), bytes: text.len() as u64 };
        let mut open = Open { object, next: 0, rest: BytesMut::new() };
        let mut lines = Vec::new();
        for piece in text.as_bytes().chunks(piece) {
            open.rest.extend_from_slice(piece);
            open.next += piece.len() as u64;
            let (begins, text) = complete_lines(&mut open);
            lines.extend(read_lines("s3://b/k", begins, &text, &batch, None).unwrap());
        }
        lines
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut_by_reading() {
        let whole = in_pieces(TEXT, TEXT.len());
        assert_eq!(whole.len(), 2);
        for (_, pointer, line) in &whole {
            let from = usize::try_from(pointer.offset).unwrap();
            assert_eq!(&TEXT.as_bytes()[from..from + line.len()], line);
        }
        for piece in 1..TEXT.len() {
            assert_eq!(in_pieces(TEXT, piece), whole, "{piece} bytes at a time");
        }
        assert_eq!(in_pieces(TEXT.trim_end(), 7), whole, "a last line without its line feed");
    }

    #[test]
    fn segments_of_one_second_come_in_the_order_in_which_they_were_written() {
        let listed = |written_s, key: &str| Listed { written_s, key: key.into(), bytes: 1 };
        let mut objects = [
            listed(5, "batch=b/tenant=a/00ff-10.jsonl"),
            listed(6, "batch=b/tenant=a/00ff-11.jsonl"),
            listed(5, "batch=b/tenant=b/00ff-9.jsonl"),
            listed(4, "batch=b/tenant=z/00ee-70.jsonl"),
        ];
        oldest_first(&mut objects);
        assert_eq!(objects.map(|object| segments::number(&object.key)), [Some(70), Some(9), Some(10), Some(11)]);
    }

    #[test]
    fn a_line_that_names_no_job_is_damage() {
        let batch = BatchName::new("b").unwrap();
        for bad in ["garbage\n", "{\"id\":\"a b\",\"tenant\":\"t\"}\n", "\n"] {
            let error = read_lines("s3://b/k", 0, &Bytes::from(bad), &batch, None).unwrap_err();
            assert_eq!(error.kind, StoreTrouble::Damaged, "{bad}");
        }
    }
}
