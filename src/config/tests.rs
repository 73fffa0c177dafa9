#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

use super::*;
use crate::job::units::{PerDay, PerMinute, Price, Usd};

fn read(text: &str) -> Result<Settings, ConfigErrors> {
    resolve(Some(("aquifer.toml", text)), &BTreeMap::new())
}

fn with_env(text: &str, env: &[(&str, &str)]) -> Result<Settings, ConfigErrors> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    resolve(Some(("aquifer.toml", text)), &env)
}

#[track_caller]
fn errors(text: &str) -> Vec<ConfigError> {
    read(text).unwrap_err().errors
}

fn out_of_bounds(key: &str, value: &str, bound: &str) -> ConfigError {
    ConfigError::OutOfBounds { key: key.into(), value: value.into(), bound: bound.into() }
}

const HAIKU: &str = "[[model]]\nname = 'haiku'\nid = 'anthropic.claude-haiku-4-5-20251001-v1:0'\n";

/// The example of the contract, without what belongs to later versions.
const CONTRACT: &str = r#"
backend = "embedded"

[[model]]
name = "haiku"
id = "anthropic.claude-haiku-4-5-20251001-v1:0"
tokens_per_minute = 5_000_000
requests_per_minute = 10_000
tokens_per_day = 7_200_000_000
counting = "learn"
output_burndown = 5
max_tokens = 1024
call_timeout = "170s"
price = { input = 1.00, output = 5.00, cache_read = 0.10, cache_write = 1.25 }
fallback = ["nova-lite"]

[[model]]
name = "nova-lite"
id = "amazon.nova-lite-v1:0"

[[endpoint]]
region = "us-west-2"
primary = true
region_profile_prefix = "us"
endpoint_url = "http://127.0.0.1:9000"
tokens_per_day = 700_000_000
quota = [{ model = "haiku", tokens_per_minute = 2_000_000 }]

[routing]
max_attempts = 5
attempts_per_endpoint = 1
multi_region = true
spread_primaries = true
cross_region_inference = true
cool_down = "30s"
give_up_after = "24h"

[breaker]
failures = 5
open_for = "60s"
probes = 1

[worker]
slots = 256
receive_batch = 10
lease = "120s"
max_claims = 5
drain = "25s"
listen = "127.0.0.1:9464"

[state]
keep = "30d"

[notify]
jobs = true
batches = true
"#;

#[test]
fn the_example_of_the_contract_is_read_and_its_values_are_the_defaults() {
    let settings = read(CONTRACT).unwrap();
    let haiku = settings.model("haiku").unwrap();
    assert_eq!(haiku.tokens_per_minute, PerMinute::new(5_000_000));
    assert_eq!(haiku.requests_per_minute, PerMinute::new(10_000));
    assert_eq!(haiku.tokens_per_day, PerDay::new(7_200_000_000));
    assert_eq!(haiku.call_timeout_for(99_999), Duration::from_secs(170));
    let dollars = |amount| Usd::from_dollars(amount).unwrap();
    let price =
        Price { input: dollars(1.0), output: dollars(5.0), cache_read: dollars(0.1), cache_write: dollars(1.25) };
    assert_eq!(haiku.price, Some(price));
    assert_eq!(haiku.fallback, ["nova-lite".into()]);
    let endpoint = settings.endpoints.first().unwrap();
    assert!(endpoint.primary);
    assert_eq!(endpoint.endpoint_url.as_deref(), Some("http://127.0.0.1:9000"));
    assert_eq!(endpoint.tokens_per_day, PerDay::new(700_000_000));
    assert_eq!(settings.notices_of_the_unused.len(), 4, "{:?}", settings.notices_of_the_unused);

    let defaults = Settings::default();
    assert_eq!((settings.routing, settings.breaker), (defaults.routing, defaults.breaker));
    assert_eq!((settings.worker, settings.keep), (defaults.worker, defaults.keep));
    assert_eq!(settings.notify, defaults.notify);
    assert_eq!(resolve(None, &BTreeMap::new()).unwrap(), defaults);
}

#[test]
fn a_model_of_which_only_name_and_id_are_said_has_the_defaults() {
    let settings = read(HAIKU).unwrap();
    let haiku = settings.default_model().unwrap();
    assert_eq!(haiku.max_tokens.get(), 1_024);
    assert_eq!(haiku.output_burndown, 5);
    assert_eq!(haiku.call_timeout_for(1_000), Duration::from_secs(170));
    assert_eq!((haiku.quota(), haiku.price), (Quota::default(), None));
    assert_eq!(settings.model("anthropic.claude-haiku-4-5-20251001-v1:0"), Some(haiku), "found by id as well");
    assert_eq!(settings.model("sonnet"), None);
    assert_eq!(*ModelSettings { name: haiku.name.clone(), ..ModelSettings::bare(&haiku.id) }.name, *"haiku");
    assert!(settings.notices_of_the_unused.is_empty());
}

#[test]
fn cache_prices_that_are_not_said_follow_the_input_price() {
    let settings = read(&format!("{HAIKU}price = {{ input = 2, output = 10.0 }}")).unwrap();
    let price = settings.default_model().unwrap().price.unwrap();
    assert_eq!([price.cache_read, price.cache_write].map(Usd::nanos), [2_000_000_000, 2_500_000_000]);
}

#[test]
fn every_mistake_is_found_at_once_and_names_key_value_and_bound() {
    let text = "backend = 'cloud'\nworkers = 3\n[worker]\nslots = 0\nlease = '1s'\ndrain = 25\nreceive_batch = 11\n\
                slotz = 1\n[breaker]\nopen_for = 'soon'\n[routing]\nmulti_region = 'yes'\nmax_attempts = -1\n\
                attempts_per_endpoint = 6\n[[model]]\nname = 'a'\nmax_tokens = 0\nprice = { input = -1 }\n";
    let wrong_type = |key: &str, value: &str, expected: &str| ConfigError::WrongType {
        key: key.into(),
        value: value.into(),
        expected: expected.into(),
    };
    assert_eq!(
        errors(text),
        [
            out_of_bounds("backend", "\"cloud\"", "\"embedded\""),
            ConfigError::Missing { key: "model.a.id".into() },
            out_of_bounds("model.a.max_tokens", "0", "a whole number from 1 to 4294967295"),
            out_of_bounds("model.a.price.input", "-1", "a number of US dollars from 0 to 1000000"),
            ConfigError::Missing { key: "model.a.price.output".into() },
            out_of_bounds("routing.max_attempts", "-1", "a whole number from 1 to 100"),
            ConfigError::Contradiction {
                key: "routing.attempts_per_endpoint".into(),
                value: "6".into(),
                bound: "at most `routing.max_attempts`, which is 5".into(),
            },
            wrong_type("routing.multi_region", "\"yes\"", "true or false"),
            wrong_type("breaker.open_for", "\"soon\"", "a duration from \"1s\" to \"1h\""),
            out_of_bounds("worker.slots", "0", "a whole number from 1 to 10000"),
            out_of_bounds("worker.receive_batch", "11", "a whole number from 1 to 10"),
            out_of_bounds("worker.lease", "\"1s\"", "a duration from \"2s\" to \"11h\""),
            wrong_type("worker.drain", "25", "a duration from \"0s\" to \"1h\""),
            ConfigError::UnknownKey { key: "worker.slotz".into(), meant: Some("worker.slots".into()) },
            ConfigError::UnknownKey { key: "workers".into(), meant: Some("worker".into()) },
        ]
    );
    let shown = read(text).unwrap_err().to_string();
    assert_eq!(shown.lines().count(), 15, "{shown}");
    assert!(
        shown.contains("aquifer.toml: `worker.slots` must be a whole number from 1 to 10000, found 0\n"),
        "{shown}"
    );
}

#[test]
fn what_is_no_toml_or_no_table_is_said_so() {
    assert!(matches!(errors("slots = = 1")[..], [ConfigError::Syntax { .. }]));
    assert!(matches!(&errors("worker = 3")[..], [ConfigError::WrongType { key, .. }] if key == "worker"));
    assert!(matches!(&errors("[model]\nname = 'a'")[..], [ConfigError::WrongType { key, .. }] if key == "model"));
    assert!(matches!(&errors("model = [1]")[..], [ConfigError::WrongType { key, .. }] if key == "model"));
}

#[test]
fn models_and_endpoints_are_checked_against_each_other() {
    let twice = format!("{HAIKU}{HAIKU}");
    assert_eq!(errors(&twice), [ConfigError::Twice { key: "model.name".into(), value: "haiku".into() }]);
    let regions = "[[endpoint]]\nregion = 'us-east-1'\n[[endpoint]]\nregion = 'us-east-1'\n";
    assert_eq!(errors(regions), [ConfigError::Twice { key: "endpoint.region".into(), value: "us-east-1".into() }]);
    assert_eq!(
        errors(&format!("{HAIKU}fallback = ['nova']")),
        [ConfigError::NoSuchModel { key: "model.haiku.fallback".into(), value: "nova".into(), known: "haiku".into() }]
    );
    assert!(matches!(
        &errors(&format!("{HAIKU}fallback = ['haiku']"))[..],
        [ConfigError::Contradiction { key, .. }] if key == "model.haiku.fallback"
    ));
    assert_eq!(
        errors("[[endpoint]]\nregion = 'us-east-1'\nquota = [{ model = 'haiku' }]"),
        [ConfigError::NoSuchModel {
            key: "endpoint.us-east-1.quota.model".into(),
            value: "haiku".into(),
            known: "none".into()
        }]
    );
    let other_quota = format!("{HAIKU}{}tokens_per_minute = 9", HAIKU.replace("'haiku'", "'again'"));
    assert!(matches!(&errors(&other_quota)[..], [ConfigError::Contradiction { key, .. }] if key == "model.again.id"));
    assert!(read(&format!("{HAIKU}{}", HAIKU.replace("'haiku'", "'again'"))).is_ok(), "two names may share a lane");
}

#[test]
fn values_that_cannot_be_are_refused() {
    for (line, key) in [
        ("[[endpoint]]\nregion = 'us east'", "endpoint.us east.region"),
        ("[[endpoint]]\nregion = 'r'\nendpoint_url = 'localhost:9000'", "endpoint.r.endpoint_url"),
        ("[[endpoint]]\nregion = 'r'\nregion_profile_prefix = 'us.'", "endpoint.r.region_profile_prefix"),
        ("[worker]\nlisten = '9464'", "worker.listen"),
        ("[[model]]\nname = 'a'\nid = ' '", "model.a.id"),
        ("[[model]]\nname = 'a'\nid = 'b'\ncounting = 'guess'", "model.a.counting"),
        ("[[model]]\nname = 'a'\nid = 'b'\noutput_burndown = 101", "model.a.output_burndown"),
        ("[state]\nkeep = '0s'", "state.keep"),
    ] {
        let found = errors(line);
        assert!(matches!(&found[..], [ConfigError::OutOfBounds { key: found, .. }] if found == key), "{found:?}");
    }
}

#[test]
fn what_belongs_to_a_later_version_is_refused_by_name() {
    for (text, key) in [
        ("[[upload]]\nprefix = 'inbox/'", "upload"),
        ("[tenant.acme]\noutput_tokens_per_day = 1", "tenant"),
        ("[aws]\ntable = 'aquifer'", "aws"),
        ("backend = 'aws'", "backend"),
        ("[routing]\nendpoints_file = 'x'", "routing.endpoints_file"),
        ("[notify]\nwebhook = 'http://x'", "notify.webhook"),
    ] {
        let found = errors(text);
        assert!(matches!(&found[..], [ConfigError::Later { key: found, .. }] if found == key), "{found:?}");
    }
    let found = with_env("", &[("AQUIFER_AWS_TABLE", "x")]).unwrap_err().errors;
    assert_eq!(found, [ConfigError::Later { key: "AQUIFER_AWS_TABLE".into(), value: None }]);
}

#[test]
fn the_environment_goes_over_the_file() {
    let text = format!(
        "{HAIKU}[[model]]\nname = 'haiku-4'\nid = 'x.y'\n[[endpoint]]\nregion = 'us-west-2'\n[worker]\nslots = 1\n"
    );
    let settings = with_env(
        &text,
        &[
            ("AQUIFER_BACKEND", "embedded"),
            ("AQUIFER_WORKER_SLOTS", "7"),
            ("AQUIFER_WORKER_LEASE", "30s"),
            ("AQUIFER_ROUTING_MULTI_REGION", "false"),
            ("AQUIFER_STATE_KEEP", "1d"),
            ("AQUIFER_MODEL_HAIKU_TOKENS_PER_MINUTE", "5_000"),
            ("AQUIFER_MODEL_HAIKU_ID", "123"),
            ("AQUIFER_MODEL_HAIKU_4_MAX_TOKENS", "9"),
            ("AQUIFER_MODEL_HAIKU_PRICE", "{ input = 1, output = 5 }"),
            ("AQUIFER_MODEL_HAIKU_FALLBACK", "haiku-4"),
            ("AQUIFER_ENDPOINT_US_WEST_2_REGION_PROFILE_PREFIX", "us"),
            ("AQUIFER_LOG", "debug"),
            ("HOME", "/"),
        ],
    )
    .unwrap();
    assert_eq!(settings.worker.slots.get(), 7);
    assert_eq!(settings.worker.lease, Duration::from_secs(30));
    assert!(!settings.routing.multi_region);
    assert_eq!(settings.keep, Duration::from_secs(86_400));
    let haiku = settings.model("haiku").unwrap();
    assert_eq!(haiku.tokens_per_minute, PerMinute::new(5_000));
    assert_eq!(&*haiku.id, "123", "text stays text");
    assert!(haiku.price.is_some());
    assert_eq!(haiku.fallback, ["haiku-4".into()]);
    assert_eq!(settings.model("haiku-4").unwrap().max_tokens.get(), 9);
    assert_eq!(settings.endpoints.first().unwrap().region_profile_prefix.as_deref(), Some("us"));
}

#[test]
fn a_variable_that_is_wrong_is_named() {
    let found = |env: &[(&str, &str)]| with_env(HAIKU, env).unwrap_err().errors;
    assert_eq!(
        found(&[("AQUIFER_WORKER_SLOTS", "many")]),
        [ConfigError::WrongType {
            key: "AQUIFER_WORKER_SLOTS".into(),
            value: "\"many\"".into(),
            expected: "a whole number from 1 to 10000".into()
        }]
    );
    assert_eq!(
        found(&[("AQUIFER_WORKER_SLOT", "1")]),
        [ConfigError::UnknownKey { key: "AQUIFER_WORKER_SLOT".into(), meant: Some("AQUIFER_WORKER_SLOTS".into()) }]
    );
    for variable in ["AQUIFER_WORKERS_SLOTS", "AQUIFER_X", "AQUIFER_MODEL_NOVA_MAX_TOKENS", "AQUIFER_MODEL_HAIKU_NAME"]
    {
        let found = found(&[(variable, "1")]);
        assert!(
            matches!(&found[..], [ConfigError::UnknownVariable { variable: named, .. }] if named == variable),
            "{found:?}"
        );
    }
    let twins = format!("{}{}", HAIKU.replace("'haiku'", "'a-b'"), HAIKU.replace("'haiku'", "'a_b'"));
    let found = with_env(&twins, &[("AQUIFER_MODEL_A_B_MAX_TOKENS", "1")]).unwrap_err().errors;
    assert!(matches!(&found[..], [ConfigError::UnknownVariable { .. }]), "{found:?}");
}

#[test]
fn bounds_are_such_as_a_person_would_type() {
    let said = |text: &str| errors(text).iter().map(ToString::to_string).collect::<String>();
    assert!(said("[routing]\ngive_up_after = '0s'").contains("from \"1s\" to \"365d\""));
    let unbounded = said("[[model]]\nname = 'a'\nid = 'b'\nrequests_per_minute = 0");
    assert!(unbounded.contains("a whole number, at least 1, found 0"), "{unbounded}");
}

#[test]
fn text_in_the_file_is_no_number() {
    let found = errors("[worker]\nslots = '7'");
    assert!(matches!(&found[..], [ConfigError::WrongType { key, .. }] if key == "worker.slots"));
}

#[test]
fn an_endpoint_overrides_what_it_says_and_nothing_else() {
    let settings = read(CONTRACT).unwrap();
    let endpoint = settings.endpoints.first().unwrap();
    let quota = endpoint.quota_of(settings.model("haiku").unwrap());
    assert_eq!(quota.tokens_per_minute, PerMinute::new(2_000_000));
    assert_eq!(quota.requests_per_minute, PerMinute::new(10_000));
    assert_eq!(endpoint.quota_of(settings.model("nova-lite").unwrap()), Quota::default());
}

#[test]
fn r13_the_prefix_goes_before_ids_that_have_none() {
    let endpoint = EndpointSettings { region_profile_prefix: Some("eu".into()), ..EndpointSettings::bare("eu-west-1") };
    let id = |id: &str, cross_region| endpoint.model_id(&id.into(), cross_region).to_string();
    assert_eq!(id("anthropic.claude-x", true), "eu.anthropic.claude-x");
    assert_eq!(id("anthropic.claude-x", false), "anthropic.claude-x");
    assert_eq!(id("global.anthropic.claude-x", true), "global.anthropic.claude-x");
    assert_eq!(id("arn:aws:bedrock:a:b:c", true), "arn:aws:bedrock:a:b:c");
    let bare = EndpointSettings { region_profile_prefix: Some(String::new()), ..endpoint.clone() };
    assert_eq!(&*bare.model_id(&"anthropic.claude-x".into(), true), "anthropic.claude-x");
}

#[test]
fn the_simulator_has_models_with_prices() {
    let settings = simulated();
    assert!(settings.models.iter().all(|model| model.price.is_some()));
    let haiku = settings.default_model().unwrap();
    assert_eq!((&*haiku.name, haiku.price.unwrap().output), ("haiku", Usd::from_dollars(5.0).unwrap()));
    assert_eq!(settings.model("nova-micro").unwrap().price.unwrap().cache_read, Usd::from_dollars(0.008_75).unwrap());
    for name in ["sonnet", "nova-lite", "nova-pro", "titan-embed"] {
        assert!(settings.model(name).is_some(), "{name}");
    }
    assert_eq!(settings.endpoints.len(), 1);
}
