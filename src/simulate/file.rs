//! How is a scenario written down? The typed-in shape, and the checks that turn it into a [`Scenario`].
//!
//! Every key, its unit, default and bounds stand in `examples/scenarios/`.

mod events;
mod fault;
mod model;
mod values;

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use self::events::{TypedBrownout, TypedQuota, TypedStranger};
use self::fault::TypedFault;
use self::model::{TypedAnswer, TypedLatency, TypedModel};
use self::values::{duration, limit, quoted, wrong};
use super::ledger::{Counting, Excess};
use super::request::foundation;
use super::scenario::{Model, Scenario, ScenarioError};
use super::scope::Scope;

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
    #[serde(default)]
    brownout: Vec<TypedBrownout>,
    #[serde(default)]
    stranger: Vec<TypedStranger>,
    #[serde(default)]
    quota: Vec<TypedQuota>,
}

impl File {
    fn resolve(self) -> Result<Scenario, ScenarioError> {
        let usual = Scenario::default();
        let latency = TypedLatency::resolve(self.latency.as_ref(), "latency", usual.any.latency)?;
        let unasked = (usual.any.answer, usual.any.answer_from_prompt);
        let (answer, answer_from_prompt) = TypedAnswer::resolve(self.answer.as_ref(), "answer", unasked)?;
        let any = Model { latency, answer, answer_from_prompt, ..Model::default() };
        let mut scenario = Scenario {
            seed: self.seed.unwrap_or(usual.seed),
            counting: self.counting.unwrap_or_default(),
            minute_offset: duration("minute_offset", self.minute_offset.as_deref())?,
            settlement_excess: self.settlement_excess.unwrap_or_default(),
            cache_reads_at_admission: self.cache_reads_at_admission.unwrap_or(usual.cache_reads_at_admission),
            enforce: self.enforce.unwrap_or(usual.enforce),
            day: duration("day", self.day.as_deref())?.unwrap_or(usual.day),
            account_tokens_per_day: limit("account_tokens_per_day", self.account_tokens_per_day)?,
            ..usual
        };
        if let Some(offset) = scenario.minute_offset.filter(|offset| *offset >= Duration::from_secs(60)) {
            return Err(wrong("minute_offset", humantime::format_duration(offset), "less than 60s"));
        }
        if scenario.day.is_zero() {
            return Err(wrong("day", "0s", "more than nothing"));
        }
        for (place, model) in self.model.iter().enumerate() {
            let key = format!("model[{place}]");
            let resolved = Arc::new(model.resolve(&key, &any)?);
            let by_region = scenario.models.entry(model.id.clone()).or_default();
            let twice = match &model.region {
                Some(region) => by_region.regions.insert(region.clone(), resolved),
                None => by_region.elsewhere.replace(resolved),
            };
            if twice.is_some() {
                return Err(wrong(format!("{key}.id"), quoted(&model.id), "one table a model and region"));
            }
        }
        for (place, fault) in self.fault.iter().enumerate() {
            let key = format!("fault[{place}]");
            let fault = fault.resolve(&key)?;
            scenario.knows(&key, &fault.scope)?;
            scenario.faults.push(fault);
        }
        for (place, brownout) in self.brownout.iter().enumerate() {
            let key = format!("brownout[{place}]");
            let brownout = brownout.resolve(&key)?;
            scenario.knows(&key, &brownout.scope)?;
            scenario.brownouts.push(brownout);
        }
        for (place, stranger) in self.stranger.iter().enumerate() {
            let key = format!("stranger[{place}]");
            let stranger = stranger.resolve(&key)?;
            scenario.knows(&key, &stranger.scope)?;
            scenario.strangers.push(stranger);
        }
        for (place, quota) in self.quota.iter().enumerate() {
            let key = format!("quota[{place}]");
            let change = quota.resolve(&key)?;
            scenario.knows(&key, &change.scope)?;
            scenario.changes.push(change);
        }
        scenario.any = Arc::new(any);
        Ok(scenario)
    }
}

impl Scenario {
    /// A table that could never concern anything is a mistake of whoever wrote it.
    fn knows(&self, key: &str, scope: &Scope) -> Result<(), ScenarioError> {
        if self.models.is_empty() {
            return Ok(());
        }
        let named = |id: &str| scope.model.as_deref().is_none_or(|name| name == id || name == foundation(id));
        let mut meant = self.models.iter().filter(|(id, _)| named(id)).peekable();
        if meant.peek().is_none() {
            let model = quoted(scope.model.as_deref().unwrap_or_default());
            return Err(wrong(format!("{key}.model"), model, "the id of a [[model]] table"));
        }
        let Some(region) = scope.region.as_deref() else { return Ok(()) };
        if !meant.any(|(_, model)| model.at(region).is_some()) {
            return Err(wrong(format!("{key}.region"), quoted(region), "a region of a [[model]] table"));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::super::chance::{Base, Latency, Length};
    use super::super::errors::KNOWN;
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
        let (plain, own) = (scenario.models["a.b"].at("us-east-1").unwrap(), scenario.models["a.c"].at("").unwrap());
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
            ("[[fault]]\nkind = 'stream_error'\nerror = 'ModelErrorException'", vec!["`fault[0].error`", "ModelError"]),
            (
                "[[model]]\nid = 'a.b'\n[[fault]]\nkind = 'hang'\nmodel = 'a.c'",
                vec!["`fault[0].model`", "a.c", "[[model]]"],
            ),
            ("[[model]]\nid = 'a.b'\ncapacity = 0", vec!["`model[0].capacity`", "0", "at least 1"]),
            (
                "[[model]]\nid = 'a.b'\ncapacity_error = 'overloaded'",
                vec!["`model[0].capacity_error`", "overloaded", "with `capacity`"],
            ),
            (
                "[[model]]\nid = 'a.b'\ncapacity = 1\ncapacity_error = 'busy'",
                vec!["`model[0].capacity_error`", "busy", "ServiceUnavailableException, overloaded"],
            ),
            ("[[brownout]]\nuntil = '9s'", vec!["`brownout[0]`", "latency_factor", "capacity"]),
            ("[[brownout]]\nlatency_factor = 0", vec!["`brownout[0].latency_factor`", "0", "0.01 to 1000"]),
            ("[[brownout]]\nlatency_factor = 2\nerror = 'overloaded'", vec!["`brownout[0].error`", "capacity"]),
            ("[[brownout]]\ncapacity = 2\nerror = 'x'", vec!["`brownout[0].error`", "x", "overloaded"]),
            ("[[fault]]\nkind = 'refuse'\nover = '5s'", vec!["`fault[0].over`", "refuse"]),
            ("[[stranger]]\nmodel = 'a.b'", vec!["tokens_per_minute"]),
            ("[[stranger]]\nmodel = 'a.b'\ntokens_per_minute = 0", vec!["`stranger[0].tokens_per_minute`", "0"]),
            (
                "[[stranger]]\nmodel = 'a.b'\ntokens_per_minute = 9\nevery = '1ms'",
                vec!["`stranger[0].every`", "1ms", "10ms to 60s"],
            ),
            (
                "[[stranger]]\nmodel = 'a.b'\ntokens_per_minute = 9\nfrom = '9s'\nuntil = '9s'",
                vec!["`stranger[0].until`", "9s", "from"],
            ),
            ("[[quota]]\nmodel = 'a.b'\ntokens_per_minute = 9", vec!["from"]),
            ("[[quota]]\nmodel = 'a.b'\nfrom = '9s'", vec!["`quota[0]`", "requests_per_minute"]),
            (
                "[[model]]\nid = 'a.b'\n[[quota]]\nmodel = 'a.c'\nfrom = '9s'\ntokens_per_minute = 1",
                vec!["`quota[0].model`", "a.c", "[[model]]"],
            ),
            ("[[model]]\nid = 'a.b'\nregion = 'Oregon'", vec!["`model[0].region`", "Oregon", "us-west-2"]),
            ("[[fault]]\nkind = 'hang'\nregion = ''", vec!["`fault[0].region`", "\"\"", "us-west-2"]),
            (
                "[[model]]\nid = 'a.b'\nregion = 'eu-west-1'\n[[model]]\nid = 'a.b'\nregion = 'eu-west-1'",
                vec!["`model[1].id`", "a.b", "one table"],
            ),
            (
                "[[model]]\nid = 'a.b'\nregion = 'eu-west-1'\n[[fault]]\nkind = 'hang'\nregion = 'eu-west-2'",
                vec!["`fault[0].region`", "eu-west-2", "[[model]]"],
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
