//! Whole workers on one state directory and one simulated service, under a paused clock: what a scenario comes to.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use aquifer::embedded::{DoneSeq, Run, Store};
use aquifer::flow::context::{Context, Settings};
use aquifer::flow::lane::Lane;
use aquifer::flow::lanes::{CallTimeout, PlanSpec, RouteSpec};
use aquifer::flow::stop::Reason;
use aquifer::flow::worker::Worker;
use aquifer::job::ident::{BatchName, JobId, JobKey, Tenant};
use aquifer::job::lifecycle::Status;
use aquifer::job::outcome::JobResult;
use aquifer::job::spec::{Job, MaxTokens, Priority, Request};
use aquifer::job::units::PerMinute;
use aquifer::ports::LaneId;
use aquifer::rules::pace::{Counting, Hypothesis, Limits};
use aquifer::simulate::{Report, Scenario};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::common::mortal::make_mortal;
use crate::common::{self, BATCH, State, context_of};
use crate::draws::Draw;
use crate::grants::FarStore;
use crate::played::Played;

pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const EAST: &str = "us-east-1";
pub const WEST: &str = "us-west-2";
/// The model that the example scenarios play.
pub const HAIKU: &str = "us.anthropic.claude-haiku-4-5-20251001-v1:0";

/// The directory, and the service that answers.
pub struct Play {
    pub state: State,
    pub played: Played,
}

impl Play {
    /// By the text of a scenario.
    pub fn of(scenario: &str) -> Self {
        let scenario = Scenario::from_toml(scenario).unwrap_or_else(|error| panic!("{error}\n{scenario}"));
        Self { state: State::new(), played: Played::new(scenario) }
    }

    /// By one of `examples/scenarios`.
    pub fn example(name: &str) -> Self {
        Self::of(&crate::examples::example(name))
    }

    /// The service's own count.
    pub fn report(&self) -> Report {
        self.played.service.report()
    }

    /// One more worker.
    pub async fn worker(&self, setup: &Setup) -> Working {
        let store = self.state.open().await;
        let model = Arc::new(self.played.clone());
        let mut context = context_of(&store, &self.state, model, setup.settings.clone(), setup.models.clone());
        if let Some(far) = &setup.far {
            let context = Arc::get_mut(&mut context).unwrap();
            context.allowance = far.before(Arc::clone(&context.allowance));
        }
        let dead = CancellationToken::new();
        make_mortal(Arc::get_mut(&mut context).unwrap(), &dead);
        let worker = Worker::new(Arc::clone(&context));
        let task = tokio::spawn(async move { worker.run().await });
        Working { store, context, task, dead }
    }

    /// So many workers drain these jobs; what became of them.
    pub async fn drained(&self, setup: &Setup, workers: usize, jobs: Vec<Job>) -> Vec<JobResult> {
        let work = Enrolled::new(self, jobs).await;
        let mut working = Vec::new();
        for _ in 0..workers {
            working.push(self.worker(setup).await);
        }
        let results = work.ended().await;
        for worker in working {
            worker.stop().await;
        }
        results
    }
}

/// A batch, seen from a process that does not work on it.
pub struct Enrolled {
    pub store: Store,
    pub run: Run,
    count: usize,
}

impl Enrolled {
    pub async fn new(play: &Play, jobs: Vec<Job>) -> Self {
        let store = play.state.open().await;
        let count = jobs.len();
        let (run, _) = common::enrol(&store, jobs).await;
        Self { store, run, count }
    }

    /// Waits until every job has ended, looking every second of paused time: what other processes do is no event.
    pub async fn ended(&self) -> Vec<JobResult> {
        self.ended_to(self.count).await
    }

    /// How many jobs it has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What has ended.
    pub async fn so_far(&self) -> Vec<JobResult> {
        let ended = self.run.finals(DoneSeq::default(), self.count).await.unwrap().len();
        common::results(&self.store, &self.run, ended).await.unwrap()
    }

    /// Waits until so many have.
    pub async fn ended_to(&self, count: usize) -> Vec<JobResult> {
        let mut look = tokio::time::interval(SECOND);
        loop {
            look.tick().await;
            if let Some(results) = common::results(&self.store, &self.run, count).await {
                return results;
            }
        }
    }
}

/// A worker at work.
pub struct Working {
    pub store: Store,
    pub context: Arc<Context>,
    task: JoinHandle<()>,
    dead: CancellationToken,
}

impl Working {
    /// It finishes what it holds, and leaves.
    pub async fn stop(self) {
        self.context.stop.drain(Reason::Done);
        self.task.await.unwrap();
        self.store.close().await.unwrap();
    }

    /// It is gone from one moment to the next.
    pub async fn kill(self) {
        self.dead.cancel();
        // What it had handed over by now is written: a process that is gone does not go on writing after its lock is free.
        self.store.ledger().post_gate("killed", None).await.unwrap();
        self.store.abandon();
        self.task.abort();
        let _ = self.task.await;
    }

    /// What it knows of its lane in this region.
    pub fn lane(&self, region: &str) -> Arc<Lane> {
        let mut lanes = self.context.catalogue.lanes().into_iter();
        lanes.find(|lane| &*lane.id.region == region && &*lane.id.model_id == HAIKU).unwrap()
    }

    /// How many calls it may have open in this region, at the end of each of so many seconds.
    pub async fn limits(&self, region: &str, seconds: usize) -> Vec<usize> {
        let lane = self.lane(region);
        let mut limits = Vec::new();
        for _ in 0..seconds {
            tokio::time::sleep(SECOND).await;
            limits.push(lane.state().concurrency.limit());
        }
        limits
    }
}

/// How workers are set up.
#[derive(Clone)]
pub struct Setup {
    pub settings: Settings,
    pub models: Vec<PlanSpec>,
    /// What stands between a worker and the rows of the lanes.
    pub far: Option<FarStore>,
}

impl Setup {
    /// One model in these regions, of which nothing is told.
    pub fn new(id: &str, regions: &[&str]) -> Self {
        let mut settings = common::settings();
        settings.slots = 256;
        Self { settings, models: vec![model("m", id, regions)], far: None }
    }

    /// What is told of the model's quota in each region.
    pub fn told(mut self, tokens_per_minute: u64, counting: Counting) -> Self {
        let limits = Limits { tokens_per_minute: PerMinute::new(tokens_per_minute), ..Limits::default() };
        for route in self.models.iter_mut().flat_map(|model| &mut model.routes) {
            (route.limits, route.counting) = (limits, counting);
        }
        self
    }

    /// With the rows of the lanes behind this store.
    pub fn behind(mut self, far: &FarStore) -> Self {
        self.far = Some(far.clone());
        self
    }

    pub fn burndown(mut self, burndown: u32) -> Self {
        for model in &mut self.models {
            model.burndown = burndown;
        }
        self
    }

    pub fn call_timeout(mut self, base: Duration) -> Self {
        for model in &mut self.models {
            model.call_timeout.base = base;
        }
        self
    }
}

pub fn model(name: &str, id: &str, regions: &[&str]) -> PlanSpec {
    let route = |region: &&str| RouteSpec {
        lane: LaneId { region: (*region).into(), model_id: id.into() },
        primary: true,
        not_before: None,
        limits: Limits::default(),
        account_tokens_per_day: None,
        counting: Counting::Learn,
    };
    PlanSpec {
        names: vec![name.into()],
        price: None,
        burndown: 1,
        default_cap: NonZeroU32::new(1_024).unwrap(),
        call_timeout: CallTimeout { base: Duration::from_secs(120), per_token: Duration::ZERO },
        fallback: Vec::new(),
        routes: regions.iter().map(route).collect(),
    }
}

pub fn job(id: &str, prompt: String) -> Job {
    Job {
        key: JobKey { tenant: Tenant::unnamed(), batch: BatchName::new(BATCH).unwrap(), id: JobId::new(id).unwrap() },
        model: "m".to_owned(),
        request: Request::Prompt(prompt),
        max_tokens: MaxTokens::of(256),
        fallback: true,
        deadline: None,
        priority: Priority::default(),
        residency: None,
        callback: None,
        metadata: serde_json::Map::new(),
        trace: None,
    }
}

/// Small jobs of one size: 50 tokens in, 20 out.
pub fn small(count: usize) -> Vec<Job> {
    (0..count).map(|number| job(&format!("small-{number}"), prompt(number, 50, 20))).collect()
}

/// Jobs of so many tokens in the simulator's own count, input and answer times burndown, spread as the calls of a code
/// assistant are: a mean of some 2,000 in, up to 7,400; some 30 out.
pub fn backlog(tokens: u64, burndown: u64) -> Vec<Job> {
    let mut draw = Draw::new(7);
    let mut jobs = Vec::new();
    let mut left = tokens;
    while left > 0 {
        let (input, output) = (draw.log_normal(1_400.0, 0.9).clamp(20, 7_400), draw.log_normal(16.0, 1.0).min(250));
        // The last ones fill up.
        let (input, output) = match left {
            0..8_000 => (left - burndown, 1),
            8_000..12_000 => (4_000, 1),
            _ => (input, output),
        };
        left = left.saturating_sub(input + output * burndown);
        jobs.push(job(&format!("job-{}", jobs.len()), prompt(jobs.len(), input, output)));
    }
    jobs
}

/// A prompt of so many tokens that asks for an answer of so many.
fn prompt(number: usize, input: u64, output: u64) -> String {
    let mut text = format!("{number} [answer: {output} tokens]");
    let bytes = usize::try_from(input * 4).unwrap();
    while text.len() < bytes {
        text.push_str(" lorem ipsum");
    }
    text.truncate(bytes.max(format!("{number} [answer: {output} tokens]").len()));
    text
}

/// How long a backlog of so many tokens takes at best with this quota: the last call of it begins then. `into_the_minute` is
/// how far a minute of UTC has run at the start.
pub fn optimum(counting: Hypothesis, tokens: u64, quota: u64, into_the_minute: Duration) -> Duration {
    let whole = MINUTE * u32::try_from(tokens.div_ceil(quota) - 1).unwrap();
    match counting {
        Hypothesis::Bucket => MINUTE.mul_f64(tokens as f64 / quota as f64 - 1.0),
        Hypothesis::Sliding => whole,
        Hypothesis::Fixed => whole - into_the_minute,
    }
}

/// From the first call to the last answer, as the service saw it.
pub fn drain_time(report: &Report) -> Duration {
    Duration::from_millis(report.last_answer_ms.unwrap() - report.first_call_ms.unwrap())
}

/// Shows what a test has measured, beside what it holds: `cargo test --test scenarios -- --nocapture`.
#[allow(clippy::print_stderr, reason = "figures are for whoever asks for them")]
pub fn figure(what: &str, measured: std::fmt::Arguments<'_>) {
    eprintln!("figure: {what}: {measured}");
}

/// Every job has one answer, and only one.
pub fn assert_all_answered(results: &[JobResult], jobs: usize) {
    let lost: Vec<_> = results.iter().filter(|result| result.status != Status::Succeeded).collect();
    assert!(lost.is_empty(), "{} of {jobs}, such as {:?}", lost.len(), lost.first());
    assert_eq!(results.len(), jobs);
}
