//! How many tokens will a call take, before anybody has counted them?
//!
//! Counting is the service's business and `CountTokens` is missing on many models; so the size of the text stands
//! in, times a ratio per model that every answer's usage corrects. The size is in bytes of UTF-8, not in characters: a
//! token is about four bytes of English and about three bytes, one character, of Chinese.
//!
//! Two numbers for two purposes: the mean for projections, and a high percentile for reservations, because an input
//! larger than reserved would be a charge that nobody paced.

use std::collections::VecDeque;

use crate::job::units::Tokens;

/// Before anything is known: more tokens than any usual text has.
const FIRST_TOKENS_PER_BYTE: f64 = 1.0 / 3.0;
/// Role marks and the like, which every request carries beside its text.
const TOKENS_PER_REQUEST: f64 = 8.0;
/// The ratio follows what was learned over about so many answers.
const MEMORY: f64 = 1_000.0;
/// The percentile is taken over so many answers.
const RECENT: usize = 256;
/// And looked up again after so many.
const REFRESH: usize = 16;
/// Below so many answers the highest deviation stands in for the percentile.
const FEW: usize = 64;

/// The input tokens of one model.
#[derive(Debug)]
pub struct InputEstimate {
    learned: f64,
    bytes: f64,
    tokens: f64,
    /// Of the newest answers: true count over estimated mean.
    deviations: VecDeque<f64>,
    until_refresh: usize,
    /// What the mean is multiplied by for a reservation.
    margin: f64,
}

impl Default for InputEstimate {
    fn default() -> Self {
        Self::new()
    }
}

impl InputEstimate {
    /// Nothing learned yet: an estimate on the safe side.
    pub fn new() -> Self {
        Self { learned: 0.0, bytes: 0.0, tokens: 0.0, deviations: VecDeque::new(), until_refresh: 0, margin: 1.0 }
    }

    /// What to reserve for a text of so many bytes: about 19 of 20 texts stay below. At least 1.
    pub fn reserve(&self, bytes: u64) -> Tokens {
        let cautious = self.mean(bytes) * self.margin;
        let few = self.deviations.len() < FEW;
        whole(if few { cautious.max(mean(FIRST_TOKENS_PER_BYTE, bytes)) } else { cautious })
    }

    /// What a text of so many bytes has in the mean: for projections.
    pub fn expected(&self, bytes: u64) -> Tokens {
        whole(self.mean(bytes))
    }

    /// A text of so many bytes had `actual` tokens, cached ones included.
    pub fn learn(&mut self, bytes: u64, actual: Tokens) {
        let actual = float(actual.0);
        self.remember_deviation(actual / self.mean(bytes));
        let keep = 1.0 - 1.0 / MEMORY;
        self.learned = self.learned * keep + 1.0;
        self.bytes = self.bytes * keep + float(bytes);
        self.tokens = self.tokens * keep + (actual - TOKENS_PER_REQUEST).max(0.0);
    }

    fn mean(&self, bytes: u64) -> f64 {
        if self.bytes <= 0.0 {
            return mean(FIRST_TOKENS_PER_BYTE, bytes);
        }
        // The first guess weighs as much as one answer.
        let ratio = (self.tokens / self.bytes * self.learned + FIRST_TOKENS_PER_BYTE) / (self.learned + 1.0);
        mean(ratio, bytes)
    }

    fn remember_deviation(&mut self, deviation: f64) {
        if self.deviations.len() == RECENT {
            self.deviations.pop_front();
        }
        self.deviations.push_back(deviation);
        if self.deviations.len() < FEW {
            self.margin = self.margin.max(deviation);
        } else if self.until_refresh == 0 {
            self.until_refresh = REFRESH;
            self.margin = high_percentile(self.deviations.iter().copied().collect()).max(1.0);
        } else {
            self.until_refresh -= 1;
        }
    }
}

/// The output tokens of one model's answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutputEstimate {
    answers: u64,
    mean: f64,
}

impl OutputEstimate {
    /// Nothing learned yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An answer had so many tokens.
    pub fn learn(&mut self, tokens: Tokens) {
        self.answers += 1;
        self.mean += (float(tokens.0) - self.mean) / float(self.answers).min(MEMORY);
    }

    /// What an answer that may have `max_tokens` has in the mean; all of them while nothing is known.
    pub fn expected(&self, max_tokens: Tokens) -> Tokens {
        if self.answers == 0 { max_tokens } else { whole(self.mean).min(max_tokens) }
    }
}

fn mean(tokens_per_byte: f64, bytes: u64) -> f64 {
    tokens_per_byte.mul_add(float(bytes), TOKENS_PER_REQUEST)
}

fn high_percentile(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    let at = of.len() - 1 - of.len() / 20;
    of.get(at).copied().unwrap_or(1.0)
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn float(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float beyond the range becomes its end")]
fn whole(tokens: f64) -> Tokens {
    Tokens((tokens.ceil() as u64).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cold_start_is_on_the_safe_side() {
        let model = InputEstimate::new();
        let english = "Please summarise the following review in one sentence.";
        assert!(model.reserve(english.len() as u64) > Tokens(14), "about ten tokens, and the frame");
        let chinese = "请用一句话总结以下评论。";
        assert!(model.reserve(chinese.len() as u64) >= Tokens(12), "about one token a character");
        assert_eq!(model.reserve(0), Tokens(8));
    }

    #[test]
    fn one_strange_answer_does_not_make_the_first_estimates_unsafe() {
        let mut model = InputEstimate::new();
        let before = model.reserve(4_000);
        model.learn(4_000, Tokens(1));
        assert!(model.reserve(4_000) >= before);
        assert!(model.expected(4_000) < before);
    }

    #[test]
    fn the_ratio_follows_when_the_texts_change() {
        let mut model = InputEstimate::new();
        for _ in 0..5_000 {
            model.learn(400, Tokens(108));
        }
        assert!(model.expected(400).0.abs_diff(108) <= 1);
        for _ in 0..5_000 {
            model.learn(400, Tokens(208));
        }
        assert!(model.expected(400).0.abs_diff(208) <= 2);
        assert!(model.reserve(400) >= Tokens(208));
    }

    #[test]
    fn huge_and_empty_texts_overflow_nothing() {
        let mut model = InputEstimate::new();
        for bytes in [0, u64::MAX] {
            model.learn(bytes, Tokens(u64::MAX));
            model.learn(bytes, Tokens(0));
        }
        assert!(model.reserve(u64::MAX) >= Tokens(1));
    }

    #[test]
    fn the_output_is_the_cap_until_something_is_known_and_never_above_it() {
        let mut model = OutputEstimate::new();
        assert_eq!(model.expected(Tokens(800)), Tokens(800));
        for tokens in [100, 200, 300] {
            model.learn(Tokens(tokens));
        }
        assert_eq!(model.expected(Tokens(800)), Tokens(200));
        assert_eq!(model.expected(Tokens(64)), Tokens(64));
    }
}
