//! How is written down what comes and goes by itself? `[[brownout]]`, `[[stranger]]` and `[[quota]]`.

use std::time::Duration;

use serde::Deserialize;

use super::super::brownout::Brownout;
use super::super::scenario::ScenarioError;
use super::super::unseen::{Change, Stranger};
use super::model::capacity;
use super::values::{duration, limit, scope, wrong};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedBrownout {
    model: Option<String>,
    region: Option<String>,
    from: Option<String>,
    until: Option<String>,
    latency_factor: Option<f64>,
    capacity: Option<u64>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedStranger {
    model: String,
    region: Option<String>,
    tokens_per_minute: u64,
    requests_per_minute: Option<u64>,
    from: Option<String>,
    until: Option<String>,
    every: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedQuota {
    model: String,
    region: Option<String>,
    from: String,
    tokens_per_minute: Option<u64>,
    requests_per_minute: Option<u64>,
}

impl TypedBrownout {
    pub(super) fn resolve(&self, key: &str) -> Result<Brownout, ScenarioError> {
        let latency_factor = self.latency_factor.unwrap_or(1.0);
        if !(0.01..=1_000.0).contains(&latency_factor) {
            return Err(wrong(format!("{key}.latency_factor"), latency_factor, "0.01 to 1000"));
        }
        let capacity = capacity(key, ["capacity", "error"], self.capacity, self.error.as_deref())?;
        if self.latency_factor.is_none() && capacity.is_none() {
            return Err(wrong(key, "without an effect", "`latency_factor`, `capacity` or both"));
        }
        let words = [&self.model, &self.region, &self.from, &self.until].map(Option::as_deref);
        Ok(Brownout { scope: scope(key, words)?, latency_factor, capacity })
    }
}

impl TypedStranger {
    pub(super) fn resolve(&self, key: &str) -> Result<Stranger, ScenarioError> {
        /// Shorter steps make no difference that a client could see, and cost time to play.
        const SHORTEST: Duration = Duration::from_millis(10);
        const LONGEST: Duration = Duration::from_secs(60);
        let at = |name: &str| format!("{key}.{name}");
        let every = duration(at("every"), self.every.as_deref())?.unwrap_or(Duration::from_millis(500));
        if !(SHORTEST..=LONGEST).contains(&every) {
            return Err(wrong(at("every"), humantime::format_duration(every), "10ms to 60s"));
        }
        limit(at("tokens_per_minute"), Some(self.tokens_per_minute))?;
        let requests_per_minute = limit(at("requests_per_minute"), self.requests_per_minute)?.unwrap_or(0);
        let words = [Some(&self.model), self.region.as_ref(), self.from.as_ref(), self.until.as_ref()];
        let scope = scope(key, words.map(|word| word.map(String::as_str)))?;
        Ok(Stranger { scope, tokens_per_minute: self.tokens_per_minute, requests_per_minute, every })
    }
}

impl TypedQuota {
    pub(super) fn resolve(&self, key: &str) -> Result<Change, ScenarioError> {
        let at = |name: &str| format!("{key}.{name}");
        let change = Change {
            scope: scope(key, [Some(&self.model), self.region.as_deref(), Some(&self.from), None])?,
            tokens_per_minute: limit(at("tokens_per_minute"), self.tokens_per_minute)?,
            requests_per_minute: limit(at("requests_per_minute"), self.requests_per_minute)?,
        };
        if change.tokens_per_minute.is_none() && change.requests_per_minute.is_none() {
            return Err(wrong(key, "without a limit", "`tokens_per_minute`, `requests_per_minute` or both"));
        }
        Ok(change)
    }
}
