//! Are queue, table, bucket and topic there, and set so that nothing is lost? Everything is looked at and nothing is changed:
//! what these credentials may do is found out by calls that come to nothing, such as a write under a condition that is never
//! met.

mod permissions;
mod pipelines;
mod queues;
mod store;
mod topic;

use std::time::Duration;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use futures_util::FutureExt as _;

use super::{Fleet, trouble};
use crate::ports::{Finding, StoreTrouble};

/// What the settings of the services are held against.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Expected {
    /// For so long a worker hides a message without a sign of life.
    pub lease: Duration,
    /// The longest that a call may take under the configuration.
    pub longest_call: Duration,
}

impl Fleet {
    /// Looks at everything that the settings name. What cannot be looked at is a finding, too.
    pub async fn check(&self, expected: &Expected) -> Vec<Finding> {
        let inner = &*self.inner;
        // Boxed: what the SDK's calls hold would be moved from caller to caller.
        let (queues, table, bucket, topic) = futures_util::join!(
            Box::pin(queues::check(inner, expected)),
            Box::pin(store::check_table(inner)),
            Box::pin(store::check_bucket(inner)),
            Box::pin(topic::check(inner)),
        );
        // Of what is not there every call is refused in one way or another.
        let all_there = [&queues, &table, &bucket].iter().all(|looked| matches!(looked, Looked::There(_)));
        let denied = if all_there { Box::pin(permissions::check(inner)).await } else { Vec::new() };
        [queues.findings(), table.findings(), bucket.findings(), topic, denied].concat()
    }

    /// What there is no working with, however long one waits: it is not there, or it is something else. What cannot be
    /// looked at just now may be well.
    pub async fn unfit(&self) -> Vec<Finding> {
        let inner = &*self.inner;
        let looks = async {
            let (queues, table, bucket) = futures_util::join!(
                Box::pin(queues::find(inner)),
                Box::pin(store::find_table(inner)),
                Box::pin(store::find_bucket(inner)),
            );
            [queues, table.map(drop), bucket.map(drop)]
        };
        let Ok(looks) = tokio::time::timeout(LOOK_TIME, looks.boxed()).await else { return Vec::new() };
        let unfit = looks.into_iter().filter_map(|look| match look {
            Err(Looked::Unfit(findings)) => Some(findings),
            Err(Looked::There(_) | Looked::Unseen(_)) | Ok(()) => None,
        });
        unfit.flatten().collect()
    }
}

/// Whoever starts waits no longer than this to be told that something is missing.
const LOOK_TIME: Duration = Duration::from_secs(5);

/// What was found of one thing.
enum Looked {
    /// It is there, and ours.
    There(Vec<Finding>),
    /// Nobody can say.
    Unseen(Vec<Finding>),
    /// It is not there, or it is something else.
    Unfit(Vec<Finding>),
}

impl Looked {
    fn findings(self) -> Vec<Finding> {
        let (Self::There(findings) | Self::Unseen(findings) | Self::Unfit(findings)) = self;
        findings
    }
}

/// What is not there can be made.
fn absent(subject: &'static str, what: String, key: &str) -> Finding {
    let remedy = format!("`aquifer check --create` makes it; or mend {key}, or AWS_REGION if it is elsewhere");
    Finding::error(subject, what, remedy)
}

/// It could not be looked at; `action` is what IAM calls the attempt.
fn unseen<E, R>(subject: &'static str, name: &str, action: &str, error: &SdkError<E, R>) -> Finding
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let trouble = trouble::of_sdk(action, error);
    let remedy = match trouble.kind {
        StoreTrouble::Denied => format!("allow {action} on it, or renew the credentials"),
        StoreTrouble::Away => "check AWS_REGION, AWS_ENDPOINT_URL and the network".to_owned(),
        StoreTrouble::Full | StoreTrouble::Newer | StoreTrouble::Damaged | StoreTrouble::Other => {
            format!("check {name} in the configuration")
        }
    };
    Finding::error(subject, format!("{name} cannot be looked at: {}", trouble.why), remedy)
}

/// Where calls go.
fn region(inner: &super::Inner) -> String {
    inner.clients.s3.config().region().map_or_else(|| "no region".to_owned(), ToString::to_string)
}
