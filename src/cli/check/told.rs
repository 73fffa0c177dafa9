//! What does the configuration say that will not go well? What cannot be read at all is refused before; this is what can, and is
//! not what somebody meant.

use crate::cli::args::Places;
use crate::cli::plan::History;
use crate::cli::wiring;
use crate::config::{Backend, EndpointSettings, ModelSettings, Settings};
use crate::job::ident::BatchName;
use crate::ports::Finding;

const CONFIGURATION: &str = "configuration";
const MODEL: &str = "model";
/// With fewer answers nothing is said of their lengths.
const ENOUGH: usize = 50;
/// A cap so many times the length of all but the longest answers throttles more than it protects.
const GENEROUS: u32 = 4;

pub(super) fn configuration(settings: &Settings, places: &Places) -> Vec<Finding> {
    let backend = match settings.backend {
        Backend::Embedded => "embedded: this machine alone",
        Backend::Aws(_) => "aws: a fleet",
    };
    let mut findings = vec![match wiring::config_file(places.config.as_deref()) {
        Some(file) => Finding::ok(CONFIGURATION, format!("{}, back end {backend}", file.display())),
        None => Finding::ok(
            CONFIGURATION,
            format!("no aquifer.toml here, so everything is as by default; back end {backend}"),
        ),
    }];
    if settings.models.is_empty() {
        let what = "no [[model]]: jobs name models by their ids, quotas are learned by being throttled, and nobody knows what it costs";
        findings.push(Finding::advice(CONFIGURATION, what, "examples/aquifer.toml shows how models are told"));
    }
    findings.extend(settings.models.iter().flat_map(|model| of_model(settings, model)));
    findings
}

fn of_model(settings: &Settings, model: &ModelSettings) -> Vec<Finding> {
    let name = &model.name;
    let mut findings = Vec::new();
    if model.price.is_none() {
        let what = format!("`{name}` has no price: costs show as 0, and --max-cost is refused");
        findings.push(Finding::advice(MODEL, what, "price = { input = USD, output = USD } for a million tokens"));
    }
    let bare = [EndpointSettings::bare("")];
    let endpoints = if settings.endpoints.is_empty() { &bare[..] } else { &settings.endpoints };
    for endpoint in endpoints {
        let place = if endpoint.region.is_empty() { String::new() } else { format!(" in {}", endpoint.region) };
        let Some(quota) = endpoint.quota_of(model).tokens_per_minute else {
            let what = format!("`{name}` has no tokens_per_minute{place}: the quota is learned by being throttled");
            findings.push(Finding::advice(MODEL, what, "the Service Quotas console of the region says what it is"));
            continue;
        };
        if u64::from(model.max_tokens.get()) > quota.get() {
            let what = format!(
                "`{name}` reserves max_tokens = {} of a quota of {}{place}: no job fits",
                model.max_tokens,
                quota.get()
            );
            findings.push(Finding::error(
                MODEL,
                what,
                "lower max_tokens; the service reserves it in full before each call",
            ));
        } else {
            let what = format!(
                "`{name}`{place}: {} tokens a minute, {} reserved for each answer",
                quota.get(),
                model.max_tokens
            );
            findings.push(Finding::ok(MODEL, what));
        }
    }
    findings
}

/// Caps on answers, held against the answers that the state directory holds.
pub(super) fn caps(settings: &Settings, places: &Places) -> Vec<Finding> {
    let endpoints = match settings.endpoints.as_slice() {
        [] => vec![EndpointSettings::bare("us-east-1")],
        configured => configured.to_vec(),
    };
    let catalogue = wiring::catalogue(settings, &endpoints);
    // What is wrong with the state directory is for its own check to say.
    let Ok(history) = History::of_state(&places.state, &catalogue, &BatchName::none()) else { return Vec::new() };
    let capped = settings.models.iter().filter_map(|model| {
        let answers = history.of(&model.name).calls.iter().map(|call| call.output).collect();
        cap(&model.name, model.max_tokens.get(), answers)
    });
    capped.collect()
}

fn cap(name: &str, cap: u32, mut answers: Vec<u64>) -> Option<Finding> {
    if answers.len() < ENOUGH {
        return None;
    }
    answers.sort_unstable();
    let longest = *answers.get(answers.len() * 99 / 100)?;
    if u64::from(cap) <= longest.max(1) * u64::from(GENEROUS) {
        return Some(Finding::ok(
            MODEL,
            format!("`{name}`: of 100 answers 99 end within {longest} tokens, max_tokens is {cap}"),
        ));
    }
    let what = format!(
        "`{name}`: max_tokens is {cap}, and of 100 answers 99 end within {longest} tokens: the rest of each reservation is quota that \
         nobody uses"
    );
    Some(Finding::advice(
        MODEL,
        what,
        format!("max_tokens = {} in its [[model]], or \"auto\" in the jobs", longest.max(1) * 2),
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ports::Severity;

    #[test]
    fn f24_a_cap_far_beyond_what_answers_need_is_found() {
        let answers = || (1..=100).map(|n| if n == 100 { 30_000 } else { 590 }).collect::<Vec<u64>>();
        let found = cap("haiku", 40_000, [answers(), vec![590; 100]].concat()).unwrap();
        assert_eq!(found.severity, Severity::Advice);
        assert!(found.what.contains("40000") && found.what.contains("590"), "{}", found.what);
        assert_eq!(cap("haiku", 2_000, vec![590; 100]).unwrap().severity, Severity::Ok);
        assert_eq!(cap("haiku", 40_000, vec![590; 49]), None, "too few to say");
    }
}
