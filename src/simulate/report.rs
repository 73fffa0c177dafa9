//! What happened? The simulator's own count, against which a client's books can be checked.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Counts since the start. Token counting calls are apart from all others.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Report {
    /// Calls of a model that reached it with credentials.
    pub calls: u64,
    /// Whole answers with status 200.
    pub answered: u64,
    /// Calls refused by a quota; ordered throttles are faults.
    pub throttled: u64,
    /// Calls that a quota would have refused, had it been enforced. They were not charged, like real refusals.
    pub would_be_throttled: u64,
    /// Calls refused because of what was asked.
    pub rejected: u64,
    /// Admitted calls whose caller went away; they keep their reservation.
    pub abandoned: u64,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Tokens reserved at admission: input and `max_tokens`.
    pub admitted_tokens: u64,
    /// Tokens charged in the end: input, cache writes, and output times burndown.
    pub settled_tokens: u64,
    /// Bodies answered more than once, told apart by a digest of model id and content.
    pub answered_twice: u64,
    /// Most admitted calls open at once.
    pub peak_open: u64,
    /// `CountTokens` calls answered.
    pub token_counts: u64,
    /// By model id or profile id.
    pub models: BTreeMap<String, ModelReport>,
}

/// The part of one model.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct ModelReport {
    /// See [`Report::calls`].
    pub calls: u64,
    /// See [`Report::answered`].
    pub answered: u64,
    /// See [`Report::throttled`].
    pub throttled: u64,
    /// See [`Report::would_be_throttled`].
    pub would_be_throttled: u64,
    /// See [`Report::abandoned`].
    pub abandoned: u64,
    /// See [`Report::admitted_tokens`].
    pub admitted_tokens: u64,
    /// See [`Report::settled_tokens`].
    pub settled_tokens: u64,
    /// Input tokens of settled calls, neither read from nor written to the cache.
    pub input_tokens: u64,
    /// Input tokens of settled calls that the cache knew.
    pub cache_read_tokens: u64,
    /// Input tokens of settled calls that the cache stored.
    pub cache_write_tokens: u64,
    /// Output tokens of settled calls, reasoning included.
    pub output_tokens: u64,
}

impl Report {
    /// Adds up the models.
    pub(super) fn total(mut self) -> Self {
        for model in self.models.values() {
            self.calls += model.calls;
            self.answered += model.answered;
            self.throttled += model.throttled;
            self.would_be_throttled += model.would_be_throttled;
            self.abandoned += model.abandoned;
            self.admitted_tokens += model.admitted_tokens;
            self.settled_tokens += model.settled_tokens;
        }
        // A refused id is no model, yet somebody called.
        self.calls += self.rejected;
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} calls: {} answered, {} throttled, {} rejected, {} abandoned; {} open at most",
            self.calls, self.answered, self.throttled, self.rejected, self.abandoned, self.peak_open
        )?;
        writeln!(
            f,
            "{} tokens admitted, {} settled; {} bodies answered twice, {} calls would have been throttled",
            self.admitted_tokens, self.settled_tokens, self.answered_twice, self.would_be_throttled
        )?;
        if self.token_counts > 0 {
            writeln!(f, "{} token counts", self.token_counts)?;
        }
        if !self.faults.is_empty() {
            let faults: Vec<_> = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            writeln!(f, "faults: {}", faults.join(", "))?;
        }
        for (id, model) in &self.models {
            writeln!(
                f,
                "{id}: {} calls, {} answered, {} throttled, {} tokens admitted, {} settled",
                model.calls, model.answered, model.throttled, model.admitted_tokens, model.settled_tokens
            )?;
        }
        Ok(())
    }
}
