//! What stands where in the table? One table for everything, and every job in a partition of its own, so that a batch of
//! ten million is as spread as ten million batches.
//!
//! ```text
//! pk                        sk                 holds
//! job/acme/reviews/o-1841   -                  st=running tok=1 own=4f..c1 nth=17 since=1795..0 until=1795..9 dig=.. enq=..
//! job/acme/reviews/o-1842   -                  st=failed tok=3 dig=.. enq=.. end=.. att=2 calls=4 cost=1297000 use="812 97 0 0"
//!                                              class=invalid msg=.. req=.. at=s3://b/p/results/date=2026-11-21/=/4f..c1-7.jsonl
//!                                              off=0 len=812 sha=.. ttl=1798.. trail="0;c 1795..0 4f..c1;m 1795..2 .."
//! batch/acme/reviews        asks/9c1f..        task=AAAAKg..   (a workflow that waits for it; answered=1795.. ttl=.. once it was told)
//! batch/acme/reviews        head               total=1200 refused=1 roll=s3://.. announced=1 ends=1199
//! batch/acme/reviews        from/4e07..        uri=s3://.. etag=.. version=.. model=..   (an object that it was enqueued from)
//! batch/acme/reviews        count/00           succeeded=70 failed=1 ends=71 input=.. output=.. cost=..   (one of 16 shards)
//! parts/acme/reviews        o-1850/0/0         batch=parts-9f.. total=250 at=p/jobs/round-7c..jsonl len=9120 again={..} out=1 ttl=..
//! batch/acme/parts-9f..     head               total=250 of=parts/acme/reviews nth=o-1850/0/0 announced=1 ends=250 ttl=..
//! batch/acme/parts-9f..     count/00           succeeded=250 ends=250 calls=250 cost=.. ttl=..
//! job/acme/parts-9f../17    -                  (a part is a job like any other)
//! batches                   acme/reviews       name=reviews first=1795..
//! calls/4f..c1              1795000000000/17   calls=[["job/acme/reviews/o-1841",4294967297,0,1,0,0,10000000,0,0],..] ttl=..
//! told/4f..c1               1795000005000/3    told=(jobs by digest, and when their ends were made known) ttl=..
//! gates                     us-east-1/m#4f..c1 reason=.. since=.. until=.. ttl=..
//! lane/us-east-1/m          -                  (see `allowance`)
//! lanes                     us-east-1/m        (see `allowance`)
//! analysis/acme/-/d-1       -                  st=succeeded by=agent at=s3://.. off=.. len=.. sha=.. doc=(the document's own at, off,
//!                                              len, sha) cost=.. source=.. run=arn:.. end=.. ttl=..    or st=failed class=.. msg=..
//! express/acme/-/e-1        -                  st=succeeded dig=.. model=.. uri=s3://.. run=arn:.. end=.. ttl=..
//! ```
//!
//! The last two are written by the workflows of `statemachine/` and read by nobody here: what became of a document's whole
//! pipeline, and of a job that no worker saw.
//!
//! Of a job: `st`ate, fencing `tok`en (its upper half counts redrives, its lower half claims), its `own`er's epoch, `nth`
//! claim of that process, leased `since` and `until`, content `dig`est, `enq`ueued; counted so far: `att`empts, `calls`,
//! `cost`, `unk`nown, reruns (`rer`, `rcost`), `susp`icion, and the epoch it was taken over `from` with a call open; and the request
//! `by` which it was redriven last, if that was a message.
//! Ended: the `model` used, tokens to `use` (input, output, cache read, cache write), the failure's `class`, `msg` and
//! `req`uest, the `end`, and where its line lies: `at` (with `=` for the batch's folder and `*` for the job's id) or
//! `uri`. The `trail` is what happened to it (see `job::trail`), as much as there is room for. What is zero or unsaid is left out. Moments are milliseconds, money is in billionths of a dollar, `ttl` is in
//! seconds, as DynamoDB wants it. A row takes at most [`ROW_BYTES`].
//!
//! Of a round of parts (see `parts`), below `<job>/<generation>/<round>`: the batch that they are jobs of, how many they `total`,
//! `at` which key they lie as they are sent, behind a first line of `len` bytes; the message by which the job is delivered `again`
//! and the `trace` that goes with it, if there is one; and whether all are sent `out`. The head of their batch names the round: `of` is its partition, `nth` its place there.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use super::segments::in_key;
use super::trouble;
use crate::job::ident::{BatchKey, BatchName, Digest, JobKey};
use crate::job::units::Timestamp;
use crate::ports::{StoreError, StoreTrouble};

/// One unit of write capacity: a larger row costs twice.
pub(super) const ROW_BYTES: usize = 1_024;
/// The sort key of what is alone in its partition.
pub(super) const ALONE: &str = "-";
/// The sort key of a batch's head.
pub(super) const HEAD: &str = "head";
/// What the sort keys of a batch's counters begin with.
pub(super) const COUNT: &str = "count/";
/// What the partitions of rounds of parts begin with.
pub(super) const PARTS: &str = "parts/";
/// The partition of the index of batches.
pub(super) const BATCHES: &str = "batches";
/// The partition of the gates of all lanes.
pub(super) const GATES: &str = "gates";
/// A batch's name may have 128 characters of four bytes each; keys hold no more bytes of it than this.
const BATCH_BYTES: usize = 128;
/// What of a longer name stands before its digest.
const BATCH_BEGINNING: usize = BATCH_BYTES - 1 - BATCH_DIGITS;
const BATCH_DIGITS: usize = 32;

/// An item, or the key of one.
pub(super) type Item = HashMap<String, AttributeValue>;

/// The key of an item.
pub(super) fn key(pk: String, sk: impl Into<String>) -> Item {
    Item::from([("pk".to_owned(), AttributeValue::S(pk)), ("sk".to_owned(), AttributeValue::S(sk.into()))])
}

/// The key of a job's row.
pub(super) fn job(key_of: &JobKey) -> Item {
    key(job_pk(key_of), ALONE)
}

/// The partition of a job's row.
pub(super) fn job_pk(key: &JobKey) -> String {
    format!("job/{}/{}/{}", key.tenant, batch_part(&key.batch), key.id)
}

/// The partition of a batch's head and counters.
pub(super) fn batch_pk(batch: &BatchKey) -> String {
    format!("batch/{}", batch_sk(batch))
}

/// The sort key of a batch in the index of batches.
pub(super) fn batch_sk(batch: &BatchKey) -> String {
    format!("{}/{}", batch.tenant, batch_part(&batch.batch))
}

/// The partition of when a process made ends known.
pub(super) fn told_pk(epoch: &str) -> String {
    format!("told/{epoch}")
}

/// The partition of what a process put on record before its calls.
pub(super) fn calls_pk(epoch: &str) -> String {
    format!("calls/{epoch}")
}

/// The folder of a batch's objects below `results/date=.../`: Athena reads its partitions off it.
pub(super) fn folder(batch: &BatchKey) -> String {
    format!("batch={}/tenant={}", in_key(batch.batch.as_str()), in_key(batch.tenant.as_str()))
}

/// A batch's name in keys. A long one is cut, and told from others that begin like it by its digest: after a `/`, which no
/// name holds.
fn batch_part(name: &BatchName) -> String {
    let name = name.as_str();
    if name.len() <= BATCH_BYTES {
        return name.to_owned();
    }
    let mut digest = Digest::of(name.as_bytes()).to_string();
    digest.truncate(BATCH_DIGITS);
    format!("{}/{digest}", beginning(name, BATCH_BEGINNING))
}

/// At most so many bytes of a text, in whole characters.
pub(super) fn beginning(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or_default()
}

/// A text.
pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

/// A number.
pub(super) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// Bytes.
pub(super) fn bytes(value: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(value))
}

/// A message waits in the queue no longer than this (source: SQS's quotas).
const LONGEST_WAIT: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// When DynamoDB may delete what is said of a batch whose jobs are still to be worked: not before their rows. Once all of them have
/// ended it is [`ttl`] again.
pub(super) fn ttl_while_open(now: Timestamp, keep: Duration) -> AttributeValue {
    ttl(now, keep + LONGEST_WAIT)
}

/// When DynamoDB may delete an item that is kept for so long.
pub(super) fn ttl(now: Timestamp, keep: Duration) -> AttributeValue {
    number(now.after(keep).0 / 1_000)
}

/// An item as it is read: what is missing and what is damaged are two things.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a Item);

impl<'a> Fields<'a> {
    pub(super) fn text(self, name: &str) -> Result<Option<&'a str>, StoreError> {
        match self.0.get(name) {
            None => Ok(None),
            Some(AttributeValue::S(text)) => Ok(Some(text)),
            Some(_) => Err(unreadable(name)),
        }
    }

    pub(super) fn number<T: FromStr>(self, name: &str) -> Result<Option<T>, StoreError> {
        match self.0.get(name) {
            None => Ok(None),
            Some(AttributeValue::N(number)) => number.parse().map(Some).map_err(|_| unreadable(name)),
            Some(_) => Err(unreadable(name)),
        }
    }

    /// A count that is left out while it is zero.
    pub(super) fn count<T: FromStr + Default>(self, name: &str) -> Result<T, StoreError> {
        Ok(self.number(name)?.unwrap_or_default())
    }

    pub(super) fn digest(self, name: &str) -> Result<Option<Digest>, StoreError> {
        match self.0.get(name) {
            None => Ok(None),
            Some(AttributeValue::B(bytes)) => {
                Digest::from_bytes(bytes.as_ref()).map(Some).ok_or_else(|| unreadable(name))
            }
            Some(_) => Err(unreadable(name)),
        }
    }
}

/// What cannot do without the attribute.
pub(super) fn needed<T>(name: &str, value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| unreadable(name))
}

/// Something else stands in the table than what we write.
pub(super) fn unreadable(name: &str) -> StoreError {
    trouble::of_ours(StoreTrouble::Damaged, "reading the table", format!("`{name}` is missing or not readable"))
}

/// What an item weighs, as DynamoDB counts it.
pub(super) fn weight(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + weight_of(value)).sum()
}

fn weight_of(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        // Two digits to a byte, and up to two more.
        AttributeValue::N(number) => number.len().div_ceil(2) + 2,
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        // We write nothing else.
        _ => 1,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::job::ident::{JobId, Tenant};

    fn named(batch: &str) -> JobKey {
        JobKey {
            tenant: Tenant::new("acme").unwrap(),
            batch: BatchName::new(batch).unwrap(),
            id: JobId::new("o-1").unwrap(),
        }
    }

    #[test]
    fn keys_read_like_the_names_they_are_made_of() {
        assert_eq!(job_pk(&named("reviews 2026")), "job/acme/reviews 2026/o-1");
        assert_eq!(batch_pk(&named("-").batch_key()), "batch/acme/-");
        assert_eq!(folder(&named("reviews 2026").batch_key()), "batch=reviews%202026/tenant=acme");
    }

    #[test]
    fn long_names_are_cut_and_still_told_apart() {
        let (one, other) = ("\u{1f980}".repeat(128), format!("{}x", "\u{1f980}".repeat(127)));
        let (one, other) = (job_pk(&named(&one)), job_pk(&named(&other)));
        assert_ne!(one, other);
        assert!(one.len() <= "job/acme//o-1".len() + BATCH_BYTES, "{one}");
        assert!(folder(&named(&"\u{1f980}".repeat(128)).batch_key()).len() < 400);
        // No name could be mistaken for a cut one: it holds a slash.
        assert_eq!(one.split('/').count(), 5);
    }
}
