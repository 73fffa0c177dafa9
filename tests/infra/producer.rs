//! May a producer's role run `aquifer enqueue`? The real binary on an emulator that lets everybody do everything, and what came over
//! the wire held against what `roles.tf` allows: actions, the partitions of rows, the folders of objects, and queues.

use std::collections::BTreeSet;
use std::sync::Arc;

use aquifer::aws::{Fleet, Settings};
use aquifer::cli::SystemClock;
use serde_json::json;

use crate::proxy::{Call, Proxy, Service};
use crate::reader::{Token, read, root, tokens};
use crate::support::{Ended, Place, Running, job};
use crate::{ministack, needed};

/// More than a message carries, and than one request puts.
const LARGE: usize = 9 << 20;

#[test]
fn a_producer_is_allowed_what_enqueue_asks_of_the_services() {
    let allowed = statements("producer");
    let mut asked = BTreeSet::new();
    for (call, place) in on_the_wire() {
        let service = format!("{:?}", call.service).to_lowercase();
        for action in needed(&service, &snake(&call.operation)) {
            assert!(
                allowed.iter().any(|statement| statement.allows(action, call.service, &place)),
                "{call} on `{place}` needs {action}: {allowed:#?}"
            );
            asked.insert((*action).to_owned());
        }
    }
    let given: BTreeSet<String> = allowed.into_iter().flat_map(|statement| statement.actions).collect();
    // An upload that fails is taken back; a name is looked up by other clients than ours.
    let asked_by_others = ["s3:AbortMultipartUpload", "sqs:GetQueueUrl"].map(str::to_owned);
    let unused: Vec<_> = given.difference(&asked).filter(|action| !asked_by_others.contains(action)).collect();
    assert!(unused.is_empty(), "a producer is allowed what `enqueue` never asks for: {unused:?}");
}

/// What `enqueue` asks: of a new batch, of one that it knows, of one that gets another input, and of one without a job in it.
fn on_the_wire() -> BTreeSet<(Call, String)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let settings = ministack::settings();
    runtime.block_on(async {
        let emulated = ministack::emulated(ministack::url());
        let fleet = Fleet::connect_to(&emulated, settings.clone(), Arc::new(SystemClock));
        fleet.create_missing().await.unwrap();
    });
    let (place, proxy) = (Place::new(), Proxy::start(ministack::url(), 0));
    configure(&place, &settings);
    let mut large = job(3);
    large["prompt"] = "word ".repeat(LARGE / 5).into();
    place.write_lines("first.jsonl", &[job(1), job(2), large, json!({ "promt": 1 })]);
    place.write_lines("second.jsonl", &[job(2), job(4)]);
    place.write_lines("refused.jsonl", &[json!({ "promt": 1 })]);
    let enqueue = |input: &str, batch: &str| enqueue(&place, &proxy, input, batch);
    enqueue("first.jsonl", "reviews").exits(3);
    enqueue("first.jsonl", "reviews").exits(3);
    enqueue("second.jsonl", "reviews").exits(0);
    enqueue("refused.jsonl", "refused").exits(3);
    let mut asked: BTreeSet<_> = proxy.touched().into_keys().collect();
    let touched: BTreeSet<Call> = asked.iter().map(|(call, _)| call.clone()).collect();
    assert!(touched.len() > 5, "{touched:?}");
    // Of a whole table, say.
    let whole = proxy.seen().into_keys().filter(|call| !touched.contains(call));
    asked.extend(whole.map(|call| (call, String::new())));
    asked
}

fn enqueue(place: &Place, proxy: &Proxy, input: &str, batch: &str) -> Ended {
    let mut command = place.command(["enqueue", input, "--batch", batch]);
    command.env("AWS_ENDPOINT_URL", proxy.url()).env("AWS_REGION", ministack::REGION);
    command.env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE").env("AWS_SECRET_ACCESS_KEY", "none");
    Running::start(command).finish()
}

fn configure(place: &Place, settings: &Settings) {
    let Settings { queue_url, dead_letter_url, table, bucket, topic_arn, .. } = settings;
    let topic = topic_arn.as_deref().unwrap();
    place.write(
        "aquifer.toml",
        format!(
            "backend = \"aws\"\n[aws]\nqueue_url = \"{queue_url}\"\ndead_letter_url = \"{dead_letter_url}\"\n\
             table = \"{table}\"\nbucket = \"{bucket}\"\ntopic_arn = \"{topic}\"\n\
             [[model]]\nname = \"haiku\"\nid = \"anthropic.claude-haiku-4-5-20251001-v1:0\"\n\
             [[endpoint]]\nregion = \"us-west-2\"\n"
        ),
    );
}

// ------------------------------------------------------------------------------------------------ what roles.tf says

/// A `statement` of a policy.
#[derive(Debug, Default)]
struct Statement {
    actions: BTreeSet<String>,
    /// Texts and names.
    resources: BTreeSet<String>,
    /// Of its condition, if it has one.
    values: BTreeSet<String>,
}

impl Statement {
    fn allows(&self, action: &str, service: Service, place: &str) -> bool {
        self.actions.contains(action)
            && match service {
                Service::DynamoDb => {
                    let first = |value: &String| value.split('/').next() == Some(place);
                    place.is_empty() || self.values.is_empty() || self.values.iter().any(first)
                }
                // The bucket's own calls name no folder.
                Service::S3 => {
                    let below = |resource: &String| {
                        let folder = resource.strip_prefix("${local.store}").and_then(|below| below.strip_suffix("/*"));
                        folder.is_some_and(|folder| place == format!("aquifer/{folder}"))
                    };
                    place.is_empty() || self.resources.iter().any(below)
                }
                Service::Sqs => {
                    let own =
                        if place.ends_with("-dead") { "aws_sqs_queue.dead.arn" } else { "aws_sqs_queue.jobs.arn" };
                    self.resources.iter().any(|resource| resource == own || resource == "local.queue_arns")
                }
                Service::Sns | Service::Sfn | Service::BedrockAgent => true,
            }
    }
}

fn statements(document: &str) -> Vec<Statement> {
    let tokens = tokens(&read(&root().join("infra/roles.tf")));
    let header = [Token::Text("aws_iam_policy_document".to_owned()), Token::Text(document.to_owned())];
    let start = tokens.windows(2).position(|pair| pair == header).expect("there is such a document");
    let mut statements: Vec<Statement> = Vec::new();
    let (mut depth, mut list) = (0_u32, "");
    for (place, token) in tokens.iter().enumerate().skip(start + 2) {
        match token {
            Token::Mark('{') => depth += 1,
            Token::Mark('}') => depth -= 1,
            Token::Word(word) if word == "statement" && depth == 1 => statements.push(Statement::default()),
            Token::Word(name) if tokens.get(place + 1) == Some(&Token::Mark('=')) => list = name,
            Token::Word(text) | Token::Text(text) => {
                let into = statements.last_mut().and_then(|statement| match list {
                    "actions" => Some(&mut statement.actions),
                    "resources" => Some(&mut statement.resources),
                    "values" => Some(&mut statement.values),
                    _ => None,
                });
                if let Some(into) = into {
                    into.insert(text.clone());
                }
            }
            Token::Mark(_) => {}
        }
        if depth == 0 {
            break;
        }
    }
    assert!(statements.len() > 1, "found only {statements:?}");
    statements
}

/// `PutItem` as the code calls it.
fn snake(operation: &str) -> String {
    let letters = operation.chars().enumerate();
    letters
        .flat_map(|(place, letter)| {
            let gap = (place > 0 && letter.is_ascii_uppercase()).then_some('_');
            gap.into_iter().chain([letter.to_ascii_lowercase()])
        })
        .collect()
}
