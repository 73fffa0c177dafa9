//! In which units are things counted? One newtype a unit, so that tokens never meet dollars by accident.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A number of model tokens, as the service counts them.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Tokens(pub u64);

impl Add for Tokens {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Tokens {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Tokens {
    type Output = Self;
    /// Never below zero: a count of tokens has no debt; ledgers keep theirs separately.
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A limit on what may happen in one minute; never zero, because a quota of nothing is no lane at all.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct PerMinute(pub NonZeroU64);

impl PerMinute {
    /// `None` for zero.
    pub fn new(count: u64) -> Option<Self> {
        NonZeroU64::new(count).map(Self)
    }

    /// The limit as a plain count.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// A limit on what may happen in one day; never zero.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct PerDay(pub NonZeroU64);

impl PerDay {
    /// `None` for zero.
    pub fn new(count: u64) -> Option<Self> {
        NonZeroU64::new(count).map(Self)
    }

    /// The limit as a plain count.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// US dollars, held in billionths so that sums over millions of small calls are exact.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Usd(u64);

impl Usd {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    const NANOS: f64 = 1e9;

    /// From billionths of a dollar.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// In billionths of a dollar.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// From dollars; `None` if negative, not a number, or beyond what is counted (18 billion dollars).
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range is checked on the line before"
    )]
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let nanos = (dollars * Self::NANOS).round();
        (0.0..1.8e19).contains(&nanos).then_some(Self(nanos as u64))
    }

    /// In dollars, for people and for JSON.
    #[expect(clippy::cast_precision_loss, reason = "shown, never added up")]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / Self::NANOS
    }

    /// `self - other`, never below zero.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Usd {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Usd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Usd {
    /// `$12.34`, with four decimals below one dollar, where cents would hide the difference.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dollars = self.dollars();
        if self.0 == 0 || dollars >= 1.0 { write!(f, "${dollars:.2}") } else { write!(f, "${dollars:.4}") }
    }
}

impl Serialize for Usd {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        Self::from_dollars(dollars).ok_or_else(|| serde::de::Error::custom("not an amount of US dollars"))
    }
}

/// What a million tokens of each sort cost, in US dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    /// Fresh input tokens.
    pub input: Usd,
    /// Output tokens, thinking included.
    pub output: Usd,
    /// Input tokens read from the prompt cache.
    pub cache_read: Usd,
    /// Input tokens written to the prompt cache.
    pub cache_write: Usd,
}

impl Price {
    /// What these tokens cost, rounded up to a billionth of a dollar.
    pub fn of(&self, usage: &super::outcome::Usage) -> Usd {
        let part = |tokens: u64, per_million: Usd| u128::from(tokens) * u128::from(per_million.0);
        let millionths = part(usage.input_tokens, self.input)
            + part(usage.output_tokens, self.output)
            + part(usage.cache_read_tokens, self.cache_read)
            + part(usage.cache_write_tokens, self.cache_write);
        Usd(u64::try_from(millionths.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }
}

/// A moment on the wall clock: milliseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This moment and `delay` more.
    pub fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long since `earlier`; zero if that lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, delay: Duration) -> Self {
        self.after(delay)
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(earlier.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => time.fmt(f),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::outcome::Usage;

    #[test]
    fn a_price_is_exact_to_the_billionth() {
        let price =
            Price { input: Usd::from_nanos(1_000_000_000), output: Usd::from_nanos(5_000_000_000), ..Price::default() };
        let usage = Usage { input_tokens: 812, output_tokens: 97, ..Usage::default() };
        assert_eq!(price.of(&usage).nanos(), 1_297_000);
    }

    #[test]
    fn dollars_refuse_what_is_no_amount() {
        for bad in [-0.01, f64::NAN, f64::INFINITY, 1e30] {
            assert_eq!(Usd::from_dollars(bad), None, "{bad}");
        }
        assert_eq!(Usd::from_dollars(0.001_297), Some(Usd::from_nanos(1_297_000)));
    }
}
