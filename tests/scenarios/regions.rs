//! What does a region that dies cost those that live?

use aquifer::rules::pace::{Counting, Hypothesis};

use crate::examples::example;
use crate::play::{
    EAST, Enrolled, HAIKU, MINUTE, Play, SECOND, Setup, WEST, assert_all_answered, backlog, drain_time, figure, small,
};

/// Of each region, a minute.
const QUOTA: u64 = 200_000;

/// A bucket that nobody draws from while its region is away is full when it comes back, so that the dead minute itself costs
/// nothing: what is lost is what flows over until somebody looks again.
#[tokio::test(start_paused = true)]
async fn a_region_dead_for_a_minute_gets_only_probes_and_costs_little_time() {
    let play = Play::example("two-regions.toml");
    // Four and a half minutes of both.
    let tokens = 2 * QUOTA * 9 / 2;
    let jobs = backlog(tokens, 1);
    let count = jobs.len();
    let results = play.drained(&Setup::new(HAIKU, &[EAST, WEST]).told(QUOTA, Counting::Learn), 1, jobs).await;
    assert_all_answered(&results, count);
    let report = play.report();
    let lane = |region: &str| &report.lanes[region][HAIKU];
    let settled = report.settled_tokens;
    let best = MINUTE.as_secs_f64() * (settled as f64 / (2 * QUOTA) as f64 - 1.0);
    let share = drain_time(&report).as_secs_f64() / best;
    let refused = lane(WEST).faults["refuse"];
    figure(
        "two regions, one dead for a minute",
        format_args!("{share:.3} x, {refused} refused, {} throttled", report.throttled),
    );
    // The connections open at the time were not closed; five in a row would open the breaker.
    assert!((1..=8).contains(&refused), "{refused} calls to a dead region");
    assert!((0.95..=1.10).contains(&share), "{share}");
    assert!(report.throttled <= 10, "five a lane: {report}");
    let attempts: u64 = results.iter().map(|result| u64::from(result.attempts)).sum();
    assert!(attempts <= refused, "{attempts} attempts");
    // Both take part again afterwards.
    let of_minute = |region: &str, minute: u64| {
        lane(region).minutes.iter().find(|of| of.minute == minute).map_or(0, |of| of.settled_tokens)
    };
    assert_eq!(of_minute(WEST, 2) / 100_000, 0, "{report}");
    assert!(of_minute(EAST, 2) >= QUOTA * 9 / 10, "the other goes on at its full quota: {report}");
    assert!(of_minute(WEST, 3) >= QUOTA, "{report}");
}

#[tokio::test(start_paused = true)]
async fn r01_two_regions_share_the_work_evenly_and_finish_together() {
    let play = Play::of(&example("two-regions.toml").replace("120s", "1200s").replace("180s", "1260s"));
    let tokens = 2 * QUOTA * 5 / 2;
    let jobs = backlog(tokens, 1);
    let count = jobs.len();
    let results = play.drained(&Setup::new(HAIKU, &[EAST, WEST]).told(QUOTA, Counting::Learn), 1, jobs).await;
    assert_all_answered(&results, count);
    let report = play.report();
    let settled = |region: &str| report.lanes[region][HAIKU].counts.settled_tokens as f64;
    let best = MINUTE.as_secs_f64() * (report.settled_tokens as f64 / (2 * QUOTA) as f64 - 1.0);
    let share = drain_time(&report).as_secs_f64() / best;
    figure("two regions", format_args!("{share:.3} x, {} throttled", report.throttled));
    assert!((0.95..=1.05).contains(&(settled(EAST) / settled(WEST))), "{report}");
    assert!((0.95..=1.10).contains(&share), "{share}");
}

/// A job leaves the lane that failed it when another takes it, which can be minutes later when it stands in a long line.
#[tokio::test(start_paused = true)]
async fn r08_a_region_that_is_well_again_does_not_rest_for_a_failure_of_long_ago() {
    let quota = 5_000;
    let text = example("two-regions.toml").replace("200_000", "5_000");
    let play = Play::of(&text.replace("from = \"120s\"\nuntil = \"180s\"", "calls = \"3\""));
    let mut setup = Setup::new(HAIKU, &[EAST, WEST]).told(quota, Counting::Known(Hypothesis::Bucket));
    setup.settings.slots = 80;
    let work = Enrolled::new(&play, small(600)).await;
    let working = play.worker(&setup).await;
    tokio::time::sleep(32 * SECOND).await;
    let mut answered = Vec::new();
    for _ in 0..4 {
        let before = play.report().lanes[WEST][HAIKU].counts.answered;
        tokio::time::sleep(15 * SECOND).await;
        answered.push(play.report().lanes[WEST][HAIKU].counts.answered - before);
    }
    let refused = play.report().lanes[WEST][HAIKU].faults["refuse"];
    assert!(refused == 1 && answered.iter().all(|slice| *slice > 0), "{refused} refused, then {answered:?}");
    assert!(work.so_far().await.len() < work.count(), "there was work to the end");
    working.kill().await;
}
