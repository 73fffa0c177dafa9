//! What is learned of a model's tokens, and which cap does a call get that may be right-sized?
//!
//! The arithmetic is that of [`crate::rules::estimate`] and [`crate::rules::rightsize`]; here stands what it is asked for and
//! told by the steps.

use std::num::NonZeroUsize;

use crate::job::ident::BatchName;
use crate::job::outcome::Usage;
use crate::job::units::Tokens;
use crate::rules::estimate::{InputEstimates, OutputEstimate, Text};
use crate::rules::recent::Recent;

/// So many batches are remembered for each model; jobs of one batch mostly come together.
const BATCHES: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// What is learned of a model's tokens.
#[derive(Debug)]
pub struct Estimates {
    /// Of its input.
    pub input: InputEstimates,
    /// Of its answers, by the name of their batch, whosever it is.
    pub output: Recent<BatchName, OutputEstimate>,
}

impl Default for Estimates {
    fn default() -> Self {
        Self { input: InputEstimates::default(), output: Recent::new(BATCHES) }
    }
}

impl Estimates {
    /// This text was answered with this usage.
    pub fn learn_input(&mut self, text: Text, usage: &Usage) {
        self.input.learn(text, input_of(usage));
    }

    /// A job of this batch was answered in full with so many tokens.
    pub fn learn_output(&mut self, batch: &BatchName, tokens: Tokens) {
        self.output.of(batch).learn(tokens);
    }
}

/// All that went in, cached or not.
fn input_of(usage: &Usage) -> Tokens {
    Tokens(usage.input_tokens) + Tokens(usage.cache_read_tokens) + Tokens(usage.cache_write_tokens)
}
