//! What stands in the database, and is this file one of ours?
//!
//! One row a job, one a message, bodies of messages apart: a delivery then rewrites a row of a few dozen bytes, and
//! hundreds of them share a page of the write-ahead log. There are only the indexes that a hot statement needs.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::trouble;
use crate::ports::{StoreError, StoreTrouble};

/// The database below the state directory.
pub(super) const FILE: &str = "aquifer.db";

/// "Aqui": told apart from anybody else's SQLite file.
const APPLICATION_ID: i64 = 0x4171_7569;

/// Other processes hold the write lock for one group commit at a time, so a long wait means trouble.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
const BUSY_STEP: Duration = Duration::from_millis(1);

/// A statement is planned once, whatever is bound to it; else SQLite prepares those with a limit or a range anew each time.
const KEEP_PLANS: DbConfig = DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG;

/// What brings a database from each version to the next. A new one goes the same way from nothing, so that one that was
/// brought up cannot differ from one that was made. Steps are added and never changed: the earlier ones were taken.
const STEPS: [&str; 8] = [TABLES, LANES, SAVINGS, MODELS, REDRIVEN, TRAIL, PARTS, TRACES];
const VERSION: usize = STEPS.len();

/// `unknown`, `open`, `spent`, `committed` are billionths of a dollar; times are milliseconds since 1970.
const TABLES: &str = "
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE process (epoch INTEGER PRIMARY KEY AUTOINCREMENT, started INTEGER NOT NULL);

CREATE TABLE pool (no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE message (
    id INTEGER PRIMARY KEY, pool INTEGER NOT NULL, priority INTEGER NOT NULL, seq INTEGER NOT NULL,
    hidden_until INTEGER, epoch INTEGER, receives INTEGER NOT NULL, sent INTEGER NOT NULL);
CREATE INDEX message_ready ON message (pool, priority, seq) WHERE hidden_until IS NULL;
CREATE INDEX message_hidden ON message (hidden_until) WHERE hidden_until IS NOT NULL;
CREATE TABLE body (message INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE dead (
    id INTEGER PRIMARY KEY, pool INTEGER NOT NULL, priority INTEGER NOT NULL, receives INTEGER NOT NULL,
    sent INTEGER NOT NULL, died INTEGER NOT NULL, reason TEXT NOT NULL, text TEXT NOT NULL);

CREATE TABLE batch (
    no INTEGER PRIMARY KEY, name TEXT NOT NULL, tenant TEXT NOT NULL,
    queued INTEGER NOT NULL, running INTEGER NOT NULL, succeeded INTEGER NOT NULL, failed INTEGER NOT NULL,
    rejected INTEGER NOT NULL, expired INTEGER NOT NULL, partial INTEGER NOT NULL,
    spent INTEGER NOT NULL, committed INTEGER NOT NULL, open INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL,
    sealed INTEGER NOT NULL, completion INTEGER NOT NULL, announced INTEGER NOT NULL, forgetting INTEGER NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL,
    UNIQUE (name, tenant));
CREATE TABLE job (
    no INTEGER PRIMARY KEY, batch INTEGER NOT NULL, hash INTEGER NOT NULL, state TEXT NOT NULL,
    generation INTEGER NOT NULL, token INTEGER NOT NULL, epoch INTEGER, lease_until INTEGER NOT NULL,
    attempts INTEGER NOT NULL, model_calls INTEGER NOT NULL, spent INTEGER NOT NULL, unknown INTEGER NOT NULL,
    open INTEGER, suspicion REAL NOT NULL, enqueued INTEGER NOT NULL, message INTEGER,
    done INTEGER, ended INTEGER,
    input_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0,
    cache_read_tokens INTEGER NOT NULL DEFAULT 0, cache_write_tokens INTEGER NOT NULL DEFAULT 0,
    offset INTEGER, length INTEGER, digest BLOB NOT NULL, id TEXT NOT NULL, uri TEXT, sha256 BLOB,
    model_used TEXT, error_class TEXT, error_message TEXT, error_request TEXT);
CREATE INDEX job_name ON job (batch, hash);
CREATE INDEX job_held ON job (epoch) WHERE epoch IS NOT NULL;
CREATE INDEX job_done ON job (done) WHERE done IS NOT NULL;

CREATE TABLE roll (no INTEGER PRIMARY KEY, pool INTEGER NOT NULL, epoch INTEGER NOT NULL, sealed INTEGER NOT NULL);
CREATE TABLE roll_line (
    roll INTEGER NOT NULL, position INTEGER NOT NULL, job INTEGER, refusal INTEGER,
    PRIMARY KEY (roll, position)) WITHOUT ROWID;
CREATE INDEX roll_job ON roll_line (job, roll) WHERE job IS NOT NULL;
CREATE INDEX roll_refusal ON roll_line (refusal, roll) WHERE refusal IS NOT NULL;
CREATE TABLE refusal (
    no INTEGER PRIMARY KEY, batch INTEGER NOT NULL, id TEXT NOT NULL, done INTEGER NOT NULL,
    uri TEXT NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, sha256 BLOB NOT NULL);
CREATE INDEX refusal_line ON refusal (batch, sha256);
CREATE INDEX refusal_done ON refusal (done);

CREATE TABLE gate (
    lane TEXT NOT NULL, epoch INTEGER NOT NULL, reason TEXT NOT NULL, since INTEGER NOT NULL,
    until INTEGER NOT NULL, PRIMARY KEY (lane, epoch)) WITHOUT ROWID;
";

/// What is known of each lane. Written by compare-and-swap; what `state` holds is for the rules to say.
const LANES: &str = "
CREATE TABLE lane (id TEXT PRIMARY KEY, version INTEGER NOT NULL, state BLOB NOT NULL) WITHOUT ROWID;
";

/// What right-sizing saved and cost: of batches, and of open jobs an answer of which was cut. `rerun_cost` is billionths of
/// a dollar.
const SAVINGS: &str = "
CREATE TABLE batch_savings (
    batch INTEGER PRIMARY KEY, saved INTEGER NOT NULL, reruns INTEGER NOT NULL, rerun_cost INTEGER NOT NULL);
CREATE TABLE job_savings (job INTEGER PRIMARY KEY, reruns INTEGER NOT NULL, rerun_cost INTEGER NOT NULL);
";

/// Whose turn it is among the deliverable can depend on the model. Model 0 is one that nobody knows; messages that are there
/// already are told theirs, so that they need not be tried to be found out.
const MODELS: &str = "
CREATE TABLE model (no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
ALTER TABLE message ADD COLUMN model INTEGER NOT NULL DEFAULT 0;
INSERT INTO model (name) SELECT DISTINCT text ->> '$.model' FROM body
    WHERE CASE WHEN json_valid(text) THEN json_type(text, '$.model') END = 'text';
UPDATE message SET model = coalesce((
    SELECT no FROM body JOIN model ON name = CASE WHEN json_valid(text) THEN text ->> '$.model' END
    WHERE body.message = message.id), 0);
DROP INDEX message_ready;
CREATE INDEX message_ready ON message (pool, model, priority, seq) WHERE hidden_until IS NULL;
";

/// Jobs whose message a person took back out of the dead letters: when, and why it lay there.
const REDRIVEN: &str = "
CREATE TABLE redriven (job INTEGER PRIMARY KEY, at INTEGER NOT NULL, reason TEXT NOT NULL);
";

/// What happened to jobs, for those who ask; and when their ends were made known.
const TRAIL: &str = "
CREATE TABLE trail (job INTEGER PRIMARY KEY, text TEXT NOT NULL, notified INTEGER);
";

/// Batches whose jobs are parts of another job: of which, of which generation of it, and in which round.
const PARTS: &str = "
CREATE TABLE parts (
    batch INTEGER PRIMARY KEY, parent INTEGER NOT NULL, generation INTEGER NOT NULL, round INTEGER NOT NULL,
    about TEXT NOT NULL);
CREATE INDEX parts_parent ON parts (parent);
";

/// To which trace a message belongs, where somebody traces.
const TRACES: &str = "
ALTER TABLE message ADD COLUMN trace TEXT;
";

/// Opens the database for writing: made, brought up to this version, or refused. The caller holds the lock on opening.
pub(super) fn open_writer(dir: &Path) -> Result<Connection, StoreError> {
    let doing = "opening the state database";
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> rusqlite::Result<Result<Connection, StoreError>> {
        let mut connection = Connection::open_with_flags(dir.join(FILE), flags)?;
        connection.busy_handler(Some(wait_while_busy))?;
        if let Some(refusal) = refusal(&connection)? {
            return Ok(Err(refusal));
        }
        connection.set_db_config(KEEP_PLANS, true)?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        connection.execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -32768; PRAGMA wal_autocheckpoint = 4000;",
        )?;
        connection.set_prepared_statement_cache_capacity(128);
        let missing = missing(&connection)?;
        if !missing.is_empty() {
            connection.execute_batch(&format!(
                "BEGIN IMMEDIATE; {missing}
                 PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
            ))?;
        }
        Ok(Ok(connection))
    };
    open().map_err(|error| trouble::of_sqlite(doing, &error))?
}

/// Opens the database for reading beside the process's own writer.
pub(super) fn open_beside(dir: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(dir.join(FILE), flags)?;
    connection.busy_handler(Some(wait_while_busy))?;
    connection.set_db_config(KEEP_PLANS, true)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -4096; PRAGMA temp_store = MEMORY;")?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Opens a database that must be there already, changing nothing.
pub(super) fn open_reader(dir: &Path) -> Result<Connection, StoreError> {
    let doing = "reading the state database";
    if !dir.join(FILE).is_file() {
        let why = format!("there is no {FILE} in {}", dir.display());
        return Err(trouble::of_ours(StoreTrouble::Other, doing, why));
    }
    let open = || -> rusqlite::Result<Result<Connection, StoreError>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(dir.join(FILE), flags)?;
        connection.busy_handler(Some(wait_while_busy))?;
        if let Some(refusal) = refusal(&connection)? {
            return Ok(Err(refusal));
        }
        if version(&connection)? == 0 {
            return Ok(Err(trouble::of_ours(StoreTrouble::Damaged, doing, "the file is empty")));
        }
        // One that no worker has opened since an update reads as if what is new in it were empty. What changes in tables
        // that were there before is for workers alone.
        let missing = missing(&connection)?;
        let tables = missing.split_inclusive(';').filter(|step| step.trim_start().starts_with("CREATE TABLE"));
        let tables = tables.collect::<String>().replace("CREATE TABLE", "CREATE TEMP TABLE");
        connection.execute_batch(&format!("PRAGMA temp_store = MEMORY; {tables}"))?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(Ok(connection))
    };
    open().map_err(|error| trouble::of_sqlite(doing, &error))?
}

fn refusal(connection: &Connection) -> rusqlite::Result<Option<StoreError>> {
    let doing = "opening the state database";
    let ours = connection.pragma_query_value(None, "application_id", |row| row.get::<_, i64>(0))?;
    if ours != APPLICATION_ID && !(ours == 0 && is_empty(connection)?) {
        let why = format!("{FILE} is an SQLite file of another program");
        return Ok(Some(trouble::of_ours(StoreTrouble::Damaged, doing, why)));
    }
    let version = version(connection)?;
    if version > VERSION {
        let why = format!("it was written by a newer version of this program (schema {version}, ours is {VERSION})");
        return Ok(Some(trouble::of_ours(StoreTrouble::Newer, doing, why)));
    }
    Ok(None)
}

/// How many of the steps were taken; 0 for a file that is new.
fn version(connection: &Connection) -> rusqlite::Result<usize> {
    let steps: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    usize::try_from(steps).map_err(|_| trouble::unreadable("user_version"))
}

/// The steps that were not taken yet.
fn missing(connection: &Connection) -> rusqlite::Result<String> {
    Ok(STEPS.iter().skip(version(connection)?).copied().collect())
}

fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))
}

/// SQLite's own handler sleeps up to 100 ms at a time, which lets a busy neighbour starve us.
fn wait_while_busy(tries: i32) -> bool {
    std::thread::sleep(BUSY_STEP);
    u128::try_from(tries).unwrap_or(0) * BUSY_STEP.as_millis() < BUSY_LIMIT.as_millis()
}
