//! What may a person type? Flags as typed; nothing is opened or checked here.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// Purge bodies and rows of a batch that is complete
    Forget(ForgetArgs),
    /// The Bedrock simulator as a server
    Simulate(SimulateArgs),
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
            | Self::Simulate(_) => Audience::Person,
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
    /// Serve /healthz, /readyz and /api/status there while it runs
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

/// `aquifer worker`.
#[derive(Args, Debug)]
#[command(after_help = WORKER_HELP)]
pub struct WorkerArgs {
    /// Call the built-in simulator instead of Bedrock, and work what is queued in DIR/simulated
    #[arg(long, value_name = "SCENARIO.toml", num_args = 0..=1, require_equals = true)]
    pub simulate: Option<Option<PathBuf>>,
    /// Serve /healthz, /readyz and /api/status there [default: worker.listen, else 127.0.0.1:9464]
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
Everything is read to its end before anything is queued. Sent again, the same input queues nothing twice, and an edited one
only what changed; what it no longer holds is withdrawn, unless it is being worked.

Exit status 3: some lines were refused; they are `rejected` results, and the others are queued.

Examples:
  batch=$(aquifer enqueue reviews.jsonl) && aquifer status $batch
  zcat logs.gz | ./to-jobs | aquifer enqueue - --batch logs-2026-11-21";

/// `aquifer dead`.
#[derive(Args, Debug)]
#[command(after_help = DEAD_HELP)]
pub struct DeadArgs {
    /// What is to be done with them
    #[command(subcommand)]
    pub act: DeadAct,
}

const DEAD_HELP: &str = "\
Only `show` prints what a message holds: prompts stay out of lists and logs.

Examples:
  aquifer dead list --batch reviews
  aquifer dead show 17
  aquifer dead redrive --class poison
  aquifer dead drop --id 17 --yes";

/// What is to be done with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadAct {
    /// Each with its batch, job, reason and time
    List {
        /// Which of them
        #[command(flatten)]
        which: DeadFilter,
        /// One JSON object each
        #[arg(long)]
        json: bool,
        /// Where things are.
        #[command(flatten)]
        places: Places,
    },
    /// One of them, with all that it holds
    Show {
        /// Its number, as `list` gives it
        id: String,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Where things are.
        #[command(flatten)]
        places: Places,
    },
    /// Put messages back into the queue; a job that failed or expired runs again
    Redrive {
        /// Which of them
        #[command(flatten)]
        which: DeadFilter,
        /// All of them
        #[arg(long)]
        all: bool,
        /// What was done, as JSON
        #[arg(long)]
        json: bool,
        /// Where things are.
        #[command(flatten)]
        places: Places,
    },
    /// Throw messages away for good
    Drop {
        /// Which of them
        #[command(flatten)]
        which: DeadFilter,
        /// All of them
        #[arg(long)]
        all: bool,
        /// Yes, throw them away
        #[arg(long)]
        yes: bool,
        /// What was done, as JSON
        #[arg(long)]
        json: bool,
        /// Where things are.
        #[command(flatten)]
        places: Places,
    },
}

/// Which dead letters: those to which all of it applies.
#[derive(Args, Clone, Debug, Default)]
pub struct DeadFilter {
    /// Of this number, as `list` gives it; may be repeated
    #[arg(long = "id", value_name = "ID")]
    pub ids: Vec<String>,
    /// Of this batch
    #[arg(long, value_name = "NAME")]
    pub batch: Option<String>,
    /// With a reason of this class: bad_input, id_conflict, poison, ...
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
}

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
