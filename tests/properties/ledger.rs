//! One ledger against a list of everything that ever happened, which is added up at every question.
//!
//! Times are tenths of a second wherever the list is compared to the very moment, because the ledger keeps charges within
//! a tenth as one; what is not compared is `throttles`' to prove.

use std::time::Duration;

use aquifer::job::units::{PerDay, PerMinute, Timestamp, Tokens};
use aquifer::rules::pace::{
    Binding, Counting, Event, Hypothesis, LaneLedger, Limits, Quota, Refusal, Reservation, Terms,
};
use proptest::collection::vec;
use proptest::prelude::*;

const START: Timestamp = Timestamp(1_800_000_000_000);
const MINUTE: i64 = 60_000;
const GRAIN: i64 = 100;
const TICK: Duration = Duration::from_millis(1);

fn ledger(limits: Limits, counting: Counting) -> LaneLedger {
    LaneLedger::new(Terms { limits, counting, slack: Duration::ZERO, first_alone: false })
}

fn any_counting() -> impl Strategy<Value = Counting> {
    let told = proptest::sample::select(Hypothesis::ALL.to_vec()).prop_map(Counting::Known);
    prop_oneof![3 => told, 1 => Just(Counting::Learn)]
}

fn limits() -> impl Strategy<Value = Limits> {
    let tokens = prop_oneof![1 => Just(None), 4 => (1_u64..150).prop_map(PerMinute::new)];
    let requests = prop_oneof![2 => Just(None), 3 => (1_u64..12).prop_map(PerMinute::new)];
    (tokens, requests).prop_map(|(tokens_per_minute, requests_per_minute)| Limits {
        tokens_per_minute,
        requests_per_minute,
        tokens_per_day: None,
    })
}

/// One thing that happens on a lane. Indexes pick among the open calls.
#[derive(Clone, Debug)]
enum Step {
    /// Time goes on by so many tenths of a second.
    Pass(i64),
    /// A clock that is behind asks.
    AskFromThePast { tokens: u64, tenths: i64 },
    /// A job asks; if it is refused it goes away.
    Ask(u64),
    /// A call is answered and used so many percent of what was reserved.
    Settle { which: usize, percent: u64 },
    /// A call was refused before any work.
    Release(usize),
    /// Nobody knows how a call ended.
    Keep(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pass = prop_oneof![
        4 => 0_i64..30,
        // Whole seconds, so that charges meet the very edge of the window.
        3 => (0_i64..=60).prop_map(|seconds| seconds * 10),
        1 => 0_i64..2_000,
    ];
    let size = || prop_oneof![Just(0_u64), 1_u64..40, 1_u64..=120];
    let step = prop_oneof![
        5 => pass.prop_map(Step::Pass),
        1 => (size(), 0_i64..100).prop_map(|(tokens, tenths)| Step::AskFromThePast { tokens, tenths }),
        8 => size().prop_map(Step::Ask),
        4 => (any::<usize>(), 0_u64..300).prop_map(|(which, percent)| Step::Settle { which, percent }),
        1 => any::<usize>().prop_map(Step::Release),
        1 => any::<usize>().prop_map(Step::Keep),
    ];
    vec(step, 1..120)
}

/// Some charge or refund, as the list remembers it for ever.
#[derive(Clone, Copy, Debug)]
struct Charge {
    made: Timestamp,
    tokens: u64,
    requests: u64,
}

/// What a bucket gains or loses when.
#[derive(Clone, Copy, Debug)]
struct Change {
    at: Timestamp,
    /// Of a charge: what it was given back in the same moment is no change of its own.
    charge: Option<usize>,
    tokens: i128,
    requests: i128,
}

/// Keeps everything and adds all of it up at every question: nothing that could be wrong in the same way.
struct Everything {
    limits: Limits,
    counting: Hypothesis,
    charges: Vec<Charge>,
    changes: Vec<Change>,
}

impl Everything {
    fn in_window(&self, now: Timestamp, of: impl Fn(&Charge) -> u64) -> u64 {
        let counts = |made: Timestamp| match self.counting {
            Hypothesis::Sliding => now.0 - made.0 < MINUTE,
            Hypothesis::Fixed => made.0.div_euclid(MINUTE) == now.0.div_euclid(MINUTE),
            Hypothesis::Bucket => unreachable!("a bucket has no window"),
        };
        self.charges.iter().filter(|charge| counts(charge.made)).map(of).sum()
    }

    /// Sixty-thousandths of a unit that are in the bucket.
    fn level(&self, now: Timestamp, limit: u64, of: impl Fn(&Change) -> i128) -> i128 {
        let (full, rate) = (i128::from(limit) * i128::from(MINUTE), i128::from(limit));
        let (mut level, mut at) = (full, START);
        // What happened in the same moment may have happened in any order: a refund that comes first may be lost on a bucket
        // that is full.
        let mut changes = self.changes.clone();
        changes.sort_by_key(|change| (change.at, change.charge.is_some()));
        for change in &changes {
            level = (level + i128::from(change.at.0 - at.0) * rate).min(full);
            level = (level - of(change) * i128::from(MINUTE)).min(full);
            at = change.at;
        }
        (level + i128::from(now.0 - at.0) * rate).min(full)
    }

    fn admits(&self, now: Timestamp, tokens: u64) -> bool {
        let (by_tokens, by_requests) = (self.limits.tokens_per_minute, self.limits.requests_per_minute);
        match self.counting {
            Hypothesis::Bucket => {
                let fits = |limit: Option<PerMinute>, needed: u64, of: fn(&Change) -> i128| {
                    let level = limit.map(|limit| self.level(now, limit.get(), of));
                    level.is_none_or(|level| i128::from(needed) * i128::from(MINUTE) <= level)
                };
                fits(by_tokens, tokens, |change| change.tokens) && fits(by_requests, 1, |change| change.requests)
            }
            Hypothesis::Sliding | Hypothesis::Fixed => {
                let fits = |limit: Option<PerMinute>, needed: u64, of: fn(&Charge) -> u64| {
                    limit.is_none_or(|limit| self.in_window(now, of) + needed <= limit.get())
                };
                fits(by_tokens, tokens, |charge| charge.tokens) && fits(by_requests, 1, |charge| charge.requests)
            }
        }
    }

    fn charge(&mut self, made: Timestamp, tokens: u64, requests: u64) {
        let charge = Some(self.charges.len());
        self.charges.push(Charge { made, tokens, requests });
        self.changes.push(Change { at: made, charge, tokens: i128::from(tokens), requests: i128::from(requests) });
    }

    fn give_back(&mut self, now: Timestamp, charge: usize, tokens: u64, requests: u64) {
        self.charges[charge].tokens -= tokens;
        self.charges[charge].requests -= requests;
        let (tokens, requests) = (i128::from(tokens), i128::from(requests));
        let of_now = self.changes.iter_mut().find(|change| change.at == now && change.charge == Some(charge));
        if let Some(change) = of_now {
            change.tokens -= tokens;
            change.requests -= requests;
        } else {
            self.changes.push(Change { at: now, charge: None, tokens: -tokens, requests: -requests });
        }
    }
}

/// A lane and the list beside it, with the calls that are open.
struct World {
    now: Timestamp,
    lane: LaneLedger,
    all: Everything,
    open: Vec<(Reservation, usize)>,
}

impl World {
    fn new(limits: Limits, counting: Hypothesis) -> Self {
        let all = Everything { limits, counting, charges: Vec::new(), changes: Vec::new() };
        Self { now: START, lane: ledger(limits, Counting::Known(counting)), all, open: Vec::new() }
    }

    fn take(&mut self, which: usize) -> Option<(Reservation, usize)> {
        (!self.open.is_empty()).then(|| self.open.swap_remove(which % self.open.len()))
    }

    fn ask(&mut self, clock: Timestamp, tokens: u64) -> Result<(), TestCaseError> {
        let allowed = self.all.admits(self.now, tokens);
        let limit = self.all.limits.tokens_per_minute.map(PerMinute::get);
        let before = self.lane.clone();
        match self.lane.reserve(clock, Tokens(tokens)) {
            Ok(reservation) => {
                prop_assert!(allowed, "admitted {tokens} beyond the limit");
                prop_assert_eq!((reservation.made, reservation.tokens), (self.now, Tokens(tokens)));
                self.open.push((reservation, self.all.charges.len()));
                self.all.charge(self.now, tokens, 1);
            }
            Err(Refusal::Never { needed, limit: largest }) => {
                prop_assert_eq!((needed, Some(largest.0)), (Tokens(tokens), limit));
                prop_assert!(tokens > largest.0, "never, though it would fit");
            }
            Err(Refusal::NotUntil { at, .. }) => {
                prop_assert!(!allowed, "refused {tokens} though they fit");
                prop_assert!(self.all.admits(at, tokens), "told to come back too early");
                prop_assert!(!self.all.admits(at - TICK, tokens), "told to come back too late");
                exact(&before, at, tokens)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Pass(tenths) => self.now = Timestamp(self.now.0 + tenths * GRAIN),
            Step::Ask(tokens) => self.ask(self.now, tokens)?,
            Step::AskFromThePast { tokens, tenths } => {
                self.lane.used(self.now);
                self.ask(Timestamp(self.now.0 - tenths * GRAIN), tokens)?;
            }
            Step::Settle { which, percent } => {
                if let Some((reservation, charge)) = self.take(which) {
                    let used = reservation.tokens.0 * percent / 100 + percent % 3;
                    let reserved = reservation.tokens.0;
                    self.all.give_back(self.now, charge, reserved.saturating_sub(used), 0);
                    if used > reserved {
                        self.all.charge(self.now, used - reserved, 0);
                    }
                    self.lane.apply(self.now, &Event::Settled(reservation, Tokens(used)));
                }
            }
            Step::Release(which) => {
                if let Some((reservation, charge)) = self.take(which) {
                    self.all.give_back(self.now, charge, reservation.tokens.0, 1);
                    self.lane.apply(self.now, &Event::Released(reservation));
                }
            }
            Step::Keep(which) => {
                if let Some((reservation, _)) = self.take(which) {
                    self.lane.apply(self.now, &Event::Kept(reservation));
                }
            }
        }
        let aged = |charge: &&Charge| self.now.0 - charge.made.0 < MINUTE;
        let charged: u64 = self.all.charges.iter().filter(aged).map(|charge| charge.tokens).sum();
        prop_assert_eq!(self.lane.used(self.now).0, charged, "a token was lost or made");
        Ok(())
    }
}

/// Refused up to the tick before, admitted at the very moment, and the moment stays the same while nothing happens.
fn exact(lane: &LaneLedger, at: Timestamp, tokens: u64) -> Result<(), TestCaseError> {
    let refused = lane.clone().ask(at - TICK, Tokens(tokens));
    let same = matches!(refused, Err(Refusal::NotUntil { at: then, .. }) if then == at);
    prop_assert!(same, "before {at}: {refused:?}");
    prop_assert_eq!(lane.clone().ask(at, Tokens(tokens)), Ok(()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What was admitted, settled, released and left open, against everything that ever happened: never one token too
    /// many, never one refused that fits, every refusal exact, under each counting.
    #[test]
    fn q2_q3_q4_q5_q6_q7_q10_the_ledger_agrees_with_a_list_of_everything(
        limits in limits(),
        counting in proptest::sample::select(Hypothesis::ALL.to_vec()),
        steps in steps(),
    ) {
        let mut world = World::new(limits, counting);
        for step in &steps {
            world.step(step)?;
        }
    }

    /// A lane that learns is at times paused, in a trial, out of tokens for the day and over its minute, all at once.
    #[test]
    fn q7_a_refusal_is_exact_whatever_gates_are_shut(
        counting in any_counting(),
        limits in limits(),
        day in prop_oneof![Just(None), (150_u64..600).prop_map(PerDay::new)],
        slack in 0_u64..500,
        first_alone in any::<bool>(),
        steps in vec((0_u64..20_000, 0_u64..150, 0_u8..8, 0_u64..100), 1..80),
    ) {
        let limits = Limits { tokens_per_day: day, ..limits };
        let mut lane = LaneLedger::new(Terms { limits, counting, slack: Duration::from_millis(slack), first_alone });
        let mut now = START;
        for (millis, tokens, fate, percent) in steps {
            now = now + Duration::from_millis(millis);
            match lane.reserve(now, Tokens(tokens)) {
                Ok(reservation) => {
                    let soon = Duration::from_millis(percent);
                    match fate {
                        0 => lane.apply(now + soon, &Event::Throttled(reservation, Quota::Tokens, None)),
                        1 => lane.apply(now + soon, &Event::Throttled(reservation, Quota::Requests, Some(soon * 500))),
                        2 => lane.apply(now + soon, &Event::DayExhausted(reservation, None)),
                        3 => lane.apply(now + soon, &Event::Released(reservation)),
                        4 | 5 => lane.apply(now + soon, &Event::Settled(reservation, Tokens(tokens * percent / 50))),
                        _ => {}
                    }
                    now = lane.latest();
                }
                // When the limit is tried next is settled by who asks first.
                Err(Refusal::NotUntil { at, .. }) => exact(&lane, at, tokens)?,
                Err(Refusal::Never { needed, limit }) => prop_assert!(needed > limit),
            }
        }
    }

    /// Jobs that wait as they are told use nearly the whole quota: what is lost to the gap before a job is one job a minute.
    #[test]
    fn f8_the_whole_quota_is_used(
        counting in proptest::sample::select(Hypothesis::ALL.to_vec()),
        sizes in vec(1_u64..=100, 1..150),
    ) {
        let limits = Limits { tokens_per_minute: PerMinute::new(1_000), ..Limits::default() };
        let mut lane = ledger(limits, Counting::Known(counting));
        let mut now = START;
        for size in &sizes {
            if let Err(refused) = lane.ask(now, Tokens(*size)) {
                let Refusal::NotUntil { at, .. } = refused else { return Err(TestCaseError::fail("all fit")) };
                now = at;
            }
            let reservation = lane.reserve(now, Tokens(*size)).unwrap();
            lane.apply(now, &Event::Settled(reservation, Tokens(*size)));
        }
        let total: u64 = sizes.iter().sum();
        let took = now.since(START).as_millis();
        match counting {
            Hypothesis::Bucket => prop_assert!(took <= u128::from(total.saturating_sub(1_000)) * 60 + 1),
            Hypothesis::Sliding | Hypothesis::Fixed => {
                let minutes = total.div_ceil(1_000 - 100).saturating_sub(1);
                prop_assert!(took <= u128::from(minutes) * 60_000);
            }
        }
    }

    /// A token limit holds without a request limit, a request limit without a token limit, a day's without either.
    #[test]
    fn q9_f9_each_limit_stands_alone(
        counting in proptest::sample::select(Hypothesis::ALL.to_vec()),
        limit in 10_u64..50,
        sizes in vec(1_u64..10, 1..100),
    ) {
        let only = |limits: Limits| {
            let mut lane = ledger(limits, Counting::Known(counting));
            let mut kept = Vec::new();
            let mut bindings = Vec::new();
            for size in &sizes {
                match lane.reserve(START, Tokens(*size)) {
                    Ok(reservation) => kept.push(reservation.tokens.0),
                    Err(Refusal::NotUntil { binding, .. }) => bindings.push(binding),
                    Err(never) => panic!("{never}"),
                }
            }
            (kept.iter().sum::<u64>(), kept.len() as u64, bindings)
        };
        let all: u64 = sizes.iter().sum();

        let (tokens, _, bindings) = only(Limits { tokens_per_minute: PerMinute::new(limit), ..Limits::default() });
        prop_assert!(tokens <= limit);
        prop_assert!(bindings.iter().all(|binding| *binding == Binding::Tokens));
        prop_assert!(tokens == all || limit - tokens < 10, "and it is not held below its limit either");

        let (_, requests, bindings) = only(Limits { requests_per_minute: PerMinute::new(limit), ..Limits::default() });
        prop_assert_eq!(requests, limit.min(sizes.len() as u64));
        prop_assert!(bindings.iter().all(|binding| *binding == Binding::Requests));

        let (tokens, _, bindings) = only(Limits { tokens_per_day: PerDay::new(limit), ..Limits::default() });
        prop_assert!(tokens <= limit);
        prop_assert!(bindings.iter().all(|binding| *binding == Binding::Day));
        prop_assert!(tokens == all || limit - tokens < 10);
    }

    /// What no limit ever admits is refused as such by the smallest that it exceeds, at once and for every counting.
    #[test]
    fn q6_what_can_never_fit_is_told_from_what_has_to_wait(
        counting in any_counting(),
        minute in proptest::option::of(1_u64..1_000),
        day in proptest::option::of(1_u64..1_000),
        tokens in 0_u64..1_500,
        charged in 0_u64..500,
    ) {
        let limits = Limits {
            tokens_per_minute: minute.and_then(PerMinute::new),
            tokens_per_day: day.and_then(PerDay::new),
            requests_per_minute: None,
        };
        let mut lane = ledger(limits, counting);
        let _open = lane.reserve(START, Tokens(charged));
        let answer = lane.reserve(START + TICK, Tokens(tokens));
        match minute.into_iter().chain(day).min() {
            Some(limit) if limit < tokens => {
                prop_assert_eq!(answer, Err(Refusal::Never { needed: Tokens(tokens), limit: Tokens(limit) }));
            }
            Some(_) | None => prop_assert!(!matches!(answer, Err(Refusal::Never { .. })), "{answer:?}"),
        }
    }

    /// No 24 hours hold more than the day's quota.
    #[test]
    fn q9_no_day_holds_more_than_its_limit(arrivals in vec((0_u64..20_000, 1_u64..=100, 0_u64..=100), 1..150)) {
        let mut lane = ledger(Limits { tokens_per_day: PerDay::new(300), ..Limits::default() }, Counting::Learn);
        let day = Duration::from_secs(86_400);
        let mut now = START;
        let mut charges = Vec::new();
        for (seconds, tokens, percent) in arrivals {
            now = now + Duration::from_secs(seconds);
            if let Err(refused) = lane.ask(now, Tokens(tokens)) {
                let Refusal::NotUntil { at, .. } = refused else { return Err(TestCaseError::fail("all fit")) };
                prop_assert!(at <= now + day + Duration::from_secs(600));
                exact(&lane, at, tokens)?;
                now = at;
            }
            let reservation = lane.reserve(now, Tokens(tokens)).unwrap();
            let used = tokens * percent / 100;
            lane.apply(now, &Event::Settled(reservation, Tokens(used)));
            charges.push((now, used));
        }
        for (start, _) in &charges {
            let within = charges.iter().filter(|(made, _)| start <= made && *made < *start + day);
            prop_assert!(within.map(|(_, tokens)| tokens).sum::<u64>() <= 300);
        }
    }
}
