//! What right-sizing promises of whole batches: reruns add at most 1 % to the cost, nothing is ever above its full cap,
//! and the quota holds several times as many calls.

use std::collections::VecDeque;
use std::time::Duration;

use aquifer::job::units::{Price, Tokens, Usd};
use aquifer::rules::rightsize::{FIRST_ANSWERS, RightSize, Ticket, Weights, Whole, is_cut};
use proptest::prelude::*;

use crate::draws::Draw;

const FULL: u32 = 16_384;
const INPUT: u64 = 300;

/// Cost in tokens: of the calls that were cut, and of the others.
#[derive(Debug, Default)]
struct Batch {
    cut: u64,
    whole: u64,
    reruns: u64,
    jobs: u64,
    first_small: Option<u64>,
    caps: Vec<u32>,
}

struct Call {
    ends: u64,
    ticket: Ticket,
    length: u64,
    cap: u32,
}

/// Works `lengths` with so many calls in flight; a call takes as long as its answer is. `weights` price a token.
fn work(lengths: impl IntoIterator<Item = u64>, in_flight: usize, weights: &Weights, per_output: u64) -> Batch {
    let (mut size, mut batch) = (RightSize::default(), Batch::default());
    let mut lengths = lengths.into_iter();
    let (mut calls, mut again, mut now) = (Vec::<Call>::new(), VecDeque::new(), 0);
    loop {
        while calls.len() < in_flight {
            let Some((ticket, length, cap)) =
                again.pop_front().map(|(ticket, length)| (ticket, length, FULL)).or_else(|| {
                    let length = lengths.next()?.min(u64::from(FULL));
                    let cap = size.cap(FULL, 0, weights, true);
                    assert!((1..=FULL).contains(&cap));
                    if cap < FULL {
                        batch.first_small.get_or_insert(batch.jobs);
                    }
                    batch.caps.push(cap);
                    batch.jobs += 1;
                    Some((size.sent(), length, cap))
                })
            else {
                break;
            };
            calls.push(Call { ends: now + 1_000 + length.min(cap.into()) * 20, ticket, length, cap });
        }
        let Some(next) = calls.iter().enumerate().min_by_key(|(_, call)| call.ends).map(|(index, _)| index) else {
            return batch;
        };
        let Call { ends, ticket, length, cap } = calls.swap_remove(next);
        now = ends;
        let output = length.min(cap.into());
        let cost = INPUT + output * per_output;
        if length > u64::from(cap) {
            assert!(is_cut(Some("max_tokens"), output, cap) && cap < FULL);
            size.cut(cap);
            batch.cut += cost;
            batch.reruns += 1;
            again.push_back((ticket, length));
        } else {
            let latency = Duration::from_millis(1_000 + length * 20);
            let (output, input) = (Tokens(output), Tokens(INPUT));
            size.answered(ticket, Whole { output, input, latency, right_sized: cap < FULL }, weights);
            batch.whole += cost;
        }
    }
}

/// As many quota tokens as money, output five times as dear as input.
fn priced() -> Weights {
    let dollar = Usd::from_nanos(1_000_000_000);
    let price =
        Price { input: dollar, output: Usd::from_nanos(5_000_000_000), cache_read: dollar, cache_write: dollar };
    Weights::new(Some(&price), 1)
}

/// Sorts of answers, each by its seed.
fn answers(sort: usize, seed: u64, count: usize) -> Vec<u64> {
    let mut draw = Draw::new(seed);
    (0..count)
        .map(|_| match sort {
            // Labels: all of a length.
            0 => 8,
            1 => 150 + (draw.even() * 100.0) as u64,
            2 => draw.log_normal(200.0, 0.4),
            3 => draw.log_normal(200.0, 0.9),
            // Mostly short, sometimes an essay.
            4 => {
                if draw.even() < 0.95 {
                    draw.log_normal(120.0, 0.4)
                } else {
                    draw.log_normal(3_000.0, 0.3)
                }
            }
            5 => {
                if draw.even() < 0.999 {
                    draw.log_normal(120.0, 0.4)
                } else {
                    draw.log_normal(6_000.0, 0.3)
                }
            }
            // A heavy tail.
            6 => (100.0 / (1.0 - draw.even()).powf(0.6)) as u64,
            _ => draw.log_normal(30.0, 1.3),
        })
        .collect()
}

const SORTS: usize = 8;

#[test]
fn reruns_add_at_most_one_percent_to_the_cost_of_any_sort_of_answers() {
    for sort in 0..SORTS {
        for (weights, per_output) in [(priced(), 5), (Weights::new(None, 1), 1)] {
            let (mut cut, mut whole, mut worst) = (0, 0, 0.0_f64);
            for seed in 0..12 {
                let batch = work(answers(sort, seed, 6_000), 40, &weights, per_output);
                cut += batch.cut;
                whole += batch.whole;
                worst = worst.max(batch.cut as f64 / batch.whole as f64);
                assert!(batch.first_small.is_none_or(|first| first >= u64::from(FIRST_ANSWERS)));
            }
            let share = cut as f64 / whole as f64;
            assert!(share <= 0.01, "sort {sort}, {per_output}: {share:.4} in the mean");
            assert!(worst <= 0.02, "sort {sort}, {per_output}: {worst:.4} at worst");
        }
    }
}

#[test]
fn what_is_reserved_comes_near_to_what_is_used() {
    for (sort, times) in [(0, 50), (1, 40), (2, 15), (3, 4), (5, 15), (7, 7)] {
        let batch = work(answers(sort, 1, 4_000), 40, &priced(), 5);
        let late = &batch.caps[1_000..];
        let reserved: u64 = late.iter().map(|cap| u64::from(*cap)).sum();
        let full = u64::from(FULL) * late.len() as u64;
        assert!(reserved * times <= full, "sort {sort}: {} a call", reserved / late.len() as u64);
    }
}

/// With 256 in flight the shortest of the first answers come back long before the others; who took them for a sample would
/// cut most of what follows.
#[test]
fn a_wide_start_is_not_fooled_by_the_answers_that_come_first() {
    let mut draw = Draw::new(3);
    let lengths: Vec<u64> = (0..3_000).map(|_| if draw.even() < 0.5 { 50 } else { 2_000 }).collect();
    let batch = work(lengths, 256, &priced(), 5);
    assert_eq!(batch.reruns, 0, "half of them are long, and that is seen before the first is right-sized");
    assert!(batch.first_small.is_some());
}

/// Answers that grow tenfold: about those in flight are cut, and a few rounds of a handful.
#[test]
fn a_jump_costs_the_calls_in_flight_and_little_more() {
    for seed in 0..10 {
        let mut lengths = answers(2, seed, 2_000);
        lengths.extend(answers(2, seed + 100, 3_000).into_iter().map(|length| length * 10));
        let batch = work(lengths, 40, &priced(), 5);
        assert!((3..=100).contains(&batch.reruns), "seed {seed}: {} reruns", batch.reruns);
        assert!(batch.caps[4_500..].iter().all(|cap| *cap < FULL), "and right-sizing goes on");
    }
}

#[test]
fn shorter_answers_bring_the_cap_down_slowly() {
    let mut lengths = answers(1, 1, 1_000);
    lengths.extend(vec![20; 6_000]);
    let batch = work(lengths, 40, &priced(), 5);
    assert!(batch.caps[1_200] >= 250, "{}", batch.caps[1_200]);
    assert!(batch.caps[6_900] <= 30, "{}", batch.caps[6_900]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes, in whatever order: every job ends, no cap leaves its bounds, and the damage is bounded: an alarm takes
    /// three cuts and those in flight, and between two alarms lie fifty answers under the full cap.
    #[test]
    fn nothing_that_answers_can_do_breaks_it(
        parts in proptest::collection::vec((0..SORTS, 1_u64..60, 20_usize..600), 1..8),
        in_flight in 1_usize..60,
        seed in any::<u64>(),
    ) {
        let lengths: Vec<u64> = parts
            .iter()
            .flat_map(|(sort, times, count)| answers(*sort, seed, *count).into_iter().map(move |length| length * times))
            .collect();
        let jobs = lengths.len() as u64;
        let batch = work(lengths, in_flight, &priced(), 5);
        prop_assert_eq!(batch.jobs, jobs);
        let alarms = jobs / u64::from(FIRST_ANSWERS) + 1;
        prop_assert!(batch.reruns <= alarms * (in_flight as u64 + 3) + jobs / 50, "{} of {jobs}", batch.reruns);
    }
}
