//! Do uploads come as an emulator of S3, SNS and EventBridge tells of them, and is an execution begun once?

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer::aws::{Fleet, Settings};
use aquifer::job::intake::{UploadEvent, parse_upload_event};
use aquifer::job::upload::{Revision, Upload};
use aquifer::ports::{BATCH_ENTRIES, Clock, Severity, StoreTrouble};
use aws_sdk_s3::types::{
    BucketVersioningStatus, Event, EventBridgeConfiguration, NotificationConfiguration, QueueConfiguration,
    TopicConfiguration, VersioningConfiguration,
};
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::{Value, json};

use crate::ministack;
use crate::world::ManualClock;

/// From S3 to the queue it takes milliseconds.
const DELIVERY: Duration = Duration::from_secs(60);
const KEY: &str = "inbox/Ü a b.pdf";

struct Place {
    fleet: Fleet,
    settings: Settings,
    s3: aws_sdk_s3::Client,
}

impl Place {
    async fn new() -> Self {
        let settings = ministack::settings();
        let clock = ManualClock::new() as Arc<dyn Clock>;
        let fleet = Fleet::connect_to(&ministack::emulated(ministack::url()), settings.clone(), clock);
        fleet.create_missing().await.unwrap();
        Self { fleet, settings, s3: ministack::s3(&ministack::sdk(ministack::url())) }
    }

    async fn queue_arn(&self) -> String {
        let sqs = aws_sdk_sqs::Client::new(&ministack::sdk(ministack::url()));
        let asked = sqs.get_queue_attributes().queue_url(&self.settings.queue_url);
        let asked = asked.attribute_names(QueueAttributeName::QueueArn).send().await.unwrap();
        asked.attributes.unwrap().remove(&QueueAttributeName::QueueArn).unwrap()
    }

    async fn tell(&self, told: NotificationConfiguration) {
        let put = self.s3.put_bucket_notification_configuration().bucket(&self.settings.bucket);
        put.notification_configuration(told).send().await.unwrap();
    }

    async fn put(&self, key: &str) -> Option<String> {
        let put = self.s3.put_object().bucket(&self.settings.bucket).key(key).body(b"text".to_vec().into());
        put.send().await.unwrap().version_id
    }

    /// The uploads that the next so many messages tell of; what they tell of besides is nothing.
    async fn uploads(&self, count: usize) -> Vec<Upload> {
        let (mut uploads, began) = (Vec::new(), Instant::now());
        while uploads.len() < count {
            assert!(began.elapsed() < DELIVERY, "{uploads:?} of {count}");
            let wait = Duration::from_secs(1);
            let messages = self.fleet.queue().receive(BATCH_ENTRIES, &[], DELIVERY, wait).await.unwrap();
            for message in messages {
                match parse_upload_event(&message.body) {
                    Some(Ok(UploadEvent::Upload(upload))) => uploads.push(upload),
                    Some(Ok(UploadEvent::Nothing(what))) => assert!(what.contains("a test"), "{what}"),
                    other => panic!("{other:?}: {}", message.body),
                }
            }
        }
        uploads
    }

    fn assert_is_upload(&self, upload: &Upload) {
        assert_eq!((upload.bucket.as_str(), upload.key.as_str()), (self.settings.bucket.as_str(), KEY));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w8_a_bucket_tells_the_queue_of_its_uploads_by_itself_and_by_way_of_a_topic() {
    let place = Place::new().await;
    let (queue, topic) = (place.queue_arn().await, place.settings.topic_arn.clone().unwrap());
    let sns = aws_sdk_sns::Client::new(&ministack::sdk(ministack::url()));
    sns.subscribe().topic_arn(&topic).protocol("sqs").endpoint(&queue).send().await.unwrap();
    let created = Event::S3ObjectCreated;
    let direct = QueueConfiguration::builder().queue_arn(queue).events(created.clone()).build().unwrap();
    let by_topic = TopicConfiguration::builder().topic_arn(topic).events(created).build().unwrap();
    for told in [
        NotificationConfiguration::builder().queue_configurations(direct).build(),
        NotificationConfiguration::builder().topic_configurations(by_topic).build(),
    ] {
        place.tell(told).await;
        place.put(KEY).await;
        place.put(KEY).await;
        let uploads = place.uploads(2).await;
        uploads.iter().for_each(|upload| place.assert_is_upload(upload));
        assert!(matches!(uploads[0].revision, Revision::Sequencer(_)), "{uploads:?}");
        assert_ne!(uploads[0].digest(), uploads[1].digest(), "the same bytes put twice are two uploads");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w8_where_versions_are_kept_an_upload_is_its_version() {
    let place = Place::new().await;
    let keeping = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let versioned = place.s3.put_bucket_versioning().bucket(&place.settings.bucket);
    versioned.versioning_configuration(keeping).send().await.unwrap();
    let queue = place.queue_arn().await;
    let direct = QueueConfiguration::builder().queue_arn(queue).events(Event::S3ObjectCreated).build().unwrap();
    place.tell(NotificationConfiguration::builder().queue_configurations(direct).build()).await;
    let version = place.put(KEY).await.expect("a version");
    let upload = place.uploads(1).await.remove(0);
    place.assert_is_upload(&upload);
    assert_eq!(upload.revision, Revision::Version(version));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w8_event_bridge_tells_the_queue_of_uploads() {
    let place = Place::new().await;
    let rule = place.settings.bucket.clone();
    let pattern = json!({
        "source": ["aws.s3"], "detail-type": ["Object Created"], "detail": { "bucket": { "name": [rule] } },
    });
    events("PutRule", &json!({ "Name": rule, "EventPattern": pattern.to_string() }));
    let target = json!({ "Id": "queue", "Arn": place.queue_arn().await });
    events("PutTargets", &json!({ "Rule": rule, "Targets": [target] }));
    let bridged = EventBridgeConfiguration::builder().build();
    place.tell(NotificationConfiguration::builder().event_bridge_configuration(bridged).build()).await;
    place.put(KEY).await;
    place.assert_is_upload(&place.uploads(1).await[0]);
}

/// EventBridge's API, for which this project has no client: a call as the emulator takes it.
fn events(operation: &str, body: &Value) {
    let body = body.to_string();
    let mut stream = TcpStream::connect(ministack::url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(DELIVERY)).unwrap();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.1\r\nX-Amz-Target: \
         AWSEvents.{operation}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{operation}: {answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w7_an_execution_is_begun_once_by_its_name_and_a_machine_that_is_not_there_is_told() {
    let place = Place::new().await;
    let sfn = aws_sdk_sfn::Client::new(&ministack::sdk(ministack::url()));
    let definition = json!({ "StartAt": "End", "States": { "End": { "Type": "Pass", "End": true } } }).to_string();
    let made = sfn.create_state_machine().name(&place.settings.table).definition(definition);
    let arn = made.role_arn("arn:aws:iam::000000000000:role/any").send().await.unwrap().state_machine_arn;
    for _ in 0..3 {
        place.fleet.pipelines().begin(&arn, "digest", r#"{"job":{"id":"digest"}}"#).await.unwrap();
    }
    let begun = sfn.list_executions().state_machine_arn(&arn).send().await.unwrap().executions;
    assert_eq!(begun.iter().map(|execution| execution.name.as_str()).collect::<Vec<_>>(), ["digest"]);

    let gone = format!("{arn}-gone");
    let trouble = place.fleet.pipelines().begin(&gone, "digest", "{}").await.unwrap_err();
    assert!(trouble.kind == StoreTrouble::Other && trouble.why.contains("mend `pipeline`"), "{trouble}");
    let findings = place.fleet.check_pipelines([arn.as_str(), gone.as_str()].into()).await;
    let found: Vec<_> = findings.iter().map(|finding| (finding.severity, finding.what.contains(&gone))).collect();
    assert_eq!(found, [(Severity::Ok, false), (Severity::Error, true)], "{findings:?}");
}
