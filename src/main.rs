//! Parse, wire, run, exit code.

use std::process::ExitCode;

use clap::Parser;

use aquifer::cli::args::Cli;
use aquifer::cli::{self, exit::Exit};

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli::start_log(cli.command.audience());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            cli::say(&format!("error: cannot start: {error}"));
            return Exit::CouldNotGoOn.into();
        }
    };
    let ended = runtime.block_on(cli::carry_out(cli));
    // Whatever still blocks (a reader of standard input) must not keep the program.
    runtime.shutdown_background();
    match ended {
        Ok(exit) => exit.into(),
        Err(report) => {
            cli::say(&report.to_string());
            report.exit.into()
        }
    }
}
