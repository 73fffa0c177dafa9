//! What had an owner begun whose lease ran out? Its process's log says so, see `calls`.
//!
//! A job's newest call in it under the lapsed claim is open if it counts more calls than the row: whatever is settled,
//! handed back or ended has written its count there. The log is read once for all the jobs of a dead process, and then only
//! what may have come since.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::calls::{self, Begun};
use super::rows::{Owner, Row};
use super::table::{self, Fields, Item, text};
use super::{Inner, fetch, trouble};
use crate::job::ident::{Digest, JobKey};
use crate::job::lifecycle::State;
use crate::job::outcome::Tally;
use crate::job::units::{Timestamp, Usd};
use crate::ports::{FencingToken, StoreError};

/// A call that was open for longer than this before its owner's lease ended is not looked for.
const LONGEST_CALL: Duration = Duration::from_secs(60 * 60);
/// Items of a log may arrive out of order by as much as a slow request takes, tried again.
const OUT_OF_ORDER: Duration = Duration::from_secs(120);
/// How many of a process's last jobs are looked at to say how many it left open; with so many, none is a suspect.
const LAST_JOBS: usize = fetch::ROWS;
/// A log that nobody asked for in this time is forgotten: whoever takes jobs over takes them within a lease.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);
const DOING: &str = "reading what a lapsed owner had begun";

/// A call that its owner left open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LeftOpen {
    /// As the call was counted when it began.
    pub(super) tally: Tally,
    /// The price of its reservation.
    pub(super) open: Usd,
    /// What it weighs that this job was among those left open: one death weighs one, spread over them.
    pub(super) suspicion: f64,
}

/// The logs of lapsed owners, as far as they were read.
#[derive(Debug)]
pub(super) struct Logs {
    inner: Arc<Inner>,
    logs: Mutex<HashMap<String, Kept>>,
}

#[derive(Debug)]
struct Kept {
    log: Arc<tokio::sync::Mutex<Log>>,
    asked: Instant,
}

#[derive(Debug, Default)]
struct Log {
    /// From when on it was read, and up to when; `None` before the first time.
    read: Option<(Timestamp, Timestamp)>,
    /// The newest call of each job, by sixteen bytes of the digest of its name.
    newest: HashMap<[u8; 16], Newest>,
    /// The jobs of the last items, by item.
    last: BTreeMap<String, Vec<Begun>>,
    /// How many were left open, as of the last item at which they were counted.
    left_open: Option<(String, usize)>,
}

#[derive(Clone, Copy, Debug)]
struct Newest {
    token: FencingToken,
    tally: Tally,
    open: Usd,
}

impl Logs {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, logs: Mutex::default() }
    }

    /// The call that `owner` left open of the job in this row.
    pub(super) async fn left_open(
        &self,
        key: &JobKey,
        row: &Row,
        owner: &Owner,
    ) -> Result<Option<LeftOpen>, StoreError> {
        let log = self.of(&owner.epoch);
        let mut log = log.lock().await;
        let from = owner.since.max(owner.until - LONGEST_CALL);
        log.read_on(&self.inner, &owner.epoch, from).await?;
        let Some(newest) = log.newest.get(&hash(&table::job_pk(key))).copied() else { return Ok(None) };
        if newest.token != row.token || newest.tally.model_calls <= row.tally.model_calls {
            return Ok(None);
        }
        let left_open = log.count_left_open(&self.inner, &owner.epoch).await?;
        let others = u32::try_from(left_open).unwrap_or(u32::MAX).max(1);
        Ok(Some(LeftOpen { tally: newest.tally, open: newest.open, suspicion: 1.0 / f64::from(others) }))
    }

    fn of(&self, epoch: &str) -> Arc<tokio::sync::Mutex<Log>> {
        let now = Instant::now();
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.retain(|_, kept| now.duration_since(kept.asked) < REMEMBERED);
        let kept = logs.entry(epoch.to_owned()).or_insert_with(|| Kept { log: Arc::default(), asked: now });
        kept.asked = now;
        Arc::clone(&kept.log)
    }
}

impl Log {
    /// Reads what was written since `from` and is not known.
    async fn read_on(&mut self, inner: &Inner, epoch: &str, from: Timestamp) -> Result<(), StoreError> {
        let begin = match self.read {
            Some((first, last)) if first <= from => from.max(last - OUT_OF_ORDER),
            Some(_) | None => {
                *self = Self::default();
                from
            }
        };
        let mut pages = inner
            .clients
            .dynamodb
            .query()
            .table_name(&inner.settings.table)
            .consistent_read(true)
            .key_condition_expression("pk = :pk AND sk >= :from")
            .expression_attribute_values(":pk", text(table::calls_pk(epoch)))
            .expression_attribute_values(":from", text(calls::moment(begin)))
            .into_paginator()
            .items()
            .send();
        let (first, mut last) = self.read.unwrap_or((from, from));
        while let Some(item) = pages.next().await {
            let item = item.map_err(|error| trouble::of_sdk(DOING, &error))?;
            last = last.max(self.take_in(&item)?);
        }
        // Only now: a log that was read in part is read again.
        self.read = Some((first, last));
        Ok(())
    }

    /// Takes in one item; when it was written.
    fn take_in(&mut self, item: &Item) -> Result<Timestamp, StoreError> {
        let place = table::needed("sk", Fields(item).text("sk")?)?;
        let at = place.split('/').next().and_then(|at| at.parse().ok());
        let at = Timestamp(table::needed("sk", at)?);
        let begun = calls::read(item)?;
        for call in &begun {
            let entry = Newest { token: call.token, tally: call.tally, open: call.open };
            let standing = self.newest.entry(hash(&call.job)).or_insert(entry);
            if (standing.token, standing.tally.model_calls) < (entry.token, entry.tally.model_calls) {
                *standing = entry;
            }
        }
        self.last.insert(place.to_owned(), begun);
        while self.last.len() > LAST_JOBS {
            self.last.pop_first();
        }
        Ok(at)
    }

    /// Of the last jobs of that process, how many it left open: they are at work under it still, or were taken over so.
    async fn count_left_open(&mut self, inner: &Inner, epoch: &str) -> Result<usize, StoreError> {
        let Some((newest, _)) = self.last.last_key_value() else { return Ok(0) };
        if let Some((place, left_open)) = &self.left_open
            && place == newest
        {
            return Ok(*left_open);
        }
        let newest = newest.clone();
        let mut jobs = HashSet::new();
        for call in self.last.values().rev().flatten() {
            if jobs.len() < LAST_JOBS {
                jobs.insert(call.job.clone());
            }
        }
        let rows = fetch::rows(inner, DOING, jobs, &["st", "tok", "own", "calls", "from"]).await?;
        let mut left_open = 0;
        for (job, row) in rows {
            left_open += usize::from(self.is_open(epoch, &job, Fields(&row))?);
        }
        self.left_open = Some((newest, left_open));
        Ok(left_open)
    }

    fn is_open(&self, epoch: &str, job: &str, row: Fields<'_>) -> Result<bool, StoreError> {
        let taken_over = row.text("from")? == Some(epoch);
        let at_work = row.text("st")? == Some(State::Running.word()) && row.text("own")? == Some(epoch);
        let calls = row.count::<u32>("calls")?;
        let token = row.number("tok")?.map(FencingToken);
        let unsettled = self
            .newest
            .get(&hash(job))
            .is_some_and(|newest| Some(newest.token) == token && newest.tally.model_calls > calls);
        Ok(taken_over || (at_work && unsettled))
    }
}

/// Sixteen bytes tell the jobs of one log apart.
fn hash(job: &str) -> [u8; 16] {
    let digest = Digest::of(job.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    bytes
}
