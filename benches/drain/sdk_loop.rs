//! What does one get without Aquifer? The loop that most people write: the SDK, adaptive retries, so many calls at a
//! time, and an error is an answer lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_bedrockruntime::Client;
use aws_sdk_bedrockruntime::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_bedrockruntime::config::{BehaviorVersion, Builder, Credentials, Region};
use aws_sdk_bedrockruntime::types::{ContentBlock, ConversationRole, InferenceConfiguration, Message};
use tokio::task::JoinHandle;

use crate::backlog::{Backlog, Job};
use crate::common::worker::{MODEL, REGION};

/// Calls at a time, in each loop.
const OPEN: usize = 32;
/// As the SDK comes.
pub(crate) const DEFAULT_ATTEMPTS: u32 = 3;
/// Of somebody who has lost jobs before.
pub(crate) const MANY_ATTEMPTS: u32 = 10;

/// Loops at work, each on its own share of the backlog and with a client of its own.
#[derive(Debug)]
pub(crate) struct SdkLoops(Vec<JoinHandle<()>>, Arc<AtomicUsize>);

impl SdkLoops {
    /// `name` tells their rate limiters from those of other loops in this process.
    pub(crate) fn start(name: &str, loops: usize, attempts: u32, url: &str, backlog: &Arc<Backlog>) -> Self {
        let answered = Arc::new(AtomicUsize::new(0));
        let start = |which| {
            let client = client(url, attempts, format!("{name}-{which}"));
            // Its own jobs are every so-many-th one, from its own number on.
            let next = Arc::new(AtomicUsize::new(which));
            (0..OPEN).map(move |_| (client.clone(), Arc::clone(&next)))
        };
        let callers = (0..loops).flat_map(start);
        let tasks = callers.map(|(client, next)| {
            let (backlog, answered) = (Arc::clone(backlog), Arc::clone(&answered));
            tokio::spawn(async move {
                while let Some(job) = backlog.jobs.get(next.fetch_add(loops, Ordering::Relaxed)) {
                    if call(&client, job).await {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        });
        Self(tasks.collect(), answered)
    }

    pub(crate) fn are_running(&self) -> bool {
        self.0.iter().any(|task| !task.is_finished())
    }

    pub(crate) fn kill(&self) {
        self.0.iter().for_each(JoinHandle::abort);
    }

    /// How many jobs have an answer.
    pub(crate) fn answered(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }
}

/// As the SDK comes, but for its retries. Clients share a rate limiter unless they are of different
/// partitions, and a loop stands for a process.
fn client(url: &str, attempts: u32, partition: String) -> Client {
    Client::from_conf(
        Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new("simulator", "simulator", None, None, "bench"))
            .endpoint_url(url)
            .retry_config(RetryConfig::adaptive().with_max_attempts(attempts))
            .retry_partition(RetryPartition::new(partition))
            .build(),
    )
}

async fn call(client: &Client, job: &Job) -> bool {
    let message = Message::builder().role(ConversationRole::User).content(ContentBlock::Text(job.prompt.clone()));
    let cap = InferenceConfiguration::builder().set_max_tokens(job.cap.map(|cap| i32::try_from(cap).unwrap())).build();
    let call = client.converse().model_id(MODEL).messages(message.build().unwrap()).inference_config(cap);
    call.send().await.is_ok()
}
