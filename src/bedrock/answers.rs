//! What did the model answer? Text, stop reason and tokens out of a 2xx, by the shape of its JSON.
//!
//! Values that we do not know pass as data: a new stop reason or content block is no reason to lose an answer that
//! was paid for. Only an answer without any content is a failure.

use serde_json::Value;

use super::wire::{Body, Seen};
use crate::job::failure::{Class, Failure};
use crate::job::outcome::Usage;
use crate::ports::{Answer, Billing, CallFailure};

/// A model that ends so with nothing to show meant it: asking again would bring the same, and be paid for again.
const DELIBERATE: [&str; 11] = [
    "tool_use",
    "tool_calls",
    "stop_sequence",
    "max_tokens",
    "length",
    "guardrail_intervened",
    "content_filtered",
    "content_filter",
    "refusal",
    "malformed_tool_use",
    "model_context_window_exceeded",
];

/// The answer to a Converse call; its `output` is the response's.
pub(super) fn converse(seen: &Seen) -> Result<Answer, CallFailure> {
    let body = read(seen)?;
    let output = body.get("output").cloned().unwrap_or(Value::Null);
    let blocks = output.pointer("/message/content").and_then(Value::as_array);
    let found = Found {
        text: joined(blocks.map_or(&[], Vec::as_slice)),
        content: blocks.map_or(Content::None, |blocks| weigh(blocks)),
        stop_reason: text_at(body, "stopReason"),
    };
    finish(seen, body, output, found)
}

/// The answer to an `InvokeModel` call; its `output` is the whole response.
pub(super) fn invoke(seen: &Seen) -> Result<Answer, CallFailure> {
    let body = read(seen)?;
    finish(seen, body, body.clone(), find(body))
}

struct Found {
    text: Option<String>,
    content: Content,
    stop_reason: Option<String>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Content {
    /// No block at all.
    None,
    /// Text blocks, all of them blank.
    Blank,
    Some,
}

fn read(seen: &Seen) -> Result<&Value, CallFailure> {
    let why = match &seen.body {
        Body::Json(value) if value.is_object() => return Ok(value),
        Body::Json(_) | Body::Other => "the response is not a JSON object",
        Body::Broken => "the connection broke within the response",
    };
    // The model has worked and may be paid for, but its tokens are not known. It is the way here that is not well,
    // so it counts like a lost connection.
    let failure = Failure { class: Class::Unavailable, message: why.to_owned(), request_id: seen.request_id() };
    Err(CallFailure { failure, billing: Billing::Unknown, retry_after: None })
}

fn finish(seen: &Seen, body: &Value, output: Value, found: Found) -> Result<Answer, CallFailure> {
    let usage = usage(seen, body);
    let deliberate = found.stop_reason.as_deref().is_some_and(|reason| DELIBERATE.contains(&reason));
    let empty = match found.content {
        Content::None => true,
        Content::Blank => !deliberate,
        Content::Some => false,
    };
    if empty {
        let reason = found.stop_reason.as_deref().unwrap_or("none");
        let message = format!("the model answered without content (stop reason: {})", super::redact::word(reason));
        let failure = Failure { class: Class::Empty, message, request_id: seen.request_id() };
        let billing = usage.map_or(Billing::Unknown, Billing::Billed);
        return Err(CallFailure { failure, billing, retry_after: None });
    }
    Ok(Answer { text: found.text, output, stop_reason: found.stop_reason, usage: usage.unwrap_or_default() })
}

/// The families, most specific shape first. What matches none is passed on whole, without text.
fn find(body: &Value) -> Found {
    let list = |key: &str| body.get(key).and_then(Value::as_array);
    // Nova, and others that answer in Converse's own form.
    if let Some(blocks) = body.pointer("/output/message/content").and_then(Value::as_array) {
        return Found { text: joined(blocks), content: weigh(blocks), stop_reason: text_at(body, "stopReason") };
    }
    // Anthropic messages.
    if let Some(blocks) = list("content") {
        return Found { text: joined(blocks), content: weigh(blocks), stop_reason: text_at(body, "stop_reason") };
    }
    // OpenAI style; the text of a choice may be null beside tool calls.
    if let Some(choices) = list("choices") {
        return one_of(choices, &["/message/content", "/text"], &["finish_reason", "stop_reason"]);
    }
    // Llama.
    if body.get("generation").is_some() {
        return one_of(std::slice::from_ref(body), &["/generation"], &["stop_reason"]);
    }
    // Titan text, Mistral, Cohere.
    for (key, text, reason) in [
        ("results", "/outputText", "completionReason"),
        ("outputs", "/text", "stop_reason"),
        ("generations", "/text", "finish_reason"),
    ] {
        if let Some(list) = list(key) {
            return one_of(list, &[text], &[reason]);
        }
    }
    let nothing = body.as_object().is_none_or(serde_json::Map::is_empty);
    Found { text: None, content: if nothing { Content::None } else { Content::Some }, stop_reason: None }
}

/// The first of several samples speaks for all; the others stay in the output.
fn one_of(samples: &[Value], texts: &[&str], reasons: &[&str]) -> Found {
    let Some(first) = samples.first() else {
        return Found { text: None, content: Content::None, stop_reason: None };
    };
    let text = texts.iter().find_map(|path| first.pointer(path)?.as_str()).map(str::to_owned);
    let beside = ["/message/tool_calls", "/message/reasoning_content", "/message/reasoning", "/message/audio"]
        .iter()
        .any(|path| first.pointer(path).is_some_and(|value| !value.is_null()));
    let content = match &text {
        Some(text) if !text.trim().is_empty() => Content::Some,
        _ if beside => Content::Some,
        Some(_) | None => Content::Blank,
    };
    Found { text, content, stop_reason: reasons.iter().find_map(|key| text_at(first, key)) }
}

/// All text, in order; reasoning and tool use are not text.
fn joined(blocks: &[Value]) -> Option<String> {
    let mut text = None::<String>;
    for part in blocks.iter().flat_map(texts) {
        text.get_or_insert_default().push_str(part);
    }
    text
}

fn texts(block: &Value) -> Vec<&str> {
    if let Some(text) = block.get("text").and_then(Value::as_str) {
        return vec![text];
    }
    // Text with citations stands one level down.
    let cited = block.pointer("/citationsContent/content").and_then(Value::as_array);
    cited.map_or_else(Vec::new, |parts| parts.iter().filter_map(|part| part.get("text")?.as_str()).collect())
}

fn weigh(blocks: &[Value]) -> Content {
    let says_something = |block: &Value| {
        let texts = texts(block);
        texts.is_empty() || texts.iter().any(|text| !text.trim().is_empty())
    };
    match blocks {
        [] => Content::None,
        blocks if blocks.iter().any(says_something) => Content::Some,
        _ => Content::Blank,
    }
}

/// Tokens by the names that the families use; the response's headers where the body has none.
fn usage(seen: &Seen, body: &Value) -> Option<Usage> {
    let null = Value::Null;
    let usage = body.get("usage").unwrap_or(&null);
    let count = |names: &[&str]| names.iter().find_map(|name| usage.get(name).or_else(|| body.get(name))?.as_u64());
    let header = |name: &str| seen.header(name)?.parse().ok();
    let input = count(&["inputTokens", "input_tokens", "prompt_tokens", "prompt_token_count", "inputTextTokenCount"]);
    let output = count(&["outputTokens", "output_tokens", "completion_tokens", "generation_token_count"]);
    let output = output.or_else(|| sum_of_results(body));
    if input.is_none()
        && output.is_none()
        && let Some(input) = header("x-amzn-bedrock-input-token-count")
    {
        return Some(Usage {
            input_tokens: input,
            output_tokens: header("x-amzn-bedrock-output-token-count").unwrap_or(0),
            cache_read_tokens: header("x-amzn-bedrock-cache-read-input-token-count").unwrap_or(0),
            cache_write_tokens: header("x-amzn-bedrock-cache-write-input-token-count").unwrap_or(0),
        });
    }
    if input.is_none() && output.is_none() {
        return None;
    }
    let read = count(&["cacheReadInputTokens", "cacheReadInputTokenCount", "cache_read_input_tokens"]);
    let write = count(&["cacheWriteInputTokens", "cacheWriteInputTokenCount", "cache_creation_input_tokens"]);
    // This family counts cached tokens into its input; ours are fresh ones.
    let cached = usage.pointer("/prompt_tokens_details/cached_tokens").and_then(Value::as_u64);
    Some(Usage {
        input_tokens: input.unwrap_or(0).saturating_sub(cached.unwrap_or(0)),
        output_tokens: output.unwrap_or(0),
        cache_read_tokens: read.or(cached).unwrap_or(0),
        cache_write_tokens: write.unwrap_or(0),
    })
}

fn sum_of_results(body: &Value) -> Option<u64> {
    let counts = body.get("results")?.as_array()?.iter().filter_map(|result| result.get("tokenCount")?.as_u64());
    Some(counts.sum())
}

fn text_at(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(body: Value) -> Seen {
        Seen { status: 200, headers: vec![("x-amzn-requestid".to_owned(), "r-1".to_owned())], body: Body::Json(body) }
    }

    fn converse_of(content: Value, stop_reason: &str) -> Result<Answer, CallFailure> {
        converse(&seen(json!({
            "output": { "message": { "role": "assistant", "content": content } },
            "stopReason": stop_reason,
            "usage": { "inputTokens": 10, "outputTokens": 5, "totalTokens": 15 },
        })))
    }

    fn tokens(input_tokens: u64, output_tokens: u64, cache_read_tokens: u64, cache_write_tokens: u64) -> Usage {
        Usage { input_tokens, output_tokens, cache_read_tokens, cache_write_tokens }
    }

    #[test]
    fn text_is_found_behind_reasoning_and_between_other_blocks() {
        let reasoning = json!({ "reasoningContent": { "reasoningText": { "text": "hmm", "signature": "s" } } });
        let cited = json!({ "citationsContent": { "content": [{ "text": " cited" }], "citations": [] } });
        let future = json!({ "hologram": { "text": "not text" } });
        let answer =
            converse_of(json!([reasoning, { "text": "one" }, future, cited, { "text": " two" }]), "end_turn").unwrap();
        assert_eq!(answer.text.as_deref(), Some("one cited two"));
        assert_eq!(answer.output.pointer("/message/content/2").unwrap(), &future);
    }

    #[test]
    fn all_usage_fields_arrive() {
        let answer = converse(&seen(json!({
            "output": { "message": { "role": "assistant", "content": [{ "text": "x" }] } },
            "stopReason": "end_turn",
            "usage": { "inputTokens": 1, "outputTokens": 2, "totalTokens": 10, "cacheReadInputTokens": 3,
                       "cacheWriteInputTokens": 4, "cacheDetails": [] },
        })));
        assert_eq!(answer.unwrap().usage, tokens(1, 2, 3, 4));
    }

    #[test]
    fn an_answer_without_content_is_empty_and_billed() {
        let billed = Billing::Billed(tokens(10, 5, 0, 0));
        for (content, reason) in [
            (json!([]), "end_turn"),
            (json!([]), "max_tokens"),
            (json!([{ "text": "" }]), "end_turn"),
            (json!([{ "text": " \n" }]), "something_new"),
            (Value::Null, "end_turn"),
        ] {
            let failure = converse_of(content.clone(), reason).unwrap_err();
            assert_eq!((failure.failure.class, failure.billing), (Class::Empty, billed), "{content} {reason}");
            assert_eq!(failure.failure.request_id.as_deref(), Some("r-1"));
        }
        let unmetered = converse(&seen(json!({}))).unwrap_err();
        assert_eq!((unmetered.failure.class, unmetered.billing), (Class::Empty, Billing::Unknown));
    }

    #[test]
    fn what_is_meant_to_be_silent_is_an_answer() {
        for (content, reason) in [
            (json!([{ "text": "" }]), "stop_sequence"),
            (json!([{ "text": "" }]), "guardrail_intervened"),
            (json!([{ "toolUse": { "toolUseId": "1", "name": "f", "input": {} } }]), "tool_use"),
            (json!([{ "reasoningContent": { "redactedContent": "AAA=" } }]), "max_tokens"),
        ] {
            assert!(converse_of(content.clone(), reason).is_ok(), "{content} {reason}");
        }
    }

    #[test]
    fn an_unknown_stop_reason_passes_as_data() {
        let answer = converse_of(json!([{ "text": "x" }]), "ran_out_of_moonlight").unwrap();
        assert_eq!(answer.stop_reason.as_deref(), Some("ran_out_of_moonlight"));
    }

    #[test]
    fn what_is_no_json_object_is_never_an_answer() {
        for body in [Body::Other, Body::Broken, Body::Json(json!([1])), Body::Json(json!("ok"))] {
            let seen = Seen { status: 200, headers: vec![], body };
            for failure in [converse(&seen).unwrap_err(), invoke(&seen).unwrap_err()] {
                assert_eq!((failure.failure.class, failure.billing), (Class::Unavailable, Billing::Unknown));
            }
        }
    }

    #[test]
    fn each_family_is_read_by_its_shape() {
        let cases = [
            (
                json!({ "type": "message", "role": "assistant", "stop_reason": "end_turn",
                    "content": [{ "type": "thinking", "thinking": "hm", "signature": "s" },
                                { "type": "text", "text": "a" }, { "type": "text", "text": "b" }],
                    "usage": { "input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 3,
                               "cache_creation_input_tokens": 4 } }),
                (Some("ab"), Some("end_turn"), tokens(1, 2, 3, 4)),
            ),
            (
                json!({ "output": { "message": { "role": "assistant", "content": [{ "text": "n" }] } },
                    "stopReason": "max_tokens",
                    "usage": { "inputTokens": 1, "outputTokens": 2, "cacheReadInputTokenCount": 3,
                               "cacheWriteInputTokenCount": 4 } }),
                (Some("n"), Some("max_tokens"), tokens(1, 2, 3, 4)),
            ),
            (
                json!({ "embedding": [0.1, 0.2], "embeddingsByType": {}, "inputTextTokenCount": 7 }),
                (None, None, tokens(7, 0, 0, 0)),
            ),
            (
                json!({ "inputTextTokenCount": 5,
                    "results": [{ "tokenCount": 6, "outputText": "t", "completionReason": "FINISH" }] }),
                (Some("t"), Some("FINISH"), tokens(5, 6, 0, 0)),
            ),
            (
                json!({ "generation": "l", "prompt_token_count": 8, "generation_token_count": 9,
                    "stop_reason": "stop" }),
                (Some("l"), Some("stop"), tokens(8, 9, 0, 0)),
            ),
            (
                json!({ "choices": [{ "index": 0, "finish_reason": "stop",
                        "message": { "role": "assistant", "content": "o" } }],
                    "usage": { "prompt_tokens": 10, "completion_tokens": 2,
                               "prompt_tokens_details": { "cached_tokens": 4 } } }),
                (Some("o"), Some("stop"), tokens(6, 2, 4, 0)),
            ),
            (
                json!({ "outputs": [{ "text": "m", "stop_reason": "stop" }] }),
                (Some("m"), Some("stop"), tokens(0, 0, 0, 0)),
            ),
            (json!({ "images": ["AAAA"] }), (None, None, tokens(0, 0, 0, 0))),
        ];
        for (body, (text, stop_reason, usage)) in cases {
            let answer = invoke(&seen(body.clone())).unwrap();
            assert_eq!(
                (answer.text.as_deref(), answer.stop_reason.as_deref(), answer.usage),
                (text, stop_reason, usage)
            );
            assert_eq!(answer.output, body);
        }
    }

    #[test]
    fn a_family_that_says_nothing_is_empty_unless_it_calls_a_tool() {
        for body in [
            json!({ "content": [], "stop_reason": "end_turn" }),
            json!({ "choices": [{ "message": { "content": "" }, "finish_reason": "stop" }] }),
            json!({ "choices": [] }),
            json!({ "generation": "", "stop_reason": "stop" }),
        ] {
            assert_eq!(invoke(&seen(body)).unwrap_err().failure.class, Class::Empty);
        }
        let tool = json!({ "choices": [{ "message": { "content": null, "tool_calls": [{}] }, "finish_reason": "x" }] });
        assert_eq!(invoke(&seen(tool)).unwrap().text, None);
    }

    #[test]
    fn tokens_come_from_the_headers_when_the_body_has_none() {
        let mut seen = seen(json!({ "outputs": [{ "text": "m" }] }));
        for (name, count) in [("input", "11"), ("output", "12")] {
            seen.headers.push((format!("x-amzn-bedrock-{name}-token-count"), count.to_owned()));
        }
        assert_eq!(invoke(&seen).unwrap().usage, tokens(11, 12, 0, 0));
    }
}
