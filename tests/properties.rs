//! The rules, against independent and slower arithmetic: generated arrivals, sizes and settlements.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use aquifer::job::failure::Class;
use aquifer::job::units::{PerDay, PerMinute, Tokens};
use aquifer::rules::estimate::{InputEstimate, OutputEstimate};
use aquifer::rules::pace::{Binding, LaneLedger, Limits, Refusal, Reservation};
use aquifer::rules::retry;
use proptest::collection::vec;
use proptest::prelude::*;

const WINDOW: Duration = Duration::from_secs(60);
const NANO: Duration = Duration::from_nanos(1);

// ------------------------------------------------------------------------------------------------------ pacing

/// One thing that happens on a lane. Indexes pick among the open calls.
#[derive(Clone, Debug)]
enum Step {
    /// Time goes on.
    Pass(Duration),
    /// A job asks; if it is refused it goes away.
    Ask(u64),
    /// A job asks; if it is refused it waits until the instant it was told.
    AskAndWait(u64),
    /// A call is answered and used so many percent of what was reserved.
    Settle { which: usize, percent: u64 },
    /// A call was refused before any work.
    Release(usize),
    /// Nobody knows how a call ended.
    Keep(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pass = prop_oneof![
        4 => (0_u64..3_000_000_000).prop_map(Duration::from_nanos),
        // Whole seconds, so that charges meet the very edge of the window.
        3 => (0_u64..=60).prop_map(Duration::from_secs),
        1 => (0_u64..200).prop_map(Duration::from_secs),
    ];
    let size = || prop_oneof![Just(0_u64), 1_u64..40, 1_u64..=120];
    let step = prop_oneof![
        5 => pass.prop_map(Step::Pass),
        6 => size().prop_map(Step::Ask),
        3 => size().prop_map(Step::AskAndWait),
        4 => (any::<usize>(), 0_u64..300).prop_map(|(which, percent)| Step::Settle { which, percent }),
        1 => any::<usize>().prop_map(Step::Release),
        1 => any::<usize>().prop_map(Step::Keep),
    ];
    vec(step, 1..120)
}

/// Some charge, as the oracle remembers it for ever.
#[derive(Clone, Copy, Debug)]
struct Charge {
    made: Instant,
    tokens: u64,
    requests: u64,
}

/// Keeps every charge and adds all of them up at every question: nothing that could be wrong in the same way.
struct Oracle {
    limits: Limits,
    charges: Vec<Charge>,
}

impl Oracle {
    fn sum(&self, now: Instant, of: impl Fn(&Charge) -> u64) -> u64 {
        self.charges.iter().filter(|charge| charge.made <= now && now < charge.made + WINDOW).map(of).sum()
    }

    fn admits(&self, now: Instant, tokens: u64) -> bool {
        let fits = |limit: Option<PerMinute>, sum: u64| limit.is_none_or(|limit| sum <= limit.get());
        fits(self.limits.tokens_per_minute, self.sum(now, |charge| charge.tokens) + tokens)
            && fits(self.limits.requests_per_minute, self.sum(now, |charge| charge.requests) + 1)
    }
}

/// A lane and the oracle beside it, with the calls that are open.
struct World {
    now: Instant,
    lane: LaneLedger,
    oracle: Oracle,
    open: Vec<(Reservation, usize)>,
}

impl World {
    fn new(limits: Limits) -> Self {
        let oracle = Oracle { limits, charges: Vec::new() };
        Self { now: Instant::now(), lane: LaneLedger::new(limits), oracle, open: Vec::new() }
    }

    fn take(&mut self, which: usize) -> Option<(Reservation, usize)> {
        (!self.open.is_empty()).then(|| self.open.swap_remove(which % self.open.len()))
    }

    fn reserve(&mut self, tokens: u64) -> Result<(), Refusal> {
        let reservation = self.lane.reserve(self.now, Tokens(tokens))?;
        self.open.push((reservation, self.oracle.charges.len()));
        self.oracle.charges.push(Charge { made: self.now, tokens, requests: 1 });
        Ok(())
    }

    /// Asks, checks the answer against the oracle, and says until when it was refused.
    fn ask(&mut self, tokens: u64) -> Result<Option<Instant>, TestCaseError> {
        let allowed = self.oracle.admits(self.now, tokens);
        let limit = self.oracle.limits.tokens_per_minute.map(PerMinute::get);
        match self.reserve(tokens) {
            Ok(()) => prop_assert!(allowed, "admitted {tokens} beyond the limit"),
            Err(Refusal::Never { needed, .. }) => {
                prop_assert_eq!(needed, Tokens(tokens));
                prop_assert!(limit.is_some_and(|limit| tokens > limit), "never, though it would fit");
            }
            Err(Refusal::NotUntil { at, .. }) => {
                prop_assert!(!allowed, "refused {tokens} though they fit");
                prop_assert!(at > self.now, "a refusal until the past");
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Pass(time) => self.now += time,
            Step::Ask(tokens) => {
                self.ask(tokens)?;
            }
            Step::AskAndWait(tokens) => {
                if let Some(at) = self.ask(tokens)? {
                    self.now = self.now.max(at - NANO);
                    prop_assert_eq!(
                        self.ask(tokens)?.or(Some(at)),
                        Some(at),
                        "the instant moved though nothing happened"
                    );
                    prop_assert!(self.lane.ask(at - NANO, Tokens(tokens)).is_err(), "admitted before its instant");
                    self.now = at;
                    prop_assert!(self.ask(tokens)?.is_none(), "refused at its own instant");
                }
            }
            Step::Settle { which, percent } => {
                if let Some((reservation, charge)) = self.take(which) {
                    let used = reservation.tokens().0 * percent / 100 + percent % 3;
                    let charge = &mut self.oracle.charges[charge];
                    if used <= charge.tokens {
                        charge.tokens = used;
                    } else {
                        let excess = used - charge.tokens;
                        self.oracle.charges.push(Charge { made: self.now, tokens: excess, requests: 0 });
                    }
                    self.lane.settle(reservation, self.now, Tokens(used));
                }
            }
            Step::Release(which) => {
                if let Some((reservation, charge)) = self.take(which) {
                    let charge = &mut self.oracle.charges[charge];
                    (charge.tokens, charge.requests) = (0, 0);
                    self.lane.release(reservation);
                }
            }
            Step::Keep(which) => {
                if let Some((reservation, _)) = self.take(which) {
                    self.lane.keep(reservation);
                }
            }
        }
        if self.oracle.limits != Limits::default() {
            prop_assert_eq!(self.lane.used(self.now).0, self.oracle.sum(self.now, |charge| charge.tokens));
        }
        Ok(())
    }
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What was admitted, settled, released and left open, against a sum over everything that ever happened: never
    /// one token too many, never one refused that fits, every refusal exact to the nanosecond.
    #[test]
    fn q2_q3_q4_q6_q7_q10_the_ledger_agrees_with_a_sum_over_everything(limits in limits(), steps in steps()) {
        let mut world = World::new(limits);
        for step in &steps {
            world.step(step)?;
        }
    }

    /// Whatever arrives, no window of 60 s, wherever it begins, holds more reservations than the limits: settlements that
    /// give nothing back, so that the charges are the whole truth.
    #[test]
    fn q1_q2_no_window_of_sixty_seconds_holds_more_than_the_limit(
        arrivals in vec((0_u64..20_000, 1_u64..=100), 1..200),
        requests in 1_u64..20,
    ) {
        let limits = Limits {
            tokens_per_minute: PerMinute::new(100),
            requests_per_minute: PerMinute::new(requests),
            tokens_per_day: None,
        };
        let mut world = World::new(limits);
        for (millis, tokens) in arrivals {
            world.now += Duration::from_millis(millis);
            let _refused_is_fine = world.reserve(tokens);
        }
        let made: Vec<_> = world.oracle.charges.iter().map(|charge| charge.made).collect();
        for start in made {
            let within = |charge: &&Charge| start <= charge.made && charge.made < start + WINDOW;
            let charges = || world.oracle.charges.iter().filter(within);
            prop_assert!(charges().map(|charge| charge.tokens).sum::<u64>() <= 100);
            prop_assert!(charges().count() as u64 <= requests);
        }
    }

    /// Jobs that wait as they are told get through in the fewest windows: the last is admitted after as many minutes as
    /// there are whole quotas before it.
    #[test]
    fn f8_the_whole_quota_is_used(sizes in vec(1_u64..=100, 1..150)) {
        let mut world = World::new(Limits { tokens_per_minute: PerMinute::new(1_000), ..Limits::default() });
        let start = world.now;
        for size in &sizes {
            if let Some(at) = world.ask(*size)? {
                world.now = at;
                prop_assert_eq!(world.ask(*size)?, None);
            }
        }
        let total: u64 = sizes.iter().sum();
        // At most one job's size of each window is lost to the gap before the next job.
        let windows = total.div_ceil(1_000 - 100);
        prop_assert!(world.now - start <= WINDOW * u32::try_from(windows.saturating_sub(1)).unwrap());
    }

    /// A token limit holds without a request limit, a request limit without a token limit, a day's without either.
    #[test]
    fn f9_each_limit_stands_alone(limit in 1_u64..50, sizes in vec(1_u64..10, 1..100)) {
        let only = |limits: Limits| {
            let mut lane = LaneLedger::new(limits);
            let now = Instant::now();
            let mut kept = Vec::new();
            let mut bindings = Vec::new();
            for size in &sizes {
                match lane.reserve(now, Tokens(*size)) {
                    Ok(reservation) => kept.push(reservation),
                    Err(Refusal::NotUntil { binding, .. }) => bindings.push(binding),
                    Err(Refusal::Never { .. }) => {}
                }
            }
            (kept.iter().map(|kept| kept.tokens().0).sum::<u64>(), kept.len() as u64, bindings)
        };
        let all: u64 = sizes.iter().sum();
        let count = sizes.len() as u64;

        let (tokens, _, bindings) = only(Limits { tokens_per_minute: PerMinute::new(limit), ..Limits::default() });
        prop_assert!(tokens <= limit);
        prop_assert!(bindings.iter().all(|binding| *binding == Binding::Tokens));
        prop_assert!(tokens == all || limit - tokens < 10, "and it is not held below its limit either");

        let (_, requests, bindings) = only(Limits { requests_per_minute: PerMinute::new(limit), ..Limits::default() });
        prop_assert_eq!(requests, limit.min(count));
        prop_assert!(bindings.iter().all(|binding| *binding == Binding::Requests));

        let (tokens, _, bindings) = only(Limits { tokens_per_day: PerDay::new(limit), ..Limits::default() });
        prop_assert!(tokens <= limit);
        prop_assert!(bindings.iter().all(|binding| *binding == Binding::Day));
        prop_assert!(tokens == all || limit - tokens < 10);
    }

    /// No 24 hours hold more than the day's quota, and a refusal is exact there too.
    #[test]
    fn q9_no_day_holds_more_than_its_limit(arrivals in vec((0_u64..20_000, 1_u64..=100, 0_u64..=100), 1..150)) {
        let mut lane = LaneLedger::new(Limits { tokens_per_day: PerDay::new(300), ..Limits::default() });
        let day = Duration::from_secs(86_400);
        let mut now = Instant::now();
        let mut charges = Vec::new();
        for (seconds, tokens, percent) in arrivals {
            now += Duration::from_secs(seconds);
            match lane.reserve(now, Tokens(tokens)) {
                Ok(reservation) => {
                    let used = tokens * percent / 100;
                    lane.settle(reservation, now, Tokens(used));
                    charges.push((now, used));
                }
                Err(Refusal::NotUntil { at, .. }) => {
                    prop_assert!(at <= now + day + Duration::from_secs(600));
                    prop_assert!(lane.ask(at - NANO, Tokens(tokens)).is_err());
                    prop_assert!(lane.ask(at, Tokens(tokens)).is_ok());
                    now = at;
                }
                Err(Refusal::Never { .. }) => prop_assert!(false, "nothing here is larger than the quota"),
            }
        }
        for (start, _) in &charges {
            let within = charges.iter().filter(|(made, _)| start <= made && *made < *start + day);
            prop_assert!(within.map(|(_, tokens)| tokens).sum::<u64>() <= 300);
        }
    }
}

// ------------------------------------------------------------------------------------------------------- retry

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn t2_a_back_off_never_passes_its_ceiling_and_nothing_overflows(
        class in proptest::sample::select(Class::ALL.to_vec()),
        attempt in any::<u32>(),
        random in any::<f64>(),
    ) {
        let wait = retry::back_off(class, attempt, random);
        prop_assert!(wait <= retry::ceiling(class, attempt));
        prop_assert!(retry::ceiling(class, attempt) <= Duration::from_secs(30));
        prop_assert!(retry::ceiling(class, attempt) <= retry::ceiling(class, attempt.saturating_add(1)));
    }
}

// --------------------------------------------------------------------------------------------------- estimates

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any language (bytes per token), any frame around a request, sizes over two orders of magnitude, 20 % noise: after
    /// 200 answers the sum over the next 200 is within 5 %.
    #[test]
    fn estimates_of_a_whole_batch_are_within_five_percent_after_200_answers(
        bytes_per_token in 1.5_f64..6.0,
        frame in 0.0_f64..16.0,
        texts in vec((100_u64..10_000, -0.2_f64..0.2), 400..401),
    ) {
        let count = |bytes: u64, noise: f64| Tokens(((bytes as f64 / bytes_per_token) * (1.0 + noise) + frame).round() as u64);
        let mut model = InputEstimate::new();
        for (bytes, noise) in &texts[..200] {
            model.learn(*bytes, count(*bytes, *noise));
        }
        let rest = &texts[200..];
        let estimated: u64 = rest.iter().map(|(bytes, _)| model.expected(*bytes).0).sum();
        let truth: u64 = rest.iter().map(|(bytes, noise)| count(*bytes, *noise).0).sum();
        prop_assert!(estimated.abs_diff(truth) as f64 <= truth as f64 * 0.05, "{estimated} for {truth}");
        let above = rest.iter().filter(|(bytes, noise)| count(*bytes, *noise) > model.reserve(*bytes)).count();
        prop_assert!(above <= 40, "{above} of 200 were larger than reserved");
        let reserved: u64 = rest.iter().map(|(bytes, _)| model.reserve(*bytes).0).sum();
        prop_assert!(reserved as f64 <= truth as f64 * 1.4, "{reserved} reserved for {truth}");
    }

    #[test]
    fn the_mean_of_the_output_is_the_mean(answers in vec(1_u64..4_000, 1..300)) {
        let mut model = OutputEstimate::new();
        for tokens in &answers {
            model.learn(Tokens(*tokens));
        }
        let mean = answers.iter().sum::<u64>() as f64 / answers.len() as f64;
        prop_assert!((model.expected(Tokens(u64::MAX)).0 as f64 - mean).abs() <= 1.001);
    }
}
