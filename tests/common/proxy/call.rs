//! Which call is this, and what does it carry? Read from the wire formats of the services: JSON with a target header,
//! a form with an action, and the methods and paths of S3 and of knowledge bases.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use hyper::Method;
use hyper::http::request::Parts;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Service {
    Sqs,
    DynamoDb,
    S3,
    Sns,
    Sfn,
    /// The control plane of agents and knowledge bases.
    BedrockAgent,
}

/// One kind of call.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Call {
    pub(crate) service: Service,
    /// As the service's documentation names it.
    pub(crate) operation: String,
}

impl Call {
    pub(crate) fn new(service: Service, operation: &str) -> Self {
        Self { service, operation: operation.to_owned() }
    }

    /// Whether its entries succeed and fail one by one.
    pub(super) fn is_batch(&self) -> bool {
        match self.service {
            Service::Sqs | Service::Sns => self.operation.ends_with("Batch"),
            Service::DynamoDb | Service::S3 | Service::Sfn | Service::BedrockAgent => false,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.service, self.operation)
    }
}

pub(super) fn of(head: &Parts, body: &[u8]) -> Call {
    if let Some(target) = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok()) {
        let (prefix, operation) = target.split_once('.').unwrap_or((target, ""));
        let service = match prefix {
            "AmazonSQS" => Service::Sqs,
            "AWSStepFunctions" => Service::Sfn,
            prefix if prefix.starts_with("DynamoDB_") => Service::DynamoDb,
            other => panic!("a call of `{other}` came through the proxy"),
        };
        return Call::new(service, operation);
    }
    let form = head.headers.get("content-type").is_some_and(|kind| kind == "application/x-www-form-urlencoded");
    if form && let Some(action) = fields(body).get("Action") {
        return Call::new(Service::Sns, action);
    }
    if head.uri.path().starts_with("/knowledgebases/") {
        return Call::new(Service::BedrockAgent, ingestion(head));
    }
    Call::new(Service::S3, s3_operation(head))
}

fn ingestion(head: &Parts) -> &'static str {
    let on_all = head.uri.path().trim_end_matches('/').ends_with("/ingestionjobs");
    match (&head.method, on_all) {
        (&Method::PUT, true) => "StartIngestionJob",
        (&Method::POST, true) => "ListIngestionJobs",
        (&Method::GET, false) => "GetIngestionJob",
        _ => "other",
    }
}

fn s3_operation(head: &Parts) -> &'static str {
    let query = head.uri.query().unwrap_or_default();
    let asks = |name: &str| query.split('&').any(|field| field.split('=').next() == Some(name));
    let on_bucket = !head.uri.path().trim_matches('/').contains('/');
    match (&head.method, on_bucket) {
        (&Method::GET, true) if asks("location") => "GetBucketLocation",
        (&Method::GET, true) => "ListObjectsV2",
        (&Method::HEAD, true) => "HeadBucket",
        (&Method::PUT, true) => "CreateBucket",
        (&Method::POST, true) => "DeleteObjects",
        (&Method::GET, false) if asks("uploadId") => "ListParts",
        (&Method::GET, false) => "GetObject",
        (&Method::HEAD, false) => "HeadObject",
        (&Method::PUT, false) if asks("uploadId") => "UploadPart",
        (&Method::PUT, false) => "PutObject",
        (&Method::DELETE, false) if asks("uploadId") => "AbortMultipartUpload",
        (&Method::DELETE, false) => "DeleteObject",
        (&Method::POST, false) if asks("uploads") => "CreateMultipartUpload",
        (&Method::POST, false) => "CompleteMultipartUpload",
        _ => "other",
    }
}

/// What it touches, each once; see [`Proxy::touched`](super::Proxy::touched).
pub(super) fn places(call: &Call, head: &Parts, body: &[u8]) -> BTreeSet<String> {
    let mut places = BTreeSet::new();
    match call.service {
        Service::DynamoDb => {
            collect_partitions(&serde_json::from_slice(body).unwrap_or_default(), &mut places);
        }
        Service::S3 => {
            // Behind the bucket.
            let key: Vec<&str> = head.uri.path().trim_matches('/').split('/').skip(1).take(2).collect();
            places.insert(key.join("/"));
        }
        Service::Sqs => {
            let body: Value = serde_json::from_slice(body).unwrap_or_default();
            places.extend(body["QueueUrl"].as_str().and_then(|url| url.rsplit('/').next()).map(str::to_owned));
        }
        Service::Sns | Service::Sfn | Service::BedrockAgent => {}
    }
    places
}

/// What stands before the first `/` of every partition key, also of one that is asked for as `:pk`.
fn collect_partitions(body: &Value, found: &mut BTreeSet<String>) {
    match body {
        Value::Object(fields) => {
            for (name, value) in fields {
                let key = value["S"].as_str().filter(|_| name == "pk" || name == ":pk");
                found.extend(key.and_then(|key| key.split('/').next()).map(str::to_owned));
                collect_partitions(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect_partitions(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// How many entries or items it carries; one if it is no batch.
pub(super) fn entries(call: &Call, body: &[u8]) -> u64 {
    let entries = match call.service {
        Service::Sqs | Service::DynamoDb => {
            let body: Value = serde_json::from_slice(body).unwrap_or_default();
            let lists = ["Entries", "TransactItems"].map(|list| body[list].as_array().map(Vec::len));
            lists.into_iter().flatten().next().or_else(|| request_items(&body))
        }
        Service::Sns => call.is_batch().then(|| fields(body).keys().filter(|name| name.ends_with(".Id")).count()),
        Service::S3 | Service::Sfn | Service::BedrockAgent => None,
    };
    entries.unwrap_or(1) as u64
}

/// What `BatchWriteItem` and `BatchGetItem` carry, over all tables.
fn request_items(body: &Value) -> Option<usize> {
    let tables = body["RequestItems"].as_object()?;
    let of_table = |table: &Value| table.as_array().or_else(|| table["Keys"].as_array()).map_or(0, Vec::len);
    Some(tables.values().map(of_table).sum())
}

/// A batch without the entry at that place, or its last: the body that is left, unless nothing is, and the entry's id.
pub(super) fn without_entry(call: &Call, body: &[u8], place: usize) -> Option<(Option<Bytes>, String)> {
    if !call.is_batch() {
        return None;
    }
    match call.service {
        Service::Sqs => {
            let mut request: Value = serde_json::from_slice(body).ok()?;
            let entries = request["Entries"].as_array_mut()?;
            let entry = entries.remove(place.min(entries.len().checked_sub(1)?));
            let left = !entries.is_empty();
            Some((left.then(|| request.to_string().into()), entry["Id"].as_str()?.to_owned()))
        }
        Service::Sns => without_member(body, place),
        Service::DynamoDb | Service::S3 | Service::Sfn | Service::BedrockAgent => None,
    }
}

const MEMBER: &str = "PublishBatchRequestEntries.member.";

/// The same for a form, whose members are numbered from 1 without a gap.
fn without_member(body: &[u8], place: usize) -> Option<(Option<Bytes>, String)> {
    let fields = fields(body);
    let count = fields.keys().filter(|name| name.starts_with(MEMBER) && name.ends_with(".Id")).count();
    let gone = place.min(count.checked_sub(1)?) + 1;
    let id = fields.get(&format!("{MEMBER}{gone}.Id"))?.clone();
    let mut left = Vec::new();
    for (name, value) in fields {
        let member = name.strip_prefix(MEMBER).and_then(|rest| rest.split_once('.'));
        let name = match member.and_then(|(number, rest)| Some((number.parse::<usize>().ok()?, rest))) {
            Some((number, _)) if number == gone => continue,
            Some((number, rest)) if number > gone => format!("{MEMBER}{}.{rest}", number - 1),
            _ => name,
        };
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        left.push(format!("{}={}", encode(&name), encode(&value)));
    }
    Some(((count > 1).then(|| left.join("&").into()), id))
}

fn fields(body: &[u8]) -> BTreeMap<String, String> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let body = String::from_utf8_lossy(body);
    let pairs = body.split('&').filter_map(|field| field.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}
