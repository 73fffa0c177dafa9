//! Which queue, table, bucket and topic do the workers of a fleet share?

use super::error::ConfigError;
use super::typed::Section;

/// How the names of queues and topics end that keep an order; theirs is one message at a time, and ours is not.
const FIFO: &str = ".fifo";

/// `[aws]`: the services behind `backend = "aws"`. Credentials, region and endpoints come the SDK's usual way
/// (`AWS_PROFILE`, `AWS_REGION`, `AWS_ENDPOINT_URL`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AwsSettings {
    /// `queue_url`: the SQS queue that jobs come from. Needed.
    pub queue_url: String,
    /// `dead_letter_url`: where messages go that are no jobs, and poison. Needed; another queue than `queue_url`.
    pub dead_letter_url: String,
    /// `table`: the DynamoDB table of the ledger. Default `"aquifer"`.
    pub table: String,
    /// `bucket`: the S3 bucket of results, manifests and large jobs. Needed.
    pub bucket: String,
    /// `prefix`: what every key in the bucket begins with; a missing last `/` is added. Default `"aquifer/"`.
    pub prefix: String,
    /// `topic_arn`: the SNS topic of the notices. Needed while `notify.jobs` or `notify.batches` is true.
    pub topic_arn: Option<String>,
    /// `results`: how result lines are stored. Default `"segment"`.
    pub results: ResultObjects,
}

/// `[aws] results`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ResultObjects {
    /// `"segment"`: many lines to an object.
    Segment,
    /// `"object"`: one object a job; a million jobs cost a million requests.
    Object,
}

/// Reads the section. What must be there is only missed if it is needed; `None` if something is missing or wrong.
pub(super) fn read(top: &mut Section<'_>, needed: bool) -> Option<AwsSettings> {
    let mut section = top.section("aws");
    let queue_url = url(&mut section, "queue_url", needed);
    let dead_letter_url = url(&mut section, "dead_letter_url", needed);
    if queue_url.is_some() && queue_url == dead_letter_url {
        let (key, value) = (section.key("dead_letter_url"), queue_url.clone().unwrap_or_default());
        section.problem(ConfigError::Contradiction { key, value, bound: "another queue than `queue_url`".to_owned() });
    }
    let table = section.text("table").unwrap_or_else(|| "aquifer".to_owned());
    let bucket = needed_text(&mut section, "bucket", needed);
    let mut prefix = section.text("prefix").unwrap_or_else(|| "aquifer/".to_owned());
    if !prefix.is_empty() && !prefix.ends_with('/') {
        prefix.push('/');
    }
    let topic_arn = section.text("topic_arn");
    if let Some(arn) = topic_arn.as_deref().filter(|arn| !arn.starts_with("arn:") || arn.ends_with(FIFO)) {
        section.out_of_bounds("topic_arn", arn, "the ARN of a standard SNS topic, arn:aws:sns:REGION:ACCOUNT:NAME");
    }
    let results = match section.text("results").as_deref() {
        None | Some("segment") => ResultObjects::Segment,
        Some("object") => ResultObjects::Object,
        Some(other) => {
            section.out_of_bounds("results", other, "\"segment\" or \"object\"");
            ResultObjects::Segment
        }
    };
    section.finish();
    let (queue_url, dead_letter_url, bucket) = (queue_url?, dead_letter_url?, bucket?);
    Some(AwsSettings { queue_url, dead_letter_url, table, bucket, prefix, topic_arn, results })
}

fn url(section: &mut Section<'_>, key: &'static str, needed: bool) -> Option<String> {
    let url = needed_text(section, key, needed)?;
    if !(url.starts_with("https://") || url.starts_with("http://")) || url.ends_with(FIFO) {
        section.out_of_bounds(key, &url, "the URL of a standard SQS queue, https://sqs...");
    }
    Some(url)
}

fn needed_text(section: &mut Section<'_>, key: &'static str, needed: bool) -> Option<String> {
    if needed { section.required(|section| section.text(key), key) } else { section.text(key) }
}
