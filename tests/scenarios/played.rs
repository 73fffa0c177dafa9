//! The model port on the simulator in this process: what `aquifer::bedrock` makes of a response, without the wire.
//!
//! Only what the simulator can say is read here, by error type and message; a test of its own holds it against the
//! real client, response by response.

use aquifer::job::failure::{Class, Failure};
use aquifer::job::outcome::Usage;
use aquifer::ports::{Answer, Billing, CallBody, CallFailure, Model, ModelCall};
use aquifer::simulate::{ErrorResponse, InProcess, NoAnswer, Operation, Scenario};
use async_trait::async_trait;
use serde_json::Value;

use crate::common::START;

/// A model that the simulator plays.
#[derive(Clone)]
pub struct Played {
    pub service: InProcess,
}

impl Played {
    /// The service's clock starts at the beginning of a minute.
    pub fn new(scenario: Scenario) -> Self {
        Self { service: InProcess::new(scenario, START) }
    }
}

#[async_trait]
impl Model for Played {
    async fn call(&self, call: ModelCall) -> Result<Answer, CallFailure> {
        let (operation, body) = match &call.body {
            CallBody::Converse(body) => (Operation::Converse, body),
            CallBody::Invoke(body) => (Operation::Invoke, body),
            CallBody::Agent(call) => panic!("scenarios ask models: {call:?}"),
        };
        let called = self.service.call(&call.lane.region, &call.lane.model_id, operation, body);
        match tokio::time::timeout(call.timeout, called).await {
            Ok(Ok(body)) => read(operation, &body),
            Ok(Err(NoAnswer::Error(response))) => Err(refused(&response)),
            Ok(Err(NoAnswer::Dropped | NoAnswer::Truncated)) => Err(broken("the connection broke")),
            Ok(Err(NoAnswer::NoConnection)) => Err(failure(Class::Unavailable, Billing::Nothing, "no connection")),
            Err(_) => Err(failure(Class::Timeout, Billing::Unknown, "no answer in time")),
        }
    }

    async fn refresh_credentials(&self) -> Result<(), String> {
        Ok(())
    }
}

fn failure(class: Class, billing: Billing, message: impl Into<String>) -> CallFailure {
    CallFailure { failure: Failure::new(class, message), billing, retry_after: None }
}

fn broken(why: &str) -> CallFailure {
    failure(Class::Unavailable, Billing::Unknown, why)
}

fn refused(response: &ErrorResponse) -> CallFailure {
    let class = class(response);
    let billing = match class {
        Class::Timeout | Class::ModelError => Billing::Unknown,
        Class::Unknown if response.status >= 500 => Billing::Unknown,
        _ => Billing::Nothing,
    };
    let message = format!("{}: {}", response.error_type, response.message);
    let failure = Failure { class, message, request_id: Some(response.request_id.clone()) };
    CallFailure { failure, billing, retry_after: response.retry_after }
}

fn class(response: &ErrorResponse) -> Class {
    let message = response.message.to_lowercase();
    let says = |text| message.contains(text);
    match response.error_type {
        "ThrottlingException" if says("per day") => Class::QuotaDay,
        "ThrottlingException" | "ServiceUnavailableException" if says("overloaded") => Class::Overloaded,
        "ThrottlingException" => Class::QuotaMinute,
        "ServiceQuotaExceededException" => Class::QuotaDay,
        "ModelNotReadyException" | "overloaded_error" => Class::Overloaded,
        "ServiceUnavailableException" | "InternalServerException" => Class::Unavailable,
        "ModelTimeoutException" => Class::Timeout,
        "ModelErrorException" | "ModelStreamErrorException" => match response.original_status {
            Some(400..=407 | 409..=428 | 430..=499) => Class::Invalid,
            _ => Class::ModelError,
        },
        "ValidationException" if says("operation not allowed") => Class::Denied,
        "ValidationException" => Class::Invalid,
        "ExpiredTokenException"
        | "UnrecognizedClientException"
        | "MissingAuthenticationTokenException"
        | "InvalidClientTokenId"
        | "IncompleteSignature"
        | "RequestExpired" => Class::Credentials,
        "AccessDeniedException" if says("security token") => Class::Credentials,
        "AccessDeniedException"
        | "ResourceNotFoundException"
        | "NotAuthorized"
        | "InvalidAction"
        | "FTUFormNotFilled"
        | "MPAgreementBeingCreated"
        | "UnknownOperationException" => Class::Denied,
        _ => Class::Unknown,
    }
}

fn read(operation: Operation, body: &[u8]) -> Result<Answer, CallFailure> {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return Err(broken("the response is not JSON")) };
    let count = |names: [&str; 3]| {
        let at = |name| body["usage"][name].as_u64().or_else(|| body[name].as_u64());
        names.into_iter().find_map(at).unwrap_or(0)
    };
    let usage = Usage {
        input_tokens: count(["inputTokens", "input_tokens", "inputTextTokenCount"]),
        output_tokens: count(["outputTokens", "output_tokens", "-"]),
        cache_read_tokens: count(["cacheReadInputTokens", "cacheReadInputTokenCount", "cache_read_input_tokens"]),
        cache_write_tokens: count([
            "cacheWriteInputTokens",
            "cacheWriteInputTokenCount",
            "cache_creation_input_tokens",
        ]),
    };
    let blocks = body.pointer("/output/message/content").or_else(|| body.get("content"));
    let blocks = blocks.and_then(Value::as_array);
    if blocks.is_some_and(Vec::is_empty) {
        return Err(failure(Class::Empty, Billing::Billed(usage), "the model answered without content"));
    }
    let texts: Vec<_> = blocks.into_iter().flatten().filter_map(|block| block["text"].as_str()).collect();
    let stop_reason = body["stopReason"].as_str().or_else(|| body["stop_reason"].as_str());
    Ok(Answer {
        text: (!texts.is_empty()).then(|| texts.concat()),
        stop_reason: stop_reason.map(str::to_owned),
        output: match operation {
            Operation::Converse => body["output"].clone(),
            Operation::Invoke => body.clone(),
        },
        usage,
    })
}
