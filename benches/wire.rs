//! What does a job cost with a real call in it? Through the SDK and HTTP to a simulator in another process that answers
//! at once; beside it the bare SDK, making the same calls with as many of them open.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing to report")]

mod common;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_bedrockruntime::Client;
use aws_sdk_bedrockruntime::config::{self, BehaviorVersion, Credentials as Keys, Region};
use aws_sdk_bedrockruntime::types::{ContentBlock, ConversationRole, InferenceConfiguration, Message};

use aquifer::bedrock::{Bedrock, Credentials, Endpoint};

use common::process::{self, Simulator};
use common::worker::{MODEL, REGION};
use common::{each, figure, place, rate, title, worker};

/// Answers at once, in a sentence.
const SCENARIO: &str = "[latency]\nconstant = '0s'\n[answer]\nmean = 15\nspread = 5\n";
/// Calls open at once: the default slots.
const OPEN: usize = 256;

#[tokio::main]
async fn main() {
    title("wire");
    let (jobs, rounds) = if common::is_short() { (5_000, 1) } else { (50_000, 3) };
    let place = place();
    let simulator = Simulator::start(place.path(), SCENARIO);
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let bare = measure(&simulator, bare(&simulator, jobs)).await;
        bare.report("bare SDK, calls", jobs, None);

        let queued = worker::enrol(&place.path().join(round.to_string()), jobs).await;
        let endpoint = Endpoint { region: REGION.into(), endpoint_url: Some(url(&simulator)) };
        let model = Arc::new(Bedrock::connect(vec![endpoint], Credentials::Simulator).await.unwrap());
        let whole = measure(&simulator, worker::drain(&queued, model, OPEN)).await;
        whole.report("whole jobs", jobs, Some(">= 4,000 /s"));
        queued.store.close().await.unwrap();
        run(&simulator, &place.path().join(format!("run-{round}")), jobs).report(
            "`aquifer run`, from start to end",
            jobs,
            None,
        );
        ratios.push(whole.took.as_secs_f64() / bare.took.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    figure("time of a job / of a bare call", format!("{:.2}", ratios[ratios.len() / 2]), None);
}

fn url(simulator: &Simulator) -> String {
    format!("http://{}", simulator.address)
}

/// What something took, here and in the simulator.
struct Measured {
    took: Duration,
    ours: Duration,
    theirs: Duration,
}

async fn measure(simulator: &Simulator, work: impl Future<Output = Duration>) -> Measured {
    let (ours, theirs) = (process::cpu(std::process::id()), simulator.cpu());
    let took = work.await;
    Measured { took, ours: process::cpu(std::process::id()) - ours, theirs: simulator.cpu() - theirs }
}

impl Measured {
    fn report(&self, name: &str, count: usize, bar: Option<&str>) {
        figure(name, rate(count, self.took), bar);
        figure("  CPU each, here", each(self.ours, count), None);
        figure("  CPU each, in the simulator", each(self.theirs, count), None);
    }
}

/// The whole command: reading the input, working, writing the results file.
fn run(simulator: &Simulator, folder: &Path, jobs: usize) -> Measured {
    std::fs::create_dir(folder).unwrap();
    std::fs::write(folder.join("aquifer.toml"), process::config(simulator.address)).unwrap();
    worker::write_input(&folder.join("input.jsonl"), jobs);
    let (theirs, began) = (simulator.cpu(), Instant::now());
    let mut command = process::aquifer(folder);
    command.args(["run", "input.jsonl"]).stdout(Stdio::null()).stderr(Stdio::null());
    let before = process::cpu_of_children();
    assert!(command.status().unwrap().success());
    let took = began.elapsed();
    Measured { took, ours: process::cpu_of_children() - before, theirs: simulator.cpu() - theirs }
}

/// So many calls through the SDK alone; how long they took.
async fn bare(simulator: &Simulator, calls: usize) -> Duration {
    let client = Client::from_conf(
        config::Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(Keys::new("simulator", "simulator", None, None, "bench"))
            .endpoint_url(url(simulator))
            .build(),
    );
    let left = Arc::new(AtomicUsize::new(calls));
    let began = Instant::now();
    let callers = (0..OPEN).map(|_| {
        let (client, left) = (client.clone(), Arc::clone(&left));
        tokio::spawn(async move {
            while let Ok(number) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
                call(&client, number).await;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    began.elapsed()
}

async fn call(client: &Client, number: usize) {
    let text = serde_json::from_str::<serde_json::Value>(&worker::line(number)).unwrap();
    let text = text["prompt"].as_str().unwrap();
    let message = Message::builder().role(ConversationRole::User).content(ContentBlock::Text(text.to_owned()));
    let cap = InferenceConfiguration::builder().max_tokens(200).build();
    let call = client.converse().model_id(MODEL).messages(message.build().unwrap()).inference_config(cap);
    call.send().await.unwrap();
}
