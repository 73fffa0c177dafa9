//! What does a worker know that starts where another has worked?

use std::num::NonZeroU32;
use std::time::Duration;

use aquifer::rules::pace::{Counting, Hypothesis};

use crate::examples::example;
use crate::play::{
    EAST, Enrolled, HAIKU, Play, SECOND, Setup, WEST, Working, assert_all_answered, backlog, figure, small,
};

const QUOTA: u64 = 60_000;

fn sliding() -> Play {
    Play::of(&format!(
        "counting = 'sliding'\n[latency]\nconstant = '2s'\n[answer]\nfrom_prompt = true\n\
         [[model]]\nid = '{HAIKU}'\ntokens_per_minute = {QUOTA}\n"
    ))
}

fn standing(worker: &Working) -> Vec<Hypothesis> {
    worker.lane(EAST).state().book.ledger.standing()
}

/// Works until so many jobs have ended, is killed, and leaves the rest to another.
async fn two_after_each_other(play: &Play, setup: &Setup, tokens: u64, first_part: Duration) -> (u64, u64, Working) {
    let work = Enrolled::new(play, backlog(tokens, 1)).await;
    let first = play.worker(setup).await;
    tokio::time::sleep(first_part).await;
    first.kill().await;
    let before = play.report().throttled;
    let second = play.worker(setup).await;
    assert_all_answered(&work.ended().await, work.count());
    (before, play.report().throttled - before, second)
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_of_the_counting_is_known_after_a_restart() {
    let play = sliding();
    let setup = Setup::new(HAIKU, &[EAST]).told(QUOTA, Counting::Learn);
    let (learning, later, second) = two_after_each_other(&play, &setup, QUOTA * 9 / 2, 150 * SECOND).await;
    figure("restart, counting", format_args!("{learning} throttled, then {later}"));
    assert!((2..=5).contains(&learning), "{learning} throttles to find out");
    assert!(later <= 1, "{later} throttles after the restart");
    assert_eq!(standing(&second), [Hypothesis::Sliding]);
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_of_the_limit_is_known_after_a_restart() {
    let play = sliding();
    let (learning, later, second) =
        two_after_each_other(&play, &Setup::new(HAIKU, &[EAST]), QUOTA * 7, 240 * SECOND).await;
    let limit = second.lane(EAST).state().book.ledger.tokens_per_minute();
    figure("restart, limit", format_args!("{learning} throttled, then {later}"));
    assert!(learning >= 2, "{learning} throttles to find out");
    assert!(later <= 3, "{later} throttles after the restart");
    assert!(limit.is_some_and(|limit| (QUOTA / 2..=QUOTA * 11 / 10).contains(&limit)), "{limit:?}");
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn r11_r12_a_cool_down_holds_for_the_worker_that_starts_after_the_stamp() {
    let text = example("two-regions.toml").replace("\"120s\"", "\"0s\"").replace("200_000", "20_000");
    let play = Play::of(&text);
    let work = Enrolled::new(&play, small(400)).await;
    let mut setup = Setup::new(HAIKU, &[EAST, WEST]).told(20_000, Counting::Learn);
    setup.settings.breaker.failures = NonZeroU32::new(100).unwrap();
    // A job leaves the lane that failed it when it goes to another, for which it stands in line.
    setup.settings.slots = 8;
    let calls = |region: &str| play.report().lanes[region][HAIKU].counts.calls;
    let first = play.worker(&setup).await;
    tokio::time::sleep(10 * SECOND).await;
    let now = first.lane(WEST).now();
    let rest = first.lane(WEST).state().book.cool_down.available_at(now).since(now);
    assert!(rest > 15 * SECOND, "{rest:?}");
    first.kill().await;
    let (found_out, before) = (calls(WEST), calls(EAST));
    let second = play.worker(&setup).await;
    tokio::time::sleep(rest - SECOND).await;
    assert_eq!(calls(WEST), found_out, "it rests for thirty seconds");
    assert!(calls(EAST) > before + 10, "and the other does not");
    tokio::time::sleep(5 * SECOND).await;
    // Every job in hand may find out for itself: the breaker that would bound that is set aside here.
    assert!((1..=8).contains(&(calls(WEST) - found_out)), "a stamp in the past is none: {} calls", calls(WEST));
    assert!(work.so_far().await.iter().all(|result| result.error.is_none()));
    second.kill().await;
}

#[tokio::test(start_paused = true)]
async fn b2_an_open_breaker_is_open_for_the_worker_that_starts_after_it_and_one_probe_closes_it() {
    let play = Play::of("[latency]\nconstant = '2s'\n[[fault]]\nkind = 'refuse'\nuntil = '45s'");
    let work = Enrolled::new(&play, small(40)).await;
    let setup = Setup::new(HAIKU, &[EAST]);
    let first = play.worker(&setup).await;
    tokio::time::sleep(20 * SECOND).await;
    first.kill().await;
    let found_out = play.report().calls;
    assert!((5..=6).contains(&found_out), "{found_out}");
    let second = play.worker(&setup).await;
    tokio::time::sleep(39 * SECOND).await;
    assert_eq!(play.report().calls, found_out, "it is open for a minute");
    let mut look = tokio::time::interval(SECOND / 4);
    while play.report().calls == found_out {
        look.tick().await;
    }
    tokio::time::sleep(SECOND).await;
    assert_eq!(play.report().calls, found_out + 1, "one call goes first");
    assert_all_answered(&work.ended().await, 40);
    let last = play.report().last_answer_ms.unwrap();
    assert!(last < 100_000, "{last}");
    second.stop().await;
}
