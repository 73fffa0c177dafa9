//! The adapter against a scripted server on loopback, byte for byte.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::job::ident::{BatchName, JobId, JobKey, Tenant};
use crate::job::ingest::{DataSource, IngestToken};
use crate::job::outcome::Usage;
use crate::ports::{Begun, Ingestions as _, LaneId};

const REGION: &str = "us-east-1";
const MODEL: &str = "us.vendor.model-20251001-v1:0";

/// What the server does with one request.
#[derive(Clone, Debug)]
enum Act {
    /// Sends these bytes and goes on.
    Send(Vec<u8>),
    /// Sends these bytes and closes the connection.
    SendAndClose(Vec<u8>),
    /// Never answers.
    Hang,
}

fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} Any\r\ncontent-length: {}\r\nx-amzn-requestid: r-42\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{text}content-type: application/json\r\n\r\n{body}").into_bytes()
}

fn error(status: u16, code: &str, message: &str) -> Act {
    let body = json!({ "message": message }).to_string();
    Act::Send(response(status, &[("x-amzn-errortype", code)], &body))
}

fn answer(text: &str) -> Act {
    let body = json!({
        "output": { "message": { "role": "assistant", "content": [{ "text": text }] } },
        "stopReason": "end_turn",
        "usage": { "inputTokens": 10, "outputTokens": 5, "totalTokens": 15 },
        "metrics": { "latencyMs": 1 },
    });
    Act::Send(response(200, &[], &body.to_string()))
}

/// Heads and bodies.
type Requests = Vec<(String, Vec<u8>)>;

/// Plays its acts in order, the last one for ever; keeps every request.
struct Server {
    url: String,
    requests: Arc<Mutex<Requests>>,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(acts: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let acts = Arc::new(Mutex::new(acts.into_iter().collect::<VecDeque<_>>()));
        let (requests, connections) = (Arc::<Mutex<Requests>>::default(), Arc::<AtomicUsize>::default());
        let (kept, counted) = (Arc::clone(&requests), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acts, kept, counted) = (Arc::clone(&acts), Arc::clone(&kept), Arc::clone(&counted));
                tokio::spawn(serve(stream, acts, kept, counted));
            }
        });
        Self { url, requests, connections, task }
    }

    fn requests(&self) -> Requests {
        self.requests.lock().unwrap().clone()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn endpoint(&self, region: &str) -> Endpoint {
        Endpoint { region: region.into(), endpoint_url: Some(self.url.clone()) }
    }

    async fn bedrock(&self) -> Bedrock {
        Bedrock::connect(vec![self.endpoint(REGION)], Credentials::Simulator).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    acts: Arc<Mutex<VecDeque<Act>>>,
    requests: Arc<Mutex<Requests>>,
    connections: Arc<AtomicUsize>,
) {
    let mut buffer = Vec::new();
    let mut first = true;
    loop {
        let head_end = loop {
            if let Some(at) = buffer.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        // The probe at connecting opens a connection and sends nothing; it is not counted.
        if std::mem::take(&mut first) {
            connections.fetch_add(1, Ordering::SeqCst);
        }
        let head = String::from_utf8(buffer.drain(..head_end).collect()).unwrap();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
        });
        let length: usize = length.unwrap_or(0);
        while buffer.len() < length {
            assert_ne!(stream.read_buf(&mut buffer).await.unwrap(), 0, "the body is shorter than it says");
        }
        requests.lock().unwrap().push((head, buffer.drain(..length).collect()));
        let act = {
            let mut acts = acts.lock().unwrap();
            if acts.len() > 1 { acts.pop_front().unwrap() } else { acts.front().unwrap().clone() }
        };
        match act {
            Act::Send(bytes) => stream.write_all(&bytes).await.unwrap(),
            Act::SendAndClose(bytes) => return stream.write_all(&bytes).await.unwrap(),
            Act::Hang => std::future::pending().await,
        }
    }
}

fn call(body: CallBody) -> ModelCall {
    let lane = LaneId { region: REGION.into(), model_id: MODEL.into() };
    ModelCall { lane, body, timeout: Duration::from_secs(20) }
}

fn converse(body: &'static str) -> ModelCall {
    call(CallBody::Converse(Bytes::from_static(body.as_bytes())))
}

const HELLO: &str = r#"{"messages":[{"role":"user","content":[{"text":"Hello"}]}]}"#;

async fn outcome_of(act: Act) -> Result<Answer, CallFailure> {
    let server = Server::start([act]).await;
    let outcome = server.bedrock().await.call(converse(HELLO)).await;
    assert_eq!(server.requests().len(), 1, "one call is one HTTP request");
    outcome
}

// -------------------------------------------------------------------------------------------------- requests

#[tokio::test]
async fn a_converse_body_passes_byte_for_byte() {
    const ODD: &str = "{ \"messages\" : [{\"role\":\"user\",\"content\":[{\"hologram\":{\"depth\":1e3}},{\"text\":\"\\u00e9 é \u{1F980}\"}]}],\n\
        \"futureField\":{\"b\":1,\"a\":[null]},\"inferenceConfig\":{\"maxTokens\":7,\"unknownKnob\":0.10}}";
    let server = Server::start([answer("hi")]).await;
    let answer = server.bedrock().await.call(converse(ODD)).await.unwrap();
    assert_eq!(answer.text.as_deref(), Some("hi"));
    assert_eq!(answer.usage, Usage { input_tokens: 10, output_tokens: 5, ..Usage::default() });
    assert_eq!(answer.output, json!({ "message": { "role": "assistant", "content": [{ "text": "hi" }] } }));

    let (head, body) = server.requests().remove(0);
    assert_eq!(body, ODD.as_bytes());
    assert!(head.starts_with("POST /model/us.vendor.model-20251001-v1%3A0/converse HTTP/1.1\r\n"), "{head}");
    let head = head.to_lowercase();
    assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
    assert_eq!(head.matches("\r\ncontent-length: ").count(), 1, "{head}");
    assert!(head.contains(&format!("/{REGION}/bedrock/aws4_request")), "{head}");
}

#[tokio::test]
async fn an_invoke_body_passes_byte_for_byte_and_its_answer_comes_back_whole() {
    const BODY: &str = "{\"inputText\" :\"é\",\"dimensions\":2,\"other\":{}}";
    let reply = json!({ "embedding": [0.25, -1], "inputTextTokenCount": 3 });
    let server = Server::start([Act::Send(response(200, &[], &reply.to_string()))]).await;
    let invoke = call(CallBody::Invoke(Bytes::from_static(BODY.as_bytes())));
    let answer = server.bedrock().await.call(invoke).await.unwrap();
    assert_eq!((answer.text, answer.output), (None, reply));
    assert_eq!(answer.usage.input_tokens, 3);

    let (head, body) = server.requests().remove(0);
    assert_eq!(body, BODY.as_bytes());
    assert!(head.starts_with("POST /model/us.vendor.model-20251001-v1%3A0/invoke HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("\r\ncontent-type: application/json\r\n"), "{head}");
}

// --------------------------------------------------------------------------------------------------- answers

#[tokio::test]
async fn reasoning_may_come_first_and_the_stop_reason_may_be_new() {
    let body = json!({
        "output": { "message": { "role": "assistant", "content": [
            { "reasoningContent": { "reasoningText": { "text": "hmm" } } }, { "text": "four" } ] } },
        "stopReason": "ran_out_of_moonlight",
        "usage": { "inputTokens": 1, "outputTokens": 2, "cacheReadInputTokens": 3, "cacheWriteInputTokens": 4 },
    });
    let answer = outcome_of(Act::Send(response(200, &[], &body.to_string()))).await.unwrap();
    assert_eq!(answer.text.as_deref(), Some("four"));
    assert_eq!(answer.stop_reason.as_deref(), Some("ran_out_of_moonlight"));
    let usage = Usage { input_tokens: 1, output_tokens: 2, cache_read_tokens: 3, cache_write_tokens: 4 };
    assert_eq!(answer.usage, usage);
}

#[tokio::test]
async fn an_empty_answer_is_a_failure_that_was_billed() {
    let body = json!({ "output": { "message": { "role": "assistant", "content": [] } }, "stopReason": "end_turn",
                       "usage": { "inputTokens": 10, "outputTokens": 1, "totalTokens": 11 } });
    let failure = outcome_of(Act::Send(response(200, &[], &body.to_string()))).await.unwrap_err();
    assert_eq!(failure.failure.class, Class::Empty);
    assert_eq!(failure.failure.request_id.as_deref(), Some("r-42"));
    assert_eq!(failure.billing, Billing::Billed(Usage { input_tokens: 10, output_tokens: 1, ..Usage::default() }));
}

#[tokio::test]
async fn f23_a_404_is_never_a_result() {
    let body = json!({ "output": { "message": { "content": [{ "text": "looks like an answer" }] } },
                       "usage": { "inputTokens": 1, "outputTokens": 1 }, "message": "no such profile" })
    .to_string();
    for head in [&[("x-amzn-errortype", "ResourceNotFoundException")][..], &[]] {
        let failure = outcome_of(Act::Send(response(404, head, &body))).await.unwrap_err();
        let expected = if head.is_empty() { Class::Unknown } else { Class::Denied };
        assert_eq!((failure.failure.class, failure.billing), (expected, Billing::Nothing));
    }
    let disguised =
        json!({ "Output": { "__type": "com.amazon.coral.service#UnknownOperationException" }, "Version": "1.0" });
    let failure = outcome_of(Act::Send(response(200, &[], &disguised.to_string()))).await.unwrap_err();
    assert_eq!(failure.failure.class, Class::Denied);
}

// ---------------------------------------------------------------------------------------------------- errors

#[tokio::test]
async fn the_observed_wire_form_of_a_throttle_is_read() {
    let body = r#"{"message":"Too many tokens, please wait before trying again."}"#;
    assert_eq!(body.len(), 63);
    let code = "ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/";
    let failure = outcome_of(Act::Send(response(429, &[("x-amzn-ErrorType", code)], body))).await.unwrap_err();
    let message = "ThrottlingException: Too many tokens, please wait before trying again.".to_owned();
    let expected = Failure { class: Class::QuotaMinute, message, request_id: Some("r-42".to_owned()) };
    assert_eq!(failure, CallFailure { failure: expected, billing: Billing::Nothing, retry_after: None });
}

#[tokio::test]
async fn t4_one_call_is_one_http_request_whatever_comes_back() {
    for act in [
        error(503, "ServiceUnavailableException", "Bedrock is unable to process your request."),
        error(500, "InternalServerException", ""),
        error(429, "ThrottlingException", "Too many requests, please wait before trying again."),
        error(429, "ModelNotReadyException", ""),
        error(408, "RequestTimeoutException", ""),
        Act::Send(response(503, &[], "<html>")),
        Act::SendAndClose(Vec::new()),
    ] {
        outcome_of(act).await.unwrap_err();
    }
}

#[tokio::test]
async fn t4_a_connection_that_breaks_at_its_second_use_is_not_tried_again() {
    let server = Server::start([answer("one"), Act::SendAndClose(Vec::new())]).await;
    let bedrock = server.bedrock().await;
    bedrock.call(converse(HELLO)).await.unwrap();
    let failure = bedrock.call(converse(HELLO)).await.unwrap_err();
    assert_eq!((failure.failure.class, failure.billing), (Class::Unavailable, Billing::Unknown));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn an_answer_that_is_too_slow_is_a_timeout_of_unknown_cost() {
    let server = Server::start([Act::Hang]).await;
    let slow = ModelCall { timeout: Duration::from_millis(60), ..converse(HELLO) };
    let failure = server.bedrock().await.call(slow).await.unwrap_err();
    assert_eq!((failure.failure.class, failure.billing), (Class::Timeout, Billing::Unknown));
    assert_eq!(failure.failure.message, "no answer within 0.06 s");
}

#[tokio::test]
async fn a_dropped_connection_may_have_cost_something() {
    for bytes in [Vec::new(), b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()] {
        let failure = outcome_of(Act::SendAndClose(bytes)).await.unwrap_err();
        assert_eq!((failure.failure.class, failure.billing), (Class::Unavailable, Billing::Unknown), "{failure:?}");
    }
}

#[tokio::test]
async fn a_truncated_or_garbled_answer_is_no_answer() {
    let mut cut = response(200, &[], &"x".repeat(200));
    cut.truncate(cut.len() - 50);
    let html = response(200, &[], "<html>proxy</html>");
    for bytes in [cut, html] {
        let failure = outcome_of(Act::SendAndClose(bytes)).await.unwrap_err();
        assert_eq!((failure.failure.class, failure.billing), (Class::Unavailable, Billing::Unknown));
        assert_eq!(failure.failure.request_id.as_deref(), Some("r-42"));
    }
}

#[tokio::test]
async fn a_connection_that_cannot_be_opened_cost_nothing() {
    let mut server = Server::start([answer("hi")]).await;
    let bedrock = server.bedrock().await;
    server.task.abort();
    let _ = (&mut server.task).await;
    let failure = bedrock.call(converse(HELLO)).await.unwrap_err();
    assert_eq!((failure.failure.class, failure.billing), (Class::Unavailable, Billing::Nothing));
    assert!(failure.failure.message.to_lowercase().contains("refused"), "{failure:?}");
}

#[tokio::test]
async fn no_prompt_shows_in_an_error_that_echoes_it() {
    const SECRET: &str = r#"{"messages":[{"role":"user","content":[{"text":"canary-8831 in the mine"}]}]}"#;
    let echo = format!("1 validation error detected: Value '{SECRET}' at 'messages' failed to satisfy constraint");
    let server = Server::start([error(400, "ValidationException", &echo)]).await;
    let bedrock = server.bedrock().await;
    let failure = bedrock.call(converse(SECRET)).await.unwrap_err();
    assert_eq!(failure.failure.class, Class::Invalid);
    assert!(failure.failure.message.contains("validation error detected"), "{failure:?}");
    assert!(!format!("{failure:?} {bedrock:?}").contains("canary"), "{failure:?}");
}

#[tokio::test]
async fn a_region_without_an_endpoint_is_denied() {
    let server = Server::start([answer("hi")]).await;
    let mut elsewhere = converse(HELLO);
    elsewhere.lane.region = "mars-north-1".into();
    let failure = server.bedrock().await.call(elsewhere).await.unwrap_err();
    assert_eq!((failure.failure.class, failure.billing), (Class::Denied, Billing::Nothing));
    assert!(server.requests().is_empty());
}

// ----------------------------------------------------------------------------------- connections, credentials

#[tokio::test]
async fn r17_calls_on_one_endpoint_share_one_client_and_its_connection() {
    let (east, west) = (Server::start([answer("e")]).await, Server::start([answer("w")]).await);
    let endpoints = vec![east.endpoint(REGION), west.endpoint("us-west-2")];
    let bedrock = Bedrock::connect(endpoints, Credentials::Simulator).await.unwrap();
    assert_eq!(bedrock.clients.read().unwrap().len(), 2);
    for _ in 0..20 {
        bedrock.call(converse(HELLO)).await.unwrap();
        let mut elsewhere = converse(HELLO);
        elsewhere.lane.region = "us-west-2".into();
        assert_eq!(bedrock.call(elsewhere).await.unwrap().text.as_deref(), Some("w"));
    }
    for server in [east, west] {
        assert_eq!((server.requests().len(), server.connections()), (20, 1));
    }
}

#[tokio::test]
async fn hundreds_of_calls_run_at_once_on_connections_that_stay() {
    let server = Server::start([answer("hi")]).await;
    let bedrock = Arc::new(server.bedrock().await);
    for _ in 0..2 {
        let calls: Vec<_> = (0..300)
            .map(|_| {
                tokio::spawn({
                    let bedrock = Arc::clone(&bedrock);
                    async move { bedrock.call(converse(HELLO)).await }
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
    }
    assert_eq!(server.requests().len(), 600);
    assert!(server.connections() <= 300, "{}", server.connections());
}

/// The kernel shows the timer of a connection: 2 is keep-alive, and when it fires, in hundredths of a second.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_waiting_connection_is_kept_alive_well_before_gateways_drop_it() {
    let server = Server::start([Act::Hang]).await;
    let bedrock = Arc::new(server.bedrock().await);
    let calling = tokio::spawn({
        let bedrock = Arc::clone(&bedrock);
        async move { bedrock.call(converse(HELLO)).await }
    });
    while server.requests().is_empty() {
        assert!(!calling.is_finished());
        tokio::task::yield_now().await;
    }
    let port: u16 = server.url.rsplit(':').next().unwrap().parse().unwrap();
    let remote = format!("0100007F:{port:04X}");
    let timer = loop {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let row = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        // The probe's connection may still stand there; it has no timer.
        let timers = row
            .filter(|row| row.get(2) == Some(&remote.as_str()) && row.get(3) == Some(&"01"))
            .map(|row| row[5].to_owned());
        if let Some(timer) = timers.into_iter().find(|timer| timer.starts_with("02:")) {
            break timer;
        }
        assert!(!calling.is_finished());
        tokio::task::yield_now().await;
    };
    let hundredths = u64::from_str_radix(timer.trim_start_matches("02:"), 16).unwrap();
    assert!(hundredths <= 4_500 + 100, "{timer}");
    calling.abort();
}

/// A session that has ended.
#[derive(Debug)]
struct Expired;

impl ProvideCredentials for Expired {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Err(CredentialsError::not_loaded("the session has ended")))
    }
}

#[tokio::test]
async fn credentials_that_cannot_be_loaded_send_nothing_and_are_back_after_a_refresh() {
    let server = Server::start([answer("hi")]).await;
    let bedrock = server.bedrock().await;
    let broken = aws_sdk_bedrockruntime::Config::builder()
        .behavior_version(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new(REGION))
        .endpoint_url(&server.url)
        .http_client(bedrock.http.clone())
        .credentials_provider(Expired)
        .build();
    let client =
        Client { models: aws_sdk_bedrockruntime::Client::from_conf(broken), ..bedrock.client(REGION).unwrap() };
    *bedrock.clients.write().unwrap() = Arc::new([(REGION.into(), client)].into());
    let failure = bedrock.call(converse(HELLO)).await.unwrap_err();
    assert_eq!((failure.failure.class, failure.billing), (Class::Credentials, Billing::Nothing), "{failure:?}");
    assert!(failure.failure.message.contains("the session has ended"), "{failure:?}");
    assert!(server.requests().is_empty());

    bedrock.refresh_credentials().await.unwrap();
    bedrock.call(converse(HELLO)).await.unwrap();
}

fn source() -> DataSource {
    let fields = json!({ "knowledge_base_id": "KB12345678", "data_source_id": "DS12345678" });
    DataSource::read(fields.as_object().unwrap()).unwrap()
}

#[tokio::test]
async fn knowledge_bases_share_connections_and_load_refused_credentials_anew() {
    let none = || Act::Send(response(200, &[], r#"{"ingestionJobSummaries":[]}"#));
    let expired = || error(403, "ExpiredTokenException", "The security token included in the request is expired");
    let server = Server::start([answer("hi"), none(), expired(), none()]).await;
    let models = server.bedrock().await;
    let bases = KnowledgeBases::beside(&models, REGION.into());
    let bases = KnowledgeBases { endpoint: server.endpoint(REGION), ..bases };
    models.call(converse(HELLO)).await.unwrap();
    assert!(bases.newest(&source()).await.unwrap().is_empty());
    assert_eq!(server.connections(), 1, "one pool for models and knowledge bases");
    assert_eq!(bases.newest(&source()).await.unwrap_err().class, Class::Credentials);
    assert!(bases.client.lock().await.is_none(), "the next question has a client of its own");
    assert!(bases.newest(&source()).await.is_ok());

    let sent = server.requests().len();
    let broken =
        bases.client.lock().await.as_ref().unwrap().config().to_builder().credentials_provider(Expired).build();
    *bases.client.lock().await = Some(aws_sdk_bedrockagent::Client::from_conf(broken));
    let failure = bases.newest(&source()).await.unwrap_err();
    assert_eq!(failure.class, Class::Credentials, "{failure:?}");
    assert!(failure.message.contains("the session has ended"), "{failure:?}");
    assert_eq!(server.requests().len(), sent, "nothing was sent");
    assert!(bases.newest(&source()).await.is_ok());
}

#[tokio::test]
async fn a_conflict_is_another_ingestion_and_a_limit_of_the_account_is_a_quota() {
    let server =
        Server::start([error(409, "ConflictException", "x"), error(402, "ServiceQuotaExceededException", "x")]).await;
    let bases = KnowledgeBases::new(server.endpoint(REGION), Credentials::Simulator);
    let (tenant, batch, id) = (Tenant::unnamed(), BatchName::none(), JobId::new("a").unwrap());
    let token = IngestToken::of(&JobKey { tenant, batch, id }, 0);
    assert_eq!(bases.begin(&source(), &token).await.unwrap(), Begun::Busy);
    assert_eq!(bases.begin(&source(), &token).await.unwrap_err().class, Class::QuotaDay);
}

#[tokio::test]
async fn what_is_wrong_with_an_endpoint_is_said_before_any_call() {
    let at = |url: &str| vec![Endpoint { region: REGION.into(), endpoint_url: Some(url.to_owned()) }];
    let refused = |endpoints: Vec<Endpoint>| async {
        Bedrock::connect(endpoints, Credentials::Simulator).await.unwrap_err().to_string()
    };
    assert!(refused(vec![]).await.contains("AWS_REGION"));
    for url in ["", "localhost:8080", "ftp://host", "http://", "ht tp://x", "http://host/?a=b"] {
        let message = refused(at(url)).await;
        assert!(message.contains("endpoint_url") && message.contains("http(s)://host[:port]"), "{url}: {message}");
    }
    let vacant = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let message = refused(at(&format!("http://{vacant}"))).await;
    assert!(message.contains("nobody answers") && message.contains("refused"), "{message}");
    let server = Server::start([answer("hi")]).await;
    assert!(refused(vec![server.endpoint(REGION); 2]).await.contains("two endpoints"));
    assert!(refused(vec![server.endpoint("Ohio")]).await.contains("us-east-1"));
}

/// Not a test by itself: [`missing_settings_are_said`] runs it in a process with an environment of its own, because a
/// process cannot safely change its own.
#[tokio::test]
#[ignore = "run by missing_settings_are_said in an environment of its own"]
async fn connect_in_this_environment() {
    let endpoint = Endpoint { region: REGION.into(), endpoint_url: None };
    let outcome = Bedrock::connect(vec![endpoint], Credentials::FromEnvironment).await;
    let said = outcome.map_or_else(|error| error.to_string(), |_| "connected".to_owned());
    let region = default_region().await;
    std::fs::write(std::env::var_os("SAID").unwrap(), format!("{region:?} {said}")).unwrap();
}

#[test]
fn missing_settings_are_said() {
    let home = tempfile::tempdir().unwrap();
    let said = |settings: &[(&str, &str)]| {
        let file = home.path().join("said");
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "bedrock::tests::connect_in_this_environment", "--ignored"])
            .env_clear()
            .env("HOME", home.path())
            .env("SAID", &file)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(settings.iter().copied())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        std::fs::read_to_string(&file).unwrap()
    };
    let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
    assert_eq!(said(&[keys[0], keys[1], ("AWS_REGION", "eu-west-1")]), "Some(\"eu-west-1\") connected");
    assert_eq!(said(&[("AWS_BEARER_TOKEN_BEDROCK", "t")]), "None connected");
    let nothing = said(&[]);
    assert!(nothing.starts_with("None no AWS credentials") && nothing.contains("AWS_PROFILE"), "{nothing}");
    let wrong = said(&[keys[0], keys[1], ("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "localhost")]);
    assert!(wrong.contains("`localhost`") && wrong.contains("set AWS_ENDPOINT_URL_BEDROCK_RUNTIME"), "{wrong}");
}
