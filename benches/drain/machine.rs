//! Was the machine fast enough to say anything? How busy it was, and how late its timers came.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How many files this process may have open; `None` if the system does not say.
pub(crate) fn most_files() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

/// What is noticed from the start to the end of a run.
pub(crate) struct Machine {
    before: Option<Ticks>,
    latest: Arc<Mutex<Late>>,
    watch: JoinHandle<()>,
}

/// The timer that came latest.
#[derive(Clone, Copy, Default)]
struct Late {
    by: Duration,
    /// Since the start.
    at: Duration,
}

/// All CPU time of the machine, and what of it nobody used.
#[derive(Clone, Copy)]
struct Ticks {
    all: u64,
    idle: u64,
}

impl Machine {
    /// Begins to watch.
    pub(crate) fn watch() -> Self {
        const NAP: Duration = Duration::from_millis(20);
        let latest = Arc::new(Mutex::new(Late::default()));
        let (noted, start) = (Arc::clone(&latest), Instant::now());
        let watch = tokio::spawn(async move {
            loop {
                let began = Instant::now();
                sleep(NAP).await;
                let late = Late { by: began.elapsed().saturating_sub(NAP), at: start.elapsed() };
                let mut latest = noted.lock().unwrap();
                if late.by > latest.by {
                    *latest = late;
                }
            }
        });
        Self { before: ticks(), latest, watch }
    }

    /// A line for below the tables.
    pub(crate) fn said(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let busy = self.before.zip(ticks()).map_or_else(String::new, |(before, after)| {
            let all = (after.all - before.all).max(1) as f64;
            format!(" was busy for {:.0} % of its time,", 100.0 * (1.0 - (after.idle - before.idle) as f64 / all))
        });
        let latest = *self.latest.lock().unwrap();
        format!(
            "Rows ran beside each other on one machine: {cores} cores,{busy} no timer later than {} ms (at {:.0} s). Compare rows of one run: \
             ratios are the same elsewhere if the machine keeps up, seconds need not be. Sizes of the jobs: Azure LLM inference trace 2023, \
             Microsoft AzurePublicDataset, CC-BY 4.0.\n",
            latest.by.as_millis(),
            latest.at.as_secs_f64(),
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// The first line of the kernel's own count: user, nice, system, idle, waiting for disks, and what else there is.
fn ticks() -> Option<Ticks> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    Some(Ticks { all: fields.iter().take(8).sum(), idle: fields.get(3)? + fields.get(4)? })
}
