//! What happened? The simulator's own count, against which a client's books can be checked.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Counts since the start. Token counting calls are apart from all others.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Report {
    /// Calls of a model that reached it with credentials, and those whose connection was refused on order.
    pub calls: u64,
    /// Whole answers with status 200.
    pub answered: u64,
    /// Calls refused by a quota; ordered throttles are faults.
    pub throttled: u64,
    /// Calls that a quota would have refused, had it been enforced. They were answered all the same, but not charged:
    /// a real refusal costs nothing, and charging it would make the calls after it look like refusals too.
    pub would_be_throttled: u64,
    /// Calls refused because more than `capacity` were open.
    pub over_capacity: u64,
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
    /// Bodies answered more than once, told apart by a digest of model id and content, in whatever region.
    pub answered_twice: u64,
    /// Most admitted calls open at once.
    pub peak_open: u64,
    /// `CountTokens` calls answered.
    pub token_counts: u64,
    /// Tokens that strangers have used, of lanes that were called.
    pub stranger_tokens: u64,
    /// When the first call of a model came, in milliseconds since the start.
    pub first_call_ms: Option<u64>,
    /// When the newest whole answer went out, in milliseconds since the start.
    pub last_answer_ms: Option<u64>,
    /// What happened in which minute; rejected calls are left out.
    pub minutes: Vec<MinuteReport>,
    /// By model id or profile id, over all regions.
    pub models: BTreeMap<String, ModelReport>,
    /// By region, then by model id or profile id. The region of calls signed for none is `""`.
    pub lanes: BTreeMap<String, BTreeMap<String, LaneReport>>,
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
    /// See [`Report::over_capacity`].
    pub over_capacity: u64,
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

/// The part of one model in one region: what has a quota of its own.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct LaneReport {
    /// What is counted of a model.
    #[serde(flatten)]
    pub counts: ModelReport,
    /// Faults that struck here, by kind.
    pub faults: BTreeMap<String, u64>,
    /// See [`Report::peak_open`].
    pub peak_open: u64,
    /// Tokens that strangers have used here.
    pub stranger_tokens: u64,
    /// See [`Report::first_call_ms`].
    pub first_call_ms: Option<u64>,
    /// See [`Report::last_answer_ms`].
    pub last_answer_ms: Option<u64>,
    /// See [`Report::minutes`].
    pub minutes: Vec<MinuteReport>,
}

/// One minute. The first begins with the start, whatever the clock said then.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct MinuteReport {
    /// From 0. Minutes in which nothing happened are left out.
    pub minute: u64,
    /// Calls that came.
    pub calls: u64,
    /// Whole answers that went out.
    pub answered: u64,
    /// See [`Report::throttled`].
    pub throttled: u64,
    /// See [`Report::would_be_throttled`].
    pub would_be_throttled: u64,
    /// Tokens of the calls that were settled in this minute, whenever they were admitted.
    pub settled_tokens: u64,
}

impl Report {
    /// Adds up the lanes; what is kept of no lane stands in `self` already.
    pub(super) fn of(mut self, lanes: BTreeMap<String, BTreeMap<String, LaneReport>>) -> Self {
        let mut minutes = BTreeMap::new();
        for (id, lane) in lanes.values().flatten() {
            self.models.entry(id.clone()).or_default().add(&lane.counts);
            for (kind, count) in &lane.faults {
                *self.faults.entry(kind.clone()).or_default() += count;
            }
            for minute in &lane.minutes {
                minutes.entry(minute.minute).or_insert_with(MinuteReport::default).add(minute);
            }
            self.stranger_tokens += lane.stranger_tokens;
            self.first_call_ms = [self.first_call_ms, lane.first_call_ms].into_iter().flatten().min();
            self.last_answer_ms = self.last_answer_ms.max(lane.last_answer_ms);
        }
        self.minutes = minutes.into_iter().map(|(minute, counts)| MinuteReport { minute, ..counts }).collect();
        for model in self.models.values() {
            self.calls += model.calls;
            self.answered += model.answered;
            self.throttled += model.throttled;
            self.would_be_throttled += model.would_be_throttled;
            self.over_capacity += model.over_capacity;
            self.abandoned += model.abandoned;
            self.admitted_tokens += model.admitted_tokens;
            self.settled_tokens += model.settled_tokens;
        }
        // A refused id is no model, yet somebody called.
        self.calls += self.rejected;
        self.lanes = lanes;
        self
    }
}

impl ModelReport {
    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.answered += other.answered;
        self.throttled += other.throttled;
        self.would_be_throttled += other.would_be_throttled;
        self.over_capacity += other.over_capacity;
        self.abandoned += other.abandoned;
        self.admitted_tokens += other.admitted_tokens;
        self.settled_tokens += other.settled_tokens;
        self.input_tokens += other.input_tokens;
        self.cache_read_tokens += other.cache_read_tokens;
        self.cache_write_tokens += other.cache_write_tokens;
        self.output_tokens += other.output_tokens;
    }
}

impl MinuteReport {
    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.answered += other.answered;
        self.throttled += other.throttled;
        self.would_be_throttled += other.would_be_throttled;
        self.settled_tokens += other.settled_tokens;
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
        if self.over_capacity > 0 {
            writeln!(f, "{} calls refused for want of capacity", self.over_capacity)?;
        }
        if self.stranger_tokens > 0 {
            writeln!(f, "{} tokens used by strangers", self.stranger_tokens)?;
        }
        if self.token_counts > 0 {
            writeln!(f, "{} token counts", self.token_counts)?;
        }
        if !self.faults.is_empty() {
            let faults: Vec<_> = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            writeln!(f, "faults: {}", faults.join(", "))?;
        }
        for (region, lanes) in &self.lanes {
            for (id, LaneReport { counts, .. }) in lanes {
                let lane = if region.is_empty() { id.clone() } else { format!("{region}/{id}") };
                writeln!(
                    f,
                    "{lane}: {} calls, {} answered, {} throttled, {} tokens admitted, {} settled",
                    counts.calls, counts.answered, counts.throttled, counts.admitted_tokens, counts.settled_tokens
                )?;
            }
        }
        Ok(())
    }
}
