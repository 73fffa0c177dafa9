//! The door for everything that is not data: standard error. Lines, log records and the progress bar share it without
//! writing over one another.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);
/// Whether every line is a JSON object.
static JSON: AtomicBool = AtomicBool::new(false);

/// Who reads standard error?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Audience {
    /// Somebody who waits for the command to end.
    Person,
    /// Where it is no terminal, a log that is searched long afterwards: JSON, and what happens beside what goes wrong.
    Service,
}

/// Says something to the person at the terminal, or to the log.
pub fn say(text: &str) {
    if JSON.load(Ordering::Relaxed) {
        let now = jiff::Timestamp::now().to_string();
        let level = match text.split_once(':') {
            Some(("error", _)) => "ERROR",
            Some(("warning", _)) => "WARN",
            Some(_) | None => "INFO",
        };
        write_line(&serde_json::json!({ "timestamp": now, "level": level, "message": text }).to_string());
    } else {
        write_line(text);
    }
}

/// Writes a line of its own form to the log, whatever `AQUIFER_LOG` asks for: it is read by a machine. Nothing where a person
/// reads.
pub(crate) fn record(line: &serde_json::Value) {
    if JSON.load(Ordering::Relaxed) {
        write_line(&line.to_string());
    }
}

fn write_line(text: &str) {
    let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match bar {
        Some(bar) => bar.println(text),
        // Nobody to tell that standard error is gone.
        None => drop(writeln!(std::io::stderr().lock(), "{text}")),
    }
}

/// From now on lines are written above this bar; `None` takes it away.
pub(crate) fn share_with(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// Sends log records to standard error: warnings and worse, or what `AQUIFER_LOG` asks for (`info`, `debug`).
/// A service's log begins with `info`.
///
/// Records of other crates are left out whatever it asks for: the HTTP client and the SDK put whole requests, answers
/// and refusals into theirs, and prompts and answers never reach a log.
pub fn start_log(audience: Audience) {
    let json = audience == Audience::Service && !std::io::stderr().is_terminal();
    JSON.store(json, Ordering::Relaxed);
    let default = if json { SERVICE_LOG } else { DEFAULT_LOG };
    let (filter, unreadable) = match std::env::var("AQUIFER_LOG").ok().filter(|asked| !asked.trim().is_empty()) {
        None => (EnvFilter::new(default), None),
        Some(asked) => match EnvFilter::try_new(&asked) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(default), Some(error)),
        },
    };
    let colours = std::io::stderr().is_terminal() && colours_are_wanted();
    let ours = filter_fn(|record| record.target().split("::").next() == Some(env!("CARGO_CRATE_NAME")));
    let lines = tracing_subscriber::fmt::layer().with_writer(Lines).with_ansi(colours).with_target(false);
    let (for_people, for_logs) =
        if json { (None, Some(lines.json().flatten_event(true))) } else { (Some(lines), None) };
    let layers = for_people.with_filter(filter.clone()).and_then(for_logs.with_filter(filter));
    tracing_subscriber::registry().with(layers.with_filter(ours)).init();
    if let Some(error) = unreadable {
        say(&format!("note: AQUIFER_LOG is not understood ({error}); it may be error, warn, info, debug or trace"));
    }
}

const DEFAULT_LOG: &str = "warn";
const SERVICE_LOG: &str = "info";

/// Whether somebody watches standard error on a terminal that can move its cursor.
pub(crate) fn can_draw() -> bool {
    std::io::stderr().is_terminal() && can_move()
}

/// Whether somebody watches standard output on such a terminal, and can press keys.
pub(crate) fn can_fill() -> bool {
    std::io::stdout().is_terminal() && std::io::stdin().is_terminal() && can_move()
}

fn can_move() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// As <https://no-color.org> has it.
pub(crate) fn colours_are_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes a log record as one line.
struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Vec::new())
    }
}

/// One log record on its way.
struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        write_line(String::from_utf8_lossy(&self.0).trim_end());
    }
}
