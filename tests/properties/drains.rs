//! How fast is a backlog drained by the rules alone, and at the price of how many throttles?
//!
//! Real request sizes (benches/data/README.md says whose) at 200,000 tokens a minute: five and a half minutes' worth, so
//! that the optimum is no matter of luck. The bars are those of the design: three percent and one call over the optimum.

use std::time::Duration;

use aquifer::rules::pace::{Counting, Hypothesis, Terms};

use crate::client::{Call, Drained, LEAST_INPUT, Manner, Service, drain, learning, on_virtual_time, told};

const TRACE: &str = include_str!("../../benches/data/azure-llm-2023-code.csv");
const LIMIT: u64 = 200_000;
const CAP: u64 = 256;
/// What one call in a hundred takes: "one call" of the bars, since the last of a backlog may be such a one.
const ONE_CALL: Duration = Duration::from_secs(3);
/// The first call is made at the fifth second of the clock's minute.
const INTO_THE_MINUTE: Duration = Duration::from_secs(5);
/// A worker's own: admission and the way to it take less.
const SLACK: Duration = Duration::from_millis(300);

fn service(counting: Hypothesis) -> Service {
    Service {
        counting,
        tokens_per_minute: LIMIT,
        requests_per_minute: None,
        burndown: 1,
        excess: "append",
        latency: (Duration::from_secs(2), ONE_CALL),
    }
}

/// As many jobs as settle to five and a half minutes of quota, from a place in the trace.
fn backlog(from: usize, burndown: u64) -> Vec<Call> {
    let sizes: Vec<(u64, u64)> = TRACE
        .lines()
        .skip(1)
        .map(|line| line.split_once(',').unwrap())
        .map(|(input, output)| (input.parse().unwrap(), output.parse().unwrap()))
        .collect();
    let mut calls = Vec::new();
    let mut settled = 0;
    while settled < LIMIT * 11 / 2 {
        let number = from + calls.len();
        // A step prime to the length: in an order that has nothing to do with when they came.
        let (input, output) = sizes[number * 1_301 % sizes.len()];
        let way = |step: usize| Duration::from_millis(20 + (number * step % 60) as u64);
        let input = input.max(LEAST_INPUT);
        let call = Call {
            comes: Duration::ZERO,
            input,
            cap: CAP,
            answer: output.clamp(1, CAP),
            // That answers cost more than the cap is known beforehand, but for the longest.
            surcharge: (90 * burndown).saturating_sub(CAP),
            out: way(37),
            back: way(53),
        };
        settled += call.settlement(burndown);
        calls.push(call);
    }
    calls
}

/// The least time in which the service lets so much through.
fn optimum(counting: Hypothesis, settled: u64) -> Duration {
    let minutes = settled as f64 / LIMIT as f64;
    assert!((0.3..=0.7).contains(&minutes.fract()), "{minutes} minutes' worth say little");
    match counting {
        Hypothesis::Bucket => Duration::from_secs_f64(60.0 * (minutes - 1.0)),
        Hypothesis::Sliding => Duration::from_secs_f64(60.0 * (minutes.ceil() - 1.0)),
        Hypothesis::Fixed => Duration::from_secs_f64(60.0 * (minutes.ceil() - 1.0)) - INTO_THE_MINUTE,
    }
}

fn run(service: &Service, terms: Terms, calls: &[Call]) -> Drained {
    let manner =
        Manner { terms, into_the_minute: INTO_THE_MINUTE, estimates: true, starts_low: true, clock_off: Vec::new() };
    on_virtual_time(drain(service, manner, calls))
}

#[track_caller]
fn assert_drained(service: &Service, terms: Terms, from: usize) {
    let calls = backlog(from, service.burndown);
    let drained = run(service, terms, &calls);
    let what = format!("{:?} {:?} {} from {from}", service.counting, terms.counting, service.excess);
    assert_eq!(drained.report.answered, calls.len() as u64, "{what}");
    let optimum = optimum(service.counting, drained.report.settled_tokens);
    let ratio = drained.took.as_secs_f64() / optimum.as_secs_f64();
    let throttles = match terms.counting {
        Counting::Learn => 5,
        Counting::Known(_) => 0,
    };
    assert!(drained.throttled.len() <= throttles, "{what}: {:#?}", drained.throttled);
    assert!(drained.took >= optimum, "{what}: faster than can be, {ratio}");
    assert!(drained.took <= optimum.mul_f64(1.03) + ONE_CALL, "{what}: {ratio}");
}

#[test]
fn q11_a_backlog_is_drained_within_three_percent_of_the_optimum_while_the_counting_is_learned() {
    for counting in Hypothesis::ALL {
        for from in [0, 700, 1_400] {
            let service = service(counting);
            assert_drained(&service, learning(&service, SLACK), from);
        }
    }
}

#[test]
fn q11_a_backlog_is_drained_without_a_throttle_once_the_counting_is_told() {
    for counting in Hypothesis::ALL {
        for from in [0, 700, 1_400] {
            let service = service(counting);
            assert_drained(&service, told(&service, SLACK), from);
        }
    }
}

#[test]
fn q3_q11_answers_dearer_than_their_cap_do_not_slow_it_however_the_service_books_the_excess() {
    for counting in Hypothesis::ALL {
        for excess in ["amend", "append"] {
            let service = Service { burndown: 5, excess, ..service(counting) };
            assert_drained(&service, learning(&service, SLACK), 0);
            assert_drained(&service, told(&service, SLACK), 0);
        }
    }
}
