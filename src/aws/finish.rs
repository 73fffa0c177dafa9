//! How do rows become final? Many to a transaction, with the counters of their batches: a row is never final without being
//! counted, nor counted twice.
//!
//! A transaction that is refused says why, row by row. One whose fence is not ours is lost, and goes; one that is final
//! already, under our fence and with our result, is our own success of a reply that got lost, and counts nothing again. Rows
//! that others are at are tried again in halves, down to a row and its counter, never a bare row.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_dynamodb::types::{AttributeValue, CancellationReason, TransactWriteItem};
use futures_util::future::join_all;

use super::batches::{self, Counts};
use super::company::{Replies, Room};
use super::counters::{self, Shards};
use super::rows::{self, Row};
use super::table::{self, Item, number, text};
use super::transact::{ITEMS, InTheWay, Transacted, in_words, pauses, transact};
use super::update::Update;
use super::{Inner, trouble};
use crate::job::ident::{BatchKey, BatchName, JobKey};
use crate::job::lifecycle::State;
use crate::job::outcome::{Ending, Savings, Tally};
use crate::job::trail::Trail;
use crate::ports::{Fence, FinalRow, FinishReply, StoreError, StoreTrouble};

/// Rows to a group: room is left for the counters of a few batches. A counter costs as much as a row: shared by so many, next to nothing.
pub(super) const ROOM: Room = Room { requests: 90, enough: 32, bytes: usize::MAX };
/// Batches that are remembered as listed; forgetting one costs a call.
const REMEMBERED: usize = 10_000;
const DOING: &str = "recording results";

/// A job that has ended. Its ending and what happened before fit its row.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    fence: Fence,
    tally: Tally,
    ending: Ending,
    trail: Option<AttributeValue>,
}

impl Ended {
    pub(super) fn new(fence: &Fence, tally: Tally, ending: Ending, trail: &Trail) -> Self {
        let ending = rows::fitted(&fence.key, &tally, ending);
        let trail = rows::ended_trail(&fence.key, &tally, &ending, trail);
        Self { fence: fence.clone(), tally, ending, trail }
    }

    fn batch(&self) -> BatchKey {
        self.fence.key.batch_key()
    }

    /// The row it makes.
    fn final_row(&self) -> FinalRow {
        let tally = Tally { savings: Savings::default(), ..self.tally };
        let generation = rows::generation(self.fence.token);
        FinalRow { key: self.fence.key.clone(), generation, tally, ending: self.ending.clone() }
    }
}

/// Writes ends.
#[derive(Debug)]
pub(super) struct Finisher {
    inner: Arc<Inner>,
    shards: Shards,
    listed: Mutex<HashSet<BatchKey>>,
}

/// What writing one row came to.
#[derive(Clone, Debug)]
enum Outcome {
    Recorded(Box<FinalRow>),
    Lost,
}

impl Finisher {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        let shards = Shards::of(&inner.epoch);
        Self { inner, shards, listed: Mutex::default() }
    }

    /// Writes all of a group, and says which of their batches are complete by now.
    pub(super) async fn commit(&self, group: Vec<Ended>) -> Replies<FinishReply> {
        let outcomes = self.write_all(&group).await;
        let touched: HashSet<BatchKey> = outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                Ok(Outcome::Recorded(row)) => Some(row.key.batch_key()),
                Ok(Outcome::Lost) | Err(_) => None,
            })
            // Jobs of no batch: nobody seals it.
            .filter(|batch| batch.batch != BatchName::none())
            .collect();
        let standings = touched.into_iter().map(async |batch| {
            let standing = batches::standing(&self.inner, &batch).await;
            (batch, standing.map(|standing| standing.waits_for_announcement().is_some()))
        });
        let mut complete: HashMap<BatchKey, Result<bool, StoreError>> = join_all(standings).await.into_iter().collect();
        let mut reply = |outcome| match outcome {
            Outcome::Lost => Ok(FinishReply::Lost),
            Outcome::Recorded(row) => {
                // One of them is enough to announce it: its message stays until that is done.
                let batch_complete = complete.remove(&row.key.batch_key()).unwrap_or(Ok(false))?;
                Ok(FinishReply::Recorded { row, batch_complete })
            }
        };
        outcomes.into_iter().map(|outcome| outcome.and_then(&mut reply)).collect()
    }

    async fn write_all(&self, group: &[Ended]) -> Vec<Result<Outcome, StoreError>> {
        let unwritten = || Err(trouble::of_ours(StoreTrouble::Away, DOING, "the table is asked for too much at once"));
        let mut outcomes: Vec<_> = group.iter().map(|_| unwritten()).collect();
        let mut parts = parted(group);
        let mut pauses = pauses();
        while let Some(part) = parts.pop() {
            let mut settle = |place: usize, outcome| {
                if let Some(entry) = outcomes.get_mut(place) {
                    *entry = outcome;
                }
            };
            let rows: Vec<&Ended> = part.iter().filter_map(|place| group.get(*place)).collect();
            match self.write(&rows).await {
                Ok(Transacted::Done) => {
                    part.iter()
                        .zip(rows)
                        .for_each(|(place, row)| settle(*place, Ok(Outcome::Recorded(Box::new(row.final_row())))));
                }
                Ok(Transacted::Cancelled(reasons)) => {
                    let mut left = Vec::new();
                    for ((place, row), reason) in part.iter().zip(rows).zip(by_row(&reasons, part.len())) {
                        match reason.map(|reason| (InTheWay::of(reason), reason)) {
                            Some((InTheWay::Condition, reason)) => settle(*place, judged(row, reason.item())),
                            Some((InTheWay::Other, _)) => {
                                settle(*place, Err(trouble::of_ours(StoreTrouble::Other, DOING, in_words(&reasons))));
                            }
                            Some((InTheWay::No | InTheWay::Traffic, _)) | None => left.push(*place),
                        }
                    }
                    if left.len() < part.len() {
                        parts.extend((!left.is_empty()).then_some(left));
                    } else if let Some(pause) = pauses.next() {
                        tokio::time::sleep(pause).await;
                        let half = left.split_off(left.len() / 2);
                        parts.extend([left, half].into_iter().filter(|part| !part.is_empty()));
                    }
                }
                Err(error) => part.iter().for_each(|place| settle(*place, Err(error.clone()))),
            }
        }
        outcomes
    }

    /// One transaction: the rows, in their order, then a counter for each of their batches.
    async fn write(&self, rows: &[&Ended]) -> Result<Transacted, StoreError> {
        let mut counts: HashMap<BatchKey, Counts> = HashMap::new();
        for row in rows {
            counts.entry(row.batch()).or_default().add(&row.tally, &row.ending);
        }
        // Parts are told of with the job that they are parts of.
        self.list(counts.keys().filter(|batch| !batch.batch.is_of_parts())).await?;
        let shard = self.shards.take().await;
        let shard = shard.ok_or_else(|| trouble::of_ours(StoreTrouble::Other, DOING, "no shard to count in"))?;
        let rows = rows.iter().map(|row| self.final_update(row));
        let counters = counts.into_iter().map(|(batch, counts)| {
            let growth = counters::growth(&self.inner, &batch, counts);
            growth.in_transaction(&self.inner, DOING, shard.key(&batch))
        });
        let items = rows.chain(counters).collect::<Result<Vec<_>, _>>()?;
        transact(&self.inner, DOING, items).await
    }

    fn final_update(&self, row: &Ended) -> Result<TransactWriteItem, StoreError> {
        let key = &row.fence.key;
        let now = self.inner.clock.now();
        let tally = Tally { savings: Savings::default(), ..row.tally };
        let update = Update::default()
            .set("st", text(row.ending.status.word()))
            .set("end", number(now.0))
            .set("ttl", table::ttl(now, self.inner.settings.keep))
            .set_or_remove(rows::TRAIL, row.trail.clone());
        let update =
            rows::tally(&tally).into_iter().fold(update, |update, (name, value)| update.set_or_remove(name, value));
        let update =
            rows::ending(key, &row.ending).into_iter().fold(update, |update, (name, value)| update.set(name, value));
        let update = ["own", "nth", "since", "until"].into_iter().fold(update, Update::remove);
        rows::under_fence(update, &row.fence).in_transaction(&self.inner, DOING, table::job(key))
    }

    /// Lists batches that were not listed by this process yet.
    async fn list(&self, batches: impl Iterator<Item = &BatchKey>) -> Result<(), StoreError> {
        let new: Vec<&BatchKey> = {
            let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
            batches.filter(|batch| !listed.contains(batch)).collect()
        };
        let calls = new.iter().map(|batch| batches::index(&self.inner, batch));
        join_all(calls).await.into_iter().collect::<Result<(), _>>()?;
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if listed.len() > REMEMBERED {
            listed.clear();
        }
        listed.extend(new.into_iter().cloned());
        Ok(())
    }
}

/// Places in the group, cut so that each part is one transaction: different jobs, and room for the counters of their batches.
fn parted(group: &[Ended]) -> Vec<Vec<usize>> {
    struct Part<'a> {
        places: Vec<usize>,
        jobs: HashSet<&'a JobKey>,
        batches: HashSet<BatchKey>,
    }
    let mut parts: Vec<Part<'_>> = Vec::new();
    for (place, row) in group.iter().enumerate() {
        let batch = row.batch();
        let fits = |part: &&mut Part<'_>| {
            let counters = part.batches.len() + usize::from(!part.batches.contains(&batch));
            part.places.len() + 1 + counters <= ITEMS && !part.jobs.contains(&row.fence.key)
        };
        match parts.iter_mut().find(fits) {
            Some(part) => {
                part.places.push(place);
                part.jobs.insert(&row.fence.key);
                part.batches.insert(batch);
            }
            None => parts.push(Part {
                places: vec![place],
                jobs: HashSet::from([&row.fence.key]),
                batches: HashSet::from([batch]),
            }),
        }
    }
    parts.into_iter().map(|part| part.places).collect()
}

/// The reasons of the first so many items; `None` where the service gave none.
fn by_row(reasons: &[CancellationReason], rows: usize) -> impl Iterator<Item = Option<&CancellationReason>> {
    (0..rows).map(|place| reasons.get(place))
}

/// A row that is not running under our fence: lost, unless it is what we were about to write.
fn judged(row: &Ended, stands: Option<&Item>) -> Result<Outcome, StoreError> {
    let Some(item) = stands else { return Ok(Outcome::Lost) };
    let found = Row::read(&row.fence.key, item)?;
    let ours = match (found.state, &found.ended) {
        (State::Final(_), Some(ended)) => found.token == row.fence.token && ended.ending.result == row.ending.result,
        (State::Final(_) | State::Queued | State::Running, _) => false,
    };
    let final_row = found.final_row(&row.fence.key).filter(|_| ours);
    Ok(final_row.map_or(Outcome::Lost, |row| Outcome::Recorded(Box::new(row))))
}

#[cfg(test)]
mod tests;
