//! In which shard is an end counted? A batch's counts lie in sixteen items, so that workers do not stand in each other's way;
//! within a process, no two transactions that are under way at once share one.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::Inner;
use super::batches::Counts;
use super::table::{self, Item, number};
use super::update::Update;
use crate::job::ident::{BatchKey, Digest};
use crate::job::lifecycle::Status;
use crate::job::outcome::{Ending, Tally, Usage};

/// Shards of a batch's counts.
const SHARDS: u8 = 16;
/// Of these, in use by one process; so many transactions it has under way at once.
const OURS: u8 = 4;

/// The shards of one process.
#[derive(Debug)]
pub(super) struct Shards {
    turn: Semaphore,
    free: Mutex<Vec<u8>>,
}

/// A shard that nobody else in the process counts in meanwhile.
#[derive(Debug)]
pub(super) struct Shard<'a> {
    number: u8,
    of: &'a Shards,
    _turn: SemaphorePermit<'a>,
}

impl Shards {
    /// Those of the process of that epoch.
    pub(super) fn of(epoch: &str) -> Self {
        let [first, ..] = *Digest::of(epoch.as_bytes()).as_bytes();
        let free = (0..OURS).map(|n| first.wrapping_add(n) % SHARDS).collect();
        Self { turn: Semaphore::new(OURS.into()), free: Mutex::new(free) }
    }

    /// One of them, as soon as one is free; `None` never, for the semaphore is not closed.
    pub(super) async fn take(&self) -> Option<Shard<'_>> {
        let turn = self.turn.acquire().await.ok()?;
        let number = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        Some(Shard { number, of: self, _turn: turn })
    }
}

impl Shard<'_> {
    /// Its key in that batch.
    pub(super) fn key(&self, batch: &BatchKey) -> Item {
        table::key(table::batch_pk(batch), format!("{}{:02}", table::COUNT, self.number))
    }
}

impl Drop for Shard<'_> {
    fn drop(&mut self) {
        self.of.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.number);
    }
}

/// What a shard grows by.
pub(super) fn growth(inner: &Inner, batch: &BatchKey, mut counts: Counts) -> Update {
    let grown = counts.parts().into_iter().filter(|(_, by)| **by != 0);
    let growth = grown.fold(Update::default(), |update, (name, by)| update.add(name, number(*by)));
    if batch.batch.is_of_parts() {
        // Nobody forgets them by name.
        growth.set("ttl", table::ttl(inner.clock.now(), inner.settings.keep))
    } else {
        growth
    }
}

impl Counts {
    /// A job ended.
    pub(super) fn add(&mut self, tally: &Tally, ending: &Ending) {
        self.swap(tally, ending, 1);
        self.ends += 1;
        self.saved += signed(tally.savings.saved.0);
        self.reruns += signed(tally.savings.reruns);
        self.rerun_cost += signed(tally.savings.rerun_cost.nanos());
    }

    /// An ended job is set running again: it counts again when it ends again, with all that it cost. What right-sizing saved
    /// and cost so far stays: it is not in the job's tally any more.
    pub(super) fn take_out(&mut self, tally: &Tally, ending: &Ending) {
        self.swap(tally, ending, -1);
    }

    fn swap(&mut self, tally: &Tally, ending: &Ending, sign: i64) {
        let count = match ending.status {
            Status::Succeeded => &mut self.succeeded,
            Status::Failed => &mut self.failed,
            Status::Rejected => &mut self.rejected,
            Status::Expired => &mut self.expired,
            Status::Partial => &mut self.partial,
        };
        *count += sign;
        let Usage { input_tokens, output_tokens, cache_read_tokens, cache_write_tokens } = ending.usage;
        self.input += sign * signed(input_tokens);
        self.output += sign * signed(output_tokens);
        self.cache_read += sign * signed(cache_read_tokens);
        self.cache_write += sign * signed(cache_write_tokens);
        self.cost += sign * signed(tally.spent.nanos());
        self.unknown += sign * signed(tally.unknown.nanos());
        self.calls += sign * i64::from(tally.model_calls);
        self.attempts += sign * i64::from(tally.attempts);
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::HashSet;

    use futures_util::FutureExt;

    use super::*;
    use crate::job::ident::{BatchName, Tenant};
    use crate::job::units::Usd;

    #[tokio::test]
    async fn transactions_under_way_at_once_do_not_share_a_counter() {
        let shards = Shards::of("00ff");
        let mut taken = Vec::new();
        for _ in 0..OURS {
            taken.push(shards.take().await.unwrap());
        }
        assert!(shards.take().now_or_never().is_none(), "they wait instead");
        let batch = BatchKey { tenant: Tenant::unnamed(), batch: BatchName::new("b").unwrap() };
        let keys: HashSet<String> = taken.iter().map(|shard| format!("{:?}", shard.key(&batch).get("sk"))).collect();
        assert_eq!(keys.len(), usize::from(OURS));
        let freed = taken.pop().unwrap().number;
        // Popped and dropped: its turn is over.
        assert_eq!(shards.take().await.unwrap().number, freed);
    }

    #[test]
    fn a_redriven_job_leaves_its_batch_as_it_was_but_for_its_end() {
        let usage = Usage { input_tokens: 10, output_tokens: 3, cache_read_tokens: 2, cache_write_tokens: 1 };
        let tally = Tally { spent: Usd::from_nanos(7), ..Tally::default() };
        for status in Status::ALL {
            let result = crate::job::outcome::Pointer {
                uri: "s3://b/k".to_owned(),
                offset: 0,
                length: 1,
                sha256: Digest::of(b""),
            };
            let ending = Ending { status, model_used: None, usage, error: None, result };
            let mut counts = Counts::default();
            counts.add(&tally, &ending);
            assert_eq!((counts.ended(), counts.cost, counts.cache_write), (1, 7, 1));
            counts.take_out(&tally, &ending);
            assert_eq!(counts, Counts { ends: 1, ..Counts::default() });
        }
    }
}
