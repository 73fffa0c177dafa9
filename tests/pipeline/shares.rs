//! What a model that waits leaves of the slots to the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use aquifer::flow::context::Context;
use aquifer::flow::stop::Reason;
use aquifer::flow::worker::Worker;
use aquifer::job::failure::Class;
use aquifer::job::lifecycle::Status;
use aquifer::job::outcome::JobResult;
use aquifer::job::spec::Job;
use aquifer::job::units::PerMinute;
use aquifer::ports::{
    BATCH_ENTRIES, Billing, Depth, Entry, Message, MessageId, Outgoing, Queue, ReceiptHandle, StoreError,
};
use aquifer::rules::pace::Limits;

use crate::harness::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// So many jobs of `m`, and behind them so many of `other`.
fn jobs_of_two(m: usize, other: usize) -> Vec<Job> {
    let others = (0..other).map(|number| Job { model: "other".to_owned(), ..job(&format!("other-{number}"), "x") });
    jobs(m).into_iter().chain(others).collect()
}

fn one_a_minute() -> Setup {
    let limits = Limits { requests_per_minute: PerMinute::new(1), ..Limits::default() };
    Setup { limits, others: vec!["other"], ..Setup::default() }
}

/// Works until these jobs have ended and only so many messages are left, looks at the queue, and stops.
async fn work_until(
    context: &Arc<Context>,
    ended: impl Future<Output = Vec<JobResult>>,
    left: u64,
) -> (Vec<JobResult>, Depth) {
    let worker = Worker::new(Arc::clone(context));
    let working = tokio::spawn(async move { worker.run().await });
    let results = ended.await;
    // A deletion is no event.
    let mut look = tokio::time::interval(Duration::from_millis(10));
    let depth = loop {
        let depth = context.queue.depth().await.unwrap();
        if depth.ready + depth.in_flight + depth.delayed == left {
            break depth;
        }
        look.tick().await;
    };
    context.stop.drain(Reason::Done);
    working.await.unwrap();
    (results, depth)
}

fn of_other(results: &[JobResult]) -> usize {
    results
        .iter()
        .filter(|result| result.model.as_deref() == Some("other") && result.status == Status::Succeeded)
        .count()
}

#[tokio::test(start_paused = true)]
async fn no_model_that_waits_for_its_quota_holds_more_than_half_of_the_slots_while_another_could_run() {
    let state = State::new();
    let store = state.open().await;
    let start = tokio::time::Instant::now();
    let (run, _) = enrol(&store, jobs_of_two(500, 50)).await;
    let context = context(&store, &state, Scripted::answering(), one_a_minute());
    let (results, depth) = work_until(&context, ended(&store, &run, 51), 499).await;
    assert_eq!((results.len(), of_other(&results)), (51, 50), "the quota of a minute is one call");
    assert!(start.elapsed() < 10 * SECOND, "{:?}", start.elapsed());
    assert!((1..=8).contains(&depth.in_flight), "{depth:?}");
    assert_eq!(results.iter().map(|result| result.attempts).sum::<u32>(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_model_whose_service_is_away_holds_more_than_half_of_the_slots_while_another_could_run() {
    let state = State::new();
    let store = state.open().await;
    let start = tokio::time::Instant::now();
    let model = Scripted::new(Duration::from_millis(20), |_, call| match &*call.lane.model_id {
        "vendor.m" => Reply::Fail(Class::Unavailable, Billing::Nothing),
        _ => Reply::Text("well"),
    });
    let (run, _) = enrol(&store, jobs_of_two(100, 50)).await;
    let mut setup = Setup { others: vec!["other"], ..Setup::default() };
    setup.settings.breaker.failures = std::num::NonZeroU32::MIN;
    let context = context(&store, &state, model, setup);
    let (results, depth) = work_until(&context, ended(&store, &run, 50), 100).await;
    assert_eq!(of_other(&results), 50);
    assert!(start.elapsed() < 10 * SECOND, "{:?}", start.elapsed());
    assert!((1..=8).contains(&depth.in_flight), "{depth:?}");
}

#[tokio::test(start_paused = true)]
async fn jobs_that_were_throttled_together_leave_half_of_the_slots_to_a_model_that_comes_later() {
    let state = State::new();
    let store = state.open().await;
    let of_m = AtomicU64::new(0);
    let model = Scripted::new(SECOND, move |_, call| match &*call.lane.model_id {
        "vendor.m" if of_m.fetch_add(1, Ordering::SeqCst) >= 31 => Reply::Fail(Class::QuotaDay, Billing::Nothing),
        _ => Reply::Text("well"),
    });
    let (run, _) = enrol(&store, jobs_of_two(100, 50)).await;
    let context = context(&store, &state, model, Setup { others: vec!["other"], ..Setup::default() });
    // Of the first model those that were answered before the throttle: the rest waits for hours.
    let start = tokio::time::Instant::now();
    let (results, depth) = work_until(&context, ended(&store, &run, 31 + 50), 69).await;
    assert_eq!(of_other(&results), 50);
    assert!(start.elapsed() < MINUTE, "{:?}", start.elapsed());
    assert!((1..=8).contains(&depth.in_flight), "{depth:?}");
    assert_eq!(results.iter().map(|result| result.attempts).sum::<u32>(), 0);
}

/// A queue that cannot select, and of which questions are gathered for so long. What is told to it waits for a full call, or
/// else for as long.
struct Deaf {
    queue: Arc<dyn Queue>,
    gathers: Duration,
    told: AtomicU64,
    is_full: Notify,
}

impl Deaf {
    fn over(queue: &Arc<dyn Queue>, gathers: Duration) -> Arc<Self> {
        Arc::new(Self { queue: Arc::clone(queue), gathers, told: AtomicU64::new(0), is_full: Notify::new() })
    }

    async fn company(&self) {
        let full = self.is_full.notified();
        if (self.told.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(BATCH_ENTRIES as u64) {
            self.is_full.notify_waiters();
            return;
        }
        let _ = tokio::time::timeout(self.gathers, full).await;
    }
}

#[async_trait]
impl Queue for Deaf {
    async fn send(&self, entries: Vec<Outgoing>) -> Result<Vec<Entry<MessageId>>, StoreError> {
        self.queue.send(entries).await
    }
    async fn receive(
        &self,
        max: usize,
        _: &[Arc<str>],
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Message>, StoreError> {
        self.queue.receive(max, &[], visibility, wait).await
    }
    async fn change_visibility(&self, entries: Vec<(ReceiptHandle, Duration)>) -> Result<Vec<Entry>, StoreError> {
        self.company().await;
        self.queue.change_visibility(entries).await
    }
    async fn delete(&self, handles: Vec<ReceiptHandle>) -> Result<Vec<Entry>, StoreError> {
        self.company().await;
        self.queue.delete(handles).await
    }
    async fn dead_letter(&self, message: &Message, reason: &str) -> Result<Entry, StoreError> {
        self.queue.dead_letter(message, reason).await
    }
    fn gathers(&self) -> Duration {
        self.gathers
    }
    async fn depth(&self) -> Result<Depth, StoreError> {
        self.queue.depth().await
    }
}

/// Of few slots one question can hold all that are free; who asks next waits for one of them, and holds the turn meanwhile.
#[tokio::test(start_paused = true)]
async fn a_worker_of_few_slots_whose_queue_fell_silent_takes_what_comes_next() {
    let state = State::new();
    let store = state.open().await;
    let (run, _) = enrol(&store, jobs(1)).await;
    let mut setup = Setup::default();
    setup.settings.slots = 6;
    let context = context(&store, &state, Scripted::answering(), setup);
    let deaf = Deaf::over(&context.queue, SECOND / 2);
    let context = Arc::new(Context { queue: deaf, ..Arc::into_inner(context).unwrap() });
    let worker = Worker::new(Arc::clone(&context));
    let working = tokio::spawn(async move { worker.run().await });
    ended(&store, &run, 1).await;
    tokio::time::sleep(MINUTE).await;
    let (run, _) = enrol(&store, jobs(2)).await;
    let results = tokio::time::timeout(60 * MINUTE, ended(&store, &run, 2)).await;
    assert_eq!(results.expect("it asks the queue again").len(), 2);
    context.stop.drain(Reason::Done);
    working.await.unwrap();
}

/// Hundreds of documents took a worker of six slots ten minutes: most of each second, all slots were held by messages that were
/// done with and waited for others to share the call that deletes them, or hands them back.
#[tokio::test(start_paused = true)]
async fn what_is_done_with_holds_no_slot_while_it_waits_for_others_to_share_its_call() {
    const JOBS: usize = 400;
    let state = State::new();
    let store = state.open().await;
    let (run, _) = enrol(&store, jobs(JOBS)).await;
    let mut setup = Setup::default();
    setup.settings.slots = 6;
    let context = context(&store, &state, Scripted::answering(), setup);
    let deaf = Deaf::over(&context.queue, SECOND / 2);
    let context = Arc::new(Context { queue: deaf, ..Arc::into_inner(context).unwrap() });
    let start = tokio::time::Instant::now();
    let (results, depth) = work_until(&context, ended(&store, &run, JOBS), 0).await;
    assert_eq!((results.len(), depth.in_flight), (JOBS, 0));
    // Waiting in their slots, six at a time, they take more than twenty seconds.
    assert!(start.elapsed() < 10 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_queue_that_cannot_select_delivers_all_the_same_is_handed_back_for_a_while() {
    let state = State::new();
    let store = state.open().await;
    let (run, _) = enrol(&store, jobs_of_two(200, 50)).await;
    let context = context(&store, &state, Scripted::answering(), one_a_minute());
    let deaf = Deaf::over(&context.queue, Duration::ZERO);
    let context = Arc::new(Context { queue: deaf, ..Arc::into_inner(context).unwrap() });
    let start = tokio::time::Instant::now();
    let (results, depth) = work_until(&context, ended(&store, &run, 51), 199).await;
    assert_eq!(of_other(&results), 50);
    assert!(start.elapsed() < 30 * SECOND, "{:?}", start.elapsed());
    assert!(depth.in_flight >= 150, "handed back, and not at once: {depth:?}");
    assert_eq!(results.iter().map(|result| result.attempts).sum::<u32>(), 0);
}

/// The premise: behind a model whose day was used up no more than ten messages a second were looked at, each of its own came back
/// after five, and so what could run was never reached.
#[tokio::test(start_paused = true)]
async fn f16_what_waits_for_a_day_is_put_away_once_and_what_stands_behind_it_is_reached() {
    let (parked, well) = (1_000, 200);
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::from_millis(20), |_, call| match &*call.lane.model_id {
        "vendor.m" => Reply::Fail(Class::QuotaDay, Billing::Nothing),
        _ => Reply::Text("well"),
    });
    let (run, _) = enrol(&store, jobs_of_two(parked, well)).await;
    let context = context(&store, &state, model, Setup { others: vec!["other"], ..Setup::default() });
    let deaf = Deaf::over(&context.queue, SECOND / 2);
    let context = Arc::new(Context { queue: deaf, ..Arc::into_inner(context).unwrap() });
    let start = tokio::time::Instant::now();
    let (results, depth) = work_until(&context, ended(&store, &run, well), parked as u64).await;
    assert_eq!(of_other(&results), well);
    assert!(start.elapsed() < 20 * SECOND, "{:?}", start.elapsed());
    assert_eq!((depth.ready, depth.in_flight), (0, parked as u64), "none of them came back meanwhile");
}

#[tokio::test(start_paused = true)]
async fn a_model_alone_is_not_slowed_down_by_the_half_it_may_not_wait_with() {
    for (slots, jobs_in_all, at_most) in [(16, 160, 16 * SECOND), (2, 10, 8 * SECOND), (1, 5, 6 * SECOND)] {
        let state = State::new();
        let store = state.open().await;
        let (run, _) = enrol(&store, jobs(jobs_in_all)).await;
        let mut setup = Setup::default();
        setup.settings.slots = slots;
        let context = context(&store, &state, Scripted::new(SECOND, |_, _| Reply::Text("slowly")), setup);
        let start = tokio::time::Instant::now();
        let results = drain(&context, &store, &run, jobs_in_all).await;
        assert_eq!(results.len(), jobs_in_all);
        assert!(start.elapsed() < at_most, "{slots} slots: {:?}", start.elapsed());
    }
}
