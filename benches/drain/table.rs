//! How does each client drain the same backlog? The rows of the main table, what they are to reach, and how they are
//! shown.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::backlog::{BURNDOWN, Backlog, Form};
use crate::case::{Case, Client, Counting, ONE_CALL, Outcome, Service, Settings};
use crate::sdk_loop::{DEFAULT_ATTEMPTS, MANY_ATTEMPTS};

/// Tokens a minute of every service here, but where a bar needs another.
pub(crate) const LIMIT: u64 = 200_000;

/// A line of the table. Of several cases the worst is shown, figure by figure.
pub(crate) struct Row {
    pub(crate) counting: Counting,
    pub(crate) client: String,
    pub(crate) bar: Bar,
    pub(crate) cases: Vec<Case>,
}

/// What a row is to reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    /// It is there to compare with.
    None,
    /// At most this many times the optimum and one call; so many refused calls.
    One { ratio: f64, refused: Refused },
    /// Likewise without the call.
    Several { ratio: f64, refused: Refused },
    /// Nothing is refused here; how many would have been?
    RecordOnly { refused: Refused },
}

/// How many calls may be refused.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refused {
    None,
    /// Five, or one in a thousand if that is more.
    WhileLearning,
}

const LEARN: Bar = Bar::One { ratio: 1.03, refused: Refused::WhileLearning };
const CONFIGURED: Bar = Bar::One { ratio: 1.03, refused: Refused::None };

/// The minutes of quota that the backlogs settle to. The fraction lies in the middle, so that no counting gains or loses a
/// minute by a job more or less.
pub(crate) const MINUTES: f64 = 5.5;
const MINUTES_SHORT: f64 = 1.5;

/// The table of the full form: every counting, one worker and eight, beside the SDK.
pub(crate) fn full(place: &Path) -> Vec<Row> {
    let plain = backlog(place, MINUTES, Form::Plain);
    let cached = backlog(place, MINUTES, Form::Cached);
    Counting::ALL.into_iter().flat_map(|counting| rows(counting, &plain, &cached)).collect()
}

fn rows(counting: Counting, plain: &Arc<Backlog>, cached: &Arc<Backlog>) -> Vec<Row> {
    let patience = Duration::from_secs(720);
    let several = |refused| Bar::Several { ratio: 1.07, refused };
    let row = |client: &str, bar, cases| Row { counting, client: client.to_owned(), bar, cases };
    let sdk = |loops, attempts| vec![case(counting, Client::SdkLoop { loops, attempts }, "", plain, patience)];
    let aquifer = |workers, told: &'static str| case(counting, Client::Aquifer { workers }, told, plain, patience);
    let learn = |workers| vec![aquifer(workers, "learn")];
    let configured = |workers| vec![aquifer(workers, counting.word())];
    let record_only = |workers, told| {
        let mut case = aquifer(workers, told);
        case.name.push_str("-record-only");
        case.service.enforce = false;
        vec![case]
    };
    let readings = |told| readings(&case(counting, Client::Aquifer { workers: 1 }, told, cached, patience));
    vec![
        row("SDK loop", Bar::None, sdk(1, DEFAULT_ATTEMPTS)),
        row("SDK loop, 10 attempts", Bar::None, sdk(1, MANY_ATTEMPTS)),
        row("Aquifer, learning", LEARN, learn(1)),
        row("Aquifer, configured", CONFIGURED, configured(1)),
        row("8 SDK loops", Bar::None, sdk(8, DEFAULT_ATTEMPTS)),
        row("8 SDK loops, 10 attempts", Bar::None, sdk(8, MANY_ATTEMPTS)),
        row("8 Aquifer workers, learning", several(Refused::WhileLearning), learn(8)),
        row("8 Aquifer workers, configured", several(Refused::None), configured(8)),
        row("Aquifer, learning; settled above reservation, cached (worst of 4)", LEARN, readings("learn")),
        row(
            "Aquifer, configured; settled above reservation, cached (worst of 4)",
            CONFIGURED,
            readings(counting.word()),
        ),
        row(
            "Aquifer, configured; record only",
            Bar::RecordOnly { refused: Refused::None },
            record_only(1, counting.word()),
        ),
        row(
            "8 Aquifer workers, configured; record only",
            Bar::RecordOnly { refused: Refused::None },
            record_only(8, counting.word()),
        ),
    ]
}

/// The table of the short form: as little as shows that everything still works.
pub(crate) fn short(place: &Path) -> Vec<Row> {
    let patience = Duration::from_secs(90);
    let plain = backlog(place, MINUTES_SHORT, Form::Plain);
    let row = |counting, client: &str, how, bar| Row {
        counting,
        client: client.to_owned(),
        bar,
        cases: vec![case(counting, how, "learn", &plain, patience)],
    };
    vec![
        row(Counting::Bucket, "SDK loop", Client::SdkLoop { loops: 1, attempts: DEFAULT_ATTEMPTS }, Bar::None),
        row(Counting::Bucket, "Aquifer, learning", Client::Aquifer { workers: 1 }, LEARN),
        row(
            Counting::Sliding,
            "8 Aquifer workers, learning",
            Client::Aquifer { workers: 8 },
            Bar::Several { ratio: 1.07, refused: Refused::WhileLearning },
        ),
    ]
}

/// So many minutes of quota.
pub(crate) fn backlog(place: &Path, minutes: f64, form: Form) -> Arc<Backlog> {
    let file = place.join(format!("{form:?}-{minutes}.jsonl").to_lowercase());
    Backlog::of_tokens((minutes * LIMIT as f64) as u64, form, file)
}

/// A healthy service, and a client that knows its limit and is told this about its counting.
pub(crate) fn case(
    counting: Counting,
    client: Client,
    told: &'static str,
    backlog: &Arc<Backlog>,
    patience: Duration,
) -> Case {
    let name = match client {
        Client::SdkLoop { loops, attempts } => format!("{}-sdk-{loops}-{attempts}-attempts", counting.word()),
        Client::Aquifer { workers } => format!("{}-aquifer-{workers}-{told}", counting.word()),
    };
    Case {
        name,
        client,
        service: Service::new(counting, LIMIT),
        settings: Settings { tokens_per_minute: Some(LIMIT), counting: told, call_timeout: None },
        backlog: Arc::clone(backlog),
        patience,
    }
}

/// Both readings of a settlement above its reservation, each with both conventions for what was read from the cache.
fn readings(case: &Case) -> Vec<Case> {
    let mut cases = Vec::new();
    for excess in ["amend", "append"] {
        for cache_reads_at_admission in [false, true] {
            let mut case = case.clone();
            let reads = if cache_reads_at_admission { "reads" } else { "no-reads" };
            case.name = format!("{}-{excess}-{reads}", case.name);
            case.service.burndown = BURNDOWN;
            case.service.excess = excess;
            case.service.cache_reads_at_admission = cache_reads_at_admission;
            cases.push(case);
        }
    }
    cases
}

/// How often the service said no, or would have.
pub(crate) fn refused(outcome: &Outcome) -> u64 {
    outcome.report.throttled + outcome.report.would_be_throttled
}

impl Refused {
    fn allows(self, refused: u64, calls: u64) -> bool {
        match self {
            Self::None => refused == 0,
            Self::WhileLearning => refused <= 5.max(calls / 1_000),
        }
    }
}

impl Bar {
    /// What this outcome misses.
    fn missed(self, case: &Case, outcome: &Outcome) -> Vec<&'static str> {
        let drain = |ratio: f64, grace: f64| {
            let within = |drain: Duration| drain.as_secs_f64() <= ratio * case.optimum(outcome) + grace;
            outcome.drain.is_some_and(within)
        };
        let (in_time, allowed) = match self {
            Self::None => return Vec::new(),
            Self::One { ratio, refused } => (drain(ratio, ONE_CALL), refused),
            Self::Several { ratio, refused } => (drain(ratio, 0.0), refused),
            Self::RecordOnly { refused } => (outcome.drain.is_some(), refused),
        };
        let calls = outcome.report.calls;
        [(in_time, "time"), (allowed.allows(refused(outcome), calls), "refused"), (is_whole(outcome), "answers")]
            .into_iter()
            .filter_map(|(met, what)| (!met).then_some(what))
            .collect()
    }
}

/// Whether every job has an answer, and none has two.
pub(crate) fn is_whole(outcome: &Outcome) -> bool {
    outcome.unanswered() == 0 && outcome.report.answered_twice == 0
}

const HEAD: [&str; 11] = [
    "counting",
    "client",
    "drained",
    "optimum",
    "times",
    "refused",
    "calls a job",
    "most open",
    "no answer",
    "two answers",
    "bar",
];

/// The table in Markdown, which a terminal shows as well.
pub(crate) fn markdown(rows: &[(Row, Vec<Outcome>)]) -> String {
    let lines = rows.iter().map(|(row, outcomes)| cells(row, outcomes));
    in_columns(&HEAD.map(str::to_owned), &lines.collect::<Vec<_>>())
}

fn cells(row: &Row, outcomes: &[Outcome]) -> [String; 11] {
    let worst = |figure: fn(&Case, &Outcome) -> f64| {
        let figures = row.cases.iter().zip(outcomes).map(|(case, outcome)| figure(case, outcome));
        figures.fold(f64::NEG_INFINITY, f64::max)
    };
    // One that was stopped has no time, and that is worse than any.
    let drained = worst(|_, outcome| outcome.drain.map_or(f64::INFINITY, |drain| drain.as_secs_f64()));
    let times =
        worst(|case, outcome| outcome.drain.map_or(f64::INFINITY, |drain| drain.as_secs_f64() / case.optimum(outcome)));
    let share = worst(|_, outcome| refused(outcome) as f64 / outcome.report.calls.max(1) as f64);
    let finite = |figure: f64, shown: String| if figure.is_finite() { shown } else { "not drained".to_owned() };
    [
        row.counting.word().to_owned(),
        row.client.clone(),
        finite(drained, format!("{drained:.1} s")),
        format!("{:.1} s", worst(Case::optimum)),
        finite(times, format!("{times:.3}")),
        format!("{} ({:.1} %)", worst(|_, outcome| refused(outcome) as f64), 100.0 * share),
        format!("{:.3}", worst(|_, outcome| outcome.report.calls as f64 / outcome.jobs as f64)),
        worst(|_, outcome| outcome.report.peak_open as f64).to_string(),
        worst(|_, outcome| outcome.unanswered() as f64).to_string(),
        worst(|_, outcome| outcome.report.answered_twice as f64).to_string(),
        bar(row, outcomes),
    ]
}

fn bar(row: &Row, outcomes: &[Outcome]) -> String {
    let allowed = match row.bar {
        Bar::None => return "\u{2013}".to_owned(),
        Bar::One { ratio, .. } => format!("{ratio} x + one call"),
        Bar::Several { ratio, .. } => format!("{ratio} x"),
        Bar::RecordOnly { .. } => "0 refused".to_owned(),
    };
    let mut missed: Vec<_> =
        row.cases.iter().zip(outcomes).flat_map(|(case, outcome)| row.bar.missed(case, outcome)).collect();
    missed.sort_unstable();
    missed.dedup();
    if missed.is_empty() { format!("{allowed}: met") } else { format!("{allowed}: missed ({})", missed.join(", ")) }
}

/// A Markdown table whose source is in columns too.
pub(crate) fn in_columns<const N: usize>(head: &[String; N], lines: &[[String; N]]) -> String {
    let all = || std::iter::once(head).chain(lines);
    let widths: [usize; N] =
        std::array::from_fn(|column| all().map(|cells| cells[column].chars().count()).max().unwrap_or(0));
    let line = |cells: &[String; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!(" {cell:<width$} "));
        format!("|{}|\n", padded.collect::<Vec<_>>().join("|"))
    };
    let rule = format!("|{}|\n", widths.map(|width| "-".repeat(width + 2)).join("|"));
    line(head) + &rule + &lines.iter().map(line).collect::<String>()
}
