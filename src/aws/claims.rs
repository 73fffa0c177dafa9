//! Who owns a job? Whoever's conditional write got there: one call, whose refusal says what stands there instead.
//!
//! Leases are compared between the clocks of workers: the owner's says when its lease ends, the claimer's whether that is
//! past. A claimer whose clock is ahead by more than what is left of a lease takes a living owner's job; the fencing token
//! then refuses the owner's result, and a call was made for nothing. Keep clocks within seconds (any host with NTP), and
//! leases of minutes.
//!
//! A lapsed owner may have left a call open. What it had begun is read before the one write that takes the job over, so that
//! nothing is forgotten if we die in between; and read again after it, for an owner that is alive after all and began
//! one more call meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::lapsed::{LeftOpen, Logs};
use super::rows::{self, Owner, Row};
use super::table::{self, Item, number, text};
use super::update::{Update, Written};
use super::{Inner, trouble};
use crate::job::ident::{Digest, JobKey};
use crate::job::lifecycle::State;
use crate::job::trail::What;
use crate::job::units::Timestamp;
use crate::ports::{ClaimReply, Claimed, Fence, StoreError, StoreTrouble};

/// A row that changes each time it is about to be taken over has a living owner.
const TRIES: usize = 3;
const DOING: &str = "claiming a job";

/// Claims of this process.
#[derive(Debug)]
pub(super) struct Claims {
    inner: Arc<Inner>,
    logs: Logs,
    made: AtomicU64,
}

/// One claim: it knows its own write again, should the reply to it get lost.
struct Claim<'a> {
    key: &'a JobKey,
    content: Digest,
    nth: u64,
    now: Timestamp,
    lease: Duration,
}

/// What a refusal makes of a claim.
enum Standing {
    Reply(ClaimReply),
    Lapsed(Row, Owner),
}

impl Claims {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { logs: Logs::new(Arc::clone(&inner)), inner, made: AtomicU64::new(0) }
    }

    /// See `ports::Ledger::claim`.
    pub(super) async fn claim(
        &self,
        key: &JobKey,
        content: Digest,
        enqueued: Timestamp,
        lease: Duration,
    ) -> Result<ClaimReply, StoreError> {
        let nth = self.made.fetch_add(1, Ordering::Relaxed);
        let mut claim = Claim { key, content, nth, now: self.inner.clock.now(), lease };
        let was_queued = [("queued", text(State::Queued.word())), ("content", table::bytes(content.as_bytes()))];
        let update = self
            .taking(&claim)
            .set("dig", table::bytes(content.as_bytes()))
            .set_once("enq", number(enqueued.0))
            .only_if("attribute_not_exists(#pk) OR (#st = :queued AND #dig = :content)", was_queued);
        let mut written = update.carry_out(&self.inner, DOING, table::job(key)).await?;
        for _ in 0..TRIES {
            let found = match written {
                Written::Done(item) => return Ok(claimed(key, &Row::read(key, &item)?)),
                Written::Refused(found) => found,
            };
            let (row, owner) = match self.standing(&claim, found)? {
                Standing::Reply(reply) => return Ok(reply),
                Standing::Lapsed(row, owner) => (row, owner),
            };
            let left_open = self.logs.left_open(key, &row, &owner).await?;
            claim.now = self.inner.clock.now();
            let update = self.taking_over(&claim, &row, &owner, left_open.as_ref());
            written = update.carry_out(&self.inner, DOING, table::job(key)).await?;
            if let Written::Done(item) = &written
                && left_open.is_none()
            {
                let taken = Row::read(key, item)?;
                return self.look_again(key, &row, &owner, taken).await;
            }
        }
        match written {
            Written::Done(item) => Ok(claimed(key, &Row::read(key, &item)?)),
            Written::Refused(_) => {
                Err(trouble::of_ours(StoreTrouble::Away, DOING, "its row changes faster than it can be read"))
            }
        }
    }

    /// What stands there that refused the claim.
    fn standing(&self, claim: &Claim<'_>, found: Option<Item>) -> Result<Standing, StoreError> {
        let gone = || trouble::of_ours(StoreTrouble::Away, DOING, "its row changed meanwhile");
        let row = Row::read(claim.key, &found.ok_or_else(gone)?)?;
        if row.digest != claim.content {
            return Ok(Standing::Reply(ClaimReply::Conflict));
        }
        if let Some(row) = row.final_row(claim.key) {
            return Ok(Standing::Reply(ClaimReply::AlreadyFinal(row)));
        }
        let owner = row.owner.clone().ok_or_else(gone)?;
        if owner.epoch == self.inner.epoch && owner.nth == claim.nth {
            return Ok(Standing::Reply(claimed(claim.key, &row)));
        }
        if owner.until > claim.now {
            return Ok(Standing::Reply(ClaimReply::Busy { until: owner.until }));
        }
        Ok(Standing::Lapsed(row, owner))
    }

    fn taking(&self, claim: &Claim<'_>) -> Update {
        let Claim { now, lease, nth, .. } = *claim;
        Update::default()
            .set("st", text(State::Running.word()))
            .set("own", text(self.inner.epoch.as_str()))
            .set("nth", number(nth))
            .set("since", number(now.0))
            .set("until", number(now.after(lease).0))
            .set("ttl", table::ttl(now, self.inner.settings.keep))
            .add("tok", number(1))
    }

    /// Only if the row is as it was read: not extended, not settled, not taken over by another.
    fn taking_over(&self, claim: &Claim<'_>, row: &Row, owner: &Owner, left_open: Option<&LeftOpen>) -> Update {
        let update = self.taking(claim);
        let mut trail = row.trail();
        trail.add(claim.now, What::Abandoned);
        let update = update.set_or_remove(rows::TRAIL, rows::open_trail(claim.key, &trail));
        let update = match left_open {
            Some(left_open) => with_left_open(update, row, owner, left_open),
            None => update,
        };
        let as_read = [
            ("fence", number(row.token.0)),
            ("running", text(State::Running.word())),
            ("lapsed", number(owner.until.0)),
            ("counted", number(row.tally.model_calls)),
        ];
        let calls = match row.tally.model_calls {
            0 => "(attribute_not_exists(#calls) OR #calls = :counted)",
            _ => "#calls = :counted",
        };
        update.only_if(&format!("#tok = :fence AND #st = :running AND #until = :lapsed AND {calls}"), as_read)
    }

    /// A job was taken over of an owner that had left nothing open: if it has begun something since, that counts.
    async fn look_again(
        &self,
        key: &JobKey,
        before: &Row,
        owner: &Owner,
        taken: Row,
    ) -> Result<ClaimReply, StoreError> {
        let Some(left_open) = self.logs.left_open(key, before, owner).await? else { return Ok(claimed(key, &taken)) };
        let fence = Fence { key: key.clone(), token: taken.token };
        let update = rows::under_fence(with_left_open(Update::default(), before, owner, &left_open), &fence);
        match update.carry_out(&self.inner, DOING, table::job(key)).await? {
            Written::Done(item) => Ok(claimed(key, &Row::read(key, &item)?)),
            Written::Refused(_) => Err(trouble::of_ours(StoreTrouble::Away, DOING, "its row changed meanwhile")),
        }
    }
}

/// How its call ended nobody will know: its price counts as committed, and its job is among the suspects.
fn with_left_open(update: Update, row: &Row, owner: &Owner, left_open: &LeftOpen) -> Update {
    let mut tally = left_open.tally;
    tally.unknown += left_open.open;
    let counted = rows::tally(&tally).into_iter();
    let update = counted.fold(update, |update, (name, value)| update.set_or_remove(name, value));
    update
        .set("susp", number(format!("{:.6}", row.suspicion + left_open.suspicion)))
        .set("from", text(owner.epoch.as_str()))
}

fn claimed(key: &JobKey, row: &Row) -> ClaimReply {
    ClaimReply::Claimed(Claimed {
        fence: Fence { key: key.clone(), token: row.token },
        generation: rows::generation(row.token),
        tally: row.tally,
        suspicion: row.suspicion,
        enqueued: row.enqueued,
        trail: row.trail(),
    })
}

#[cfg(test)]
mod tests;
