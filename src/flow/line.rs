//! Who stands in line for the lanes of a model, and how much will each of them reserve? Whoever is first in line may draw for those
//! behind as well.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::job::units::Tokens;

/// Those who wait, in the order in which they came.
#[derive(Debug, Default)]
pub struct Line {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    sizes: BTreeMap<u64, Tokens>,
    /// Not before that can whoever is first be sent, as far as is known.
    until: Option<Instant>,
}

/// A place in a line, until it is dropped.
#[derive(Debug)]
pub struct InLine<'a> {
    line: &'a Line,
    number: u64,
}

impl Line {
    /// At its end, with a call of this size.
    pub fn enter(&self, size: Tokens) -> InLine<'_> {
        let mut waiting = self.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.sizes.insert(number, size);
        InLine { line: self, number }
    }

    /// Whoever is first cannot be sent before that, nor could anybody else; `None`: he can, or is about to ask again.
    pub fn waits_until(&self, until: Option<Instant>) {
        self.lock().until = until;
    }

    /// How long nobody of this line can be sent, as far as is known.
    pub fn rest(&self, now: Instant) -> Duration {
        self.lock().until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InLine<'_> {
    /// The sizes of those who stand behind, the next first: of one in so many, since others of them will go elsewhere.
    pub fn behind(&self, one_in: usize) -> Vec<Tokens> {
        let waiting = self.line.lock();
        let behind = waiting.sizes.range(self.number + 1..).map(|(_, size)| *size);
        behind.take(waiting.sizes.len().div_ceil(one_in.max(1))).collect()
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.line.lock().sizes.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_first_sees_the_sizes_of_those_behind_and_nobody_who_has_left() {
        let line = Line::default();
        let first = line.enter(Tokens(1));
        let second = line.enter(Tokens(2));
        let third = line.enter(Tokens(3));
        let fourth = line.enter(Tokens(4));
        assert_eq!(first.behind(1), [2, 3, 4].map(Tokens));
        assert_eq!(first.behind(2), [2, 3].map(Tokens), "with two lanes, half of them go to the other");
        drop(third);
        assert_eq!(second.behind(1), [Tokens(4)]);
        drop(first);
        assert_eq!(fourth.behind(1), []);
    }

    #[test]
    fn what_is_known_of_the_first_is_good_until_that_moment_or_until_he_says_otherwise() {
        let (line, now) = (Line::default(), Instant::now());
        let hour = Duration::from_secs(3_600);
        assert_eq!(line.rest(now), Duration::ZERO);
        line.waits_until(Some(now + hour));
        assert_eq!(
            (line.rest(now), line.rest(now + hour), line.rest(now + 2 * hour)),
            (hour, Duration::ZERO, Duration::ZERO)
        );
        line.waits_until(None);
        assert_eq!(line.rest(now), Duration::ZERO);
    }
}
