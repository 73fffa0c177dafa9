//! What does a first try need that is not there yet? Queues, table, bucket and topic, made with what the other files rely on
//! and nothing more: what is kept is made by Terraform, with policies, alarms and encryption keys.
//!
//! Each is looked for under the very name that the settings give, and what was made is compared with it: a queue URL or an
//! ARN of another account would otherwise be answered by a namesake in this one.

use std::fmt;
use std::time::Duration;

use aws_sdk_dynamodb::client::Waiters;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TimeToLiveSpecification,
};
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use aws_sdk_sqs::types::QueueAttributeName;

use super::clients::{Clients, Settings, in_words};
use super::trouble;
use crate::ports::{StoreError, StoreTrouble};

/// A backstop only: what is poison is counted in claims, and a message that merely waits is received often.
const MAX_RECEIVES: u32 = 1_000;
/// The longest that SQS keeps a message: 14 days, in seconds.
const RETENTION: &str = "1209600";
/// For receivers that name none; ours do. In seconds, as long as a lease.
const VISIBILITY: &str = "120";
/// A table takes seconds.
const TABLE_WAIT: Duration = Duration::from_secs(120);

/// Something that was missing and was made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Created {
    /// The dead-letter queue, by its URL.
    DeadLetterQueue(String),
    /// The queue, by its URL.
    Queue(String),
    /// The DynamoDB table.
    Table(String),
    /// The S3 bucket.
    Bucket(String),
    /// The SNS topic, by its ARN.
    Topic(String),
}

impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeadLetterQueue(url) => write!(f, "dead-letter queue {url}"),
            Self::Queue(url) => write!(f, "queue {url}"),
            Self::Table(name) => write!(f, "table {name}"),
            Self::Bucket(name) => write!(f, "bucket {name}"),
            Self::Topic(arn) => write!(f, "topic {arn}"),
        }
    }
}

pub(super) async fn create_missing(clients: &Clients, settings: &Settings) -> Result<Vec<Created>, StoreError> {
    let mut created = Vec::new();
    // First: the queue's redrive policy names it.
    let dead_letter_arn = match queue_arn(clients, &settings.dead_letter_url).await? {
        Some(arn) => arn,
        None => {
            let arn = create_queue(clients, &settings.dead_letter_url, None).await?;
            created.push(Created::DeadLetterQueue(settings.dead_letter_url.clone()));
            arn
        }
    };
    if queue_arn(clients, &settings.queue_url).await?.is_none() {
        create_queue(clients, &settings.queue_url, Some(&dead_letter_arn)).await?;
        created.push(Created::Queue(settings.queue_url.clone()));
    }
    if create_table(clients, &settings.table).await? {
        created.push(Created::Table(settings.table.clone()));
    }
    if create_bucket(clients, &settings.bucket).await? {
        created.push(Created::Bucket(settings.bucket.clone()));
    }
    if let Some(arn) = &settings.topic_arn
        && create_topic(clients, arn).await?
    {
        created.push(Created::Topic(arn.clone()));
    }
    Ok(created)
}

// -------------------------------------------------------------------------------------------------------- SQS

/// `None` if there is no such queue.
async fn queue_arn(clients: &Clients, url: &str) -> Result<Option<String>, StoreError> {
    let asked =
        clients.sqs.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::QueueArn).send().await;
    let doing = format!("looking for the queue {url}");
    let reply = match asked {
        Ok(reply) => reply,
        Err(error) if error.as_service_error().is_some_and(|error| error.is_queue_does_not_exist()) => return Ok(None),
        Err(error) => return Err(trouble::of_sdk(&doing, &error)),
    };
    let arn = reply.attributes().and_then(|attributes| attributes.get(&QueueAttributeName::QueueArn));
    match arn {
        Some(arn) => Ok(Some(arn.clone())),
        None => Err(trouble::of_ours(StoreTrouble::Other, &doing, "the reply names no ARN")),
    }
}

/// The new queue's ARN.
async fn create_queue(clients: &Clients, url: &str, dead_letter_arn: Option<&str>) -> Result<String, StoreError> {
    let doing = format!("making the queue {url}");
    let mut request = clients
        .sqs
        .create_queue()
        .queue_name(last_segment(url, '/'))
        .attributes(QueueAttributeName::MessageRetentionPeriod, RETENTION)
        .attributes(QueueAttributeName::VisibilityTimeout, VISIBILITY);
    if let Some(arn) = dead_letter_arn {
        let policy = serde_json::json!({ "deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVES });
        request = request.attributes(QueueAttributeName::RedrivePolicy, policy.to_string());
    }
    let made = request.send().await.map_err(|error| trouble::of_sdk(&doing, &error))?;
    let made = made.queue_url().unwrap_or_default();
    // The host may differ: an emulator knows itself by another name.
    if account_and_name(made) != account_and_name(url) {
        return Err(not_what_was_named(&doing, made));
    }
    match queue_arn(clients, url).await? {
        Some(arn) => Ok(arn),
        None => Err(not_what_was_named(&doing, made)),
    }
}

/// The last two segments of a queue URL.
fn account_and_name(url: &str) -> (Option<&str>, Option<&str>) {
    let mut segments = url.rsplit('/');
    let name = segments.next();
    (segments.next(), name)
}

// --------------------------------------------------------------------------------------------------- DynamoDB

async fn create_table(clients: &Clients, name: &str) -> Result<bool, StoreError> {
    match clients.dynamodb.describe_table().table_name(name).send().await {
        Ok(_) => return Ok(false),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {}
        Err(error) => return Err(trouble::of_sdk(&format!("looking for the table {name}"), &error)),
    }
    let doing = format!("making the table {name}");
    let mut request = clients.dynamodb.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
    for (key, kind) in [("pk", KeyType::Hash), ("sk", KeyType::Range)] {
        let attribute =
            AttributeDefinition::builder().attribute_name(key).attribute_type(ScalarAttributeType::S).build();
        let element = KeySchemaElement::builder().attribute_name(key).key_type(kind).build();
        let incomplete = |error: aws_sdk_dynamodb::error::BuildError| {
            trouble::of_ours(StoreTrouble::Other, &doing, in_words(&error))
        };
        request =
            request.attribute_definitions(attribute.map_err(incomplete)?).key_schema(element.map_err(incomplete)?);
    }
    request.send().await.map_err(|error| trouble::of_sdk(&doing, &error))?;
    let there = clients.dynamodb.wait_until_table_exists().table_name(name).wait(TABLE_WAIT).await;
    there.map_err(|error| trouble::of_ours(StoreTrouble::Away, &doing, in_words(&error)))?;
    let expiry = TimeToLiveSpecification::builder().enabled(true).attribute_name("ttl").build();
    let expiry = expiry.map_err(|error| trouble::of_ours(StoreTrouble::Other, &doing, in_words(&error)))?;
    let request = clients.dynamodb.update_time_to_live().table_name(name).time_to_live_specification(expiry);
    request.send().await.map_err(|error| trouble::of_sdk(&doing, &error))?;
    Ok(true)
}

// --------------------------------------------------------------------------------------------------------- S3

async fn create_bucket(clients: &Clients, name: &str) -> Result<bool, StoreError> {
    match clients.s3.head_bucket().bucket(name).send().await {
        Ok(_) => return Ok(false),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => {}
        Err(error) => return Err(trouble::of_sdk(&format!("looking for the bucket {name}"), &error)),
    }
    // Everywhere but in the oldest region a bucket must be told where it is to be.
    let region = clients.s3.config().region().map(ToString::to_string).filter(|region| region != "us-east-1");
    let place = region.map(|region| {
        let region = BucketLocationConstraint::from(region.as_str());
        CreateBucketConfiguration::builder().location_constraint(region).build()
    });
    let request = clients.s3.create_bucket().bucket(name).set_create_bucket_configuration(place);
    request.send().await.map_err(|error| trouble::of_sdk(&format!("making the bucket {name}"), &error))?;
    Ok(true)
}

// -------------------------------------------------------------------------------------------------------- SNS

async fn create_topic(clients: &Clients, arn: &str) -> Result<bool, StoreError> {
    match clients.sns.get_topic_attributes().topic_arn(arn).send().await {
        Ok(_) => return Ok(false),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found_exception()) => {}
        Err(error) => return Err(trouble::of_sdk(&format!("looking for the topic {arn}"), &error)),
    }
    let doing = format!("making the topic {arn}");
    let made = clients.sns.create_topic().name(last_segment(arn, ':')).send().await;
    let made = made.map_err(|error| trouble::of_sdk(&doing, &error))?;
    match made.topic_arn() {
        Some(made) if made == arn => Ok(true),
        made => Err(not_what_was_named(&doing, made.unwrap_or_default())),
    }
}

fn last_segment(text: &str, separator: char) -> &str {
    text.rsplit(separator).next().unwrap_or(text)
}

fn not_what_was_named(doing: &str, made: &str) -> StoreError {
    let why =
        format!("these credentials and this region made {made}: the configuration names another account or region");
    trouble::of_ours(StoreTrouble::Denied, doing, why)
}
