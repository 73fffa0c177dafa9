//! How long does it take, how long is the answer, does a fault strike? Everything that is drawn.
//!
//! Each draw comes from (seed, body, how often that body was seen, purpose) and never from the order in which
//! calls happen to arrive, so that a run with a hundred calls open is as repeatable as one with a single call.

use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

/// What a draw is for; each purpose has its own numbers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Answer,
    Latency,
    Fault(usize),
}

/// A generator for one purpose of one call. Portable, so that a seed means the same on every machine.
#[derive(Debug)]
pub(super) struct Dice(Xoshiro256PlusPlus);

impl Dice {
    /// An answer is drawn with `attempt` 0: the same body is always answered in the same words.
    pub(super) fn new(seed: u64, digest: u64, attempt: u32, purpose: Purpose) -> Self {
        let purpose = match purpose {
            Purpose::Answer => 0,
            Purpose::Latency => 1,
            Purpose::Fault(place) => 2 + u64::try_from(place).unwrap_or(u64::MAX - 2),
        };
        let mixed = [digest, u64::from(attempt), purpose]
            .into_iter()
            .fold(seed, |mixed, part| (mixed.rotate_left(23) ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self(Xoshiro256PlusPlus::seed_from_u64(mixed))
    }

    /// Evenly from `[0, 1)`.
    pub(super) fn unit(&mut self) -> f64 {
        self.0.random()
    }

    /// True with this probability.
    pub(super) fn strikes(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// One of these; they must not be empty.
    pub(super) fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words.get(self.0.random_range(0..words.len().max(1))).copied().unwrap_or_default()
    }

    /// From `low` to `high`, both included.
    pub(super) fn between(&mut self, low: usize, high: usize) -> usize {
        self.0.random_range(low..=high)
    }

    /// Standard normal, by Box and Muller.
    pub(super) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// How long the model takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Latency {
    pub(super) base: Base,
    /// On top, for every output token.
    pub(super) per_output_token: Duration,
}

/// The part that does not depend on the answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Base {
    Constant(Duration),
    /// Log-normal: half the calls are faster than `p50`, one in a hundred slower than `p99`.
    Spread {
        p50: Duration,
        p99: Duration,
    },
}

/// The 99th percentile of the standard normal distribution.
const Z99: f64 = 2.326_347_874_040_841;
/// Beyond this a draw says nothing more about the service and only stops a run.
const LATENCY_MAX: Duration = Duration::from_secs(3_600);

impl Latency {
    /// Until the first token.
    pub(super) fn draw(&self, dice: &mut Dice) -> Duration {
        match self.base {
            Base::Constant(time) => time,
            Base::Spread { p50, p99 } => {
                let sigma = (p99.as_secs_f64() / p50.as_secs_f64()).ln() / Z99;
                let seconds = p50.as_secs_f64() * (sigma * dice.normal()).exp();
                Duration::try_from_secs_f64(seconds).unwrap_or(LATENCY_MAX).min(LATENCY_MAX)
            }
        }
    }

    /// From the first token to the last.
    pub(super) fn generating(&self, output_tokens: u64) -> Duration {
        self.per_output_token.saturating_mul(u32::try_from(output_tokens).unwrap_or(u32::MAX))
    }
}

impl Default for Latency {
    fn default() -> Self {
        let base = Base::Spread { p50: Duration::from_millis(80), p99: Duration::from_millis(300) };
        Self { base, per_output_token: Duration::ZERO }
    }
}

/// How many tokens an answer has before `max_tokens` cuts it: log-normal, as answers are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Length {
    pub(super) mean: f64,
    /// Standard deviation.
    pub(super) spread: f64,
}

impl Length {
    /// At least one token, at most a million.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=1e6 before")]
    pub(super) fn draw(&self, dice: &mut Dice) -> u64 {
        let variance = (self.spread / self.mean).powi(2).ln_1p();
        let middle = self.mean.ln() - variance / 2.0;
        (middle + variance.sqrt() * dice.normal()).exp().round().clamp(1.0, 1e6) as u64
    }
}

impl Default for Length {
    fn default() -> Self {
        Self { mean: 150.0, spread: 90.0 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn draws<T>(count: u64, draw: impl Fn(&mut Dice) -> T) -> Vec<T> {
        (0..count).map(|body| draw(&mut Dice::new(7, body, 0, Purpose::Latency))).collect()
    }

    #[test]
    fn latency_has_the_percentiles_that_were_asked_for() {
        let (p50, p99) = (Duration::from_millis(800), Duration::from_millis(4_000));
        let latency = Latency { base: Base::Spread { p50, p99 }, per_output_token: Duration::ZERO };
        let times = draws(20_000, |dice| latency.draw(dice));
        let share = |bound| times.iter().filter(|time| **time <= bound).count() as f64 / times.len() as f64;
        assert!((0.48..0.52).contains(&share(p50)), "{}", share(p50));
        assert!((0.985..0.994).contains(&share(p99)), "{}", share(p99));
    }

    #[test]
    fn answer_lengths_have_the_mean_and_spread_that_were_asked_for() {
        let length = Length { mean: 300.0, spread: 150.0 };
        let lengths = draws(20_000, |dice| length.draw(dice) as f64);
        let mean = lengths.iter().sum::<f64>() / lengths.len() as f64;
        let spread = (lengths.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / lengths.len() as f64).sqrt();
        assert!((290.0..310.0).contains(&mean), "{mean}");
        assert!((135.0..165.0).contains(&spread), "{spread}");
    }

    #[test]
    fn every_part_of_the_key_changes_the_draw() {
        let draw = |seed, digest, attempt, purpose| Dice::new(seed, digest, attempt, purpose).unit();
        let all = [
            draw(1, 1, 0, Purpose::Answer),
            draw(2, 1, 0, Purpose::Answer),
            draw(1, 2, 0, Purpose::Answer),
            draw(1, 1, 1, Purpose::Answer),
            draw(1, 1, 0, Purpose::Latency),
            draw(1, 1, 0, Purpose::Fault(0)),
            draw(1, 1, 0, Purpose::Fault(1)),
        ];
        for (place, one) in all.iter().enumerate() {
            assert!(all[place + 1..].iter().all(|other| one.to_bits() != other.to_bits()), "{place}");
        }
        assert_eq!(draw(1, 1, 0, Purpose::Answer).to_bits(), all[0].to_bits());
    }
}
