//! `aquifer plan`: what will this input cost, how long will it take and which quota binds, before anything is spent?
//!
//! Four steps, one file each: what earlier calls say ([`history`]), what the input holds ([`load`]), how its drain goes by the
//! rules that pace real calls ([`crate::rules::forecast`]), rehearsed three times ([`outlook`]): as it is, with twice the quota,
//! and with `max_tokens = "auto"`; and what of that a person wants to know ([`tell`]). A fleet's services have a price of their
//! own ([`plumbing`]).

mod history;
mod load;
mod outlook;
mod plumbing;
mod tell;

use tokio::runtime::Handle;

use crate::config::{Backend, EndpointSettings};
use crate::job::ident::BatchName;
use crate::ports::Clock;

use super::args::PlanArgs;
use super::backend::state_dir;
use super::default_model::{check_models, default_model};
use super::exit::{Exit, Report};
use super::input::{batch_name_of, check_inputs};
use super::survey::Survey;
use super::terminal::say;
use super::wiring;
use super::{SystemClock, out};

pub(crate) use history::History;
use load::Load;
use outlook::Outlook;

/// Plans the command's input.
///
/// # Errors
/// A report: configuration, state or input cannot be read.
pub(crate) async fn plan(args: PlanArgs) -> Result<Exit, Report> {
    tokio::task::block_in_place(|| reckon(&args))
}

fn reckon(args: &PlanArgs) -> Result<Exit, Report> {
    let settings = wiring::settings(args.places.config.as_deref(), args.simulate)?;
    check_inputs(&args.inputs).map_err(Report::usage)?;
    let batch = match &args.batch {
        Some(name) => BatchName::new(name).map_err(|error| Report::usage(format!("--batch: {error}")))?,
        None => batch_name_of(&args.inputs),
    };
    let default = default_model(&settings, args.model.as_deref(), None)?;
    if default.is_none() {
        check_models(&args.inputs, &batch, &settings)?;
    }
    let endpoints = match settings.endpoints.as_slice() {
        [] => vec![EndpointSettings::bare("us-east-1")],
        configured => configured.to_vec(),
    };
    let catalogue = wiring::catalogue(&settings, &endpoints);
    // What is simulated never leaves this machine.
    let fleet = match &settings.backend {
        Backend::Aws(aws) if !args.simulate => Some(aws),
        Backend::Aws(_) | Backend::Embedded => None,
    };
    let history = match fleet {
        Some(aws) => Handle::current().block_on(History::of_fleet(aws, settings.keep, &catalogue, &batch)),
        None => History::of_state(&state_dir(&args.places, args.simulate), &catalogue, &batch)?,
    };
    if let Some(why) = &history.unknown {
        say(&format!("note: what the fleet has learned is not known, or not all of it: {why}"));
    }
    let mut load = Load::new(&history, args.output_tokens);
    let survey =
        Survey { inputs: &args.inputs, batch: &batch, named: args.model.as_deref(), default: default.as_deref() };
    let refused = survey.read(&catalogue, |plan, job, size| load.add(plan, job, size))?;
    let outlook = Outlook::of(&settings, fleet, &history, load, SystemClock.now());
    if args.json {
        out::line(&tell::json(&outlook, refused).to_string())?;
    } else {
        tell::tell(&outlook, refused)?;
    }
    Ok(if refused > 0 { Exit::SomeDidNotSucceed } else { Exit::AllSucceeded })
}
