//! What do the words of a scenario do? Each is played in this process, and judged by what a caller meets.

use std::time::Duration;

use aquifer::simulate::{ErrorResponse, InProcess, NoAnswer, Operation, Report, Scenario};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::HAIKU;
use crate::common::START;

const EAST: &str = "us-east-1";
const WEST: &str = "us-west-2";

/// A service, and a count of the prompts sent to it, so that no two are the same.
struct Caller {
    service: InProcess,
    began: Instant,
    sent: std::cell::Cell<u32>,
}

impl Caller {
    fn new(scenario: &str) -> Self {
        let service = InProcess::new(Scenario::from_toml(scenario).unwrap(), START);
        Self { service, began: Instant::now(), sent: std::cell::Cell::default() }
    }

    /// A call of `input` tokens and as many more at most.
    async fn call(&self, region: &str, input: usize, max_tokens: u64) -> Result<Value, NoAnswer> {
        self.sent.set(self.sent.get() + 1);
        let text = format!("{:>width$}", self.sent.get(), width = 4 * input);
        let body = json!({ "messages": [{ "role": "user", "content": [{ "text": text }] }],
            "inferenceConfig": { "maxTokens": max_tokens } });
        let body = body.to_string();
        let answer = self.service.call(region, HAIKU, Operation::Converse, body.as_bytes()).await?;
        Ok(serde_json::from_slice(&answer).unwrap())
    }

    /// The status of a call of ten tokens.
    async fn status(&self, region: &str) -> u16 {
        match self.call(region, 9, 1).await {
            Ok(_) => 200,
            Err(NoAnswer::Error(ErrorResponse { status, .. })) => status,
            Err(other) => panic!("{other:?}"),
        }
    }

    async fn until(&self, seconds: f64) {
        tokio::time::sleep_until(self.began + Duration::from_secs_f64(seconds)).await;
    }

    fn report(&self) -> Report {
        self.service.report()
    }
}

/// Instant answers of one token.
const INSTANT: &str = "latency = { constant = '0s' }\nanswer = { mean = 1, spread = 0 }\n";

fn with_model(keys: &str, more: &str) -> Caller {
    Caller::new(&format!("{INSTANT}counting = 'sliding'\n[[model]]\nid = '{HAIKU}'\n{keys}\n{more}"))
}

#[tokio::test(start_paused = true)]
async fn each_region_has_quotas_of_its_own() {
    let caller = with_model("tokens_per_minute = 20", "");
    assert_eq!([caller.status(EAST).await, caller.status(EAST).await, caller.status(EAST).await], [200, 200, 429]);
    assert_eq!([caller.status(WEST).await, caller.status(WEST).await, caller.status(WEST).await], [200, 200, 429]);
    let report = caller.report();
    assert_eq!((report.models[HAIKU].calls, report.models[HAIKU].throttled), (6, 2));
    for region in [EAST, WEST] {
        let lane = &report.lanes[region][HAIKU];
        assert_eq!((lane.counts.calls, lane.counts.answered, lane.counts.throttled), (3, 2, 1), "{region}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_may_differ_by_region() {
    let west = format!("[[model]]\nid = '{HAIKU}'\nregion = '{WEST}'\ntokens_per_minute = 10");
    let caller = with_model("tokens_per_minute = 20", &west);
    assert_eq!([caller.status(EAST).await, caller.status(EAST).await], [200, 200]);
    assert_eq!([caller.status(WEST).await, caller.status(WEST).await], [200, 429]);
}

#[tokio::test(start_paused = true)]
async fn the_accounts_cap_is_a_regions_own() {
    let caller = Caller::new(&format!("{INSTANT}account_tokens_per_day = 10"));
    assert_eq!([caller.status(EAST).await, caller.status(EAST).await, caller.status(WEST).await], [200, 429, 200]);
}

#[tokio::test(start_paused = true)]
async fn a_prompt_cached_in_one_region_is_unknown_in_another() {
    let caller = with_model("cache_min_prefix = 1", "");
    let body = json!({ "messages": [{ "role": "user",
        "content": [{ "text": "long ago" }, { "cachePoint": { "type": "default" } }, { "text": "and now" }] }] });
    let body = body.to_string();
    let mut read = Vec::new();
    for region in [EAST, EAST, WEST] {
        let answer = caller.service.call(region, HAIKU, Operation::Converse, body.as_bytes()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        read.push(answer["usage"]["cacheReadInputTokens"].as_u64().unwrap());
    }
    assert_eq!(read, [0, 2, 0]);
    assert_eq!(caller.report().answered_twice, 1, "a body answered in two regions is answered twice");
}

#[tokio::test(start_paused = true)]
async fn a_region_fails_while_the_others_work() {
    let fault =
        format!("[[fault]]\nkind = 'ServiceUnavailableException'\nregion = '{WEST}'\nfrom = '60s'\nuntil = '120s'\n");
    let caller = with_model("", &fault);
    for (at, expected) in [(0.0, [200, 200]), (60.0, [200, 503]), (119.9, [200, 503]), (120.0, [200, 200])] {
        caller.until(at).await;
        assert_eq!([caller.status(EAST).await, caller.status(WEST).await], expected, "at {at} s");
    }
    let report = caller.report();
    assert_eq!(report.faults["ServiceUnavailableException"], 2);
    assert_eq!(report.lanes[WEST][HAIKU].faults["ServiceUnavailableException"], 2);
    assert!(report.lanes[EAST][HAIKU].faults.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_report_tells_the_minutes_apart() {
    let caller = with_model("tokens_per_minute = 20", "");
    caller.until(10.0).await;
    for _ in 0..3 {
        caller.status(EAST).await;
    }
    caller.until(185.5).await;
    caller.status(EAST).await;
    caller.status(WEST).await;
    let report = caller.report();
    let minutes: Vec<_> = report.minutes.iter().map(|m| (m.minute, m.calls, m.answered, m.throttled)).collect();
    assert_eq!(minutes, [(0, 3, 2, 1), (3, 2, 2, 0)]);
    assert_eq!(report.minutes.iter().map(|m| m.settled_tokens).collect::<Vec<_>>(), [20, 20]);
    assert_eq!((report.first_call_ms, report.last_answer_ms), (Some(10_000), Some(185_500)));
    let (east, west) = (&report.lanes[EAST][HAIKU], &report.lanes[WEST][HAIKU]);
    assert_eq!((east.minutes.len(), west.minutes.len()), (2, 1));
    assert_eq!((west.first_call_ms, west.last_answer_ms), (Some(185_500), Some(185_500)));
}

#[tokio::test(start_paused = true)]
async fn a_lane_counts_how_many_of_its_calls_were_open_at_once() {
    let caller = Caller::new("latency = { constant = '1s' }");
    tokio::join!(caller.status(EAST), caller.status(EAST), caller.status(WEST));
    caller.status(WEST).await;
    let report = caller.report();
    assert_eq!((report.lanes[EAST][HAIKU].peak_open, report.lanes[WEST][HAIKU].peak_open), (2, 1));
    assert_eq!(report.peak_open, 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_only_judged_is_answered_and_costs_no_quota() {
    let caller = Caller::new(&format!(
        "{INSTANT}enforce = false\ncounting = 'sliding'\n[[model]]\nid = '{HAIKU}'\ntokens_per_minute = 20"
    ));
    caller.status(EAST).await;
    caller.until(30.0).await;
    for _ in 0..4 {
        assert_eq!(caller.status(EAST).await, 200);
    }
    let report = caller.report();
    assert_eq!((report.answered, report.throttled, report.would_be_throttled), (5, 0, 3));
    // Two were charged, one at 0 s and one at 30 s: at 60 s there is room for one, at 89 s for no other.
    for (at, would_be) in [(60.0, 3), (89.9, 4)] {
        caller.until(at).await;
        assert_eq!(caller.status(EAST).await, 200);
        assert_eq!(caller.report().would_be_throttled, would_be, "at {at} s");
    }
    let minutes: Vec<_> = caller.report().minutes.iter().map(|m| m.would_be_throttled).collect();
    assert_eq!(minutes, [3, 1]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_as_long_as_its_prompt_says() {
    let text = format!("Sum up. [answer: 123 tokens]{}", "x".repeat(4 * 500 - 28));
    let body = |max_tokens: u64| {
        json!({ "messages": [{ "role": "user", "content": [{ "text": text }] }],
            "inferenceConfig": { "maxTokens": max_tokens } })
    };
    for (from_prompt, max_tokens, output, reason) in [
        ("answer = { mean = 10, spread = 0, from_prompt = true }", 1_000, 123, "end_turn"),
        ("answer = { mean = 10, spread = 0, from_prompt = true }", 100, 100, "max_tokens"),
    ] {
        let service = InProcess::new(Scenario::from_toml(from_prompt).unwrap(), START);
        let answer = service.call(EAST, HAIKU, Operation::Converse, body(max_tokens).to_string().as_bytes()).await;
        let answer: Value = serde_json::from_slice(&answer.unwrap()).unwrap();
        let usage = (answer["usage"]["inputTokens"].as_u64(), answer["usage"]["outputTokens"].as_u64());
        assert_eq!((usage, answer["stopReason"].as_str()), ((Some(500), Some(output)), Some(reason)));
    }
    let drawn = InProcess::new(Scenario::from_toml("answer = { mean = 10, spread = 0 }").unwrap(), START);
    let answer = drawn.call(EAST, HAIKU, Operation::Converse, body(1_000).to_string().as_bytes()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert!(answer["usage"]["outputTokens"].as_u64().unwrap() <= 10, "a marker is only text unless asked for");
}

/// How many calls of ten tokens get through at this moment, the quota being what stops them.
async fn room(caller: &Caller) -> u32 {
    let mut admitted = 0;
    while caller.status(EAST).await == 200 {
        admitted += 1;
    }
    admitted
}

#[tokio::test(start_paused = true)]
async fn strangers_use_up_the_quota_unseen_under_every_counting() {
    // Strangers use 10 a second from 60 s to 120 s, of 1,200 a minute. Everything is used up at 59 s. At 118.5 s the
    // bucket has had 1,190 since and strangers 590; the sliding minute still holds what was used at 59 s; the fixed one
    // holds the strangers' 590. At 150 s the sliding minute holds what they used after 90 s.
    for (counting, rooms) in [("bucket", [120, 60, 62]), ("sliding", [120, 0, 91]), ("fixed", [120, 61, 120])] {
        let scenario = format!(
            "{INSTANT}counting = '{counting}'\n[[model]]\nid = '{HAIKU}'\ntokens_per_minute = 1200\n\
             [[stranger]]\nmodel = '{HAIKU}'\ntokens_per_minute = 600\nevery = '1s'\nfrom = '60s'\nuntil = '120s'"
        );
        let caller = Caller::new(&scenario);
        let mut found = Vec::new();
        for at in [59.0, 118.5, 150.0] {
            caller.until(at).await;
            found.push(room(&caller).await);
        }
        assert_eq!(found, rooms, "{counting}");
        assert_eq!(caller.report().stranger_tokens, 600, "{counting}");
    }
}

#[tokio::test(start_paused = true)]
async fn strangers_in_one_region_leave_the_others_alone_and_use_requests_too() {
    let stranger = format!(
        "[[stranger]]\nmodel = '{HAIKU}'\nregion = '{WEST}'\ntokens_per_minute = 60\nrequests_per_minute = 60\nevery = '1s'"
    );
    let caller = with_model("requests_per_minute = 30", &stranger);
    caller.until(29.5).await;
    assert_eq!([caller.status(EAST).await, caller.status(WEST).await], [200, 429]);
    let report = caller.report();
    assert_eq!((report.lanes[EAST][HAIKU].stranger_tokens, report.lanes[WEST][HAIKU].stranger_tokens), (0, 30));
}

#[tokio::test(start_paused = true)]
async fn a_quota_may_change_while_it_is_used() {
    let quota = |from, limit| format!("[[quota]]\nmodel = '{HAIKU}'\nfrom = '{from}'\ntokens_per_minute = {limit}\n");
    let caller = with_model("tokens_per_minute = 100", &(quota("180s", 50) + &quota("90s", 200)));
    let mut found = Vec::new();
    for at in [0.0, 60.0, 89.9, 90.0, 150.0, 180.0, 210.0] {
        caller.until(at).await;
        found.push(room(&caller).await);
    }
    assert_eq!(found, [10, 10, 0, 10, 20, 0, 5]);
    // A quota that was none before.
    let caller = with_model("", &quota("60s", 50));
    for _ in 0..100 {
        assert_eq!(caller.status(EAST).await, 200);
    }
    caller.until(60.0).await;
    assert_eq!(room(&caller).await, 5);
}

#[tokio::test(start_paused = true)]
async fn fixed_minutes_turn_with_the_clock_unless_the_scenario_says_when() {
    for (offset, started_at, turns_after) in [
        ("", START, 60.0),
        ("", START.after(Duration::from_millis(42_500)), 17.5),
        ("minute_offset = '5s'\n", START.after(Duration::from_millis(42_500)), 55.0),
    ] {
        let scenario =
            format!("{offset}{INSTANT}counting = 'fixed'\n[[model]]\nid = '{HAIKU}'\ntokens_per_minute = 10");
        let mut caller = Caller::new(&scenario);
        caller.service = InProcess::new(Scenario::from_toml(&scenario).unwrap(), started_at);
        assert_eq!([caller.status(EAST).await, caller.status(EAST).await], [200, 429]);
        caller.until(turns_after - 0.001).await;
        assert_eq!(caller.status(EAST).await, 429, "{offset} {started_at}");
        caller.until(turns_after).await;
        assert_eq!(caller.status(EAST).await, 200, "{offset} {started_at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_works_on_no_more_calls_than_its_capacity() {
    for (error, status) in [("", 503), ("capacity_error = 'overloaded'", 529)] {
        let model = format!("[[model]]\nid = '{HAIKU}'\ncapacity = 2\ntokens_per_minute = 30\n{error}");
        let caller = Caller::new(&format!("latency = {{ constant = '1s' }}\ncounting = 'sliding'\n{model}"));
        let met = tokio::join!(caller.status(EAST), caller.status(EAST), caller.status(EAST), caller.status(WEST));
        assert_eq!(met, (200, 200, status, 200), "a region has its own");
        // The refused call cost no quota: there is room for one more, and then the quota ends it.
        assert_eq!([caller.status(EAST).await, caller.status(EAST).await], [200, 429]);
        let report = caller.report();
        let east = &report.lanes[EAST][HAIKU];
        assert_eq!((east.counts.over_capacity, east.counts.throttled, east.peak_open), (1, 1, 2));
        assert_eq!(report.over_capacity, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_brown_out_slows_and_narrows_while_it_lasts() {
    let brownout = format!(
        "[[brownout]]\nregion = '{EAST}'\nfrom = '60s'\nuntil = '120s'\nlatency_factor = 2.5\ncapacity = 1\nerror = 'overloaded'"
    );
    let model =
        format!("[[model]]\nid = '{HAIKU}'\ncapacity = 2\nlatency = {{ constant = '1s', per_output_token = '1s' }}");
    let caller = Caller::new(&format!("answer = {{ mean = 1, spread = 0 }}\n{model}\n{brownout}"));
    for (at, seconds, met) in
        [(0.0, 2.0, (200, 200)), (60.0, 5.0, (200, 529)), (114.9, 5.0, (200, 529)), (120.0, 2.0, (200, 200))]
    {
        caller.until(at).await;
        let began = Instant::now();
        let found = tokio::join!(caller.status(EAST), caller.status(EAST));
        assert_eq!(found, met, "at {at} s");
        assert!((began.elapsed().as_secs_f64() - seconds).abs() < 1e-6, "at {at} s: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_reaches_nobody() {
    let caller = with_model("tokens_per_minute = 10", "[[fault]]\nkind = 'refuse'\ncalls = '1-3'");
    for _ in 0..3 {
        assert_eq!(caller.call(EAST, 9, 1).await.unwrap_err(), NoAnswer::NoConnection);
    }
    assert_eq!(caller.status(EAST).await, 200, "no quota was used");
    let report = caller.report();
    assert_eq!((report.calls, report.faults["refuse"], report.admitted_tokens), (4, 3, 10));
}
