//! `aquifer status`: how do the batches stand? Counts, cost and an estimate of the end, from the state directory
//! alone, so that it works beside running processes and after them.

use serde::Serialize;

use crate::embedded::BatchSummary;
use crate::job::outcome::Savings;
use crate::job::units::{Tokens, Usd};
use crate::ports::Clock;

use super::args::StatusArgs;
use super::exit::{Exit, Report};
use super::run::{short, span};
use super::states::{self, States};
use super::{SystemClock, out};

/// Shows one batch, or all.
///
/// # Errors
/// A report: there is no state, or no such batch.
pub(crate) async fn status(args: &StatusArgs) -> Result<Exit, Report> {
    let states = States::open(&args.places.state)?;
    let now = SystemClock.now();
    let mut rows = Vec::new();
    for state in &states.readers {
        for batch in state.reader.batches()? {
            if args.batch.as_ref().is_none_or(|name| *name == batch.batch.as_str()) {
                rows.push(Row::of(&batch, state.simulated, now));
            }
        }
    }
    if let Some(name) = &args.batch
        && rows.is_empty()
    {
        return Err(states::no_batch(name));
    }
    if args.json {
        for row in &rows {
            out::line(&serde_json::to_string(row).map_err(Report::stuck)?)?;
        }
    } else {
        table(&rows)?;
        for crate::embedded::LaneGate { lane, gate } in states.gates()? {
            out::line(&format!("{lane} waits since {} until {}: {}", gate.since, gate.until, gate.reason))?;
        }
    }
    Ok(Exit::AllSucceeded)
}

/// The contract's fields, and what tells batches of one name apart.
#[derive(Debug, Serialize)]
struct Row {
    batch: String,
    tenant: String,
    simulated: bool,
    total: u64,
    queued: u64,
    running: u64,
    succeeded: u64,
    failed: u64,
    rejected: u64,
    expired: u64,
    cost_usd: Usd,
    eta_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    right_sized: Option<RightSized>,
}

/// What `max_tokens = "auto"` came to, where a job of the batch says so.
#[derive(Debug, Serialize)]
struct RightSized {
    tokens_saved: Tokens,
    reruns: u64,
    rerun_cost_usd: Usd,
}

impl RightSized {
    fn of(savings: Savings) -> Option<Self> {
        let Savings { saved, reruns, rerun_cost } = savings;
        (!savings.is_none()).then_some(Self { tokens_saved: saved, reruns, rerun_cost_usd: rerun_cost })
    }
}

impl Row {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn of(batch: &BatchSummary, simulated: bool, now: crate::job::units::Timestamp) -> Self {
        let counts = &batch.counts;
        let open = counts.open();
        let worked = now.since(batch.first).as_secs_f64();
        let ended = counts.total() - open;
        // Where nobody works there is no end to foretell.
        let seconds = (counts.running > 0 && ended > 0).then(|| open as f64 * worked / ended as f64);
        Self {
            batch: batch.batch.to_string(),
            tenant: batch.tenant.to_string(),
            simulated,
            total: counts.total(),
            queued: counts.queued,
            running: counts.running,
            succeeded: counts.succeeded,
            failed: counts.failed,
            rejected: counts.rejected,
            expired: counts.expired,
            cost_usd: batch.cost,
            eta_s: if open == 0 { Some(0.0) } else { seconds },
            right_sized: RightSized::of(batch.savings),
        }
    }
}

fn table(rows: &[Row]) -> Result<(), Report> {
    out::line(&format!(
        "{:<28} {:>9} {:>9} {:>8} {:>9} {:>7} {:>8} {:>7} {:>11} {:>8}",
        "BATCH", "TOTAL", "QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "REJECTED", "EXPIRED", "COST", "ETA"
    ))?;
    for row in rows {
        let mut name = row.batch.clone();
        if row.tenant != "default" {
            name = format!("{}/{name}", row.tenant);
        }
        if row.simulated {
            name.push_str(" (simulated)");
        }
        let eta = match row.eta_s {
            Some(0.0) => "done".to_owned(),
            Some(seconds) => span(std::time::Duration::from_secs_f64(seconds)),
            None => "-".to_owned(),
        };
        out::line(&format!(
            "{name:<28} {:>9} {:>9} {:>8} {:>9} {:>7} {:>8} {:>7} {:>11} {eta:>8}",
            row.total,
            row.queued,
            row.running,
            row.succeeded,
            row.failed,
            row.rejected,
            row.expired,
            row.cost_usd.to_string()
        ))?;
        if let Some(RightSized { tokens_saved, reruns, rerun_cost_usd }) = &row.right_sized {
            let (saved, s) = (short(tokens_saved.0), if *reruns == 1 { "" } else { "s" });
            out::line(&format!("  right-sizing: {saved} tokens not reserved, {reruns} rerun{s} for {rerun_cost_usd}"))?;
        }
    }
    Ok(())
}
