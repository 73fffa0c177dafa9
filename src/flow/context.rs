//! With what do the steps work? The ports, the settings of the flow, and what the steps share.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::job::units::{Timestamp, Usd};
use crate::job::upload::Uploads;
use crate::ports::{
    Allowance, Bodies, Callbacks, Clock, Documents, Ingestions, Ledger, Model, Notices, Parts, Pipelines, Queue,
};
use crate::rules::breaker::BreakerRules;
use crate::telemetry::Meter;

use super::batch_request::BatchPorts;
use super::credentials::CredentialsGate;
use super::ingest::Troubles;
use super::lanes::Catalogue;
use super::patience::{ClaimGate, Patience};
use super::senders::Senders;
use super::stop::Stop;

/// Everything a step may use. One a worker; steps borrow it.
pub struct Context {
    /// Where jobs come from.
    pub queue: Arc<dyn Queue>,
    /// Who owns them and what became of them.
    pub ledger: Arc<dyn Ledger>,
    /// Where results lie.
    pub bodies: Arc<dyn Bodies>,
    /// Where ends are made known.
    pub notices: Arc<dyn Notices>,
    /// Where those are answered who wait in a workflow; `None` where there are none.
    pub callbacks: Option<Arc<dyn Callbacks>>,
    /// Where batches are sealed, enqueued and run again by message; `None` where none are.
    pub batches: Option<BatchPorts>,
    /// Who reads documents, and where their parts are counted; `None` where such jobs are refused.
    pub documents: Option<DocumentPorts>,
    /// Who brings data sources up to date; `None` where such jobs are refused.
    pub ingestions: Option<Arc<dyn Ingestions>>,
    /// Since when they are in trouble.
    pub ingest_troubles: Troubles,
    /// Where workflows are begun for uploads; `None` where none are.
    pub pipelines: Option<Arc<dyn Pipelines>>,
    /// What all workers know of the lanes.
    pub allowance: Arc<dyn Allowance>,
    /// Who answers.
    pub model: Arc<dyn Model>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Models, lanes and what is known of them.
    pub catalogue: Arc<Catalogue>,
    /// Whether the service accepts who we are.
    pub credentials: CredentialsGate,
    /// Whether jobs can be claimed.
    pub claims: ClaimGate,
    /// How the work is done.
    pub settings: Settings,
    /// What was counted.
    pub meter: Meter,
    /// Whether to go on.
    pub stop: Stop,
}

/// What documents need beyond other jobs.
#[derive(Clone)]
pub struct DocumentPorts {
    /// Who reads them.
    pub reader: Arc<dyn Documents>,
    /// Where their chunks are counted.
    pub parts: Arc<dyn Parts>,
}

impl std::fmt::Debug for DocumentPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DocumentPorts").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Context {
    /// The wall clock's time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// How the work is done. The configuration file's documentation says what each is for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Jobs in hand at most.
    pub slots: usize,
    /// Messages asked for at once, at most 10.
    pub receive_batch: usize,
    /// How long a held job is hidden from others; extended while it is held.
    pub lease: Duration,
    /// For calls already paid for, after the first request to stop.
    pub drain: Duration,
    /// How long trouble with a store is borne.
    pub patience: Patience,
    /// Claims that left no outcome, after which a job is poison.
    pub max_claims: u32,
    /// Failures that count, over a job's life.
    pub max_attempts: u32,
    /// Failures in a row on one endpoint, before the next one.
    pub attempts_per_endpoint: NonZeroU32,
    /// Whether other endpoints than the first may be used.
    pub multi_region: bool,
    /// Whether calls are spread evenly over primaries.
    pub spread_primaries: bool,
    /// The shortest cool-down of a lane after a failure.
    pub cool_down: Duration,
    /// How long a job without a deadline waits for a service that is away.
    pub give_up_after: Duration,
    /// When a lane's breaker opens and closes.
    pub breaker: BreakerRules,
    /// Whether every job's end is made known.
    pub notify_jobs: bool,
    /// Whether every batch's end is made known.
    pub notify_batches: bool,
    /// Whether the simulator answers.
    pub simulated: bool,
    /// Who may send jobs of which tenant.
    pub senders: Senders,
    /// What is done with files that are dropped in.
    pub uploads: Uploads,
    /// What a batch may cost at most.
    pub cost_cap: Option<Usd>,
}
