//! What does a workflow have done about a whole batch? The lines of an object become its jobs, or its jobs that failed run again;
//! and whoever asked is answered when the batch is complete.
//!
//! All of it may be done again, by whoever the message is delivered to next: what is sent is on the batch's roll, a job is the same
//! job however often it is sent, and one that was run again for this request is not run again for it twice. So a worker that is
//! killed or told to stop in the middle loses nothing.
//!
//! Jobs are run again from the objects that they came from, as `aquifer enqueue --retry-failed` does: what a job asks stands nowhere
//! else once its message is gone, and a job that failed has no dead letter unless it was poison, so that `aquifer dead redrive` would find
//! next to none of them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::job::batch_request::{Ask, BatchRequest};
use crate::job::document::Place;
use crate::job::failure::Class;
use crate::job::intake::NO_INGESTIONS_HERE;
use crate::ports::inputs::Inputs;
use crate::ports::rolls::{Origin, Rolls};
use crate::ports::{Seals, StoreError, StoreTrouble};

use super::context::Context;
use super::intake::{Counted, Intake, Read};
use super::notify::Announcer;
use super::patience::{BackOff, KEPT, by_age, insist};
use super::proof::{Delivery, Exit, Notified};
use super::reading::{Takes, Whole, read};
use super::redriver::Redriver;
use super::roster::{Beginning, Roster, Sender};

/// What requests about batches need beyond jobs.
#[derive(Clone)]
pub struct BatchPorts {
    /// Where their lines are listed.
    pub rolls: Arc<dyn Rolls>,
    /// Where they are sealed.
    pub seals: Arc<dyn Seals>,
    /// From where inputs are read.
    pub inputs: Arc<dyn Inputs>,
    /// One is read at a time: what is known of its jobs while it is read lies in memory.
    pub turn: Arc<Mutex<()>>,
}

/// Who finds another being read waits so long for his turn, and then with the message.
const TURN: Duration = Duration::from_secs(3);
/// What is away for longer is waited for with the message: another's object may lie elsewhere.
const AWAY: Duration = Duration::from_secs(60);
/// Another input of the same batch, of which not all is sent yet, is waited for this long: somebody may be at it.
/// It may have stood in the queue for hours itself before anybody looked at it.
const ANOTHER: Duration = Duration::from_secs(6 * 60 * 60);

/// Proof that what was asked is done, and that who waits is on record or was answered.
#[derive(Debug)]
pub struct Done(());

/// Carries out a request about a batch; `None` if the message is none, and is to be read as a job.
///
/// # Errors
/// [`Exit::Reject`] if it is not what it claims to be, or cannot be done: who waits is told why. Any other: it comes back and is
/// gone on with.
pub async fn carry_out(context: &Context, delivery: &Delivery) -> Result<Option<Notified>, Exit> {
    let request = match BatchRequest::parse(&delivery.message.body) {
        None => return Ok(None),
        Some(Err(error)) => return Err(refused(error)),
        Some(Ok(request)) => request,
    };
    // It waits for no model.
    delivery.place.leave();
    let ports = context.batches.as_ref().ok_or_else(|| {
        refused(
            "batches are enqueued and run again by the workers of `backend = \"aws\"`; here `aquifer enqueue` does it",
        )
    })?;
    let tenant = &request.batch.tenant;
    if !context.settings.senders.may_send(tenant, delivery.message.sender.as_deref()) {
        return Err(refused(format!("its sender may not send jobs of tenant `{tenant}`")));
    }
    if request.deadline.is_some_and(|deadline| deadline <= context.now()) {
        return Err(Exit::Reject { reason: format!("{}: its deadline passed before it was read", Class::Expired) });
    }
    let job = Work { context, delivery, ports, request: &request };
    tokio::select! {
        biased;
        () = delivery.lease.lost() => Err(Exit::Lost),
        () = context.stop.drained() => Err(Exit::HandBack { after: Duration::ZERO }),
        () = delivery.lease.worn_out() => Err(Exit::HandBack { after: Duration::ZERO }),
        done = job.carry_out() => Ok(Some(Notified::of_batch_request(&done?))),
    }
}

struct Work<'a> {
    context: &'a Context,
    delivery: &'a Delivery,
    ports: &'a BatchPorts,
    request: &'a BatchRequest,
}

impl Work<'_> {
    async fn carry_out(&self) -> Result<Done, Exit> {
        let Self { context, ports: BatchPorts { seals, .. }, request, .. } = self;
        let Ok(turn) = tokio::time::timeout(TURN, self.ports.turn.lock()).await else {
            // A slot is not to be held for as long as others' files take.
            return Err(Exit::HandBack { after: by_age(self.age()) });
        };
        self.persist().await?;
        drop(turn);
        // Behind what he waits for: from here on whoever ends the batch's last job answers him, or this worker if it has ended.
        if let Some(token) = &request.waits {
            insist(context, || seals.wait(&request.batch, token)).await?;
        }
        insist(context, || Announcer::of(context).announce(&request.batch)).await?;
        Ok(Done(()))
    }

    /// Begins again from what is on record while a service is away for a moment. What does not pass so soon, or not by itself, waits
    /// with the message, and lets others go on.
    async fn persist(&self) -> Result<(), Exit> {
        let (mut back_off, mut waited) = (BackOff::new(), Duration::ZERO);
        loop {
            let attempt = match &self.request.ask {
                Ask::Enqueue { source, model } => self.enqueue(source, model.as_deref()).await,
                Ask::Redrive { class } => self.redrive(*class).await,
            };
            let error = match attempt {
                Err(Exit::Store(error)) => error,
                ended => return ended,
            };
            self.context.meter.store_trouble(&error);
            match error.kind {
                StoreTrouble::Away | StoreTrouble::Full if waited < AWAY => {
                    let pause = back_off.next();
                    waited += pause;
                    tokio::time::sleep(pause).await;
                }
                StoreTrouble::Away
                | StoreTrouble::Full
                | StoreTrouble::Denied
                | StoreTrouble::Newer
                | StoreTrouble::Damaged
                | StoreTrouble::Other => return Err(self.later(KEPT, &error)),
            }
        }
    }

    /// It comes again, unless it has waited for so long already.
    fn later(&self, most: Duration, error: &StoreError) -> Exit {
        let age = self.age();
        if age >= most { refused(&error.why) } else { Exit::HandBack { after: by_age(age) } }
    }

    fn age(&self) -> Duration {
        self.context.now().since(self.delivery.message.sent)
    }

    /// What lines are read by: as `aquifer enqueue` reads them.
    fn intake(&self, model: Option<&str>) -> Result<Arc<Intake>, Exit> {
        let context = self.context;
        if let Some(model) = model.filter(|model| context.catalogue.find(model).is_none()) {
            return Err(refused(format!("no model is called `{model}`")));
        }
        let named = model.map(str::to_owned);
        Ok(Arc::new(Intake {
            batch: self.request.batch.batch.clone(),
            tenant: Some(self.request.batch.tenant.clone()),
            default: named.clone().or_else(|| context.settings.uploads.default_model().map(str::to_owned)),
            named,
            catalogue: Arc::clone(&context.catalogue),
            answers_callbacks: context.callbacks.is_some(),
            documents_in: Place::S3,
            no_ingestions: context.ingestions.is_none().then_some(NO_INGESTIONS_HERE),
            simulated: context.settings.simulated,
            traces: context.meter.traces().clone(),
        }))
    }

    fn sender(&self) -> Sender {
        let (queue, ledger) = (Arc::clone(&self.context.queue), Arc::clone(&self.context.ledger));
        let (rolls, seals) = (Arc::clone(&self.ports.rolls), Arc::clone(&self.ports.seals));
        Sender { queue, ledger, rolls, seals, until: self.request.deadline }
    }

    /// Everything is read to its end before anything is queued, so that an object that breaks off in the middle queues nothing.
    async fn enqueue(&self, source: &str, model: Option<&str>) -> Result<(), Exit> {
        let (context, batch, inputs) = (self.context, &self.request.batch, &*self.ports.inputs);
        let intake = self.intake(model)?;
        let roster = Roster::begin(self.sender(), &batch.batch, Some(&batch.tenant)).await?;
        let before = roster.sent_before().await;
        let lines = before.map_or(0, |(lines, _)| lines);
        let mut beginning = Checking { context, beginning: Beginning::of(lines, &intake) };
        let Whole { edition, lines, is_json } = read(inputs, source, None, &intake, &mut beginning).await?;
        if lines == 0 {
            return Err(refused(format!("{source} holds no line")));
        }
        if !is_json {
            return Err(refused(format!("{source} is no JSON lines: none of its {lines} lines is JSON")));
        }
        if let Some((_, sent)) = before
            && let Err(error) = roster.go_on(beginning.beginning.digest() == sent).await
        {
            return Err(self.later(ANOTHER, &error));
        }
        let origin = Origin { uri: source.to_owned(), edition: edition.clone(), model: model.map(str::to_owned) };
        self.ports.rolls.note_origin(batch, &origin).await?;
        let mut sending = Sending { context, intake: &intake, roster: &roster };
        read(inputs, source, Some(&edition), &intake, &mut sending).await?;
        roster.seal().await?;
        Ok(())
    }

    async fn redrive(&self, class: Option<Class>) -> Result<(), Exit> {
        let (batch, rolls) = (&self.request.batch, &self.ports.rolls);
        if !rolls.is_unfinished(batch).await? {
            return Ok(());
        }
        let origins = rolls.origins(batch).await?;
        if origins.is_empty() {
            let why = "no object is known from which this batch was enqueued: `aquifer enqueue --retry-failed` runs its input again";
            return Err(refused(why));
        }
        let request = self.request.id.as_ref().map_or(self.delivery.message.id.0.as_str(), |id| id.as_str());
        for Origin { uri, edition, model } in origins {
            let intake = self.intake(model.as_deref())?;
            let mut redriver = Redriver::new(self.sender(), request, class, self.context.now());
            read(&*self.ports.inputs, &uri, Some(&edition), &intake, &mut redriver).await?;
        }
        Ok(())
    }
}

/// Lines that are read to see that they can be, and whether they begin as those that were sent.
struct Checking<'a> {
    context: &'a Context,
    beginning: Beginning<'a>,
}

#[async_trait]
impl Takes for Checking<'_> {
    async fn take(&mut self, lines: Vec<Read>) -> Result<(), Exit> {
        self.beginning.add(self.context.now(), lines);
        Ok(())
    }
}

/// Lines on their way to be jobs.
struct Sending<'a> {
    context: &'a Context,
    intake: &'a Intake,
    roster: &'a Roster,
}

#[async_trait]
impl Takes for Sending<'_> {
    async fn take(&mut self, lines: Vec<Read>) -> Result<(), Exit> {
        let (entries, places) = self.intake.lot(self.context.now(), lines, |_| ());
        let standings = self.roster.enrol(entries, false).await?;
        let late = self.intake.late(places, standings, &mut Counted::default(), |_| ());
        if !late.is_empty() {
            self.roster.enrol(late, false).await?;
        }
        Ok(())
    }
}

fn refused(why: impl std::fmt::Display) -> Exit {
    Exit::Reject { reason: format!("{}: {why}", Class::BadInput) }
}

impl std::fmt::Debug for BatchPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchPorts").finish_non_exhaustive()
    }
}
