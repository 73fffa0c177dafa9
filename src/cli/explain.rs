//! `aquifer explain`: what became of a job, or what does it wait for and since when? Counts, times and classes; never its
//! prompt or its answer.

mod timeline;

use serde_json::json;

use crate::aws::{self, Fleet};
use crate::config::Settings;
use crate::embedded::{Counts, DeadLetter, JobReport, LaneGate, Waiting};
use crate::job::ident::{BatchName, JobId, JobKey};
use crate::job::lifecycle::{State, Status};
use crate::job::outcome::Tally;
use crate::job::units::Timestamp;
use crate::ports::{Clock, FinalRow, Gate};

use self::timeline::Timeline;
use super::args::ExplainArgs;
use super::exit::{Exit, Report};
use super::states::{States, no_batch};
use super::wiring;
use super::{SystemClock, out};

/// Tells it.
///
/// # Errors
/// A report: no such job, or the state cannot be read.
pub(crate) async fn explain(args: &ExplainArgs) -> Result<Exit, Report> {
    for Told { job, lines } in look(args).await? {
        if args.json {
            out::line(&job.to_string())?;
        } else {
            lines.iter().try_for_each(|line| out::line(line))?;
        }
    }
    Ok(Exit::AllSucceeded)
}

/// What there is to tell of one job.
pub(crate) struct Told {
    /// To a program.
    pub(crate) job: serde_json::Value,
    /// To a person, line by line.
    pub(crate) lines: Vec<String>,
}

/// Looks for every job of that id.
///
/// # Errors
/// A report: no such job, or the state cannot be read.
pub(crate) async fn look(args: &ExplainArgs) -> Result<Vec<Told>, Report> {
    let unknown = || {
        Report::usage(format!("no job is called `{}`", args.job))
            .hint("lines that were refused are no jobs: the results name them with file, line and reason")
    };
    // `report#3` is the third chunk of the document `report`.
    let (id, part) = match args.job.split_once('#') {
        Some((id, part)) => (id, Some(JobId::new(part).map_err(|_| unknown())?)),
        None => (args.job.as_str(), None),
    };
    let id = JobId::new(id).map_err(|_| unknown())?;
    let batch = match &args.batch {
        Some(name) => Some(BatchName::new(name).map_err(|_| no_batch(name))?),
        None => None,
    };
    if let Some(fleet) = wiring::configured_fleet(&args.places).await? {
        return of_fleet(&fleet, args, batch.as_ref(), &id, part.as_ref()).await.map_err(Report::of_fleet);
    }
    let states = States::open(&args.places.state)?;
    let mut told = Vec::new();
    for state in &states.readers {
        let every_gate = state.reader.gates()?;
        let jobs = match &part {
            Some(part) => state.reader.part(batch.as_ref(), &id, part)?,
            None => state.reader.job(batch.as_ref(), &id, None)?,
        };
        for job in jobs {
            let settings = wiring::settings(args.places.config.as_deref(), state.simulated)?;
            let gates = gates_of(&job, &every_gate, &settings);
            let mut known = Known::of(job, gates, state.simulated);
            known.name = args.job.clone();
            told.push(known.told());
        }
    }
    if told.is_empty() { Err(unknown()) } else { Ok(told) }
}

async fn of_fleet(
    fleet: &Fleet,
    args: &ExplainArgs,
    batch: Option<&BatchName>,
    id: &JobId,
    part: Option<&JobId>,
) -> Result<Vec<Told>, Report> {
    let jobs = match part {
        Some(part) => fleet.part(batch, id, part).await?,
        None => fleet.jobs(batch, id, None).await?,
    };
    if jobs.is_empty() {
        let ready = fleet.queue().depth().await?.ready;
        return Err(Report::usage(format!("no worker has taken up a job called `{}`", args.job)).hint(format!(
            "it may be among the {ready} that wait in the queue, or it was refused (the results name such lines), or never sent"
        )));
    }
    let now = SystemClock.now();
    let gates: Vec<_> = fleet.gates().await?.into_iter().filter(|gate| gate.gate.until > now).collect();
    let known = jobs.into_iter().map(|job| Known { name: args.job.clone(), ..Known::of_fleet(job, &gates) });
    Ok(known.map(|known| known.told()).collect())
}

/// What is known of a job, wherever it stands.
struct Known {
    /// As it was asked for.
    name: String,
    key: JobKey,
    simulated: bool,
    state: State,
    generation: u32,
    claims: u64,
    owner: Option<String>,
    tally: Tally,
    /// Whether a call is on its way; where only its worker knows, `false`.
    has_open_call: bool,
    enqueued: Timestamp,
    ended: Option<Timestamp>,
    ending: Option<FinalRow>,
    waiting: Option<Waiting>,
    dead: Option<DeadLetter>,
    redriven: Option<(Timestamp, String)>,
    /// Of a document: its parts by state, round by round.
    parts: Vec<Counts>,
    gates: Vec<(String, Gate)>,
    timeline: Timeline,
}

impl Known {
    fn told(&self) -> Told {
        Told { job: as_json(self), lines: as_text(self) }
    }

    fn of(job: JobReport, gates: Vec<LaneGate>, simulated: bool) -> Self {
        let recorded = ended(job.state, job.ended);
        let timeline = Timeline { enqueued: job.enqueued, trail: job.trail, recorded, notified: job.notified };
        Self {
            name: job.key.id.to_string(),
            timeline,
            key: job.key,
            simulated,
            state: job.state,
            generation: job.generation,
            claims: job.claims,
            owner: job.owner.map(|epoch| epoch.to_string()),
            tally: job.tally,
            has_open_call: job.open.is_some(),
            enqueued: job.enqueued,
            ended: job.ended,
            ending: job.ending,
            waiting: job.waiting,
            dead: job.dead,
            redriven: job.redriven,
            parts: job.parts,
            gates: gates.into_iter().map(|gate| (gate.lane, gate.gate)).collect(),
        }
    }

    /// A row does not say for which model it waits: every lane that lets nothing through is named.
    fn of_fleet(job: aws::JobReport, gates: &[aws::LaneGate]) -> Self {
        let waits = matches!(job.state, State::Queued | State::Running);
        let recorded = ended(job.state, job.ended);
        let timeline = Timeline { enqueued: job.enqueued, trail: job.trail, recorded, notified: job.notified };
        Self {
            name: job.key.id.to_string(),
            timeline,
            key: job.key,
            simulated: false,
            state: job.state,
            generation: job.generation,
            claims: u64::from(job.claims),
            owner: job.owner.map(|owner| owner.epoch),
            tally: job.tally,
            has_open_call: false,
            enqueued: job.enqueued,
            ended: job.ended,
            ending: job.ending,
            waiting: None,
            dead: None,
            redriven: None,
            parts: job.parts.iter().map(counts_of).collect(),
            gates: gates.iter().filter(|_| waits).map(|gate| (gate.lane.clone(), gate.gate.clone())).collect(),
        }
    }
}

/// Which of the open ones are at work only their rows know.
fn counts_of(parts: &aws::PartsReport) -> Counts {
    let aws::PartsReport { total, ended } = parts;
    Counts {
        queued: total.saturating_sub(ended.total),
        succeeded: ended.succeeded,
        failed: ended.failed,
        rejected: ended.rejected,
        expired: ended.expired,
        partial: ended.partial,
        ..Counts::default()
    }
}

fn ended(state: State, at: Option<Timestamp>) -> Option<(Timestamp, Status)> {
    match state {
        State::Final(status) => at.map(|at| (at, status)),
        State::Queued | State::Running => None,
    }
}

fn as_json(job: &Known) -> serde_json::Value {
    let ending = job.ending.as_ref().map(|row| &row.ending);
    json!({
        "id": job.name,
        "batch": job.key.batch,
        "tenant": job.key.tenant,
        "simulated": job.simulated,
        "state": job.state.word(),
        "generation": job.generation,
        "claims": job.claims,
        "attempts": job.tally.attempts,
        "model_calls": job.tally.model_calls,
        "cost_usd": job.tally.spent,
        "unknown_usd": job.tally.unknown,
        "enqueued": job.enqueued.to_string(),
        "ended": job.ended.map(|time| time.to_string()),
        "call_open": job.has_open_call,
        "model_used": ending.and_then(|ending| ending.model_used.clone()),
        "usage": ending.map(|ending| ending.usage),
        "error": ending.and_then(|ending| ending.error.clone()),
        "result": ending.map(|ending| &ending.result),
        "receives": job.waiting.map(|waiting| waiting.receives),
        "hidden_until": job.waiting.and_then(|waiting| waiting.hidden_until).map(|time| time.to_string()),
        "dead_letter": job.dead.as_ref().map(|dead| &dead.reason),
        "redriven": job.redriven.as_ref().map(|(at, reason)| json!({ "at": at.to_string(), "dead_letter": reason })),
        "parts": job.parts.iter().map(|counts| json!({
            "total": counts.total(), "queued": counts.queued, "running": counts.running, "succeeded": counts.succeeded,
        })).collect::<Vec<_>>(),
        "gates": job.gates.iter().map(|(lane, gate)| json!({
            "lane": lane,
            "reason": gate.reason,
            "since": gate.since.to_string(),
            "until": gate.until.to_string(),
        })).collect::<Vec<_>>(),
        "timeline": job.timeline.json(),
        "timeline_older": job.timeline.older(),
    })
}

/// The gates that hold it: those of its model, and of the models that may answer for it. A job that has ended waits for
/// nothing.
fn gates_of(job: &JobReport, gates: &[LaneGate], settings: &Settings) -> Vec<LaneGate> {
    let Some(asked) = job.model.as_deref().filter(|_| matches!(job.state, State::Queued | State::Running)) else {
        return Vec::new();
    };
    let configured = |name: &str| settings.models.iter().find(|model| *model.name == *name || *model.id == *name);
    let model_id = |name: &str| configured(name).map_or_else(|| name.to_owned(), |model| model.id.to_string());
    let fallback = configured(asked).map(|model| model.fallback.iter()).into_iter().flatten();
    let ids: Vec<String> = std::iter::once(asked).chain(fallback.map(|name| &**name)).map(model_id).collect();
    // The lane's id may have the prefix of a profile before it.
    let is_of = |lane: &str, id: &str| lane.strip_suffix(id).is_some_and(|before| before.ends_with(['/', '.']));
    let (now, batch) = (SystemClock.now(), format!("batch {}", job.key.batch));
    let holds = |gate: &&LaneGate| gate.lane == batch || ids.iter().any(|id| is_of(&gate.lane, id));
    gates.iter().filter(|gate| gate.gate.until > now).filter(holds).cloned().collect()
}

fn as_text(job: &Known) -> Vec<String> {
    let mark = if job.simulated { " (simulated)" } else { "" };
    let mut lines = vec![format!("job `{}` of batch `{}`, tenant `{}`{mark}", job.name, job.key.batch, job.key.tenant)];
    let now = SystemClock.now();
    let mut tell = |what: &str, text: String| lines.push(format!("  {what:<10} {text}"));
    tell("state", state(job, now));
    if let Some(waiting) = &job.waiting {
        let until = match (waiting.hidden_until, waiting.held) {
            (Some(until), true) => format!("held by a worker, whose lease ends {until} unless it is extended"),
            (Some(until), false) => format!("not delivered before {until}"),
            (None, _) => "waiting for a worker with a free slot".to_owned(),
        };
        tell("message", format!("{until}; delivered {} times", waiting.receives));
    }
    if job.generation > 0 {
        tell("generation", format!("run again {} times", job.generation));
    }
    for (round, counts) in job.parts.iter().enumerate() {
        let what = if round == 0 { "chunks" } else { "reduce" };
        let (total, open) = (counts.total(), counts.open());
        let running = if counts.running > 0 { format!(", {} at work", counts.running) } else { String::new() };
        let short = total - open - counts.succeeded;
        let short = if short > 0 { format!(", {short} without success") } else { String::new() };
        tell(what, format!("{} of {total} ended{short}{running}", total - open));
    }
    let call = if job.has_open_call { ", one of them open" } else { "" };
    tell(
        "calls",
        format!("{} to the model{call}; {} failed in a way that counts", job.tally.model_calls, job.tally.attempts),
    );
    tell(
        "cost",
        match job.tally.unknown.nanos() {
            0 => job.tally.spent.to_string(),
            _ => format!("{}, and up to {} for calls whose end was not seen", job.tally.spent, job.tally.unknown),
        },
    );
    if let Some(row) = &job.ending {
        let ending = &row.ending;
        if let Some(model) = &ending.model_used {
            tell(
                "answered",
                format!("{model}: {} tokens in, {} out", ending.usage.input_tokens, ending.usage.output_tokens),
            );
        }
        if let Some(error) = &ending.error {
            let request = error.request_id.as_ref().map_or_else(String::new, |id| format!(" (request {id})"));
            tell("error", format!("{error}{request}"));
        }
        tell("result", format!("{} bytes at {} of {}", ending.result.length, ending.result.offset, ending.result.uri));
    }
    if let Some(dead) = &job.dead {
        tell("dead", format!("in the dead-letter queue since {}: {}", dead.died, dead.reason));
    }
    if let Some((at, reason)) = &job.redriven {
        tell("redriven", format!("out of the dead-letter queue at {at}, where it lay because of this: {reason}"));
    }
    for (lane, gate) in &job.gates {
        tell("waits", format!("{lane}: {}, since {}, until {} as things stand", gate.reason, gate.since, gate.until));
    }
    lines.extend(job.timeline.text().into_iter().enumerate().map(|(place, line)| {
        let what = if place == 0 { "timeline" } else { "" };
        format!("  {what:<10} {line}")
    }));
    lines
}

fn state(job: &Known, now: Timestamp) -> String {
    match job.state {
        State::Queued => format!("queued for {}", super::run::span(now.since(job.enqueued))),
        State::Running => {
            let owner = job.owner.as_ref().map_or_else(String::new, |epoch| format!(" by process {epoch}"));
            format!("running{owner}, claim {}", job.claims)
        }
        State::Final(status) => match job.ended {
            Some(ended) => format!("{status} at {ended:.3}"),
            None => status.to_string(),
        },
    }
}
