//! What does a collector see of a job? Spans, sent by OTLP to a server of this test's own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use tokio::net::TcpListener;

use aquifer::flow::context::Context;
use aquifer::job::failure::Class;
use aquifer::job::lifecycle::Status;
use aquifer::job::spec::Job;
use aquifer::job::trace::TraceContext;
use aquifer::ports::Billing;
use aquifer::telemetry::Meter;
use aquifer::telemetry::traces::{TracedQueue, Traces};

use crate::common::context_with;
use crate::harness::*;

/// What a collector was sent.
#[derive(Clone, Default)]
struct Collected {
    spans: Arc<Mutex<Vec<Span>>>,
    /// The name of the service, as each request gives it.
    services: Arc<Mutex<Vec<String>>>,
    requests: Arc<AtomicU64>,
}

impl Collected {
    async fn take(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let sent = ExportTraceServiceRequest::decode(body).unwrap();
        for resource in sent.resource_spans {
            let said = resource.resource.unwrap().attributes;
            let name = said.into_iter().find(|said| said.key == "service.name").unwrap();
            self.services.lock().unwrap().push(word(&name.value.unwrap().value.unwrap()));
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().unwrap().extend(spans);
        }
        Ok(Response::new(Full::default()))
    }

    fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }
}

async fn collector() -> (SocketAddr, Collected) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, collected) = (listener.local_addr().unwrap(), Collected::default());
    let taking = collected.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let taking = taking.clone();
            let service = service_fn(move |request| taking.clone().take(request));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, collected)
}

fn traces(collector: SocketAddr) -> Traces {
    let queue = TracedQueue { system: "aquifer", name: ".aquifer".into() };
    Traces::to(&format!("http://{collector}").parse().unwrap(), queue).unwrap()
}

fn word(value: &Value) -> String {
    match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        Value::ArrayValue(values) => {
            values.values.iter().map(|value| word(value.value.as_ref().unwrap())).collect::<Vec<_>>().join(",")
        }
        other => panic!("{other:?}"),
    }
}

fn said(span: &Span) -> BTreeMap<&str, String> {
    let of = |said: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        word(said.value.as_ref().unwrap().value.as_ref().unwrap())
    };
    span.attributes.iter().map(|said| (said.key.as_str(), of(said))).collect()
}

fn the<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(
        found.len(),
        1,
        "spans named {name} among {:?}",
        spans.iter().map(|span| &span.name).collect::<Vec<_>>()
    );
    found[0]
}

fn traced(state: &State, store: &aquifer::embedded::Store, model: Arc<Scripted>, traces: &Traces) -> Arc<Context> {
    let setup = Setup::default();
    let plans = vec![plan("m", setup.limits, &setup)];
    context_with(Meter::tracing(traces.clone()), store, state, model, setup.settings, plans)
}

#[tokio::test(start_paused = true)]
async fn a_producers_trace_goes_on_through_every_step_of_the_job() {
    let (address, collected) = collector().await;
    let state = State::new();
    let store = state.open().await;
    // Overloaded once, then answered.
    let model = Scripted::new(Duration::from_millis(20), |number, _| match number {
        1 => Reply::Fail(Class::Overloaded, Billing::Nothing),
        _ => Reply::Text("the answer that nobody is told"),
    });
    let traces = traces(address);
    let producer: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 vendor=1".parse().unwrap();
    let job = Job { trace: Some(producer.clone()), ..job("j-1", "the prompt that nobody is told") };
    let digest = job.digest();
    assert_eq!(digest, Job { trace: None, ..job.clone() }.digest(), "it is no content");
    let (run, _) = enrol(&store, vec![job]).await;
    let results = drain(&traced(&state, &store, model, &traces), &store, &run, 1).await;
    assert_eq!(results[0].status, Status::Succeeded);
    traces.end(Duration::from_secs(30)).await;

    let spans = collected.spans();
    assert!(collected.services.lock().unwrap().iter().all(|name| name == "aquifer"));
    assert!(spans.iter().all(|span| span.trace_id == producer.trace().get().to_be_bytes()), "one trace");
    assert!(spans.iter().all(|span| span.trace_state == "vendor=1"));
    let process = the(&spans, "process .aquifer");
    assert_eq!(
        (process.kind, &process.parent_span_id[..]),
        (SpanKind::Consumer as i32, &producer.parent().get().to_be_bytes()[..])
    );
    let about = said(process);
    for (name, value) in [
        ("messaging.system", "aquifer"),
        ("messaging.destination.name", ".aquifer"),
        ("messaging.operation.type", "process"),
        ("aquifer.job", "j-1"),
        ("aquifer.batch", crate::common::BATCH),
        ("aquifer.model", "m"),
        ("aquifer.receives", "1"),
        ("aquifer.status", "succeeded"),
        ("aquifer.disposition", "done"),
    ] {
        assert_eq!(about.get(name).map(String::as_str), Some(value), "{name}");
    }
    let mut steps: Vec<_> = spans.iter().filter(|span| span.parent_span_id == process.span_id).collect();
    assert_eq!(steps.len(), spans.len() - 1, "all others are its parts");
    steps.sort_by_key(|span| (span.start_time_unix_nano, span.end_time_unix_nano));
    let names: Vec<_> = steps.iter().map(|span| &*span.name).collect();
    let call = "chat vendor.m";
    assert_eq!(names, ["admit", "route", call, "route", call, "record", "notify", "acknowledge"]);
    for pair in steps.windows(2) {
        assert!(pair[0].end_time_unix_nano <= pair[1].start_time_unix_nano, "{} and {}", pair[0].name, pair[1].name);
    }
    let [overloaded, answered] = [said(steps[2]), said(steps[4])];
    for call in [&overloaded, &answered] {
        assert_eq!(call["gen_ai.provider.name"], "aws.bedrock");
        assert_eq!(call["gen_ai.operation.name"], "chat");
        assert_eq!(call["gen_ai.request.model"], "vendor.m");
        assert_eq!(call["gen_ai.request.max_tokens"], "100");
        assert_eq!(call["cloud.region"], "us-east-1");
    }
    assert_eq!(overloaded["error.type"], "overloaded");
    assert!(!overloaded.contains_key("gen_ai.usage.input_tokens"));
    let tokens = ["gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"].map(|name| &*answered[name]);
    assert_eq!(tokens, ["10", "5"]);
    assert_eq!(answered["gen_ai.response.finish_reasons"], "end_turn");
    assert!(!answered.contains_key("error.type"));
    assert!(
        steps
            .iter()
            .all(|span| span.kind == if span.name == call { SpanKind::Client } else { SpanKind::Internal } as i32)
    );
    assert!(!format!("{spans:?}").contains("nobody is told"), "o5: neither prompt nor answer");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_brings_no_trace_has_one_of_its_own_and_its_failure_shows() {
    let (address, collected) = collector().await;
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::new(Duration::from_millis(20), |_, _| Reply::Fail(Class::Invalid, Billing::Nothing));
    let traces = traces(address);
    let created = traces.creates(&job("j-0", "p"));
    let first = Job { trace: created.context(), ..job("j-0", "p") };
    drop(created);
    let (run, _) = enrol(&store, vec![first, job("j-1", "q")]).await;
    let results = drain(&traced(&state, &store, model, &traces), &store, &run, 2).await;
    assert!(results.iter().all(|result| result.status == Status::Failed));
    traces.end(Duration::from_secs(30)).await;

    let spans = collected.spans();
    let create = the(&spans, "create .aquifer");
    assert_eq!(create.kind, SpanKind::Producer as i32);
    let process: BTreeMap<String, &Span> = spans
        .iter()
        .filter(|span| span.name == "process .aquifer")
        .map(|span| (said(span)["aquifer.job"].clone(), span))
        .collect();
    let (queued, own) = (process["j-0"], process["j-1"]);
    assert_eq!((&queued.trace_id, &queued.parent_span_id), (&create.trace_id, &create.span_id), "as it was created");
    assert!(own.parent_span_id.is_empty());
    assert_ne!(own.trace_id, create.trace_id);
    for span in [queued, own] {
        assert_eq!(said(span)["aquifer.status"], "failed");
        assert_eq!(said(span)["error.type"], "invalid");
        assert_eq!(span.status.as_ref().unwrap().code, 2, "an error");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trace_that_nobody_records_is_not_sent_and_one_that_is_off_leaves_nothing() {
    let (address, collected) = collector().await;
    let state = State::new();
    let store = state.open().await;
    let traces = traces(address);
    let unsampled: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00".parse().unwrap();
    let unsampled = Job { trace: Some(unsampled), ..job("j-0", "p") };
    let (run, _) = enrol(&store, vec![unsampled]).await;
    drain(&traced(&state, &store, Scripted::answering(), &traces), &store, &run, 1).await;
    traces.end(Duration::from_secs(30)).await;
    assert_eq!(collected.spans(), []);

    let off = Traces::default();
    assert_eq!(off.creates(&job("j-1", "p")).context(), None, "no message says anything of a trace");
    let (run, _) = enrol(&store, vec![job("j-1", "p")]).await;
    drain(&traced(&state, &store, Scripted::answering(), &off), &store, &run, 1).await;
    off.end(Duration::from_secs(30)).await;
    assert_eq!(collected.requests.load(Ordering::SeqCst), 0, "nobody was called");
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_is_away_holds_nothing_up() {
    let state = State::new();
    let store = state.open().await;
    // A port that no system gives to whoever asks for any: one that was free a moment ago may be another test's by now.
    let traces = traces(SocketAddr::from(([127, 0, 0, 1], 1)));
    let (run, _) = enrol(&store, jobs(64)).await;
    let results = drain(&traced(&state, &store, Scripted::answering(), &traces), &store, &run, 64).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded && result.model_calls == 1));
    let ending = std::time::Instant::now();
    traces.end(Duration::from_millis(300)).await;
    assert!(ending.elapsed() < Duration::from_secs(5), "it waited for {:?}", ending.elapsed());
}
