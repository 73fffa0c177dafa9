//! How is a worker killed without a process to kill? Its tasks cannot be taken away from it, so everything that it reaches
//! the world by falls silent at once: what it was waiting for is dropped, and what it asks afterwards is never answered.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use aquifer::flow::context::Context;
use aquifer::job::ident::{BatchKey, Digest, JobKey};
use aquifer::job::lifecycle::State;
use aquifer::job::outcome::{Ending, Tally};
use aquifer::job::trail::Trail;
use aquifer::job::units::{Timestamp, Usd};
use aquifer::ports::{
    Allowance, Answer, BeginReply, CallFailure, ClaimReply, CompleteBatch, Depth, Entry, Fence, FinalRow, FinishReply,
    Gate, LaneId, Ledger, Message, MessageId, Model, ModelCall, Outgoing, Queue, ReceiptHandle, Shared, StoreError,
    Swap, Version,
};
use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

/// Gives the ports of a worker the end that `dead` brings.
pub fn make_mortal(context: &mut Context, dead: &CancellationToken) {
    context.queue = Arc::new(Mortal { port: Arc::clone(&context.queue), dead: dead.clone() });
    context.ledger = Arc::new(Mortal { port: Arc::clone(&context.ledger), dead: dead.clone() });
    context.allowance = Arc::new(Mortal { port: Arc::clone(&context.allowance), dead: dead.clone() });
    context.model = Arc::new(Mortal { port: Arc::clone(&context.model), dead: dead.clone() });
}

struct Mortal<P: ?Sized> {
    port: Arc<P>,
    dead: CancellationToken,
}

impl<P: ?Sized> Mortal<P> {
    async fn alive<R>(&self, doing: impl Future<Output = R>) -> R {
        match self.dead.run_until_cancelled(doing).await {
            Some(done) => done,
            None => pending().await,
        }
    }
}

#[async_trait]
impl Model for Mortal<dyn Model> {
    async fn call(&self, call: ModelCall) -> Result<Answer, CallFailure> {
        self.alive(self.port.call(call)).await
    }

    async fn refresh_credentials(&self) -> Result<(), String> {
        self.alive(self.port.refresh_credentials()).await
    }
}

#[async_trait]
impl Allowance for Mortal<dyn Allowance> {
    async fn read(&self, lane: &LaneId) -> Result<Shared, StoreError> {
        self.alive(self.port.read(lane)).await
    }

    async fn swap(&self, lane: &LaneId, expected: Version, state: Bytes) -> Result<Swap, StoreError> {
        self.alive(self.port.swap(lane, expected, state)).await
    }

    fn pace(&self) -> Duration {
        self.port.pace()
    }
}

#[async_trait]
impl Queue for Mortal<dyn Queue> {
    async fn send(&self, entries: Vec<Outgoing>) -> Result<Vec<Entry<MessageId>>, StoreError> {
        self.alive(self.port.send(entries)).await
    }

    async fn receive(
        &self,
        max: usize,
        passing_over: &[Arc<str>],
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Message>, StoreError> {
        self.alive(self.port.receive(max, passing_over, visibility, wait)).await
    }

    async fn change_visibility(&self, entries: Vec<(ReceiptHandle, Duration)>) -> Result<Vec<Entry>, StoreError> {
        self.alive(self.port.change_visibility(entries)).await
    }

    async fn delete(&self, handles: Vec<ReceiptHandle>) -> Result<Vec<Entry>, StoreError> {
        self.alive(self.port.delete(handles)).await
    }

    async fn dead_letter(&self, message: &Message, reason: &str) -> Result<Entry, StoreError> {
        self.alive(self.port.dead_letter(message, reason)).await
    }

    async fn depth(&self) -> Result<Depth, StoreError> {
        self.alive(self.port.depth()).await
    }
}

#[async_trait]
impl Ledger for Mortal<dyn Ledger> {
    async fn claim(
        &self,
        key: &JobKey,
        content: Digest,
        enqueued: Timestamp,
        lease: Duration,
    ) -> Result<ClaimReply, StoreError> {
        self.alive(self.port.claim(key, content, enqueued, lease)).await
    }

    async fn begin(&self, fence: &Fence, tally: Tally, open: Usd, cap: Option<Usd>) -> Result<BeginReply, StoreError> {
        self.alive(self.port.begin(fence, tally, open, cap)).await
    }

    async fn settle(&self, fence: &Fence, tally: Tally, trail: Trail) -> Result<Entry, StoreError> {
        self.alive(self.port.settle(fence, tally, trail)).await
    }

    async fn extend(&self, fences: Vec<Fence>, lease: Duration) -> Result<Vec<Entry>, StoreError> {
        self.alive(self.port.extend(fences, lease)).await
    }

    async fn hand_back(&self, fence: &Fence, tally: Tally, trail: Trail) -> Result<Entry, StoreError> {
        self.alive(self.port.hand_back(fence, tally, trail)).await
    }

    async fn finish(
        &self,
        fence: &Fence,
        tally: Tally,
        ending: Ending,
        trail: Trail,
    ) -> Result<FinishReply, StoreError> {
        self.alive(self.port.finish(fence, tally, ending, trail)).await
    }

    async fn notified(&self, key: &JobKey, at: Timestamp) -> Result<(), StoreError> {
        self.alive(self.port.notified(key, at)).await
    }

    async fn look_up(&self, key: &JobKey) -> Result<Option<(State, Option<FinalRow>)>, StoreError> {
        self.alive(self.port.look_up(key)).await
    }

    async fn complete_unannounced(&self, batch: &BatchKey) -> Result<Option<CompleteBatch>, StoreError> {
        self.alive(self.port.complete_unannounced(batch)).await
    }

    async fn mark_announced(&self, batch: &BatchKey, completion: u64) -> Result<(), StoreError> {
        self.alive(self.port.mark_announced(batch, completion)).await
    }

    async fn post_gate(&self, lane: &str, gate: Option<Gate>) -> Result<(), StoreError> {
        self.alive(self.port.post_gate(lane, gate)).await
    }
}
