//! `aquifer status`: how do the batches stand? Counts, cost and an estimate of the end, from the state directory or the
//! fleet's table alone, so that it works beside running processes and after them.

mod screen;
mod watch;

use serde::Serialize;
use serde_json::json;

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
use super::{SystemClock, eta, out, wiring};

/// Shows one batch, or all; with `--watch` until whoever watches has seen enough.
///
/// # Errors
/// A report: there is no state, or no such batch.
pub(crate) async fn status(args: &StatusArgs) -> Result<Exit, Report> {
    let source = Source { args, fleet: wiring::configured_fleet(&args.places).await? };
    let view = source.look().await?;
    if args.watch {
        return watch::watch(&source, view).await;
    }
    if args.json {
        for row in &view.rows {
            out::line(&serde_json::to_string(row).map_err(Report::stuck)?)?;
        }
        return Ok(Exit::AllSucceeded);
    }
    view.lines().iter().try_for_each(|line| out::line(&line.text))?;
    Ok(Exit::AllSucceeded)
}

/// Where it is looked up.
struct Source<'a> {
    args: &'a StatusArgs,
    fleet: Option<Fleet>,
}

impl Source<'_> {
    /// How it stands now.
    async fn look(&self) -> Result<View, Report> {
        let view = match &self.fleet {
            Some(fleet) => of_fleet(fleet, self.args).await.map_err(Report::of_fleet)?,
            // Opened each time: the simulated state beside the real one may be made meanwhile.
            None => of_states(&States::open(&self.args.places.state)?, self.args)?,
        };
        match &self.args.batch {
            Some(name) if view.rows.is_empty() => Err(states::no_batch(name)),
            Some(_) | None => Ok(view),
        }
    }
}

/// What is shown.
struct View {
    at: Timestamp,
    rows: Vec<Row>,
    /// The queue that all batches share, where there is one.
    depth: Option<Depth>,
    gates: Vec<(String, Gate)>,
}

/// A line of the table, or below it.
struct Line {
    text: String,
    weight: Weight,
}

/// What of it a screen sets off, and what it does without first when there are more lines than it has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Weight {
    Heading,
    /// A batch with jobs that have not ended.
    Open,
    /// A batch that has ended, every job with success.
    Done,
    /// A batch with jobs that ended without success.
    Failed,
    /// What belongs to the line above.
    Note,
    /// What is said of the queue and of lanes that wait.
    Foot,
}

impl View {
    /// As a table.
    fn lines(&self) -> Vec<Line> {
        let foot = |text: String| Line { text, weight: Weight::Foot };
        let depth = self.depth.map(|Depth { ready, in_flight, delayed, dead }| {
            foot(format!("queue: {ready} ready, {in_flight} in flight, {delayed} delayed; {dead} dead letters"))
        });
        let gates = self.gates.iter().map(|(lane, gate)| {
            foot(format!("{lane} waits since {} until {}: {}", gate.since, gate.until, gate.reason))
        });
        table(&self.rows).into_iter().chain(depth).chain(gates).collect()
    }

    /// All of it in one object.
    fn json(&self) -> serde_json::Value {
        let depth = self.depth.map(|Depth { ready, in_flight, delayed, dead }| {
            json!({ "ready": ready, "in_flight": in_flight, "delayed": delayed, "dead": dead })
        });
        let gates = self.gates.iter().map(|(lane, gate)| {
            let (since, until) = (gate.since.to_string(), gate.until.to_string());
            json!({ "lane": lane, "reason": gate.reason, "since": since, "until": until })
        });
        let gates: Vec<_> = gates.collect();
        json!({ "at": self.at.to_string(), "batches": self.rows, "queue": depth, "gates": gates })
    }
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
    Ok(View { at: now, rows, depth: None, gates })
}

async fn of_fleet(fleet: &Fleet, args: &StatusArgs) -> Result<View, Report> {
    let now = SystemClock.now();
    let named = args.batch.as_ref().map(|name| BatchName::new(name).map_err(|_| states::no_batch(name))).transpose()?;
    let rows = fleet.batches(named.as_ref()).await?.iter().map(|batch| Row::of_fleet(batch, now)).collect();
    let posted = fleet.gates().await?.into_iter().filter(|gate| gate.gate.until > now);
    let gates = posted.map(|gate| (gate.lane, gate.gate)).collect();
    Ok(View { at: now, rows, depth: Some(fleet.queue().depth().await?), gates })
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
    /// Documents; a line of its own tells of them where there are any.
    partial: u64,
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
    fn of(batch: &BatchSummary, simulated: bool, now: Timestamp) -> Self {
        let counts = &batch.counts;
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
            partial: counts.partial,
            cost_usd: batch.cost,
            eta_s: eta::of_embedded(batch, now),
            right_sized: RightSized::of(batch.savings),
        }
    }

    fn of_fleet(batch: &aws::BatchSummary, now: Timestamp) -> Self {
        let (ended, open) = (&batch.ended, batch.open());
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
            partial: ended.partial,
            cost_usd: ended.cost_usd,
            eta_s: eta::of_fleet(batch, now),
            right_sized: RightSized::of(batch.savings),
        }
    }

    /// What people know it by.
    fn name(&self) -> String {
        let tenant = if self.tenant == "default" { String::new() } else { format!("{}/", self.tenant) };
        let mark = if self.simulated { " (simulated)" } else { "" };
        format!("{tenant}{}{mark}", self.batch)
    }

    fn eta(&self) -> String {
        match self.eta_s {
            Some(0.0) => "done".to_owned(),
            Some(seconds) => span(std::time::Duration::from_secs_f64(seconds)),
            None => "-".to_owned(),
        }
    }

    fn unsuccessful(&self) -> u64 {
        self.failed + self.rejected + self.expired + self.partial
    }

    /// Of `total`.
    fn open(&self) -> u64 {
        self.queued + self.running.unwrap_or(0)
    }

    fn weight(&self) -> Weight {
        match (self.unsuccessful(), self.open()) {
            (1.., _) => Weight::Failed,
            (0, 1..) => Weight::Open,
            (0, 0) => Weight::Done,
        }
    }
}

fn table(rows: &[Row]) -> Vec<Line> {
    let heading = format!(
        "{:<28} {:>9} {:>9} {:>8} {:>9} {:>7} {:>8} {:>7} {:>11} {:>8}",
        "BATCH", "TOTAL", "QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "REJECTED", "EXPIRED", "COST", "ETA"
    );
    let mut lines = vec![Line { text: heading, weight: Weight::Heading }];
    for row in rows {
        let (name, eta) = (row.name(), row.eta());
        let text = format!(
            "{name:<28} {:>9} {:>9} {:>8} {:>9} {:>7} {:>8} {:>7} {:>11} {eta:>8}",
            row.total,
            row.queued,
            row.running.map_or_else(|| "-".to_owned(), |running| running.to_string()),
            row.succeeded,
            row.failed,
            row.rejected,
            row.expired,
            row.cost_usd.to_string()
        );
        lines.push(Line { text, weight: row.weight() });
        if row.partial > 0 {
            let documents = if row.partial == 1 { "document" } else { "documents" };
            let text = format!("  {} {documents} ended partial: some of their chunks did not succeed", row.partial);
            lines.push(Line { text, weight: Weight::Note });
        }
        if let Some(RightSized { tokens_saved, reruns, rerun_cost_usd }) = &row.right_sized {
            let (saved, s) = (short(tokens_saved.0), if *reruns == 1 { "" } else { "s" });
            let text = format!("  right-sizing: {saved} tokens not reserved, {reruns} rerun{s} for {rerun_cost_usd}");
            lines.push(Line { text, weight: Weight::Note });
        }
    }
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::embedded::Counts;
    use crate::job::ident::Tenant;
    use crate::job::outcome::Usage;

    #[test]
    fn documents_that_ended_partial_are_told_of_and_are_no_success() {
        let counts = Counts { succeeded: 4, partial: 2, ..Counts::default() };
        let batch = BatchSummary {
            batch: BatchName::new("docs").unwrap(),
            tenant: Tenant::unnamed(),
            counts,
            cost: Usd::ZERO,
            committed: Usd::ZERO,
            usage: Usage::default(),
            savings: Savings::default(),
            sealed: true,
            announced: true,
            first: Timestamp(0),
            last: Timestamp(0),
        };
        let row = Row::of(&batch, false, Timestamp(1));
        let lines = table(std::slice::from_ref(&row));
        assert_eq!(lines[1].weight, Weight::Failed);
        assert!(lines[2].text.contains("2 documents ended partial"), "{}", lines[2].text);
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!((&json["total"], &json["succeeded"], &json["partial"]), (&json!(6), &json!(4), &json!(2)));
    }
}
