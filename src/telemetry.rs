//! What is counted and said while the work goes on? Every event of the flow in one list: its log line and its count
//! together, so that neither can be forgotten. Ids, classes, lengths and sums; never a prompt or an answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::job::failure::{Class, Consequence, Failure};
use crate::job::lifecycle::Status;
use crate::job::outcome::Usage;
use crate::job::units::{Tokens, Usd};
use crate::ports::{EntryError, Gate, LaneId, StoreError};

pub use troubles::Trouble;
use troubles::{Troubles, Word};

mod troubles;

/// The same trouble is said again only after this.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Counts and logs what happens. One a worker.
#[derive(Debug, Default)]
pub struct Meter {
    calls: AtomicU64,
    answers: AtomicU64,
    throttles: AtomicU64,
    call_failures: AtomicU64,
    input_tokens: AtomicU64,
    output_tokens: AtomicU64,
    spent_nanos: AtomicU64,
    reservation_saved: AtomicU64,
    reruns: AtomicU64,
    rerun_nanos: AtomicU64,
    ended: [AtomicU64; Status::ALL.len()],
    received: AtomicU64,
    in_hand: AtomicU64,
    queue_answered: AtomicBool,
    troubles: Mutex<Troubles>,
    gates: Mutex<BTreeMap<String, Gate>>,
    said: Mutex<BTreeMap<String, Instant>>,
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

/// A delivery that is being worked.
#[derive(Debug)]
pub struct InHand<'a>(&'a Meter);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Meter {
    /// A call was answered; `used` is what the quota was charged.
    pub fn answered(&self, lane: &LaneId, usage: &Usage, used: Tokens, cost: Usd) {
        add(&self.calls, 1);
        add(&self.answers, 1);
        add(&self.input_tokens, usage.input_tokens);
        add(&self.output_tokens, usage.output_tokens);
        add(&self.spent_nanos, cost.nanos());
        debug!(%lane, input = usage.input_tokens, output = usage.output_tokens, quota = used.0, "call answered");
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
        add(&self.calls, 1);
        add(&self.spent_nanos, billed.nanos());
        let request_id = failure.request_id.as_deref().unwrap_or("-");
        if failure.class.consequence() == Consequence::Wait {
            add(&self.throttles, 1);
            debug!(%lane, class = %failure.class, request_id, "call throttled");
        } else {
            add(&self.call_failures, 1);
            info!(%lane, class = %failure.class, request_id, "call failed: {}", failure.message);
        }
        if failure.class == Class::Credentials && self.once("credentials") {
            error!("credentials refused: {}; waiting for new ones", failure.message);
        }
    }

    /// Calls are not permitted on a lane.
    pub fn lane_out(&self, lane: &LaneId, failure: &Failure) {
        if self.once(&format!("out {lane}")) {
            error!(%lane, "lane is out: {}", failure.message);
        }
    }

    /// A job's end is on record.
    pub fn ended(&self, status: Status) {
        add(&self.ended[status as usize], 1);
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

    /// A delivery is being worked, for as long as what is returned lives.
    pub fn takes_in_hand(&self) -> InHand<'_> {
        add(&self.in_hand, 1);
        InHand(self)
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

    /// A message went to the dead-letter queue.
    pub fn dead_lettered(&self, message: &str, reason: &str) {
        warn!(message, "dead-lettered: {reason}");
    }

    /// One entry of a batch call was not carried out.
    pub fn entry_refused(&self, message: &str, error: &EntryError) {
        info!(message, "{error}");
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
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            calls: read(&self.calls),
            answers: read(&self.answers),
            throttles: read(&self.throttles),
            call_failures: read(&self.call_failures),
            input_tokens: read(&self.input_tokens),
            output_tokens: read(&self.output_tokens),
            spent: Usd::from_nanos(read(&self.spent_nanos)),
            reservation_saved: Tokens(read(&self.reservation_saved)),
            reruns: read(&self.reruns),
            rerun_cost: Usd::from_nanos(read(&self.rerun_nanos)),
            ended: self.ended.iter().map(read).sum(),
            unsuccessful: Status::ALL
                .iter()
                .filter(|status| **status != Status::Succeeded)
                .map(|status| read(&self.ended[*status as usize]))
                .sum(),
            received: read(&self.received),
            in_hand: read(&self.in_hand),
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
