//! What does a worker say of itself? Counts, lanes, gates and troubles, and whether it is ready for work.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::flow::context::Context;
use crate::flow::figures::figures;
use crate::job::failure::Class;
use crate::job::lifecycle::Status;
use crate::job::units::Usd;
use crate::ports::Depth;
use crate::telemetry::figures::{Figures, LaneFigures};
use crate::telemetry::in_hand::Step;
use crate::telemetry::metrics::is_throttle;
use crate::telemetry::tallies::TenantTally;

/// Why the worker cannot work just now, in words; `None` if it can.
pub fn unreadiness(context: &Context) -> Option<String> {
    if context.stop.is_draining() {
        return Some("stopping".to_owned());
    }
    if let Some((_, why)) = context.credentials.trouble() {
        return Some(format!("the credentials are refused: {why}"));
    }
    let troubles: Vec<String> = context.meter.troubles().iter().map(ToString::to_string).collect();
    if !troubles.is_empty() {
        return Some(troubles.join("\n"));
    }
    (!context.meter.has_received()).then(|| "the queue has not answered yet".to_owned())
}

/// What is known beside the worker's own figures.
pub(super) struct Beside {
    /// Jobs that ended a second, over the last minute.
    pub(super) per_second: Option<f64>,
    /// See [`super::board::Board::heard`].
    pub(super) batches: Value,
    /// Whether the page may act.
    pub(super) acts: bool,
    /// Snapshots that were made for those who look.
    pub(super) snapshots: u64,
}

pub(super) fn json(context: &Context, beside: impl FnOnce(&Figures) -> Beside) -> Value {
    let (figures, now) = (figures(context), context.now());
    let Beside { per_second, batches, acts, snapshots } = beside(&figures);
    let counts = figures.counts;
    let gates = context.meter.gates().into_iter().filter(|(_, gate)| gate.until > now);
    json!({
        "at": now.0,
        "version": env!("CARGO_PKG_VERSION"),
        "ready": unreadiness(context).is_none(),
        "not_ready": unreadiness(context),
        "paused": context.stop.is_paused(),
        "acts": acts,
        "snapshots": snapshots,
        "in_hand": counts.in_hand,
        "slots": context.settings.slots,
        "steps": Step::ALL.into_iter().zip(figures.steps).map(|(step, count)| json!({
            "step": step.word(),
            "jobs": count,
        })).collect::<Vec<_>>(),
        "received": counts.received,
        "ended": counts.ended,
        "without_success": counts.unsuccessful,
        "ended_per_second": per_second,
        "eta_s": figures.queue.and_then(|depth| drained_in(&figures, depth, per_second)),
        "model_calls": counts.calls,
        "throttled": counts.throttles,
        "call_failures": counts.call_failures,
        "input_tokens": counts.input_tokens,
        "output_tokens": counts.output_tokens,
        "cost_usd": counts.spent,
        "simulated": context.settings.simulated,
        "queue": figures.queue.map(|depth| json!({
            "ready": depth.ready,
            "in_flight": depth.in_flight,
            "delayed": depth.delayed,
            "dead": depth.dead,
        })),
        "oldest_in_hand_s": figures.oldest_in_hand.map(|age| age.as_secs()),
        "lanes": figures.lanes.iter().filter_map(lane).collect::<Vec<_>>(),
        "models": models(&figures.lanes),
        "tenants": figures.tenants.iter().map(|(tenant, tally)| of_tenant(tenant, tally)).collect::<Vec<_>>(),
        "failures": failures(context, &figures),
        "batches": batches,
        "gates": gates.map(|(lane, gate)| json!({
            "lane": lane,
            "reason": gate.reason,
            "since": gate.since.to_string(),
            "until": gate.until.to_string(),
            "left_s": gate.until.since(now).as_secs_f64(),
        })).collect::<Vec<_>>(),
        "troubles": context.meter.troubles().iter().map(|trouble| json!({
            "doing": trouble.doing,
            "why": trouble.why,
            "times": trouble.times,
            "lasted_s": trouble.lasted.as_secs(),
        })).collect::<Vec<_>>(),
    })
}

/// At this worker's rate, times as many workers as there seem to be: each holds about as many messages as this one.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn drained_in(figures: &Figures, depth: Depth, per_second: Option<f64>) -> Option<f64> {
    let left = depth.ready + depth.delayed + depth.in_flight.max(figures.counts.in_hand);
    if left == 0 {
        return Some(0.0);
    }
    let workers = (depth.in_flight as f64 / figures.counts.in_hand.max(1) as f64).max(1.0);
    per_second.filter(|rate| *rate > 0.0).map(|rate| (left as f64 / (rate * workers)).round())
}

fn lane(lane: &LaneFigures) -> Option<Value> {
    let (stands, tally) = (lane.now?, &lane.tally);
    let seconds = |left: Option<Duration>| left.map(|left| left.as_secs_f64());
    Some(json!({
        "lane": lane.lane.to_string(),
        "calls_open": stands.open,
        "concurrency": u32::try_from(stands.concurrency).ok().filter(|most| *most < u32::MAX),
        "tokens_last_minute": stands.used,
        "tokens_reserved": stands.reserved,
        "tokens_per_minute": stands.tokens_per_minute,
        "utilisation": stands.utilisation,
        "breaker": stands.breaker.word(),
        "breaker_left_s": seconds(stands.opens_in),
        "cool_down_left_s": seconds(stands.cools_for),
        "out": stands.out.map(Class::word),
        "answered": tally.answers,
        "throttled": tally.failed(is_throttle),
        "call_failures": tally.failed(|class| !is_throttle(class)),
        "cost_usd": tally.spent,
    }))
}

/// A model is called under the same id in several regions.
fn models(lanes: &[LaneFigures]) -> Vec<Value> {
    let mut models: BTreeMap<&str, (u64, u64, u64, Usd)> = BTreeMap::new();
    for LaneFigures { lane, tally, .. } in lanes.iter().filter(|lane| lane.tally.answers > 0) {
        let (answers, input, output, spent) = models.entry(&lane.model_id).or_default();
        *answers += tally.answers;
        *input += tally.usage.input_tokens;
        *output += tally.usage.output_tokens;
        *spent += tally.spent;
    }
    let told = models.into_iter().map(|(model, (answers, input, output, spent))| {
        json!({ "model": model, "answered": answers, "input_tokens": input, "output_tokens": output, "cost_usd": spent })
    });
    told.collect()
}

fn of_tenant(name: &str, tally: &TenantTally) -> Value {
    let ended: u64 = tally.ended.iter().sum();
    json!({
        "tenant": name,
        "ended": ended,
        "without_success": ended - tally.ended[Status::Succeeded as usize],
        "input_tokens": tally.input_tokens,
        "output_tokens": tally.output_tokens,
        "cost_usd": tally.spent,
    })
}

/// By class, the most frequent first.
fn failures(context: &Context, figures: &Figures) -> Vec<Value> {
    let newest = context.meter.newest_unsuccessful();
    let mut met: Vec<_> = Class::ALL.into_iter().map(|class| (class, figures.failed[class as usize])).collect();
    met.retain(|(_, count)| *count > 0);
    met.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let told = met.into_iter().map(|(class, count)| {
        let of_class = newest.iter().filter(|(of, _)| *of == class).map(|(_, job)| {
            json!({ "tenant": job.key.tenant, "batch": job.key.batch, "id": job.key.id, "at": job.at.to_string() })
        });
        json!({ "class": class.word(), "jobs": count, "newest": of_class.collect::<Vec<_>>() })
    });
    told.collect()
}
