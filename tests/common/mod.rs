//! A state directory that workers share, under a paused clock, and the questions that tests ask of it.

pub mod mortal;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use aquifer::embedded::{DoneSeq, Entry, Line, Run, Standing, Store};
use aquifer::flow::context::{Context, Settings};
use aquifer::flow::credentials::CredentialsGate;
use aquifer::flow::ingest::Troubles;
use aquifer::flow::lanes::{Catalogue, PlanSpec};
use aquifer::flow::patience::{ClaimGate, Patience};
use aquifer::flow::stop::Stop;
use aquifer::job::ident::BatchName;
use aquifer::job::outcome::JobResult;
use aquifer::job::spec::Job;
use aquifer::job::units::Timestamp;
use aquifer::ports::{Clock, Model};
use aquifer::rules::breaker::BreakerRules;
use aquifer::telemetry::Meter;

pub const BATCH: &str = "batch";

/// What the wall clock says when a test begins: a whole minute of UTC.
pub const START: Timestamp = Timestamp(1_800_000_000_000);

/// The wall clock, derived from tokio's, which tests pause.
pub struct PausedClock {
    start: Instant,
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        START.after(self.start.elapsed())
    }
}

/// A state directory that outlives the stores opened on it.
pub struct State {
    pub dir: tempfile::TempDir,
    pub clock: Arc<PausedClock>,
}

impl State {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: Arc::new(PausedClock { start: Instant::now() }) }
    }

    pub async fn open(&self) -> Store {
        Store::open(self.dir.path(), self.clock.clone()).await.unwrap()
    }
}

/// As the configuration has them by default, but for fewer slots.
pub fn settings() -> Settings {
    Settings {
        slots: 16,
        receive_batch: 10,
        lease: Duration::from_secs(120),
        drain: Duration::from_secs(25),
        patience: Patience::Bounded,
        senders: aquifer::flow::senders::Senders::default(),
        uploads: aquifer::job::upload::Uploads::default(),
        max_claims: 5,
        max_attempts: 5,
        attempts_per_endpoint: NonZeroU32::MIN,
        multi_region: true,
        spread_primaries: true,
        cool_down: Duration::from_secs(30),
        give_up_after: Duration::from_secs(24 * 3_600),
        breaker: BreakerRules {
            failures: NonZeroU32::new(5).unwrap(),
            open_for: Duration::from_secs(60),
            probes: NonZeroU32::MIN,
        },
        notify_jobs: true,
        notify_batches: true,
        simulated: false,
        cost_cap: None,
    }
}

/// What a worker on this store works with.
pub fn context_of(
    store: &Store,
    state: &State,
    model: Arc<dyn Model>,
    settings: Settings,
    plans: Vec<PlanSpec>,
) -> Arc<Context> {
    Arc::new(Context {
        queue: store.queue(Some(BatchName::new(BATCH).unwrap())),
        ledger: store.ledger(),
        allowance: store.allowance(),
        callbacks: None,
        batches: None,
        documents: None,
        ingestions: None,
        ingest_troubles: Troubles::default(),
        pipelines: None,
        bodies: store.bodies(),
        notices: store.notices(),
        model,
        clock: state.clock.clone(),
        catalogue: Arc::new(Catalogue::new(state.clock.now(), plans, settings.breaker, |_| None)),
        credentials: CredentialsGate::default(),
        claims: ClaimGate::default(),
        settings,
        meter: Meter::default(),
        stop: Stop::default(),
    })
}

pub async fn enrol(store: &Store, jobs: Vec<Job>) -> (Run, Vec<Standing>) {
    let run = store.begin_run(&BatchName::new(BATCH).unwrap()).await.unwrap();
    let entries = jobs
        .into_iter()
        .zip(0..)
        .map(|(job, position)| Entry {
            position,
            line: Line::Job { job: Box::new(job), auto_id: false, stale_deadline: false },
        })
        .collect();
    let standings = run.enrol(entries, false).await.unwrap();
    run.seal().await.unwrap();
    (run, standings)
}

/// The results of a run in the order in which its jobs ended, once so many have.
pub async fn results(store: &Store, run: &Run, jobs: usize) -> Option<Vec<JobResult>> {
    let ends = run.finals(DoneSeq::default(), jobs + 1).await.unwrap();
    if ends.len() < jobs {
        return None;
    }
    let mut results = Vec::new();
    for end in ends {
        let line = store.bodies().read(&end.result).await.unwrap();
        results.push(serde_json::from_slice(&line).unwrap());
    }
    Some(results)
}
