//! Which model is meant by jobs that name none? Asked before a line is read in earnest, where one flag is all it takes.

use std::path::PathBuf;

use crate::config::{ModelSettings, Settings};
use crate::job::agent::names_an_agent;
use crate::job::document;
use crate::job::ident::BatchName;
use crate::job::intake::{Defaults, NO_MODEL, is_plausible_model_id, parse_line};
use crate::job::units::Usd;

use super::exit::Report;
use super::input::{LineKind, Lines};

/// So many lines are looked at: files name a model in all of them or in none.
const LOOKED_AT: usize = 500;

/// The model of jobs that name none.
///
/// # Errors
/// A report: `--model` names nothing that is known, or a cap on cost is asked for and the model has no price.
pub(crate) fn default_model(
    settings: &Settings,
    named: Option<&str>,
    cost_cap: Option<Usd>,
) -> Result<Option<String>, Report> {
    let Some(name) = named else {
        return match settings.default_model() {
            Some(model) if cost_cap.is_some() && model.price.is_none() => Err(no_price(&model.name)),
            Some(model) => Ok(Some(model.name.to_string())),
            None => Ok(None),
        };
    };
    let bare = || is_plausible_model_id(name).then(|| ModelSettings::bare(name));
    let known = settings.model(name).cloned().or_else(bare);
    let Some(model) = known else {
        let names: Vec<_> = settings.models.iter().map(|model| model.name.to_string()).collect();
        let hint = if names.is_empty() {
            "give a Bedrock model or inference-profile id, or define a [[model]] in aquifer.toml".to_owned()
        } else {
            format!("configured are {}; a Bedrock model or inference-profile id works too", names.join(", "))
        };
        return Err(Report::usage(format!("no model is called `{name}`")).hint(hint));
    };
    if cost_cap.is_some() && model.price.is_none() {
        return Err(no_price(name));
    }
    Ok(Some(name.to_owned()))
}

/// Without a default, do the first lines name a model at all? Told now, where it takes one flag, and not once a line.
/// Standard input cannot be looked at twice: there each line is refused.
///
/// # Errors
/// A report: none of them does.
pub(crate) fn check_models(inputs: &[PathBuf], batch: &BatchName, settings: &Settings) -> Result<(), Report> {
    let files: Vec<PathBuf> = inputs.iter().filter(|path| path.is_file()).cloned().collect();
    if files.is_empty() {
        return Ok(());
    }
    let is_known = |name: &str| settings.model(name).is_some() || is_plausible_model_id(name);
    let defaults = Defaults {
        batch,
        model: None,
        only_model: None,
        answers_callbacks: true,
        documents: Ok(document::Place::Files),
        no_ingestions: None,
        is_known: &is_known,
    };
    let mut lines = Lines::open(&files).map_err(Report::usage)?;
    let mut buffer = Vec::new();
    let mut without = false;
    for _ in 0..LOOKED_AT {
        // What cannot be read on is told when its turn comes.
        let Ok(Some(line)) = lines.next_line(&mut buffer) else { break };
        if line.kind != LineKind::Text {
            continue;
        }
        match parse_line(&buffer, &defaults) {
            Ok(_) => return Ok(()),
            Err(refusal) => without |= refusal.reason == NO_MODEL,
        }
    }
    if !without {
        return Ok(());
    }
    Err(Report::usage("no model: the input names none, and there is no default")
        .hint("give --model with a Bedrock model or inference-profile id, or define a [[model]] in aquifer.toml; --simulate without aquifer.toml has its own"))
}

/// A cap on cost is asked for, and nobody knows what this model costs.
pub(crate) fn no_price(model: &str) -> Report {
    if names_an_agent(model) {
        return Report::usage(format!("--max-cost cannot bound what `{model}` costs: an agent's tokens are not known"))
            .hint("leave out --max-cost, or put the agent's jobs into an input of their own");
    }
    Report::usage(format!("--max-cost needs a price for `{model}`"))
        .hint("add `price = { input = ..., output = ... }` to its [[model]] in aquifer.toml")
}
