//! Which requests are made from one template? Those whose text begins alike.
//!
//! Told by few bytes: "Summarise this review in one sentence" is already a template, and two that begin with the same
//! words and differ later are at worst taken for one, as everything was before.

use std::hash::{DefaultHasher, Hasher};

use serde_json::{Map, Value};

use crate::job::spec::Request;

/// So much of the text is looked at.
const BEGINNING: usize = 48;

/// A number that requests share whose first 48 bytes of text are the same; the system text comes before the messages, as it
/// does for the model. Good within one process.
pub fn template_of(request: &Request) -> u64 {
    let mut beginning = Beginning { hasher: DefaultHasher::new(), left: BEGINNING };
    match request {
        Request::Prompt(text) => beginning.text(text),
        Request::Converse(body) | Request::Invoke(body) => beginning.body(body),
        // What its chunks are asked is known once it is read, and what an agent makes of a question is its own.
        Request::Document(_) | Request::Agent(_) | Request::Ingest(_) => {}
    }
    beginning.hasher.finish()
}

struct Beginning {
    hasher: DefaultHasher,
    left: usize,
}

impl Beginning {
    fn body(&mut self, body: &Map<String, Value>) {
        // Messages of the families, then the single texts of others.
        for key in ["system", "messages", "prompt", "inputText", "texts"] {
            if let Some(value) = body.get(key) {
                self.value(value);
            }
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            _ if self.left == 0 => {}
            Value::String(text) => self.text(text),
            Value::Array(items) => items.iter().for_each(|item| self.value(item)),
            Value::Object(fields) => {
                for key in ["content", "text"] {
                    if let Some(value) = fields.get(key) {
                        self.value(value);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn text(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let bytes = bytes.get(..self.left).unwrap_or(bytes);
        self.hasher.write(bytes);
        self.left -= bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn converse(body: Value) -> u64 {
        template_of(&Request::Converse(body.as_object().cloned().unwrap_or_default()))
    }

    fn prompt(text: &str) -> u64 {
        template_of(&Request::Prompt(text.to_owned()))
    }

    #[test]
    fn prompts_that_begin_alike_are_of_one_template() {
        let ask = "Summarise this review in one sentence for the shop's page: ";
        assert_eq!(prompt(&format!("{ask}it broke")), prompt(&format!("{ask}I love it")));
        assert_ne!(prompt(&format!("{ask}it broke")), prompt("Translate: it broke"));
        assert_ne!(prompt("short"), prompt("shorter"));
        assert_ne!(prompt("ü".repeat(30).as_str()), prompt("ö".repeat(30).as_str()));
    }

    #[test]
    fn the_system_text_comes_first_wherever_it_stands() {
        let system = json!([{ "text": "You are a careful editor of letters to the bank, nothing else." }]);
        let user = |text: &str| json!([{ "role": "user", "content": [{ "text": text }] }]);
        let first = converse(json!({ "system": system, "messages": user("one") }));
        assert_eq!(first, converse(json!({ "messages": user("two"), "system": system })));
        assert_ne!(first, converse(json!({ "messages": user("one") })));
        assert_eq!(converse(json!({ "messages": user("one") })), prompt("one"), "the same text");
    }

    #[test]
    fn what_has_no_text_is_one_template_too() {
        assert_eq!(converse(json!({})), converse(json!({ "images": ["AAAA"], "seed": 4 })));
    }
}
