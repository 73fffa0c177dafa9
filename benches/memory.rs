//! How much memory does a run need that has a million jobs queued and a thousand in flight? The real binary, against
//! a slow simulator in another process.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing to report")]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use aquifer::embedded::Reader;

use common::process::{self, Simulator};
use common::{figure, place, rate, title, worker};

/// So slow that the slots are never empty.
const SCENARIO: &str = "[latency]\nconstant = '2s'\n[answer]\nmean = 100\nspread = 50\n";
const SLOTS: u64 = 1_000;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

fn main() {
    title("memory");
    let jobs = if common::is_short() { 100_000 } else { 1_000_000 };
    let place = place();
    worker::write_input(&place.path().join("input.jsonl"), jobs);
    let simulator = Simulator::start(place.path(), SCENARIO);
    let began = Instant::now();
    let mut run = start(place.path(), &simulator);
    let state = place.path().join("state");

    let mut enrolling = 0.0;
    while running(&state) == 0 {
        assert!(run.try_wait().unwrap().is_none(), "the run has ended");
        enrolling = process::peak_memory(run.id()).unwrap();
        thread::sleep(LOOK);
    }
    figure("lines enrolled", rate(jobs, began.elapsed()), None);
    figure("peak memory while enrolling", format!("{enrolling:.1} MiB"), None);
    while running(&state) < SLOTS {
        assert!(run.try_wait().unwrap().is_none(), "the run has ended");
        thread::sleep(LOOK);
    }
    // Every slot sees several jobs.
    thread::sleep(Duration::from_secs(7));
    let in_hand = running(&state);
    let mut peak = process::peak_memory(run.id()).unwrap();
    interrupt(&run);
    let stopping = Instant::now();
    while run.try_wait().unwrap().is_none() {
        peak = process::peak_memory(run.id()).unwrap_or(peak);
        thread::sleep(LOOK);
    }
    figure(&format!("peak memory, {jobs} queued, {in_hand} in hand"), format!("{peak:.1} MiB"), Some("<= 150 MiB"));
    figure("stopped within", format!("{:.1} s", stopping.elapsed().as_secs_f64()), None);
}

fn start(folder: &Path, simulator: &Simulator) -> Child {
    std::fs::write(folder.join("aquifer.toml"), process::config(simulator.address)).unwrap();
    let mut command = process::aquifer(folder);
    command.args(["run", "input.jsonl", "--state", "state"]);
    command.env("AQUIFER_WORKER_SLOTS", SLOTS.to_string());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Jobs that are claimed just now.
fn running(state: &Path) -> u64 {
    let Ok(reader) = Reader::open(state) else { return 0 };
    reader.batches().map_or(0, |batches| batches.iter().map(|batch| batch.counts.running).sum())
}

fn interrupt(run: &Child) {
    assert!(Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap().success());
}
