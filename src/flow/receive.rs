//! What comes next? A slot before the question, so that a received message always has somewhere to run; and nothing of a
//! model whose share of the slots waits already; and next to nothing while claims fail.
//!
//! Where every question costs, they are asked one after the other: each waits until it can bring a whole batch, but not for
//! long; nobody else asks while the queue has nothing; and a model that is passed over, which such a queue cannot do, is not
//! looked behind more often than once a second, unless the last look was worth it.
//!
//! A receive in flight is not cancelled when the worker drains: no new one starts, and what the open one brings is handed on
//! like the rest, to be released at once by whoever works it. Only an abort cuts it off.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use crate::ports::Message;

use super::context::Context;
use super::proof::Delivery;
use super::shares::{Place, Question, Shares};

/// How long one question waits for a first message. Short, because a drain waits for the question in flight.
const WAIT: Duration = Duration::from_millis(500);
/// With something passed over, a question does not wait: what it may bring can change while it does. If it brought nothing,
/// the next is asked when that has changed, at the latest after this.
const PAUSE: Duration = Duration::from_secs(1);
/// A batch is gathered of at most this part of the slots, which are idle meanwhile.
const SPARED: usize = 4;
/// After trouble with the queue; doubles up to [`TROUBLE_MOST`].
const TROUBLE_LEAST: Duration = Duration::from_millis(100);
const TROUBLE_MOST: Duration = Duration::from_secs(5);
/// How long the queue may be in trouble before a run gives up; a worker waits.
const TROUBLE_GIVE_UP: Duration = Duration::from_secs(20);

/// Who of the receivers asks next. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Turn(Arc<Mutex<Asked>>);

/// What the questions before this one came to.
#[derive(Debug, Default)]
struct Asked {
    /// The last one brought nothing.
    in_vain: bool,
    /// When a model was passed over.
    passed_over: Option<Instant>,
}

/// Receives until the worker drains. `hold` begins the lease of a message that was asked for at that instant; deliveries
/// go to `out`.
pub async fn receive(
    context: &Context,
    slots: &Arc<Semaphore>,
    shares: &Shares,
    turn: &Turn,
    hold: impl Fn(Message, Instant, OwnedSemaphorePermit, Place) -> Delivery + Send,
    out: &mpsc::Sender<Delivery>,
) {
    let mut trouble = TROUBLE_LEAST;
    let mut in_trouble_since = None;
    loop {
        tokio::select! {
            biased;
            () = context.stop.drained() => return,
            () = context.stop.resumed() => {}
        }
        let most = tokio::select! {
            biased;
            () = context.stop.drained() => return,
            most = context.claims.may_receive() => most,
        };
        let gathered = tokio::select! {
            biased;
            () = context.stop.drained() => return,
            gathered = gather(context, slots, shares, turn, most.unwrap_or(usize::MAX)) => gathered,
        };
        let Some(Gathered { mut permits, question, alone }) = gathered else { return };
        if context.stop.is_paused() {
            continue;
        }
        let Question { passing_over, mut places } = question;
        permits.truncate(places.len());
        let wait = if passing_over.is_empty() { WAIT } else { Duration::ZERO };
        let asked = Instant::now();
        let received = tokio::select! {
            received = context.queue.receive(places.len(), &passing_over, context.settings.lease, wait) => received,
            // A queue that does not answer holds nobody up for longer than a shutdown may take.
            () = context.stop.aborted() => return,
        };
        let in_vain = received.as_ref().is_ok_and(Vec::is_empty);
        if in_vain {
            // Whoever asks next may wait for one of these, and holds the turn meanwhile: nobody would ask any more.
            permits.clear();
            places.clear();
        }
        match alone {
            Some(mut turn) => turn.in_vain = in_vain,
            None if in_vain => turn.0.lock().await.in_vain = true,
            None => {}
        }
        match received {
            Ok(messages) => {
                (trouble, in_trouble_since) = (TROUBLE_LEAST, None);
                context.meter.received(messages.len());
                if messages.is_empty() && !passing_over.is_empty() {
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

/// A question with slots for all that it may bring.
struct Gathered<'a> {
    permits: Vec<OwnedSemaphorePermit>,
    question: Question,
    /// Held on to while the queue seems to be empty: more questions at once would bring no more.
    alone: Option<MutexGuard<'a, Asked>>,
}

/// Waits for one free slot and takes up to a batch of them, and of places; `None` if there will be no more.
async fn gather<'a>(
    context: &Context,
    slots: &Arc<Semaphore>,
    shares: &Shares,
    turn: &'a Turn,
    most: usize,
) -> Option<Gathered<'a>> {
    let gathers = context.queue.gathers();
    let most = context.settings.receive_batch.min(most);
    let enough = most.min(context.settings.slots / SPARED).max(1);
    if gathers.is_zero() {
        let permits = free_slots(slots, 1, most, Instant::now()).await?;
        let question = shares.ask(permits.len());
        return Some(Gathered { permits, question, alone: None });
    }
    let mut asked = turn.0.lock().await;
    let until = Instant::now() + gathers;
    let mut permits = free_slots(slots, enough, most, until).await?;
    let mut question = shares.ask(permits.len());
    if question.places.len() < enough && Instant::now() < until {
        drop(question);
        tokio::time::sleep_until(until).await;
        question = shares.ask(permits.len());
    }
    if !question.passing_over.is_empty() {
        if let Some(last) = asked.passed_over {
            drop(question);
            tokio::select! {
                () = tokio::time::sleep_until(last + PAUSE) => {}
                () = shares.worth_a_look() => {}
            }
            question = shares.ask(permits.len());
        }
        asked.passed_over = Some(Instant::now());
    }
    permits.truncate(question.places.len());
    Some(Gathered { permits, question, alone: asked.in_vain.then_some(asked) })
}

/// Waits for one free slot, and until then for enough of them; at most so many.
async fn free_slots(
    slots: &Arc<Semaphore>,
    enough: usize,
    most: usize,
    until: Instant,
) -> Option<Vec<OwnedSemaphorePermit>> {
    let mut permits = vec![Arc::clone(slots).acquire_owned().await.ok()?];
    while permits.len() < most {
        let next = match Arc::clone(slots).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) if permits.len() >= enough => break,
            Err(_) => match timeout_at(until, Arc::clone(slots).acquire_owned()).await {
                Ok(permit) => permit.ok()?,
                Err(_) => break,
            },
        };
        permits.push(next);
    }
    Some(permits)
}
