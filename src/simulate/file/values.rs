//! How are single values of a scenario file checked, and how is a wrong one named?

use std::fmt::Display;
use std::time::Duration;

use super::super::scenario::ScenarioError;
use super::super::scope::Scope;

/// The error for a value out of bounds.
pub(super) fn wrong(key: impl Into<String>, value: impl Display, bound: impl Into<String>) -> ScenarioError {
    ScenarioError::Value { key: key.into(), value: value.to_string(), bound: bound.into() }
}

/// A text as it was written.
pub(super) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// The bound of a word.
pub(super) fn one_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    format!("one of {}", names.collect::<Vec<_>>().join(", "))
}

/// A quota.
pub(super) fn limit(key: impl Into<String>, value: Option<u64>) -> Result<Option<u64>, ScenarioError> {
    match value {
        Some(0) => Err(wrong(key, 0, "at least 1; leave it out for none")),
        Some(_) | None => Ok(value),
    }
}

/// A status of an error.
pub(super) fn http_status(key: String, status: u64) -> Result<u16, ScenarioError> {
    u16::try_from(status).ok().filter(|code| (400..=599).contains(code)).ok_or_else(|| wrong(key, status, "400 to 599"))
}

/// A duration as people write it.
pub(super) fn duration(key: impl Into<String>, text: Option<&str>) -> Result<Option<Duration>, ScenarioError> {
    text.map(humantime::parse_duration)
        .transpose()
        .map_err(|_| wrong(key, quoted(text.unwrap_or_default()), "a duration such as \"30s\" or \"80ms\""))
}

/// The region of a table.
pub(super) fn region(key: impl Into<String>, text: Option<&str>) -> Result<Option<String>, ScenarioError> {
    let like_one = |text: &&str| {
        text.contains('-') && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    match text {
        Some(text) if !like_one(&text) => Err(wrong(key, quoted(text), "a region such as \"us-west-2\"")),
        Some(_) | None => Ok(text.map(str::to_owned)),
    }
}

/// What a table says about whom it concerns and when.
pub(super) fn scope(key: &str, [model, in_region, from, until]: [Option<&str>; 4]) -> Result<Scope, ScenarioError> {
    let at = |name: &str| format!("{key}.{name}");
    let from = duration(at("from"), from)?.unwrap_or_default();
    let until = duration(at("until"), until)?;
    if let Some(end) = until.filter(|until| *until <= from) {
        return Err(wrong(at("until"), humantime::format_duration(end), "later than `from`"));
    }
    Ok(Scope { model: model.map(str::to_owned), region: region(at("region"), in_region)?, from, until })
}
