//! What a person types, and one file a command. Data goes to standard output, everything else to standard error.

pub mod args;
mod backend;
mod check;
mod dead;
mod default_model;
mod desk;
mod documents;
mod enqueue;
pub mod exit;
mod explain;
mod folders;
mod forget;
pub mod input;
mod intake;
mod lanes;
mod manual;
mod out;
mod plan;
mod results;
pub mod run;
mod serve;
mod signals;
mod simulate;
mod states;
mod status;
mod survey;
mod terminal;
mod wiring;
mod worker;

use args::{Cli, Command};
use exit::{Exit, Report};
pub use terminal::{Audience, say, start_log};
pub use wiring::SystemClock;

/// Reads a document as the process that a worker starts for it. Blocks, and ends with it.
fn extract_text() -> Result<Exit, Report> {
    crate::document::serve(std::io::stdin().lock(), std::io::stdout().lock()).map_err(Report::stuck)?;
    Ok(Exit::AllSucceeded)
}

/// Does what was typed.
///
/// # Errors
/// A report for the person who typed it.
pub async fn carry_out(cli: Cli) -> Result<Exit, Report> {
    match cli.command {
        Command::Run(args) => run::run(*args).await,
        Command::Worker(args) => worker::worker(&args).await,
        Command::Enqueue(args) => enqueue::enqueue(&args).await,
        Command::Plan(args) => plan::plan(*args).await,
        Command::Status(args) => status::status(&args).await,
        Command::Results(args) => results::results(&args).await,
        Command::Explain(args) => explain::explain(&args).await,
        Command::Lanes(args) => lanes::lanes(&args).await,
        Command::Dead(args) => dead::dead(&args.act).await,
        Command::Forget(args) => forget::forget(&args).await,
        Command::Check(args) => check::check(&args).await,
        Command::Simulate(args) => simulate::simulate(&args).await,
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
        Command::ExtractText => extract_text(),
    }
}
