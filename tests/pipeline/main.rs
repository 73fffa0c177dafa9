//! The whole flow, from queue to acknowledgement, on a real state directory with a scripted model. Time is paused: what
//! takes ten minutes here takes milliseconds there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    reason = "tests"
)]

mod agents;
mod batches;
mod callbacks;
#[path = "../common/mod.rs"]
mod common;
mod documents;
mod harness;
mod ingest;
mod killed;
mod lanes;
mod metrics;
mod money;
mod outage;
mod rows;
mod shaky;
mod shares;
mod sizing;
mod storage;
mod traces;
mod uploads;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use aquifer::flow::context::Settings;
use aquifer::flow::patience::Patience;
use aquifer::flow::stop::Reason;
use aquifer::flow::worker::Worker;
use aquifer::job::failure::Class;
use aquifer::job::ident::BatchName;
use aquifer::job::lifecycle::{State as JobState, Status};
use aquifer::job::outcome::JobResult;
use aquifer::job::spec::MaxTokens;
use aquifer::job::units::Usd;
use aquifer::ports::{Billing, CallBody, Outgoing};
use aquifer::rules::pace::{Counting, Hypothesis};

use harness::*;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn every_job_ends_once_with_one_call_and_one_notice() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::answering();
    let (run, _) = enrol(&store, jobs(64)).await;
    let context = context(&store, &state, model.clone(), Setup::default());
    let results = drain(&context, &store, &run, 64).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded && result.model_calls == 1));
    assert_eq!(model.calls(), 64);
    let (batches, single): (Vec<_>, Vec<_>) = notices(&state).into_iter().partition(|notice| notice["kind"] == "batch");
    assert_eq!(single.len(), 64);
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0]["status"], "succeeded");
    assert_eq!(batches[0]["total"], 64);
}

#[tokio::test(start_paused = true)]
async fn f5_everything_throttled_for_ten_minutes_waits_and_nothing_fails() {
    let state = State::new();
    let store = state.open().await;
    let start = tokio::time::Instant::now();
    let model = Scripted::new(Duration::from_millis(20), move |_, _| {
        if start.elapsed() < 10 * MINUTE {
            Reply::Fail(Class::QuotaMinute, Billing::Nothing)
        } else {
            Reply::Text("late")
        }
    });
    let (run, _) = enrol(&store, jobs(30)).await;
    let context = context(&store, &state, model.clone(), Setup::default());
    let results = drain(&context, &store, &run, 30).await;
    assert!(start.elapsed() >= 10 * MINUTE);
    for result in &results {
        assert_eq!((result.status, result.attempts), (Status::Succeeded, 0), "{}", result.id);
    }
    let depth = context.queue.depth().await.unwrap();
    assert_eq!(depth.dead, 0, "throttles move nothing towards the dead-letter queue");
    assert!(model.calls() < 30 + 16 * 60, "{} calls: the pauses grow", model.calls());
}

#[tokio::test(start_paused = true)]
async fn f6_the_delay_of_a_throttle_is_enforced() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::ZERO, |number, _| {
        if number <= 6 { Reply::Fail(Class::QuotaMinute, Billing::Nothing) } else { Reply::Text("now") }
    });
    let (run, _) = enrol(&store, jobs(1)).await;
    let context = context(&store, &state, model.clone(), Setup::default());
    drain(&context, &store, &run, 1).await;
    let times = model.times.lock().unwrap().clone();
    assert_eq!(times.len(), 7);
    for (number, pair) in times.windows(2).enumerate() {
        assert!(
            pair[1] - pair[0] >= Duration::from_secs(1),
            "call {number}: {:?} after the one before",
            pair[1] - pair[0]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn t3_a_refused_request_is_called_once_and_fails() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::ZERO, |_, _| Reply::Fail(Class::Invalid, Billing::Nothing));
    let (run, _) = enrol(&store, jobs(1)).await;
    let context = context(&store, &state, model.clone(), Setup::default());
    let results = drain(&context, &store, &run, 1).await;
    assert_eq!(model.calls(), 1);
    assert_eq!(results[0].status, Status::Failed);
    assert_eq!(results[0].error.as_ref().unwrap().class, Class::Invalid);
}

#[tokio::test(start_paused = true)]
async fn t4_model_calls_counts_every_call_and_attempts_those_that_count() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::from_millis(5), |number, _| match number {
        1 => Reply::Fail(Class::Unavailable, Billing::Unknown),
        2 => Reply::Fail(Class::QuotaMinute, Billing::Nothing),
        3 => Reply::Fail(Class::Timeout, Billing::Unknown),
        _ => Reply::Text("at last"),
    });
    let (run, _) = enrol(&store, jobs(1)).await;
    let context = context(&store, &state, model.clone(), Setup::default());
    let results = drain(&context, &store, &run, 1).await;
    assert_eq!((results[0].model_calls, results[0].attempts), (4, 2));
}

#[tokio::test(start_paused = true)]
async fn r5_attempts_end_at_the_maximum_with_the_last_failure() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::ZERO, |_, _| Reply::Fail(Class::ModelError, Billing::Nothing));
    let (run, _) = enrol(&store, jobs(1)).await;
    let context = context(&store, &state, model.clone(), Setup::default());
    let results = drain(&context, &store, &run, 1).await;
    assert_eq!((model.calls(), results[0].attempts), (5, 5));
    assert_eq!(results[0].error.as_ref().unwrap().class, Class::ModelError);
}

#[tokio::test(start_paused = true)]
async fn b3_an_outage_of_hours_fails_no_job() {
    let state = State::new();
    let store = state.open().await;
    let start = tokio::time::Instant::now();
    let model = Scripted::new(Duration::from_millis(20), move |_, _| {
        if start.elapsed() < 180 * MINUTE {
            Reply::Fail(Class::Unavailable, Billing::Nothing)
        } else {
            Reply::Text("back")
        }
    });
    let (run, _) = enrol(&store, jobs(40)).await;
    let context = context(&store, &state, model.clone(), Setup::default());
    let results = drain(&context, &store, &run, 40).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded));
    let probes = model.calls() - 40;
    assert!(probes <= 16 + 200, "{probes} calls in three hours: the first burst, then one probe a minute");
}

#[tokio::test(start_paused = true)]
async fn give_up_after_ends_the_wait_for_a_service_that_stays_away() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::ZERO, |_, _| Reply::Fail(Class::Unavailable, Billing::Nothing));
    let (run, _) = enrol(&store, jobs(8)).await;
    let mut setup = Setup::default();
    setup.settings.give_up_after = 30 * MINUTE;
    let context = context(&store, &state, model, setup);
    let results = drain(&context, &store, &run, 8).await;
    assert!(results.iter().all(|result| result.status == Status::Failed));
    assert!(results.iter().all(|result| result.error.as_ref().unwrap().class == Class::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn f10_waiting_is_bounded_by_the_deadline() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::ZERO, |_, _| Reply::Fail(Class::QuotaMinute, Billing::Nothing));
    let mut late = job("late", "x");
    late.deadline = Some(aquifer::ports::Clock::now(&*state.clock).after(5 * MINUTE));
    let (run, _) = enrol(&store, vec![late]).await;
    let start = tokio::time::Instant::now();
    let context = context(&store, &state, model, Setup::default());
    let results = drain(&context, &store, &run, 1).await;
    assert_eq!(results[0].status, Status::Expired);
    assert!(start.elapsed() >= 5 * MINUTE && start.elapsed() < 7 * MINUTE, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn q2_q7_a_small_quota_is_used_and_never_exceeded() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::answering();
    let (run, _) = enrol(&store, jobs(60)).await;
    // Each call reserves its input and a cap of 100, and settles at 15.
    // A counting that is told is kept to: this model would never say that more is too much.
    let counting = Counting::Known(Hypothesis::Sliding);
    let setup = Setup { limits: tokens_per_minute(600), counting, ..Setup::default() };
    let context = context(&store, &state, model.clone(), setup);
    let start = tokio::time::Instant::now();
    let results = drain(&context, &store, &run, 60).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded && result.attempts == 0));
    let mut times = model.times.lock().unwrap().clone();
    times.sort();
    for (index, from) in times.iter().enumerate() {
        let within = times[index..].iter().filter(|time| **time < *from + MINUTE).count();
        assert!(within * 15 <= 600, "{within} calls of 15 tokens within a minute");
    }
    assert!(start.elapsed() < 3 * MINUTE, "60 x 15 tokens at 600 a minute took {:?}", start.elapsed());
}

/// The premise: where a machine stood still for a second while calls were on their way out, the service counted them a second
/// later than the ledger did, and refused those that took their place a minute after.
#[tokio::test(start_paused = true)]
async fn q2_a_call_that_left_while_the_machine_stood_still_counts_from_when_it_ran_again() {
    const STOOD_STILL: Duration = Duration::from_millis(1_500);
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::from_secs(3), |_, _| Reply::Text("fine"));
    let (run, _) = enrol(&store, jobs(2)).await;
    // Room for the cap of one, and not beside what the other came to.
    let counting = Counting::Known(Hypothesis::Sliding);
    let setup = Setup { limits: tokens_per_minute(125), counting, ..Setup::default() };
    let context = context(&store, &state, model.clone(), setup);
    let stands_still = async {
        model.called(1).await;
        tokio::time::advance(STOOD_STILL).await;
    };
    let (results, ()) = tokio::join!(drain(&context, &store, &run, 2), stands_still);
    assert!(results.iter().all(|result| result.status == Status::Succeeded));
    let times = model.times.lock().unwrap().clone();
    let apart = times[1] - times[0];
    assert!(apart >= MINUTE + STOOD_STILL && apart < MINUTE + 2 * STOOD_STILL, "{apart:?}");
}

#[tokio::test(start_paused = true)]
async fn q6_a_job_that_can_never_fit_is_too_large_at_once() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::answering();
    let mut large = job("large", "x");
    large.max_tokens = MaxTokens::of(5_000);
    let (run, _) = enrol(&store, vec![large]).await;
    let setup = Setup { limits: tokens_per_minute(1_000), ..Setup::default() };
    let context = context(&store, &state, model.clone(), setup);
    let results = drain(&context, &store, &run, 1).await;
    assert_eq!((results[0].status, model.calls()), (Status::Rejected, 0));
    assert_eq!(results[0].error.as_ref().unwrap().class, Class::TooLarge);
}

#[tokio::test(start_paused = true)]
async fn q8_a_job_without_max_tokens_is_sent_with_the_configured_default() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::ZERO, |_, call| {
        let (CallBody::Converse(body) | CallBody::Invoke(body)) = &call.body else { panic!("{call:?}") };
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        if body["inferenceConfig"]["maxTokens"] == 1_024 { Reply::Text("capped") } else { Reply::Text("uncapped") }
    });
    let mut plain = job("plain", "x");
    plain.max_tokens = MaxTokens::Unsaid;
    let (run, _) = enrol(&store, vec![plain]).await;
    let context = context(&store, &state, model, Setup::default());
    let results = drain(&context, &store, &run, 1).await;
    assert_eq!(results[0].text.as_deref(), Some("capped"));
}

#[tokio::test(start_paused = true)]
async fn r14_no_call_leaves_the_residency_of_a_job() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::ZERO, |_, call| {
        if &*call.lane.region == "eu-west-1" { Reply::Text("home") } else { Reply::Text("abroad") }
    });
    let mut all = jobs(20);
    for job in &mut all {
        job.residency = Some(vec!["eu-west-1".to_owned()]);
    }
    all[19].residency = Some(vec!["ap-south-1".to_owned()]);
    let (run, _) = enrol(&store, all).await;
    let setup = Setup { regions: vec!["us-east-1", "eu-west-1"], ..Setup::default() };
    let context = context(&store, &state, model.clone(), setup);
    let results = drain(&context, &store, &run, 20).await;
    assert_eq!(results.iter().filter(|result| result.text.as_deref() == Some("home")).count(), 19);
    let refused = results.iter().find(|result| result.id == "job-19").unwrap();
    assert_eq!(refused.error.as_ref().unwrap().class, Class::Residency);
    assert_eq!(model.calls(), 19);
}

#[tokio::test(start_paused = true)]
async fn a_denied_lane_is_out_and_the_job_tries_another() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::ZERO, |_, call| {
        if &*call.lane.region == "us-east-1" {
            Reply::Fail(Class::Denied, Billing::Nothing)
        } else {
            Reply::Text("elsewhere")
        }
    });
    let (run, _) = enrol(&store, jobs(40)).await;
    let mut setup = Setup { regions: vec!["us-east-1", "us-west-2"], ..Setup::default() };
    setup.settings.slots = 1;
    let context = context(&store, &state, model.clone(), setup);
    let results = drain(&context, &store, &run, 40).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded && result.attempts == 0));
    assert_eq!(model.calls(), 41, "the denied lane was asked once");
}

#[tokio::test(start_paused = true)]
async fn f23_when_every_lane_is_denied_the_jobs_fail() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::ZERO, |_, _| Reply::Fail(Class::Denied, Billing::Nothing));
    let (run, _) = enrol(&store, jobs(20)).await;
    let context = context(&store, &state, model.clone(), Setup::default());
    let results = drain(&context, &store, &run, 20).await;
    assert!(results.iter().all(|result| result.error.as_ref().unwrap().class == Class::Denied));
    assert!(model.calls() <= 16, "{} calls: nobody asks a lane that is out", model.calls());
}

/// A worker, to which nothing is permitted before so many minutes have passed: how its jobs ended, by which minute, and calls.
async fn permitted_after(minutes: u32) -> (Vec<JobResult>, u64, u64) {
    let state = State::new();
    let store = state.open().await;
    let start = tokio::time::Instant::now();
    let model = Scripted::new(Duration::ZERO, move |_, _| {
        if start.elapsed() < minutes * MINUTE {
            Reply::Fail(Class::Denied, Billing::Nothing)
        } else {
            Reply::Text("permitted")
        }
    });
    let (run, _) = enrol(&store, jobs(20)).await;
    let mut setup = Setup::default();
    setup.settings.patience = Patience::Endless;
    let context = context(&store, &state, model.clone(), setup);
    let results = drain(&context, &store, &run, 20).await;
    (results, start.elapsed().as_secs() / 60, model.calls())
}

#[tokio::test(start_paused = true)]
async fn a_worker_waits_a_quarter_of_an_hour_for_a_permission_on_its_way() {
    let (results, minutes, calls) = permitted_after(10).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded && result.attempts == 0));
    assert!((10..=12).contains(&minutes), "{minutes}");
    assert!((30..=60).contains(&calls), "{calls}: one a minute to find out, and one a job");

    let (results, minutes, calls) = permitted_after(1_000).await;
    assert!(results.iter().all(|result| result.error.as_ref().unwrap().class == Class::Denied));
    assert!((15..=16).contains(&minutes), "{minutes}");
    assert!(calls <= 36, "{calls}");
}

#[tokio::test(start_paused = true)]
async fn expired_credentials_pause_everything_and_cost_no_attempt() {
    let state = State::new();
    let store = state.open().await;
    let start = tokio::time::Instant::now();
    let model = Scripted::new(Duration::ZERO, move |_, _| {
        if start.elapsed() < 2 * MINUTE {
            Reply::Fail(Class::Credentials, Billing::Nothing)
        } else {
            Reply::Text("renewed")
        }
    });
    let (run, _) = enrol(&store, jobs(20)).await;
    let context = context(&store, &state, model, Setup::default());
    let results = drain(&context, &store, &run, 20).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded && result.attempts == 0));
    assert!(start.elapsed() < 4 * MINUTE, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn credentials_that_stay_refused_stop_the_worker_with_nothing_lost() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::ZERO, |_, _| Reply::Fail(Class::Credentials, Billing::Nothing));
    let (_run, _) = enrol(&store, jobs(20)).await;
    let context = context(&store, &state, model, Setup::default());
    Worker::new(Arc::clone(&context)).run().await;
    assert!(matches!(context.stop.reason(), Some(Reason::Credentials(_))));
    let depth = context.queue.depth().await.unwrap();
    assert_eq!((depth.ready, depth.in_flight), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn d10_a_drain_finishes_calls_hands_back_what_waits_and_counts_nothing() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::from_secs(2), |_, _| Reply::Text("finished"));
    let (run, _) = enrol(&store, jobs(40)).await;
    // Five calls fit: the others in hand wait for tokens.
    let setup = Setup { limits: tokens_per_minute(600), ..Setup::default() };
    let context = context(&store, &state, model.clone(), setup);
    let worker = Worker::new(Arc::clone(&context));
    let working = tokio::spawn(async move { worker.run().await });
    model.called(3).await;
    context.stop.drain(Reason::Interrupted);
    working.await.unwrap();
    let finished = model.calls() as usize;
    assert_eq!(ended(&store, &run, finished).await.len(), finished);
    let depth = context.queue.depth().await.unwrap();
    assert_eq!((depth.ready, depth.in_flight), (40 - finished as u64, 0), "handed back means visible at once");
}

#[tokio::test(start_paused = true)]
async fn a_second_interrupt_hands_back_at_once_and_counts_the_open_calls_as_committed() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::ZERO, |_, _| Reply::Hang);
    let (run, _) = enrol(&store, jobs(4)).await;
    let context = context(&store, &state, model.clone(), Setup::default());
    let worker = Worker::new(Arc::clone(&context));
    let working = tokio::spawn(async move { worker.run().await });
    model.called(4).await;
    let start = tokio::time::Instant::now();
    context.stop.drain(Reason::Interrupted);
    context.stop.abort();
    working.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let progress = run.progress().await.unwrap();
    assert_eq!(progress.spent, Usd::ZERO);
    assert!(progress.committed > Usd::ZERO, "four calls may have been billed");
    assert_eq!(progress.counts.queued, 4);
}

#[tokio::test(start_paused = true)]
async fn f14_a_resumed_run_pays_only_for_what_was_in_flight() {
    let state = State::new();
    let first = state.open().await;
    let model = Scripted::new(
        Duration::from_millis(50),
        |number, _| if number <= 100 { Reply::Text("paid") } else { Reply::Hang },
    );
    let (_run, _) = enrol(&first, jobs(200)).await;
    let before = context(&first, &state, model.clone(), Setup::default());
    let worker = Worker::new(Arc::clone(&before));
    let killed = tokio::spawn(async move { worker.run().await });
    model.called(116).await;
    // As by kill -9: no hand-back, no drain; only the lock is free.
    first.abandon();
    killed.abort();
    let second = state.open().await;
    let again = Scripted::answering();
    let (run, standings) = enrol(&second, jobs(200)).await;
    assert_eq!(standings.iter().filter(|standing| matches!(standing, aquifer::embedded::Standing::New)).count(), 0);
    let context = context(&second, &state, again.clone(), Setup::default());
    let results = drain(&context, &second, &run, 200).await;
    assert_eq!(results.len(), 200);
    assert_eq!(again.calls(), 100, "what was answered is not asked again, and what was in flight is");
    let ids: std::collections::HashSet<_> = results.iter().map(|result| result.id.clone()).collect();
    assert_eq!(ids.len(), 200);
}

#[tokio::test(start_paused = true)]
async fn f15_the_cost_of_a_batch_is_the_sum_over_its_results() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::ZERO, |number, _| {
        if number % 4 == 0 { Reply::Fail(Class::Empty, Billing::Billed(USAGE)) } else { Reply::Text("fine") }
    });
    let (run, _) = enrol(&store, jobs(40)).await;
    let context = context(&store, &state, model.clone(), Setup::default());
    let results = drain(&context, &store, &run, 40).await;
    let sum: Usd = results.iter().map(|result| result.cost_usd).sum();
    assert_eq!(sum, Usd::from_nanos(model.calls() * 15_000), "empty answers are billed too");
    assert_eq!(run.progress().await.unwrap().spent, sum);
    assert_eq!(run.progress().await.unwrap().committed, sum, "nothing is left open");
}

#[tokio::test(start_paused = true)]
async fn max_cost_stops_before_it_can_be_exceeded_over_all_runs() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::answering();
    let cap = Usd::from_nanos(1_000_000);
    for _ in 0..2 {
        let (run, _) = enrol(&store, jobs(200)).await;
        let mut setup = Setup::default();
        setup.settings.cost_cap = Some(cap);
        let context = context(&store, &state, model.clone(), setup);
        Worker::new(Arc::clone(&context)).run().await;
        assert!(matches!(context.stop.reason(), Some(Reason::CapReached { .. })));
        let progress = run.progress().await.unwrap();
        assert!(progress.committed <= cap, "{} of {cap}", progress.committed);
        assert!(progress.spent > Usd::from_nanos(800_000), "{}: most of the cap is used", progress.spent);
        assert_eq!(progress.counts.succeeded + progress.counts.queued, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn d6_poison_ends_after_its_claims_and_is_kept_for_a_person() {
    let state = State::new();
    let store = state.open().await;
    let (_run, _) = enrol(&store, jobs(1)).await;
    store.close().await.unwrap();
    for _ in 0..5 {
        let store = state.open().await;
        let model = Scripted::new(Duration::ZERO, |_, _| Reply::Hang);
        let context = context(&store, &state, model.clone(), Setup::default());
        let worker = Worker::new(context);
        let killed = tokio::spawn(async move { worker.run().await });
        model.called(1).await;
        store.abandon();
        killed.abort();
    }
    let store = state.open().await;
    let model = Scripted::answering();
    let (run, _) = enrol(&store, jobs(1)).await;
    let context = context(&store, &state, model.clone(), Setup::default());
    let results = drain(&context, &store, &run, 1).await;
    assert_eq!(results[0].error.as_ref().unwrap().class, Class::Poison);
    assert_eq!((model.calls(), context.queue.depth().await.unwrap().dead), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn d6_many_jobs_in_hand_at_repeated_kills_are_not_poison() {
    let state = State::new();
    for _ in 0..12 {
        let store = state.open().await;
        let (_run, _) = enrol(&store, jobs(16)).await;
        let model = Scripted::new(Duration::ZERO, |_, _| Reply::Hang);
        let context = context(&store, &state, model.clone(), Setup::default());
        let worker = Worker::new(context);
        let killed = tokio::spawn(async move { worker.run().await });
        model.called(16).await;
        store.abandon();
        killed.abort();
    }
    let store = state.open().await;
    let (run, _) = enrol(&store, jobs(16)).await;
    let context = context(&store, &state, Scripted::answering(), Setup::default());
    let results = drain(&context, &store, &run, 16).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded), "none of sixteen is the suspect");
}

#[tokio::test(start_paused = true)]
async fn d5_a_message_that_is_no_job_is_dead_lettered_at_its_first_delivery() {
    let state = State::new();
    let store = state.open().await;
    let (run, _) = enrol(&store, jobs(3)).await;
    let garbage = Outgoing {
        body: "{\"prompt\": 1}".to_owned(),
        batch: BatchName::new(BATCH).unwrap(),
        tenant: aquifer::job::ident::Tenant::unnamed(),
        model: None,
        priority: aquifer::job::spec::Priority::default(),
        delay: Duration::ZERO,
        trace: None,
    };
    let model = Scripted::answering();
    let context = context(&store, &state, model.clone(), Setup::default());
    context.queue.send(vec![garbage]).await.unwrap().remove(0).unwrap();
    drain(&context, &store, &run, 3).await;
    let depth = context.queue.depth().await.unwrap();
    assert_eq!((depth.dead, depth.ready, model.calls()), (1, 0, 3));
}

#[tokio::test(start_paused = true)]
async fn d2_d9_a_redelivered_job_that_has_ended_is_notified_again_without_a_call() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::answering();
    let (run, _) = enrol(&store, jobs(1)).await;
    let first = context(&store, &state, model.clone(), Setup::default());
    drain(&first, &store, &run, 1).await;
    let again = Outgoing {
        body: job("job-0", "prompt 0").to_message(),
        batch: BatchName::new(BATCH).unwrap(),
        tenant: aquifer::job::ident::Tenant::unnamed(),
        model: None,
        priority: aquifer::job::spec::Priority::default(),
        delay: Duration::ZERO,
        trace: None,
    };
    first.queue.send(vec![again]).await.unwrap().remove(0).unwrap();
    let second = context(&store, &state, model.clone(), Setup::default());
    let worker = Worker::new(Arc::clone(&second));
    let working = tokio::spawn(async move { worker.run().await });
    emptied(&second).await;
    second.stop.drain(Reason::Done);
    working.await.unwrap();
    assert_eq!(model.calls(), 1);
    let ids: Vec<_> = notices(&state)
        .into_iter()
        .filter(|notice| notice["kind"] == "job")
        .map(|notice| notice["notice_id"].clone())
        .collect();
    assert_eq!(ids.len(), 2, "told twice");
    assert_eq!(ids[0], ids[1], "under one name");
}

#[tokio::test(start_paused = true)]
async fn d4_a_lease_is_extended_while_a_long_call_lasts() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(10 * MINUTE, |_, _| Reply::Text("slow"));
    let (run, _) = enrol(&store, jobs(3)).await;
    let setup = Setup { call_timeout: 20 * MINUTE, ..Setup::default() };
    let context = context(&store, &state, model.clone(), setup);
    let results = drain(&context, &store, &run, 3).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded));
    assert_eq!(model.calls(), 3, "five leases long, and nobody else got them");
}

#[tokio::test(start_paused = true)]
async fn d4_a_lost_lease_stops_the_work_before_the_write() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::from_secs(60), |_, _| Reply::Text("too late"));
    let (run, _) = enrol(&store, jobs(1)).await;
    // One slot: the worker that loses the job must not be the one that receives it again.
    let setup = Setup { settings: Settings { slots: 1, ..Setup::default().settings }, ..Setup::default() };
    let context = context(&store, &state, model.clone(), setup);
    let worker = Worker::new(Arc::clone(&context));
    let working = tokio::spawn(async move { worker.run().await });
    model.called(1).await;
    // Somebody takes the message and its job away, as after a lease that ran out.
    let other = state.open().await;
    store.abandon();
    other.reap().await.unwrap();
    let taken = other.queue(Some(BatchName::new(BATCH).unwrap()));
    let message = taken.receive(1, &[], 10 * MINUTE, Duration::ZERO).await.unwrap().remove(0);
    let key = job("job-0", "prompt 0").key;
    other.ledger().claim(&key, job("job-0", "prompt 0").digest(), message.sent, 10 * MINUTE).await.unwrap();
    tokio::time::advance(2 * MINUTE).await;
    context.stop.drain(Reason::Done);
    working.await.unwrap();
    let (standing, _) = other.ledger().look_up(&key).await.unwrap().unwrap();
    assert_eq!(standing, JobState::Running, "the late answer was not written");
    assert_eq!(run.finals(aquifer::embedded::DoneSeq::default(), 10).await.unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn d12_the_same_id_with_other_content_is_refused_and_the_first_stands() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::answering();
    let (run, _) = enrol(&store, vec![job("a", "one")]).await;
    let first = context(&store, &state, model.clone(), Setup::default());
    drain(&first, &store, &run, 1).await;
    let (_run, standings) = enrol(&store, vec![job("a", "two")]).await;
    assert!(matches!(standings[0], aquifer::embedded::Standing::Conflict { with: JobState::Final(Status::Succeeded) }));
    assert_eq!(model.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn f12_a_stalled_call_keeps_nothing_from_its_siblings() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(
        Duration::from_millis(50),
        |number, _| if number == 1 { Reply::Hang } else { Reply::Text("fine") },
    );
    let (run, _) = enrol(&store, jobs(64)).await;
    let context = context(&store, &state, model.clone(), Setup::default());
    let worker = Worker::new(Arc::clone(&context));
    let working = tokio::spawn(async move { worker.run().await });
    let start = tokio::time::Instant::now();
    ended(&store, &run, 63).await;
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    context.stop.drain(Reason::Done);
    context.stop.abort();
    working.await.unwrap();
}

/// Refuses to publish until told otherwise, as a topic that is away.
struct Away {
    real: Arc<dyn aquifer::ports::Notices>,
    refusals: std::sync::atomic::AtomicU64,
}

#[async_trait::async_trait]
impl aquifer::ports::Notices for Away {
    async fn publish(&self, notice: &aquifer::job::notice::Notice) -> Result<(), aquifer::ports::StoreError> {
        use std::sync::atomic::Ordering::SeqCst;
        let left = self.refusals.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        if left.is_ok() {
            let why = "the topic is away".to_owned();
            let kind = aquifer::ports::StoreTrouble::Away;
            return Err(aquifer::ports::StoreError { kind, doing: "publishing".to_owned(), why });
        }
        self.real.publish(notice).await
    }
}

#[tokio::test(start_paused = true)]
async fn f18_a_message_whose_notice_failed_is_not_deleted_and_is_notified_later_without_a_call() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::answering();
    let (run, _) = enrol(&store, jobs(5)).await;
    let mut context = context(&store, &state, model.clone(), Setup::default());
    let away = Arc::new(Away { real: store.notices(), refusals: 20.into() });
    Arc::get_mut(&mut context).unwrap().notices = away.clone();
    let worker = Worker::new(Arc::clone(&context));
    let working = tokio::spawn(async move { worker.run().await });
    ended(&store, &run, 5).await;
    let depth = context.queue.depth().await.unwrap();
    assert_eq!(depth.ready + depth.in_flight + depth.delayed, 5, "on record, not made known, so not deleted");
    emptied(&context).await;
    context.stop.drain(Reason::Done);
    working.await.unwrap();
    assert_eq!(model.calls(), 5);
    let told: std::collections::HashSet<_> =
        notices(&state).iter().map(|notice| notice["notice_id"].to_string()).collect();
    assert_eq!(told.len(), 6, "five jobs and their batch");
}
