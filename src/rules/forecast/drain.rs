//! The rehearsal itself: from one moment at which something happens to the next.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use super::flow::{DayUse, Minutes, add_hold, float, rest};
use super::model::{Job, Model, Sent, late_of_sample, scaled};
use super::{Forecast, Hold, Rehearsal, Work};
use crate::job::units::{PerDay, Timestamp, Tokens};
use crate::rules::concurrency::{Concurrency, SETTLED_IN};
use crate::rules::pace::{Binding, Event, LaneLedger, Refusal, Reservation};
use crate::rules::route::{Candidate, Choice, choose};

pub(super) struct Drain {
    rehearsal: Rehearsal,
    lanes: Vec<Lane>,
    models: Vec<Model>,
    now: Timestamp,
    open: usize,
    due: BinaryHeap<Reverse<Due>>,
    order: u64,
}

struct Lane {
    ledger: LaneLedger,
    concurrency: Concurrency,
    open: usize,
    minutes: Minutes,
    used: f64,
    /// Of that, since its day was last waited for.
    used_today: f64,
}

struct Due {
    at: Timestamp,
    order: u64,
    what: What,
}

enum What {
    /// A call has found its place on this lane.
    SettledIn(usize),
    Answered(Box<Call>),
}

struct Call {
    model: usize,
    lane: usize,
    reservation: Reservation,
    account: Option<(usize, Reservation)>,
    sent: Sent,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl Drain {
    pub(super) fn new(mut rehearsal: Rehearsal) -> Self {
        let lanes = std::mem::take(&mut rehearsal.lanes);
        let lane = |ledger| Lane {
            ledger,
            concurrency: Concurrency::new(),
            open: 0,
            minutes: Minutes::default(),
            used: 0.0,
            used_today: 0.0,
        };
        let mut lanes: Vec<Lane> = lanes.into_iter().map(lane).collect();
        for account in rehearsal.work.iter().flat_map(|work| &work.ways).filter_map(|way| way.account) {
            if let Some(lane) = lanes.get_mut(account) {
                lane.concurrency = Concurrency::unbounded();
            }
        }
        let models = rehearsal.work.iter().map(|_| Model::new(rehearsal.start)).collect();
        Self { now: rehearsal.start, rehearsal, lanes, models, open: 0, due: BinaryHeap::new(), order: 0 }
    }

    pub(super) fn run(mut self) -> Forecast {
        loop {
            self.place_all();
            let due = self.due.peek().map(|Reverse(due)| due.at);
            let opens = self.models.iter().filter_map(|model| model.held.map(|(_, until)| until));
            let Some(next) = due.into_iter().chain(opens).min() else { break };
            self.pass_until(next);
            while self.due.peek().is_some_and(|Reverse(due)| due.at <= self.now)
                && let Some(Reverse(due)) = self.due.pop()
            {
                match due.what {
                    What::SettledIn(lane) => self.settled_in(lane),
                    What::Answered(call) => self.answered(*call),
                }
            }
        }
        self.told()
    }

    fn pass_until(&mut self, next: Timestamp) {
        // All of this moment is done.
        let next = next.max(self.now.after(Duration::from_millis(1)));
        let passed = next.since(self.now);
        for model in &mut self.models {
            if let Some((hold, _)) = model.held {
                add_hold(&mut model.told.held, hold, passed);
            }
        }
        self.now = next;
    }

    /// Places one job of each model in turn, until none can be placed.
    fn place_all(&mut self) {
        let mut placed = true;
        while placed {
            placed = false;
            for index in 0..self.models.len() {
                placed |= self.place(index);
            }
        }
    }

    /// Whether the model's next job was placed, or is over.
    fn place(&mut self, index: usize) -> bool {
        let (start, now) = (self.rehearsal.start, self.now);
        let (Some(work), Some(model)) = (self.rehearsal.work.get(index), self.models.get_mut(index)) else {
            return false;
        };
        model.held = None;
        let Some(job) = model.next_job(work, self.rehearsal.calls, now.since(start)) else { return false };
        if job.is_late(work, now) {
            model.told.late += 1;
            model.take_job();
            return true;
        }
        if self.open >= self.rehearsal.slots {
            model.held = Some((Hold::Slots, Timestamp(i64::MAX)));
            return false;
        }
        let (cap, input) = model.size(work, &job);
        let reserve = Tokens(input + u64::from(cap).max(model.settled_output(work, cap, input)));
        let mut holds = Vec::with_capacity(work.ways.len());
        for way in &work.ways {
            holds.push(hold_of(&mut self.lanes, way, now, reserve));
        }
        let candidates: Vec<Candidate> = (0..)
            .zip(work.ways.iter().zip(&holds))
            .map(|(bit, (way, hold))| Candidate {
                primary: way.primary,
                out: hold.never || (bit < u64::BITS && job.rehearsed.routes >> bit & 1 == 0),
                available_at: way.rests_until,
                shut_until: Timestamp(0),
                admits_at: hold.gate.map_or(now, |(_, at)| at),
                sent: false,
                failures: 0,
                last: false,
            })
            .collect();
        model.is_pressed |= holds.iter().any(|hold| {
            matches!(hold.gate, Some((Hold::Quota { binding: Binding::Tokens | Binding::Throttled, .. }, _)))
        });
        match choose(now, &self.rehearsal.rules, &candidates, &mut model.spread) {
            Choice::Lane(way) => {
                let Some(way) = work.ways.get(way).copied() else { return false };
                model.take_job();
                self.send(index, way, job, cap, reserve)
            }
            Choice::WaitUntil(until) => {
                let gates = holds.iter().filter_map(|hold| hold.gate);
                let first = gates.min_by_key(|(_, at)| *at).map_or(Hold::Rest, |(hold, _)| hold);
                if let Hold::Quota { lane, binding: Binding::Day } = first
                    && let Some(lane) = self.lanes.get_mut(lane)
                {
                    lane.used_today = 0.0;
                }
                model.held = Some((first, until));
                false
            }
            Choice::RestUntil(until) => {
                model.held = Some((Hold::Rest, until));
                false
            }
            Choice::NoneLeft => {
                model.told.never += 1;
                model.take_job();
                true
            }
        }
    }

    fn send(&mut self, index: usize, way: super::Way, job: Job, cap: u32, reserve: Tokens) -> bool {
        let now = self.now;
        let Some(lane) = self.lanes.get_mut(way.lane) else { return false };
        // The gates were asked in this very moment.
        let Ok(reservation) = lane.ledger.reserve(now, reserve) else { return false };
        lane.open += 1;
        let account = way.account.and_then(|account| {
            let reserved = self.lanes.get_mut(account)?.ledger.reserve(now, reserve).ok()?;
            Some((account, reserved))
        });
        self.open += 1;
        let Some(model) = self.models.get_mut(index) else { return false };
        if job.cut.is_none() {
            model.sent_after.push(now.since(self.rehearsal.start));
        }
        let ticket = job.rehearsed.least_cap.map(|_| job.cut.unwrap_or_else(|| model.sizes.sent()));
        let latency = job.latency.max(Duration::from_millis(1));
        self.plan(now.after(latency.min(SETTLED_IN)), What::SettledIn(way.lane));
        let sent = Sent { job, cap, ticket };
        let call = Call { model: index, lane: way.lane, reservation, account, sent };
        self.plan(now.after(latency), What::Answered(Box::new(call)));
        true
    }

    fn plan(&mut self, at: Timestamp, what: What) {
        self.order += 1;
        self.due.push(Reverse(Due { at, order: self.order, what }));
    }

    fn settled_in(&mut self, lane: usize) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.concurrency.settled_in(self.now, lane.open);
        }
    }

    fn answered(&mut self, call: Call) {
        let (now, start) = (self.now, self.rehearsal.start);
        let (Some(work), Some(model)) = (self.rehearsal.work.get(call.model), self.models.get_mut(call.model)) else {
            return;
        };
        let output = call.sent.job.output.min(u64::from(call.sent.cap));
        let used = call.sent.job.charged.saturating_add(output.saturating_mul(u64::from(work.burndown)));
        self.open = self.open.saturating_sub(1);
        let sent = call.reservation.made.since(start);
        let charges = [Some((call.lane, call.reservation)), call.account];
        for (place, (index, reservation)) in (0..).zip(charges.into_iter().flatten()) {
            let Some(lane) = self.lanes.get_mut(index) else { continue };
            lane.ledger.apply(now, &Event::Settled(reservation, Tokens(used)));
            lane.open = lane.open.saturating_sub(usize::from(place == 0));
            lane.minutes.note(sent, used);
            lane.used += float(used);
            lane.used_today += float(used);
        }
        model.sent.note(sent, used);
        model.calls += 1;
        model.last_answer = now;
        model.learn(work, &call.sent, output);
    }

    fn told(mut self) -> Forecast {
        let start = self.rehearsal.start;
        let (mut work, mut finish) = (Vec::new(), Duration::ZERO);
        let mut times = vec![1.0_f64; self.lanes.len()];
        for (spec, model) in self.rehearsal.work.iter().zip(&mut self.models) {
            let sent = model.sent_after.last().copied().unwrap_or_default();
            let answered = model.last_answer.since(start);
            let left = float(spec.count.saturating_sub(model.next));
            let mut told = std::mem::take(&mut model.told);
            told.held.sort_by_key(|(_, waited)| Reverse(*waited));
            told.rehearsed = answered;
            told.finish = answered;
            if left > 0.0
                && let Some(rate) = model.sent.rate(sent)
            {
                let share = float(spec.count) / float(model.next.max(1));
                told.finish = answered.saturating_add(rest(left, rate, day_use(&self.lanes, spec, model)));
                for way in &spec.ways {
                    for lane in [Some(way.lane), way.account].into_iter().flatten() {
                        times.get_mut(lane).into_iter().for_each(|times| *times = times.max(share));
                    }
                }
                told.never = scaled(told.never, share);
                told.cut = scaled(told.cut, share);
            }
            told.late += scaled(late_of_sample(spec, model, start), spec.share());
            finish = finish.max(told.finish);
            work.push(told);
        }
        let lanes = self.lanes.iter().zip(times).map(|(lane, times)| lane.minutes.over(finish, times)).collect();
        Forecast { finish, work, lanes }
    }
}

/// The tightest quota of the day that its lanes have between them.
fn day_use(lanes: &[Lane], work: &Work, model: &Model) -> Option<DayUse> {
    let of = |index: &dyn Fn(&super::Way) -> Option<usize>| -> Option<DayUse> {
        let mut indices: Vec<usize> = work.ways.iter().map(index).collect::<Option<_>>()?;
        indices.sort_unstable();
        indices.dedup();
        let lanes: Vec<&Lane> = indices.into_iter().filter_map(|index| lanes.get(index)).collect();
        let limits = lanes.iter().map(|lane| lane.ledger.limits().tokens_per_day.map(PerDay::get));
        let limit: u64 = limits.collect::<Option<Vec<_>>>()?.into_iter().sum();
        let used: f64 = lanes.iter().map(|lane| lane.used_today).sum();
        let each = lanes.iter().map(|lane| lane.used).sum::<f64>() / float(model.calls.max(1));
        Some(DayUse { limit: float(limit), used, each })
    };
    let days = [of(&|way| Some(way.lane)), of(&|way| way.account)];
    days.into_iter().flatten().min_by(|a, b| (a.limit / a.each.max(1.0)).total_cmp(&(b.limit / b.each.max(1.0))))
}

struct HoldOf {
    gate: Option<(Hold, Timestamp)>,
    never: bool,
}

fn hold_of(lanes: &mut [Lane], way: &super::Way, now: Timestamp, reserve: Tokens) -> HoldOf {
    let (mut gate, mut never) = (None, false);
    for index in [Some(way.lane), way.account].into_iter().flatten() {
        let Some(lane) = lanes.get_mut(index) else { continue };
        match lane.ledger.ask(now, reserve) {
            Ok(()) => {}
            Err(Refusal::NotUntil { at, binding }) => {
                let hold = Hold::Quota { lane: index, binding };
                gate = [gate, Some((hold, at))].into_iter().flatten().max_by_key(|(_, at)| *at);
            }
            Err(Refusal::Never { .. }) => never = true,
        }
        if gate.is_none() && lane.open >= lane.concurrency.limit() {
            // An answer, or a call that found its place, says so before.
            gate = Some((Hold::Ramp, now.after(Duration::from_secs(1))));
        }
    }
    HoldOf { gate, never }
}
