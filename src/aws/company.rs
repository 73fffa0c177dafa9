//! Who shares a call with whom? Requests that come close together travel in one call, so that a job costs a fraction
//! of it; a lone one does not wait.
//!
//! A call leaves as soon as it is full, and else when [`APART`] has passed since the last one left: after a pause that is at
//! once. Nothing waits longer than that for company.
//!
//! Nor for more company than makes a difference to what a job costs: with [`Room::enough`] a call leaves as well, while none of
//! its kind is under way. Whoever waits takes up a slot of the worker, and with all of them waiting nobody else can come; but where the
//! service answers more slowly than requests come, the next call had better fill up meanwhile.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::trouble;
use crate::ports::{StoreError, StoreTrouble};

/// Between the starts of two calls that carry less than enough.
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
    /// So many that more would not make a job much cheaper.
    pub(super) enough: usize,
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

/// When a call leaves with those who are there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Leaves {
    Now,
    /// Unless more come.
    At(Instant),
    /// When a call that is under way has been answered.
    AfterAnother,
}

/// What is known of the calls of one kind when the next may leave.
#[derive(Clone, Copy, Debug)]
struct Traffic {
    /// When the last one left.
    last: Option<Instant>,
    under_way: usize,
}

impl Traffic {
    /// With so many requests; `complete` if nobody else can come along.
    fn leaves(self, requests: usize, complete: bool, room: Room, now: Instant) -> Leaves {
        let due = self.last.map_or(now, |last| last + APART);
        if complete || due <= now {
            return if self.under_way < UNDER_WAY { Leaves::Now } else { Leaves::AfterAnother };
        }
        if requests >= room.enough && self.under_way == 0 { Leaves::Now } else { Leaves::At(due) }
    }
}

/// Those who leave together, and one who came and did not fit.
struct Group<R, T> {
    passengers: Vec<Passenger<R, T>>,
    bytes: usize,
    left_over: Option<Passenger<R, T>>,
}

impl<R, T> Group<R, T> {
    fn new() -> Self {
        Self { passengers: Vec::new(), bytes: 0, left_over: None }
    }

    fn is_full(&self, room: Room) -> bool {
        self.left_over.is_some() || self.passengers.len() >= room.requests || self.bytes >= room.bytes
    }

    fn add(&mut self, passenger: Passenger<R, T>, room: Room) {
        let fits = self.bytes.saturating_add(passenger.weight) <= room.bytes;
        if fits || self.passengers.is_empty() {
            self.bytes = self.bytes.saturating_add(passenger.weight);
            self.passengers.push(passenger);
        } else {
            self.left_over = Some(passenger);
        }
    }

    /// Those who leave now; who did not fit is the first of the next.
    fn take(&mut self, room: Room) -> Vec<Passenger<R, T>> {
        let Self { passengers, left_over, .. } = std::mem::replace(self, Self::new());
        if let Some(first) = left_over {
            self.add(first, room);
        }
        passengers
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
    let mut under_way = JoinSet::new();
    let mut last = None;
    let mut group = Group::new();
    loop {
        while under_way.try_join_next().is_some() {}
        // All who are there already come along.
        while !group.is_full(room)
            && let Ok(next) = arrivals.try_recv()
        {
            group.add(next, room);
        }
        if group.passengers.is_empty() {
            match arrivals.recv().await {
                Some(first) => group.add(first, room),
                None => break,
            }
            continue;
        }
        let complete = group.is_full(room) || arrivals.is_closed();
        let now = Instant::now();
        let traffic = Traffic { last, under_way: under_way.len() };
        let leaves = traffic.leaves(group.passengers.len(), complete, room, now);
        if leaves == Leaves::Now {
            last = Some(now);
            under_way.spawn(carry(group.take(room), Arc::clone(&call)));
            continue;
        }
        tokio::select! {
            next = arrivals.recv(), if !complete => next.into_iter().for_each(|next| group.add(next, room)),
            _ = under_way.join_next(), if !under_way.is_empty() => {}
            () = until(leaves) => {}
        }
    }
    // Those that have left arrive.
    under_way.detach_all();
}

/// Until a call leaves if nothing happens.
async fn until(leaves: Leaves) {
    match leaves {
        Leaves::Now => {}
        Leaves::At(due) => sleep_until(due).await,
        Leaves::AfterAnother => std::future::pending().await,
    }
}

/// One call, and everyone's answer.
async fn carry<R, T, C>(group: Vec<Passenger<R, T>>, call: Arc<C>)
where
    C: Fn(Vec<R>) -> BoxFuture<'static, Replies<T>>,
{
    let (requests, replies): (Vec<_>, Vec<_>) =
        group.into_iter().map(|passenger| (passenger.request, passenger.reply)).unzip();
    for (reply, answer) in replies.into_iter().zip(call(requests).await) {
        // Whoever asked may have gone.
        let _ = reply.send(answer);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Mutex;

    use super::*;

    type Calls = Arc<Mutex<Vec<(Duration, Vec<u32>)>>>;
    /// Calls as they leave, each with the word that lets it go on.
    type Leaving = mpsc::UnboundedReceiver<(Vec<u32>, oneshot::Sender<()>)>;

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
        let (company, calls) = company(Room { requests: 10, enough: 10, bytes: 100 });
        ask_all(&company, 0..1).await;
        tokio::time::advance(APART).await;
        ask_all(&company, 1..2).await;
        assert_eq!(*calls.lock().unwrap(), [(Duration::ZERO, vec![0]), (APART, vec![1])]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_soon_after_a_call_waits_for_company() {
        let (company, calls) = company(Room { requests: 10, enough: 10, bytes: 100 });
        ask_all(&company, 0..1).await;
        ask_all(&company, 1..4).await;
        assert_eq!(*calls.lock().unwrap(), [(Duration::ZERO, vec![0]), (APART, vec![1, 2, 3])]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_call_leaves_at_once() {
        let (company, calls) = company(Room { requests: 3, enough: 3, bytes: 100 });
        ask_all(&company, 0..9).await;
        let calls = calls.lock().unwrap();
        assert!(calls.iter().all(|(at, group)| *at == Duration::ZERO && group.len() == 3), "{calls:?}");
        assert_eq!(calls.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_carries_no_more_than_it_may_weigh() {
        let (company, calls) = company(Room { requests: 10, enough: 10, bytes: 2 });
        ask_all(&company, 0..5).await;
        let sizes: Vec<usize> = calls.lock().unwrap().iter().map(|(_, group)| group.len()).collect();
        assert_eq!(sizes, [2, 2, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_heavier_than_a_call_travels_alone() {
        let (company, calls) = company(Room { requests: 10, enough: 10, bytes: 2 });
        assert_eq!(company.ask(7, 50).await.unwrap(), 7);
        assert_eq!(*calls.lock().unwrap(), [(Duration::ZERO, vec![7])]);
    }

    #[test]
    fn a_call_leaves_when_it_is_due_or_full_or_has_enough_and_none_is_under_way() {
        let room = Room { requests: 100, enough: 30, bytes: 100 };
        let start = Instant::now();
        let at = |after: Duration, under_way, requests| {
            Traffic { last: Some(start), under_way }.leaves(requests, requests == room.requests, room, start + after)
        };
        let (soon, due) = (APART / 10, Leaves::At(start + APART));
        let never = Traffic { last: None, under_way: 0 };
        assert_eq!(never.leaves(1, false, room, start), Leaves::Now, "the first");
        // By itself, when its time has come, whatever it carries.
        assert_eq!((at(soon, 0, 29), at(APART, 0, 1)), (due, Leaves::Now));
        assert_eq!((at(APART, UNDER_WAY - 1, 1), at(APART, UNDER_WAY, 1)), (Leaves::Now, Leaves::AfterAnother));
        // With enough, unless another is under way behind which it would only wait for its answer.
        assert_eq!((at(soon, 0, 30), at(soon, 1, 30), at(soon, 1, 99)), (Leaves::Now, due, due));
        // Full.
        assert_eq!((at(soon, UNDER_WAY - 1, 100), at(soon, UNDER_WAY, 100)), (Leaves::Now, Leaves::AfterAnother));
    }

    /// Holds each call up until it is told to go on.
    fn held_up(room: Room) -> (Arc<Company<u32, u32>>, Leaving) {
        let (leaves, left) = mpsc::unbounded_channel();
        let company = Company::new("testing", room, move |group: Vec<u32>| {
            let (goes_on, held) = oneshot::channel();
            leaves.send((group.clone(), goes_on)).unwrap();
            Box::pin(async move {
                held.await.unwrap();
                group.into_iter().map(Ok).collect()
            })
        });
        (Arc::new(company), left)
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_with_enough_leaves_at_once_unless_another_is_under_way_and_then_fills_up() {
        let (company, mut left) = held_up(Room { requests: 10, enough: 3, bytes: 100 });
        let start = Instant::now();
        let ask = |requests| {
            let company = Arc::clone(&company);
            tokio::spawn(async move { ask_all(&company, requests).await })
        };
        let mut asked = vec![ask(0..1)];
        let (first, answer) = left.recv().await.unwrap();
        asked.push(ask(1..5));
        tokio::task::yield_now().await;
        answer.send(()).unwrap();
        let (second, answer) = left.recv().await.unwrap();
        asked.push(ask(5..9));
        tokio::task::yield_now().await;
        assert!(left.try_recv().is_err(), "one is under way");
        asked.push(ask(9..12));
        tokio::task::yield_now().await;
        answer.send(()).unwrap();
        let (third, answer) = left.recv().await.unwrap();
        assert_eq!((first, second, third), (vec![0], (1..5).collect(), (5..12).collect()));
        assert_eq!(start.elapsed(), Duration::ZERO);
        answer.send(()).unwrap();
        futures_util::future::join_all(asked).await.into_iter().for_each(Result::unwrap);
    }
}
