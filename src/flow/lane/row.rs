//! How does a worker's copy of a lane stand to the row that all share, and what has it to say there?
//!
//! Whoever swaps says everything that was said since, takes over what others have written where they were faster, and says
//! again what is not in it. A swap of which nobody knows what became of it is found again in the row, by its writer's mark.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Lane, SEEN_WITHIN};
use crate::job::units::Timestamp;
use crate::ports::{Allowance, LaneId, Shared, StoreError, StoreTrouble, Swap, Version};
use crate::rules::breaker::Phase;
use crate::rules::lane::{Loaded, News, Word, Writer};
use crate::rules::pace::{Grant, Purse};

/// So long others are expected to write again.
const OTHERS_WRITE: Duration = Duration::from_secs(60);
/// A row read so lately is likely to stand still.
const STANDS_FOR: Duration = Duration::from_millis(50);

/// How the copy stands to the row.
#[derive(Debug)]
pub(super) struct Row {
    /// `None`: never read, or nobody knows what became of the last swap.
    pub(super) version: Option<Version>,
    /// When it was last read or written.
    pub(super) seen: Option<Instant>,
    /// When somebody else was last found to have written it.
    others: Option<Instant>,
    /// Said since.
    pub(super) words: Vec<Word>,
    /// Whether one of them cannot wait.
    pub(super) is_urgent: bool,
    /// What is left of the newest grant.
    pub(super) purse: Purse,
    /// When the newest swap was offered, and by when all of them are worth their pace.
    swapped: Option<(Instant, Instant)>,
    /// The swap whose end is not known, or not yet.
    in_doubt: Option<InDoubt>,
    writer: Writer,
    /// How often words could not be written, and why not the last time.
    pub(super) failed: (u64, Option<StoreError>),
    /// How the breaker stands there.
    breaker: Phase,
    /// How this worker has set it there, since somebody last asked.
    pub(super) turns: Vec<Phase>,
}

#[derive(Clone, Copy, Debug)]
struct InDoubt {
    writer: Writer,
    /// How many words were in it.
    words: usize,
    grant: Option<Grant>,
}

impl Row {
    pub(super) fn unread() -> Self {
        Self {
            version: None,
            seen: None,
            others: None,
            words: Vec::new(),
            is_urgent: false,
            purse: Purse::default(),
            swapped: None,
            in_doubt: None,
            writer: Writer { worker: rand::random(), write: 0 },
            failed: (0, None),
            breaker: Phase::Closed,
            turns: Vec::new(),
        }
    }

    /// The word is to be written, as soon as it is news.
    pub(super) fn say(&mut self, word: Word, news: News) {
        if news != News::None {
            self.words.push(word);
            self.is_urgent |= news == News::Now;
        }
    }

    /// Whether somebody else was found to have written it lately.
    pub(super) fn has_other_writers(&self) -> bool {
        self.others.is_some_and(|others| others.elapsed() < OTHERS_WRITE)
    }

    /// When the next swap keeps the pace; `None` if it does now. One may come early.
    pub(super) fn keeps_pace_at(&self, pace: Duration) -> Option<Instant> {
        let (_, worth) = self.swapped?;
        worth.checked_sub(pace).filter(|at| *at > Instant::now())
    }

    /// When what was said is to be written, if a draw does not take it along before; `at_once` if that cannot wait.
    pub(super) fn due(&self, pace: Duration, now: Timestamp, at_once: Instant) -> Option<Instant> {
        if self.words.is_empty() && !self.purse.is_left_after(now, Duration::ZERO) {
            return None;
        }
        let swapped = self.swapped.map(|(at, _)| at + pace + pace / 2).filter(|_| !self.is_urgent);
        Some(swapped.unwrap_or(at_once))
    }

    fn offered(&mut self, pace: Duration) {
        let now = Instant::now();
        let worth = self.swapped.map_or(now, |(_, worth)| worth.max(now)) + pace;
        // What could not wait for the pace is not made up for by what can.
        self.swapped = Some((now, worth.min(now + 2 * pace)));
    }

    /// It was carried out.
    fn carried_out(&mut self, swap: InDoubt, phase: Phase) {
        self.words.drain(..swap.words);
        self.is_urgent &= !self.words.is_empty();
        if let Some(grant) = swap.grant {
            self.purse.fill(grant);
        }
        self.turned(phase);
    }

    /// The row says so now, by this worker's hand.
    fn turned(&mut self, phase: Phase) {
        if std::mem::replace(&mut self.breaker, phase) != phase {
            self.turns.push(phase);
        }
    }
}

/// What became of a copy that was offered as the new row.
#[derive(Clone, Copy, Debug)]
pub(super) enum Offer {
    Taken,
    /// Another worker was faster, and so much of its row is the copy now.
    Lost(Adopted),
}

/// Which parts of the copy a row has replaced. The others still know all that was said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Adopted {
    ledger: bool,
    /// Breaker and cool-down.
    rest: bool,
    /// Whether the swap that was in doubt is in it.
    is_ours: bool,
}

impl Adopted {
    /// Whether this word belongs to a part that was replaced.
    pub(super) fn holds(self, word: &Word) -> bool {
        match word {
            Word::Quota(_) => self.ledger,
            Word::Answered(_) | Word::Failed(..) | Word::Abandoned(_) | Word::Left { .. } => self.rest,
        }
    }
}

impl Lane {
    /// Reads the row if it was never read, if nobody knows what became of the last swap, or if others write it all the time and a swap of
    /// something older would be for nothing.
    pub(super) async fn read_first(&self, allowance: &dyn Allowance) -> Result<(), StoreError> {
        let is_known = {
            let row = &self.state().row;
            let is_likely_old = !allowance.pace().is_zero() && row.has_other_writers();
            row.version.is_some() && (!is_likely_old || row.seen.is_some_and(|seen| seen.elapsed() < STANDS_FOR))
        };
        if is_known { Ok(()) } else { self.read(allowance).await }
    }

    /// Takes over what stands there. Only ever at the desk.
    pub(super) async fn read(&self, allowance: &dyn Allowance) -> Result<(), StoreError> {
        let shared = allowance.read(&self.id).await?;
        if self.state().row.version == Some(shared.version) {
            self.state().row.seen = Some(Instant::now());
        } else {
            self.adopt(&shared);
        }
        Ok(())
    }

    /// Whether the copy is from just now.
    pub(super) fn is_fresh(&self, pace: Duration) -> bool {
        self.state().row.seen.is_some_and(|seen| seen.elapsed() < SEEN_WITHIN.max(2 * pace))
    }

    /// Offers the copy as the new row; `grant` is what was drawn in it.
    pub(super) async fn swap(&self, allowance: &dyn Allowance, grant: Option<Grant>) -> Result<Offer, StoreError> {
        let (expected, bytes, offered, phase) = {
            let mut state = self.state();
            let state = &mut *state;
            let row = &mut state.row;
            row.writer.write = row.writer.write.wrapping_add(1);
            let bytes = state.book.save(row.writer).map_err(|error| unwritable(&self.id, &error))?;
            let offered = InDoubt { writer: row.writer, words: row.words.len(), grant };
            row.in_doubt = Some(offered);
            row.offered(allowance.pace());
            let phase = state.book.breaker.standing().phase();
            (row.version.unwrap_or(Version(0)), Bytes::from(bytes), offered, phase)
        };
        match allowance.swap(&self.id, expected, bytes).await {
            Ok(Swap::Swapped { version, .. }) => {
                let mut state = self.state();
                let row = &mut state.row;
                (row.version, row.seen, row.in_doubt) = (Some(version), Some(Instant::now()), None);
                row.carried_out(offered, phase);
                self.tell(row);
                Ok(Offer::Taken)
            }
            Ok(Swap::Stale(shared)) => {
                let adopted = self.adopt(&shared);
                Ok(if adopted.is_ours { Offer::Taken } else { Offer::Lost(adopted) })
            }
            Err(error) => {
                self.state().row.version = None;
                Err(error)
            }
        }
    }

    /// Somebody is to look after what is left of a grant, and after what was said of the breaker.
    fn tell(&self, row: &Row) {
        if !row.turns.is_empty() || row.purse.is_left_after(self.now(), Duration::ZERO) {
            self.said.notify_one();
        }
    }

    /// The row is the copy now, and what it does not know yet is said to it.
    fn adopt(&self, shared: &Shared) -> Adopted {
        let mut state = self.state();
        let state = &mut *state;
        let row = &mut state.row;
        let is_news = row.version.is_some_and(|known| known != shared.version);
        (row.version, row.seen) = (Some(shared.version), Some(Instant::now()));
        // A row that is empty, or was written by another version of the program, replaces nothing and is written anew.
        let loaded = if shared.state.is_empty() { None } else { state.book.load(&shared.state).ok() };
        let phase = if loaded.is_some() { state.book.breaker.standing().phase() } else { Phase::Closed };
        let ours = row.in_doubt.take().filter(|swap| loaded.is_some() && state.book.is_written_by(swap.writer));
        if let Some(swap) = ours {
            row.carried_out(swap, phase);
            self.tell(row);
        } else if is_news {
            row.others = row.seen;
        }
        row.breaker = phase;
        self.clock.catch_up(state.book.ledger.latest());
        let now = self.now();
        let has_ledger = |loaded: Loaded| loaded.ledger;
        let adopted =
            Adopted { ledger: loaded.is_some_and(has_ledger), rest: loaded.is_some(), is_ours: ours.is_some() };
        for word in row.words.iter().filter(|word| adopted.holds(word)) {
            state.book.note(now, word);
        }
        adopted
    }
}

fn unwritable(lane: &LaneId, error: &serde_json::Error) -> StoreError {
    StoreError { kind: StoreTrouble::Other, doing: format!("writing what is known of {lane}"), why: error.to_string() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::job::units::Tokens;
    use crate::rules::pace::{Event, Reservation};

    /// The premise: "at once" was a moment after the one it was compared with, on every clock that does not stand still, so that a
    /// throttle reached the other workers with the next reservation, seconds later, and they were refused as well.
    #[test]
    fn what_cannot_wait_is_due_at_the_moment_that_asks() {
        let mut row = Row::unread();
        let (now, asked) = (Timestamp(0), Instant::now());
        assert_eq!(row.due(Duration::ZERO, now, asked), None);
        row.offered(Duration::from_secs(1));
        let word = Word::Quota(Event::Released(Reservation { made: now, tokens: Tokens(1), trial: false }));
        row.say(word, News::Soon);
        assert!(row.due(Duration::from_secs(1), now, asked).unwrap() > asked, "it keeps the pace");
        row.say(word, News::Now);
        assert_eq!(row.due(Duration::from_secs(1), now, asked), Some(asked));
    }
}
