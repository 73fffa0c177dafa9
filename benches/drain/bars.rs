//! What happens when things are not as they should be? Limits that are wrong, a service that fails, a region that is
//! dead, a cap that is far too generous, a worker with nothing to do but wait: one bar each.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::backlog::{Backlog, Form};
use crate::case::{Case, Client, Counting, ONE_CALL, Outcome, Seen, Service};
use crate::common::worker::MODEL;
use crate::table::{LIMIT, MINUTES, backlog, case, in_columns, is_whole};

/// A bar, and the cases that are judged by it; the worst counts, or what they are together.
pub(crate) struct Check {
    what: String,
    bar: &'static str,
    pub(crate) cases: Vec<Case>,
    judge: Judge,
}

enum Judge {
    /// Each by itself.
    Each(fn(&Case, &Outcome) -> Verdict),
    /// One against the other.
    Pair(fn(&Outcome, &Outcome) -> Verdict),
}

struct Verdict {
    measured: String,
    met: bool,
}

const ONE_WORKER: Client = Client::Aquifer { workers: 1 };

/// All bars beside the main table.
pub(crate) fn all(place: &Path) -> Vec<Check> {
    let mut checks = wrong_limits(place);
    checks.extend([strangers(place), failing(place), one_region_dead(place), right_sizing(place), waiting(place)]);
    checks
}

/// Long enough for what is learned late to show.
const LONG: f64 = 10.5;
const FIRST_MINUTES: Duration = Duration::from_secs(300);

fn wrong_limits(place: &Path) -> Vec<Check> {
    let backlog = backlog(place, LONG, Form::Plain);
    let told = [("30 % too high", Some(LIMIT * 13 / 10)), ("30 % too low", Some(LIMIT * 7 / 10)), ("missing", None)];
    let check = |(how, limit): (&str, Option<u64>)| Check {
        what: format!("a configured limit {how}"),
        bar: "all answered; after five minutes at most 1.15 x; 1 % refused",
        cases: Counting::ALL
            .map(|counting| {
                let mut case = case(counting, ONE_WORKER, "learn", &backlog, Duration::from_secs(1_200));
                case.name = format!("{}-limit-{}", case.name, limit.unwrap_or(0));
                case.settings.tokens_per_minute = limit;
                case
            })
            .into(),
        judge: Judge::Each(after_five_minutes),
    };
    told.into_iter().map(check).collect()
}

/// From then on against what the quota gives in a minute, whatever the counting: no quota is saved up by then.
fn after_five_minutes(case: &Case, outcome: &Outcome) -> Verdict {
    let calls = outcome.report.calls;
    let share = outcome.report.throttled as f64 / calls.max(1) as f64;
    let then = at(outcome, FIRST_MINUTES);
    let left = case.backlog.settled.saturating_sub(then.settled) as f64;
    let took = seconds(outcome) - then.at.as_secs_f64();
    let bound = 60.0 * left / LIMIT as f64;
    Verdict {
        measured: format!("{}; {}; {:.1} %", answered(outcome), shown(took / bound), 100.0 * share),
        met: is_whole(outcome) && took <= 1.15 * bound + ONE_CALL && share <= 0.01,
    }
}

/// For five minutes, in small pieces as of many callers. Nobody refuses them, so that more than what they leave can be had
/// where a minute's quota is there at once.
fn half_of_the_quota() -> String {
    let half = LIMIT / 2;
    format!("[[stranger]]\nmodel = '{MODEL}'\ntokens_per_minute = {half}\nevery = '250ms'\nuntil = '300s'\n")
}

const SLACK: Duration = Duration::from_secs(180);

fn strangers(place: &Path) -> Check {
    let backlog = backlog(place, LONG, Form::Plain);
    Check {
        what: "strangers use half of the quota unseen, for the first five minutes".to_owned(),
        bar: "all answered; after the first minute 1 % refused and 90 % of what is left used; three minutes after they stop, full use",
        cases: Counting::ALL
            .map(|counting| {
                let mut case = case(counting, ONE_WORKER, "learn", &backlog, Duration::from_secs(1_200));
                case.name.push_str("-strangers");
                case.service.trouble = half_of_the_quota();
                case
            })
            .into(),
        judge: Judge::Each(|_, outcome| {
            const MINUTE: Duration = Duration::from_secs(60);
            let (first, stop, back) =
                (at(outcome, MINUTE), at(outcome, FIRST_MINUTES), at(outcome, FIRST_MINUTES + SLACK));
            let refused = outcome.report.throttled - first.throttled;
            let share = refused as f64 / (outcome.report.calls - first.calls).max(1) as f64;
            let minutes = (stop.at - first.at).as_secs_f64() / 60.0;
            let used = (stop.settled - first.settled) as f64 / (minutes * LIMIT as f64 / 2.0);
            // By whole minutes: each has a quota of its own, wherever it begins and however it is counted.
            let whole = ((seconds(outcome) - back.at.as_secs_f64()) / 60.0).floor().clamp(1.0, 60.0);
            let then = at(outcome, back.at + Duration::from_secs_f64(60.0 * whole));
            let full = (then.settled - back.settled) as f64 / (whole * LIMIT as f64);
            Verdict {
                measured: format!(
                    "{}; {:.1} % refused, {:.0} % used; then {:.0} %",
                    answered(outcome),
                    100.0 * share,
                    100.0 * used,
                    100.0 * full
                ),
                met: is_whole(outcome) && share <= 0.01 && used >= 0.9 && full >= 0.95,
            }
        }),
    }
}

/// 10 % of the calls, a quarter of them each way. The caller's own time-out is what ends a call that hangs.
const FAULTS: &str = "
[[fault]]
kind = 'ServiceUnavailableException'
probability = 0.025
[[fault]]
kind = 'InternalServerException'
probability = 0.025
[[fault]]
kind = 'hang'
probability = 0.025
[[fault]]
kind = 'drop'
probability = 0.025
";

/// Calls that are dropped or hang are charged as well, which is 6 in a hundred: with them the quota is charged some 5.6 minutes. Of
/// 5.5 minutes they now and then make six whole ones, and what is charged has to keep away from those as well.
const FAILING_MINUTES: f64 = 5.3;

fn failing(place: &Path) -> Check {
    let backlog = backlog(place, FAILING_MINUTES, Form::Plain);
    Check {
        what: "10 % of the calls fail: 503, 500, no answer, a dropped connection".to_owned(),
        bar: "all answered; 1.15 x",
        cases: Counting::ALL
            .map(|counting| {
                let mut case = case(counting, ONE_WORKER, "learn", &backlog, Duration::from_secs(900));
                case.name.push_str("-failing");
                case.service.trouble = FAULTS.to_owned();
                case.settings.call_timeout = Some("20s");
                case
            })
            .into(),
        judge: Judge::Each(|case, outcome| {
            let times = seconds(outcome) / case.optimum(outcome);
            let struck: u64 = outcome.report.faults.values().sum();
            Verdict {
                measured: format!("{}; {}; {struck} failures", answered(outcome), shown(times)),
                met: is_whole(outcome) && times <= 1.15,
            }
        }),
    }
}

/// A bucket that nobody draws from fills up within that minute, so that no quota is lost by it: the optimum stays.
const DEAD: &str = "
[[fault]]
kind = 'ServiceUnavailableException'
region = 'us-west-2'
from = '105s'
until = '165s'
";
/// As many as find out (the breaker's five in a row), and what was on its way or probed.
const PROBES: u64 = 40;

fn one_region_dead(place: &Path) -> Check {
    let mut case = case(
        Counting::Bucket,
        ONE_WORKER,
        "learn",
        &backlog(place, 2.0 * MINUTES, Form::Plain),
        Duration::from_secs(720),
    );
    case.name.push_str("-one-region-dead");
    case.service.regions = 2;
    case.service.trouble = DEAD.to_owned();
    Check {
        what: "two regions, one of them dead for a minute in the middle".to_owned(),
        bar: "all answered; 1.10 x; the dead one gets probes only",
        cases: vec![case],
        judge: Judge::Each(|case, outcome| {
            let times = seconds(outcome) / case.optimum(outcome);
            let into_the_void: u64 = outcome.report.faults.values().sum();
            Verdict {
                measured: format!("{}; {}; {into_the_void} calls to the dead one", answered(outcome), shown(times)),
                met: is_whole(outcome) && times <= 1.10 && into_the_void <= PROBES,
            }
        }),
    }
}

const JOBS_RIGHT_SIZED: usize = 700;

fn right_sizing(place: &Path) -> Check {
    let with = |form: Form| {
        let file = place.join(format!("{form:?}.jsonl").to_lowercase());
        let backlog = Backlog::of_jobs(JOBS_RIGHT_SIZED, form, file);
        let mut case = case(Counting::Bucket, ONE_WORKER, "learn", &backlog, Duration::from_secs(900));
        case.name = format!("{}-{form:?}", case.name).to_lowercase();
        case.service.latency = "constant = '10s'";
        case
    };
    Check {
        what: "300 tokens in, 200 out, a cap of 16,384, 10 s a call: `max_tokens = \"auto\"`".to_owned(),
        bar: "3 times as fast, every answer whole",
        cases: vec![with(Form::Generous), with(Form::RightSized)],
        judge: Judge::Pair(|fixed, auto| {
            let faster = seconds(fixed) / seconds(auto);
            let same = lengths(fixed) == lengths(auto);
            let answers = if same { "answers of the same length" } else { "other answers" };
            Verdict {
                measured: format!("{faster:.2} times as fast, {answers}; {} and {}", answered(fixed), answered(auto)),
                met: faster >= 3.0 && same && is_whole(fixed) && is_whole(auto),
            }
        }),
    }
}

/// A cut answer is shorter. The words say nothing: the simulator draws them from the whole request, cap included.
fn lengths(outcome: &Outcome) -> BTreeMap<&str, usize> {
    outcome.answers.iter().map(|(id, text)| (id.as_str(), text.len())).collect()
}

/// When the little quota there is has long been used up, and before any of it comes back.
const WAITING: (Duration, Duration) = (Duration::from_secs(25), Duration::from_secs(55));

fn waiting(place: &Path) -> Check {
    const LITTLE: u64 = 20_000;
    let backlog = Backlog::of_jobs(10_000, Form::Plain, place.join("ten-thousand.jsonl"));
    let mut case = case(Counting::Sliding, ONE_WORKER, "sliding", &backlog, Duration::from_secs(80));
    case.name.push_str("-waiting");
    case.service = Service::new(Counting::Sliding, LITTLE);
    case.settings.tokens_per_minute = Some(LITTLE);
    Check {
        what: "CPU of a worker that waits for quota with 10,000 jobs queued".to_owned(),
        bar: "1 % of a core",
        cases: vec![case],
        judge: Judge::Each(|_, outcome| {
            let (before, after) = (at(outcome, WAITING.0), at(outcome, WAITING.1));
            let share = (after.cpu - before.cpu).as_secs_f64() / (after.at - before.at).as_secs_f64();
            let calls = after.calls - before.calls;
            let measured = format!(
                "{:.2} % over {:.0} s, {calls} calls in them",
                100.0 * share,
                (after.at - before.at).as_secs_f64()
            );
            Verdict { measured, met: share <= 0.01 && after.at > before.at }
        }),
    }
}

/// The count at this time, or the last one before.
fn at(outcome: &Outcome, time: Duration) -> Seen {
    const NOTHING: Seen = Seen { at: Duration::ZERO, calls: 0, throttled: 0, settled: 0, cpu: Duration::ZERO };
    outcome.seen.iter().rfind(|seen| seen.at <= time).copied().unwrap_or(NOTHING)
}

fn seconds(outcome: &Outcome) -> f64 {
    outcome.drain.map_or(f64::INFINITY, |drain| drain.as_secs_f64())
}

fn shown(times: f64) -> String {
    if times.is_finite() { format!("{times:.3} x") } else { "not drained".to_owned() }
}

fn answered(outcome: &Outcome) -> String {
    match (outcome.unanswered(), outcome.report.answered_twice) {
        (0, 0) => "all answered".to_owned(),
        (none, two) => format!("{none} without an answer, {two} with two"),
    }
}

/// The bars in Markdown.
pub(crate) fn markdown(checks: &[(Check, Vec<Outcome>)]) -> String {
    let lines = checks.iter().map(|(check, outcomes)| {
        let verdicts = check.verdicts(outcomes);
        let met = verdicts.iter().all(|verdict| verdict.met);
        let measured: Vec<_> = verdicts.into_iter().map(|verdict| verdict.measured).collect();
        let named = check
            .cases
            .iter()
            .zip(measured)
            .map(|(case, measured)| format!("{}: {measured}", case.service.counting.word()));
        let measured = named.collect::<Vec<_>>().join("<br>");
        [check.what.clone(), check.bar.to_owned(), measured, if met { "met" } else { "missed" }.to_owned()]
    });
    in_columns(&["what", "bar", "measured", ""].map(str::to_owned), &lines.collect::<Vec<_>>())
}

impl Check {
    fn verdicts(&self, outcomes: &[Outcome]) -> Vec<Verdict> {
        match (&self.judge, outcomes) {
            (Judge::Each(judge), _) => {
                self.cases.iter().zip(outcomes).map(|(case, outcome)| judge(case, outcome)).collect()
            }
            (Judge::Pair(judge), [one, other]) => vec![judge(one, other)],
            (Judge::Pair(_), _) => Vec::new(),
        }
    }
}
