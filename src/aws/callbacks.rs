//! How does a Step Functions workflow hear of an end? By the task token that the job or the batch came with.
//!
//! A token can be answered once. Repeating an answer, or answering a task that timed out or was stopped, is refused by the
//! service in so many words; the end is on record and made known by then, so there is nothing left to do.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_sfn::error::{ProvideErrorMetadata, SdkError};

use super::{Inner, trouble};
use crate::job::failure::Class;
use crate::job::lifecycle::Status;
use crate::job::notice::{JobNotice, Notice};
use crate::job::spec::TaskToken;
use crate::ports::{Callbacks, StoreError, StoreTrouble};

const DOING: &str = "answering a task token";

/// What the service says of a token that nobody waits under.
const RESOLVED: [&str; 3] = ["TaskTimedOut", "TaskDoesNotExist", "InvalidToken"];

/// In characters (source: the Step Functions API, `SendTaskFailure`).
const ERROR_LIMIT: usize = 256;
const CAUSE_LIMIT: usize = 32_768;
/// Of the words of an error in it.
const MESSAGE_LIMIT: usize = 1_024;

/// Step Functions.
#[derive(Debug)]
pub(super) struct TaskTokens {
    pub(super) inner: Arc<Inner>,
}

#[async_trait]
impl Callbacks for TaskTokens {
    async fn answer(&self, token: &TaskToken, notice: &Notice) -> Result<(), StoreError> {
        let Some((error, cause)) = failure_of(notice) else {
            let output = serde_json::to_string(notice)
                .map_err(|error| trouble::of_ours(StoreTrouble::Other, DOING, error.to_string()))?;
            let success = self.inner.clients.sfn.send_task_success().task_token(token.as_str()).output(output);
            return success.send().await.map_or_else(|error| resolved_or(&error), |_| Ok(()));
        };
        self.fail(token, error, cause).await
    }

    async fn refuse(&self, token: &TaskToken, reason: &str) -> Result<(), StoreError> {
        self.fail(token, Class::BadInput.to_string(), first(reason, CAUSE_LIMIT)).await
    }
}

impl TaskTokens {
    async fn fail(&self, token: &TaskToken, error: String, cause: String) -> Result<(), StoreError> {
        let failure = self.inner.clients.sfn.send_task_failure().task_token(token.as_str()).error(error).cause(cause);
        failure.send().await.map_or_else(|error| resolved_or(&error), |_| Ok(()))
    }
}

/// Well, if nobody waits under the token any more.
fn resolved_or<E, R>(error: &SdkError<E, R>) -> Result<(), StoreError>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    if code.is_some_and(|code| RESOLVED.contains(&code)) { Ok(()) } else { Err(trouble::of_sdk(DOING, error)) }
}

/// The error and its cause as a workflow's `Catch` sees them; `None` for a success. A batch with failures is not one.
///
/// The error is the class of the failure, else the status; the cause is the whole notice, so that a workflow knows the
/// status of a job that was rejected, where a partial result lies, and which manifest names the jobs to be redriven.
fn failure_of(notice: &Notice) -> Option<(String, String)> {
    let (status, class) = match notice {
        Notice::Job(job) => (job.status, job.error.as_ref().map(|failure| failure.class.to_string())),
        Notice::Batch(batch) => (batch.status, None),
        // No work ended, so that nothing can have failed.
        Notice::Breaker(_) => return None,
    };
    let error = match status {
        Status::Succeeded => return None,
        // Whatever a chunk of it failed of, what there is can be gone on with.
        Status::Partial => status.to_string(),
        Status::Failed | Status::Rejected | Status::Expired => class.unwrap_or_else(|| status.to_string()),
    };
    let cause = cause(notice.clone());
    Some((first(&error, ERROR_LIMIT), first(&cause, CAUSE_LIMIT)))
}

/// The notice; the one field in it that nobody bounds, the words of an error, is cut so that the rest stays JSON.
fn cause(mut notice: Notice) -> String {
    if let Notice::Job(JobNotice { error: Some(failure), .. }) = &mut notice {
        failure.message = first(&failure.message, MESSAGE_LIMIT);
    }
    serde_json::to_string(&notice).unwrap_or_default()
}

fn first(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::job::failure::Failure;
    use crate::job::ident::{BatchKey, BatchName, Digest, JobId, JobKey, Tenant};
    use crate::job::notice::BatchSums;
    use crate::job::outcome::{Ending, Pointer, Tally, Usage};

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

    fn job(status: Status, error: Option<Failure>) -> Notice {
        let id = JobId::new("o-1").unwrap();
        let key = JobKey { tenant: Tenant::unnamed(), batch: BatchName::new("b").unwrap(), id };
        let result = Pointer { uri: "s3://b/results".to_owned(), offset: 0, length: 9, sha256: Digest::of(b"line") };
        let ending = Ending { status, model_used: None, usage: Usage::default(), error, result };
        Notice::of_job(&key, 0, &Tally::default(), &ending)
    }

    #[test]
    fn w1_a_workflow_learns_of_what_did_not_succeed_how_it_ended_and_where_its_result_lies() {
        let refused = Some(Failure::new(Class::NoText, "the pages are pictures"));
        let (error, cause) = failure_of(&job(Status::Rejected, refused)).unwrap();
        assert_eq!(error, "no_text");
        let cause: Value = serde_json::from_str(&cause).unwrap();
        assert_eq!((&cause["kind"], &cause["status"]), (&"job".into(), &"rejected".into()));
        assert_eq!(cause["result"]["uri"], "s3://b/results");
        let partly = Some(Failure::new(Class::Invalid, "a chunk was refused"));
        assert_eq!(failure_of(&job(Status::Partial, partly)).unwrap().0, "partial");
        assert_eq!(failure_of(&job(Status::Succeeded, None)), None);
    }

    #[test]
    fn w1_a_cause_stays_json_however_much_the_service_said() {
        let long = Some(Failure::new(Class::Invalid, "\u{1f980}\n".repeat(CAUSE_LIMIT)));
        let (_, cause) = failure_of(&job(Status::Failed, long)).unwrap();
        let cause: Value = serde_json::from_str(&cause).unwrap();
        assert_eq!(cause["error"]["message"].as_str().unwrap().chars().count(), MESSAGE_LIMIT);
    }
}
