//! What does the world hear? A queue of somebody else's that subscribes to the topic, and everything that arrived there.

use std::collections::BTreeMap;
use std::time::Instant;

use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, QueueAttributeName};
use futures_util::future::join_all;
use serde_json::Value;

use crate::world::{World, limit};

/// Questions to the queue at once.
const AT_ONCE: usize = 4;

/// The subscription.
pub(crate) struct Ears {
    sqs: aws_sdk_sqs::Client,
    queue_url: String,
}

/// All that was heard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Notices of jobs, by id, as they came.
    pub(crate) jobs: BTreeMap<String, Vec<Value>>,
    /// Notices of batches, as they came.
    pub(crate) batches: Vec<Value>,
    /// Notices of workflows, as they came.
    pub(crate) workflows: Vec<Value>,
}

impl Ears {
    /// Subscribes. From now on all is heard.
    pub(crate) fn open(world: &World) -> Self {
        let sqs = aws_sdk_sqs::Client::new(&world.sdk);
        let name = format!("{}-heard", world.settings.bucket);
        let queue_url = world.wait(async {
            let made = sqs.create_queue().queue_name(name).send().await.unwrap().queue_url.unwrap();
            let asked = sqs.get_queue_attributes().queue_url(&made).attribute_names(QueueAttributeName::QueueArn);
            let arn = asked.send().await.unwrap().attributes.unwrap()[&QueueAttributeName::QueueArn].clone();
            let subscription = aws_sdk_sns::Client::new(&world.sdk).subscribe().protocol("sqs").endpoint(arn);
            let subscription = subscription.topic_arn(world.settings.topic_arn.as_deref().unwrap());
            subscription.attributes("RawMessageDelivery", "true").send().await.unwrap();
            made
        });
        Self { sqs, queue_url }
    }

    /// Listens until so many jobs and the end of their batch were heard of, and then until nothing more comes.
    pub(crate) fn hear(&self, world: &World, jobs: usize) -> Heard {
        self.hear_until(world, |heard| heard.jobs.len() >= jobs && !heard.batches.is_empty())
    }

    /// Listens until so many jobs were heard of that are in no batch which ends, and then until nothing more comes.
    pub(crate) fn hear_jobs(&self, world: &World, jobs: usize) -> Heard {
        self.hear_until(world, |heard| heard.jobs.len() >= jobs)
    }

    /// Listens until that was heard, and then until nothing more comes.
    pub(crate) fn hear_until(&self, world: &World, is_all: impl Fn(&Heard) -> bool) -> Heard {
        let (mut heard, began) = (Heard::default(), Instant::now());
        loop {
            let news = world.wait(join_all((0..AT_ONCE).map(|_| self.receive())));
            let news: Vec<Value> = news.into_iter().flatten().collect();
            if news.is_empty() && is_all(&heard) {
                return heard;
            }
            let told = (heard.jobs.len(), heard.batches.len(), heard.workflows.len());
            assert!(
                !news.is_empty() || began.elapsed() < limit(),
                "heard only of {told:?} jobs, batches and workflows"
            );
            for notice in news {
                heard.note(notice);
            }
        }
    }

    /// Up to ten notices.
    async fn receive(&self) -> Vec<Value> {
        let received = self.sqs.receive_message().queue_url(&self.queue_url).max_number_of_messages(10);
        let messages = received.wait_time_seconds(1).send().await.unwrap().messages.unwrap_or_default();
        if messages.is_empty() {
            return Vec::new();
        }
        let done = messages.iter().enumerate().map(|(place, message)| {
            let handle = message.receipt_handle.clone().unwrap();
            DeleteMessageBatchRequestEntry::builder().id(place.to_string()).receipt_handle(handle).build().unwrap()
        });
        let delete = self.sqs.delete_message_batch().queue_url(&self.queue_url).set_entries(Some(done.collect()));
        let deleted = delete.send().await.unwrap();
        assert!(deleted.failed.is_empty(), "{deleted:?}");
        messages.iter().map(|message| serde_json::from_str(message.body.as_deref().unwrap()).unwrap()).collect()
    }
}

impl Heard {
    fn note(&mut self, notice: Value) {
        match notice["kind"].as_str() {
            Some("job") => self.jobs.entry(notice["id"].as_str().unwrap().to_owned()).or_default().push(notice),
            Some("batch") => self.batches.push(notice),
            Some("workflow") => self.workflows.push(notice),
            _ => panic!("a notice of nothing: {notice}"),
        }
    }
}
