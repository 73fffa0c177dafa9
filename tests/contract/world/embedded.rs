//! The embedded back end in a directory of its own.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aquifer::embedded::{Entry, Line, Reader, Standing, Store};
use aquifer::job::ident::{BatchName, JobId};
use aquifer::job::outcome::Pointer;
use aquifer::job::spec::Job;
use aquifer::job::trail::Trail;
use aquifer::job::units::Timestamp;
use aquifer::ports::{Allowance, Clock, Queue};
use async_trait::async_trait;
use serde_json::Value;
use tempfile::TempDir;

use super::{EMBEDDED, ManualClock, Place, World};

/// A world with what only this back end has, for the tests of that.
pub(crate) struct Local {
    pub(crate) world: World,
    pub(crate) store: Store,
    pub(crate) dir: Arc<TempDir>,
}

pub(crate) async fn embedded() -> Local {
    local(Arc::new(tempfile::tempdir().unwrap()), ManualClock::new()).await
}

pub(crate) async fn world() -> World {
    embedded().await.world
}

pub(crate) async fn open(dir: &Path, clock: &Arc<ManualClock>) -> Store {
    Store::open(dir, Arc::clone(clock) as Arc<dyn Clock>).await.unwrap()
}

async fn local(dir: Arc<TempDir>, clock: Arc<ManualClock>) -> Local {
    let store = open(dir.path(), &clock).await;
    let world = World {
        queue: store.queue(None),
        ledger: store.ledger(),
        allowance: store.allowance(),
        bodies: store.bodies(),
        notices: store.notices(),
        parts: store.parts(),
        clock: Arc::clone(&clock),
        can: EMBEDDED,
        place: Box::new(Directory { store: store.clone(), dir: Arc::clone(&dir), clock }),
    };
    Local { world, store, dir }
}

impl Deref for Local {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

struct Directory {
    store: Store,
    dir: Arc<TempDir>,
    clock: Arc<ManualClock>,
}

impl Directory {
    /// The file behind a pointer.
    fn file(&self, pointer: &Pointer) -> PathBuf {
        self.dir.path().join(&pointer.uri)
    }
}

#[async_trait]
impl Place for Directory {
    async fn pass(&self, _time: Duration) {
        // Messages are hidden by the clock of the world, which has been moved.
    }

    async fn seal(&self, batch: &BatchName, _total: u64) {
        // It counts by itself.
        self.store.begin_run(batch).await.unwrap().seal().await.unwrap();
    }

    async fn redrive(&self, job: &Job) {
        let line = Line::Job { job: Box::new(job.clone()), auto_id: false, stale_deadline: false };
        let run = self.store.begin_run(&job.key.batch).await.unwrap();
        let standings = run.enrol(vec![Entry { position: 0, line }], true).await.unwrap();
        assert_eq!(standings, [Standing::Redriven]);
    }

    fn queue_of(&self, batch: &BatchName) -> Arc<dyn Queue> {
        self.store.queue(Some(batch.clone()))
    }

    async fn segment(&self, pointer: &Pointer) -> Vec<u8> {
        std::fs::read(self.file(pointer)).unwrap()
    }

    async fn damage(&self, pointer: &Pointer, with: Option<&str>) {
        match with {
            Some(text) => std::fs::write(self.file(pointer), text).unwrap(),
            None => std::fs::remove_file(self.file(pointer)).unwrap(),
        }
    }

    fn astray(&self) -> Vec<String> {
        ["/etc/passwd", "../x", "bodies/../../x"].map(str::to_owned).to_vec()
    }

    async fn published(&self, _at_least: usize) -> Vec<Value> {
        let log = std::fs::read_to_string(self.dir.path().join("events.jsonl")).unwrap();
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn trail(&self, id: &str) -> (Trail, Option<Timestamp>) {
        let reader = Reader::open(self.dir.path()).unwrap();
        let job = reader.job(None, &JobId::new(id).unwrap(), None).unwrap().remove(0);
        (job.trail, job.notified)
    }

    async fn another_worker(&self) -> Arc<dyn Allowance> {
        open(self.dir.path(), &self.clock).await.allowance()
    }

    async fn close_and_reopen(self: Box<Self>, clock: Arc<ManualClock>) -> World {
        self.store.close().await.unwrap();
        local(self.dir, clock).await.world
    }
}
