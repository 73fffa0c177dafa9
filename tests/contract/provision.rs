//! What `create_missing` makes, and what it leaves alone.

use std::collections::HashMap;

use aquifer::aws::{Created, Fleet, Settings};
use aquifer::ports::StoreTrouble;
use aws_sdk_dynamodb::types::{BillingMode, KeyType, TimeToLiveStatus};
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::{Value, json};

use crate::ministack;
use crate::world::ManualClock;

fn fleet(settings: &Settings) -> Fleet {
    Fleet::connect_to(&ministack::emulated(ministack::url()), settings.clone(), ManualClock::new())
}

fn sqs() -> aws_sdk_sqs::Client {
    aws_sdk_sqs::Client::new(&ministack::sdk(ministack::url()))
}

async fn attributes(url: &str) -> HashMap<QueueAttributeName, String> {
    let asked = sqs().get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
    asked.send().await.unwrap().attributes.unwrap()
}

#[tokio::test]
async fn what_is_missing_is_made_and_said_and_the_second_time_there_is_nothing_to_make() {
    let settings = ministack::settings();
    let fleet = fleet(&settings);
    let created = fleet.create_missing().await.unwrap();
    let topic = settings.topic_arn.clone().unwrap();
    assert_eq!(
        created,
        [
            Created::DeadLetterQueue(settings.dead_letter_url.clone()),
            Created::Queue(settings.queue_url.clone()),
            Created::Table(settings.table.clone()),
            Created::Bucket(settings.bucket.clone()),
            Created::Topic(topic),
        ]
    );
    assert_eq!(fleet.create_missing().await.unwrap(), []);

    let (queue, dead) = (attributes(&settings.queue_url).await, attributes(&settings.dead_letter_url).await);
    for queue in [&queue, &dead] {
        assert_eq!(queue[&QueueAttributeName::MessageRetentionPeriod], "1209600", "14 days");
        assert_eq!(queue[&QueueAttributeName::VisibilityTimeout], "120");
    }
    let policy: Value = serde_json::from_str(&queue[&QueueAttributeName::RedrivePolicy]).unwrap();
    assert_eq!(policy["deadLetterTargetArn"], json!(dead[&QueueAttributeName::QueueArn]));
    assert_eq!(policy["maxReceiveCount"].to_string().trim_matches('"'), "1000");

    let dynamodb = aws_sdk_dynamodb::Client::new(&ministack::sdk(ministack::url()));
    let table = dynamodb.describe_table().table_name(&settings.table).send().await.unwrap().table.unwrap();
    let keys: Vec<_> = table.key_schema().iter().map(|key| (key.attribute_name(), key.key_type().clone())).collect();
    assert_eq!(keys, [("pk", KeyType::Hash), ("sk", KeyType::Range)]);
    assert_eq!(table.billing_mode_summary().unwrap().billing_mode(), Some(&BillingMode::PayPerRequest));
    let expiry = dynamodb.describe_time_to_live().table_name(&settings.table).send().await.unwrap();
    let expiry = expiry.time_to_live_description.unwrap();
    assert_eq!(expiry.time_to_live_status(), Some(&TimeToLiveStatus::Enabled));
    assert_eq!(expiry.attribute_name(), Some("ttl"));
}

#[tokio::test]
async fn what_is_there_stays_as_it_is() {
    let settings = ministack::settings();
    let name = settings.queue_url.rsplit('/').next().unwrap();
    let theirs = sqs().create_queue().queue_name(name).attributes(QueueAttributeName::VisibilityTimeout, "77");
    theirs.send().await.unwrap();
    let created = fleet(&settings).create_missing().await.unwrap();
    assert_eq!(created.len(), 4);
    assert!(!created.contains(&Created::Queue(settings.queue_url.clone())));
    let queue = attributes(&settings.queue_url).await;
    assert_eq!(queue[&QueueAttributeName::VisibilityTimeout], "77");
    assert!(!queue.contains_key(&QueueAttributeName::RedrivePolicy), "that is for `check` to say");
}

#[tokio::test]
async fn a_name_of_another_account_or_region_is_no_namesake_here() {
    let settings = ministack::settings();
    let elsewhere = settings.topic_arn.as_ref().unwrap().replace(ministack::REGION, "eu-west-3");
    let error = fleet(&Settings { topic_arn: Some(elsewhere.clone()), ..settings }).create_missing().await.unwrap_err();
    assert_eq!(error.kind, StoreTrouble::Denied, "{error}");
    assert!(error.to_string().contains(&elsewhere), "{error}");

    let settings = ministack::settings();
    let elsewhere = settings.dead_letter_url.replace("/000000000000/", "/123456789012/");
    let error = fleet(&Settings { dead_letter_url: elsewhere.clone(), ..settings }).create_missing().await.unwrap_err();
    assert_eq!(error.kind, StoreTrouble::Denied, "{error}");
    assert!(error.to_string().contains(&elsewhere), "{error}");
}

#[tokio::test]
async fn a_fleet_without_a_topic_gets_none() {
    let settings = Settings { topic_arn: None, ..ministack::settings() };
    assert_eq!(fleet(&settings).create_missing().await.unwrap().len(), 4);
}
