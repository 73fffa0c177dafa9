//! Where are ends made known on one machine? In an event log: one notice a line.
//!
//! Several processes append to it, each whole lines in one write. A line that a crash or a full disk tore ends at the
//! next line feed, which the next writer sets first: no notice is ever glued to half of another one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::appender::Sink;
use super::process::Inner;
use super::segments::sync_folder;
use super::trouble;
use super::webhook::Webhook;
use crate::job::notice::Notice;
use crate::ports::{Notices, StoreError, StoreTrouble};

/// The log below the state directory.
pub(super) const FILE: &str = "events.jsonl";

/// The event log of one state directory.
#[derive(Clone, Debug)]
pub(super) struct EmbeddedNotices {
    pub(super) inner: Arc<Inner>,
    /// Who is told before it is written down: what stands in the log has been accepted.
    pub(super) webhook: Option<Arc<Webhook>>,
}

#[async_trait]
impl Notices for EmbeddedNotices {
    async fn publish(&self, notice: &Notice) -> Result<(), StoreError> {
        let line = serde_json::to_vec(notice)
            .map_err(|error| trouble::of_ours(StoreTrouble::Other, "writing a notice", error.to_string()))?;
        let line = Bytes::from(line);
        if let Some(webhook) = &self.webhook {
            webhook.post(&line).await?;
        }
        self.inner.events.append((), line).await
    }
}

/// What writes the event log.
#[derive(Debug)]
pub(super) struct Events {
    dir: PathBuf,
    /// Closed after trouble, and opened again with a look at its tail.
    file: Option<File>,
}

impl Events {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, file: None }
    }

    fn append(&mut self, lines: &[((), Bytes)]) -> io::Result<()> {
        let (file, torn) = match self.file.take() {
            Some(file) => (file, false),
            None => self.open()?,
        };
        let mut block = Vec::with_capacity(1 + lines.iter().map(|((), line)| line.len() + 1).sum::<usize>());
        if torn {
            block.push(b'\n');
        }
        for ((), line) in lines {
            block.extend_from_slice(line);
            block.push(b'\n');
        }
        // One write: two processes' lines must not mix. What it does not take whole, it did not take.
        let written = (&file).write(&block)?;
        if written < block.len() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the line was not written whole"));
        }
        file.sync_data()?;
        self.file = Some(file);
        Ok(())
    }

    fn open(&self) -> io::Result<(File, bool)> {
        let file = OpenOptions::new().append(true).read(true).create(true).open(self.dir.join(FILE))?;
        sync_folder(&self.dir)?;
        let mut last = [b'\n'];
        if let Some(end) = file.metadata()?.len().checked_sub(1) {
            file.read_exact_at(&mut last, end)?;
        }
        Ok((file, last != [b'\n']))
    }
}

impl Sink for Events {
    type Place = ();
    type Receipt = ();

    fn write(&mut self, lines: &[((), Bytes)]) -> Vec<Result<(), StoreError>> {
        let doing = || format!("writing {} notices", lines.len());
        let outcome = self.append(lines).map_err(|error| trouble::of_io(doing(), &error));
        lines.iter().map(|_| outcome.clone()).collect()
    }
}
