//! What is sent for a job, how long may its answer be, and how much text goes in?
//!
//! A raw `InvokeModel` body is its model family's own; the family shows in the body, since a profile's ARN does
//! not name it. What is not recognised is sent as it is.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};

use crate::job::agent::AgentCall;
use crate::job::spec::{Job, MaxTokens, Request};

/// What an image counts in [`text_bytes`]: about 1,600 tokens, the most that Claude charges for one, at four
/// characters a token.
pub const BYTES_PER_IMAGE: u64 = 6_400;

/// What a document that is not plain text (PDF, Word, Excel) counts in [`text_bytes`]: about 20 pages of 2,000
/// characters.
pub const BYTES_PER_DOCUMENT: u64 = 40_000;

/// What a video or a sound counts in [`text_bytes`]: about a minute of Nova's sampling, 10,000 tokens.
pub const BYTES_PER_MEDIA: u64 = 40_000;

/// Which operation is called, and the JSON that is sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WireBody {
    /// A Converse request without `modelId`.
    Converse(Vec<u8>),
    /// An `InvokeModel` body.
    Invoke(Vec<u8>),
    /// An `InvokeAgent` request, with its session.
    Agent(AgentCall),
}

/// The cap on output tokens that the job itself sets, if any: its `max_tokens` (`written`) where that is a number, else
/// `inferenceConfig.maxTokens`, else the field that its family of `invoke` body has for it. `None` means: the
/// model's default from the configuration.
pub fn output_cap(request: &Request, written: MaxTokens) -> Option<u32> {
    let stated = || match request {
        Request::Prompt(_) | Request::Agent(_) | Request::Ingest(_) | Request::Document(_) => None,
        Request::Converse(request) => request.get("inferenceConfig").and_then(|config| config.get("maxTokens")),
        Request::Invoke(body) => cap_field(body).and_then(|field| field.get(body)),
    };
    match written {
        MaxTokens::Cap(cap) => Some(cap.get()),
        MaxTokens::Unsaid | MaxTokens::Auto => stated().and_then(tokens),
    }
}

/// Whether [`wire_body`] can set a cap there: it is a prompt, Converse, or an `invoke` body whose field is known.
pub fn has_place_for_cap(request: &Request) -> bool {
    match request {
        Request::Prompt(_) | Request::Converse(_) | Request::Document(_) => true,
        Request::Invoke(body) => cap_field(body).is_some(),
        // How long its models' answers may be is said where the agent is made.
        Request::Agent(_) | Request::Ingest(_) => false,
    }
}

/// How many tokens the model may think before it answers, where the request says so; they are output, and the service
/// refuses a cap that is not above them.
pub fn thinking_budget(request: &Request) -> Option<u32> {
    let fields = match request {
        Request::Prompt(_) | Request::Agent(_) | Request::Ingest(_) | Request::Document(_) => return None,
        Request::Converse(request) => request.get("additionalModelRequestFields")?.as_object()?,
        Request::Invoke(body) => body,
    };
    // The older name stands in bodies that were written for older models.
    let thinking = fields.get("thinking").or_else(|| fields.get("reasoning_config"))?;
    thinking.get("budget_tokens").and_then(tokens)
}

/// Whether the answer is made of generated tokens. `false` for what is plainly an embedding, a ranking or an
/// image: nothing needs to be reserved for its output. `true` for a body that is not recognised, where it is the
/// safe side, although no cap can be inserted there.
pub fn takes_output_cap(request: &Request) -> bool {
    match request {
        Request::Prompt(_) | Request::Converse(_) | Request::Document(_) => true,
        Request::Invoke(body) => !is_without_output(body),
        // The tokens that its models make are charged to their own quotas, and nobody tells us of them.
        Request::Agent(_) | Request::Ingest(_) => false,
    }
}

/// The JSON that is sent: the job's request, with the cap where its form has a known place for one.
pub fn wire_body(job: &Job, cap: u32) -> WireBody {
    match &job.request {
        Request::Prompt(text) => WireBody::Converse(to_json(&json!({
            "messages": [{ "role": "user", "content": [{ "text": text }] }],
            "inferenceConfig": { "maxTokens": cap },
        }))),
        Request::Agent(call) => WireBody::Agent(call.within_session_of(&job.key)),
        // It is its chunks that are sent, and an ingestion is asked of no model.
        Request::Document(_) | Request::Ingest(_) => WireBody::Converse(to_json(&json!({ "messages": [] }))),
        Request::Converse(request) => {
            let field = CapField { section: Some("inferenceConfig"), key: "maxTokens" };
            WireBody::Converse(field.set(request, cap))
        }
        Request::Invoke(body) => WireBody::Invoke(match cap_field(body) {
            Some(field) => field.set(body, cap),
            None => to_json(body),
        }),
    }
}

/// How many bytes of text the model will read, for the first guess at its tokens. Images, documents and media
/// count as [`BYTES_PER_IMAGE`], [`BYTES_PER_DOCUMENT`] and [`BYTES_PER_MEDIA`]; tools and schemas as their JSON.
pub fn text_bytes(request: &Request) -> u64 {
    match request {
        Request::Prompt(text) => bytes(text),
        // Nothing is known of it before it is read; and of an agent, not even afterwards.
        Request::Document(_) | Request::Agent(_) | Request::Ingest(_) => 0,
        Request::Converse(request) | Request::Invoke(request) => bytes_of_fields(request),
    }
}

/// A whole number of tokens, at least 1.
fn tokens(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|tokens| u32::try_from(tokens).ok()).filter(|tokens| *tokens > 0)
}

/// Where a body says how long the answer may be.
#[derive(Clone, Copy)]
struct CapField {
    section: Option<&'static str>,
    key: &'static str,
}

impl CapField {
    const fn top(key: &'static str) -> Self {
        Self { section: None, key }
    }

    fn get(self, body: &Map<String, Value>) -> Option<&Value> {
        match self.section {
            None => body.get(self.key),
            Some(section) => body.get(section).and_then(|section| section.get(self.key)),
        }
    }

    fn set(self, body: &Map<String, Value>, cap: u32) -> Vec<u8> {
        match self.section {
            None => to_json(&With { body, key: self.key, value: json!(cap) }),
            Some(section) => {
                let mut inner = body.get(section).and_then(Value::as_object).cloned().unwrap_or_default();
                inner.insert(self.key.to_owned(), json!(cap));
                to_json(&With { body, key: section, value: Value::Object(inner) })
            }
        }
    }
}

fn is_without_output(body: &Map<String, Value>) -> bool {
    const SIGNS: [&str; 9] = [
        "taskType",        // Amazon images, Nova embeddings
        "texts",           // Cohere embeddings
        "input_type",      // likewise
        "embeddingTypes",  // Titan embeddings
        "inputImage",      // Titan multimodal embeddings
        "embeddingConfig", // likewise
        "query",           // rankings
        "text_prompts",    // Stability images
        "inputType",       // TwelveLabs embeddings
    ];
    let is_titan_embedding = body.contains_key("inputText") && !body.contains_key("textGenerationConfig");
    is_titan_embedding || SIGNS.iter().any(|key| body.contains_key(*key))
}

/// By what the body has: a field that is there is the field; Anthropic's and Nova's bodies are known without it.
fn cap_field(body: &Map<String, Value>) -> Option<CapField> {
    const KNOWN: [CapField; 6] = [
        CapField { section: Some("inferenceConfig"), key: "max_new_tokens" }, // Nova
        CapField { section: Some("inferenceConfig"), key: "maxTokens" },      // Nova
        CapField { section: Some("textGenerationConfig"), key: "maxTokenCount" }, // Titan text
        CapField::top("max_gen_len"),                                         // Llama
        CapField::top("max_completion_tokens"),                               // OpenAI
        CapField::top("max_tokens"),                                          // Anthropic, Mistral, Cohere, DeepSeek
    ];
    // Cohere's embeddings have a `max_tokens` too, which cuts their input.
    if is_without_output(body) {
        return None;
    }
    if let Some(field) = KNOWN.into_iter().find(|field| field.get(body).is_some()) {
        return Some(field);
    }
    let is_nova = body.contains_key("schemaVersion") && body.contains_key("messages");
    if body.contains_key("anthropic_version") {
        Some(CapField::top("max_tokens"))
    } else {
        is_nova.then_some(CapField { section: Some("inferenceConfig"), key: "maxTokens" })
    }
}

/// A body with one field replaced, without a copy of the rest: requests carry images.
struct With<'a> {
    body: &'a Map<String, Value>,
    key: &'static str,
    value: Value,
}

impl Serialize for With<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in self.body.iter().filter(|(key, _)| *key != self.key) {
            map.serialize_entry(key, value)?;
        }
        map.serialize_entry(self.key, &self.value)?;
        map.end()
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    // Maps with text keys and plain values: there is nothing in here that JSON cannot say.
    serde_json::to_vec(value).unwrap_or_default()
}

fn bytes(text: &str) -> u64 {
    text.len() as u64
}

fn bytes_of_fields(fields: &Map<String, Value>) -> u64 {
    fields.iter().map(|(key, value)| bytes_of_field(key, value)).sum()
}

fn chars_of(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => bytes(text),
        Value::Array(items) => items.iter().map(chars_of).sum(),
        Value::Object(fields) => match fields.get("type").and_then(Value::as_str) {
            Some("image" | "image_url") => BYTES_PER_IMAGE,
            Some("document") => bytes_of_document(value),
            Some(_) | None => bytes_of_fields(fields),
        },
    }
}

fn bytes_of_field(key: &str, value: &Value) -> u64 {
    match key {
        // Said to the service, not to the model.
        "role"
        | "type"
        | "id"
        | "format"
        | "toolUseId"
        | "tool_use_id"
        | "status"
        | "cachePoint"
        | "cache_control"
        | "signature"
        | "anthropic_version"
        | "anthropic_beta"
        | "schemaVersion"
        | "inferenceConfig"
        | "textGenerationConfig"
        | "additionalModelRequestFields"
        | "additionalModelResponseFieldPaths"
        | "requestMetadata"
        | "performanceConfig"
        | "serviceTier"
        | "guardrailConfig"
        | "metadata"
        | "toolChoice"
        | "tool_choice"
        | "stop"
        | "stop_sequences"
        | "model"
        | "input_type"
        | "truncate"
        | "embedding_types"
        | "embeddingTypes" => 0,
        "image" | "inputImage" => BYTES_PER_IMAGE,
        "images" => value.as_array().map_or(1, |images| images.len() as u64).saturating_mul(BYTES_PER_IMAGE),
        "video" | "audio" => BYTES_PER_MEDIA,
        "document" => bytes_of_document(value),
        "toolConfig" | "tools" | "input" | "json" | "outputConfig" | "response_format" if !value.is_string() => {
            bytes(&value.to_string())
        }
        _ => chars_of(value),
    }
}

/// Plain text counts as what it is, in either vendor's form; what must be unpacked counts as a constant.
fn bytes_of_document(document: &Value) -> u64 {
    let source = document.get("source");
    let of = |key: &str| source.and_then(|source| source.get(key)).and_then(Value::as_str);
    if let Some(text) = of("text") {
        return bytes(text);
    }
    let is_plain = document
        .get("format")
        .and_then(Value::as_str)
        .is_some_and(|format| matches!(format, "txt" | "md" | "html" | "csv"))
        || of("media_type").is_some_and(|kind| kind.starts_with("text/"));
    match of("bytes").or_else(|| of("data")) {
        Some(base64) if is_plain && document.get("format").is_some() => base64.len() as u64 / 4 * 3,
        Some(text) if is_plain => bytes(text),
        _ => BYTES_PER_DOCUMENT,
    }
}
