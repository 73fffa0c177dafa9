//! Where does a job lie that fits no message? In S3, below `jobs/`, and the message is its claim check: `id`, `batch` and
//! `tenant` of the job, and `payload`, where the rest of it is.
//!
//! The object is named by its content, so that a job sent twice lies there once. Nobody deletes it: a message can be
//! delivered again long after its job has ended, and a dead letter is read by a person. A lifecycle rule of the bucket
//! removes what is older than any message can become.
//!
//! Jobs are spliced together as text, not as values, so that what reaches intake is what was written: numbers to the last digit,
//! and a key that stands there twice.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::objects::{Objects, Part};
use crate::job::ident::Digest;
use crate::ports::{StoreError, StoreTrouble};

/// A larger object is no job.
const PAYLOAD_BYTES: usize = 16 << 20;
/// So many deliveries, a quarter of an hour by the delays between them, wait for a permission that may be on its way.
const PATIENCE: u32 = 20;
/// What names a job, and stands in its claim check too.
const IDENTITY: [&str; 3] = ["id", "batch", "tenant"];
/// What a job may be instead of a claim check.
const REQUESTS: [&str; 5] = ["prompt", "converse", "invoke", "agent", "document"];

/// The claim checks of one bucket and prefix.
#[derive(Clone, Debug)]
pub(super) struct ClaimChecks {
    objects: Objects,
    folder: String,
}

/// What became of a body that may be a claim check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Resolved {
    /// It is none, or nothing can be had for it: intake says what is wrong with it.
    AsItIs,
    /// The job that it stands for.
    Job(String),
    /// Nobody can say just now.
    NotNow(StoreError),
}

impl ClaimChecks {
    /// Objects lie below `prefix`, which is empty or ends with `/`.
    pub(super) fn new(objects: Objects, prefix: &str) -> Self {
        Self { objects, folder: format!("{prefix}jobs/") }
    }

    /// Puts a body away and returns the message that stands for it.
    pub(super) async fn put_away(&self, body: &str) -> Result<String, StoreError> {
        let key = format!("{}{}.json", self.folder, Digest::of(body.as_bytes()));
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        self.objects.put("putting a large job away", &key, "application/json", bytes).await?;
        Ok(ticket(body, &self.objects.uri(&key)))
    }

    /// What the body of a message in its n-th delivery stands for.
    pub(super) async fn resolve(&self, body: &str, receives: u32) -> Resolved {
        let Some(uri) = payload(body) else { return Resolved::AsItIs };
        let Some((bucket, key)) = Objects::place(&uri) else { return Resolved::AsItIs };
        let doing = "fetching a large job";
        let found = self.objects.read_from(doing, bucket, key, Part::Whole { limit: PAYLOAD_BYTES }).await;
        match found {
            Ok(found) => found.and_then(|found| merged(body, &found)).map_or(Resolved::AsItIs, Resolved::Job),
            Err(error) => match error.kind {
                StoreTrouble::Away | StoreTrouble::Full => Resolved::NotNow(error),
                StoreTrouble::Denied if receives <= PATIENCE => Resolved::NotNow(error),
                // A bucket that is not there, or in another region: nothing that time mends.
                StoreTrouble::Denied | StoreTrouble::Newer | StoreTrouble::Damaged | StoreTrouble::Other => {
                    tracing::warn!(%error, "a large job cannot be had");
                    Resolved::AsItIs
                }
            },
        }
    }
}

/// Whether a claim check can stand for it.
pub(super) fn is_object(body: &str) -> bool {
    fields(body).is_some()
}

/// The message that stands for a body that lies at `uri`.
fn ticket(body: &str, uri: &str) -> String {
    let uri = serde_json::Value::from(uri).to_string();
    let fields = fields(body).unwrap_or_default();
    let identity = fields.iter().filter(|field| IDENTITY.contains(&field.key.as_str()));
    object(identity.map(|field| (field.key.as_str(), field.value)).chain([("payload", uri.as_str())]))
}

/// Where the rest of a claim check lies; `None` if the body is none.
fn payload(body: &str) -> Option<String> {
    // Cheaper than reading the JSON of every message.
    if !body.contains("\"payload\"") {
        return None;
    }
    let fields = fields(body)?;
    if fields.iter().any(|field| REQUESTS.contains(&field.key.as_str()) && !field.is_unset()) {
        return None;
    }
    let payload = fields.iter().find(|field| field.key == "payload")?;
    serde_json::from_str(payload.value).ok()
}

/// A claim check and what lies there, as one job: what both say, the claim check says. `None` if what lies there is no
/// JSON object.
fn merged(ticket: &str, found: &[u8]) -> Option<String> {
    let (ours, theirs) = (fields(ticket)?, fields(std::str::from_utf8(found).ok()?)?);
    let ours: Vec<_> = ours.iter().filter(|field| field.key != "payload" && !field.is_unset()).collect();
    let theirs = theirs.iter().filter(|field| !ours.iter().any(|our| our.key == field.key));
    Some(object(ours.iter().copied().chain(theirs).map(|field| (field.key.as_str(), field.value))))
}

fn object<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let fields: Vec<String> = fields.map(|(key, value)| format!("{}:{value}", serde_json::Value::from(key))).collect();
    format!("{{{}}}", fields.join(","))
}

fn fields(json: &str) -> Option<Vec<Field<'_>>> {
    serde_json::from_str::<Fields<'_>>(json).ok().map(|fields| fields.0)
}

/// A field of a JSON object, its value as it was written.
#[derive(Debug)]
struct Field<'a> {
    key: String,
    value: &'a str,
}

impl Field<'_> {
    /// Intake takes null for "not set", too.
    fn is_unset(&self) -> bool {
        self.value == "null"
    }
}

/// The fields of an object in their order, repeated ones included.
struct Fields<'a>(Vec<Field<'a>>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                    fields.push(Field { key, value: value.get() });
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_names_the_job_and_where_it_lies() {
        let job = r#"{"prompt":"long","tenant":"acme","max_tokens":5,"id":"a-1","batch":"b \"x\""}"#;
        assert_eq!(
            ticket(job, "s3://b/jobs/1.json"),
            r#"{"tenant":"acme","id":"a-1","batch":"b \"x\"","payload":"s3://b/jobs/1.json"}"#
        );
        assert_eq!(ticket("no JSON", "s3://b/k"), r#"{"payload":"s3://b/k"}"#);
    }

    #[test]
    fn what_a_ticket_stands_for_is_the_job_as_it_was_written() {
        let job = r#"{"id":"a-1","invoke":{"temperature":0.30000000000000004441,"n": 12345678901234567890}}"#;
        let back = merged(&ticket(job, "s3://b/k"), job.as_bytes()).unwrap();
        assert_eq!(back, job);
    }

    #[test]
    fn what_the_message_says_wins() {
        let message = r#"{"payload":"s3://b/k","id":"outer","tenant":null,"callback":{"task_token":"t"}}"#;
        let found = br#"{ "id": "inner", "tenant": "acme", "callback": {}, "prompt": "p" }"#;
        let job = merged(message, found).unwrap();
        assert_eq!(job, r#"{"id":"outer","callback":{"task_token":"t"},"tenant":"acme","prompt":"p"}"#);
    }

    #[test]
    fn a_key_that_stands_there_twice_is_left_for_intake_to_refuse() {
        let job = merged(r#"{"payload":"s3://b/k"}"#, br#"{"prompt":"a","prompt":"b"}"#).unwrap();
        assert_eq!(job, r#"{"prompt":"a","prompt":"b"}"#);
    }

    #[test]
    fn only_an_object_with_a_payload_and_nothing_else_to_send_is_a_claim_check() {
        assert_eq!(payload(r#"{"id":"a","payload":"s3://b/k"}"#).as_deref(), Some("s3://b/k"));
        assert_eq!(payload(r#"{"prompt":null,"payload":"s3://b/k"}"#).as_deref(), Some("s3://b/k"));
        for body in [
            "",
            "\"payload\"",
            r#"["payload"]"#,
            r#"{"payload":5}"#,
            r#"{"payload":null}"#,
            r#"{"prompt":"\"payload\""}"#,
            r#"{"prompt":"a","payload":"s3://b/k"}"#,
            r#"{"metadata":{"payload":"s3://b/k"},"prompt":"a"}"#,
            r#"{"payload":"s3://b/k""#,
        ] {
            assert_eq!(payload(body), None, "{body}");
        }
    }

    #[test]
    fn what_is_no_object_is_no_job() {
        for found in [&b""[..], b"\xff\xfe", b"[]", b"\"prompt\"", b"{\"prompt\":", b"{} {}"] {
            assert_eq!(merged(r#"{"payload":"s3://b/k"}"#, found), None);
        }
    }
}
