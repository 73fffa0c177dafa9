//! What do the operations of one group share? The moment they run at, the counters, the models' numbers, and the
//! rows of the batches they touch, which are read once and written once however many jobs of the batch moved.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::batch::BatchRow;
use super::trouble;
use crate::job::ident::BatchKey;
use crate::job::units::Timestamp;

/// What a committed transaction tells the rest of the process.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// A message became deliverable.
    pub(super) arrived: bool,
    /// The newest completion number that was given out.
    pub(super) done: Option<u64>,
}

/// An open write transaction.
pub(super) struct Tx<'c> {
    /// The connection, inside the transaction.
    pub(super) conn: &'c Connection,
    /// The moment at which every operation of the group runs.
    pub(super) now: Timestamp,
    /// Our process.
    pub(super) epoch: i64,
    /// Whether lapsed messages were made deliverable yet.
    pub(super) promoted: bool,
    /// What there is to tell after the commit.
    pub(super) effects: Effects,
    messages: Counter,
    ends: Counter,
    models: HashMap<String, i64>,
    batches: Vec<BatchRow>,
    by_key: HashMap<BatchKey, usize>,
}

impl<'c> Tx<'c> {
    pub(super) fn new(conn: &'c Connection, now: Timestamp, epoch: i64) -> Self {
        Self {
            conn,
            now,
            epoch,
            promoted: false,
            effects: Effects::default(),
            messages: Counter::new("message"),
            ends: Counter::new("done"),
            models: HashMap::new(),
            batches: Vec::new(),
            by_key: HashMap::new(),
        }
    }

    /// The next name or place of a message.
    pub(super) fn next_message(&mut self) -> rusqlite::Result<i64> {
        self.messages.next(self.conn)
    }

    /// The next completion number.
    pub(super) fn next_done(&mut self) -> rusqlite::Result<i64> {
        let done = self.ends.next(self.conn)?;
        self.effects.done = u64::try_from(done).ok();
        Ok(done)
    }

    /// The number of a model's name, given out if it has none.
    pub(super) fn model_or_new(&mut self, name: &str) -> rusqlite::Result<i64> {
        if let Some(no) = self.models.get(name) {
            return Ok(*no);
        }
        let known = self
            .conn
            .prepare_cached("SELECT no FROM model WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        let no = match known {
            Some(no) => no,
            None => {
                self.conn.prepare_cached("INSERT INTO model (name) VALUES (?1)")?.execute([name])?;
                self.conn.last_insert_rowid()
            }
        };
        self.models.insert(name.to_owned(), no);
        Ok(no)
    }

    /// The batch's row, if there is one.
    pub(super) fn batch(&mut self, key: &BatchKey) -> rusqlite::Result<Option<&mut BatchRow>> {
        Ok(self.place_of(key)?.and_then(|place| self.batches.get_mut(place)))
    }

    /// The batch's row, made if there is none.
    pub(super) fn batch_or_new(&mut self, key: &BatchKey) -> rusqlite::Result<&mut BatchRow> {
        let place = match self.place_of(key)? {
            Some(place) => place,
            None => {
                let row = BatchRow::create(self.conn, key, self.now)?;
                self.batches.push(row);
                let place = self.batches.len() - 1;
                self.by_key.insert(key.clone(), place);
                place
            }
        };
        self.batches.get_mut(place).ok_or_else(|| trouble::unreadable("batch"))
    }

    /// Writes what was kept in memory. Nothing else may follow in this transaction.
    pub(super) fn flush(self) -> rusqlite::Result<Effects> {
        self.messages.flush(self.conn)?;
        self.ends.flush(self.conn)?;
        for batch in self.batches.iter().filter(|batch| batch.dirty) {
            batch.store(self.conn, self.now)?;
        }
        Ok(self.effects)
    }

    fn place_of(&mut self, key: &BatchKey) -> rusqlite::Result<Option<usize>> {
        if let Some(place) = self.by_key.get(key) {
            return Ok(Some(*place));
        }
        let Some(row) = BatchRow::load(self.conn, key)? else { return Ok(None) };
        self.batches.push(row);
        let place = self.batches.len() - 1;
        self.by_key.insert(key.clone(), place);
        Ok(Some(place))
    }
}

struct Counter {
    name: &'static str,
    value: Option<i64>,
}

impl Counter {
    fn new(name: &'static str) -> Self {
        Self { name, value: None }
    }

    fn next(&mut self, conn: &Connection) -> rusqlite::Result<i64> {
        let value = match self.value {
            Some(value) => value,
            None => conn
                .prepare_cached("SELECT value FROM counter WHERE name = ?1")?
                .query_row([self.name], |row| row.get(0))
                .optional()?
                .unwrap_or(0),
        };
        self.value = Some(value + 1);
        Ok(value + 1)
    }

    fn flush(&self, conn: &Connection) -> rusqlite::Result<()> {
        if let Some(value) = self.value {
            conn.prepare_cached(
                "INSERT INTO counter (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
            )?
            .execute(params![self.name, value])?;
        }
        Ok(())
    }
}
