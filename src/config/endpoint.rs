//! Where models are called: `[[endpoint]]`.

use std::sync::Arc;

use super::error::ConfigError;
use super::model::{ModelSettings, Quota, no_such_model, read_quota, required};
use super::typed::{Named, Problems, Section};
use crate::job::agent::names_an_agent;
use crate::job::units::{PerDay, Timestamp};

/// Every key of an `[[endpoint]]` that a variable may set: all but the region, by which the variable finds it.
pub(super) const KEYS: [&str; 5] = ["primary", "region_profile_prefix", "endpoint_url", "tokens_per_day", "quota"];

/// The geographies of inference profiles.
const GEOGRAPHIES: [&str; 9] = ["us", "us-gov", "eu", "apac", "au", "jp", "ca", "sa", "global"];

pub(super) const REGION: &str = "a region, such as \"us-east-1\"";
pub(super) const GEOGRAPHY: &str = "a geography without its dot, such as \"us\", or \"\"";

/// One `[[endpoint]]`, or one entry of the endpoints file, or what the two say together.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSettings {
    /// `region`: such as `us-west-2`. Required, unique.
    pub region: Arc<str>,
    /// `primary`: whether it comes before those that are not. Default false; where none is, all are equal.
    pub primary: bool,
    /// `region_profile_prefix`: the geography of the inference profiles that are called there, such as `us`.
    /// Omitted or `""`: the bare model id is called.
    pub region_profile_prefix: Option<String>,
    /// `endpoint_url`: an `http://` or `https://` URL in place of the region's own. Default none.
    pub endpoint_url: Option<String>,
    /// `tokens_per_day`: the account's cap over all models there, at least 1. Default none.
    pub tokens_per_day: Option<PerDay>,
    /// `quota`: where this endpoint differs from the models' own quotas.
    pub quota: Vec<QuotaOverride>,
    /// `next_available_time`, in the endpoints file only: it is not called before this moment. One that has passed means
    /// nothing. Default none.
    pub next_available_time: Option<Timestamp>,
}

/// One entry of `quota`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotaOverride {
    /// `model`: the name of a `[[model]]`. Required.
    pub model: Arc<str>,
    /// The keys are those of the model; what is omitted stays as it is there.
    pub quota: Quota,
}

impl EndpointSettings {
    /// The endpoint of a region of which nothing is said.
    pub fn bare(region: &str) -> Self {
        Self {
            region: region.into(),
            primary: true,
            region_profile_prefix: None,
            endpoint_url: None,
            tokens_per_day: None,
            quota: Vec::new(),
            next_available_time: None,
        }
    }

    /// The quotas of a model here.
    pub fn quota_of(&self, model: &ModelSettings) -> Quota {
        let own = model.quota();
        match self.quota.iter().find(|entry| entry.model == model.name) {
            None => own,
            Some(QuotaOverride { quota, .. }) => Quota {
                tokens_per_minute: quota.tokens_per_minute.or(own.tokens_per_minute),
                requests_per_minute: quota.requests_per_minute.or(own.requests_per_minute),
                tokens_per_day: quota.tokens_per_day.or(own.tokens_per_day),
            },
        }
    }

    /// The id that is called here for a model id: with the prefix, unless there is none, `cross_region` is off, or
    /// the id is an ARN, has a geography already, or is an agent's.
    pub fn model_id(&self, id: &Arc<str>, cross_region: bool) -> Arc<str> {
        let has_geography = id.split_once('.').is_some_and(|(first, _)| GEOGRAPHIES.contains(&first));
        match self.region_profile_prefix.as_deref() {
            Some(prefix)
                if cross_region
                    && !prefix.is_empty()
                    && !has_geography
                    && !id.starts_with("arn:")
                    && !names_an_agent(id) =>
            {
                format!("{prefix}.{id}").into()
            }
            _ => Arc::clone(id),
        }
    }
}

/// Reads an `[[endpoint]]`. What it does not say is as `listed`, the endpoints file, has it for the same region.
pub(super) fn read(named: Named, listed: &[EndpointSettings], problems: &mut Problems) -> Option<EndpointSettings> {
    let mut section = Section::new(named.path, named.table, problems);
    let region = required(&mut section, "region");
    if let Some(region) = region.as_deref().filter(|region| !is_word(region)) {
        section.out_of_bounds("region", region, REGION);
    }
    let listed = listed.iter().find(|endpoint| region.as_deref() == Some(&*endpoint.region));
    let primary = section.flag("primary").unwrap_or(listed.is_some_and(|endpoint| endpoint.primary));
    let region_profile_prefix = section.text("region_profile_prefix");
    if let Some(prefix) = region_profile_prefix.as_deref().filter(|prefix| !prefix.is_empty() && !is_word(prefix)) {
        section.out_of_bounds("region_profile_prefix", prefix, GEOGRAPHY);
    }
    let region_profile_prefix =
        region_profile_prefix.or_else(|| listed.and_then(|endpoint| endpoint.region_profile_prefix.clone()));
    let endpoint_url = section.text("endpoint_url");
    if let Some(url) = endpoint_url.as_deref().filter(|url| !is_url(url)) {
        section.out_of_bounds("endpoint_url", url, "a URL that begins with http:// or https://");
    }
    let tokens_per_day = section.count("tokens_per_day", 1..=i64::MAX.unsigned_abs()).map(PerDay);
    let quota = section.tables("quota");
    let quota = quota.into_iter().filter_map(|entry| read_override(entry, section.problems())).collect();
    section.finish();
    let region = region?.as_str().into();
    let next_available_time = listed.and_then(|endpoint| endpoint.next_available_time);
    Some(EndpointSettings {
        region,
        primary,
        region_profile_prefix,
        endpoint_url,
        tokens_per_day,
        quota,
        next_available_time,
    })
}

/// The endpoints of the file in its order, each as its `[[endpoint]]` has it where there is one, and then the others.
pub(super) fn merge(listed: Vec<EndpointSettings>, tables: Vec<EndpointSettings>) -> Vec<EndpointSettings> {
    let mut endpoints = listed;
    for table in tables {
        match endpoints.iter_mut().find(|endpoint| endpoint.region == table.region) {
            Some(endpoint) => *endpoint = table,
            None => endpoints.push(table),
        }
    }
    endpoints
}

fn read_override(named: Named, problems: &mut Problems) -> Option<QuotaOverride> {
    let mut section = Section::new(named.path, named.table, problems);
    let model = required(&mut section, "model");
    let quota = read_quota(&mut section);
    section.finish();
    Some(QuotaOverride { model: model?.as_str().into(), quota })
}

/// What no endpoint can be judged for alone.
pub(super) fn check(endpoints: &[EndpointSettings], models: &[ModelSettings], problems: &mut Problems) {
    let names: Vec<&str> = models.iter().map(|model| &*model.name).collect();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let region = &endpoint.region;
        if endpoints.iter().take(index).any(|earlier| earlier.region == *region) {
            let (key, value) = ("endpoint.region".to_owned(), region.to_string());
            problems.errors.push(ConfigError::Twice { key, value });
        }
        let key = format!("endpoint.{region}.quota.model");
        for (index, entry) in endpoint.quota.iter().enumerate() {
            if !names.contains(&&*entry.model) {
                problems.errors.push(no_such_model(key.clone(), &entry.model, &names));
            } else if endpoint.quota.iter().take(index).any(|earlier| earlier.model == entry.model) {
                problems.errors.push(ConfigError::Twice { key: key.clone(), value: entry.model.to_string() });
            }
        }
    }
}

pub(super) fn is_word(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty()) && !text.contains(char::is_whitespace)
}
