//! How long will these jobs take, and what will hold them back? A rehearsal of the drain on a clock of its own.
//!
//! Nothing is calculated that a rule decides: the calls are paced by the same [`LaneLedger`], placed by the same
//! [`choose`](super::route::choose), admitted by the same [`Concurrency`](super::concurrency::Concurrency), sized by the same
//! estimates and, if that is asked for, by the same [`RightSize`](super::rightsize::RightSize) as real ones. So the forecast
//! is right wherever they are, and changes with them. What cannot be known beforehand, how long an answer is and how long
//! it takes, is taken from calls that were made before ([`Experience`]), evenly and always in the same order.
//!
//! A large input is rehearsed by a sample of its jobs under the whole quota, for some minutes at least; when it has come
//! to an even flow, the rest goes on at that rate.

mod drain;
mod flow;
mod model;

use std::time::Duration;

use self::drain::Drain;
use super::estimate::Text;
use super::pace::{Binding, LaneLedger};
use super::rightsize::Weights;
use super::route::RoutingRules;
use crate::job::units::Timestamp;

/// A job, as far as its time is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Rehearsed {
    /// Its text.
    pub text: Text,
    /// Its input in the end, as far as is known, in tokens.
    pub input: f64,
    /// The cap on its output, in tokens; zero for what has none.
    pub cap: u32,
    /// At least so much, if it may be right-sized.
    pub least_cap: Option<u32>,
    /// After this it is not worth an answer.
    pub deadline: Option<Timestamp>,
    /// Which of its model's routes it may take, by bit; those beyond the 64th are always allowed.
    pub routes: u64,
}

/// A call that was made: how it turned out, beside what was expected of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experience {
    /// Its input, cached or not, over what was expected.
    pub deviation: f64,
    /// The share of its input that the quota was charged: what was read from the cache is free.
    pub charged: f64,
    /// The length of its answer in tokens, had its cap been higher.
    pub output: u64,
    /// How long it took.
    pub latency: Duration,
}

/// One endpoint of a model.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Its lane, as an index of [`Rehearsal::lanes`].
    pub lane: usize,
    /// The account behind it, likewise, where that has a quota of its own.
    pub account: Option<usize>,
    /// Whether it is tried before those that are not.
    pub primary: bool,
    /// It rests until then.
    pub rests_until: Timestamp,
}

/// A model, and what it has to do.
#[derive(Clone, Debug)]
pub struct Work {
    /// Where it can be called, in configured order.
    pub ways: Vec<Way>,
    /// Quota tokens per output token.
    pub burndown: u32,
    /// What tokens cost.
    pub weights: Weights,
    /// The largest request any of its lanes can ever admit, in tokens.
    pub largest: Option<u64>,
    /// Its jobs in the order in which they are worked, or an even sample of them.
    pub jobs: Vec<Rehearsed>,
    /// How many jobs those stand for, at least as many.
    pub count: u64,
    /// How calls turn out; not empty.
    pub experience: Vec<Experience>,
}

/// What is rehearsed.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// When the first call is made.
    pub start: Timestamp,
    /// Jobs in hand at most.
    pub slots: usize,
    /// How lanes are chosen.
    pub rules: RoutingRules,
    /// Lanes and accounts as they stand at the start. How they count must be told, not be learned: a rehearsal has
    /// no service that could contradict.
    pub lanes: Vec<LaneLedger>,
    /// The models.
    pub work: Vec<Work>,
    /// So many calls are rehearsed one by one, and more only if that is less than a few minutes' worth.
    pub calls: usize,
}

/// What holds a model's next job back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hold {
    /// A quota of this lane or account.
    Quota {
        /// Its index.
        lane: usize,
        /// Which.
        binding: Binding,
    },
    /// The lane is not known to do more at once yet.
    Ramp,
    /// Every slot is in a call.
    Slots,
    /// Every lane rests.
    Rest,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    /// From the first call to the last answer.
    pub finish: Duration,
    /// For each model.
    pub work: Vec<WorkForecast>,
    /// For each lane and account.
    pub lanes: Vec<LaneForecast>,
}

impl Forecast {
    /// The model that takes longest.
    pub fn last(&self) -> Option<(usize, &WorkForecast)> {
        self.work.iter().enumerate().max_by_key(|(_, work)| work.finish)
    }
}

/// How it went for one model.
#[derive(Clone, Debug, Default)]
pub struct WorkForecast {
    /// From the first call of all to the last answer of this model.
    pub finish: Duration,
    /// What its next job waited for, longest first, within what was rehearsed.
    pub held: Vec<(Hold, Duration)>,
    /// How long that was rehearsed.
    pub rehearsed: Duration,
    /// Jobs whose deadline passes before they can be sent.
    pub late: u64,
    /// Jobs that no lane ever admits.
    pub never: u64,
    /// Answers that a right-sized cap cuts, each made again.
    pub cut: u64,
}

impl WorkForecast {
    /// What it waits for most, if it waits for anything worth speaking of. That a lane is approached carefully is none of
    /// its limits.
    pub fn binding(&self) -> Option<Hold> {
        let is_limit = |hold: &Hold| match hold {
            Hold::Ramp | Hold::Quota { binding: Binding::Trial, .. } => false,
            Hold::Quota { .. } | Hold::Slots | Hold::Rest => true,
        };
        let (hold, waited) = self.held.iter().find(|(hold, _)| is_limit(hold))?;
        (*waited * 10 >= self.rehearsed).then_some(*hold)
    }
}

/// What one lane was charged.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaneForecast {
    /// Tokens a minute, over the whole drain.
    pub steady_tokens: f64,
    /// Calls a minute, likewise.
    pub steady_requests: f64,
    /// Tokens in the busiest minute.
    pub peak_tokens: u64,
    /// Calls in the busiest minute.
    pub peak_requests: u64,
}

/// Rehearses it.
pub fn rehearse(rehearsal: Rehearsal) -> Forecast {
    Drain::new(rehearsal).run()
}

#[cfg(test)]
mod tests;
