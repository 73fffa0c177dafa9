//! What is learned of a model's tokens, and which cap does a call get that may be right-sized?
//!
//! The arithmetic is that of [`crate::rules::estimate`] and [`crate::rules::rightsize`]; here stands what it is asked and
//! told. A job's answer is cut once at most: from then on, over all claims, it is called under its full cap.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::job::failure::Class;
use crate::job::ident::BatchName;
use crate::job::intake;
use crate::job::outcome::{RightSized, Tally, Usage};
use crate::job::spec::{Job, MaxTokens};
use crate::job::units::Tokens;
use crate::ports::{Answer, Billing, CallFailure};
use crate::rules::estimate::{InputEstimates, OutputEstimate, Text};
use crate::rules::recent::Recent;
use crate::rules::rightsize::{self, Pressure, RightSize, Ticket, Weights, Whole};

use super::lanes::{Plan, Size};
use super::proof::Claim;

/// So many batches are remembered for each model; jobs of one batch mostly come together.
const BATCHES: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// No answer of the batch is longer, but for one in a thousand.
const LONGEST: f64 = 0.999;
/// Room for an answer after the thinking.
const BESIDE_THINKING: u32 = 1_024;

/// What is learned of a model's tokens.
#[derive(Debug)]
pub struct Estimates {
    /// Of its input.
    pub input: InputEstimates,
    /// Of its answers, by the name of their batch, whosever it is.
    pub output: Recent<BatchName, OutputEstimate>,
    /// Of the answers that may be right-sized, likewise.
    sizes: Recent<BatchName, RightSize>,
    pressure: Pressure,
}

impl Default for Estimates {
    fn default() -> Self {
        Self {
            input: InputEstimates::default(),
            output: Recent::new(BATCHES),
            sizes: Recent::new(BATCHES),
            pressure: Pressure::default(),
        }
    }
}

impl Estimates {
    /// This text was answered with this usage.
    pub fn learn_input(&mut self, text: Text, usage: &Usage) {
        self.input.learn(text, input_of(usage));
    }

    /// A job of this batch was answered in full with so many tokens.
    pub fn learn_output(&mut self, batch: &BatchName, tokens: Tokens) {
        self.output.of(batch).learn(tokens);
    }

    /// A call is held up by the tokens of its lane's quota: smaller reservations would help.
    pub fn short_of_tokens(&mut self, now: Instant) {
        self.pressure.waited(now);
    }
}

/// The least cap a job can be right-sized to; `None` if it is not to be right-sized, or its request has no place for a cap.
pub(super) fn least_cap(job: &Job) -> Option<u32> {
    if job.max_tokens != MaxTokens::Auto || !intake::has_place_for_cap(&job.request) {
        return None;
    }
    Some(intake::thinking_budget(&job.request).map_or(1, |budget| budget.saturating_add(BESIDE_THINKING)))
}

impl Plan {
    /// The size of a job's call by what has been learned since: right-sized, unless an answer was cut before.
    pub fn resized(&self, claim: &Claim, size: &Size, now: Instant) -> Size {
        let estimates = self.estimates();
        let input = estimates.input.reserve(size.text);
        let cap = match size.least_cap {
            Some(least) if !claim.journey.sizing.in_full && claim.tally.savings.reruns == 0 => {
                let pressed = estimates.pressure.is_on(now);
                let learned = estimates.sizes.get(&claim.job.key.batch);
                learned.map_or(size.full_cap, |batch| batch.cap(size.full_cap, least, &self.weights(), pressed))
            }
            Some(_) | None => size.full_cap,
        };
        let longest = estimates.output.get(&claim.job.key.batch).and_then(|batch| batch.percentile(LONGEST));
        let burdened = longest.unwrap_or_default().0.min(u64::from(cap)).saturating_mul(u64::from(self.burndown));
        Size { cap, input, settled_output: Tokens(burdened), ..*size }
    }

    fn weights(&self) -> Weights {
        Weights::new(self.price.as_ref(), self.burndown)
    }
}

/// The tokens of an answer that a right-sized cap cut, if one did.
pub(super) fn cut(size: &Size, reply: &Result<Answer, CallFailure>) -> Option<Usage> {
    if size.cap >= size.full_cap {
        return None;
    }
    let (stop_reason, usage) = match reply {
        Ok(answer) => (answer.stop_reason.as_deref(), answer.usage),
        // All of it went into thinking: there is nothing to show.
        Err(CallFailure { failure, billing: Billing::Billed(usage), .. }) if failure.class == Class::Empty => {
            (None, *usage)
        }
        Err(_) => return None,
    };
    rightsize::is_cut(stop_reason, usage.output_tokens, size.cap).then_some(usage)
}

/// What right-sizing keeps of a claim.
#[derive(Debug, Default)]
pub struct Sizing {
    /// Under the full cap from now on.
    in_full: bool,
    /// The call whose length is to be learned.
    measured: Option<Measured>,
    /// The cap of the last call, and the full one.
    caps: Option<(u32, u32)>,
}

impl Sizing {
    /// A call of this size is about to be made.
    pub(super) fn sent(&mut self, plan: &Arc<Plan>, batch: &BatchName, size: &Size) {
        if size.least_cap.is_none() {
            return;
        }
        self.caps = Some((size.cap, size.full_cap));
        // The rerun of a cut answer ends what its first call began.
        if self.measured.is_none() {
            let ticket = plan.estimates().sizes.of(batch).sent();
            self.measured = Some(Measured { plan: Arc::clone(plan), batch: batch.clone(), ticket: Some(ticket) });
        }
    }

    /// It was answered in full.
    pub(super) fn answered(&mut self, tally: &mut Tally, size: &Size, usage: &Usage, latency: Duration) {
        if let Some(measured) = self.measured.take() {
            tally.savings.fitted(size.cap, size.full_cap);
            measured.answered(Whole {
                output: Tokens(usage.output_tokens),
                input: input_of(usage),
                latency,
                right_sized: size.cap < size.full_cap,
            });
        }
    }

    /// Its answer was cut; what it says is not its length.
    pub(super) fn cut(&mut self, size: &Size) {
        self.in_full = true;
        if let Some(measured) = &self.measured {
            measured.plan.estimates().sizes.of(&measured.batch).cut(size.cap);
        }
    }

    /// It failed.
    pub(super) fn failed(&mut self, class: Class) {
        if self.in_full {
            return;
        }
        // Nothing to show, and no count that would say why: the cap may be why.
        self.in_full = class == Class::Empty;
        // Others need not wait for its length as long as it may take to come.
        self.measured = None;
    }

    /// As the result tells it.
    pub(super) fn outcome(&self, tally: &Tally) -> Option<RightSized> {
        self.caps.map(|(cap, full_cap)| RightSized {
            cap,
            full_cap,
            reruns: tally.savings.reruns,
            rerun_cost_usd: tally.savings.rerun_cost,
        })
    }
}

/// A call between sending and the answer that counts; dropped, it ended without one.
#[derive(Debug)]
struct Measured {
    plan: Arc<Plan>,
    batch: BatchName,
    ticket: Option<Ticket>,
}

impl Measured {
    fn answered(mut self, answer: Whole) {
        if let Some(ticket) = self.ticket.take() {
            self.plan.estimates().sizes.of(&self.batch).answered(ticket, answer, &self.plan.weights());
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.plan.estimates().sizes.of(&self.batch).unanswered(ticket, &self.plan.weights());
        }
    }
}

/// All that went in, cached or not.
fn input_of(usage: &Usage) -> Tokens {
    Tokens(usage.input_tokens) + Tokens(usage.cache_read_tokens) + Tokens(usage.cache_write_tokens)
}
