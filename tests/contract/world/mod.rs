//! A back end under test, what it is stated to be able to do, and a clock that the test moves.

pub(crate) mod aws;
pub(crate) mod dynoxide;
pub(crate) mod embedded;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aquifer::embedded::{Entry, Line};
use aquifer::job::ident::{BatchKey, BatchName, Digest, JobId, JobKey, Tenant};
use aquifer::job::lifecycle::Status;
use aquifer::job::outcome::{Ending, Pointer, Usage};
use aquifer::job::spec::{Job, MaxTokens, Priority, Request};
use aquifer::job::trail::Trail;
use aquifer::job::units::Timestamp;
use aquifer::ports::{Allowance, Bodies, ClaimReply, Claimed, Clock, Ledger, Notices, Outgoing, Parts, Queue};
use async_trait::async_trait;
use serde_json::{Map, Value};

/// Time passes when the test says so.
#[derive(Debug)]
pub(crate) struct ManualClock(AtomicI64);

impl ManualClock {
    pub(crate) fn new() -> Arc<Self> {
        // Later than now for a long time: the emulator removes rows that have expired, and has a clock of its own.
        Arc::new(Self(AtomicI64::new(2_500_000_000_000)))
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.0.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn now_is(&self) -> Timestamp {
        Clock::now(self)
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

/// What a back end can do beyond what the ports promise of every one. A test that would ask for more than is stated here
/// asks for what is left of it instead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Can {
    /// Delivers in the order of priority, and then of age.
    pub(crate) order: bool,
    /// Leaves messages of the models that a receiver passes over where they are.
    pub(crate) pass_over: bool,
    /// Holds bodies of no character, and with characters that XML does not know.
    pub(crate) hold_any_text: bool,
    /// Appends to the segment that it began, so that one is enough.
    pub(crate) append: bool,
    /// Keeps a batch within a cap on its cost; else a call under a cap is refused with an error, never let through.
    pub(crate) cap_cost: bool,
    /// Has an allowance whose time is the clock that it was given; else it is the service's own.
    pub(crate) move_clock: bool,
    /// How near to the end of a time something can be seen to be before it. Where time is real, requests take some of it.
    pub(crate) precision: Duration,
}

pub(crate) const EMBEDDED: Can = Can {
    order: true,
    pass_over: true,
    hold_any_text: true,
    append: true,
    cap_cost: true,
    move_clock: true,
    precision: Duration::from_millis(1),
};

pub(crate) const AWS: Can = Can {
    order: false,
    pass_over: false,
    hold_any_text: false,
    append: false,
    cap_cost: false,
    move_clock: false,
    precision: Duration::from_millis(3_500),
};

/// The ports of one back end.
pub(crate) struct World {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) allowance: Arc<dyn Allowance>,
    pub(crate) bodies: Arc<dyn Bodies>,
    pub(crate) notices: Arc<dyn Notices>,
    pub(crate) parts: Arc<dyn Parts>,
    /// The time of everything but the visibility of messages, which passes with [`World::pass`], and what [`Can`] excepts.
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) can: Can,
    pub(crate) place: Box<dyn Place>,
}

/// What a test does to a back end that no port does.
#[async_trait]
pub(crate) trait Place: Send + Sync {
    /// Lets time pass for messages.
    async fn pass(&self, time: Duration);

    /// Says that a batch has so many jobs and no more come, however the back end is told.
    async fn seal(&self, batch: &BatchName, total: u64);

    /// Sets a job running again that has failed, and sends its message.
    async fn redrive(&self, job: &Job);

    /// The queue of one batch, as far as the back end keeps them apart.
    fn queue_of(&self, batch: &BatchName) -> Arc<dyn Queue>;

    /// Everything in the segment behind a pointer.
    async fn segment(&self, pointer: &Pointer) -> Vec<u8>;

    /// Puts something else where a segment was, or nothing.
    async fn damage(&self, pointer: &Pointer, with: Option<&str>);

    /// Where pointers must not lead: out of the store.
    fn astray(&self) -> Vec<String>;

    /// Every notice that came out on the other side, once there are so many.
    async fn published(&self, at_least: usize) -> Vec<Value>;

    /// What is on record of what happened to a job of the batch, and when its end was made known.
    async fn trail(&self, id: &str) -> (Trail, Option<Timestamp>);

    /// The allowance as another worker on the same store has it.
    async fn another_worker(&self) -> Arc<dyn Allowance>;

    /// The back end after everybody has left and somebody has come.
    async fn close_and_reopen(self: Box<Self>, clock: Arc<ManualClock>) -> World;
}

impl World {
    pub(crate) async fn pass(&self, time: Duration) {
        self.clock.pass(time);
        self.place.pass(time).await;
    }

    pub(crate) async fn seal(&self, batch: &BatchName, total: u64) {
        self.place.seal(batch, total).await;
    }

    pub(crate) async fn another_worker(&self) -> Arc<dyn Allowance> {
        self.place.another_worker().await
    }

    pub(crate) async fn close_and_reopen(self) -> World {
        let World { place, clock, .. } = self;
        place.close_and_reopen(clock).await
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

pub(crate) use self::embedded::{Local, embedded, open};

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
    Outgoing {
        body: body.to_owned(),
        batch,
        tenant: Tenant::unnamed(),
        model: None,
        priority,
        delay: Duration::ZERO,
        trace: None,
    }
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
        trace: None,
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
