//! How long does `aquifer plan` take for a million jobs, and how much memory? The real binary, with a quota that binds.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing to report")]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{figure, place, process, title, worker};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

fn main() {
    title("plan");
    let jobs = if common::is_short() { 50_000 } else { 1_000_000 };
    let place = place();
    worker::write_input(&place.path().join("input.jsonl"), jobs);
    for counting in ["bucket", "sliding", "fixed"] {
        let (took, peak) = plan(place.path(), counting);
        let bar = (jobs == 1_000_000).then_some("<= 10 s, <= 150 MiB");
        figure(
            &format!("{jobs} jobs, {counting} counting"),
            format!("{:.1} s, {peak:.1} MiB", took.as_secs_f64()),
            bar,
        );
    }
}

/// How long one plan took, and the most memory it held, in MiB.
fn plan(folder: &Path, counting: &str) -> (Duration, f64) {
    let config = process::config(([127, 0, 0, 1], 9).into());
    let told = format!("tokens_per_minute = 1_000_000\ncounting = '{counting}'\n[[endpoint]]");
    std::fs::write(folder.join("aquifer.toml"), config.replace("[[endpoint]]", &told)).unwrap();
    let began = Instant::now();
    let mut planning = start(folder);
    let mut peak = 0.0;
    while planning.try_wait().unwrap().is_none() {
        peak = process::peak_memory(planning.id()).unwrap_or(peak);
        thread::sleep(LOOK);
    }
    assert!(planning.wait().unwrap().success());
    (began.elapsed(), peak)
}

fn start(folder: &Path) -> Child {
    let mut command: Command = process::aquifer(folder);
    command.args(["plan", "input.jsonl", "--json"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
