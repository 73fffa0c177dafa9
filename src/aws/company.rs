//! Who shares a call with whom? Requests that come close together travel in one call, so that a job costs a fraction
//! of it; a lone one does not wait.
//!
//! A call leaves as soon as it is full, and else when [`APART`] has passed since the last one left: after a pause that is at
//! once. Nothing waits longer than that for company.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::trouble;
use crate::ports::{StoreError, StoreTrouble};

/// Between the starts of two calls that are not full.
pub(super) const APART: Duration = Duration::from_millis(500);
/// Calls under way at once; more would be answered no sooner.
const UNDER_WAY: usize = 8;

/// The replies to the requests of one call, in their order.
pub(super) type Replies<T> = Vec<Result<T, StoreError>>;

/// How much one call carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Requests.
    pub(super) requests: usize,
    /// Bytes, as `weight` counts them; a request heavier than that travels alone.
    pub(super) bytes: usize,
}

/// Requests on their way into shared calls. Dropping it lets those that are waiting go.
pub(super) struct Company<R, T> {
    waiting: mpsc::UnboundedSender<Passenger<R, T>>,
    doing: &'static str,
}

struct Passenger<R, T> {
    request: R,
    weight: usize,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<R: Send + 'static, T: Send + 'static> Company<R, T> {
    /// `call` carries out a full group and answers each of it in its place; `doing` says so in errors.
    pub(super) fn new(
        doing: &'static str,
        room: Room,
        call: impl Fn(Vec<R>) -> BoxFuture<'static, Replies<T>> + Send + Sync + 'static,
    ) -> Self {
        let (waiting, arrivals) = mpsc::unbounded_channel();
        tokio::spawn(depart(arrivals, room, Arc::new(call)));
        Self { waiting, doing }
    }

    /// Carries out one request, in whatever company. `weight` is its share of [`Room::bytes`].
    pub(super) async fn ask(&self, request: R, weight: usize) -> Result<T, StoreError> {
        let gone = || trouble::of_ours(StoreTrouble::Other, self.doing, "the runtime is shutting down");
        let (reply, answer) = oneshot::channel();
        self.waiting.send(Passenger { request, weight, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl<R, T> fmt::Debug for Company<R, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Company").field("doing", &self.doing).finish_non_exhaustive()
    }
}

/// Sends calls off until nobody can come any more.
async fn depart<R: Send + 'static, T: Send + 'static, C>(
    mut arrivals: mpsc::UnboundedReceiver<Passenger<R, T>>,
    room: Room,
    call: Arc<C>,
) where
    C: Fn(Vec<R>) -> BoxFuture<'static, Replies<T>> + Send + Sync + 'static,
{
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    let mut last = None::<Instant>;
    let mut left_over = None;
    loop {
        let first = match left_over.take() {
            Some(first) => first,
            None => match arrivals.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        let leaves = last.map_or_else(Instant::now, |last| last + APART);
        let mut bytes = first.weight;
        let mut group = vec![first];
        while group.len() < room.requests && bytes < room.bytes {
            let next = tokio::select! {
                biased;
                next = arrivals.recv() => next,
                () = tokio::time::sleep_until(leaves) => None,
            };
            let Some(next) = next else { break };
            if bytes + next.weight > room.bytes {
                left_over = Some(next);
                break;
            }
            bytes += next.weight;
            group.push(next);
        }
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&under_way).acquire_owned().await else { return };
        last = Some(Instant::now());
        let call = Arc::clone(&call);
        tokio::spawn(async move {
            let (requests, replies): (Vec<_>, Vec<_>) =
                group.into_iter().map(|passenger| (passenger.request, passenger.reply)).unzip();
            for (reply, answer) in replies.into_iter().zip(call(requests).await) {
                // Whoever asked may have gone.
                let _ = reply.send(answer);
            }
            drop(permit);
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Mutex;

    use super::*;

    type Calls = Arc<Mutex<Vec<(Duration, Vec<u32>)>>>;

    /// Answers with the request, and writes down when each call left with whom.
    fn company(room: Room) -> (Arc<Company<u32, u32>>, Calls) {
        let calls = Calls::default();
        let (seen, start) = (Arc::clone(&calls), Instant::now());
        let company = Company::new("testing", room, move |group: Vec<u32>| {
            seen.lock().unwrap().push((start.elapsed(), group.clone()));
            Box::pin(async move { group.into_iter().map(Ok).collect() })
        });
        (Arc::new(company), calls)
    }

    async fn ask_all(company: &Arc<Company<u32, u32>>, requests: std::ops::Range<u32>) {
        let asked = requests.map(|n| {
            let company = Arc::clone(company);
            async move { assert_eq!(company.ask(n, 1).await.unwrap(), n) }
        });
        futures_util::future::join_all(asked).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_lone_request_does_not_wait() {
        let (company, calls) = company(Room { requests: 10, bytes: 100 });
        ask_all(&company, 0..1).await;
        tokio::time::advance(APART).await;
        ask_all(&company, 1..2).await;
        assert_eq!(*calls.lock().unwrap(), [(Duration::ZERO, vec![0]), (APART, vec![1])]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_soon_after_a_call_waits_for_company() {
        let (company, calls) = company(Room { requests: 10, bytes: 100 });
        ask_all(&company, 0..1).await;
        ask_all(&company, 1..4).await;
        assert_eq!(*calls.lock().unwrap(), [(Duration::ZERO, vec![0]), (APART, vec![1, 2, 3])]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_call_leaves_at_once() {
        let (company, calls) = company(Room { requests: 3, bytes: 100 });
        ask_all(&company, 0..9).await;
        let calls = calls.lock().unwrap();
        assert!(calls.iter().all(|(at, group)| *at == Duration::ZERO && group.len() == 3), "{calls:?}");
        assert_eq!(calls.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_carries_no_more_than_it_may_weigh() {
        let (company, calls) = company(Room { requests: 10, bytes: 2 });
        ask_all(&company, 0..5).await;
        let sizes: Vec<usize> = calls.lock().unwrap().iter().map(|(_, group)| group.len()).collect();
        assert_eq!(sizes, [2, 2, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_heavier_than_a_call_travels_alone() {
        let (company, calls) = company(Room { requests: 10, bytes: 2 });
        assert_eq!(company.ask(7, 50).await.unwrap(), 7);
        assert_eq!(*calls.lock().unwrap(), [(Duration::ZERO, vec![7])]);
    }
}
