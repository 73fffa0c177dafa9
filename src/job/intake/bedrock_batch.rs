//! A record of a Bedrock batch job: `{"recordId": "...", "modelInput": { ... }}`.
//!
//! The service has two kinds of batch job and the record does not say for which it was written. A `modelInput` is a
//! Converse request when it can be nothing else: every key is one of Converse's, `messages` is there, and every
//! message's content is an array of blocks without `type` (which Anthropic's own form always has). Everything
//! else, with `anthropic_version` or `schemaVersion` in particular, is an `InvokeModel` body. Nova's own form without
//! `schemaVersion` reads the same as Converse, and means the same.

use serde_json::{Map, Value};

use super::Parts;
use super::contract;
use super::fields::{Fault, Field};
use crate::job::ident::JobId;

const KEYS: [&str; 2] = ["recordId", "modelInput"];

const OF_CONVERSE: [&str; 13] = [
    "messages",
    "system",
    "inferenceConfig",
    "toolConfig",
    "guardrailConfig",
    "additionalModelRequestFields",
    "additionalModelResponseFieldPaths",
    "promptVariables",
    "requestMetadata",
    "performanceConfig",
    "serviceTier",
    "outputConfig",
    "modelId", // refused by name where Converse requests are checked
];

const OF_INFERENCE_CONFIG: [&str; 4] = ["maxTokens", "temperature", "topP", "stopSequences"];

pub(super) fn read(fields: &[Field<'_>]) -> Result<Parts, Fault> {
    let mut id = None;
    let mut request = None;
    for field in fields {
        match field.key.as_str() {
            "recordId" => id = Some(contract::name(field, JobId::new).map_err(|fault| named(fault, "recordId"))?),
            "modelInput" => {
                let input = field.object()?;
                request = Some(if is_converse(&input) {
                    contract::converse(input, field)?
                } else {
                    contract::invoke(input, field)?
                });
            }
            _ => return Err(contract::unknown_key_among(field, &KEYS, "a Bedrock batch record")),
        }
    }
    let request = request.ok_or_else(|| Fault::nowhere("a Bedrock batch record without `modelInput`"))?;
    Ok(Parts { id, ..Parts::new(request) })
}

/// The same complaint, under the key that the line has.
pub(super) fn named(fault: Fault, key: &str) -> Fault {
    Fault { reason: fault.reason.replacen("`id`", &format!("`{key}`"), 1), ..fault }
}

fn is_converse(input: &Map<String, Value>) -> bool {
    let only = |map: &Map<String, Value>, keys: &[&str]| map.keys().all(|key| keys.contains(&key.as_str()));
    let config = input.get("inferenceConfig").and_then(Value::as_object);
    only(input, &OF_CONVERSE)
        && config.is_none_or(|config| only(config, &OF_INFERENCE_CONFIG))
        && input
            .get("messages")
            .and_then(Value::as_array)
            .is_some_and(|messages| !messages.is_empty() && messages.iter().all(has_blocks))
}

fn has_blocks(message: &Value) -> bool {
    let blocks = message.get("content").and_then(Value::as_array);
    blocks.is_some_and(|blocks| {
        blocks.iter().all(|block| block.as_object().is_some_and(|block| !block.contains_key("type")))
    })
}
