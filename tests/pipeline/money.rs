//! The cap on cost when calls of others are open, or nobody knows how they ended.

use std::sync::Arc;
use std::time::Duration;

use aquifer::embedded::Store;
use aquifer::flow::stop::Reason;
use aquifer::flow::worker::Worker;
use aquifer::job::outcome::Tally;
use aquifer::job::units::Usd;
use aquifer::ports::{BeginReply, ClaimReply};

use crate::harness::*;

const MINUTE: Duration = Duration::from_secs(60);
const CAP: Usd = Usd::from_nanos(2_000_000);

fn capped() -> Setup {
    let mut setup = Setup::default();
    setup.settings.cost_cap = Some(CAP);
    setup
}

/// A process that has begun sixteen calls and does nothing from then on; its lock is held.
async fn stopped_dead(store: &Store) {
    let (queue, ledger) = (store.queue(None), store.ledger());
    let lease = 2 * MINUTE;
    for number in 0..16 {
        let message = queue.receive(1, &[], lease, Duration::ZERO).await.unwrap().remove(0);
        let job = job(&format!("job-{number}"), &format!("prompt {number}"));
        let reply = ledger.claim(&job.key, job.digest(), message.sent, lease).await.unwrap();
        let ClaimReply::Claimed(claimed) = reply else { panic!("{reply:?}") };
        let price = Usd::from_nanos(CAP.nanos() / 16);
        let reply = ledger.begin(&claimed.fence, Tally { model_calls: 1, ..Tally::default() }, price, Some(CAP)).await;
        assert_eq!(reply.unwrap(), BeginReply::Begun);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_killed_process_do_not_keep_the_next_one_waiting_at_the_cap() {
    let state = State::new();
    let first = state.open().await;
    enrol(&first, jobs(60)).await;
    stopped_dead(&first).await;
    first.abandon();
    let second = state.open().await;
    let (run, _) = enrol(&second, jobs(60)).await;
    let context = context(&second, &state, Scripted::answering(), capped());
    let start = tokio::time::Instant::now();
    let worker = Worker::new(Arc::clone(&context));
    tokio::time::timeout(MINUTE, worker.run()).await.expect("it waits for calls that nobody makes any more");
    assert!(matches!(context.stop.reason(), Some(Reason::CapReached { .. })), "{:?}", context.stop.reason());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(run.progress().await.unwrap().committed <= CAP);
}

#[tokio::test(start_paused = true)]
async fn jobs_that_wait_at_the_cap_do_not_keep_out_the_one_that_makes_room() {
    let state = State::new();
    let hung = state.open().await;
    enrol(&hung, jobs(60)).await;
    stopped_dead(&hung).await;
    // Its lock is held: only its leases end.
    let second = state.open().await;
    let (run, _) = enrol(&second, jobs(60)).await;
    let context = context(&second, &state, Scripted::answering(), capped());
    let worker = Worker::new(Arc::clone(&context));
    tokio::time::timeout(10 * MINUTE, worker.run()).await.expect("every slot is held by a job that waits");
    assert!(matches!(context.stop.reason(), Some(Reason::CapReached { .. })), "{:?}", context.stop.reason());
    assert!(run.progress().await.unwrap().committed <= CAP);
}
