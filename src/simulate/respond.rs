//! How does an answer look on the wire? One body format an operation and family, and the frames of a stream.

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::Answer;
use super::ledger::Split;
use super::request::Family;

/// The answer of Converse.
pub(super) fn converse(answer: &Answer, split: Split, latency_ms: u64) -> Vec<u8> {
    let body = Converse {
        output: Output { message: AssistantMessage { role: "assistant", content: blocks(answer) } },
        stop_reason: answer.stop.word(),
        usage: usage(answer, split),
        metrics: Metrics { latency_ms },
    };
    serde_json::to_vec(&body).unwrap_or_default()
}

/// The answer of InvokeModel.
pub(super) fn invoke(family: Family, id: &str, answer: &Answer, split: Split, digest: u64) -> Vec<u8> {
    let body = match family {
        Family::Anthropic => {
            let reasoning = answer.reasoning.iter();
            let reasoning =
                reasoning.map(|text| json!({ "type": "thinking", "thinking": text, "signature": SIGNATURE }));
            let text = answer.text.iter().map(|text| json!({ "type": "text", "text": text }));
            json!({
                "id": format!("msg_bdrk_{digest:016x}"), "type": "message", "role": "assistant",
                "model": id.trim_start_matches("anthropic."),
                "content": reasoning.chain(text).collect::<Vec<_>>(),
                "stop_reason": answer.stop.word(), "stop_sequence": null,
                "usage": {
                    "input_tokens": split.fresh, "output_tokens": answer.output_tokens,
                    "cache_creation_input_tokens": split.cache_write, "cache_read_input_tokens": split.cache_read,
                },
            })
        }
        // An embedding has its own function; a text answer of such a model does not exist.
        Family::Nova | Family::TitanEmbedding => json!({
            "output": { "message": { "role": "assistant", "content": blocks(answer) } },
            "stopReason": answer.stop.word(),
            "usage": {
                "inputTokens": split.fresh, "outputTokens": answer.output_tokens,
                "totalTokens": usage(answer, split).total_tokens,
                "cacheReadInputTokenCount": split.cache_read, "cacheWriteInputTokenCount": split.cache_write,
            },
        }),
    };
    body.to_string().into_bytes()
}

/// The answer of a Titan embedding model.
pub(super) fn embedding(vector: &[f64], input_tokens: u64) -> Vec<u8> {
    let by_type = json!({ "float": vector });
    json!({ "embedding": vector, "embeddingsByType": by_type, "inputTextTokenCount": input_tokens })
        .to_string()
        .into_bytes()
}

/// The frames of a stream in their order, `messageStart` first and `metadata` last.
pub(super) fn frames(answer: &Answer, split: Split, latency_ms: u64) -> Vec<Bytes> {
    let mut frames = vec![event("messageStart", &json!({ "role": "assistant" }))];
    let mut index = 0;
    if let Some(reasoning) = &answer.reasoning {
        for piece in pieces(reasoning) {
            let delta = json!({ "reasoningContent": { "text": piece } });
            frames.push(event("contentBlockDelta", &json!({ "contentBlockIndex": index, "delta": delta })));
        }
        let delta = json!({ "reasoningContent": { "signature": SIGNATURE } });
        frames.push(event("contentBlockDelta", &json!({ "contentBlockIndex": index, "delta": delta })));
        frames.push(event("contentBlockStop", &json!({ "contentBlockIndex": index })));
        index += 1;
    }
    if let Some(text) = &answer.text {
        for piece in pieces(text) {
            let delta = json!({ "text": piece });
            frames.push(event("contentBlockDelta", &json!({ "contentBlockIndex": index, "delta": delta })));
        }
        frames.push(event("contentBlockStop", &json!({ "contentBlockIndex": index })));
    }
    frames.push(event("messageStop", &json!({ "stopReason": answer.stop.word() })));
    let metrics = Metrics { latency_ms };
    frames.push(event("metadata", &json!({ "usage": usage(answer, split), "metrics": metrics })));
    frames
}

/// The frames of an agent's answer: a trace of how it came to it, then the answer in chunks.
pub(super) fn agent_frames(answer: &Answer) -> Vec<Bytes> {
    let rationale = answer.reasoning.as_deref().unwrap_or("the simulator does not reason");
    let trace = json!({ "trace": { "orchestrationTrace": { "rationale": { "text": rationale } } } });
    let mut frames = vec![event("trace", &trace)];
    for piece in answer.text.iter().flat_map(|text| pieces(text)) {
        frames.push(event("chunk", &json!({ "bytes": STANDARD.encode(piece) })));
    }
    frames
}

/// An exception within a stream, by its name there.
pub(super) fn exception(name: &'static str, message: &str) -> Bytes {
    frame("exception", ":exception-type", name, &json!({ "message": message }))
}

/// What a model signs its reasoning with is opaque to its callers.
const SIGNATURE: &str = "c2ltdWxhdGVkIHNpZ25hdHVyZQ==";

#[derive(Serialize)]
struct Converse<'a> {
    output: Output<'a>,
    #[serde(rename = "stopReason")]
    stop_reason: &'static str,
    usage: Usage,
    metrics: Metrics,
}

#[derive(Serialize)]
struct Output<'a> {
    message: AssistantMessage<'a>,
}

#[derive(Serialize)]
struct AssistantMessage<'a> {
    role: &'static str,
    content: Vec<Block<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Block<'a> {
    Text(&'a str),
    #[serde(rename_all = "camelCase")]
    ReasoningContent {
        reasoning_text: Reasoning<'a>,
    },
}

#[derive(Serialize)]
struct Reasoning<'a> {
    text: &'a str,
    signature: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Usage {
    input_tokens: u64,
    output_tokens: u64,
    total_tokens: u64,
    cache_read_input_tokens: u64,
    cache_write_input_tokens: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metrics {
    latency_ms: u64,
}

fn blocks(answer: &Answer) -> Vec<Block<'_>> {
    let reasoning = answer.reasoning.iter().map(|text| {
        let reasoning_text = Reasoning { text, signature: SIGNATURE };
        Block::ReasoningContent { reasoning_text }
    });
    reasoning.chain(answer.text.iter().map(|text| Block::Text(text))).collect()
}

fn usage(answer: &Answer, split: Split) -> Usage {
    Usage {
        input_tokens: split.fresh,
        output_tokens: answer.output_tokens,
        total_tokens: split.fresh + split.cache_read + split.cache_write + answer.output_tokens,
        cache_read_input_tokens: split.cache_read,
        cache_write_input_tokens: split.cache_write,
    }
}

/// Our prose is ASCII, so that any place is a fair place to cut.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    const PIECE: usize = 32;
    (0..text.len()).step_by(PIECE).filter_map(move |start| text.get(start..text.len().min(start + PIECE)))
}

fn event(name: &'static str, payload: &Value) -> Bytes {
    frame("event", ":event-type", name, payload)
}

fn frame(kind: &'static str, type_header: &'static str, name: &'static str, payload: &Value) -> Bytes {
    let header = |name: &'static str, value: &'static str| Header::new(name, HeaderValue::String(value.into()));
    let message = Message::new(payload.to_string().into_bytes())
        .add_header(header(":message-type", kind))
        .add_header(header(type_header, name))
        .add_header(header(":content-type", "application/json"));
    let mut buffer = Vec::new();
    // Fails only beyond 16 MiB, and then a stream with a frame missing is what a client must notice anyway.
    if write_message_to(&message, &mut buffer).is_err() {
        buffer.clear();
    }
    buffer.into()
}
