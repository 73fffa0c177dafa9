//! What may a person type to see what is there, and to see to it?

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Places;

/// `aquifer status`.
#[derive(Args, Debug)]
#[command(after_help = STATUS_HELP)]
pub struct StatusArgs {
    /// Only this batch
    pub batch: Option<String>,
    /// One JSON object a batch; with --watch one a look
    #[arg(long)]
    pub json: bool,
    /// Goes on showing it: refreshed at a terminal, until `q`, else a line every few seconds
    #[arg(long)]
    pub watch: bool,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

const STATUS_HELP: &str = "\
Examples:
  aquifer status                 every batch
  aquifer status reviews --json  one of them, for scripts
  aquifer status --watch         every batch, refreshed until you press q";

/// `aquifer results`.
#[derive(Args, Debug)]
#[command(after_help = RESULTS_HELP)]
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

const RESULTS_HELP: &str = "\
Examples:
  aquifer results reviews                     in the order of the input, to standard output
  aquifer results reviews --order done -o r.jsonl
  aquifer results reviews | jq -r .text";

/// In which order results are listed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ResultOrder {
    /// As in the input.
    Input,
    /// As they were done.
    Done,
}

/// `aquifer explain`.
#[derive(Args, Debug)]
#[command(after_help = EXPLAIN_HELP)]
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

const EXPLAIN_HELP: &str = "\
Examples:
  aquifer explain order-1841
  aquifer explain order-1841 --batch reviews --json";

/// `aquifer lanes`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = LANES_HELP)]
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

const LANES_HELP: &str = "\
Examples:
  aquifer lanes                                         every lane
  aquifer lanes open us-east-1/amazon.nova-micro-v1:0   send nothing there
  aquifer lanes close us-east-1/amazon.nova-micro-v1:0  send calls there again";

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

/// `aquifer forget`.
#[derive(Args, Debug)]
#[command(after_help = FORGET_HELP)]
pub struct ForgetArgs {
    /// The batch; it must be complete
    pub batch: String,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

const FORGET_HELP: &str = "\
Example:
  aquifer forget reviews";

/// `aquifer check`.
#[derive(Args, Debug)]
#[command(after_help = CHECK_HELP)]
pub struct CheckArgs {
    /// Make the queues, table, bucket and topic of the configuration where they are missing
    #[arg(long)]
    pub create: bool,
    /// Call each model in each region once, for a few tokens; it costs a fraction of a cent, and says how much
    #[arg(long)]
    pub call_models: bool,
    /// As one JSON object
    #[arg(long)]
    pub json: bool,
    /// Where things are.
    #[command(flatten)]
    pub places: Places,
}

const CHECK_HELP: &str = "\
Nothing is changed but what --create makes, for a first try: for keeps there is Terraform in infra/.

Exit status: 0 if there is at most advice, 2 if something is wrong, 1 if what is missing cannot be made.

Examples:
  aquifer check                                 what is wrong, and what mends it
  aquifer check --create                        make what is missing on AWS, or in an emulator
  aquifer check --json | jq '.findings[] | select(.severity != \"ok\")'";
