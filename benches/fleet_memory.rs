//! How much memory does a worker of a fleet need that has a thousand calls open, with a million messages in its queue? The real
//! binary, ministack for the services, and a simulator so slow that the slots are never empty.
//!
//! What is queued lies with SQS and costs a worker nothing: what it holds is what it has in hand. The emulator brings messages
//! the more slowly the more it holds, so the slots are filled before the rest is queued, and no call ends before that.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot go on has nothing to report"
)]

mod common;
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../tests/common/ministack/mod.rs"]
mod ministack;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer::aws::{Fleet, Settings};
use aquifer::cli::SystemClock;
use aquifer::simulate::{self, Scenario};

use common::{figure, place, process, rate, title};

/// Half a second for each token that a prompt asks for.
const SCENARIO: &str = "latency = { constant = '0s', per_output_token = '500ms' }\nanswer = { from_prompt = true }\n";
/// Of calls by which the worker learns how many may be open at once.
const QUICK: u32 = 1;
/// Of those that stay open for longer than it takes to queue the rest.
const SLOW: u32 = 230;
const SLOW_SHORT: u32 = 30;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// To have them all in calls.
const PATIENCE: Duration = Duration::from_secs(100);

#[tokio::main]
async fn main() {
    title("fleet_memory");
    let (jobs, slots, slow, held) = match common::is_short() {
        true => (5_000, 200, SLOW_SHORT, Duration::from_secs(3)),
        false => (1_000_000, 1_000, SLOW, Duration::from_secs(15)),
    };
    let place = place();
    let settings = ministack::settings();
    let fleet = Fleet::connect_to(&ministack::emulated(ministack::url()), settings.clone(), Arc::new(SystemClock));
    fleet.create_missing().await.unwrap();
    let scenario = Scenario::from_toml(SCENARIO).unwrap();
    let simulator = simulate::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), scenario).await.unwrap();
    let config = format!("{}{}", section(&settings), process::config(simulator.address()));
    std::fs::write(place.path().join("aquifer.toml"), config).unwrap();
    let at_hand = usize::try_from(slots).unwrap();
    let of = |jobs, tokens| (0..jobs).map(move |number| line(number, tokens));
    write(&place.path().join("first.jsonl"), of(3 * at_hand, QUICK).chain(of(2 * at_hand, slow)));
    write(&place.path().join("rest.jsonl"), of(jobs, slow));

    enqueue(place.path(), "first.jsonl").await;
    let mut working = start(place.path(), slots);
    let began = Instant::now();
    while simulator.report().peak_open < slots && began.elapsed() < PATIENCE {
        assert!(working.try_wait().unwrap().is_none(), "the worker has ended");
        tokio::time::sleep(LOOK).await;
    }
    figure("all slots in calls after", format!("{:.0} s", began.elapsed().as_secs_f64()), None);
    let began = Instant::now();
    let peak = enqueue(place.path(), "rest.jsonl").await;
    figure("jobs enqueued", rate(jobs, began.elapsed()), None);
    figure("peak memory of who enqueues", format!("{peak:.1} MiB"), None);
    tokio::time::sleep(held).await;
    let depth = fleet.queue().depth().await.unwrap();
    let mut peak = process::peak_memory(working.id()).unwrap();
    let open = simulator.report().peak_open;
    assert!(Command::new("kill").arg(working.id().to_string()).status().unwrap().success());
    while working.try_wait().unwrap().is_none() {
        peak = process::peak_memory(working.id()).unwrap_or(peak);
        tokio::time::sleep(LOOK).await;
    }
    let what = format!("peak memory, {} queued, {open} in calls", depth.ready + depth.in_flight);
    figure(&what, format!("{peak:.1} MiB"), Some("<= 150 MiB"));
    let theirs = process::peak_memory(ministack::process()).unwrap();
    figure("peak memory of ministack", format!("{theirs:.0} MiB"), None);
}

fn line(number: usize, tokens: u32) -> String {
    let prompt = "Summarise this review in one sentence, and say whether its author would buy again: arrived on time, does what it \
                  says, but the lid came off within a week and nobody answered my letter.";
    format!(
        r#"{{"id":"review-{number}-{tokens}","prompt":"[answer: {tokens} tokens] Review {number}. {prompt}","max_tokens":256}}"#
    )
}

fn write(file: &Path, lines: impl Iterator<Item = String>) {
    let mut file = BufWriter::new(File::create(file).unwrap());
    for line in lines {
        writeln!(file, "{line}").unwrap();
    }
    file.flush().unwrap();
}

/// To its end; the most memory that it held.
async fn enqueue(folder: &Path, input: &str) -> f64 {
    let mut sending = aquifer(folder, &["enqueue", input]).spawn().unwrap();
    let mut peak = 0.0;
    loop {
        if let Some(status) = sending.try_wait().unwrap() {
            assert!(status.success());
            return peak;
        }
        peak = process::peak_memory(sending.id()).unwrap_or(peak);
        tokio::time::sleep(LOOK).await;
    }
}

fn start(folder: &Path, slots: u64) -> Child {
    let mut command = aquifer(folder, &["worker", "--listen", "127.0.0.1:0"]);
    command.env("AQUIFER_WORKER_SLOTS", slots.to_string()).spawn().unwrap()
}

fn aquifer(folder: &Path, arguments: &[&str]) -> Command {
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
