//! What does this worker know of a lane, and how does it come to terms with the others? It looks at its own copy of the
//! shared row, and takes nothing of the quota before the row says so too.
//!
//! Where swaps are cheap, a reservation is one swap of the row. Where they are not, the first in line draws a grant for those behind it
//! too, once in the store's pace, and their calls are made under it. What happens afterwards (a refund, a refusal, a breaker that opens) is
//! noted in the copy at once and written with the next swap; what cannot wait is written soon. A swap that finds another
//! version takes that over, says again what is not in it yet, and tries once more. Should the store be away, nothing is
//! taken: a call never goes out on a guess, but under what is left of a grant.

mod row;
mod take;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use self::row::{Offer, Row};
pub use self::take::{Asked, Take, Taken};
use crate::job::units::{PerMinute, Timestamp, Tokens};
use crate::ports::{Allowance, Gate as Posted, LaneId, StoreError};
use crate::rules::breaker::{BreakerRules, Phase};
use crate::rules::concurrency::Concurrency;
use crate::rules::lane::{LaneBook, Word};
use crate::rules::pace::{Event, Refusal, Terms};

use super::denial::Denial;
use super::pace_clock::PaceClock;

/// What was said is written at the latest after this, or after the pace of the store if that is longer.
pub const SAID_WITHIN: Duration = Duration::from_millis(250);
/// What the others have written is looked at before a job is placed, unless that was done so lately.
const SEEN_WITHIN: Duration = Duration::from_secs(1);
/// So many swaps may be lost in a row to other workers before whoever waits for them looks around again.
const SWAPS: usize = 20;

/// A lane: one model id as resolved for one endpoint.
#[derive(Debug)]
pub struct Lane {
    /// Its name.
    pub id: LaneId,
    /// Told when tokens come back or a gate opens.
    pub changed: Notify,
    /// Not used before this, as somebody has written into the endpoints file.
    pub not_before: Option<Timestamp>,
    clock: Arc<PaceClock>,
    /// Told when something was said that is not written yet.
    said: Arc<Notify>,
    /// Who is at the row; the copy in `state` is only ever replaced under it.
    desk: tokio::sync::Mutex<()>,
    state: Mutex<LaneState>,
}

/// What is known of a lane.
#[derive(Debug)]
pub struct LaneState {
    /// The copy of what all workers know.
    pub book: LaneBook,
    /// How many calls this worker may have open.
    pub concurrency: Concurrency,
    /// How many it has.
    pub open: usize,
    /// What it has reserved for them.
    pub reserved: Tokens,
    /// When a call of this worker was last answered.
    pub answered: Option<Timestamp>,
    /// Why it is out, if calls are not permitted there.
    pub out: Option<Denial>,
    /// What holds it shut, as it was last posted.
    pub posted: Option<Posted>,
    row: Row,
}

impl LaneState {
    /// Would a call of so many tokens be admitted now, by what this worker holds or else by what all know? If what it holds
    /// does not cover the call, the rest of its grant is given back first: it would stand in the call's way.
    ///
    /// # Errors
    /// Why not.
    pub fn ask(&mut self, now: Timestamp, tokens: Tokens) -> Result<(), Refusal> {
        if self.is_covered(now, tokens) {
            return Ok(());
        }
        self.empty_purse(now);
        self.book.ledger.ask(now, tokens)
    }

    /// What is left of a grant is said to come back, in the row with the next swap.
    fn empty_purse(&mut self, now: Timestamp) {
        if let Some(rest) = self.row.purse.empty() {
            let word = Word::Quota(Event::Returned(rest));
            let news = self.book.note(now, &word);
            self.row.say(word, news);
        }
    }

    fn is_covered(&mut self, now: Timestamp, tokens: Tokens) -> bool {
        self.row.purse.covers(now, tokens)
            && self.book.ledger.is_calm(now)
            && self.book.breaker.standing().phase() == Phase::Closed
    }

    /// One call more is open, for which so much is reserved. Where calls are not permitted, it is the one that asks.
    fn begin_call(&mut self, now: Timestamp, reserved: Tokens) {
        if let Some(denial) = &mut self.out {
            denial.asks(now);
        }
        self.open += 1;
        self.reserved += reserved;
    }

    /// Whether nothing is sent there because it is not permitted.
    pub fn is_out(&self, now: Timestamp) -> bool {
        self.out.as_ref().is_some_and(|denial| denial.holds(now))
    }
}

impl Lane {
    /// A lane of which nothing is known yet.
    pub fn new(
        id: LaneId,
        not_before: Option<Timestamp>,
        terms: Terms,
        breaker: BreakerRules,
        clock: Arc<PaceClock>,
        said: Arc<Notify>,
    ) -> Self {
        let state = LaneState {
            book: LaneBook::new(terms, breaker),
            concurrency: Concurrency::new(),
            open: 0,
            reserved: Tokens(0),
            answered: None,
            out: None,
            posted: None,
            row: Row::unread(),
        };
        let (changed, desk) = (Notify::new(), tokio::sync::Mutex::default());
        Self { id, changed, not_before, clock, said, desk, state: Mutex::new(state) }
    }

    /// What all models of an endpoint share: the account there, which has a quota but can do anything at once.
    #[must_use]
    pub fn for_account(self) -> Self {
        self.state().concurrency = Concurrency::unbounded();
        self
    }

    /// Gives back what was taken for a call that is not made.
    pub fn give_back(&self, taken: &Taken) {
        let part = taken.part.map(|part| self.state().row.purse.put_back(part));
        match part {
            Some(None) => self.say([Word::Abandoned(taken.permit)]),
            Some(Some(_)) | None => self.say(taken.unsent()),
        }
        self.end_call(taken.reservation.tokens);
    }

    /// What this worker holds and does not need comes back with the next write.
    pub fn hold_nothing(&self) {
        let now = self.now();
        self.state().empty_purse(now);
    }

    /// One call less is open, for which so much had been reserved.
    pub fn end_call(&self, reserved: Tokens) {
        let mut state = self.state();
        state.open = state.open.saturating_sub(1);
        state.reserved = Tokens(state.reserved.0.saturating_sub(reserved.0));
        drop(state);
        // Whoever stands first in line looks again; the word is kept if nobody waits just now.
        self.changed.notify_one();
    }

    /// Its state, for a moment; never held across an await.
    pub fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tokens a minute that are configured for it.
    pub fn quota(&self) -> Option<u64> {
        self.state().book.ledger.limits().tokens_per_minute.map(PerMinute::get)
    }

    /// The time by which its charges age.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Takes note of something that happened, for this worker at once and for the others soon.
    pub fn say(&self, words: impl IntoIterator<Item = Word>) {
        let now = self.now();
        let mut state = self.state();
        let state = &mut *state;
        for word in words {
            let news = state.book.note(now, &word);
            state.row.say(word, news);
        }
        if !state.row.words.is_empty() {
            self.said.notify_one();
        }
    }

    /// Writes what was said and is not written yet.
    ///
    /// # Errors
    /// The store is in trouble; what was said is kept.
    pub async fn write(&self, allowance: &dyn Allowance) -> Result<(), StoreError> {
        {
            let (now, mut state) = (self.now(), self.state());
            if state.row.purse.is_left_after(now, allowance.pace()) {
                state.empty_purse(now);
            }
        }
        let failed_before = {
            let state = self.state();
            if state.row.words.is_empty() {
                return Ok(());
            }
            state.row.failed.0
        };
        let _desk = self.desk.lock().await;
        // Who waited here while another one found the store away does not find that out once more: calls wait behind it.
        if let (failed, Some(error)) = &self.state().row.failed
            && *failed > failed_before
        {
            return Err(error.clone());
        }
        let written = self.write_words(allowance).await;
        if let Err(error) = &written {
            let mut state = self.state();
            state.row.failed = (state.row.failed.0 + 1, Some(error.clone()));
        }
        written
    }

    async fn write_words(&self, allowance: &dyn Allowance) -> Result<(), StoreError> {
        self.read_first(allowance).await?;
        for _ in 0..SWAPS {
            if self.state().row.words.is_empty() || matches!(self.swap(allowance, None).await?, Offer::Taken) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether others write the row as well.
    pub fn is_shared(&self) -> bool {
        self.state().row.has_other_writers()
    }

    /// Whether something was said that cannot wait for the pace of the store.
    pub fn is_pressed(&self, allowance: &dyn Allowance) -> bool {
        !allowance.pace().is_zero() && self.state().row.is_urgent
    }

    /// When what was said, or is left of a grant, is to be written, `now` at the earliest; `None` if there is nothing.
    pub fn writes_at(&self, allowance: &dyn Allowance, now: Instant) -> Option<Instant> {
        self.state().row.due(allowance.pace(), self.now(), now)
    }

    /// How this worker has set the breaker for all since this was last asked, in order. Nobody else is told of the same
    /// change: only one swap of a row can win.
    pub fn take_turns(&self) -> Vec<Phase> {
        std::mem::take(&mut self.state().row.turns)
    }

    /// Looks whether others have written anything, if the copy is not from just now: a lane that rests, or is not well,
    /// does so for everybody, and nobody asks before a call that needs no quota.
    ///
    /// # Errors
    /// The store is in trouble.
    pub async fn look(&self, allowance: &dyn Allowance) -> Result<(), StoreError> {
        let is_held = self.state().row.purse.covers(self.now(), Tokens(0));
        if is_held || self.is_fresh(allowance.pace()) { Ok(()) } else { self.refresh(allowance).await }
    }

    /// Looks whether others have written anything.
    ///
    /// # Errors
    /// The store is in trouble.
    pub async fn refresh(&self, allowance: &dyn Allowance) -> Result<(), StoreError> {
        let _desk = self.desk.lock().await;
        self.read(allowance).await
    }
}
