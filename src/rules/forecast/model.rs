//! What does each model have to do, what has its rehearsal learned so far, and how does its next call turn out?

use std::collections::VecDeque;
use std::time::Duration;

use super::flow::{Minutes, float, rest};
use super::{Experience, Hold, Rehearsed, Work, WorkForecast};
use crate::job::units::{Timestamp, Tokens};
use crate::rules::estimate::{InputEstimates, OutputEstimate};
use crate::rules::rightsize::{RightSize, Ticket, Whole};
use crate::rules::route::Spread;

/// A flow that was watched for less is not known to be even.
const WATCHED: Duration = Duration::from_secs(6 * 60);
/// No answer is longer, but for one in a thousand; looked up again after so many.
const LONGEST: f64 = 0.999;
const REFRESH: u32 = 16;
/// Successive multiples of the golden ratio fall evenly between 0 and 1, however many there are.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

pub(super) struct Model {
    pub(super) next: u64,
    pub(super) again: VecDeque<Job>,
    pub(super) inputs: InputEstimates,
    pub(super) answers: OutputEstimate,
    pub(super) longest: u64,
    pub(super) until_refresh: u32,
    pub(super) sizes: RightSize,
    pub(super) is_pressed: bool,
    pub(super) spread: Spread,
    /// What its next job waits for, and until when if nothing happens before.
    pub(super) held: Option<(Hold, Timestamp)>,
    pub(super) sent: Minutes,
    pub(super) calls: u64,
    /// When the call of each job was first sent, in the order of the jobs.
    pub(super) sent_after: Vec<Duration>,
    pub(super) last_answer: Timestamp,
    pub(super) told: WorkForecast,
}

/// A job, and how its call will turn out.
#[derive(Clone, Copy)]
pub(super) struct Job {
    pub(super) rehearsed: Rehearsed,
    pub(super) input: u64,
    pub(super) charged: u64,
    pub(super) output: u64,
    pub(super) latency: Duration,
    /// Its answer was cut: under its full cap, and under the ticket of the first call.
    pub(super) cut: Option<Ticket>,
}

/// A call under way.
pub(super) struct Sent {
    pub(super) job: Job,
    pub(super) cap: u32,
    pub(super) ticket: Option<Ticket>,
}

impl Model {
    pub(super) fn new(start: Timestamp) -> Self {
        Self {
            next: 0,
            again: VecDeque::new(),
            inputs: InputEstimates::default(),
            answers: OutputEstimate::new(),
            longest: 0,
            until_refresh: 0,
            sizes: RightSize::default(),
            is_pressed: false,
            spread: Spread::new(),
            held: None,
            sent: Minutes::default(),
            calls: 0,
            sent_after: Vec::new(),
            last_answer: start,
            told: WorkForecast::default(),
        }
    }

    /// The next job, if there is one to be rehearsed; it stays where it is until it is taken.
    pub(super) fn next_job(&mut self, work: &Work, calls: usize, passed: Duration) -> Option<Job> {
        if let Some(job) = self.again.front() {
            return Some(*job);
        }
        let sample = work.jobs.len() as u64;
        let is_enough = self.next >= sample.min(calls as u64) && passed >= WATCHED;
        if self.next >= work.count || sample == 0 || (is_enough && work.count > self.next) {
            return None;
        }
        let rehearsed = *work.jobs.get(usize::try_from(self.next % sample).ok()?)?;
        let experience = experience(work, self.next)?;
        let input = whole(rehearsed.input * experience.deviation);
        Some(Job {
            rehearsed,
            input,
            charged: whole(float(input) * experience.charged),
            output: experience.output,
            latency: experience.latency,
            cut: None,
        })
    }

    pub(super) fn take_job(&mut self) {
        if self.again.pop_front().is_none() {
            self.next += 1;
        }
    }

    /// The cap and the input to reserve, in tokens.
    pub(super) fn size(&self, work: &Work, job: &Job) -> (u32, u64) {
        let full = job.rehearsed.cap;
        let cap = match job.rehearsed.least_cap.filter(|_| job.cut.is_none()) {
            Some(least) => self.sizes.cap(full, least, &work.weights, self.is_pressed),
            None => full,
        };
        (cap, self.inputs.reserve(job.rehearsed.text).0)
    }

    pub(super) fn settled_output(&self, work: &Work, cap: u32, input: u64) -> u64 {
        let burdened = self.longest.min(u64::from(cap)).saturating_mul(u64::from(work.burndown));
        work.largest.map_or(burdened, |most| burdened.min(most.saturating_sub(input)))
    }

    pub(super) fn learn(&mut self, work: &Work, call: &Sent, output: u64) {
        self.inputs.learn(call.job.rehearsed.text, Tokens(call.job.input));
        let full = call.job.rehearsed.cap;
        if call.cap < full && call.job.output > u64::from(call.cap) {
            self.told.cut += 1;
            self.sizes.cut(call.cap);
            self.again.push_back(Job { cut: call.ticket, ..call.job });
            return;
        }
        self.answers.learn(Tokens(output));
        if self.until_refresh == 0 {
            self.until_refresh = REFRESH;
            self.longest = self.answers.percentile(LONGEST).unwrap_or_default().0;
        }
        self.until_refresh -= 1;
        if let Some(ticket) = call.ticket {
            let right_sized = call.cap < full;
            let (input, latency) = (Tokens(call.job.input), call.job.latency);
            let answer = Whole { output: Tokens(output), input, latency, right_sized };
            self.sizes.answered(ticket, answer, &work.weights);
        }
    }
}

impl Job {
    /// Whether its deadline has passed when its turn comes. Of a sample that is seen afterwards.
    pub(super) fn is_late(&self, work: &Work, now: Timestamp) -> bool {
        !work.is_sample() && self.rehearsed.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// How many of a sample come too late: each has its turn when the job has that it stands for.
pub(super) fn late_of_sample(work: &Work, model: &Model, start: Timestamp) -> u64 {
    let Some(last) = model.sent_after.last().copied().filter(|_| work.is_sample()) else { return 0 };
    let rate = model.sent.rate(last).unwrap_or(f64::INFINITY);
    let turn = |number: usize| {
        let place = float(number as u64) * work.share();
        let sent = usize::try_from(whole(place)).ok().and_then(|place| model.sent_after.get(place)).copied();
        sent.unwrap_or_else(|| last.saturating_add(rest(place - float(model.sent_after.len() as u64), rate, None)))
    };
    let is_late = |(number, job): &(usize, &Rehearsed)| job.deadline.is_some_and(|at| turn(*number) >= at.since(start));
    work.jobs.iter().enumerate().filter(is_late).count() as u64
}

impl Work {
    pub(super) fn is_sample(&self) -> bool {
        self.count > self.jobs.len() as u64
    }

    /// How many jobs each of the sample stands for.
    pub(super) fn share(&self) -> f64 {
        float(self.count.max(1)) / float((self.jobs.len() as u64).clamp(1, self.count.max(1)))
    }
}

/// How this call turns out.
fn experience(work: &Work, number: u64) -> Option<&Experience> {
    let place = (float(number) * GOLDEN).fract() * float(work.experience.len() as u64);
    work.experience.get(usize::try_from(whole(place.floor())).ok()?.min(work.experience.len().saturating_sub(1)))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float beyond the range becomes its end")]
fn whole(count: f64) -> u64 {
    count.round() as u64
}

pub(super) fn scaled(count: u64, share: f64) -> u64 {
    whole(float(count) * share)
}
