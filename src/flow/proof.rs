//! What may one step hand to the next? Values that can only be had by doing the step before.
//!
//! A message is deleted for a [`Disposition::Done`] or buried for a [`Disposition::Bury`]; both need a [`Notified`],
//! which needs a [`Receipt`], which only the ledger's own word makes. Skipping a step does not compile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use crate::job::failure::{Class, Failure};
use crate::job::ident::JobKey;
use crate::job::lifecycle::Status;
use crate::job::outcome::Tally;
use crate::job::spec::Job;
use crate::job::trail::Trail;
use crate::job::units::Timestamp;
use crate::ports::{Answer, Fence, FinalRow, FinishReply, LaneId, Message, StoreError};
use crate::telemetry::traces::JobSpan;

use super::assembly::Assembled;
use super::batch_request::Done;
use super::control::Sealed;
use super::lease::Lease;
use super::shares::Place;
use super::sizing::Sizing;
use super::upload::Settled;

/// A received message with the slot that was taken before it was asked for, and its lease.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// Extended until dropped; tells when it is lost.
    pub lease: Lease,
    /// Given back when the delivery ends, or is over but for a call that it shares with others.
    pub slot: OwnedSemaphorePermit,
    /// Where it stands among the jobs that wait; left likewise.
    pub place: Place,
    /// What it leaves of itself in a trace.
    pub span: JobSpan,
}

/// A job that is ours to work on.
#[derive(Debug)]
pub struct Claim {
    /// The right to write its row.
    pub fence: Fence,
    /// What is asked for.
    pub job: Job,
    /// How often a person ran it again.
    pub generation: u32,
    /// What was counted so far, over all claims.
    pub tally: Tally,
    /// When it was first queued.
    pub enqueued: Timestamp,
    /// When this claim was made.
    pub claimed: Timestamp,
    /// What this claim went through.
    pub journey: Journey,
    /// What happened to the job so far, over all claims.
    pub trail: Trail,
}

/// What a claim went through so far.
#[derive(Debug, Default)]
pub struct Journey {
    /// Spent waiting for quota, cool-downs and back-offs.
    pub paced: Duration,
    /// Spent in calls.
    pub in_calls: Duration,
    /// The only region that it may be sent to, because it was sent there first and may not leave it.
    pub bound_to: Option<Arc<str>>,
    /// Failures that count, by lane.
    pub failed: Vec<Failed>,
    /// The lane of the last of them: the job leaves it when it goes to another.
    pub last_lane: Option<LaneId>,
    /// Whether that lane has been told that the job left it.
    pub has_left: bool,
    /// The last failure, for the result if it stays the last.
    pub last_failure: Option<Failure>,
    /// Not before this: a back-off, or the cap on cost.
    pub not_before: Option<Instant>,
    /// Which of these it is.
    pub rests_for: &'static str,
    /// Since when it waits for room under the cap on cost.
    pub at_cap_since: Option<Instant>,
    /// Since when nothing but the service's absence has held it up.
    pub away_since: Option<Instant>,
    /// Under which caps.
    pub sizing: Sizing,
    /// How many models it has fallen back by, because those before were overloaded.
    pub fallen: usize,
    /// What it has waited for since its last call, and how long for each.
    pub waits: Vec<(&'static str, Duration)>,
}

/// For what a job waited that nothing but the service's absence has held up.
const AWAY: &str = "a service that is away, in all";

impl Claim {
    /// Whether the job may be sent to this lane at all.
    pub fn may_use(&self, lane: &LaneId) -> bool {
        let is_resident =
            self.job.residency.as_ref().is_none_or(|regions| regions.iter().any(|region| **region == *lane.region));
        is_resident && self.journey.bound_to.as_ref().is_none_or(|region| **region == *lane.region)
    }

    /// Its trail for whoever claims the job next, at `at`: also for how long nothing but the service's absence has held it up.
    pub fn handed_on(&self, at: Timestamp, now: Instant) -> Trail {
        let mut trail = self.trail.clone();
        if let Some(since) = self.journey.away_since {
            let took = now.saturating_duration_since(since);
            trail.add_in_all(at, took, AWAY);
        }
        trail
    }
}

/// How the work on a job ended, before it is on record.
#[derive(Debug)]
pub enum Verdict {
    /// With an answer.
    Answered {
        /// The answer.
        answer: Answer,
        /// Who gave it.
        lane: LaneId,
        /// Whether that is another model than the job named.
        degraded: bool,
    },
    /// Of a document: by the ends of its chunks, or before it had any.
    Assembled(Box<Assembled>),
    /// Of an ingestion: by how that ended.
    Ingested {
        /// What it did.
        output: Value,
        /// Where.
        region: String,
        /// Why it did not do all of it, if it did not.
        failure: Option<Failure>,
    },
    /// Without one.
    Ended {
        /// The final state.
        status: Status,
        /// Why.
        failure: Failure,
    },
}

/// A job's failures on one lane under one claim.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Where.
    pub lane: LaneId,
    /// How many that count.
    pub times: u32,
    /// The class of the last one.
    pub class: Class,
    /// When the call that failed last was sent, by the clock of the quota.
    pub sent: Timestamp,
    /// And when it failed.
    pub at: Timestamp,
}

impl Journey {
    /// Goes on where earlier claims have handed the job on, as far as its trail says so: from how long they were patient, not since
    /// when, for nobody may have tried in between.
    pub fn after(trail: &Trail, now: Instant) -> Self {
        let away_since = trail.handed_on_after(AWAY).and_then(|took| now.checked_sub(took));
        Self { away_since, ..Self::default() }
    }

    /// Counts one more failure on this lane: at `at`, of a call sent at `sent`, both by the clock of the quota.
    pub fn failed_on(&mut self, lane: &LaneId, class: Class, sent: Timestamp, at: Timestamp) {
        match self.failed.iter_mut().find(|failed| failed.lane == *lane) {
            Some(failed) => {
                *failed = Failed { lane: lane.clone(), times: failed.times + 1, class, sent, at };
            }
            None => self.failed.push(Failed { lane: lane.clone(), times: 1, class, sent, at }),
        }
        self.last_lane = Some(lane.clone());
        self.has_left = false;
    }

    /// It is not sent before then, for this reason.
    pub fn rest(&mut self, reason: &'static str, until: Instant) {
        self.not_before = Some(until);
        self.rests_for = reason;
    }

    /// It waited so long for this.
    pub fn waited(&mut self, reason: &'static str, took: Duration) {
        match self.waits.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, sum)) => *sum += took,
            None => self.waits.push((reason, took)),
        }
    }

    /// What it waited for most of that time since it was last asked; standing in line behind others has no other name.
    pub fn waited_most(&mut self, whole: Duration) -> &'static str {
        let waits = std::mem::take(&mut self.waits);
        let named: Duration = waits.iter().map(|(_, took)| *took).sum();
        let line = ("its turn in line", whole.saturating_sub(named));
        waits.into_iter().chain([line]).max_by_key(|(_, took)| *took).map_or(line.0, |(reason, _)| reason)
    }

    /// The failures on this lane.
    pub fn failures(&self, lane: &LaneId) -> u32 {
        self.failed.iter().find(|failed| failed.lane == *lane).map_or(0, |failed| failed.times)
    }
}

impl Verdict {
    /// The end that a failure of this class means for a job that it ends.
    pub fn of_failure(failure: Failure) -> Self {
        Self::Ended { status: failure.class.end(), failure }
    }
}

/// Proof that a job's end is durable.
#[derive(Debug)]
pub struct Receipt {
    row: Box<FinalRow>,
    batch_complete: bool,
}

impl Receipt {
    /// From the ledger's reply to a final write; `None` if the job was not ours any more.
    pub(super) fn recorded(reply: FinishReply) -> Option<Self> {
        match reply {
            FinishReply::Recorded { row, batch_complete } => Some(Self { row, batch_complete }),
            FinishReply::Lost => None,
        }
    }

    /// From a row that the ledger showed to be final already. Whether its batch was announced is not known, so it is
    /// asked for again.
    pub(super) fn standing(row: FinalRow) -> Self {
        Self { row: Box::new(row), batch_complete: true }
    }

    /// The final row.
    pub fn row(&self) -> &FinalRow {
        &self.row
    }

    /// Whether the batch may be waiting for its announcement.
    pub fn batch_complete(&self) -> bool {
        self.batch_complete
    }
}

/// Proof that a job's end is on record and made known.
#[derive(Debug)]
pub struct Notified {
    poison: bool,
    told: Option<(JobKey, Timestamp)>,
}

impl Notified {
    /// Only what is on record can have been made known; `at` that moment, if anybody was told of the job.
    pub(super) fn of(receipt: &Receipt, at: Option<Timestamp>) -> Self {
        let failure = receipt.row.ending.error.as_ref();
        let told = at.map(|at| (receipt.row.key.clone(), at));
        Self { poison: failure.is_some_and(|failure| failure.class == Class::Poison), told }
    }

    /// What woke the job that it is a part of, which makes it known.
    pub(super) fn of_part(receipt: &Receipt) -> Self {
        Self::of(receipt, None)
    }

    /// Only what is on record and acted upon needs its message no more.
    pub(super) fn of_control(_: &Sealed) -> Self {
        Self { poison: false, told: None }
    }

    /// Only what was done, and whose asker is on record, needs its message no more.
    pub(super) fn of_batch_request(_: &Done) -> Self {
        Self { poison: false, told: None }
    }

    /// Only what other messages stand for, or nobody wants, needs its message no more.
    pub(super) fn of_upload(_: &Settled) -> Self {
        Self { poison: false, told: None }
    }

    /// Which job's end was made known, and when.
    pub(super) fn told(&self) -> Option<(&JobKey, Timestamp)> {
        self.told.as_ref().map(|(key, at)| (key, *at))
    }

    /// How the message ends: deleted, or, for poison, kept where a person finds it.
    pub fn disposition(self) -> Disposition {
        if self.poison {
            Disposition::Bury { proof: self, reason: "poison: claimed too often without an outcome".to_owned() }
        } else {
            Disposition::Done { proof: self }
        }
    }
}

/// What happens to a message. Every delivery ends in exactly one.
#[derive(Debug)]
pub enum Disposition {
    /// Deleted: the job's end is on record and made known.
    Done {
        /// That it is so.
        proof: Notified,
    },
    /// Moved to the dead-letter queue although the job's end is on record: poison.
    Bury {
        /// That it is so.
        proof: Notified,
        /// Why.
        reason: String,
    },
    /// Delivered again after so long.
    Release {
        /// Zero: at once.
        after: Duration,
        /// The claim to give back, with what was counted and what happened.
        claim: Option<(Fence, Tally, Trail)>,
    },
    /// Moved to the dead-letter queue: it is no job.
    Reject {
        /// Why, for the person who looks there.
        reason: String,
    },
    /// Left alone: it belongs to somebody else by now.
    Drop,
}

impl Disposition {
    /// The word for it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Done { .. } => "done",
            Self::Bury { .. } => "bury",
            Self::Release { .. } => "release",
            Self::Reject { .. } => "reject",
            Self::Drop => "drop",
        }
    }
}

/// Why a step ended the delivery early.
#[derive(Debug)]
pub enum Exit {
    /// Hand it back.
    HandBack {
        /// Delivered again after so long.
        after: Duration,
    },
    /// It is no job.
    Reject {
        /// Why.
        reason: String,
    },
    /// Somebody else owns it now.
    Lost,
    /// The back end is in trouble.
    Store(StoreError),
}

impl From<StoreError> for Exit {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
