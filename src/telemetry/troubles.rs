//! Which stores are in trouble, and is that worth another line? The first time it is, then every five minutes, and once it is
//! over: a fleet that waits for a table must not fill a log with it.
//!
//! Nobody says that a store is well again: it is over when it was not met for longer than whoever waits for it pauses.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::ports::{StoreError, StoreTrouble};

/// Between two lines about the same trouble.
const SAY_AGAIN: Duration = Duration::from_secs(300);
/// Trouble that was not met for so long is over.
const QUIET: Duration = Duration::from_secs(30);

/// A trouble that repeats.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// What was being done: "recording results".
    pub doing: String,
    /// What kind of trouble.
    pub kind: StoreTrouble,
    /// What the system said first.
    pub why: String,
    /// How often it was met.
    pub times: u64,
    /// From the first to the last time.
    pub lasted: Duration,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { doing, why, times, lasted, .. } = self;
        let s = if *times == 1 { "" } else { "s" };
        write!(f, "{doing}: {why}; {times} time{s} in {} s", lasted.as_secs())
    }
}

/// What there is to say.
#[derive(Debug)]
pub(super) enum Word {
    GoesOn(Trouble),
    Over(Trouble),
}

/// The troubles that are not over, by what was being done and the kind.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<(String, &'static str), Met>);

#[derive(Debug)]
struct Met {
    kind: StoreTrouble,
    why: String,
    times: u64,
    first: Instant,
    last: Instant,
    said: Instant,
}

impl Troubles {
    /// Takes note of it; whether it is news.
    pub(super) fn note(&mut self, now: Instant, trouble: &StoreError) -> bool {
        let key = (without_counts(&trouble.doing), word(trouble.kind));
        let mut is_news = false;
        let met = self.0.entry(key).or_insert_with(|| {
            is_news = true;
            Met { kind: trouble.kind, why: trouble.why.clone(), times: 0, first: now, last: now, said: now }
        });
        met.times += 1;
        met.last = now;
        is_news
    }

    /// What there is to say by now.
    pub(super) fn look(&mut self, now: Instant) -> Vec<Word> {
        let mut words = Vec::new();
        self.0.retain(|(doing, _), met| {
            if now.saturating_duration_since(met.last) >= QUIET {
                words.push(Word::Over(met.tell(doing)));
                return false;
            }
            if now.saturating_duration_since(met.said) >= SAY_AGAIN {
                met.said = now;
                words.push(Word::GoesOn(met.tell(doing)));
            }
            true
        });
        words
    }

    pub(super) fn all(&self) -> Vec<Trouble> {
        self.0.iter().map(|((doing, _), met)| met.tell(doing)).collect()
    }
}

impl Met {
    fn tell(&self, doing: &str) -> Trouble {
        Trouble {
            doing: doing.to_owned(),
            kind: self.kind,
            why: self.why.clone(),
            times: self.times,
            lasted: self.last.saturating_duration_since(self.first),
        }
    }
}

/// "recording 12 results" and "recording 9 results" are the same trouble.
fn without_counts(doing: &str) -> String {
    let words = doing.split(' ').filter(|word| !word.bytes().all(|byte| byte.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

fn word(kind: StoreTrouble) -> &'static str {
    match kind {
        StoreTrouble::Away => "away",
        StoreTrouble::Full => "full",
        StoreTrouble::Denied => "denied",
        StoreTrouble::Newer => "newer",
        StoreTrouble::Damaged => "damaged",
        StoreTrouble::Other => "other",
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn away(doing: &str) -> StoreError {
        StoreError { kind: StoreTrouble::Away, doing: doing.to_owned(), why: "no answer".to_owned() }
    }

    #[test]
    fn f_trouble_is_said_once_then_every_five_minutes_and_once_when_it_is_over() {
        let (mut troubles, start) = (Troubles::default(), Instant::now());
        let mut said = Vec::new();
        // Eleven minutes of it, met three times a second under changing counts, looked at every five seconds.
        for tick in 0..11 * 60 * 3_u32 {
            let now = start + Duration::from_secs(1) * tick / 3;
            if troubles.note(now, &away(&format!("recording {tick} results"))) {
                said.push((now - start, "news"));
            }
            if tick % 15 == 0 {
                said.extend(troubles.look(now).iter().map(|_| (now - start, "goes on")));
            }
        }
        assert_eq!(
            said,
            [(0, "news"), (300, "goes on"), (600, "goes on")].map(|(at, what)| (Duration::from_secs(at), what))
        );
        assert!(troubles.look(start + Duration::from_secs(11 * 60 + 20)).is_empty(), "too soon to say that it is over");
        match &troubles.look(start + Duration::from_secs(11 * 60 + 31))[..] {
            [Word::Over(trouble)] => {
                assert_eq!(trouble.to_string(), "recording results: no answer; 1980 times in 659 s");
            }
            other => panic!("{other:?}"),
        }
        assert!(troubles.all().is_empty());
        assert!(troubles.note(start + Duration::from_secs(800), &away("recording results")), "a new one is news");
    }

    #[test]
    fn other_kinds_and_other_doings_are_other_troubles() {
        let (mut troubles, now) = (Troubles::default(), Instant::now());
        let full = StoreError { kind: StoreTrouble::Full, ..away("recording results") };
        assert!(troubles.note(now, &away("recording results")));
        assert!(troubles.note(now, &full));
        assert!(troubles.note(now, &away("extending leases")));
        assert!(!troubles.note(now, &full));
        assert_eq!(troubles.all().len(), 3);
    }
}
