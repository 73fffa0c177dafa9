//! What was counted, by lane, by tenant and by pair of models? So many of each and no more: names come from jobs, and whoever
//! scrapes pays for every series. What is beyond is counted under [`OTHER`], so that sums stay right.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::job::failure::Class;
use crate::job::lifecycle::Status;
use crate::job::outcome::Usage;
use crate::job::units::{Tokens, Usd};
use crate::ports::LaneId;

use super::figures::ModelPair;

/// What is counted apart: so many lanes, tenants and pairs of models each.
pub const SERIES: usize = 200;
/// The name under which the rest is counted.
pub const OTHER: &str = "other";
/// The upper bounds of the buckets of a [`Histogram`], in seconds: from an embedding to a long answer, or to a wait for the
/// next minute's quota and beyond.
pub const SECONDS: [f64; 13] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0];

/// How often it took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Histogram {
    /// By bucket, not summed up; the last is beyond the last bound.
    buckets: [u64; SECONDS.len() + 1],
    /// All of it, in seconds.
    pub sum: f64,
}

impl Histogram {
    pub(super) fn note(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(SECONDS.len());
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.sum += seconds;
    }

    /// For each bound how many were at most that long; the last is all of them.
    pub fn up_to(&self) -> [u64; SECONDS.len() + 1] {
        let mut sum = 0;
        self.buckets.map(|count| {
            sum += count;
            sum
        })
    }
}

/// What was counted on a lane by this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LaneTally {
    /// Calls that were answered.
    pub answers: u64,
    /// Calls that failed, by class.
    pub failures: [u64; Class::ALL.len()],
    /// Tokens of the answers.
    pub usage: Usage,
    /// Tokens of quota that had been reserved for the calls that were answered.
    pub reserved: Tokens,
    /// Tokens of quota that these came to.
    pub settled: Tokens,
    /// What the calls cost.
    pub spent: Usd,
    /// Failed calls that used up an attempt of a job that goes on.
    pub retries: u64,
    /// How often this process opened the breaker for all.
    pub breaker_opened: u64,
    /// How long the calls took that were answered.
    pub latency: Histogram,
    /// How long jobs waited to be sent, each time.
    pub paced: Histogram,
}

impl LaneTally {
    /// Calls that failed with such a class.
    pub fn failed(&self, is_such: impl Fn(Class) -> bool) -> u64 {
        let such = Class::ALL.into_iter().filter(|class| is_such(*class));
        such.map(|class| self.failures[class as usize]).sum()
    }
}

/// What was counted of a tenant by this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TenantTally {
    /// Jobs that ended, by status.
    pub ended: [u64; Status::ALL.len()],
    /// Input tokens of their answers.
    pub input_tokens: u64,
    /// Output tokens of their answers.
    pub output_tokens: u64,
    /// What those jobs cost, all their calls together.
    pub spent: Usd,
}

/// All that is counted by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Tallies {
    lanes: Bounded<LaneId, LaneTally>,
    tenants: Bounded<Arc<str>, TenantTally>,
    fallbacks: Bounded<ModelPair, u64>,
    /// Jobs that ended without success, by class.
    pub(super) failed: [u64; Class::ALL.len()],
}

impl Tallies {
    pub(super) fn lane(&mut self, lane: &LaneId) -> &mut LaneTally {
        self.lanes.of(lane, || lane.clone())
    }

    /// Whether it is counted apart.
    pub(super) fn has_own(&mut self, lane: &LaneId) -> bool {
        self.lanes.of(lane, || lane.clone());
        self.lanes.own.contains_key(lane)
    }

    pub(super) fn tenant(&mut self, tenant: &str) -> &mut TenantTally {
        self.tenants.of(tenant, || tenant.into())
    }

    pub(super) fn fallback(&mut self, from: &str, to: &str) -> &mut u64 {
        let pair = (from.into(), to.into());
        self.fallbacks.of(&pair.clone(), || pair)
    }

    pub(super) fn lanes(&self) -> impl Iterator<Item = (LaneId, LaneTally)> {
        self.lanes.all(|| LaneId { region: OTHER.into(), model_id: OTHER.into() })
    }

    pub(super) fn tenants(&self) -> impl Iterator<Item = (Arc<str>, TenantTally)> {
        self.tenants.all(|| OTHER.into())
    }

    pub(super) fn fallbacks(&self) -> impl Iterator<Item = (ModelPair, u64)> {
        self.fallbacks.all(|| (OTHER.into(), OTHER.into()))
    }
}

/// The first [`SERIES`] names, and one for the rest.
#[derive(Clone, Debug)]
struct Bounded<K, V> {
    own: BTreeMap<K, V>,
    other: Option<V>,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self { own: BTreeMap::new(), other: None }
    }
}

impl<K: Ord + Clone, V: Default + Copy> Bounded<K, V> {
    fn of<Q: Ord + ?Sized>(&mut self, name: &Q, key: impl FnOnce() -> K) -> &mut V
    where
        K: std::borrow::Borrow<Q>,
    {
        if self.own.len() >= SERIES && !self.own.contains_key(name) {
            return self.other.get_or_insert_default();
        }
        // The name is made once, not at every call.
        if !self.own.contains_key(name) {
            self.own.insert(key(), V::default());
        }
        match self.own.get_mut(name) {
            Some(value) => value,
            None => self.other.get_or_insert_default(),
        }
    }

    fn all(&self, other: impl FnOnce() -> K) -> impl Iterator<Item = (K, V)> {
        let rest = self.other.map(|value| (other(), value));
        self.own.iter().map(|(key, value)| (key.clone(), *value)).chain(rest)
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "sums of halves are exact")]
mod tests {
    use super::*;

    #[test]
    fn o1_names_beyond_the_bound_are_counted_under_other_and_nothing_is_lost() {
        let mut tallies = Tallies::default();
        for round in 0..2 {
            for n in 0..SERIES + 50 {
                tallies.tenant(&format!("tenant-{n}")).ended[Status::Succeeded as usize] += 1;
            }
            let all: Vec<_> = tallies.tenants().collect();
            assert_eq!(all.len(), SERIES + 1);
            assert_eq!((&*all[SERIES].0, all[SERIES].1.ended[0]), (OTHER, 50 * (round + 1)));
            assert_eq!(all.iter().map(|(_, tally)| tally.ended[0]).sum::<u64>(), 250 * (round + 1));
        }
    }

    #[test]
    fn a_bucket_holds_all_that_took_at_most_so_long() {
        let mut histogram = Histogram::default();
        for seconds in [0.0, 0.05, 0.5, 1.5, 1_000.0] {
            histogram.note(Duration::from_secs_f64(seconds));
        }
        let up_to = histogram.up_to();
        assert_eq!((up_to[0], up_to[3], up_to[5], up_to[12], up_to[13]), (2, 3, 4, 4, 5));
        assert_eq!(histogram.sum, 1_002.05);
    }
}
