//! Where does a call go, and what was reserved for it? A reservation that is neither settled nor released is kept: a
//! dropped future may have reached the service.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::job::failure::Class;
use crate::job::units::{Timestamp, Tokens, Usd};
use crate::ports::{Allowance, CallBody, StoreError};
use crate::rules::concurrency::SETTLED_IN;
use crate::rules::lane::Word;
use crate::rules::pace::{Event, JUDGED_AFTER, Quota};
use crate::telemetry::Meter;

use super::lane::{Asked, Lane, Take, Taken};
use super::lanes::{Plan, Route, Size};

/// A lane, and the right to one call on it.
#[derive(Debug)]
pub struct Placement {
    /// The model.
    pub plan: Arc<Plan>,
    /// What was taken on its lane.
    pub held: Held,
    /// What is sent.
    pub body: CallBody,
    /// How large it is, as it was reserved.
    pub size: Size,
    /// What the call costs at most.
    pub price: Usd,
    /// Given up after this.
    pub timeout: Duration,
}

/// The reservation on a lane and the permit of its breaker, until the end of the call is told.
#[derive(Debug)]
pub struct Held {
    lane: Arc<Lane>,
    /// Whether the breaker let this call through to find out; its failure does not count against the job.
    pub probe: bool,
    open: Option<Taken>,
    reserved: Tokens,
    /// What was taken of the account behind the lane.
    account: Option<(Arc<Lane>, Taken)>,
    sent: Timestamp,
    has_settled_in: AtomicBool,
}

/// What was had of a lane.
#[derive(Debug)]
pub enum Got {
    /// The right to one call.
    Place(Held),
    /// Nothing: a gate is shut.
    Shut,
    /// Nothing before the next draw.
    NotBefore(Instant),
}

/// A reservation older than this when its call is sent is charged anew: it must not age out before the call does.
const SENT_WITHIN: Duration = Duration::from_millis(50);
/// And one older than this is charged anew before its call is sent: a part of what a call may take until it is admitted,
/// so that the rest is left for its way.
const MOVED_FIRST: Duration = Duration::from_millis(150);
/// A store so slow that this is not enough would never let it go.
const MOVES: usize = 3;
/// A timer is never so late on a machine that runs.
const STOOD_STILL: Duration = Duration::from_millis(150);

impl Held {
    /// Takes what the call needs of the lane and of the account behind it, or nothing.
    ///
    /// # Errors
    /// The store is in trouble; nothing was taken that does not age out.
    pub async fn take(allowance: &dyn Allowance, route: &Route, asked: &Asked) -> Result<Got, StoreError> {
        let taken = match route.lane.take(allowance, asked).await? {
            Take::Taken(taken) => taken,
            Take::Shut => return Ok(Got::Shut),
            Take::NotBefore(draw) => return Ok(Got::NotBefore(draw)),
        };
        let Some(account) = &route.account else { return Ok(Got::Place(Self::new(&route.lane, taken, None))) };
        let share = account.take(allowance, asked).await;
        if let Ok(Take::Taken(share)) = share {
            return Ok(Got::Place(Self::new(&route.lane, taken, Some((Arc::clone(account), share)))));
        }
        route.lane.give_back(&taken);
        Ok(match share? {
            Take::Taken(_) | Take::Shut => Got::Shut,
            Take::NotBefore(draw) => Got::NotBefore(draw),
        })
    }

    fn new(lane: &Arc<Lane>, taken: Taken, account: Option<(Arc<Lane>, Taken)>) -> Self {
        let (sent, reserved) = (taken.reservation.made, taken.reservation.tokens);
        let (lane, has_settled_in) = (Arc::clone(lane), AtomicBool::new(false));
        Self { lane, probe: taken.probe, open: Some(taken), reserved, account, sent, has_settled_in }
    }

    /// The lane.
    pub fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// What was reserved for its call.
    pub fn reserved(&self) -> Tokens {
        self.reserved
    }

    /// When its call was sent.
    pub fn sent(&self) -> Timestamp {
        self.sent
    }

    /// The call is sent now. A charge that is much older moves to this moment in the row too, before anything is sent:
    /// whoever is killed right after it says nothing more, and the service counts from here.
    pub async fn send(&mut self, allowance: &dyn Allowance, meter: &Meter) {
        for _ in 0..MOVES {
            if self.charge_from_now() <= MOVED_FIRST {
                return;
            }
            if let Err(error) = self.lane.write(allowance).await {
                // It is written when the store is back, and until then nobody reserves anything.
                meter.store_trouble(&error);
                break;
            }
        }
        self.charge_from_now();
    }

    /// Returns how old the charge was.
    fn charge_from_now(&mut self) -> Duration {
        self.sent = self.lane.now();
        let Some(taken) = &mut self.open else { return Duration::ZERO };
        if let Some((account, part)) = self.account.as_mut().and_then(|(account, taken)| {
            let part = taken.part.take()?;
            taken.reservation = part.reservation(self.sent);
            Some((account, part))
        }) {
            account.say([Word::Quota(Event::Spent(part, self.sent))]);
        }
        if let Some(part) = taken.part.take() {
            self.lane.say([Word::Quota(Event::Spent(part, self.sent))]);
            taken.reservation = part.reservation(self.sent);
            return self.sent.since(part.until());
        }
        let age = self.sent.since(taken.reservation.made);
        if age > SENT_WITHIN {
            self.lane.say([Word::Quota(Event::SentLate(taken.reservation, self.sent))]);
            taken.reservation.made = self.sent;
        }
        age
    }

    /// Says so when the call is out for long enough that it was not refused. Never ends.
    pub async fn watch(&mut self) -> Infallible {
        tokio::time::sleep(SETTLED_IN).await;
        self.sent_at_the_latest();
        self.settled_in();
        if let Some(Taken { reservation, .. }) = self.open.filter(|taken| taken.reservation.trial) {
            tokio::time::sleep(JUDGED_AFTER.saturating_sub(SETTLED_IN)).await;
            self.lane.say([Word::Quota(Event::Passed(reservation))]);
            self.lane.changed.notify_one();
        }
        std::future::pending().await
    }

    /// Who wakes up late stood still, and so did the call on its way out: the service may count it only from now on. A machine
    /// that is suspended, or a container that has used up its share of the processor, does that for seconds.
    fn sent_at_the_latest(&mut self) {
        let now = self.lane.now();
        if now.since(self.sent) <= SETTLED_IN + STOOD_STILL {
            return;
        }
        let account = self.account.as_mut().map(|(lane, taken)| (&*lane, taken));
        let own = self.open.as_mut().map(|taken| (&self.lane, taken));
        for (lane, taken) in account.into_iter().chain(own) {
            lane.say([Word::Quota(Event::SentLate(taken.reservation, now))]);
            taken.reservation.made = now;
        }
    }

    /// The call was never made.
    pub fn unused(mut self) {
        if let Some(taken) = self.open.take() {
            self.lane.say(taken.unsent());
            self.tell_account(Some(Tokens(0)));
        }
    }

    /// The service answered and charged this much: the lane is well.
    pub fn answered(mut self, used: Tokens) {
        self.settled_in();
        {
            let mut state = self.lane.state();
            (state.answered, state.out) = (Some(self.lane.now()), None);
        }
        if let Some(Taken { reservation, permit, .. }) = self.open.take() {
            self.lane.say([Word::Quota(Event::Settled(reservation, used)), Word::Answered(permit)]);
            self.tell_account(Some(used));
        }
    }

    /// The service refused it for the quota; the lane pauses.
    pub fn throttled(mut self, class: Class, quota: Quota, hint: Option<Duration>) {
        if let Some(Taken { reservation, permit, .. }) = self.open.take() {
            let event = if class == Class::QuotaDay {
                Event::DayExhausted(reservation, hint)
            } else {
                Event::Throttled(reservation, quota, hint)
            };
            self.lane.say([Word::Quota(event), Word::Failed(permit, class)]);
            self.tell_account(Some(Tokens(0)));
        }
    }

    /// It failed, and the quota was charged this much; `None` if nobody knows.
    pub fn failed(mut self, class: Class, charged: Option<Tokens>) {
        let now = self.lane.now();
        {
            let mut state = self.lane.state();
            let open = state.open;
            state.concurrency.failed(self.sent, now, class, open);
        }
        if let Some(Taken { reservation, permit, .. }) = self.open.take() {
            let event = match charged {
                None => Event::Kept(reservation),
                Some(Tokens(0)) => Event::Released(reservation),
                Some(used) => Event::Settled(reservation, used),
            };
            self.lane.say([Word::Quota(event), Word::Failed(permit, class)]);
            self.tell_account(charged);
        }
    }

    /// The account was charged this much; `None` if nobody knows.
    fn tell_account(&self, charged: Option<Tokens>) {
        if let Some((account, Taken { reservation, part, .. })) = &self.account {
            let event = match (part, charged) {
                (Some(part), _) => Event::Returned(*part),
                (None, None) => Event::Kept(*reservation),
                (None, Some(Tokens(0))) => Event::Released(*reservation),
                (None, Some(used)) => Event::Settled(*reservation, used),
            };
            account.say([Word::Quota(event)]);
        }
    }

    fn settled_in(&self) {
        if !self.has_settled_in.swap(true, Ordering::Relaxed) {
            let now = self.lane.now();
            let mut state = self.lane.state();
            let open = state.open;
            state.concurrency.settled_in(now, open);
            drop(state);
            self.lane.changed.notify_one();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(taken) = self.open.take() {
            let kept = [Word::Quota(Event::Kept(taken.reservation)), Word::Abandoned(taken.permit)];
            self.lane.say(if taken.part.is_some() { taken.unsent() } else { kept });
        }
        self.lane.end_call(self.reserved);
        if let Some((account, taken)) = &self.account {
            account.end_call(taken.reservation.tokens);
        }
    }
}

/// Tokio's clock, which tests pause.
pub(super) fn now() -> std::time::Instant {
    Instant::now().into_std()
}
