//! What was charged, and until when does it count? The two stores of charges under a lane's ledger.
//!
//! [`Minute`] keeps single charges, because the instant of a refusal has to be exact. [`Day`] keeps ten-minute
//! sums, because nobody plans a day by the second and a day holds millions of calls; a charge counts until the
//! last charge that shares its bucket has aged, so the error is on the safe side.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a charge counts against the limits of a minute.
pub(super) const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const BUCKET: Duration = Duration::from_secs(10 * 60);

/// The charges of the last minute, oldest first. A charge counts for `t` in `[made, made + 60 s)`.
#[derive(Debug, Default)]
pub(super) struct Minute {
    charges: VecDeque<Charge>,
    /// How many charges have aged out: the number of the oldest one kept.
    aged_out: u64,
    tokens: u128,
    requests: u64,
}

#[derive(Debug)]
struct Charge {
    made: Instant,
    tokens: u64,
    requests: u64,
}

/// The name of one charge; stays valid, and harmless, after the charge has aged out.
#[derive(Debug)]
pub(super) struct ChargeId(u64);

impl Minute {
    /// Drops what no longer counts at `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.charges.front()
            && oldest.made + MINUTE <= now
        {
            self.tokens -= u128::from(oldest.tokens);
            self.requests -= oldest.requests;
            self.aged_out += 1;
            self.charges.pop_front();
        }
    }

    /// Adds a charge made at `now`, which must not lie before any earlier one.
    pub(super) fn charge(&mut self, now: Instant, tokens: u64, requests: u64) -> ChargeId {
        self.charges.push_back(Charge { made: now, tokens, requests });
        self.tokens += u128::from(tokens);
        self.requests += requests;
        ChargeId(self.aged_out + self.charges.len() as u64 - 1)
    }

    /// Lowers a charge that still counts; one that has aged out holds nothing that could be given back.
    pub(super) fn lower(&mut self, id: &ChargeId, by_tokens: u64, by_requests: u64) {
        let kept = id.0.checked_sub(self.aged_out).and_then(|at| usize::try_from(at).ok());
        if let Some(charge) = kept.and_then(|at| self.charges.get_mut(at)) {
            let tokens = by_tokens.min(charge.tokens);
            let requests = by_requests.min(charge.requests);
            charge.tokens -= tokens;
            charge.requests -= requests;
            self.tokens -= u128::from(tokens);
            self.requests -= requests;
        }
    }

    /// The sum of the tokens that count.
    pub(super) fn tokens(&self) -> u128 {
        self.tokens
    }

    /// When `needed` more tokens fit under `limit`; `None` if they do now. Needs `needed <= limit`.
    pub(super) fn tokens_fit_at(&self, needed: u64, limit: u64) -> Option<Instant> {
        let over = (self.tokens + u128::from(needed)).checked_sub(u128::from(limit)).filter(|over| *over > 0)?;
        self.freed_at(over, |charge| u128::from(charge.tokens))
    }

    /// When one more request fits under `limit`; `None` if it does now.
    pub(super) fn request_fits_at(&self, limit: u64) -> Option<Instant> {
        let over = (self.requests + 1).checked_sub(limit).filter(|over| *over > 0)?;
        self.freed_at(u128::from(over), |charge| u128::from(charge.requests))
    }

    /// When the oldest charges that together hold `amount` have aged out.
    fn freed_at(&self, amount: u128, held: impl Fn(&Charge) -> u128) -> Option<Instant> {
        let mut freed = 0;
        let last = self.charges.iter().find(|charge| {
            freed += held(charge);
            freed >= amount
        })?;
        Some(last.made + MINUTE)
    }
}

/// The tokens of the last 24 hours, in buckets of ten minutes counted from the first charge.
#[derive(Debug, Default)]
pub(super) struct Day {
    origin: Option<Instant>,
    buckets: VecDeque<Bucket>,
    tokens: u128,
}

#[derive(Debug)]
struct Bucket {
    id: BucketId,
    tokens: u128,
    /// When the youngest charge it can hold is 24 hours old.
    until: Instant,
}

/// The name of a bucket; stays valid, and harmless, after the bucket has aged out.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct BucketId(u32);

impl Day {
    /// Drops what no longer counts at `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.buckets.front()
            && oldest.until <= now
        {
            self.tokens -= oldest.tokens;
            self.buckets.pop_front();
        }
    }

    /// Adds tokens charged at `now`, which must not lie before any earlier charge.
    pub(super) fn charge(&mut self, now: Instant, tokens: u64) -> BucketId {
        let origin = *self.origin.get_or_insert(now);
        let number = now.saturating_duration_since(origin).as_secs() / BUCKET.as_secs();
        // 80,000 years of buckets fit.
        let id = BucketId(u32::try_from(number).unwrap_or(u32::MAX));
        self.tokens += u128::from(tokens);
        match self.buckets.back_mut() {
            Some(newest) if newest.id == id => newest.tokens += u128::from(tokens),
            Some(_) | None => {
                let until = origin + BUCKET * id.0.saturating_add(1) + DAY;
                self.buckets.push_back(Bucket { id, tokens: u128::from(tokens), until });
            }
        }
        id
    }

    /// Gives tokens back to the bucket they were charged to, if it still counts.
    pub(super) fn lower(&mut self, id: BucketId, by_tokens: u64) {
        if let Ok(at) = self.buckets.binary_search_by_key(&id, |bucket| bucket.id)
            && let Some(bucket) = self.buckets.get_mut(at)
        {
            let tokens = u128::from(by_tokens).min(bucket.tokens);
            bucket.tokens -= tokens;
            self.tokens -= tokens;
        }
    }

    /// When `needed` more tokens fit under `limit`; `None` if they do now. Needs `needed <= limit`.
    pub(super) fn tokens_fit_at(&self, needed: u64, limit: u64) -> Option<Instant> {
        let over = (self.tokens + u128::from(needed)).checked_sub(u128::from(limit)).filter(|over| *over > 0)?;
        let mut freed = 0;
        let last = self.buckets.iter().find(|bucket| {
            freed += bucket.tokens;
            freed >= over
        })?;
        Some(last.until)
    }
}
