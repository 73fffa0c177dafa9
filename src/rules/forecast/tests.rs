#![allow(clippy::unwrap_used, reason = "tests")]

use std::num::NonZeroU32;

use super::*;
use crate::job::units::{PerDay, PerMinute};
use crate::rules::pace::{Counting, Hypothesis, Limits, Terms};

/// A turn of the clock's minute.
const START: Timestamp = Timestamp(1_800_000_000_000);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3_600);

fn lane(counting: Hypothesis, limits: Limits) -> LaneLedger {
    let slack = Duration::from_millis(300);
    LaneLedger::new(Terms { limits, counting: Counting::Known(counting), slack, first_alone: true })
}

fn a_minute(tokens: u64) -> Limits {
    Limits { tokens_per_minute: PerMinute::new(tokens), ..Limits::default() }
}

/// A job of 900 tokens in and 100 out, whose text says as much as its tokens.
fn job() -> Rehearsed {
    let text = Text { bytes: 2_676, template: 0 };
    Rehearsed { text, input: 900.0, cap: 100, least_cap: None, deadline: None, routes: u64::MAX }
}

fn work(count: u64, lanes: &[usize]) -> Work {
    let way = |lane: &usize| Way { lane: *lane, account: None, primary: true, rests_until: START };
    Work {
        ways: lanes.iter().map(way).collect(),
        burndown: 1,
        weights: Weights::new(None, 1),
        largest: None,
        jobs: vec![job(); usize::try_from(count).unwrap()],
        count,
        experience: vec![Experience { deviation: 1.0, charged: 1.0, output: 100, latency: 2 * SECOND }],
    }
}

fn rehearsal(lanes: Vec<LaneLedger>, work: Vec<Work>) -> Rehearsal {
    let rules = RoutingRules { multi_region: true, spread_primaries: true, attempts_per_endpoint: NonZeroU32::MIN };
    Rehearsal { start: START, slots: 256, rules, lanes, work, calls: 1 << 16 }
}

fn near(value: Duration, expected: Duration, within: f64) {
    let share = value.as_secs_f64() / expected.as_secs_f64();
    assert!((1.0 - within..=1.0 + within).contains(&share), "{value:?}, expected {expected:?}");
}

#[test]
fn each_counting_finishes_at_its_own_optimum() {
    // 450 jobs of 1,000 tokens, 100 a minute.
    let cases =
        [(Hypothesis::Bucket, MINUTE.mul_f64(3.5)), (Hypothesis::Sliding, 4 * MINUTE), (Hypothesis::Fixed, 4 * MINUTE)];
    for (counting, optimum) in cases {
        let told = rehearse(rehearsal(vec![lane(counting, a_minute(100_000))], vec![work(450, &[0])]));
        near(told.finish, optimum + 2 * SECOND, 0.04);
        assert_eq!(told.work[0].binding(), Some(Hold::Quota { lane: 0, binding: Binding::Tokens }), "{counting:?}");
        assert!(told.lanes[0].peak_tokens <= 200_000, "{:?}", told.lanes[0]);
    }
}

#[test]
fn the_rest_of_a_large_input_goes_on_at_the_rate_of_its_sample() {
    for counting in Hypothesis::ALL {
        let all = rehearse(rehearsal(vec![lane(counting, a_minute(100_000))], vec![work(8_000, &[0])]));
        let mut few = work(1_000, &[0]);
        few.count = 8_000;
        let mut sampled = rehearsal(vec![lane(counting, a_minute(100_000))], vec![few]);
        sampled.calls = 1_000;
        near(rehearse(sampled).finish, all.finish, 0.01);
        near(all.finish, 79 * MINUTE, 0.02);
    }
}

#[test]
fn a_day_that_is_used_up_is_waited_for() {
    // 1,000 jobs a day, 100 a minute: the first thousand take ten minutes, and so do the others when their day has come.
    let limits = Limits { tokens_per_day: PerDay::new(1_000_000), ..a_minute(100_000) };
    let all = rehearse(rehearsal(vec![lane(Hypothesis::Sliding, limits)], vec![work(2_500, &[0])]));
    near(all.finish, 2 * DAY, 0.02);
    assert_eq!(all.work[0].binding(), Some(Hold::Quota { lane: 0, binding: Binding::Day }));
    let mut few = work(1_200, &[0]);
    few.count = 2_500;
    let mut sampled = rehearsal(vec![lane(Hypothesis::Sliding, limits)], vec![few]);
    sampled.calls = 1_200;
    near(rehearse(sampled).finish, all.finish, 0.02);
}

#[test]
fn a_quota_of_an_account_binds_all_its_lanes() {
    let account = lane(Hypothesis::Sliding, Limits { tokens_per_day: PerDay::new(1_000_000), ..Limits::default() });
    let lanes =
        vec![lane(Hypothesis::Sliding, a_minute(1_000_000)), lane(Hypothesis::Sliding, a_minute(1_000_000)), account];
    let mut models = [work(700, &[0]), work(700, &[1])];
    for way in models.iter_mut().flat_map(|model| &mut model.ways) {
        way.account = Some(2);
    }
    let told = rehearse(rehearsal(lanes, models.into()));
    near(told.finish, DAY, 0.02);
}

#[test]
fn two_regions_are_twice_as_fast_and_a_residency_is_kept() {
    let lanes = || vec![lane(Hypothesis::Sliding, a_minute(100_000)), lane(Hypothesis::Sliding, a_minute(100_000))];
    let both = rehearse(rehearsal(lanes(), vec![work(850, &[0, 1])]));
    near(both.finish, 4 * MINUTE, 0.05);
    let mut bound = work(850, &[0, 1]);
    bound.jobs.iter_mut().for_each(|job| job.routes = 0b10);
    let one = rehearse(rehearsal(lanes(), vec![bound]));
    near(one.finish, 8 * MINUTE, 0.05);
    assert_eq!(one.lanes[0].peak_requests, 0);
}

#[test]
fn requests_a_minute_bind_small_jobs() {
    let limits = Limits { requests_per_minute: PerMinute::new(50), ..a_minute(10_000_000) };
    let told = rehearse(rehearsal(vec![lane(Hypothesis::Sliding, limits)], vec![work(275, &[0])]));
    near(told.finish, 5 * MINUTE, 0.04);
    assert_eq!(told.work[0].binding(), Some(Hold::Quota { lane: 0, binding: Binding::Requests }));
    assert_eq!(told.lanes[0].peak_requests, 50);
}

#[test]
fn slots_bind_where_no_quota_does() {
    let mut small = rehearsal(vec![lane(Hypothesis::Sliding, Limits::default())], vec![work(4_000, &[0])]);
    small.slots = 10;
    let told = rehearse(small);
    near(told.finish, 800 * SECOND, 0.02);
    assert_eq!(told.work[0].binding(), Some(Hold::Slots));
}

#[test]
fn deadlines_that_pass_are_counted_in_a_sample_too() {
    for sample in [450, 225] {
        let mut model = work(sample, &[0]);
        model.count = 450;
        model.jobs.iter_mut().for_each(|job| job.deadline = Some(START.after(150 * SECOND)));
        let told = rehearse(rehearsal(vec![lane(Hypothesis::Sliding, a_minute(100_000))], vec![model]));
        let late = told.work[0].late;
        assert!((140..=260).contains(&late), "300 are sent within 150 s, {late} are not ({sample})");
    }
}

#[test]
fn a_generous_cap_takes_longer_and_right_sizing_wins_it_back() {
    let times = [None, Some(1)].map(|least_cap| {
        let mut model = work(900, &[0]);
        for call in &mut model.experience {
            call.latency = 20 * SECOND;
        }
        model.jobs.iter_mut().for_each(|job| (job.cap, job.least_cap) = (8_000, least_cap));
        rehearse(rehearsal(vec![lane(Hypothesis::Sliding, a_minute(100_000))], vec![model])).finish
    });
    let [full, auto] = times;
    assert!(auto.mul_f64(1.2) < full, "{auto:?} and {full:?}");
}

#[test]
fn a_job_that_no_lane_ever_admits_is_told_and_holds_nobody_up() {
    let mut model = work(3, &[0]);
    model.jobs[1].cap = 200_000;
    let told = rehearse(rehearsal(vec![lane(Hypothesis::Sliding, a_minute(100_000))], vec![model]));
    assert_eq!(told.work[0].never, 1);
    assert!(told.finish < MINUTE, "{told:?}");
}

#[test]
fn models_share_slots_and_each_has_its_own_quota() {
    let lanes = vec![lane(Hypothesis::Sliding, a_minute(100_000)), lane(Hypothesis::Sliding, a_minute(1_000_000))];
    let told = rehearse(rehearsal(lanes, vec![work(450, &[0]), work(450, &[1])]));
    near(told.work[0].finish, 4 * MINUTE, 0.05);
    assert!(told.work[1].finish < MINUTE, "{:?}", told.work[1]);
    assert_eq!(told.last().map(|(index, _)| index), Some(0));
}

#[test]
fn nothing_to_do_takes_no_time() {
    assert_eq!(rehearse(rehearsal(Vec::new(), Vec::new())).finish, Duration::ZERO);
    let told = rehearse(rehearsal(vec![lane(Hypothesis::Sliding, a_minute(100))], vec![work(0, &[0])]));
    assert_eq!(told.finish, Duration::ZERO);
}
