//! What does a worker say of itself? Counts, lanes, gates and troubles, and whether it is ready for work.

use serde_json::{Value, json};

use crate::flow::context::Context;
use crate::flow::figures::figures;
use crate::job::failure::Class;
use crate::telemetry::metrics::is_throttle;

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

pub(super) fn json(context: &Context) -> Value {
    let (figures, now) = (figures(context), context.now());
    let counts = figures.counts;
    let lanes = figures.lanes.iter().filter_map(|lane| {
        let stands = lane.now?;
        Some(json!({
            "lane": lane.lane.to_string(),
            "calls_open": stands.open,
            "tokens_last_minute": stands.used,
            "tokens_per_minute": stands.tokens_per_minute,
            "utilisation": stands.utilisation,
            "breaker": stands.breaker.word(),
            "out": stands.out.map(Class::word),
            "answered": lane.tally.answers,
            "throttled": lane.tally.failed(is_throttle),
            "call_failures": lane.tally.failed(|class| !is_throttle(class)),
            "cost_usd": lane.tally.spent,
        }))
    });
    let gates = context.meter.gates().into_iter().filter(|(_, gate)| gate.until > now);
    json!({
        "ready": unreadiness(context).is_none(),
        "not_ready": unreadiness(context),
        "in_hand": counts.in_hand,
        "slots": context.settings.slots,
        "received": counts.received,
        "ended": counts.ended,
        "without_success": counts.unsuccessful,
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
        "lanes": lanes.collect::<Vec<_>>(),
        "gates": gates.map(|(lane, gate)| json!({
            "lane": lane,
            "reason": gate.reason,
            "since": gate.since.to_string(),
            "until": gate.until.to_string(),
        })).collect::<Vec<_>>(),
        "troubles": context.meter.troubles().iter().map(|trouble| json!({
            "doing": trouble.doing,
            "why": trouble.why,
            "times": trouble.times,
            "lasted_s": trouble.lasted.as_secs(),
        })).collect::<Vec<_>>(),
    })
}
