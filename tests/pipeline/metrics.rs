//! What is counted while the flow works, and is it the same wherever one looks?

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use aquifer::flow::context::Context;
use aquifer::flow::figures::figures;
use aquifer::job::failure::Class;
use aquifer::job::ident::{BatchName, JobId, JobKey, Tenant};
use aquifer::job::lifecycle::Status;
use aquifer::job::outcome::Usage;
use aquifer::job::units::{Timestamp, Tokens, Usd};
use aquifer::page::{AskedJob, BatchProgress, Desk, Explained, Page};
use aquifer::ports::Billing;
use aquifer::rules::pace::Event;
use aquifer::telemetry::Ended;
use aquifer::telemetry::exposition;
use aquifer::telemetry::figures::BreakerState;

use crate::common::{BATCH, context_of};
use crate::harness::*;

/// Asks for a path and returns the body.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    if path == "/metrics" {
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    }
    body.to_owned()
}

/// The sum of the series of that name.
fn sum(metrics: &str, name: &str) -> f64 {
    let lines = metrics.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    let values: Vec<f64> = lines.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
    assert!(!values.is_empty(), "no series of {name} in\n{metrics}");
    values.iter().sum()
}

/// What is on record is told elsewhere.
struct NothingOnRecord;

#[async_trait]
impl Desk for NothingOnRecord {
    async fn batches(&self) -> Result<Vec<BatchProgress>, String> {
        Ok(Vec::new())
    }

    async fn explain(&self, _: &AskedJob) -> Result<Vec<Explained>, String> {
        Err("nothing is on record".to_owned())
    }

    async fn redrive(&self) -> Result<u64, String> {
        Ok(0)
    }

    fn stale_after(&self) -> Duration {
        Duration::ZERO
    }
}

fn assert_equal(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() < 1e-9, "{what}: {found}, not {expected}");
}

#[tokio::test(start_paused = true)]
async fn o1_the_page_the_scrape_and_the_results_tell_the_same() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::from_millis(200), |number, _| match number {
        2 => Reply::Fail(Class::QuotaMinute, Billing::Nothing),
        3 => Reply::Fail(Class::ModelError, Billing::Nothing),
        4 => Reply::Fail(Class::Invalid, Billing::Nothing),
        _ => Reply::Text("fine"),
    });
    let (run, _) = enrol(&store, jobs(20)).await;
    let context =
        context(&store, &state, model.clone(), Setup { limits: tokens_per_minute(20_000), ..Setup::default() });
    let results = drain(&context, &store, &run, 20).await;
    let page = Page::open("127.0.0.1:0".parse().unwrap(), Arc::clone(&context), Arc::new(NothingOnRecord), None)
        .await
        .unwrap();
    let metrics = get(page.address(), "/metrics").await;
    let status: serde_json::Value = serde_json::from_str(&get(page.address(), "/api/status").await).unwrap();

    let of_status = |name: &str| status[name].as_f64().unwrap_or_else(|| panic!("{name}: {status}"));
    let calls = sum(&metrics, "aquifer_calls_answered_total")
        + sum(&metrics, "aquifer_throttles_total")
        + sum(&metrics, "aquifer_call_failures_total");
    #[allow(clippy::cast_precision_loss, reason = "a handful")]
    let made = model.calls() as f64;
    assert_equal(calls, made, "calls of the scrape");
    assert_equal(of_status("model_calls"), made, "calls of the page");
    for (metric, name) in [
        ("aquifer_throttles_total", "throttled"),
        ("aquifer_call_failures_total", "call_failures"),
        ("aquifer_input_tokens_total", "input_tokens"),
        ("aquifer_output_tokens_total", "output_tokens"),
        ("aquifer_cost_usd_total", "cost_usd"),
        ("aquifer_jobs_ended_total", "ended"),
        ("aquifer_jobs_unsuccessful_total", "without_success"),
        ("aquifer_messages_received_total", "received"),
        ("aquifer_jobs_in_hand", "in_hand"),
    ] {
        assert_equal(sum(&metrics, metric), of_status(name), metric);
    }
    assert_equal(sum(&metrics, "aquifer_throttles_total"), 1.0, "throttles");
    assert_equal(sum(&metrics, "aquifer_retries_total"), 1.0, "the model's error was tried again, the refusal was not");
    assert_equal(sum(&metrics, "aquifer_jobs_ended_total"), 20.0, "jobs");
    assert_equal(sum(&metrics, "aquifer_call_duration_seconds_count"), 19.0, "answers");
    assert_equal(sum(&metrics, "aquifer_call_duration_seconds_sum"), 19.0 * 0.2, "their duration");
    assert_equal(sum(&metrics, "aquifer_pacing_wait_seconds_count"), made, "each call waited for its turn");
    let spent: Usd = results.iter().map(|result| result.cost_usd).sum();
    assert_equal(sum(&metrics, "aquifer_jobs_cost_usd_total"), spent.dollars(), "what the results say");
    assert_equal(sum(&metrics, "aquifer_settled_tokens_total"), 19.0 * 15.0, "settled");
    assert!(sum(&metrics, "aquifer_reserved_tokens_total") >= 19.0 * 100.0, "the cap is reserved");
    let lane = &status["lanes"][0];
    assert_equal(sum(&metrics, "aquifer_quota_tokens_limit"), lane["tokens_per_minute"].as_f64().unwrap(), "the quota");
    assert!(
        !metrics.contains("prompt 1") && !metrics.contains("fine"),
        "neither prompt nor answer leaves by this door"
    );
}

#[tokio::test(start_paused = true)]
async fn b4_a_breaker_that_opens_and_closes_is_told_once_each() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::from_millis(20), |number, _| match number {
        1..=5 => Reply::Fail(Class::Unavailable, Billing::Nothing),
        _ => Reply::Text("fine"),
    });
    let (run, _) = enrol(&store, jobs(8)).await;
    let context = context(&store, &state, model, Setup::default());
    let working = tokio::spawn({
        let worker = aquifer::flow::worker::Worker::new(Arc::clone(&context));
        async move { worker.run().await }
    });
    let mut look = tokio::time::interval(Duration::from_millis(100));
    let mut seen = Vec::new();
    while aquifer_ended(&context) < 8 {
        look.tick().await;
        let figures = figures(&context);
        let state = figures.lanes.first().and_then(|lane| lane.now).map(|now| now.breaker);
        if seen.last() != state.as_ref() {
            seen.extend(state);
        }
    }
    ended(&store, &run, 8).await;
    context.stop.drain(aquifer::flow::stop::Reason::Done);
    working.await.unwrap();
    let figures = figures(&context);
    assert_eq!(figures.lanes[0].tally.breaker_opened, 1, "seen: {seen:?}");
    assert!(seen.contains(&BreakerState::Open), "{seen:?}");
    assert_eq!(seen.last(), Some(&BreakerState::Closed), "{seen:?}");
    assert!(context.catalogue.lanes()[0].take_turns().is_empty(), "all turns are told");
    let made_known: Vec<_> = notices(&state).into_iter().filter(|notice| notice["kind"] == "breaker").collect();
    let states: Vec<_> = made_known.iter().map(|notice| notice["state"].as_str().unwrap()).collect();
    assert_eq!((states.first(), states.last()), (Some(&"open"), Some(&"closed")), "{made_known:?}");
    assert_eq!(states.iter().filter(|state| **state == "open").count(), 1, "{made_known:?}");
}

fn aquifer_ended(context: &Context) -> u64 {
    context.meter.counts().ended
}

#[tokio::test(start_paused = true)]
async fn o2_the_queue_is_asked_how_much_waits_and_the_oldest_in_hand_is_known() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::from_millis(20), |_, _| Reply::Hang);
    let (_, _) = enrol(&store, jobs(30)).await;
    let context = context(&store, &state, model.clone(), Setup::default());
    let working = tokio::spawn({
        let worker = aquifer::flow::worker::Worker::new(Arc::clone(&context));
        async move { worker.run().await }
    });
    model.called(1).await;
    let mut look = tokio::time::interval(Duration::from_secs(1));
    let mut figures_now = figures(&context);
    for _ in 0..100 {
        figures_now = figures(&context);
        if figures_now.queue.is_some_and(|depth| depth.in_flight > 0) {
            break;
        }
        look.tick().await;
    }
    let depth = figures_now.queue.expect("the queue has answered");
    assert_eq!(depth.ready + depth.in_flight, 30, "{depth:?}");
    let (before, oldest) = (context.now(), figures_now.oldest_in_hand.expect("jobs are in hand"));
    tokio::time::sleep(Duration::from_secs(40)).await;
    let later = figures(&context).oldest_in_hand.expect("they still are");
    assert_eq!(later, oldest + context.now().since(before));
    context.stop.drain(aquifer::flow::stop::Reason::Interrupted);
    context.stop.abort();
    working.await.unwrap();
    assert_eq!(figures(&context).oldest_in_hand, None);
}

/// The bar is 10 ms; this prints what it is in this build.
#[tokio::test]
#[allow(clippy::print_stdout, reason = "figures for a person")]
async fn o1_a_scrape_of_100_lanes_with_a_busy_quota_and_100_tenants() {
    let state = State::new();
    let store = state.open().await;
    let setup = Setup::default();
    let plans = (0..100).map(|n| plan(&format!("m-{n}"), tokens_per_minute(1_000_000), &setup)).collect();
    let context = context_of(&store, &state, Scripted::answering(), setup.settings.clone(), plans);
    for (n, lane) in context.catalogue.lanes().iter().enumerate() {
        let (now, mut lane) = (lane.now(), lane.state());
        for call in 0..500 {
            let at = Timestamp(now.0 - 55_000 + call * 100);
            let made = lane.book.ledger.reserve(at, Tokens(1_000)).unwrap();
            lane.book.ledger.apply(at, &Event::Settled(made, Tokens(1_000)));
        }
        let key = JobKey {
            tenant: Tenant::new(&format!("tenant-{n}")).unwrap(),
            batch: BatchName::new(BATCH).unwrap(),
            id: JobId::new("job-1").unwrap(),
        };
        let (status, usage, spent) = (Status::Succeeded, Usage::default(), Usd::from_nanos(1));
        context.meter.ended(context.now(), &Ended { key: &key, status, failed: None, usage, spent });
    }
    let page = Page::open("127.0.0.1:0".parse().unwrap(), Arc::clone(&context), Arc::new(NothingOnRecord), None)
        .await
        .unwrap();
    for _ in 0..3 {
        let started = Instant::now();
        let metrics = get(page.address(), "/metrics").await;
        println!("/metrics over HTTP: {} KiB in {:?}", metrics.len() / 1_024, started.elapsed());
        let lanes = metrics.lines().filter(|line| line.starts_with("aquifer_quota_utilisation_ratio{")).count();
        let tenants = metrics.lines().filter(|line| line.starts_with("aquifer_jobs_cost_usd_total{")).count();
        assert_eq!((lanes, tenants), (100, 100));
        assert!(sum(&metrics, "aquifer_quota_tokens_used") > 40_000_000.0, "the lanes are busy");
    }
    let started = Instant::now();
    let text = exposition::text(&figures(&context));
    println!("without HTTP: {} KiB in {:?}", text.len() / 1_024, started.elapsed());
}
