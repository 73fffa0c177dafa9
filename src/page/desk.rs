//! What does the page ask beyond what its worker knows? What is on record: batches, the story of a job, dead letters. Whoever
//! opens the page knows the back end and brings it along, so that this layer need not.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;

use crate::job::units::Usd;

/// So many batches are shown at most, the newest first.
pub const BATCHES: usize = 50;

/// What is on record. Errors are in words, for a person.
#[async_trait]
pub trait Desk: Send + Sync {
    /// At most [`BATCHES`], in the order in which they are shown.
    async fn batches(&self) -> Result<Vec<BatchProgress>, String>;

    /// What `aquifer explain` tells of every job of that id, or why it tells nothing. Never a prompt or an answer.
    async fn explain(&self, asked: &AskedJob) -> Result<Vec<Explained>, String>;

    /// Puts all dead letters back into the queue; how many there were.
    async fn redrive(&self) -> Result<u64, String>;

    /// How old what [`Desk::batches`] said may be when it is shown; asking costs money on AWS.
    fn stale_after(&self) -> Duration;
}

/// How far a batch is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BatchProgress {
    /// Whose it is.
    pub tenant: String,
    /// Its name.
    pub batch: String,
    /// Jobs in it, ended or not; where nobody has said how many, those that have ended.
    pub total: u64,
    /// Jobs that ended with an answer.
    pub succeeded: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Jobs that were never sent.
    pub rejected: u64,
    /// Jobs whose deadline passed.
    pub expired: u64,
    /// Documents of which a part succeeded.
    pub partial: u64,
    /// Whether all its jobs are said to be there.
    pub sealed: bool,
    /// What its calls cost.
    pub cost_usd: Usd,
    /// Seconds until all its jobs have ended, at the rate since it was first queued; `None` where that is not known.
    pub eta_s: Option<f64>,
}

/// Which job somebody asks about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AskedJob {
    /// Its id.
    pub id: String,
    /// Its batch; `None`: any.
    pub batch: Option<String>,
    /// Its tenant; `None`: any.
    pub tenant: Option<String>,
}

/// What `aquifer explain` tells of one job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explained {
    /// As for a program.
    pub job: Value,
    /// As for a person, line by line.
    pub lines: Vec<String>,
}
