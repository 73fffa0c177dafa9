//! Does everything get its answer from a service that fails, and what does that cost?

use std::time::Duration;

use aquifer::job::lifecycle::Status;
use aquifer::rules::pace::{Counting, Hypothesis};

use crate::drains::word;
use crate::play::{
    EAST, Enrolled, HAIKU, MINUTE, Play, SECOND, Setup, assert_all_answered, backlog, drain_time, figure, optimum,
    small,
};

const QUOTA: u64 = 100_000;

/// One job in a hundred thousand would fail five times in a row at such rates; chance is not to decide a test.
const ATTEMPTS: u32 = 8;

/// 503, 500, timeouts and dropped connections: one call in ten.
const ONE_IN_TEN: &str = "\
    [[fault]]\nkind = 'ServiceUnavailableException'\nprobability = 0.03\n\
    [[fault]]\nkind = 'InternalServerException'\nprobability = 0.03\n\
    [[fault]]\nkind = 'ModelTimeoutException'\nprobability = 0.02\n\
    [[fault]]\nkind = 'drop'\nprobability = 0.02\n";

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_one_call_in_ten_answers_everything_in_little_more_time() {
    for counting in [Hypothesis::Bucket, Hypothesis::Sliding] {
        let tokens = QUOTA * 9 / 2;
        let play = Play::of(&format!(
            "counting = '{}'\n[latency]\np50 = '1s'\np99 = '4s'\n[answer]\nfrom_prompt = true\n\
             [[model]]\nid = '{HAIKU}'\ntokens_per_minute = {QUOTA}\n{ONE_IN_TEN}",
            if counting == Hypothesis::Bucket { "bucket" } else { "sliding" }
        ));
        let jobs = backlog(tokens, 1);
        let count = jobs.len();
        let mut setup = Setup::new(HAIKU, &[EAST]).told(QUOTA, Counting::Learn);
        setup.settings.max_attempts = ATTEMPTS;
        let results = play.drained(&setup, 1, jobs).await;
        assert_all_answered(&results, count);
        let report = play.report();
        let share = drain_time(&report).as_secs_f64() / optimum(counting, tokens, QUOTA, Duration::ZERO).as_secs_f64();
        figure(
            &format!("one in ten fails, {counting:?}"),
            format_args!("{share:.3} x, {} throttled", report.throttled),
        );
        let failed: u64 = report.faults.values().sum();
        assert!(failed * 20 >= report.calls, "{failed} of {} calls failed", report.calls);
        assert!((0.97..=1.15).contains(&share), "{counting:?}: {share}");
        assert!(report.throttled <= 5, "{counting:?}: {} throttled", report.throttled);
    }
}

/// What hangs comes to its time-out long after the others of its minute were answered.
#[tokio::test(start_paused = true)]
async fn a_tenth_that_fails_and_hangs_costs_little_time_under_each_counting() {
    const INTO_THE_MINUTE: Duration = Duration::from_secs(5);
    for counting in Hypothesis::ALL {
        let tokens = QUOTA * 11 / 2;
        let kinds = ["ServiceUnavailableException", "InternalServerException", "hang", "drop"];
        let faults = kinds.map(|kind| format!("[[fault]]\nkind = '{kind}'\nprobability = 0.025\n")).concat();
        let play = Play::of(&format!(
            "counting = '{}'\n[latency]\np50 = '2s'\np99 = '3s'\n[answer]\nfrom_prompt = true\n\
             [[model]]\nid = '{HAIKU}'\ntokens_per_minute = {QUOTA}\n{faults}",
            word(counting)
        ));
        tokio::time::advance(INTO_THE_MINUTE).await;
        let jobs = backlog(tokens, 1);
        let count = jobs.len();
        let mut setup = Setup::new(HAIKU, &[EAST]).told(QUOTA, Counting::Learn).call_timeout(20 * SECOND);
        setup.settings.max_attempts = ATTEMPTS;
        let results = play.drained(&setup, 1, jobs).await;
        assert_all_answered(&results, count);
        let report = play.report();
        let share = drain_time(&report).as_secs_f64() / optimum(counting, tokens, QUOTA, INTO_THE_MINUTE).as_secs_f64();
        figure(
            &format!("one in ten fails or hangs, {counting:?}"),
            format_args!("{share:.3} x, {} throttled, {:?}", report.throttled, report.faults),
        );
        assert!(report.faults["hang"] >= 2, "{report}");
        // bar: 1.15.
        assert!((0.97..=1.15).contains(&share), "{counting:?}: {share}");
        assert!(report.throttled <= 5, "{counting:?}: {} throttled", report.throttled);
    }
}

/// A little of everything, throttles among it.
#[tokio::test(start_paused = true)]
async fn a_storm_of_everything_that_goes_wrong_loses_nothing() {
    let play = Play::example("storm.toml");
    let mut setup = Setup::new(HAIKU, &[EAST]);
    setup.settings.max_attempts = ATTEMPTS;
    let results = play.drained(&setup, 1, small(200)).await;
    let report = play.report();
    figure("storm", format_args!("{:?}, {} calls", drain_time(&report), report.calls));
    assert_all_answered(&results, 200);
    assert!(report.faults.len() >= 8, "{report}");
    let attempts: u32 = results.iter().map(|result| result.attempts).sum();
    let counted: u64 = report.faults.iter().filter(|(kind, _)| uses_up_an_attempt(kind)).map(|(_, count)| count).sum();
    // The probes of a breaker that has opened do not count.
    assert!(u64::from(attempts) <= counted && attempts > 0, "{attempts} attempts, {counted} failures that count");
    // Two throttles next to each other make a limit of the little that was admitted by then, which takes minutes to win back.
    assert!(drain_time(&report) < 8 * MINUTE, "{:?}", drain_time(&report));
}

fn uses_up_an_attempt(kind: &str) -> bool {
    !matches!(kind, "ThrottlingException" | "slow_body")
}

#[tokio::test(start_paused = true)]
async fn f5_ten_minutes_of_throttles_fail_no_job_and_count_no_attempt() {
    let play = Play::example("outage.toml");
    // Slow enough that there is work throughout.
    let work = Enrolled::new(&play, small(900)).await;
    let working = play.worker(&Setup::new(HAIKU, &[EAST]).told(20_000, Counting::Learn)).await;
    tokio::time::sleep(630 * SECOND).await;
    let throttled = play.report().faults["ThrottlingException"];
    let before = play.report().answered;
    tokio::time::sleep(2 * MINUTE).await;
    let report = play.report();
    figure(
        "ten minutes of throttles",
        format_args!("{throttled} calls, then {} answered in two minutes", report.answered - before),
    );
    // Who knows nothing asks again after a second, then two, up to once a minute.
    assert!((10..=120).contains(&throttled), "{throttled}");
    assert!(report.answered >= before + 20, "it goes on: {report}");
    for result in work.so_far().await {
        assert_eq!((result.status, result.attempts), (Status::Succeeded, 0), "{result:?}");
    }
    working.kill().await;
}

/// Away: every connection is closed at once.
#[tokio::test(start_paused = true)]
async fn b2_a_service_away_for_twenty_minutes_fails_no_job_and_costs_only_the_calls_that_find_out() {
    let play = Play::of(&format!(
        "[latency]\np50 = '1s'\np99 = '4s'\n[[model]]\nid = '{HAIKU}'\ntokens_per_minute = 60_000\n\
         [[fault]]\nkind = 'refuse'\nfrom = '30s'\nuntil = '1230s'\n"
    ));
    let setup = Setup::new(HAIKU, &[EAST]).told(60_000, Counting::Learn);
    let results = play.drained(&setup, 1, backlog(150_000, 1)).await;
    let report = play.report();
    assert_all_answered(&results, results.len());
    let attempts: u64 = results.iter().map(|result| u64::from(result.attempts)).sum();
    let refused = report.faults["refuse"];
    figure("away for twenty minutes", format_args!("{refused} calls, {attempts} attempts"));
    // Five in a row open the breaker; then one probe a minute, which nobody is charged for.
    assert!((1..=10).contains(&attempts), "{attempts} attempts");
    assert!((attempts + 15..=attempts + 22).contains(&refused), "{refused} calls while it was away");
    assert!(report.last_answer_ms.unwrap() > 1_230_000, "{report}");
    // The first probe after its return is at most a minute late.
    let back: u64 = report.minutes.iter().filter(|minute| (20..23).contains(&minute.minute)).map(|m| m.answered).sum();
    assert!(back > 0, "{report}");
}

/// Away: no call comes back, and each costs its timeout.
#[tokio::test(start_paused = true)]
async fn b2_a_service_that_hangs_for_twenty_minutes_fails_no_job() {
    let play = Play::of(&format!(
        "[latency]\np50 = '1s'\np99 = '4s'\n[[model]]\nid = '{HAIKU}'\ntokens_per_minute = 60_000\n\
         [[fault]]\nkind = 'hang'\nfrom = '30s'\nuntil = '1230s'\n"
    ));
    let setup = Setup::new(HAIKU, &[EAST]).told(60_000, Counting::Learn).call_timeout(20 * SECOND);
    let results = play.drained(&setup, 1, backlog(150_000, 1)).await;
    assert_all_answered(&results, results.len());
    let most = results.iter().map(|result| result.attempts).max().unwrap();
    let attempts: u64 = results.iter().map(|result| u64::from(result.attempts)).sum();
    figure("hangs for twenty minutes", format_args!("{attempts} attempts, up to {most} of one job"));
    // Whatever was sent before the first timeout finds out too: a minute's quota at most.
    assert!(most <= 2 && (5..=60).contains(&attempts), "{attempts} attempts, up to {most} of one job");
}
