//! Who stands in line for the lanes of a model, and how much will each of them reserve? Whoever is first in line may draw for those
//! behind as well.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
}
