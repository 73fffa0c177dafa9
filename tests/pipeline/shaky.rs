//! What if a store is away for a while? Everything that a worker asks of it fails while the test says so, before it gets
//! there, and is counted.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aquifer::job::ident::{BatchKey, Digest, JobKey};
use aquifer::job::lifecycle::State;
use aquifer::job::notice::Notice;
use aquifer::job::outcome::{Ending, Pointer, Tally};
use aquifer::job::trail::Trail;
use aquifer::job::units::{Timestamp, Usd};
use aquifer::ports::{
    Allowance, BeginReply, Bodies, ClaimReply, CompleteBatch, Depth, Entry, Fence, FinalRow, FinishReply, Gate, LaneId,
    Ledger, Message, MessageId, Notices, Outgoing, Queue, ReceiptHandle, Shared, StoreError, StoreTrouble, Swap,
    Version,
};
use async_trait::async_trait;
use bytes::Bytes;

/// Whether a store is away, and what was asked of it meanwhile.
#[derive(Clone, Default)]
pub struct Outage(Arc<Books>);

#[derive(Default)]
struct Books {
    is_away: AtomicBool,
    refused: AtomicU64,
    claims: AtomicU64,
    receives: AtomicU64,
}

impl Outage {
    pub fn begin(&self) {
        self.0.is_away.store(true, Ordering::SeqCst);
    }

    pub fn end(&self) {
        self.0.is_away.store(false, Ordering::SeqCst);
    }

    /// Everything that was refused.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::SeqCst)
    }

    /// Claims that were answered.
    pub fn claims(&self) -> u64 {
        self.0.claims.load(Ordering::SeqCst)
    }

    /// Messages that were received.
    pub fn receives(&self) -> u64 {
        self.0.receives.load(Ordering::SeqCst)
    }
}

/// A port behind which a store can be away.
pub struct Shaky<P: ?Sized> {
    port: Arc<P>,
    outage: Outage,
    kind: StoreTrouble,
}

impl<P: ?Sized> Shaky<P> {
    pub fn new(port: &Arc<P>, outage: &Outage, kind: StoreTrouble) -> Arc<Self> {
        Arc::new(Self { port: Arc::clone(port), outage: outage.clone(), kind })
    }

    async fn ask<R>(&self, doing: &str, asked: impl Future<Output = Result<R, StoreError>>) -> Result<R, StoreError> {
        if self.outage.0.is_away.load(Ordering::SeqCst) {
            self.outage.0.refused.fetch_add(1, Ordering::SeqCst);
            // No refusal comes before a question has gone there and back.
            tokio::time::sleep(Duration::from_millis(10)).await;
            return Err(StoreError { kind: self.kind, doing: doing.to_owned(), why: "as the test says".to_owned() });
        }
        asked.await
    }
}

#[async_trait]
impl Allowance for Shaky<dyn Allowance> {
    async fn read(&self, lane: &LaneId) -> Result<Shared, StoreError> {
        self.ask("reading a lane", self.port.read(lane)).await
    }

    async fn swap(&self, lane: &LaneId, expected: Version, state: Bytes) -> Result<Swap, StoreError> {
        self.ask("writing a lane", self.port.swap(lane, expected, state)).await
    }

    fn pace(&self) -> Duration {
        self.port.pace()
    }
}

#[async_trait]
impl Bodies for Shaky<dyn Bodies> {
    async fn append(&self, batch: &BatchKey, line: Bytes) -> Result<Pointer, StoreError> {
        self.ask("appending a result", self.port.append(batch, line)).await
    }

    async fn read(&self, pointer: &Pointer) -> Result<Bytes, StoreError> {
        self.ask("reading a result", self.port.read(pointer)).await
    }
}

#[async_trait]
impl Notices for Shaky<dyn Notices> {
    async fn publish(&self, notice: &Notice) -> Result<(), StoreError> {
        self.ask("publishing a notice", self.port.publish(notice)).await
    }
}

#[async_trait]
impl Queue for Shaky<dyn Queue> {
    async fn send(&self, entries: Vec<Outgoing>) -> Result<Vec<Entry<MessageId>>, StoreError> {
        self.ask("sending messages", self.port.send(entries)).await
    }

    async fn receive(
        &self,
        max: usize,
        passing_over: &[Arc<str>],
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Message>, StoreError> {
        let received = self.ask("receiving", self.port.receive(max, passing_over, visibility, wait)).await?;
        self.outage.0.receives.fetch_add(received.len() as u64, Ordering::SeqCst);
        Ok(received)
    }

    async fn change_visibility(&self, entries: Vec<(ReceiptHandle, Duration)>) -> Result<Vec<Entry>, StoreError> {
        self.ask("hiding messages", self.port.change_visibility(entries)).await
    }

    async fn delete(&self, handles: Vec<ReceiptHandle>) -> Result<Vec<Entry>, StoreError> {
        self.ask("deleting messages", self.port.delete(handles)).await
    }

    async fn dead_letter(&self, message: &Message, reason: &str) -> Result<Entry, StoreError> {
        self.ask("burying a message", self.port.dead_letter(message, reason)).await
    }

    async fn depth(&self) -> Result<Depth, StoreError> {
        self.ask("counting messages", self.port.depth()).await
    }
}

#[async_trait]
impl Ledger for Shaky<dyn Ledger> {
    async fn claim(
        &self,
        key: &JobKey,
        content: Digest,
        enqueued: Timestamp,
        lease: Duration,
    ) -> Result<ClaimReply, StoreError> {
        let reply = self.ask("claiming", self.port.claim(key, content, enqueued, lease)).await?;
        self.outage.0.claims.fetch_add(1, Ordering::SeqCst);
        Ok(reply)
    }

    async fn begin(&self, fence: &Fence, tally: Tally, open: Usd, cap: Option<Usd>) -> Result<BeginReply, StoreError> {
        self.ask("recording a call", self.port.begin(fence, tally, open, cap)).await
    }

    async fn settle(&self, fence: &Fence, tally: Tally, trail: Trail) -> Result<Entry, StoreError> {
        self.ask("recording the end of a call", self.port.settle(fence, tally, trail)).await
    }

    async fn extend(&self, fences: Vec<Fence>, lease: Duration) -> Result<Vec<Entry>, StoreError> {
        self.ask("extending leases", self.port.extend(fences, lease)).await
    }

    async fn hand_back(&self, fence: &Fence, tally: Tally, trail: Trail) -> Result<Entry, StoreError> {
        self.ask("handing back", self.port.hand_back(fence, tally, trail)).await
    }

    async fn finish(
        &self,
        fence: &Fence,
        tally: Tally,
        ending: Ending,
        trail: Trail,
    ) -> Result<FinishReply, StoreError> {
        self.ask("recording a result", self.port.finish(fence, tally, ending, trail)).await
    }

    async fn notified(&self, key: &JobKey, at: Timestamp) -> Result<(), StoreError> {
        self.ask("recording a notice", self.port.notified(key, at)).await
    }

    async fn look_up(&self, key: &JobKey) -> Result<Option<(State, Option<FinalRow>)>, StoreError> {
        self.ask("looking up", self.port.look_up(key)).await
    }

    async fn complete_unannounced(&self, batch: &BatchKey) -> Result<Option<CompleteBatch>, StoreError> {
        self.ask("looking for an end", self.port.complete_unannounced(batch)).await
    }

    async fn mark_announced(&self, batch: &BatchKey, completion: u64) -> Result<(), StoreError> {
        self.ask("marking a batch", self.port.mark_announced(batch, completion)).await
    }

    async fn post_gate(&self, lane: &str, gate: Option<Gate>) -> Result<(), StoreError> {
        self.ask("posting a gate", self.port.post_gate(lane, gate)).await
    }
}
