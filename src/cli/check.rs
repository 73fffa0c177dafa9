//! `aquifer check`: will it work, before anything is queued? Configuration, endpoints and credentials, then what the back end
//! keeps its jobs in; each finding with its remedy. Nothing is changed but what `--create` makes.

mod models;
mod told;

use serde_json::json;

use crate::config::Settings;
use crate::ports::{Finding, Severity};

use super::args::CheckArgs;
use super::backend::Backend;
use super::exit::{Exit, Report};
use super::terminal::say;
use super::{folders, out, wiring};

/// Checks everything.
///
/// # Errors
/// A report: the configuration cannot be read, or what is missing cannot be made.
pub(crate) async fn check(args: &CheckArgs) -> Result<Exit, Report> {
    let settings = wiring::settings(args.places.config.as_deref(), false)?;
    let made = if args.create { Backend::create_missing(&settings).await? } else { Vec::new() };
    let mut findings = told::configuration(&settings, &args.places);
    findings.extend(told::caps(&settings, &args.places));
    findings.extend(folders::check(&settings, &args.places));
    findings.extend(models::check(&settings, args.call_models).await);
    findings.extend(match Backend::check(&settings, &args.places).await {
        Ok(findings) => findings,
        Err(report) => vec![as_error("back end", report)],
    });
    if args.json {
        let told = json!({
            "made": made,
            "errors": count(&findings, Severity::Error),
            "advice": count(&findings, Severity::Advice),
            "findings": findings,
        });
        out::line(&told.to_string())?;
    } else {
        tell(&made, &findings)?;
    }
    Ok(if count(&findings, Severity::Error) > 0 { Exit::Usage } else { Exit::AllSucceeded })
}

fn tell(made: &[String], findings: &[Finding]) -> Result<(), Report> {
    for made in made {
        out::line(&format!("made    {made}"))?;
    }
    for Finding { severity, subject, what, remedy } in findings {
        out::line(&format!("{:<7} {subject}: {what}", word(*severity)))?;
        if let Some(remedy) = remedy {
            out::line(&format!("        -> {remedy}"))?;
        }
    }
    let (errors, advice) = (count(findings, Severity::Error), count(findings, Severity::Advice));
    say(&match (errors, advice) {
        (0, 0) => "all is well".to_owned(),
        (0, advice) => format!("nothing is wrong; advice: {advice}"),
        (errors, advice) => format!("errors: {errors}; advice: {advice}"),
    });
    Ok(())
}

/// What a command would have ended with.
fn as_error(subject: &'static str, report: Report) -> Finding {
    let (what, remedy) = report.into_parts();
    Finding { remedy, ..Finding::error(subject, what, "") }
}

/// The longest that any call may take, by what the models are told.
pub(crate) fn longest_call(settings: &Settings) -> std::time::Duration {
    let times = settings.models.iter().map(|model| model.call_timeout_for(model.max_tokens.get()));
    times.max().unwrap_or_default()
}

fn count(findings: &[Finding], severity: Severity) -> usize {
    findings.iter().filter(|finding| finding.severity == severity).count()
}

const fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Advice => "advice",
        Severity::Error => "error",
    }
}
