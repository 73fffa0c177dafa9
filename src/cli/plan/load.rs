//! What does the input hold? Sums over all jobs, exact, and an even sample of them for the rehearsal: a million jobs are not
//! kept one by one.

use std::collections::HashMap;
use std::sync::Arc;

use crate::flow::lanes::{Plan, Size};
use crate::job::intake;
use crate::job::outcome::Usage;
use crate::job::spec::{Job, Request};
use crate::job::units::{Tokens, Usd};
use crate::rules::forecast::{Experience, Rehearsed};

use super::history::{History, Known};

/// The most jobs of a model that are kept; always a whole part of all, evenly spread.
pub(super) const KEPT: usize = 1 << 16;
/// Without history: an answer takes a second, and so long for each of its tokens.
const FIRST_SECOND: f64 = 1.0;
const SECONDS_PER_TOKEN: f64 = 0.015;
/// Without history the input is taken to be on the safe side; it may be this part of it.
const LEAST_INPUT: f64 = 0.6;
/// Sums over many jobs lie within two standard errors of their mean, nineteen times of twenty.
const ERRORS: f64 = 2.0;

/// The jobs of an input, by model.
pub(super) struct Load<'h> {
    history: &'h History,
    told: Option<u32>,
    pub(super) models: Vec<ModelLoad>,
    by_name: HashMap<Arc<str>, usize>,
}

/// Where the length of answers is known from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Source {
    /// From so many answers.
    History(u64),
    /// From the person.
    Told(u32),
    /// From nothing: every answer is taken to be as long as its cap.
    Cap,
}

/// The jobs of one model.
pub(super) struct ModelLoad {
    pub(super) plan: Arc<Plan>,
    pub(super) known: Known,
    pub(super) source: Source,
    pub(super) jobs: u64,
    /// Of their texts.
    pub(super) bytes: u64,
    pub(super) input: Range,
    pub(super) output: Range,
    /// The sum of the caps, which the service reserves.
    pub(super) caps: u64,
    /// Jobs with a deadline.
    pub(super) deadlines: u64,
    /// Jobs that say `max_tokens = "auto"`, and jobs that could.
    pub(super) auto: u64,
    pub(super) could_be_auto: u64,
    sample: Vec<Kept>,
    stride: u64,
    /// The mean of answers under each cap that was met, and how far the sum may be off for each.
    outputs: HashMap<u32, Range>,
}

/// A sum of tokens, and between what it lies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Range {
    pub(super) mean: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// A job that is kept.
#[derive(Clone, Copy)]
struct Kept {
    priority: u8,
    /// What it could be right-sized to, if it said so.
    could_be: Option<u32>,
    job: Rehearsed,
}

impl<'h> Load<'h> {
    pub(super) fn new(history: &'h History, told: Option<u32>) -> Self {
        Self { history, told, models: Vec::new(), by_name: HashMap::new() }
    }

    /// Counts a job in.
    pub(super) fn add(&mut self, plan: &Arc<Plan>, job: &Job, size: &Size) {
        let Some(name) = plan.names.first() else { return };
        let index = match self.by_name.get(name) {
            Some(index) => *index,
            None => {
                self.models.push(ModelLoad::new(plan, self.history.of(name), self.told));
                self.by_name.insert(Arc::clone(name), self.models.len() - 1);
                self.models.len() - 1
            }
        };
        if let Some(model) = self.models.get_mut(index) {
            model.add(job, size);
        }
    }
}

impl ModelLoad {
    fn new(plan: &Arc<Plan>, known: Known, told: Option<u32>) -> Self {
        let source = match told {
            Some(told) => Source::Told(told),
            None if known.calls.is_empty() => Source::Cap,
            None => Source::History(known.calls.len() as u64),
        };
        Self {
            plan: Arc::clone(plan),
            known,
            source,
            jobs: 0,
            bytes: 0,
            input: Range::default(),
            output: Range::default(),
            caps: 0,
            deadlines: 0,
            auto: 0,
            could_be_auto: 0,
            sample: Vec::new(),
            stride: 1,
            outputs: HashMap::new(),
        }
    }

    fn add(&mut self, job: &Job, size: &Size) {
        let input = self.known.expected(size.text.bytes);
        let could_be = intake::has_place_for_cap(&job.request)
            .then(|| intake::thinking_budget(&job.request).map_or(1, |budget| budget.saturating_add(1_024)));
        self.input.add(if matches!(job.request, Request::Agent(_)) {
            // Not known, before or after.
            Range::default()
        } else if self.known.has_sizes {
            let off = ERRORS * self.relative_error();
            Range { mean: input, low: input * (1.0 - off), high: input * (1.0 + off) }
        } else {
            Range { mean: input, low: input * LEAST_INPUT, high: input }
        });
        let output = self.output_under(size.full_cap);
        self.output.add(output);
        self.bytes += size.text.bytes;
        self.caps += u64::from(size.full_cap);
        self.deadlines += u64::from(job.deadline.is_some());
        self.auto += u64::from(size.least_cap.is_some());
        self.could_be_auto += u64::from(could_be.is_some());
        if self.jobs.is_multiple_of(self.stride) {
            self.keep(job, size, input, could_be);
        }
        self.jobs += 1;
    }

    fn keep(&mut self, job: &Job, size: &Size, input: f64, could_be: Option<u32>) {
        if self.sample.len() == KEPT {
            let mut every_other = false;
            self.sample.retain(|_| {
                every_other = !every_other;
                every_other
            });
            self.stride *= 2;
            if !self.jobs.is_multiple_of(self.stride) {
                return;
            }
        }
        let routes = job.residency.as_ref().map_or(u64::MAX, |regions| {
            let allowed = (0..u64::BITS)
                .zip(&self.plan.routes)
                .filter(|(_, route)| regions.iter().any(|region| **region == *route.lane.id.region));
            allowed.fold(0, |mask, (bit, _)| mask | 1 << bit)
        });
        let job_as_is = Rehearsed {
            text: size.text,
            input,
            cap: size.full_cap,
            least_cap: size.least_cap,
            deadline: job.deadline,
            routes,
        };
        self.sample.push(Kept { priority: job.priority.get(), could_be, job: job_as_is });
    }

    /// The sample in the order in which it is worked; `auto` as if every job that can be right-sized said so.
    pub(super) fn rehearsed(&self, auto: bool) -> Vec<Rehearsed> {
        let mut order: Vec<&Kept> = self.sample.iter().collect();
        order.sort_by_key(|kept| kept.priority);
        let least = |kept: &Kept| if auto { kept.could_be.or(kept.job.least_cap) } else { kept.job.least_cap };
        order.into_iter().map(|kept| Rehearsed { least_cap: least(kept), ..kept.job }).collect()
    }

    /// How its calls will turn out.
    pub(super) fn experience(&self) -> Vec<Experience> {
        let mean_output = self.output.mean / float(self.jobs.max(1));
        let latency = FIRST_SECOND + SECONDS_PER_TOKEN * mean_output;
        let assumed = Experience {
            deviation: 1.0,
            charged: 1.0,
            output: u64::MAX,
            latency: std::time::Duration::try_from_secs_f64(latency).unwrap_or_default(),
        };
        let calls = if self.known.calls.is_empty() { vec![assumed] } else { self.known.calls.clone() };
        match self.source {
            Source::Told(output) => {
                calls.into_iter().map(|call| Experience { output: u64::from(output), ..call }).collect()
            }
            Source::History(_) | Source::Cap => calls,
        }
    }

    /// What all of it costs; `None` without a price.
    pub(super) fn cost(&self, pick: impl Fn(&Range) -> f64) -> Option<Usd> {
        let price = self.plan.price?;
        let (input, output) = (pick(&self.input), pick(&self.output));
        let (read, written) = (input * self.known.cache_read, input * self.known.cache_write);
        Some(price.of(&Usage {
            input_tokens: whole(input - read - written),
            output_tokens: whole(output),
            cache_read_tokens: whole(read),
            cache_write_tokens: whole(written),
        }))
    }

    /// What the quota is charged for all of it.
    pub(super) fn charge(&self) -> Tokens {
        let fresh = self.input.mean * (1.0 - self.known.cache_read);
        Tokens(whole(fresh + self.output.mean * f64::from(self.plan.burndown)))
    }

    fn output_under(&mut self, cap: u32) -> Range {
        if let Some(known) = self.outputs.get(&cap) {
            return *known;
        }
        let most = f64::from(cap);
        let range = match self.source {
            Source::Told(told) => Range::exactly(f64::from(told).min(most)),
            Source::Cap => Range { mean: most, low: most.min(1.0), high: most },
            Source::History(_) => {
                let lengths = || self.known.calls.iter().map(|call| float(call.output).min(most));
                let (mean, error) = mean_and_error(lengths());
                let off = ERRORS * error;
                Range { mean, low: (mean - off).max(0.0), high: (mean + off).min(most) }
            }
        };
        // Caps are a handful; a file in which each job has its own is not kept in mind.
        if self.outputs.len() < KEPT {
            self.outputs.insert(cap, range);
        }
        range
    }

    fn relative_error(&self) -> f64 {
        let (mean, error) = mean_and_error(self.known.calls.iter().map(|call| call.deviation));
        if mean > 0.0 { error / mean } else { 0.0 }
    }
}

impl Range {
    fn exactly(value: f64) -> Self {
        Self { mean: value, low: value, high: value }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.mean += other.mean;
        self.low += other.low;
        self.high += other.high;
    }
}

/// The mean of these, and its standard error.
fn mean_and_error(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let (count, sum) = values.clone().fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
    if count < 1.0 {
        return (0.0, 0.0);
    }
    let mean = sum / count;
    let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0) / count).sqrt())
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float beyond the range becomes its end")]
pub(super) fn whole(count: f64) -> u64 {
    count.round() as u64
}
