//! What is counted and said while the work goes on? Every event of the flow in one list: its log line and its count
//! together, so that neither can be forgotten. Ids, classes, lengths and sums; never a prompt or an answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::job::failure::{Class, Failure};
use crate::job::ident::{BatchName, JobId, JobKey};
use crate::job::lifecycle::Status;
use crate::job::outcome::Usage;
use crate::job::units::{Timestamp, Tokens, Usd};
use crate::ports::{Depth, EntryError, Gate, LaneId, StoreError, StoreTrouble};

use figures::{BreakerState, Figures, LaneFigures, LaneNow};
use in_hand::{Hands, InHand};
use metrics::is_throttle;
use tallies::{OTHER, Tallies};
use traces::Traces;
pub use troubles::Trouble;
use troubles::{Troubles, Word};
use unsuccessful::{Newest, Unsuccessful};

pub mod emf;
pub mod exposition;
pub mod figures;
pub mod in_hand;
pub mod metrics;
pub mod tallies;
pub mod traces;
mod troubles;
pub mod unsuccessful;

/// The same trouble is said again only after this.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Counts and logs what happens. One a worker.
#[derive(Debug, Default)]
pub struct Meter {
    tallies: Mutex<Tallies>,
    reservation_saved: AtomicU64,
    reruns: AtomicU64,
    rerun_nanos: AtomicU64,
    received: AtomicU64,
    in_hand: Hands,
    newest: Mutex<Newest>,
    queue_answered: AtomicBool,
    /// `None` if the queue did not say when it was last asked.
    depth: Mutex<Option<Depth>>,
    troubles: Mutex<Troubles>,
    gates: Mutex<BTreeMap<String, Gate>>,
    said: Mutex<BTreeMap<String, Instant>>,
    traces: Traces,
}

/// What was counted so far by this process.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// HTTP requests to the model that were answered or failed.
    pub calls: u64,
    /// Of these, answered.
    pub answers: u64,
    /// Of these, throttled.
    pub throttles: u64,
    /// Of these, failed otherwise.
    pub call_failures: u64,
    /// Input tokens of the answers.
    pub input_tokens: u64,
    /// Output tokens of the answers.
    pub output_tokens: u64,
    /// What the calls cost.
    pub spent: Usd,
    /// Tokens that right-sizing did not reserve.
    pub reservation_saved: Tokens,
    /// Answers that it cut, and asked for again.
    pub reruns: u64,
    /// What the cut answers cost.
    pub rerun_cost: Usd,
    /// Jobs that ended.
    pub ended: u64,
    /// Of these, without success.
    pub unsuccessful: u64,
    /// Messages received.
    pub received: u64,
    /// Messages being worked now.
    pub in_hand: u64,
}

/// A call that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// Tokens of the answer.
    pub usage: Usage,
    /// What had been reserved for it.
    pub reserved: Tokens,
    /// What the quota was charged.
    pub used: Tokens,
    /// What it cost.
    pub cost: Usd,
    /// How long it took.
    pub took: Duration,
}

/// The end of a job, on record.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// Which job.
    pub key: &'a JobKey,
    /// How it ended.
    pub status: Status,
    /// With which failure, if any.
    pub failed: Option<Class>,
    /// Tokens of the answer that is its result.
    pub usage: Usage,
    /// What its calls cost together.
    pub spent: Usd,
}

impl Meter {
    /// One that traces as well as it counts.
    pub fn tracing(traces: Traces) -> Self {
        Self { traces, ..Self::default() }
    }

    /// What each delivery leaves of itself, where somebody collects that.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// A call was answered.
    pub fn answered(&self, lane: &LaneId, answered: &Answered) {
        let Answered { usage, reserved, used, cost, took } = answered;
        {
            let mut tallies = lock(&self.tallies);
            let tally = tallies.lane(lane);
            tally.answers += 1;
            tally.usage.input_tokens += usage.input_tokens;
            tally.usage.output_tokens += usage.output_tokens;
            tally.usage.cache_read_tokens += usage.cache_read_tokens;
            tally.usage.cache_write_tokens += usage.cache_write_tokens;
            tally.reserved += *reserved;
            tally.settled += *used;
            tally.spent += *cost;
            tally.latency.note(*took);
        }
        debug!(%lane, input = usage.input_tokens, output = usage.output_tokens, quota = used.0, "call answered");
    }

    /// A job had waited for so long when its call on this lane could go.
    pub fn paced(&self, lane: &LaneId, waited: Duration) {
        lock(&self.tallies).lane(lane).paced.note(waited);
    }

    /// A failed call used up an attempt of a job that goes on.
    pub fn tried_again(&self, lane: &LaneId) {
        lock(&self.tallies).lane(lane).retries += 1;
    }

    /// A job goes on to another model, because its own is overloaded wherever it may go.
    pub fn fell_back(&self, from: &str, to: &str) {
        *lock(&self.tallies).fallback(from, to) += 1;
        debug!(from, to, "fell back to another model");
    }

    /// An answer was whole under this cap, where `full_cap` would have been reserved without right-sizing.
    pub fn right_sized(&self, cap: u32, full_cap: u32) {
        add(&self.reservation_saved, u64::from(full_cap.saturating_sub(cap)));
    }

    /// A right-sized cap cut an answer, which is asked for again under the full one.
    pub fn answer_cut(&self, lane: &LaneId, cap: u32, full_cap: u32, cost: Usd) {
        add(&self.reruns, 1);
        add(&self.rerun_nanos, cost.nanos());
        info!(%lane, cap, full_cap, "answer cut by a right-sized cap; asked for again in full");
    }

    /// A call failed.
    pub fn call_failed(&self, lane: &LaneId, failure: &Failure, billed: Usd) {
        {
            let mut tallies = lock(&self.tallies);
            let tally = tallies.lane(lane);
            tally.failures[failure.class as usize] += 1;
            tally.spent += billed;
        }
        let request_id = failure.request_id.as_deref().unwrap_or("-");
        if is_throttle(failure.class) {
            debug!(%lane, class = %failure.class, request_id, "call throttled");
        } else {
            info!(%lane, class = %failure.class, request_id, "call failed: {}", failure.message);
        }
        if failure.class == Class::Credentials && self.once("credentials") {
            error!("credentials refused: {}; waiting for new ones", failure.message);
        }
    }

    /// This worker changed the breaker of a lane for all; open `until` then, or until a person says so.
    pub fn breaker(&self, lane: &LaneId, state: BreakerState, until: Option<Timestamp>) {
        let until = until.map_or_else(|| "-".to_owned(), |until| until.to_string());
        match state {
            BreakerState::Open => {
                lock(&self.tallies).lane(lane).breaker_opened += 1;
                warn!(%lane, until, "breaker is open: no calls go, after failures in a row");
            }
            BreakerState::Closed | BreakerState::HalfOpen | BreakerState::Held => {
                info!(%lane, until, "breaker is {}", state.word());
            }
        }
    }

    /// A person at this worker's page set the breaker of a lane for all.
    pub fn breaker_by_hand(&self, lane: &LaneId, state: BreakerState, until: Option<Timestamp>) {
        let until = until.map_or_else(|| "-".to_owned(), |until| until.to_string());
        warn!(%lane, until, "breaker is {}: set at the page", state.word());
    }

    /// A batch may cost no more: no further call of it is made.
    pub fn cap_reached(&self, batch: &BatchName, committed: Usd) {
        if self.once(&format!("cap {batch}")) {
            info!(%batch, %committed, "the cost cap is reached");
        }
    }

    /// Calls are not permitted on a lane.
    pub fn lane_out(&self, lane: &LaneId, failure: &Failure) {
        if self.once(&format!("out {lane}")) {
            error!(%lane, "lane is out: {}", failure.message);
        }
    }

    /// The source of a document cannot be read just now.
    pub fn document_away(&self, id: &JobId, why: &str) {
        if self.once(&format!("away {id}")) {
            warn!(%id, "a document cannot be read just now: {why}");
        }
    }

    /// A job's end is on record, as of `now`.
    pub fn ended(&self, now: Timestamp, ended: &Ended<'_>) {
        let Ended { key, status, failed, usage, spent } = *ended;
        {
            let mut tallies = lock(&self.tallies);
            let tally = tallies.tenant(key.tenant.as_str());
            tally.ended[status as usize] += 1;
            tally.input_tokens += usage.input_tokens;
            tally.output_tokens += usage.output_tokens;
            tally.spent += spent;
            if let Some(class) = failed {
                tallies.failed[class as usize] += 1;
            }
        }
        if let Some(class) = failed {
            lock(&self.newest).note(class, Unsuccessful { key: key.clone(), at: now });
        }
    }

    /// The newest jobs of each class that ended without success.
    pub fn newest_unsuccessful(&self) -> Vec<(Class, Unsuccessful)> {
        lock(&self.newest).all()
    }

    /// The queue was asked, and answered with so many messages.
    pub fn received(&self, messages: usize) {
        add(&self.received, messages as u64);
        self.queue_answered.store(true, Ordering::Relaxed);
    }

    /// Whether the queue has ever answered.
    pub fn has_received(&self) -> bool {
        self.queue_answered.load(Ordering::Relaxed)
    }

    /// A delivery is being worked that was queued then, for as long as what is returned lives.
    pub fn takes_in_hand(&self, queued: Timestamp) -> InHand<'_> {
        self.in_hand.take(queued)
    }

    /// The queue was asked how much waits; `None` if it did not say.
    pub fn waits(&self, depth: Option<Depth>) {
        *lock(&self.depth) = depth;
    }

    /// A store is in trouble. Said once, and then now and then until it is over.
    pub fn store_trouble(&self, trouble: &StoreError) {
        let noted = lock(&self.troubles).note(Instant::now(), trouble);
        if noted {
            warn!(kind = ?trouble.kind, "{trouble}; trying again");
        }
    }

    /// Says which troubles go on, and which are over. To be called every few seconds.
    pub fn look_at_troubles(&self) {
        let words = lock(&self.troubles).look(Instant::now());
        for word in words {
            match word {
                Word::GoesOn(trouble) => warn!(kind = ?trouble.kind, "still in trouble: {trouble}"),
                Word::Over(trouble) => warn!(kind = ?trouble.kind, "over: {trouble}"),
            }
        }
    }

    /// What is in trouble now.
    pub fn troubles(&self) -> Vec<Trouble> {
        lock(&self.troubles).all()
    }

    /// A message told of something in a bucket that is no upload.
    pub fn event_passed_over(&self, message: &str, what: &str) {
        info!(message_id = message, "nothing to do: {what}");
    }

    /// The pipeline of an upload cannot be begun, and the upload waits for it. What does not pass by itself is said loudly.
    pub fn pipeline_trouble(&self, trouble: &StoreError) {
        let is_passing = match trouble.kind {
            StoreTrouble::Away | StoreTrouble::Full => true,
            StoreTrouble::Denied | StoreTrouble::Newer | StoreTrouble::Damaged | StoreTrouble::Other => false,
        };
        if !is_passing && self.once(&trouble.doing) {
            error!("uploads wait for somebody to mend this: {trouble}");
        }
        self.store_trouble(trouble);
    }

    /// A message went to the dead-letter queue.
    pub fn dead_lettered(&self, message: &str, reason: &str) {
        warn!(message_id = message, "dead-lettered: {reason}");
    }

    /// One entry of a batch call was not carried out.
    pub fn entry_refused(&self, message: &str, error: &EntryError) {
        info!(message_id = message, "{error}");
    }

    /// A lane is held shut, or open again; or a batch by its cap, under its name.
    pub fn gate(&self, lane: &str, gate: Option<&Gate>) {
        let mut gates = lock(&self.gates);
        match gate {
            Some(gate) => {
                debug!(lane, until = %gate.until, "waiting: {}", gate.reason);
                gates.insert(lane.to_string(), gate.clone());
            }
            None => {
                gates.remove(&lane.to_string());
            }
        }
    }

    /// The lanes that are held shut, by name.
    pub fn gates(&self) -> Vec<(String, Gate)> {
        lock(&self.gates).iter().map(|(lane, gate)| (lane.clone(), gate.clone())).collect()
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.counts_with(&lock(&self.tallies))
    }

    fn counts_with(&self, tallies: &Tallies) -> Counts {
        let mut counts = self.counts_beside_tallies();
        for (_, lane) in tallies.lanes() {
            let throttles = lane.failed(is_throttle);
            let failures = lane.failed(|class| !is_throttle(class));
            counts.calls += lane.answers + throttles + failures;
            counts.answers += lane.answers;
            counts.throttles += throttles;
            counts.call_failures += failures;
            counts.input_tokens += lane.usage.input_tokens;
            counts.output_tokens += lane.usage.output_tokens;
            counts.spent += lane.spent;
        }
        for (_, tenant) in tallies.tenants() {
            let ended: u64 = tenant.ended.iter().sum();
            counts.ended += ended;
            counts.unsuccessful += ended - tenant.ended[Status::Succeeded as usize];
        }
        counts
    }

    fn counts_beside_tallies(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            reservation_saved: Tokens(read(&self.reservation_saved)),
            reruns: read(&self.reruns),
            rerun_cost: Usd::from_nanos(read(&self.rerun_nanos)),
            received: read(&self.received),
            in_hand: self.in_hand.len(),
            ..Counts::default()
        }
    }

    /// How this worker stands at `now`, with its lanes as they stand. A lane that is beyond what is counted apart shows as
    /// one with the others of its kind.
    pub fn figures(&self, now: Timestamp, lanes: Vec<(LaneId, LaneNow)>) -> Figures {
        let mut tallies = lock(&self.tallies);
        let other = LaneId { region: OTHER.into(), model_id: OTHER.into() };
        let mut standing: BTreeMap<LaneId, LaneNow> = BTreeMap::new();
        for (lane, state) in lanes {
            let shown = if tallies.has_own(&lane) { lane } else { other.clone() };
            standing.entry(shown).and_modify(|before| *before = before.with(state)).or_insert(state);
        }
        let shown = tallies.lanes().map(|(lane, tally)| LaneFigures { now: standing.remove(&lane), lane, tally });
        Figures {
            counts: self.counts_with(&tallies),
            lanes: shown.collect(),
            tenants: tallies.tenants().collect(),
            fallbacks: tallies.fallbacks().collect(),
            failed: tallies.failed,
            queue: *lock(&self.depth),
            steps: self.in_hand.by_steps(),
            oldest_in_hand: self.in_hand.oldest().map(|queued| now.since(queued)),
            troubles: lock(&self.troubles).all().len(),
            ..Figures::default()
        }
    }

    fn once(&self, what: &str) -> bool {
        let now = Instant::now();
        let mut said = lock(&self.said);
        let fresh = said.get(what).is_none_or(|last| now.duration_since(*last) >= SAY_AGAIN);
        if fresh {
            said.insert(what.to_owned(), now);
        }
        fresh
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
