//! How does a job get the right to one call? Out of what its worker holds already, or by a draw for it and for those behind it, or, where
//! swaps are cheap or a single call decides about the others, by a reservation of its own.

use std::time::Duration;

use tokio::time::Instant;

use super::row::{Adopted, Offer};
use super::{Lane, SWAPS};
use crate::job::units::Tokens;
use crate::ports::{Allowance, StoreError};
use crate::rules::breaker::{Gate, Permit, Phase};
use crate::rules::lane::Word;
use crate::rules::pace::{Drawn, Event, Grant, Reservation};

/// What a job asks of a lane.
#[derive(Clone, Debug)]
pub struct Asked {
    /// It needs so many tokens.
    pub tokens: Tokens,
    /// And those behind it in line.
    pub behind: Vec<Tokens>,
}

/// What it gets.
#[derive(Debug)]
pub enum Take {
    /// The right to one call.
    Taken(Taken),
    /// A gate is shut.
    Shut,
    /// Not before the next draw.
    NotBefore(Instant),
}

/// What was taken for one call.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// The charge.
    pub reservation: Reservation,
    /// Of which grant it is a part, until it is sent.
    pub part: Option<Grant>,
    /// The breaker's leave.
    pub permit: Permit,
    /// Whether the breaker let the call through to find out.
    pub probe: bool,
}

impl Taken {
    /// What is said if nothing is sent under it.
    pub(crate) fn unsent(&self) -> [Word; 2] {
        let event = self.part.map_or(Event::Released(self.reservation), Event::Returned);
        [Word::Quota(event), Word::Abandoned(self.permit)]
    }
}

/// What was put into the copy, before the row says so too.
#[derive(Clone, Copy, Debug)]
struct Offered {
    drawn: Drawn,
    permit: Permit,
    probe: bool,
    /// Whether others have to agree.
    is_shared: bool,
}

impl Lane {
    /// Takes tokens, a request and the breaker's leave together, or nothing.
    ///
    /// # Errors
    /// The store is in trouble; nothing was taken that does not age out.
    pub async fn take(&self, allowance: &dyn Allowance, asked: &Asked) -> Result<Take, StoreError> {
        let pace = allowance.pace();
        if let Some(taken) = self.take_from_purse(asked.tokens) {
            return Ok(Take::Taken(taken));
        }
        if let Some(at) = self.draws_at(pace) {
            return Ok(Take::NotBefore(at));
        }
        let _desk = self.desk.lock().await;
        self.read_first(allowance).await?;
        // A store so slow that a grant is over before it is there gives one call at a time.
        let mut one_by_one = pace.is_zero();
        for _ in 0..SWAPS {
            // Whoever was here before may have drawn for this one as well.
            if let Some(taken) = self.take_from_purse(asked.tokens) {
                return Ok(Take::Taken(taken));
            }
            let Some(offered) = self.take_from_copy(asked, pace, one_by_one) else { return Ok(Take::Shut) };
            let grant = match offered.drawn {
                Drawn::Grant(grant) => Some(grant),
                Drawn::One(_) => None,
            };
            let offer = if offered.is_shared { self.swap(allowance, grant).await? } else { Offer::Taken };
            match (offer, offered.drawn) {
                (Offer::Taken, Drawn::One(reservation)) => {
                    self.state().begin_call(self.now(), reservation.tokens);
                    let Offered { permit, probe, .. } = offered;
                    return Ok(Take::Taken(Taken { reservation, part: None, permit, probe }));
                }
                // Now it is in the purse.
                (Offer::Taken, Drawn::Grant(_)) => {
                    self.say([Word::Abandoned(offered.permit)]);
                    one_by_one = true;
                }
                (Offer::Lost(adopted), drawn) => self.forget(drawn, offered.permit, adopted),
            }
        }
        Ok(Take::Shut)
    }

    /// When a grant may be drawn, if not now. A call that decides about others waits for no pace.
    fn draws_at(&self, pace: Duration) -> Option<Instant> {
        let now = self.now();
        let mut state = self.state();
        let waits = !pace.is_zero() && state.book.ledger.has_limits() && state.book.ledger.is_calm(now);
        state.row.keeps_pace_at(pace).filter(|_| waits)
    }

    fn take_from_purse(&self, tokens: Tokens) -> Option<Taken> {
        let now = self.now();
        let mut state = self.state();
        let state = &mut *state;
        if state.open >= state.concurrency.limit() || state.is_out(now) || !state.is_covered(now, tokens) {
            return None;
        }
        let permit = match state.book.breaker.admit(now) {
            Gate::Go(permit) => permit,
            Gate::Probe(_) | Gate::Open { .. } => return None,
        };
        let part = state.row.purse.take(now, tokens)?;
        let reservation = part.reservation(now);
        state.begin_call(now, reservation.tokens);
        Some(Taken { reservation, part: Some(part), permit, probe: false })
    }

    /// What was taken in the copy alone, and is not in what replaced it.
    fn forget(&self, drawn: Drawn, permit: Permit, adopted: Adopted) {
        let now = self.now();
        let mut state = self.state();
        let event = match drawn {
            Drawn::Grant(grant) => Event::Returned(grant),
            Drawn::One(reservation) => Event::Released(reservation),
        };
        let words = [Word::Quota(event), Word::Abandoned(permit)];
        for word in words.into_iter().filter(|word| !adopted.holds(word)) {
            state.book.note(now, &word);
        }
    }

    fn take_from_copy(&self, asked: &Asked, pace: Duration, one_by_one: bool) -> Option<Offered> {
        let now = self.now();
        let mut state = self.state();
        let state = &mut *state;
        let may_open = state.concurrency.limit().saturating_sub(state.open);
        if may_open == 0 || state.is_out(now) {
            return None;
        }
        if state.book.breaker.shut_until(now).is_some() {
            return None;
        }
        state.empty_purse(now);
        // What is only asked is asked by one call.
        let is_well = state.out.is_none() && state.book.breaker.standing().phase() == Phase::Closed;
        let ledger = &mut state.book.ledger;
        let drawn = if one_by_one || !is_well || !ledger.has_limits() {
            Drawn::One(ledger.reserve(now, asked.tokens).ok()?)
        } else {
            let behind = asked.behind.iter().copied().take(may_open - 1);
            let ahead = state.row.purse.ahead(now, pace + pace / 4);
            ledger.draw(now, asked.tokens, behind, ahead).ok()?
        };
        let (permit, probe) = match state.book.breaker.admit(now) {
            Gate::Go(permit) => (permit, false),
            Gate::Probe(permit) => (permit, true),
            Gate::Open { .. } => return None,
        };
        let is_shared = probe || state.book.ledger.has_limits();
        Some(Offered { drawn, permit, probe, is_shared })
    }
}
