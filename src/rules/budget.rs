//! What can a call cost at most, and where is the batch heading?
//!
//! A cap that must never be passed is held against the dearest that a call can come to; what is shown to people as
//! a projection is the mean of what was paid. The two are never mixed.

use crate::job::outcome::Usage;
use crate::job::units::{Price, Tokens, Usd};

/// The most that a call can cost: its input at the dearest input price, and as much output as it may write.
pub fn reservation_price(price: &Price, input: Tokens, max_output: Tokens) -> Usd {
    // Which part of the input will be fresh, read or written is not known before.
    let dearest = Price { input: price.input.max(price.cache_write).max(price.cache_read), ..*price };
    dearest.of(&Usage { input_tokens: input.0, output_tokens: max_output.0, ..Usage::default() })
}

/// What the whole will have cost, if the rest costs per job what the `done` jobs did; `None` before the first.
pub fn projected_total(spent: Usd, done: u64, remaining: u64) -> Option<Usd> {
    let rest = (u128::from(spent.nanos()) * u128::from(remaining)).checked_div(u128::from(done))?;
    Some(spent + Usd::from_nanos(u64::try_from(rest).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOLLAR: u64 = 1_000_000_000;

    fn price(input: u64, cache_write: u64) -> Price {
        Price {
            input: Usd::from_nanos(input * DOLLAR),
            output: Usd::from_nanos(5 * DOLLAR),
            cache_read: Usd::from_nanos(DOLLAR / 10),
            cache_write: Usd::from_nanos(cache_write * DOLLAR),
        }
    }

    #[test]
    fn a_reservation_is_priced_at_the_dearer_of_input_and_cache_write() {
        let million = Tokens(1_000_000);
        assert_eq!(reservation_price(&price(1, 2), million, Tokens(0)).nanos(), 2 * DOLLAR);
        assert_eq!(reservation_price(&price(3, 2), million, Tokens(0)).nanos(), 3 * DOLLAR);
        assert_eq!(reservation_price(&price(1, 2), million, million).nanos(), 7 * DOLLAR);
    }

    #[test]
    fn no_usage_within_its_bounds_costs_more_than_the_reservation() {
        let price = price(1, 2);
        let bound = reservation_price(&price, Tokens(1_000), Tokens(100));
        for (fresh, read, written) in [(1_000, 0, 0), (0, 1_000, 0), (0, 0, 1_000), (300, 300, 400)] {
            let usage =
                Usage { input_tokens: fresh, cache_read_tokens: read, cache_write_tokens: written, output_tokens: 100 };
            assert!(price.of(&usage) <= bound, "{usage:?}");
        }
    }

    #[test]
    fn the_projection_goes_on_at_the_mean() {
        let spent = Usd::from_nanos(30);
        assert_eq!(projected_total(spent, 0, 10), None);
        assert_eq!(projected_total(spent, 10, 0), Some(spent));
        assert_eq!(projected_total(spent, 10, 20), Some(Usd::from_nanos(90)));
        assert_eq!(projected_total(Usd::from_nanos(u64::MAX), 1, u64::MAX), Some(Usd::from_nanos(u64::MAX)));
    }
}
