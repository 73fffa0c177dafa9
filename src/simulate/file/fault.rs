//! How is a fault written down? `[[fault]]`: its kind, what the kind takes, and the conditions.

use std::time::Duration;

use serde::Deserialize;

use super::super::errors::{self, KNOWN, Refused};
use super::super::fault::{Calls, Fault, Kind};
use super::super::scenario::ScenarioError;
use super::values::{duration, http_status, one_of, quoted, scope, wrong};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedFault {
    kind: String,
    text: Option<String>,
    message: Option<String>,
    status: Option<u64>,
    original_status: Option<u64>,
    retry_after: Option<String>,
    over: Option<String>,
    error: Option<String>,
    model: Option<String>,
    region: Option<String>,
    probability: Option<f64>,
    from: Option<String>,
    until: Option<String>,
    calls: Option<String>,
}

impl TypedFault {
    pub(super) fn resolve(&self, key: &str) -> Result<Fault, ScenarioError> {
        let at = |name: &str| format!("{key}.{name}");
        let kind = self.kind(key)?;
        self.only_what_applies(key, &kind)?;
        if let Some(probability) = self.probability.filter(|probability| !(0.0..=1.0).contains(probability)) {
            return Err(wrong(at("probability"), probability, "0 to 1"));
        }
        let words = [&self.model, &self.region, &self.from, &self.until].map(Option::as_deref);
        let scope = scope(key, words)?;
        let calls = match self.calls.as_deref() {
            None => None,
            Some(text) => Some(Calls::parse(text).ok_or_else(|| {
                wrong(at("calls"), quoted(text), "call numbers from 1, as in \"5\", \"10-20\" or \"every 7\"")
            })?),
        };
        Ok(Fault { kind, scope, probability: self.probability, calls })
    }

    fn kind(&self, key: &str) -> Result<Kind, ScenarioError> {
        let at = |name: &str| format!("{key}.{name}");
        Ok(match self.kind.as_str() {
            "refuse" => Kind::Refuse,
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
                    let ours = ["refuse", "hang", "drop", "truncate", "slow_body", "empty", "garbage", "stream_error"];
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
            Kind::Refuse
            | Kind::Hang
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
