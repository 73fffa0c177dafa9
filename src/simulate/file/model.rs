//! How is a model written down? `[[model]]`, and the `[latency]` and `[answer]` that it may inherit.

use serde::Deserialize;

use super::super::brownout::Capacity;
use super::super::chance::{Base, Latency, Length};
use super::super::errors::{self, Refused};
use super::super::scenario::{Model, ScenarioError};
use super::values::{duration, limit, one_of, quoted, region, wrong};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedModel {
    pub(super) id: String,
    pub(super) region: Option<String>,
    requests_per_minute: Option<u64>,
    tokens_per_minute: Option<u64>,
    tokens_per_day: Option<u64>,
    burndown: Option<u64>,
    context_window: Option<u64>,
    max_output: Option<u64>,
    cache_min_prefix: Option<u64>,
    reasoning: Option<bool>,
    capacity: Option<u64>,
    capacity_error: Option<String>,
    latency: Option<TypedLatency>,
    answer: Option<TypedAnswer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedLatency {
    constant: Option<String>,
    p50: Option<String>,
    p99: Option<String>,
    per_output_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedAnswer {
    mean: Option<f64>,
    spread: Option<f64>,
    from_prompt: Option<bool>,
}

impl TypedModel {
    pub(super) fn resolve(&self, key: &str, any: &Model) -> Result<Model, ScenarioError> {
        let at = |name: &str| format!("{key}.{name}");
        if !self.id.contains('.') && !self.id.starts_with("arn:") {
            return Err(wrong(at("id"), quoted(&self.id), "a model id, an inference profile id or an ARN"));
        }
        region(at("region"), self.region.as_deref())?;
        let burndown = self.burndown.unwrap_or(any.burndown);
        if !(1..=100).contains(&burndown) {
            return Err(wrong(at("burndown"), burndown, "1 to 100"));
        }
        let usual = (any.answer, any.answer_from_prompt);
        let (answer, answer_from_prompt) = TypedAnswer::resolve(self.answer.as_ref(), &at("answer"), usual)?;
        Ok(Model {
            requests_per_minute: limit(at("requests_per_minute"), self.requests_per_minute)?,
            tokens_per_minute: limit(at("tokens_per_minute"), self.tokens_per_minute)?,
            tokens_per_day: limit(at("tokens_per_day"), self.tokens_per_day)?,
            burndown,
            context_window: limit(at("context_window"), self.context_window)?.unwrap_or(any.context_window),
            max_output: limit(at("max_output"), self.max_output)?.unwrap_or(any.max_output),
            cache_min_prefix: self.cache_min_prefix.unwrap_or(any.cache_min_prefix),
            latency: TypedLatency::resolve(self.latency.as_ref(), &at("latency"), any.latency)?,
            answer,
            answer_from_prompt,
            reasoning: self.reasoning.unwrap_or(any.reasoning),
            capacity: self.capacity(key)?,
        })
    }
}

impl TypedModel {
    fn capacity(&self, key: &str) -> Result<Option<Capacity>, ScenarioError> {
        let calls = limit(format!("{key}.capacity"), self.capacity)?;
        capacity(key, ["capacity", "capacity_error"], calls, self.capacity_error.as_deref())
    }
}

/// A capacity and what one call more is told; `names` are the keys of the two.
pub(super) fn capacity(
    key: &str,
    names: [&str; 2],
    calls: Option<u64>,
    error: Option<&str>,
) -> Result<Option<Capacity>, ScenarioError> {
    const ERRORS: [&str; 2] = [errors::UNAVAILABLE, errors::OVERLOADED];
    let [capacity, error_key] = names;
    let Some(calls) = calls else {
        let given =
            error.map(|error| wrong(format!("{key}.{error_key}"), quoted(error), format!("only with `{capacity}`")));
        return given.map_or(Ok(None), Err);
    };
    let name = error.unwrap_or(errors::UNAVAILABLE);
    let known = ERRORS.into_iter().find(|known| *known == name).and_then(errors::known);
    let known = known.ok_or_else(|| wrong(format!("{key}.{error_key}"), quoted(name), one_of(ERRORS.into_iter())))?;
    Ok(Some(Capacity { calls, error: Refused::plain(known) }))
}

impl TypedLatency {
    pub(super) fn resolve(typed: Option<&Self>, key: &str, usual: Latency) -> Result<Latency, ScenarioError> {
        let Some(typed) = typed else { return Ok(usual) };
        let get = |name: &str, text: &Option<String>| duration(format!("{key}.{name}"), text.as_deref());
        let constant = get("constant", &typed.constant)?;
        let (p50, p99) = (get("p50", &typed.p50)?, get("p99", &typed.p99)?);
        let base = match (constant, p50, p99) {
            (Some(time), None, None) => Base::Constant(time),
            (None, Some(p50), Some(p99)) if !p50.is_zero() && p50 <= p99 => Base::Spread { p50, p99 },
            (None, Some(p50), Some(_)) => {
                let value = humantime::format_duration(p50);
                return Err(wrong(
                    format!("{key}.p50"),
                    value,
                    "more than 0s and at most p99; `constant = \"0s\"` is instant",
                ));
            }
            (None, None, None) => usual.base,
            (Some(_), _, _) | (None, Some(_), None) | (None, None, Some(_)) => {
                return Err(wrong(key, "incomplete or contradictory", "either `constant`, or `p50` and `p99`"));
            }
        };
        let per_output_token = get("per_output_token", &typed.per_output_token)?.unwrap_or(usual.per_output_token);
        Ok(Latency { base, per_output_token })
    }
}

impl TypedAnswer {
    /// The lengths that are drawn, and whether the prompt may say another.
    pub(super) fn resolve(
        typed: Option<&Self>,
        key: &str,
        usual: (Length, bool),
    ) -> Result<(Length, bool), ScenarioError> {
        let Some(typed) = typed else { return Ok(usual) };
        let (usual, from_prompt) = usual;
        let mean = typed.mean.unwrap_or(usual.mean);
        // A shorter mean keeps the shape of the usual answer.
        let spread = typed.spread.unwrap_or(mean * usual.spread / usual.mean);
        if !(1.0..=1e6).contains(&mean) {
            return Err(wrong(format!("{key}.mean"), mean, "1 to 1000000 tokens"));
        }
        if !(0.0..=1e6).contains(&spread) {
            return Err(wrong(format!("{key}.spread"), spread, "0 to 1000000 tokens"));
        }
        Ok((Length { mean, spread }, typed.from_prompt.unwrap_or(from_prompt)))
    }
}
