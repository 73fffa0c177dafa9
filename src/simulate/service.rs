//! Who is let in, and what is charged for it? Admission, faults and settlement, behind the one lock of the simulator.
//!
//! A call takes the lock twice, at admission and at settlement, each time for a few map look-ups.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::chance::{Dice, Purpose};
use super::errors::{Refused, TOO_MANY_A_DAY, TOO_MANY_REQUESTS, TOO_MANY_TOKENS};
use super::fault::Kind;
use super::lane::Lane;
use super::ledger::{Refusal, Window};
use super::open::{Admitted, End, Open};
use super::report::Report;
use super::request::Ask;
use super::scenario::{Model, Scenario};
use super::scope::Target;

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
    regions: BTreeMap<String, Region>,
    /// By digest of the body.
    seen: HashMap<u64, Seen>,
    /// How many calls each fault of the scenario has concerned so far.
    concerned: Vec<u64>,
    open: u64,
    peak_open: u64,
    rejected: u64,
    answered_twice: u64,
    token_counts: u64,
}

/// What is kept of one region: quotas are a region's own, the account's as well.
#[derive(Debug)]
struct Region {
    account: Option<Window>,
    lanes: BTreeMap<String, Lane>,
}

#[derive(Debug, Default)]
struct Seen {
    times: u32,
    answered: u32,
}

/// Why a call was not let in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Denied {
    /// It is told so.
    Refused(Refused),
    /// The connection closes.
    Closed,
}

impl From<Refused> for Denied {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl Service {
    pub(super) fn new(scenario: Scenario) -> Self {
        let state = State {
            regions: BTreeMap::new(),
            seen: HashMap::new(),
            concerned: vec![0; scenario.faults.len()],
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
    /// What the service does instead: the request is invalid, a fault was ordered, the model has no room, or a quota is
    /// used up.
    pub(super) fn admit(self: &Arc<Self>, target: Target<'_>, streaming: bool, ask: Ask) -> Result<Open, Denied> {
        let found = self.scenario.model(target);
        let found = found.and_then(|(name, model)| within_limits(model, &ask).map(|()| (name, model)));
        let (name, model) = found.inspect_err(|_| self.reject())?;
        let mut state = self.lock();
        let state = &mut *state;
        // Read under the lock, so that the ledgers never see time go back.
        let now = self.started.elapsed();
        let seen = state.seen.entry(ask.digest).or_default();
        seen.times = seen.times.saturating_add(1);
        let attempt = seen.times;
        let region = state.regions.entry(target.region.to_owned());
        let region = region.or_insert_with(|| Region { account: self.scenario.account(), lanes: BTreeMap::new() });
        let lane = region.lanes.entry(name.to_owned()).or_insert_with(|| Lane::new(&self.scenario, target, model));
        lane.catch_up(&self.scenario, now);
        lane.called(now);

        let mut fault = None;
        for (place, candidate) in self.scenario.faults.iter().enumerate() {
            if !candidate.concerns(target, streaming) {
                continue;
            }
            let number = &mut state.concerned[place];
            *number += 1;
            let dice = || Dice::new(self.scenario.seed, ask.digest, attempt, Purpose::Fault(place));
            if fault.is_none() && candidate.strikes(now, *number, dice) {
                fault = Some(candidate);
            }
        }
        if let Some(fault) = fault
            && let Some(denied) = at_the_door(&fault.kind)
        {
            lane.struck(fault.name());
            return Err(denied);
        }
        let weather = self.scenario.weather(target, model, now);
        if let Some(capacity) = weather.capacity.filter(|capacity| !lane.has_room(capacity)) {
            lane.over_capacity();
            return Err(capacity.error.clone().into());
        }

        let split = lane.cache.split(now, &ask.checkpoints, ask.input_tokens, model.cache_min_prefix);
        // An embedding has no output to reserve.
        let max_tokens = if ask.embedding.is_some() { 0 } else { ask.max_tokens.unwrap_or(model.max_output) };
        let amount = split.reservation(max_tokens, self.scenario.cache_reads_at_admission);
        let reservation = match lane.ledger.admit(region.account.as_mut(), now, amount) {
            Ok(reservation) => Some(reservation),
            Err(refusal) if self.scenario.enforce => {
                lane.throttled(now);
                return Err(throttle(refusal).into());
            }
            Err(_) => {
                lane.would_be_throttled(now);
                None
            }
        };
        lane.admitted(amount);
        if let Some(fault) = fault {
            lane.struck(fault.name());
        }
        state.open += 1;
        state.peak_open = state.peak_open.max(state.open);
        let admitted = Admitted {
            region: target.region.to_owned(),
            lane: name.to_owned(),
            model: Arc::clone(model),
            split,
            ask,
            attempt,
            reservation,
            fault: fault.map(|fault| fault.kind.clone()),
            latency_factor: weather.latency_factor,
        };
        Ok(Open::new(Arc::clone(self), admitted))
    }

    /// An admitted call has ended and is charged for what the model has done.
    pub(super) fn settle(&self, call: &Admitted, end: End, output_tokens: u64) {
        let mut state = self.lock();
        let state = &mut *state;
        let now = self.started.elapsed();
        state.open -= 1;
        let Some(region) = state.regions.get_mut(&call.region) else { return };
        let Some(lane) = region.lanes.get_mut(&call.lane) else { return };
        lane.catch_up(&self.scenario, now);
        lane.ended();
        let settled = match end {
            End::Answered | End::Wasted => call.split.settlement(output_tokens, call.model.burndown),
            End::Failed => 0,
            End::Abandoned => return lane.abandoned(),
        };
        if let Some(reservation) = &call.reservation {
            let excess = self.scenario.settlement_excess;
            lane.ledger.settle(region.account.as_mut(), now, reservation, settled, excess);
        }
        if end == End::Failed {
            return;
        }
        lane.cache.keep(now, &call.ask.checkpoints, call.model.cache_min_prefix);
        lane.worked(now, call.split, output_tokens, settled);
        if end == End::Answered {
            lane.answered(now);
            let seen = state.seen.entry(call.ask.digest).or_default();
            seen.answered = seen.answered.saturating_add(1);
            if seen.answered == 2 {
                state.answered_twice += 1;
            }
        }
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
        let mut state = self.lock();
        let now = self.started.elapsed();
        let mut lanes = BTreeMap::<_, BTreeMap<_, _>>::new();
        for (name, region) in &mut state.regions {
            for (id, lane) in &mut region.lanes {
                lane.catch_up(&self.scenario, now);
                lanes.entry(name.clone()).or_default().insert(id.clone(), lane.report());
            }
        }
        Report {
            rejected: state.rejected,
            answered_twice: state.answered_twice,
            peak_open: state.peak_open,
            token_counts: state.token_counts,
            ..Report::default()
        }
        .of(lanes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fault that strikes before the call is let in.
fn at_the_door(kind: &Kind) -> Option<Denied> {
    match kind {
        Kind::Error(refused) => Some(refused.clone().into()),
        Kind::Refuse => Some(Denied::Closed),
        Kind::LateError(_)
        | Kind::Hang
        | Kind::Drop
        | Kind::Truncate
        | Kind::SlowBody(_)
        | Kind::Empty
        | Kind::Garbage
        | Kind::StreamError { .. } => None,
    }
}

fn throttle(refusal: Refusal) -> Refused {
    Refused::throttled(match refusal {
        Refusal::Requests => TOO_MANY_REQUESTS,
        Refusal::Tokens => TOO_MANY_TOKENS,
        Refusal::Day => TOO_MANY_A_DAY,
    })
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
