//! How many tokens will a call take, before anybody has counted them?
//!
//! Counting is the service's business and `CountTokens` is missing on many models; so what is known beforehand stands in
//! for it, corrected by the usage of every answer: the size of the text for the input, the other answers of the same
//! batch for the output.
//!
//! Two numbers for two purposes: the mean for projections, and a high percentile for reservations, because a call larger
//! than reserved would be a charge that nobody paced.

mod input;
mod output;
mod uncut;

pub use self::input::{InputEstimate, InputEstimates, Text};
pub use self::output::OutputEstimate;
pub use self::uncut::{Seen, uncut};

use crate::job::units::Tokens;

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

/// Rounded up; at least 1.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float beyond the range becomes its end")]
pub(super) fn whole(tokens: f64) -> Tokens {
    Tokens((tokens.ceil() as u64).max(1))
}
