//! How fast does one worker of a fleet drain a queue, and what does a job cost it in processor time? The real binary, a model
//! that answers at once and has no quota, and ministack for the services. That is one Python process: what it uses of a core
//! is printed beside the rate. Of the second half, because the first begins slowly whatever the services can do: a quota
//! that nobody told is felt for, a few calls at a time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on has nothing to report"
)]

mod common;
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../tests/common/ministack/mod.rs"]
mod ministack;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer::aws::{Fleet, Settings};
use aquifer::cli::SystemClock;

use common::process::{self, Simulator};
use common::{each, figure, place, rate, title, worker};

/// Answers at once.
const SCENARIO: &str = "[latency]\nconstant = '0s'\n[answer]\nmean = 15\nspread = 5\n";
/// The usual number, and so many that they are never all taken.
const SLOTS: [u32; 2] = [256, 1_024];
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() {
    title("fleet");
    let jobs = if common::is_short() { 1_000 } else { 10_000 };
    for slots in SLOTS {
        work(jobs, slots).await;
    }
}

/// So many jobs by one worker with so many slots.
async fn work(jobs: usize, slots: u32) {
    let place = place();
    let settings = ministack::settings();
    let emulated = ministack::emulated(ministack::url());
    let fleet = Fleet::connect_to(&emulated, settings.clone(), Arc::new(SystemClock));
    fleet.create_missing().await.unwrap();
    let simulator = Simulator::start(place.path(), SCENARIO);
    let config = format!("{}{}", section(&settings), process::config(simulator.address));
    std::fs::write(place.path().join("aquifer.toml"), config).unwrap();
    worker::write_input(&place.path().join("input.jsonl"), jobs);

    let began = Instant::now();
    assert!(command(place.path(), &["enqueue", "input.jsonl"]).status().unwrap().success());
    figure("jobs enqueued", rate(jobs, began.elapsed()), None);

    let began = Moment::now(0);
    let mut working = start(place.path(), slots);
    let mut half = None;
    loop {
        let batches = fleet.batches(None).await.unwrap();
        if half.is_none() {
            let ended = usize::try_from(batches.iter().map(|batch| batch.ended.total).sum::<u64>()).unwrap();
            half = (2 * ended >= jobs).then(|| Moment::now(ended));
        }
        if batches.iter().any(|batch| batch.announced > 0) {
            break;
        }
        assert!(working.try_wait().unwrap().is_none(), "the worker has ended");
        tokio::time::sleep(LOOK).await;
    }
    let (ended, ours) = (Moment::now(jobs), process::user_cpu(working.id()));
    let memory = process::peak_memory(working.id()).unwrap();
    assert!(Command::new("kill").arg(working.id().to_string()).status().unwrap().success());
    assert!(working.wait().unwrap().success());
    let half = half.unwrap();
    println!("  with {slots} slots:");
    figure("jobs worked by one worker", rate(jobs, ended.at - began.at), None);
    figure("the second half of them", rate(jobs - half.jobs, ended.at - half.at), None);
    figure("ministack, of the one core it can use, then", busy(&half, &ended), None);
    figure("user time a job, the worker", each(ours, jobs), Some("<= 500 us"));
    figure("peak memory, the worker", format!("{memory:.1} MiB"), None);
    figure("CPU a job, ministack", each(ended.theirs - began.theirs, jobs), None);
}

/// What there is to be seen when so many jobs have ended.
struct Moment {
    at: Instant,
    jobs: usize,
    /// What ministack has used of a core so far.
    theirs: Duration,
}

impl Moment {
    fn now(jobs: usize) -> Self {
        Self { at: Instant::now(), jobs, theirs: process::cpu(ministack::process()) }
    }
}

fn busy(from: &Moment, to: &Moment) -> String {
    let busy = (to.theirs - from.theirs).as_secs_f64() / (to.at - from.at).as_secs_f64();
    format!("{:.0} %", 100.0 * busy)
}

fn start(folder: &Path, slots: u32) -> Child {
    let mut command = command(folder, &["worker", "--listen", "127.0.0.1:0"]);
    command.env("AQUIFER_WORKER_SLOTS", slots.to_string()).spawn().unwrap()
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = process::aquifer(folder);
    command.args(arguments).env("AWS_ENDPOINT_URL", ministack::url()).env("AWS_REGION", ministack::REGION);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn section(settings: &Settings) -> String {
    let Settings { queue_url, dead_letter_url, table, bucket, topic_arn, .. } = settings;
    let topic = topic_arn.as_deref().unwrap();
    format!(
        "backend = 'aws'\n[aws]\nqueue_url = '{queue_url}'\ndead_letter_url = '{dead_letter_url}'\n\
         table = '{table}'\nbucket = '{bucket}'\ntopic_arn = '{topic}'\n"
    )
}
