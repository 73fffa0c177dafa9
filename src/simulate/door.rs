//! How does a caller in this process reach the simulated service without a socket?
//!
//! For tests under tokio's paused clock, which a socket would defeat: time there passes only while everybody waits for
//! a timer. What a call meets is the same as over HTTP.

use std::sync::Arc;
use std::time::Duration;

use super::call::{self, Action, Reply};
use super::errors::Refused;
use super::report::Report;
use super::scenario::Scenario;
use super::scope::Target;
use super::service::Service;
use crate::job::units::Timestamp;

/// A simulated service that is called directly. Its clock is tokio's, and starts when it is made.
#[derive(Clone, Debug)]
pub struct InProcess {
    service: Arc<Service>,
}

/// What is asked of the model.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// A Converse body without `modelId`.
    Converse,
    /// An InvokeModel body in the form of the model's family.
    Invoke,
}

/// Why a call brought no 200 with a whole body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NoAnswer {
    /// The service answered with an error.
    Error(ErrorResponse),
    /// There was no connection: nothing was sent. (Over HTTP, where a region is known only once a request was read, the
    /// connection closes instead, and its caller cannot know.)
    NoConnection,
    /// The connection closed before a response; the model has worked and the call is charged.
    Dropped,
    /// The connection closed within the body; the model has worked and the call is charged.
    Truncated,
}

/// An error as a client reads it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ErrorResponse {
    /// The HTTP status.
    pub status: u16,
    /// What `x-amzn-ErrorType` says before its colon.
    pub error_type: &'static str,
    /// `message` of the body.
    pub message: String,
    /// `originalStatusCode` of the body: what the model itself had answered.
    pub original_status: Option<u16>,
    /// `Retry-After`, in whole seconds.
    pub retry_after: Option<Duration>,
    /// `x-amzn-requestid`.
    pub request_id: String,
}

impl InProcess {
    /// A fresh service. `started_at` is what the clock says just now: unless the scenario has a `minute_offset`, fixed
    /// minutes turn with that clock's. Before 1970 counts as 1970.
    pub fn new(scenario: Scenario, started_at: Timestamp) -> Self {
        let scenario = scenario.starting_at(started_at.since(Timestamp(0)));
        Self { service: Arc::new(Service::new(scenario)) }
    }

    /// Calls once, signed for this region; `Ok` is the body of the 200, whatever it holds. A call that the scenario lets hang never returns:
    /// dropping it is how its caller goes away, and leaves it charged.
    ///
    /// # Errors
    /// [`NoAnswer`], which says whether the service answered at all.
    pub async fn call(
        &self,
        region: &str,
        model_id: &str,
        operation: Operation,
        body: &[u8],
    ) -> Result<Vec<u8>, NoAnswer> {
        let request_id = self.service.request_id();
        let action = match operation {
            Operation::Converse => Action::Converse,
            Operation::Invoke => Action::Invoke,
        };
        match call::answer(&self.service, Target { region, id: model_id }, action, body).await {
            Reply::Whole(_, body) => Ok(body),
            Reply::Paced(_, mut paced) => {
                let mut body = Vec::with_capacity(paced.length());
                while let Some(piece) = paced.next().await {
                    body.extend_from_slice(&piece);
                }
                Ok(body)
            }
            Reply::Cut(..) => Err(NoAnswer::Truncated),
            Reply::Refused(refused) => Err(NoAnswer::Error(response(&refused, request_id))),
            Reply::Gone => Err(NoAnswer::Dropped),
            Reply::NoConnection => Err(NoAnswer::NoConnection),
        }
    }

    /// The count up to now.
    pub fn report(&self) -> Report {
        self.service.report()
    }
}

fn response(refused: &Refused, request_id: String) -> ErrorResponse {
    ErrorResponse {
        status: refused.status,
        error_type: refused.type_name(),
        message: refused.message.clone().into_owned(),
        original_status: refused.original_status,
        retry_after: refused.retry_after_seconds().map(Duration::from_secs),
        request_id,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use serde_json::{Value, json};
    use tokio::time::{Instant, timeout};

    use super::*;

    const ID: &str = "us.anthropic.claude-haiku-4-5-20251001-v1:0";

    fn service(scenario: &str) -> InProcess {
        InProcess::new(Scenario::from_toml(scenario).unwrap(), Timestamp(0))
    }

    /// 10 tokens in, and as many out as asked for at most.
    async fn converse(service: &InProcess, number: u32, max_tokens: u64) -> Result<Value, NoAnswer> {
        let text = format!("{number:>40}");
        let body = json!({ "messages": [{ "role": "user", "content": [{ "text": text }] }],
            "inferenceConfig": { "maxTokens": max_tokens } });
        let answer = service.call("us-east-1", ID, Operation::Converse, body.to_string().as_bytes()).await?;
        Ok(serde_json::from_slice(&answer).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_answered_after_its_latency_on_tokios_clock() {
        let service = service("latency = { constant = '2s', per_output_token = '10ms' }\nanswer = { mean = 900 }");
        let began = Instant::now();
        let answer = converse(&service, 1, 50).await.unwrap();
        assert_eq!(answer["usage"]["inputTokens"], 10);
        assert_eq!(answer["usage"]["outputTokens"], 50);
        assert_eq!(answer["metrics"]["latencyMs"], 2_500);
        assert_eq!(began.elapsed(), Duration::from_millis(2_500));
        assert_eq!((service.report().answered, service.report().settled_tokens), (1, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_quota_throttles_and_frees_with_tokios_clock() {
        let quota = format!("counting = 'sliding'\n[[model]]\nid = '{ID}'\ntokens_per_minute = 100");
        let service = service(&format!("{quota}\nlatency = {{ constant = '1s' }}\nanswer = {{ mean = 9000 }}"));
        assert!(converse(&service, 1, 90).await.is_ok());
        let NoAnswer::Error(refused) = converse(&service, 2, 90).await.unwrap_err() else { unreachable!() };
        assert_eq!((refused.status, refused.error_type), (429, "ThrottlingException"));
        assert!(refused.message.starts_with("Too many tokens,"), "{}", refused.message);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(converse(&service, 2, 90).await.is_ok());
        let report = service.report();
        assert_eq!((report.calls, report.answered, report.throttled), (3, 2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn every_way_to_break_is_told_apart() {
        let faults = ["drop", "truncate", "ModelErrorException\"\noriginal_status = 503\nretry_after = \"1500ms"];
        let faults =
            faults.iter().zip(1..).map(|(kind, call)| format!("[[fault]]\nkind = \"{kind}\"\ncalls = '{call}'\n"));
        let service = service(&faults.collect::<String>());
        assert_eq!(converse(&service, 1, 9).await.unwrap_err(), NoAnswer::Dropped);
        assert_eq!(converse(&service, 2, 9).await.unwrap_err(), NoAnswer::Truncated);
        let NoAnswer::Error(refused) = converse(&service, 3, 9).await.unwrap_err() else { unreachable!() };
        assert_eq!(
            (refused.status, refused.error_type, refused.original_status),
            (424, "ModelErrorException", Some(503))
        );
        assert_eq!(refused.retry_after, Some(Duration::from_secs(2)), "whole seconds, as in the header");
        assert!(converse(&service, 4, 9).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_call_ends_with_its_caller_and_stays_charged() {
        let service = service("[[fault]]\nkind = 'hang'");
        assert!(timeout(Duration::from_secs(170), converse(&service, 1, 90)).await.is_err());
        let report = service.report();
        assert_eq!((report.abandoned, report.admitted_tokens, report.settled_tokens), (1, 100, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_takes_its_time_and_is_whole() {
        let service = service("latency = { constant = '0s' }\n[[fault]]\nkind = 'slow_body'\nover = '10s'");
        let began = Instant::now();
        assert!(converse(&service, 1, 900).await.unwrap()["output"].is_object());
        assert_eq!(began.elapsed().as_secs(), 10);
        assert_eq!(service.report().answered, 1);
    }
}
