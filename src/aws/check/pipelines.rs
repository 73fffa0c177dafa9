//! Can the pipelines of uploads be begun, and does each remember the names of its executions?

use std::collections::BTreeSet;

use aws_sdk_sfn::types::{StateMachineStatus, StateMachineType};

use super::unseen;
use crate::aws::{Fleet, Inner};
use crate::ports::Finding;

const PIPELINE: &str = "pipeline";

impl Fleet {
    /// Looks at these state machines.
    pub async fn check_pipelines(&self, pipelines: BTreeSet<&str>) -> Vec<Finding> {
        let looks = pipelines.into_iter().map(|arn| check(&self.inner, arn));
        futures_util::future::join_all(looks).await
    }
}

async fn check(inner: &Inner, arn: &str) -> Finding {
    let machine = match inner.clients.sfn.describe_state_machine().state_machine_arn(without_alias(arn)).send().await {
        Ok(machine) => machine,
        Err(error) if error.as_service_error().is_some_and(|error| error.is_state_machine_does_not_exist()) => {
            let remedy = "make it (infra/ does with `workflows = true`), or mend `pipeline` of the [[upload]]";
            return Finding::error(PIPELINE, format!("there is no state machine {arn}"), remedy);
        }
        Err(error) => return unseen(PIPELINE, arn, "states:DescribeStateMachine", &error),
    };
    if machine.r#type == StateMachineType::Express {
        let what = format!("{arn} is an Express state machine, which begins a second run for a second event");
        return Finding::error(PIPELINE, what, "name a Standard one");
    }
    if machine.status == Some(StateMachineStatus::Deleting) {
        return Finding::error(PIPELINE, format!("{arn} is being deleted"), "name another one, or make it again");
    }
    Finding::ok(PIPELINE, arn)
}

/// A state machine is described by its own name; its aliases have none there.
fn without_alias(arn: &str) -> &str {
    arn.match_indices(':').nth(6).and_then(|(end, _)| arn.get(..end)).unwrap_or(arn)
}
