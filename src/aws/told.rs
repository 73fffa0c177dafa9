//! When was the end of a job made known? Its row cannot say: it was written before that, and a write after it would cost as
//! much as all the rest of a job. So a process writes it down for many jobs at once, every few seconds and in few bytes each,
//! into a log that nobody reads but those who ask what became of one job.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::calls::moment;
use super::table::{self, Item, bytes, text, unreadable};
use super::{Inner, trouble};
use crate::job::ident::{Digest, JobKey};
use crate::job::units::Timestamp;
use crate::ports::StoreError;

/// Between two writes.
pub(super) const WRITTEN_EVERY: Duration = Duration::from_secs(5);
/// Jobs to an item at most: 160 KB, of the 400 KB that DynamoDB allows one.
const GROUP: usize = 10_000;
/// Bytes of a job: of the digest of its name, and the moment in milliseconds.
const HASH: usize = 10;
pub(super) const ENTRY: usize = HASH + 6;
/// Items that are read to find a job: what was made known later than about so many writes after its end is not found.
const LOOKED_AT: i32 = 100;

/// What this process made known, on its way to the table.
#[derive(Debug)]
pub(super) struct Told {
    log: mpsc::UnboundedSender<Word>,
}

enum Word {
    Told([u8; ENTRY]),
    Flush(oneshot::Sender<()>),
}

impl Told {
    /// Must be called inside a runtime.
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        let (log, words) = mpsc::unbounded_channel();
        tokio::spawn(keep(inner, words));
        Self { log }
    }

    /// The end of that job was made known at that moment.
    pub(super) fn add(&self, key: &JobKey, at: Timestamp) {
        // Nobody takes it while the runtime is shutting down.
        let _ = self.log.send(Word::Told(entry(key, at)));
    }

    /// Waits until all of it is written, or was found impossible to write.
    pub(super) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.log.send(Word::Flush(done)).is_ok() {
            let _ = written.await;
        }
    }
}

/// Writes what comes, until nobody can say anything any more.
async fn keep(inner: Arc<Inner>, mut words: mpsc::UnboundedReceiver<Word>) {
    let items = AtomicU64::new(0);
    let mut is_open = true;
    while is_open {
        let mut group = Vec::new();
        let mut flushed = None;
        let mut leaves = None::<Instant>;
        while group.len() < GROUP * ENTRY {
            let due = leaves.unwrap_or_else(Instant::now);
            let word = tokio::select! {
                word = words.recv() => word,
                () = tokio::time::sleep_until(due), if leaves.is_some() => break,
            };
            match word {
                Some(Word::Told(entry)) => {
                    group.extend(entry);
                    leaves.get_or_insert_with(|| Instant::now() + WRITTEN_EVERY);
                }
                Some(Word::Flush(done)) => {
                    flushed = Some(done);
                    break;
                }
                None => {
                    is_open = false;
                    break;
                }
            }
        }
        if !group.is_empty()
            && let Err(error) = write(&inner, items.fetch_add(1, Ordering::Relaxed), &group).await
        {
            // Only those miss it who ask what became of one of these jobs.
            tracing::debug!(%error, "when ends were made known is not on record");
        }
        if let Some(done) = flushed {
            let _ = done.send(());
        }
    }
}

async fn write(inner: &Inner, nth: u64, group: &[u8]) -> Result<(), StoreError> {
    let now = inner.clock.now();
    let mut item = table::key(table::told_pk(&inner.epoch), format!("{}/{nth}", moment(now)));
    item.insert("told".to_owned(), bytes(group));
    item.insert("ttl".to_owned(), table::ttl(now, inner.settings.keep));
    let put = inner.clients.dynamodb.put_item().table_name(&inner.settings.table).set_item(Some(item));
    put.send().await.map(drop).map_err(|error| trouble::of_sdk("recording when ends were made known", &error))
}

/// When the process of that epoch made the end of a job known that ended then.
pub(super) async fn when(
    inner: &Inner,
    key: &JobKey,
    epoch: &str,
    ended: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let found = inner
        .clients
        .dynamodb
        .query()
        .table_name(&inner.settings.table)
        .key_condition_expression("pk = :pk AND sk >= :from")
        .expression_attribute_values(":pk", text(table::told_pk(epoch)))
        .expression_attribute_values(":from", text(moment(ended)))
        .limit(LOOKED_AT)
        .send()
        .await
        .map_err(|error| trouble::of_sdk("reading when an end was made known", &error))?;
    for item in found.items() {
        if let Some(at) = find(item, key, ended)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn entry(key: &JobKey, at: Timestamp) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    let (hash, moment) = entry.split_at_mut(HASH);
    hash.copy_from_slice(&name(key));
    // The upper two bytes are zero for another eight thousand years.
    moment.copy_from_slice(&at.0.max(0).to_be_bytes()[2..]);
    entry
}

fn name(key: &JobKey) -> [u8; HASH] {
    let mut hash = [0; HASH];
    hash.copy_from_slice(&Digest::of(table::job_pk(key).as_bytes()).as_bytes()[..HASH]);
    hash
}

/// An earlier generation of the job may have been made known before.
fn find(item: &Item, key: &JobKey, ended: Timestamp) -> Result<Option<Timestamp>, StoreError> {
    let Some(AttributeValue::B(told)) = item.get("told") else { return Err(unreadable("told")) };
    let name = name(key);
    let entries = told.as_ref().chunks_exact(ENTRY);
    let moments = entries
        .filter_map(|entry| entry.strip_prefix(&name))
        .map(|moment| Timestamp(moment.iter().fold(0, |millis, byte| millis << 8 | i64::from(*byte))));
    Ok(moments.into_iter().find(|at| *at >= ended))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::job::ident::{BatchName, JobId, Tenant};

    fn job(id: &str) -> JobKey {
        JobKey { tenant: Tenant::unnamed(), batch: BatchName::none(), id: JobId::new(id).unwrap() }
    }

    #[test]
    fn a_moment_is_found_by_its_job_and_never_before_its_end() {
        let (before, after) = (Timestamp(1_795_000_000_000), Timestamp(1_795_000_000_777));
        let group: Vec<u8> = [("a", before), ("b", before), ("a", after)].map(|(id, at)| entry(&job(id), at)).concat();
        let item = Item::from([("told".to_owned(), bytes(&group))]);
        let found = |id: &str, ended| find(&item, &job(id), ended).unwrap();
        assert_eq!(found("a", before), Some(before));
        assert_eq!(found("a", before.after(Duration::from_millis(1))), Some(after));
        assert_eq!(found("b", after), None);
        assert_eq!(found("c", before), None);
    }
}
