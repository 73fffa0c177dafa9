//! Stores that are away for minutes, under a worker that waits for them.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use aquifer::embedded::Store;
use aquifer::flow::context::{Context, Settings};
use aquifer::flow::lease::LeaseKeeper;
use aquifer::flow::patience::Patience;
use aquifer::flow::stop::Reason;
use aquifer::flow::worker::Worker;
use aquifer::job::failure::Class;
use aquifer::job::lifecycle::Status;
use aquifer::ports::{Billing, StoreTrouble};

use crate::harness::*;
use crate::shaky::{Outage, Shaky};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// Which stores an outage takes away.
#[derive(Clone, Copy)]
struct Taken {
    /// Ledger and allowance, which are one store.
    ledger: bool,
    queue: bool,
    bodies: bool,
    notices: bool,
}

const NOTHING: Taken = Taken { ledger: false, queue: false, bodies: false, notices: false };
const LEDGER: Taken = Taken { ledger: true, ..NOTHING };
const QUEUE: Taken = Taken { queue: true, ..NOTHING };

/// A worker without end to its patience, and what can take its stores away.
struct Patient {
    context: Arc<Context>,
    outage: Outage,
    working: JoinHandle<()>,
}

impl Patient {
    fn start(store: &Store, state: &State, model: Arc<Scripted>, taken: Taken, kind: StoreTrouble) -> Self {
        let settings = Settings { patience: Patience::Endless, ..Setup::default().settings };
        let setup = Setup { settings, call_timeout: HOUR, ..Setup::default() };
        let mut context = context(store, state, model, setup);
        // Always counted, only sometimes away.
        let (outage, never) = (Outage::default(), Outage::default());
        let of = |is_taken: bool| if is_taken { &outage } else { &never };
        let inner = Arc::get_mut(&mut context).unwrap();
        inner.ledger = Shaky::new(&inner.ledger, of(taken.ledger), kind);
        inner.allowance = Shaky::new(&inner.allowance, of(taken.ledger), kind);
        inner.queue = Shaky::new(&inner.queue, of(taken.queue), kind);
        inner.bodies = Shaky::new(&inner.bodies, of(taken.bodies), kind);
        inner.notices = Shaky::new(&inner.notices, of(taken.notices), kind);
        let worker = Worker::new(Arc::clone(&context));
        Self { context, outage, working: tokio::spawn(async move { worker.run().await }) }
    }

    async fn stop(self) {
        self.context.stop.drain(Reason::Interrupted);
        self.working.await.unwrap();
    }
}

/// Calls that began between these two, by the model's clock.
fn calls_between(model: &Scripted, from: Duration, to: Duration) -> usize {
    model.times.lock().unwrap().iter().filter(|at| (from..to).contains(*at)).count()
}

fn assert_each_called_once(model: &Scripted, jobs: usize) {
    let calls = model.by_prompt.lock().unwrap();
    assert_eq!(calls.len(), jobs);
    assert!(calls.values().all(|times| *times == 1), "called twice: {calls:?}");
}

#[tokio::test(start_paused = true)]
async fn d_a_ledger_that_is_away_for_two_minutes_costs_two_minutes_and_no_call() {
    let state = State::new();
    let store = state.open().await;
    let start = Instant::now();
    let model = Scripted::new(SECOND, |_, _| Reply::Text("fine"));
    let (run, _) = enrol(&store, jobs(400)).await;
    let worker = Patient::start(&store, &state, model.clone(), LEDGER, StoreTrouble::Away);
    ended(&store, &run, 100).await;
    let before = start.elapsed();
    worker.outage.begin();
    // What was on its way has arrived by then.
    sleep(5 * SECOND).await;
    let (calls, claims) = (model.calls(), worker.outage.claims());
    sleep(115 * SECOND).await;
    assert_eq!((model.calls(), worker.outage.claims()), (calls, claims), "a call or a claim without a ledger");
    assert!(worker.outage.refused() > 20, "it asks again: {}", worker.outage.refused());
    worker.outage.end();
    let back = start.elapsed();
    let results = ended(&store, &run, 400).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded && result.model_calls == 1));
    assert_each_called_once(&model, 400);
    let rate = calls_between(&model, before - 4 * SECOND, before);
    let after = calls_between(&model, back + 5 * SECOND, back + 9 * SECOND);
    assert!(
        rate > 20 && after * 10 >= rate * 9,
        "{rate} calls in the 4 s before, {after} in 4 s after it was back 5 s"
    );
    worker.stop().await;
    assert_eq!(store.queue(None).depth().await.unwrap(), aquifer::ports::Depth::default());
}

#[tokio::test(start_paused = true)]
async fn d4_no_lease_is_lost_while_one_of_two_stores_keeps_others_out() {
    for taken in [LEDGER, QUEUE] {
        let state = State::new();
        let store = state.open().await;
        let model = Scripted::new(20 * MINUTE, |_, _| Reply::Text("slow"));
        let (run, _) = enrol(&store, jobs(3)).await;
        let worker = Patient::start(&store, &state, model.clone(), taken, StoreTrouble::Away);
        model.called(3).await;
        worker.outage.begin();
        // Seven leases long.
        sleep(14 * MINUTE).await;
        worker.outage.end();
        let results = ended(&store, &run, 3).await;
        assert!(results.iter().all(|result| result.status == Status::Succeeded && result.model_calls == 1));
        assert_each_called_once(&model, 3);
        emptied(&worker.context).await;
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn d4_a_lease_is_lost_once_neither_store_keeps_others_out() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(20 * MINUTE, |_, _| Reply::Text("slow"));
    enrol(&store, jobs(3)).await;
    let both = Taken { queue: true, ..LEDGER };
    let worker = Patient::start(&store, &state, model.clone(), both, StoreTrouble::Away);
    model.called(3).await;
    worker.outage.begin();
    sleep(4 * MINUTE).await;
    worker.outage.end();
    // The calls were dropped, since others could have had the jobs; so they are made again.
    model.called(6).await;
    worker.context.stop.abort();
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn d_an_answer_is_kept_until_it_can_be_recorded_even_if_every_store_is_away_for_longer_than_a_lease() {
    let everything = Taken { ledger: true, queue: true, bodies: true, notices: true };
    for (taken, kind) in [
        (everything, StoreTrouble::Away),
        (Taken { bodies: true, ..NOTHING }, StoreTrouble::Denied),
        (Taken { bodies: true, ..NOTHING }, StoreTrouble::Full),
    ] {
        let state = State::new();
        let store = state.open().await;
        let model = Scripted::new(SECOND, |_, _| Reply::Text("paid for"));
        let (run, _) = enrol(&store, jobs(3)).await;
        let worker = Patient::start(&store, &state, model.clone(), taken, kind);
        model.called(3).await;
        worker.outage.begin();
        sleep(10 * MINUTE).await;
        worker.outage.end();
        let back = Instant::now();
        let results = ended(&store, &run, 3).await;
        assert!(back.elapsed() < 5 * SECOND, "{:?}", back.elapsed());
        assert!(results.iter().all(|result| result.text.as_deref() == Some("paid for") && result.model_calls == 1));
        assert_each_called_once(&model, 3);
        emptied(&worker.context).await;
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn d6_notices_that_cannot_be_published_wear_out_no_message() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(SECOND, |_, _| Reply::Text("fine"));
    let (run, _) = enrol(&store, jobs(3)).await;
    let settings = Settings { patience: Patience::Endless, ..Setup::default().settings };
    let mut context = context(&store, &state, model.clone(), Setup { settings, ..Setup::default() });
    let (topic, queue) = (Outage::default(), Outage::default());
    let inner = Arc::get_mut(&mut context).unwrap();
    inner.notices = Shaky::new(&inner.notices, &topic, StoreTrouble::Away);
    inner.queue = Shaky::new(&inner.queue, &queue, StoreTrouble::Away);
    topic.begin();
    let working = Worker::new(Arc::clone(&context));
    let worker = Patient { context, outage: topic, working: tokio::spawn(async move { working.run().await }) };
    ended(&store, &run, 3).await;
    sleep(30 * MINUTE).await;
    assert_eq!(notices(&state).len(), 0);
    assert_eq!(queue.receives(), 3, "each was received once and is held");
    worker.outage.end();
    emptied(&worker.context).await;
    assert_eq!(notices(&state).iter().filter(|notice| notice["kind"] == "job").count(), 3);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn d6_claims_that_fail_for_hours_wear_out_no_message() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::answering();
    let (run, _) = enrol(&store, jobs(1)).await;
    let settings = Settings { patience: Patience::Endless, ..Setup::default().settings };
    let mut context = context(&store, &state, model.clone(), Setup { settings, ..Setup::default() });
    let (table, queue) = (Outage::default(), Outage::default());
    let inner = Arc::get_mut(&mut context).unwrap();
    inner.ledger = Shaky::new(&inner.ledger, &table, StoreTrouble::Denied);
    inner.queue = Shaky::new(&inner.queue, &queue, StoreTrouble::Away);
    table.begin();
    let worker = Worker::new(Arc::clone(&context));
    let working = tokio::spawn(async move { worker.run().await });
    sleep(2 * HOUR).await;
    assert!((2..=400).contains(&queue.receives()), "received {} times in two hours", queue.receives());
    table.end();
    let back = Instant::now();
    ended(&store, &run, 1).await;
    assert!(back.elapsed() < 5 * SECOND, "{:?}", back.elapsed());
    assert_each_called_once(&model, 1);
    context.stop.drain(Reason::Done);
    working.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn d10_a_worker_whose_ledger_is_away_ends_within_drain() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(SECOND, |_, _| Reply::Text("paid for"));
    enrol(&store, jobs(40)).await;
    let worker = Patient::start(&store, &state, model.clone(), LEDGER, StoreTrouble::Away);
    model.called(3).await;
    worker.outage.begin();
    sleep(MINUTE).await;
    let asked = Instant::now();
    let drain = worker.context.settings.drain;
    worker.stop().await;
    assert!(asked.elapsed() <= drain + 2 * SECOND, "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn credentials_that_stay_refused_are_waited_for_by_a_worker() {
    let state = State::new();
    let store = state.open().await;
    let start = Instant::now();
    let model = Scripted::new(Duration::ZERO, move |_, _| {
        if start.elapsed() < HOUR { Reply::Fail(Class::Credentials, Billing::Nothing) } else { Reply::Text("renewed") }
    });
    let (run, _) = enrol(&store, jobs(3)).await;
    let worker = Patient::start(&store, &state, model, NOTHING, StoreTrouble::Away);
    let results = ended(&store, &run, 3).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded && result.attempts == 0));
    assert!(worker.context.stop.reason().is_none());
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn d_a_message_held_for_eleven_hours_is_to_be_handed_back() {
    let state = State::new();
    let store = state.open().await;
    enrol(&store, jobs(1)).await;
    let (queue, ledger) = (store.queue(None), store.ledger());
    let asked = Instant::now();
    let message = queue.receive(1, &[], 2 * MINUTE, Duration::ZERO).await.unwrap().remove(0);
    let (keeper, stop) = (LeaseKeeper::new(2 * MINUTE), CancellationToken::new());
    let lease = keeper.hold(message.handle, asked);
    let keeping = tokio::spawn({
        let (stop, queue) = (stop.clone(), Arc::clone(&queue));
        async move { keeper.run(&*queue, &*ledger, stop).await }
    });
    lease.worn_out().await;
    assert!((11 * HOUR..11 * HOUR + MINUTE).contains(&asked.elapsed()), "{:?}", asked.elapsed());
    // There is time to do so: it is ours for the better part of another hour, and no longer.
    assert!(!lease.is_lost());
    lease.lost().await;
    assert!((11 * HOUR + 50 * MINUTE..12 * HOUR).contains(&asked.elapsed()), "{:?}", asked.elapsed());
    stop.cancel();
    keeping.await.unwrap();
}
