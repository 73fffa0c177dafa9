//! Do eight workers of a fleet, who know of each other only by rows in DynamoDB, drain a backlog as fast as its quota allows, and
//! what does it cost them to share it? The real binary, ministack for the services, and the fault proxy before it, which
//! plays no faults and counts.
//!
//! ```text
//! cargo bench --bench fleet_quota                every counting, learnt and configured, at once; 8 min
//! cargo bench --bench fleet_quota -- --short     one of them, with four minutes' backlog less
//! cargo bench --bench fleet_quota -- --only WORD only cases with WORD in their name
//! ```
//!
//! Jobs, quota, latency, optimum and bars are those of the bench `drain`, which does the same on one machine. Every case has
//! a queue, a table, a service and eight processes of its own. A write is a `PutItem` on the row of a lane as it comes
//! over the wire, whether or not another worker was first: it is paid for either way.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark that cannot go on has nothing to report, and figures are for people"
)]

#[allow(dead_code, reason = "shared with the bench that drains on one machine, which uses all of it")]
#[path = "drain/backlog.rs"]
mod backlog;
mod common;
#[allow(dead_code, reason = "likewise")]
#[path = "drain/machine.rs"]
mod machine;
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../tests/common/ministack/mod.rs"]
mod ministack;
#[allow(dead_code, reason = "likewise")]
#[path = "../tests/common/proxy/mod.rs"]
mod proxy;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer::aws::{Fleet, Settings};
use aquifer::cli::SystemClock;
use aquifer::simulate::{self, Report, Scenario, Simulator};
use tokio::time::{Instant, sleep};

use backlog::{Backlog, Form};
use common::worker::{MODEL, REGION};
use common::{place, process, title};
use machine::Machine;
use proxy::{Call, Proxy, Service};

/// Tokens a minute.
const LIMIT: u64 = 200_000;
const MINUTES: f64 = 5.5;
const MINUTES_SHORT: f64 = 1.5;
const WORKERS: u32 = 8;
/// Half the calls within 2 s, one in a hundred beyond 3 s.
const LATENCY: &str = "p50 = '2s', p99 = '3s'";
/// Drained later than this is not drained.
const PATIENCE: Duration = Duration::from_secs(900);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// The share of the optimum that eight may take.
const MOST_TIMES: f64 = 1.07;
/// Writes a second and worker, to rows of lanes.
const MOST_WRITES: f64 = 1.0;
const BATCH: &str = "backlog";

/// What a service counts by, and what the workers are told of it.
#[derive(Clone, Copy)]
struct Case {
    counting: &'static str,
    told: &'static str,
}

struct Outcome {
    case: Case,
    report: Report,
    /// From the first call that the service saw to the last answer that it gave; `None` if it was stopped before.
    drain: Option<Duration>,
    optimum: f64,
    answered: usize,
    writes: u64,
    reads: u64,
    /// From the first call that the service saw until the batch was seen to be done.
    took: Duration,
}

#[tokio::main]
async fn main() -> ExitCode {
    title("fleet_quota");
    let minutes = if common::is_short() { MINUTES_SHORT } else { MINUTES };
    let place = place();
    let backlog =
        Backlog::of_tokens((minutes * LIMIT as f64) as u64, Form::Plain, place.path().join(format!("{BATCH}.jsonl")));
    let cases = asked();
    // Installed and started before anything is timed.
    ministack::url();
    let machine = Machine::watch();
    let mut tasks = Vec::new();
    for case in cases {
        let (place, backlog) = (place.path().to_owned(), Arc::clone(&backlog));
        tasks.push(tokio::spawn(async move { case.run(&place, &backlog).await }));
        sleep(LOOK).await;
    }
    let mut is_whole = true;
    for task in tasks {
        is_whole &= task.await.unwrap().say(backlog.jobs.len());
    }
    println!("\n{}", machine.said());
    // A bar missed is reported; a job lost or paid for twice is a failure of the run.
    if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn asked() -> Vec<Case> {
    let arguments: Vec<String> = std::env::args().collect();
    let only = arguments.iter().skip_while(|argument| *argument != "--only").nth(1);
    let all = ["bucket", "sliding", "fixed"].into_iter().flat_map(|counting| {
        let case = move |told| Case { counting, told };
        [case("learn"), case(counting)]
    });
    if common::is_short() {
        return vec![Case { counting: "bucket", told: "bucket" }];
    }
    all.filter(|case| only.is_none_or(|word| case.name().contains(word.as_str()))).collect()
}

impl Case {
    fn name(&self) -> String {
        format!("{}-{}", self.counting, if self.told == "learn" { "learning" } else { "configured" })
    }

    async fn run(self, place: &Path, backlog: &Backlog) -> Outcome {
        let folder = place.join(self.name());
        std::fs::create_dir(&folder).unwrap();
        let settings = ministack::settings();
        let fleet = Fleet::connect_to(&ministack::emulated(ministack::url()), settings.clone(), Arc::new(SystemClock));
        fleet.create_missing().await.unwrap();
        let proxy = Proxy::start(ministack::url(), 0);
        let at = At { folder, url: proxy.url().to_owned() };

        let scenario = Scenario::from_toml(&self.scenario()).unwrap();
        let begun = (Instant::now(), SystemTime::now());
        let simulator = simulate::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), scenario).await.unwrap();
        std::fs::write(at.folder.join("aquifer.toml"), self.config(&settings, simulator.address())).unwrap();
        at.enqueue(&backlog.file).await;
        if self.counting == "fixed" {
            // Eight workers take about a third of a second to their first call.
            const START: f64 = 4.7;
            sleep(Duration::from_secs_f64((START - second_of_the_minute(SystemTime::now())).rem_euclid(60.0))).await;
        }
        proxy.count_anew();
        let mut workers: Vec<Child> = (0..WORKERS).map(|which| at.worker(which)).collect();
        let began = Instant::now();
        let is_drained = until_announced(&fleet, &mut workers, began).await;
        let outcome = self.judge(&simulator, &proxy, backlog, begun, is_drained);
        stop(workers).await;
        let answered = at.answered().await;
        simulator.stop().await;
        Outcome { answered, ..outcome }
    }

    fn judge(
        self,
        simulator: &Simulator,
        proxy: &Proxy,
        backlog: &Backlog,
        begun: (Instant, SystemTime),
        is_drained: bool,
    ) -> Outcome {
        let report = simulator.report();
        let time = |ms: Option<u64>| Duration::from_millis(ms.unwrap_or_default());
        let (first, last) = (time(report.first_call_ms), time(report.last_answer_ms));
        let took = last.saturating_sub(first);
        let minutes = backlog.settled.min(report.settled_tokens) as f64 / LIMIT as f64;
        let optimum = match self.counting {
            "bucket" => 60.0 * (minutes - 1.0),
            "sliding" => 60.0 * (minutes.ceil() - 1.0),
            _ => 60.0 * (minutes.ceil() - 1.0) - second_of_the_minute(begun.1 + first),
        };
        let lanes = |operation| {
            let touched = proxy.touched();
            touched.get(&(Call::new(Service::DynamoDb, operation), "lane".to_owned())).copied().unwrap_or_default()
        };
        Outcome {
            case: self,
            drain: is_drained.then_some(took),
            optimum,
            answered: 0,
            writes: lanes("PutItem"),
            reads: lanes("GetItem"),
            took: begun.0.elapsed().saturating_sub(first),
            report,
        }
    }

    fn scenario(self) -> String {
        format!(
            "counting = '{}'\nsettlement_excess = 'amend'\nlatency = {{ {LATENCY} }}\nanswer = {{ from_prompt = true }}\n\
             [[model]]\nid = '{MODEL}'\ntokens_per_minute = {LIMIT}\nburndown = 1\n",
            self.counting
        )
    }

    fn config(self, settings: &Settings, model: SocketAddr) -> String {
        let Settings { queue_url, dead_letter_url, table, bucket, topic_arn, .. } = settings;
        let topic = topic_arn.as_deref().unwrap();
        format!(
            "backend = 'aws'\n[aws]\nqueue_url = '{queue_url}'\ndead_letter_url = '{dead_letter_url}'\n\
             table = '{table}'\nbucket = '{bucket}'\ntopic_arn = '{topic}'\n\
             [[model]]\nname = 'model'\nid = '{MODEL}'\ncounting = '{}'\noutput_burndown = 1\n\
             tokens_per_minute = {LIMIT}\n[[endpoint]]\nregion = '{REGION}'\nendpoint_url = 'http://{model}'\n",
            self.told
        )
    }
}

/// Where a case works, and where it finds the services.
struct At {
    folder: PathBuf,
    url: String,
}

impl At {
    fn aquifer(&self, arguments: &[&str], said: &str) -> Command {
        let mut command = process::aquifer(&self.folder);
        command.args(arguments).env("AWS_ENDPOINT_URL", &self.url).env("AWS_REGION", ministack::REGION);
        command.stdout(File::create(self.folder.join(format!("{said}.out"))).unwrap());
        command.stderr(File::create(self.folder.join(format!("{said}.err"))).unwrap());
        command
    }

    async fn enqueue(&self, input: &Path) {
        let arguments = ["enqueue", input.to_str().unwrap(), "--batch", BATCH];
        finish(self.aquifer(&arguments, "enqueue")).await;
    }

    fn worker(&self, which: u32) -> Child {
        self.aquifer(&["worker", "--listen", "127.0.0.1:0"], &format!("worker-{which}")).spawn().unwrap()
    }

    /// Jobs with an answer, as `aquifer results` tells them.
    async fn answered(&self) -> usize {
        finish(self.aquifer(&["results", BATCH], "results")).await;
        let results = std::fs::read_to_string(self.folder.join("results.out")).unwrap();
        results.lines().filter(|line| line.contains("\"status\":\"succeeded\"")).count()
    }
}

/// Other cases go on meanwhile.
async fn finish(mut command: Command) {
    let status = tokio::task::spawn_blocking(move || command.status()).await.unwrap().unwrap();
    assert!(status.success(), "it ended with {status}");
}

async fn until_announced(fleet: &Fleet, workers: &mut [Child], began: Instant) -> bool {
    while began.elapsed() < PATIENCE {
        if fleet.batches(None).await.unwrap().iter().any(|batch| batch.announced > 0) {
            return true;
        }
        for worker in &mut *workers {
            assert!(worker.try_wait().unwrap().is_none(), "a worker has ended");
        }
        sleep(LOOK).await;
    }
    false
}

async fn stop(workers: Vec<Child>) {
    for worker in &workers {
        assert!(Command::new("kill").arg(worker.id().to_string()).status().unwrap().success());
    }
    for mut worker in workers {
        let status = tokio::task::spawn_blocking(move || worker.wait()).await.unwrap().unwrap();
        assert!(status.success(), "a worker ended with {status}");
    }
}

impl Outcome {
    /// Prints it; whether every job has one answer.
    fn say(&self, jobs: usize) -> bool {
        let Self { case, report, drain, optimum, answered, writes, reads, took } = self;
        let times = drain.map_or(f64::INFINITY, |drain| drain.as_secs_f64() / optimum);
        let per_worker = |count: u64| count as f64 / took.as_secs_f64() / f64::from(WORKERS);
        let most_refused = if case.told == "learn" { 5.max(report.calls / 1_000) } else { 0 };
        let met = |is_met: bool| if is_met { "met" } else { "missed" };
        println!("\n  {}: {} workers, {jobs} jobs", case.name(), WORKERS);
        let drained = drain.map_or_else(|| "not drained".to_owned(), |drain| format!("{:.1} s", drain.as_secs_f64()));
        println!(
            "    drained in {drained}, optimum {optimum:.1} s: {times:.3} x; bar {MOST_TIMES}: {}",
            met(times <= MOST_TIMES)
        );
        println!(
            "    refused {} of {} calls; bar {most_refused}: {}",
            report.throttled,
            report.calls,
            met(report.throttled <= most_refused)
        );
        println!(
            "    writes to rows of lanes, a second and worker: {:.2} (and {:.2} reads); bar {MOST_WRITES}: {}",
            per_worker(*writes),
            per_worker(*reads),
            met(per_worker(*writes) <= MOST_WRITES)
        );
        println!("    answered {answered} of {jobs}, twice {}", report.answered_twice);
        *answered == jobs && report.answered_twice == 0
    }
}

/// Of UTC, as the service's fixed minutes are.
fn second_of_the_minute(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() % 60.0
}
