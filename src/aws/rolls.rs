//! Which lines had a batch's inputs? Its rolls, read part by part: the newest first in its input's order, then what only earlier
//! ones hold.

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::listing::Listing;
use super::objects::{Objects, Part};
use super::{Inner, mark, roll, trouble};
use crate::job::ident::{BatchKey, BatchName, Digest, JobId, JobKey, RollId, Tenant, short_name};
use crate::job::outcome::Pointer;
use crate::ports::{StoreError, StoreTrouble};

const DOING: &str = "reading what a batch was enqueued from";

/// What stands at one place of a roll.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    /// A job.
    Job(JobKey),
    /// A line that is no job.
    Refused(Refused),
}

/// A line that was refused before it became a job.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refused {
    pub(super) tenant: Tenant,
    pub(super) id: String,
    pub(super) result: Bytes,
    /// Where the result lies: within the roll itself.
    pub(super) pointer: Pointer,
}

/// The rolls of a batch, on the way through them.
#[derive(Debug)]
pub(super) struct Rolls {
    inner: Arc<Inner>,
    batch: BatchName,
    rolls: VecDeque<RollId>,
    /// So many of those to come, the first, tell of their refused lines.
    newest: usize,
    parts: Option<Listing>,
    /// Jobs that were there; only where there is more than one roll.
    seen: Option<HashSet<u128>>,
    /// Whether the one that is being read does.
    is_newest: bool,
}

impl Rolls {
    /// All rolls of a batch; `None` if it never had one.
    pub(super) async fn of_batch(inner: &Arc<Inner>, batch: &BatchKey) -> Result<Option<Self>, StoreError> {
        let mark = mark::of_batch(inner, batch).await?;
        Ok(mark.map(|mark| Self::new(inner, &batch.batch, mark.rolls(), 1)))
    }

    /// All rolls of all tenants' batches of that name.
    pub(super) async fn of_all(inner: &Arc<Inner>, batch: &BatchName) -> Result<Self, StoreError> {
        let marks = mark::all(inner, batch).await?;
        Ok(Self::new(inner, batch, marks.iter().flat_map(mark::Mark::rolls).collect(), 0))
    }

    /// The newest roll of each batch of that name; `None` if none has one.
    pub(super) async fn newest(inner: &Arc<Inner>, batch: &BatchName) -> Result<Option<Self>, StoreError> {
        let marks = mark::all(inner, batch).await?;
        let rolls: Vec<_> = marks.iter().filter_map(|mark| mark.rolls().into_iter().next()).collect();
        let count = rolls.len();
        Ok((count > 0).then(|| Self::new(inner, batch, rolls, count)))
    }

    /// These rolls, in this order; each job is told once, refused lines only of the first so many.
    pub(super) fn new(inner: &Arc<Inner>, batch: &BatchName, rolls: Vec<RollId>, newest: usize) -> Self {
        let seen = (rolls.len() > 1).then(HashSet::new);
        let (inner, batch) = (Arc::clone(inner), batch.clone());
        Self { inner, batch, rolls: rolls.into(), newest, parts: None, seen, is_newest: false }
    }

    /// The next part, in order; `None` behind the last.
    pub(super) async fn next_part(&mut self) -> Result<Option<Vec<Place>>, StoreError> {
        loop {
            let parts = match &mut self.parts {
                Some(parts) => parts,
                None => {
                    let Some(roll) = self.rolls.pop_front() else { return Ok(None) };
                    (self.is_newest, self.newest) = (self.newest > 0, self.newest.saturating_sub(1));
                    let listing = Listing::below(roll::folder(&self.inner, &self.batch, &roll));
                    self.parts.insert(listing)
                }
            };
            let Some(part) = parts.next(&self.inner, DOING).await? else {
                self.parts = None;
                continue;
            };
            let objects = Objects::new(self.inner.clients.s3.clone(), self.inner.settings.bucket.clone());
            let limit = usize::try_from(part.bytes).unwrap_or(usize::MAX);
            let text = objects
                .read(DOING, &part.key, Part::Whole { limit })
                .await?
                .ok_or_else(|| trouble::of_ours(StoreTrouble::Damaged, DOING, format!("{} is gone", part.key)))?;
            let mut places = decode(&objects.uri(&part.key), &self.batch, &text)?;
            places.retain(|place| self.is_news(place));
            return Ok(Some(places));
        }
    }

    fn is_news(&mut self, place: &Place) -> bool {
        match (place, &mut self.seen) {
            (Place::Job(_), None) => true,
            (Place::Job(key), Some(seen)) => seen.insert(short_name(&key.tenant, &key.id)),
            (Place::Refused(_), _) => self.is_newest,
        }
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    tenant: Tenant,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

/// The places of a part. A result is the last thing in its line, so that where it lies is known from its length.
pub(super) fn decode(uri: &str, batch: &BatchName, text: &Bytes) -> Result<Vec<Place>, StoreError> {
    let damaged = || trouble::of_ours(StoreTrouble::Damaged, DOING, format!("{uri} holds a line that is not ours"));
    let mut places = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let end = start + line.len();
        let Line { id, tenant, result } = serde_json::from_slice(line).map_err(|_| damaged())?;
        places.push(match result {
            None => {
                let id = JobId::new(&id).map_err(|_| damaged())?;
                Place::Job(JobKey { tenant, batch: batch.clone(), id })
            }
            Some(result) => {
                let from = (end - "}\n".len()).checked_sub(result.get().len()).ok_or_else(damaged)?;
                let result = text.slice(from..from + result.get().len());
                let pointer = Pointer {
                    uri: uri.to_owned(),
                    offset: from as u64,
                    length: result.len() as u64,
                    sha256: Digest::of(&result),
                };
                Place::Refused(Refused { tenant, id: id.into_owned(), result, pointer })
            }
        });
        start = end;
    }
    Ok(places)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::roll::encode;
    use super::*;
    use crate::ports::rolls::{LineContent, RollLine};

    fn batch() -> BatchName {
        BatchName::new("reviews 2026").unwrap()
    }

    fn lines() -> Vec<RollLine> {
        let result = Bytes::from(r#"{"id":"line-2","text":"\u00e4 }","error":null}"#);
        let line = |position, content| RollLine { position, tenant: Tenant::unnamed(), content };
        vec![
            line(0, LineContent::Job(JobId::new("o-1").unwrap())),
            line(1, LineContent::Refused { id: "line-\"2\"".to_owned(), result }),
            line(3, LineContent::Job(JobId::new("o-2").unwrap())),
        ]
    }

    #[test]
    fn a_part_reads_back_and_points_to_what_it_holds() {
        let text = encode("testing", &lines()).unwrap();
        let places = decode("s3://b/part", &batch(), &text).unwrap();
        let key = |id| JobKey { tenant: Tenant::unnamed(), batch: batch(), id: JobId::new(id).unwrap() };
        assert_eq!((&places[0], &places[2]), (&Place::Job(key("o-1")), &Place::Job(key("o-2"))));
        let Place::Refused(Refused { id, result, pointer, .. }) = &places[1] else { unreachable!() };
        assert_eq!(id, "line-\"2\"");
        let from = usize::try_from(pointer.offset).unwrap();
        let there = text.slice(from..from + usize::try_from(pointer.length).unwrap());
        assert_eq!((&there, pointer.sha256), (result, Digest::of(result)));
        let LineContent::Refused { result: written, .. } = &lines()[1].content else { unreachable!() };
        assert_eq!(result, written);
    }

    #[test]
    fn what_is_no_result_is_not_put_on_a_roll() {
        for bad in ["{", "{\"a\":\n1}", ""] {
            let content = LineContent::Refused { id: "x".to_owned(), result: bad.into() };
            let line = RollLine { position: 7, tenant: Tenant::unnamed(), content };
            let error = encode("testing", &[line]).unwrap_err();
            assert!(error.why.contains("line 7"), "{error}");
        }
    }

    #[test]
    fn a_part_that_is_not_ours_is_damaged() {
        for bad in ["{\"id\":\"a b\",\"tenant\":\"acme\"}\n", "garbage\n", "{}\n"] {
            let error = decode("s3://b/part", &batch(), &Bytes::from(bad)).unwrap_err();
            assert_eq!(error.kind, StoreTrouble::Damaged, "{bad}");
        }
    }
}
