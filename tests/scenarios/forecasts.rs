//! Is the forecast of `aquifer plan` what a drain then takes? Two hundred calls are made first; what they say of the next
//! ones is all that the forecast knows of the service.

use std::num::NonZeroU32;

use aquifer::job::intake::text_bytes;
use aquifer::job::outcome::JobResult;
use aquifer::job::spec::Job;
use aquifer::job::units::{PerMinute, Tokens};
use aquifer::ports::Clock;
use aquifer::rules::estimate::{InputEstimate, Text};
use aquifer::rules::forecast::{Experience, Rehearsal, Rehearsed, Way, Work, rehearse};
use aquifer::rules::pace::{Counting, Hypothesis, LaneLedger, Limits, Terms};
use aquifer::rules::rightsize::Weights;
use aquifer::rules::route::RoutingRules;
use std::time::Duration;

use crate::drains::word;
use crate::play::{EAST, HAIKU, Play, Setup, WEST, assert_all_answered, backlog, drain_time, figure};

const QUOTA: u64 = 200_000;
const HISTORY: usize = 200;
const INTO_THE_MINUTE: Duration = Duration::from_secs(5);

fn scenario(counting: Hypothesis, burndown: u32) -> String {
    format!(
        "counting = '{}'\n[latency]\nconstant = '2s'\n[answer]\nfrom_prompt = true\n\
         [[model]]\nid = '{HAIKU}'\ntokens_per_minute = {QUOTA}\nburndown = {burndown}\n",
        word(counting)
    )
}

/// What these results say of the next ones, as `plan` reads it.
fn learned(results: &[JobResult]) -> (InputEstimate, Vec<Experience>) {
    let mut input = InputEstimate::new();
    for result in results {
        input.learn(result.text_bytes.unwrap(), Tokens(result.usage.input_tokens));
    }
    let experience = results.iter().map(|result| Experience {
        deviation: result.usage.input_tokens as f64 / input.expected(result.text_bytes.unwrap()).0 as f64,
        charged: 1.0,
        output: result.usage.output_tokens,
        latency: Duration::from_millis(result.timing.model_ms),
    });
    let experience = experience.collect();
    (input, experience)
}

/// Seconds that were forecast, and that it took.
async fn forecast_and_drain(counting: Hypothesis, burndown: u32, regions: &[&str]) -> (f64, f64) {
    let told = Setup::new(HAIKU, regions).told(QUOTA, Counting::Known(counting)).burndown(burndown);
    let jobs = backlog(QUOTA * 9 / 2 * regions.len() as u64, u64::from(burndown));
    let first = Play::of(&scenario(counting, burndown));
    let history: Vec<Job> = jobs.iter().take(HISTORY).cloned().collect();
    let results = first.drained(&told, 1, history).await;
    assert_all_answered(&results, HISTORY);
    let (input, experience) = learned(&results);

    let play = Play::of(&scenario(counting, burndown));
    tokio::time::advance(INTO_THE_MINUTE).await;
    let limits = Limits { tokens_per_minute: PerMinute::new(QUOTA), ..Limits::default() };
    let slack = Duration::from_millis(300);
    let terms = Terms { limits, counting: Counting::Known(counting), slack, first_alone: true };
    let start = play.state.clock.now();
    let rehearsed = |job: &Job| {
        let bytes = text_bytes(&job.request);
        let text = Text { bytes, template: 0 };
        let input = input.expected(bytes).0 as f64;
        Rehearsed { text, input, cap: 256, least_cap: None, deadline: None, routes: u64::MAX }
    };
    let work = Work {
        ways: (0..regions.len()).map(|lane| Way { lane, account: None, primary: true, rests_until: start }).collect(),
        burndown,
        weights: Weights::new(None, burndown),
        largest: Some(QUOTA),
        jobs: jobs.iter().map(rehearsed).collect(),
        count: jobs.len() as u64,
        experience,
    };
    let rules = RoutingRules { multi_region: true, spread_primaries: true, attempts_per_endpoint: NonZeroU32::MIN };
    let forecast = rehearse(Rehearsal {
        start,
        slots: told.settings.slots,
        rules,
        lanes: vec![LaneLedger::new(terms); regions.len()],
        work: vec![work],
        calls: 1 << 16,
    });
    let count = jobs.len();
    assert_all_answered(&play.drained(&told, 1, jobs).await, count);
    (forecast.finish.as_secs_f64(), drain_time(&play.report()).as_secs_f64())
}

async fn within_five_percent(counting: Hypothesis, burndown: u32, regions: &[&str]) {
    let (forecast, drained) = forecast_and_drain(counting, burndown, regions).await;
    let share = forecast / drained;
    figure(
        &format!("forecast, {counting:?}, burndown {burndown}, {} regions", regions.len()),
        format_args!("{forecast:.1} s forecast, {drained:.1} s taken: {share:.3}"),
    );
    assert!((0.95..=1.05).contains(&share), "{counting:?}: {forecast} s forecast, {drained} s taken");
}

#[tokio::test(start_paused = true)]
async fn o2_a_forecast_holds_within_five_percent_under_each_counting() {
    for counting in Hypothesis::ALL {
        within_five_percent(counting, 1, &[EAST]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn o2_a_forecast_holds_where_answers_weigh_more() {
    for counting in Hypothesis::ALL {
        within_five_percent(counting, 5, &[EAST]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn o2_a_forecast_holds_over_two_regions() {
    within_five_percent(Hypothesis::Sliding, 1, &[EAST, WEST]).await;
}
