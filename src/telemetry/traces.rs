//! What does a trace of a job show? One span from receipt to acknowledgement, a child for each step, and one for each call to
//! the model, in the names of OpenTelemetry's conventions for messaging and for generative AI.
//!
//! The worker goes on with the trace that a message brings, so that a producer's own trace runs through the queue, and without
//! one begins its own. Without a collector there are no spans at all: each of them is `None`, and nothing is measured or
//! kept. Ids, classes, counts and times; never a prompt or an answer.

mod collector;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::Uri;
use opentelemetry::trace::{
    Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceState, Tracer as _,
    TracerProvider as _,
};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};

pub use self::collector::NoCollector;
use super::in_hand::Step;
use super::lock;
use crate::job::failure::{Class, Failure};
use crate::job::ident::JobKey;
use crate::job::spec::Job;
use crate::job::trace::TraceContext;
use crate::ports::{Answer, CallBody, FinalRow, LaneId, Message};

/// Makes spans, where there is somebody to collect them. A clone is another handle on the same.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<On>>);

#[derive(Debug)]
struct On {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    queue: TracedQueue,
}

/// The queue through which the traces go, in the words of the conventions for messaging.
#[derive(Clone, Debug)]
pub struct TracedQueue {
    /// Of which kind: `aws_sqs`, or `aquifer` for the one on this machine.
    pub system: &'static str,
    /// Its name there.
    pub name: Arc<str>,
}

impl Traces {
    /// Sends them to the collector at this URL, in the background. To be called within a runtime, which carries the calls.
    ///
    /// # Errors
    /// [`NoCollector`]: nothing could be sent there, whatever it is.
    pub fn to(collector: &Uri, queue: TracedQueue) -> Result<Self, NoCollector> {
        let provider = collector::provider(collector)?;
        let tracer = provider.tracer("aquifer");
        Ok(Self(Some(Arc::new(On { provider, tracer, queue }))))
    }

    /// A message was received. Its trace goes on, until what is returned is ended or dropped.
    pub fn received(&self, message: &Message) -> JobSpan {
        let Some(on) = &self.0 else { return JobSpan::default() };
        let parent = message
            .trace
            .as_ref()
            .map_or_else(Context::new, |trace| Context::new().with_remote_span_context(span_context(trace)));
        let waited = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let waited = i64::try_from(waited.as_millis()).unwrap_or(i64::MAX).saturating_sub(message.sent.0).max(0);
        let builder = on.span(SpanKind::Consumer, "process").with_attributes(on.queue.attributes("process").chain([
            KeyValue::new("messaging.message.id", message.id.0.clone()),
            KeyValue::new("aquifer.receives", i64::from(message.receives)),
            KeyValue::new("aquifer.queued_ms", waited),
        ]));
        let process = Context::new().with_span(on.tracer.build_with_context(builder, &parent));
        JobSpan(Some(Box::new(Open { tracer: on.tracer.clone(), process, step: Mutex::new(None) })))
    }

    /// A job is about to be sent: its trace begins, with a span that ends once it is known what became of that.
    pub fn creates(&self, job: &Job) -> CreateSpan {
        let Some(on) = &self.0 else { return CreateSpan(None) };
        let attributes = on.queue.attributes("create").chain(of_job(&job.key, &job.model));
        let builder = on.span(SpanKind::Producer, "create").with_attributes(attributes);
        CreateSpan(Some(on.tracer.build_with_context(builder, &Context::new())))
    }

    /// Sends what is left and ends; waits for that no longer than this.
    pub async fn end(&self, within: Duration) {
        let Some(on) = &self.0 else { return };
        let provider = on.provider.clone();
        // It waits on a thread of its own, in vain if the collector is away, which has been said.
        let ending = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(within));
        let _ = tokio::time::timeout(within, ending).await;
    }
}

impl On {
    fn span(&self, kind: SpanKind, operation: &str) -> opentelemetry::trace::SpanBuilder {
        self.tracer.span_builder(format!("{operation} {}", self.queue.name)).with_kind(kind)
    }
}

impl TracedQueue {
    fn attributes(&self, operation: &'static str) -> impl Iterator<Item = KeyValue> + use<> {
        [
            KeyValue::new("messaging.system", self.system),
            KeyValue::new("messaging.destination.name", Arc::clone(&self.name)),
            KeyValue::new("messaging.operation.name", operation),
            KeyValue::new("messaging.operation.type", operation),
        ]
        .into_iter()
    }
}

/// The span with which a job's trace begins.
#[derive(Debug)]
pub struct CreateSpan(Option<Span>);

impl CreateSpan {
    /// What goes with the message; `None` where nobody traces.
    pub fn context(&self) -> Option<TraceContext> {
        trace_context(self.0.as_ref()?.span_context())
    }

    /// The job was not sent: it was known, or refused.
    pub fn not_sent(self) {
        if let Some(mut span) = self.0 {
            span.set_attribute(KeyValue::new("aquifer.sent", false));
        }
    }
}

/// The span of one delivery, and of the step it is at; of nothing, where nobody traces.
#[derive(Debug, Default)]
pub struct JobSpan(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    tracer: SdkTracer,
    process: Context,
    step: Mutex<Option<Span>>,
}

impl JobSpan {
    /// It is at this step now. A call to the model has a span of its own kind: see [`calls`](Self::calls).
    pub fn at(&self, step: Step) {
        let Some(open) = &self.0 else { return };
        let mut here = lock(&open.step);
        // The one before ends as it is dropped.
        *here = None;
        *here = match step {
            Step::Infer => None,
            Step::Admit | Step::Route | Step::Record | Step::Notify | Step::Acknowledge => {
                Some(open.tracer.start_with_context(step.word(), &open.process))
            }
        };
    }

    /// It is this job.
    pub fn is(&self, job: &Job) {
        let Some(open) = &self.0 else { return };
        open.process.span().set_attributes(of_job(&job.key, &job.model));
    }

    /// Where its trace goes on in what is sent because of it.
    pub fn context(&self) -> Option<TraceContext> {
        trace_context(self.0.as_ref()?.process.span().span_context())
    }

    /// The model is called. `max_tokens` is the cap of the call; zero for none.
    pub fn calls(&self, lane: &LaneId, body: &CallBody, max_tokens: u32) -> CallSpan {
        let Some(open) = &self.0 else { return CallSpan(None) };
        let operation = match body {
            CallBody::Converse(_) => "chat",
            CallBody::Invoke(_) => "invoke_model",
            CallBody::Agent(_) => "invoke_agent",
        };
        let cap = (max_tokens > 0).then(|| KeyValue::new("gen_ai.request.max_tokens", i64::from(max_tokens)));
        let attributes = [
            KeyValue::new("gen_ai.operation.name", operation),
            KeyValue::new("gen_ai.provider.name", "aws.bedrock"),
            KeyValue::new("gen_ai.request.model", Arc::clone(&lane.model_id)),
            KeyValue::new("cloud.region", Arc::clone(&lane.region)),
        ];
        let builder = open.tracer.span_builder(format!("{operation} {}", lane.model_id)).with_kind(SpanKind::Client);
        let builder = builder.with_attributes(attributes.into_iter().chain(cap));
        CallSpan(Some(open.tracer.build_with_context(builder, &open.process)))
    }

    /// Its end is on record.
    pub fn recorded(&self, row: &FinalRow) {
        let Some(open) = &self.0 else { return };
        let span = open.process.span();
        span.set_attribute(KeyValue::new("aquifer.status", row.ending.status.word()));
        if let Some(failure) = &row.ending.error {
            span.set_attribute(KeyValue::new("error.type", failure.class.word()));
            span.set_status(Status::error(failure.class.word()));
        }
    }

    /// This became of its message.
    pub fn end(self, disposition: &'static str) {
        let Some(open) = &self.0 else { return };
        open.process.span().set_attribute(KeyValue::new("aquifer.disposition", disposition));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Before the span it is a part of.
        *lock(&self.step) = None;
        self.process.span().end();
    }
}

/// The span of one call to the model.
#[derive(Debug)]
pub struct CallSpan(Option<Span>);

impl CallSpan {
    /// It was answered.
    pub fn answered(self, answer: &Answer) {
        let Some(mut span) = self.0 else { return };
        let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        let usage = &answer.usage;
        span.set_attribute(KeyValue::new("gen_ai.usage.input_tokens", count(usage.input_tokens)));
        span.set_attribute(KeyValue::new("gen_ai.usage.output_tokens", count(usage.output_tokens)));
        span.set_attribute(KeyValue::new("gen_ai.usage.cache_read.input_tokens", count(usage.cache_read_tokens)));
        span.set_attribute(KeyValue::new("gen_ai.usage.cache_creation.input_tokens", count(usage.cache_write_tokens)));
        if let Some(reason) = &answer.stop_reason {
            let reasons = Value::Array(Array::String(vec![StringValue::from(reason.clone())]));
            span.set_attribute(KeyValue::new("gen_ai.response.finish_reasons", reasons));
        }
    }

    /// It failed.
    pub fn failed(self, failure: &Failure) {
        let Some(mut span) = self.0 else { return };
        if let Some(id) = &failure.request_id {
            span.set_attribute(KeyValue::new("aws.request_id", id.clone()));
        }
        Self(Some(span)).cut_off(failure.class);
    }

    /// It came to nothing, for this reason.
    pub fn cut_off(self, class: Class) {
        let Some(mut span) = self.0 else { return };
        span.set_attribute(KeyValue::new("error.type", class.word()));
        span.set_status(Status::error(class.word()));
    }
}

fn of_job(key: &JobKey, model: &str) -> [KeyValue; 4] {
    [
        KeyValue::new("aquifer.tenant", key.tenant.to_string()),
        KeyValue::new("aquifer.batch", key.batch.to_string()),
        KeyValue::new("aquifer.job", key.id.to_string()),
        KeyValue::new("aquifer.model", model.to_owned()),
    ]
}

fn span_context(trace: &TraceContext) -> SpanContext {
    let state: Option<TraceState> = trace.tracestate().and_then(|state| state.parse().ok());
    let (id, parent) = (trace.trace().get().into(), trace.parent().get().into());
    SpanContext::new(id, parent, TraceFlags::new(trace.flags()), true, state.unwrap_or_default())
}

fn trace_context(span: &SpanContext) -> Option<TraceContext> {
    let trace = u128::from_be_bytes(span.trace_id().to_bytes()).try_into().ok()?;
    let parent = u64::from_be_bytes(span.span_id().to_bytes()).try_into().ok()?;
    Some(TraceContext::new(trace, parent, span.trace_flags().to_u8()).with_state(&span.trace_state().header()))
}
