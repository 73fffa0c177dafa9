//! How did earlier calls turn out? Read from the results in the state directory, or from some of a fleet's, newest batches first:
//! how many bytes a token has, how long answers are and how long they take. A batch of the same name says more than all others.
//!
//! A plan is made where work is thought of, which may be far from the fleet: what cannot be read of that within [`PATIENCE`] is
//! not known, and said to be.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::aws::{Fleet, Sample};
use crate::cli::backend::of_fleet;
use crate::cli::exit::Report;
use crate::cli::wiring;
use crate::config::AwsSettings;
use crate::embedded::{LaneRow, Order, Reader};
use crate::flow::lanes::Catalogue;
use crate::job::ident::BatchName;
use crate::job::lifecycle::Status;
use crate::job::outcome::{Timing, Usage};
use crate::job::units::Tokens;
use crate::ports::StoreError;
use crate::rules::estimate::{InputEstimate, Seen, uncut};
use crate::rules::forecast::Experience;
use crate::rules::rightsize::is_cut;

/// So many answers of a model are looked at.
const ENOUGH: usize = 2_000;
/// And no more lines of a batch than this.
const LINES: usize = 10_000;
/// With so many answers of its own a batch is judged by them alone.
const OWN: usize = 50;

/// A fleet that has not told by then is asked no longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of earlier calls.
#[derive(Default)]
pub(crate) struct History {
    calls: HashMap<Arc<str>, Vec<Past>>,
    /// What workers have written of each lane, by the lane as it is displayed.
    pub(super) lanes: HashMap<String, Vec<u8>>,
    /// Why there may be more that is not known.
    pub(super) unknown: Option<String>,
}

/// A line of a result, as far as it tells of the next one.
#[derive(Deserialize)]
struct Line {
    status: Status,
    model: Option<String>,
    degraded: bool,
    usage: Usage,
    text_bytes: Option<u64>,
    stop_reason: Option<String>,
    model_calls: u32,
    timing: Timing,
}

#[derive(Clone, Copy)]
struct Past {
    is_own: bool,
    bytes: Option<u64>,
    usage: Usage,
    /// Its answer would have been longer under a higher cap.
    is_cut: bool,
    latency: Duration,
}

/// What is known of the calls of one model.
pub(crate) struct Known {
    input: InputEstimate,
    /// What input came to, over what was expected of it: every request is reckoned to carry a few tokens beside its text.
    scale: f64,
    /// How calls turned out; empty if none is known.
    pub(crate) calls: Vec<Experience>,
    /// Of all input, what was read from and written to the cache: shares between 0 and 1.
    pub(super) cache_read: f64,
    pub(super) cache_write: f64,
    /// Whether the sizes of their texts are known.
    pub(super) has_sizes: bool,
}

impl History {
    /// Of the state directory; nothing if there is none yet.
    ///
    /// # Errors
    /// A report: there is one, and it cannot be read.
    pub(crate) fn of_state(state: &Path, catalogue: &Catalogue, batch: &BatchName) -> Result<Self, Report> {
        let mut history = Self::default();
        if !state.join("aquifer.db").exists() {
            return Ok(history);
        }
        let reader = Reader::open(state)?;
        history.lanes = reader.lanes()?.into_iter().map(|LaneRow { lane, state }| (lane, state)).collect();
        let mut batches = reader.batches()?;
        batches.sort_by_key(|summary| (summary.batch != *batch, std::cmp::Reverse(summary.last)));
        let mut names: Vec<BatchName> = batches.into_iter().map(|summary| summary.batch).collect();
        names.dedup();
        for name in names {
            let is_own = name == *batch;
            for line in reader.results(&name, Order::Done)?.take(LINES) {
                if !history.note(&line?, is_own, catalogue) {
                    break;
                }
            }
        }
        Ok(history)
    }

    /// Of the fleet, as far as it tells.
    pub(super) async fn of_fleet(aws: &AwsSettings, keep: Duration, catalogue: &Catalogue, batch: &BatchName) -> Self {
        let mut history = Self::default();
        let asked = async {
            let fleet = wiring::fleet(aws, keep).await?;
            history.ask(&fleet, catalogue, batch).await.map_err(of_fleet)
        };
        history.unknown = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(())) => None,
            // The SDK lists on lines of their own where it looked for credentials.
            Ok(Err(report)) => Some(report.into_parts().0.split_whitespace().collect::<Vec<_>>().join(" ")),
            Err(_) => Some(format!("the fleet has not told within {} s", PATIENCE.as_secs())),
        };
        history
    }

    async fn ask(&mut self, fleet: &Fleet, catalogue: &Catalogue, batch: &BatchName) -> Result<(), StoreError> {
        let lanes = fleet.lanes().await?.into_iter();
        self.lanes = lanes.map(|row| (row.lane.to_string(), row.state.to_vec())).collect();
        for Sample { batch: name, lines } in fleet.samples(batch).await? {
            for line in lines {
                if !self.note(&line, name == *batch, catalogue) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether the next line is worth reading.
    fn note(&mut self, line: &[u8], is_own: bool, catalogue: &Catalogue) -> bool {
        let Ok(line) = serde_json::from_slice::<Line>(line) else { return true };
        let is_whole = line.status == Status::Succeeded && !line.degraded && line.model_calls > 0;
        let Some(plan) = line.model.as_deref().filter(|_| is_whole).and_then(|model| catalogue.find(model)) else {
            return true;
        };
        let Some(name) = plan.names.first() else { return true };
        let calls = self.calls.entry(Arc::clone(name)).or_default();
        if calls.len() >= ENOUGH {
            return false;
        }
        let latency = Duration::from_millis(line.timing.model_ms) / line.model_calls;
        // By the service's word alone: which cap it had, the line does not say.
        let is_cut = is_cut(line.stop_reason.as_deref(), line.usage.output_tokens, u32::MAX);
        calls.push(Past { is_own, bytes: line.text_bytes, usage: line.usage, is_cut, latency });
        true
    }

    /// What is known of the calls of this model.
    pub(crate) fn of(&self, model: &str) -> Known {
        let all = self.calls.get(model).map_or(&[][..], Vec::as_slice);
        let own: Vec<Past> = all.iter().filter(|past| past.is_own).copied().collect();
        let calls = if own.len() >= OWN { own } else { all.to_vec() };
        let mut input = InputEstimate::new();
        for (bytes, tokens) in calls.iter().filter_map(|past| Some((past.bytes?, input_of(&past.usage)))) {
            input.learn(bytes, Tokens(tokens));
        }
        let sized = calls.iter().filter_map(|past| Some((input.expected(past.bytes?).0, input_of(&past.usage))));
        let (expected, actual) = sized.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let scale = if expected == 0 { 1.0 } else { float(actual) / float(expected) };
        let share = |of: fn(&Usage) -> u64| {
            let (part, whole) = calls
                .iter()
                .fold((0, 0), |(part, whole), past| (part + of(&past.usage), whole + input_of(&past.usage)));
            if whole == 0 { 0.0 } else { float(part) / float(whole) }
        };
        let seen: Vec<Seen> =
            calls.iter().map(|past| Seen { length: past.usage.output_tokens, is_cut: past.is_cut }).collect();
        let turned_out = |(past, output): (&Past, u64)| {
            let tokens = input_of(&past.usage).max(1);
            Experience {
                deviation: past
                    .bytes
                    .map_or(1.0, |bytes| float(tokens) / (float(input.expected(bytes).0.max(1)) * scale)),
                charged: float(past.usage.input_tokens + past.usage.cache_write_tokens) / float(tokens),
                output,
                latency: past.latency,
            }
        };
        Known {
            calls: calls.iter().zip(uncut(&seen)).map(turned_out).collect(),
            cache_read: share(|usage| usage.cache_read_tokens),
            cache_write: share(|usage| usage.cache_write_tokens),
            has_sizes: calls.iter().any(|past| past.bytes.is_some()),
            input,
            scale,
        }
    }
}

impl Known {
    /// The tokens of a text of so many bytes, in the mean.
    pub(super) fn expected(&self, bytes: u64) -> f64 {
        float(self.input.expected(bytes).0) * self.scale
    }
}

fn input_of(usage: &Usage) -> u64 {
    usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
}

#[expect(clippy::cast_precision_loss, reason = "shares and means")]
fn float(count: u64) -> f64 {
    count as f64
}
