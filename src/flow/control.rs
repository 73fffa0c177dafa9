//! What does a message say that is no job? That a batch has got all its jobs: from then on it can be complete.

use crate::job::control::{Control, Seal};

use super::batch_request::BatchPorts;
use super::context::Context;
use super::notify::Announcer;
use super::patience::insist;
use super::proof::{Exit, Notified};

/// Carries out a control message; `None` if the message is none, and is to be read as a job.
///
/// # Errors
/// [`Exit::Reject`] if it is not what it claims to be, or if nobody here can carry it out; [`Exit::Store`]: it comes back and is
/// carried out again, which changes nothing.
pub async fn carry_out(context: &Context, body: &str) -> Result<Option<Notified>, Exit> {
    let seal = match Control::parse(body) {
        None => return Ok(None),
        Some(Err(error)) => return Err(Exit::Reject { reason: error.to_string() }),
        Some(Ok(Control::Seal(seal))) => seal,
    };
    let sealed = seal_batches(context, &seal).await?;
    Ok(Some(Notified::of_control(&sealed)))
}

/// Proof that what a control message says is on record, and was acted upon.
#[derive(Debug)]
pub struct Sealed(());

async fn seal_batches(context: &Context, seal: &Seal) -> Result<Sealed, Exit> {
    let Some(BatchPorts { seals, .. }) = &context.batches else {
        let reason = "batches are sealed by `aquifer enqueue` here, and by no message".to_owned();
        return Err(Exit::Reject { reason });
    };
    insist(context, || seals.seal(seal)).await?;
    for (batch, _) in seal.totals() {
        // There is one batch where there is one who waits. He is told of what this seal says, so he comes behind it.
        if let Some(token) = &seal.callback {
            insist(context, || seals.wait(&batch, token)).await?;
        }
        // Its last job may have ended before anybody knew that it was the last.
        insist(context, || Announcer::of(context).announce(&batch)).await?;
    }
    Ok(Sealed(()))
}
