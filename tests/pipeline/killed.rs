//! A worker that is killed says nothing more. What it took of a quota, and what it knew of a lane, stays for the others.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use aquifer::embedded::Store;
use aquifer::flow::context::{Context, Settings};
use aquifer::flow::worker::Worker;
use aquifer::job::failure::Class;
use aquifer::job::lifecycle::Status;
use aquifer::ports::Billing;
use aquifer::rules::pace::{Counting, Hypothesis};

use crate::common::mortal::make_mortal;
use crate::harness::*;
use crate::storage::Away;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Longer than it takes until what was said of a lane is written.
const WRITTEN: Duration = Duration::from_millis(500);

/// Room for five calls of these tests at once.
fn five_at_once(slots: usize) -> Setup {
    Setup {
        limits: tokens_per_minute(600),
        counting: Counting::Known(Hypothesis::Sliding),
        settings: Settings { slots, ..Setup::default().settings },
        ..Setup::default()
    }
}

/// A worker that is going to be killed.
struct Doomed {
    store: Store,
    dead: CancellationToken,
    working: JoinHandle<()>,
}

impl Doomed {
    fn start(store: Store, mut context: Arc<Context>) -> Self {
        let dead = CancellationToken::new();
        make_mortal(Arc::get_mut(&mut context).unwrap(), &dead);
        let working = tokio::spawn(async move { Worker::new(context).run().await });
        Self { store, dead, working }
    }

    /// As by `kill -9`: no drain, no hand-back, no last word to a lane; only its lock is free.
    fn kill(self) {
        self.dead.cancel();
        self.store.abandon();
        self.working.abort();
    }
}

/// When which region was called, counted from the start of the test.
#[derive(Clone)]
struct Calls {
    start: Instant,
    made: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Calls {
    fn new() -> Self {
        Self { start: Instant::now(), made: Arc::default() }
    }

    fn note(&self, region: &str) {
        self.made.lock().unwrap().push((self.start.elapsed(), region.to_owned()));
    }

    fn made(&self) -> Vec<(Duration, String)> {
        self.made.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn q5_what_a_killed_worker_took_of_the_quota_holds_the_next_one_back_until_it_ages_out() {
    let state = State::new();
    let first = state.open().await;
    enrol(&first, jobs(8)).await;
    let hanging = Scripted::new(Duration::ZERO, |_, _| Reply::Hang);
    let next = Scripted::answering();
    let doomed = Doomed::start(first.clone(), context(&first, &state, hanging.clone(), five_at_once(8)));
    hanging.called(5).await;
    tokio::time::sleep(WRITTEN).await;
    doomed.kill();

    let second = state.open().await;
    let (run, _) = enrol(&second, jobs(8)).await;
    let results = drain(&context(&second, &state, next.clone(), five_at_once(8)), &second, &run, 8).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded && result.attempts == 0), "{results:?}");
    let (dead, living) = (hanging.times.lock().unwrap().clone(), next.times.lock().unwrap().clone());
    assert_eq!((dead.len(), living.len()), (5, 8), "{dead:?} {living:?}");
    let (full_until, all_free) = (dead[0] + MINUTE, dead[4] + MINUTE);
    assert!(living[0] >= full_until && living[0] <= full_until + SECOND, "{dead:?} {living:?}");
    assert!(living[7] <= all_free + SECOND, "then all goes on: {dead:?} {living:?}");
}

#[tokio::test(start_paused = true)]
async fn q5_a_call_that_was_sent_long_after_it_was_reserved_counts_from_its_sending_though_its_worker_is_killed_at_once()
 {
    let state = State::new();
    let first = state.open().await;
    enrol(&first, jobs(1)).await;
    // One call at a time.
    let setup = || Setup { limits: tokens_per_minute(150), ..five_at_once(1) };
    let hanging = Scripted::new(Duration::ZERO, |_, _| Reply::Hang);
    let next = Scripted::answering();
    let mut slow = context(&first, &state, hanging.clone(), setup());
    Arc::get_mut(&mut slow).unwrap().ledger = Arc::new(Away::slow(first.ledger(), 20 * SECOND));
    let doomed = Doomed::start(first.clone(), slow);
    hanging.called(1).await;
    doomed.kill();

    let second = state.open().await;
    let (run, _) = enrol(&second, jobs(1)).await;
    drain(&context(&second, &state, next.clone(), setup()), &second, &run, 1).await;
    let (sent, again) = (hanging.times.lock().unwrap()[0], next.times.lock().unwrap()[0]);
    assert!(sent >= 20 * SECOND, "{sent:?}");
    assert!(again >= sent + MINUTE, "the service counts the first call until {:?}: {again:?}", sent + MINUTE);
}

#[tokio::test(start_paused = true)]
async fn q5_a_limit_that_a_killed_worker_learned_holds_for_the_next_one() {
    let state = State::new();
    let first = state.open().await;
    enrol(&first, jobs(32)).await;
    // Nobody told it of a quota, and the service admits ten calls.
    let model = Scripted::new(Duration::ZERO, |number, _| {
        if number > 10 { Reply::Fail(Class::QuotaMinute, Billing::Nothing) } else { Reply::Hang }
    });
    let settings = Settings { slots: 32, ..Setup::default().settings };
    let setup = || Setup { settings: settings.clone(), ..Setup::default() };
    let doomed = Doomed::start(first.clone(), context(&first, &state, model.clone(), setup()));
    // One refusal may be a mishap.
    model.called(14).await;
    tokio::time::sleep(WRITTEN).await;
    doomed.kill();

    let second = state.open().await;
    let (run, _) = enrol(&second, jobs(32)).await;
    let next = Scripted::answering();
    drain(&context(&second, &state, next.clone(), setup()), &second, &run, 32).await;
    let spans = |model: &Scripted| {
        let times = model.times.lock().unwrap();
        times[31] - times[0]
    };
    let warned = spans(&next);
    // Who knows nothing is through in a moment.
    let elsewhere = State::new();
    let store = elsewhere.open().await;
    let (run, _) = enrol(&store, jobs(32)).await;
    let unwarned = Scripted::answering();
    drain(&context(&store, &elsewhere, unwarned.clone(), setup()), &store, &run, 32).await;
    assert!(warned > 5 * SECOND && spans(&unwarned) < 2 * SECOND, "{warned:?}, {:?}", spans(&unwarned));
}

#[tokio::test(start_paused = true)]
async fn r12_a_cool_down_outlives_the_worker_that_was_killed_after_it() {
    let state = State::new();
    let calls = Calls::new();
    let first = state.open().await;
    enrol(&first, jobs(24)).await;
    let setup = |slots| Setup {
        regions: vec!["us-east-1", "us-west-2"],
        settings: Settings { slots, ..Setup::default().settings },
        ..Setup::default()
    };
    let (dying, noted) = (calls.clone(), calls.clone());
    let failing = Scripted::new(Duration::ZERO, move |number, call| {
        dying.note(&call.lane.region);
        if number == 1 { Reply::Fail(Class::Unavailable, Billing::Nothing) } else { Reply::Hang }
    });
    let doomed = Doomed::start(first.clone(), context(&first, &state, failing.clone(), setup(1)));
    failing.called(2).await;
    tokio::time::sleep(WRITTEN).await;
    let before = calls.made();
    let (left_at, cooled) = (before[1].0, before[0].1.clone());
    assert_ne!(cooled, before[1].1, "the job went elsewhere");
    doomed.kill();

    let second = state.open().await;
    let (run, _) = enrol(&second, jobs(24)).await;
    let next = Scripted::new(5 * SECOND, move |_, call| {
        noted.note(&call.lane.region);
        Reply::Text("well")
    });
    drain(&context(&second, &state, next, setup(2)), &second, &run, 24).await;
    let after = calls.made().split_off(2);
    let (early, late): (Vec<_>, Vec<_>) = after.iter().partition(|(at, _)| *at < left_at + 30 * SECOND);
    assert!(!early.is_empty() && early.iter().all(|(_, region)| *region != cooled), "{after:?}");
    assert!(late.iter().any(|(_, region)| *region == cooled), "and then it is used again: {after:?}");
}

#[tokio::test(start_paused = true)]
async fn r11_a_worker_under_way_learns_of_a_cool_down_that_another_stamped() {
    let state = State::new();
    let calls = Calls::new();
    let (one, other) = (state.open().await, state.open().await);
    let setup = |slots| Setup {
        regions: vec!["us-east-1", "us-west-2"],
        settings: Settings { slots, ..Setup::default().settings },
        ..Setup::default()
    };
    // Long since under way, and well on both lanes.
    let noted = calls.clone();
    let well = Scripted::new(2 * SECOND, move |_, call| {
        noted.note(&call.lane.region);
        Reply::Text("well")
    });
    let (run, _) = enrol(&one, jobs(60)).await;
    let running = context(&one, &state, well.clone(), setup(2));
    let worker = Worker::new(Arc::clone(&running));
    let working = tokio::spawn(async move { worker.run().await });
    well.called(6).await;
    let failed = Calls::new();
    let noted = failed.clone();
    let failing = Scripted::new(Duration::ZERO, move |number, call| {
        noted.note(&call.lane.region);
        if number == 1 { Reply::Fail(Class::Unavailable, Billing::Nothing) } else { Reply::Hang }
    });
    let doomed = Doomed::start(other.clone(), context(&other, &state, failing.clone(), setup(1)));
    failing.called(2).await;
    let left_at = calls.start.elapsed();
    let cooled = failed.made()[0].1.clone();
    ended(&one, &run, 59).await;
    doomed.kill();
    ended(&one, &run, 60).await;
    running.stop.drain(aquifer::flow::stop::Reason::Done);
    working.await.unwrap();
    let learned = left_at + WRITTEN + 2 * SECOND;
    let made = calls.made();
    // The thirty seconds count from the failure, which was a moment before the job found another lane.
    let rests = |at: Duration| at > learned && at < left_at + 29 * SECOND;
    let meanwhile: Vec<_> = made.iter().filter(|(at, _)| rests(*at)).collect();
    assert!(!meanwhile.is_empty() && meanwhile.iter().all(|(_, region)| *region != cooled), "{left_at:?} {made:?}");
    let both = |early: bool| made.iter().any(|(at, region)| (*at < left_at) == early && *region == cooled);
    assert!(both(true) && both(false), "used before and after: {left_at:?} {made:?}");
}

#[tokio::test(start_paused = true)]
async fn b1_an_open_breaker_outlives_the_worker_that_was_killed_after_it() {
    let state = State::new();
    let first = state.open().await;
    enrol(&first, jobs(6)).await;
    let setup = || {
        let mut setup = five_at_once(6);
        setup.limits = Default::default();
        setup.settings.breaker.failures = NonZeroU32::new(2).unwrap();
        setup
    };
    let failing = Scripted::new(Duration::ZERO, |_, _| Reply::Fail(Class::Unavailable, Billing::Nothing));
    let next = Scripted::answering();
    let doomed = Doomed::start(first.clone(), context(&first, &state, failing.clone(), setup()));
    failing.called(2).await;
    tokio::time::sleep(WRITTEN).await;
    doomed.kill();
    let opened = *failing.times.lock().unwrap().last().unwrap();

    let second = state.open().await;
    let (run, _) = enrol(&second, jobs(6)).await;
    let results = drain(&context(&second, &state, next.clone(), setup()), &second, &run, 6).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded), "{results:?}");
    let times = next.times.lock().unwrap().clone();
    assert!(times[0] >= opened + MINUTE && times[0] <= opened + MINUTE + SECOND, "{opened:?} {times:?}");
    assert_eq!(
        times.iter().filter(|at| **at < times[0] + Duration::from_millis(20)).count(),
        1,
        "one probe: {times:?}"
    );
}
