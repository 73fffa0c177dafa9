//! How well is the service just now? How many calls it works on at once, and how slow it is.
//!
//! Neither has to do with a quota: who is over the capacity of a model is refused before any quota is asked, and is
//! charged nothing.

use std::time::Duration;

use super::errors::Refused;
use super::scenario::{Model, Scenario};
use super::scope::{Scope, Target};

/// How many calls of a lane may be open at once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Capacity {
    pub(super) calls: u64,
    /// What one more is told.
    pub(super) error: Refused,
}

/// One `[[brownout]]` of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Brownout {
    pub(super) scope: Scope,
    /// Every call admitted meanwhile takes so many times as long.
    pub(super) latency_factor: f64,
    pub(super) capacity: Option<Capacity>,
}

/// What is in force for a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Weather<'a> {
    /// Of all brown-outs, multiplied.
    pub(super) latency_factor: f64,
    /// The lowest.
    pub(super) capacity: Option<&'a Capacity>,
}

impl Scenario {
    /// What is in force for a call at this time.
    pub(super) fn weather<'a>(&'a self, target: Target<'_>, model: &'a Model, now: Duration) -> Weather<'a> {
        let calm = Weather { latency_factor: 1.0, capacity: model.capacity.as_ref() };
        let here = |brownout: &&Brownout| brownout.scope.holds(now) && brownout.scope.concerns(target);
        self.brownouts.iter().filter(here).fold(calm, |weather, brownout| Weather {
            latency_factor: weather.latency_factor * brownout.latency_factor,
            capacity: [weather.capacity, brownout.capacity.as_ref()]
                .into_iter()
                .flatten()
                .min_by_key(|capacity| capacity.calls),
        })
    }
}

/// A time under this factor; 1 leaves it exactly as it is.
#[expect(clippy::float_cmp, reason = "only a factor nobody gave is exactly 1, and that one must not round")]
pub(super) fn stretched(time: Duration, factor: f64) -> Duration {
    if factor == 1.0 {
        return time;
    }
    Duration::try_from_secs_f64(time.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}
