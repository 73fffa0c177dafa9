//! The loop. A newcomer reads [`Worker::work`] first.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::job::notice::Notice;
use crate::ports::{BATCH_ENTRIES, Message, StoreError, StoreTrouble};
use crate::telemetry::in_hand::{InHand, Step};

use super::acknowledge::acknowledge;
use super::admit::{Admitted, admit};
use super::batch_request;
use super::context::Context;
use super::control;
use super::document;
use super::figures;
use super::infer::{Inferred, infer};
use super::ingest;
use super::lane::SAID_WITHIN;
use super::lease::LeaseKeeper;
use super::notify::notify;
use super::proof::{Claim, Delivery, Disposition, Exit, Notified, Verdict};
use super::receive::{Turn, receive};
use super::record::record;
use super::route::{Routed, route};
use super::shares::Shares;
use super::stop::Reason;
use super::upload;

/// Works a queue until told to stop.
#[derive(Clone, Debug)]
pub struct Worker {
    context: Arc<Context>,
    /// Room for deliveries that are over, and only wait for the call that says so to the queue.
    aside: Arc<Semaphore>,
}

/// Questions to the queue in flight at once; one is too few when each brings ten messages and takes a sync to disk.
const RECEIVERS: usize = 6;
/// Between two looks at what is in trouble.
const TROUBLES_EVERY: Duration = Duration::from_secs(5);
/// What could not be written is tried again after this.
const SAY_AGAIN: Duration = Duration::from_secs(1);
/// A message whose delivery failed in the back end comes back after this.
const AFTER_TROUBLE: Duration = Duration::from_secs(1);
/// So many deliveries that are over give up their slots at most: two calls full of them, so that one is always full soon.
const ASIDE: usize = 2 * BATCH_ENTRIES;

impl Worker {
    /// With everything it needs.
    pub fn new(context: Arc<Context>) -> Self {
        let aside = if context.queue.gathers().is_zero() { 0 } else { ASIDE };
        Self { context, aside: Arc::new(Semaphore::new(aside)) }
    }

    /// Works until [`Context::stop`] drains, then through the phases of shutdown: stop receiving; finish the calls
    /// already paid for, hand back what waits; after `drain`, hand back everything.
    pub async fn run(&self) {
        let context = &self.context;
        let slots = Arc::new(Semaphore::new(context.settings.slots));
        let shares = Shares::of(context.settings.slots);
        let leases = LeaseKeeper::new(context.settings.lease);
        let ended = CancellationToken::new();
        let helpers = TaskTracker::new();
        helpers.spawn({
            let (context, leases, ended) = (Arc::clone(context), leases.clone(), ended.clone());
            async move { leases.run(&*context.queue, &*context.ledger, ended).await }
        });
        helpers.spawn({
            let (context, ended) = (Arc::clone(context), ended.clone());
            async move { context.credentials.keep(&*context.model, &context.stop, context.settings.patience, ended).await }
        });

        let (heard, turns) = mpsc::unbounded_channel();
        helpers.spawn({
            let (context, ended) = (Arc::clone(context), ended.clone());
            async move { write_what_lanes_say(&context, heard, ended).await }
        });

        helpers.spawn({
            let (context, ended) = (Arc::clone(context), ended.clone());
            async move { figures::publish_turns(&context, turns, ended).await }
        });

        helpers.spawn({
            let (context, ended) = (Arc::clone(context), ended.clone());
            async move { say_what_is_over(&context, ended).await }
        });

        helpers.spawn({
            let (context, ended) = (Arc::clone(context), ended.clone());
            async move { figures::ask_how_much_waits(&context, ended).await }
        });

        let turn = Turn::default();
        let (out, mut deliveries) = mpsc::channel(context.settings.slots);
        for _ in 0..RECEIVERS.min(context.settings.slots) {
            let (context, slots, shares) = (Arc::clone(context), Arc::clone(&slots), shares.clone());
            let (leases, out, turn) = (leases.clone(), out.clone(), turn.clone());
            helpers.spawn(async move {
                let hold = |message: Message, asked, slot, place| {
                    let lease = leases.hold(message.handle.clone(), asked);
                    let span = context.meter.traces().received(&message);
                    Delivery { message, lease, slot, place, span }
                };
                receive(&context, &slots, &shares, &turn, hold, &out).await;
            });
        }
        drop(out);

        helpers.spawn({
            let (stop, drain, ended) = (context.stop.clone(), context.settings.drain, ended.clone());
            async move {
                tokio::select! {
                    () = ended.cancelled() => {}
                    () = async { stop.drained().await; tokio::time::sleep(drain).await } => stop.abort(),
                }
            }
        });

        let jobs = TaskTracker::new();
        while let Some(delivery) = deliveries.recv().await {
            let worker = self.clone();
            jobs.spawn(async move {
                let in_hand = worker.context.meter.takes_in_hand(delivery.message.sent);
                worker.deliver(delivery, &in_hand).await;
            });
        }
        jobs.close();
        jobs.wait().await;
        ended.cancel();
        helpers.close();
        helpers.wait().await;
    }

    /// One delivery, from receipt to acknowledgement.
    async fn deliver(&self, mut delivery: Delivery, in_hand: &InHand<'_>) {
        let mut claim = None;
        delivery.span.at(Step::Admit);
        let disposition = match self.work(&delivery, &mut claim, in_hand).await {
            Ok(notified) => notified.disposition(),
            Err(exit) => self.disposition(exit, claim.as_ref()),
        };
        at(Step::Acknowledge, &delivery, in_hand);
        self.step_aside(&mut delivery);
        let (span, word) = (std::mem::take(&mut delivery.span), disposition.word());
        if let Err(error) = acknowledge(&self.context, delivery, disposition).await {
            self.context.meter.store_trouble(&error);
        }
        span.end(word);
    }

    /// Where every call costs, what tells the queue of an end waits for others to share its call. They would all wait in slots,
    /// and of few slots most would be taken by what is over: so it waits without one, unless so many do that a call of
    /// theirs is full anyway.
    fn step_aside(&self, delivery: &mut Delivery) {
        if let Ok(aside) = Arc::clone(&self.aside).try_acquire_owned() {
            delivery.slot = aside;
            delivery.place.leave();
        }
    }

    /// The steps. Each needs what only the one before it can give.
    async fn work(
        &self,
        delivery: &Delivery,
        held: &mut Option<Claim>,
        in_hand: &InHand<'_>,
    ) -> Result<Notified, Exit> {
        let context = &*self.context;
        if context.stop.is_draining() {
            return Err(Exit::HandBack { after: Duration::ZERO });
        }
        if let Some(heard) = control::carry_out(context, &delivery.message.body).await? {
            return Ok(heard);
        }
        if let Some(heard) = batch_request::carry_out(context, delivery).await? {
            return Ok(heard);
        }
        if let Some(heard) = upload::carry_out(context, delivery).await? {
            return Ok(heard);
        }
        let (claim, verdict) = match admit(context, delivery).await? {
            Admitted::Ended(receipt, waits) => {
                delivery.span.recorded(receipt.row());
                at(Step::Notify, delivery, in_hand);
                return notify(context, receipt, waits.as_ref()).await;
            }
            Admitted::Over(claim, verdict) => (held.insert(claim), verdict),
            Admitted::Ours(claim) => {
                let claim = held.insert(claim);
                let elsewhere = match document::work(context, delivery, claim).await? {
                    Some(verdict) => Some(verdict),
                    None => ingest::work(context, delivery, claim).await?,
                };
                let verdict = match elsewhere {
                    Some(verdict) => verdict,
                    None => self.answer(delivery, claim, in_hand).await?,
                };
                (claim, verdict)
            }
        };
        at(Step::Record, delivery, in_hand);
        let receipt = record(context, delivery, claim, verdict).await?;
        delivery.span.recorded(receipt.row());
        let waits = claim.job.callback.take();
        *held = None;
        at(Step::Notify, delivery, in_hand);
        notify(context, receipt, waits.as_ref()).await
    }

    /// Routes and infers until the job is over.
    async fn answer(&self, delivery: &Delivery, claim: &mut Claim, in_hand: &InHand<'_>) -> Result<Verdict, Exit> {
        loop {
            at(Step::Route, delivery, in_hand);
            let placement = match route(&self.context, delivery, claim).await? {
                Routed::Placed(placement) => placement,
                Routed::Over(verdict) => return Ok(verdict),
            };
            at(Step::Infer, delivery, in_hand);
            match infer(&self.context, delivery, claim, *placement).await? {
                Inferred::Over(verdict) => return Ok(verdict),
                Inferred::Again => {}
            }
        }
    }

    /// Whether there is no point in going on: a run stops at whatever does not pass by itself.
    fn is_the_end(&self, error: &StoreError) -> bool {
        error.kind != StoreTrouble::Away && !self.context.settings.patience.outlasts(error.kind)
    }

    /// Turns an early exit into what happens to the message.
    fn disposition(&self, exit: Exit, claim: Option<&Claim>) -> Disposition {
        let (at, now) = (self.context.now(), Instant::now().into_std());
        let claim = claim.map(|claim| (claim.fence.clone(), claim.tally, claim.handed_on(at, now)));
        match exit {
            Exit::HandBack { after } => Disposition::Release { after, claim },
            Exit::Reject { reason } => Disposition::Reject { reason },
            Exit::Lost => Disposition::Drop,
            Exit::Store(error) => {
                self.context.meter.store_trouble(&error);
                if self.is_the_end(&error) {
                    self.context.stop.drain(Reason::Store(error));
                }
                // Nobody is here to wait for it: whoever comes next takes it up at once.
                let after = if self.context.stop.is_draining() { Duration::ZERO } else { AFTER_TROUBLE };
                Disposition::Release { after, claim }
            }
        }
    }
}

/// The delivery is at this step now, for those who count and for those who trace.
fn at(step: Step, delivery: &Delivery, in_hand: &InHand<'_>) {
    in_hand.at(step);
    delivery.span.at(step);
}

/// Says which troubles with stores go on, and which are over.
async fn say_what_is_over(context: &Context, ended: CancellationToken) {
    let mut tick = tokio::time::interval(TROUBLES_EVERY);
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            _ = tick.tick() => context.meter.look_at_troubles(),
        }
    }
}

/// Keeps what other workers know of the lanes up to date, and what this one has to say to them.
async fn write_what_lanes_say(context: &Context, heard: mpsc::UnboundedSender<Notice>, ended: CancellationToken) {
    let allowance = &*context.allowance;
    // What waits for the pace of the store, or for the store, or for other workers who were faster.
    let mut next: Option<Instant> = None;
    loop {
        let is_over = tokio::select! {
            () = ended.cancelled() => true,
            () = context.catalogue.said() => false,
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => false,
        };
        if !is_over && !context.catalogue.lanes().iter().any(|lane| lane.is_pressed(allowance)) {
            // More will be said in a moment: one write for all of it.
            tokio::select! {
                () = ended.cancelled() => {}
                () = tokio::time::sleep(SAID_WITHIN) => {}
            }
        }
        next = None;
        for lane in context.catalogue.lanes() {
            if is_over {
                lane.hold_nothing();
            }
            let now = Instant::now();
            let mut again = now;
            if is_over || lane.writes_at(allowance, now).is_some_and(|due| due <= now) {
                if let Err(error) = lane.write(allowance).await {
                    context.meter.store_trouble(&error);
                }
                again = now + SAY_AGAIN;
            }
            let left = lane.writes_at(allowance, again).map(|due| due.max(again));
            next = next.into_iter().chain(left).min();
            figures::tell_turns(context, &lane, &heard);
        }
        if is_over {
            return;
        }
    }
}
