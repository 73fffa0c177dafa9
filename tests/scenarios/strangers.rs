//! What is left of a quota when others on the account use half of it unseen, and how soon is it noticed that they have left?

use aquifer::rules::pace::Counting;
use aquifer::simulate::Report;

use crate::play::{EAST, Enrolled, HAIKU, MINUTE, Play, Setup, backlog, figure};

const QUOTA: u64 = 200_000;
/// What the strangers take.
const THEIRS: u64 = 100_000;

/// Over minutes of the example: strangers come with minute 1 and leave with minute 7.
struct Span {
    calls: u64,
    throttled: u64,
    settled: u64,
}

fn span(report: &Report, minutes: std::ops::Range<u64>) -> Span {
    let mut span = Span { calls: 0, throttled: 0, settled: 0 };
    for minute in report.minutes.iter().filter(|minute| minutes.contains(&minute.minute)) {
        span.calls += minute.calls;
        span.throttled += minute.throttled;
        span.settled += minute.settled_tokens;
    }
    span
}

#[tokio::test(start_paused = true)]
async fn q11_strangers_on_the_account_leave_little_throttled_and_what_they_leave_is_used() {
    let play = Play::example("strangers.toml");
    let work = Enrolled::new(&play, backlog(QUOTA * 11, 1)).await;
    let working = play.worker(&Setup::new(HAIKU, &[EAST]).told(QUOTA, Counting::Learn)).await;
    tokio::time::sleep(12 * MINUTE).await;
    let report = play.report();
    let (met, during, back) = (span(&report, 1..2), span(&report, 2..7), span(&report, 10..12));
    let used = during.settled as f64 / (5 * (QUOTA - THEIRS)) as f64;
    let again = back.settled as f64 / (2 * QUOTA) as f64;
    let [met_share, share] = [&met, &during].map(|span| 100.0 * span.throttled as f64 / span.calls as f64);
    figure(
        "strangers",
        format_args!("{met_share:.1} % throttled at first, {share:.1} % then; {used:.3} used, {again:.3} again"),
    );
    assert!(met.throttled >= 1, "they were met: {report}");
    assert!(during.throttled * 100 <= during.calls, "{} of {} throttled", during.throttled, during.calls);
    // bar: 0.90. What the bucket had saved up when they came comes on top: it held a minute's quota, two fifths of these five.
    assert!((0.90..=1.20).contains(&used), "{used} of what is left is used");
    // A bucket that has filled up behind the strangers admits more than the quota for a while.
    assert!((0.95..=1.40).contains(&again), "{again} of the whole is used from three minutes after they left");
    let ended = work.so_far().await;
    assert!(ended.iter().all(|result| result.attempts == 0 && result.error.is_none()));
    assert!(ended.len() < work.count(), "there was work to the end");
    working.kill().await;
}
