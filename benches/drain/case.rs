//! One run: a service, a client, a backlog. What was asked of it, and what the service saw.
//!
//! Every figure is the simulator's own count or stands in the results file; nothing is the client's word about itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer::simulate::{self, Report, Scenario, Simulator};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::backlog::Backlog;
use crate::common::worker::{MODEL, REGION};
use crate::sdk_loop::SdkLoops;
use crate::workers::Workers;

/// A run to be made.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Tells it from all others.
    pub(crate) name: String,
    pub(crate) client: Client,
    pub(crate) service: Service,
    pub(crate) settings: Settings,
    pub(crate) backlog: Arc<Backlog>,
    /// After this it is stopped, drained or not.
    pub(crate) patience: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Client {
    SdkLoop { loops: usize, attempts: u32 },
    Aquifer { workers: usize },
}

impl Client {
    /// That have to be started for it.
    pub(crate) fn processes(self) -> u32 {
        match self {
            Self::SdkLoop { .. } => 0,
            Self::Aquifer { workers } => u32::try_from(workers).unwrap(),
        }
    }
}

/// How the service counts a minute.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Counting {
    Bucket,
    Sliding,
    Fixed,
}

impl Counting {
    pub(crate) const ALL: [Self; 3] = [Self::Bucket, Self::Sliding, Self::Fixed];

    /// The same in scenarios and in configurations.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Bucket => "bucket",
            Self::Sliding => "sliding",
            Self::Fixed => "fixed",
        }
    }
}

/// What is behind the address.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) counting: Counting,
    /// Tokens a minute, in each region.
    pub(crate) limit: u64,
    pub(crate) burndown: u64,
    /// `"amend"` or `"append"`.
    pub(crate) excess: &'static str,
    pub(crate) cache_reads_at_admission: bool,
    /// `false`: refuses nothing, and counts what it would have refused.
    pub(crate) enforce: bool,
    pub(crate) latency: &'static str,
    /// How many, each with this limit.
    pub(crate) regions: usize,
    /// What else its scenario says.
    pub(crate) trouble: String,
}

/// What the worker is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) tokens_per_minute: Option<u64>,
    pub(crate) counting: &'static str,
    pub(crate) call_timeout: Option<&'static str>,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) jobs: usize,
    pub(crate) answered: usize,
    /// From the first call that the service saw to the last answer that it gave; `None` where it was stopped before.
    pub(crate) drain: Option<Duration>,
    /// How far the minute of the clock had run at the first call.
    pub(crate) second: f64,
    /// The last count of the service.
    pub(crate) report: Report,
    /// Once a second from the first call on.
    pub(crate) seen: Vec<Seen>,
    /// Answers by job, where Aquifer gave them.
    pub(crate) answers: BTreeMap<String, String>,
    /// Why the figures may not mean what they say.
    pub(crate) trouble: Option<String>,
}

/// The count at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Since the first call.
    pub(crate) at: Duration,
    pub(crate) calls: u64,
    pub(crate) throttled: u64,
    pub(crate) settled: u64,
    /// Of the workers.
    pub(crate) cpu: Duration,
}

impl Case {
    /// Runs it in this folder, which it makes.
    pub(crate) async fn run(self, place: &Path) -> Outcome {
        let folder = place.join(&self.name);
        std::fs::create_dir(&folder).unwrap();
        let scenario = Scenario::from_toml(&self.service.scenario()).unwrap();
        let began = (Instant::now(), SystemTime::now());
        let simulator = simulate::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), scenario).await.unwrap();
        let running = match self.client {
            Client::SdkLoop { loops, attempts } => {
                Running::Loops(SdkLoops::start(&self.name, loops, attempts, &url(&simulator), &self.backlog))
            }
            Client::Aquifer { workers } => {
                let config = self.settings.config(&self.service, &url(&simulator));
                Running::Workers(Workers::start(&folder, &config, &self.backlog.file, workers))
            }
        };
        let outcome = self.watch(running, simulator, began).await;
        // A million tokens of prompts a case: the disk need not hold them longer than they are looked at.
        std::fs::remove_dir_all(&folder).unwrap();
        outcome
    }

    async fn watch(&self, mut running: Running, simulator: Simulator, began: (Instant, SystemTime)) -> Outcome {
        const LOOK: Duration = Duration::from_millis(100);
        let (began, by_the_clock) = began;
        let mut seen: Vec<Seen> = Vec::new();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let was_stopped = loop {
            look.tick().await;
            let report = simulator.report();
            if let Some(first) = report.first_call_ms {
                let at = began.elapsed().saturating_sub(Duration::from_millis(first));
                if seen.last().is_none_or(|seen| at >= seen.at + Duration::from_secs(1)) {
                    let Report { calls, throttled, settled_tokens: settled, .. } = report;
                    seen.push(Seen { at, calls, throttled, settled, cpu: running.cpu() });
                }
            }
            let is_running = running.is_running();
            if !is_running || began.elapsed() >= self.patience {
                break is_running;
            }
        };
        running.kill();
        let report = simulator.stop().await;
        let stopped = was_stopped.then(|| format!("stopped after {:.0} s", self.patience.as_secs_f64()));
        let time = |ms: Option<u64>| ms.map(Duration::from_millis);
        let (first, last) = (time(report.first_call_ms), time(report.last_answer_ms));
        let (answers, answered) = running.answers();
        Outcome {
            jobs: self.backlog.jobs.len(),
            answered,
            drain: first.zip(last).filter(|_| !was_stopped).map(|(first, last)| last.saturating_sub(first)),
            second: second_of_the_minute(by_the_clock + first.unwrap_or_default()),
            report,
            seen,
            answers,
            trouble: stopped.or_else(|| running.trouble()),
        }
    }

    /// The least time in which the counting lets the backlog through, in seconds: a full quota at once, and what the
    /// counting gives back after that. Two regions are one of twice the size. Of a backlog that was drained in part, as
    /// by a client that loses jobs, only that part counts: it would look faster than it can be otherwise.
    pub(crate) fn optimum(&self, outcome: &Outcome) -> f64 {
        let drained = self.backlog.settled.min(outcome.report.settled_tokens);
        let minutes = drained as f64 / (self.service.limit * self.service.regions as u64) as f64;
        match self.service.counting {
            Counting::Bucket => 60.0 * (minutes - 1.0),
            Counting::Sliding => 60.0 * (minutes.ceil() - 1.0),
            Counting::Fixed => 60.0 * (minutes.ceil() - 1.0) - outcome.second,
        }
    }
}

impl Outcome {
    pub(crate) fn unanswered(&self) -> usize {
        self.jobs.saturating_sub(self.answered)
    }
}

impl Service {
    /// A healthy service of one region.
    pub(crate) fn new(counting: Counting, limit: u64) -> Self {
        Self {
            counting,
            limit,
            burndown: 1,
            excess: "amend",
            cache_reads_at_admission: false,
            enforce: true,
            latency: LATENCY,
            regions: 1,
            trouble: String::new(),
        }
    }

    fn scenario(&self) -> String {
        let Self { counting, limit, burndown, excess, cache_reads_at_admission, enforce, latency, trouble, .. } = self;
        format!(
            "counting = '{}'\nsettlement_excess = '{excess}'\ncache_reads_at_admission = {cache_reads_at_admission}\n\
             enforce = {enforce}\nlatency = {{ {latency} }}\nanswer = {{ from_prompt = true }}\n\
             [[model]]\nid = '{MODEL}'\ntokens_per_minute = {limit}\nburndown = {burndown}\n{trouble}",
            counting.word(),
        )
    }
}

/// As of a model of middling size: half the calls within 2 s, one in a hundred beyond 8 s.
const LATENCY: &str = "p50 = '2s', p99 = '8s'";
/// The mean of that distribution: "one call" of the bars.
pub(crate) const ONE_CALL: f64 = 2.39;

/// A simulated service has as many as are asked for; it goes by what a call was signed for.
pub(crate) const REGIONS: [&str; 2] = [REGION, "us-west-2"];

impl Settings {
    fn config(&self, service: &Service, url: &str) -> String {
        let mut config = format!(
            "[[model]]\nname = 'model'\nid = '{MODEL}'\ncounting = '{}'\noutput_burndown = {}\n",
            self.counting, service.burndown
        );
        if let Some(tokens) = self.tokens_per_minute {
            writeln!(config, "tokens_per_minute = {tokens}").unwrap();
        }
        if let Some(timeout) = self.call_timeout {
            writeln!(config, "call_timeout = '{timeout}'").unwrap();
        }
        for region in &REGIONS[..service.regions] {
            writeln!(
                config,
                "[[endpoint]]
region = '{region}'
endpoint_url = '{url}'"
            )
            .unwrap();
        }
        config
    }
}

/// A client at work.
enum Running {
    Loops(SdkLoops),
    Workers(Workers),
}

impl Running {
    fn is_running(&mut self) -> bool {
        match self {
            Self::Loops(loops) => loops.are_running(),
            Self::Workers(workers) => workers.are_running(),
        }
    }

    fn kill(&mut self) {
        match self {
            Self::Loops(loops) => loops.kill(),
            Self::Workers(workers) => workers.kill(),
        }
    }

    fn cpu(&self) -> Duration {
        match self {
            Self::Loops(_) => Duration::ZERO,
            Self::Workers(workers) => workers.cpu(),
        }
    }

    fn answers(&self) -> (BTreeMap<String, String>, usize) {
        match self {
            Self::Loops(loops) => (BTreeMap::new(), loops.answered()),
            Self::Workers(workers) => {
                let answers = workers.answers();
                let count = answers.len();
                (answers, count)
            }
        }
    }

    fn trouble(&self) -> Option<String> {
        match self {
            Self::Loops(_) => None,
            Self::Workers(workers) => workers.trouble(),
        }
    }
}

fn url(simulator: &Simulator) -> String {
    format!("http://{}", simulator.address())
}

/// Of UTC, as the service's fixed minutes are.
pub(crate) fn second_of_the_minute(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() % 60.0
}
