//! Which jobs are parts of another, and when may that go on? The parts of a round are a batch like any other, sealed with its
//! total when they are handed out: what counts batches counts them, in the transactions that make their rows final.
//!
//! No transaction holds a thousand messages, so a round is handed out in steps of which the first decides: it is written to S3
//! (see [`staged`]); its row is written in one transaction with the seal of its batch and the extension of the job's own row,
//! under the job's fence; then its parts are sent from what lies in S3; and then its row says that they are. Whoever comes
//! after a crash finds the row and sends what has not ended. A part that is sent twice is one job.
//!
//! SQS cannot be told to deliver a message that it hides: the job is sent again when its last part has ended, as its row has
//! it. The message that rests is delivered later, finds the job ended, and goes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join_all, try_join};

use super::batches;
use super::fetch::{self, ROWS};
use super::queue::SqsQueue;
use super::rows::{self, Row};
use super::table::Fields;
use super::{Inner, ledger, look_up, redrive, trouble};
use crate::job::ident::{BatchKey, BatchName, JobId, JobKey};
use crate::job::lifecycle::{State, Step};
use crate::job::outcome::Tally;
use crate::job::spec::Priority;
use crate::ports::{
    BATCH_ENTRIES, Fence, FinalRow, MessageId, Outgoing, Parts, Queue, Round, RoundStanding, StoreError, StoreTrouble,
};

use rounds::{Place, RoundRow, Written};
use staged::{Staged, StagedPart};

pub(super) mod rounds;
mod staged;

/// What is sent again of a job that somebody just now looks at comes after this: he is done by then.
const LOOKED_AT: Duration = Duration::from_secs(2);
const DOING: &str = "handing out parts";

/// The parts of a fleet's jobs.
#[derive(Debug)]
pub(super) struct FleetParts {
    pub(super) inner: Arc<Inner>,
    pub(super) queue: Arc<SqsQueue>,
}

#[async_trait]
impl Parts for FleetParts {
    async fn standing(&self, job: &Fence, generation: u32, round: u32) -> Result<Option<RoundStanding>, StoreError> {
        let place = Place::of(&job.key, generation, round);
        let Some(row) = rounds::read(&self.inner, &place).await? else { return Ok(None) };
        let batch = BatchKey { tenant: job.key.tenant.clone(), batch: row.batch.clone() };
        if !row.is_out {
            self.send_all(&batch, &row, true).await?;
        }
        let (standing, about) =
            try_join(batches::standing(&self.inner, &batch), staged::about(&self.inner, &row.staged)).await?;
        let open = row.total.saturating_sub(standing.counts.ended());
        Ok(Some(RoundStanding { batch, about, open, total: row.total }))
    }

    async fn hand_out(
        &self,
        job: &Fence,
        generation: u32,
        _message: &MessageId,
        round: Round,
    ) -> Result<bool, StoreError> {
        let Some(batch) = round.parts.first().map(|part| part.key.batch_key()) else { return Ok(false) };
        let place = Place::of(&job.key, generation, round.number);
        if let Some(row) = rounds::read(&self.inner, &place).await? {
            return self.go_on(job, row).await;
        }
        let due = self.due(generation, &round).await?;
        let staged = staged::write(&self.inner, job, &round, &due).await?;
        let again = self.queue.carriable(round.of.to_message(), rounds::AGAIN_BYTES).await?;
        let total = round.parts.len() as u64;
        let row = RoundRow { place, batch: batch.batch.clone(), total, staged, again, is_out: false };
        match rounds::write(&self.inner, job, &batch, &row).await? {
            Written::Lost => Ok(false),
            // By ourselves, of a reply that got lost, or else by nobody: the fence is ours.
            Written::Before => match rounds::read(&self.inner, &row.place).await? {
                Some(row) => self.go_on(job, row).await,
                None => Err(trouble::of_ours(StoreTrouble::Away, DOING, "its row changed meanwhile")),
            },
            Written::Done => {
                let is_again = due.values().any(|due| matches!(due, Due::Again(_)));
                self.send_all(&batch, &row, is_again).await?;
                Ok(true)
            }
        }
    }

    async fn ends(&self, batch: &BatchKey, ids: &[JobId]) -> Result<Vec<Option<FinalRow>>, StoreError> {
        let keys: Vec<JobKey> = ids.iter().map(|id| key_of(batch, id)).collect();
        let rows = look_up::rows(&self.inner, "reading the ends of parts", keys.iter().cloned()).await?;
        Ok(keys.iter().map(|key| rows.get(key).and_then(|row| row.final_row(key))).collect())
    }

    async fn sum(&self, job: &Fence) -> Result<Tally, StoreError> {
        let rows = rounds::of_job(&self.inner, &job.key).await?;
        // Generations that asked the same share a batch.
        let batches: BTreeSet<BatchName> = rows.into_iter().map(|row| row.batch).collect();
        let standings = batches.into_iter().map(async |batch| {
            let batch = BatchKey { tenant: job.key.tenant.clone(), batch };
            batches::standing(&self.inner, &batch).await
        });
        let mut sum = Tally::default();
        for standing in join_all(standings).await {
            let Tally { attempts, model_calls, spent, unknown, savings: _ } = standing?.counts.tally();
            sum.attempts += attempts;
            sum.model_calls += model_calls;
            sum.spent += spent;
            sum.unknown += unknown;
        }
        Ok(sum)
    }

    async fn wake(&self, batch: &BatchKey) -> Result<(), StoreError> {
        let doing = "waking a job whose parts have ended";
        let standing = batches::standing(&self.inner, batch).await?;
        let Some(completion) = standing.waits_for_announcement() else { return Ok(()) };
        let row = match &standing.head.round {
            Some(place) => rounds::read(&self.inner, place).await?,
            None => None,
        };
        if let Some(row) = row
            && let Some(delay) = self.rests(doing, &row).await?
        {
            self.send(doing, vec![outgoing(batch, row.again, delay)]).await?;
        }
        batches::mark_announced(&self.inner, batch, completion, standing.ends()).await
    }
}

/// Why a part is to be sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Due {
    /// It has not ended.
    Open,
    /// It failed or expired, as often redriven as this; it runs again.
    Again(u32),
}

impl FleetParts {
    /// Somebody who held the job before has handed it out, or has begun to.
    async fn go_on(&self, job: &Fence, row: RoundRow) -> Result<bool, StoreError> {
        let stands = ledger::look_up(&self.inner, &job.key).await?;
        if !stands.is_some_and(|row| row.token == job.token && row.state == State::Running) {
            return Ok(false);
        }
        if !row.is_out {
            let batch = BatchKey { tenant: job.key.tenant.clone(), batch: row.batch.clone() };
            self.send_all(&batch, &row, true).await?;
        }
        Ok(true)
    }

    /// Those of the parts that are to be sent. Only a job that runs again can have asked some of them before.
    async fn due(&self, generation: u32, round: &Round) -> Result<HashMap<JobId, Due>, StoreError> {
        let rows = match generation {
            0 => HashMap::new(),
            _ => look_up::rows(&self.inner, DOING, round.parts.iter().map(|part| part.key.clone())).await?,
        };
        let due = round.parts.iter().filter_map(|part| {
            let due = match rows.get(&part.key) {
                Some(row) if row.state.after(Step::Redrive).is_some() => Due::Again(rows::generation(row.token)),
                Some(Row { state: State::Final(_), .. }) => return None,
                Some(_) | None => Due::Open,
            };
            Some((part.key.id.clone(), due))
        });
        Ok(due.collect())
    }

    /// Sends the parts of a round, and puts on record that they are sent. With `looks`, each is looked at before: what has
    /// ended since it was staged stays, and what is to run again is set running.
    async fn send_all(&self, batch: &BatchKey, row: &RoundRow, looks: bool) -> Result<(), StoreError> {
        let mut parts = Staged::open(&self.inner, &row.staged);
        while let Some(some) = parts.next().await? {
            for group in some.chunks(ROWS) {
                let due = if looks { self.still_due(batch, group).await? } else { group.iter().collect() };
                let letters = due.into_iter().map(|part| outgoing(batch, part.job.get().to_owned(), Duration::ZERO));
                self.send(DOING, letters.collect()).await?;
            }
        }
        rounds::mark_out(&self.inner, &row.place).await
    }

    async fn still_due<'a>(
        &self,
        batch: &BatchKey,
        group: &'a [StagedPart],
    ) -> Result<Vec<&'a StagedPart>, StoreError> {
        let keys: Vec<JobKey> = group.iter().map(|part| key_of(batch, &part.id)).collect();
        let rows = look_up::rows(&self.inner, DOING, keys.iter().cloned()).await?;
        let mut due = Vec::with_capacity(group.len());
        for (part, key) in group.iter().zip(keys) {
            match rows.get(&key) {
                // One after the other: they count in the same shard.
                Some(row) if part.again == Some(rows::generation(row.token)) => {
                    redrive::redrive(&self.inner, &key, None, None).await?;
                }
                Some(Row { state: State::Final(_), .. }) => continue,
                Some(_) | None => {}
            }
            due.push(part);
        }
        Ok(due)
    }

    /// Sends them, some calls at once.
    async fn send(&self, doing: &str, letters: Vec<Outgoing>) -> Result<(), StoreError> {
        let calls = letters.chunks(BATCH_ENTRIES).map(|letters| self.queue.send(letters.to_vec()));
        for replies in join_all(calls).await {
            for reply in replies? {
                reply.map_err(|error| trouble::of_ours(StoreTrouble::Other, doing, error.to_string()))?;
            }
        }
        Ok(())
    }

    /// When the job of a round is to be delivered; `None` if it has ended already, or has no row any more.
    async fn rests(&self, doing: &str, row: &RoundRow) -> Result<Option<Duration>, StoreError> {
        let job = row.place.job_pk();
        let rows = fetch::rows(&self.inner, doing, [job.clone()], &["st"]).await?;
        // One that is gone, by its age or by a person's hand, is not to begin anew.
        let Some(item) = rows.get(&job) else { return Ok(None) };
        Ok(match Fields(item).text("st")?.and_then(State::from_word) {
            Some(State::Final(_)) => None,
            Some(State::Running) => Some(LOOKED_AT),
            Some(State::Queued) | None => Some(Duration::ZERO),
        })
    }
}

fn key_of(batch: &BatchKey, id: &JobId) -> JobKey {
    JobKey { tenant: batch.tenant.clone(), batch: batch.batch.clone(), id: id.clone() }
}

/// SQS orders nothing, and is told the model of a message by nobody.
fn outgoing(batch: &BatchKey, body: String, delay: Duration) -> Outgoing {
    let BatchKey { tenant, batch } = batch.clone();
    Outgoing { body, batch, tenant, model: None, priority: Priority::default(), delay }
}
