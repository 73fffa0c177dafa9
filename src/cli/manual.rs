//! Completions for shells and the manual page, from the same definitions as the flags: what is there cannot differ from what
//! is told.

use clap::{Command, CommandFactory};

use super::args::{Cli, CompletionsArgs, ManArgs};
use super::exit::{Exit, Report};
use super::out;

/// Writes what the shell is to read.
///
/// # Errors
/// A report: standard output is gone.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<Exit, Report> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "aquifer", &mut script);
    text(&script)
}

/// Writes the main page, or one for each command into a directory.
///
/// # Errors
/// A report: a file or standard output cannot be written.
pub(crate) fn man(args: &ManArgs) -> Result<Exit, Report> {
    let Some(dir) = &args.all else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(Report::stuck)?;
        return text(&page);
    };
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(without_help(), dir));
    written.map_err(|error| Report::stuck(format!("cannot write into {}: {error}", dir.display())))?;
    Ok(Exit::AllSucceeded)
}

/// A page that says no more than that there is help helps nobody.
fn without_help() -> Command {
    Cli::command().disable_help_subcommand(true)
}

fn text(text: &[u8]) -> Result<Exit, Report> {
    out::bytes(text.trim_ascii_end())?;
    Ok(Exit::AllSucceeded)
}
