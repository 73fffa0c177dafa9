//! Was a file dropped in? A message that tells of an upload becomes a message that is the document job which the first fitting
//! `[[upload]]` rule says, or an execution of that rule's pipeline. What is no upload needs no work, and what fits no rule is kept where a person finds it.
//!
//! The job is sent before the event goes, as a job like any other: from then on no change of the rules changes it, and its identity
//! is the upload's, so that it runs once however often it is told of and sent. What the ledger knows already is not even sent.

use std::time::Duration;

use crate::job::document::Place;
use crate::job::failure::Class;
use crate::job::ident::{BatchName, Tenant};
use crate::job::intake::{NO_DOCUMENTS_HERE, UploadEvent, parse_upload_event};
use crate::job::spec::{Job, Priority};
use crate::job::upload::{Pipeline, Upload};
use crate::ports::{BATCH_ENTRIES, Outgoing};

use super::context::Context;
use super::patience::{KEPT, by_age, insist};
use super::proof::{Delivery, Exit, Notified};

/// Why no upload becomes a job on one machine.
const NO_OBJECTS_HERE: &str = "what lies in S3 is read by the workers of `backend = \"aws\"` alone";

const NO_PIPELINES_HERE: &str = "state machines are begun by the workers of `backend = \"aws\"` alone";

/// Proof that nothing is left to do for a message: it tells of nothing that is wanted, or other messages stand for it.
#[derive(Debug)]
pub struct Settled(());

/// Carries out a message that tells of uploads; `None` if it tells of none, and is to be read as a job.
///
/// # Errors
/// [`Exit::Reject`] if it is not what it claims to be, or if no rule is for it; [`Exit::Store`]: it comes back, and nothing is
/// done twice by that.
pub async fn carry_out(context: &Context, delivery: &Delivery) -> Result<Option<Notified>, Exit> {
    let message = &delivery.message;
    let settled = match parse_upload_event(&message.body) {
        None => return Ok(None),
        Some(Err(why)) => return Err(refused(why)),
        Some(Ok(UploadEvent::Upload(upload))) => take_in(context, delivery, &upload).await?,
        Some(Ok(UploadEvent::Several(records))) => {
            // From here on they are messages of ours.
            may_be_sent(context, delivery, &Tenant::unnamed())?;
            let trace = delivery.span.context();
            let records = records.into_iter().map(|body| Outgoing { trace: trace.clone(), ..record(body) });
            send(context, records.collect()).await?
        }
        Some(Ok(UploadEvent::Nothing(what))) => pass_over(context, delivery, &what),
    };
    Ok(Some(Notified::of_upload(&settled)))
}

async fn take_in(context: &Context, delivery: &Delivery, upload: &Upload) -> Result<Settled, Exit> {
    let uploads = &context.settings.uploads;
    if uploads.is_own(upload) {
        return Ok(pass_over(context, delivery, "what we wrote ourselves"));
    }
    let rule = uploads.rule_for(upload).ok_or_else(|| {
        refused(format!("no [[upload]] rule is for {upload}: add one, or let the bucket tell only of what is wanted"))
    })?;
    may_be_read(context).map_err(|why| refused(format!("{upload}: {why}")))?;
    let job = rule.job(upload, uploads.default_model()).map_err(|why| refused(format!("{upload}: {why}")))?;
    may_be_sent(context, delivery, &job.key.tenant)?;
    if insist(context, || context.ledger.look_up(&job.key)).await?.is_some() {
        return Ok(pass_over(context, delivery, "an upload that is known already"));
    }
    match &rule.pipeline {
        Some(pipeline) => begin(context, delivery, pipeline, &job).await,
        None => send(context, vec![outgoing(&Job { trace: delivery.span.context(), ..job })]).await,
    }
}

fn may_be_sent(context: &Context, delivery: &Delivery, tenant: &Tenant) -> Result<(), Exit> {
    if context.settings.senders.may_send(tenant, delivery.message.sender.as_deref()) {
        return Ok(());
    }
    Err(refused(format!("its sender may not send jobs of tenant `{tenant}`")))
}

fn may_be_read(context: &Context) -> Result<(), &'static str> {
    match context.documents.as_ref().map(|ports| ports.reader.place()) {
        Some(Place::S3) => Ok(()),
        Some(Place::Files) => Err(NO_OBJECTS_HERE),
        None => Err(NO_DOCUMENTS_HERE),
    }
}

/// The execution of the upload's name is its one run. What is in the way of it is no fault of the upload: it waits, and others go
/// on.
async fn begin(context: &Context, delivery: &Delivery, pipeline: &Pipeline, job: &Job) -> Result<Settled, Exit> {
    let pipelines = context.pipelines.as_ref().ok_or_else(|| refused(NO_PIPELINES_HERE))?;
    let begun = pipelines.begin(&pipeline.state_machine, job.key.id.as_str(), &pipeline.input(job)).await;
    begun.map(|()| Settled(())).map_err(|error| {
        context.meter.pipeline_trouble(&error);
        let age = context.now().since(delivery.message.sent);
        if age >= KEPT {
            return refused(format!("its pipeline could not be begun in all that time: {}", error.why));
        }
        Exit::HandBack { after: by_age(age) }
    })
}

fn pass_over(context: &Context, delivery: &Delivery, what: &str) -> Settled {
    context.meter.event_passed_over(&delivery.message.id.0, what);
    Settled(())
}

fn outgoing(job: &Job) -> Outgoing {
    Outgoing {
        body: job.to_message(),
        batch: job.key.batch.clone(),
        tenant: job.key.tenant.clone(),
        model: Some(job.model.clone()),
        priority: job.priority,
        delay: Duration::ZERO,
        trace: job.trace.clone(),
    }
}

/// One record of several: a message of its own, so that a bad one takes nothing from the others.
fn record(body: String) -> Outgoing {
    Outgoing {
        body,
        batch: BatchName::none(),
        tenant: Tenant::unnamed(),
        model: None,
        priority: Priority::default(),
        delay: Duration::ZERO,
        trace: None,
    }
}

/// All that stands for a message, before that goes. Sent twice, they are the same uploads.
async fn send(context: &Context, messages: Vec<Outgoing>) -> Result<Settled, Exit> {
    for some in messages.chunks(BATCH_ENTRIES) {
        let sent = insist(context, || context.queue.send(some.to_vec())).await?;
        if let Some(error) = sent.into_iter().find_map(Result::err) {
            return Err(refused(format!("what it tells of cannot be queued: {error}")));
        }
    }
    Ok(Settled(()))
}

fn refused(why: impl std::fmt::Display) -> Exit {
    Exit::Reject { reason: format!("{}: {why}", Class::BadInput) }
}
