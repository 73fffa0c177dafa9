//! Which jobs does the input hold? Every line is enrolled: as a new job, as one that is known, or as a refused line.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::flow::intake::{Counted, Intake, LOT, Place, Read};
use crate::flow::roster::Beginning;
use crate::flow::stop::Stop;
use crate::job::ident::{BatchName, Digest, Tenant};
use crate::job::intake::{Draft, Refusal};
use crate::job::spec::Request;
use crate::job::units::Usd;
use crate::ports::Clock;
use crate::ports::rolls::Line;

use super::SystemClock;
use super::backend::Roll;
use super::default_model::no_price;
use super::documents::{self, Rules};
use super::exit::Report;
use super::input::{InputError, Lines, batch_name_of};
use super::terminal::say;

pub(crate) use crate::flow::intake::{STDIN, name_of};

/// An input, and what its lines are read by.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) inputs: Vec<PathBuf>,
    pub(crate) lines: Intake,
    pub(crate) cost_cap: Option<Usd>,
    /// Whether jobs that failed or expired are to run again.
    pub(crate) retry_failed: bool,
    /// How the inputs are read, if they are documents and not files of jobs.
    pub(crate) documents: Option<Rules>,
    pub(crate) stop: Stop,
    /// The input that holds what standard input said, if it had to be kept.
    pub(crate) spooled: Option<PathBuf>,
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

/// The digest of the first so many lines, as [`Roster`](crate::flow::roster::Roster) counts them.
///
/// # Errors
/// A report: an input cannot be read.
pub(crate) async fn digest_of(source: &Source, lines: u64) -> Result<Digest, Report> {
    let reader = Reader { source: source.clone(), hint: "nothing was sent" };
    let reading = tokio::task::spawn_blocking(move || {
        let lines_of = reader.source.lines.clone();
        let mut beginning = Beginning::of(lines, &lines_of);
        reader.read(|chunk| beginning.add(SystemClock.now(), chunk))?;
        Ok(beginning.digest())
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
    let mut desk = Desk { source, roll, told: 0, counted: Counted::default(), tenants: BTreeSet::new() };
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
    let Desk { told, counted, tenants, .. } = desk;
    let read = reading.await.map_err(|error| Report::stuck(format!("reading the input: {error}")))?;
    let unpriced = read?;
    if told > TOLD {
        say(&format!("and {} more refused lines; all of them are in the results", told - TOLD));
    }
    let withdrawn = roll.seal().await?.withdrawn;
    if withdrawn > 0 {
        say(&format!("{withdrawn} queued jobs are no longer in the input and were withdrawn"));
    }
    let Counted { lines: jobs, queued, refused } = counted;
    Ok(Some(Enrolled { batch: source.lines.batch.clone(), jobs, queued, refused, withdrawn, tenants, unpriced }))
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
        let mut buffer = Vec::new();
        let mut chunk = Vec::with_capacity(LOT);
        let mut position = 0;
        let mut unpriced = BTreeSet::new();
        while let Some(line) = lines.next_line(&mut buffer).map_err(unreadable)? {
            let parsed = source.lines.read(line.kind, &buffer);
            self.note_price(&parsed, &mut unpriced)?;
            let is_spooled = source.spooled.as_deref().is_some_and(|spooled| Path::new(&*line.file) == spooled);
            let file = if is_spooled { STDIN.into() } else { line.file };
            chunk.push(Read { place: Place { file, number: line.number, position }, parsed });
            position += 1;
            if chunk.len() == LOT && !take(std::mem::replace(&mut chunk, Vec::with_capacity(LOT))) {
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
            let Intake { batch, named, default, .. } = &source.lines;
            let parsed = documents::job(&path, rules, batch, named.as_deref(), default.as_deref());
            let parsed = parsed.and_then(|draft| source.lines.check(draft));
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
            && self.source.lines.catalogue.find(&job.model).is_none_or(|plan| plan.price.is_none())
        {
            if self.source.cost_cap.is_some() {
                return Err(no_price(&job.model));
            }
            unpriced.insert(job.model.clone());
        }
        Ok(())
    }
}

/// Takes lines in, chunk after chunk.
struct Desk<'a> {
    source: &'a Source,
    roll: &'a Roll,
    told: u64,
    counted: Counted,
    tenants: BTreeSet<Tenant>,
}

impl Desk<'_> {
    async fn enrol(&mut self, lines: Vec<Read>) -> Result<(), Report> {
        let Self { source, told, counted, .. } = self;
        let (entries, places) = source.lines.lot(SystemClock.now(), lines, |why| tell(told, why));
        self.tenants.extend(entries.iter().map(|entry| match &entry.line {
            Line::Job { job, .. } => job.key.tenant.clone(),
            Line::Refused { tenant, .. } => tenant.clone(),
        }));
        let standings = self.roll.enrol(entries, source.retry_failed).await?;
        let late = source.lines.late(places, standings, counted, |why| tell(told, why));
        if !late.is_empty() {
            let refused = self.roll.enrol(late, false).await?.len() as u64;
            counted.lines += refused;
            counted.refused += refused;
        }
        Ok(())
    }
}

/// Tells the person why a line is refused.
fn tell(told: &mut u64, why: &str) {
    *told += 1;
    if *told <= TOLD {
        say(&format!("refused {why}"));
    }
}
