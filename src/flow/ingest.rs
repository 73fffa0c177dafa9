//! How does a data source come up to date? By an ingestion that began after the job was queued, whoever began it.
//!
//! Nothing is kept in memory between two deliveries of the job: each looks at the service's own list, takes the step that
//! [`rules::ingest`](crate::rules::ingest) names, and lets go of the job. An ingestion is begun under a token that is the job's
//! own and stands in its description, so that whoever comes after a crash knows it again. Only how long the service has been in
//! trouble is remembered, by each worker as it meets it: a job may be old because its ingestion takes long.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::job::failure::{Class, Consequence, Failure};
use crate::job::ingest::{DataSource, IngestToken, Ingestion, Phase, output};
use crate::job::spec::Request;
use crate::job::trail::What;
use crate::job::units::Timestamp;
use crate::ports::{Begun, Ingestions};
use crate::rules::ingest::{Next, next, rest};

use super::context::Context;
use super::denial::{AWAITED, ON_ITS_WAY};
use super::patience::Patience;
use super::proof::{Claim, Delivery, Exit, Verdict};

/// More of the service's reasons than this, in characters, are not shown.
const REASONS: usize = 500;

/// Since when a worker has had no answer of use about each data source, and for which reason.
#[derive(Debug, Default)]
pub struct Troubles {
    met: Mutex<BTreeMap<(String, &'static str), Trouble>>,
}

#[derive(Clone, Copy, Debug)]
struct Trouble {
    since: Timestamp,
    last: Timestamp,
}

impl Troubles {
    /// Notes one; for how long there has been nothing else. What was not met again for `silence` is over: another worker has had its
    /// answer.
    fn met(&self, source: &DataSource, reason: &'static str, now: Timestamp, silence: Duration) -> Duration {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = met.entry((source.to_string(), reason)).or_insert(Trouble { since: now, last: now });
        if now.since(trouble.last) >= silence {
            trouble.since = now;
        }
        trouble.last = now;
        now.since(trouble.since)
    }

    /// The service answered, and with something to go by.
    fn over(&self, source: &DataSource) {
        let source = source.to_string();
        self.met.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| *of != source);
    }
}

/// What one look came to.
enum Look {
    /// This ingestion covers the job, and has ended.
    Ended(Ingestion),
    /// It waits, for this.
    Waits(&'static str),
}

/// Takes an ingestion as far as it goes now; `None` if the job is none.
///
/// # Errors
/// [`Exit`]: it waits, is somebody else's, or nobody ingests here.
pub async fn work(context: &Context, delivery: &Delivery, claim: &mut Claim) -> Result<Option<Verdict>, Exit> {
    let Request::Ingest(source) = &claim.job.request else { return Ok(None) };
    let source = source.clone();
    let Some(ingestions) = &context.ingestions else {
        return Err(Exit::Reject { reason: crate::job::intake::NO_INGESTIONS_HERE.to_owned() });
    };
    // It waits for no model.
    delivery.place.leave();
    let region = ingestions.region().await;
    if let Some(allowed) = claim.job.residency.as_ref().filter(|allowed| !allowed.contains(&region)) {
        let message = format!("knowledge bases are in {region}, which is not among {}", allowed.join(", "));
        return Ok(Some(Verdict::of_failure(Failure::new(Class::Residency, message))));
    }
    let queued = delivery.message.sent;
    let token = IngestToken::of(&claim.job.key, claim.generation);
    let began = tokio::time::Instant::now();
    let looked = tokio::select! {
        looked = look(&**ingestions, &source, queued, &token) => looked,
        () = context.stop.aborted() => return Err(Exit::HandBack { after: Duration::ZERO }),
        () = delivery.lease.lost() => return Err(Exit::Lost),
    };
    claim.journey.in_calls += began.elapsed();
    match looked {
        Ok(Look::Ended(ingestion)) => finish(context, claim, &**ingestions, (source, region), ingestion, queued).await,
        Ok(Look::Waits(reason)) => {
            context.ingest_troubles.over(&source);
            Err(wait(context, claim, queued, reason))
        }
        Err(failure) => or_wait(context, claim, &source, queued, failure),
    }
}

/// Sees how the source stands, and begins an ingestion if that is what it takes.
async fn look(
    ingestions: &dyn Ingestions,
    source: &DataSource,
    queued: Timestamp,
    token: &IngestToken,
) -> Result<Look, Failure> {
    let newest = ingestions.newest(source).await?;
    Ok(match next(queued, token, &newest) {
        Next::Ended(ingestion) => Look::Ended(ingestion.clone()),
        Next::Wait => Look::Waits("an ingestion that runs"),
        Next::Start => match ingestions.begin(source, token).await? {
            Begun::Yes => Look::Waits("its ingestion"),
            Begun::Busy => Look::Waits("an ingestion that may not run beside its own"),
        },
    })
}

/// The end of the job, by that of the ingestion.
async fn finish(
    context: &Context,
    claim: &mut Claim,
    ingestions: &dyn Ingestions,
    (source, region): (DataSource, String),
    ingestion: Ingestion,
    queued: Timestamp,
) -> Result<Option<Verdict>, Exit> {
    let failure = match ingestion.phase {
        Phase::Complete | Phase::Running => None,
        Phase::Failed => match ingestions.reasons(&source, &ingestion.id).await {
            Ok(reasons) => Some(failed(&ingestion, &reasons)),
            Err(failure) => return or_wait(context, claim, &source, queued, failure),
        },
    };
    context.ingest_troubles.over(&source);
    Ok(Some(Verdict::Ingested { output: output(&source, &ingestion), region, failure }))
}

fn failed(ingestion: &Ingestion, reasons: &[String]) -> Failure {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let why: String = reasons.join("; ").chars().map(plain).take(REASONS).collect();
    let why = if why.is_empty() { "the service does not say why".to_owned() } else { why };
    Failure::new(Class::Unknown, format!("ingestion {} failed or was stopped: {why}", ingestion.id))
}

/// The service did not answer, or not so: the job waits if it may have another answer later.
fn or_wait(
    context: &Context,
    claim: &mut Claim,
    source: &DataSource,
    queued: Timestamp,
    failure: Failure,
) -> Result<Option<Verdict>, Exit> {
    let (reason, patience) = match failure.class.consequence() {
        Consequence::Wait | Consequence::Again => ("the service of knowledge bases", context.settings.give_up_after),
        Consequence::Pause => ("credentials that the service accepts", context.settings.give_up_after),
        Consequence::LaneOut => match context.settings.patience {
            Patience::Bounded => ("", Duration::ZERO),
            Patience::Endless => (AWAITED, ON_ITS_WAY),
        },
        Consequence::Fail | Consequence::Reject | Consequence::Expire | Consequence::HandBack => ("", Duration::ZERO),
    };
    let is_bounded = claim.job.deadline.is_none() || failure.class.consequence() == Consequence::LaneOut;
    let now = context.now();
    // Beside the pauses between two looks, which grow with the job's age.
    let silence = patience + 2 * rest(now.since(queued));
    let lasts = context.ingest_troubles.met(source, reason, now, silence);
    if patience.is_zero() || (is_bounded && lasts >= patience) {
        return Ok(Some(Verdict::of_failure(failure)));
    }
    Err(wait(context, claim, queued, reason))
}

/// Hands the job back until it is to look again, and puts on record what for.
fn wait(context: &Context, claim: &mut Claim, queued: Timestamp, reason: &'static str) -> Exit {
    let now = context.now();
    let after = rest(now.since(queued));
    let after = claim.job.deadline.map_or(after, |deadline| after.min(deadline.since(now)));
    claim.trail.add(now, What::Waited { took: after, reason: reason.to_owned() });
    Exit::HandBack { after }
}
