//! What of it does a person want to know, and in which words? The same figures as one JSON object for scripts.

use std::time::Duration;

use serde_json::{Value, json};

use crate::aws::Bill;
use crate::cli::exit::Report;
use crate::cli::out;
use crate::cli::run::{short, span};
use crate::job::agent::names_an_agent;
use crate::job::units::{PerDay, PerMinute, Usd};
use crate::rules::forecast::{Forecast, Hold};
use crate::rules::pace::Binding;

use super::load::{ModelLoad, Range, Source, float, whole};
use super::outlook::{Counted, LaneTerms, Outlook};

/// Sums over all models.
struct Totals {
    jobs: u64,
    input: Range,
    output: Range,
    cost: Option<[Usd; 3]>,
    caps: u64,
    deadlines: u64,
    late: u64,
}

impl Totals {
    fn of(outlook: &Outlook) -> Self {
        let models = &outlook.models;
        let sum = |of: fn(&ModelLoad) -> u64| models.iter().map(of).sum();
        let range = |of: fn(&ModelLoad) -> Range| {
            models.iter().fold(Range::default(), |mut sum, model| {
                sum.add(of(model));
                sum
            })
        };
        let cost = |pick: fn(&Range) -> f64| models.iter().map(|model| model.cost(pick)).sum::<Option<Usd>>();
        Self {
            jobs: sum(|model| model.jobs),
            input: range(|model| model.input),
            output: range(|model| model.output),
            cost: cost(|range| range.mean)
                .zip(cost(|range| range.low))
                .zip(cost(|range| range.high))
                .map(|((mean, low), high)| [mean, low, high]),
            caps: sum(|model| model.caps),
            deadlines: sum(|model| model.deadlines),
            late: outlook.now.work.iter().map(|work| work.late).sum(),
        }
    }

    /// The share of what is reserved for answers that comes back unused.
    fn wasted(&self) -> f64 {
        if self.caps == 0 { 0.0 } else { (1.0 - self.output.mean / float(self.caps)).max(0.0) }
    }
}

/// As one JSON object.
pub(super) fn json(outlook: &Outlook, refused: u64) -> Value {
    let totals = Totals::of(outlook);
    let range = |range: &Range| json!([whole(range.low), whole(range.high)]);
    let dollars = |pick: usize| totals.cost.and_then(|cost| cost.get(pick).copied());
    json!({
        "jobs": totals.jobs,
        "rejected": refused,
        "input_tokens": whole(totals.input.mean),
        "input_tokens_range": range(&totals.input),
        "output_tokens": whole(totals.output.mean),
        "output_tokens_range": range(&totals.output),
        "cost_usd": dollars(0),
        "cost_usd_range": totals.cost.map(|[_, low, high]| [low, high]),
        "batch_cost_usd": dollars(0).map(half),
        "plumbing_usd": outlook.plumbing.map(|bill| bill.total()),
        "plumbing": outlook.plumbing.map(|bill| json!({
            "sqs_usd": bill.sqs,
            "dynamodb_usd": bill.dynamodb,
            "s3_usd": bill.s3,
            "sns_usd": bill.sns,
        })),
        "finish_s": seconds(outlook.now.finish),
        "binding": binding(outlook, &outlook.now),
        "max_tokens": {
            "reserved_output_tokens": totals.caps,
            "expected_output_tokens": whole(totals.output.mean),
            "wasted_share": totals.wasted(),
            "auto_finish_s": outlook.auto.as_ref().map(|auto| seconds(auto.finish)),
            "auto_reruns": outlook.auto.as_ref().map(|auto| auto.work.iter().map(|work| work.cut).sum::<u64>()),
        },
        "deadlines": { "jobs": totals.deadlines, "late": totals.late },
        "doubled_quota": { "finish_s": seconds(outlook.doubled.finish), "binding": binding(outlook, &outlook.doubled) },
        "models": outlook.models.iter().zip(&outlook.now.work).map(|(model, work)| json!({
            "model": name(model),
            "jobs": model.jobs,
            "input_tokens": whole(model.input.mean),
            "output_tokens": whole(model.output.mean),
            "charged_tokens": model.charge(),
            "cost_usd": model.cost(|range| range.mean),
            "finish_s": seconds(work.finish),
            "average_input_tokens": whole(mean(model.input.mean, model)),
            "average_output_tokens": whole(mean(model.output.mean, model)),
            "history_calls": model.known.calls.len(),
            "never": work.never,
        })).collect::<Vec<_>>(),
        "lanes": outlook.lanes.iter().zip(&outlook.now.lanes).map(|(lane, told)| json!({
            "lane": lane.id.to_string(),
            "tokens_per_minute": lane.limits.tokens_per_minute.map(PerMinute::get),
            "requests_per_minute": lane.limits.requests_per_minute.map(PerMinute::get),
            "tokens_per_day": lane.limits.tokens_per_day.map(PerDay::get),
            "counting": lane.counting.word(),
            "counting_is": known_by(lane.counted),
            "steady_tokens_per_minute": whole(told.steady_tokens),
            "peak_tokens_per_minute": told.peak_tokens,
            "steady_requests_per_minute": told.steady_requests,
            "peak_requests_per_minute": told.peak_requests,
        })).collect::<Vec<_>>(),
        "history_unknown": outlook.history_unknown,
        "assumptions": assumptions(outlook),
    })
}

/// In words.
///
/// # Errors
/// A report: standard output is gone.
pub(super) fn tell(outlook: &Outlook, refused: u64) -> Result<(), Report> {
    let totals = Totals::of(outlook);
    let tokens = |range: &Range| {
        format!("about {} ({} to {})", short(whole(range.mean)), short(whole(range.low)), short(whole(range.high)))
    };
    out::line(&format!("jobs           {}", totals.jobs))?;
    out::line(&format!("refused lines  {refused}"))?;
    out::line(&format!("input tokens   {}", tokens(&totals.input)))?;
    out::line(&format!("output tokens  {}", tokens(&totals.output)))?;
    out::line(&format!("cost           {}", cost(&totals)))?;
    if let Some(bill) = &outlook.plumbing {
        let Bill { sqs, dynamodb, s3, sns } = bill;
        out::line(&format!(
            "plumbing       about {} beside that: SQS {sqs}, DynamoDB {dynamodb}, S3 {s3}, SNS {sns}; list prices of us-east-1",
            bill.total()
        ))?;
    }
    out::line(&format!("finish         {}", finish(outlook, &outlook.now)))?;
    out::line(&format!("max_tokens     {}", reserved(outlook, &totals)))?;
    out::line(&format!("twice the quota  {}", finish(outlook, &outlook.doubled)))?;
    if totals.deadlines > 0 {
        let late = match totals.late {
            0 => "all of them hold".to_owned(),
            late => format!("{late} pass before their jobs can be sent"),
        };
        out::line(&format!("deadlines      of {} jobs; {late}", totals.deadlines))?;
    }
    out::line("for a quota increase")?;
    for (lane, told) in outlook.lanes.iter().zip(&outlook.now.lanes).filter(|(_, told)| told.peak_requests > 0) {
        out::line(&format!(
            "  {}: {} tokens a minute steady, {} at most; {:.0} requests a minute steady, {} at most",
            lane.id,
            short(whole(told.steady_tokens)),
            short(told.peak_tokens),
            told.steady_requests,
            told.peak_requests,
        ))?;
    }
    for model in &outlook.models {
        out::line(&format!(
            "  {}: {} input and {} output tokens a request on average",
            name(model),
            whole(mean(model.input.mean, model)),
            whole(mean(model.output.mean, model)),
        ))?;
    }
    out::line("by")?;
    for assumption in assumptions(outlook) {
        out::line(&format!("  {assumption}"))?;
    }
    out::line("nothing was sent")
}

fn cost(totals: &Totals) -> String {
    match totals.cost {
        Some([mean, low, high]) => {
            format!("about {mean} ({low} to {high}); {} by native batch inference, within a day or so", half(mean))
        }
        None => "unknown: a model has no price, or is an agent".to_owned(),
    }
}

fn finish(outlook: &Outlook, forecast: &Forecast) -> String {
    let held = match binding(outlook, forecast) {
        Some(binding) => format!("bound by {binding}"),
        None => "no quota binds".to_owned(),
    };
    format!("about {} after the start, {held}", span(rounded(forecast.finish)))
}

fn reserved(outlook: &Outlook, totals: &Totals) -> String {
    let each = |sum: f64| whole(sum / float(totals.jobs.max(1)));
    let reserved = format!(
        "{} reserved for an answer, {} expected: {:.0} % comes back unused",
        each(float(totals.caps)),
        each(totals.output.mean),
        totals.wasted() * 100.0,
    );
    match &outlook.auto {
        Some(auto) if seconds(auto.finish) < seconds(outlook.now.finish) => {
            format!("{reserved}; \"auto\" finishes in {}", span(rounded(auto.finish)))
        }
        Some(_) => format!("{reserved}; \"auto\" is no faster"),
        None => reserved,
    }
}

/// What holds the model back that takes longest.
fn binding(outlook: &Outlook, forecast: &Forecast) -> Option<String> {
    let (index, work) = forecast.last()?;
    let model = outlook.models.get(index).map(name)?;
    match work.binding()? {
        Hold::Quota { lane, binding } => {
            let lane = outlook.lanes.get(lane)?;
            Some(format!("{model} in {}: {}", lane.id.region, quota(lane, binding)))
        }
        Hold::Slots => Some(format!("worker.slots: {} jobs in hand", outlook.slots)),
        Hold::Rest => Some(format!("{model}: its lanes rest")),
        Hold::Ramp => None,
    }
}

fn quota(lane: &LaneTerms, binding: Binding) -> String {
    let limit = match binding {
        Binding::Tokens => lane.limits.tokens_per_minute.map(PerMinute::get),
        Binding::Requests => lane.limits.requests_per_minute.map(PerMinute::get),
        Binding::Day => lane.limits.tokens_per_day.map(PerDay::get),
        Binding::Throttled | Binding::Trial => None,
    };
    limit.map_or_else(|| binding.words().to_owned(), |limit| format!("{} {}", short(limit), binding.words()))
}

/// What the figures rest on.
fn assumptions(outlook: &Outlook) -> Vec<String> {
    let mut said = Vec::new();
    for model in &outlook.models {
        let name = name(model);
        if names_an_agent(name) {
            said.push(format!(
                "{name}: {} calls, whose tokens and price are not known: an agent does not say",
                model.jobs
            ));
            continue;
        }
        said.push(match model.source {
            Source::History(calls) => format!("{name}: {calls} earlier answers"),
            Source::Told(tokens) => format!("{name}: answers of {tokens} tokens, as told"),
            Source::Cap => {
                format!("{name}: answers as long as their cap, for none is known; run some jobs and plan again")
            }
        });
        if !model.known.has_sizes {
            said.push(format!("{name}: a token for every 3 bytes of input, which is more than most texts have"));
        }
        if model.known.calls.is_empty() {
            said.push(format!("{name}: answers take a second, and 15 ms a token"));
        }
    }
    for lane in &outlook.lanes {
        match (lane.limits.tokens_per_minute, lane.counted) {
            (Some(_), counted) => {
                said.push(format!("{}: {} counting, {}", lane.id, lane.counting.word(), known_by(counted)));
            }
            (None, _) if lane.limits == crate::rules::pace::Limits::default() => {
                said.push(format!("{}: no quota is known, so none is reckoned with", lane.id));
            }
            (None, _) => {}
        }
    }
    said
}

const fn known_by(counted: Counted) -> &'static str {
    match counted {
        Counted::AsConfigured => "as configured",
        Counted::AsLearned => "as learned",
        Counted::Assumed => "assumed, being the slowest",
    }
}

fn name(model: &ModelLoad) -> &str {
    model.plan.names.first().map_or("", |name| name)
}

fn mean(sum: f64, model: &ModelLoad) -> f64 {
    sum / float(model.jobs.max(1))
}

fn half(cost: Usd) -> Usd {
    Usd::from_nanos(cost.nanos() / 2)
}

fn seconds(duration: Duration) -> u64 {
    whole(duration.as_secs_f64())
}

fn rounded(duration: Duration) -> Duration {
    Duration::from_secs(seconds(duration))
}
