//! What do `status`, `explain` and `lanes` tell of a fleet? What its table says, read after all that was committed before.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::batches::{self, Standing};
use super::parts::rounds;
use super::rows::{self, Row};
use super::table::{BATCHES, Fields, GATES, Item, needed, unreadable};
use super::{Fleet, Inner, allowance, fetch, look_up, mark, told};
use crate::job::ident::{BatchKey, BatchName, Digest, JobId, JobKey, Tenant};
use crate::job::lifecycle::State;
use crate::job::notice::BatchSums;
use crate::job::outcome::{Savings, Tally};
use crate::job::trail::Trail;
use crate::job::units::Timestamp;
use crate::ports::{FinalRow, Gate, LaneId, StoreError};

/// Batches looked at together.
const AT_ONCE: usize = 8;

/// A batch as `status` lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchSummary {
    /// Whose batch it is, and its name.
    pub key: BatchKey,
    /// Jobs in it, ended or not, as far as anybody said: what is sealed, or what was enqueued so far. `None` if nobody did: a
    /// producer that has not sealed it.
    pub jobs: Option<u64>,
    /// What has ended, and once it is sealed refused lines; `total` is theirs.
    pub ended: BatchSums,
    /// Of these, lines that were refused before they became jobs.
    pub refused: u64,
    /// What right-sizing saved and cost.
    pub savings: Savings,
    /// Whether all its jobs are said to be there.
    pub sealed: bool,
    /// How often its completion was announced.
    pub announced: u64,
    /// When it was first heard of.
    pub first: Timestamp,
}

impl BatchSummary {
    /// Jobs that have not ended: in the queue, or with a worker. `None` as in `jobs`.
    pub fn open(&self) -> Option<u64> {
        let ended = self.ended.total.saturating_sub(self.refused);
        self.jobs.map(|jobs| jobs.saturating_sub(ended))
    }
}

/// All that the table knows of one job. One that waits for its first worker has no row: only the queue knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobReport {
    /// Which job.
    pub key: JobKey,
    /// Where it stands.
    pub state: State,
    /// How often a person ran it again.
    pub generation: u32,
    /// How often it was claimed since.
    pub claims: u32,
    /// The epoch of the process that works it, since when, and when its lease ends.
    pub owner: Option<JobOwner>,
    /// What was counted.
    pub tally: Tally,
    /// See [`crate::ports::Claimed::suspicion`].
    pub suspicion: f64,
    /// The digest of its content.
    pub digest: Digest,
    /// When it was first queued, or set running again.
    pub enqueued: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub ending: Option<FinalRow>,
    /// What happened to it in between.
    pub trail: Trail,
    /// When its end was made known by the worker that recorded it, if that is on record.
    pub notified: Option<Timestamp>,
    /// Of a document: how its parts stand, round by round.
    pub parts: Vec<PartsReport>,
}

/// How a round of a job's parts stands.
#[derive(Clone, Debug, PartialEq)]
pub struct PartsReport {
    /// Parts in it, ended or not.
    pub total: u64,
    /// What has ended.
    pub ended: BatchSums,
}

/// Who works on a job.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JobOwner {
    /// The process's epoch.
    pub epoch: String,
    /// When it claimed the job.
    pub since: Timestamp,
    /// When its lease ends, unless it is extended.
    pub until: Timestamp,
}

/// Why a lane lets nothing through, as one process posted it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LaneGate {
    /// The lane, as it is displayed.
    pub lane: String,
    /// Why, since when and until when.
    pub gate: Gate,
}

/// What the workers know of a lane.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LaneRow {
    /// The lane.
    pub lane: LaneId,
    /// As they have written it.
    pub state: Bytes,
}

impl Fleet {
    /// Every batch, or those of one name, by name and tenant. Their counts are exact.
    ///
    /// # Errors
    /// What the table said.
    pub async fn batches(&self, named: Option<&BatchName>) -> Result<Vec<BatchSummary>, StoreError> {
        let mut known = index(&self.inner).await?;
        known.retain(|(key, _)| named.is_none_or(|named| key.batch == *named));
        let mut summaries = self.summaries(known).await?;
        summaries.sort_by(|one, next| (&one.key.batch, &one.key.tenant).cmp(&(&next.key.batch, &next.key.tenant)));
        Ok(summaries)
    }

    /// So many batches, the newest first: a look costs reads for each of these, and not for all that there ever were.
    ///
    /// # Errors
    /// What the table said.
    pub async fn newest_batches(&self, most: usize) -> Result<Vec<BatchSummary>, StoreError> {
        let mut known = index(&self.inner).await?;
        known.sort_by(|(one, first), (next, second)| (second, one).cmp(&(first, next)));
        known.truncate(most);
        let mut summaries = self.summaries(known).await?;
        summaries.sort_by(|one, next| (next.first, &one.key).cmp(&(one.first, &next.key)));
        Ok(summaries)
    }

    async fn summaries(&self, known: Vec<(BatchKey, Timestamp)>) -> Result<Vec<BatchSummary>, StoreError> {
        let inner = self.inner.as_ref();
        let mut summaries: Vec<BoxFuture<'_, Result<BatchSummary, StoreError>>> = Vec::new();
        for (key, first) in known {
            summaries.push(Box::pin(summary(inner, key, first)));
        }
        stream::iter(summaries).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Every job of that id that a worker has claimed, in that batch and of that tenant if they are named.
    ///
    /// # Errors
    /// What the table said.
    pub async fn jobs(
        &self,
        batch: Option<&BatchName>,
        id: &JobId,
        tenant: Option<&Tenant>,
    ) -> Result<Vec<JobReport>, StoreError> {
        let doing = "looking up a job";
        let keys: Vec<JobKey> = match (batch, tenant) {
            (Some(batch), Some(tenant)) => {
                vec![JobKey { tenant: tenant.clone(), batch: batch.clone(), id: id.clone() }]
            }
            (Some(_), None) | (None, Some(_) | None) => {
                let known = index(&self.inner).await?.into_iter().map(|(key, _)| key);
                let asked = known.filter(|key| {
                    batch.is_none_or(|batch| key.batch == *batch) && tenant.is_none_or(|tenant| key.tenant == *tenant)
                });
                asked.map(|BatchKey { tenant, batch }| JobKey { tenant, batch, id: id.clone() }).collect()
            }
        };
        let rows = look_up::rows(&self.inner, doing, keys).await?;
        let mut reports: Vec<_> = rows.into_iter().map(|(key, row)| report(key, &row)).collect();
        for report in &mut reports {
            if let (Some(ended), Some((_, epoch))) = (report.ended, report.trail.last_claim()) {
                report.notified = told::when(&self.inner, &report.key, epoch, ended).await?;
            }
            report.parts = parts(&self.inner, report).await?;
        }
        reports.sort_by(|one, next| one.key.cmp(&next.key));
        Ok(reports)
    }

    /// Every part of that name that a worker has claimed, of the jobs of that id. It is looked for, and found, where its job is.
    ///
    /// # Errors
    /// What the table said.
    pub async fn part(
        &self,
        batch: Option<&BatchName>,
        id: &JobId,
        part: &JobId,
    ) -> Result<Vec<JobReport>, StoreError> {
        let mut reports = Vec::new();
        for job in self.jobs(batch, id, None).await? {
            let rounds = rounds::of_job(&self.inner, &job.key).await?;
            let batches: BTreeSet<BatchName> = rounds.into_iter().map(|round| round.batch).collect();
            let named = |batch| JobKey { tenant: job.key.tenant.clone(), batch, id: part.clone() };
            let rows = look_up::rows(&self.inner, "looking up a part", batches.into_iter().map(named)).await?;
            let shown = named(job.key.batch.clone());
            reports.extend(rows.into_iter().map(|(key, row)| JobReport { key: shown.clone(), ..report(key, &row) }));
        }
        Ok(reports)
    }

    /// Why lanes let nothing through, as the workers post it. What is past its end may still be listed.
    ///
    /// # Errors
    /// What the table said.
    pub async fn gates(&self) -> Result<Vec<LaneGate>, StoreError> {
        let items = look_up::partition(&self.inner, "reading what lanes wait for", GATES).await?;
        items.iter().map(gate).collect()
    }

    /// What the workers know of each lane.
    ///
    /// # Errors
    /// What the table said.
    pub async fn lanes(&self) -> Result<Vec<LaneRow>, StoreError> {
        let doing = "reading what is known of lanes";
        let listed = look_up::partition(&self.inner, doing, allowance::INDEX).await?;
        let lanes: Result<Vec<LaneId>, StoreError> =
            listed.iter().map(|item| needed("sk", Fields(item).text("sk")?.and_then(LaneId::parse))).collect();
        let lanes = lanes?;
        let items = fetch::rows(&self.inner, doing, lanes.iter().map(allowance::pk), &[]).await?;
        // A lane is listed before it is first written.
        let written = lanes.into_iter().filter_map(|lane| Some((items.get(&allowance::pk(&lane))?, lane)));
        let row = |(item, lane)| {
            let (_, state) = needed("s", allowance::state_of(item))?;
            Ok(LaneRow { lane, state })
        };
        written.map(row).collect()
    }

    /// Whether anything is known of a batch, of whatever tenant.
    pub(super) async fn has_batch(&self, batch: &BatchName) -> Result<bool, StoreError> {
        Ok(index(&self.inner).await?.iter().any(|(key, _)| key.batch == *batch))
    }
}

/// How the rounds of a job's parts stand that its generation has asked for.
async fn parts(inner: &Inner, job: &JobReport) -> Result<Vec<PartsReport>, StoreError> {
    let rounds = rounds::of_job(inner, &job.key).await?;
    let of_now = rounds.into_iter().filter_map(|row| match row.place.generation_and_round() {
        Some((generation, round)) if generation == job.generation => Some((round, row)),
        Some(_) | None => None,
    });
    let mut of_now: Vec<_> = of_now.collect();
    of_now.sort_by_key(|(round, _)| *round);
    let mut parts = Vec::with_capacity(of_now.len());
    for (_, row) in of_now {
        let standing = batches::standing(inner, &BatchKey { tenant: job.key.tenant.clone(), batch: row.batch }).await?;
        parts.push(PartsReport { total: row.total, ended: standing.sums() });
    }
    Ok(parts)
}

/// Every batch, and when it was first heard of.
pub(super) async fn index(inner: &Inner) -> Result<Vec<(BatchKey, Timestamp)>, StoreError> {
    let items = look_up::partition(inner, "listing batches", BATCHES).await?;
    items.iter().map(indexed).collect()
}

/// An entry of the index.
pub(super) fn indexed(item: &Item) -> Result<(BatchKey, Timestamp), StoreError> {
    let fields = Fields(item);
    let tenant = fields.text("sk")?.and_then(|sk| sk.split_once('/')).map(|(tenant, _)| Tenant::new(tenant));
    let tenant = needed("sk", tenant)?.map_err(|_| unreadable("sk"))?;
    let batch = BatchName::new(needed("name", fields.text("name")?)?).map_err(|_| unreadable("name"))?;
    Ok((BatchKey { tenant, batch }, Timestamp(needed("first", fields.number("first")?)?)))
}

async fn summary(inner: &Inner, key: BatchKey, first: Timestamp) -> Result<BatchSummary, StoreError> {
    let standing = batches::standing(inner, &key).await?;
    let sealed = standing.head.seal.as_ref().map(|seal| seal.total);
    let enqueued = match sealed {
        Some(_) => None,
        None => mark::of_batch(inner, &key).await?.and_then(|mark| mark.totals.get(&key.tenant).copied()),
    };
    let jobs = sealed.or(enqueued.map(|(jobs, _)| jobs));
    Ok(told(key, first, &standing, jobs))
}

fn told(key: BatchKey, first: Timestamp, standing: &Standing, jobs: Option<u64>) -> BatchSummary {
    BatchSummary {
        key,
        jobs,
        ended: standing.sums(),
        refused: standing.head.seal.as_ref().map_or(0, |seal| seal.refused),
        savings: standing.counts.savings(),
        sealed: standing.head.seal.is_some(),
        announced: standing.head.announced,
        first,
    }
}

fn report(key: JobKey, row: &Row) -> JobReport {
    let owner = row.owner.as_ref();
    JobReport {
        state: row.state,
        generation: rows::generation(row.token),
        claims: rows::claims(row.token),
        owner: owner.map(|owner| JobOwner { epoch: owner.epoch.clone(), since: owner.since, until: owner.until }),
        tally: row.tally,
        suspicion: row.suspicion,
        digest: row.digest,
        enqueued: row.enqueued,
        ended: row.ended.as_ref().map(|ended| ended.at),
        ending: row.final_row(&key),
        trail: row.trail(),
        notified: None,
        parts: Vec::new(),
        key,
    }
}

fn gate(item: &Item) -> Result<LaneGate, StoreError> {
    let fields = Fields(item);
    // Its poster's epoch stands behind the lane.
    let lane = needed("sk", fields.text("sk")?.and_then(|sk| sk.rsplit_once('#')))?.0.to_owned();
    let gate = Gate {
        reason: needed("reason", fields.text("reason")?)?.to_owned(),
        since: Timestamp(needed("since", fields.number("since")?)?),
        until: Timestamp(needed("until", fields.number("until")?)?),
    };
    Ok(LaneGate { lane, gate })
}
