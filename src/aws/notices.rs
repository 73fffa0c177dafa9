//! How does the world hear of an end? On an SNS topic, ten notices to a call, with attributes for filter policies.
//!
//! A notice is JSON and well below SNS's 256 KiB but for one field that nobody bounds, the words of an error; those are cut.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_sns::types::{MessageAttributeValue, PublishBatchRequestEntry};

use super::company::{Company, Room};
use super::entries::{self, Said};
use super::{Inner, text, trouble};
use crate::job::notice::{BreakerNotice, Notice};
use crate::ports::{BATCH_ENTRIES, Entry, EntryError, Notices, StoreError, StoreTrouble};

/// What a call may weigh: 256 KiB in all, less what we do not count.
const CALL_BYTES: usize = (256 - 16) << 10;
/// A notice that is longer has its error cut, so that ten of them fit into a call.
const NOTICE_BYTES: usize = 16 << 10;
/// What the words of an error are cut to then.
const ERROR_CHARS: usize = 1_024;

/// The topic of a fleet, if it has one.
#[derive(Debug)]
pub(super) struct SnsNotices {
    publishing: Option<Company<Arc<Letter>, Entry>>,
}

impl SnsNotices {
    /// Within a runtime, which carries the calls.
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        let publishing = inner.settings.topic_arn.clone().map(|topic| {
            let (inner, topic) = (Arc::clone(inner), Arc::<str>::from(topic));
            let room = Room { requests: BATCH_ENTRIES, enough: BATCH_ENTRIES, bytes: CALL_BYTES };
            Company::new("publishing notices", room, move |group| {
                let (inner, topic) = (Arc::clone(&inner), Arc::clone(&topic));
                Box::pin(async move { publish(&inner, &topic, group).await })
            })
        });
        Self { publishing }
    }
}

#[async_trait]
impl Notices for SnsNotices {
    async fn publish(&self, notice: &Notice) -> Result<(), StoreError> {
        let Some(publishing) = &self.publishing else { return Ok(()) };
        let letter = Letter::of(notice)?;
        let weight = letter.weight();
        match publishing.ask(Arc::new(letter), weight).await? {
            Ok(()) => Ok(()),
            Err(error @ (EntryError::Refused(_) | EntryError::NotOurs)) => {
                Err(trouble::of_ours(StoreTrouble::Other, "publishing a notice", error.to_string()))
            }
        }
    }
}

/// A notice as SNS takes it.
#[derive(Debug)]
struct Letter {
    message: String,
    attributes: Vec<(&'static str, String)>,
}

impl Letter {
    fn of(notice: &Notice) -> Result<Self, StoreError> {
        let mut message = json(notice)?;
        if message.len() > NOTICE_BYTES {
            message = json(&shortened(notice.clone()))?;
        }
        let attributes = attributes(notice).into_iter();
        // What a filter policy could not be written for is left out; the message still says it.
        let attributes = attributes.filter(|(_, value)| text::can_be_sent(value)).collect();
        Ok(Self { message: text::json(message), attributes })
    }

    fn weight(&self) -> usize {
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + "String".len() + value.len());
        self.message.len() + attributes.sum::<usize>()
    }
}

fn json(notice: &Notice) -> Result<String, StoreError> {
    serde_json::to_string(notice)
        .map_err(|error| trouble::of_ours(StoreTrouble::Other, "writing a notice", error.to_string()))
}

fn shortened(notice: Notice) -> Notice {
    match notice {
        Notice::Job(mut job) => {
            if let Some(error) = &mut job.error {
                error.message = text::cut(&error.message, ERROR_CHARS);
            }
            Notice::Job(job)
        }
        other @ (Notice::Batch(_) | Notice::Breaker(_)) => other,
    }
}

fn attributes(notice: &Notice) -> Vec<(&'static str, String)> {
    let (kind, status, tenant, batch, model) = match notice {
        Notice::Job(job) => ("job", job.status, &job.tenant, &job.batch, job.model_used.clone()),
        Notice::Batch(batch) => ("batch", batch.status, &batch.tenant, &batch.batch, None),
        // Nobody's: who filters by tenant or batch does not hear of it.
        Notice::Breaker(BreakerNotice { state, model, .. }) => {
            return vec![("kind", "breaker".to_owned()), ("status", (*state).to_owned()), ("model", model.clone())];
        }
    };
    let mut attributes = vec![
        ("kind", kind.to_owned()),
        ("status", status.to_string()),
        ("tenant", tenant.to_string()),
        ("batch", batch.to_string()),
    ];
    attributes.extend(model.map(|model| ("model", model)));
    attributes
}

async fn publish(inner: &Inner, topic: &str, group: Vec<Arc<Letter>>) -> Vec<Result<Entry, StoreError>> {
    let doing = "publishing notices";
    entries::carry_out(doing, group, |group: Vec<Arc<Letter>>| async move {
        let entries = group.iter().enumerate().map(|(place, letter)| {
            let entry = PublishBatchRequestEntry::builder().id(entries::id(place)).message(&letter.message);
            let attributes = letter.attributes.iter().map(|(name, value)| {
                let value = MessageAttributeValue::builder().data_type("String").string_value(value).build();
                value.map(|value| ((*name).to_owned(), value))
            });
            entry.set_message_attributes(Some(attributes.collect::<Result<_, _>>()?)).build()
        });
        let entries: Result<Vec<_>, aws_smithy_types::error::operation::BuildError> = entries.collect();
        let entries = entries.map_err(|error| trouble::of_ours(StoreTrouble::Other, doing, error.to_string()))?;
        let request = inner.clients.sns.publish_batch().topic_arn(topic);
        let published = request.set_publish_batch_request_entries(Some(entries)).send().await;
        let published = published.map_err(|error| trouble::of_sdk(doing, &error))?;
        let done = published.successful.unwrap_or_default().into_iter();
        let done = done.filter_map(|done| Some((done.id?, Said::Done(()))));
        let failed = published.failed.unwrap_or_default().into_iter();
        let failed = failed
            .map(|entry| (entry.id.clone(), Said::failed(&entry.code, entry.message.as_deref(), entry.sender_fault)));
        Ok(entries::in_order(group.len(), done.chain(failed)))
    })
    .await
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::canned::{Canned, Service};
    use super::*;
    use crate::job::failure::{Class, Failure};
    use crate::job::ident::{BatchKey, BatchName, Digest, JobId, JobKey, Tenant};
    use crate::job::lifecycle::Status;
    use crate::job::notice::BatchSums;
    use crate::job::outcome::{Ending, Pointer, Tally, Usage};
    use crate::job::units::Timestamp;

    fn notice(batch: &str, error: Option<Failure>) -> Notice {
        let (tenant, batch) = (Tenant::new("acme").unwrap(), BatchName::new(batch).unwrap());
        let key = JobKey { tenant, batch, id: JobId::new("a-1").unwrap() };
        let result = Pointer { uri: "s3://b/k".to_owned(), offset: 5, length: 2, sha256: Digest::of(b"{}") };
        let (status, model_used) = (Status::Failed, Some("us.anthropic.claude".to_owned()));
        Notice::of_job(
            &key,
            0,
            &Tally::default(),
            &Ending { status, model_used, usage: Usage::default(), error, result },
        )
    }

    #[test]
    fn a_filter_policy_finds_what_it_filters_by() {
        let letter = Letter::of(&notice("reviews 2026", None)).unwrap();
        let expected = [
            ("kind", "job"),
            ("status", "failed"),
            ("tenant", "acme"),
            ("batch", "reviews 2026"),
            ("model", "us.anthropic.claude"),
        ];
        assert_eq!(letter.attributes, expected.map(|(name, value)| (name, value.to_owned())));
        let key = BatchKey { tenant: Tenant::unnamed(), batch: BatchName::new("b").unwrap() };
        let letter = Letter::of(&Notice::of_batch(&key, 0, BatchSums::default(), "s3://b/m".to_owned())).unwrap();
        let names: Vec<_> = letter.attributes.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["kind", "status", "tenant", "batch"]);
        assert_eq!(letter.attributes[0].1, "batch");
        let turned = Notice::of_breaker("us-east-1", "m", "open", Some(Timestamp(60_000)), Timestamp(0));
        let expected = [("kind", "breaker"), ("status", "open"), ("model", "m")];
        assert_eq!(Letter::of(&turned).unwrap().attributes, expected.map(|(name, value)| (name, value.to_owned())));
    }

    fn replied(members: &str) -> Canned {
        let body = format!(
            "<PublishBatchResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishBatchResult>{members}\
             </PublishBatchResult></PublishBatchResponse>"
        );
        Canned::new(200, body).header("content-type", "text/xml")
    }

    fn failed(code: &str, sender_fault: bool) -> Canned {
        replied(&format!(
            "<Successful/><Failed><member><Id>0</Id><Code>{code}</Code><SenderFault>{sender_fault}</SenderFault></member></Failed>"
        ))
    }

    #[tokio::test]
    async fn f19_a_notice_that_failed_alone_is_published_all_the_same() {
        let done = replied("<Successful><member><Id>0</Id><MessageId>m</MessageId></member></Successful><Failed/>");
        let service = Service::answering([failed("InternalError", false), done]).await;
        service.fleet.notices().publish(&notice("b", None)).await.unwrap();
        assert_eq!(service.asked().len(), 2);
    }

    #[tokio::test]
    async fn f19_a_notice_that_is_refused_is_not_taken_for_published() {
        let service = Service::answering([failed("InvalidParameter", true)]).await;
        service.fleet.notices().publish(&notice("b", None)).await.unwrap_err();
        assert_eq!(service.asked().len(), 1);
    }

    #[test]
    fn an_attribute_that_sns_does_not_take_is_left_out_and_the_message_says_it() {
        let notice = notice("odd \u{fffe}", None);
        let letter = Letter::of(&notice).unwrap();
        assert!(letter.attributes.iter().all(|(name, _)| *name != "batch"));
        assert_eq!(letter.attributes.len(), 4);
        assert!(text::can_be_sent(&letter.message));
        let said: serde_json::Value = serde_json::from_str(&letter.message).unwrap();
        assert_eq!(said, serde_json::to_value(&notice).unwrap());
    }

    #[test]
    fn a_notice_never_exceeds_what_ten_share() {
        for c in ["x", "\u{1}", "\u{1F30A}", "\"", "\u{ffff}"] {
            let letter = Letter::of(&notice("b", Some(Failure::new(Class::Unknown, c.repeat(300_000))))).unwrap();
            assert!(letter.weight() <= CALL_BYTES / BATCH_ENTRIES, "{c:?}: {}", letter.weight());
            let said: serde_json::Value = serde_json::from_str(&letter.message).unwrap();
            assert_eq!(said["error"]["class"], "unknown");
        }
        let short = Failure::new(Class::Unknown, "as it is");
        let said = Letter::of(&notice("b", Some(short.clone()))).unwrap().message;
        assert_eq!(serde_json::from_str::<serde_json::Value>(&said).unwrap()["error"]["message"], short.message);
    }
}
