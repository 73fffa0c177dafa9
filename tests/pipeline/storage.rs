//! A ledger in trouble, and what that may cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use aquifer::embedded::Store;
use aquifer::flow::context::Context;
use aquifer::flow::stop::Reason;
use aquifer::flow::worker::Worker;
use aquifer::job::failure::Class;
use aquifer::job::ident::{BatchKey, Digest, JobKey};
use aquifer::job::lifecycle::{State as JobState, Status};
use aquifer::job::outcome::{Ending, Tally};
use aquifer::job::trail::Trail;
use aquifer::job::units::{Timestamp, Usd};
use aquifer::ports::{
    BeginReply, Billing, ClaimReply, CompleteBatch, Entry, Fence, FinalRow, FinishReply, Gate, Ledger, StoreError,
    StoreTrouble,
};

use crate::harness::*;

/// A ledger that is away for the first so many writes of a kind.
pub struct Away {
    ledger: Arc<dyn Ledger>,
    begins: AtomicU32,
    finishes: AtomicU32,
    /// It takes its time to put a call on record.
    begin_takes: Duration,
}

impl Away {
    /// Never away, but slow.
    pub fn slow(ledger: Arc<dyn Ledger>, begin_takes: Duration) -> Self {
        Self { ledger, begins: 0.into(), finishes: 0.into(), begin_takes }
    }

    fn spent(left: &AtomicU32) -> Result<(), StoreError> {
        let away = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        let error = || StoreError { kind: StoreTrouble::Away, doing: "writing".into(), why: "locked".into() };
        if away { Err(error()) } else { Ok(()) }
    }
}

#[async_trait]
impl Ledger for Away {
    async fn claim(
        &self,
        key: &JobKey,
        content: Digest,
        enqueued: Timestamp,
        lease: Duration,
    ) -> Result<ClaimReply, StoreError> {
        self.ledger.claim(key, content, enqueued, lease).await
    }
    async fn begin(&self, fence: &Fence, tally: Tally, open: Usd, cap: Option<Usd>) -> Result<BeginReply, StoreError> {
        Self::spent(&self.begins)?;
        tokio::time::sleep(self.begin_takes).await;
        self.ledger.begin(fence, tally, open, cap).await
    }
    async fn settle(&self, fence: &Fence, tally: Tally, trail: Trail) -> Result<Entry, StoreError> {
        self.ledger.settle(fence, tally, trail).await
    }
    async fn extend(&self, fences: Vec<Fence>, lease: Duration) -> Result<Vec<Entry>, StoreError> {
        self.ledger.extend(fences, lease).await
    }
    async fn hand_back(&self, fence: &Fence, tally: Tally, trail: Trail) -> Result<Entry, StoreError> {
        self.ledger.hand_back(fence, tally, trail).await
    }
    async fn finish(
        &self,
        fence: &Fence,
        tally: Tally,
        ending: Ending,
        trail: Trail,
    ) -> Result<FinishReply, StoreError> {
        Self::spent(&self.finishes)?;
        self.ledger.finish(fence, tally, ending, trail).await
    }
    async fn notified(&self, key: &JobKey, at: Timestamp) -> Result<(), StoreError> {
        self.ledger.notified(key, at).await
    }
    async fn look_up(&self, key: &JobKey) -> Result<Option<(JobState, Option<FinalRow>)>, StoreError> {
        self.ledger.look_up(key).await
    }
    async fn complete_unannounced(&self, batch: &BatchKey) -> Result<Option<CompleteBatch>, StoreError> {
        self.ledger.complete_unannounced(batch).await
    }
    async fn mark_announced(&self, batch: &BatchKey, completion: u64) -> Result<(), StoreError> {
        self.ledger.mark_announced(batch, completion).await
    }
    async fn post_gate(&self, lane: &str, gate: Option<Gate>) -> Result<(), StoreError> {
        self.ledger.post_gate(lane, gate).await
    }
}

fn with_trouble(
    store: &Store,
    state: &State,
    model: Arc<Scripted>,
    setup: Setup,
    begins: u32,
    finishes: u32,
) -> Arc<Context> {
    let mut context = context(store, state, model, setup);
    let ledger =
        Away { begins: begins.into(), finishes: finishes.into(), ..Away::slow(store.ledger(), Duration::ZERO) };
    Arc::get_mut(&mut context).unwrap().ledger = Arc::new(ledger);
    context
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_recorded_is_not_followed_by_another() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::answering();
    enrol(&store, jobs(1)).await;
    let context = with_trouble(&store, &state, model.clone(), Setup::default(), 0, u32::MAX);
    let worker = Worker::new(Arc::clone(&context));
    tokio::time::timeout(Duration::from_secs(120), worker.run()).await.expect("it goes on calling");
    assert_eq!(model.calls(), 1);
    assert!(matches!(context.stop.reason(), Some(Reason::Store(_))), "{:?}", context.stop.reason());
}

#[tokio::test(start_paused = true)]
async fn an_answer_waits_for_a_ledger_that_comes_back() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::answering();
    let (run, _) = enrol(&store, jobs(3)).await;
    let context = with_trouble(&store, &state, model.clone(), Setup::default(), 0, 60);
    let results = drain(&context, &store, &run, 3).await;
    assert!(results.iter().all(|result| result.model_calls == 1));
}

#[tokio::test(start_paused = true)]
async fn q4_a_call_that_was_never_begun_gives_its_reservation_back() {
    let state = State::new();
    let store = state.open().await;
    let (run, _) = enrol(&store, jobs(1)).await;
    // One reservation fits in a minute.
    let setup = Setup { limits: tokens_per_minute(150), ..Setup::default() };
    let context = with_trouble(&store, &state, Scripted::answering(), setup, 1, 0);
    let start = tokio::time::Instant::now();
    drain(&context, &store, &run, 1).await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn d6_kills_while_throttled_are_not_poison() {
    let state = State::new();
    for _ in 0..6 {
        let store = state.open().await;
        enrol(&store, jobs(1)).await;
        let model = Scripted::new(Duration::ZERO, |_, _| Reply::Fail(Class::QuotaMinute, Billing::Nothing));
        let worker = Worker::new(context(&store, &state, model.clone(), Setup::default()));
        let killed = tokio::spawn(async move { worker.run().await });
        model.called(1).await;
        tokio::time::sleep(Duration::from_millis(900)).await;
        store.abandon();
        killed.abort();
        let _ = killed.await;
    }
    let store = state.open().await;
    let (run, _) = enrol(&store, jobs(1)).await;
    let context = context(&store, &state, Scripted::answering(), Setup::default());
    let results = drain(&context, &store, &run, 1).await;
    assert_eq!(results[0].status, Status::Succeeded, "{:?}", results[0].error);
    assert_eq!(run.progress().await.unwrap().committed, results[0].cost_usd, "throttled calls cost nothing");
}
