//! Which fields does this JSON object have, and where does each stand?

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// What is wrong, and at which byte of the text.
#[derive(Debug)]
pub(in crate::job) struct Fault {
    pub(super) at: Option<usize>,
    pub(in crate::job) reason: String,
}

impl Fault {
    pub(super) fn at(byte: usize, reason: impl Into<String>) -> Self {
        Self { at: Some(byte), reason: reason.into() }
    }

    pub(in crate::job) fn nowhere(reason: impl Into<String>) -> Self {
        Self { at: None, reason: reason.into() }
    }

    fn json(error: &serde_json::Error, json: &str, base: usize) -> Self {
        let line_start = match error.line() {
            0 | 1 => 0,
            line => json.match_indices('\n').nth(line - 2).map_or(0, |(index, _)| index + 1),
        };
        let at = base + (line_start + error.column().saturating_sub(1)).min(json.len());
        let message = error.to_string();
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
        match error.classify() {
            serde_json::error::Category::Eof => Self::at(at, format!("not complete JSON: {message}")),
            serde_json::error::Category::Syntax => Self::at(at, format!("not valid JSON: {message}")),
            // These quote the value, which may be a prompt.
            serde_json::error::Category::Data | serde_json::error::Category::Io => Self::at(at, "unexpected value"),
        }
    }
}

/// The kinds of JSON value, told by their first character.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Null,
    Boolean,
    Number,
    Text,
    Array,
    Object,
    /// No JSON value begins so.
    Nothing,
}

impl Kind {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::Text => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
            Self::Nothing => "nothing",
        }
    }

    pub(super) fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Boolean,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::Text,
            Value::Array(_) => Self::Array,
            Value::Object(_) => Self::Object,
        }
    }
}

pub(super) fn kind(json: &str) -> Kind {
    match json.trim_start_matches([' ', '\t', '\r', '\n']).as_bytes().first() {
        Some(b'n') => Kind::Null,
        Some(b't' | b'f') => Kind::Boolean,
        Some(b'-' | b'0'..=b'9') => Kind::Number,
        Some(b'"') => Kind::Text,
        Some(b'[') => Kind::Array,
        Some(b'{') => Kind::Object,
        _ => Kind::Nothing,
    }
}

/// One field of an object.
#[derive(Clone, Debug)]
pub(in crate::job) struct Field<'a> {
    pub(in crate::job) key: String,
    /// The byte at which its key begins.
    pub(super) key_at: usize,
    /// The byte at which its value begins.
    pub(super) at: usize,
    json: &'a str,
}

impl<'a> Field<'a> {
    /// A whole text as one value without a key.
    pub(super) fn whole(json: &'a str) -> Self {
        Self { key: "line".to_owned(), key_at: 0, at: 0, json }
    }

    pub(super) fn kind(&self) -> Kind {
        kind(self.json)
    }

    /// Generators of JSON write null for "not set".
    pub(in crate::job) fn is_unset(&self) -> bool {
        self.kind() == Kind::Null
    }

    pub(in crate::job) fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault::at(self.at, reason)
    }

    pub(in crate::job) fn wrong_kind(&self, expected: &str) -> Fault {
        self.fault(format!("`{}` must be {expected}, found {}", shown_key(&self.key), self.kind().words()))
    }

    pub(in crate::job) fn text(&self) -> Result<String, Fault> {
        self.read(Kind::Text, "a string")
    }

    pub(super) fn boolean(&self) -> Result<bool, Fault> {
        self.read(Kind::Boolean, "true or false")
    }

    /// A number that counts something.
    pub(in crate::job) fn count(&self) -> Result<u64, Fault> {
        const EXPECTED: &str = "a whole number from 0";
        let number: serde_json::Number = self.read(Kind::Number, EXPECTED)?;
        number.as_u64().ok_or_else(|| self.fault(format!("`{}` must be {EXPECTED}", shown_key(&self.key))))
    }

    pub(super) fn object(&self) -> Result<Map<String, Value>, Fault> {
        self.read(Kind::Object, "an object")
    }

    pub(super) fn array(&self) -> Result<Vec<Value>, Fault> {
        self.read(Kind::Array, "an array")
    }

    pub(super) fn any(&self) -> Result<Value, Fault> {
        serde_json::from_str(self.json).map_err(|error| Fault::json(&error, self.json, self.at))
    }

    /// The fields of this field's object.
    pub(in crate::job) fn fields(&self) -> Result<Vec<Field<'a>>, Fault> {
        if self.kind() == Kind::Object { of_object(self.json, self.at) } else { Err(self.wrong_kind("an object")) }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, kind: Kind, expected: &str) -> Result<T, Fault> {
        if self.kind() != kind {
            return Err(self.wrong_kind(expected));
        }
        serde_json::from_str(self.json).map_err(|error| Fault::json(&error, self.json, self.at))
    }
}

/// A key as it may be shown: whole if short, for somebody may have put a prompt in its place.
pub(super) fn shown_key(key: &str) -> String {
    shown(key, 40)
}

/// At most so many characters of a text, none of them one that moves a cursor.
pub(super) fn shown(text: &str, limit: usize) -> String {
    let mut shown: String = text.chars().take(limit).flat_map(char::escape_debug).collect();
    if text.chars().nth(limit).is_some() {
        shown.push_str("...");
    }
    shown
}

/// The fields of a JSON object, in their order. `base` is where `json` begins in the text.
pub(in crate::job) fn of_object(json: &str, base: usize) -> Result<Vec<Field<'_>>, Fault> {
    let mut fields = Vec::new();
    collect(json, base, &mut fields)?;
    let mut seen = HashSet::new();
    match fields.iter().find(|field| !seen.insert(&field.key)) {
        Some(twice) => Err(Fault::at(twice.key_at, format!("`{}` stands here twice", shown_key(&twice.key)))),
        None => Ok(fields),
    }
}

/// The fields up to the first thing that is no JSON.
pub(super) fn readable_prefix(text: &str) -> Vec<Field<'_>> {
    let mut fields = Vec::new();
    if kind(text) == Kind::Object {
        // Whatever was read before the fault is what is wanted here.
        let _ = collect(text, 0, &mut fields);
    }
    fields
}

/// Is this one JSON value and nothing else?
pub(super) fn check_syntax(text: &str) -> Result<(), Fault> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(|_| ()).map_err(|error| Fault::json(&error, text, 0))
}

fn collect<'a>(json: &'a str, base: usize, fields: &mut Vec<Field<'a>>) -> Result<(), Fault> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let collector = Collector { json, base, fields };
    let read = collector.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    read.map_err(|error| Fault::json(&error, json, base))
}

struct Collector<'b, 'a> {
    json: &'a str,
    base: usize,
    fields: &'b mut Vec<Field<'a>>,
}

impl<'a> DeserializeSeed<'a> for Collector<'_, 'a> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Collector<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        // Raw values are slices of the text itself, so that their addresses say where they stand.
        let place = |raw: &'a RawValue| self.base + (raw.get().as_ptr().addr() - self.json.as_ptr().addr());
        while let Some((key, value)) = map.next_entry::<&'a RawValue, &'a RawValue>()? {
            self.fields.push(Field {
                key: decode_key(key.get()),
                key_at: place(key),
                at: place(value),
                json: value.get(),
            });
        }
        Ok(())
    }
}

/// A key that is no text (half a surrogate pair) is none we know: it is refused as it was written.
fn decode_key(json: &str) -> String {
    serde_json::from_str(json).unwrap_or_else(|_| json.to_owned())
}
