//! `aquifer simulate`: the Bedrock simulator as a server, for trying any program against it.

use super::args::SimulateArgs;
use super::exit::{Exit, Report};
use super::signals::interrupted;
use super::terminal::say;
use super::{out, wiring};

/// Serves until Ctrl-C, then prints what it counted.
///
/// # Errors
/// A report: the scenario is wrong, or the address cannot be listened on.
pub(crate) async fn simulate(args: &SimulateArgs) -> Result<Exit, Report> {
    let simulator = wiring::simulator(args.listen, args.scenario.as_ref()).await?;
    say(&format!(
        "simulating Bedrock on http://{} (set AWS_ENDPOINT_URL_BEDROCK_RUNTIME to it); Ctrl-C ends it",
        simulator.address()
    ));
    interrupted().await;
    out::line(simulator.stop().await.to_string().trim_end())?;
    Ok(Exit::AllSucceeded)
}
