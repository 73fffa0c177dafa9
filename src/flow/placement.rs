//! Where does a call go, and what was reserved for it? A reservation that is neither settled nor released is kept: a
//! dropped future may have reached the service.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::job::failure::Class;
use crate::job::units::{Tokens, Usd};
use crate::ports::CallBody;
use crate::rules::breaker::Permit;
use crate::rules::pace::Reservation;

use super::lanes::{Lane, Plan, Size};

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
    open: Option<(Reservation, Permit)>,
}

impl Held {
    /// Taken from the lane's ledger and breaker.
    pub(super) fn new(lane: Arc<Lane>, reservation: Reservation, permit: Permit, probe: bool) -> Self {
        Self { lane, probe, open: Some((reservation, permit)) }
    }

    /// The lane.
    pub fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// The call was never made.
    pub fn unused(mut self) {
        if let Some((reservation, permit)) = self.open.take() {
            let mut state = self.lane.state();
            state.ledger.release(reservation);
            state.breaker.on_abandoned(permit);
        }
    }

    /// The service answered and charged this much: the lane is well.
    pub fn answered(mut self, used: Tokens) {
        if let Some((reservation, permit)) = self.open.take() {
            let mut state = self.lane.state();
            state.ledger.settle(reservation, now(), used);
            state.breaker.on_success(permit);
            state.cool_down.succeeded();
        }
    }

    /// The service refused it for the quota; the lane pauses.
    pub fn throttled(mut self, class: Class, hint: Option<Duration>) {
        if let Some((reservation, permit)) = self.open.take() {
            let mut state = self.lane.state();
            state.breaker.on_failure(permit, now(), class);
            if class == Class::QuotaDay {
                state.ledger.day_exhausted(reservation, now(), hint);
            } else {
                state.ledger.throttled(reservation, now(), hint);
            }
        }
    }

    /// It failed, and the quota was charged this much; `None` if nobody knows.
    pub fn failed(mut self, class: Class, charged: Option<Tokens>) {
        if let Some((reservation, permit)) = self.open.take() {
            let mut state = self.lane.state();
            state.breaker.on_failure(permit, now(), class);
            match charged {
                None => state.ledger.keep(reservation),
                Some(Tokens(0)) => state.ledger.release(reservation),
                Some(used) => state.ledger.settle(reservation, now(), used),
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((reservation, permit)) = self.open.take() {
            let mut state = self.lane.state();
            state.ledger.keep(reservation);
            state.breaker.on_abandoned(permit);
        }
        // Whoever stands first in line looks again; the word is kept if nobody waits just now.
        self.lane.changed.notify_one();
    }
}

/// Tokio's clock, which tests pause, as the rules take it.
pub(super) fn now() -> std::time::Instant {
    Instant::now().into_std()
}
