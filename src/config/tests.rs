#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

use super::*;
use crate::job::units::{PerDay, PerMinute, Price, Timestamp, Usd};
use crate::job::upload::Origin;

fn read(text: &str) -> Result<Settings, ConfigErrors> {
    resolve(Some(("aquifer.toml", text)), &BTreeMap::new(), no_file)
}

fn no_file(path: &str) -> Result<String, String> {
    panic!("nothing names {path}")
}

fn with_env(text: &str, env: &[(&str, &str)]) -> Result<Settings, ConfigErrors> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    resolve(Some(("aquifer.toml", text)), &env, no_file)
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

    let defaults = Settings::default();
    assert_eq!((settings.routing, settings.breaker), (defaults.routing, defaults.breaker));
    assert!(settings.worker.listen.is_set && !defaults.worker.listen.is_set, "asked for, if by its default");
    assert_eq!(settings.worker.listen.address, defaults.worker.listen.address);
    let listen = defaults.worker.listen;
    let worker = WorkerSettings { listen, ..settings.worker };
    assert_eq!((&worker, settings.keep), (&defaults.worker, defaults.keep));
    assert_eq!(settings.notify, defaults.notify);
    assert_eq!(resolve(None, &BTreeMap::new(), no_file).unwrap(), defaults);
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
            out_of_bounds("backend", "\"cloud\"", "\"embedded\" or \"aws\""),
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
        ("[telemetry]\ntraces = 'collector:4318'", "telemetry.traces"),
        ("[telemetry]\ntraces = 'grpc://collector:4317'", "telemetry.traces"),
        ("[telemetry]\ntraces = 'https://me:hunter2@collector'", "telemetry.traces"),
    ] {
        let found = errors(line);
        assert!(matches!(&found[..], [ConfigError::OutOfBounds { key: found, .. }] if found == key), "{found:?}");
    }
}

#[test]
fn what_belongs_to_a_later_version_is_refused_by_name() {
    let found = errors("[tenant.acme]\noutput_tokens_per_day = 1");
    let [ConfigError::Later { key }] = &found[..] else { panic!("{found:?}") };
    assert_eq!(key, "tenant.acme.output_tokens_per_day");
}

#[test]
fn w8_a_folder_is_watched_on_one_machine_and_what_is_for_buckets_does_not_go_with_it() {
    let read =
        with_env("[[upload]]\nfolder = 'in box/'\nprefix = 'q3/'\nsuffix = '.pdf'\n[[upload]]\nbucket = 'b'", &[]);
    let rules = read.unwrap().uploads;
    assert_eq!(rules[0].origin, Origin::Folder("in box/".into()));
    assert_eq!(rules[1].origin, Origin::Bucket("b".to_owned()));
    let fleet =
        format!("backend = 'aws'\n[notify]\njobs = false\nbatches = false\n{FLEET}[[upload]]\nsuffix = '.pdf'\n");
    let folder = "[[upload]]\nfolder = 'in'\n";
    for (text, key) in [
        ("[[upload]]\nfolder = ' '".to_owned(), "`upload.0.folder` must be the path"),
        (format!("{fleet}folder = 'in'"), "`upload.0.folder` must be left out beside backend"),
        (format!("{folder}bucket = 'b'"), "`upload.0.bucket` must be left out beside `upload.0.folder`"),
        (
            format!("{folder}ingest = {{ knowledge_base_id = 'kb', data_source_id = 'ds' }}"),
            "`upload.0.ingest` must be left out beside `upload.0.folder`",
        ),
    ] {
        let found = errors_of(&text);
        assert!(found.iter().any(|error| error.to_string().contains(key)), "{text}: {found:?}");
    }
}

#[test]
fn rules_for_documents_are_read_and_what_is_wrong_with_them_is_named() {
    let rules = "[[upload]]\nprefix = 'inbox/'\nsuffix = '.PDF'\nmodel = 'haiku'\ntemplate = 'Sum up {{chunk}}'\nchunk_tokens = 800\n\
                 overlap_tokens = 80\npartial = 'fail'\nreduce = 'Together: {{answers}}'\n[[upload]]\n";
    let uploads = resolve(Some(("aquifer.toml", rules)), &BTreeMap::new(), |_| Err(String::new())).unwrap().uploads;
    assert!(
        uploads[0].is_for("inbox/a.pdf") && !uploads[0].is_for("outbox/a.pdf") && uploads[1].is_for("outbox/a.pdf")
    );
    let document = uploads[0].document("inbox/a.pdf");
    assert_eq!((document.chunk_tokens().get(), document.overlap_tokens()), (800, 80));
    for (line, key, said) in [
        ("template = 'Sum up {{chunck}}'", "upload.0.template", "unknown variable {{chunck}}"),
        ("template = 'Sum up'", "upload.0.template", "no {{chunk}}"),
        ("reduce = '{{chunk}}'", "upload.0.reduce", "unknown variable {{chunk}}"),
        ("mode = 'native'", "upload.0.mode", "template"),
        ("chunk_tokens = 100\noverlap_tokens = 60", "upload.0.overlap_tokens", "half of"),
    ] {
        let found = errors(&format!("[[upload]]\n{line}"));
        assert!(
            matches!(&found[..], [ConfigError::Unreadable { key: at, why }] if at == key && why.contains(said)),
            "{line}: {found:?}"
        );
    }
    let found = with_env("", &[("AQUIFER_UPLOAD_PREFIX", "x")]).unwrap_err().errors;
    assert!(matches!(&found[..], [ConfigError::UnknownVariable { .. }]), "{found:?}");
}

#[test]
fn w8_a_rule_that_would_be_for_our_own_results_is_refused_with_its_remedy() {
    let fleet = |rule: &str| {
        let quiet = "[notify]\njobs = false\nbatches = false";
        errors_of(&format!("backend = 'aws'\n{quiet}\n{FLEET}[[upload]]\n{rule}"))
    };
    for rule in ["", "suffix = '.jsonl'", "prefix = 'aquifer/in/'\nsuffix = '.pdf'", "bucket = 'b'"] {
        let found = fleet(rule);
        let [ConfigError::OutOfBounds { key, bound, .. }] = &found[..] else { panic!("{rule}: {found:?}") };
        assert!(
            key == "upload.0.prefix" && bound.contains("which is \"aquifer/\" (as \"inbox/\" is)"),
            "{key}: {bound}"
        );
    }
    for rule in ["prefix = 'inbox/'", "suffix = '.pdf'", "bucket = 'elsewhere'"] {
        assert_eq!(fleet(rule), [], "{rule}");
    }
    assert_eq!(errors_of("[[upload]]"), [], "on one machine nothing of ours is told of");
}

#[test]
fn w7_a_pipeline_is_a_standard_state_machine_of_a_fleet_and_what_goes_with_it_is_whole() {
    const ARN: &str = "pipeline = 'arn:aws:states:us-east-1:111122223333:stateMachine:documents'\n";
    let fleet = |rule: &str| {
        let quiet = "[notify]\njobs = false\nbatches = false";
        format!("backend = 'aws'\n{quiet}\n{FLEET}[[upload]]\nprefix = 'in/'\n{rule}")
    };
    let whole = format!(
        "{ARN}ingest = {{ knowledge_base_id = 'kb', data_source_id = 'ds' }}\n\
         agent = {{ agent_id = 'a', agent_alias_id = 'b', input_text = 'Look at {{{{document.result}}}}' }}"
    );
    let read = with_env(&fleet(&whole), &[]).unwrap().uploads.remove(0).pipeline.unwrap();
    assert_eq!(read.ingest.unwrap().data_source_id, "ds");
    assert_eq!(read.agent.unwrap().input_text, "Look at {{document.result}}");
    for (text, key) in [
        (fleet("pipeline = 'documents'"), "upload.0.pipeline"),
        (fleet("pipeline = 'arn:aws:states:us-east-1:1:execution:documents:x'"), "upload.0.pipeline"),
        (fleet("ingest = { knowledge_base_id = 'kb', data_source_id = 'ds' }"), "upload.0.pipeline"),
        (fleet(&format!("{ARN}ingest = {{ knowledge_base_id = 'kb' }}")), "upload.0.ingest.data_source_id"),
        (fleet(&format!("{ARN}agent = {{ agent_id = 'a', agent_alias_id = 'b' }}")), "upload.0.agent.input_text"),
        (format!("[[upload]]\n{ARN}"), "upload.0.pipeline"),
    ] {
        let found = errors_of(&text);
        let [error] = &found[..] else { panic!("{text}: {found:?}") };
        assert!(error.to_string().contains(key), "{error}");
    }
}

fn errors_of(text: &str) -> Vec<ConfigError> {
    with_env(text, &[]).map_or_else(|found| found.errors, |_| Vec::new())
}

#[test]
fn senders_of_a_tenant_are_read_by_its_name() {
    let settings = with_env("[tenant.acme]\nsenders = ['AROA1:*']\n[tenant.b]\n", &[]).unwrap();
    let read: Vec<_> = settings.tenants.iter().map(|tenant| (tenant.name.as_str(), tenant.senders.clone())).collect();
    assert_eq!(read, [("acme", Some(vec!["AROA1:*".to_owned()])), ("b", None)]);
    assert!(matches!(&errors("[tenant]\nacme = 1")[..], [ConfigError::WrongType { key, .. }] if key == "tenant.acme"));
    assert!(matches!(&errors("[tenant.'a b']")[..], [ConfigError::OutOfBounds { key, .. }] if key == "tenant.a b"));
    let variable = with_env("", &[("AQUIFER_TENANT_ACME_SENDERS", "x")]).unwrap_err().errors;
    assert!(matches!(&variable[..], [ConfigError::UnknownVariable { .. }]), "{variable:?}");
}

const FLEET: &str = "[aws]\nqueue_url = 'https://sqs/1/q'\ndead_letter_url = 'https://sqs/1/d'\nbucket = 'b'\n";

#[test]
fn a_fleet_needs_its_queues_its_bucket_and_where_notices_go() {
    let found = errors("backend = 'aws'");
    let missing: Vec<_> = found
        .iter()
        .map(|error| match error {
            ConfigError::Missing { key } => key.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(missing, ["aws.queue_url", "aws.dead_letter_url", "aws.bucket"]);
    let found = errors(&format!("backend = 'aws'\n{FLEET}"));
    assert_eq!(found, [ConfigError::Missing { key: "aws.topic_arn".into() }]);

    let quiet = format!("backend = 'aws'\n[notify]\njobs = false\nbatches = false\n{FLEET}prefix = 'x'");
    let Backend::Aws(aws) = with_env(&quiet, &[("AQUIFER_AWS_RESULTS", "object")]).unwrap().backend else {
        panic!("not aws")
    };
    assert_eq!((aws.table.as_str(), aws.prefix.as_str()), ("aquifer", "x/"));
    assert_eq!((aws.results, aws.topic_arn), (ResultObjects::Object, None));
    assert_eq!(with_env(FLEET, &[]).unwrap().backend, Backend::Embedded, "it may stand there without being in use");
}

#[test]
fn services_that_cannot_be_are_refused_by_name() {
    for (line, key) in [
        ("queue_url = 'jobs'", "aws.queue_url"),
        ("dead_letter_url = 'https://sqs/1/d.fifo'", "aws.dead_letter_url"),
        ("topic_arn = 'aquifer'", "aws.topic_arn"),
        ("results = 'file'", "aws.results"),
    ] {
        let found = errors(&format!("[aws]\n{line}"));
        assert!(matches!(&found[..], [ConfigError::OutOfBounds { key: found, .. }] if found == key), "{found:?}");
    }
    let twice = "[aws]\nqueue_url = 'https://q'\ndead_letter_url = 'https://q'";
    assert!(matches!(&errors(twice)[..], [ConfigError::Contradiction { key, .. }] if key == "aws.dead_letter_url"));
}

#[test]
fn traces_are_off_until_a_collector_is_named_and_nothing_secret_is_shown() {
    assert_eq!(read("").unwrap().traces, None);
    let settings = with_env("", &[("AQUIFER_TELEMETRY_TRACES", "http://collector:4318")]).unwrap();
    assert_eq!(settings.traces.unwrap(), "http://collector:4318");
    let found = errors("[telemetry]\ntraces = 'https://me:hunter2@collector'");
    assert!(!found[0].to_string().contains("hunter2"), "{}", found[0]);
}

#[test]
fn a_webhook_is_a_url_beside_the_embedded_back_end_and_is_not_shown() {
    let settings = with_env("", &[("AQUIFER_NOTIFY_WEBHOOK", "https://hooks.example/hunter2")]).unwrap();
    assert_eq!(settings.notify.webhook.unwrap().to_string(), "https://hooks.example");
    for bad in ["hooks.example/hunter2", "https://me:hunter2@hooks.example"] {
        let found = errors(&format!("[notify]\nwebhook = '{bad}'"));
        assert!(matches!(&found[..], [ConfigError::OutOfBounds { key, .. }] if key == "notify.webhook"), "{found:?}");
        assert!(!found[0].to_string().contains("hunter2"));
    }
    let fleet = format!(
        "backend = 'aws'\n[notify]\nwebhook = 'https://hooks.example/hunter2'\n{FLEET}topic_arn = 'arn:aws:sns:us-east-1:1:t'"
    );
    let found = errors(&fleet);
    assert!(matches!(&found[..], [ConfigError::Contradiction { key, .. }] if key == "notify.webhook"), "{found:?}");
    assert!(!found[0].to_string().contains("hunter2"));
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

/// With an endpoints file of this text, named by `NAMES_FILE` or by a variable.
fn with_file(text: &str, json: &str) -> Result<Settings, ConfigErrors> {
    let read = |path: &str| {
        assert_eq!(path, "conf/endpoints.conf", "as typed");
        Ok(json.to_owned())
    };
    resolve(Some(("aquifer.toml", text)), &BTreeMap::new(), read)
}

const NAMES_FILE: &str = "[routing]\nendpoints_file = 'conf/endpoints.conf'\n";

#[test]
fn r13_the_endpoints_file_of_the_helper_is_read_as_it_is() {
    let json = r#"[
        {"region":"us-west-2", "next_available_time":0, "primary":true, "region_profile_prefix": "us"},
        {"region":"us-east-1", "next_available_time":1893456000, "primary":false, "region_profile_prefix": "",
         "comment": {"ours": ["not"]}, "weight": 3},
        {"region":"eu-west-3", "next_available_time":null, "primary":null, "region_profile_prefix": null},
        {"region":"ap-southeast-2"}
    ]"#;
    let settings = with_file(NAMES_FILE, json).unwrap();
    let endpoint = |region: &str, primary, prefix: Option<&str>, seconds: Option<i64>| EndpointSettings {
        primary,
        region_profile_prefix: prefix.map(str::to_owned),
        next_available_time: seconds.map(|seconds| Timestamp(seconds * 1_000)),
        ..EndpointSettings::bare(region)
    };
    let expected = [
        endpoint("us-west-2", true, Some("us"), Some(0)),
        endpoint("us-east-1", false, Some(""), Some(1_893_456_000)),
        endpoint("eu-west-3", false, None, None),
        endpoint("ap-southeast-2", false, None, None),
    ];
    assert_eq!(settings.endpoints, expected);
    let ids = settings.endpoints.iter().map(|endpoint| endpoint.model_id(&"vendor.m".into(), true).to_string());
    assert_eq!(ids.collect::<Vec<_>>(), ["us.vendor.m", "vendor.m", "vendor.m", "vendor.m"]);
}

#[test]
fn r7_a_next_available_time_is_a_number_of_seconds_or_a_time() {
    let read = |value: &str| {
        let json = format!(r#"[{{"region": "r", "next_available_time": {value}}}]"#);
        with_file(NAMES_FILE, &json).map(|settings| settings.endpoints[0].next_available_time.map(|time| time.0))
    };
    for (value, expected) in [
        ("1893456000", Some(1_893_456_000_000)),
        ("1893456000.25", Some(1_893_456_000_250)),
        ("1.893456e9", Some(1_893_456_000_000)),
        ("0", Some(0)),
        ("-1", Some(0)),
        ("253402300799", Some(253_402_300_799_000)),
        ("\"2030-01-01T00:00:00Z\"", Some(1_893_456_000_000)),
        ("\"2030-01-01T01:00:00.500+01:00\"", Some(1_893_456_000_500)),
        ("\"2030-01-01 00:00:00.123456+00:00\"", Some(1_893_456_000_123)),
        ("\"2030-01-01T00:00:00\"", Some(1_893_456_000_000)),
        ("\"2030-01-01\"", Some(1_893_456_000_000)),
        ("\"\"", None),
        ("\"  \"", None),
        ("null", None),
    ] {
        assert_eq!(read(value).unwrap(), expected, "{value}");
    }
    // The second looks like milliseconds: taken at its word it would shut the endpoint until the year 61,970.
    for value in ["253402300800", "1893456000000", "\"tomorrow\"", "\"1893456000\"", "true", "[0]", "{}"] {
        let shown = read(value).unwrap_err().to_string();
        let expected = "conf/endpoints.conf, entry 1: `next_available_time` must be a number of seconds since 1970, at most \
                        253402300799, or a time such as \"2026-11-21T18:00:00Z\", or null, found ";
        assert_eq!(shown.strip_prefix(expected), Some(value), "{shown}");
    }
}

#[test]
fn every_mistake_in_the_endpoints_file_names_file_entry_key_value_and_bound() {
    let json = r#"[
        {"region": "us-west-2", "primary": "yes", "region_profile_prefix": "us.", "next_available_time": []},
        7,
        {"primary": true},
        {"region": ""},
        {"region": ["us-east-1"]},
        {"region": "us east"},
        {"region": "us-west-2", "region_profile_prefix": 1}
    ]"#;
    let shown = with_file(&format!("{NAMES_FILE}max_attempts = 0"), json).unwrap_err().to_string();
    let expected = r#"aquifer.toml: `routing.max_attempts` must be a whole number from 1 to 100, found 0
conf/endpoints.conf, entry 1: `primary` must be true or false, found "yes"
conf/endpoints.conf, entry 1: `region_profile_prefix` must be a geography without its dot, such as "us", or "", found "us."
conf/endpoints.conf, entry 1: `next_available_time` must be a number of seconds since 1970, at most 253402300799, or a time such as "2026-11-21T18:00:00Z", or null, found []
conf/endpoints.conf, entry 2: `entry` must be an object, found 7
conf/endpoints.conf, entry 3: `region` is missing
conf/endpoints.conf, entry 4: `region` must be a region, such as "us-east-1", found ""
conf/endpoints.conf, entry 5: `region` must be a region, such as "us-east-1", found ["us-east-1"]
conf/endpoints.conf, entry 6: `region` must be a region, such as "us-east-1", found "us east"
conf/endpoints.conf, entry 7: `region_profile_prefix` must be a geography without its dot, such as "us", or "", found 1
conf/endpoints.conf, entry 7: `region`: us-west-2 stands there twice"#;
    assert_eq!(shown, expected);
}

#[test]
fn an_endpoints_file_that_lists_nothing_is_an_error() {
    for (json, why) in [
        ("[]", "its list is empty"),
        ("{\"region\": \"us-west-2\"}", "it holds {\"region\":\"us-west-2\"} and no list"),
        ("null", "it holds null and no list"),
        ("", "not valid JSON: EOF while parsing a value at line 1 column 0"),
        ("[{]", "not valid JSON: key must be a string at line 1 column 3"),
    ] {
        let (key, value) = ("routing.endpoints_file".to_owned(), "conf/endpoints.conf".to_owned());
        let expected = ConfigError::NoEndpointsFile { key, value, why: why.to_owned() };
        assert_eq!(with_file(NAMES_FILE, json).unwrap_err().errors, [expected], "{json}");
    }
}

#[test]
fn an_endpoints_file_that_cannot_be_read_is_an_error_of_whatever_named_it() {
    let missing = |_: &str| Err("cannot read etc/none.conf: not there".to_owned());
    let shown = |text: &str, env: &[(&str, &str)]| {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        resolve(Some(("aquifer.toml", text)), &env, missing).unwrap_err().to_string()
    };
    let rest = "must be the path of a file with a JSON list of endpoints, found \"none.conf\": cannot read \
                etc/none.conf: not there";
    let typed = shown("[routing]\nendpoints_file = 'none.conf'", &[]);
    assert_eq!(typed, format!("aquifer.toml: `routing.endpoints_file` {rest}"));
    let variable = shown(NAMES_FILE, &[("AQUIFER_ROUTING_ENDPOINTS_FILE", "none.conf")]);
    assert_eq!(variable, format!("`AQUIFER_ROUTING_ENDPOINTS_FILE` {rest}"));
    let found = errors("[routing]\nendpoints_file = ['a', 'b']");
    assert!(matches!(&found[..], [ConfigError::WrongType { key, .. }] if key == "routing.endpoints_file"), "{found:?}");
}

#[test]
fn an_endpoint_table_goes_over_the_entry_of_its_region_key_by_key() {
    let json = r#"[
        {"region": "us-west-2", "next_available_time": 1893456000, "primary": true, "region_profile_prefix": "us"},
        {"region": "us-east-1", "next_available_time": 0, "primary": true, "region_profile_prefix": "us"},
        {"region": "eu-west-3", "primary": false, "region_profile_prefix": "eu"}
    ]"#;
    let text = format!(
        "{HAIKU}{NAMES_FILE}[[endpoint]]\nregion = 'ap-southeast-2'\n\
         [[endpoint]]\nregion = 'us-west-2'\nendpoint_url = 'http://127.0.0.1:9000'\n\
         quota = [{{ model = 'haiku', tokens_per_minute = 7 }}]\n\
         [[endpoint]]\nregion = 'us-east-1'\nprimary = false\nregion_profile_prefix = ''\n"
    );
    let settings = with_file(&text, json).unwrap();
    let regions: Vec<_> = settings.endpoints.iter().map(|endpoint| &*endpoint.region).collect();
    assert_eq!(
        regions,
        ["us-west-2", "us-east-1", "eu-west-3", "ap-southeast-2"],
        "the file's order, then the tables'"
    );
    let [west, east, europe, asia] = &settings.endpoints[..] else { panic!("{:?}", settings.endpoints) };
    assert_eq!((west.primary, west.region_profile_prefix.as_deref()), (true, Some("us")), "not said, so the file's");
    assert_eq!(west.next_available_time, Some(Timestamp(1_893_456_000_000)));
    assert_eq!(west.endpoint_url.as_deref(), Some("http://127.0.0.1:9000"));
    assert_eq!(west.quota_of(settings.model("haiku").unwrap()).tokens_per_minute, PerMinute::new(7));
    assert_eq!((east.primary, east.region_profile_prefix.as_deref()), (false, Some("")), "said, so the table's");
    assert_eq!((europe.primary, europe.region_profile_prefix.as_deref()), (false, Some("eu")), "without a table");
    assert_eq!((asia.primary, asia.region_profile_prefix.as_deref()), (false, None), "not in the file");

    let twice = format!("{NAMES_FILE}{}", "[[endpoint]]\nregion = 'us-west-2'\n".repeat(2));
    let expected = ConfigError::Twice { key: "endpoint.region".into(), value: "us-west-2".into() };
    assert_eq!(with_file(&twice, json).unwrap_err().errors, [expected], "two tables of one region are still two");
    let known = errors("[[endpoint]]\nregion = 'r'\nnext_available_time = 0");
    assert!(matches!(&known[..], [ConfigError::UnknownKey { .. }]), "a key of the file alone: {known:?}");
}

#[test]
fn the_examples_are_read() {
    let text = include_str!("../../examples/aquifer.toml");
    let alone = read(text).unwrap();
    let named = "# endpoints_file = \"bedrock_endpoints.conf\"";
    assert!(text.contains(named));
    // What of a fleet is commented out is sound, too.
    let is_of_a_fleet = |line: &&str| line.starts_with("# [aws]") || line.starts_with("# [tenant.");
    assert_eq!(text.lines().filter(is_of_a_fleet).count(), 2);
    let mut is_within = false;
    let fleet = text.lines().map(|line| {
        is_within = (is_within || is_of_a_fleet(&line)) && !line.is_empty();
        let is_setting = is_within && (line.ends_with(']') || line.contains(" = "));
        line.strip_prefix("# ").filter(|_| is_setting).unwrap_or(line)
    });
    let fleet = fleet.collect::<Vec<_>>().join("\n").replace("backend = \"embedded\"", "backend = \"aws\"");
    let fleet = read(&fleet).unwrap();
    assert!(matches!(fleet.backend, Backend::Aws(_)) && fleet.tenants.len() == 1, "{fleet:?}");
    let text = text.replace(named, &named["# ".len()..]);
    let list = |path: &str| {
        assert_eq!(path, "bedrock_endpoints.conf");
        Ok(include_str!("../../examples/bedrock_endpoints.conf").to_owned())
    };
    let both = resolve(Some(("aquifer.toml", &text)), &BTreeMap::new(), list).unwrap();
    assert_eq!((alone.endpoints.len(), both.endpoints.len()), (2, 3), "two regions of the list have tables");
    assert_eq!(both.models, alone.models);
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
