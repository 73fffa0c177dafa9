//! How does an upload begin a Step Functions workflow? By the name of its identity: Step Functions keeps names for 90 days, and
//! refuses a second execution of a name, so that whoever asks again begins nothing. That is a success: there is one run.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_sfn::error::SdkError;
use aws_sdk_sfn::operation::start_execution::StartExecutionError as Error;

use super::{Inner, trouble};
use crate::ports::{Pipelines, StoreError, StoreTrouble};

/// Step Functions.
#[derive(Debug)]
pub(super) struct StateMachines {
    pub(super) inner: Arc<Inner>,
}

#[async_trait]
impl Pipelines for StateMachines {
    async fn begin(&self, pipeline: &str, name: &str, input: &str) -> Result<(), StoreError> {
        let start = self.inner.clients.sfn.start_execution().state_machine_arn(pipeline).name(name).input(input);
        match start.send().await {
            Ok(_) => Ok(()),
            Err(error) if is_begun(&error) => Ok(()),
            Err(error) => Err(mended(pipeline, &error)),
        }
    }
}

fn is_begun(error: &SdkError<Error>) -> bool {
    error.as_service_error().is_some_and(Error::is_execution_already_exists)
}

/// The trouble, and what mends it.
fn mended(pipeline: &str, error: &SdkError<Error>) -> StoreError {
    let mut trouble = trouble::of_sdk(&format!("beginning an execution of {pipeline}"), error);
    let service = error.as_service_error();
    let is = |kind: fn(&Error) -> bool| service.is_some_and(kind);
    if is(Error::is_execution_limit_exceeded) {
        trouble.kind = StoreTrouble::Away;
    }
    let is_gone = is(Error::is_state_machine_does_not_exist) || is(Error::is_state_machine_deleting);
    let remedy = match trouble.kind {
        _ if is_gone => Some("make it (infra/ does with `workflows = true`), or mend `pipeline` of the [[upload]]"),
        StoreTrouble::Denied => Some("allow states:StartExecution on it, see infra/roles.tf"),
        StoreTrouble::Away | StoreTrouble::Full => None,
        StoreTrouble::Newer | StoreTrouble::Damaged | StoreTrouble::Other => Some("mend `pipeline` of the [[upload]]"),
    };
    if let Some(remedy) = remedy {
        trouble.why = format!("{}; {remedy}; the uploads are kept", trouble.why);
    }
    trouble
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::super::canned::{Canned, Service};
    use super::*;

    const ARN: &str = "arn:aws:states:us-east-1:1:stateMachine:documents";

    fn said(status: u16, answer: &serde_json::Value) -> Canned {
        Canned::new(status, answer.to_string()).header("content-type", "application/x-amz-json-1.0")
    }

    fn refused(code: &str) -> Canned {
        said(400, &json!({ "__type": code, "message": "as the test says" }))
    }

    async fn begin(answer: Canned) -> Result<(), StoreError> {
        let service = Service::answering([answer]).await;
        let begun = service.fleet.pipelines().begin(ARN, "digest", "{\"job\":{}}").await;
        let asked = service.json(0);
        assert_eq!(
            (&asked["stateMachineArn"], &asked["name"], &asked["input"]),
            (&json!(ARN), &json!("digest"), &json!("{\"job\":{}}"))
        );
        begun
    }

    #[tokio::test]
    async fn w7_an_execution_that_was_begun_before_is_a_success() {
        let arn = "arn:aws:states:us-east-1:1:execution:documents:digest";
        begin(said(200, &json!({ "executionArn": arn, "startDate": 1_763_769_600 }))).await.unwrap();
        begin(refused("ExecutionAlreadyExists")).await.unwrap();
    }

    #[tokio::test]
    async fn w7_what_is_in_the_way_is_told_apart_by_whether_it_passes_and_says_what_mends_it() {
        for (code, kind, remedy) in [
            ("StateMachineDoesNotExist", StoreTrouble::Other, "`workflows = true`"),
            ("AccessDeniedException", StoreTrouble::Denied, "states:StartExecution"),
            ("InvalidArn", StoreTrouble::Other, "mend `pipeline`"),
            ("ExecutionLimitExceeded", StoreTrouble::Away, ""),
        ] {
            let trouble = begin(refused(code)).await.unwrap_err();
            assert_eq!(trouble.kind, kind, "{trouble}");
            assert!(trouble.why.contains(remedy) && trouble.doing.contains(ARN), "{trouble}");
            assert_eq!(trouble.why.contains("are kept"), kind != StoreTrouble::Away, "{trouble}");
        }
    }
}
