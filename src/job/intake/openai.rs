//! A line of an `OpenAI` batch file: `{"custom_id", "method", "url", "body"}`, translated to Converse.
//!
//! Only chat completions are translated. A field of the body is translated, or is known to change nothing about
//! the answer we return, or the line is refused by that field's name: an answer to another question than the one
//! asked is worse than none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::Parts;
use super::bedrock_batch::named;
use super::contract;
use super::fields::{Fault, Field, Kind, shown_key};
use crate::job::ident::JobId;
use crate::job::spec::Request;

const KEYS: [&str; 4] = ["custom_id", "method", "url", "body"];

pub(super) fn read(fields: &[Field<'_>], is_known: &dyn Fn(&str) -> bool) -> Result<Parts, Fault> {
    let mut id = None;
    let mut url = None;
    let mut body = None;
    for field in fields {
        match field.key.as_str() {
            "custom_id" => id = Some(contract::name(field, JobId::new).map_err(|fault| named(fault, "custom_id"))?),
            "method" => {
                if field.text()? != "POST" {
                    return Err(field.fault("`method` must be \"POST\""));
                }
            }
            "url" => url = Some(field),
            "body" => body = Some(field),
            _ => return Err(contract::unknown_key_among(field, &KEYS, "an OpenAI batch line")),
        }
    }
    let url = url.ok_or_else(|| Fault::nowhere("an OpenAI batch line without `url`"))?;
    let path = url.text()?;
    if path != "/v1/chat/completions" {
        let path = shown_key(&path);
        return Err(url.fault(format!("`url` {path} is not supported; /v1/chat/completions is")));
    }
    let body = body.ok_or_else(|| Fault::nowhere("an OpenAI batch line without `body`"))?;
    let (request, model) = chat(body)?;
    // Files made for another vendor name that vendor's models; the default stands in for them.
    let model = model.filter(|model| is_known(model));
    Ok(Parts { id, model, ..Parts::new(request) })
}

fn chat(body: &Field<'_>) -> Result<(Request, Option<String>), Fault> {
    let mut model = None;
    let mut talk = None;
    let mut config = Map::new();
    let mut tools = None;
    let mut choice = None;
    let fields = body.fields()?;
    for field in &fields {
        if field.kind() == Kind::Null {
            continue;
        }
        match field.key.as_str() {
            "model" => model = Some(field.text()?),
            "messages" => talk = Some(Talk::of(field)?),
            "max_completion_tokens" => {
                config.insert("maxTokens".to_owned(), cap(field)?);
            }
            // The older name; where both stand, the newer one holds.
            "max_tokens" => {
                let cap = cap(field)?;
                config.entry("maxTokens").or_insert(cap);
            }
            "temperature" => {
                config.insert("temperature".to_owned(), number(field)?);
            }
            "top_p" => {
                config.insert("topP".to_owned(), number(field)?);
            }
            "stop" => {
                config.insert("stopSequences".to_owned(), stop(field)?);
            }
            "tools" => tools = Some(read_tools(field)?),
            "tool_choice" => choice = Some((read_choice(field)?, field)),
            _ => harmless(field)?,
        }
    }
    let talk = talk.ok_or_else(|| body.fault("`body` has no `messages`"))?;
    if let (Some((_, field)), None) = (&choice, &tools) {
        return Err(field.fault("`body.tool_choice` without `tools`"));
    }
    let mut request = Map::new();
    request.insert("messages".to_owned(), Value::Array(talk.messages));
    if !talk.system.is_empty() {
        request.insert("system".to_owned(), Value::Array(talk.system));
    }
    if !config.is_empty() {
        request.insert("inferenceConfig".to_owned(), Value::Object(config));
    }
    if let Some(tools) = tools {
        let mut tool_config = json!({ "tools": tools });
        if let Some((choice, _)) = choice {
            tool_config["toolChoice"] = choice;
        }
        request.insert("toolConfig".to_owned(), tool_config);
    }
    Ok((Request::Converse(request), model))
}

/// Passes over what does not change the answer we return; everything else is refused by its name.
fn harmless(field: &Field<'_>) -> Result<(), Fault> {
    let harmless = match field.key.as_str() {
        "user"
        | "metadata"
        | "store"
        | "safety_identifier"
        | "prompt_cache_key"
        | "prompt_cache_retention"
        | "stream_options" => true,
        "stream" | "logprobs" => field.any()? == json!(false),
        "n" => field.any()? == json!(1),
        "presence_penalty" | "frequency_penalty" | "top_logprobs" => field.any()?.as_f64() == Some(0.0),
        "logit_bias" => field.any()? == json!({}),
        "parallel_tool_calls" => field.any()? == json!(true),
        "response_format" => field.any()? == json!({ "type": "text" }),
        "service_tier" => field.any().is_ok_and(|tier| tier == json!("auto") || tier == json!("default")),
        "modalities" => field.any()? == json!(["text"]),
        _ => false,
    };
    if harmless {
        return Ok(());
    }
    let key = shown_key(&field.key);
    Err(Fault::at(field.key_at, format!("`body.{key}` has no counterpart here, or not with this value")))
}

fn cap(field: &Field<'_>) -> Result<Value, Fault> {
    let number = field.any()?;
    let fits = number.as_u64().is_some_and(|cap| cap >= 1 && cap <= u64::from(u32::MAX));
    if fits {
        Ok(number)
    } else {
        Err(field.fault(format!("`body.{}` must be a whole number from 1 to {}", field.key, u32::MAX)))
    }
}

fn number(field: &Field<'_>) -> Result<Value, Fault> {
    let number = field.any()?;
    if number.is_number() {
        Ok(number)
    } else {
        Err(field.fault(format!("`body.{}` must be a number, found {}", field.key, field.kind().words())))
    }
}

fn stop(field: &Field<'_>) -> Result<Value, Fault> {
    match field.any()? {
        Value::String(one) => Ok(json!([one])),
        Value::Array(several) if several.iter().all(Value::is_string) => Ok(Value::Array(several)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Err(field.fault("`body.stop` must be a string or an array of strings"))
        }
    }
}

fn read_tools(field: &Field<'_>) -> Result<Vec<Value>, Fault> {
    let tools = field.array()?;
    if tools.is_empty() {
        return Err(field.fault("`body.tools` is empty"));
    }
    tools.iter().enumerate().map(|(index, tool)| read_tool(tool, &format!("body.tools[{index}]"), field)).collect()
}

fn read_tool(tool: &Value, path: &str, field: &Field<'_>) -> Result<Value, Fault> {
    if tool.get("type") != Some(&json!("function")) {
        return Err(field.fault(format!("`{path}.type` must be \"function\"")));
    }
    only(tool, path, &["type", "function"], field)?;
    let function = tool.get("function").unwrap_or(&Value::Null);
    let path = format!("{path}.function");
    only(function, &path, &["name", "description", "parameters", "strict"], field)?;
    let name = text_at(function, "name", &path, field)?;
    let schema = match function.get("parameters") {
        None | Some(Value::Null) => json!({ "type": "object", "properties": {} }),
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(_) => return Err(field.fault(format!("`{path}.parameters` must be an object"))),
    };
    let mut spec = json!({ "name": name, "inputSchema": { "json": schema } });
    match function.get("description") {
        None | Some(Value::Null) => {}
        Some(description @ Value::String(_)) => spec["description"] = description.clone(),
        Some(_) => return Err(field.fault(format!("`{path}.description` must be a string"))),
    }
    match function.get("strict") {
        None | Some(Value::Null | Value::Bool(false)) => {}
        Some(Value::Bool(true)) => spec["strict"] = json!(true),
        Some(_) => return Err(field.fault(format!("`{path}.strict` must be true or false"))),
    }
    Ok(json!({ "toolSpec": spec }))
}

fn read_choice(field: &Field<'_>) -> Result<Value, Fault> {
    let choice = field.any()?;
    match choice.as_str() {
        Some("auto") => return Ok(json!({ "auto": {} })),
        Some("required") => return Ok(json!({ "any": {} })),
        Some(_) | None => {}
    }
    let named = choice.pointer("/function/name").and_then(Value::as_str);
    match named {
        Some(name) if choice.get("type") == Some(&json!("function")) => Ok(json!({ "tool": { "name": name } })),
        _ => Err(field.fault("`body.tool_choice` must be \"auto\", \"required\" or a function's name")),
    }
}

/// The turns of a conversation, as Converse wants them: system text apart, user and assistant in turn.
#[derive(Default)]
struct Talk {
    system: Vec<Value>,
    messages: Vec<Value>,
}

impl Talk {
    fn of(field: &Field<'_>) -> Result<Self, Fault> {
        let mut talk = Self::default();
        for (index, message) in field.array()?.iter().enumerate() {
            talk.add(message, &format!("body.messages[{index}]"), field)?;
        }
        if talk.messages.is_empty() {
            return Err(field.fault("`body.messages` holds nothing for the model to answer"));
        }
        Ok(talk)
    }

    fn add(&mut self, message: &Value, path: &str, field: &Field<'_>) -> Result<(), Fault> {
        let content = message.get("content").unwrap_or(&Value::Null);
        let content_path = format!("{path}.content");
        match message.get("role").and_then(Value::as_str) {
            Some("system" | "developer") => {
                only(message, path, &["role", "content"], field)?;
                let blocks = blocks(content, &content_path, field, false)?;
                self.system.extend(filled(blocks, &content_path, field)?);
            }
            Some("user") => {
                only(message, path, &["role", "content"], field)?;
                let blocks = blocks(content, &content_path, field, true)?;
                self.turn("user", filled(blocks, &content_path, field)?);
            }
            Some("assistant") => {
                only(message, path, &["role", "content", "tool_calls"], field)?;
                let mut said = blocks(content, &content_path, field, false)?;
                said.extend(tool_uses(message, path, field)?);
                self.turn("assistant", filled(said, &content_path, field)?);
            }
            Some("tool") => {
                only(message, path, &["role", "content", "tool_call_id"], field)?;
                let id = text_at(message, "tool_call_id", path, field)?;
                let blocks = filled(blocks(content, &content_path, field, false)?, &content_path, field)?;
                self.turn("user", vec![json!({ "toolResult": { "toolUseId": id, "content": blocks } })]);
            }
            Some(_) | None => {
                let reason = format!("`{path}.role` must be system, developer, user, assistant or tool");
                return Err(field.fault(reason));
            }
        }
        Ok(())
    }

    /// Converse wants user and assistant in turn, so neighbours of one role become one message; the results of
    /// several tool calls must be one message in any case.
    fn turn(&mut self, role: &str, blocks: Vec<Value>) {
        if let Some(last) = self.messages.last_mut().filter(|last| last.get("role") == Some(&json!(role)))
            && let Some(Value::Array(content)) = last.get_mut("content")
        {
            content.extend(blocks);
        } else {
            self.messages.push(json!({ "role": role, "content": blocks }));
        }
    }
}

/// The content blocks; blank text gives none, for the service refuses it.
fn blocks(content: &Value, path: &str, field: &Field<'_>, images: bool) -> Result<Vec<Value>, Fault> {
    match content {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(text_block(text).into_iter().collect()),
        Value::Array(parts) => {
            let mut blocks = Vec::with_capacity(parts.len());
            for (index, part) in parts.iter().enumerate() {
                let path = format!("{path}[{index}]");
                match part.get("type").and_then(Value::as_str) {
                    Some("text") => {
                        only(part, &path, &["type", "text"], field)?;
                        blocks.extend(text_block(&text_at(part, "text", &path, field)?));
                    }
                    Some("image_url") if images => {
                        only(part, &path, &["type", "image_url"], field)?;
                        let image = part.get("image_url").unwrap_or(&Value::Null);
                        let path = format!("{path}.image_url");
                        only(image, &path, &["url", "detail"], field)?;
                        blocks.push(image_block(&text_at(image, "url", &path, field)?, &path, field)?);
                    }
                    Some(kind) => {
                        let kind = shown_key(kind);
                        return Err(field.fault(format!("`{path}`: parts of type {kind} are not supported here")));
                    }
                    None => return Err(field.fault(format!("`{path}.type` must be a string"))),
                }
            }
            Ok(blocks)
        }
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            let found = Kind::of(content).words();
            Err(field.fault(format!("`{path}` must be a string or an array of parts, found {found}")))
        }
    }
}

fn text_block(text: &str) -> Option<Value> {
    (!text.trim().is_empty()).then(|| json!({ "text": text }))
}

fn image_block(url: &str, path: &str, field: &Field<'_>) -> Result<Value, Fault> {
    let format_and_data = ["png", "jpeg", "gif", "webp"].into_iter().find_map(|format| {
        let data = url.strip_prefix("data:image/")?.strip_prefix(format)?.strip_prefix(";base64,")?;
        Some((format, data))
    });
    let Some((format, data)) = format_and_data else {
        let reason = format!("`{path}.url` must be a base64 `data:` URL of a PNG, JPEG, GIF or WebP image");
        return Err(field.fault(reason));
    };
    if data.is_empty() || STANDARD.decode(data).is_err() {
        return Err(field.fault(format!("`{path}.url` does not hold valid base64")));
    }
    Ok(json!({ "image": { "format": format, "source": { "bytes": data } } }))
}

fn tool_uses(message: &Value, path: &str, field: &Field<'_>) -> Result<Vec<Value>, Fault> {
    let calls = match message.get("tool_calls") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(calls)) => calls,
        Some(_) => return Err(field.fault(format!("`{path}.tool_calls` must be an array"))),
    };
    let tool_use = |(index, call): (usize, &Value)| {
        let path = format!("{path}.tool_calls[{index}]");
        only(call, &path, &["id", "type", "function"], field)?;
        let id = text_at(call, "id", &path, field)?;
        let function = call.get("function").unwrap_or(&Value::Null);
        let path = format!("{path}.function");
        only(function, &path, &["name", "arguments"], field)?;
        let name = text_at(function, "name", &path, field)?;
        let arguments = text_at(function, "arguments", &path, field)?;
        let input = match serde_json::from_str::<Value>(&arguments) {
            Ok(input @ Value::Object(_)) => input,
            _ => return Err(field.fault(format!("`{path}.arguments` must hold a JSON object"))),
        };
        Ok(json!({ "toolUse": { "toolUseId": id, "name": name, "input": input } }))
    };
    calls.iter().enumerate().map(tool_use).collect()
}

fn filled(blocks: Vec<Value>, path: &str, field: &Field<'_>) -> Result<Vec<Value>, Fault> {
    if blocks.is_empty() { Err(field.fault(format!("`{path}` is empty"))) } else { Ok(blocks) }
}

/// An object with no other keys than these; a key that is null counts as left out.
fn only(value: &Value, path: &str, keys: &[&str], field: &Field<'_>) -> Result<(), Fault> {
    let Value::Object(object) = value else {
        return Err(field.fault(format!("`{path}` must be an object, found {}", Kind::of(value).words())));
    };
    match object.iter().find(|(key, value)| !value.is_null() && !keys.contains(&key.as_str())) {
        Some((key, _)) => Err(field.fault(format!("`{path}.{}` has no counterpart here", shown_key(key)))),
        None => Ok(()),
    }
}

fn text_at(value: &Value, key: &str, path: &str, field: &Field<'_>) -> Result<String, Fault> {
    match value.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(field.fault(format!("`{path}.{key}` must be a string, found {}", Kind::of(other).words()))),
        None => Err(field.fault(format!("`{path}.{key}` is missing"))),
    }
}
