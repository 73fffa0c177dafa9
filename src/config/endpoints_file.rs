//! What does the endpoints file of the well-known helper say? A JSON list with an object for each region, read as it is,
//! so that whoever has one names it in `routing.endpoints_file` and is done.
//!
//! ```json
//! [{ "region": "us-west-2", "next_available_time": 0, "primary": true, "region_profile_prefix": "us" }]
//! ```
//!
//! It is somebody else's format: keys that we do not know are passed over, and `null` is as good as absent. A key that we
//! do know and that says nothing we can use is an error all the same, for the run would go elsewhere than its owner thinks.

use serde_json::{Map, Value};

use super::EndpointSettings;
use super::endpoint::{GEOGRAPHY, REGION, is_word};
use super::error::ConfigError;
use super::typed::{Problems, shortened};
use crate::job::units::Timestamp;

/// The last second of 9999. What lies beyond is most likely milliseconds, and would shut the endpoint for good.
const LAST_SECOND: f64 = 253_402_300_799.0;
const MOMENT: &str =
    "a number of seconds since 1970, at most 253402300799, or a time such as \"2026-11-21T18:00:00Z\", or null";

/// The file as `routing.endpoints_file` names it.
#[derive(Debug)]
pub(super) struct EndpointsFile {
    /// What named it: the key, or the variable that set it.
    pub(super) key: String,
    /// As typed.
    pub(super) path: String,
}

impl EndpointsFile {
    /// Its endpoints in its order, but for those that are wrong; `read` gets its text.
    pub(super) fn endpoints(
        self,
        read: impl FnOnce(&str) -> Result<String, String>,
        problems: &mut Problems,
    ) -> Vec<EndpointSettings> {
        let entries = match read(&self.path).and_then(|text| entries_of(&text)) {
            Ok(entries) => entries,
            Err(why) => {
                problems.errors.push(ConfigError::NoEndpointsFile { key: self.key, value: self.path, why });
                return Vec::new();
            }
        };
        let mut endpoints: Vec<EndpointSettings> = Vec::with_capacity(entries.len());
        for (entry, number) in entries.iter().zip(1..) {
            let mut wrong = Vec::new();
            if let Some(endpoint) = endpoint_of(entry, &mut wrong) {
                if endpoints.iter().any(|earlier| earlier.region == endpoint.region) {
                    wrong.push(ConfigError::Twice { key: "region".to_owned(), value: endpoint.region.to_string() });
                } else {
                    endpoints.push(endpoint);
                }
            }
            problems.errors.extend(wrong.into_iter().map(|error| ConfigError::InEndpointsFile {
                file: self.path.clone(),
                entry: number,
                error: Box::new(error),
            }));
        }
        endpoints
    }
}

fn entries_of(text: &str) -> Result<Vec<Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Array(entries)) if entries.is_empty() => Err("its list is empty".to_owned()),
        Ok(Value::Array(entries)) => Ok(entries),
        Ok(other) => Err(format!("it holds {} and no list", shortened(other.to_string()))),
        Err(error) => Err(format!("not valid JSON: {error}")),
    }
}

fn endpoint_of(entry: &Value, wrong: &mut Vec<ConfigError>) -> Option<EndpointSettings> {
    let Value::Object(keys) = entry else {
        wrong.push(wrong_type("entry", entry, "an object"));
        return None;
    };
    let primary = primary_of(keys, wrong);
    let region_profile_prefix = text_of(keys, "region_profile_prefix", GEOGRAPHY, wrong);
    let next_available_time = next_available_time_of(keys, wrong);
    let region = text_of(keys, "region", REGION, wrong);
    if said(keys, "region").is_none() {
        wrong.push(ConfigError::Missing { key: "region".to_owned() });
    }
    let region = region?;
    if region.is_empty() {
        wrong.push(out_of_bounds("region", &Value::String(region), REGION));
        return None;
    }
    Some(EndpointSettings { primary, region_profile_prefix, next_available_time, ..EndpointSettings::bare(&region) })
}

fn said<'v>(keys: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    keys.get(key).filter(|value| !value.is_null())
}

fn primary_of(keys: &Map<String, Value>, wrong: &mut Vec<ConfigError>) -> bool {
    match said(keys, "primary") {
        None => false,
        Some(Value::Bool(primary)) => *primary,
        Some(other) => {
            wrong.push(wrong_type("primary", other, "true or false"));
            false
        }
    }
}

/// A word, or nothing at all.
fn text_of(keys: &Map<String, Value>, key: &str, bound: &str, wrong: &mut Vec<ConfigError>) -> Option<String> {
    match said(keys, key)? {
        Value::String(text) if is_word(text) => Some(text.clone()),
        other => {
            wrong.push(if other.is_string() {
                out_of_bounds(key, other, bound)
            } else {
                wrong_type(key, other, bound)
            });
            None
        }
    }
}

fn next_available_time_of(keys: &Map<String, Value>, wrong: &mut Vec<ConfigError>) -> Option<Timestamp> {
    let key = "next_available_time";
    let value = said(keys, key)?;
    let moment = match value {
        Value::Number(seconds) => seconds.as_f64().filter(|seconds| *seconds <= LAST_SECOND).map(of_seconds),
        Value::String(text) if text.trim().is_empty() => return None,
        Value::String(text) => of_text(text.trim()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            wrong.push(wrong_type(key, value, MOMENT));
            return None;
        }
    };
    if moment.is_none() {
        wrong.push(out_of_bounds(key, value, MOMENT));
    }
    moment
}

/// Before 1970 is as long past as 1970. Never earlier than was written.
#[expect(clippy::cast_possible_truncation, reason = "between 0 and the year 9999")]
fn of_seconds(seconds: f64) -> Timestamp {
    Timestamp((seconds.max(0.0) * 1_000.0).ceil() as i64)
}

/// An ISO 8601 time; where it has no offset it is taken as UTC.
fn of_text(text: &str) -> Option<Timestamp> {
    let without_offset = || {
        let time: jiff::civil::DateTime = text.parse().ok()?;
        Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    };
    let time = text.parse::<jiff::Timestamp>().ok().or_else(without_offset)?;
    Some(Timestamp(time.as_millisecond()))
}

fn wrong_type(key: &str, value: &Value, expected: &str) -> ConfigError {
    let (key, value) = (key.to_owned(), shortened(value.to_string()));
    ConfigError::WrongType { key, value, expected: expected.to_owned() }
}

fn out_of_bounds(key: &str, value: &Value, bound: &str) -> ConfigError {
    let (key, value) = (key.to_owned(), shortened(value.to_string()));
    ConfigError::OutOfBounds { key, value, bound: bound.to_owned() }
}
