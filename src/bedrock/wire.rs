//! How does a job's JSON pass the SDK unchanged, and the response come back as it was sent?
//!
//! By an interceptor for one call: the SDK makes the request for an empty input (path, headers), the interceptor puts
//! the job's bytes in its body before it is signed, and keeps the response before the SDK's own reading of it matters. What an
//! agent is asked has a form of its own, which the SDK writes; its answer comes as a stream, which is taken before the SDK reads it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextMut,
    BeforeTransmitInterceptorContextMut, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use serde_json::Value;

use super::{Client, connect, errors};
use crate::job::agent::AgentCall;
use crate::job::failure::{Class, Failure};
use crate::ports::{Billing, CallBody, CallFailure, LaneId};

/// A response, whatever it says.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
}

/// The body of a response.
#[derive(Debug)]
pub(super) enum Body {
    Json(Value),
    /// All of it arrived, but it is not JSON.
    Other,
    /// It broke off.
    Broken,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn json(&self) -> Option<&Value> {
        match &self.body {
            Body::Json(value) => Some(value),
            Body::Other | Body::Broken => None,
        }
    }

    pub(super) fn request_id(&self) -> Option<String> {
        let id = self.header("x-amzn-requestid").or_else(|| self.header("x-amz-request-id"));
        id.or_else(|| self.json()?.get("request_id")?.as_str()).map(str::to_owned)
    }

    /// A 2xx that names an error is one: services of this framework have been seen to answer 200 to an operation that
    /// they do not know.
    pub(super) fn is_error(&self) -> bool {
        !(200..300).contains(&self.status) || self.error_code().is_some()
    }

    /// The error type: header up to the first `:`, else `__type` of the body up to the last `#`.
    pub(super) fn error_code(&self) -> Option<&str> {
        let body = || {
            let body = self.json()?;
            let wrapped = || body.get("Output")?.get("__type");
            body.get("__type").or_else(wrapped)?.as_str()
        };
        let code = self.header("x-amzn-errortype").or_else(body)?;
        let code = code.rsplit('#').next().unwrap_or(code);
        let code = code.split(':').next().unwrap_or(code).trim();
        Some(code).filter(|code| !code.is_empty())
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Exchanged {
    pub(super) seen: Seen,
    /// All of the stream that an agent answers with; `None` if it broke off, or for what comes in no stream.
    pub(super) stream: Option<Bytes>,
}

/// What was asked, as a JSON text with which errors are compared, so that none of it is shown.
pub(super) fn told(body: &CallBody) -> Bytes {
    match body {
        CallBody::Converse(body) | CallBody::Invoke(body) => body.clone(),
        CallBody::Agent(call) => serde_json::to_vec(call).unwrap_or_default().into(),
    }
}

/// One HTTP request and its response; `Err` when there was none.
pub(super) async fn exchange(client: &Client, lane: &LaneId, body: &CallBody) -> Result<Exchanged, CallFailure> {
    let trace = Arc::new(Trace::default());
    let model_id = lane.model_id.as_ref();
    let unanswered = match body {
        CallBody::Converse(body) => {
            let swap = Swap { body: Some(body.clone()), trace: Arc::clone(&trace) };
            let sent = client.models.converse().model_id(model_id).customize().interceptor(swap).send().await;
            sent.err().map(|error| errors::unanswered(&error, trace.left()))
        }
        CallBody::Invoke(body) => {
            let swap = Swap { body: Some(body.clone()), trace: Arc::clone(&trace) };
            let json = "application/json";
            let invoke = client.models.invoke_model().model_id(model_id).content_type(json).accept(json);
            let sent = invoke.customize().interceptor(swap).send().await;
            sent.err().map(|error| errors::unanswered(&error, trace.left()))
        }
        CallBody::Agent(call) => ask_agent(client, call, &trace).await,
    };
    let stream = match trace.take_stream() {
        Some(stream) => ByteStream::new(stream).collect().await.ok().map(|all| all.into_bytes()),
        None => None,
    };
    match (trace.take(), unanswered) {
        (Some(seen), _) => Ok(Exchanged { seen, stream }),
        (None, Some(failure)) => Err(failure),
        (None, None) => Err(errors::lost()),
    }
}

async fn ask_agent(client: &Client, call: &AgentCall, trace: &Arc<Trace>) -> Option<CallFailure> {
    let ask = client
        .agents
        .invoke_agent()
        .agent_id(call.agent_id.as_str())
        .agent_alias_id(call.agent_alias_id.as_str())
        .set_session_id(call.session_id.as_ref().map(|session| session.as_str().to_owned()))
        .input_text(&call.input_text);
    let sent = ask.customize().interceptor(Swap { body: None, trace: Arc::clone(trace) }).send().await;
    let failure = errors::unanswered(&sent.err()?, trace.left());
    if failure.failure.class == Class::Credentials && connect::has_api_key() {
        // Models go on being called with it.
        let why =
            "a Bedrock API key calls models alone: agents need credentials of AWS beside AWS_BEARER_TOKEN_BEDROCK";
        let failure = Failure::new(Class::Denied, why);
        return Some(CallFailure { failure, billing: Billing::Nothing, retry_after: None });
    }
    Some(failure)
}

/// Whether a call got past credentials and signing: told of one that the SDK writes and reads by itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Left(Arc<AtomicBool>);

impl Left {
    pub(super) fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[dyn_dispatch_hint]
impl Intercept for Left {
    fn name(&self) -> &'static str {
        "aquifer left"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// What became of one call.
#[derive(Default)]
struct Trace {
    left: AtomicBool,
    stream: Mutex<Option<SdkBody>>,
    seen: Mutex<Option<Seen>>,
}

impl Trace {
    /// Did the request get past credentials and signing?
    fn left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    fn take_stream(&self) -> Option<SdkBody> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn take(&self) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

struct Swap {
    /// What is sent; `None` where the SDK writes it, and the answer comes as a stream.
    body: Option<Bytes>,
    trace: Arc<Trace>,
}

impl fmt::Debug for Swap {
    /// Never the body: the SDK may show its interceptors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swap").field("bytes", &self.body.as_ref().map(Bytes::len)).finish_non_exhaustive()
    }
}

#[dyn_dispatch_hint]
impl Intercept for Swap {
    fn name(&self) -> &'static str {
        "aquifer body"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(body) = &self.body {
            let request = context.request_mut();
            request.headers_mut().insert("content-length", body.len().to_string());
            *request.body_mut() = SdkBody::from(body.clone());
        }
        Ok(())
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.trace.left.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // An error comes whole, and is read like any other.
        if self.body.is_none() && context.response().status().is_success() {
            let stream = std::mem::replace(context.response_mut().body_mut(), SdkBody::empty());
            *self.trace.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        }
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *self.trace.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(keep(context.response()));
        Ok(())
    }
}

fn keep(response: &HttpResponse) -> Seen {
    let body = match response.body().bytes() {
        Some(bytes) => serde_json::from_slice(bytes).map_or(Body::Other, Body::Json),
        None => Body::Broken,
    };
    let headers = response.headers().iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    Seen { status: response.status().as_u16(), headers: headers.collect(), body }
}
