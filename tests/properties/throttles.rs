//! Is a call that the ledger admits ever refused by the service? For generated arrivals, sizes, latencies, ways and
//! clocks, under every counting.

use std::time::Duration;

use aquifer::rules::pace::Hypothesis;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::client::{Call, Drained, LEAST_INPUT, Manner, Service, drain, learning, on_virtual_time, told};

const LIMIT: u64 = 10_000;

/// What happens to a lane.
#[derive(Clone, Debug)]
struct Story {
    service: Service,
    calls: Vec<Call>,
    into_the_minute: Duration,
    clock_off: Vec<i64>,
    slack: Duration,
}

/// So few throttles, however the arrivals conspire; backlogs take five (`drains`).
const FEW: usize = 20;
/// The longest way to admission, in milliseconds.
const FARTHEST: u64 = 200;
/// Milliseconds by which one worker's clock is ahead of another's.
const APART: i64 = 60;

fn millis() -> impl Strategy<Value = Duration> {
    prop_oneof![
        6 => Just(0),
        4 => 0_u64..3_000,
        // A worker that was asleep, and pauses after which everything has aged.
        1 => 50_000_u64..70_000,
        1 => 0_u64..300_000,
    ]
    .prop_map(Duration::from_millis)
}

fn call() -> impl Strategy<Value = Call> {
    let input = prop_oneof![4 => LEAST_INPUT..400, 1 => LEAST_INPUT..6_000];
    let cap = prop_oneof![3 => 1_u64..400, 1 => 1_u64..4_000];
    let way = || (0..=FARTHEST).prop_map(Duration::from_millis);
    (millis(), input, cap, 0.0_f64..=1.0, way(), way()).prop_map(|(comes, input, cap, share, out, back)| {
        let answer = ((cap as f64 * share) as u64).max(1);
        Call { comes, input, cap, answer, surcharge: 0, out, back }
    })
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    vec(call(), 20..160).prop_map(|mut calls| {
        let mut now = Duration::ZERO;
        for call in &mut calls {
            now += call.comes;
            call.comes = now;
        }
        calls
    })
}

fn service(burndown: impl Strategy<Value = u64>) -> impl Strategy<Value = Service> {
    let counting = proptest::sample::select(Hypothesis::ALL.to_vec());
    let requests = prop_oneof![2 => Just(None), 1 => (5_u64..60).prop_map(Some)];
    // Up to calls that outlive their own charge.
    let latency = prop_oneof![
        (1_u64..500, 0_u64..2_000),
        (1_000_u64..9_000, 0_u64..20_000),
        (30_000_u64..80_000, 0_u64..60_000),
    ];
    let excess = proptest::sample::select(vec!["amend", "append"]);
    (counting, requests, latency, excess, burndown).prop_map(|(counting, requests, (p50, longer), excess, burndown)| {
        let latency = (Duration::from_millis(p50), Duration::from_millis(p50 + longer));
        Service { counting, tokens_per_minute: LIMIT, requests_per_minute: requests, burndown, excess, latency }
    })
}

fn story(burndown: impl Strategy<Value = u64>) -> impl Strategy<Value = Story> {
    let clock_off = vec(-APART..=APART, 1..20);
    (service(burndown), calls(), 0_u64..60_000, clock_off).prop_map(|(service, calls, into_the_minute, clock_off)| {
        let into_the_minute = Duration::from_millis(into_the_minute);
        // The longest way, and the two clocks; one millisecond is lost to rounding.
        let slack = Duration::from_millis(FARTHEST + 2 * APART.unsigned_abs() + 1);
        Story { service, calls, into_the_minute, clock_off, slack }
    })
}

impl Story {
    fn play(&self, learns: bool) -> Drained {
        let terms = if learns { learning(&self.service, self.slack) } else { told(&self.service, self.slack) };
        let manner = Manner {
            terms,
            into_the_minute: self.into_the_minute,
            estimates: false,
            starts_low: false,
            clock_off: self.clock_off.clone(),
        };
        on_virtual_time(drain(&self.service, manner, &self.calls))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, max_shrink_iters: 500, ..ProptestConfig::default() })]

    /// Whatever comes, however long it takes and however its clocks disagree within the slack: a ledger that was told the
    /// counting never lets a call go that the service refuses.
    #[test]
    fn q1_q2_nothing_is_ever_throttled_once_the_counting_is_known(story in story(Just(1))) {
        let drained = story.play(false);
        prop_assert_eq!(drained.report.answered, story.calls.len() as u64);
        prop_assert!(drained.throttled.is_empty(), "{:#?}", drained.throttled);
    }

    /// The service knows of an excess before anybody can tell the ledger, and what was reserved up to then may meet it.
    /// Nothing else is ever throttled, and the debt is kept whichever way the service books it.
    #[test]
    fn q3_only_what_was_reserved_before_an_excess_was_heard_of_is_throttled(story in story(2_u64..15)) {
        let drained = story.play(false);
        prop_assert_eq!(drained.report.answered, story.calls.len() as u64);
        for throttled in &drained.throttled {
            let met = |(reserved, heard): &(_, _)| *reserved <= throttled.heard && throttled.reserved <= *heard;
            prop_assert!(drained.exceeded.iter().any(met), "{throttled:#?}");
        }
    }
    /// Finding out costs a few calls. Once it is found out, nothing is refused but a trial, or what was on its way when a
    /// trial overtook it, or what a trial had made believe.
    #[test]
    fn q1_while_the_counting_is_learned_few_are_throttled_and_afterwards_only_trials(story in story(Just(1))) {
        let mut story = story;
        // A model takes longer than a packet; else answers tell of trials before the calls that they overtook are refused.
        story.service.latency.0 += Duration::from_secs(1);
        story.service.latency.1 += Duration::from_secs(1);
        let drained = story.play(true);
        prop_assert_eq!(drained.report.answered, story.calls.len() as u64);
        for throttled in &drained.throttled {
            let known = throttled.stood.countings == [story.service.counting] && throttled.stood.limit <= Some(LIMIT);
            let mut trials = drained.trials.iter();
            let tried = trials.any(|reserved| throttled.reserved <= *reserved && *reserved <= throttled.heard);
            prop_assert!(!known || tried, "{throttled:#?}");
        }
        prop_assert!(drained.throttled.len() <= FEW, "{:#?}", drained.throttled);
    }
}
