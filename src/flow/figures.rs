//! How does a worker stand? What it has counted, and its lanes as they are at this moment; and what is said of that by itself:
//! how much waits in the queue, and which breakers have turned.

use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::job::notice::Notice;
use crate::job::units::Timestamp;
use crate::ports::LaneId;
use crate::rules::breaker::Phase;
use crate::telemetry::figures::{BreakerState, Figures, LaneNow};

use super::context::Context;
use super::lane::Lane;
use super::patience::insist;

/// Between two questions to the queue how much waits.
const ASK_QUEUE_EVERY: Duration = Duration::from_secs(15);

/// How this worker stands now.
pub fn figures(context: &Context) -> Figures {
    let lanes = context.catalogue.lanes();
    let lanes = lanes.iter().map(|lane| (lane.id.clone(), stands(lane))).collect();
    Figures {
        slots: context.settings.slots,
        are_credentials_refused: context.credentials.trouble().is_some(),
        ..context.meter.figures(context.now(), lanes)
    }
}

fn stands(lane: &Lane) -> LaneNow {
    let now = lane.now();
    let mut state = lane.state();
    let state = &mut *state;
    let (used, limit) = (state.book.ledger.used(now).0, state.book.ledger.tokens_per_minute());
    let (breaker, open_until) = state_of(state.book.breaker.standing().phase(), now);
    LaneNow {
        open: state.open,
        concurrency: state.concurrency.limit(),
        reserved: state.reserved.0,
        used,
        tokens_per_minute: limit,
        utilisation: limit.filter(|limit| *limit > 0).map(|limit| share(used, limit)),
        breaker,
        opens_in: open_until.map(|until| until.since(now)),
        cools_for: Some(state.book.cool_down.available_at(now).since(now)).filter(|left| !left.is_zero()),
        out: state.out.as_ref().map(|denial| denial.failure.class),
    }
}

/// Tokens a minute are far below 2^53.
#[allow(clippy::cast_precision_loss, reason = "see above")]
fn share(used: u64, limit: u64) -> f64 {
    used as f64 / limit as f64
}

/// How a breaker shows in this phase; and until when, if it is open for a time.
pub(super) fn state_of(phase: Phase, now: Timestamp) -> (BreakerState, Option<Timestamp>) {
    match phase {
        // Its time is over; nobody has had a call for it since.
        Phase::Open { until } if until <= now => (BreakerState::HalfOpen, None),
        Phase::Open { until } => (BreakerState::Open, Some(until)),
        Phase::Closed => (BreakerState::Closed, None),
        Phase::HalfOpen => (BreakerState::HalfOpen, None),
        Phase::Held => (BreakerState::Held, None),
    }
}

/// Says how this worker has changed the breaker of a lane for all; who hears of ends hears of that as well.
pub(super) fn tell_turns(context: &Context, lane: &Lane, heard: &UnboundedSender<Notice>) {
    for phase in lane.take_turns() {
        let (state, until) = match phase {
            Phase::Open { until } => (BreakerState::Open, Some(until)),
            Phase::Closed | Phase::HalfOpen | Phase::Held => state_of(phase, lane.now()),
        };
        context.meter.breaker(&lane.id, state, until);
        if let Some(notice) = notice_of_turn(context, lane, state, until) {
            // Whoever publishes them outlives the lanes.
            let _ = heard.send(notice);
        }
    }
}

/// What is made known of a breaker that was turned; `None` if nobody is told of anything.
pub(super) fn notice_of_turn(
    context: &Context,
    lane: &Lane,
    state: BreakerState,
    until: Option<Timestamp>,
) -> Option<Notice> {
    let LaneId { region, model_id } = &lane.id;
    let is_told = context.settings.notify_jobs || context.settings.notify_batches;
    is_told.then(|| Notice::of_breaker(region, model_id, state.word(), until, context.clock.now()))
}

/// Publishes what [`tell_turns`] says, apart from it: lanes must not wait for somebody who is told of them.
pub(super) async fn publish_turns(context: &Context, mut told: UnboundedReceiver<Notice>, ended: CancellationToken) {
    while let Some(notice) = told.recv().await {
        let published = tokio::select! {
            published = insist(context, || context.notices.publish(&notice)) => published,
            () = ended.cancelled() => context.notices.publish(&notice).await,
        };
        if let Err(error) = published {
            context.meter.store_trouble(&error);
        }
    }
}

/// Asks the queue how much waits, now and then. An answer that does not come is no trouble: nothing waits for it.
pub(super) async fn ask_how_much_waits(context: &Context, ended: CancellationToken) {
    let mut tick = tokio::time::interval(ASK_QUEUE_EVERY);
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            _ = tick.tick() => {}
        }
        let depth = tokio::select! {
            () = ended.cancelled() => return,
            depth = context.queue.depth() => depth,
        };
        if let Err(error) = &depth {
            debug!("how much waits is not known: {error}");
        }
        context.meter.waits(depth.ok());
    }
}
