//! Which jobs does an input hold? Every line of it becomes a job or a refusal, by the same rules whoever reads it: `aquifer run` and
//! `aquifer enqueue` on a person's machine, or a worker that was asked to in a workflow.
//!
//! A line is read as [`Intake::read`] says and enrolled with others of its [`lot`](Intake::lot); some lines are refused only then, since
//! their id stands for something else, and are enrolled as refusals in their place.

use std::fmt;
use std::sync::Arc;

use crate::job::document;
use crate::job::failure::{Class, Failure};
use crate::job::ident::{BatchName, JobId, Tenant};
use crate::job::intake::{Defaults, Draft, Refusal, parse_line};
use crate::job::lifecycle::{State, Status};
use crate::job::outcome::JobResult;
use crate::job::spec::Request;
use crate::job::units::Timestamp;
use crate::ports::rolls::{Entry, Line, Standing};
use crate::telemetry::traces::{CreateSpan, Traces};

use super::lanes::Catalogue;
use super::line_reader::{LineKind, MAX_LINE};

/// Lines that are enrolled in one call.
pub const LOT: usize = 500;

/// By what lines are read.
#[derive(Clone)]
pub struct Intake {
    /// The batch of every line.
    pub batch: BatchName,
    /// Whose lines they all are; `None`: each says so itself.
    pub tenant: Option<Tenant>,
    /// The model that was named for what names none, and for an OpenAI model that is not known.
    pub named: Option<String>,
    /// The model of jobs that name none.
    pub default: Option<String>,
    /// The models there are.
    pub catalogue: Arc<Catalogue>,
    /// Whether the workers of the back end answer task tokens.
    pub answers_callbacks: bool,
    /// Where the documents lie that the workers of the back end read.
    pub documents_in: document::Place,
    /// Why ingestions are refused, where nobody ingests.
    pub no_ingestions: Option<&'static str>,
    /// Whether the simulator answers.
    pub simulated: bool,
    /// What traces of jobs begin with.
    pub traces: Traces,
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("batch", &self.batch).field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// Where a line stands.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its file, for people; `-` is standard input.
    pub file: Arc<str>,
    /// Its number in that file, from 1; 0 if it is no line.
    pub number: u64,
    /// Its place among all lines of the input.
    pub position: u64,
}

/// A line, where it stands, and what it was read as.
#[derive(Debug)]
pub struct Read {
    /// Where.
    pub place: Place,
    /// What.
    pub parsed: Result<Draft, Refusal>,
}

/// Where lines stand that are on their way to be enrolled.
#[derive(Debug)]
pub struct Places(Vec<(Place, Option<Named>, Option<CreateSpan>)>);

/// How a line calls itself: its id and tenant, and whether the id was made for it.
type Named = (JobId, Tenant, bool);

/// What became of lines.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counted {
    /// Jobs, each counted once, and refused lines.
    pub lines: u64,
    /// Of these, jobs that were not known, and such as are to run again.
    pub queued: u64,
    /// Of these, refused lines.
    pub refused: u64,
}

impl Intake {
    /// Reads a line of text.
    ///
    /// # Errors
    /// [`Refusal`]: it is no job, or one that no lane can ever take. Such a one leaves no row, so that a mended line, or a mended
    /// configuration, runs it.
    pub fn read(&self, kind: LineKind, text: &[u8]) -> Result<Draft, Refusal> {
        let is_known = |name: &str| self.catalogue.find(name).is_some();
        let defaults = Defaults {
            batch: &self.batch,
            model: self.named.as_deref(),
            only_model: self.default.as_deref(),
            answers_callbacks: self.answers_callbacks,
            documents: Ok(self.documents_in),
            no_ingestions: self.no_ingestions,
            is_known: &is_known,
        };
        match kind {
            LineKind::Text => parse_line(text, &defaults).and_then(|draft| self.check(draft)),
            LineKind::TooLong { length } => Err(too_long(length)),
        }
    }

    /// What is known of a job before anything is queued.
    ///
    /// # Errors
    /// As [`Intake::read`].
    pub fn check(&self, mut draft: Draft) -> Result<Draft, Refusal> {
        if let Some(tenant) = self.tenant.as_ref().filter(|tenant| **tenant != draft.job.key.tenant) {
            if draft.job.key.tenant != Tenant::unnamed() {
                let why = format!("`tenant` is not {tenant}, for whom this input is enqueued");
                return Err(refusal_of(&draft, Failure::new(Class::BadInput, why)));
            }
            draft.job.key.tenant = tenant.clone();
        }
        let job = &draft.job;
        let failure = match self.catalogue.find(&job.model) {
            None if matches!(job.request, Request::Ingest(_)) => None,
            None => Some(Failure::new(Class::BadInput, format!("no model is called `{}`", job.model))),
            Some(plan) => plan.no_residence(job).or_else(|| plan.too_large(&plan.size_of(job))),
        };
        match failure {
            None => Ok(draft),
            Some(failure) => Err(refusal_of(&draft, failure)),
        }
    }

    /// What is enrolled for these lines, together; `tell` hears why each refused one is refused.
    pub fn lot(&self, now: Timestamp, lines: Vec<Read>, mut tell: impl FnMut(&str)) -> (Vec<Entry>, Places) {
        let (mut entries, mut places) = (Vec::with_capacity(lines.len()), Vec::with_capacity(lines.len()));
        for Read { place, parsed } in lines {
            let (mut line, why) = self.line(now, &place, parsed);
            if let Some(why) = why {
                tell(&why);
            }
            let span = match &mut line {
                Line::Job { job, .. } => {
                    let span = self.traces.creates(job);
                    job.trace = span.context();
                    Some(span)
                }
                Line::Refused { .. } => None,
            };
            let named = match &line {
                Line::Job { job, auto_id, .. } => Some((job.key.id.clone(), job.key.tenant.clone(), *auto_id)),
                Line::Refused { .. } => None,
            };
            entries.push(Entry { position: place.position, line });
            places.push((place, named, span));
        }
        (entries, Places(places))
    }

    /// Counts what became of lines that were enrolled; returns what is to be enrolled besides, as refusals.
    pub fn late(
        &self,
        places: Places,
        standings: Vec<Standing>,
        counted: &mut Counted,
        mut tell: impl FnMut(&str),
    ) -> Vec<Entry> {
        let mut late = Vec::new();
        for ((place, named, span), standing) in places.0.into_iter().zip(standings) {
            let is_sent = matches!(standing, Standing::New | Standing::Redriven);
            span.filter(|_| !is_sent).into_iter().for_each(CreateSpan::not_sent);
            let (class, reason) = match standing {
                Standing::New | Standing::Redriven => {
                    counted.lines += 1;
                    counted.queued += 1;
                    continue;
                }
                Standing::Queued | Standing::Running | Standing::Final(_) => {
                    counted.lines += 1;
                    continue;
                }
                Standing::Refused => {
                    counted.lines += 1;
                    counted.refused += 1;
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
            let (line, why) = self.refused(&place, Refusal { class, column: None, reason, id, tenant });
            tell(&why);
            late.push(Entry { position: place.position, line });
        }
        late
    }

    /// What is enrolled for a line, and why it is refused if it is.
    pub fn line(&self, now: Timestamp, place: &Place, parsed: Result<Draft, Refusal>) -> (Line, Option<String>) {
        match parsed {
            Ok(Draft { job, auto_id }) => {
                let stale_deadline = job.deadline.is_some_and(|deadline| deadline <= now);
                (Line::Job { job: Box::new(job), auto_id, stale_deadline }, None)
            }
            Err(refusal) => {
                let (line, why) = self.refused(place, refusal);
                (line, Some(why))
            }
        }
    }

    /// The result of a line that is no job, and why it is none.
    fn refused(&self, place: &Place, refusal: Refusal) -> (Line, String) {
        let Place { file, number, .. } = place;
        let file = name_of(file);
        let at = match (refusal.column, *number) {
            // A document has no lines.
            (_, 0) => file.to_owned(),
            (None, number) => format!("{file}:{number}"),
            (Some(column), number) => format!("{file}:{number}:{column}"),
        };
        let message = format!("{at}: {}", refusal.reason);
        // Its result is counted with the batch of whoever asked for the input, whatever the line says.
        let tenant = self.tenant.clone().or(refusal.tenant).unwrap_or_else(Tenant::unnamed);
        let id = refusal.id.map_or_else(|| format!("line-{number}"), |id| id.to_string());
        let failure = Failure::new(refusal.class, message.clone());
        let result = JobResult::refused(id.clone(), self.batch.clone(), tenant.clone(), failure, self.simulated);
        // Text keys and plain values throughout: there is nothing here that JSON cannot say.
        let result_line = serde_json::to_vec(&result).unwrap_or_default();
        (Line::Refused { tenant, id, result_line }, message)
    }
}

/// A file as messages call it.
pub fn name_of(file: &str) -> &str {
    if file == STDIN { "stdin" } else { file }
}

/// Standard input, as it is typed.
pub const STDIN: &str = "-";

fn refusal_of(draft: &Draft, failure: Failure) -> Refusal {
    Refusal {
        class: failure.class,
        column: None,
        reason: failure.message,
        id: (!draft.auto_id).then(|| draft.job.key.id.clone()),
        tenant: Some(draft.job.key.tenant.clone()),
    }
}

fn too_long(length: u64) -> Refusal {
    let most = MAX_LINE >> 20;
    let reason = format!("the line has {length} bytes; at most {most} MiB are read");
    Refusal { class: Class::BadInput, column: None, reason, id: None, tenant: None }
}

fn conflict(id: &str, with: State) -> String {
    let advice = match with {
        State::Final(Status::Failed | Status::Expired) => "; --retry-failed runs it with the new content",
        State::Queued | State::Running | State::Final(Status::Succeeded | Status::Rejected | Status::Partial) => {
            "; give it another id, or name another --batch"
        }
    };
    format!("id `{id}` stands for other content already ({}){advice}", with.word())
}
