//! What did the agent say? Its answer is a stream of events, and one of them may be an error that comes after the 200.
//!
//! The frames are read here and not by the SDK's types, for the reason that other answers are: what these do not know yet would be
//! lost. An exception's frame becomes the error response that it would have been without a stream, so that one table
//! ([`super::errors`]) judges both.

use std::collections::BTreeMap;

use aws_smithy_eventstream::frame::read_message_from;
use aws_smithy_types::event_stream::{HeaderValue, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};
use serde_json::{Map, Value, json};

use super::errors;
use super::wire::{Body, Seen};
use crate::job::failure::{Class, Failure};
use crate::job::outcome::Usage;
use crate::ports::{Answer, Billing, CallFailure};

/// The agent wants its caller to do something, and its turn ends there.
const RETURN_CONTROL: &str = "return_control";
/// What an agent may say of how it came to its answer; asked for or not, it is passed over.
const TRACE: &str = "trace";

/// The answer in an agent's events. Its `text` are the chunks joined; its `output` has that as `completion`, the `attributions` of
/// the chunks that have any, and every other event by its name, several of one name as a list. `request` is what was asked, so that no error shows it.
pub(super) fn agent(seen: &Seen, stream: Option<Bytes>, request: &[u8]) -> Result<Answer, CallFailure> {
    let Some(stream) = stream else { return Err(broken(seen, "the connection broke within the response")) };
    let mut said = Said::default();
    for message in messages(stream) {
        let Some(message) = message else { return Err(broken(seen, "the response is not a stream of whole events")) };
        said.hear(seen, &message, request)?;
    }
    said.finish(seen)
}

/// Frame by frame; `None` for what is none.
fn messages(mut stream: Bytes) -> impl Iterator<Item = Option<Message>> {
    std::iter::from_fn(move || {
        if !stream.has_remaining() {
            return None;
        }
        let message = read_message_from(&mut stream).ok();
        if message.is_none() {
            stream.clear();
        }
        Some(message)
    })
}

#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    attributions: Vec<Value>,
    others: BTreeMap<String, Vec<Value>>,
}

impl Said {
    fn hear(&mut self, seen: &Seen, message: &Message, request: &[u8]) -> Result<(), CallFailure> {
        let header = |name: &str| {
            let found = message.headers().iter().find(|header| header.name().as_str() == name)?;
            match found.value() {
                HeaderValue::String(text) => Some(text.as_str().to_owned()),
                _ => None,
            }
        };
        // An event may have nothing to say but its name.
        let payload = if message.payload().is_empty() { b"{}" } else { message.payload().as_ref() };
        let payload = serde_json::from_slice::<Value>(payload).ok();
        let kind = header(":message-type").unwrap_or_default();
        if kind == "exception" || kind == "error" {
            let code = header(":exception-type").or_else(|| header(":error-code"));
            let spoken = header(":error-message").map(|text| json!({ "message": text }));
            return Err(refused(seen, code, spoken.or(payload).unwrap_or_default(), request));
        }
        match header(":event-type").unwrap_or_default().as_str() {
            "chunk" => {
                let Some((bytes, attribution)) = payload.and_then(chunk) else {
                    return Err(broken(seen, "a chunk cannot be read"));
                };
                self.bytes.extend(bytes);
                self.attributions.extend(attribution);
            }
            TRACE | "" => {}
            other => {
                let Some(payload) = payload else { return Err(broken(seen, "an event cannot be read")) };
                self.others.entry(other.to_owned()).or_default().push(payload);
            }
        }
        Ok(())
    }

    /// An agent does not say how many tokens its models had.
    fn finish(self, seen: &Seen) -> Result<Answer, CallFailure> {
        // Chunks may cut a character in two; their sum does not.
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        let hands_over = self.others.contains_key("returnControl");
        if text.trim().is_empty() && self.others.is_empty() {
            let message = "the agent answered without content".to_owned();
            let failure = Failure { class: Class::Empty, message, request_id: seen.request_id() };
            return Err(CallFailure { failure, billing: Billing::Billed(Usage::default()), retry_after: None });
        }
        let mut output = Map::new();
        output.insert("completion".to_owned(), text.clone().into());
        if let Some(session) = seen.header("x-amz-bedrock-agent-session-id") {
            output.insert("sessionId".to_owned(), session.into());
        }
        if !self.attributions.is_empty() {
            output.insert("attributions".to_owned(), self.attributions.into());
        }
        output.extend(self.others.into_iter().map(|(name, events)| (name, one_or_all(events))));
        Ok(Answer {
            text: (!text.is_empty()).then_some(text),
            output: Value::Object(output),
            stop_reason: hands_over.then(|| RETURN_CONTROL.to_owned()),
            usage: Usage::default(),
        })
    }
}

/// The bytes of a chunk and where they come from; it may have either alone.
fn chunk(payload: Value) -> Option<(Vec<u8>, Option<Value>)> {
    let Value::Object(mut payload) = payload else { return None };
    let bytes = match payload.get("bytes") {
        None => Vec::new(),
        Some(bytes) => STANDARD.decode(bytes.as_str()?).ok()?,
    };
    Some((bytes, payload.remove("attribution")))
}

fn one_or_all(mut events: Vec<Value>) -> Value {
    if events.len() == 1 { events.swap_remove(0) } else { Value::Array(events) }
}

/// An exception within the stream, as if it had come before it.
fn refused(seen: &Seen, code: Option<String>, payload: Value, request: &[u8]) -> CallFailure {
    let id = seen.request_id().map(|id| ("x-amzn-requestid".to_owned(), id));
    let code = code.map(|code| ("x-amzn-errortype".to_owned(), code));
    let headers = id.into_iter().chain(code).collect();
    errors::refused(&Seen { status: seen.status, headers, body: Body::Json(payload) }, request)
}

/// Its models have worked, and it is the way here that is not well.
fn broken(seen: &Seen, why: &str) -> CallFailure {
    let failure = Failure { class: Class::Unavailable, message: why.to_owned(), request_id: seen.request_id() };
    CallFailure { failure, billing: Billing::Unknown, retry_after: None }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use aws_smithy_eventstream::frame::write_message_to;
    use aws_smithy_types::event_stream::Header;

    use super::*;

    fn seen() -> Seen {
        let headers = [("x-amzn-requestid", "r-1"), ("x-amz-bedrock-agent-session-id", "s-1")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Seen { status: 200, headers, body: Body::Broken }
    }

    fn frame(kind: &'static str, of: &'static str, name: &'static str, payload: &Value) -> Vec<u8> {
        let header = |name: &'static str, value: &'static str| Header::new(name, HeaderValue::String(value.into()));
        let message = Message::new(payload.to_string().into_bytes())
            .add_header(header(":message-type", kind))
            .add_header(header(of, name))
            .add_header(header(":content-type", "application/json"));
        let mut bytes = Vec::new();
        write_message_to(&message, &mut bytes).unwrap();
        bytes
    }

    fn event(name: &'static str, payload: &Value) -> Vec<u8> {
        frame("event", ":event-type", name, payload)
    }

    fn chunk(bytes: &[u8]) -> Vec<u8> {
        event("chunk", &json!({ "bytes": STANDARD.encode(bytes) }))
    }

    fn read(frames: &[Vec<u8>]) -> Result<Answer, CallFailure> {
        agent(&seen(), Some(frames.concat().into()), br#"{"inputText":"What does my secret plan say?"}"#)
    }

    #[test]
    fn chunks_are_joined_as_bytes_and_a_trace_is_passed_over() {
        let (one, two) = "Grüße".as_bytes().split_at(3);
        let cited = json!({ "bytes": STANDARD.encode(", all"), "attribution": { "citations": [{ "new": 1 }] } });
        let trace = event("trace", &json!({ "trace": { "orchestrationTrace": { "rationale": { "text": "hm" } } } }));
        let answer = read(&[trace, chunk(one), chunk(two), event("chunk", &cited)]).unwrap();
        assert_eq!(answer.text.as_deref(), Some("Grüße, all"));
        let output = json!({ "completion": "Grüße, all", "sessionId": "s-1", "attributions": [{ "citations": [{ "new": 1 }] }] });
        assert_eq!(answer.output, output, "nothing of the trace is in it");
        assert_eq!((answer.usage, answer.stop_reason), (Usage::default(), None));
    }

    #[test]
    fn an_agent_that_hands_over_has_answered() {
        let control = json!({ "invocationId": "i", "invocationInputs": [] });
        let answer = read(&[event("returnControl", &control)]).unwrap();
        assert_eq!((answer.text, answer.stop_reason.as_deref()), (None, Some("return_control")));
        assert_eq!(answer.output["returnControl"], control);
    }

    #[test]
    fn events_of_one_name_are_all_kept_in_their_order() {
        let files = |name: &str| json!({ "files": [{ "name": name }] });
        let answer = read(&[event("files", &files("a")), chunk(b"Done."), event("files", &files("b"))]).unwrap();
        assert_eq!(answer.output["files"], json!([files("a"), files("b")]));
        assert_eq!(answer.text.as_deref(), Some("Done."));
    }

    #[test]
    fn what_cannot_be_read_is_no_answer_with_a_gap() {
        let raw = |name: &'static str, payload: &'static [u8]| {
            let header = |name: &'static str, value: &'static str| Header::new(name, HeaderValue::String(value.into()));
            let message = Message::new(payload).add_header(header(":message-type", "event"));
            let mut bytes = Vec::new();
            write_message_to(&message.add_header(header(":event-type", name)), &mut bytes).unwrap();
            bytes
        };
        for bad in [
            raw("chunk", b"not JSON"),
            raw("chunk", b"[]"),
            event("chunk", &json!({ "bytes": 7 })),
            event("chunk", &json!({ "bytes": "no base64!" })),
            raw("files", b"{"),
        ] {
            let failure = read(&[chunk(b"one"), bad, chunk(b"two")]).unwrap_err();
            assert_eq!((failure.failure.class, failure.billing), (Class::Unavailable, Billing::Unknown));
        }
        let cited = event("chunk", &json!({ "attribution": { "citations": [] } }));
        assert_eq!(read(&[chunk(b"one"), cited]).unwrap().output["attributions"], json!([{ "citations": [] }]));
        assert!(read(&[raw("trace", b"not JSON"), chunk(b"one")]).is_ok(), "it is passed over anyway");
    }

    #[test]
    fn an_answer_without_content_is_empty_and_one_that_breaks_off_is_none() {
        assert_eq!(read(&[]).unwrap_err().failure.class, Class::Empty);
        assert_eq!(read(&[chunk(b" \n")]).unwrap_err().failure.class, Class::Empty);
        let mut half = chunk(b"all of it");
        half.truncate(half.len() - 1);
        for failure in [
            read(&[chunk(b"one"), half]).unwrap_err(),
            read(&[b"<html>502</html>".to_vec()]).unwrap_err(),
            agent(&seen(), None, b"{}").unwrap_err(),
        ] {
            assert_eq!((failure.failure.class, failure.billing), (Class::Unavailable, Billing::Unknown));
        }
    }

    #[test]
    fn an_exception_after_the_200_is_judged_as_one_before_it() {
        for (name, message, class) in [
            ("throttlingException", "Your request rate is too high.", Class::QuotaMinute),
            ("serviceQuotaExceededException", "", Class::QuotaDay),
            ("accessDeniedException", "Access denied when calling Bedrock.", Class::Denied),
            ("resourceNotFoundException", "", Class::Denied),
            ("validationException", "What does my secret plan say? is not valid", Class::Invalid),
            ("dependencyFailedException", "The Lambda function timed out.", Class::ModelError),
            ("conflictException", "", Class::ModelError),
            ("badGatewayException", "", Class::Unavailable),
            ("internalServerException", "", Class::Unavailable),
            ("modelNotReadyException", "", Class::Overloaded),
            ("somethingNewException", "", Class::Unknown),
        ] {
            let exception = frame("exception", ":exception-type", name, &json!({ "message": message }));
            let failure = read(&[chunk(b"half an answer"), exception]).unwrap_err().failure;
            assert_eq!(failure.class, class, "{name}");
            assert_eq!(failure.request_id.as_deref(), Some("r-1"));
            assert!(!failure.message.contains("secret plan"), "{}", failure.message);
        }
    }
}
