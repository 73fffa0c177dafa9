//! Where do result lines lie? In segments: objects of JSON lines, many jobs of one batch and tenant to an object, below a path
//! that Athena partitions by date, batch and tenant.
//!
//! An object is written once and never again, under a name that no other process and no other call uses: what a pointer names
//! cannot change. Lines that come together are one object a batch; see [`Company`] for how long they wait for each other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::clients::Results;
use super::company::{Company, Replies, Room};
use super::objects::{Objects, Part};
use super::{Inner, table, trouble};
use crate::job::ident::{BatchKey, Digest};
use crate::job::outcome::Pointer;
use crate::job::units::Timestamp;
use crate::ports::{Bodies, StoreError, StoreTrouble};

/// What lines wait for each other to share; a line that is larger is an object of its own. No request costs as much as one that
/// writes an object, and every batch among them has its own: so they are more until they are enough.
pub(super) const ROOM: Room = Room { requests: 1_000, enough: 64, bytes: 4 << 20 };
/// Objects written at once for one group of lines.
const AT_ONCE: usize = 8;
/// What a name may take of the 1,024 bytes of a key, encoded: a batch's 128 characters can come to 1,536.
const NAME_BYTES: usize = 384;
/// What stands in a key as it is; the rest is encoded as Hive encodes the values of partitions.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-');

/// The bodies of a fleet.
#[derive(Debug)]
pub(super) struct S3Bodies {
    objects: Objects,
    /// What the URI of every line begins with.
    home: String,
    appending: Company<(BatchKey, Bytes), Pointer>,
}

impl S3Bodies {
    /// Within a runtime, which carries the calls.
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        let objects = Objects::new(inner.clients.s3.clone(), inner.settings.bucket.clone());
        let segments = Segments { inner: Arc::clone(inner), objects: objects.clone(), next: AtomicU64::new(1) };
        let segments = Arc::new(segments);
        Self {
            home: objects.uri(&folder(&inner.settings.prefix)),
            objects,
            appending: Company::new("writing results", ROOM, move |lines| {
                let segments = Arc::clone(&segments);
                Box::pin(async move { segments.write(lines).await })
            }),
        }
    }
}

#[async_trait]
impl Bodies for S3Bodies {
    async fn append(&self, batch: &BatchKey, line: Bytes) -> Result<Pointer, StoreError> {
        let weight = line.len();
        self.appending.ask((batch.clone(), line), weight).await
    }

    async fn read(&self, pointer: &Pointer) -> Result<Bytes, StoreError> {
        let doing = format!("reading a result from {}", pointer.uri);
        let damaged = |why: &str| trouble::of_ours(StoreTrouble::Damaged, &doing, why);
        let key = key_of(&pointer.uri, &self.home).ok_or_else(|| damaged("it lies outside the results"))?;
        // There is no range of no bytes, but a line feed behind every line.
        let last = pointer.offset.checked_add(pointer.length.saturating_sub(1));
        let last = last.ok_or_else(|| damaged("no object is that long"))?;
        let part = Part::Range { first: pointer.offset, last };
        let mut line = self
            .objects
            .read(&doing, key, part)
            .await?
            .ok_or_else(|| damaged("the object is gone, or ends before the line does"))?;
        line.truncate(usize::try_from(pointer.length).unwrap_or(usize::MAX));
        if Digest::of(&line) != pointer.sha256 {
            return Err(damaged("the line is not the one that was written"));
        }
        Ok(line)
    }
}

/// The key of a line's object; `None` if it is none of ours.
fn key_of<'a>(uri: &'a str, home: &str) -> Option<&'a str> {
    let (_, key) = Objects::place(uri)?;
    // A store that takes keys for paths must not be led elsewhere.
    let is_ours = uri.starts_with(home) && !key.split('/').any(|part| matches!(part, "." | ".."));
    is_ours.then_some(key)
}

/// What every segment's key begins with.
fn folder(prefix: &str) -> String {
    format!("{prefix}results/")
}

/// What writes segments.
#[derive(Debug)]
struct Segments {
    inner: Arc<Inner>,
    objects: Objects,
    next: AtomicU64,
}

impl Segments {
    async fn write(&self, lines: Vec<(BatchKey, Bytes)>) -> Replies<Pointer> {
        let mut replies: Replies<Pointer> = lines.iter().map(|_| Err(unwritten())).collect();
        let objects = arranged(lines, self.inner.settings.results);
        let written = futures_util::stream::iter(objects).map(|object| async move {
            let pointers = self.write_object(&object).await;
            (object.places, pointers)
        });
        let mut written = std::pin::pin!(written.buffer_unordered(AT_ONCE));
        while let Some((places, pointers)) = written.next().await {
            let outcomes: Replies<Pointer> = match pointers {
                Ok(pointers) => pointers.into_iter().map(Ok).collect(),
                Err(error) => places.iter().map(|_| Err(error.clone())).collect(),
            };
            for (place, outcome) in places.into_iter().zip(outcomes) {
                if let Some(reply) = replies.get_mut(place) {
                    *reply = outcome;
                }
            }
        }
        replies
    }

    /// Writes one object; at an error none of its lines counts.
    async fn write_object(&self, object: &Object) -> Result<Vec<Pointer>, StoreError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let Inner { settings, clock, epoch, .. } = self.inner.as_ref();
        let key = key(&settings.prefix, clock.now(), &object.batch, epoch, number);
        let (body, pointers) = laid_out(&self.objects.uri(&key), &object.lines);
        let doing = format!("writing {} results", object.lines.len());
        self.objects.put(&doing, &key, "application/x-ndjson", body).await?;
        Ok(pointers)
    }
}

fn unwritten() -> StoreError {
    trouble::of_ours(StoreTrouble::Other, "writing a result", "it was not written")
}

/// What becomes one object: lines of one batch, and their places among all that came.
#[derive(Debug)]
struct Object {
    batch: BatchKey,
    places: Vec<usize>,
    lines: Vec<Bytes>,
}

/// Which lines share an object.
fn arranged(lines: Vec<(BatchKey, Bytes)>, results: Results) -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    let mut of_batch: HashMap<BatchKey, usize> = HashMap::new();
    for (place, (batch, line)) in lines.into_iter().enumerate() {
        let shared = match results {
            Results::Segment => of_batch.get(&batch).and_then(|number| objects.get_mut(*number)),
            Results::Object => None,
        };
        if let Some(object) = shared {
            object.places.push(place);
            object.lines.push(line);
        } else {
            of_batch.insert(batch.clone(), objects.len());
            objects.push(Object { batch, places: vec![place], lines: vec![line] });
        }
    }
    objects
}

/// `<prefix>results/date=2026-11-21/batch=b/tenant=t/<epoch>-<n>.jsonl`
fn key(prefix: &str, now: Timestamp, batch: &BatchKey, epoch: &str, number: u64) -> String {
    let date = now.to_string();
    let date = date.get(..10).unwrap_or(&date);
    format!("{}date={date}/{}/{epoch}-{number}.jsonl", folder(prefix), table::folder(batch))
}

/// How many objects its process had written before this one.
pub(super) fn number(key: &str) -> Option<u64> {
    key.strip_suffix(".jsonl")?.rsplit_once('-')?.1.parse().ok()
}

/// A name as it stands in a key: encoded, and where that is too long, its beginning and its digest.
pub(super) fn in_key(name: &str) -> String {
    let encoded = utf8_percent_encode(name, ENCODED).to_string();
    if encoded.len() <= NAME_BYTES {
        return encoded;
    }
    let digest = Digest::of(name.as_bytes()).to_string();
    let mut short = String::new();
    for c in name.chars() {
        let c = utf8_percent_encode(c.encode_utf8(&mut [0; 4]), ENCODED).to_string();
        if short.len() + c.len() + 1 + digest.len() > NAME_BYTES {
            break;
        }
        short.push_str(&c);
    }
    format!("{short}-{digest}")
}

/// The lines as one object, and where each lies in it.
fn laid_out(uri: &str, lines: &[Bytes]) -> (Bytes, Vec<Pointer>) {
    let mut body = BytesMut::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
    let mut pointers = Vec::with_capacity(lines.len());
    for line in lines {
        let (offset, length) = (body.len() as u64, line.len() as u64);
        pointers.push(Pointer { uri: uri.to_owned(), offset, length, sha256: Digest::of(line) });
        body.extend_from_slice(line);
        body.extend_from_slice(b"\n");
    }
    (body.freeze(), pointers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::canned::{Canned, Service};
    use super::*;
    use crate::job::ident::{BatchName, Tenant};

    fn batch(tenant: &str, batch: &str) -> BatchKey {
        BatchKey { tenant: Tenant::new(tenant).unwrap(), batch: BatchName::new(batch).unwrap() }
    }

    #[test]
    fn a_key_is_partitioned_by_date_batch_and_tenant() {
        let of = |name| key("aquifer/", Timestamp(1_795_284_000_000), &batch("ac:me", name), "00ff", 7);
        assert_eq!(of("reviews"), "aquifer/results/date=2026-11-21/batch=reviews/tenant=ac%3Ame/00ff-7.jsonl");
        assert_eq!(number(&of("b-2")), Some(7));
        assert!(of("a=b %/é".replace('/', "").as_str()).contains("/batch=a%3Db%20%25%C3%A9/"));
    }

    #[test]
    fn the_longest_names_fit_a_key_and_are_told_apart() {
        let (waves, seas) = ("\u{1F30A}".repeat(128), "\u{1F30A}".repeat(127) + "\u{1F30B}");
        let longest = batch(&":".repeat(128), &waves);
        assert!(key(&"p".repeat(150), Timestamp(0), &longest, &"f".repeat(16), u64::MAX).len() <= 1_024);
        assert_ne!(in_key(&waves), in_key(&seas));
        assert_eq!(percent_encoding::percent_decode_str(&in_key("a=b %")).decode_utf8().unwrap(), "a=b %");
    }

    #[test]
    fn d8_an_object_holds_lines_of_one_batch_of_one_tenant() {
        let line = Bytes::from_static(b"{}");
        let came =
            || [("a", "1"), ("b", "1"), ("a", "2"), ("a", "1")].map(|(t, b)| (batch(t, b), line.clone())).to_vec();
        let places = |results| arranged(came(), results).into_iter().map(|object| object.places).collect::<Vec<_>>();
        assert_eq!(places(Results::Segment), [vec![0, 3], vec![1], vec![2]]);
        assert_eq!(places(Results::Object), [[0], [1], [2], [3]]);
    }

    #[tokio::test]
    async fn d8_a_line_that_was_not_written_has_no_pointer_and_takes_no_other_with_it() {
        let service = Service::answering([Canned::of_s3(403, "AccessDenied"), Canned::new(200, "")]).await;
        let inner = Arc::clone(&service.fleet.inner);
        let objects = Objects::new(inner.clients.s3.clone(), "b".to_owned());
        let segments = Segments { inner, objects, next: AtomicU64::new(1) };
        let line = Bytes::from_static(b"{}");
        let lines = [("a", "1"), ("b", "1"), ("a", "1"), ("b", "1")].map(|(t, b)| (batch(t, b), line.clone())).to_vec();
        let replies = segments.write(lines).await;
        // Which of the two objects is refused is a matter of the moment.
        let denied =
            |reply: &Result<Pointer, StoreError>| reply.as_ref().is_err_and(|error| error.kind == StoreTrouble::Denied);
        let (one, other) = if denied(&replies[0]) { (0, 1) } else { (1, 0) };
        for place in [one, one + 2] {
            assert!(denied(&replies[place]), "{replies:?}");
        }
        let offsets = [other, other + 2].map(|place| replies[place].as_ref().unwrap().offset);
        assert_eq!(offsets, [0, 3]);
    }

    #[test]
    fn every_line_lies_where_its_pointer_says() {
        let lines = [&b"{\"a\":1}"[..], b"", b"{}"].map(Bytes::copy_from_slice);
        let (body, pointers) = laid_out("s3://b/k", &lines);
        assert_eq!(body, &b"{\"a\":1}\n\n{}\n"[..]);
        for (line, pointer) in lines.iter().zip(pointers) {
            let (from, length) = (pointer.offset as usize, pointer.length as usize);
            assert_eq!(body.slice(from..from + length), line);
            assert_eq!(pointer.sha256, Digest::of(line));
        }
    }

    #[test]
    fn only_our_own_results_are_read() {
        let home = "s3://b/aquifer/results/";
        assert_eq!(key_of("s3://b/aquifer/results/date=x/1.jsonl", home), Some("aquifer/results/date=x/1.jsonl"));
        for uri in [
            "/etc/passwd",
            "../x",
            "bodies/../../x",
            "s3://c/aquifer/results/x",
            "s3://b/aquifer/jobs/x",
            "s3://b/aquifer/results/../jobs/x",
            "s3://b/other/results/x",
        ] {
            assert_eq!(key_of(uri, home), None, "{uri}");
        }
    }
}
