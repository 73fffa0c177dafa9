//! Does what Terraform makes fit the program? Alarms and the dashboard watch only what somebody emits, workers get only
//! settings that the configuration knows, and their role allows what the code asks of the services.
//!
//! `infra/metrics.json` says where each metric comes from: AWS's documentation, by its address, a line of the workers'
//! log, by its words, or the metrics that workers embed in that log. The Terraform files are read as tokens, so that a name in a comment is no use of it. Whether they
//! apply is for `.ci/terraform.py` to say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod code;
mod definitions;
mod metrics;
#[allow(dead_code, reason = "shared with the tests of the fleet, which use all of it")]
#[path = "../common/ministack/mod.rs"]
mod ministack;
mod producer;
#[allow(dead_code, reason = "likewise")]
#[path = "../common/proxy/mod.rs"]
mod proxy;
mod reader;
#[allow(dead_code, reason = "shared with the command line's tests, which use all of it")]
#[path = "../cli/support.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aquifer::config::{self, Backend};
use aquifer::telemetry::emf;
use serde::Deserialize;

use crate::code::{operators_operations, warnings_and_errors, workers_operations};
use crate::reader::{Block, Token, blocks, read, root, terraform, tokens};

/// What O4 asks for and something emits: all but the budgets, of which there are none yet.
const O4: &[&str] = &[
    "dead_letters",
    "oldest_job",
    "oldest_job_in_hand",
    "throttled_often",
    "throttled_steadily",
    "utilisation",
    "utilisation_reserved",
    "success",
    "success_of_jobs",
    "breaker_open",
    "budget",
];

/// A metric as it is named to CloudWatch: with the wrong dimensions there is no such metric either.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Metric {
    namespace: String,
    name: String,
    dimensions: BTreeSet<String>,
}

/// An entry of `metrics.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    namespace: String,
    name: String,
    dimensions: BTreeSet<String>,
    source: Source,
    documented: Option<String>,
    event: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Source {
    Aws,
    Log,
    Emf,
}

#[test]
fn f21_every_metric_that_is_watched_is_one_that_somebody_emits() {
    let blocks = terraform();
    let used: BTreeSet<Metric> = blocks.iter().flat_map(metrics_of).chain(charted()).collect();
    let listed: BTreeSet<Metric> = listed().into_iter().map(|entry| entry.metric()).collect();
    assert!(used.len() > 15, "found only {} metrics in infra/*.tf", used.len());
    let unlisted: Vec<_> = used.difference(&listed).collect();
    assert!(unlisted.is_empty(), "watched, and not in infra/metrics.json: {unlisted:#?}");
    let unused: Vec<_> = listed.difference(&used).collect();
    assert!(unused.is_empty(), "in infra/metrics.json, and not watched: {unused:#?}");
}

#[test]
fn f21_a_metric_of_a_service_names_its_documentation() {
    for entry in listed().iter().filter(|entry| entry.source == Source::Aws) {
        let documented = entry.documented.as_deref().unwrap_or_default();
        assert!(documented.starts_with("https://docs.aws.amazon.com/"), "{entry:?}");
        assert!(entry.namespace != "Aquifer" && entry.event.is_none(), "{entry:?}");
    }
}

#[test]
fn f21_a_metric_of_the_log_counts_a_line_that_workers_write() {
    let written = warnings_and_errors();
    assert!(written.len() > 3, "found only {written:?} in src/telemetry.rs");
    let filters: BTreeMap<Metric, String> = terraform().iter().filter_map(filter_of).collect();
    let entries: Vec<Listed> = listed().into_iter().filter(|entry| entry.source == Source::Log).collect();
    for entry in &entries {
        let event = entry.event.as_deref().unwrap_or_default();
        assert!(!event.is_empty() && entry.documented.is_none(), "{entry:?}");
        // Lower levels are off unless somebody asks for them.
        assert!(written.iter().any(|line| line.contains(event)), "no warning or error says {event:?}: {written:?}");
        // In quotes it is a phrase, whatever the form of the line around it.
        assert_eq!(filters.get(&entry.metric()), Some(&format!("\"{event}\"")), "the filter of {entry:?}");
    }
    assert_eq!(filters.len(), entries.len(), "a filter counts what infra/metrics.json does not list: {filters:#?}");
}

#[test]
fn f21_a_metric_of_the_workers_is_one_that_they_embed_in_their_log() {
    let listed: BTreeSet<Metric> = listed()
        .into_iter()
        .filter(|entry| entry.source == Source::Emf)
        .inspect(|entry| assert!(entry.documented.is_none() && entry.event.is_none(), "{entry:?}"))
        .map(|entry| entry.metric())
        .collect();
    let embedded: BTreeSet<Metric> = emf::ALL
        .iter()
        .map(|metric| Metric {
            namespace: emf::NAMESPACE.to_owned(),
            name: metric.name.to_owned(),
            dimensions: metric.dimension.into_iter().map(str::to_owned).collect(),
        })
        .collect();
    // Each is paid for by the month: none is emitted that nobody looks at.
    assert_eq!(listed, embedded);
}

#[test]
fn o4_the_alarms_are_there_and_each_says_what_to_do_and_to_whom() {
    let alarms: Vec<Block> = terraform()
        .into_iter()
        .filter(|block| block.header.get(..2) == Some(&["resource".into(), "aws_cloudwatch_metric_alarm".into()]))
        .collect();
    let names: BTreeSet<&str> = alarms.iter().map(|alarm| alarm.header[2].as_str()).collect();
    for wanted in O4 {
        assert!(names.contains(wanted), "no alarm `{wanted}` among {names:?}");
    }
    for alarm in &alarms {
        // A service that is asleep emits nothing: each must say what silence means.
        for attribute in ["alarm_description", "treat_missing_data", "alarm_actions"] {
            assert!(alarm.names.contains(attribute), "{:?} lacks {attribute}", alarm.header);
        }
        assert!(alarm.attributes["alarm_description"].len() > 20, "{:?}", alarm.header);
    }
}

#[test]
fn workers_are_told_only_settings_that_there_are() {
    let environment = variables_of("worker.tf");
    let told: BTreeMap<String, String> = environment
        .iter()
        .map(|name| {
            let value = match name.as_str() {
                "AQUIFER_BACKEND" => "aws",
                "AQUIFER_AWS_QUEUE_URL" => "https://sqs.us-west-2.amazonaws.com/123456789012/aquifer",
                "AQUIFER_AWS_DEAD_LETTER_URL" => "https://sqs.us-west-2.amazonaws.com/123456789012/aquifer-dead",
                "AQUIFER_AWS_TABLE" | "AQUIFER_AWS_BUCKET" => "aquifer",
                "AQUIFER_AWS_PREFIX" => "aquifer/",
                "AQUIFER_AWS_TOPIC_ARN" => "arn:aws:sns:us-west-2:123456789012:aquifer-notices",
                "AQUIFER_WORKER_LEASE" => "120s",
                "AQUIFER_WORKER_DRAIN" => "90s",
                other => panic!("what is a value of {other}?"),
            };
            (name.clone(), value.to_owned())
        })
        .collect();
    let example = include_str!("../../examples/aquifer.toml");
    let settings = config::resolve(Some(("aquifer.toml", example)), &told, |path| panic!("{path} is read")).unwrap();
    let Backend::Aws(aws) = settings.backend else { panic!("{:?}", settings.backend) };
    assert_eq!((aws.table.as_str(), aws.prefix.as_str()), ("aquifer", "aquifer/"));
    assert!(aws.topic_arn.is_some() && aws.queue_url != aws.dead_letter_url);
    assert_eq!((settings.worker.lease, settings.worker.drain), (Duration::from_secs(120), Duration::from_secs(90)));
}

/// Every `AQUIFER_` name of a file.
fn variables_of(file: &str) -> BTreeSet<String> {
    let names = tokens(&read(&root().join("infra").join(file)));
    let names: BTreeSet<String> = names
        .into_iter()
        .filter_map(|token| match token {
            Token::Word(word) if word.starts_with("AQUIFER_") => Some(word),
            _ => None,
        })
        .collect();
    assert!(names.len() > 5, "found only {names:?}");
    names
}

#[test]
fn a_worker_is_allowed_what_the_code_asks_of_the_services() {
    assert_allowed("worker", &workers_operations());
}

#[test]
fn an_operator_is_allowed_what_check_dead_and_forget_ask_of_the_services() {
    assert_allowed("operator", &operators_operations());
    // `lanes` shares the code of workers for that.
    assert!(actions_of("operator").contains("sns:Publish"));
}

fn assert_allowed(document: &str, asked: &BTreeSet<(String, String)>) {
    let allowed = actions_of(document);
    assert!(asked.len() > 8, "found only {asked:?} in src/aws");
    for (service, operation) in asked {
        for action in needed(service, operation) {
            assert!(allowed.contains(*action), "{service}.{operation}() needs {action} of {document}: {allowed:?}");
        }
    }
}

/// What IAM calls an operation; an operation that is new here is a decision about every role.
fn needed(service: &str, operation: &str) -> &'static [&'static str] {
    match (service, operation) {
        ("sqs", "receive_message") => &["sqs:ReceiveMessage"],
        ("sqs", "send_message" | "send_message_batch") => &["sqs:SendMessage"],
        ("sqs", "delete_message" | "delete_message_batch") => &["sqs:DeleteMessage"],
        ("dynamodb", "describe_time_to_live") => &["dynamodb:DescribeTimeToLive"],
        ("dynamodb", "batch_write_item") => &["dynamodb:BatchWriteItem", "dynamodb:DeleteItem"],
        ("s3", "delete_objects") => &["s3:DeleteObject"],
        ("s3", "get_bucket_lifecycle_configuration") => &["s3:GetLifecycleConfiguration"],
        ("sns", "get_topic_attributes") => &["sns:GetTopicAttributes"],
        ("sqs", "change_message_visibility" | "change_message_visibility_batch") => &["sqs:ChangeMessageVisibility"],
        ("sqs", "get_queue_attributes") => &["sqs:GetQueueAttributes"],
        ("dynamodb", "get_item" | "transact_get_items") => &["dynamodb:GetItem"],
        ("dynamodb", "batch_get_item") => &["dynamodb:BatchGetItem"],
        ("dynamodb", "query") => &["dynamodb:Query"],
        ("dynamodb", "put_item") => &["dynamodb:PutItem"],
        ("dynamodb", "update_item") => &["dynamodb:UpdateItem"],
        ("dynamodb", "delete_item") => &["dynamodb:DeleteItem"],
        ("dynamodb", "transact_write_items") => {
            &["dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:ConditionCheckItem"]
        }
        ("dynamodb", "describe_table") => &["dynamodb:DescribeTable"],
        ("s3", "get_object" | "head_object") => &["s3:GetObject"],
        ("s3", "put_object" | "create_multipart_upload" | "upload_part" | "complete_multipart_upload") => {
            &["s3:PutObject"]
        }
        ("s3", "abort_multipart_upload") => &["s3:AbortMultipartUpload"],
        ("s3", "list_objects_v2" | "head_bucket") => &["s3:ListBucket"],
        ("s3", "get_bucket_location") => &["s3:GetBucketLocation"],
        ("sns", "publish" | "publish_batch") => &["sns:Publish"],
        ("sfn", "send_task_success") => &["states:SendTaskSuccess"],
        ("sfn", "send_task_failure") => &["states:SendTaskFailure"],
        ("sfn", "start_execution") => &["states:StartExecution"],
        ("sfn", "describe_state_machine") => &["states:DescribeStateMachine"],
        (service, operation) => panic!("which permission does {service}.{operation}() need, and who has it?"),
    }
}

/// Every action that a policy document of `roles.tf`, or of the workflows, names.
fn actions_of(document: &str) -> BTreeSet<String> {
    let files = ["roles", "workflows"].map(|file| read(&root().join(format!("infra/{file}.tf"))));
    let tokens = tokens(&files.concat());
    let header = [Token::Text("aws_iam_policy_document".to_owned()), Token::Text(document.to_owned())];
    let start = tokens.windows(2).position(|pair| pair == header).expect("there is such a document");
    let mut depth = 0_u32;
    let body = tokens[start + 2..].iter().take_while(|token| {
        match token {
            Token::Mark('{') => depth += 1,
            Token::Mark('}') => depth -= 1,
            Token::Word(_) | Token::Text(_) | Token::Mark(_) => {}
        }
        depth > 0
    });
    let texts = body.filter_map(|token| match token {
        Token::Text(text) if text.contains(':') && !text.contains(['$', '/']) => Some(text.clone()),
        _ => None,
    });
    texts.collect()
}

// --------------------------------------------------------------------------------------------- what is listed, and said

impl Listed {
    fn metric(&self) -> Metric {
        Metric { namespace: self.namespace.clone(), name: self.name.clone(), dimensions: self.dimensions.clone() }
    }
}

fn listed() -> Vec<Listed> {
    serde_json::from_str(&read(&root().join("infra/metrics.json"))).unwrap()
}

// ------------------------------------------------------------------------------------------------ what is watched

/// The metric that a block names by `metric_name`.
fn metrics_of(block: &Block) -> Option<Metric> {
    let name = block.attributes.get("metric_name")?.clone();
    let namespace = block.attributes.get("namespace").unwrap_or_else(|| panic!("{name} has no literal namespace"));
    Some(Metric { namespace: namespace.clone(), name, dimensions: block.dimensions.clone() })
}

/// The metric that a filter of the log makes, and its pattern.
fn filter_of(block: &Block) -> Option<(Metric, String)> {
    let (namespace, name) = block.transformation.clone()?;
    Some((Metric { namespace, name, dimensions: BTreeSet::new() }, block.attributes["pattern"].clone()))
}

/// The rows of the dashboard: `["AWS/SQS", "NumberOfMessagesSent", "QueueName", <any expression>, ...]`.
fn charted() -> Vec<Metric> {
    let tokens = tokens(&read(&root().join("infra/dashboard.tf")));
    let mut metrics = Vec::new();
    for (place, window) in tokens.windows(4).enumerate() {
        let [Token::Mark('['), Token::Text(namespace), Token::Mark(','), Token::Text(name)] = window else { continue };
        if !namespace.contains('/') && namespace != "Aquifer" {
            continue;
        }
        let mut dimensions = BTreeSet::new();
        // Names and values take turns up to the options in braces.
        let mut position = 1;
        let mut depth = 0_u32;
        for token in &tokens[place + 4..] {
            match token {
                Token::Mark(']' | '{') if depth == 0 => break,
                Token::Mark('[' | '(') => depth += 1,
                Token::Mark(']' | ')') => depth -= 1,
                Token::Mark(',') if depth == 0 => position += 1,
                Token::Text(text) if depth == 0 && position % 2 == 0 => drop(dimensions.insert(text.clone())),
                _ => {}
            }
        }
        metrics.push(Metric { namespace: namespace.clone(), name: name.clone(), dimensions });
    }
    assert!(metrics.len() > 15, "found only {} rows on the dashboard", metrics.len());
    metrics
}

#[test]
fn the_reader_sees_what_terraform_sees() {
    let source = r#"
        # metric_name = "Commented"
        resource "aws_cloudwatch_metric_alarm" "one" {
          alarm_name  = "${var.name}-${replace("a{", "a", "b")}"
          metric_name = "One"
          namespace   = "AWS/SQS"
          dimensions  = { QueueName = aws_sqs_queue.jobs.name }
          metric_query {
            metric {
              metric_name = "Two"
              namespace   = "AWS/SQS"
              dimensions {
                name  = "TableName"
                value = "x"
              }
            }
          }
          metric_transformation {
            namespace = "Aquifer"
            name      = "Three"
          }
          pattern = "\"said\""
        }
    "#;
    let blocks = blocks(&tokens(source));
    let metric = |namespace: &str, name: &str, dimensions: &[&str]| Metric {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        dimensions: dimensions.iter().map(ToString::to_string).collect(),
    };
    let found: Vec<Metric> = blocks.iter().filter_map(metrics_of).collect();
    assert_eq!(found, [metric("AWS/SQS", "Two", &["TableName"]), metric("AWS/SQS", "One", &["QueueName"])]);
    let filters: Vec<_> = blocks.iter().filter_map(filter_of).collect();
    assert_eq!(filters, [(metric("Aquifer", "Three", &[]), "\"said\"".to_owned())]);
    let outer = blocks.last().unwrap();
    assert_eq!(outer.header, ["resource", "aws_cloudwatch_metric_alarm", "one"]);
    assert!(outer.names.contains("pattern") && !outer.names.contains("value"));
}
