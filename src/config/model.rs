//! What is known about a model: `[[model]]`.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::error::ConfigError;
use super::typed::{Named, Problems, Section};
use super::{HOUR, SECOND, number};
use crate::job::agent::names_an_agent;
use crate::job::units::{PerDay, PerMinute, Price, Usd};

/// Every key of a `[[model]]` that a variable may set: all but the name, by which the variable finds it.
pub(super) const KEYS: [&str; 10] = [
    "id",
    "tokens_per_minute",
    "requests_per_minute",
    "tokens_per_day",
    "counting",
    "output_burndown",
    "max_tokens",
    "call_timeout",
    "price",
    "fallback",
];

/// One `[[model]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSettings {
    /// `name`: what jobs call it. Required, unique.
    pub name: Arc<str>,
    /// `id`: the Bedrock model id, inference-profile id or ARN; of an agent, `agent/AGENTID/ALIASID`. Required.
    pub id: Arc<str>,
    /// `tokens_per_minute`: the quota, input and output together, at least 1. Omitted: not known, and learned when the
    /// service throttles.
    pub tokens_per_minute: Option<PerMinute>,
    /// `requests_per_minute`: the quota of calls, at least 1. Omitted: none, as with the newer models.
    pub requests_per_minute: Option<PerMinute>,
    /// `tokens_per_day`: the quota, at least 1. Omitted: none.
    pub tokens_per_day: Option<PerDay>,
    /// `counting`: how the service counts a minute. `"learn"` (the default) finds out, at the price of a few refused calls,
    /// and finds out the quota as well; `"bucket"`, `"sliding"` or `"fixed"` (minutes of the UTC clock) is kept to, and
    /// nothing is tried.
    pub counting: Counting,
    /// `output_burndown`: quota tokens per output token, 1 to 100. Omitted: by the id, see [`burndown_of`].
    pub output_burndown: u32,
    /// `max_tokens`: the cap on output tokens of jobs that name none, 1 to 4,294,967,295, default 1,024. The service
    /// reserves it in full, so never the model's maximum.
    pub max_tokens: NonZeroU32,
    /// `call_timeout`: a call is given up after this, 1 s to 11 h. Omitted: 120 s and 50 ms for every token of the
    /// cap, see [`call_timeout_for`](Self::call_timeout_for); of an agent, 10 min.
    pub call_timeout: Option<Duration>,
    /// `price`: US dollars per million tokens. Omitted: costs are not known and shown as 0, and `--max-cost` is refused.
    /// Within it `input` and `output` are required; `cache_read` defaults to `input`, `cache_write` to 1.25 times
    /// `input`.
    pub price: Option<Price>,
    /// `fallback`: names of models that may answer when this one is overloaded, in this order. Default none.
    pub fallback: Vec<Arc<str>>,
}

/// How the service counts a minute; it does not say.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Counting {
    /// Find out by which refusals and admissions contradict.
    #[default]
    Learn,
    /// A token bucket that holds one minute's quota.
    Bucket,
    /// Any 60 seconds.
    Sliding,
    /// Minutes of the clock.
    Fixed,
}

/// The quotas of a model at one endpoint; `None` is none, or not known.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Quota {
    /// Tokens a minute.
    pub tokens_per_minute: Option<PerMinute>,
    /// Calls a minute.
    pub requests_per_minute: Option<PerMinute>,
    /// Tokens a day.
    pub tokens_per_day: Option<PerDay>,
}

impl ModelSettings {
    /// A model that is not configured, by its id: no quota known, no price.
    pub fn bare(id: &str) -> Self {
        Self {
            name: id.into(),
            id: id.into(),
            tokens_per_minute: None,
            requests_per_minute: None,
            tokens_per_day: None,
            counting: Counting::default(),
            output_burndown: burndown_of(id),
            max_tokens: number(1_024),
            call_timeout: None,
            price: None,
            fallback: Vec::new(),
        }
    }

    /// Whether it is an agent: it is called by jobs that name it under `agent`, and its tokens are not known.
    pub fn is_agent(&self) -> bool {
        names_an_agent(&self.id)
    }

    /// How long a call with this cap on output tokens may take. A deadline shorter than an honest answer would pay for
    /// it and throw it away, so it grows with the cap: 20 tokens a second is slower than any model writes.
    pub fn call_timeout_for(&self, cap: u32) -> Duration {
        // An agent may ask its models many times, and wait for what it calls in between.
        let usual = if self.is_agent() { 600 * SECOND } else { 120 * SECOND + cap * Duration::from_millis(50) };
        self.call_timeout.unwrap_or(usual)
    }

    /// Its quotas where no endpoint says otherwise.
    pub fn quota(&self) -> Quota {
        Quota {
            tokens_per_minute: self.tokens_per_minute,
            requests_per_minute: self.requests_per_minute,
            tokens_per_day: self.tokens_per_day,
        }
    }
}

/// How many quota tokens an output token of this model counts, as the service documents it: 15 for Claude 4.8,
/// 10 for Claude 5 and later and for GPT-5.6, 5 for every other Claude, 1 for everything else. Of Claude versions that are not
/// documented yet the newest rate is assumed, and 5 for an ARN that does not name its model: too high a
/// rate costs speed, too low a rate throttles.
pub fn burndown_of(id: &str) -> u32 {
    if let Some((_, version)) = id.split_once("claude-") {
        return match claude_version(version) {
            Some((4, minor)) if minor >= 8 => 15,
            Some((major, _)) if major <= 4 => 5,
            Some(_) | None => 10,
        };
    }
    if id.contains("gpt-5.6") || id.contains("gpt-5-6") {
        return 10;
    }
    if id.contains("anthropic.") || id.contains("application-inference-profile/") { 5 } else { 1 }
}

/// From how many tokens on a beginning is cached by this model, as the service documents it; `None` where nothing is known
/// of it. A mark on a shorter one does no harm, one sent to a model without a cache is refused.
pub fn cache_minimum_of(id: &str) -> Option<u32> {
    if let Some((_, name)) = id.split_once("claude-") {
        return match claude_version(name)? {
            _ if name.starts_with("opus-5") || name.starts_with("fable-5") => Some(512),
            (4, 5..=7) if name.starts_with("opus") => Some(4_096),
            (4, 5) if name.starts_with("haiku") => Some(4_096),
            (4 | 5, _) => Some(1_024),
            _ => None,
        };
    }
    let is_nova =
        ["nova-micro", "nova-lite", "nova-pro", "nova-premier", "nova-2"].iter().any(|name| id.contains(name));
    is_nova.then_some(1_024)
}

/// Of `haiku-4-5-20251001-v1:0` and `3-5-sonnet-20241022-v2:0`: the first number, and the one behind it if it is no
/// date.
fn claude_version(name: &str) -> Option<(u32, u32)> {
    let small = |part: &&str| part.len() <= 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = name.split(['-', '.']).skip_while(|part| !small(part));
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next().filter(small).and_then(|minor| minor.parse().ok()).unwrap_or(0);
    Some((major, minor))
}

pub(super) fn read(named: Named, problems: &mut Problems) -> Option<ModelSettings> {
    let mut section = Section::new(named.path, named.table, problems);
    let name = required(&mut section, "name");
    let id = required(&mut section, "id");
    let mut model = ModelSettings::bare(id.as_deref().unwrap_or_default());
    let quota = read_quota(&mut section);
    model.tokens_per_minute = quota.tokens_per_minute;
    model.requests_per_minute = quota.requests_per_minute;
    model.tokens_per_day = quota.tokens_per_day;
    model.counting = read_counting(&mut section).unwrap_or_default();
    model.output_burndown = section.number("output_burndown", 1..=100).map_or(model.output_burndown, NonZeroU32::get);
    model.max_tokens = section.number("max_tokens", 1..=u32::MAX).unwrap_or(model.max_tokens);
    model.call_timeout = section.duration("call_timeout", SECOND..=11 * HOUR);
    model.price = read_price(&mut section);
    if let Some(fallback) = section.names("fallback") {
        model.fallback = fallback.iter().map(|name| name.as_str().into()).collect();
    }
    section.finish();
    model.name = name?.as_str().into();
    id.map(|_| model)
}

/// A text that must be there and say something.
pub(super) fn required(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    let text = section.required(|section| section.text(key), key)?;
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        section.out_of_bounds(key, &text.escape_debug().to_string(), "a text that is not empty");
        return None;
    }
    Some(text)
}

pub(super) fn read_quota(section: &mut Section<'_>) -> Quota {
    let bounds = 1..=i64::MAX.unsigned_abs();
    Quota {
        tokens_per_minute: section.count("tokens_per_minute", bounds.clone()).map(PerMinute),
        requests_per_minute: section.count("requests_per_minute", bounds.clone()).map(PerMinute),
        tokens_per_day: section.count("tokens_per_day", bounds).map(PerDay),
    }
}

fn read_counting(section: &mut Section<'_>) -> Option<Counting> {
    let name = section.text("counting")?;
    let counting = match name.as_str() {
        "learn" => Some(Counting::Learn),
        "bucket" => Some(Counting::Bucket),
        "sliding" => Some(Counting::Sliding),
        "fixed" => Some(Counting::Fixed),
        _ => None,
    };
    if counting.is_none() {
        section.out_of_bounds("counting", &name, "\"learn\", \"bucket\", \"sliding\" or \"fixed\"");
    }
    counting
}

fn read_price(section: &mut Section<'_>) -> Option<Price> {
    if !section.has("price") {
        return None;
    }
    let mut price = section.section("price");
    let input = price.required(|price| price.dollars("input"), "input");
    let output = price.required(|price| price.dollars("output"), "output");
    let (cache_read, cache_write) = (price.dollars("cache_read"), price.dollars("cache_write"));
    price.finish();
    let (input, output) = (input?, output?);
    Some(Price {
        input: Usd::from_dollars(input)?,
        output: Usd::from_dollars(output)?,
        cache_read: Usd::from_dollars(cache_read.unwrap_or(input))?,
        cache_write: Usd::from_dollars(cache_write.unwrap_or(input * 1.25))?,
    })
}

/// What no model can be judged for alone.
pub(super) fn check(models: &[ModelSettings], problems: &mut Problems) {
    let names: Vec<&str> = models.iter().map(|model| &*model.name).collect();
    let mut by_id: HashMap<&str, &ModelSettings> = HashMap::new();
    for (index, model) in models.iter().enumerate() {
        let path = format!("model.{}", model.name);
        if names.iter().take(index).any(|name| *name == &*model.name) {
            problems.errors.push(ConfigError::Twice { key: "model.name".to_owned(), value: model.name.to_string() });
        }
        let twin = by_id.entry(&model.id).or_insert(model);
        if twin.quota() != model.quota() || twin.output_burndown != model.output_burndown {
            let bound =
                format!("of the same quotas and burndown as \"{}\", for models of one id share them", twin.name);
            let error = ConfigError::Contradiction { key: format!("{path}.id"), value: model.id.to_string(), bound };
            problems.errors.push(error);
        }
        if model.is_agent() {
            let of_tokens = [
                ("tokens_per_minute", model.tokens_per_minute.is_some()),
                ("tokens_per_day", model.tokens_per_day.is_some()),
                ("price", model.price.is_some()),
                ("fallback", !model.fallback.is_empty()),
            ];
            for (key, _) in of_tokens.into_iter().filter(|(_, is_set)| *is_set) {
                let (key, value) = (format!("{path}.{key}"), "set".to_owned());
                let bound = "left out: an agent's tokens are not known, and nobody answers for it".to_owned();
                problems.errors.push(ConfigError::Contradiction { key, value, bound });
            }
        }
        let key = format!("{path}.fallback");
        for (index, name) in model.fallback.iter().enumerate() {
            if !names.contains(&&**name) {
                problems.errors.push(no_such_model(key.clone(), name, &names));
            } else if *name == model.name {
                let (value, bound) = (name.to_string(), "another model than itself".to_owned());
                problems.errors.push(ConfigError::Contradiction { key: key.clone(), value, bound });
            } else if model.fallback.iter().take(index).any(|earlier| earlier == name) {
                problems.errors.push(ConfigError::Twice { key: key.clone(), value: name.to_string() });
            }
        }
    }
}

pub(super) fn no_such_model(key: String, name: &str, names: &[&str]) -> ConfigError {
    let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    ConfigError::NoSuchModel { key, value: name.to_owned(), known }
}

#[cfg(test)]
mod tests {
    use super::burndown_of;

    #[test]
    fn q3_burndown_is_that_of_the_documented_list() {
        for (id, rate) in [
            ("anthropic.claude-haiku-4-5-20251001-v1:0", 5),
            ("us.anthropic.claude-sonnet-4-6", 5),
            ("anthropic.claude-sonnet-4-20250514-v1:0", 5),
            ("anthropic.claude-3-5-sonnet-20241022-v2:0", 5),
            ("anthropic.claude-opus-4-7", 5),
            ("anthropic.claude-opus-4-8", 15),
            ("global.anthropic.claude-sonnet-5", 10),
            ("anthropic.claude-opus-5-5", 10),
            ("anthropic.claude-fable-5-1", 10),
            ("arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-opus-4-8", 15),
            ("arn:aws:bedrock:us-east-1:1:application-inference-profile/abc", 5),
            ("openai.gpt-5.6-sol", 10),
            ("openai.gpt-oss-120b-1:0", 1),
            ("amazon.nova-lite-v1:0", 1),
        ] {
            assert_eq!(burndown_of(id), rate, "{id}");
        }
    }
}
