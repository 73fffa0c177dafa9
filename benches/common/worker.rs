//! A worker on a real state directory, with whatever model a benchmark brings.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Notify;

use aquifer::cli::SystemClock;
use aquifer::embedded::{self, Line, Run, Store};
use aquifer::flow::context::{Context, Settings};
use aquifer::flow::credentials::CredentialsGate;
use aquifer::flow::ingest::Troubles;
use aquifer::flow::lanes::{CallTimeout, Catalogue, PlanSpec, RouteSpec};
use aquifer::flow::patience::{ClaimGate, Patience};
use aquifer::flow::stop::{Reason, Stop};
use aquifer::flow::worker::Worker;
use aquifer::job::document::Place;
use aquifer::job::ident::BatchName;
use aquifer::job::intake::{Defaults, parse_line};
use aquifer::job::units::{Price, Usd};
use aquifer::ports::{
    Clock as _, Depth, Entry, LaneId, Message, MessageId, Model, Outgoing, Queue, ReceiptHandle, StoreError,
};
use aquifer::rules::breaker::BreakerRules;
use aquifer::rules::pace::{Counting, Limits};
use aquifer::telemetry::Meter;

/// The model that every job asks for.
pub(crate) const MODEL: &str = "vendor.model-v1:0";
/// Its region.
pub(crate) const REGION: &str = "us-east-1";

/// A line of an input: a prompt of about 200 bytes, with an id of its own.
pub(crate) fn line(number: usize) -> String {
    format!(
        r#"{{"id":"review-{number}","prompt":"Summarise this review in one sentence, and say whether its author would buy again. Review {number}: arrived on time, does what it says, but the lid came off within a week and nobody answered my letter.","max_tokens":200}}"#
    )
}

/// Writes a file of so many lines.
pub(crate) fn write_input(path: &Path, lines: usize) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    for number in 0..lines {
        writeln!(file, "{}", line(number)).unwrap();
    }
    file.flush().unwrap();
}

/// A state directory with jobs waiting in it.
pub(crate) struct Queued {
    pub(crate) store: Store,
    pub(crate) jobs: usize,
    /// How long it took to read and enrol them.
    pub(crate) took: Duration,
    _run: Run,
}

/// Reads and enrols so many lines, as `aquifer run` does.
pub(crate) async fn enrol(folder: &Path, jobs: usize) -> Queued {
    const CHUNK: usize = 500;
    let store = Store::open(&folder.join("state"), Arc::new(SystemClock)).await.unwrap();
    let lines: Vec<String> = (0..jobs).map(line).collect();
    let batch = batch();
    let run = store.begin_run(&batch).await.unwrap();
    let began = Instant::now();
    let is_known = |_: &str| true;
    let defaults = Defaults {
        batch: &batch,
        model: None,
        only_model: Some(MODEL),
        answers_callbacks: false,
        documents: Ok(Place::Files),
        no_ingestions: None,
        is_known: &is_known,
    };
    for (chunk, lines) in lines.chunks(CHUNK).enumerate() {
        let entry = |(place, line): (usize, &String)| {
            let draft = parse_line(line.as_bytes(), &defaults).unwrap();
            let line = Line::Job { job: Box::new(draft.job), auto_id: draft.auto_id, stale_deadline: false };
            embedded::Entry { position: (chunk * CHUNK + place) as u64, line }
        };
        run.enrol(lines.iter().enumerate().map(entry).collect(), false).await.unwrap();
    }
    run.seal().await.unwrap();
    Queued { store, jobs, took: began.elapsed(), _run: run }
}

fn batch() -> BatchName {
    BatchName::new("bench").unwrap()
}

/// Works with so many jobs in hand until all are acknowledged; how long that took.
pub(crate) async fn drain(queued: &Queued, model: Arc<dyn Model>, slots: usize) -> Duration {
    let queue = Arc::new(Counted {
        queue: queued.store.queue(Some(batch())),
        left: AtomicUsize::new(queued.jobs),
        empty: Notify::new(),
    });
    let context = Arc::new(Context {
        queue: Arc::<Counted>::clone(&queue),
        ledger: queued.store.ledger(),
        allowance: queued.store.allowance(),
        callbacks: None,
        batches: None,
        documents: None,
        ingestions: None,
        ingest_troubles: Troubles::default(),
        pipelines: None,
        bodies: queued.store.bodies(),
        notices: queued.store.notices(),
        model,
        clock: Arc::new(SystemClock),
        catalogue: Arc::new(Catalogue::new(SystemClock.now(), vec![plan()], settings(slots).breaker, |_| None)),
        credentials: CredentialsGate::default(),
        claims: ClaimGate::default(),
        settings: settings(slots),
        meter: Meter::default(),
        stop: Stop::default(),
    });
    let worker = Worker::new(Arc::clone(&context));
    let began = Instant::now();
    let working = tokio::spawn(async move { worker.run().await });
    queue.empty.notified().await;
    let took = began.elapsed();
    context.stop.drain(Reason::Done);
    working.await.unwrap();
    took
}

/// The defaults of the configuration, but for the slots.
fn settings(slots: usize) -> Settings {
    Settings {
        slots,
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
        give_up_after: Duration::from_secs(86_400),
        breaker: BreakerRules {
            failures: NonZeroU32::new(5).unwrap(),
            open_for: Duration::from_secs(60),
            probes: NonZeroU32::MIN,
        },
        notify_jobs: true,
        notify_batches: true,
        simulated: true,
        cost_cap: None,
    }
}

/// One lane, with a price and without a quota.
fn plan() -> PlanSpec {
    let dollar = Usd::from_nanos(1_000_000_000);
    PlanSpec {
        names: vec![MODEL.into()],
        price: Some(Price { input: dollar, output: dollar, cache_read: dollar, cache_write: dollar }),
        burndown: 1,
        default_cap: NonZeroU32::new(1_024).unwrap(),
        call_timeout: CallTimeout { base: Duration::from_secs(120), per_token: Duration::ZERO },
        fallback: Vec::new(),
        routes: vec![RouteSpec {
            lane: LaneId { region: REGION.into(), model_id: MODEL.into() },
            primary: true,
            not_before: None,
            limits: Limits::default(),
            account_tokens_per_day: None,
            counting: Counting::Learn,
        }],
    }
}

/// The queue, and a word when the last message is deleted: that is when a job is done for good.
struct Counted {
    queue: Arc<dyn Queue>,
    left: AtomicUsize,
    empty: Notify,
}

#[async_trait]
impl Queue for Counted {
    async fn send(&self, entries: Vec<Outgoing>) -> Result<Vec<Entry<MessageId>>, StoreError> {
        self.queue.send(entries).await
    }

    async fn receive(
        &self,
        max: usize,
        passing_over: &[Arc<str>],
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Message>, StoreError> {
        self.queue.receive(max, passing_over, visibility, wait).await
    }

    async fn change_visibility(&self, entries: Vec<(ReceiptHandle, Duration)>) -> Result<Vec<Entry>, StoreError> {
        self.queue.change_visibility(entries).await
    }

    async fn delete(&self, handles: Vec<ReceiptHandle>) -> Result<Vec<Entry>, StoreError> {
        let replies = self.queue.delete(handles).await?;
        let deleted = replies.iter().filter(|reply| reply.is_ok()).count();
        if self.left.fetch_sub(deleted, Ordering::Relaxed) == deleted {
            self.empty.notify_one();
        }
        Ok(replies)
    }

    async fn dead_letter(&self, message: &Message, reason: &str) -> Result<Entry, StoreError> {
        self.queue.dead_letter(message, reason).await
    }

    async fn depth(&self) -> Result<Depth, StoreError> {
        self.queue.depth().await
    }
}
