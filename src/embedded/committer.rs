//! How do thousands of small writes a second each become durable before their reply, at one sync apiece of
//! a third of a millisecond? By group commit.
//!
//! One task owns the write connection. It drains what has gathered while the last commit ran, carries all of it
//! out in one transaction, commits, and only then replies. An operation that is refused on its merits replies so and
//! leaves the others alone; an error of SQLite rolls the whole group back, and every operation in it is told.

use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::transaction::{Effects, Tx};
use super::trouble;
use crate::ports::{Clock, StoreError, StoreTrouble};

/// Operations in one transaction at most, so that the first of them does not wait for long.
const GROUP: usize = 512;
/// Operations that may wait for their group; callers beyond wait for a place.
const BACKLOG: usize = 8_192;

/// What committed transactions tell the rest of this process.
#[derive(Debug)]
pub(super) struct Bell {
    /// Rung when a message became deliverable.
    pub(super) arrivals: Notify,
    /// The newest completion number.
    pub(super) ended: watch::Sender<u64>,
}

/// The way to the write connection.
#[derive(Debug)]
pub(super) struct Committer {
    queue: mpsc::Sender<Box<dyn Op>>,
}

impl Committer {
    /// Starts the task. It ends when the last handle is dropped and what was queued is committed.
    pub(super) fn start(
        connection: Connection,
        clock: Arc<dyn Clock>,
        epoch: i64,
        bell: Arc<Bell>,
    ) -> (Self, JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(BACKLOG);
        (Self { queue }, tokio::spawn(serve(connection, clock, epoch, bell, waiting)))
    }

    /// Carries `work` out in the next group. `Ok` means it is on the disk.
    pub(super) async fn commit<R: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&mut Tx<'_>) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R, StoreError> {
        let (reply, outcome) = oneshot::channel();
        let op = Box::new(Waiting { doing, work: Some(work), done: None, reply });
        let gone = || trouble::of_ours(StoreTrouble::Other, doing, "the state database was closed");
        self.queue.send(op).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }
}

trait Op: Send {
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
    fn reply(self: Box<Self>, failure: Option<&rusqlite::Error>);
}

struct Waiting<W, R> {
    doing: &'static str,
    work: Option<W>,
    done: Option<R>,
    reply: oneshot::Sender<Result<R, StoreError>>,
}

impl<R: Send, W: FnOnce(&mut Tx<'_>) -> rusqlite::Result<R> + Send> Op for Waiting<W, R> {
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.done = Some(work(tx)?);
        }
        Ok(())
    }

    fn reply(self: Box<Self>, failure: Option<&rusqlite::Error>) {
        let outcome = match (failure, self.done) {
            (None, Some(done)) => Ok(done),
            (Some(error), _) => Err(trouble::of_sqlite(self.doing, error)),
            (None, None) => Err(trouble::of_ours(StoreTrouble::Other, self.doing, "it was not carried out")),
        };
        // Nobody waits any more: what was committed stays committed.
        let _ = self.reply.send(outcome);
    }
}

async fn serve(
    mut connection: Connection,
    clock: Arc<dyn Clock>,
    epoch: i64,
    bell: Arc<Bell>,
    mut waiting: mpsc::Receiver<Box<dyn Op>>,
) {
    let mut group = Vec::with_capacity(GROUP);
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let (clock, bell) = (Arc::clone(&clock), Arc::clone(&bell));
        // Not a thread of our own: tokio's paused clock stands still while one of its blocking tasks runs.
        let committed = tokio::task::spawn_blocking(move || {
            // Stays while there is work: on the way back it would stand in line behind everybody it has just answered.
            while !group.is_empty() {
                commit_group(&connection, &mut group, clock.as_ref(), epoch, &bell);
                group.extend(std::iter::from_fn(|| waiting.try_recv().ok()).take(GROUP));
            }
            (connection, waiting, group)
        });
        // Only when the runtime is being torn down; dropping the receiver tells everybody who still waits.
        let Ok(returned) = committed.await else { return };
        (connection, waiting, group) = returned;
    }
}

fn commit_group(connection: &Connection, group: &mut Vec<Box<dyn Op>>, clock: &dyn Clock, epoch: i64, bell: &Bell) {
    let outcome = attempt(connection, group, clock, epoch);
    if outcome.is_err() && !connection.is_autocommit() {
        // Should this fail too, the next BEGIN says so.
        let _ = connection.execute_batch("ROLLBACK");
    }
    for op in group.drain(..) {
        op.reply(outcome.as_ref().err());
    }
    if let Ok(effects) = outcome {
        if effects.arrived {
            bell.arrivals.notify_waiters();
        }
        if let Some(done) = effects.done {
            bell.ended.send_replace(done);
        }
    }
}

fn attempt(
    connection: &Connection,
    group: &mut [Box<dyn Op>],
    clock: &dyn Clock,
    epoch: i64,
) -> rusqlite::Result<Effects> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut tx = Tx::new(connection, clock.now(), epoch);
    for op in group.iter_mut() {
        op.run(&mut tx)?;
    }
    let effects = tx.flush()?;
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(effects)
}
