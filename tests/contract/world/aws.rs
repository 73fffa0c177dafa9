//! The AWS back end on ministack, with queues, table, bucket and topic of its own; the table may be another's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer::aws::{Emulated, Fleet, Seal, Settings};
use aquifer::job::ident::{BatchKey, BatchName, JobId, Tenant};
use aquifer::job::outcome::Pointer;
use aquifer::job::spec::Job;
use aquifer::job::trail::Trail;
use aquifer::job::units::Timestamp;
use aquifer::ports::rolls::Redriven;
use aquifer::ports::{Allowance, Clock, Queue};
use async_trait::async_trait;
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::Value;

use super::{AWS, ManualClock, Place, World, batch, outgoing};
use crate::ministack;

/// Beyond the time that is to pass: the service's clock and ours count from different moments.
const SLACK: Duration = Duration::from_millis(50);
/// From SNS to SQS it takes milliseconds.
const DELIVERY: Duration = Duration::from_secs(60);

pub(crate) async fn world() -> World {
    world_of().await.0
}

/// With the names of its services, for those who look behind its ports.
pub(crate) async fn world_of() -> (World, Settings) {
    on(ministack::emulated(ministack::url())).await
}

/// With the table at this address.
pub(crate) async fn with_table_at(dynamodb_url: &str) -> World {
    on(Emulated { dynamodb_url: Some(dynamodb_url.to_owned()), ..ministack::emulated(ministack::url()) }).await.0
}

async fn on(emulated: Emulated) -> (World, Settings) {
    let settings = ministack::settings();
    let clock = ManualClock::new();
    let created = connect(&emulated, &settings, &clock).create_missing().await.unwrap();
    assert_eq!(created.len(), 5, "somebody else uses these names: {created:?}");
    let listener = listen(&settings).await;
    (of(emulated, settings.clone(), clock, listener).await, settings)
}

fn connect(emulated: &Emulated, settings: &Settings, clock: &Arc<ManualClock>) -> Fleet {
    Fleet::connect_to(emulated, settings.clone(), Arc::clone(clock) as Arc<dyn Clock>)
}

async fn of(emulated: Emulated, settings: Settings, clock: Arc<ManualClock>, listener: String) -> World {
    let fleet = connect(&emulated, &settings, &clock);
    let queue = fleet.queue();
    World {
        queue: Arc::clone(&queue),
        ledger: fleet.ledger(),
        allowance: fleet.allowance(),
        bodies: fleet.bodies(),
        notices: fleet.notices(),
        parts: fleet.parts(),
        clock: Arc::clone(&clock),
        can: AWS,
        place: Box::new(Services { emulated, settings, fleet, queue, listener, clock }),
    }
}

/// The URL of a queue that hears what the topic publishes, as it was published.
async fn listen(settings: &Settings) -> String {
    let sdk = ministack::sdk(ministack::url());
    let sqs = aws_sdk_sqs::Client::new(&sdk);
    let made = sqs.create_queue().queue_name(format!("{}-heard", settings.table)).send().await.unwrap();
    let url = made.queue_url.unwrap();
    let asked = sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::QueueArn).send().await;
    let arn = asked.unwrap().attributes.unwrap().remove(&QueueAttributeName::QueueArn).unwrap();
    let subscription = aws_sdk_sns::Client::new(&sdk).subscribe().protocol("sqs").endpoint(arn);
    let topic = settings.topic_arn.clone().unwrap();
    subscription.topic_arn(topic).attributes("RawMessageDelivery", "true").send().await.unwrap();
    url
}

struct Services {
    emulated: Emulated,
    settings: Settings,
    fleet: Fleet,
    queue: Arc<dyn Queue>,
    /// A queue that hears every notice.
    listener: String,
    clock: Arc<ManualClock>,
}

impl Services {
    /// The key behind a pointer.
    fn key<'a>(&self, pointer: &'a Pointer) -> &'a str {
        let bucket = format!("s3://{}/", self.settings.bucket);
        pointer.uri.strip_prefix(&bucket).unwrap_or_else(|| panic!("{} is not in {bucket}", pointer.uri))
    }

    fn s3(&self) -> aws_sdk_s3::Client {
        ministack::s3(&ministack::sdk(ministack::url()))
    }
}

#[async_trait]
impl Place for Services {
    async fn pass(&self, time: Duration) {
        // SQS has no clock that could be moved.
        tokio::time::sleep(time + SLACK).await;
    }

    async fn seal(&self, batch: &BatchName, total: u64) {
        let batch = BatchKey { tenant: Tenant::unnamed(), batch: batch.clone() };
        self.fleet.seal(&batch, &Seal { total, refused: 0, roll: None }).await.unwrap();
    }

    async fn redrive(&self, job: &Job) {
        let redriven = self.fleet.redrive(&job.key, None).await.unwrap();
        assert!(matches!(redriven, Redriven::Queued { .. }), "{redriven:?}");
        self.queue.send(vec![outgoing(&job.to_message())]).await.unwrap().remove(0).unwrap();
    }

    fn queue_of(&self, _batch: &BatchName) -> Arc<dyn Queue> {
        Arc::clone(&self.queue)
    }

    async fn segment(&self, pointer: &Pointer) -> Vec<u8> {
        let got = self.s3().get_object().bucket(&self.settings.bucket).key(self.key(pointer)).send().await.unwrap();
        got.body.collect().await.unwrap().to_vec()
    }

    async fn damage(&self, pointer: &Pointer, with: Option<&str>) {
        let (s3, key) = (self.s3(), self.key(pointer));
        match with {
            Some(text) => {
                let body = text.to_owned().into_bytes().into();
                s3.put_object().bucket(&self.settings.bucket).key(key).body(body).send().await.unwrap();
            }
            None => {
                s3.delete_object().bucket(&self.settings.bucket).key(key).send().await.unwrap();
            }
        }
    }

    fn astray(&self) -> Vec<String> {
        let Settings { bucket, prefix, .. } = &self.settings;
        vec![
            "/etc/passwd".to_owned(),
            "https://example.com/x".to_owned(),
            format!("s3://not-{bucket}/{prefix}results/x"),
            format!("s3://{bucket}/elsewhere/x"),
            format!("s3://{bucket}/{prefix}results/../../x"),
        ]
    }

    async fn published(&self, at_least: usize) -> Vec<Value> {
        let sqs = aws_sdk_sqs::Client::new(&ministack::sdk(ministack::url()));
        let mut heard = Vec::new();
        let end = Instant::now() + DELIVERY;
        // Once more than needed: there must be no more than there are.
        let mut last_look = false;
        while !last_look && Instant::now() < end {
            last_look = heard.len() >= at_least;
            let receive = sqs.receive_message().queue_url(&self.listener).max_number_of_messages(10);
            let got = receive.wait_time_seconds(1).send().await.unwrap();
            let bodies = got.messages.unwrap_or_default().into_iter().map(|message| message.body.unwrap());
            heard.extend(bodies.map(|body| serde_json::from_str(&body).unwrap()));
        }
        heard
    }

    async fn trail(&self, id: &str) -> (Trail, Option<Timestamp>) {
        self.fleet.flush().await;
        let id = JobId::new(id).unwrap();
        let job = self.fleet.jobs(Some(&batch()), &id, Some(&Tenant::unnamed())).await.unwrap().remove(0);
        (job.trail, job.notified)
    }

    async fn another_worker(&self) -> Arc<dyn Allowance> {
        let (emulated, settings) = (self.emulated.clone(), self.settings.clone());
        of(emulated, settings, Arc::clone(&self.clock), self.listener.clone()).await.allowance
    }

    async fn close_and_reopen(self: Box<Self>, clock: Arc<ManualClock>) -> World {
        of(self.emulated, self.settings, clock, self.listener).await
    }
}
