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
}

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

/// What was taken over of a row; breaker and cool-down always are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Loaded {
    /// Who wrote it.
    pub writer: u64,
    /// Whether its ledger was, too.
    pub ledger: bool,
}

#[derive(Deserialize, Serialize)]
struct Row<'a> {
    /// Who wrote it: a worker that does not know whether its write arrived recognises it.
    writer: u64,
    #[serde(borrow)]
    ledger: &'a serde_json::value::RawValue,
    breaker: Standing,
    cool_down: CoolDown,
}

impl LaneBook {
    /// Of a lane of which nothing is known.
    pub fn new(terms: Terms, breaker: BreakerRules) -> Self {
        Self { ledger: LaneLedger::new(terms), breaker: Breaker::new(breaker), cool_down: CoolDown::new() }
    }

    /// Takes note of it. Returns whether that is news to other workers.
    pub fn note(&mut self, now: Timestamp, word: &Word) -> bool {
        match *word {
            Word::Quota(event) => {
                self.ledger.apply(now, &event);
                self.ledger.has_limits()
            }
            Word::Answered(permit) => {
                let rested = self.cool_down.clone();
                self.cool_down.succeeded();
                let changed = self.changes_breaker(|breaker| {
                    breaker.on_success(permit);
                });
                changed || rested != self.cool_down
            }
            Word::Failed(permit, class) => self.changes_breaker(|breaker| {
                breaker.on_failure(permit, now, class);
            }),
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
    pub fn save(&self, writer: u64) -> serde_json::Result<Vec<u8>> {
        let ledger = serde_json::value::to_raw_value(&self.ledger)?;
        let breaker = self.breaker.standing().clone();
        serde_json::to_vec(&Row { writer, ledger: &ledger, breaker, cool_down: self.cool_down.clone() })
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
        self.cool_down = row.cool_down;
        Ok(Loaded { writer: row.writer, ledger: has_ledger })
    }

    /// The row with its breaker set as a person says, and nothing else touched: who does that need not know the quota.
    ///
    /// # Errors
    /// The bytes are no lane of this version.
    pub fn row_by_hand(row: &[u8], writer: u64, hand: Hand) -> serde_json::Result<Vec<u8>> {
        let mut row: Row<'_> = serde_json::from_slice(row)?;
        row.breaker.set_by_hand(hand);
        serde_json::to_vec(&Row { writer, ..row })
    }

    fn changes_breaker(&mut self, by: impl FnOnce(&mut Breaker)) -> bool {
        let before = self.breaker.standing().clone();
        by(&mut self.breaker);
        before != *self.breaker.standing()
    }
}
