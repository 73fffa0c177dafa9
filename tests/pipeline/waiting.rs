//! What a job waits for, for how long, and that nobody else waits with it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use aquifer::flow::credentials::CredentialsGate;
use aquifer::flow::worker::Worker;
use aquifer::job::failure::Class;
use aquifer::job::lifecycle::Status;
use aquifer::job::spec::Priority;
use aquifer::job::units::PerMinute;
use aquifer::ports::{Billing, Clock as _};
use aquifer::rules::pace::Limits;

use crate::harness::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn f10_the_deadline_bounds_standing_in_line_behind_others() {
    let state = State::new();
    let store = state.open().await;
    let start = tokio::time::Instant::now();
    let model = Scripted::answering();
    let mut late = job("late", "x");
    late.deadline = Some(state.clock.now().after(10 * SECOND));
    late.priority = Priority::new(9).unwrap();
    let mut all = jobs(8);
    all.push(late);
    let (run, _) = enrol(&store, all).await;
    let limits = Limits { requests_per_minute: PerMinute::new(1), ..Limits::default() };
    let context = context(&store, &state, model.clone(), Setup { limits, ..Setup::default() });
    let worker = Worker::new(Arc::clone(&context));
    let working = tokio::spawn(async move { worker.run().await });
    let results = ended(&store, &run, 2).await;
    assert!(start.elapsed() < 12 * SECOND, "{:?}", start.elapsed());
    assert_eq!((results[1].id.as_str(), results[1].status, results[1].model_calls), ("late", Status::Expired, 0));
    context.stop.drain(aquifer::flow::stop::Reason::Done);
    working.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn f10_the_deadline_bounds_waiting_for_credentials() {
    let state = State::new();
    let store = state.open().await;
    let start = tokio::time::Instant::now();
    let model = Scripted::new(Duration::ZERO, |_, _| Reply::Fail(Class::Credentials, Billing::Nothing));
    let mut late = job("late", "x");
    late.deadline = Some(state.clock.now().after(5 * SECOND));
    let (run, _) = enrol(&store, vec![late]).await;
    let context = context(&store, &state, model, Setup::default());
    let results = drain(&context, &store, &run, 1).await;
    assert_eq!(results[0].status, Status::Expired);
    assert!(start.elapsed() < 7 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn b2_a_job_with_attempts_left_on_a_lane_waits_for_its_open_breaker() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::ZERO, |number, _| {
        if number == 1 { Reply::Fail(Class::Unavailable, Billing::Nothing) } else { Reply::Text("back") }
    });
    let (run, _) = enrol(&store, jobs(1)).await;
    let mut setup = Setup::default();
    setup.settings.attempts_per_endpoint = NonZeroU32::new(3).unwrap();
    setup.settings.breaker.failures = NonZeroU32::MIN;
    let context = context(&store, &state, model.clone(), setup);
    let results = drain(&context, &store, &run, 1).await;
    assert_eq!((results[0].status, results[0].model_calls), (Status::Succeeded, 2));
    let times = model.times.lock().unwrap().clone();
    assert!(times[1] - times[0] >= MINUTE, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn r6_a_job_bound_to_a_lane_that_is_not_well_keeps_nobody_from_the_others() {
    let state = State::new();
    let store = state.open().await;
    let start = tokio::time::Instant::now();
    let model = Scripted::new(Duration::from_millis(20), move |_, call| {
        if &*call.lane.region == "us-east-1" && start.elapsed() < 30 * MINUTE {
            Reply::Fail(Class::Unavailable, Billing::Nothing)
        } else {
            Reply::Text("well")
        }
    });
    let (run, _) = enrol(&store, jobs(12)).await;
    let mut setup = Setup { regions: vec!["us-east-1", "us-west-2"], ..Setup::default() };
    setup.settings.multi_region = false;
    setup.settings.breaker.failures = NonZeroU32::MIN;
    let context = context(&store, &state, model, setup);
    let worker = Worker::new(Arc::clone(&context));
    let working = tokio::spawn(async move { worker.run().await });
    ended(&store, &run, 6).await;
    assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());
    context.stop.drain(aquifer::flow::stop::Reason::Done);
    working.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn t2_a_hint_of_the_service_is_waited_for_however_long() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::ZERO, |number, _| match number {
        1 => Reply::Later(Class::Overloaded, 100 * SECOND),
        _ => Reply::Text("now"),
    });
    let (run, _) = enrol(&store, jobs(1)).await;
    let context = context(&store, &state, model.clone(), Setup::default());
    drain(&context, &store, &run, 1).await;
    let times = model.times.lock().unwrap().clone();
    assert!(times[1] - times[0] >= 100 * SECOND, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn t2_an_absurd_hint_harms_nobody() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::ZERO, |_, _| Reply::Later(Class::Overloaded, Duration::MAX));
    let mut late = job("late", "x");
    late.deadline = Some(state.clock.now().after(MINUTE));
    let (run, _) = enrol(&store, vec![late]).await;
    let context = context(&store, &state, model, Setup::default());
    let results = drain(&context, &store, &run, 1).await;
    assert_eq!((results[0].status, results[0].attempts), (Status::Expired, 1));
}

#[test]
fn the_credentials_gate_is_never_shut_without_somebody_to_open_it() {
    let gate = CredentialsGate::default();
    for _ in 0..5_000 {
        std::thread::scope(|threads| {
            threads.spawn(|| gate.refused("expired"));
            threads.spawn(|| gate.accepted());
        });
        assert!(gate.is_open() || gate.trouble().is_some(), "shut, and nobody knows since when");
        gate.accepted();
    }
}
