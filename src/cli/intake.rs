//! Which jobs does the input hold? Every line is enrolled: as a new job, as one that is known, or as a refused line.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::embedded::{Entry, Line, Standing};
use crate::flow::lanes::Catalogue;
use crate::flow::stop::Stop;
use crate::job::document;
use crate::job::failure::{Class, Failure};
use crate::job::ident::{BatchName, Digest, Tenant};
use crate::job::intake::{Defaults, Draft, Refusal, parse_line};
use crate::job::lifecycle::State;
use crate::job::outcome::JobResult;
use crate::job::spec::Request;
use crate::job::units::Usd;
use crate::ports::Clock;
use crate::telemetry::traces::{CreateSpan, Traces};

use super::SystemClock;
use super::backend::Roll;
use super::default_model::no_price;
use super::documents::{self, Rules};
use super::exit::Report;
use super::fleet_roll::chained;
use super::input::{InputError, LineKind, Lines, MAX_LINE, batch_name_of};
use super::terminal::say;

/// An input, and what its lines are read by.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) inputs: Vec<PathBuf>,
    pub(crate) batch: BatchName,
    /// `--model`.
    pub(crate) named: Option<String>,
    /// The model of jobs that name none.
    pub(crate) default: Option<String>,
    pub(crate) cost_cap: Option<Usd>,
    /// Whether jobs that failed or expired are to run again.
    pub(crate) retry_failed: bool,
    pub(crate) catalogue: Arc<Catalogue>,
    /// Whether the workers of the back end answer task tokens.
    pub(crate) answers_callbacks: bool,
    /// How the inputs are read, if they are documents and not files of jobs.
    pub(crate) documents: Option<Rules>,
    /// Where the documents lie that the workers of the back end read.
    pub(crate) documents_in: document::Place,
    /// Why ingestions are refused, where nobody ingests.
    pub(crate) no_ingestions: Option<&'static str>,
    pub(crate) simulated: bool,
    pub(crate) stop: Stop,
    /// The input that holds what standard input said, if it had to be kept.
    pub(crate) spooled: Option<PathBuf>,
    /// What traces of jobs begin with.
    pub(crate) traces: Traces,
}

/// What the input turned out to hold.
#[derive(Clone, Debug)]
pub(crate) struct Enrolled {
    /// The batch.
    pub(crate) batch: BatchName,
    /// Jobs, each counted once, and refused lines.
    pub(crate) jobs: u64,
    /// Of these, jobs that were not known, and such as are to run again.
    pub(crate) queued: u64,
    /// Of these, refused lines.
    pub(crate) refused: u64,
    /// Jobs of earlier inputs that nobody asks for any more.
    pub(crate) withdrawn: u64,
    /// Whose jobs.
    pub(crate) tenants: BTreeSet<Tenant>,
    /// Models whose price is not known.
    pub(crate) unpriced: BTreeSet<String>,
}

/// Standard input, as it is typed.
pub(crate) const STDIN: &str = "-";
/// Lines enrolled in one transaction.
const CHUNK: usize = 500;
/// Chunks read ahead of the ledger.
const AHEAD: usize = 4;
/// Refused lines are told to the person up to this many; all of them are in the results.
pub(crate) const TOLD: u64 = 20;

/// The name that was given, else that of the first input.
///
/// # Errors
/// A report: it is not one that a batch can have.
pub(crate) fn batch_name(named: Option<&str>, inputs: &[PathBuf]) -> Result<BatchName, Report> {
    match named {
        Some(name) => BatchName::new(name).map_err(|error| Report::usage(format!("--batch: {error}"))),
        None => Ok(batch_name_of(inputs)),
    }
}

/// Reads all inputs and sends nothing: whether they can be read to their end. `None` if the person stopped it.
///
/// # Errors
/// A report: an input cannot be read.
pub(crate) async fn check(source: &Source) -> Result<Option<()>, Report> {
    let hint = "nothing was sent; mend it and send it again";
    let reader = Reader { source: source.clone(), hint };
    // Whoever reads may wait for a line that never comes.
    let reading = tokio::task::spawn_blocking(move || reader.read(|_| true));
    tokio::select! {
        biased;
        () = source.stop.drained() => Ok(None),
        read = reading => read.map_err(|error| Report::stuck(format!("reading the input: {error}")))?.map(|_| Some(())),
    }
}

/// The digest of the first so many lines, as [`FleetRoll`](super::fleet_roll::FleetRoll) counts them.
///
/// # Errors
/// A report: an input cannot be read.
pub(crate) async fn digest_of(source: &Source, lines: u64) -> Result<Digest, Report> {
    let reader = Reader { source: source.clone(), hint: "nothing was sent" };
    let reading = tokio::task::spawn_blocking(move || {
        let (mut digest, mut left) = (Digest::of(b""), lines);
        let source = reader.source.clone();
        reader.read(|chunk| {
            for Read { place, parsed } in chunk.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                digest = chained(digest, &as_line(&source, &place, parsed).0);
                left -= 1;
            }
            left > 0
        })?;
        Ok(digest)
    });
    reading.await.map_err(|error| Report::stuck(format!("reading the input: {error}")))?
}

/// Reads all inputs and enrols their lines; `None` if the person stopped it.
///
/// # Errors
/// A report: an input or the ledger cannot be read on.
pub(crate) async fn enrol(source: &Source, roll: &Roll) -> Result<Option<Enrolled>, Report> {
    let reader = Reader { source: source.clone(), hint: "lines before it are queued; mend it and run again" };
    let (send, mut chunks) = mpsc::channel(AHEAD);
    let reading = tokio::task::spawn_blocking(move || reader.read(|chunk| send.blocking_send(chunk).is_ok()));
    let mut desk = Desk {
        source,
        roll,
        told: 0,
        enrolled: Enrolled {
            batch: source.batch.clone(),
            jobs: 0,
            queued: 0,
            refused: 0,
            withdrawn: 0,
            tenants: BTreeSet::new(),
            unpriced: BTreeSet::new(),
        },
    };
    loop {
        let chunk = tokio::select! {
            biased;
            // Whoever reads may wait for a line that never comes.
            () = source.stop.drained() => return Ok(None),
            chunk = chunks.recv() => chunk,
        };
        let Some(chunk) = chunk else { break };
        desk.enrol(chunk).await?;
    }
    let Desk { told, mut enrolled, .. } = desk;
    let read = reading.await.map_err(|error| Report::stuck(format!("reading the input: {error}")))?;
    enrolled.unpriced = read?;
    if told > TOLD {
        say(&format!("and {} more refused lines; all of them are in the results", told - TOLD));
    }
    enrolled.withdrawn = roll.seal().await?.withdrawn;
    if enrolled.withdrawn > 0 {
        say(&format!("{} queued jobs are no longer in the input and were withdrawn", enrolled.withdrawn));
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
    source: Source,
    hint: &'static str,
}

impl Reader {
    /// Hands on all lines, in chunks, until nobody takes them; what it returns is the models without a price.
    fn read(&self, mut take: impl FnMut(Vec<Read>) -> bool) -> Result<BTreeSet<String>, Report> {
        let source = &self.source;
        if let Some(rules) = &source.documents {
            return self.read_documents(rules, take);
        }
        let unreadable = |error: InputError| Report::stuck(error).hint(self.hint);
        let mut lines = Lines::open(&source.inputs).map_err(Report::usage)?;
        let is_known = |name: &str| source.catalogue.find(name).is_some();
        let defaults = Defaults {
            batch: &source.batch,
            model: source.named.as_deref(),
            only_model: source.default.as_deref(),
            answers_callbacks: source.answers_callbacks,
            documents: Ok(source.documents_in),
            no_ingestions: source.no_ingestions,
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
            self.note_price(&parsed, &mut unpriced)?;
            let is_spooled = source.spooled.as_deref().is_some_and(|spooled| Path::new(&*line.file) == spooled);
            let file = if is_spooled { STDIN.into() } else { line.file };
            chunk.push(Read { place: Place { file, number: line.number, position }, parsed });
            position += 1;
            if chunk.len() == CHUNK && !take(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK))) {
                return Ok(unpriced);
            }
        }
        take(chunk);
        Ok(unpriced)
    }

    /// The same where each input is a document, or a folder of them.
    fn read_documents(
        &self,
        rules: &Rules,
        mut take: impl FnMut(Vec<Read>) -> bool,
    ) -> Result<BTreeSet<String>, Report> {
        let source = &self.source;
        let mut unpriced = BTreeSet::new();
        for (path, position) in documents::files(&source.inputs, rules)?.into_iter().zip(0..) {
            let (named, default) = (source.named.as_deref(), source.default.as_deref());
            let parsed =
                documents::job(&path, rules, &source.batch, named, default).and_then(|draft| self.check(draft));
            self.note_price(&parsed, &mut unpriced)?;
            let place = Place { file: path.to_string_lossy().into(), number: 0, position };
            // One by one: each was read for its digest.
            if !take(vec![Read { place, parsed }]) {
                break;
            }
        }
        Ok(unpriced)
    }

    /// Takes note of a model without a price, where that does not matter.
    fn note_price(&self, parsed: &Result<Draft, Refusal>, unpriced: &mut BTreeSet<String>) -> Result<(), Report> {
        if let Ok(Draft { job, .. }) = parsed
            && !matches!(job.request, Request::Ingest(_))
            && !unpriced.contains(&job.model)
            && self.source.catalogue.find(&job.model).is_none_or(|plan| plan.price.is_none())
        {
            if self.source.cost_cap.is_some() {
                return Err(no_price(&job.model));
            }
            unpriced.insert(job.model.clone());
        }
        Ok(())
    }

    /// What is known before anything is queued: a job that no lane can ever take leaves no row, so that a
    /// mended configuration runs it.
    fn check(&self, draft: Draft) -> Result<Draft, Refusal> {
        let job = &draft.job;
        let failure = match self.source.catalogue.find(&job.model) {
            None if matches!(job.request, Request::Ingest(_)) => None,
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

/// Takes lines in, chunk after chunk.
struct Desk<'a> {
    source: &'a Source,
    roll: &'a Roll,
    told: u64,
    enrolled: Enrolled,
}

impl Desk<'_> {
    async fn enrol(&mut self, chunk: Vec<Read>) -> Result<(), Report> {
        let mut places = Vec::with_capacity(chunk.len());
        let mut entries = Vec::with_capacity(chunk.len());
        for Read { place, parsed } in chunk {
            let (mut line, why) = as_line(self.source, &place, parsed);
            let span = match &mut line {
                Line::Job { job, .. } => {
                    let span = self.source.traces.creates(job);
                    job.trace = span.context();
                    Some(span)
                }
                Line::Refused { .. } => None,
            };
            let (tenant, named) = match &line {
                Line::Job { job, auto_id, .. } => {
                    (&job.key.tenant, Some((job.key.id.clone(), job.key.tenant.clone(), *auto_id)))
                }
                Line::Refused { tenant, .. } => (tenant, None),
            };
            self.enrolled.tenants.insert(tenant.clone());
            self.tell(why);
            entries.push(Entry { position: place.position, line });
            places.push((place, named, span));
        }
        let standings = self.roll.enrol(entries, self.source.retry_failed).await?;
        let mut late = Vec::new();
        for ((place, named, span), standing) in places.into_iter().zip(standings) {
            let is_sent = matches!(standing, Standing::New | Standing::Redriven);
            span.filter(|_| !is_sent).into_iter().for_each(CreateSpan::not_sent);
            let (class, reason) = match standing {
                Standing::New | Standing::Redriven => {
                    self.enrolled.jobs += 1;
                    self.enrolled.queued += 1;
                    continue;
                }
                Standing::Queued | Standing::Running | Standing::Final(_) => {
                    self.enrolled.jobs += 1;
                    continue;
                }
                Standing::Refused => {
                    self.enrolled.jobs += 1;
                    self.enrolled.refused += 1;
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
            let (line, why) = refused(self.source, &place, Refusal { class, column: None, reason, id, tenant });
            self.tell(Some(why));
            late.push(Entry { position: place.position, line });
        }
        if !late.is_empty() {
            let refused = self.roll.enrol(late, false).await?.len() as u64;
            self.enrolled.jobs += refused;
            self.enrolled.refused += refused;
        }
        Ok(())
    }

    /// Tells the person why a line is refused.
    fn tell(&mut self, why: Option<String>) {
        let Some(why) = why else { return };
        self.told += 1;
        if self.told <= TOLD {
            say(&format!("refused {why}"));
        }
    }
}

/// What is enrolled for a line, and why it is refused if it is.
fn as_line(source: &Source, place: &Place, parsed: Result<Draft, Refusal>) -> (Line, Option<String>) {
    match parsed {
        Ok(Draft { job, auto_id }) => {
            let stale_deadline = job.deadline.is_some_and(|deadline| deadline <= SystemClock.now());
            (Line::Job { job: Box::new(job), auto_id, stale_deadline }, None)
        }
        Err(refusal) => {
            let (line, why) = refused(source, place, refusal);
            (line, Some(why))
        }
    }
}

/// The result of a line that is no job, and why it is none.
fn refused(source: &Source, place: &Place, refusal: Refusal) -> (Line, String) {
    let Place { file, number, .. } = place;
    let file = name_of(file);
    let at = match (refusal.column, *number) {
        // A document has no lines.
        (_, 0) => file.to_owned(),
        (None, number) => format!("{file}:{number}"),
        (Some(column), number) => format!("{file}:{number}:{column}"),
    };
    let message = format!("{at}: {}", refusal.reason);
    let tenant = refusal.tenant.unwrap_or_else(Tenant::unnamed);
    let id = refusal.id.map_or_else(|| format!("line-{number}"), |id| id.to_string());
    let failure = Failure::new(refusal.class, message.clone());
    let result = JobResult::refused(id.clone(), source.batch.clone(), tenant.clone(), failure, source.simulated);
    // Text keys and plain values throughout: there is nothing here that JSON cannot say.
    let result_line = serde_json::to_vec(&result).unwrap_or_default();
    (Line::Refused { tenant, id, result_line }, message)
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
    if file == STDIN { "stdin" } else { file }
}
