//! How fast is a backlog drained, and how often does the service say no? The real binary and a plain SDK loop, in real
//! time, on the same jobs against the same simulated service, side by side.
//!
//! ```text
//! cargo bench --bench drain                    the table: every counting, one worker and eight, beside the SDK; 20 min
//! cargo bench --bench drain -- --bars          and the bars of a service that is not as it should be, beside them
//! cargo bench --bench drain -- --bars --write  and puts both into README.md
//! cargo bench --bench drain -- --short         three cases, below two minutes: that it works at all
//! cargo bench --bench drain -- --only WORD     only cases with WORD in their name
//! ```
//!
//! A case is a simulator in this process, with a quota of 200,000 tokens a minute, and a client that drains a backlog
//! of 5.5 minutes of that quota: 8 workers are 8 processes of the binary on one input and one state directory. Nearly
//! all of a case is waiting, so that all of one counting run at once; the countings go one after the other, because a
//! machine that has too much to do sends calls later than they were meant to be sent. The jobs have the sizes of a
//! public trace (see [`backlog`]), a call takes 2 s in the middle and 3 s at the 99th percentile; "one call" in a bar
//! is the mean, 2.03 s.
//!
//! | column | is |
//! |---|---|
//! | counting | how the service counts a minute |
//! | drained | from the first call that the service saw to the last answer that it gave |
//! | optimum | the least time in which the counting lets through what was drained (a full quota at the start, then what comes back); fixed minutes are those of UTC, and their cases begin about second 5 |
//! | times | drained / optimum |
//! | refused | calls refused for the quota and their share of all calls; in record-only rows, calls that would have been |
//! | calls a job | HTTP requests / jobs |
//! | most open | admitted calls open at once |
//! | no answer | jobs without a successful result (of the SDK loop: calls that ended in an error) |
//! | two answers | requests that were answered twice |
//!
//! In record-only rows the service refuses nothing and counts what it would have refused. They are made where the counting
//! is configured: who learns from refusals learns nothing where there are none, so that a learner's share is what
//! was refused in its own row.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing to report")]
#![allow(clippy::print_stdout, reason = "figures are what a benchmark is for")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod backlog;
mod bars;
mod case;
#[path = "../common/mod.rs"]
mod common;
mod machine;
mod sdk_loop;
mod table;
mod workers;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use bars::Check;
use case::{Case, Counting, Outcome, second_of_the_minute};
use machine::Machine;
use table::Row;

#[tokio::main]
async fn main() -> ExitCode {
    common::title("drain");
    let asked = Asked::read();
    let place = common::place();
    let (rows, checks) = asked.what(place.path());

    let files = machine::most_files();
    assert!(
        asked.short || files.is_none_or(|most| most >= FILES),
        "every open call is a socket here: `ulimit -n {FILES}` first"
    );
    let machine = Machine::watch();
    let (of_rows, of_checks) = tokio::join!(
        one_after_the_other(rows.iter().map(|row| (row.counting, row.cases.clone())).collect(), place.path()),
        run(checks.iter().flat_map(|check| check.cases.clone()).collect(), place.path()),
    );
    let rows: Vec<_> = dealt(rows, of_rows, |row| row.cases.len());
    let checks: Vec<_> = dealt(checks, of_checks, |check| check.cases.len());

    let report = report(&rows, &checks, &machine);
    println!("\n{report}");
    if asked.write {
        write(&report);
    }
    verdict(&rows)
}

/// That this process has open at most, in the full form with all bars.
const FILES: u64 = 8_192;

/// What was asked for on the command line.
struct Asked {
    short: bool,
    bars: bool,
    write: bool,
    only: Option<String>,
}

impl Asked {
    fn read() -> Self {
        let arguments: Vec<String> = std::env::args().collect();
        let given = |flag: &str| arguments.iter().any(|argument| argument == flag);
        let after = |flag: &str| arguments.iter().skip_while(|argument| *argument != flag).nth(1).cloned();
        let asked =
            Self { short: common::is_short(), bars: given("--bars"), write: given("--write"), only: after("--only") };
        assert!(!asked.write || !asked.short && asked.only.is_none(), "only a whole run is written down");
        asked
    }

    fn what(&self, place: &Path) -> (Vec<Row>, Vec<Check>) {
        let mut rows = if self.short { table::short(place) } else { table::full(place) };
        let mut checks = if self.bars { bars::all(place) } else { Vec::new() };
        if let Some(word) = &self.only {
            rows.retain(|row| row.cases.iter().any(|case| case.name.contains(word)));
            checks.retain(|check| check.cases.iter().any(|case| case.name.contains(word)));
        }
        (rows, checks)
    }
}

/// The rows of one counting after those of another.
async fn one_after_the_other(rows: Vec<(Counting, Vec<Case>)>, place: &Path) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for counting in Counting::ALL {
        let cases = rows.iter().filter(|(of, _)| *of == counting).flat_map(|(_, cases)| cases).cloned();
        outcomes.extend(run(cases.collect(), place).await);
    }
    outcomes
}

/// Each with its own outcomes, which come in the same order.
fn dealt<T>(all: Vec<T>, outcomes: Vec<Outcome>, count: impl Fn(&T) -> usize) -> Vec<(T, Vec<Outcome>)> {
    let mut outcomes = outcomes.into_iter();
    all.into_iter()
        .map(|one| {
            let mine = outcomes.by_ref().take(count(&one)).collect();
            (one, mine)
        })
        .collect()
}

/// All at once, those of fixed minutes first: they begin about the fifth second of one.
async fn run(cases: Vec<Case>, place: &Path) -> Vec<Outcome> {
    const START: f64 = 4.7;
    /// Between the starts of two processes, so that no case is slow because another begins.
    const APART: Duration = Duration::from_millis(250);
    let is_fixed = |case: &Case| case.service.counting == Counting::Fixed;
    if cases.is_empty() {
        return Vec::new();
    }
    if cases.iter().any(is_fixed) {
        sleep(Duration::from_secs_f64((START - second_of_the_minute(SystemTime::now())).rem_euclid(60.0))).await;
    }
    println!("  {} cases at once, from second {:.0} of a minute", cases.len(), second_of_the_minute(SystemTime::now()));
    let mut numbered: Vec<(usize, Case)> = cases.into_iter().enumerate().collect();
    numbered.sort_by_key(|(_, case)| !is_fixed(case));
    let began = Instant::now();
    let mut tasks = Vec::new();
    for (number, case) in numbered {
        let (place, apart) = (place.to_owned(), APART * case.client.processes());
        tasks.push(tokio::spawn(async move {
            let name = case.name.clone();
            let outcome = case.run(&place).await;
            let what =
                outcome.drain.map_or_else(|| "not drained".to_owned(), |drain| format!("{:.1} s", drain.as_secs_f64()));
            let trouble = outcome.trouble.as_ref().map_or_else(String::new, |trouble| format!("; {trouble}"));
            let (calls, refused) = (outcome.report.calls, table::refused(&outcome));
            println!(
                "  {:>5.0} s  {name}: {what}, {calls} calls, {refused} refused, {} of {} jobs answered{trouble}",
                began.elapsed().as_secs_f64(),
                outcome.answered,
                outcome.jobs,
            );
            (number, outcome)
        }));
        sleep(apart).await;
    }
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    outcomes.sort_by_key(|(number, _)| *number);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// What is printed, and written into the README.
fn report(rows: &[(Row, Vec<Outcome>)], checks: &[(Check, Vec<Outcome>)], machine: &Machine) -> String {
    let mut report = table::markdown(rows);
    if !checks.is_empty() {
        report.push('\n');
        report.push_str(&bars::markdown(checks));
    }
    report.push('\n');
    report.push_str(&machine.said());
    report
}

const README: &str = "README.md";
const BEGIN: &str = "<!-- drain:begin -->\n";
const END: &str = "<!-- drain:end -->";

/// Between the markers of the README, which cargo has made the working directory's.
fn write(report: &str) {
    let text = std::fs::read_to_string(README).unwrap();
    let marked = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = marked else {
        println!("not written: {README} has no line {} with {END} after it", BEGIN.trim_end());
        return;
    };
    std::fs::write(README, format!("{before}{BEGIN}{report}{END}{after}")).unwrap();
    println!("written to {README}");
}

/// A bar missed is reported; a job lost or paid for twice is a failure of the run.
fn verdict(rows: &[(Row, Vec<Outcome>)]) -> ExitCode {
    let ours = rows.iter().filter(|(row, _)| !matches!(row.bar, table::Bar::None));
    let broken = ours.flat_map(|(_, outcomes)| outcomes).filter(|outcome| !table::is_whole(outcome)).count();
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
