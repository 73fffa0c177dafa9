//! What is asked for, and how many tokens is it? Reads the bodies of the operations as the service does.
//!
//! Tokens follow a rule of the simulator's own: a quarter of the bytes of all text (UTF-8; system, messages and tools
//! taken together), rounded up; an image is 1,600. It is no model's tokenizer, on purpose: whoever estimates must learn
//! from `usage`, as with the real service. Whoever needs a prompt of exactly n tokens writes one of 4n bytes.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::cache::Checkpoint;
use super::errors::Refused;

/// Whose body format an `InvokeModel` call has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Family {
    Anthropic,
    Nova,
    TitanEmbedding,
}

/// What is done with the model.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Operation {
    Converse,
    ConverseStream,
    Invoke(Family),
    InvokeAgent,
}

impl Operation {
    /// Whether the answer comes as a stream of events, in which errors can come too.
    pub(super) fn is_streaming(self) -> bool {
        match self {
            Self::ConverseStream | Self::InvokeAgent => true,
            Self::Converse | Self::Invoke(_) => false,
        }
    }
}

/// A request, read and found valid.
#[derive(Debug, PartialEq)]
pub(super) struct Ask {
    /// Of model id and canonical body: the order of keys is no content.
    pub(super) digest: u64,
    /// Cached or not.
    pub(super) input_tokens: u64,
    pub(super) checkpoints: Vec<Checkpoint>,
    pub(super) max_tokens: Option<u64>,
    pub(super) stop_sequences: Vec<String>,
    /// How long an answer the last marker in the prompt asks for.
    pub(super) answer_tokens: Option<u64>,
    /// For an embedding: how many dimensions, and whether of length one.
    pub(super) embedding: Option<(usize, bool)>,
}

/// The id without what an ARN puts before it.
pub(super) fn resource(id: &str) -> &str {
    if id.starts_with("arn:") { id.rsplit_once('/').map_or(id, |(_, name)| name) } else { id }
}

/// The id of the foundation model behind an id, an inference profile or an ARN.
pub(super) fn foundation(id: &str) -> &str {
    const PROFILES: [&str; 7] = ["us", "eu", "apac", "au", "jp", "us-gov", "global"];
    let name = resource(id);
    name.split_once('.').filter(|(prefix, _)| PROFILES.contains(prefix)).map_or(name, |(_, model)| model)
}

/// Whose bodies this model takes; `None` for those this simulator has no format for.
pub(super) fn family(id: &str) -> Option<Family> {
    let model = foundation(id);
    if model.starts_with("anthropic.") {
        Some(Family::Anthropic)
    } else if model.starts_with("amazon.nova") {
        Some(Family::Nova)
    } else if model.starts_with("amazon.titan-embed-text") {
        Some(Family::TitanEmbedding)
    } else {
        None
    }
}

/// Reads a body.
///
/// # Errors
/// What the service would answer.
pub(super) fn read(id: &str, operation: Operation, body: &[u8]) -> Result<Ask, Refused> {
    let body: Value = parse(body)?;
    let mut meter = Meter::new();
    let (max_tokens, stop_sequences, embedding) = match operation {
        Operation::Converse | Operation::ConverseStream => {
            converse(&mut meter, &body)?;
            let config = &body["inferenceConfig"];
            let max_tokens = max_tokens(config, "inferenceConfig.maxTokens", &["maxTokens"])?;
            (max_tokens, texts(&config["stopSequences"]), None)
        }
        Operation::Invoke(Family::Anthropic) => {
            anthropic(&mut meter, &body)?;
            (max_tokens(&body, "max_tokens", &["max_tokens"])?, texts(&body["stop_sequences"]), None)
        }
        Operation::Invoke(Family::Nova) => {
            conversation(&mut meter, &body)?;
            let config = &body["inferenceConfig"];
            let max_tokens = max_tokens(config, "inferenceConfig.maxTokens", &["maxTokens", "max_new_tokens"])?;
            (max_tokens, texts(&config["stopSequences"]), None)
        }
        Operation::Invoke(Family::TitanEmbedding) => (None, Vec::new(), Some(titan(&mut meter, &body)?)),
        Operation::InvokeAgent => {
            let asked = body["inputText"].as_str().filter(|text| !text.is_empty());
            meter.text(asked.ok_or_else(|| Refused::invalid("inputText must not be empty."))?);
            (None, Vec::new(), None)
        }
    };
    if meter.points.len() > 4 {
        let found = meter.points.len();
        return Err(Refused::invalid(format!("A maximum of 4 cache points may be provided. Found {found}.")));
    }
    // Serializing sorts the keys, which is what makes the digest one of content.
    let digest = digest(Sha256::new().chain_update(id).chain_update([0]).chain_update(body.to_string()));
    let input_tokens = tokens(meter.bytes);
    let Meter { points: checkpoints, answer_tokens, .. } = meter;
    Ok(Ask { digest, input_tokens, checkpoints, max_tokens, stop_sequences, answer_tokens, embedding })
}

/// The input tokens that a `CountTokens` body asks about.
///
/// # Errors
/// What the service would answer.
pub(super) fn count_tokens(id: &str, body: &[u8]) -> Result<u64, Refused> {
    let body = parse(body)?;
    let input = &body["input"];
    if let Some(request) = input.get("converse") {
        return read(id, Operation::Converse, request.to_string().as_bytes()).map(|ask| ask.input_tokens);
    }
    let blob = input["invokeModel"]["body"].as_str().ok_or_else(malformed)?;
    let body = STANDARD.decode(blob).map_err(|_| malformed())?;
    let family = family(id).ok_or_else(no_format)?;
    read(id, Operation::Invoke(family), &body).map(|ask| ask.input_tokens)
}

/// For `InvokeModel` on a model whose body format is not among ours.
pub(super) fn no_format() -> Refused {
    Refused::invalid("The simulator has no InvokeModel format for this model. Use Converse.")
}

/// For a body that is no JSON object.
pub(super) fn malformed() -> Refused {
    Refused::invalid("Malformed input request, please reformat your input and try again.")
}

fn parse(body: &[u8]) -> Result<Value, Refused> {
    serde_json::from_slice(body).ok().filter(Value::is_object).ok_or_else(malformed)
}

fn converse(meter: &mut Meter, body: &Value) -> Result<(), Refused> {
    // The order in which a prompt is built, hence in which its prefixes are cached.
    for tool in items(&body["toolConfig"]["tools"]) {
        meter.block(tool);
    }
    conversation(meter, body)
}

/// Converse and Nova alike: system blocks, then messages of blocks.
fn conversation(meter: &mut Meter, body: &Value) -> Result<(), Refused> {
    for block in items(&body["system"]) {
        meter.block(block);
    }
    for (number, message) in messages(body)?.iter().enumerate() {
        let blocks = items(&message["content"]);
        if blocks.is_empty() {
            return Err(Refused::invalid(format!(
                "The content field in the Message object at messages.{number} is empty. Add a ContentBlock object to the content field and try again."
            )));
        }
        for (place, block) in blocks.iter().enumerate() {
            if block["text"].as_str().is_some_and(|text| text.trim().is_empty()) {
                return Err(Refused::invalid(format!(
                    "The text field in the ContentBlock object at messages.{number}.content.{place} is blank. Add text to the text field, and try again."
                )));
            }
            meter.block(block);
        }
    }
    Ok(())
}

fn anthropic(meter: &mut Meter, body: &Value) -> Result<(), Refused> {
    for key in ["anthropic_version", "max_tokens"] {
        if body[key].is_null() {
            return Err(Refused::invalid(format!("{key}: Field required")));
        }
    }
    for tool in items(&body["tools"]) {
        meter.block(tool);
    }
    if let Some(text) = body["system"].as_str() {
        meter.text(text);
    }
    for block in items(&body["system"]) {
        meter.block(block);
    }
    for (number, message) in messages(body)?.iter().enumerate() {
        let content = &message["content"];
        let empty = content.as_str().map_or_else(|| items(content).is_empty(), |text| text.trim().is_empty());
        if empty {
            return Err(Refused::invalid(format!("messages.{number}: all messages must have non-empty content")));
        }
        if let Some(text) = content.as_str() {
            meter.text(text);
        }
        for block in items(content) {
            meter.block(block);
        }
    }
    Ok(())
}

fn titan(meter: &mut Meter, body: &Value) -> Result<(usize, bool), Refused> {
    let text = body["inputText"].as_str().filter(|text| !text.is_empty()).ok_or_else(malformed)?;
    meter.text(text);
    let dimensions = match &body["dimensions"] {
        Value::Null => 1_024,
        asked => match asked.as_u64() {
            Some(256) => 256,
            Some(512) => 512,
            Some(1_024) => 1_024,
            Some(_) | None => return Err(malformed()),
        },
    };
    Ok((dimensions, body["normalize"].as_bool().unwrap_or(true)))
}

fn messages(body: &Value) -> Result<&[Value], Refused> {
    let messages = items(&body["messages"]);
    if messages.first().is_none_or(|first| first["role"] != "user") {
        return Err(Refused::invalid(
            "A conversation must start with a user message. Try again with a conversation that starts with a user message.",
        ));
    }
    if let Some(odd) = messages.iter().find(|message| message["role"] != "user" && message["role"] != "assistant") {
        return Err(Refused::invalid(format!(
            "1 validation error detected: Value {} at 'messages.member.role' failed to satisfy constraint: Member must satisfy enum value set: [user, assistant]",
            odd["role"]
        )));
    }
    Ok(messages)
}

fn max_tokens(config: &Value, name: &str, keys: &[&str]) -> Result<Option<u64>, Refused> {
    let Some(value) = keys.iter().find_map(|key| config.get(key)).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    value.as_u64().filter(|count| *count > 0).map(Some).ok_or_else(|| {
        Refused::invalid(format!(
            "1 validation error detected: Value at '{name}' failed to satisfy constraint: Member must have value greater than or equal to 1"
        ))
    })
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

fn texts(list: &Value) -> Vec<String> {
    items(list).iter().filter_map(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

fn tokens(bytes: u64) -> u64 {
    bytes.div_ceil(4)
}

fn digest(hash: Sha256) -> u64 {
    hash.finalize().iter().take(8).fold(0, |digest, byte| digest << 8 | u64::from(*byte))
}

/// Counts a prompt from its beginning, and notes where its cache points stand.
struct Meter {
    bytes: u64,
    prefix: Sha256,
    points: Vec<Checkpoint>,
    answer_tokens: Option<u64>,
}

/// How long the answer shall be, in tokens: the last `[answer: 123 tokens]` in a text. Above a million it is none.
fn marked(text: &str) -> Option<u64> {
    let mut before = text.as_bytes();
    while let Some(at) = memmem::rfind(before, MARKER) {
        let number = text.get(at + MARKER.len()..)?.split_once(" tokens]").and_then(|(number, _)| number.parse().ok());
        if let Some(tokens) = number.filter(|tokens| (1..=1_000_000).contains(tokens)) {
            return Some(tokens);
        }
        before = &before[..at];
    }
    None
}

const MARKER: &[u8] = b"[answer: ";

/// An image counts like this much text, whatever its size.
const IMAGE_BYTES: u64 = 6_400;
const DEFAULT_TTL: Duration = Duration::from_secs(300);

impl Meter {
    fn new() -> Self {
        Self { bytes: 0, prefix: Sha256::new(), points: Vec::new(), answer_tokens: None }
    }

    fn text(&mut self, text: &str) {
        self.answer_tokens = marked(text).or(self.answer_tokens);
        self.add(text, u64::try_from(text.len()).unwrap_or(u64::MAX));
    }

    fn block(&mut self, block: &Value) {
        if let Some(point) = block.get("cachePoint") {
            self.point(&point["ttl"]);
        } else if let Some(text) = block["text"].as_str() {
            self.text(text);
        } else if block.get("image").is_some() || block["type"] == "image" {
            self.add(&block.to_string(), IMAGE_BYTES);
        } else {
            self.text(&block.to_string());
        }
        // Anthropic's own form marks the block itself.
        if let Some(control) = block.get("cache_control") {
            self.point(&control["ttl"]);
        }
    }

    fn add(&mut self, content: &str, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.prefix.update(content);
        self.prefix.update([0]);
    }

    fn point(&mut self, ttl: &Value) {
        let ttl = if ttl == "1h" { Duration::from_secs(3_600) } else { DEFAULT_TTL };
        self.points.push(Checkpoint { digest: digest(self.prefix.clone()), tokens: tokens(self.bytes), ttl });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "us.anthropic.claude-haiku-4-5-20251001-v1:0";

    fn asked(operation: Operation, body: &Value) -> Result<Ask, Refused> {
        read(ID, operation, body.to_string().as_bytes())
    }

    fn hello() -> Value {
        json!({ "role": "user", "content": [{ "text": "Hello, you." }] })
    }

    #[test]
    fn profiles_and_arns_lead_to_the_foundation_model() {
        for id in [
            "anthropic.claude-haiku-4-5-20251001-v1:0",
            ID,
            "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-haiku-4-5-20251001-v1:0",
            "arn:aws:bedrock:us-east-1:111122223333:inference-profile/us.anthropic.claude-haiku-4-5-20251001-v1:0",
        ] {
            assert_eq!(foundation(id), "anthropic.claude-haiku-4-5-20251001-v1:0", "{id}");
        }
        assert_eq!(family("global.amazon.nova-2-lite-v1:0"), Some(Family::Nova));
        assert_eq!(family("amazon.titan-embed-text-v2:0"), Some(Family::TitanEmbedding));
        assert_eq!(family("us.meta.llama3-3-70b-instruct-v1:0"), None);
    }

    #[test]
    fn tokens_are_a_quarter_of_the_text_rounded_up_over_system_and_messages() {
        let body = json!({ "system": [{ "text": "Be brief." }], "messages": [hello()] });
        assert_eq!(asked(Operation::Converse, &body).unwrap().input_tokens, 5);
        let body = json!({ "anthropic_version": "bedrock-2023-05-31", "max_tokens": 9,
            "system": "Be brief.", "messages": [{ "role": "user", "content": "Hello, you." }] });
        let ask = asked(Operation::Invoke(Family::Anthropic), &body).unwrap();
        assert_eq!((ask.input_tokens, ask.max_tokens), (5, Some(9)));
    }

    #[test]
    fn the_last_marker_that_reads_as_one_says_how_long_the_answer_shall_be() {
        for (text, expected) in [
            ("Hello.", None),
            ("[answer: 120 tokens]", Some(120)),
            ("Say it [answer: 7 tokens] or rather [answer: 9 tokens] so.", Some(9)),
            ("[answer: 7 tokens] [answer: many tokens]", Some(7)),
            ("[answer: 0 tokens][answer: 1000001 tokens][answer: -1 tokens][answer: 5 words]", None),
            ("é[answer: ", None),
        ] {
            assert_eq!(marked(text), expected, "{text}");
        }
        let body = json!({ "system": [{ "text": "[answer: 3 tokens]" }], "messages": [hello()] });
        assert_eq!(asked(Operation::Converse, &body).unwrap().answer_tokens, Some(3), "wherever it stands");
    }

    #[test]
    fn the_digest_is_of_content_not_of_the_order_of_keys() {
        let read = |text: &str| read(ID, Operation::Converse, text.as_bytes()).unwrap().digest;
        let one = read(r#"{"messages":[{"role":"user","content":[{"text":"x"}]}],"a":1}"#);
        assert_eq!(one, read(r#"{ "a":1, "messages":[{"content":[{"text":"x"}],"role":"user"}]}"#));
        assert_ne!(one, read(r#"{"messages":[{"role":"user","content":[{"text":"y"}]}],"a":1}"#));
    }

    #[test]
    fn cache_points_divide_the_prompt_in_its_own_order() {
        let body = json!({
            "system": [{ "text": "a".repeat(400) }, { "cachePoint": { "type": "default", "ttl": "1h" } }],
            "messages": [{ "role": "user", "content": [
                { "text": "b".repeat(40) }, { "cachePoint": { "type": "default" } }, { "text": "c".repeat(4) }] }],
        });
        let ask = asked(Operation::Converse, &body).unwrap();
        let points: Vec<_> = ask.checkpoints.iter().map(|point| (point.tokens, point.ttl.as_secs())).collect();
        assert_eq!((points, ask.input_tokens), (vec![(100, 3_600), (110, 300)], 111));
    }

    #[test]
    fn what_the_service_finds_invalid_is_invalid_here() {
        let many: Vec<_> = (0..5).map(|_| json!({ "cachePoint": { "type": "default" } })).collect();
        for (body, says) in [
            (json!({}), "must start with a user message"),
            (json!({ "messages": [] }), "must start with a user message"),
            (json!({ "messages": [{ "role": "assistant", "content": [{ "text": "x" }] }] }), "must start with"),
            (json!({ "messages": [{ "role": "user", "content": [] }] }), "messages.0 is empty"),
            (
                json!({ "messages": [{ "role": "user", "content": [{ "text": " " }] }] }),
                "messages.0.content.0 is blank",
            ),
            (json!({ "messages": [hello(), { "role": "system", "content": [] }] }), "enum value set"),
            (json!({ "messages": [hello()], "inferenceConfig": { "maxTokens": 0 } }), "inferenceConfig.maxTokens"),
            (json!({ "messages": [hello()], "system": many }), "maximum of 4"),
        ] {
            let refused = asked(Operation::Converse, &body).unwrap_err();
            assert_eq!((refused.name, refused.status), ("ValidationException", 400), "{body}");
            assert!(refused.message.contains(says), "{body}: {}", refused.message);
        }
        for body in ["", "{", "[]", "7", "\u{feff}{}"] {
            assert_eq!(read(ID, Operation::Converse, body.as_bytes()), Err(malformed()), "{body:?}");
        }
        let unversioned = json!({ "messages": [hello()], "max_tokens": 1 });
        let refused = asked(Operation::Invoke(Family::Anthropic), &unversioned).unwrap_err();
        assert_eq!(refused.message, "anthropic_version: Field required");
        let odd = json!({ "inputText": "x", "dimensions": 300 });
        assert_eq!(asked(Operation::Invoke(Family::TitanEmbedding), &odd), Err(malformed()));
    }
}
