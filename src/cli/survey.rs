//! What does an input hold, before anything is queued? Read and judged as a run would, for commands that only reckon.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use crate::flow::lanes::{Catalogue, Plan, Size};
use crate::job::ident::BatchName;
use crate::job::intake::{Defaults, parse_line};
use crate::job::spec::{Job, Request};
use crate::ports::Clock;

use super::SystemClock;
use super::exit::Report;
use super::input::{LineKind, Lines};
use super::intake::{TOLD, name_of};
use super::terminal::say;

/// Which input, and what fills in where its lines say nothing.
pub(crate) struct Survey<'a> {
    pub(crate) inputs: &'a [PathBuf],
    pub(crate) batch: &'a BatchName,
    /// `--model`.
    pub(crate) named: Option<&'a str>,
    /// The only `[[model]]`, else the first.
    pub(crate) default: Option<&'a str>,
}

impl Survey<'_> {
    /// Reads all of it, and hands on each job once, with its model and size. The refused lines are told to the person;
    /// returns how many there are.
    ///
    /// # Errors
    /// A report: an input cannot be read.
    pub(crate) fn read(
        &self,
        catalogue: &Catalogue,
        mut on_job: impl FnMut(&Arc<Plan>, &Job, &Size),
    ) -> Result<u64, Report> {
        let is_known = |name: &str| catalogue.find(name).is_some();
        let defaults = Defaults {
            batch: self.batch,
            model: self.named,
            only_model: self.default,
            answers_callbacks: false,
            documents: Err("what it costs is known once it is read and cut: `run` it with --max-cost"),
            no_ingestions: None,
            is_known: &is_known,
        };
        let mut seen = Seen::default();
        let (mut refused, mut ingestions) = (0, 0_u64);
        let mut lines = Lines::open(self.inputs).map_err(Report::usage)?;
        let mut buffer = Vec::new();
        let now = SystemClock.now();
        while let Some(line) = lines.next_line(&mut buffer).map_err(Report::stuck)? {
            let refusal = match line.kind {
                LineKind::TooLong { length } => Some((None, format!("the line has {length} bytes"))),
                LineKind::Text => match parse_line(&buffer, &defaults) {
                    Err(refusal) => Some((refusal.column, refusal.reason)),
                    Ok(draft) if draft.job.deadline.is_some_and(|deadline| deadline <= now) => {
                        Some((None, "`deadline` has passed already".to_owned()))
                    }
                    Ok(draft) => match seen.note(&draft.job, draft.auto_id) {
                        Sight::Conflict => {
                            Some((None, format!("id `{}` stands for other content already", draft.job.key.id)))
                        }
                        Sight::Again => None,
                        Sight::New if matches!(draft.job.request, Request::Ingest(_)) => {
                            ingestions += 1;
                            None
                        }
                        Sight::New => match place(catalogue, &draft.job) {
                            Err(reason) => Some((None, reason)),
                            Ok((plan, size)) => {
                                on_job(&plan, &draft.job, &size);
                                None
                            }
                        },
                    },
                },
            };
            if let Some((column, reason)) = refusal {
                refused += 1;
                if refused <= TOLD {
                    let at = column.map_or_else(String::new, |column: usize| format!(":{column}"));
                    say(&format!("refused {}:{}{at}: {reason}", name_of(&line.file), line.number));
                }
            }
        }
        if refused > TOLD {
            say(&format!("and {} more refused lines", refused - TOLD));
        }
        if ingestions > 0 {
            say(&format!("{ingestions} ingestions ask no model: they are in no figure"));
        }
        Ok(refused)
    }
}

/// Its model and how large it is, or why no lane can ever take it.
fn place(catalogue: &Catalogue, job: &Job) -> Result<(Arc<Plan>, Size), String> {
    let Some(plan) = catalogue.find(&job.model) else { return Err(format!("no model is called `{}`", job.model)) };
    let size = plan.size_of(job);
    match plan.no_residence(job).or_else(|| plan.too_large(&size)) {
        Some(failure) => Err(failure.message),
        None => Ok((plan, size)),
    }
}

/// Identities and contents that were seen, as hashes: exact enough for an estimate, and small.
#[derive(Default)]
struct Seen(HashMap<u64, u64>);

enum Sight {
    New,
    Again,
    Conflict,
}

impl Seen {
    fn note(&mut self, job: &Job, auto_id: bool) -> Sight {
        if auto_id {
            return Sight::New;
        }
        let content = hash(job.digest());
        match self.0.insert(hash(&job.key), content) {
            None => Sight::New,
            Some(first) if first == content => Sight::Again,
            Some(first) => {
                self.0.insert(hash(&job.key), first);
                Sight::Conflict
            }
        }
    }
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
