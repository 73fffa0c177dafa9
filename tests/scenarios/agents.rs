//! An agent over a socket: the real SDK, its event stream and its errors, against the simulator.

use std::time::Duration;

use aquifer::bedrock::{Bedrock, Credentials, Endpoint};
use aquifer::job::agent::AgentCall;
use aquifer::job::failure::Class;
use aquifer::job::outcome::Usage;
use aquifer::ports::{Billing, CallBody, LaneId, Model, ModelCall};
use aquifer::simulate::{self, Scenario, Simulator};
use serde_json::json;

const QUESTION: &str = "What does my very secret quarterly plan say about the harbour?";

fn ask(number: usize) -> ModelCall {
    let fields = json!({
        "agentId": "AGENT12345", "agentAliasId": "TSTALIASID", "sessionId": "session-1",
        "inputText": format!("{QUESTION} ({number})"),
    });
    let call = AgentCall::read(fields.as_object().unwrap()).unwrap();
    let lane = LaneId { region: "us-east-1".into(), model_id: call.name().into() };
    ModelCall { lane, body: CallBody::Agent(call), timeout: Duration::from_secs(5) }
}

async fn serve(scenario: &str) -> (Simulator, Bedrock) {
    let scenario = Scenario::from_toml(&format!("latency = {{ constant = '0s' }}\n{scenario}")).unwrap();
    let server = simulate::start("127.0.0.1:0".parse().unwrap(), scenario).await.unwrap();
    let endpoint = Endpoint { region: "us-east-1".into(), endpoint_url: Some(format!("http://{}", server.address())) };
    (server, Bedrock::connect(vec![endpoint], Credentials::Simulator).await.unwrap())
}

#[tokio::test]
async fn an_agent_answers_with_its_chunks_joined_and_nothing_of_its_trace() {
    let (server, client) = serve("answer = { mean = 120 }").await;
    let answer = client.call(ask(1)).await.unwrap();
    let text = answer.text.unwrap();
    assert!(text.len() > 100 && text.ends_with('.'), "several chunks: {text}");
    assert_eq!(answer.output, json!({ "completion": text }));
    assert_eq!((answer.usage, answer.stop_reason), (Usage::default(), None));
    let report = server.stop().await;
    assert_eq!((report.calls, report.answered), (1, 1));
    assert!(report.lanes["us-east-1"].contains_key("agent/AGENT12345/TSTALIASID"), "{:?}", report.lanes);
}

#[tokio::test]
async fn whatever_goes_wrong_with_an_agent_before_or_after_the_200_has_its_class_and_shows_no_question() {
    let troubles = [
        ("kind = 'ThrottlingException'", Class::QuotaMinute),
        ("kind = 'AccessDeniedException'", Class::Denied),
        ("kind = 'ResourceNotFoundException'", Class::Denied),
        ("kind = 'DependencyFailedException'", Class::ModelError),
        ("kind = 'ConflictException'", Class::ModelError),
        ("kind = 'BadGatewayException'", Class::Unavailable),
        ("kind = 'InternalServerException'", Class::Unavailable),
        ("kind = 'ExpiredTokenException'", Class::Credentials),
        ("kind = 'empty'", Class::Empty),
        ("kind = 'drop'", Class::Unavailable),
        ("kind = 'truncate'", Class::Unavailable),
        ("kind = 'garbage'", Class::Unavailable),
        ("kind = 'stream_error'\nerror = 'ThrottlingException'", Class::QuotaMinute),
        ("kind = 'stream_error'\nerror = 'AccessDeniedException'", Class::Denied),
        ("kind = 'stream_error'\nerror = 'DependencyFailedException'", Class::ModelError),
        ("kind = 'stream_error'\nerror = 'ValidationException'", Class::Invalid),
        ("kind = 'stream_error'\nerror = 'InternalServerException'", Class::Unavailable),
    ];
    let quoting = format!("kind = 'ValidationException'\nmessage = '{QUESTION} is not what it takes'");
    let in_stream =
        format!("kind = 'stream_error'\nerror = 'ValidationException'\nmessage = '{QUESTION} is not what it takes'");
    let all: Vec<(&str, Class)> = troubles
        .into_iter()
        .chain([(quoting.as_str(), Class::Invalid), (in_stream.as_str(), Class::Invalid)])
        .collect();
    let faults = all.iter().zip(1..).map(|((trouble, _), at)| format!("[[fault]]\n{trouble}\ncalls = '{at}'\n"));
    let (server, client) = serve(&faults.collect::<String>()).await;
    for (number, (trouble, class)) in all.iter().enumerate() {
        let failure = client.call(ask(number)).await.expect_err(trouble);
        assert_eq!(failure.failure.class, *class, "{trouble}");
        assert!(!failure.failure.message.contains("secret"), "{}", failure.failure.message);
        if matches!(class, Class::QuotaMinute | Class::Denied) {
            assert_eq!(failure.billing, Billing::Nothing, "{trouble}");
        }
    }
    assert_eq!(server.stop().await.calls, all.len() as u64, "no call is repeated by the SDK");
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_given_up_in_time() {
    let (_server, client) = serve("[[fault]]\nkind = 'hang'").await;
    let call = ModelCall { timeout: Duration::from_millis(200), ..ask(1) };
    let failure = client.call(call).await.unwrap_err();
    assert_eq!((failure.failure.class, failure.billing), (Class::Timeout, Billing::Unknown));
}
