//! How is a job's row found, read and written?

use std::sync::LazyLock;

use rusqlite::{Connection, Row, params};

use super::batch::Share;
use super::trouble;
use crate::job::failure::{Class, Failure};
use crate::job::ident::{Digest, JobId, JobKey};
use crate::job::lifecycle::{State, Status};
use crate::job::outcome::{Ending, Pointer, Savings, Tally, Usage};
use crate::job::units::{Timestamp, Usd};
use crate::ports::FinalRow;

/// SQLite counts in `i64`; what does not fit is beyond anything that is ever counted.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Ids are looked up by eight bytes of their digest: entries of the index are then small, whatever the ids are, and
/// that of a million jobs stays in memory. The id itself decides.
pub(super) fn hash(id: &str) -> i64 {
    let digest = Digest::of(id.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.as_bytes()[..8]);
    i64::from_be_bytes(bytes)
}

/// A job's row without its ending.
#[derive(Clone, Debug)]
pub(super) struct JobRow {
    pub(super) no: i64,
    pub(super) batch: i64,
    pub(super) state: State,
    pub(super) generation: u32,
    pub(super) token: u64,
    pub(super) epoch: Option<i64>,
    pub(super) lease_until: Timestamp,
    pub(super) tally: Tally,
    pub(super) open: Option<Usd>,
    pub(super) suspicion: f64,
    pub(super) digest: Digest,
    pub(super) enqueued: Timestamp,
    pub(super) message: Option<i64>,
    pub(super) done: Option<i64>,
    pub(super) usage: Usage,
}

impl JobRow {
    const COLUMNS: &'static str = "no, batch, state, generation, token, epoch, lease_until, attempts, model_calls, spent, unknown, open, suspicion, digest, enqueued, message, done, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens";

    pub(super) fn find(conn: &Connection, batch: i64, id: &JobId) -> rusqlite::Result<Option<Self>> {
        static SQL: LazyLock<String> =
            LazyLock::new(|| format!("SELECT {} FROM job WHERE batch = ?1 AND hash = ?2 AND id = ?3", JobRow::COLUMNS));
        let mut statement = conn.prepare_cached(&SQL)?;
        let mut rows = statement.query_and_then(params![batch, hash(id.as_str()), id.as_str()], Self::read)?;
        rows.next().transpose()
    }

    pub(super) fn by_no(conn: &Connection, no: i64) -> rusqlite::Result<Option<Self>> {
        let sql = format!("SELECT {} FROM job WHERE no = ?1", Self::COLUMNS);
        let mut statement = conn.prepare_cached(&sql)?;
        let mut rows = statement.query_and_then([no], Self::read)?;
        rows.next().transpose()
    }

    /// Those that a process holds.
    pub(super) fn held_by(conn: &Connection, epoch: i64) -> rusqlite::Result<Vec<Self>> {
        let sql = format!("SELECT {} FROM job WHERE epoch = ?1", Self::COLUMNS);
        conn.prepare_cached(&sql)?.query_and_then([epoch], Self::read)?.collect()
    }

    /// What it adds to its batch.
    pub(super) fn share(&self) -> Share {
        Share {
            state: self.state,
            spent: self.tally.spent,
            unknown: self.tally.unknown,
            open: self.open,
            usage: self.usage,
        }
    }

    /// Writes a new row; its number.
    pub(super) fn insert(&self, conn: &Connection, id: &JobId) -> rusqlite::Result<i64> {
        conn.prepare_cached(
            "INSERT INTO job (batch, hash, id, state, generation, token, epoch, lease_until, attempts, model_calls,
                spent, unknown, open, suspicion, digest, enqueued, message)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
        )?
        .execute(params![
            self.batch,
            hash(id.as_str()),
            id.as_str(),
            self.state.word(),
            self.generation,
            int(self.token),
            self.epoch,
            self.lease_until.0,
            self.tally.attempts,
            self.tally.model_calls,
            int(self.tally.spent.nanos()),
            int(self.tally.unknown.nanos()),
            self.open.map(|open| int(open.nanos())),
            self.suspicion,
            self.digest.as_bytes(),
            self.enqueued.0,
            self.message,
        ])?;
        Ok(conn.last_insert_rowid())
    }

    /// Writes who owns it and what was counted.
    pub(super) fn store_owner(&self, conn: &Connection) -> rusqlite::Result<()> {
        conn.prepare_cached(
            "UPDATE job SET state = ?2, token = ?3, epoch = ?4, lease_until = ?5, attempts = ?6, model_calls = ?7,
                spent = ?8, unknown = ?9, open = ?10, suspicion = ?11
             WHERE no = ?1",
        )?
        .execute(params![
            self.no,
            self.state.word(),
            int(self.token),
            self.epoch,
            self.lease_until.0,
            self.tally.attempts,
            self.tally.model_calls,
            int(self.tally.spent.nanos()),
            int(self.tally.unknown.nanos()),
            self.open.map(|open| int(open.nanos())),
            self.suspicion,
        ])?;
        Ok(())
    }

    /// Writes what was counted, and nothing that an index holds.
    pub(super) fn store_tally(&self, conn: &Connection) -> rusqlite::Result<()> {
        conn.prepare_cached(
            "UPDATE job SET attempts = ?2, model_calls = ?3, spent = ?4, unknown = ?5, open = ?6 WHERE no = ?1",
        )?
        .execute(params![
            self.no,
            self.tally.attempts,
            self.tally.model_calls,
            int(self.tally.spent.nanos()),
            int(self.tally.unknown.nanos()),
            self.open.map(|open| int(open.nanos())),
        ])?;
        Ok(())
    }

    /// Writes a final row.
    pub(super) fn store_ending(
        &self,
        conn: &Connection,
        ending: &Ending,
        done: i64,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        let error = ending.error.as_ref();
        conn.prepare_cached(
            "UPDATE job SET state = ?2, epoch = NULL, lease_until = 0, attempts = ?3, model_calls = ?4, spent = ?5,
                unknown = ?6, open = NULL, done = ?7, ended = ?8, input_tokens = ?9, output_tokens = ?10,
                cache_read_tokens = ?11, cache_write_tokens = ?12, uri = ?13, offset = ?14, length = ?15, sha256 = ?16,
                model_used = ?17, error_class = ?18, error_message = ?19, error_request = ?20
             WHERE no = ?1",
        )?
        .execute(params![
            self.no,
            self.state.word(),
            self.tally.attempts,
            self.tally.model_calls,
            int(self.tally.spent.nanos()),
            int(self.tally.unknown.nanos()),
            done,
            now.0,
            int(ending.usage.input_tokens),
            int(ending.usage.output_tokens),
            int(ending.usage.cache_read_tokens),
            int(ending.usage.cache_write_tokens),
            ending.result.uri,
            int(ending.result.offset),
            int(ending.result.length),
            ending.result.sha256.as_bytes(),
            ending.model_used,
            error.map(|error| error.class.word()),
            error.map(|error| error.message.as_str()),
            error.and_then(|error| error.request_id.as_deref()),
        ])?;
        Ok(())
    }

    /// Writes a row that a person set running again, under new content and a new message.
    pub(super) fn store_redriven(&self, conn: &Connection) -> rusqlite::Result<()> {
        conn.prepare_cached(
            "UPDATE job SET state = ?2, generation = ?3, attempts = 0, suspicion = 0, epoch = NULL, lease_until = 0,
                open = NULL, digest = ?4, enqueued = ?5, message = ?6, done = NULL, ended = NULL, input_tokens = 0,
                output_tokens = 0, cache_read_tokens = 0, cache_write_tokens = 0, uri = NULL, offset = NULL,
                length = NULL, sha256 = NULL, model_used = NULL, error_class = NULL, error_message = NULL,
                error_request = NULL
             WHERE no = ?1",
        )?
        .execute(params![
            self.no,
            self.state.word(),
            self.generation,
            self.digest.as_bytes(),
            self.enqueued.0,
            self.message,
        ])?;
        Ok(())
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let count = |column: usize| -> rusqlite::Result<u64> { Ok(row.get::<_, i64>(column)?.unsigned_abs()) };
        Ok(Self {
            no: row.get(0)?,
            batch: row.get(1)?,
            state: state(row.get_ref(2)?.as_str()?)?,
            generation: row.get(3)?,
            token: count(4)?,
            epoch: row.get(5)?,
            lease_until: Timestamp(row.get(6)?),
            tally: Tally {
                attempts: row.get(7)?,
                model_calls: row.get(8)?,
                spent: Usd::from_nanos(count(9)?),
                unknown: Usd::from_nanos(count(10)?),
                savings: Savings::default(),
            },
            open: row.get::<_, Option<i64>>(11)?.map(|open| Usd::from_nanos(open.unsigned_abs())),
            suspicion: row.get(12)?,
            digest: digest(row.get_ref(13)?.as_blob()?)?,
            enqueued: Timestamp(row.get(14)?),
            message: row.get(15)?,
            done: row.get(16)?,
            usage: Usage {
                input_tokens: count(17)?,
                output_tokens: count(18)?,
                cache_read_tokens: count(19)?,
                cache_write_tokens: count(20)?,
            },
        })
    }
}

/// The row of an ended job as the ports tell it.
pub(super) fn final_row(conn: &Connection, key: &JobKey, row: &JobRow, status: Status) -> rusqlite::Result<FinalRow> {
    let ending = conn
        .prepare_cached(
            "SELECT uri, offset, length, sha256, model_used, error_class, error_message, error_request
             FROM job WHERE no = ?1",
        )?
        .query_row([row.no], |columns| {
            Ok(Ending {
                status,
                model_used: columns.get(4)?,
                usage: row.usage,
                error: failure(columns, 5)?,
                result: pointer(columns, 0)?,
            })
        })?;
    Ok(FinalRow { key: key.clone(), generation: row.generation, tally: row.tally, ending })
}

/// A pointer from four columns in a row.
pub(super) fn pointer(row: &Row<'_>, first: usize) -> rusqlite::Result<Pointer> {
    Ok(Pointer {
        uri: row.get(first)?,
        offset: row.get::<_, i64>(first + 1)?.unsigned_abs(),
        length: row.get::<_, i64>(first + 2)?.unsigned_abs(),
        sha256: digest(row.get_ref(first + 3)?.as_blob()?)?,
    })
}

/// A failure from three columns in a row, if there was one.
pub(super) fn failure(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Failure>> {
    let Some(word) = row.get::<_, Option<String>>(first)? else { return Ok(None) };
    let class = Class::from_word(&word).ok_or_else(|| trouble::unreadable("error_class"))?;
    Ok(Some(Failure { class, message: row.get(first + 1)?, request_id: row.get(first + 2)? }))
}

pub(super) fn state(word: &str) -> rusqlite::Result<State> {
    State::from_word(word).ok_or_else(|| trouble::unreadable("state"))
}

pub(super) fn digest(bytes: &[u8]) -> rusqlite::Result<Digest> {
    Digest::from_bytes(bytes).ok_or_else(|| trouble::unreadable("digest"))
}
