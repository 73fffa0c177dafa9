//! What may a person type? Flags as typed; nothing is opened or checked here.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use self::looking::{
    CheckArgs, DeadAct, DeadArgs, DeadFilter, ExplainArgs, ForgetArgs, HandArg, HandLane, LanesArgs, ResultOrder,
    ResultsArgs, StatusArgs,
};

mod looking;

use super::terminal::Audience;

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
    0  also a worker that was told to stop

Try it without an account:  aquifer run examples/reviews.jsonl --simulate";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Work a file of prompts: enqueue, work until drained, write results
    Run(Box<RunArgs>),
    /// What a file of prompts will cost, how long it will take and which quota binds; sends nothing
    Plan(Box<PlanArgs>),
    /// Work everything that is queued, until told to stop
    Worker(WorkerArgs),
    /// Check a file of prompts and queue it, for workers to work; prints the name of the batch
    Enqueue(EnqueueArgs),
    /// Counts, rates, ETA and cost of batches
    Status(StatusArgs),
    /// The results of a batch, one JSON line per job
    Results(ResultsArgs),
    /// What became of a job, or what it waits for and since when
    Explain(ExplainArgs),
    /// What is known of each lane (a model in a region): quota, counting, breaker, cool-down
    Lanes(LanesArgs),
    /// What could not be worked: messages that are no jobs, ids in conflict, poison
    Dead(DeadArgs),
    /// Configuration, permissions and queue settings: what is wrong, and what mends it
    Check(CheckArgs),
    /// Purge bodies and rows of a batch that is complete
    Forget(ForgetArgs),
    /// The Bedrock simulator as a server
    Simulate(SimulateArgs),
    /// What a shell needs to complete commands and flags
    Completions(CompletionsArgs),
    /// The manual page, for `man`
    Man(ManArgs),
    /// Read one document from standard input, within bounds on memory and time: what workers start for each
    #[command(hide = true)]
    ExtractText,
}

impl Command {
    /// Who reads what it says.
    pub fn audience(&self) -> Audience {
        match self {
            Self::Worker(_) => Audience::Service,
            Self::Run(_)
            | Self::Enqueue(_)
            | Self::Status(_)
            | Self::Results(_)
            | Self::Explain(_)
            | Self::Lanes(_)
            | Self::Dead(_)
            | Self::Forget(_)
            | Self::Check(_)
            | Self::Simulate(_)
            | Self::Plan(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::ExtractText => Audience::Person,
        }
    }
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

/// Where `run` writes results unless it is told otherwise.
pub(crate) const RESULTS: &str = "results.jsonl";

/// `aquifer run`.
#[derive(Args, Debug)]
#[command(after_help = RUN_HELP)]
pub struct RunArgs {
    /// Files of jobs, one a line (.jsonl, also .gz and .zst); `-` reads standard input
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// The inputs are documents, or folders of them: one job a file
    #[arg(long)]
    pub documents: bool,
    /// Where results go; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = RESULTS)]
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
    /// Serve a page that shows it, /healthz, /readyz, /api/status and /metrics there while it runs
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

const RUN_HELP: &str = "\
Ctrl-C stops it and loses nothing: the same command goes on where it was, and pays for nothing twice.

Examples:
  aquifer run examples/reviews.jsonl --simulate       without an account
  aquifer run prompts.jsonl --dry-run                 is every line sound, and what would it cost at most?
  aquifer run prompts.jsonl --max-cost 5              on Bedrock, for five dollars at most
  aquifer run prompts.jsonl --retry-failed            again, what failed
  aquifer run --documents contracts/ --model haiku    one summary a file, as [[upload]] in aquifer.toml says
  cat prompts.jsonl | aquifer run - -o - > results    in a pipe";

/// `aquifer plan`.
#[derive(Args, Debug)]
#[command(after_help = PLAN_HELP)]
pub struct PlanArgs {
    /// Files of jobs, one a line (.jsonl, also .gz and .zst); `-` reads standard input
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// The length of an answer, in tokens [default: as in earlier answers, of the state directory or of the fleet, else the cap]
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
Nothing is sent, and no account is needed: a fleet is asked for its earlier answers, and planned for without them if it does \
not tell. The finish time is that of a rehearsal: the rules that pace real calls are run on a clock of their own. It is as \
good as what is known of the answers, so run a few hundred jobs first and plan the rest.

Examples:
  aquifer plan reviews.jsonl                         by the answers of earlier runs
  aquifer plan reviews.jsonl --output-tokens 120     by a length of your own
  aquifer plan reviews.jsonl --json | jq .finish_s   for scripts";

/// `aquifer enqueue`.
#[derive(Args, Debug)]
#[command(after_help = ENQUEUE_HELP)]
pub struct EnqueueArgs {
    /// Files of jobs, one a line (.jsonl, also .gz and .zst); `-` reads standard input
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// The name of the batch [default: the first input's file stem]
    #[arg(long, value_name = "NAME")]
    pub batch: Option<String>,
    /// The model of jobs that name none: a configured name, or a model or inference-profile id
    #[arg(long, value_name = "M")]
    pub model: Option<String>,
    /// Queue jobs that failed or expired again
    #[arg(long)]
    pub retry_failed: bool,
    /// For `aquifer worker --simulate`: queue it in DIR/simulated
    #[arg(long)]
    pub simulate: bool,
    /// The batch and its counts as JSON
    #[arg(long)]
    pub json: bool,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

const ENQUEUE_HELP: &str = "\
Everything is read to its end before anything is queued. Sent again, the same input queues nothing twice, and an edited one \
only what changed; what it no longer holds is withdrawn, unless it is being worked.

Exit status 3: some lines were refused; they are `rejected` results, and the others are queued.

Examples:
  batch=$(aquifer enqueue reviews.jsonl) && aquifer status $batch
  zcat logs.gz | ./to-jobs | aquifer enqueue - --batch logs-2026-11-21";

/// `aquifer worker`.
#[derive(Args, Debug)]
#[command(after_help = WORKER_HELP)]
pub struct WorkerArgs {
    /// Call the built-in simulator instead of Bedrock, and work what is queued in DIR/simulated
    #[arg(long, value_name = "SCENARIO.toml", num_args = 0..=1, require_equals = true)]
    pub simulate: Option<Option<PathBuf>>,
    /// Serve the page, /healthz, /readyz, /api/status and /metrics there [default: worker.listen, else 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

const WORKER_HELP: &str = "\
SIGTERM or Ctrl-C: stop receiving, finish the calls already paid for within worker.drain, hand back the rest.
A second one: hand everything back at once. Being told to stop is how a worker ends, so the exit status is 0.

A store that is away, full or locked is waited for; the worker keeps what it holds and says so.
Where standard error is no terminal its lines are JSON. AQUIFER_LOG says how much: warn, info (default), debug.

Examples:
  aquifer enqueue reviews.jsonl && aquifer worker
  aquifer worker --simulate --listen 127.0.0.1:9465";

/// `aquifer simulate`.
#[derive(Args, Debug)]
#[command(after_help = SIMULATE_HELP)]
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

const SIMULATE_HELP: &str = "\
Examples:
  aquifer simulate --scenario examples/scenarios/quota.toml
  AWS_ENDPOINT_URL_BEDROCK_RUNTIME=http://127.0.0.1:9000 aquifer run prompts.jsonl";

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
