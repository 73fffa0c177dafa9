//! A worker on a real state directory, with a model that says what the test wants, under a paused clock.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;

use aquifer::embedded::{Run, Store};
use aquifer::flow::context::{Context, Settings};
use aquifer::flow::lanes::{CallTimeout, PlanSpec, RouteSpec};
use aquifer::flow::stop::Reason;
use aquifer::flow::worker::Worker;
use aquifer::job::failure::{Class, Failure};
use aquifer::job::ident::{BatchName, JobId, JobKey, Tenant};
use aquifer::job::outcome::{JobResult, Usage};
use aquifer::job::spec::{Job, MaxTokens, Priority, Request};
use aquifer::job::units::{PerMinute, Price, Usd};
use aquifer::ports::{Answer, Billing, CallBody, CallFailure, LaneId, Model, ModelCall};
use aquifer::rules::pace::{Counting, Limits};

pub use crate::common::{BATCH, State, enrol};
use crate::common::{context_of, results, settings};

/// What a call is answered with.
#[derive(Clone)]
pub enum Reply {
    Text(&'static str),
    /// A text, why it ends, and its tokens.
    Answer(&'static str, &'static str, Usage),
    Fail(Class, Billing),
    /// A failure that nothing was billed for, with the service's own word on when to come back.
    Later(Class, Duration),
    /// Never.
    Hang,
}

type Script = Box<dyn Fn(u64, &ModelCall) -> Reply + Send + Sync>;

/// A model that answers by script; the first argument is the number of the call, from 1.
pub struct Scripted {
    script: Script,
    latency: Duration,
    calls: AtomicU64,
    pub by_prompt: Mutex<HashMap<String, u64>>,
    pub times: Mutex<Vec<Duration>>,
    start: Instant,
    called: Notify,
}

impl Scripted {
    pub fn new(latency: Duration, script: impl Fn(u64, &ModelCall) -> Reply + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            latency,
            calls: AtomicU64::new(0),
            by_prompt: Mutex::default(),
            times: Mutex::default(),
            start: Instant::now(),
            called: Notify::new(),
        })
    }

    pub fn answering() -> Arc<Self> {
        Self::new(Duration::from_millis(20), |_, _| Reply::Text("fine"))
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Waits until so many calls have begun.
    pub async fn called(&self, times: u64) {
        loop {
            let called = self.called.notified();
            if self.calls() >= times {
                return;
            }
            called.await;
        }
    }
}

pub const USAGE: Usage = Usage { input_tokens: 10, output_tokens: 5, cache_read_tokens: 0, cache_write_tokens: 0 };

#[async_trait]
impl Model for Scripted {
    async fn call(&self, call: ModelCall) -> Result<Answer, CallFailure> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        *self.by_prompt.lock().unwrap().entry(prompt_of(&call)).or_default() += 1;
        self.times.lock().unwrap().push(self.start.elapsed());
        self.called.notify_waiters();
        let reply = (self.script)(number, &call);
        tokio::time::sleep(self.latency).await;
        match reply {
            Reply::Text(text) => Ok(answer(text, "end_turn", USAGE)),
            Reply::Answer(text, stop_reason, usage) => Ok(answer(text, stop_reason, usage)),
            Reply::Fail(class, billing) => {
                Err(CallFailure { failure: Failure::new(class, "as the script says"), billing, retry_after: None })
            }
            Reply::Later(class, hint) => Err(CallFailure {
                failure: Failure::new(class, "as the script says"),
                billing: Billing::Nothing,
                retry_after: Some(hint),
            }),
            Reply::Hang => std::future::pending().await,
        }
    }

    async fn refresh_credentials(&self) -> Result<(), String> {
        Ok(())
    }
}

fn answer(text: &str, stop_reason: &str, usage: Usage) -> Answer {
    let output = serde_json::json!({ "text": text });
    Answer { text: Some(text.to_owned()), output, stop_reason: Some(stop_reason.to_owned()), usage }
}

/// The text of the one user message, or what an agent is asked.
pub fn prompt_of(call: &ModelCall) -> String {
    let body = match &call.body {
        CallBody::Converse(body) | CallBody::Invoke(body) => body,
        CallBody::Agent(call) => return call.input_text.clone(),
    };
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    body.pointer("/messages/0/content/0/text").and_then(|text| text.as_str()).unwrap_or_default().to_owned()
}

pub fn job(id: &str, prompt: &str) -> Job {
    Job {
        key: JobKey { tenant: Tenant::unnamed(), batch: BatchName::new(BATCH).unwrap(), id: JobId::new(id).unwrap() },
        model: "m".to_owned(),
        request: Request::Prompt(prompt.to_owned()),
        max_tokens: MaxTokens::of(100),
        fallback: true,
        deadline: None,
        priority: Priority::default(),
        residency: None,
        callback: None,
        metadata: serde_json::Map::new(),
        trace: None,
    }
}

pub fn jobs(count: usize) -> Vec<Job> {
    (0..count).map(|number| job(&format!("job-{number}"), &format!("prompt {number}"))).collect()
}

/// How a worker is set up; fields a test cares about are set by it.
pub struct Setup {
    pub settings: Settings,
    pub limits: Limits,
    pub counting: Counting,
    pub regions: Vec<&'static str>,
    /// Other models than `m`, each on a lane of its own that has no limits.
    pub others: Vec<&'static str>,
    pub call_timeout: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            settings: settings(),
            limits: Limits::default(),
            counting: Counting::Learn,
            regions: vec!["us-east-1"],
            others: Vec::new(),
            call_timeout: Duration::from_secs(170),
        }
    }
}

pub fn tokens_per_minute(limit: u64) -> Limits {
    Limits { tokens_per_minute: PerMinute::new(limit), ..Limits::default() }
}

/// A dollar a million tokens, so that a call of [`USAGE`] costs 15 millionths.
pub const PRICE: Price = Price {
    input: Usd::from_nanos(1_000_000_000),
    output: Usd::from_nanos(1_000_000_000),
    cache_read: Usd::ZERO,
    cache_write: Usd::ZERO,
};

pub fn context(store: &Store, state: &State, model: Arc<dyn Model>, setup: Setup) -> Arc<Context> {
    let limited = plan("m", setup.limits, &setup);
    let others = setup.others.iter().map(|name| plan(name, Limits::default(), &setup));
    let plans = std::iter::once(limited).chain(others).collect();
    context_of(store, state, model, setup.settings, plans)
}

pub fn plan(name: &str, limits: Limits, setup: &Setup) -> PlanSpec {
    let route = |region: &&str| RouteSpec {
        lane: LaneId { region: (*region).into(), model_id: format!("vendor.{name}").into() },
        primary: true,
        not_before: None,
        limits,
        account_tokens_per_day: None,
        counting: setup.counting,
    };
    PlanSpec {
        names: vec![name.into()],
        price: Some(PRICE),
        burndown: 1,
        default_cap: NonZeroU32::new(1_024).unwrap(),
        call_timeout: CallTimeout { base: setup.call_timeout, per_token: Duration::ZERO },
        fallback: Vec::new(),
        routes: setup.regions.iter().map(route).collect(),
    }
}

/// Works until every job of the run has ended, and returns their results in the order in which they ended.
pub async fn drain(context: &Arc<Context>, store: &Store, run: &Run, jobs: usize) -> Vec<JobResult> {
    let worker = Worker::new(Arc::clone(context));
    let working = tokio::spawn(async move { worker.run().await });
    let results = ended(store, run, jobs).await;
    context.stop.drain(Reason::Done);
    working.await.unwrap();
    results
}

/// Waits until so many jobs of the run have ended.
pub async fn ended(store: &Store, run: &Run, jobs: usize) -> Vec<JobResult> {
    let mut news = run.ended();
    loop {
        if let Some(results) = results(store, run, jobs).await {
            return results;
        }
        news.changed().await.unwrap();
    }
}

/// Waits until the queue holds nothing, looking every tenth of a second of paused time: a deletion is no event.
pub async fn emptied(context: &Context) {
    let mut look = tokio::time::interval(Duration::from_millis(100));
    while context.queue.depth().await.unwrap() != aquifer::ports::Depth::default() {
        look.tick().await;
    }
}

/// The notices in the event log, in order.
pub fn notices(state: &State) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(state.dir.path().join("events.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
