//! What does a worker say of itself? Counts, lanes, gates and troubles, and whether it is ready for work.

use serde_json::{Value, json};

use crate::flow::context::Context;

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
    let (counts, now) = (context.meter.counts(), context.now());
    let mut lanes: Vec<Value> = context
        .catalogue
        .lanes()
        .iter()
        .map(|lane| {
            let at = lane.now();
            let mut state = lane.state();
            let state = &mut *state;
            json!({
                "lane": lane.id.to_string(),
                "calls_open": state.open,
                "tokens_last_minute": state.book.ledger.used(at).0,
                "tokens_per_minute": state.book.ledger.tokens_per_minute(),
                "out": state.out.as_ref().map(|denial| denial.failure.class.word()),
            })
        })
        .collect();
    lanes.sort_by_key(|lane| lane["lane"].to_string());
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
        "lanes": lanes,
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
