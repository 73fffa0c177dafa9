//! What is on record before a call is made? That it will be, under which claim, and what it may cost: so that a death is
//! noticed by whoever takes the job over, and calls that nobody saw end are not forgotten.
//!
//! A write of its own for every call would cost as much as all the rest of a job. So calls that begin together stand in
//! one item of their process's log, which nobody reads unless the process dies (see `lapsed`); and whether each job is still
//! ours is then read in one more call for all of them, after the log was written: whoever takes a job over
//! later finds the call in the log, and a call that is found lost was never made.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::company::{Replies, Room};
use super::table::{self, Fields, Item, text};
use super::{Inner, fetch, trouble};
use crate::job::lifecycle::State;
use crate::job::outcome::{Savings, Tally};
use crate::job::units::{Timestamp, Usd};
use crate::ports::{BeginReply, Fence, FencingToken, StoreError, StoreTrouble};

/// Calls to an item, whose bytes stay a little below what DynamoDB allows one (400 KB).
pub(super) const ROOM: Room = Room { requests: fetch::ROWS, enough: 32, bytes: 300_000 };
/// How long the log is kept. No lease is longer than half of it.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
const DOING: &str = "recording calls";

/// A call that is about to be made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Begun {
    /// The partition of the job's row.
    pub(super) job: String,
    pub(super) token: FencingToken,
    /// Counts the call already.
    pub(super) tally: Tally,
    /// The price of its reservation.
    pub(super) open: Usd,
}

/// A call as it stands in the log: job, token, attempts, model calls, spent, unknown, open, reruns and their cost.
type Line = (String, u64, u32, u32, u64, u64, u64, u64, u64);

impl Begun {
    pub(super) fn new(fence: &Fence, tally: Tally, open: Usd) -> Self {
        Self { job: table::job_pk(&fence.key), token: fence.token, tally, open }
    }

    /// At most what it adds to an item.
    pub(super) fn weight(&self) -> usize {
        self.job.len() + 200
    }

    fn line(&self) -> Line {
        let Tally { attempts, model_calls, spent, unknown, savings } = self.tally;
        let (job, token, open) = (self.job.clone(), self.token.0, self.open.nanos());
        let (reruns, rerun_cost) = (savings.reruns, savings.rerun_cost.nanos());
        (job, token, attempts, model_calls, spent.nanos(), unknown.nanos(), open, reruns, rerun_cost)
    }

    fn of_line((job, token, attempts, model_calls, spent, unknown, open, reruns, rerun_cost): Line) -> Self {
        let (spent, unknown, open) = (Usd::from_nanos(spent), Usd::from_nanos(unknown), Usd::from_nanos(open));
        let savings = Savings { reruns, rerun_cost: Usd::from_nanos(rerun_cost), ..Savings::default() };
        let tally = Tally { attempts, model_calls, spent, unknown, savings };
        Self { job, token: FencingToken(token), tally, open }
    }
}

/// The calls of one item of a log.
pub(super) fn read(item: &Item) -> Result<Vec<Begun>, StoreError> {
    let text = table::needed("calls", Fields(item).text("calls")?)?;
    let lines: Vec<Line> = serde_json::from_str(text).map_err(|_| table::unreadable("calls"))?;
    Ok(lines.into_iter().map(Begun::of_line).collect())
}

/// Where in a log what was written at that moment begins.
pub(super) fn moment(at: Timestamp) -> String {
    format!("{:013}", at.0.max(0))
}

/// Writes the log of this process.
#[derive(Debug)]
pub(super) struct Recorder {
    inner: Arc<Inner>,
    items: AtomicU64,
}

impl Recorder {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, items: AtomicU64::new(0) }
    }

    /// Puts a group on record; each may begin if its job is still ours then.
    pub(super) async fn record(&self, group: Vec<Begun>) -> Replies<BeginReply> {
        let held = async {
            self.write(&group).await?;
            let jobs = group.iter().map(|begun| begun.job.clone());
            fetch::rows(&self.inner, DOING, jobs, &["st", "tok"]).await
        };
        match held.await {
            Ok(rows) => group.iter().map(|begun| may_begin(begun, &rows)).collect(),
            Err(error) => group.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn write(&self, group: &[Begun]) -> Result<(), StoreError> {
        let now = self.inner.clock.now();
        let lines: Vec<Line> = group.iter().map(Begun::line).collect();
        let lines = serde_json::to_string(&lines)
            .map_err(|error| trouble::of_ours(StoreTrouble::Other, DOING, error.to_string()))?;
        let place = format!("{}/{}", moment(now), self.items.fetch_add(1, Ordering::Relaxed));
        let mut item = table::key(table::calls_pk(&self.inner.epoch), place);
        item.insert("calls".to_owned(), text(lines));
        item.insert("ttl".to_owned(), table::ttl(now, KEPT));
        let put = self.inner.clients.dynamodb.put_item().table_name(&self.inner.settings.table).set_item(Some(item));
        put.send().await.map(drop).map_err(|error| trouble::of_sdk(DOING, &error))
    }
}

fn may_begin(begun: &Begun, rows: &HashMap<String, Item>) -> Result<BeginReply, StoreError> {
    let Some(item) = rows.get(&begun.job) else { return Ok(BeginReply::Lost) };
    let fields = Fields(item);
    let ours = fields.number("tok")? == Some(begun.token.0) && fields.text("st")? == Some(State::Running.word());
    Ok(if ours { BeginReply::Begun } else { BeginReply::Lost })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_call_reads_back_as_it_was_put_on_record() {
        let savings = Savings { reruns: 6, rerun_cost: Usd::from_nanos(7), ..Savings::default() };
        let (spent, unknown) = (Usd::from_nanos(3), Usd::from_nanos(4));
        let begun = Begun {
            job: format!("job/{}/b/a", "t".repeat(128)),
            token: FencingToken(u64::MAX),
            tally: Tally { attempts: 1, model_calls: 2, spent, unknown, savings },
            open: Usd::from_nanos(u64::MAX),
        };
        let lines = serde_json::to_string(&[begun.line()]).unwrap();
        assert!(lines.len() <= begun.weight(), "{lines}");
        let item = Item::from([("calls".to_owned(), text(lines))]);
        assert_eq!(read(&item).unwrap(), [begun]);
    }
}
