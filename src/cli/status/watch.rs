//! `aquifer status --watch`: how do they stand now, and now? A table that fills the terminal, or lines where nobody watches.

use std::collections::HashMap;
use std::time::Duration;

use crossterm::event::{Event, EventStream, KeyCode, KeyEventKind, KeyModifiers};
use futures_util::StreamExt;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::screen::Screen;
use super::{Row, Source, View};
use crate::cli::exit::{Exit, Report};
use crate::cli::{out, signals, terminal};

/// Between two looks at a state directory. It costs a few milliseconds.
const EVERY: Duration = Duration::from_secs(1);
/// Between two looks at a fleet: each is some reads a batch of its table.
const EVERY_OF_FLEET: Duration = Duration::from_secs(5);
/// Between two lines where nobody watches.
const LINES_EVERY: Duration = Duration::from_secs(5);
const KEYS: &str = "q to quit";

/// Shows how it stands, beginning with `first`, until a key, a signal or the end of who reads it.
///
/// # Errors
/// A report: the terminal or standard output is gone.
pub(super) async fn watch(source: &Source<'_>, first: View) -> Result<Exit, Report> {
    let is_read_by_people = !source.args.json && terminal::can_fill();
    if is_read_by_people { at_a_terminal(source, first).await } else { in_lines(source, first).await }
}

async fn at_a_terminal(source: &Source<'_>, first: View) -> Result<Exit, Report> {
    let gone = |error: std::io::Error| Report::stuck(format!("cannot draw on this terminal: {error}"));
    let every = if source.fleet.is_some() { EVERY_OF_FLEET } else { EVERY };
    let interrupted = signals::heard_from_now();
    tokio::pin!(interrupted);
    let screen = Screen::take().map_err(gone)?;
    let mut events = EventStream::new();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    let (mut view, mut trouble) = (first, None::<Report>);
    loop {
        let note = match &trouble {
            // What was seen last stays, and says when that was.
            Some(report) => format!("{KEYS} - as of {}: {report}", view.at),
            None => format!("{KEYS} - as of {}", view.at),
        };
        screen.show(&view.lines(), &note).map_err(gone)?;
        tokio::select! {
            _ = ticks.tick() => match source.look().await {
                Ok(now) => (view, trouble) = (now, None),
                Err(report) => trouble = Some(report),
            },
            event = events.next() => match event {
                Some(Ok(event)) if quits(&event) => return Ok(Exit::AllSucceeded),
                // A resize is drawn like everything else.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(gone(error)),
                None => return Ok(Exit::AllSucceeded),
            },
            _ = &mut interrupted => return Ok(Exit::AllSucceeded),
        }
    }
}

fn quits(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind != KeyEventKind::Release
        && match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
            KeyCode::Char('c' | 'd') => with_control,
            _ => false,
        }
}

/// One line a batch that has changed, or with `--json` one a look.
async fn in_lines(source: &Source<'_>, first: View) -> Result<Exit, Report> {
    let interrupted = signals::heard_from_now();
    // A reader that has gone, as `head` does, would else be noticed only by the next line, and there may be none.
    let unread = out::is_unread();
    tokio::pin!(interrupted, unread);
    let mut said = HashMap::new();
    let (mut view, mut looked) = (first, Instant::now());
    loop {
        let lines = if source.args.json { vec![view.json().to_string()] } else { news(&view, &mut said) };
        for line in lines {
            if !out::line_is_read(&line)? {
                return Ok(Exit::AllSucceeded);
            }
        }
        tokio::select! {
            () = tokio::time::sleep_until(looked + LINES_EVERY) => {}
            () = &mut unread => return Ok(Exit::AllSucceeded),
            _ = &mut interrupted => return Ok(Exit::AllSucceeded),
        }
        looked = Instant::now();
        match source.look().await {
            Ok(now) => view = now,
            // It may pass; who only reads the lines sees that none come.
            Err(report) => terminal::say(&format!("warning: {report}")),
        }
    }
}

/// What is to be said of batches that stand otherwise than it was said last.
fn news(view: &View, said: &mut HashMap<String, String>) -> Vec<String> {
    let lines = view.rows.iter().map(|row| (row.name(), in_a_line(row)));
    let gates = view.gates.iter().map(|(lane, gate)| (lane.clone(), format!("waits for {}", gate.reason)));
    let mut news = Vec::new();
    for (name, line) in lines.chain(gates) {
        if said.get(&name) != Some(&line) {
            news.push(format!("{name}: {line}"));
            said.insert(name, line);
        }
    }
    // A lane that waits again is news again.
    said.retain(|name, _| {
        view.rows.iter().any(|row| row.name() == *name) || view.gates.iter().any(|(lane, _)| lane == name)
    });
    news
}

/// As the progress of a run says it.
fn in_a_line(row: &Row) -> String {
    let mut parts = vec![format!("{}/{}", row.total.saturating_sub(row.open()), row.total)];
    if row.unsuccessful() > 0 {
        parts.push(format!("{} without success", row.unsuccessful()));
    }
    match row.eta_s {
        Some(0.0) => parts.push("done".to_owned()),
        Some(_) => parts.push(format!("ETA {}", row.eta())),
        None => {}
    }
    parts.push(row.cost_usd.to_string());
    parts.join(" \u{b7} ")
}
