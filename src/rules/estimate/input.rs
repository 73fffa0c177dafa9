//! How many tokens has a text, by its size? By a ratio per model, and a better one for each template.
//!
//! The size is in bytes of UTF-8, not in characters: a token is about four bytes of English and about three bytes, one
//! character, of Chinese. Prompts that begin alike are made from one template: they are of one language and one sort, so that
//! their own ratio is closer and their percentile is nearer to their mean. A template is told by a hash of its
//! beginning, so that no text is kept here; until one has enough answers of its own, the model's ratio stands in.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use super::{float, whole};
use crate::job::units::Tokens;
use crate::rules::recent::Recent;

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

/// So many templates of a model are remembered.
const TEMPLATES: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// A template with so many answers is judged by them alone.
const ENOUGH: usize = 32;

/// A text, as far as its tokens are concerned.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Text {
    /// Its size in UTF-8.
    pub bytes: u64,
    /// What tells its beginning from others: a hash.
    pub template: u64,
}

/// The input tokens of one model, over all and by template.
#[derive(Debug)]
pub struct InputEstimates {
    model: InputEstimate,
    templates: Recent<u64, InputEstimate>,
}

impl Default for InputEstimates {
    fn default() -> Self {
        Self { model: InputEstimate::new(), templates: Recent::new(TEMPLATES) }
    }
}

impl InputEstimates {
    /// What to reserve for this text: about 19 of 20 stay below. At least 1.
    pub fn reserve(&self, text: Text) -> Tokens {
        match self.templates.get(&text.template) {
            Some(template) if template.has_enough() => template.reserve(text.bytes),
            // Its few answers cannot say that it needs less than others, but they can say that it needs more.
            Some(template) => self.model.reserve(text.bytes).max(template.cautious(text.bytes)),
            None => self.model.reserve(text.bytes),
        }
    }

    /// What this text has in the mean: for projections.
    pub fn expected(&self, text: Text) -> Tokens {
        let known = self.templates.get(&text.template).filter(|template| template.has_enough());
        known.unwrap_or(&self.model).expected(text.bytes)
    }

    /// This text had `actual` tokens, cached ones included.
    pub fn learn(&mut self, text: Text, actual: Tokens) {
        self.model.learn(text.bytes, actual);
        self.templates.of(&text.template).learn(text.bytes, actual);
    }
}

/// The input tokens of texts of one sort.
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
        let few = self.deviations.len() < FEW;
        let first = if few { whole(mean(FIRST_TOKENS_PER_BYTE, bytes)) } else { Tokens(1) };
        self.cautious(bytes).max(first)
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

    fn has_enough(&self) -> bool {
        self.deviations.len() >= ENOUGH
    }

    fn cautious(&self, bytes: u64) -> Tokens {
        whole(self.mean(bytes) * self.margin)
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

fn mean(tokens_per_byte: f64, bytes: u64) -> f64 {
    tokens_per_byte.mul_add(float(bytes), TOKENS_PER_REQUEST)
}

fn high_percentile(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    let at = of.len() - 1 - of.len() / 20;
    of.get(at).copied().unwrap_or(1.0)
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
}
