//! `aquifer status`: how do the batches stand? Counts, cost and an estimate of the end, from the state directory or the
//! fleet's table alone, so that it works beside running processes and after them.

use serde::Serialize;

use crate::aws::{self, Fleet};
use crate::embedded::BatchSummary;
use crate::job::ident::BatchName;
use crate::job::outcome::Savings;
use crate::job::units::{Timestamp, Tokens, Usd};
use crate::ports::{Clock, Depth, Gate};

use super::args::StatusArgs;
use super::exit::{Exit, Report};
use super::run::{short, span};
use super::states::{self, States};
use super::{SystemClock, out, wiring};

/// Shows one batch, or all.
///
/// # Errors
/// A report: there is no state, or no such batch.
pub(crate) async fn status(args: &StatusArgs) -> Result<Exit, Report> {
    let view = match wiring::configured_fleet(&args.places).await? {
        Some(fleet) => of_fleet(&fleet, args).await?,
        None => of_states(&States::open(&args.places.state)?, args)?,
    };
    if let Some(name) = &args.batch
        && view.rows.is_empty()
    {
        return Err(states::no_batch(name));
    }
    if args.json {
        for row in &view.rows {
            out::line(&serde_json::to_string(row).map_err(Report::stuck)?)?;
        }
        return Ok(Exit::AllSucceeded);
    }
    table(&view.rows)?;
    if let Some(depth) = view.depth {
        let Depth { ready, in_flight, delayed, dead } = depth;
        out::line(&format!("queue: {ready} ready, {in_flight} in flight, {delayed} delayed; {dead} dead letters"))?;
    }
    for (lane, gate) in view.gates {
        out::line(&format!("{lane} waits since {} until {}: {}", gate.since, gate.until, gate.reason))?;
    }
    Ok(Exit::AllSucceeded)
}

/// What is shown.
struct View {
    rows: Vec<Row>,
    /// The queue that all batches share, where there is one.
    depth: Option<Depth>,
    gates: Vec<(String, Gate)>,
}

fn of_states(states: &States, args: &StatusArgs) -> Result<View, Report> {
    let now = SystemClock.now();
    let mut rows = Vec::new();
    for state in &states.readers {
        for batch in state.reader.batches()? {
            if args.batch.as_ref().is_none_or(|name| *name == batch.batch.as_str()) {
                rows.push(Row::of(&batch, state.simulated, now));
            }
        }
    }
    let gates = states.gates()?.into_iter().map(|gate| (gate.lane, gate.gate)).collect();
    Ok(View { rows, depth: None, gates })
}

async fn of_fleet(fleet: &Fleet, args: &StatusArgs) -> Result<View, Report> {
    let now = SystemClock.now();
    let named = args.batch.as_ref().map(|name| BatchName::new(name).map_err(|_| states::no_batch(name))).transpose()?;
    let rows = fleet.batches(named.as_ref()).await?.iter().map(|batch| Row::of_fleet(batch, now)).collect();
    let posted = fleet.gates().await?.into_iter().filter(|gate| gate.gate.until > now);
    let gates = posted.map(|gate| (gate.lane, gate.gate)).collect();
    Ok(View { rows, depth: Some(fleet.queue().depth().await?), gates })
}

/// The contract's fields, and what tells batches of one name apart.
#[derive(Debug, Serialize)]
struct Row {
    batch: String,
    tenant: String,
    simulated: bool,
    total: u64,
    queued: u64,
    /// `None` where the queue alone knows: then they count as queued.
    running: Option<u64>,
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
    fn of(batch: &BatchSummary, simulated: bool, now: Timestamp) -> Self {
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
            running: Some(counts.running),
            succeeded: counts.succeeded,
            failed: counts.failed,
            rejected: counts.rejected,
            expired: counts.expired,
            cost_usd: batch.cost,
            eta_s: if open == 0 { Some(0.0) } else { seconds },
            right_sized: RightSized::of(batch.savings),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn of_fleet(batch: &aws::BatchSummary, now: Timestamp) -> Self {
        let (ended, open) = (&batch.ended, batch.open());
        let worked = now.since(batch.first).as_secs_f64();
        let seconds = open.filter(|_| ended.total > 0).map(|open| open as f64 * worked / ended.total as f64);
        Self {
            batch: batch.key.batch.to_string(),
            tenant: batch.key.tenant.to_string(),
            simulated: false,
            total: open.unwrap_or(0) + ended.total,
            queued: open.unwrap_or(0),
            running: None,
            succeeded: ended.succeeded,
            failed: ended.failed,
            rejected: ended.rejected,
            expired: ended.expired,
            cost_usd: ended.cost_usd,
            eta_s: seconds,
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
            row.running.map_or_else(|| "-".to_owned(), |running| running.to_string()),
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
