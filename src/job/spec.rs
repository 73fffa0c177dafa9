//! What is asked for? A job as every layer past intake knows it: complete, checked, with its identity.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::agent::AgentCall;
use super::document::Document;
use super::ident::{Digest, JobKey};
use super::ingest::DataSource;
use super::trace::TraceContext;
use super::units::Timestamp;

/// A job.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its identity.
    pub key: JobKey,
    /// A name from the configuration, or a Bedrock model or inference-profile id; of an agent, `agent/AGENTID/ALIASID`;
    /// empty where no model is asked.
    pub model: String,
    /// What the model is sent.
    pub request: Request,
    /// The cap on output tokens as the job wrote it.
    pub max_tokens: MaxTokens,
    /// Whether another model may answer when this one is overloaded.
    pub fallback: bool,
    /// After this it is not worth an answer.
    pub deadline: Option<Timestamp>,
    /// Which of the waiting goes first.
    pub priority: Priority,
    /// Regions it may be sent to; `None` means any configured one.
    pub residency: Option<Vec<String>>,
    /// Who waits for its end in a Step Functions workflow.
    pub callback: Option<TaskToken>,
    /// Echoed in the result.
    pub metadata: Map<String, Value>,
    /// To which trace it belongs. It travels beside the message, not in it, and is no content.
    pub trace: Option<TraceContext>,
}

/// Names a task of a Step Functions workflow that waits to be answered. Whoever has it can answer, so it is never shown.
#[derive(Clone, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct TaskToken(String);

impl TaskToken {
    /// The longest, in characters (source: the Step Functions API, `SendTaskSuccess`).
    pub const LONGEST: usize = 2_048;

    /// `None` if it is empty or longer than [`TaskToken::LONGEST`].
    pub fn new(token: &str) -> Option<Self> {
        (!token.is_empty() && token.chars().count() <= Self::LONGEST).then(|| Self(token.to_owned()))
    }

    /// As the service gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TaskToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskToken(..)")
    }
}

/// The cap on output tokens, as a job writes it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MaxTokens {
    /// Not at all: what the request itself says holds, else the model's default.
    #[default]
    Unsaid,
    /// `"auto"`: the same, and less is reserved where the answers of the batch have shown that less is enough.
    Auto,
    /// A number.
    Cap(NonZeroU32),
}

impl MaxTokens {
    /// A cap of so many tokens; unsaid for zero.
    pub fn of(tokens: u32) -> Self {
        NonZeroU32::new(tokens).map_or(Self::Unsaid, Self::Cap)
    }

    /// Whether the job does not say it.
    pub fn is_unsaid(&self) -> bool {
        *self == Self::Unsaid
    }
}

impl Serialize for MaxTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unsaid => serializer.serialize_none(),
            Self::Auto => serializer.serialize_str("auto"),
            Self::Cap(tokens) => serializer.serialize_u32(tokens.get()),
        }
    }
}

/// The kinds of request.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// One user message.
    Prompt(String),
    /// A Converse request without `modelId`.
    Converse(Map<String, Value>),
    /// A raw `InvokeModel` body.
    Invoke(Map<String, Value>),
    /// A turn of an agent.
    Agent(AgentCall),
    /// A data source that is to be brought up to date: no model is asked.
    Ingest(DataSource),
    /// A file, of which each chunk becomes a request of its own: never sent itself.
    Document(Box<Document>),
}

/// 0 goes first, 9 last.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Priority(u8);

impl Priority {
    /// `None` above 9.
    pub fn new(level: u64) -> Option<Self> {
        u8::try_from(level).ok().filter(|level| *level <= 9).map(Self)
    }

    /// 0 to 9.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(5)
    }
}

impl Job {
    /// The content digest: SHA-256 over canonical JSON (sorted keys, no white space) of model name, request and
    /// `max_tokens` as written. Priority, deadline, residency, callback and metadata are not content.
    pub fn digest(&self) -> Digest {
        content_digest(&self.model, &self.request, self.max_tokens)
    }

    /// The job as a queue message: one JSON object in the contract's own form, so that it parses back to
    /// the same job wherever it is read.
    pub fn to_message(&self) -> String {
        let (mut prompt, mut converse, mut invoke) = (None, None, None);
        let (mut agent, mut ingest, mut document) = (None, None, None);
        match &self.request {
            Request::Prompt(text) => prompt = Some(text.as_str()),
            Request::Converse(request) => converse = Some(request),
            Request::Invoke(body) => invoke = Some(body),
            Request::Agent(call) => agent = Some(call),
            Request::Ingest(source) => ingest = Some(source),
            Request::Document(of) => document = Some(&**of),
        }
        let message = Message {
            id: self.key.id.as_str(),
            batch: self.key.batch.as_str(),
            tenant: self.key.tenant.as_str(),
            model: Some(self.model.as_str()).filter(|model| !model.is_empty()),
            prompt,
            converse,
            invoke,
            agent,
            ingest,
            document,
            max_tokens: self.max_tokens,
            fallback: (!self.fallback).then_some(false),
            deadline: self.deadline.map(|deadline| deadline.to_string()),
            priority: (self.priority != Priority::default()).then_some(self.priority),
            residency: self.residency.as_deref(),
            callback: self.callback.as_ref().map(|task_token| Callback { task_token }),
            metadata: (!self.metadata.is_empty()).then_some(&self.metadata),
        };
        // Maps with text keys and plain values: there is nothing in here that JSON cannot say.
        serde_json::to_string(&message).unwrap_or_default()
    }
}

/// See [`Job::digest`]; apart, because a line without an id is named by its content.
pub fn content_digest(model: &str, request: &Request, max_tokens: MaxTokens) -> Digest {
    let request = match request {
        Request::Prompt(text) => serde_json::json!({ "prompt": text }),
        Request::Converse(request) => serde_json::json!({ "converse": request }),
        Request::Invoke(body) => serde_json::json!({ "invoke": body }),
        Request::Agent(call) => serde_json::json!({ "agent": call }),
        Request::Ingest(source) => serde_json::json!({ "ingest": source }),
        Request::Document(document) => serde_json::json!({ "document": document }),
    };
    let content = serde_json::json!({ "max_tokens": max_tokens, "model": model, "request": request });
    Digest::of(content.to_string().as_bytes())
}

#[derive(Serialize)]
struct Message<'a> {
    id: &'a str,
    batch: &'a str,
    tenant: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    converse: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invoke: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a AgentCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingest: Option<&'a DataSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<&'a Document>,
    #[serde(skip_serializing_if = "MaxTokens::is_unsaid")]
    max_tokens: MaxTokens,
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<Priority>,
    #[serde(skip_serializing_if = "Option::is_none")]
    residency: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback: Option<Callback<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Map<String, Value>>,
}

#[derive(Serialize)]
struct Callback<'a> {
    task_token: &'a TaskToken,
}
