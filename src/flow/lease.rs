//! Is the job still ours? A lease is a handle: dropping it stops the extension, its loss can be awaited.
//!
//! One task extends all leases of the worker in batches, a third of the lease before they would end twice over. The
//! deadline counts from before the request, so it is never later than the truth; when it comes near without an
//! extension, the lease is given up before somebody else can own the job.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::ports::{BATCH_ENTRIES, Entry, EntryError, Fence, Ledger, Queue, ReceiptHandle};

/// The right to go on with a delivery; ends when dropped.
#[derive(Debug)]
pub struct Lease {
    id: u64,
    lost: CancellationToken,
    keeper: LeaseKeeper,
}

impl Lease {
    /// From here on the row of this claim is extended with the message.
    pub fn guard(&self, fence: &Fence) {
        if let Some(held) = self.keeper.lock().held.get_mut(&self.id) {
            held.fence = Some(fence.clone());
        }
    }

    /// Ends when the lease is lost.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Whether it is lost.
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeper.lock().held.remove(&self.id);
    }
}

/// Extends what is held. Clones share it.
#[derive(Clone, Debug)]
pub struct LeaseKeeper {
    inner: Arc<Mutex<Leases>>,
    length: Duration,
}

#[derive(Debug, Default)]
struct Leases {
    next: u64,
    held: HashMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    handle: ReceiptHandle,
    fence: Option<Fence>,
    ends: Instant,
    lost: CancellationToken,
}

/// What is left of a lease when it is given up for lost: time for a write that is already on its way.
const MARGIN: u32 = 10;

impl LeaseKeeper {
    /// For leases of this length.
    pub fn new(length: Duration) -> Self {
        Self { inner: Arc::default(), length }
    }

    /// Begins to hold a message that was asked for at `asked`.
    pub fn hold(&self, handle: ReceiptHandle, asked: Instant) -> Lease {
        let lost = CancellationToken::new();
        let mut leases = self.lock();
        let id = leases.next;
        leases.next += 1;
        leases.held.insert(id, Held { handle, fence: None, ends: asked + self.length, lost: lost.clone() });
        drop(leases);
        Lease { id, lost, keeper: self.clone() }
    }

    /// Extends leases until cancelled.
    pub async fn run(&self, queue: &dyn Queue, ledger: &dyn Ledger, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.length / 12);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => self.extend_due(queue, ledger).await,
            }
        }
    }

    async fn extend_due(&self, queue: &dyn Queue, ledger: &dyn Ledger) {
        let asked = Instant::now();
        let due: Vec<(u64, ReceiptHandle, Option<Fence>)> = self
            .lock()
            .held
            .iter()
            .filter(|(_, held)| held.ends.saturating_duration_since(asked) <= self.length * 2 / 3)
            .map(|(id, held)| (*id, held.handle.clone(), held.fence.clone()))
            .collect();
        for chunk in due.chunks(BATCH_ENTRIES) {
            self.extend_chunk(queue, ledger, chunk, asked).await;
        }
        self.give_up_overdue();
    }

    async fn extend_chunk(
        &self,
        queue: &dyn Queue,
        ledger: &dyn Ledger,
        chunk: &[(u64, ReceiptHandle, Option<Fence>)],
        asked: Instant,
    ) {
        let messages = chunk.iter().map(|(_, handle, _)| (handle.clone(), self.length)).collect();
        let (guarded, fences): (Vec<u64>, Vec<Fence>) =
            chunk.iter().filter_map(|(id, _, fence)| fence.clone().map(|fence| (*id, fence))).unzip();
        // Trouble with the store is not loss: the next tick tries again, until the lease is overdue.
        let (Ok(messages), Ok(rows)) = (
            queue.change_visibility(messages).await,
            async { if fences.is_empty() { Ok(Vec::new()) } else { ledger.extend(fences, self.length).await } }.await,
        ) else {
            return;
        };
        let mut leases = self.lock();
        let ids = chunk.iter().map(|(id, _, _)| *id);
        let replies = ids.zip(messages).chain(guarded.into_iter().zip(rows));
        let mut ended = Vec::new();
        for (id, reply) in replies {
            match reply {
                Entry::Ok(()) => {
                    if let Some(held) = leases.held.get_mut(&id) {
                        held.ends = asked + self.length;
                    }
                }
                Err(EntryError::NotOurs | EntryError::Refused(_)) => ended.push(id),
            }
        }
        for id in ended {
            if let Some(held) = leases.held.remove(&id) {
                held.lost.cancel();
            }
        }
    }

    fn give_up_overdue(&self) {
        let now = Instant::now();
        let margin = self.length / MARGIN;
        self.lock().held.retain(|_, held| {
            let overdue = held.ends.saturating_duration_since(now) <= margin;
            if overdue {
                held.lost.cancel();
            }
            !overdue
        });
    }

    fn lock(&self) -> MutexGuard<'_, Leases> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
