//! Does this message ask something of the workers about a whole batch? A workflow does: that a file of jobs be enqueued, or that
//! what failed be run again. Who asks waits under a task token until the batch is complete.
//!
//! ```json
//! {"enqueue": {"source": "s3://bucket/reviews.jsonl", "model": "haiku"}, "batch": "reviews", "callback": {"task_token": "..."}}
//! {"redrive": {"class": "timeout"}, "batch": "reviews", "callback": {"task_token": "..."}}
//! ```
//!
//! `model` and `class` may be left out, and so may `callback`; `id`, `tenant`, `deadline` and `metadata` may stand there as in a job. The
//! deadline is that of the jobs that are sent for the request, too, unless their own is sooner.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::failure::Class;
use super::ident::{BatchKey, BatchName, JobId, Tenant};
use super::intake::{Fault, Field, callback, deadline, model, name, of_object, unknown_key_among};
use super::spec::TaskToken;
use super::units::Timestamp;

/// What is asked about a batch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BatchRequest {
    /// What the request is called; one that is sent again under this name is the same one.
    pub id: Option<JobId>,
    /// Which batch.
    pub batch: BatchKey,
    /// What is asked.
    pub ask: Ask,
    /// Who waits until it is complete.
    pub waits: Option<TaskToken>,
    /// Nobody wants it any more after that, nor any of the jobs that are sent for it.
    pub deadline: Option<Timestamp>,
}

/// The kinds of requests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ask {
    /// The lines of an object are its jobs.
    Enqueue {
        /// Where it lies, `s3://bucket/key`.
        source: String,
        /// The model of jobs that name none.
        model: Option<String>,
    },
    /// Its jobs that failed or expired run again.
    Redrive {
        /// Only those that failed of this.
        class: Option<Class>,
    },
}

/// Why a message that asks for one of these is no such request, in words safe to log.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`enqueue` and `redrive` ask about a batch, and {0}")]
pub struct NotARequest(String);

impl BatchRequest {
    /// Reads a queue message; `None` if it asks for neither, and is to be read as a job.
    ///
    /// # Errors
    /// [`NotARequest`], with the first thing wrong.
    pub fn parse(body: &str) -> Option<Result<Self, NotARequest>> {
        #[derive(Deserialize)]
        struct Claim {
            enqueue: Option<IgnoredAny>,
            redrive: Option<IgnoredAny>,
        }
        // Nearly every message is a job: those are not read twice, but for the few whose text holds one of the words in quotes.
        if !(body.contains("\"enqueue\"") || body.contains("\"redrive\"")) || !body.trim_start().starts_with('{') {
            return None;
        }
        let claim: Claim = serde_json::from_str(body).ok()?;
        claim.enqueue.or(claim.redrive)?;
        Some(read(body).map_err(|fault| NotARequest(fault.reason)))
    }
}

/// By hand, as jobs are: what serde says of a value that does not fit shows the value.
fn read(body: &str) -> Result<BatchRequest, Fault> {
    const KEYS: [&str; 8] = ["id", "tenant", "batch", "enqueue", "redrive", "callback", "deadline", "metadata"];
    let (mut id, mut tenant, mut batch) = (None, Tenant::unnamed(), None);
    let (mut asks, mut waits, mut until) = (Vec::new(), None, None);
    for field in of_object(body, 0)? {
        match field.key.as_str() {
            key if !KEYS.contains(&key) => return Err(unknown_key_among(&field, &KEYS, "such a message")),
            _ if field.is_unset() => {}
            "id" => id = Some(name(&field, JobId::new)?),
            "tenant" => tenant = name(&field, Tenant::new)?,
            "batch" => batch = Some(name(&field, BatchName::new)?),
            "enqueue" => asks.push(enqueue(&field)?),
            "redrive" => asks.push(redrive(&field)?),
            "callback" => waits = Some(callback(&field)?.token),
            "deadline" => until = Some(deadline(&field)?),
            // It is for whoever sent it.
            _ => {}
        }
    }
    let batch: BatchName = batch.ok_or_else(|| Fault::nowhere("there is no `batch`"))?;
    if batch == BatchName::none() || batch.is_of_parts() {
        return Err(Fault::nowhere(format!("`{batch}` is no batch that can be asked about")));
    }
    let (Some(ask), true) = (asks.pop(), asks.is_empty()) else {
        return Err(Fault::nowhere("one message asks for one of them"));
    };
    Ok(BatchRequest { id, batch: BatchKey { tenant, batch }, ask, waits, deadline: until })
}

fn enqueue(field: &Field<'_>) -> Result<Ask, Fault> {
    const KEYS: [&str; 2] = ["source", "model"];
    let (mut source, mut named) = (None, None);
    for field in field.fields()? {
        match field.key.as_str() {
            key if !KEYS.contains(&key) => return Err(unknown_key_among(&field, &KEYS, "`enqueue`")),
            _ if field.is_unset() => {}
            "model" => named = Some(model(&field)?),
            _ => source = Some(object(&field)?),
        }
    }
    let source = source.ok_or_else(|| Fault::nowhere("`enqueue` has no `source`"))?;
    Ok(Ask::Enqueue { source, model: named })
}

fn redrive(field: &Field<'_>) -> Result<Ask, Fault> {
    const KEYS: [&str; 1] = ["class"];
    let mut class = None;
    for field in field.fields()? {
        match field.key.as_str() {
            key if !KEYS.contains(&key) => return Err(unknown_key_among(&field, &KEYS, "`redrive`")),
            _ if field.is_unset() => {}
            _ => class = Some(class_of(&field)?),
        }
    }
    Ok(Ask::Redrive { class })
}

fn object(field: &Field<'_>) -> Result<String, Fault> {
    let source = field.text()?;
    match source.strip_prefix("s3://").and_then(|place| place.split_once('/')) {
        Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() => Ok(source),
        Some(_) | None => Err(field.fault("`source` names no object: write it as s3://bucket/key")),
    }
}

fn class_of(field: &Field<'_>) -> Result<Class, Fault> {
    Class::from_word(&field.text()?).ok_or_else(|| {
        let known: Vec<_> = Class::ALL.iter().map(|class| class.word()).collect();
        field.fault(format!("`class` is none of {}", known.join(", ")))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_the_workflow_sends_is_read() {
        let body = r#"{"id":"enqueue-9f-0","tenant":"acme","batch":"reviews","enqueue":{"source":"s3://b/in/k.jsonl"},
            "callback":{"task_token":"t"}}"#;
        let request = BatchRequest::parse(body).unwrap().unwrap();
        let ask = Ask::Enqueue { source: "s3://b/in/k.jsonl".to_owned(), model: None };
        assert_eq!((request.ask, request.waits), (ask, TaskToken::new("t")));
        assert_eq!((request.batch.tenant.as_str(), request.batch.batch.as_str()), ("acme", "reviews"));
        let request = BatchRequest::parse(r#"{"redrive":{},"batch":"reviews"}"#).unwrap().unwrap();
        assert_eq!((request.ask, request.batch.tenant), (Ask::Redrive { class: None }, Tenant::unnamed()));
        let body =
            r#"{"redrive":{"class":"timeout"},"batch":"reviews","metadata":{"a":1},"deadline":"2026-11-21T18:00:00Z"}"#;
        let request = BatchRequest::parse(body).unwrap().unwrap();
        assert_eq!(request.ask, Ask::Redrive { class: Some(Class::Timeout) });
        assert!(request.deadline.is_some());
    }

    #[test]
    fn a_job_that_holds_the_words_is_a_job() {
        for body in [
            r#"{"id":"a","prompt":"say \"enqueue\" twice"}"#,
            r#"{"id":"a","prompt":"x","metadata":{"redrive":{}}}"#,
            r#""enqueue""#,
            r#"{"enqueue":"#,
            "",
        ] {
            assert_eq!(BatchRequest::parse(body), None, "{body}");
        }
    }

    #[test]
    fn what_asks_and_cannot_be_meant_is_refused_by_name() {
        for (body, said) in [
            (r#"{"enqueue":{"source":"s3://b/k"}}"#, "there is no `batch`"),
            (r#"{"enqueue":{"source":"s3://b"},"batch":"b"}"#, "`source` names no object"),
            (r#"{"enqueue":{},"batch":"b"}"#, "`enqueue` has no `source`"),
            (
                r#"{"enqueue":{"source":"s3://b/k","modle":"m"},"batch":"b"}"#,
                "unknown key `modle` in `enqueue`; did you mean `model`?",
            ),
            (r#"{"enqueue":{"source":"s3://b/k"},"redrive":{},"batch":"b"}"#, "one of them"),
            (r#"{"enqueue":{"source":"s3://b/k"},"batch":"b","prompt":"x"}"#, "unknown key `prompt`"),
            (r#"{"enqueue":{"source":"s3://b/k"},"batch":"-"}"#, "no batch that can be asked about"),
            (r#"{"redrive":{"class":"bad luck"},"batch":"b"}"#, "`class` is none of"),
            (r#"{"redrive":{},"batch":"b","callback":"secret"}"#, "`callback` must be an object, found a string"),
            (r#"{"redrive":{},"batch":"b","callback":{"task_token":["secret"]}}"#, "`callback.task_token` must be"),
            (r#"{"redrive":{},"batch":"b","deadline":"soon"}"#, "`deadline` must be"),
            (r#"{"enqueue":"secret","batch":"b"}"#, "`enqueue` must be an object, found a string"),
            (r#"{"enqueue":["secret"],"batch":"b"}"#, "`enqueue` must be an object, found an array"),
            (r#"{"redrive":"secret","batch":"b"}"#, "`redrive` must be an object, found a string"),
            (r#"{"enqueue":{"source":{"secret":1}},"batch":"b"}"#, "`source` must be a string, found an object"),
            (r#"{"redrive":{"class":"secret"},"batch":"b"}"#, "`class` is none of"),
            (r#"{"redrive":{},"batch":["secret"]}"#, "`batch` must be a string, found an array"),
            (r#"{"redrive":{},"batch":"b","id":{"secret":1}}"#, "`id` must be a string, found an object"),
        ] {
            let error = BatchRequest::parse(body).unwrap().unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("secret"), "{body}: {error}");
        }
    }
}
