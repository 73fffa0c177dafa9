//! A back end under test, and a clock that the test moves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aquifer::embedded::{Entry, Line, Store};
use aquifer::job::ident::{BatchKey, BatchName, Digest, JobId, JobKey, Tenant};
use aquifer::job::lifecycle::Status;
use aquifer::job::outcome::{Ending, Pointer, Usage};
use aquifer::job::spec::{Job, MaxTokens, Priority, Request};
use aquifer::job::units::Timestamp;
use aquifer::ports::{Allowance, Bodies, ClaimReply, Claimed, Clock, Ledger, Notices, Outgoing, Queue};
use serde_json::Map;

/// Time passes when the test says so.
#[derive(Debug)]
pub(crate) struct ManualClock(AtomicI64);

impl ManualClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(1_700_000_000_000)))
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.0.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn jump_back(&self, time: Duration) {
        self.0.fetch_sub(i64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// The ports of one back end.
pub(crate) struct World {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) allowance: Arc<dyn Allowance>,
    pub(crate) bodies: Arc<dyn Bodies>,
    pub(crate) notices: Arc<dyn Notices>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) store: Store,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) async fn embedded() -> World {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let store = open(dir.path(), &clock).await;
    World {
        queue: store.queue(None),
        ledger: store.ledger(),
        allowance: store.allowance(),
        bodies: store.bodies(),
        notices: store.notices(),
        clock,
        store,
        dir,
    }
}

pub(crate) async fn open(dir: &Path, clock: &Arc<ManualClock>) -> Store {
    Store::open(dir, Arc::clone(clock) as Arc<dyn Clock>).await.unwrap()
}

impl World {
    /// Says that no more jobs come, however the back end is told.
    pub(crate) async fn seal(&self, batch: &BatchName) {
        self.store.begin_run(batch).await.unwrap().seal().await.unwrap();
    }

    /// The allowance as another worker on the same store has it.
    pub(crate) async fn another_worker(&self) -> Arc<dyn Allowance> {
        open(self.dir.path(), &self.clock).await.allowance()
    }

    /// The allowance after everybody has left and somebody has come; and what keeps the store's place.
    pub(crate) async fn close_and_reopen(self) -> (Arc<dyn Allowance>, tempfile::TempDir) {
        self.store.close().await.unwrap();
        (open(self.dir.path(), &self.clock).await.allowance(), self.dir)
    }

    /// The file behind a pointer.
    pub(crate) fn file(&self, pointer: &Pointer) -> PathBuf {
        self.dir.path().join(&pointer.uri)
    }

    pub(crate) async fn claim(&self, id: &str) -> Claimed {
        claim(self.ledger.as_ref(), id).await
    }

    /// What a job's end looks like, with its line stored.
    pub(crate) async fn ending(&self, id: &str, status: Status) -> Ending {
        let result = self.bodies.append(&key(id).batch_key(), format!("{{\"id\":\"{id}\"}}").into()).await.unwrap();
        let usage = Usage { input_tokens: 10, output_tokens: 3, ..Usage::default() };
        Ending { status, model_used: Some("m".to_owned()), usage, error: None, result }
    }
}

pub(crate) const LEASE: Duration = Duration::from_secs(120);

pub(crate) async fn claim(ledger: &dyn Ledger, id: &str) -> Claimed {
    match ledger.claim(&key(id), content(), Timestamp(5), LEASE).await.unwrap() {
        ClaimReply::Claimed(claimed) => claimed,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn content() -> Digest {
    Digest::of(b"content")
}

pub(crate) fn batch() -> BatchName {
    BatchName::new("reviews 2026").unwrap()
}

pub(crate) fn batch_key() -> BatchKey {
    BatchKey { tenant: Tenant::unnamed(), batch: batch() }
}

pub(crate) fn key(id: &str) -> JobKey {
    JobKey { tenant: Tenant::unnamed(), batch: batch(), id: JobId::new(id).unwrap() }
}

pub(crate) fn outgoing(body: &str) -> Outgoing {
    let (batch, priority) = (batch(), Priority::default());
    Outgoing { body: body.to_owned(), batch, tenant: Tenant::unnamed(), model: None, priority, delay: Duration::ZERO }
}

pub(crate) fn job(id: &str, prompt: &str) -> Job {
    Job {
        key: key(id),
        model: "haiku".to_owned(),
        request: Request::Prompt(prompt.to_owned()),
        max_tokens: MaxTokens::Unsaid,
        fallback: true,
        deadline: None,
        priority: Priority::default(),
        residency: None,
        callback: None,
        metadata: Map::new(),
    }
}

/// A line with an id of its own.
pub(crate) fn named(position: u64, id: &str, prompt: &str) -> Entry {
    let line = Line::Job { job: Box::new(job(id, prompt)), auto_id: false, stale_deadline: false };
    Entry { position, line }
}

/// A line without an id.
pub(crate) fn unnamed(position: u64, prompt: &str) -> Entry {
    let job = job("x", prompt);
    let id = job.digest().to_string();
    let job = Job { key: key(&id), ..job };
    Entry { position, line: Line::Job { job: Box::new(job), auto_id: true, stale_deadline: false } }
}

/// A refused line.
pub(crate) fn refused(position: u64, id: &str) -> Entry {
    let result_line = format!("{{\"id\":\"{id}\",\"status\":\"rejected\"}}").into_bytes();
    Entry { position, line: Line::Refused { tenant: Tenant::unnamed(), id: id.to_owned(), result_line } }
}
