//! What lies among the dead letters of a fleet, and how does it get out again? SQS shows messages only to whoever receives them: so
//! they are received, hidden for a while, looked at a few at a time, and let go again.
//!
//! A letter is put back in steps that may each be repeated: its job, if it had failed or expired, opens its next generation; then it
//! is sent; then the dead letter is deleted. Killed in between, the next redrive finds it still there, and the job that it holds is
//! worked once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName as Attribute};
use aws_smithy_types::error::operation::BuildError;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;

use super::batch_calls::seconds;
use super::claim_check::{ClaimChecks, Resolved};
use super::objects::Objects;
use super::{Fleet, Inner, redrive, trouble};
use crate::job::document::Place;
use crate::job::ident::{BatchName, JobId, JobKey, Tenant};
use crate::job::intake::{Defaults, parse_message};
use crate::job::spec::Job;
use crate::job::units::Timestamp;
use crate::ports::rolls::Redriven;
use crate::ports::{BATCH_ENTRIES, MessageId, ReceiptHandle, StoreError, StoreTrouble};

/// Whoever looks through them is done by then; should it be killed, the letters come back by themselves.
const HIDDEN: Duration = Duration::from_secs(120);
/// A poll this long asks every server of the queue: nothing means that there is nothing.
const POLL: Duration = Duration::from_secs(1);
/// Letters let go at once.
const AT_ONCE: usize = 16;

/// A message among the dead letters.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetLetter {
    /// Its name, the same at every look.
    pub id: MessageId,
    /// Which job it is, if its body says so.
    pub job: Option<JobKey>,
    /// Why it lies there. SQS gives none when it moves a message itself.
    pub reason: Option<String>,
    /// When it was put there; if SQS moved it itself, when it was first sent.
    pub since: Timestamp,
    /// What it holds; a large job, where it lies.
    pub body: String,
    /// The message it was when it was sent to be worked.
    was: MessageId,
    handle: ReceiptHandle,
}

/// What putting a letter back came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PutBack {
    /// It is in the queue; the job it holds had not ended, has succeeded, or is not known.
    Queued,
    /// Likewise, and its job, which had failed or expired, runs again under the next generation.
    RunsAgain,
}

/// A look through the dead letters.
#[derive(Debug)]
pub struct DeadLetters {
    inner: Arc<Inner>,
    seen: HashSet<MessageId>,
    held: HashMap<MessageId, ReceiptHandle>,
    /// The messages that letters of this look were put back as. One that dies again meanwhile is let lie: it would be put back for ever.
    sent: HashSet<MessageId>,
}

impl Fleet {
    /// Begins a look through the dead letters. Nobody else sees what was looked at until [`DeadLetters::let_go`].
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters { inner: Arc::clone(&self.inner), seen: HashSet::new(), held: HashMap::new(), sent: HashSet::new() }
    }
}

impl DeadLetters {
    /// Some more of them, at most ten; none behind the last. Those that somebody else looks at are not there.
    ///
    /// # Errors
    /// What the queue said.
    pub async fn next(&mut self) -> Result<Vec<FleetLetter>, StoreError> {
        loop {
            let letters = self.receive().await?;
            // A look that takes long meets its first letters again, under new handles.
            let is_end = letters.is_empty();
            self.held.extend(letters.iter().map(|letter| (letter.id.clone(), letter.handle.clone())));
            let is_fresh =
                |letter: &FleetLetter| !self.sent.contains(&letter.was) && self.seen.insert(letter.id.clone());
            let fresh: Vec<FleetLetter> = letters.into_iter().filter(is_fresh).collect();
            if is_end || !fresh.is_empty() {
                return Ok(fresh);
            }
        }
    }

    async fn receive(&self) -> Result<Vec<FleetLetter>, StoreError> {
        let request = self.inner.clients.sqs.receive_message().queue_url(&self.inner.settings.dead_letter_url);
        let received = request
            .max_number_of_messages(i32::try_from(BATCH_ENTRIES).unwrap_or(1))
            .visibility_timeout(seconds(HIDDEN))
            .wait_time_seconds(seconds(POLL))
            .message_system_attribute_names(Attribute::SentTimestamp)
            .message_attribute_names("aquifer.*")
            .send()
            .await
            .map_err(|error| trouble::of_sdk("looking through the dead letters", &error))?;
        Ok(received.messages.unwrap_or_default().into_iter().filter_map(letter).collect())
    }

    /// Puts it back into the queue, marked as redriven. `model` is that of jobs which name none.
    ///
    /// # Errors
    /// What a service said; it may be repeated.
    pub async fn put_back(&mut self, letter: &FleetLetter, model: Option<&str>) -> Result<PutBack, StoreError> {
        let inner = &self.inner;
        let doing = "putting a dead letter back";
        let job = job(inner, letter, model).await?;
        let outcome = match &job {
            Some(job) => match redrive::redrive(inner, &job.key, Some(job.digest()), None).await? {
                Redriven::Queued { .. } => PutBack::RunsAgain,
                Redriven::NotFrom(_) | Redriven::Unknown => PutBack::Queued,
            },
            None => PutBack::Queued,
        };
        // A job without an id is called by its message, which will be another one.
        let named = job.as_ref().filter(|job| job.key.id.as_str() == letter.was.0).map(Job::to_message);
        let tenant = job.map_or_else(Tenant::unnamed, |job| job.key.tenant);
        let mark = words(inner.clock.now().to_string());
        let mark = mark.map_err(|error| trouble::of_ours(StoreTrouble::Other, doing, error.to_string()))?;
        let request = inner.clients.sqs.send_message().queue_url(&inner.settings.queue_url);
        let request = request.message_body(named.as_ref().unwrap_or(&letter.body)).message_group_id(tenant.as_str());
        let sent = request.message_attributes("aquifer.redriven", mark).send().await;
        let sent = sent.map_err(|error| trouble::of_sdk(doing, &error))?;
        self.sent.extend(sent.message_id.map(MessageId));
        self.remove(letter).await?;
        Ok(outcome)
    }

    /// Throws it away for good.
    ///
    /// # Errors
    /// What the queue said.
    pub async fn remove(&mut self, letter: &FleetLetter) -> Result<(), StoreError> {
        let handle = self.held.remove(&letter.id).unwrap_or_else(|| letter.handle.clone());
        let request = self.inner.clients.sqs.delete_message().queue_url(&self.inner.settings.dead_letter_url);
        let deleted = request.receipt_handle(handle.0).send().await;
        deleted.map(drop).map_err(|error| trouble::of_sdk("deleting a dead letter", &error))
    }

    /// Shows the others to everybody again, at once.
    pub async fn let_go(self) {
        let Self { inner, held, .. } = self;
        let shown = held.into_values().map(|handle| {
            let request = inner.clients.sqs.change_message_visibility().queue_url(&inner.settings.dead_letter_url);
            request.receipt_handle(handle.0).visibility_timeout(0).send()
        });
        // What cannot be let go comes back by itself.
        let failed = stream::iter(shown).buffer_unordered(AT_ONCE).filter(|shown| std::future::ready(shown.is_err()));
        let failed = failed.count().await;
        if failed > 0 {
            tracing::debug!(failed, "dead letters are hidden a while longer");
        }
    }
}

fn letter(message: Message) -> Option<FleetLetter> {
    let said = message.message_attributes.unwrap_or_default();
    let said = |name: &str| said.get(name).and_then(MessageAttributeValue::string_value).map(str::to_owned);
    let sent = message.attributes.and_then(|mut attributes| attributes.remove(&Attribute::SentTimestamp));
    let id = MessageId(message.message_id?);
    let was = said("aquifer.message_id").map_or_else(|| id.clone(), MessageId);
    let body = message.body.unwrap_or_default();
    Some(FleetLetter {
        job: name(&body, &was),
        reason: said("aquifer.reason"),
        since: Timestamp(sent.and_then(|sent| sent.parse().ok()).unwrap_or_default()),
        handle: ReceiptHandle(message.receipt_handle?),
        body,
        was,
        id,
    })
}

#[derive(Deserialize)]
struct Named {
    id: Option<String>,
    batch: Option<String>,
    tenant: Option<String>,
}

/// What a body calls its job, whether or not the rest of it is sound.
fn name(body: &str, was: &MessageId) -> Option<JobKey> {
    let Named { id, batch, tenant } = serde_json::from_str(body).ok()?;
    Some(JobKey {
        id: JobId::new(id.as_deref().unwrap_or(&was.0)).ok()?,
        batch: batch.map_or_else(|| Some(BatchName::none()), |name| BatchName::new(&name).ok())?,
        tenant: tenant.map_or_else(|| Some(Tenant::unnamed()), |name| Tenant::new(&name).ok())?,
    })
}

/// The job that a letter holds, as a worker would read it.
async fn job(inner: &Inner, letter: &FleetLetter, model: Option<&str>) -> Result<Option<Job>, StoreError> {
    let objects = Objects::new(inner.clients.s3.clone(), inner.settings.bucket.clone());
    let body = match ClaimChecks::new(objects, &inner.settings.prefix).resolve(&letter.body, 1).await {
        Resolved::AsItIs => letter.body.clone(),
        Resolved::Job(body) => body,
        Resolved::NotNow(error) => return Err(error),
    };
    let batch = BatchName::none();
    // Every name is taken for one of a model here: which there are, a worker decides.
    let defaults = Defaults {
        batch: &batch,
        model: None,
        only_model: model,
        answers_callbacks: true,
        documents: Ok(Place::S3),
        no_ingestions: None,
        is_known: &|_| true,
    };
    Ok(parse_message(&body, &letter.was.0, &defaults).ok())
}

fn words(text: String) -> Result<MessageAttributeValue, BuildError> {
    MessageAttributeValue::builder().data_type("String").string_value(text).build()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_called_as_its_job_or_as_the_message_it_was() {
        let was = MessageId("m-1".to_owned());
        let key = |body: &str| name(body, &was).map(|key| format!("{}/{}/{}", key.tenant, key.batch, key.id));
        let ticket = r#"{"id":"o-1","batch":"b","tenant":"acme","payload":"s3://b/k"}"#;
        assert_eq!(key(ticket).unwrap(), "acme/b/o-1");
        assert_eq!(key(r#"{"prompt":"p"}"#).unwrap(), format!("{}/-/m-1", Tenant::unnamed()));
        assert_eq!(key("no job at all"), None);
        assert_eq!(key(r#"{"id":"a b"}"#), None);
    }
}
