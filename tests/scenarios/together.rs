//! Do eight workers on one state directory use one quota as one would, also when some of them are killed?

use std::time::Duration;

use aquifer::rules::pace::{Counting, Hypothesis};
use aquifer::simulate::Report;

use crate::draws::Draw;
use crate::play::{
    EAST, Enrolled, HAIKU, Play, SECOND, Setup, assert_all_answered, backlog, drain_time, figure, optimum, small,
};

const QUOTA: u64 = 200_000;
const LATENCY: Duration = Duration::from_secs(2);
const INTO_THE_MINUTE: Duration = Duration::from_secs(5);

fn scenario(counting: Hypothesis, latency: Duration, faults: &str) -> String {
    format!(
        "counting = '{}'\n[latency]\nconstant = '{}s'\n[answer]\nfrom_prompt = true\n\
         [[model]]\nid = '{HAIKU}'\ntokens_per_minute = {QUOTA}\n{faults}",
        crate::drains::word(counting),
        latency.as_secs()
    )
}

async fn eight(counting: Hypothesis, told: Counting) -> (f64, Report) {
    let tokens = QUOTA * 9 / 2;
    let play = Play::of(&scenario(counting, LATENCY, ""));
    tokio::time::advance(INTO_THE_MINUTE).await;
    let jobs = backlog(tokens, 1);
    let count = jobs.len();
    let mut setup = Setup::new(HAIKU, &[EAST]).told(QUOTA, told);
    setup.settings.slots = 32;
    let results = play.drained(&setup, 8, jobs).await;
    assert_all_answered(&results, count);
    let report = play.report();
    assert_eq!(report.answered_twice, 0);
    let best = optimum(counting, tokens, QUOTA, INTO_THE_MINUTE);
    let share = (drain_time(&report) - LATENCY).as_secs_f64() / best.as_secs_f64();
    figure(&format!("eight, {counting:?}, {told:?}"), format_args!("{share:.3} x, {} throttled", report.throttled));
    (share, report)
}

#[tokio::test(start_paused = true)]
async fn q01_eight_workers_share_a_bucket() {
    let (share, report) = eight(Hypothesis::Bucket, Counting::Learn).await;
    assert!((0.97..=1.07).contains(&share), "{share}");
    assert!(report.throttled <= 5, "{}", report.throttled);
}

#[tokio::test(start_paused = true)]
async fn q01_eight_workers_share_a_sliding_minute() {
    let (share, report) = eight(Hypothesis::Sliding, Counting::Learn).await;
    assert!((0.97..=1.07).contains(&share), "{share}");
    assert!(report.throttled <= 5, "{}", report.throttled);
}

#[tokio::test(start_paused = true)]
async fn q01_eight_workers_share_a_fixed_minute() {
    let (share, report) = eight(Hypothesis::Fixed, Counting::Learn).await;
    assert!((0.97..=1.07).contains(&share), "{share}");
    assert!(report.throttled <= 5, "{}", report.throttled);
}

#[tokio::test(start_paused = true)]
async fn q01_eight_workers_that_know_the_counting_are_never_throttled() {
    let (share, report) = eight(Hypothesis::Sliding, Counting::Known(Hypothesis::Sliding)).await;
    assert!((0.97..=1.07).contains(&share), "{share}");
    assert_eq!(report.throttled, 0);
}

/// Who is killed, and when, is drawn; another takes its place.
#[tokio::test(start_paused = true)]
async fn d02_q01_eight_workers_killed_at_random_lose_no_job_and_never_exceed_the_quota() {
    let mut draw = Draw::new(11);
    let play = Play::of(&scenario(Hypothesis::Sliding, 5 * LATENCY, ""));
    let jobs = backlog(QUOTA * 9 / 2, 1);
    let count = jobs.len();
    let work = Enrolled::new(&play, jobs).await;
    let mut setup = Setup::new(HAIKU, &[EAST]).told(QUOTA, Counting::Known(Hypothesis::Sliding));
    setup.settings.slots = 32;
    let mut working = Vec::new();
    for _ in 0..8 {
        working.push(play.worker(&setup).await);
    }
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs_f64(draw.between(1.0, 20.0))).await;
        let victim = draw.between(0.0, 8.0) as usize;
        working.swap_remove(victim).kill().await;
        working.push(play.worker(&setup).await);
    }
    let results = work.ended().await;
    for worker in working {
        worker.stop().await;
    }
    assert_all_answered(&results, count);
    let report = play.report();
    figure("eight, ten killed", format_args!("{} throttled, {} calls abandoned", report.throttled, report.abandoned));
    assert!(report.abandoned >= 5, "{} calls were open when their worker was killed", report.abandoned);
    assert_eq!(report.throttled, 0, "{report}");
    assert!(report.answered_twice <= 5, "an answer that was there and not yet on record: {report}");
    // Nothing but what was open at a kill is paid for twice.
    assert!(report.answered + report.abandoned <= count as u64 + 10 * 32, "{report}");
}

/// The service keeps the charge of a call whose caller has gone away, and so must whoever comes next.
#[tokio::test(start_paused = true)]
async fn q05_the_charges_of_a_killed_worker_count_until_they_age_out_and_no_longer() {
    let play =
        Play::of(&scenario(Hypothesis::Sliding, LATENCY, "[[fault]]\nkind = 'hang'\nfrom = '6s'\nuntil = '30s'"));
    // 306 tokens are reserved for each, so that ninety open calls use it all.
    let mut setup = Setup::new(HAIKU, &[EAST]).told(30_000, Counting::Known(Hypothesis::Sliding));
    setup.settings.slots = 200;
    let work = Enrolled::new(&play, small(400)).await;
    let first = play.worker(&setup).await;
    tokio::time::sleep(20 * SECOND).await;
    first.kill().await;
    let hung = play.report().abandoned;
    let killed = play.report();
    assert!(hung >= 60, "{hung} calls hold most of the quota: {killed}");
    let second = play.worker(&setup).await;
    // What was answered in the first seconds ages out first.
    tokio::time::sleep(40 * SECOND).await;
    let before = play.report();
    assert!(before.calls <= killed.calls + 3, "{} calls while all is charged", before.calls - killed.calls);
    tokio::time::sleep(15 * SECOND).await;
    let after = play.report();
    assert!(after.answered >= 60, "{after}");
    assert_all_answered(&work.ended().await, 400);
    assert_eq!(play.report().throttled, 0);
    second.stop().await;
}
