//! What is kept of one model in one region? Its quotas, its cache and its count.

use std::time::Duration;

use super::brownout::Capacity;
use super::cache::Cache;
use super::ledger::{Ledger, Split};
use super::report::{LaneReport, MinuteReport};
use super::scenario::{Model, Scenario};
use super::scope::Target;
use super::unseen::{Event, Unseen};

/// One model in one region.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) ledger: Ledger,
    pub(super) cache: Cache,
    unseen: Unseen,
    /// Admitted calls that have not ended yet.
    open: u64,
    report: LaneReport,
}

impl Lane {
    /// As it is at the start, whenever it is first asked for.
    pub(super) fn new(scenario: &Scenario, target: Target<'_>, model: &Model) -> Self {
        Self {
            ledger: scenario.ledger(model),
            cache: Cache::default(),
            unseen: Unseen::new(scenario, target),
            open: 0,
            report: LaneReport::default(),
        }
    }

    /// Catches up with what has happened unseen. Asked before everything else, so that the ledger sees no time go back.
    pub(super) fn catch_up(&mut self, scenario: &Scenario, now: Duration) {
        while let Some((at, event)) = self.unseen.next(now) {
            match event {
                Event::Used { tokens, requests } => {
                    self.ledger.charge(at, tokens, requests);
                    self.report.stranger_tokens += tokens;
                }
                Event::Changed { tokens, requests } => {
                    let quotas = [(&mut self.ledger.minute, tokens), (&mut self.ledger.requests, requests)];
                    for (window, limit) in quotas {
                        let Some(limit) = limit else { continue };
                        window.get_or_insert_with(|| scenario.minute(limit)).limit_to(at, limit);
                    }
                }
            }
        }
    }

    /// The count up to now.
    pub(super) fn report(&self) -> LaneReport {
        self.report.clone()
    }

    /// A call has come.
    pub(super) fn called(&mut self, now: Duration) {
        self.report.counts.calls += 1;
        self.report.first_call_ms.get_or_insert(millis(now));
        self.minute(now).calls += 1;
    }

    /// An ordered fault strikes it.
    pub(super) fn struck(&mut self, kind: &str) {
        *self.report.faults.entry(kind.to_owned()).or_default() += 1;
    }

    /// Whether the model works on fewer calls than it can.
    pub(super) fn has_room(&self, capacity: &Capacity) -> bool {
        self.open < capacity.calls
    }

    /// The model has no room for it.
    pub(super) fn over_capacity(&mut self) {
        self.report.counts.over_capacity += 1;
    }

    /// A quota refuses it.
    pub(super) fn throttled(&mut self, now: Duration) {
        self.report.counts.throttled += 1;
        self.minute(now).throttled += 1;
    }

    /// A quota would refuse it, were it enforced.
    pub(super) fn would_be_throttled(&mut self, now: Duration) {
        self.report.counts.would_be_throttled += 1;
        self.minute(now).would_be_throttled += 1;
    }

    /// It is let in with a reservation of so many tokens.
    pub(super) fn admitted(&mut self, tokens: u64) {
        self.report.counts.admitted_tokens += tokens;
        self.open += 1;
        self.report.peak_open = self.report.peak_open.max(self.open);
    }

    /// It has ended, in whatever way.
    pub(super) fn ended(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Its caller went away.
    pub(super) fn abandoned(&mut self) {
        self.report.counts.abandoned += 1;
    }

    /// The model has worked for it, at this price in quota tokens.
    pub(super) fn worked(&mut self, now: Duration, split: Split, output_tokens: u64, settled: u64) {
        let counts = &mut self.report.counts;
        counts.settled_tokens += settled;
        counts.input_tokens += split.fresh;
        counts.cache_read_tokens += split.cache_read;
        counts.cache_write_tokens += split.cache_write;
        counts.output_tokens += output_tokens;
        self.minute(now).settled_tokens += settled;
    }

    /// It has its whole answer.
    pub(super) fn answered(&mut self, now: Duration) {
        self.report.counts.answered += 1;
        self.report.last_answer_ms = Some(millis(now));
        self.minute(now).answered += 1;
    }

    fn minute(&mut self, now: Duration) -> &mut MinuteReport {
        let minute = now.as_secs() / 60;
        let minutes = &mut self.report.minutes;
        if minutes.last().is_none_or(|last| last.minute != minute) {
            minutes.push(MinuteReport { minute, ..MinuteReport::default() });
        }
        let last = minutes.len() - 1;
        &mut minutes[last]
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
