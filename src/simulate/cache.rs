//! Which part of this prompt has the model seen before?
//!
//! Only what the quota and the bill can see of Bedrock's prompt cache: prefixes that end in a cache point count as
//! read when they were written within their lifetime, as written otherwise.

use std::collections::HashMap;
use std::time::Duration;

use super::ledger::Split;

/// A cache point of a request: the prompt up to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Checkpoint {
    /// Of everything before it.
    pub(super) digest: u64,
    /// Of everything before it.
    pub(super) tokens: u64,
    /// How long it is kept after its last use.
    pub(super) ttl: Duration,
}

/// The prefixes one model remembers, each with the moment it is forgotten.
#[derive(Debug, Default)]
pub(super) struct Cache(HashMap<u64, Duration>);

/// Above this many, forgotten prefixes are swept out before another is stored.
const SWEEP_AT: usize = 10_000;

impl Cache {
    /// Splits `total` input tokens; checkpoints stand in the order of the prompt. A prefix shorter than `minimum`
    /// tokens is neither read nor written, without a warning, as at the service.
    pub(super) fn split(&self, now: Duration, checkpoints: &[Checkpoint], total: u64, minimum: u64) -> Split {
        let long_enough = || checkpoints.iter().filter(|point| point.tokens >= minimum);
        let known = |point: &&Checkpoint| self.0.get(&point.digest).is_some_and(|until| now < *until);
        let cache_read = long_enough().filter(known).map(|point| point.tokens).max().unwrap_or(0);
        let cached = long_enough().map(|point| point.tokens).max().unwrap_or(0);
        Split { fresh: total.saturating_sub(cached), cache_read, cache_write: cached - cache_read }
    }

    /// Remembers the prefixes of an answered call; a hit lives on from now.
    pub(super) fn keep(&mut self, now: Duration, checkpoints: &[Checkpoint], minimum: u64) {
        if self.0.len() > SWEEP_AT {
            self.0.retain(|_, until| now < *until);
        }
        for point in checkpoints.iter().filter(|point| point.tokens >= minimum) {
            self.0.insert(point.digest, now + point.ttl);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(300);

    fn point(digest: u64, tokens: u64) -> Checkpoint {
        Checkpoint { digest, tokens, ttl: TTL }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_prefix_is_written_first_then_read_and_a_longer_one_writes_only_the_difference() {
        let mut cache = Cache::default();
        let short = [point(1, 4_000)];
        let long = [point(1, 4_000), point(2, 5_000)];
        assert_eq!(cache.split(at(0), &short, 7_000, 1_024), Split { fresh: 3_000, cache_read: 0, cache_write: 4_000 });
        cache.keep(at(0), &short, 1_024);
        assert_eq!(cache.split(at(1), &short, 7_000, 1_024), Split { fresh: 3_000, cache_read: 4_000, cache_write: 0 });
        let split = cache.split(at(1), &long, 8_000, 1_024);
        assert_eq!(split, Split { fresh: 3_000, cache_read: 4_000, cache_write: 1_000 });
    }

    #[test]
    fn a_prefix_is_forgotten_after_its_lifetime_which_a_hit_renews() {
        let mut cache = Cache::default();
        let points = [point(1, 4_000)];
        cache.keep(at(0), &points, 1_024);
        cache.keep(at(299), &points, 1_024);
        assert_eq!(cache.split(at(598), &points, 4_000, 1_024).cache_read, 4_000);
        assert_eq!(cache.split(at(599), &points, 4_000, 1_024).cache_read, 0);
    }

    #[test]
    fn a_prefix_below_the_minimum_is_plain_input() {
        let mut cache = Cache::default();
        let points = [point(1, 1_023)];
        cache.keep(at(0), &points, 1_024);
        assert_eq!(cache.split(at(1), &points, 2_000, 1_024), Split { fresh: 2_000, ..Split::default() });
    }
}
