//! Does this message ask something of the workers about a whole batch? A workflow does: that a file of jobs be enqueued, or that
//! what failed be run again. Who asks waits under a task token until the batch is complete.
//!
//! ```json
//! {"enqueue": {"source": "s3://bucket/reviews.jsonl", "model": "haiku"}, "batch": "reviews", "callback": {"task_token": "..."}}
//! {"redrive": {"class": "timeout"}, "batch": "reviews", "callback": {"task_token": "..."}}
//! ```
//!
//! `model` and `class` may be left out, and so may `callback`; `id`, `tenant`, `deadline` and `metadata` may stand there as in a job.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::control::token;
use super::failure::Class;
use super::ident::{BatchKey, BatchName, JobId, Tenant};
use super::intake::{NO_DEADLINE, moment};
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
    /// Nobody wants it any more after that.
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
        let read = serde_json::from_str::<Wire>(body).map_err(|error| error.to_string());
        Some(read.and_then(Wire::check).map_err(NotARequest))
    }
}

/// As it is read, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    id: Option<JobId>,
    tenant: Option<Tenant>,
    batch: BatchName,
    enqueue: Option<WireEnqueue>,
    redrive: Option<WireRedrive>,
    /// Read by hand: what serde says of a value that does not fit shows it, and a task token is not for logs.
    callback: Option<Value>,
    deadline: Option<String>,
    #[serde(rename = "metadata")]
    _metadata: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireEnqueue {
    source: String,
    model: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRedrive {
    class: Option<String>,
}

impl Wire {
    fn check(self) -> Result<BatchRequest, String> {
        let Self { id, tenant, batch, enqueue, redrive, callback, deadline, _metadata: _ } = self;
        if batch == BatchName::none() || batch.is_of_parts() {
            return Err(format!("`{batch}` is no batch that can be asked about"));
        }
        let ask = match (enqueue, redrive) {
            (Some(WireEnqueue { source, model }), None) => Ask::Enqueue { source: object(source)?, model },
            (None, Some(WireRedrive { class })) => Ask::Redrive { class: class.map(class_of).transpose()? },
            (Some(_), Some(_)) | (None, None) => return Err("one message asks for one of them".to_owned()),
        };
        Ok(BatchRequest {
            id,
            batch: BatchKey { tenant: tenant.unwrap_or_else(Tenant::unnamed), batch },
            ask,
            waits: callback.map(token).transpose()?,
            deadline: deadline.map(|text| moment(&text).ok_or_else(|| NO_DEADLINE.to_owned())).transpose()?,
        })
    }
}

fn object(source: String) -> Result<String, String> {
    let place = source.strip_prefix("s3://").and_then(|place| place.split_once('/'));
    match place {
        Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() => Ok(source),
        Some(_) | None => Err("`source` names no object: write it as s3://bucket/key".to_owned()),
    }
}

fn class_of(word: String) -> Result<Class, String> {
    Class::from_word(&word).ok_or_else(|| {
        let known: Vec<_> = Class::ALL.iter().map(|class| class.word()).collect();
        format!("`class` is none of {}", known.join(", "))
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
            (r#"{"enqueue":{"source":"s3://b/k"}}"#, "missing field `batch`"),
            (r#"{"enqueue":{"source":"s3://b"},"batch":"b"}"#, "`source` names no object"),
            (r#"{"enqueue":{},"batch":"b"}"#, "missing field `source`"),
            (r#"{"enqueue":{"source":"s3://b/k","modle":"m"},"batch":"b"}"#, "unknown field `modle`"),
            (r#"{"enqueue":{"source":"s3://b/k"},"redrive":{},"batch":"b"}"#, "one of them"),
            (r#"{"enqueue":{"source":"s3://b/k"},"batch":"b","prompt":"x"}"#, "unknown field `prompt`"),
            (r#"{"enqueue":{"source":"s3://b/k"},"batch":"-"}"#, "no batch that can be asked about"),
            (r#"{"redrive":{"class":"bad luck"},"batch":"b"}"#, "`class` is none of"),
            (r#"{"redrive":{},"batch":"b","callback":"secret"}"#, "`callback` is not"),
            (r#"{"redrive":{},"batch":"b","deadline":"soon"}"#, "`deadline` must be"),
        ] {
            let error = BatchRequest::parse(body).unwrap().unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("secret"), "{body}: {error}");
        }
    }
}
