//! `aquifer run --dry-run`: is the input sound, and what would it cost at most? Nothing is sent and nothing written.

use std::collections::HashMap;

use serde::Serialize;

use crate::cli::args::RunArgs;
use crate::cli::exit::{Exit, Report};
use crate::cli::survey::Survey;
use crate::cli::{out, wiring};
use crate::config::{EndpointSettings, Settings};
use crate::flow::lanes::{Catalogue, Plan, Size};
use crate::job::ident::BatchName;
use crate::job::spec::Job;
use crate::job::units::{PerMinute, Usd};
use crate::rules::budget::reservation_price;

use super::{short, span};

/// What the input would come to; the names are those of `aquifer plan --json`.
#[derive(Debug, Default, Serialize)]
struct Estimate {
    jobs: u64,
    rejected: u64,
    /// An estimate: no model was asked.
    input_tokens: u64,
    /// The sum of the caps: answers are usually shorter.
    output_tokens: u64,
    /// At most; `None` if a model has no price.
    cost_usd: Option<Usd>,
    /// At the configured quota; 0 where none binds.
    finish_s: u64,
    /// The lane whose quota takes longest.
    binding: Option<String>,
}

/// Reads the whole input and tells what it would come to.
///
/// # Errors
/// A report: an input cannot be read.
pub(crate) async fn run(
    args: &RunArgs,
    settings: &Settings,
    batch: &BatchName,
    model: Option<&str>,
    cost_cap: Option<Usd>,
) -> Result<Exit, Report> {
    let endpoints = match settings.endpoints.as_slice() {
        [] => vec![EndpointSettings::bare("us-east-1")],
        configured => configured.to_vec(),
    };
    let catalogue = wiring::catalogue(settings, &endpoints);
    let estimate = tokio::task::block_in_place(|| read(args, &catalogue, batch, model))?;
    if args.json {
        out::line(&serde_json::to_string(&estimate).map_err(Report::stuck)?)?;
    } else {
        tell(&estimate, cost_cap)?;
    }
    Ok(if estimate.rejected > 0 { Exit::SomeDidNotSucceed } else { Exit::AllSucceeded })
}

fn read(args: &RunArgs, catalogue: &Catalogue, batch: &BatchName, model: Option<&str>) -> Result<Estimate, Report> {
    let survey = Survey { inputs: &args.inputs, batch, named: args.model.as_deref(), default: model };
    let mut estimate = Estimate { cost_usd: Some(Usd::ZERO), ..Estimate::default() };
    let mut load = Load::default();
    estimate.rejected = survey.read(catalogue, |plan, job, size| load.add(&mut estimate, plan, job, size))?;
    (estimate.finish_s, estimate.binding) = load.longest();
    Ok(estimate)
}

/// Tokens and requests by model, to see which quota takes longest.
#[derive(Default)]
struct Load(HashMap<String, (u64, u64, u64, u64)>);

impl Load {
    fn add(&mut self, estimate: &mut Estimate, plan: &Plan, job: &Job, size: &Size) {
        let (input, cap) = (size.input, size.output());
        estimate.jobs += 1;
        estimate.input_tokens += input.0;
        estimate.output_tokens += cap.0;
        estimate.cost_usd = match (estimate.cost_usd, plan.price) {
            (Some(sum), Some(price)) => Some(sum + reservation_price(&price, input, cap)),
            (_, None) | (None, _) => None,
        };
        let (tokens, requests) = limits(plan);
        let entry = self.0.entry(job.model.clone()).or_insert((0, 0, tokens, requests));
        entry.0 += input.0 + cap.0.saturating_mul(u64::from(plan.burndown));
        entry.1 += 1;
    }

    /// Seconds, and what takes them. The first minute's worth needs no waiting.
    fn longest(&self) -> (u64, Option<String>) {
        let mut longest = (0, None);
        for (model, (tokens, requests, token_limit, request_limit)) in &self.0 {
            for (load, limit, unit) in [(tokens, token_limit, "tokens"), (requests, request_limit, "requests")] {
                let seconds =
                    if *limit == 0 { 0 } else { load.saturating_sub(*limit).saturating_mul(60).div_ceil(*limit) };
                if seconds > longest.0 {
                    longest = (seconds, Some(format!("{model}: {} {unit} a minute", short(*limit))));
                }
            }
        }
        longest
    }
}

/// What all lanes of a model allow in a minute; 0 where one has no limit.
fn limits(plan: &Plan) -> (u64, u64) {
    let sum = |limit: &dyn Fn(&crate::rules::pace::Limits) -> Option<u64>| {
        let limits = plan.routes.iter().map(|route| limit(&route.lane.state().book.ledger.limits()));
        limits.collect::<Option<Vec<u64>>>().map_or(0, |limits| limits.into_iter().sum())
    };
    (
        sum(&|limits| limits.tokens_per_minute.map(PerMinute::get)),
        sum(&|limits| limits.requests_per_minute.map(PerMinute::get)),
    )
}

fn tell(estimate: &Estimate, cost_cap: Option<Usd>) -> Result<(), Report> {
    out::line(&format!("jobs           {}", estimate.jobs))?;
    out::line(&format!("refused lines  {}", estimate.rejected))?;
    out::line(&format!("input tokens   about {}", short(estimate.input_tokens)))?;
    out::line(&format!("output tokens  at most {}", short(estimate.output_tokens)))?;
    let cost =
        estimate.cost_usd.map_or_else(|| "unknown: a model has no price".to_owned(), |cost| format!("at most {cost}"));
    let cap = match (cost_cap, estimate.cost_usd) {
        (Some(cap), Some(cost)) if cost > cap => {
            format!(", more than --max-cost {cap}: the run may stop before its end")
        }
        (Some(_), Some(_) | None) | (None, _) => String::new(),
    };
    out::line(&format!("cost           {cost}{cap}"))?;
    let finish = match &estimate.binding {
        Some(binding) => {
            format!("about {} at most, bound by {binding}", span(std::time::Duration::from_secs(estimate.finish_s)))
        }
        None => "no quota binds".to_owned(),
    };
    out::line(&format!("quota time     {finish}"))?;
    out::line("nothing was sent")
}
