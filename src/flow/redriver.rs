//! Which of these lines' jobs run again? Those that failed or expired, of one class of failure or of any, each under its next
//! generation. Its message follows the row: a job that was opened again by a worker that died before it sent the message is found
//! queued, and is sent then. One whose own deadline has passed would only expire once more: it stays as it ended.

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::job::failure::Class;
use crate::job::intake::Draft;
use crate::job::lifecycle::{State, Status};
use crate::job::spec::Job;
use crate::job::units::Timestamp;
use crate::ports::StoreError;
use crate::ports::rolls::Redriven;

use super::intake::Read;
use super::proof::Exit;
use super::reading::Takes;
use super::roster::{AT_ONCE, Names, Sender};

/// Runs jobs of one input again. Some may run already when it fails: the input is to be begun again then.
#[derive(Debug)]
pub struct Redriver<'a> {
    with: Sender,
    request: &'a str,
    class: Option<Class>,
    began: Timestamp,
    names: Names,
}

#[async_trait]
impl Takes for Redriver<'_> {
    async fn take(&mut self, lines: Vec<Read>) -> Result<(), Exit> {
        let jobs: Vec<Job> = lines
            .into_iter()
            .filter_map(|line| line.parsed.ok())
            .filter_map(|Draft { job, auto_id }| self.names.find(job, auto_id).ok())
            .collect();
        Ok(self.redrive(jobs).await?)
    }
}

impl<'a> Redriver<'a> {
    /// For a request of that name: what was run again for it is not run again for it twice. With a class, only what failed of that.
    pub fn new(with: Sender, request: &'a str, class: Option<Class>, began: Timestamp) -> Self {
        Self { with, request, class, began, names: Names::default() }
    }

    async fn redrive(&self, jobs: Vec<Job>) -> Result<(), StoreError> {
        let again = jobs.into_iter().map(|job| async move { Ok(self.opens(&job).await?.then_some(job)) });
        let again: Vec<Option<Job>> = stream::iter(again).buffered(AT_ONCE).try_collect().await?;
        self.with.send(again.into_iter().flatten().collect()).await
    }

    /// Opens its next generation, if it is one that runs again; whether it is to be sent.
    async fn opens(&self, job: &Job) -> Result<bool, StoreError> {
        let failed = match self.with.ledger.look_up(&job.key).await? {
            Some((State::Final(Status::Failed | Status::Expired), row)) => row,
            Some((State::Queued, _)) => return Ok(true),
            Some((State::Running | State::Final(Status::Succeeded | Status::Rejected | Status::Partial), _)) | None => {
                return Ok(false);
            }
        };
        let of = failed.and_then(|row| row.ending.error).map(|failure| failure.class);
        let is_stale = job.deadline.is_some_and(|deadline| deadline <= self.began);
        if is_stale || self.class.is_some() && of != self.class {
            return Ok(false);
        }
        match self.with.rolls.redrive(&job.key, job.digest(), Some(self.request)).await? {
            Redriven::Queued { .. } | Redriven::NotFrom(State::Queued) => Ok(true),
            Redriven::NotFrom(State::Running | State::Final(_)) | Redriven::Unknown => Ok(false),
        }
    }
}
