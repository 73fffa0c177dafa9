//! What do all workers know of a lane? Its charges, its breaker and its cool-down, as one value in one row.
//!
//! What a worker has to say is a [`Word`]. A row is swapped under its version, so words that were said while another
//! worker wrote are said again to what it wrote: each must make sense to a lane that has moved on meanwhile.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::breaker::{Breaker, BreakerRules, Hand, Permit, Standing};
use super::cooldown::CoolDown;
use super::pace::{Event, LaneLedger, Terms};
use crate::job::failure::Class;
use crate::job::units::Timestamp;

/// What is known of a lane.
#[derive(Clone, Debug)]
pub struct LaneBook {
    /// Its charges, and what was learned of its quota.
    pub ledger: LaneLedger,
    /// Whether it is well.
    pub breaker: Breaker,
    /// Until when it rests.
    pub cool_down: CoolDown,
    /// Who wrote last, the newest at the end.
    writers: Vec<Writer>,
}

/// Whose write of a row, and the how manieth: a worker whose write was not answered finds out whether it was carried out,
/// also when others have written since.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct Writer {
    /// Drawn by each worker for itself.
    pub worker: u64,
    /// Counts its writes.
    pub write: u64,
}

impl From<(u64, u64)> for Writer {
    fn from((worker, write): (u64, u64)) -> Self {
        Self { worker, write }
    }
}

impl From<Writer> for (u64, u64) {
    fn from(Writer { worker, write }: Writer) -> Self {
        (worker, write)
    }
}

/// So many workers may write before one of them looks whether its own write was carried out.
const WRITERS: usize = 64;

/// Something that happened on a lane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Word {
    /// To a reservation.
    Quota(Event),
    /// A call that the breaker let through was answered.
    Answered(Permit),
    /// It failed.
    Failed(Permit, Class),
    /// It was not made, or nobody waited for its end.
    Abandoned(Permit),
    /// A job left the lane with a failure of this class; the first window is so long.
    Left {
        /// When the call that failed was sent.
        sent: Timestamp,
        /// When it failed: the job may have stood in line for another lane since.
        failed: Timestamp,
        /// How it failed.
        class: Class,
        /// The shortest cool-down.
        window: Duration,
    },
}

/// When others have to know of something.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum News {
    /// It changes nothing for them.
    None,
    /// With the next write.
    Soon,
    /// At once: they would be refused too, or they wait for it.
    Now,
}

/// What was taken over of a row; breaker and cool-down always are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Loaded {
    /// Whether its ledger was, too.
    pub ledger: bool,
}

#[derive(Deserialize, Serialize)]
struct Row<'a> {
    #[serde(default)]
    writers: Vec<Writer>,
    #[serde(borrow)]
    ledger: &'a serde_json::value::RawValue,
    breaker: Standing,
    cool_down: CoolDown,
}

impl LaneBook {
    /// Of a lane of which nothing is known.
    pub fn new(terms: Terms, breaker: BreakerRules) -> Self {
        let (breaker, cool_down) = (Breaker::new(breaker), CoolDown::new());
        Self { ledger: LaneLedger::new(terms), breaker, cool_down, writers: Vec::new() }
    }

    /// Takes note of it. Returns for whom that is news.
    pub fn note(&mut self, now: Timestamp, word: &Word) -> News {
        let (held, phase) = (self.ledger.holds_for_one(), self.breaker.standing().phase());
        if !self.changes(now, word) {
            return News::None;
        }
        let is_let_go = held && !self.ledger.holds_for_one();
        let is_refused = matches!(word, Word::Quota(Event::Throttled(..) | Event::DayExhausted(..)));
        let has_turned = self.breaker.standing().phase() != phase;
        if is_let_go || is_refused || has_turned { News::Now } else { News::Soon }
    }

    /// Whether this worker's newest write that the row knows of is this one.
    pub fn is_written_by(&self, writer: Writer) -> bool {
        self.writers.iter().rfind(|known| known.worker == writer.worker) == Some(&writer)
    }

    fn changes(&mut self, now: Timestamp, word: &Word) -> bool {
        match *word {
            Word::Quota(event) => {
                self.ledger.apply(now, &event);
                self.ledger.has_limits()
            }
            Word::Answered(permit) => {
                let rested = self.cool_down.clone();
                self.cool_down.succeeded();
                let changed = self.changes_breaker(|breaker| breaker.on_success(permit));
                changed || rested != self.cool_down
            }
            Word::Failed(permit, class) => self.changes_breaker(|breaker| breaker.on_failure(permit, now, class)),
            Word::Abandoned(permit) => self.changes_breaker(|breaker| breaker.on_abandoned(permit)),
            Word::Left { sent, failed, class, window } => {
                let before = self.cool_down.clone();
                self.cool_down.stamp(sent, failed, class, window);
                before != self.cool_down
            }
        }
    }

    /// In a form that [`load`](Self::load) reads.
    ///
    /// # Errors
    /// Never in practice: there is nothing in it that JSON cannot say.
    pub fn save(&self, writer: Writer) -> serde_json::Result<Vec<u8>> {
        let others = self.writers.iter().filter(|known| known.worker != writer.worker);
        let mut writers: Vec<_> = others.copied().chain([writer]).collect();
        writers.drain(..writers.len().saturating_sub(WRITERS));
        let ledger = serde_json::value::to_raw_value(&self.ledger)?;
        let breaker = self.breaker.standing().clone();
        serde_json::to_vec(&Row { writers, ledger: &ledger, breaker, cool_down: self.cool_down.clone() })
    }

    /// Takes over what another worker has written. Charges that nobody else knows of, because
    /// the lane had no limit so far, stay.
    ///
    /// # Errors
    /// The bytes are no lane of this version.
    pub fn load(&mut self, row: &[u8]) -> serde_json::Result<Loaded> {
        let row: Row<'_> = serde_json::from_slice(row)?;
        let mut ledger = self.ledger.clone();
        ledger.load(row.ledger.get())?;
        let has_ledger = ledger.has_limits();
        if has_ledger {
            self.ledger = ledger;
        }
        self.breaker.take_over(row.breaker);
        (self.cool_down, self.writers) = (row.cool_down, row.writers);
        Ok(Loaded { ledger: has_ledger })
    }

    /// The row with its breaker set as a person says, and nothing else touched: who does that need not know the quota.
    ///
    /// # Errors
    /// The bytes are no lane of this version.
    pub fn row_by_hand(row: &[u8], hand: Hand) -> serde_json::Result<Vec<u8>> {
        let mut row: Row<'_> = serde_json::from_slice(row)?;
        row.breaker.set_by_hand(hand);
        serde_json::to_vec(&row)
    }

    fn changes_breaker(&mut self, by: impl FnOnce(&mut Breaker)) -> bool {
        let before = self.breaker.standing().clone();
        by(&mut self.breaker);
        !before.says_the_same(self.breaker.standing())
    }
}
