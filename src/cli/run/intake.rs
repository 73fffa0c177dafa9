//! Which jobs does the input hold? Every line is enrolled: as a new job, as one that is known, or as a refused line.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::cli::args::RunArgs;
use crate::cli::exit::Report;
use crate::cli::input::{InputError, LineKind, Lines, MAX_LINE};
use crate::cli::terminal::say;
use crate::config::{ModelSettings, Settings};
use crate::embedded::{Entry, Line, Run, Standing};
use crate::flow::context::Context;
use crate::job::failure::{Class, Failure};
use crate::job::ident::{BatchName, Tenant};
use crate::job::intake::{Defaults, Draft, NO_MODEL, Refusal, is_plausible_model_id, parse_line};
use crate::job::lifecycle::State;
use crate::job::outcome::JobResult;
use crate::job::units::Usd;

/// What the input turned out to hold.
#[derive(Clone, Debug)]
pub(crate) struct Enrolled {
    /// The batch.
    pub(crate) batch: BatchName,
    /// Jobs, each counted once, and refused lines.
    pub(crate) jobs: u64,
    /// Whose jobs.
    pub(crate) tenants: BTreeSet<Tenant>,
    /// Models whose price is not known.
    pub(crate) unpriced: BTreeSet<String>,
}

/// Lines enrolled in one transaction.
const CHUNK: usize = 500;
/// Chunks read ahead of the ledger.
const AHEAD: usize = 4;
/// Refused lines are told to the person up to this many; all of them are in the results.
pub(crate) const TOLD: u64 = 20;

/// The model of jobs that name none.
///
/// # Errors
/// A report: `--model` names nothing that is known, or a cap on cost is asked for and the model has no price.
pub(crate) fn default_model(
    settings: &Settings,
    named: Option<&str>,
    cost_cap: Option<Usd>,
) -> Result<Option<String>, Report> {
    let Some(name) = named else {
        return match settings.default_model() {
            Some(model) if cost_cap.is_some() && model.price.is_none() => Err(no_price(&model.name)),
            Some(model) => Ok(Some(model.name.to_string())),
            None => Ok(None),
        };
    };
    let bare = || is_plausible_model_id(name).then(|| ModelSettings::bare(name));
    let known = settings.model(name).cloned().or_else(bare);
    let Some(model) = known else {
        let names: Vec<_> = settings.models.iter().map(|model| model.name.to_string()).collect();
        let hint = if names.is_empty() {
            "give a Bedrock model or inference-profile id, or define a [[model]] in aquifer.toml".to_owned()
        } else {
            format!("configured are {}; a Bedrock model or inference-profile id works too", names.join(", "))
        };
        return Err(Report::usage(format!("no model is called `{name}`")).hint(hint));
    };
    if cost_cap.is_some() && model.price.is_none() {
        return Err(no_price(name));
    }
    Ok(Some(name.to_owned()))
}

/// Without a default, do the first lines name a model at all? Told now, where it takes one flag, and not once a line.
/// Standard input cannot be looked at twice: there each line is refused.
///
/// # Errors
/// A report: none of them does.
pub(crate) fn check_models(inputs: &[PathBuf], batch: &BatchName, settings: &Settings) -> Result<(), Report> {
    let files: Vec<PathBuf> = inputs.iter().filter(|path| path.is_file()).cloned().collect();
    if files.is_empty() {
        return Ok(());
    }
    let is_known = |name: &str| settings.model(name).is_some() || is_plausible_model_id(name);
    let defaults = Defaults { batch, model: None, only_model: None, answers_callbacks: false, is_known: &is_known };
    let mut lines = Lines::open(&files).map_err(Report::usage)?;
    let mut buffer = Vec::new();
    let mut without = false;
    for _ in 0..CHUNK {
        // What cannot be read on is told when its turn comes.
        let Ok(Some(line)) = lines.next_line(&mut buffer) else { break };
        if line.kind != LineKind::Text {
            continue;
        }
        match parse_line(&buffer, &defaults) {
            Ok(_) => return Ok(()),
            Err(refusal) => without |= refusal.reason == NO_MODEL,
        }
    }
    if !without {
        return Ok(());
    }
    Err(Report::usage("no model: the input names none, and there is no default")
        .hint("give --model with a Bedrock model or inference-profile id, or define a [[model]] in aquifer.toml; --simulate without aquifer.toml has its own"))
}

fn no_price(model: &str) -> Report {
    Report::usage(format!("--max-cost needs a price for `{model}`"))
        .hint("add `price = { input = ..., output = ... }` to its [[model]] in aquifer.toml")
}

/// Reads all inputs and enrols their lines; `None` if the person stopped it.
///
/// # Errors
/// A report: an input or the ledger cannot be read on.
pub(crate) async fn enrol(
    args: &RunArgs,
    context: &Arc<Context>,
    roll: &Run,
    batch: &BatchName,
    model: Option<&str>,
    cost_cap: Option<Usd>,
) -> Result<Option<Enrolled>, Report> {
    let reader = Reader {
        inputs: args.inputs.clone(),
        batch: batch.clone(),
        named: args.model.clone(),
        only: model.map(str::to_owned),
        context: Arc::clone(context),
        cost_cap,
    };
    let (send, mut chunks) = mpsc::channel(AHEAD);
    let reading = tokio::task::spawn_blocking(move || reader.read(&send));
    let mut enrolled = Enrolled { batch: batch.clone(), jobs: 0, tenants: BTreeSet::new(), unpriced: BTreeSet::new() };
    let mut told = 0;
    loop {
        let chunk = tokio::select! {
            biased;
            // Whoever reads may wait for a line that never comes.
            () = context.stop.drained() => return Ok(None),
            chunk = chunks.recv() => chunk,
        };
        let Some(chunk) = chunk else { break };
        enrol_chunk(args, context, roll, chunk, &mut enrolled, &mut told).await?;
    }
    let read = reading.await.map_err(|error| Report::stuck(format!("reading the input: {error}")))?;
    enrolled.unpriced = read?;
    if told > TOLD {
        say(&format!("and {} more refused lines; all of them are in the results", told - TOLD));
    }
    let sealed = roll.seal().await?;
    if sealed.withdrawn > 0 {
        say(&format!("{} queued jobs are no longer in the input and were withdrawn", sealed.withdrawn));
    }
    Ok(Some(enrolled))
}

/// A line, where it stands, and what it was read as.
struct Read {
    place: Place,
    parsed: Result<Draft, Refusal>,
}

#[derive(Clone)]
struct Place {
    file: Arc<str>,
    number: u64,
    position: u64,
}

struct Reader {
    inputs: Vec<PathBuf>,
    batch: BatchName,
    named: Option<String>,
    only: Option<String>,
    context: Arc<Context>,
    cost_cap: Option<Usd>,
}

impl Reader {
    /// Sends all lines, in chunks; what it returns is the models without a price.
    fn read(&self, out: &mpsc::Sender<Vec<Read>>) -> Result<BTreeSet<String>, Report> {
        let unreadable =
            |error: InputError| Report::stuck(error).hint("lines before it are queued; mend it and run again");
        let mut lines = Lines::open(&self.inputs).map_err(Report::usage)?;
        let is_known = |name: &str| self.context.catalogue.find(name).is_some();
        let defaults = Defaults {
            batch: &self.batch,
            model: self.named.as_deref(),
            only_model: self.only.as_deref(),
            answers_callbacks: false,
            is_known: &is_known,
        };
        let mut buffer = Vec::new();
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut position = 0;
        let mut unpriced = BTreeSet::new();
        while let Some(line) = lines.next_line(&mut buffer).map_err(unreadable)? {
            let parsed = match line.kind {
                LineKind::Text => parse_line(&buffer, &defaults).and_then(|draft| self.check(draft)),
                LineKind::TooLong { length } => Err(too_long(length)),
            };
            if let Ok(Draft { job, .. }) = &parsed
                && !unpriced.contains(&job.model)
                && self.context.catalogue.find(&job.model).is_none_or(|plan| plan.price.is_none())
            {
                if self.cost_cap.is_some() {
                    return Err(no_price(&job.model));
                }
                unpriced.insert(job.model.clone());
            }
            chunk.push(Read { place: Place { file: line.file, number: line.number, position }, parsed });
            position += 1;
            if chunk.len() == CHUNK
                && out.blocking_send(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK))).is_err()
            {
                return Ok(unpriced);
            }
        }
        let _ = out.blocking_send(chunk);
        Ok(unpriced)
    }

    /// What is known before anything is queued: a job that no lane can ever take leaves no row, so that a
    /// mended configuration runs it.
    fn check(&self, draft: Draft) -> Result<Draft, Refusal> {
        let job = &draft.job;
        let failure = match self.context.catalogue.find(&job.model) {
            None => Some(Failure::new(Class::BadInput, format!("no model is called `{}`", job.model))),
            Some(plan) => plan.no_residence(job).or_else(|| plan.too_large(&plan.size_of(job))),
        };
        match failure {
            None => Ok(draft),
            Some(failure) => Err(Refusal {
                class: failure.class,
                column: None,
                reason: failure.message,
                id: (!draft.auto_id).then(|| job.key.id.clone()),
                tenant: Some(job.key.tenant.clone()),
            }),
        }
    }
}

fn too_long(length: u64) -> Refusal {
    let most = MAX_LINE >> 20;
    let reason = format!("the line has {length} bytes; at most {most} MiB are read");
    Refusal { class: Class::BadInput, column: None, reason, id: None, tenant: None }
}

async fn enrol_chunk(
    args: &RunArgs,
    context: &Context,
    roll: &Run,
    chunk: Vec<Read>,
    enrolled: &mut Enrolled,
    told: &mut u64,
) -> Result<(), Report> {
    let now = context.now();
    let mut places = Vec::with_capacity(chunk.len());
    let mut entries = Vec::with_capacity(chunk.len());
    for Read { place, parsed } in chunk {
        let line = match parsed {
            Ok(Draft { job, auto_id }) => {
                enrolled.tenants.insert(job.key.tenant.clone());
                let stale_deadline = job.deadline.is_some_and(|deadline| deadline <= now);
                Line::Job { job: Box::new(job), auto_id, stale_deadline }
            }
            Err(refusal) => refused(context, &enrolled.batch, &place, refusal, told),
        };
        if let Line::Refused { tenant, .. } = &line {
            enrolled.tenants.insert(tenant.clone());
        }
        let named = match &line {
            Line::Job { job, auto_id, .. } => Some((job.key.id.clone(), job.key.tenant.clone(), *auto_id)),
            Line::Refused { .. } => None,
        };
        entries.push(Entry { position: place.position, line });
        places.push((place, named));
    }
    let standings = roll.enrol(entries, args.retry_failed).await?;
    let mut late = Vec::new();
    for ((place, named), standing) in places.into_iter().zip(standings) {
        let (class, reason) = match standing {
            Standing::New
            | Standing::Queued
            | Standing::Running
            | Standing::Final(_)
            | Standing::Redriven
            | Standing::Refused => {
                enrolled.jobs += 1;
                continue;
            }
            Standing::SameLineTwice => continue,
            Standing::Conflict { with } => {
                let id = named.as_ref().map_or("", |(id, _, _)| id.as_str());
                (Class::IdConflict, conflict(id, with))
            }
            Standing::StaleDeadline => (Class::BadInput, "`deadline` has passed already".to_owned()),
        };
        let (id, tenant) = match named {
            Some((id, tenant, false)) => (Some(id), Some(tenant)),
            Some((_, tenant, true)) => (None, Some(tenant)),
            None => (None, None),
        };
        let refusal = Refusal { class, column: None, reason, id, tenant };
        let line = refused(context, &enrolled.batch, &place, refusal, told);
        late.push(Entry { position: place.position, line });
    }
    if !late.is_empty() {
        enrolled.jobs += roll.enrol(late, false).await?.len() as u64;
    }
    Ok(())
}

fn conflict(id: &str, with: State) -> String {
    let advice = match with {
        State::Final(crate::job::lifecycle::Status::Failed | crate::job::lifecycle::Status::Expired) => {
            "; --retry-failed runs it with the new content"
        }
        State::Queued | State::Running | State::Final(_) => "; give it another id, or name another --batch",
    };
    format!("id `{id}` stands for other content already ({}){advice}", with.word())
}

/// A file as messages call it.
pub(crate) fn name_of(file: &str) -> &str {
    if file == "-" { "stdin" } else { file }
}

/// Tells the person, and makes the result line.
fn refused(context: &Context, batch: &BatchName, place: &Place, refusal: Refusal, told: &mut u64) -> Line {
    let Place { file, number, .. } = place;
    let file = name_of(file);
    let at = refusal.column.map_or_else(|| format!("{file}:{number}"), |column| format!("{file}:{number}:{column}"));
    let message = format!("{at}: {}", refusal.reason);
    *told += 1;
    if *told <= TOLD {
        say(&format!("refused {message}"));
    }
    let tenant = refusal.tenant.unwrap_or_else(Tenant::unnamed);
    let id = refusal.id.map_or_else(|| format!("line-{number}"), |id| id.to_string());
    let failure = Failure::new(refusal.class, message);
    let simulated = context.settings.simulated;
    let result = JobResult::refused(id.clone(), batch.clone(), tenant.clone(), failure, simulated);
    // Text keys and plain values throughout: there is nothing here that JSON cannot say.
    let result_line = serde_json::to_vec(&result).unwrap_or_default();
    Line::Refused { tenant, id, result_line }
}
