//! What the benchmarks share: their form, a place to work in, what the system counted, and a worker on a real state
//! directory.

#![allow(clippy::print_stdout, reason = "figures are what a benchmark is for")]
#![allow(dead_code, reason = "no benchmark needs all of it")]

pub(crate) mod process;
pub(crate) mod worker;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Whether the short form was asked for: `cargo bench -- --short`.
pub(crate) fn is_short() -> bool {
    std::env::args().any(|argument| argument == "--short")
}

/// A directory on the disk of the target folder: what is temporary elsewhere may lie in memory, where a sync is free.
pub(crate) fn place() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Prints the name of a benchmark and the form it runs in.
pub(crate) fn title(name: &str) {
    let form = if is_short() { "short form" } else { "full form" };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    println!("\n{name} ({form}, {cores} cores)");
}

/// Prints one figure; `bar` is what it is to reach.
pub(crate) fn figure(name: &str, value: impl std::fmt::Display, bar: Option<&str>) {
    match bar {
        Some(bar) => println!("  {name:<44} {value:>24}   bar {bar}"),
        None => println!("  {name:<44} {value:>24}"),
    }
}

/// So many a second.
pub(crate) fn rate(count: usize, took: Duration) -> String {
    format!("{:.0} /s", count as f64 / took.as_secs_f64())
}

/// So much of it for each.
pub(crate) fn each(total: Duration, count: usize) -> String {
    format!("{:.1} us", total.as_secs_f64() * 1e6 / count as f64)
}

/// The value in the middle.
pub(crate) fn median(values: &mut [Duration]) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}

/// What it costs to append 4 KiB to a file and sync it, as a median.
pub(crate) fn sync_cost(folder: &Path) -> Duration {
    let mut file = File::create(folder.join("sync-cost")).unwrap();
    let mut costs: Vec<Duration> = (0..200)
        .map(|_| {
            let began = Instant::now();
            file.write_all(&[b'x'; 4_096]).unwrap();
            file.sync_data().unwrap();
            began.elapsed()
        })
        .collect();
    median(&mut costs)
}
