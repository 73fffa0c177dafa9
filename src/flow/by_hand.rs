//! How does a person set the breaker of a lane? In the row that all workers share, and only from the state that the person
//! saw: between seeing and deciding the lane may have changed its mind.

use crate::job::units::Timestamp;
use crate::ports::{Allowance, StoreError, StoreTrouble, Swap};
use crate::rules::breaker::{Hand, Phase};
use crate::rules::lane::{LaneBook, Writer};
use crate::telemetry::figures::BreakerState;

use super::context::Context;
use super::figures::{notice_of_turn, state_of};
use super::lane::Lane;

/// What became of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Set {
    /// So it stands now, for every worker.
    Done(BreakerState),
    /// It stands otherwise than the person saw it, and was left alone.
    Otherwise(BreakerState),
}

/// Sets the breaker if it still stands as it was seen. It is nobody's failure, and this worker knows at once.
///
/// # Errors
/// The store is in trouble, or the row is not one that can be read; nothing was set.
pub async fn set_breaker(context: &Context, lane: &Lane, seen: BreakerState, hand: Hand) -> Result<Set, StoreError> {
    let allowance: &dyn Allowance = &*context.allowance;
    let unreadable = |error: serde_json::Error| StoreError {
        kind: StoreTrouble::Other,
        doing: format!("setting the breaker of {}", lane.id),
        why: error.to_string(),
    };
    let mut book: LaneBook = lane.state().book.clone();
    let mut shared = allowance.read(&lane.id).await?;
    let phase = loop {
        // A lane that nobody has written yet stands as every lane begins.
        if !shared.state.is_empty() {
            book.load(&shared.state).map_err(unreadable)?;
        }
        let stands = stands(&book, lane.now());
        if stands != seen {
            return Ok(Set::Otherwise(stands));
        }
        let nobody = Writer { worker: rand::random(), write: 0 };
        let row = if shared.state.is_empty() { book.save(nobody).map_err(unreadable)?.into() } else { shared.state };
        let row = LaneBook::row_by_hand(&row, hand).map_err(unreadable)?;
        let mut set = book.clone();
        set.load(&row).map_err(unreadable)?;
        match allowance.swap(&lane.id, shared.version, row.into()).await? {
            Swap::Swapped { .. } => break set.breaker.standing().phase(),
            Swap::Stale(newer) => shared = newer,
        }
    };
    lane.refresh(allowance).await?;
    lane.changed.notify_waiters();
    let (state, until) = state_of(phase, lane.now());
    context.meter.breaker_by_hand(&lane.id, state, until);
    if let Some(notice) = notice_of_turn(context, lane, state, until)
        && let Err(error) = context.notices.publish(&notice).await
    {
        context.meter.store_trouble(&error);
    }
    Ok(Set::Done(state))
}

fn stands(book: &LaneBook, now: Timestamp) -> BreakerState {
    let phase: Phase = book.breaker.standing().phase();
    state_of(phase, now).0
}
