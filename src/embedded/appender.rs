//! How do many writers share one sync of an append-only file?
//!
//! Like the group commit of the database: one task drains what has gathered while the last sync ran, writes it, syncs
//! each file that it touched once, and only then replies.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::trouble;
use crate::ports::{StoreError, StoreTrouble};

/// Lines, and bytes of lines, in one group at most.
const GROUP: usize = 512;
const BACKLOG: usize = 4_096;

/// What writes a group of lines: each gets its own reply, durable when it is `Ok`.
pub(super) trait Sink: Send + 'static {
    type Place: Send + 'static;
    type Receipt: Send + 'static;

    fn write(&mut self, lines: &[(Self::Place, Bytes)]) -> Vec<Result<Self::Receipt, StoreError>>;
}

type Waiting<S> = (<S as Sink>::Place, Bytes, oneshot::Sender<Result<<S as Sink>::Receipt, StoreError>>);

/// The way to a sink.
#[derive(Debug)]
pub(super) struct Appender<S: Sink> {
    doing: &'static str,
    queue: mpsc::Sender<Waiting<S>>,
}

impl<S: Sink> Appender<S> {
    /// Starts the task. It ends when the last handle is dropped and what was queued is written.
    pub(super) fn start(doing: &'static str, sink: S) -> (Self, JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(BACKLOG);
        (Self { doing, queue }, tokio::spawn(serve(sink, waiting)))
    }

    /// Appends one line. `Ok` means it is on the disk.
    pub(super) async fn append(&self, place: S::Place, line: Bytes) -> Result<S::Receipt, StoreError> {
        let (reply, outcome) = oneshot::channel();
        let gone = || trouble::of_ours(StoreTrouble::Other, self.doing, "the state directory was closed");
        self.queue.send((place, line, reply)).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }
}

async fn serve<S: Sink>(mut sink: S, mut waiting: mpsc::Receiver<Waiting<S>>) {
    let mut group = Vec::with_capacity(GROUP);
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let written = tokio::task::spawn_blocking(move || {
            // Stays while there is work: on the way back it would stand in line behind everybody it has just answered.
            while !group.is_empty() {
                write_group(&mut sink, &mut group);
                group.extend(std::iter::from_fn(|| waiting.try_recv().ok()).take(GROUP));
            }
            (sink, waiting, group)
        });
        // Only when the runtime is being torn down; dropping the receiver tells everybody who still waits.
        let Ok(returned) = written.await else { return };
        (sink, waiting, group) = returned;
    }
}

fn write_group<S: Sink>(sink: &mut S, group: &mut Vec<Waiting<S>>) {
    let (lines, replies): (Vec<_>, Vec<_>) = group.drain(..).map(|(place, line, reply)| ((place, line), reply)).unzip();
    for (reply, receipt) in replies.into_iter().zip(sink.write(&lines)) {
        // Nobody waits any more: what was written stays written.
        let _ = reply.send(receipt);
    }
}
