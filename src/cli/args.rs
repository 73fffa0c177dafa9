//! What may a person type? Flags as typed; nothing is opened or checked here.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A durable, queue-driven batch inference worker for Amazon Bedrock.
#[derive(Debug, Parser)]
#[command(name = "aquifer", version, about, after_help = EXIT_STATUS, max_term_width = 100)]
pub struct Cli {
    /// What is to be done.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_STATUS: &str = "\
Exit status:
    0  all jobs succeeded
    1  could not go on; jobs are left queued
    2  usage or configuration
    3  finished, but some jobs did not succeed
  130  interrupted; run it again to go on

Try it without an account:  aquifer run examples/reviews.jsonl --simulate";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Work a file of prompts: enqueue, work until drained, write results
    Run(Box<RunArgs>),
    /// What a file of prompts will cost, how long it will take and which quota binds; sends nothing
    Plan(Box<PlanArgs>),
    /// Counts, rates, ETA and cost of batches
    Status(StatusArgs),
    /// The results of a batch, one JSON line per job
    Results(ResultsArgs),
    /// What became of a job, or what it waits for and since when
    Explain(ExplainArgs),
    /// What is known of each lane (a model in a region): quota, counting, breaker, cool-down
    Lanes(LanesArgs),
    /// Purge bodies and rows of a batch that is complete
    Forget(ForgetArgs),
    /// The Bedrock simulator as a server
    Simulate(SimulateArgs),
    /// What a shell needs to complete commands and flags
    Completions(CompletionsArgs),
    /// The manual page, for `man`
    Man(ManArgs),
}

/// Where things are; understood by every command.
#[derive(Args, Clone, Debug)]
pub struct Places {
    /// Where queue, ledger and bodies are kept
    #[arg(long, value_name = "DIR", default_value = ".aquifer")]
    pub state: PathBuf,
    /// The configuration [default: aquifer.toml, if there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `aquifer run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Files of jobs, one a line (.jsonl, also .gz and .zst); `-` reads standard input
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Where results go; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "results.jsonl")]
    pub output: PathBuf,
    /// Call the built-in simulator instead of Bedrock, well behaved or as a scenario says
    #[arg(long, value_name = "SCENARIO.toml", num_args = 0..=1, require_equals = true)]
    pub simulate: Option<Option<PathBuf>>,
    /// The model of jobs that name none: a configured name, or a model or inference-profile id
    #[arg(long, value_name = "M")]
    pub model: Option<String>,
    /// The name of the batch [default: the first input's file stem]
    #[arg(long, value_name = "NAME")]
    pub batch: Option<String>,
    /// Stop before the batch can cost more than this, over all runs
    #[arg(long, value_name = "USD", allow_hyphen_values = true)]
    pub max_cost: Option<String>,
    /// Validate everything, estimate tokens, cost and time; send and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Run jobs that failed or expired again
    #[arg(long)]
    pub retry_failed: bool,
    /// The summary as JSON
    #[arg(long)]
    pub json: bool,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

/// `aquifer plan`.
#[derive(Args, Debug)]
#[command(after_help = PLAN_HELP)]
pub struct PlanArgs {
    /// Files of jobs, one a line (.jsonl, also .gz and .zst); `-` reads standard input
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// The length of an answer, in tokens [default: as in the answers that the state directory holds, else the cap]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub output_tokens: Option<u32>,
    /// The model of jobs that name none: a configured name, or a model or inference-profile id
    #[arg(long, value_name = "M")]
    pub model: Option<String>,
    /// The name of the batch, whose own answers say most about the next [default: the first input's file stem]
    #[arg(long, value_name = "NAME")]
    pub batch: Option<String>,
    /// Plan a simulated run: its history is that in DIR/simulated, and without a configuration it has built-in models
    #[arg(long)]
    pub simulate: bool,
    /// As one JSON object
    #[arg(long)]
    pub json: bool,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

const PLAN_HELP: &str = "\
Nothing is sent, and no account is needed. The finish time is that of a rehearsal: the rules that pace real calls are run
on a clock of their own. It is as good as what is known of the answers, so run a few hundred jobs first and plan the rest.

Examples:
  aquifer plan reviews.jsonl                         by the answers of earlier runs
  aquifer plan reviews.jsonl --output-tokens 120     by a length of your own
  aquifer plan reviews.jsonl --json | jq .finish_s   for scripts";

/// `aquifer status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Only this batch
    pub batch: Option<String>,
    /// One JSON object a batch
    #[arg(long)]
    pub json: bool,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

/// `aquifer results`.
#[derive(Args, Debug)]
pub struct ResultsArgs {
    /// The batch
    pub batch: String,
    /// Where results go [default: standard output]; never overwrites a file
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// In the order of the input, or as jobs were done
    #[arg(long, value_enum, default_value_t = ResultOrder::Input)]
    pub order: ResultOrder,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

/// In which order results are listed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ResultOrder {
    /// As in the input.
    Input,
    /// As they were done.
    Done,
}

/// `aquifer lanes`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LanesArgs {
    /// What a person has to say of a breaker
    #[command(subcommand)]
    pub hand: Option<HandArg>,
    /// One JSON object a lane
    #[arg(long)]
    pub json: bool,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

/// What a person has to say of a breaker.
#[derive(Debug, Subcommand)]
pub enum HandArg {
    /// Send nothing there until told otherwise
    Open(HandLane),
    /// Send calls there again
    Close(HandLane),
    /// Have the next call find out whether it is well
    Probe(HandLane),
}

/// Which lane.
#[derive(Args, Debug)]
pub struct HandLane {
    /// The lane, as `aquifer lanes` names it: REGION/MODEL-ID
    pub lane: String,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

/// `aquifer explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The job's id
    pub job: String,
    /// Its batch, if several have a job of that id
    #[arg(long, value_name = "NAME")]
    pub batch: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

/// `aquifer forget`.
#[derive(Args, Debug)]
pub struct ForgetArgs {
    /// The batch; it must be complete
    pub batch: String,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

/// `aquifer simulate`.
#[derive(Args, Debug)]
pub struct SimulateArgs {
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9000")]
    pub listen: SocketAddr,
    /// How it behaves
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

/// `aquifer completions`.
#[derive(Args, Debug)]
#[command(after_help = COMPLETIONS_HELP)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

const COMPLETIONS_HELP: &str = "\
Examples:
  aquifer completions bash > ~/.local/share/bash-completion/completions/aquifer
  aquifer completions zsh > \"${fpath[1]}/_aquifer\"
  aquifer completions fish > ~/.config/fish/completions/aquifer.fish";

/// `aquifer man`.
#[derive(Args, Debug)]
#[command(after_help = MAN_HELP)]
pub struct ManArgs {
    /// One page for each command, written into this directory [default: the main page, to standard output]
    #[arg(long, value_name = "DIR")]
    pub all: Option<PathBuf>,
}

const MAN_HELP: &str = "\
Examples:
  aquifer man | man -l -
  aquifer man --all ~/.local/share/man/man1";
