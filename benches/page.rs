//! What does being watched cost a busy worker, and how soon does whoever watches see something? The real binary with 100 lanes,
//! 100 tenants and all slots in calls; a reader of the page's events, a browser, and a scraper.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing to report")]

#[allow(dead_code, reason = "the tests of the page do more with it")]
#[path = "../tests/common/chromium/mod.rs"]
mod chromium;
mod common;

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use chromium::{Browser, Screen};
use common::{figure, median, place, process, title};

const LANES: usize = 100;
/// Calls of a second in 128 slots: 128 jobs a second, for longer than anybody here looks.
const JOBS: usize = 30_000;
const SCENARIO: &str = "[latency]\nconstant = \"1s\"\n\n[answer]\nmean = 60\nspread = 20\n";

fn main() {
    title("page");
    let place = place();
    let (mut worker, address) = busy_worker(place.path());
    let process = worker.id();
    // By turns, because what a worker needs for itself drifts by more than what is measured here.
    let used_in = |slice: Duration| {
        let (cpu, began) = (process::cpu(process), Instant::now());
        thread::sleep(slice);
        (process::cpu(process) - cpu).as_secs_f64() / began.elapsed().as_secs_f64()
    };
    let watched_in = |slice: Duration| {
        let events = open(&address, "/api/events");
        let looking = events.try_clone().unwrap();
        let reading = thread::spawn(move || read_all(looking));
        let used = used_in(slice);
        events.shutdown(Shutdown::Both).unwrap();
        assert!(reading.join().unwrap().contains("event: status"), "the page is shown what there is");
        used
    };
    let (turns, slice) = if common::is_short() { (3, Duration::from_secs(3)) } else { (20, Duration::from_secs(5)) };
    let (mut alone, mut watched) = (0.0, 0.0);
    for turn in 0..turns {
        // Each first in every other turn.
        if turn % 2 == 0 {
            alone += used_in(slice) / f64::from(turns);
        }
        watched += watched_in(slice) / f64::from(turns);
        if turn % 2 == 1 {
            alone += used_in(slice) / f64::from(turns);
        }
    }
    figure("CPU of the busy worker, nobody looks", percent(alone), None);
    figure("  the same while a page is open", percent(watched), None);
    figure("  what the page costs, of a core", percent(watched - alone), Some("<= 2 %"));

    let mut scrapes: Vec<Duration> = (0..30)
        .map(|_| {
            let began = Instant::now();
            let metrics = read_all(open(&address, "/metrics"));
            assert!(metrics.matches("aquifer_calls_open{").count() >= LANES, "all lanes are there");
            assert!(metrics.matches("aquifer_jobs_cost_usd_total{").count() >= LANES, "and all tenants");
            began.elapsed()
        })
        .collect();
    figure("scrape, 100 lanes and 100 tenants, median", millis(median(&mut scrapes)), Some("<= 10 ms"));

    let mut browser = Browser::start();
    let mut tab = browser.tab(Screen::DESK);
    let mut paints: Vec<Duration> = (0..if common::is_short() { 5 } else { 20 })
        .map(|_| {
            tab.go("about:blank");
            tab.go(&format!("http://{address}/"));
            tab.until("document.getElementById('link').textContent === 'live'");
            let paint = tab.value(
                "new Promise((seen) => new PerformanceObserver((list) => list.getEntriesByName('first-contentful-paint')
                    .forEach((entry) => seen(entry.startTime))).observe({ type: 'paint', buffered: true }))",
            );
            Duration::from_secs_f64(paint.as_f64().unwrap() / 1e3)
        })
        .collect();
    figure("first paint after the address is entered, median", millis(median(&mut paints)), Some("<= 200 ms"));
    let bytes: usize =
        ["/", "/page.css", "/page.js", "/icon.svg"].iter().map(|path| read_all(open(&address, path)).len()).sum();
    figure("the page, heads included", format!("{:.1} KiB", bytes as f64 / 1_024.0), Some("<= 150 KiB"));
    worker.kill().unwrap();
    worker.wait().unwrap();
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// With a job of each tenant for each of its lanes behind it.
fn busy_worker(folder: &Path) -> (Child, String) {
    let mut config = "[worker]\nslots = 128\n\n[[endpoint]]\nregion = 'us-east-1'\n\n".to_owned();
    for lane in 0..LANES {
        let id = format!("vendor.model-{lane}-v1:0");
        writeln!(config, "[[model]]\nname = 'm{lane}'\nid = '{id}'\ntokens_per_minute = 10_000_000").unwrap();
        config.push_str("price = { input = 1.0, output = 5.0 }\n\n");
    }
    std::fs::write(folder.join("aquifer.toml"), config).unwrap();
    std::fs::write(folder.join("scenario.toml"), SCENARIO).unwrap();
    let mut jobs = String::new();
    for job in 0..JOBS {
        let of = job % LANES;
        writeln!(jobs, "{{\"id\":\"j{job}\",\"tenant\":\"t{of}\",\"model\":\"m{of}\",\"prompt\":\"Say {job}.\",\"max_tokens\":100}}")
            .unwrap();
    }
    std::fs::write(folder.join("jobs.jsonl"), jobs).unwrap();
    let enqueued = process::aquifer(folder).args(["enqueue", "jobs.jsonl", "--simulate"]).output().unwrap();
    assert!(enqueued.status.success(), "{}", String::from_utf8_lossy(&enqueued.stderr));
    let mut command = process::aquifer(folder);
    command.args(["worker", "--simulate=scenario.toml", "--listen", "127.0.0.1:0"]);
    let mut worker = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(worker.stderr.take().unwrap()).lines();
    let line = said.find_map(|line| line.ok().filter(|line| line.contains("/healthz"))).unwrap();
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    // What it says later must be read, or it would wait for a reader.
    thread::spawn(move || said.for_each(drop));
    while read_all(open(&address, "/metrics")).matches("aquifer_jobs_cost_usd_total{").count() < LANES {}
    (worker, address)
}

fn open(address: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())
        .unwrap();
    stream
}

fn read_all(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    // Events end when the worker does.
    let _ = stream.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}
