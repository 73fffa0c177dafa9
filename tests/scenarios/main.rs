//! Scenarios of the simulator, played in this process under a paused clock: minutes of quota pass in milliseconds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    reason = "tests"
)]

mod agents;
#[path = "../common/mod.rs"]
mod common;
mod drains;
#[path = "../sizing/draws.rs"]
mod draws;
mod examples;
mod fallbacks;
mod faults;
mod forecasts;
mod gates;
mod grants;
mod language;
mod play;
mod played;
mod ramp;
mod regions;
mod restarts;
mod strangers;
mod together;

use std::sync::Arc;
use std::time::Duration;

use aquifer::bedrock::{Bedrock, Credentials, Endpoint};
use aquifer::job::failure::Class;
use aquifer::ports::{Billing, CallBody, LaneId, Model, ModelCall};
use aquifer::simulate::{self, Scenario};
use serde_json::json;

use played::Played;

const HAIKU: &str = "us.anthropic.claude-haiku-4-5-20251001-v1:0";

fn converse(number: usize) -> ModelCall {
    let body = json!({ "messages": [{ "role": "user", "content": [{ "text": format!("Prompt {number}.") }] }],
        "inferenceConfig": { "maxTokens": 30 } });
    call(CallBody::Converse(body.to_string().into()), Duration::from_secs(5))
}

fn invoke(number: usize) -> ModelCall {
    let body = json!({ "anthropic_version": "bedrock-2023-05-31", "max_tokens": 30,
        "messages": [{ "role": "user", "content": format!("Prompt {number}.") }] });
    call(CallBody::Invoke(body.to_string().into()), Duration::from_secs(5))
}

fn call(body: CallBody, timeout: Duration) -> ModelCall {
    ModelCall { lane: LaneId { region: "us-east-1".into(), model_id: HAIKU.into() }, body, timeout }
}

/// Everything that can go wrong on order, by the words of the scenario.
const TROUBLES: [&str; 34] = [
    "kind = 'ThrottlingException'",
    "kind = 'ThrottlingException'\ntext = 'requests'",
    "kind = 'ThrottlingException'\ntext = 'day'\nretry_after = '90s'",
    "kind = 'ThrottlingException'\nmessage = 'The model is overloaded.'",
    "kind = 'ServiceUnavailableException'",
    "kind = 'ServiceUnavailableException'\ntext = 'connections'\nretry_after = '1500ms'",
    "kind = 'ServiceUnavailableException'\nmessage = 'The model is currently overloaded.'",
    "kind = 'InternalServerException'",
    "kind = 'ModelTimeoutException'",
    "kind = 'ModelErrorException'",
    "kind = 'ModelErrorException'\noriginal_status = 400",
    "kind = 'ModelErrorException'\noriginal_status = 429",
    "kind = 'ModelStreamErrorException'",
    "kind = 'ModelNotReadyException'",
    "kind = 'ServiceQuotaExceededException'",
    "kind = 'ValidationException'",
    "kind = 'ValidationException'\nmessage = 'Operation not allowed'",
    "kind = 'AccessDeniedException'",
    "kind = 'AccessDeniedException'\nmessage = 'The security token is invalid'",
    "kind = 'ResourceNotFoundException'",
    "kind = 'ExpiredTokenException'",
    "kind = 'UnrecognizedClientException'",
    "kind = 'MissingAuthenticationTokenException'",
    "kind = 'InvalidClientTokenId'",
    "kind = 'IncompleteSignature'",
    "kind = 'NotAuthorized'",
    "kind = 'RequestExpired'",
    "kind = 'InvalidAction'",
    "kind = 'FTUFormNotFilled'",
    "kind = 'MPAgreementBeingCreated'",
    "kind = 'overloaded'",
    "kind = 'unknown'",
    "kind = 'unknown'\nstatus = 503",
    "kind = 'empty'",
];
/// Those that concern the connection or the body rather than what the service says.
const BREAKS: [&str; 3] = ["kind = 'drop'", "kind = 'truncate'", "kind = 'garbage'"];

/// If this helper read an error otherwise than the client, scenarios under a paused clock would prove nothing.
#[tokio::test]
async fn the_model_played_in_process_reads_every_trouble_as_the_client_does_over_http() {
    let troubles: Vec<_> = TROUBLES.into_iter().chain(BREAKS).collect();
    let faults = troubles.iter().zip(1..).map(|(trouble, at)| format!("[[fault]]\n{trouble}\ncalls = '{at}'\n"));
    let text = format!("latency = {{ constant = '0s' }}\n{}", faults.collect::<String>());
    let scenario = Scenario::from_toml(&text).unwrap();

    let server = simulate::start("127.0.0.1:0".parse().unwrap(), scenario.clone()).await.unwrap();
    let endpoint = Endpoint { region: "us-east-1".into(), endpoint_url: Some(format!("http://{}", server.address())) };
    let client = Bedrock::connect(vec![endpoint], Credentials::Simulator).await.unwrap();
    let played = Played::new(scenario);

    let mut classes = Vec::new();
    for (number, trouble) in troubles.iter().enumerate() {
        let over_http = client.call(converse(number)).await.expect_err(trouble);
        let in_process = played.call(converse(number)).await.expect_err(trouble);
        let told = (over_http.failure.class, over_http.billing, over_http.retry_after);
        assert_eq!((in_process.failure.class, in_process.billing, in_process.retry_after), told, "{trouble}");
        classes.push(told.0);
    }
    for call in [converse(1_000), invoke(1_001)] {
        let over_http = client.call(call.clone()).await.unwrap();
        let in_process = played.call(call).await.unwrap();
        assert_eq!((in_process.text, in_process.usage), (over_http.text, over_http.usage));
        assert_eq!((in_process.stop_reason, in_process.output), (over_http.stop_reason, over_http.output));
    }
    for class in [Class::QuotaMinute, Class::QuotaDay, Class::Overloaded, Class::Unavailable, Class::Timeout] {
        assert!(classes.contains(&class), "{class:?} was not ordered");
    }
    let lanes = server.report().lanes;
    assert_eq!(lanes.into_keys().collect::<Vec<_>>(), ["us-east-1"], "the region is the one signed for");
    let (counted, counted_in_process) = (server.stop().await, played.service.report());
    assert_eq!((counted.calls, &counted.faults), (counted_in_process.calls, &counted_in_process.faults));
}

/// A socket knows the region only once it has read the request, so that its client cannot know that nobody has.
#[tokio::test]
async fn a_refused_connection_costs_nothing_as_far_as_the_caller_can_know() {
    let scenario = Scenario::from_toml("[[fault]]\nkind = 'refuse'\nregion = 'us-east-1'").unwrap();
    let server = simulate::start("127.0.0.1:0".parse().unwrap(), scenario.clone()).await.unwrap();
    let endpoint = Endpoint { region: "us-east-1".into(), endpoint_url: Some(format!("http://{}", server.address())) };
    let client = Bedrock::connect(vec![endpoint], Credentials::Simulator).await.unwrap();
    let over_http = client.call(converse(1)).await.unwrap_err();
    assert_eq!((over_http.failure.class, over_http.billing), (Class::Unavailable, Billing::Unknown));
    let played = Played::new(scenario);
    let in_process = played.call(converse(1)).await.unwrap_err();
    assert_eq!((in_process.failure.class, in_process.billing), (Class::Unavailable, Billing::Nothing));
    for report in [server.stop().await, played.service.report()] {
        assert_eq!((report.calls, report.faults["refuse"], report.admitted_tokens), (1, 1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_given_up_after_its_timeout_and_nobody_knows_what_it_cost() {
    let played = Played::new(Scenario::from_toml("[[fault]]\nkind = 'hang'").unwrap());
    let model: Arc<dyn Model> = Arc::new(played.clone());
    let began = tokio::time::Instant::now();
    let failure = model.call(converse(1)).await.unwrap_err();
    assert_eq!((failure.failure.class, failure.billing), (Class::Timeout, Billing::Unknown));
    assert_eq!((began.elapsed(), played.service.report().abandoned), (Duration::from_secs(5), 1));
}
