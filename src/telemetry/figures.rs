//! How does the worker stand at this moment? One look at everything that is counted or can be seen; the page, the scrape and
//! the log of a fleet all show this, so that they cannot tell different stories.

use std::sync::Arc;
use std::time::Duration;

use crate::job::failure::Class;
use crate::ports::{Depth, LaneId};

use super::Counts;
use super::in_hand::BySteps;
use super::tallies::{LaneTally, TenantTally};

/// What was counted since the process began, and how things stand.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Over all lanes and tenants.
    pub counts: Counts,
    /// By lane, in the order of their names; the last may be [`OTHER`](super::tallies::OTHER).
    pub lanes: Vec<LaneFigures>,
    /// By tenant, likewise.
    pub tenants: Vec<(Arc<str>, TenantTally)>,
    /// How often one model's job went to another, by the names of both.
    pub fallbacks: Vec<(ModelPair, u64)>,
    /// Jobs that ended without success, by class.
    pub failed: [u64; Class::ALL.len()],
    /// How much waited when the queue was last asked; `None` if it has not answered then.
    pub queue: Option<Depth>,
    /// Jobs in hand by step.
    pub steps: BySteps,
    /// Since when the oldest job in hand is queued; `None` if nothing is in hand.
    pub oldest_in_hand: Option<Duration>,
    /// Jobs in hand at most.
    pub slots: usize,
    /// Whether the service refuses who we are.
    pub are_credentials_refused: bool,
    /// Stores in trouble.
    pub troubles: usize,
}

/// Names of models: a job's own, and the one that it went to.
pub type ModelPair = (Arc<str>, Arc<str>);

/// Of a lane.
#[derive(Clone, Debug)]
pub struct LaneFigures {
    /// Its name.
    pub lane: LaneId,
    /// What was counted on it.
    pub tally: LaneTally,
    /// How it stands; `None` if this process does not know it any more.
    pub now: Option<LaneNow>,
}

/// How a lane stands, as far as this worker knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LaneNow {
    /// Calls of this worker that are open.
    pub open: usize,
    /// How many it may have open just now; [`u32::MAX`] and beyond is as many as it likes.
    pub concurrency: usize,
    /// Tokens that it has reserved for these calls, as part of `used`.
    pub reserved: u64,
    /// Tokens charged in the last minute by all workers, reservations included.
    pub used: u64,
    /// The tokens a minute that hold just now, as configured or as learned; `None` if there is no such quota.
    pub tokens_per_minute: Option<u64>,
    /// What is charged, of what there is; 1 is all of it. `None` likewise.
    pub utilisation: Option<f64>,
    /// Its breaker.
    pub breaker: BreakerState,
    /// How long the breaker stays open; `None` if it is not, or until a person says so.
    pub opens_in: Option<Duration>,
    /// How long its cool-down lasts; `None` if there is none.
    pub cools_for: Option<Duration>,
    /// Why it is out for good.
    pub out: Option<Class>,
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum BreakerState {
    /// Calls go.
    Closed,
    /// Probes decide.
    HalfOpen,
    /// No call goes for a while.
    Open,
    /// No call goes until a person says so.
    Held,
}

impl BreakerState {
    /// All of them, as they get worse.
    pub const ALL: [Self; 4] = [Self::Closed, Self::HalfOpen, Self::Open, Self::Held];

    /// Whether no call goes.
    pub fn is_open(self) -> bool {
        match self {
            Self::Open | Self::Held => true,
            Self::Closed | Self::HalfOpen => false,
        }
    }

    /// The word for it in logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
            Self::Held => "open by hand",
        }
    }
}

impl LaneNow {
    /// Of lanes that are shown as one: sums where there are any, else what is worst.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            open: self.open + other.open,
            concurrency: self.concurrency.saturating_add(other.concurrency),
            reserved: self.reserved + other.reserved,
            used: self.used + other.used,
            tokens_per_minute: self.tokens_per_minute.zip(other.tokens_per_minute).map(|(one, two)| one + two),
            utilisation: match (self.utilisation, other.utilisation) {
                (Some(one), Some(two)) => Some(one.max(two)),
                (one, two) => one.or(two),
            },
            breaker: self.breaker.max(other.breaker),
            opens_in: self.opens_in.max(other.opens_in),
            cools_for: self.cools_for.max(other.cools_for),
            out: self.out.or(other.out),
        }
    }
}
