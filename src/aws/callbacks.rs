//! How does a Step Functions workflow hear of an end? By the task token that the job or the batch came with.
//!
//! A token can be answered once. Repeating an answer, or answering a task that timed out or was stopped, is refused by the
//! service in so many words; the end is on record and made known by then, so there is nothing left to do.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_sfn::error::{ProvideErrorMetadata, SdkError};

use super::{Inner, trouble};
use crate::job::lifecycle::Status;
use crate::job::notice::Notice;
use crate::job::spec::TaskToken;
use crate::ports::{Callbacks, StoreError, StoreTrouble};

/// What the service says of a token that nobody waits under.
const RESOLVED: [&str; 3] = ["TaskTimedOut", "TaskDoesNotExist", "InvalidToken"];

/// In characters (source: the Step Functions API, `SendTaskFailure`).
const ERROR_LIMIT: usize = 256;
const CAUSE_LIMIT: usize = 32_768;

/// Step Functions.
#[derive(Debug)]
pub(super) struct TaskTokens {
    pub(super) inner: Arc<Inner>,
}

#[async_trait]
impl Callbacks for TaskTokens {
    async fn answer(&self, token: &TaskToken, notice: &Notice) -> Result<(), StoreError> {
        let doing = "answering a task token";
        let sfn = &self.inner.clients.sfn;
        let answered = match failure_of(notice) {
            None => {
                let output = serde_json::to_string(notice)
                    .map_err(|error| trouble::of_ours(StoreTrouble::Other, doing, error.to_string()))?;
                let sent = sfn.send_task_success().task_token(token.as_str()).output(output).send().await;
                sent.map(drop).map_err(|error| resolved_or(doing, &error))
            }
            Some((error, cause)) => {
                let sent = sfn.send_task_failure().task_token(token.as_str()).error(error).cause(cause).send().await;
                sent.map(drop).map_err(|error| resolved_or(doing, &error))
            }
        };
        answered.or_else(|refused| refused.map_or(Ok(()), Err))
    }
}

/// `None` if nobody waits under the token any more.
fn resolved_or<E, R>(doing: &str, error: &SdkError<E, R>) -> Option<StoreError>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    (!code.is_some_and(|code| RESOLVED.contains(&code))).then(|| trouble::of_sdk(doing, error))
}

/// The error and its cause as a workflow's `Catch` sees them; `None` for a success. A batch with failures is not one.
fn failure_of(notice: &Notice) -> Option<(String, String)> {
    let (status, class, cause) = match notice {
        Notice::Job(job) => {
            let class = job.error.as_ref().map(|failure| failure.class.to_string());
            let message = job.error.as_ref().map(|failure| failure.message.clone());
            (job.status, class, message.unwrap_or_else(|| format!("the job is {}", job.status)))
        }
        // The manifest says which jobs, so that the workflow can have them redriven.
        Notice::Batch(batch) => (batch.status, None, serde_json::to_string(notice).unwrap_or_default()),
        // No work ended, so that nothing can have failed.
        Notice::Breaker(_) => return None,
    };
    let error = match status {
        Status::Succeeded => return None,
        Status::Failed | Status::Rejected | Status::Expired | Status::Partial => {
            class.unwrap_or_else(|| status.to_string())
        }
    };
    Some((first(&error, ERROR_LIMIT), first(&cause, CAUSE_LIMIT)))
}

fn first(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::job::ident::{BatchKey, BatchName, Tenant};
    use crate::job::notice::BatchSums;

    fn batch(sums: BatchSums) -> Notice {
        let key = BatchKey { tenant: Tenant::unnamed(), batch: BatchName::new("b").unwrap() };
        Notice::of_batch(&key, 0, sums, "s3://b/manifest".to_owned())
    }

    #[test]
    fn f11_a_batch_with_failures_is_not_a_success() {
        let sums = BatchSums { total: 2, succeeded: 2, ..BatchSums::default() };
        assert_eq!(failure_of(&batch(sums)), None);
        let sums = BatchSums { total: 2, succeeded: 1, failed: 1, ..BatchSums::default() };
        let (error, cause) = failure_of(&batch(sums)).unwrap();
        assert_eq!(error, "partial");
        assert!(cause.contains("s3://b/manifest"), "the workflow can go on from there: {cause}");
    }
}
