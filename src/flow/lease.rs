//! Is the job still ours? A lease is a handle: dropping it stops the extension, its loss can be awaited.
//!
//! Two stores keep others away from a job in hand: the queue hides its message, and the ledger's row names its owner. They
//! are extended apart, and can fail apart: who cannot reach one of them for minutes still holds the job by the other. While
//! the message is hidden nobody is given it; while the row is owned whoever is given the message finds the job busy. What
//! another copy of the message may do meanwhile is decided by the fencing token. So a lease is lost
//!
//! * when the ledger says that the job has another owner,
//! * or when neither could be extended in time. The deadlines count from before the requests, so they are never later than
//!   the truth; when both come near, the lease is given up before somebody else can own the job.
//!
//! Each is extended in batches, a third of the lease before it would end twice over. A queue hides no message for longer
//! than 12 h in all (SQS's limit), so a lease wears out after 11 h: the message is then handed back, as new.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, Interval, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use crate::ports::{BATCH_ENTRIES, Entry, EntryError, Fence, Ledger, Queue, ReceiptHandle, StoreError};

/// The right to go on with a delivery; ends when dropped.
#[derive(Debug)]
pub struct Lease {
    id: u64,
    lost: CancellationToken,
    worn_out: CancellationToken,
    keeper: LeaseKeeper,
}

impl Lease {
    /// From here on the row of this claim, which was asked for at `asked`, is extended beside the message.
    pub fn guard(&self, fence: &Fence, asked: Instant) {
        if let Some(held) = self.keeper.lock().held.get_mut(&self.id) {
            held.owned = Some((fence.clone(), asked + self.keeper.length));
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

    /// Ends when the message was held for so long that it is better handed back.
    pub async fn worn_out(&self) {
        self.worn_out.cancelled().await;
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
    since: Instant,
    /// Until when the message is hidden; `None`: it was delivered again, and is not ours to hide.
    hidden: Option<Instant>,
    /// The claim, and until when its row names us.
    owned: Option<(Fence, Instant)>,
    lost: CancellationToken,
    worn_out: CancellationToken,
}

/// What is left of a lease when it is given up for lost: time for a write that is already on its way.
const MARGIN: u32 = 10;
/// A message is held for so long at most.
const WORN_OUT: Duration = Duration::from_secs(11 * 3_600);
/// A message is hidden for so long at most, in all: SQS's 12 h, less what clocks may differ.
const HIDDEN_AT_MOST: Duration = Duration::from_secs(12 * 3_600 - 300);
/// Requests to one store under way at once.
const AT_ONCE: usize = 4;

impl LeaseKeeper {
    /// For leases of this length.
    pub fn new(length: Duration) -> Self {
        Self { inner: Arc::default(), length }
    }

    /// Begins to hold a message that was asked for at `asked`.
    pub fn hold(&self, handle: ReceiptHandle, asked: Instant) -> Lease {
        let (lost, worn_out) = (CancellationToken::new(), CancellationToken::new());
        let mut leases = self.lock();
        let id = leases.next;
        leases.next += 1;
        let held = Held {
            handle,
            since: asked,
            hidden: Some(asked + self.length),
            owned: None,
            lost: lost.clone(),
            worn_out: worn_out.clone(),
        };
        leases.held.insert(id, held);
        drop(leases);
        Lease { id, lost, worn_out, keeper: self.clone() }
    }

    /// Extends leases until cancelled. Each store is asked on its own: one that does not answer holds up nothing of the
    /// other's.
    pub async fn run(&self, queue: &dyn Queue, ledger: &dyn Ledger, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep_hidden(queue) => {}
            () = self.keep_owned(ledger) => {}
            () = self.give_up_overdue() => {}
        }
    }

    async fn keep_hidden(&self, queue: &dyn Queue) {
        let mut tick = self.ticks();
        loop {
            tick.tick().await;
            let asked = Instant::now();
            let due =
                self.due(asked, |held| Some((Hide { handle: held.handle.clone(), since: held.since }, held.hidden?)));
            let chunks = stream::iter(due.chunks(BATCH_ENTRIES));
            chunks.for_each_concurrent(AT_ONCE, |chunk| self.hide(queue, chunk, asked)).await;
        }
    }

    async fn keep_owned(&self, ledger: &dyn Ledger) {
        let mut tick = self.ticks();
        loop {
            tick.tick().await;
            let asked = Instant::now();
            let due = self.due(asked, |held| held.owned.clone());
            let chunks = stream::iter(due.chunks(BATCH_ENTRIES));
            chunks.for_each_concurrent(AT_ONCE, |chunk| self.own(ledger, chunk, asked)).await;
        }
    }

    async fn give_up_overdue(&self) {
        let (mut tick, margin) = (self.ticks(), self.length / MARGIN);
        loop {
            tick.tick().await;
            let now = Instant::now();
            for held in self.lock().held.values() {
                let owned = held.owned.as_ref().map(|(_, until)| *until);
                let last = held.hidden.into_iter().chain(owned).max();
                // It stays among the held: an answer may wait to be recorded, and is the safer for a lease won back.
                if last.is_none_or(|last| last.saturating_duration_since(now) <= margin) {
                    held.lost.cancel();
                }
                if now.saturating_duration_since(held.since) >= WORN_OUT {
                    held.worn_out.cancel();
                }
            }
        }
    }

    async fn hide(&self, queue: &dyn Queue, chunk: &[(u64, Hide)], asked: Instant) {
        let entries = chunk.iter().map(|(_, hide)| (hide.handle.clone(), hide.length(self.length, asked))).collect();
        let Some(replies) = self.in_time(queue.change_visibility(entries)).await else { return };
        let mut leases = self.lock();
        for ((id, hide), reply) in chunk.iter().zip(replies) {
            let Some(held) = leases.held.get_mut(id) else { continue };
            match reply {
                Ok(()) => held.hidden = Some(asked + hide.length(self.length, asked)),
                // Whoever has it now finds the job busy, if it is claimed.
                Err(EntryError::NotOurs) => held.hidden = None,
                Err(EntryError::Refused(_)) => {}
            }
        }
    }

    async fn own(&self, ledger: &dyn Ledger, chunk: &[(u64, Fence)], asked: Instant) {
        let fences = chunk.iter().map(|(_, fence)| fence.clone()).collect();
        let Some(replies) = self.in_time(ledger.extend(fences, self.length)).await else { return };
        let mut leases = self.lock();
        for ((id, _), reply) in chunk.iter().zip(replies) {
            let Some(held) = leases.held.get_mut(id) else { continue };
            match (reply, &mut held.owned) {
                (Ok(()), Some((_, until))) => *until = asked + self.length,
                (Err(EntryError::NotOurs), owned) => {
                    // Its message stays hidden while it is held: the row may be final by our own doing, and its notice due.
                    *owned = None;
                    held.lost.cancel();
                }
                (Ok(()), None) | (Err(EntryError::Refused(_)), _) => {}
            }
        }
    }

    /// What is to be extended now: all that would end within two thirds of a lease.
    fn due<T>(&self, now: Instant, of: impl Fn(&Held) -> Option<(T, Instant)>) -> Vec<(u64, T)> {
        let held = self.lock();
        let ends = held.held.iter().filter_map(|(id, held)| of(held).map(|(what, until)| (*id, what, until)));
        let due = ends.filter(|(_, _, until)| until.saturating_duration_since(now) <= self.length * 2 / 3);
        due.map(|(id, what, _)| (id, what)).collect()
    }

    /// The replies, unless there was trouble or they took so long that the next attempt is better. Neither is loss: it is
    /// tried again at the next tick, until the lease is overdue.
    async fn in_time(&self, asked: impl Future<Output = Result<Vec<Entry>, StoreError>>) -> Option<Vec<Entry>> {
        timeout(self.length / 4, asked).await.ok()?.ok()
    }

    fn ticks(&self) -> Interval {
        let mut tick = tokio::time::interval(self.length / 12);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick
    }

    fn lock(&self) -> MutexGuard<'_, Leases> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message to be hidden on.
struct Hide {
    handle: ReceiptHandle,
    since: Instant,
}

impl Hide {
    /// For how long, when asked then.
    fn length(&self, lease: Duration, asked: Instant) -> Duration {
        lease.min((self.since + HIDDEN_AT_MOST).saturating_duration_since(asked))
    }
}
