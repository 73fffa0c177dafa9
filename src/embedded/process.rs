//! Which processes share this state directory, and which of them are dead?
//!
//! Each takes an epoch when it opens the directory and holds a file lock named by it for as long as it lives: the
//! system frees the lock however the process ends. A lock that is free under an epoch on record is a dead process; what
//! it held is released in one transaction, whoever notices first.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{Notify, watch};

use super::appender::Appender;
use super::committer::{Bell, Committer};
use super::events::Events;
use super::segments::{self, Segments, sync_folder};
use super::transaction::Tx;
use super::{ledger, manifest, queue, schema, trouble};
use crate::ports::{Clock, StoreError, StoreTrouble};

const LOCKS: &str = "locks";
/// How often the other processes' locks are tried.
const ROUND: Duration = Duration::from_secs(1);
/// Read connections kept for the next reader.
const READERS: usize = 4;

/// What every handle of one open state directory shares.
pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) epoch: i64,
    pub(super) committer: Committer,
    pub(super) readers: Readers,
    pub(super) segments: Appender<Segments>,
    pub(super) events: Appender<Events>,
    pub(super) bell: Arc<Bell>,
    alive: Mutex<Option<File>>,
    /// One look at a time: a lock that another look of ours has just taken seems to belong to somebody alive.
    looking: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// Opens the directory, made if absent, and joins its processes.
pub(super) async fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Arc<Inner>, StoreError> {
    let (path, now) = (dir.to_owned(), clock.now());
    let joined = tokio::task::spawn_blocking(move || join(&path, now.0));
    let doing = "opening the state directory";
    let (connection, epoch, alive) =
        joined.await.map_err(|gone| trouble::of_ours(StoreTrouble::Other, doing, gone.to_string()))??;
    let newest = newest_end(&connection).map_err(|error| trouble::of_sqlite(doing, &error))?;
    let bell = Arc::new(Bell { arrivals: Notify::new(), ended: watch::Sender::new(newest) });
    let (committer, _) = Committer::start(connection, Arc::clone(&clock), epoch, Arc::clone(&bell));
    let (segments, _) = Appender::start("writing a result", Segments::new(dir.to_owned(), epoch));
    let (events, _) = Appender::start("writing a notice", Events::new(dir.to_owned()));
    let inner = Arc::new(Inner {
        dir: dir.to_owned(),
        clock,
        epoch,
        committer,
        readers: Readers { dir: dir.to_owned(), idle: Mutex::default() },
        segments,
        events,
        bell,
        alive: Mutex::new(Some(alive)),
        looking: tokio::sync::Mutex::default(),
    });
    inner.reap().await?;
    tokio::spawn(watch_others(Arc::downgrade(&inner)));
    Ok(inner)
}

impl Inner {
    /// Looks for dead processes once and releases what they held; how many there were. Once this returns, whatever died
    /// before it was called is released, unless another process is at it.
    pub(super) async fn reap(&self) -> Result<usize, StoreError> {
        let _one = self.looking.lock().await;
        let (locks, own) = (self.dir.join(LOCKS), self.epoch);
        let look = move |conn: &Connection| {
            let epochs = conn
                .prepare_cached("SELECT epoch FROM process WHERE epoch <> ?1")?
                .query_map([own], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<i64>>>()?;
            Ok(epochs.into_iter().filter_map(|epoch| Some((epoch, dead(&lock_path(&locks, epoch))?))).collect())
        };
        let found: Vec<(i64, Dead)> = self.readers.read("looking for dead processes", look).await?;
        let count = found.len();
        for (epoch, _lock) in found {
            self.committer.commit("releasing a dead process's jobs", move |tx| release(tx, epoch, true)).await?;
            remove_lock(&self.dir, epoch);
        }
        Ok(count)
    }

    /// Gives everything back and leaves. What was queued before is committed by then.
    pub(super) async fn leave(&self) -> Result<(), StoreError> {
        let epoch = self.epoch;
        self.committer.commit("closing the state directory", move |tx| release(tx, epoch, false)).await?;
        self.let_go();
        remove_lock(&self.dir, epoch);
        self.checkpoint().await
    }

    /// Moves the write-ahead log into the database and cuts it to nothing, so that no prompt stays behind in it. A
    /// reader in another process can keep that from happening; the next one to close does it then.
    pub(super) async fn checkpoint(&self) -> Result<(), StoreError> {
        let dir = self.dir.clone();
        let doing = "checkpointing the state database";
        let work = tokio::task::spawn_blocking(move || checkpoint(&dir));
        let outcome = work.await.map_err(|gone| trouble::of_ours(StoreTrouble::Other, doing, gone.to_string()))?;
        outcome.map_err(|error| trouble::of_sqlite(doing, &error))
    }

    /// Frees our lock without a word, as a kill does. Unlocked and not only closed: a child that another thread is just
    /// starting has a copy of the file until its program begins, and the lock would live as long as that.
    pub(super) fn let_go(&self) {
        let lock = self.alive.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(lock) = lock
            && let Err(error) = lock.unlock()
        {
            tracing::debug!(%error, "could not unlock the lock file; closing it does");
        }
    }

    fn is_alive(&self) -> bool {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Read connections beside the writer: long reads do not hold a commit up.
#[derive(Debug)]
pub(super) struct Readers {
    dir: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    /// Runs `look` on a connection of its own.
    pub(super) async fn read<R: Send + 'static>(
        &self,
        doing: &'static str,
        look: impl FnOnce(&Connection) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R, StoreError> {
        let (dir, idle) = (self.dir.clone(), self.take());
        let work = tokio::task::spawn_blocking(move || -> rusqlite::Result<(Connection, R)> {
            let connection = match idle {
                Some(connection) => connection,
                None => schema::open_beside(&dir)?,
            };
            let found = look(&connection)?;
            Ok((connection, found))
        });
        let outcome = work.await.map_err(|gone| trouble::of_ours(StoreTrouble::Other, doing, gone.to_string()))?;
        let (connection, found) = outcome.map_err(|error| trouble::of_sqlite(doing, &error))?;
        self.put_back(connection);
        Ok(found)
    }

    fn take(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < READERS {
            idle.push(connection);
        }
    }
}

/// A checkpoint from outside any transaction.
pub(super) fn checkpoint(dir: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open(dir.join(schema::FILE))?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// Makes a folder and whatever is missing above it, each on record in the one that holds it: a synced file in a
/// folder that a power failure takes away is lost all the same.
fn make_durable(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_durable(above)?;
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !folder.is_dir() => return Err(error),
        Ok(()) | Err(_) => {}
    }
    sync_folder(above)
}

/// Makes the folders and the database, and takes an epoch with its lock. One process at a time.
fn join(dir: &Path, now: i64) -> Result<(Connection, i64, File), StoreError> {
    let doing = || format!("opening the state directory {}", dir.display());
    let io = |error: io::Error| trouble::of_io(doing(), &error);
    let locks = dir.join(LOCKS);
    for folder in [&locks, &dir.join(segments::FOLDER), &dir.join(manifest::FOLDER)] {
        make_durable(folder).map_err(io)?;
    }
    let one_at_a_time = lock_file(&locks.join("open.lock")).map_err(io)?;
    one_at_a_time.lock().map_err(io)?;

    let connection = schema::open_writer(dir)?;
    let sqlite = |error: rusqlite::Error| trouble::of_sqlite(&doing(), &error);
    connection.execute_batch("BEGIN IMMEDIATE").map_err(sqlite)?;
    connection.execute("INSERT INTO process (started) VALUES (?1)", [now]).map_err(sqlite)?;
    let epoch = connection.last_insert_rowid();
    // Locked before the epoch can be seen: nobody takes us for dead in between.
    let alive = lock_file(&lock_path(&locks, epoch)).map_err(io)?;
    alive.lock().map_err(io)?;
    connection.execute_batch("COMMIT").map_err(sqlite)?;
    Ok((connection, epoch, alive))
}

fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

fn lock_path(locks: &Path, epoch: i64) -> PathBuf {
    locks.join(format!("{epoch}.lock"))
}

fn remove_lock(dir: &Path, epoch: i64) {
    // A lock file that stays behind means nothing without its row.
    let _ = std::fs::remove_file(lock_path(&dir.join(LOCKS), epoch));
}

/// Proof that a process is dead: its lock, now ours, or that there is none.
struct Dead(#[expect(dead_code, reason = "held so that only one process releases a dead one's jobs")] Option<File>);

fn dead(lock: &Path) -> Option<Dead> {
    match File::open(lock) {
        Ok(file) => match file.try_lock() {
            Ok(()) => Some(Dead(Some(file))),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => None,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Dead(None)),
        Err(_) => None,
    }
}

/// How many processes work the directory, and how many died that nobody has cleared away.
pub(super) fn count(dir: &Path, connection: &Connection) -> rusqlite::Result<(usize, usize)> {
    let locks = dir.join(LOCKS);
    let mut statement = connection.prepare("SELECT epoch FROM process")?;
    let epochs: Vec<i64> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let died = epochs.iter().filter(|epoch| dead(&lock_path(&locks, **epoch)).is_some()).count();
    Ok((epochs.len() - died, died))
}

/// What a process held becomes anybody's. `suspect`: it died, rather than left.
fn release(tx: &mut Tx<'_>, epoch: i64, suspect: bool) -> rusqlite::Result<()> {
    if tx.conn.prepare_cached("DELETE FROM process WHERE epoch = ?1")?.execute([epoch])? == 0 {
        return Ok(());
    }
    queue::release_held_by(tx, epoch)?;
    ledger::release_held_by(tx, epoch, suspect)?;
    tx.conn.prepare_cached("DELETE FROM gate WHERE epoch = ?1")?.execute([epoch])?;
    // An input that was never read to its end completes nothing and says nothing about what is wanted.
    tx.conn.prepare_cached("UPDATE roll SET sealed = 2 WHERE epoch = ?1 AND sealed = 0")?.execute([epoch])?;
    Ok(())
}

async fn watch_others(inner: Weak<Inner>) {
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let Some(inner) = inner.upgrade().filter(|inner| inner.is_alive()) else { return };
        if let Err(error) = inner.reap().await {
            tracing::warn!(%error, "could not look for dead processes");
        }
    }
}

fn newest_end(connection: &Connection) -> rusqlite::Result<u64> {
    let newest: i64 =
        connection
            .query_row("SELECT coalesce((SELECT value FROM counter WHERE name = 'done'), 0)", [], |row| row.get(0))?;
    Ok(newest.unsigned_abs())
}
