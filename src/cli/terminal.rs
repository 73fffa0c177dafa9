//! The door for everything that is not data: standard error. Lines, log records and the progress bar share it without
//! writing over one another.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Says something to the person at the terminal.
pub fn say(text: &str) {
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

/// Sends log records to standard error: warnings and worse, or what `AQUIFER_LOG` asks for (`info`, `aquifer=debug`).
pub fn start_log() {
    let wanted = EnvFilter::try_from_env("AQUIFER_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // The SDK's own debug records hold whole requests, and so prompts: nobody can ask for those.
    let ours = filter_fn(|record| record.target().starts_with("aquifer") || *record.level() <= Level::WARN);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt::layer().with_writer(Lines).with_ansi(colours).with_target(false);
    tracing_subscriber::registry().with(ours).with(wanted).with(lines).init();
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
        say(String::from_utf8_lossy(&self.0).trim_end());
    }
}
