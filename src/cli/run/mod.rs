//! `aquifer run`: enqueue, work until drained, write results. The main job on one machine.
//!
//! In phases, each of which can be killed at any point: check everything that can be checked before anything is queued;
//! enrol the input (a job that is already known is not queued again); work; project what ended into the results file.

mod dry;
mod progress;
mod results_file;
mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{self, Listen};
use crate::embedded::{DoneSeq, Run, Store};
use crate::flow::context::Context;
use crate::flow::intake::Intake;
use crate::flow::notify::Announcer;
use crate::flow::patience::Patience;
use crate::flow::stop::{Reason, Stop};
use crate::flow::worker::Worker;
use crate::job::document::Place;
use crate::job::failure::{Class, Failure};
use crate::job::ident::BatchKey;
use crate::job::intake::NO_INGESTIONS_HERE;
use crate::job::lifecycle::Status;
use crate::job::units::Usd;
use crate::ports::Ledger;

use super::args::RunArgs;
use super::backend::{self, Backend, Roll, state_dir};
use super::default_model;
use super::desk::BackendDesk;
use super::documents::{self, Rules};
use super::exit::{Exit, Report};
use super::input::check_inputs;
use super::terminal::say;
use super::wiring::{self, Connected, connect};
use super::worker::TRACES_END_WITHIN;
use super::{intake, serve, signals};

pub(crate) use progress::{Pace, clock, short, span};
use progress::{Progress, View};
use results_file::Results;
pub(crate) use summary::counted;

/// Between two looks at what ended, and two views of the progress.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Ends that follow one another within this are projected together.
const GATHER: Duration = Duration::from_millis(20);
/// So many ended jobs are projected at once.
const PAGE: usize = 512;

/// Runs the command.
///
/// # Errors
/// A report, if it could not begin or could not go on.
pub async fn run(args: RunArgs) -> Result<Exit, Report> {
    let started = Instant::now();
    let settings = wiring::settings(args.places.config.as_deref(), args.simulate.is_some())?;
    let documents = documents(&args, &settings)?;
    if documents.is_none() {
        check_inputs(&args.inputs).map_err(Report::usage)?;
    }
    let batch = intake::batch_name(args.batch.as_deref(), &args.inputs)?;
    let cost_cap = args.max_cost.as_deref().map(cost_cap).transpose()?;
    let default_model = default_model::default_model(&settings, args.model.as_deref(), cost_cap)?;
    if default_model.is_none() && documents.is_none() {
        default_model::check_models(&args.inputs, &batch, &settings)?;
    }
    if args.dry_run && documents.is_some() {
        return Err(Report::usage("--dry-run reads files of jobs; what documents cost is known once they are read")
            .hint("--max-cost bounds it"));
    }
    if args.dry_run {
        return dry::run(&args, &settings, &batch, default_model.as_deref(), cost_cap).await;
    }

    if matches!(settings.backend, config::Backend::Aws(_)) && args.simulate.is_none() {
        return Err(Report::usage("`run` works on this machine alone, and the configuration says `backend = \"aws\"`").hint(
            "for the fleet: `aquifer enqueue`, `aquifer worker` and `aquifer results`; here: AQUIFER_BACKEND=embedded",
        ));
    }
    let stop = Stop::default();
    let signals = signals::watch(stop.clone(), signals::CALLS_FINISH);
    let Connected { model, ingestions, simulator, endpoints } = connect(args.simulate.as_ref(), &settings).await?;
    let mut results = Results::open(&args.output, &args.inputs)?;
    let claims = results.claims()?;
    let is_simulated = args.simulate.is_some();
    let store = wiring::working_store(&state_dir(&args.places, is_simulated), &settings, is_simulated).await?;
    // First: what is not known any more is not ours to write over.
    store.purge_older_than(settings.keep).await?;
    check_ours(&results, &claims.jobs, &*store.ledger()).await?;
    for other in claims.batches.iter().filter(|held| **held != batch) {
        say(&format!(
            "note: {} held the results of batch `{other}`, which make way for those of `{batch}`; `aquifer results \
             {other}` lists them",
            results.name()
        ));
    }

    let catalogue = Arc::new(wiring::catalogue(&settings, &endpoints));
    let flow = wiring::flow_settings(&settings, args.simulate.is_some(), cost_cap, Patience::Bounded);
    let backend = Backend::Embedded(store.clone());
    let traces = backend.traces(&settings, &args.places, is_simulated)?;
    let context = backend::context(
        backend.ports(Some(batch.clone())),
        &settings,
        (model, ingestions),
        Arc::clone(&catalogue),
        flow,
        stop.clone(),
        traces.clone(),
    );
    let page = match args.listen {
        Some(address) => {
            let desk = BackendDesk::new(backend.clone(), &args.places, args.simulate.is_some(), &settings);
            let token = settings.worker.page_token.as_ref();
            serve::open(Listen { address, is_set: true }, &context, desk, token).await?
        }
        None => None,
    };

    let run = Arc::new(store.begin_run(&batch).await?);
    let roll = Roll::Embedded(Arc::clone(&run));
    let lines = Intake {
        batch: batch.clone(),
        tenant: None,
        named: args.model.clone(),
        default: default_model,
        catalogue,
        answers_callbacks: false,
        documents_in: Place::Files,
        no_ingestions: args.simulate.is_some().then_some(NO_INGESTIONS_HERE),
        simulated: args.simulate.is_some(),
        traces: traces.clone(),
    };
    let source = intake::Source {
        inputs: args.inputs.clone(),
        lines,
        cost_cap,
        retry_failed: args.retry_failed,
        documents,
        stop,
        spooled: None,
    };
    let worked = async {
        match intake::enrol(&source, &roll).await? {
            Some(enrolled) => work(&context, &store, run, &mut results, &enrolled).await,
            None => Ok(Outcome::interrupted_at_intake()),
        }
    };
    let worked = worked.await;
    traces.end(settings.worker.drain.min(TRACES_END_WITHIN)).await;
    let outcome = worked?;
    signals.abort();
    drop(page);
    let report = match simulator {
        Some(simulator) => Some(simulator.stop().await),
        None => None,
    };
    store.close().await?;
    let summary = summary::Summary {
        batch: &batch,
        outcome: &outcome,
        counts: context.meter.counts(),
        reason: context.stop.reason(),
        results: results.name(),
        results_on_stdout: args.output.as_os_str() == "-",
        cost_cap,
        simulated: report.as_ref(),
        elapsed: started.elapsed(),
    };
    summary.tell(args.json)?;
    summary.exit()
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Jobs of the input; `None` if it was not read to its end.
    pub(crate) total: Option<u64>,
    /// How many ended in each way.
    pub(crate) ended: Ended,
    /// Jobs that had ended before this run began.
    pub(crate) before: u64,
    /// What the batch has cost, over all runs.
    pub(crate) spent: Usd,
    /// The same, with what open and unknown calls may have cost.
    pub(crate) committed: Usd,
    /// Why jobs failed or expired.
    pub(crate) why: Reasons,
    /// Models whose price is not known: their calls are not in `spent`.
    pub(crate) unpriced: BTreeSet<String>,
}

impl Outcome {
    fn interrupted_at_intake() -> Self {
        Self::default()
    }
}

/// Why jobs did not succeed: by class, how many, and one of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reasons {
    by_class: BTreeMap<Class, (u64, String)>,
}

impl Reasons {
    /// Takes note of a result line.
    fn note(&mut self, line: &[u8]) {
        let Ok(Unsuccessful { id, error: Some(error) }) = serde_json::from_slice(line) else { return };
        let (count, _) = self.by_class.entry(error.class).or_insert_with(|| (0, format!("`{id}`: {}", error.message)));
        *count += 1;
    }

    /// Class, how many, and what one of them says; the most frequent first.
    pub(crate) fn all(&self) -> Vec<(Class, u64, &str)> {
        let mut all: Vec<_> = self.by_class.iter().map(|(class, (count, one))| (*class, *count, &**one)).collect();
        all.sort_by_key(|(_, count, _)| std::cmp::Reverse(*count));
        all
    }
}

/// What a result line says of a job without success.
#[derive(serde::Deserialize)]
struct Unsuccessful {
    id: String,
    error: Option<Failure>,
}

/// Counts by status.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended {
    counts: [u64; Status::ALL.len()],
}

impl Ended {
    fn note(&mut self, status: Status) {
        if let Some(count) = self.counts.get_mut(status as usize) {
            *count += 1;
        }
    }

    /// How many ended so.
    pub(crate) fn of(&self, status: Status) -> u64 {
        self.counts.get(status as usize).copied().unwrap_or(0)
    }

    /// How many ended.
    pub(crate) fn all(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// How the inputs are read, if they are documents.
fn documents(args: &RunArgs, settings: &config::Settings) -> Result<Option<Rules>, Report> {
    if !args.documents {
        return Ok(None);
    }
    let config = wiring::config_file(args.places.config.as_deref()).map(std::path::Path::to_owned);
    let ours = [args.output.clone(), args.places.state.clone()].into_iter().chain(config).collect();
    let rules = Rules { uploads: settings.uploads.clone(), ours };
    documents::files(&args.inputs, &rules)?;
    Ok(Some(rules))
}

fn cost_cap(typed: &str) -> Result<Usd, Report> {
    let dollars = typed.trim().trim_start_matches('$').parse().ok();
    dollars.and_then(Usd::from_dollars).filter(|cap| *cap > Usd::ZERO).ok_or_else(|| {
        Report::usage(format!("--max-cost {typed}: not an amount of US dollars above zero, such as 2.50"))
    })
}

/// A results file may only be written over if losing any of its lines would lose nothing.
async fn check_ours(
    results: &Results,
    claims: &[crate::job::ident::JobKey],
    ledger: &dyn Ledger,
) -> Result<(), Report> {
    for key in claims {
        if ledger.look_up(key).await?.is_none() {
            return Err(results
                .not_ours(&format!("it holds job `{}` of batch `{}`, which is not known here", key.id, key.batch)));
        }
    }
    Ok(())
}

async fn work(
    context: &Arc<Context>,
    store: &Store,
    roll: Arc<Run>,
    results: &mut Results,
    enrolled: &intake::Enrolled,
) -> Result<Outcome, Report> {
    let mut projector = Projector {
        roll,
        store: store.clone(),
        after: DoneSeq::default(),
        ended: Ended::default(),
        why: Reasons::default(),
    };
    projector.catch_up(results).await?;
    results.cut()?;
    let before = projector.ended.all();
    let mut progress = Progress::new(enrolled.jobs);
    let mut trouble = None;
    let is_done = async |projector: &Projector| -> Result<bool, Report> {
        Ok(projector.ended.all() >= enrolled.jobs && !projector.roll.has_ended_in_queue().await?)
    };
    if !is_done(&projector).await? && !context.stop.is_draining() {
        let worker = Worker::new(Arc::clone(context));
        let mut working = tokio::spawn(async move { worker.run().await });
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut committed = projector.roll.ended();
        while !working.is_finished() {
            tokio::select! {
                _ = look.tick() => {}
                _ = committed.changed() => tokio::time::sleep(GATHER).await,
                _ = &mut working => {}
            }
            if trouble.is_some() {
                continue;
            }
            let looked = async {
                projector.catch_up(results).await?;
                results.flush()?;
                if !context.stop.is_draining() && is_done(&projector).await? {
                    context.stop.drain(Reason::Done);
                }
                view(context, &projector, enrolled).await
            };
            match looked.await {
                Ok(view) => progress.show(Instant::now(), &view),
                // Calls that are paid for are finished and recorded all the same.
                Err(report) => {
                    context.stop.drain(Reason::Output);
                    trouble = Some(report);
                }
            }
        }
    }
    progress.finish();
    if let Some(report) = trouble {
        return Err(report);
    }
    projector.catch_up(results).await?;
    results.flush()?;
    for tenant in &enrolled.tenants {
        let batch = BatchKey { tenant: tenant.clone(), batch: enrolled.batch.clone() };
        Announcer::of(context).announce(&batch).await?;
    }
    let now = projector.roll.progress().await?;
    Ok(Outcome {
        total: Some(enrolled.jobs),
        ended: projector.ended,
        before,
        spent: now.spent,
        committed: now.committed,
        why: projector.why,
        unpriced: enrolled.unpriced.clone(),
    })
}

/// Copies what ended, whoever ended it, from the ledger to the results.
struct Projector {
    roll: Arc<Run>,
    store: Store,
    after: DoneSeq,
    ended: Ended,
    why: Reasons,
}

impl Projector {
    async fn catch_up(&mut self, results: &mut Results) -> Result<(), Report> {
        loop {
            let page = self.roll.finals(self.after, PAGE).await?;
            let is_last = page.len() < PAGE;
            let lines = self.store.lines(page.iter().map(|ended| ended.result.clone()).collect()).await?;
            for (ended, line) in page.into_iter().zip(lines) {
                results.append(&line)?;
                self.after = ended.done;
                self.ended.note(ended.status);
                if matches!(ended.status, Status::Failed | Status::Expired | Status::Partial) {
                    self.why.note(&line);
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }
}

async fn view(context: &Context, projector: &Projector, enrolled: &intake::Enrolled) -> Result<View, Report> {
    let (mut tokens, mut quota) = (0, None);
    for lane in context.catalogue.lanes() {
        let now = lane.now();
        let ledger = &mut lane.state().book.ledger;
        let used = ledger.used(now).0;
        tokens += used;
        if let Some(limit) = ledger.tokens_per_minute().filter(|_| used > 0) {
            quota = Some(quota.unwrap_or(0) + limit);
        }
    }
    let now = context.now();
    let ended = &projector.ended;
    let succeeded = ended.of(Status::Succeeded);
    Ok(View {
        total: enrolled.jobs,
        done: ended.all(),
        failed: ended.all() - succeeded,
        spent: projector.roll.progress().await?.spent,
        paid: ended.all() - ended.of(Status::Rejected),
        tokens,
        quota,
        gates: context.meter.gates().into_iter().filter(|(_, gate)| gate.until > now).collect(),
        credentials: context.credentials.trouble().map(|(_, why)| why),
        stopping: context.stop.is_draining() && context.stop.reason() != Some(Reason::Done),
    })
}
