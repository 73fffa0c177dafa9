//! How long are the answers of one batch? The mean for projections, and how they are spread for right-sizing.
//!
//! The jobs of a batch ask for the same sort of thing, so its answers say more about the next one than the model does. How
//! they are spread is kept as counts by length, thirty-two lengths to each doubling: any share and any percentile can be
//! read from that to 3 %, in a few kilobytes, however many answers there were. Older answers fade.

use super::{float, whole};
use crate::job::units::Tokens;

/// About so many answers are remembered.
const MEMORY: f64 = 1_000.0;
/// Lengths told apart within each doubling, and below this each by itself.
const STEPS: u64 = 32;
/// Longer answers than any model gives count as this long.
const LONGEST: u64 = 1 << 24;
/// What has faded below this is forgotten.
const FORGOTTEN: f64 = 0.05;

/// The answers of one batch.
#[derive(Clone, Debug, Default)]
pub struct OutputEstimate {
    answers: u64,
    mean: f64,
    /// Faded answers by length, up to the longest.
    counts: Vec<f64>,
    total: f64,
}

impl OutputEstimate {
    /// Nothing learned yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An answer had so many tokens.
    pub fn learn(&mut self, tokens: Tokens) {
        self.answers += 1;
        self.mean += (float(tokens.0) - self.mean) / float(self.answers).min(MEMORY);
        self.fade(1.0 - 1.0 / MEMORY);
        let step = step_of(tokens.0);
        if self.counts.len() <= step {
            self.counts.resize(step + 1, 0.0);
        }
        if let Some(count) = self.counts.get_mut(step) {
            *count += 1.0;
            self.total += 1.0;
        }
    }

    /// Answers will be of another sort: those so far count as `answers` at most, in all that tells how they are spread.
    pub fn weigh_at_most(&mut self, answers: f64) {
        if self.total > answers {
            self.fade(answers / self.total);
        }
    }

    /// How many answers were learned from.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// As how many they count, now that older ones have faded: at most about a thousand.
    pub fn weight(&self) -> f64 {
        self.total
    }

    /// What an answer that may have `max_tokens` has in the mean; all of them while nothing is known.
    pub fn expected(&self, max_tokens: Tokens) -> Tokens {
        if self.answers == 0 { max_tokens } else { whole(self.mean).min(max_tokens) }
    }

    /// The mean; zero while nothing is known.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The length that this share of the answers, from 0 to 1, does not pass, to 3 % above the truth; `None` while nothing
    /// is known.
    pub fn percentile(&self, share: f64) -> Option<Tokens> {
        let mut above = self.total * (1.0 - share.clamp(0.0, 1.0));
        for (step, count) in self.counts.iter().enumerate().rev() {
            if *count > above {
                return Some(Tokens(longest_of(step)));
            }
            above -= count;
        }
        (self.answers > 0).then_some(Tokens(0))
    }

    /// Every length that was seen, longest first, each with the weight of the answers that are longer.
    pub fn lengths_from_the_longest(&self) -> impl Iterator<Item = (u64, f64)> + '_ {
        let mut above = 0.0;
        self.counts.iter().enumerate().rev().filter(|(_, count)| **count > 0.0).map(move |(step, count)| {
            let longer = above;
            above += count;
            (longest_of(step), longer)
        })
    }

    fn fade(&mut self, keep: f64) {
        for count in &mut self.counts {
            *count *= keep;
            if *count < FORGOTTEN {
                *count = 0.0;
            }
        }
        self.total = self.counts.iter().sum();
    }
}

/// Which of the lengths told apart this one counts as.
fn step_of(length: u64) -> usize {
    let length = length.min(LONGEST);
    // So many halvings bring it among the `STEPS` lengths from `STEPS` on.
    let halvings = length.max(STEPS).ilog2() - STEPS.ilog2();
    usize::try_from(u64::from(halvings) * STEPS + (length >> halvings)).unwrap_or(usize::MAX)
}

/// The longest length that counts as this one.
fn longest_of(step: usize) -> u64 {
    let step = step as u64;
    let halvings = (step / STEPS).saturating_sub(1);
    ((step - halvings * STEPS + 1) << halvings) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_is_the_cap_until_something_is_known_and_never_above_it() {
        let mut batch = OutputEstimate::new();
        assert_eq!(batch.expected(Tokens(800)), Tokens(800));
        assert_eq!(batch.percentile(0.5), None);
        for tokens in [100, 200, 300] {
            batch.learn(Tokens(tokens));
        }
        assert_eq!(batch.expected(Tokens(800)), Tokens(200));
        assert_eq!(batch.expected(Tokens(64)), Tokens(64));
    }

    #[test]
    fn a_length_is_told_to_three_percent_and_never_below_the_truth() {
        let lengths = (0..200).chain([255, 256, 1_000, 4_095, 4_096, 65_535, 1 << 20, LONGEST]);
        for length in lengths {
            let told = longest_of(step_of(length));
            assert!(told >= length, "{length} is told as {told}");
            assert!(told <= length + length / 32, "{length} is told as {told}");
            assert_eq!(step_of(told), step_of(length));
        }
        assert_eq!(step_of(u64::MAX), step_of(LONGEST));
    }

    #[test]
    fn percentiles_are_those_of_the_answers() {
        let mut batch = OutputEstimate::new();
        for tokens in 1..=500 {
            batch.learn(Tokens(tokens));
        }
        // The newer, longer ones weigh a little more.
        for (share, truth) in [(0.5, 250.0), (0.9, 450.0), (0.99, 495.0)] {
            let told = float(batch.percentile(share).map_or(0, |tokens| tokens.0));
            assert!((truth..=truth * 1.15).contains(&told), "{share}: {told}, not {truth}");
        }
        assert!(batch.percentile(1.0).is_some_and(|longest| (500..=515).contains(&longest.0)));
        assert_eq!(batch.percentile(0.0).map(|shortest| shortest.0 <= 1), Some(true));
    }

    #[test]
    fn old_answers_fade_until_they_are_forgotten() {
        let mut batch = OutputEstimate::new();
        batch.learn(Tokens(9_000));
        for _ in 0..2_000 {
            batch.learn(Tokens(100));
        }
        assert!(batch.percentile(1.0).is_some_and(|longest| longest.0 >= 9_000), "0.14 of it is left");
        for _ in 0..2_000 {
            batch.learn(Tokens(100));
        }
        assert!(batch.percentile(1.0).is_some_and(|longest| longest.0 < 110));
        assert!((batch.weight() - 1_000.0).abs() < 50.0, "{}", batch.weight());
    }

    #[test]
    fn what_was_learned_can_be_made_to_weigh_less() {
        let mut batch = OutputEstimate::new();
        for _ in 0..900 {
            batch.learn(Tokens(100));
        }
        batch.weigh_at_most(50.0);
        assert!((batch.weight() - 50.0).abs() < 1.0);
        for _ in 0..50 {
            batch.learn(Tokens(700));
        }
        let (longest, longer) = batch.lengths_from_the_longest().nth(1).unwrap_or_default();
        assert_eq!(longest, longest_of(step_of(100)));
        assert!((longer / batch.weight() - 0.5).abs() < 0.05, "half of them are long: {longer}");
    }

    #[test]
    fn huge_answers_overflow_nothing() {
        let mut batch = OutputEstimate::new();
        for tokens in [0, u64::MAX, 0] {
            batch.learn(Tokens(tokens));
        }
        assert_eq!(batch.percentile(1.0), Some(Tokens(longest_of(step_of(LONGEST)))));
        assert_eq!(batch.percentile(0.0), Some(Tokens(0)));
    }
}
