//! The ports on SQLite and files, for one machine.
//!
//! ```text
//! DIR/aquifer.db                         queue, ledger, rolls, parts, lanes (committer, transaction, schema, queue, ledger, desk, dead, allowance)
//! DIR/bodies/<batch>/<epoch>-<n>.jsonl   result lines                    (segments)
//! DIR/events.jsonl                       notices                         (events)
//! DIR/manifests/<batch>-<n>.jsonl        what a complete batch holds     (manifest)
//! DIR/locks/<epoch>.lock                 who is alive                    (process)
//! ```
//!
//! [`Store`] is the door for a process that works; [`Reader`] for one that only looks, beside those that work.

mod allowance;
mod appender;
mod arrivals;
mod batch;
mod check;
mod clerk;
mod committer;
mod dead;
mod desk;
mod events;
mod forget;
mod ledger;
mod manifest;
mod parts;
mod process;
mod queue;
mod reader;
mod ready;
mod report;
mod roll;
mod rows;
mod savings;
mod schema;
mod segments;
mod stray;
mod trail;
mod transaction;
mod trouble;
mod webhook;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use crate::ports::rolls::{Entry, Line, Standing};
pub use batch::Counts;
pub use check::check;
pub use dead::{DeadMessage, Redriven};
pub use desk::{Run, Sealed};
pub use forget::Forgotten;
pub use reader::{Order, Reader, Results};
pub use report::{BatchSummary, DeadLetter, JobReport, LaneGate, LaneRow, Waiting};
pub use roll::{DoneSeq, Ended, Progress};

use self::webhook::Webhook;
use crate::job::ident::BatchName;
use crate::job::outcome::Pointer;
use crate::job::spec::Job;
use crate::job::webhook::WebhookUrl;
use crate::ports::{Allowance, Bodies, Clock, Ledger, MessageId, Notices, Parts, Queue, StoreError, StoreTrouble};

/// An open state directory. A clone is another handle on the same.
///
/// A process that ends without [`Store::close`] is noticed by the others, or by the next one, within a second.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<process::Inner>,
    webhook: Option<Arc<Webhook>>,
}

impl Store {
    /// Opens a state directory, made if absent, and joins the processes that work it. All wall time comes from
    /// `clock`. What dead processes held is released before this returns.
    ///
    /// # Errors
    /// `Denied` if it may not be written, `Newer` or `Damaged` if its database is not one we can work, else what the
    /// system said.
    pub async fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let store = Self { inner: process::open(dir, clock).await?, webhook: None };
        forget::resume(&store.inner).await?;
        Ok(store)
    }

    /// The same store, whose notices are also POSTed to this URL.
    ///
    /// # Errors
    /// `Denied` if this machine has no certificates by which to know a server.
    pub fn telling(self, url: WebhookUrl) -> Result<Self, StoreError> {
        Ok(Self { webhook: Some(Arc::new(Webhook::new(url)?)), ..self })
    }

    /// The queue: of one batch name, or of all.
    pub fn queue(&self, batch: Option<BatchName>) -> Arc<dyn Queue> {
        Arc::new(queue::EmbeddedQueue { inner: Arc::clone(&self.inner), only: batch })
    }

    /// The ledger.
    pub fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::new(ledger::EmbeddedLedger { inner: Arc::clone(&self.inner) })
    }

    /// What the processes on this directory know of their lanes.
    pub fn allowance(&self) -> Arc<dyn Allowance> {
        Arc::new(allowance::EmbeddedAllowance { inner: Arc::clone(&self.inner) })
    }

    /// The chunks of documents.
    pub fn parts(&self) -> Arc<dyn Parts> {
        Arc::new(parts::EmbeddedParts { inner: Arc::clone(&self.inner) })
    }

    /// The result lines.
    pub fn bodies(&self) -> Arc<dyn Bodies> {
        Arc::new(segments::EmbeddedBodies { inner: Arc::clone(&self.inner) })
    }

    /// Many result lines at once, in the order of their pointers: one way to the disk instead of one for each.
    ///
    /// # Errors
    /// As [`Bodies::read`], for the first of them that cannot be read.
    pub async fn lines(&self, pointers: Vec<Pointer>) -> Result<Vec<Bytes>, StoreError> {
        let dir = self.inner.dir.clone();
        let read = tokio::task::spawn_blocking(move || segments::read_all(&dir, &pointers));
        read.await.map_err(|gone| trouble::of_ours(StoreTrouble::Other, "reading results", gone.to_string()))?
    }

    /// The event log, and the webhook if there is one.
    pub fn notices(&self) -> Arc<dyn Notices> {
        Arc::new(events::EmbeddedNotices { inner: Arc::clone(&self.inner), webhook: self.webhook.clone() })
    }

    /// Starts a roll: the list of this run's input, in input order. The batch is not complete before it is sealed.
    ///
    /// # Errors
    /// What the database said.
    pub async fn begin_run(&self, batch: &BatchName) -> Result<Run, StoreError> {
        Run::begin(Arc::clone(&self.inner), batch.clone()).await
    }

    /// Queues a job that comes by itself and stands in no input, unless there is one of its name already, whatever its content
    /// and whatever became of it. `true` if it is new. Row and message are written in one step: whoever dies has queued it once
    /// or not at all.
    ///
    /// # Errors
    /// What the database said; `Away` while its batch is just being forgotten.
    pub async fn take_in(&self, job: Job) -> Result<bool, StoreError> {
        arrivals::take_in(&self.inner, job).await
    }

    /// Purges a complete batch: rows, messages, dead letters, results and manifests, and what the write-ahead log
    /// still held of it. Notices and lanes stay: they hold no prompt and no answer.
    ///
    /// # Errors
    /// `Denied`, saying why, if there is no such batch, if it is not complete, or if another process works on it.
    pub async fn forget(&self, batch: &BatchName) -> Result<Forgotten, StoreError> {
        forget::forget(&self.inner, batch).await
    }

    /// Purges every batch that has been complete and at rest for longer than `keep`; their names.
    ///
    /// # Errors
    /// What the database or the file system said.
    pub async fn purge_older_than(&self, keep: Duration) -> Result<Vec<BatchName>, StoreError> {
        forget::purge_older_than(&self.inner, keep).await
    }

    /// Puts dead letters back into the queue, in one transaction; what became of each. A job that had failed or expired runs
    /// again under its next generation, and is taken out of its batch's counts.
    ///
    /// # Errors
    /// What the database said; then none was.
    pub async fn redrive(&self, ids: Vec<MessageId>) -> Result<Vec<Redriven>, StoreError> {
        dead::put_back(&self.inner, ids).await
    }

    /// Throws dead letters away for good, in one transaction; how many there were.
    ///
    /// # Errors
    /// What the database said; then none was.
    pub async fn drop_dead(&self, ids: Vec<MessageId>) -> Result<usize, StoreError> {
        dead::drop_all(&self.inner, ids).await
    }

    /// Waits for what was queued to be committed, gives back what this process held, and checkpoints. Other
    /// handles are of no use afterwards.
    ///
    /// # Errors
    /// What the database said; the directory is then as a kill would leave it.
    pub async fn close(self) -> Result<(), StoreError> {
        self.inner.leave().await
    }

    /// Looks for dead processes now, rather than within a second; how many there were.
    ///
    /// # Errors
    /// What the database said.
    pub async fn reap(&self) -> Result<usize, StoreError> {
        self.inner.reap().await
    }

    /// Frees this process's lock without a word, as a kill does. For tests of what follows.
    #[doc(hidden)]
    pub fn abandon(&self) {
        self.inner.let_go();
    }
}
