//! Which lanes does a job see, which of them rest afterwards, and whom does it keep from the others?

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use aquifer::flow::context::Context;
use aquifer::flow::patience::Patience;
use aquifer::flow::stop::Reason;
use aquifer::flow::worker::Worker;
use aquifer::job::failure::Class;
use aquifer::job::lifecycle::Status;
use aquifer::job::spec::{Job, MaxTokens, Priority};
use aquifer::ports::{Billing, ModelCall};
use aquifer::rules::pace::{Counting, Hypothesis};

use crate::common::context_of;
use crate::harness::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const EAST: &str = "us-east-1";
const WEST: &str = "us-west-2";

/// The regions that each prompt was sent to, call by call.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<String, Vec<String>>>>);

impl Seen {
    fn note(&self, call: &ModelCall) {
        self.0.lock().unwrap().entry(prompt_of(call)).or_default().push(call.lane.region.to_string());
    }

    fn calls(&self) -> Vec<Vec<String>> {
        self.0.lock().unwrap().values().cloned().collect()
    }

    /// Each prompt in one region alone; how many in the east, and how often they were sent there.
    fn one_region_each(&self) -> (usize, usize) {
        let calls = self.calls();
        let in_one = |calls: &Vec<String>| calls.iter().collect::<BTreeSet<_>>().len() == 1;
        assert!(calls.iter().all(in_one), "{calls:?}");
        let east: Vec<_> = calls.iter().filter(|calls| calls[0] == EAST).collect();
        (east.len(), east.iter().map(|calls| calls.len()).sum())
    }
}

/// A model that fails so in the east, for so long.
fn ill_in_the_east(seen: &Seen, class: Class, lasts: Duration) -> Arc<Scripted> {
    let (seen, start) = (seen.clone(), Instant::now());
    Scripted::new(Duration::from_millis(20), move |_, call| {
        seen.note(call);
        let is_ill = &*call.lane.region == EAST && start.elapsed() < lasts;
        if is_ill { Reply::Fail(class, Billing::Nothing) } else { Reply::Text("well") }
    })
}

fn bound_to_one_region(regions: [&'static str; 2]) -> Setup {
    let mut setup = Setup { regions: regions.to_vec(), ..Setup::default() };
    setup.settings.multi_region = false;
    setup
}

/// With a model `n` that answers for `m` when that is overloaded.
fn with_fallback(store: &aquifer::embedded::Store, state: &State, model: Arc<Scripted>, setup: Setup) -> Arc<Context> {
    let (mut own, other) = (plan("m", setup.limits, &setup), plan("n", setup.limits, &setup));
    own.fallback = vec!["n".into()];
    context_of(store, state, model, setup.settings, vec![own, other])
}

fn start(context: &Arc<Context>) -> tokio::task::JoinHandle<()> {
    let worker = Worker::new(Arc::clone(context));
    tokio::spawn(async move { worker.run().await })
}

/// The premise: only failures that count bound a job to its region, so that one which was throttled there went to another.
#[tokio::test(start_paused = true)]
async fn r06_a_job_that_was_throttled_where_it_was_first_sent_waits_there_and_keeps_nobody_from_the_others() {
    let (state, began, seen) = (State::new(), Instant::now(), Seen::default());
    let store = state.open().await;
    let (run, _) = enrol(&store, jobs(8)).await;
    let model = ill_in_the_east(&seen, Class::QuotaMinute, 30 * SECOND);
    let context = context(&store, &state, model, bound_to_one_region([EAST, WEST]));
    let working = start(&context);
    ended(&store, &run, 6).await;
    assert!(began.elapsed() < 10 * SECOND, "{:?}", began.elapsed());
    let results = ended(&store, &run, 8).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded && result.attempts == 0));
    let (jobs, calls) = seen.one_region_each();
    assert!(jobs > 0 && calls > jobs, "{jobs} in the east, {calls} calls");
    context.stop.drain(Reason::Done);
    working.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn r06_a_job_that_is_denied_where_it_was_first_sent_is_sent_nowhere_else() {
    let (state, seen) = (State::new(), Seen::default());
    let store = state.open().await;
    let (run, _) = enrol(&store, jobs(8)).await;
    let model = ill_in_the_east(&seen, Class::Denied, 1_000 * MINUTE);
    let context = context(&store, &state, model, bound_to_one_region([EAST, WEST]));
    let results = drain(&context, &store, &run, 8).await;
    let denied = results.iter().filter(|result| result.status == Status::Failed);
    let denied: Vec<_> = denied.map(|result| result.error.as_ref().unwrap().class).collect();
    assert_eq!(
        (denied.len(), denied.len()),
        seen.one_region_each(),
        "the lane is out for those that were not there yet"
    );
    assert!(!denied.is_empty() && denied.iter().all(|class| *class == Class::Denied), "{denied:?}");
}

#[tokio::test(start_paused = true)]
async fn r06_a_job_stays_where_it_was_first_sent_also_under_its_next_claim() {
    let (state, seen) = (State::new(), Seen::default());
    let store = state.open().await;
    let (run, _) = enrol(&store, jobs(1)).await;
    let model = ill_in_the_east(&seen, Class::QuotaMinute, MINUTE);
    let first = context(&store, &state, model.clone(), bound_to_one_region([EAST, WEST]));
    let working = start(&first);
    model.called(1).await;
    first.stop.drain(Reason::Done);
    working.await.unwrap();
    // To this one the west comes first.
    let next = context(&store, &state, model, bound_to_one_region([WEST, EAST]));
    let results = drain(&next, &store, &run, 1).await;
    assert_eq!((results[0].status, results[0].region.as_deref()), (Status::Succeeded, Some(EAST)));
    assert_eq!(seen.one_region_each().0, 1);
}

/// The premise: that the model was well in regions which the job may not be sent to kept it from the model that could answer.
#[tokio::test(start_paused = true)]
async fn t5_r06_a_job_that_may_not_leave_its_region_falls_back_in_it() {
    let state = State::new();
    let store = state.open().await;
    let (run, _) = enrol(&store, jobs(1)).await;
    let model = Scripted::new(Duration::from_millis(20), |_, call| match &*call.lane.model_id {
        "vendor.m" => Reply::Fail(Class::Overloaded, Billing::Nothing),
        _ => Reply::Text("in its place"),
    });
    let context = with_fallback(&store, &state, model, bound_to_one_region([EAST, WEST]));
    let results = drain(&context, &store, &run, 1).await;
    assert_eq!((results[0].status, results[0].degraded, results[0].model_calls), (Status::Succeeded, true, 2));
    assert_eq!((results[0].region.as_deref(), results[0].model_used.as_deref()), (Some(EAST), Some("vendor.n")));
}

#[tokio::test(start_paused = true)]
async fn r09_a_lane_that_answers_a_job_in_the_end_does_not_rest_for_what_was_before() {
    let state = State::new();
    let store = state.open().await;
    let (run, _) = enrol(&store, jobs(1)).await;
    let model = Scripted::new(Duration::from_millis(20), |number, _| {
        if number < 3 { Reply::Fail(Class::Unavailable, Billing::Nothing) } else { Reply::Text("well") }
    });
    let mut setup = Setup { regions: vec![EAST, WEST], ..Setup::default() };
    setup.settings.attempts_per_endpoint = NonZeroU32::new(3).unwrap();
    let context = context(&store, &state, model, setup);
    let results = drain(&context, &store, &run, 1).await;
    assert_eq!((results[0].status, results[0].attempts, results[0].model_calls), (Status::Succeeded, 2, 3));
    for lane in context.catalogue.lanes() {
        assert!(lane.state().book.cool_down.is_available(lane.now()), "{}", lane.id);
    }
}

/// The premise: it stood first in line until its region had tokens again, the next day, and nobody behind it was sent anywhere.
#[tokio::test(start_paused = true)]
async fn r14_a_job_whose_only_region_has_used_up_its_day_keeps_nobody_from_the_others() {
    let (state, began) = (State::new(), Instant::now());
    let store = state.open().await;
    let resident = Job { residency: Some(vec![EAST.into()]), priority: Priority::new(0).unwrap(), ..job("here", "x") };
    let mut all = vec![resident];
    // More than there are slots, so that some come when it waits already.
    all.extend(jobs(60));
    let (run, _) = enrol(&store, all).await;
    let model = ill_in_the_east(&Seen::default(), Class::QuotaDay, 1_000 * MINUTE);
    let context = context(&store, &state, model, Setup { regions: vec![EAST, WEST], ..Setup::default() });
    let working = start(&context);
    let results = ended(&store, &run, 60).await;
    assert!(began.elapsed() < 10 * SECOND, "{:?}", began.elapsed());
    assert!(results.iter().all(|result| result.id != "here" && result.status == Status::Succeeded), "{results:?}");
    context.stop.drain(Reason::Done);
    working.await.unwrap();
}

/// The premise: every claim began to be patient anew, and a claim is handed on after eleven hours at most: the default of a day was
/// never over.
#[tokio::test(start_paused = true)]
async fn give_up_after_goes_on_where_the_claim_before_left_off() {
    let (state, began) = (State::new(), Instant::now());
    let store = state.open().await;
    let (run, _) = enrol(&store, jobs(8)).await;
    let model = Scripted::new(Duration::ZERO, |_, _| Reply::Fail(Class::Unavailable, Billing::Nothing));
    let impatient = || {
        let mut setup = Setup::default();
        setup.settings.give_up_after = 30 * MINUTE;
        context(&store, &state, model.clone(), setup)
    };
    for _ in 0..2 {
        let context = impatient();
        let working = start(&context);
        tokio::time::sleep(12 * MINUTE).await;
        context.stop.drain(Reason::Done);
        working.await.unwrap();
    }
    let results = drain(&impatient(), &store, &run, 8).await;
    assert!(results.iter().all(|result| result.status == Status::Failed && result.attempts < 5), "{results:?}");
    assert!((30 * MINUTE..32 * MINUTE).contains(&began.elapsed()), "{:?}", began.elapsed());
}

/// The premise: the log told of it, and neither `status` nor `explain` did.
#[tokio::test(start_paused = true)]
async fn a_lane_that_is_denied_says_so_until_it_is_permitted() {
    let state = State::new();
    let store = state.open().await;
    let (run, _) = enrol(&store, jobs(2)).await;
    let model = ill_in_the_east(&Seen::default(), Class::Denied, 90 * SECOND);
    let mut setup = Setup { regions: vec![EAST], ..Setup::default() };
    setup.settings.patience = Patience::Endless;
    setup.settings.slots = 1;
    let context = context(&store, &state, model.clone(), setup);
    let working = start(&context);
    let mut since = None;
    for asked in 1..=2 {
        model.called(asked).await;
        tokio::time::sleep(SECOND).await;
        let (lane, gate) = context.meter.gates().pop().unwrap();
        assert_eq!((&*lane, &*gate.reason), ("us-east-1/vendor.m", "a permission that is refused so far"));
        assert_eq!(*since.get_or_insert(gate.since), gate.since, "it is out since it was denied first");
        let next = gate.until.since(context.now());
        assert!(next < MINUTE && next >= 58 * SECOND, "{next:?}");
    }
    let results = ended(&store, &run, 2).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded));
    assert!(context.meter.gates().is_empty());
    context.stop.drain(Reason::Done);
    working.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn q14_a_large_job_is_not_starved_by_smaller_ones_behind_it() {
    const AHEAD: usize = 12;
    let state = State::new();
    let store = state.open().await;
    let mut all = jobs(60);
    // What it reserves takes nearly the whole quota; each of the others a sixth, of which most comes back.
    all.insert(AHEAD, Job { max_tokens: MaxTokens::of(550), ..job("large", "large") });
    let (run, _) = enrol(&store, all).await;
    let called = Arc::new(Mutex::new(Vec::new()));
    let model = Scripted::new(SECOND, {
        let called = Arc::clone(&called);
        move |_, call| {
            called.lock().unwrap().push(prompt_of(call));
            Reply::Text("well")
        }
    });
    let counting = Counting::Known(Hypothesis::Sliding);
    let mut setup = Setup { limits: tokens_per_minute(600), counting, ..Setup::default() };
    setup.settings.slots = 8;
    let context = context(&store, &state, model, setup);
    drain(&context, &store, &run, 61).await;
    let before = called.lock().unwrap().iter().position(|prompt| prompt == "large").unwrap();
    assert!(before < AHEAD + 8, "{before} calls went before it");
}
