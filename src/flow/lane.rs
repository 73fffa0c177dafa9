//! What does this worker know of a lane, and how does it come to terms with the others? It looks at its own copy of the
//! shared row, and takes nothing of the quota before the row says so too.
//!
//! A reservation is one swap of the row. What happens to it afterwards (a refund, a refusal, a breaker that opens) is noted
//! in the copy at once and written with the next swap, at the latest after [`SAID_WITHIN`]. A swap that finds another
//! version takes that over, says again what is not in it yet, and tries once more. Should the store be away, nothing is
//! reserved: a call never goes out on a guess.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::job::units::{Timestamp, Tokens};
use crate::ports::{Allowance, Gate as Posted, LaneId, Shared, StoreError, StoreTrouble, Swap, Version};
use crate::rules::breaker::{BreakerRules, Gate, Permit, Phase};
use crate::rules::concurrency::Concurrency;
use crate::rules::lane::{LaneBook, Loaded, Word};
use crate::rules::pace::{Event, Reservation, Terms};

use super::denial::Denial;
use super::pace_clock::PaceClock;

/// What was said is written at the latest after this.
pub const SAID_WITHIN: Duration = Duration::from_millis(250);
/// What the others have written is looked at before a job is placed, unless that was done so lately.
const SEEN_WITHIN: Duration = Duration::from_secs(1);
/// So many swaps may be lost in a row to other workers before the job looks around again.
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
    /// When a call of this worker was last answered.
    pub answered: Option<Timestamp>,
    /// Why it is out, if calls are not permitted there.
    pub out: Option<Denial>,
    /// What holds it shut, as it was last posted.
    pub posted: Option<Posted>,
    row: Row,
}

impl LaneState {
    /// Whether nothing is sent there because it is not permitted.
    pub fn is_out(&self, now: Timestamp) -> bool {
        self.out.as_ref().is_some_and(|denial| denial.holds(now))
    }
}

/// How the copy stands to the row.
#[derive(Debug)]
struct Row {
    /// `None`: never read, or nobody knows what became of the last swap.
    version: Option<Version>,
    /// When it was last read or written.
    seen: Option<Instant>,
    /// Said since.
    words: Vec<Word>,
    /// Swaps whose end is not known: what each was signed with, and how many words were in it.
    in_doubt: Vec<(u64, usize)>,
    signature: u64,
    /// How often words could not be written, and why not the last time.
    failed: (u64, Option<StoreError>),
    /// How the breaker stands there.
    breaker: Phase,
    /// How this worker has set it there, since somebody last asked.
    turns: Vec<Phase>,
}

impl Row {
    /// The row says so now, by this worker's hand; whether that is a change.
    fn turned(&mut self, phase: Phase) -> bool {
        let is_news = std::mem::replace(&mut self.breaker, phase) != phase;
        if is_news {
            self.turns.push(phase);
        }
        is_news
    }
}

/// What was taken for one call.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// The charge.
    pub reservation: Reservation,
    /// The breaker's leave.
    pub permit: Permit,
    /// Whether the breaker let the call through to find out.
    pub probe: bool,
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
        let row = Row {
            version: None,
            seen: None,
            words: Vec::new(),
            in_doubt: Vec::new(),
            signature: rand::random(),
            failed: (0, None),
            breaker: Phase::Closed,
            turns: Vec::new(),
        };
        let state = LaneState {
            book: LaneBook::new(terms, breaker),
            concurrency: Concurrency::new(),
            open: 0,
            answered: None,
            out: None,
            posted: None,
            row,
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
        self.say([Word::Quota(Event::Released(taken.reservation)), Word::Abandoned(taken.permit)]);
        self.end_call();
    }

    /// One call less is open.
    pub fn end_call(&self) {
        let mut state = self.state();
        state.open = state.open.saturating_sub(1);
        drop(state);
        // Whoever stands first in line looks again; the word is kept if nobody waits just now.
        self.changed.notify_one();
    }

    /// Its state, for a moment; never held across an await.
    pub fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time by which its charges age.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Takes note of something that happened, for this worker at once and for the others soon.
    pub fn say(&self, words: impl IntoIterator<Item = Word>) {
        let now = self.now();
        let mut state = self.state();
        for word in words {
            if state.book.note(now, &word) {
                state.row.words.push(word);
            }
        }
        if !state.row.words.is_empty() {
            self.said.notify_one();
        }
    }

    /// Takes tokens, a request and the breaker's leave together, or nothing: `None` if a gate is shut.
    ///
    /// # Errors
    /// The store is in trouble; nothing was taken that does not age out.
    pub async fn take(&self, allowance: &dyn Allowance, tokens: Tokens) -> Result<Option<Taken>, StoreError> {
        let _desk = self.desk.lock().await;
        self.read_first(allowance).await?;
        for _ in 0..SWAPS {
            let Some((taken, is_shared)) = self.take_from_copy(tokens) else { return Ok(None) };
            let offer = if is_shared { self.swap(allowance).await? } else { Offer::Taken };
            match offer {
                Offer::Taken => {
                    self.state().open += 1;
                    return Ok(Some(taken));
                }
                Offer::Lost(adopted) => self.forget(&taken, adopted),
            }
        }
        Ok(None)
    }

    /// What was taken in the copy alone, and is not in what replaced it.
    fn forget(&self, taken: &Taken, adopted: Adopted) {
        let now = self.now();
        let mut state = self.state();
        let (released, abandoned) = (Word::Quota(Event::Released(taken.reservation)), Word::Abandoned(taken.permit));
        for word in [released, abandoned].into_iter().filter(|word| !adopted.holds(word)) {
            state.book.note(now, &word);
        }
    }

    /// Writes what was said and is not written yet.
    ///
    /// # Errors
    /// The store is in trouble; what was said is kept.
    pub async fn write(&self, allowance: &dyn Allowance) -> Result<(), StoreError> {
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
            if self.state().row.words.is_empty() || matches!(self.swap(allowance).await?, Offer::Taken) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether something was said that is not written yet.
    pub fn has_more_to_say(&self) -> bool {
        !self.state().row.words.is_empty()
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
        let is_fresh = self.state().row.seen.is_some_and(|seen| seen.elapsed() < SEEN_WITHIN);
        if is_fresh { Ok(()) } else { self.refresh(allowance).await }
    }

    /// Looks whether others have written anything.
    ///
    /// # Errors
    /// The store is in trouble.
    pub async fn refresh(&self, allowance: &dyn Allowance) -> Result<(), StoreError> {
        let _desk = self.desk.lock().await;
        let shared = allowance.read(&self.id).await?;
        if self.state().row.version == Some(shared.version) {
            self.state().row.seen = Some(Instant::now());
        } else {
            self.adopt(&shared);
        }
        Ok(())
    }

    async fn read_first(&self, allowance: &dyn Allowance) -> Result<(), StoreError> {
        if self.state().row.version.is_none() {
            let shared = allowance.read(&self.id).await?;
            self.adopt(&shared);
        }
        Ok(())
    }

    /// The second is whether others have to agree.
    fn take_from_copy(&self, tokens: Tokens) -> Option<(Taken, bool)> {
        let now = self.now();
        let mut state = self.state();
        let state = &mut *state;
        if state.open >= state.concurrency.limit() || state.is_out(now) {
            return None;
        }
        if state.book.breaker.shut_until(now).is_some() {
            return None;
        }
        let reservation = state.book.ledger.reserve(now, tokens).ok()?;
        let (permit, probe) = match state.book.breaker.may_call(now) {
            Gate::Go(permit) => (permit, false),
            Gate::Probe(permit) => (permit, true),
            Gate::Open { .. } => return None,
        };
        if let Some(denial) = &mut state.out {
            denial.asks(now);
        }
        let is_shared = probe || state.book.ledger.has_limits();
        Some((Taken { reservation, permit, probe }, is_shared))
    }

    /// Offers the copy as the new row.
    async fn swap(&self, allowance: &dyn Allowance) -> Result<Offer, StoreError> {
        let (expected, bytes, count, phase) = {
            let mut state = self.state();
            let state = &mut *state;
            state.row.signature = state.row.signature.wrapping_add(1);
            let bytes = state.book.save(state.row.signature).map_err(|error| unwritable(&self.id, &error))?;
            let count = state.row.words.len();
            state.row.in_doubt.push((state.row.signature, count));
            let phase = state.book.breaker.standing().phase();
            (state.row.version.unwrap_or(Version(0)), Bytes::from(bytes), count, phase)
        };
        let swapped = allowance.swap(&self.id, expected, bytes).await;
        match swapped {
            Ok(Swap::Swapped { version, .. }) => {
                let mut state = self.state();
                (state.row.version, state.row.seen) = (Some(version), Some(Instant::now()));
                state.row.words.drain(..count);
                state.row.in_doubt.clear();
                if state.row.turned(phase) {
                    self.said.notify_one();
                }
                Ok(Offer::Taken)
            }
            Ok(Swap::Stale(shared)) => Ok(Offer::Lost(self.adopt(&shared))),
            Err(error) => {
                self.state().row.version = None;
                Err(error)
            }
        }
    }

    /// The row is the copy now, and what it does not know yet is said to it.
    fn adopt(&self, shared: &Shared) -> Adopted {
        let mut state = self.state();
        let state = &mut *state;
        (state.row.version, state.row.seen) = (Some(shared.version), Some(Instant::now()));
        // A row that is empty, or was written by another version of the program, replaces nothing and is written anew.
        let loaded = if shared.state.is_empty() { None } else { state.book.load(&shared.state).ok() };
        let phase = if loaded.is_some() { state.book.breaker.standing().phase() } else { Phase::Closed };
        if let Some(Loaded { writer, .. }) = loaded
            && let Some((_, count)) = state.row.in_doubt.iter().find(|(signed, _)| *signed == writer)
        {
            state.row.words.drain(..*count);
            if state.row.turned(phase) {
                self.said.notify_one();
            }
        }
        state.row.breaker = phase;
        state.row.in_doubt.clear();
        self.clock.catch_up(state.book.ledger.latest());
        let now = self.now();
        let adopted = Adopted { ledger: loaded.is_some_and(|loaded| loaded.ledger), rest: loaded.is_some() };
        for word in state.row.words.iter().filter(|word| adopted.holds(word)) {
            state.book.note(now, word);
        }
        adopted
    }
}

/// What became of a copy that was offered as the new row.
#[derive(Clone, Copy, Debug)]
enum Offer {
    Taken,
    /// Another worker was faster, and so much of its row is the copy now.
    Lost(Adopted),
}

/// Which parts of the copy a row has replaced. The others still know all that was said.
#[derive(Clone, Copy, Debug)]
struct Adopted {
    ledger: bool,
    /// Breaker and cool-down.
    rest: bool,
}

impl Adopted {
    /// Whether this word belongs to a part that was replaced.
    fn holds(self, word: &Word) -> bool {
        match word {
            Word::Quota(_) => self.ledger,
            Word::Answered(_) | Word::Failed(..) | Word::Abandoned(_) | Word::Left { .. } => self.rest,
        }
    }
}

fn unwritable(lane: &LaneId, error: &serde_json::Error) -> StoreError {
    StoreError { kind: StoreTrouble::Other, doing: format!("writing what is known of {lane}"), why: error.to_string() }
}
