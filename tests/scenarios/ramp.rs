//! How many calls does a worker have open at once, when nobody has told it how many the service can do?

use aquifer::job::lifecycle::Status;

use crate::examples::example;
use crate::play::{EAST, Enrolled, HAIKU, MINUTE, Play, Setup, WEST, Working, figure, small};

/// The examples' times are for people who watch; the same happens in less.
fn hastened(name: &str, times: &[(&str, &str)]) -> Play {
    let mut text = example(name);
    for (long, short) in times {
        assert!(text.contains(long), "{name} has no {long}");
        text = text.replace(long, short);
    }
    Play::of(&text)
}

fn mean(limits: &[usize]) -> f64 {
    limits.iter().sum::<usize>() as f64 / limits.len() as f64
}

async fn leave(work: Enrolled, working: Working) {
    for result in work.so_far().await {
        assert_eq!(result.status, Status::Succeeded, "{result:?}");
    }
    working.kill().await;
}

#[tokio::test(start_paused = true)]
async fn concurrency_starts_low_finds_what_the_service_can_do_and_grows_with_it() {
    let play = hastened("ramp.toml", &[("\"300s\"", "\"60s\"")]);
    let work = Enrolled::new(&play, small(6_600)).await;
    let working = play.worker(&Setup::new(HAIKU, &[EAST])).await;
    let lane = working.lane(EAST);
    assert!(lane.state().concurrency.limit() <= 4);
    let narrow = working.limits(EAST, 60).await;
    let found = play.report();
    // 48 calls of 1.12 s on the average are 43 a second. Additive increase and multiplicative decrease keep three quarters of
    // what there is, less the search for it.
    figure(
        "ramp",
        format_args!("{} answered, {} refused, {:.0} open", found.answered, found.over_capacity, mean(&narrow[10..])),
    );
    assert!(narrow[0] <= 8, "{narrow:?}");
    assert!((28.0..=56.0).contains(&mean(&narrow[10..])), "{narrow:?}");
    assert_eq!(found.peak_open, 48);
    assert!((1_500..=2_600).contains(&found.answered), "{} answered", found.answered);
    assert!(found.over_capacity * 50 <= found.calls, "{} of {} refused", found.over_capacity, found.calls);

    let wide = working.limits(EAST, 60).await;
    let after = play.report();
    assert!(wide[59] > 60, "{wide:?}");
    assert!(after.answered - found.answered > found.answered, "twice the room is used");
    leave(work, working).await;
}

#[tokio::test(start_paused = true)]
async fn a_brown_out_halves_concurrency_until_it_fits_and_it_is_back_within_a_minute() {
    let play = hastened("brownout.toml", &[("\"60s\"", "\"20s\""), ("\"180s\"", "\"80s\"")]);
    let work = Enrolled::new(&play, small(3_400)).await;
    let working = play.worker(&Setup::new(HAIKU, &[EAST]).told(2_000_000, aquifer::rules::pace::Counting::Learn)).await;
    let before = working.limits(EAST, 20).await;
    let well = play.report();
    let during = working.limits(EAST, 60).await;
    let browned = play.report();
    let after = working.limits(EAST, 60).await;
    let end = play.report();
    figure(
        "brown-out",
        format_args!(
            "{:.0}, then {:.1}, then {} open; {} refused",
            mean(&before[10..]),
            mean(&during[20..]),
            after[59],
            end.over_capacity
        ),
    );
    assert!(before[19] >= 24, "{before:?}");
    // What was open before takes its place there until it is answered.
    assert!((2.0..=14.0).contains(&mean(&during[20..])), "{during:?}");
    // 8 calls of 4.5 s are 107 a minute; a refusal costs a job an attempt, so that there must be few.
    let refused = browned.over_capacity - well.over_capacity;
    assert!(refused <= 40, "{refused} refused");
    assert!(after[59] >= 24, "{after:?}");
    assert_eq!(end.throttled, 0, "the quota is not taken for what was short");
    assert_eq!(working.lane(EAST).state().book.ledger.tokens_per_minute(), Some(2_000_000));
    leave(work, working).await;
}

#[tokio::test(start_paused = true)]
async fn a_quota_throttle_says_nothing_about_concurrency() {
    let play = Play::example("quota.toml");
    let work = Enrolled::new(&play, small(400)).await;
    let working = play.worker(&Setup::new(HAIKU, &[EAST]).burndown(5)).await;
    let limits = working.limits(EAST, 120).await;
    assert!(play.report().throttled >= 3, "{}", play.report());
    assert!(limits.is_sorted(), "{limits:?}");
    assert!(limits[119] >= 8, "{limits:?}");
    leave(work, working).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_lane_finds_its_own_concurrency_and_does_not_hold_up_a_fast_one() {
    let play = Play::example("slow-lane.toml");
    let work = Enrolled::new(&play, small(3_000)).await;
    let working = play.worker(&Setup::new(HAIKU, &[EAST, WEST])).await;
    let (fast, slow) = tokio::join!(working.limits(EAST, 60), working.limits(WEST, 60));
    let report = play.report();
    let lane = |region: &str| report.lanes[region][HAIKU].clone();
    figure(
        "slow lane",
        format_args!("{} and {} answered in a minute", lane(EAST).counts.answered, lane(WEST).counts.answered),
    );
    assert!((32.0..=80.0).contains(&mean(&fast[10..])), "{fast:?}");
    assert!((6.0..=24.0).contains(&mean(&slow[30..])), "{slow:?}");
    // 64 calls of 0.86 s on the average are 75 a second, and 16 of 8.6 s not quite 2.
    let minute = MINUTE.as_secs();
    // bar: three quarters of them. The search for room costs refusals, after each of which a fifth of the room is given up, and
    // the slow lane takes jobs that stand in line for it.
    assert!(lane(EAST).counts.answered >= minute * 35, "{report}");
    assert!((minute / 2..minute * 2).contains(&lane(WEST).counts.answered), "{report}");
    assert!(report.over_capacity * 50 <= report.calls, "{report}");
    leave(work, working).await;
}
