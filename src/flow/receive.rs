//! What comes next? A slot before the question, so that a received message always has somewhere to run; and nothing of a
//! model whose share of the slots waits already; and next to nothing while claims fail.
//!
//! A receive in flight is not cancelled when the worker drains: no new one starts, and what the open one brings is handed on
//! like the rest, to be released at once by whoever works it. Only an abort cuts it off.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use crate::ports::Message;

use super::context::Context;
use super::proof::Delivery;
use super::shares::{Place, Question, Shares};

/// How long one question waits for a first message. Short, because a drain waits for the question in flight.
const WAIT: Duration = Duration::from_millis(500);
/// With something passed over, a question does not wait: what it may bring can change while it does. If it brought nothing,
/// the next is asked when that has changed, at the latest after this.
const PAUSE: Duration = Duration::from_secs(1);
/// After trouble with the queue; doubles up to [`TROUBLE_MOST`].
const TROUBLE_LEAST: Duration = Duration::from_millis(100);
const TROUBLE_MOST: Duration = Duration::from_secs(5);
/// How long the queue may be in trouble before a run gives up; a worker waits.
const TROUBLE_GIVE_UP: Duration = Duration::from_secs(20);

/// Receives until the worker drains. `hold` begins the lease of a message that was asked for at that instant; deliveries
/// go to `out`.
pub async fn receive(
    context: &Context,
    slots: &Arc<Semaphore>,
    shares: &Shares,
    hold: impl Fn(Message, Instant, OwnedSemaphorePermit, Place) -> Delivery + Send,
    out: &mpsc::Sender<Delivery>,
) {
    let mut trouble = TROUBLE_LEAST;
    let mut in_trouble_since = None;
    loop {
        let most = tokio::select! {
            biased;
            () = context.stop.drained() => return,
            most = context.claims.may_receive() => most,
        };
        let Some(mut permits) = free_slots(context, slots).await else { return };
        permits.truncate(most.unwrap_or(usize::MAX));
        let Question { passing_over, mut places } = shares.ask(permits.len());
        permits.truncate(places.len());
        let wait = if passing_over.is_empty() { WAIT } else { Duration::ZERO };
        let asked = Instant::now();
        let received = tokio::select! {
            received = context.queue.receive(places.len(), &passing_over, context.settings.lease, wait) => received,
            // A queue that does not answer holds nobody up for longer than a shutdown may take.
            () = context.stop.aborted() => return,
        };
        match received {
            Ok(messages) => {
                (trouble, in_trouble_since) = (TROUBLE_LEAST, None);
                context.meter.received(messages.len());
                if messages.is_empty() && !passing_over.is_empty() {
                    drop((permits, places));
                    tokio::select! {
                        () = context.stop.drained() => return,
                        () = shares.changed() => {}
                        () = tokio::time::sleep(PAUSE) => {}
                    }
                    continue;
                }
                for message in messages {
                    let (Some(slot), Some(place)) = (permits.pop(), places.pop()) else { break };
                    if out.send(hold(message, asked, slot, place)).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                drop((permits, places));
                let since = *in_trouble_since.get_or_insert(asked);
                let is_over = !context.settings.patience.outlasts(error.kind);
                if is_over && asked.duration_since(since) >= TROUBLE_GIVE_UP {
                    context.stop.drain(super::stop::Reason::Store(error));
                    return;
                }
                context.meter.store_trouble(&error);
                tokio::select! {
                    () = context.stop.drained() => return,
                    () = tokio::time::sleep(trouble) => {}
                }
                trouble = (trouble * 2).min(TROUBLE_MOST);
            }
        }
    }
}

/// Waits for one free slot and takes up to a batch of them; `None` when the worker drains.
async fn free_slots(context: &Context, slots: &Arc<Semaphore>) -> Option<Vec<OwnedSemaphorePermit>> {
    let first = tokio::select! {
        biased;
        () = context.stop.drained() => return None,
        permit = Arc::clone(slots).acquire_owned() => permit.ok()?,
    };
    let mut permits = vec![first];
    while permits.len() < context.settings.receive_batch {
        let Ok(permit) = Arc::clone(slots).try_acquire_owned() else { break };
        permits.push(permit);
    }
    Some(permits)
}
