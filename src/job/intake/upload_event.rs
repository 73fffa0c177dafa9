//! Does this message tell of an upload? S3 tells of it in three forms: as a notification (`Records`), as the same in an SNS
//! envelope, and as an EventBridge event.
//!
//! One message is one upload, so that it is done with as one job is. S3 sends one record a message; of a message with more each
//! record becomes a message of its own. What claims to be an event and is none is refused with its reason, and so is never lost.

use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::fields::shown;
use crate::job::upload::{Revision, Upload};

/// What a message tells of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UploadEvent {
    /// A new object.
    Upload(Upload),
    /// Several records; the messages that they are, one each.
    Several(Vec<String>),
    /// Nothing that is to be done: what it tells of, in words.
    Nothing(String),
}

/// Why a message that claims to be an event is none of an upload, in words safe to log.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct NotAnUpload(String);

/// How much of a name is shown.
const SHOWN: usize = 80;
/// Of keys that only events have: a job has no such key, and within a text the quotes would be escaped. Nearly every message is a
/// job, and is not read twice.
const MARKS: [&str; 4] = ["\"Records\"", "\"detail-type\"", "\"s3:TestEvent\"", "\"TopicArn\""];

/// Reads a queue message; `None` if it does not claim to be an event, and is to be read as a job.
///
/// # Errors
/// [`NotAnUpload`], with the first thing wrong.
pub fn parse_upload_event(body: &str) -> Option<Result<UploadEvent, NotAnUpload>> {
    if !body.trim_start().starts_with('{') || !MARKS.iter().any(|mark| body.contains(mark)) {
        return None;
    }
    let message: Value = serde_json::from_str(body).ok()?;
    match message.get("TopicArn").and_then(|_| message.get("Type")).and_then(Value::as_str) {
        Some("Notification") => Some(in_envelope(&message)),
        Some(other) => Some(fault(format!("an SNS message of type `{}`, and not a notification", shown(other, SHOWN)))),
        None => event(&message),
    }
}

/// The event in an SNS envelope.
fn in_envelope(envelope: &Value) -> Result<UploadEvent, NotAnUpload> {
    let inner = serde_json::from_str::<Value>(text(envelope, "/Message")?).ok();
    inner.as_ref().and_then(event).unwrap_or_else(|| {
        fault("an SNS notification that holds no S3 event; jobs need `RawMessageDelivery` on the subscription")
    })
}

fn event(message: &Value) -> Option<Result<UploadEvent, NotAnUpload>> {
    if message.get("Event").and_then(Value::as_str) == Some("s3:TestEvent") {
        return Some(Ok(UploadEvent::Nothing("a test of the bucket's notifications".to_owned())));
    }
    if let Some(records) = message.get("Records") {
        return Some(notification(records));
    }
    message.get("detail-type").map(|_| event_bridge(message))
}

fn notification(records: &Value) -> Result<UploadEvent, NotAnUpload> {
    match records.as_array().map(Vec::as_slice) {
        None => fault("`Records` is no array"),
        Some([]) => fault("`Records` is empty"),
        Some([record]) => one(record),
        Some(records) => {
            let message = |record: &Value| serde_json::json!({ "Records": [record] }).to_string();
            Ok(UploadEvent::Several(records.iter().map(message).collect()))
        }
    }
}

/// A record of a notification.
fn one(record: &Value) -> Result<UploadEvent, NotAnUpload> {
    let source = text(record, "/eventSource")?;
    // Those that speak S3 name themselves before it.
    if !source.ends_with(":s3") {
        return fault(format!("a record of `{}`, and not of S3", shown(source, SHOWN)));
    }
    let name = text(record, "/eventName")?;
    if !name.trim_start_matches("s3:").starts_with("ObjectCreated:") {
        return Ok(UploadEvent::Nothing(format!("an event of the kind {}", shown(name, SHOWN))));
    }
    let object = Object { event: record, at: "/s3/object", version: "/s3/object/versionId" };
    // As in the query of a URL.
    let encoded = text(record, "/s3/object/key")?.replace('+', " ");
    let key = percent_decode_str(&encoded).decode_utf8();
    let key = key.map_err(|_| NotAnUpload("`s3.object.key` is not UTF-8 once it is decoded".to_owned()))?;
    object.upload(text(record, "/s3/bucket/name")?, &key)
}

fn event_bridge(event: &Value) -> Result<UploadEvent, NotAnUpload> {
    let source = text(event, "/source")?;
    if source != "aws.s3" {
        return fault(format!("an EventBridge event of `{}`, and not of aws.s3", shown(source, SHOWN)));
    }
    let kind = text(event, "/detail-type")?;
    if kind != "Object Created" {
        return Ok(UploadEvent::Nothing(format!("an event of the kind {}", shown(kind, SHOWN))));
    }
    let object = Object { event, at: "/detail/object", version: "/detail/object/version-id" };
    object.upload(text(event, "/detail/bucket/name")?, text(event, "/detail/object/key")?)
}

/// What an event says of an object, and where.
struct Object<'a> {
    event: &'a Value,
    at: &'static str,
    version: &'static str,
}

impl Object<'_> {
    fn upload(&self, bucket: &str, key: &str) -> Result<UploadEvent, NotAnUpload> {
        if bucket.is_empty() || bucket.contains('/') {
            return fault(format!("`{}` is no bucket's name", shown(bucket, SHOWN)));
        }
        if key.is_empty() {
            return fault("the object's key is empty");
        }
        let size = self.event.pointer(&format!("{}/size", self.at)).and_then(Value::as_u64);
        if key.ends_with('/') && size.is_none_or(|size| size == 0) {
            return Ok(UploadEvent::Nothing(format!("the folder {}", shown(key, SHOWN))));
        }
        let revision = self.revision()?;
        Ok(UploadEvent::Upload(Upload { bucket: bucket.to_owned(), key: key.to_owned(), revision }))
    }

    fn revision(&self) -> Result<Revision, NotAnUpload> {
        let said = |place: &str| self.event.pointer(place).and_then(Value::as_str).filter(|text| !text.is_empty());
        // A bucket that has stopped keeping versions calls each new object so.
        if let Some(version) = said(self.version).filter(|version| *version != "null") {
            return Ok(Revision::Version(version.to_owned()));
        }
        match said(&format!("{}/sequencer", self.at)) {
            Some(number) => Ok(Revision::Sequencer(number.to_owned())),
            None => fault("neither a version id nor a `sequencer`: whether it is new cannot be told"),
        }
    }
}

fn text<'a>(event: &'a Value, place: &str) -> Result<&'a str, NotAnUpload> {
    let found = event.pointer(place).and_then(Value::as_str);
    found.ok_or_else(|| {
        NotAnUpload(format!("`{}` is missing, or no text", place.trim_start_matches('/').replace('/', ".")))
    })
}

fn fault<T>(why: impl Into<String>) -> Result<T, NotAnUpload> {
    Err(NotAnUpload(why.into()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    /// As S3 documents it, for this key as it is encoded there.
    fn record(key: &str) -> Value {
        json!({
            "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-west-2",
            "eventTime": "2026-11-22T00:00:00.000Z", "eventName": "ObjectCreated:Put",
            "userIdentity": { "principalId": "AIDAJDPLRKLG7UEXAMPLE" },
            "requestParameters": { "sourceIPAddress": "127.0.0.1" },
            "responseElements": { "x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8" },
            "s3": {
                "s3SchemaVersion": "1.0", "configurationId": "uploads",
                "bucket": { "name": "drop", "ownerIdentity": { "principalId": "A3NL1" }, "arn": "arn:aws:s3:::drop" },
                "object": {
                    "key": key, "size": 1024, "eTag": "d41d8cd98f00b204e9800998ecf8427e",
                    "versionId": "096fKKXTRTtl3on89fVO.nfljtsv6qko", "sequencer": "0055AED6DCD90281E5",
                },
            },
        })
    }

    fn bridge(key: &str) -> Value {
        json!({
            "version": "0", "id": "17793124-05d4-b198-2fde-7ededc63b103", "detail-type": "Object Created",
            "source": "aws.s3", "account": "111122223333", "time": "2026-11-22T00:00:00Z", "region": "us-west-2",
            "resources": ["arn:aws:s3:::drop"],
            "detail": {
                "version": "0", "bucket": { "name": "drop" },
                "object": {
                    "key": key, "size": 1024, "etag": "b1946ac92492d2347c6235b4d2611184",
                    "version-id": "096fKKXTRTtl3on89fVO.nfljtsv6qko", "sequencer": "0055AED6DCD90281E5",
                },
                "request-id": "N4N7GDK58NMKJ12R", "requester": "123456789012", "source-ip-address": "1.2.3.4",
                "reason": "PutObject",
            },
        })
    }

    fn envelope(message: &Value) -> Value {
        json!({
            "Type": "Notification", "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": "arn:aws:sns:us-west-2:111122223333:uploads", "Subject": "Amazon S3 Notification",
            "Message": message.to_string(), "Timestamp": "2026-11-22T00:00:00.000Z", "SignatureVersion": "1",
        })
    }

    fn records(records: &[Value]) -> Value {
        json!({ "Records": records })
    }

    fn read(message: &Value) -> Result<UploadEvent, NotAnUpload> {
        parse_upload_event(&message.to_string()).unwrap_or_else(|| panic!("taken for a job: {message}"))
    }

    fn upload(message: &Value) -> Upload {
        match read(message) {
            Ok(UploadEvent::Upload(upload)) => upload,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn f1_w8_one_upload_told_in_three_forms_is_one_upload() {
        let told = [records(&[record("in/r%C3%A9sum%C3%A9+1%2B2.pdf")]), bridge("in/résumé 1+2.pdf")];
        let first = upload(&told[0]);
        assert_eq!((first.bucket.as_str(), first.key.as_str()), ("drop", "in/résumé 1+2.pdf"));
        assert_eq!(first.revision, Revision::Version("096fKKXTRTtl3on89fVO.nfljtsv6qko".to_owned()));
        for form in told.iter().chain([&envelope(&told[0]), &envelope(&told[1])]) {
            assert_eq!(upload(form).digest(), first.digest(), "{form}");
        }
    }

    #[test]
    fn w8_without_versions_the_sequencer_tells_uploads_apart() {
        for none in [json!(null), json!("null"), json!("")] {
            let (mut told, mut bridged) = (record("a.pdf"), bridge("a.pdf"));
            told["s3"]["object"]["versionId"] = none.clone();
            bridged["detail"]["object"]["version-id"] = none;
            let expected = Revision::Sequencer("0055AED6DCD90281E5".to_owned());
            assert_eq!(upload(&records(&[told])).revision, expected);
            assert_eq!(upload(&bridged).revision, expected);
        }
    }

    #[test]
    fn w8_a_key_is_decoded_in_records_and_only_there() {
        for (encoded, key) in
            [("a%20b+c.pdf", "a b c.pdf"), ("a%252Fb%2Fc", "a%2Fb/c"), ("in%2Fx%2By.txt", "in/x+y.txt")]
        {
            assert_eq!(upload(&records(&[record(encoded)])).key, key);
            assert_eq!(upload(&bridge(encoded)).key, encoded);
        }
    }

    #[test]
    fn what_is_no_upload_is_no_work() {
        let test = json!({
            "Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-11-22T00:00:00.000Z", "Bucket": "drop",
            "RequestId": "5582815E1AEA5ADF", "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR",
        });
        let (mut removed, mut deleted) = (record("a.pdf"), bridge("a.pdf"));
        removed["eventName"] = json!("ObjectRemoved:Delete");
        deleted["detail-type"] = json!("Object Deleted");
        let mut folder = record("in/");
        folder["s3"]["object"]["size"] = json!(0);
        for message in [envelope(&test), test, records(&[removed]), deleted, records(&[folder])] {
            assert!(matches!(read(&message), Ok(UploadEvent::Nothing(_))), "{message}");
        }
    }

    #[test]
    fn several_records_are_as_many_messages_and_a_bad_one_takes_nothing_from_the_others() {
        let mut bad = record("b.pdf");
        bad["s3"]["object"].as_object_mut().unwrap().remove("key");
        let several = records(&[record("a.pdf"), bad, record("c.pdf")]);
        for form in [several.clone(), envelope(&several)] {
            let Ok(UploadEvent::Several(messages)) = read(&form) else { panic!("{form}") };
            let each: Vec<_> = messages.iter().map(|message| parse_upload_event(message).unwrap()).collect();
            let keys = |event: &Result<UploadEvent, NotAnUpload>| match event {
                Ok(UploadEvent::Upload(upload)) => upload.key.clone(),
                Err(why) => why.to_string(),
                other => panic!("{other:?}"),
            };
            let keys: Vec<String> = each.iter().map(keys).collect();
            assert_eq!(keys, ["a.pdf", "`s3.object.key` is missing, or no text", "c.pdf"]);
        }
    }

    #[test]
    fn d5_what_claims_to_be_an_event_and_is_none_is_refused_with_its_reason() {
        let changed = |place: &str, value: Value| {
            let mut record = record("a.pdf");
            *record.pointer_mut(place).unwrap() = value;
            records(&[record])
        };
        let mut unsequenced = record("a.pdf");
        unsequenced["s3"]["object"] = json!({ "key": "a.pdf" });
        let mut of_batch = bridge("a.pdf");
        of_batch["source"] = json!("aws.batch");
        let mut confirmation = envelope(&json!({}));
        confirmation["Type"] = json!("SubscriptionConfirmation");
        for (message, said) in [
            (json!({ "Records": [] }), "`Records` is empty"),
            (json!({ "Records": 7 }), "`Records` is no array"),
            (json!({ "Records": ["x"] }), "`eventSource` is missing"),
            (changed("/eventSource", json!("aws:dynamodb")), "a record of `aws:dynamodb`"),
            (changed("/s3/bucket/name", json!(7)), "`s3.bucket.name` is missing, or no text"),
            (changed("/s3/bucket/name", json!("a/b")), "no bucket's name"),
            (changed("/s3/object/key", json!("")), "key is empty"),
            (changed("/s3/object/key", json!("%FF")), "not UTF-8"),
            (records(&[unsequenced]), "neither a version id nor a `sequencer`"),
            (of_batch, "`aws.batch`"),
            (json!({ "detail-type": "Object Created", "source": "aws.s3" }), "`detail.bucket.name` is missing"),
            (envelope(&json!({ "id": "a", "prompt": "x" })), "`RawMessageDelivery`"),
            (confirmation, "`SubscriptionConfirmation`"),
        ] {
            let why = read(&message).unwrap_err().to_string();
            assert!(why.contains(said), "{message}: {why}");
        }
    }

    #[test]
    fn a_job_is_not_taken_for_an_event() {
        for body in [
            r#"{"id":"a","prompt":"x"}"#,
            r#"{"id":"a","prompt":"{\"Records\":[1]} \"detail-type\" \"s3:TestEvent\""}"#,
            r#"{"id":"a","prompt":"x","metadata":{"Records":[],"detail-type":"x","TopicArn":"y","Event":"s3:TestEvent"}}"#,
            r#"["Records"]"#,
            r#"{"Records":"#,
            "",
        ] {
            assert_eq!(parse_upload_event(body), None, "{body}");
        }
    }
}
