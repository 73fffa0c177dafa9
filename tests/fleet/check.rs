//! What `check` finds, and that a command that starts on what is not there says so.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use aquifer::aws::{Expected, Fleet, Settings};
use aquifer::ports::{Finding, Severity};
use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::{Value, json};

use crate::Stopped;
use crate::ministack;
use crate::proxy::{Fault, Proxy, Service};

const EXPECTED: Expected = Expected { lease: Duration::from_secs(120), longest_call: Duration::from_secs(171) };

fn at(url: &str, settings: &Settings) -> Fleet {
    Fleet::connect_to(&ministack::emulated(url), settings.clone(), Arc::new(Stopped))
}

async fn made() -> (Fleet, Settings) {
    let settings = ministack::settings();
    let fleet = at(ministack::url(), &settings);
    fleet.create_missing().await.unwrap();
    (fleet, settings)
}

fn errors(findings: &[Finding]) -> Vec<String> {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    errors.map(|finding| format!("{}: {}", finding.subject, finding.what)).collect()
}

/// The one error there is, which names all of these, and its remedy.
fn only_error(findings: &[Finding], words: &[&str]) -> String {
    let errors = errors(findings);
    assert_eq!(errors.len(), 1, "{errors:?}");
    for word in words {
        assert!(errors[0].contains(word), "{word} is not in {}", errors[0]);
    }
    findings.iter().find_map(|finding| (finding.severity == Severity::Error).then(|| finding.remedy.clone())?).unwrap()
}

async fn set(url: &str, name: QueueAttributeName, value: &str) {
    let sqs = aws_sdk_sqs::Client::new(&ministack::sdk(ministack::url()));
    sqs.set_queue_attributes().queue_url(url).attributes(name, value).send().await.unwrap();
}

#[tokio::test]
async fn what_was_made_is_well_and_what_is_missing_is_named() {
    let settings = ministack::settings();
    let fleet = at(ministack::url(), &settings);
    let before = fleet.check(&EXPECTED).await;
    let said = errors(&before).join("\n");
    let topic = settings.topic_arn.as_ref().unwrap();
    for name in [&settings.queue_url, &settings.dead_letter_url, &settings.table, &settings.bucket, topic] {
        assert!(said.contains(name.as_str()), "{name} is not in {said}");
    }
    assert!(
        before.iter().filter_map(|finding| finding.remedy.as_ref()).all(|remedy| remedy.contains("check --create"))
    );
    assert_eq!(fleet.unfit().await.len(), 4, "a worker can do without a topic for a while");
    fleet.create_missing().await.unwrap();
    let after = fleet.check(&EXPECTED).await;
    assert_eq!(errors(&after), [""; 0]);
    assert!(after.iter().any(|finding| finding.what.contains("actions that were tried are allowed")), "{after:?}");
    assert_eq!(fleet.unfit().await, []);
}

#[tokio::test]
async fn f3_a_queue_that_loses_jobs_is_an_error_with_the_command_that_mends_it() {
    let (fleet, settings) = made().await;
    set(&settings.queue_url, QueueAttributeName::MessageRetentionPeriod, "345600").await;
    let remedy = only_error(&fleet.check(&EXPECTED).await, &["queue", "4 days"]);
    assert!(remedy.contains("MessageRetentionPeriod=1209600") && remedy.contains(&settings.queue_url), "{remedy}");
    set(&settings.queue_url, QueueAttributeName::MessageRetentionPeriod, "1209600").await;

    set(&settings.queue_url, QueueAttributeName::RedrivePolicy, "").await;
    let remedy = only_error(&fleet.check(&EXPECTED).await, &["queue", "redrive policy"]);
    assert!(remedy.contains("RedrivePolicy"), "{remedy}");
}

#[tokio::test]
async fn another_dead_letter_queue_than_ours_is_an_error() {
    let (fleet, settings) = made().await;
    let (_, other) = made().await;
    let arn = format!("arn:aws:sqs:us-east-1:000000000000:{}", other.dead_letter_url.rsplit('/').next().unwrap());
    let policy = json!({ "deadLetterTargetArn": arn, "maxReceiveCount": 1000 }).to_string();
    set(&settings.queue_url, QueueAttributeName::RedrivePolicy, &policy).await;
    only_error(&fleet.check(&EXPECTED).await, &[&arn, "aws.dead_letter_url"]);
}

#[tokio::test]
async fn a_table_with_another_schema_is_named_and_nothing_works_on_it() {
    let settings = ministack::settings();
    let dynamodb = aws_sdk_dynamodb::Client::new(&ministack::sdk(ministack::url()));
    let attribute = AttributeDefinition::builder().attribute_name("id").attribute_type(ScalarAttributeType::S).build();
    let key = KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash).build();
    let theirs = dynamodb.create_table().table_name(&settings.table).billing_mode(BillingMode::PayPerRequest);
    theirs.attribute_definitions(attribute.unwrap()).key_schema(key.unwrap()).send().await.unwrap();
    let fleet = at(ministack::url(), &settings);
    fleet.create_missing().await.unwrap();
    only_error(&fleet.check(&EXPECTED).await, &[&settings.table, "its keys are id"]);
    assert_eq!(fleet.unfit().await.len(), 1);
}

#[tokio::test]
async fn a_bucket_in_another_region_is_named_so_and_one_that_cannot_be_seen_stops_nobody() {
    let (_, settings) = made().await;
    let proxy = Proxy::start(ministack::url(), 1);
    let fleet = at(proxy.url(), &settings);
    proxy.next(Service::S3, "GetBucketLocation", Fault::Status(301));
    let remedy = only_error(&fleet.check(&EXPECTED).await, &[&settings.bucket, "another region"]);
    assert!(remedy.contains("AWS_REGION"), "{remedy}");
    proxy.next(Service::S3, "GetBucketLocation", Fault::Status(301));
    assert_eq!(fleet.unfit().await.len(), 1);
    proxy.take_away(Service::S3);
    assert_eq!(fleet.unfit().await, [], "what is away is waited for");
}

// ------------------------------------------------------------------------------------------------ the real binary

pub(crate) fn aquifer(dir: &Path, arguments: &[&str]) -> Output {
    command(dir, ministack::url(), arguments).output().unwrap()
}

fn command(dir: &Path, url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aquifer"));
    command.args(arguments).current_dir(dir).env_clear().env("HOME", dir);
    command.env("AWS_ENDPOINT_URL", url).env("AWS_REGION", ministack::REGION);
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    command
}

/// A directory with a configuration of services that are not there yet.
pub(crate) fn configured() -> (tempfile::TempDir, Settings) {
    let settings = ministack::settings();
    let Settings { queue_url, dead_letter_url, table, bucket, topic_arn, .. } = &settings;
    let topic_arn = topic_arn.as_ref().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "backend = \"aws\"\n[[model]]\nname = \"nova\"\nid = \"amazon.nova-micro-v1:0\"\ntokens_per_minute = 200000\n\
         price = {{ input = 0.035, output = 0.14 }}\n[aws]\nqueue_url = \"{queue_url}\"\ndead_letter_url = \"{dead_letter_url}\"\n\
         table = \"{table}\"\nbucket = \"{bucket}\"\ntopic_arn = \"{topic_arn}\"\n"
    );
    std::fs::write(dir.path().join("aquifer.toml"), text).unwrap();
    std::fs::write(dir.path().join("jobs.jsonl"), "{\"id\":\"a\",\"prompt\":\"Hi\"}\n").unwrap();
    (dir, settings)
}

pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn from_nothing_check_create_makes_it_all_and_then_all_is_well() {
    let (dir, _) = configured();
    let before = aquifer(dir.path(), &["check", "--json"]);
    assert_eq!(before.status.code(), Some(2), "{}", said(&before));
    let told: Value = serde_json::from_slice(&before.stdout).unwrap();
    assert_eq!((&told["errors"], &told["made"]), (&json!(5), &json!([])), "{told}");

    let created = aquifer(dir.path(), &["check", "--create"]);
    assert_eq!(created.status.code(), Some(0), "{}", said(&created));
    assert_eq!(said(&created).lines().filter(|line| line.starts_with("made ")).count(), 5, "{}", said(&created));
    let after = aquifer(dir.path(), &["check", "--json"]);
    assert_eq!(after.status.code(), Some(0), "{}", said(&after));
    let told: Value = serde_json::from_slice(&after.stdout).unwrap();
    assert_eq!((&told["errors"], &told["made"]), (&json!(0), &json!([])), "{told}");
}

#[test]
fn a_command_that_starts_on_nothing_says_what_is_missing_and_how_to_make_it() {
    let (dir, _) = configured();
    for command in [&["worker", "--listen", "127.0.0.1:0"][..], &["enqueue", "jobs.jsonl"]] {
        let output = aquifer(dir.path(), command);
        assert_eq!(output.status.code(), Some(2), "{command:?}: {}", said(&output));
        for word in ["there is no queue http", "there is no table", "there is no bucket", "aquifer check --create"] {
            assert!(said(&output).contains(word), "{command:?}: {word} is not in {}", said(&output));
        }
    }
}

/// What looks at a fleet without asking first whether all of it is there.
const LOOKS: [&[&str]; 4] = [&["status"], &["results", "jobs"], &["explain", "a"], &["lanes"]];

#[test]
fn what_goes_wrong_with_a_fleet_is_not_put_down_to_a_state_directory() {
    let (dir, _) = configured();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for arguments in LOOKS {
        let missing = aquifer(dir.path(), arguments);
        assert_eq!(missing.status.code(), Some(1), "{arguments:?}: {}", said(&missing));
        let away = command(dir.path(), &format!("http://{nobody}"), arguments).output().unwrap();
        assert_eq!(away.status.code(), Some(1), "{arguments:?}: {}", said(&away));
        for (output, word) in [(&missing, "`aquifer check` says"), (&away, "AWS_ENDPOINT_URL")] {
            let said = said(output);
            assert!(said.contains(word), "{arguments:?}: {word} is not in {said}");
            assert!(!said.contains("state directory") && !said.contains("another process"), "{arguments:?}: {said}");
        }
    }
}

/// Refuses whatever it is asked with a code that no operation lists, as a service does with a key that it does not know.
fn refusing() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || refuse(stream.unwrap()));
        }
    });
    url
}

fn refuse(mut stream: std::net::TcpStream) {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    let body = r#"{"__type":"UnrecognizedClientException","message":"The security token is invalid."}"#;
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut length = 0;
    loop {
        let mut line = String::new();
        // Whoever asked goes away when it has heard enough.
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim().to_lowercase();
        length = line.strip_prefix("content-length: ").map_or(length, |told| told.parse().unwrap());
        if line.is_empty() {
            let mut asked = vec![0; length];
            reader.read_exact(&mut asked).unwrap();
            let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: ";
            let _ = write!(stream, "{head}{}\r\n\r\n{body}", body.len());
            length = 0;
        }
    }
}

#[test]
fn a_key_that_no_service_knows_is_told_in_its_words_and_mended_by_other_credentials() {
    let (dir, _) = configured();
    let url = refusing();
    for arguments in LOOKS.into_iter().chain([&["forget", "jobs"][..], &["enqueue", "jobs.jsonl"]]) {
        let output = command(dir.path(), &url, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", said(&output));
        let said = said(&output);
        assert!(said.contains("UnrecognizedClientException: The security token is invalid."), "{arguments:?}: {said}");
        assert!(said.contains("permissions of these credentials"), "{arguments:?}: {said}");
        assert!(!said.contains("Error {"), "{arguments:?}: {said}");
    }
}

#[test]
fn without_credentials_one_line_says_so_and_another_what_to_set() {
    let (dir, _) = configured();
    for arguments in [&["status"][..], &["enqueue", "jobs.jsonl"]] {
        let mut command = command(dir.path(), ministack::url(), arguments);
        command
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        let said = said(&output);
        assert_eq!(said.lines().count(), 3, "{said}");
        assert!(said.contains("no AWS credentials") && said.contains("hint: set AWS_PROFILE"), "{said}");
    }
}

#[test]
fn an_empty_input_queues_nothing_and_is_no_trouble() {
    let (dir, _) = configured();
    let created = aquifer(dir.path(), &["check", "--create"]);
    assert_eq!(created.status.code(), Some(0), "{}", said(&created));
    std::fs::write(dir.path().join("empty.jsonl"), "\n").unwrap();
    let output = aquifer(dir.path(), &["enqueue", "empty.jsonl"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("0 jobs queued"), "{}", said(&output));
    let status = aquifer(dir.path(), &["status"]);
    assert!(said(&status).contains("queue: 0 ready"), "nor is it sealed: {}", said(&status));
}
