//! A job in the contract's own form.

use std::num::NonZeroU32;

use serde_json::{Map, Value};

use super::fields::{Fault, Field, Kind, shown, shown_key};
use super::{Callback, Parts};
use crate::job::agent::AgentCall;
use crate::job::document::Document;
use crate::job::ident::{BatchName, JobId, Tenant};
use crate::job::ingest::DataSource;
use crate::job::spec::{MaxTokens, Priority, Request, TaskToken};
use crate::job::units::Timestamp;

const KEYS: [&str; 18] = [
    "id",
    "batch",
    "tenant",
    "model",
    "prompt",
    "converse",
    "invoke",
    "agent",
    "ingest",
    "document",
    "payload",
    "max_tokens",
    "fallback",
    "deadline",
    "priority",
    "residency",
    "callback",
    "metadata",
];

/// What a job may be, besides a claim check (`payload`).
pub const REQUESTS: [&str; 6] = ["prompt", "converse", "invoke", "agent", "ingest", "document"];
/// What a claim check stands for has at most so many bytes.
pub const PAYLOAD_BYTES: usize = 16 << 20;
/// How much of an `s3://` URI is shown: a bucket's name and most of the keys that people give.
const LONGEST_URI: usize = 256;

/// Where a job was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Found {
    /// On a line of a file.
    Line,
    /// In a message of the queue, which puts what a claim check stands for in its place.
    Message,
}

pub(super) fn read(fields: &[Field<'_>], found: Found) -> Result<Parts, Fault> {
    let mut request = None::<(Request, &Field<'_>)>;
    let mut parts = Parts::new(Request::Prompt(String::new()));
    for field in fields {
        // It is taken as such wherever a key may be left out.
        let unset = field.is_unset();
        match field.key.as_str() {
            key if !KEYS.contains(&key) => return Err(unknown_key(field)),
            _ if unset => {}
            "id" => parts.id = Some(name(field, JobId::new)?),
            "batch" => parts.batch = Some(name(field, BatchName::new)?),
            "tenant" => parts.tenant = Some(name(field, Tenant::new)?),
            "model" => parts.model = Some(model(field)?),
            "max_tokens" => parts.max_tokens = max_tokens(field)?,
            "fallback" => parts.fallback = Some(field.boolean()?),
            "deadline" => parts.deadline = Some(deadline(field)?),
            "priority" => parts.priority = Some(priority(field)?),
            "residency" => parts.residency = Some(residency(field)?),
            "metadata" => parts.metadata = field.object()?,
            "callback" => parts.callback = Some(callback(field)?),
            "payload" => {
                let other = fields.iter().find(|field| REQUESTS.contains(&field.key.as_str()) && !field.is_unset());
                return Err(other.map_or_else(|| unread_payload(field, found), |other| both(other, field)));
            }
            _ => {
                if let Some((_, first)) = &request {
                    return Err(both(first, field));
                }
                request = Some((read_request(field)?, field));
            }
        }
    }
    let (request, _) = request.ok_or_else(|| {
        Fault::nowhere(
            "nothing to send: a job has a `prompt`, a `converse`, an `invoke`, an `agent`, an `ingest` or a `document`",
        )
    })?;
    parts.request = request;
    Ok(parts)
}

fn both(one: &Field<'_>, other: &Field<'_>) -> Fault {
    let reason = format!("both `{}` and `{}`: a job is exactly one of them", one.key, other.key);
    Fault::at(other.key_at, reason)
}

/// A claim check that nothing was put in the place of.
fn unread_payload(field: &Field<'_>, found: Found) -> Fault {
    match (found, field.text()) {
        (Found::Line, _) => field.fault("`payload` is for messages of a fleet's queue: put the job itself here"),
        (Found::Message, Ok(uri)) if uri.starts_with("s3://") => {
            let (uri, limit) = (shown(&uri, LONGEST_URI), PAYLOAD_BYTES >> 20);
            field.fault(format!("`payload`: there is nothing to read at {uri}: no JSON object of at most {limit} MiB"))
        }
        (Found::Message, Ok(_)) => field.fault("`payload` must say where the job lies, such as s3://bucket/key"),
        (Found::Message, Err(fault)) => fault,
    }
}

/// `{ "task_token": "..." }` and nothing else.
pub(in crate::job) fn callback(field: &Field<'_>) -> Result<Callback, Fault> {
    let mut object = field.object()?;
    let token = match object.remove("task_token") {
        Some(Value::String(token)) => TaskToken::new(&token),
        Some(_) | None => None,
    };
    if let Some(key) = object.keys().next() {
        return Err(field.fault(format!("`callback` has no key `{}`; it is {{ \"task_token\": ... }}", shown_key(key))));
    }
    let token = token.ok_or_else(|| {
        field.fault(format!("`callback.task_token` must be a string of 1 to {} characters", TaskToken::LONGEST))
    })?;
    Ok(Callback { token, at: field.key_at })
}

fn read_request(field: &Field<'_>) -> Result<Request, Fault> {
    match field.key.as_str() {
        "converse" => converse(field.object()?, field),
        "invoke" => invoke(field.object()?, field),
        "agent" => AgentCall::read(&field.object()?).map(Request::Agent).map_err(|why| field.fault(why)),
        "ingest" => DataSource::read(&field.object()?).map(Request::Ingest).map_err(|why| field.fault(why)),
        "document" => {
            let document = Document::read(&field.object()?).map_err(|why| field.fault(why))?;
            Ok(Request::Document(Box::new(document)))
        }
        _ => prompt(field.text()?, field.at),
    }
}

/// A prompt that says something: the service refuses blank text, after a call.
pub(super) fn prompt(text: String, at: usize) -> Result<Request, Fault> {
    if text.trim().is_empty() {
        return Err(Fault::at(at, "the prompt is empty"));
    }
    Ok(Request::Prompt(text))
}

/// A Converse request that can be sent.
pub(super) fn converse(request: Map<String, Value>, field: &Field<'_>) -> Result<Request, Fault> {
    let key = &field.key;
    if request.contains_key("modelId") {
        return Err(field.fault(format!("`{key}.modelId`: leave it out, the job's `model` says it")));
    }
    match request.get("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => {}
        Some(Value::Array(_)) => return Err(field.fault(format!("`{key}.messages` is empty"))),
        Some(other) => {
            let found = Kind::of(other).words();
            return Err(field.fault(format!("`{key}.messages` must be an array, found {found}")));
        }
        None => return Err(field.fault(format!("`{key}` has no `messages`"))),
    }
    match request.get("inferenceConfig") {
        None => {}
        Some(Value::Object(config)) => {
            let cap = config.get("maxTokens");
            if cap.is_some_and(|cap| whole(cap).is_none_or(|cap| cap == 0)) {
                let reason = format!("`{key}.inferenceConfig.maxTokens` must be a whole number from 1 to {}", u32::MAX);
                return Err(field.fault(reason));
            }
        }
        Some(other) => {
            let found = Kind::of(other).words();
            return Err(field.fault(format!("`{key}.inferenceConfig` must be an object, found {found}")));
        }
    }
    Ok(Request::Converse(request))
}

/// An `InvokeModel` body. Each model family has its own, so only an empty one is known to be wrong.
pub(super) fn invoke(body: Map<String, Value>, field: &Field<'_>) -> Result<Request, Fault> {
    if body.is_empty() {
        return Err(field.fault(format!("`{}` is empty", field.key)));
    }
    Ok(Request::Invoke(body))
}

/// An id of another form, held to the same rule.
pub(in crate::job) fn name<T>(
    field: &Field<'_>,
    new: impl Fn(&str) -> Result<T, crate::job::ident::NameError>,
) -> Result<T, Fault> {
    new(&field.text()?).map_err(|error| field.fault(error.to_string()))
}

/// The key is not one of `of`'s; says which was perhaps meant.
pub(in crate::job) fn unknown_key_among(field: &Field<'_>, known: &[&str], of: &str) -> Fault {
    let key = shown_key(&field.key);
    let reason = match closest(&field.key, known) {
        Some(meant) => format!("unknown key `{key}` in {of}; did you mean `{meant}`?"),
        None => format!("unknown key `{key}` in {of}"),
    };
    Fault::at(field.key_at, reason)
}

fn unknown_key(field: &Field<'_>) -> Fault {
    const OF_CONVERSE: [&str; 6] =
        ["messages", "system", "inferenceConfig", "toolConfig", "additionalModelRequestFields", "modelId"];
    if let Some(key) = OF_CONVERSE.into_iter().find(|key| *key == field.key) {
        let reason = if key == "modelId" {
            "unknown key `modelId`; did you mean `model`?".to_owned()
        } else {
            format!("unknown key `{key}`; a Converse request stands inside `converse`")
        };
        return Fault::at(field.key_at, reason);
    }
    unknown_key_among(field, &KEYS, "a job")
}

fn closest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    if key.len() > 40 {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace(['_', '-', ' '], "");
    known
        .iter()
        .map(|candidate| (strsim::osa_distance(&plain(key), &plain(candidate)), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).min(2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

pub(in crate::job) fn model(field: &Field<'_>) -> Result<String, Fault> {
    const LIMIT: usize = 2_048; // the service's, for ARNs
    let model = field.text()?;
    if model.trim().is_empty() {
        return Err(field.fault("`model` is empty"));
    }
    if model.len() > LIMIT || model.chars().any(char::is_control) {
        return Err(
            field.fault(format!("`model` is no name of a model: more than {LIMIT} bytes, or control characters"))
        );
    }
    Ok(model)
}

fn whole(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

fn max_tokens(field: &Field<'_>) -> Result<MaxTokens, Fault> {
    let expected = format!("a whole number from 1 to {} or \"auto\"", u32::MAX);
    match field.kind() {
        Kind::Number => {
            let number = field.any()?;
            let cap = whole(&number).and_then(NonZeroU32::new).map(MaxTokens::Cap);
            cap.ok_or_else(|| field.fault(format!("`max_tokens` must be {expected}, found {number}")))
        }
        Kind::Text if field.text()? == "auto" => Ok(MaxTokens::Auto),
        Kind::Null | Kind::Boolean | Kind::Text | Kind::Array | Kind::Object | Kind::Nothing => {
            Err(field.wrong_kind(&expected))
        }
    }
}

fn priority(field: &Field<'_>) -> Result<Priority, Fault> {
    let expected = "a whole number from 0 (first) to 9 (last)";
    if field.kind() != Kind::Number {
        return Err(field.wrong_kind(expected));
    }
    let number = field.any()?;
    let priority = number.as_u64().and_then(Priority::new);
    priority.ok_or_else(|| field.fault(format!("`priority` must be {expected}, found {number}")))
}

/// An RFC 3339 time.
pub(in crate::job) fn deadline(field: &Field<'_>) -> Result<Timestamp, Fault> {
    let text = field.text()?;
    let time = is_rfc_3339(&text).then(|| text.parse::<jiff::Timestamp>().ok()).flatten();
    time.map(|time| Timestamp(time.as_millisecond()))
        .ok_or_else(|| field.fault("`deadline` must be an RFC 3339 time with its offset, such as 2026-11-21T18:00:00Z"))
}

/// The shape alone: the parser behind it takes other notations too, which other readers of the same job would not.
fn is_rfc_3339(text: &str) -> bool {
    let digits = |text: &str, pattern: &str| {
        text.len() == pattern.len()
            && text.bytes().zip(pattern.bytes()).all(|(byte, expected)| match expected {
                b'0' => byte.is_ascii_digit(),
                other => byte.eq_ignore_ascii_case(&other),
            })
    };
    let Some((moment, rest)) = text.split_at_checked(19) else { return false };
    let offset = match rest.strip_prefix('.') {
        None => rest,
        Some(fraction) => {
            let offset = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if offset.len() == fraction.len() {
                return false;
            }
            offset
        }
    };
    digits(moment, "0000-00-00T00:00:00")
        && (digits(offset, "Z") || digits(offset, "+00:00") || digits(offset, "-00:00"))
}

fn residency(field: &Field<'_>) -> Result<Vec<String>, Fault> {
    let regions = field.array()?;
    if regions.is_empty() {
        return Err(field.fault("`residency` is empty: leave it out to allow every configured region"));
    }
    let region = |value: Value| {
        let Value::String(region) = value else {
            let found = Kind::of(&value).words();
            return Err(field.fault(format!("`residency` must be an array of strings, found {found}")));
        };
        if region.is_empty() || !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(field.fault("`residency` must name regions, such as us-east-1"));
        }
        Ok(region)
    };
    regions.into_iter().map(region).collect()
}
