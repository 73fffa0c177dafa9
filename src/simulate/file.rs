//! How is a scenario written down? The typed-in shape, and the checks that turn it into a [`Scenario`].
//!
//! Every key, its unit, default and bounds stand in `examples/scenarios/`.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::chance::{Base, Latency, Length};
use super::errors::{self, KNOWN, Refused};
use super::fault::{Calls, Fault, Kind};
use super::ledger::{Counting, Excess};
use super::scenario::{Model, Scenario, ScenarioError};

/// Reads and checks.
///
/// # Errors
/// The first thing wrong.
pub(super) fn read(text: &str) -> Result<Scenario, ScenarioError> {
    let typed: File = toml::from_str(text).map_err(|error| ScenarioError::Form(error.to_string()))?;
    typed.resolve()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    seed: Option<u64>,
    counting: Option<Counting>,
    minute_offset: Option<String>,
    settlement_excess: Option<Excess>,
    cache_reads_at_admission: Option<bool>,
    enforce: Option<bool>,
    day: Option<String>,
    account_tokens_per_day: Option<u64>,
    latency: Option<TypedLatency>,
    answer: Option<TypedAnswer>,
    #[serde(default)]
    model: Vec<TypedModel>,
    #[serde(default)]
    fault: Vec<TypedFault>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedLatency {
    constant: Option<String>,
    p50: Option<String>,
    p99: Option<String>,
    per_output_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedAnswer {
    mean: Option<f64>,
    spread: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedModel {
    id: String,
    requests_per_minute: Option<u64>,
    tokens_per_minute: Option<u64>,
    tokens_per_day: Option<u64>,
    burndown: Option<u64>,
    context_window: Option<u64>,
    max_output: Option<u64>,
    cache_min_prefix: Option<u64>,
    reasoning: Option<bool>,
    latency: Option<TypedLatency>,
    answer: Option<TypedAnswer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedFault {
    kind: String,
    text: Option<String>,
    message: Option<String>,
    status: Option<u64>,
    original_status: Option<u64>,
    retry_after: Option<String>,
    over: Option<String>,
    error: Option<String>,
    model: Option<String>,
    probability: Option<f64>,
    from: Option<String>,
    until: Option<String>,
    calls: Option<String>,
}

impl File {
    fn resolve(self) -> Result<Scenario, ScenarioError> {
        let usual = Scenario::default();
        let latency = TypedLatency::resolve(self.latency.as_ref(), "latency", usual.any.latency)?;
        let answer = TypedAnswer::resolve(self.answer.as_ref(), "answer", usual.any.answer)?;
        let any = Model { latency, answer, ..Model::default() };
        let mut scenario = Scenario {
            seed: self.seed.unwrap_or(usual.seed),
            counting: self.counting.unwrap_or_default(),
            minute_offset: duration("minute_offset", self.minute_offset.as_deref())?.unwrap_or_default(),
            settlement_excess: self.settlement_excess.unwrap_or_default(),
            cache_reads_at_admission: self.cache_reads_at_admission.unwrap_or(usual.cache_reads_at_admission),
            enforce: self.enforce.unwrap_or(usual.enforce),
            day: duration("day", self.day.as_deref())?.unwrap_or(usual.day),
            account_tokens_per_day: limit("account_tokens_per_day", self.account_tokens_per_day)?,
            ..usual
        };
        if scenario.minute_offset >= Duration::from_secs(60) {
            return Err(wrong("minute_offset", humantime::format_duration(scenario.minute_offset), "less than 60s"));
        }
        if scenario.day.is_zero() {
            return Err(wrong("day", "0s", "more than nothing"));
        }
        for (place, model) in self.model.iter().enumerate() {
            let key = format!("model[{place}]");
            let resolved = model.resolve(&key, &any)?;
            if scenario.models.insert(model.id.clone(), Arc::new(resolved)).is_some() {
                return Err(wrong(format!("{key}.id"), quoted(&model.id), "one table a model"));
            }
        }
        for (place, fault) in self.fault.iter().enumerate() {
            let fault = fault.resolve(&format!("fault[{place}]"))?;
            let named = fault.model.as_deref();
            if named.is_some_and(|named| !scenario.models.is_empty() && !scenario.names(named)) {
                let key = format!("fault[{place}].model");
                return Err(wrong(key, quoted(named.unwrap_or_default()), "the id of a [[model]] table"));
            }
            scenario.faults.push(fault);
        }
        scenario.any = Arc::new(any);
        Ok(scenario)
    }
}

impl Scenario {
    fn names(&self, model: &str) -> bool {
        self.models.keys().any(|id| id == model || super::request::foundation(id) == model)
    }
}

impl TypedModel {
    fn resolve(&self, key: &str, any: &Model) -> Result<Model, ScenarioError> {
        let at = |name: &str| format!("{key}.{name}");
        if !self.id.contains('.') && !self.id.starts_with("arn:") {
            return Err(wrong(at("id"), quoted(&self.id), "a model id, an inference profile id or an ARN"));
        }
        let burndown = self.burndown.unwrap_or(any.burndown);
        if !(1..=100).contains(&burndown) {
            return Err(wrong(at("burndown"), burndown, "1 to 100"));
        }
        Ok(Model {
            requests_per_minute: limit(at("requests_per_minute"), self.requests_per_minute)?,
            tokens_per_minute: limit(at("tokens_per_minute"), self.tokens_per_minute)?,
            tokens_per_day: limit(at("tokens_per_day"), self.tokens_per_day)?,
            burndown,
            context_window: limit(at("context_window"), self.context_window)?.unwrap_or(any.context_window),
            max_output: limit(at("max_output"), self.max_output)?.unwrap_or(any.max_output),
            cache_min_prefix: self.cache_min_prefix.unwrap_or(any.cache_min_prefix),
            latency: TypedLatency::resolve(self.latency.as_ref(), &at("latency"), any.latency)?,
            answer: TypedAnswer::resolve(self.answer.as_ref(), &at("answer"), any.answer)?,
            reasoning: self.reasoning.unwrap_or(any.reasoning),
        })
    }
}

impl TypedLatency {
    fn resolve(typed: Option<&Self>, key: &str, usual: Latency) -> Result<Latency, ScenarioError> {
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
    fn resolve(typed: Option<&Self>, key: &str, usual: Length) -> Result<Length, ScenarioError> {
        let Some(typed) = typed else { return Ok(usual) };
        let mean = typed.mean.unwrap_or(usual.mean);
        // A shorter mean keeps the shape of the usual answer.
        let spread = typed.spread.unwrap_or(mean * usual.spread / usual.mean);
        if !(1.0..=1e6).contains(&mean) {
            return Err(wrong(format!("{key}.mean"), mean, "1 to 1000000 tokens"));
        }
        if !(0.0..=1e6).contains(&spread) {
            return Err(wrong(format!("{key}.spread"), spread, "0 to 1000000 tokens"));
        }
        Ok(Length { mean, spread })
    }
}

impl TypedFault {
    fn resolve(&self, key: &str) -> Result<Fault, ScenarioError> {
        let at = |name: &str| format!("{key}.{name}");
        let kind = self.kind(key)?;
        self.only_what_applies(key, &kind)?;
        if let Some(probability) = self.probability.filter(|probability| !(0.0..=1.0).contains(probability)) {
            return Err(wrong(at("probability"), probability, "0 to 1"));
        }
        let from = duration(at("from"), self.from.as_deref())?.unwrap_or_default();
        let until = duration(at("until"), self.until.as_deref())?;
        if let Some(end) = until.filter(|until| *until <= from) {
            return Err(wrong(at("until"), humantime::format_duration(end), "later than `from`"));
        }
        let calls = match self.calls.as_deref() {
            None => None,
            Some(text) => Some(Calls::parse(text).ok_or_else(|| {
                wrong(at("calls"), quoted(text), "call numbers from 1, as in \"5\", \"10-20\" or \"every 7\"")
            })?),
        };
        Ok(Fault { kind, model: self.model.clone(), probability: self.probability, from, until, calls })
    }

    fn kind(&self, key: &str) -> Result<Kind, ScenarioError> {
        let at = |name: &str| format!("{key}.{name}");
        Ok(match self.kind.as_str() {
            "hang" => Kind::Hang,
            "drop" => Kind::Drop,
            "truncate" => Kind::Truncate,
            "slow_body" => {
                Kind::SlowBody(duration(at("over"), self.over.as_deref())?.unwrap_or(Duration::from_secs(5)))
            }
            "empty" => Kind::Empty,
            "garbage" => Kind::Garbage,
            "stream_error" => {
                let name = self.error.as_deref().unwrap_or(errors::UNAVAILABLE);
                let known = errors::known(name);
                let Some((known, exception)) = known.and_then(|known| Some((known, known.in_stream?))) else {
                    let names = KNOWN.iter().filter(|known| known.in_stream.is_some()).map(|known| known.name);
                    return Err(wrong(at("error"), quoted(name), one_of(names)));
                };
                let message = self.message.clone().unwrap_or_else(|| known.message.to_owned());
                Kind::StreamError { exception, message }
            }
            name => {
                let Some(known) = errors::known(name) else {
                    let ours = ["hang", "drop", "truncate", "slow_body", "empty", "garbage", "stream_error"];
                    let names = KNOWN.iter().map(|known| known.name).chain(ours);
                    return Err(wrong(at("kind"), quoted(name), one_of(names)));
                };
                let refused = self.refused(key, Refused::plain(known))?;
                if known.late { Kind::LateError(refused) } else { Kind::Error(refused) }
            }
        })
    }

    fn refused(&self, key: &str, plain: Refused) -> Result<Refused, ScenarioError> {
        let at = |name: &str| format!("{key}.{name}");
        let mut refused = plain;
        if let Some(text) = &self.text {
            let (choices, found): (&[&str], _) = match refused.name {
                errors::THROTTLING => (
                    &["tokens", "requests", "day"],
                    match text.as_str() {
                        "tokens" => Some(errors::TOO_MANY_TOKENS),
                        "requests" => Some(errors::TOO_MANY_REQUESTS),
                        "day" => Some(errors::TOO_MANY_A_DAY),
                        _ => None,
                    },
                ),
                errors::UNAVAILABLE => (
                    &["capacity", "connections"],
                    match text.as_str() {
                        "capacity" => errors::known(errors::UNAVAILABLE).map(|known| known.message),
                        "connections" => Some(errors::TOO_MANY_CONNECTIONS),
                        _ => None,
                    },
                ),
                _ => return Err(wrong(at("text"), quoted(text), "this kind has one text; `message` replaces it")),
            };
            let found = found.ok_or_else(|| wrong(at("text"), quoted(text), one_of(choices.iter().copied())))?;
            refused.message = found.into();
        }
        if let Some(message) = &self.message {
            refused.message = message.clone().into();
        }
        if let Some(status) = self.status {
            refused.status = http_status(at("status"), status)?;
        }
        refused.original_status =
            self.original_status.map(|status| http_status(at("original_status"), status)).transpose()?;
        refused.retry_after = duration(at("retry_after"), self.retry_after.as_deref())?;
        Ok(refused)
    }

    /// A key that would be ignored is a mistake of whoever wrote it.
    fn only_what_applies(&self, key: &str, kind: &Kind) -> Result<(), ScenarioError> {
        let error = match kind {
            Kind::Error(refused) | Kind::LateError(refused) => Some(refused.name),
            Kind::Hang
            | Kind::Drop
            | Kind::Truncate
            | Kind::SlowBody(_)
            | Kind::Empty
            | Kind::Garbage
            | Kind::StreamError { .. } => None,
        };
        let in_stream = matches!(kind, Kind::StreamError { .. });
        let from_model = matches!(error, Some("ModelErrorException" | "ModelStreamErrorException"));
        for (name, given, applies) in [
            ("text", self.text.is_some(), error.is_some()),
            ("message", self.message.is_some(), error.is_some() || in_stream),
            ("status", self.status.is_some(), error == Some(errors::UNKNOWN)),
            ("original_status", self.original_status.is_some(), from_model),
            ("retry_after", self.retry_after.is_some(), error.is_some()),
            ("over", self.over.is_some(), matches!(kind, Kind::SlowBody(_))),
            ("error", self.error.is_some(), in_stream),
        ] {
            if given && !applies {
                return Err(wrong(format!("{key}.{name}"), "given", format!("does not apply to kind {:?}", self.kind)));
            }
        }
        Ok(())
    }
}

fn wrong(key: impl Into<String>, value: impl Display, bound: impl Into<String>) -> ScenarioError {
    ScenarioError::Value { key: key.into(), value: value.to_string(), bound: bound.into() }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn one_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    format!("one of {}", names.collect::<Vec<_>>().join(", "))
}

fn limit(key: impl Into<String>, value: Option<u64>) -> Result<Option<u64>, ScenarioError> {
    match value {
        Some(0) => Err(wrong(key, 0, "at least 1; leave it out for none")),
        Some(_) | None => Ok(value),
    }
}

fn http_status(key: String, status: u64) -> Result<u16, ScenarioError> {
    u16::try_from(status).ok().filter(|code| (400..=599).contains(code)).ok_or_else(|| wrong(key, status, "400 to 599"))
}

fn duration(key: impl Into<String>, text: Option<&str>) -> Result<Option<Duration>, ScenarioError> {
    text.map(humantime::parse_duration)
        .transpose()
        .map_err(|_| wrong(key, quoted(text.unwrap_or_default()), "a duration such as \"30s\" or \"80ms\""))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_healthy_service() {
        let (read, usual) = (read("").unwrap(), Scenario::default());
        assert_eq!((read.seed, read.enforce, read.counting), (usual.seed, usual.enforce, usual.counting));
        assert_eq!(*read.any, *usual.any);
    }

    #[test]
    fn models_inherit_latency_and_answer_from_the_top() {
        let scenario = read(
            r#"
            [latency]
            constant = "2s"
            [answer]
            mean = 30
            [[model]]
            id = "a.b"
            [[model]]
            id = "a.c"
            latency = { p50 = "1s", p99 = "4s", per_output_token = "2ms" }
            answer = { mean = 500, spread = 0 }
            "#,
        )
        .unwrap();
        let (plain, own) = (&scenario.models["a.b"], &scenario.models["a.c"]);
        assert_eq!(plain.latency.base, Base::Constant(Duration::from_secs(2)));
        assert_eq!(plain.answer, Length { mean: 30.0, spread: 18.0 });
        let spread = Base::Spread { p50: Duration::from_secs(1), p99: Duration::from_secs(4) };
        assert_eq!(own.latency, Latency { base: spread, per_output_token: Duration::from_millis(2) });
        assert_eq!(own.answer, Length { mean: 500.0, spread: 0.0 });
    }

    #[test]
    fn every_error_names_key_and_value_and_bound() {
        for (text, says) in [
            ("sead = 1", vec!["sead", "seed"]),
            ("counting = 'rolling'", vec!["counting", "rolling", "sliding"]),
            ("seed = -1", vec!["seed", "-1"]),
            ("minute_offset = '61s'", vec!["`minute_offset`", "1m 1s", "less than 60s"]),
            ("minute_offset = 'soon'", vec!["`minute_offset`", "soon", "30s"]),
            ("day = '0s'", vec!["`day`", "0s"]),
            ("account_tokens_per_day = 0", vec!["`account_tokens_per_day`", "0", "at least 1"]),
            ("latency = { p50 = '1s' }", vec!["`latency`", "p99"]),
            ("latency = { p50 = '2s', p99 = '1s' }", vec!["`latency.p50`", "2s", "p99"]),
            ("answer = { mean = 0 }", vec!["`answer.mean`", "0", "1 to 1000000"]),
            ("[[model]]\nid = 'haiku'", vec!["`model[0].id`", "haiku", "model id"]),
            ("[[model]]\nid = 'a.b'\nburndown = 0", vec!["`model[0].burndown`", "0", "1 to 100"]),
            ("[[model]]\nid = 'a.b'\ntpm = 5", vec!["tpm", "tokens_per_minute"]),
            ("[[model]]\nid = 'a.b'\n[[model]]\nid = 'a.b'", vec!["`model[1].id`", "a.b", "one table"]),
            ("[[fault]]\nkind = 'Oops'", vec!["`fault[0].kind`", "Oops", "ThrottlingException", "hang"]),
            ("[[fault]]\nkind = 'hang'\nprobability = 1.5", vec!["`fault[0].probability`", "1.5", "0 to 1"]),
            ("[[fault]]\nkind = 'hang'\ncalls = 'all'", vec!["`fault[0].calls`", "all", "every 7"]),
            ("[[fault]]\nkind = 'hang'\nfrom = '9s'\nuntil = '5s'", vec!["`fault[0].until`", "5s", "from"]),
            ("[[fault]]\nkind = 'hang'\nover = '5s'", vec!["`fault[0].over`", "hang"]),
            (
                "[[fault]]\nkind = 'ThrottlingException'\ntext = 'x'",
                vec!["`fault[0].text`", "x", "tokens, requests, day"],
            ),
            (
                "[[fault]]\nkind = 'ModelErrorException'\noriginal_status = 7",
                vec!["original_status`", "7", "400 to 599"],
            ),
            ("[[fault]]\nkind = 'stream_error'\nerror = 'AccessDeniedException'", vec!["`fault[0].error`", "Access"]),
            (
                "[[model]]\nid = 'a.b'\n[[fault]]\nkind = 'hang'\nmodel = 'a.c'",
                vec!["`fault[0].model`", "a.c", "[[model]]"],
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            for word in says {
                assert!(error.contains(word), "{text}: {word} is missing in: {error}");
            }
        }
    }

    #[test]
    fn every_known_error_can_be_ordered() {
        for known in &KNOWN {
            let scenario = read(&format!("[[fault]]\nkind = '{}'", known.name)).unwrap();
            assert_eq!(scenario.faults[0].name(), known.name);
        }
    }
}
