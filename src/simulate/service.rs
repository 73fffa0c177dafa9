//! What becomes of a call? Admission, faults and settlement, behind the one lock of the simulator.
//!
//! A call takes the lock twice, at admission and at settlement, each time for a few map look-ups.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::answer::Answer;
use super::cache::Cache;
use super::chance::{Dice, Purpose};
use super::errors::{Refused, TOO_MANY_A_DAY, TOO_MANY_REQUESTS, TOO_MANY_TOKENS};
use super::fault::Kind;
use super::ledger::{Ledger, Refusal, Reservation, Split, Window};
use super::report::{ModelReport, Report};
use super::request::Ask;
use super::scenario::{Model, Scenario};

/// The simulated service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) scenario: Scenario,
    started: Instant,
    requests: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    lanes: HashMap<String, Lane>,
    account: Option<Window>,
    /// By digest of the body.
    seen: HashMap<u64, Seen>,
    /// How many calls each fault of the scenario has concerned so far.
    concerned: Vec<u64>,
    struck: BTreeMap<&'static str, u64>,
    open: u64,
    peak_open: u64,
    rejected: u64,
    answered_twice: u64,
    token_counts: u64,
}

#[derive(Debug, Default)]
struct Seen {
    times: u32,
    answered: u32,
}

/// What is kept of one model.
#[derive(Debug)]
struct Lane {
    ledger: Ledger,
    cache: Cache,
    report: ModelReport,
}

/// An admitted call. Dropped without a word it was abandoned by its caller, and keeps its reservation.
#[derive(Debug)]
pub(super) struct Open {
    service: Arc<Service>,
    lane: String,
    pub(super) model: Arc<Model>,
    pub(super) split: Split,
    ask: Ask,
    attempt: u32,
    /// `None` where the call was admitted only because quotas are not enforced.
    reservation: Option<Reservation>,
    since: Instant,
    /// The fault that strikes it.
    pub(super) fault: Option<Kind>,
    closed: bool,
}

impl Service {
    pub(super) fn new(scenario: Scenario) -> Self {
        let state = State {
            lanes: HashMap::new(),
            account: scenario.account(),
            seen: HashMap::new(),
            concerned: vec![0; scenario.faults.len()],
            struck: BTreeMap::new(),
            open: 0,
            peak_open: 0,
            rejected: 0,
            answered_twice: 0,
            token_counts: 0,
        };
        Self { scenario, started: Instant::now(), requests: AtomicU64::new(0), state: Mutex::new(state) }
    }

    /// Decides about a call that was read.
    ///
    /// # Errors
    /// What the service answers instead: the request is invalid, a quota is used up, or a fault was ordered.
    pub(super) fn admit(self: &Arc<Self>, id: &str, streaming: bool, ask: Ask) -> Result<Open, Refused> {
        let found = self.scenario.model(id);
        let found = found.and_then(|(name, model)| within_limits(model, &ask).map(|()| (name, model)));
        let (name, model) = found.inspect_err(|_| self.reject())?;
        let mut state = self.lock();
        let state = &mut *state;
        // Read under the lock, so that the ledgers never see time go back.
        let now = self.started.elapsed();
        if !state.lanes.contains_key(name) {
            let lane =
                Lane { ledger: self.scenario.ledger(model), cache: Cache::default(), report: ModelReport::default() };
            state.lanes.insert(name.to_owned(), lane);
        }
        let Some(lane) = state.lanes.get_mut(name) else { return Err(Refused::throttled(TOO_MANY_REQUESTS)) };
        lane.report.calls += 1;
        let seen = state.seen.entry(ask.digest).or_default();
        seen.times = seen.times.saturating_add(1);
        let attempt = seen.times;

        let mut fault = None;
        for (place, candidate) in self.scenario.faults.iter().enumerate() {
            if !candidate.concerns(id, streaming) {
                continue;
            }
            let number = &mut state.concerned[place];
            *number += 1;
            let dice = || Dice::new(self.scenario.seed, ask.digest, attempt, Purpose::Fault(place));
            if fault.is_none() && candidate.strikes(now, *number, dice) {
                fault = Some(candidate);
            }
        }
        if let Some((Kind::Error(refused), name)) = fault.map(|fault| (&fault.kind, fault.name())) {
            *state.struck.entry(name).or_default() += 1;
            return Err(refused.clone());
        }

        let split = lane.cache.split(now, &ask.checkpoints, ask.input_tokens, model.cache_min_prefix);
        // An embedding has no output to reserve.
        let max_tokens = if ask.embedding.is_some() { 0 } else { ask.max_tokens.unwrap_or(model.max_output) };
        let amount = split.reservation(max_tokens, self.scenario.cache_reads_at_admission);
        let reservation = match lane.ledger.admit(state.account.as_mut(), now, amount) {
            Ok(reservation) => Some(reservation),
            Err(refusal) if self.scenario.enforce => {
                lane.report.throttled += 1;
                return Err(Refused::throttled(match refusal {
                    Refusal::Requests => TOO_MANY_REQUESTS,
                    Refusal::Tokens => TOO_MANY_TOKENS,
                    Refusal::Day => TOO_MANY_A_DAY,
                }));
            }
            Err(_) => {
                lane.report.would_be_throttled += 1;
                None
            }
        };
        lane.report.admitted_tokens += amount;
        if let Some(fault) = fault {
            *state.struck.entry(fault.name()).or_default() += 1;
        }
        state.open += 1;
        state.peak_open = state.peak_open.max(state.open);
        Ok(Open {
            service: Arc::clone(self),
            lane: name.to_owned(),
            model: Arc::clone(model),
            split,
            ask,
            attempt,
            reservation,
            since: Instant::now(),
            fault: fault.map(|fault| fault.kind.clone()),
            closed: false,
        })
    }

    /// A fresh request id in the form of a UUID; it tells requests apart and means nothing else.
    pub(super) fn request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let seed = self.scenario.seed;
        format!("{:08x}-0000-4000-8000-{number:012x}", seed & 0xffff_ffff)
    }

    /// A call was refused for what it asked.
    pub(super) fn reject(&self) {
        self.lock().rejected += 1;
    }

    /// Tokens were counted for somebody.
    pub(super) fn counted_tokens(&self) {
        self.lock().token_counts += 1;
    }

    /// The count up to now.
    pub(super) fn report(&self) -> Report {
        let state = self.lock();
        Report {
            rejected: state.rejected,
            faults: state.struck.iter().map(|(&kind, &count)| (kind.to_owned(), count)).collect(),
            answered_twice: state.answered_twice,
            peak_open: state.peak_open,
            token_counts: state.token_counts,
            models: state.lanes.iter().map(|(id, lane)| (id.clone(), lane.report.clone())).collect(),
            ..Report::default()
        }
        .total()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a call ended, for the books.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// The caller has a whole answer.
    Answered,
    /// The model has worked, but the caller has no use of it.
    Wasted,
    /// The model has produced nothing.
    Failed,
    /// The caller went away.
    Abandoned,
}

impl Open {
    /// What the model says to this; always the same to the same request.
    pub(super) fn answer(&self) -> Answer {
        let limit = self.ask.max_tokens.unwrap_or(self.model.max_output);
        Answer::compose(&mut self.dice(Purpose::Answer), self.model.answer, limit, self.model.reasoning, &self.ask)
    }

    /// The vector for an embedding, if one was asked for.
    pub(super) fn embedding(&self) -> Option<Vec<f64>> {
        let (dimensions, normalize) = self.ask.embedding?;
        Some(super::answer::embedding(&mut self.dice(Purpose::Answer), dimensions, normalize))
    }

    /// How long until the first token.
    pub(super) fn latency(&self) -> Duration {
        self.model.latency.draw(&mut self.dice(Purpose::Latency))
    }

    /// Milliseconds since admission.
    pub(super) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Of model id and content.
    pub(super) fn digest(&self) -> u64 {
        self.ask.digest
    }

    /// Input tokens, cached or not.
    pub(super) fn input_tokens(&self) -> u64 {
        self.ask.input_tokens
    }

    /// The whole answer goes out.
    pub(super) fn answered(self, output_tokens: u64) {
        self.close(End::Answered, output_tokens);
    }

    /// The work is charged, but no answer reaches the caller.
    pub(super) fn wasted(self, output_tokens: u64) {
        self.close(End::Wasted, output_tokens);
    }

    /// Nothing came of it: the reservation is given back.
    pub(super) fn failed(self) {
        self.close(End::Failed, 0);
    }

    fn close(mut self, end: End, output_tokens: u64) {
        self.settle(end, output_tokens);
        self.closed = true;
    }

    fn dice(&self, purpose: Purpose) -> Dice {
        let attempt = match purpose {
            Purpose::Answer => 0,
            Purpose::Latency | Purpose::Fault(_) => self.attempt,
        };
        Dice::new(self.service.scenario.seed, self.ask.digest, attempt, purpose)
    }

    fn settle(&self, end: End, output: u64) {
        let mut state = self.service.lock();
        let state = &mut *state;
        let now = self.service.started.elapsed();
        state.open -= 1;
        let Some(lane) = state.lanes.get_mut(&self.lane) else { return };
        let settled = match end {
            End::Answered | End::Wasted => self.split.settlement(output, self.model.burndown),
            End::Failed => 0,
            End::Abandoned => {
                lane.report.abandoned += 1;
                return;
            }
        };
        if let Some(reservation) = &self.reservation {
            let excess = self.service.scenario.settlement_excess;
            lane.ledger.settle(state.account.as_mut(), now, reservation, settled, excess);
        }
        if end == End::Failed {
            return;
        }
        lane.cache.keep(now, &self.ask.checkpoints, self.model.cache_min_prefix);
        lane.report.settled_tokens += settled;
        lane.report.input_tokens += self.split.fresh;
        lane.report.cache_read_tokens += self.split.cache_read;
        lane.report.cache_write_tokens += self.split.cache_write;
        lane.report.output_tokens += output;
        if end == End::Answered {
            lane.report.answered += 1;
            let seen = state.seen.entry(self.ask.digest).or_default();
            seen.answered = seen.answered.saturating_add(1);
            if seen.answered == 2 {
                state.answered_twice += 1;
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.closed {
            self.settle(End::Abandoned, 0);
        }
    }
}

fn within_limits(model: &Model, ask: &Ask) -> Result<(), Refused> {
    if ask.input_tokens > model.context_window {
        return Err(Refused::invalid("Input is too long for requested model."));
    }
    if ask.max_tokens.is_some_and(|asked| asked > model.max_output) {
        let limit = model.max_output;
        return Err(Refused::invalid(format!(
            "The maximum tokens you requested exceeds the model limit of {limit}. Try again with a maximum tokens value that is lower than {limit}."
        )));
    }
    Ok(())
}
