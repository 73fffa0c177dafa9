//! How many of a batch's jobs are where, and what have they cost? One row a batch, kept exact.

use rusqlite::{Connection, params};

use super::rows::int;
use super::trouble;
use crate::job::ident::{BatchKey, BatchName, Tenant};
use crate::job::lifecycle::{State, Status};
use crate::job::notice::BatchSums;
use crate::job::outcome::Usage;
use crate::job::units::{Timestamp, Usd};

/// What one job adds to its batch. Every write of a job's row swaps its old share for its new one, which keeps counts
/// and sums exact by construction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) state: State,
    pub(super) spent: Usd,
    pub(super) unknown: Usd,
    pub(super) open: Option<Usd>,
    pub(super) usage: Usage,
}

impl Share {
    /// What of it counts against a cap.
    pub(super) fn committed(&self) -> Usd {
        self.spent + self.unknown + self.open.unwrap_or_default()
    }
}

/// A batch's row.
#[derive(Clone, Debug)]
pub(super) struct BatchRow {
    pub(super) no: i64,
    pub(super) key: BatchKey,
    pub(super) counts: Counts,
    pub(super) spent: Usd,
    pub(super) committed: Usd,
    pub(super) open: Usd,
    pub(super) usage: Usage,
    pub(super) sealed: bool,
    pub(super) completion: u64,
    pub(super) announced: bool,
    pub(super) forgetting: bool,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) dirty: bool,
}

/// Jobs by state.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Waiting for a worker.
    pub queued: u64,
    /// Claimed by a worker.
    pub running: u64,
    /// The model answered.
    pub succeeded: u64,
    /// Ended without an answer.
    pub failed: u64,
    /// Never sent.
    pub rejected: u64,
    /// Ran out of time.
    pub expired: u64,
    /// Some parts succeeded.
    pub partial: u64,
}

impl Counts {
    /// Jobs that have not ended.
    pub fn open(&self) -> u64 {
        self.queued + self.running
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.open() + self.succeeded + self.failed + self.rejected + self.expired + self.partial
    }

    /// The count of one state.
    pub fn of(&mut self, state: State) -> &mut u64 {
        match state {
            State::Queued => &mut self.queued,
            State::Running => &mut self.running,
            State::Final(Status::Succeeded) => &mut self.succeeded,
            State::Final(Status::Failed) => &mut self.failed,
            State::Final(Status::Rejected) => &mut self.rejected,
            State::Final(Status::Expired) => &mut self.expired,
            State::Final(Status::Partial) => &mut self.partial,
        }
    }
}

impl BatchRow {
    const COLUMNS: &'static str = "no, name, tenant, queued, running, succeeded, failed, rejected, expired, partial, spent, committed, open, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, sealed, completion, announced, forgetting, first, last";

    /// Every batch of that name, or of any.
    pub(super) fn list(conn: &Connection, name: Option<&BatchName>) -> rusqlite::Result<Vec<Self>> {
        let sql = format!("SELECT {} FROM batch WHERE ?1 IS NULL OR name = ?1 ORDER BY name, tenant", Self::COLUMNS);
        conn.prepare_cached(&sql)?.query_and_then([name.map(BatchName::as_str)], Self::read)?.collect()
    }

    pub(super) fn load(conn: &Connection, key: &BatchKey) -> rusqlite::Result<Option<Self>> {
        let sql = format!("SELECT {} FROM batch WHERE name = ?1 AND tenant = ?2", Self::COLUMNS);
        let mut statement = conn.prepare_cached(&sql)?;
        let mut rows = statement.query_and_then([key.batch.as_str(), key.tenant.as_str()], Self::read)?;
        rows.next().transpose()
    }

    /// Whose batches have that name.
    pub(super) fn keys(conn: &Connection, name: &BatchName) -> rusqlite::Result<Vec<BatchKey>> {
        let mut statement = conn.prepare_cached("SELECT tenant FROM batch WHERE name = ?1")?;
        let keys = statement.query_and_then([name.as_str()], |row| {
            let tenant = Tenant::new(row.get_ref(0)?.as_str()?).map_err(|_| trouble::unreadable("tenant"))?;
            Ok(BatchKey { tenant, batch: name.clone() })
        })?;
        keys.collect()
    }

    /// The name of a batch.
    pub(super) fn key_of(conn: &Connection, no: i64) -> rusqlite::Result<Option<BatchKey>> {
        let sql = format!("SELECT {} FROM batch WHERE no = ?1", Self::COLUMNS);
        let mut statement = conn.prepare_cached(&sql)?;
        let mut rows = statement.query_and_then([no], Self::read)?;
        Ok(rows.next().transpose()?.map(|row| row.key))
    }

    /// A job's row changed: its old share goes, its new one comes.
    pub(super) fn swap(&mut self, old: Option<Share>, new: Option<Share>) {
        self.dirty = true;
        if let Some(old) = old {
            let count = self.counts.of(old.state);
            *count = count.saturating_sub(1);
            self.spent = self.spent.saturating_sub(old.spent);
            self.committed = self.committed.saturating_sub(old.committed());
            self.open = self.open.saturating_sub(old.open.unwrap_or_default());
            self.usage = fold(self.usage, old.usage, u64::saturating_sub);
        }
        if let Some(new) = new {
            *self.counts.of(new.state) += 1;
            self.spent += new.spent;
            self.committed += new.committed();
            self.open += new.open.unwrap_or_default();
            self.usage = fold(self.usage, new.usage, u64::saturating_add);
        }
    }

    /// There is work in it again: what was announced is no longer the whole.
    pub(super) fn reopen(&mut self) {
        if self.announced {
            self.announced = false;
            self.completion += 1;
            self.dirty = true;
        }
    }

    pub(super) fn seal(&mut self) {
        self.sealed = true;
        self.dirty = true;
    }

    pub(super) fn mark_announced(&mut self) {
        self.announced = true;
        self.dirty = true;
    }

    /// Sealed, ended, not announced, and nobody is just adding to it.
    pub(super) fn waits_for_announcement(&self, conn: &Connection) -> rusqlite::Result<bool> {
        if !self.sealed || self.announced || self.forgetting || self.counts.open() > 0 {
            return Ok(false);
        }
        let growing: bool = conn
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM roll JOIN pool ON pool.no = roll.pool WHERE name = ?1 AND sealed = 0)",
            )?
            .query_row([self.key.batch.as_str()], |row| row.get(0))?;
        Ok(!growing)
    }

    /// Counts and sums, with so many lines refused before they became jobs.
    pub(super) fn sums(&self, refused: u64) -> BatchSums {
        BatchSums {
            total: self.counts.total() + refused,
            succeeded: self.counts.succeeded,
            failed: self.counts.failed,
            rejected: self.counts.rejected + refused,
            expired: self.counts.expired,
            partial: self.counts.partial,
            usage: self.usage,
            cost_usd: self.spent,
        }
    }

    pub(super) fn create(conn: &Connection, key: &BatchKey, now: Timestamp) -> rusqlite::Result<Self> {
        conn.prepare_cached(
            "INSERT INTO batch VALUES (NULL, ?1, ?2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ?3, ?3)",
        )?
        .execute(params![key.batch.as_str(), key.tenant.as_str(), now.0])?;
        Self::load(conn, key)?.ok_or_else(|| trouble::unreadable("batch"))
    }

    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let count = |column: usize| -> rusqlite::Result<u64> { Ok(row.get::<_, i64>(column)?.unsigned_abs()) };
        let usd = |column: usize| -> rusqlite::Result<Usd> { Ok(Usd::from_nanos(count(column)?)) };
        Ok(Self {
            no: row.get(0)?,
            key: BatchKey {
                batch: BatchName::new(row.get_ref(1)?.as_str()?).map_err(|_| trouble::unreadable("name"))?,
                tenant: Tenant::new(row.get_ref(2)?.as_str()?).map_err(|_| trouble::unreadable("tenant"))?,
            },
            counts: Counts {
                queued: count(3)?,
                running: count(4)?,
                succeeded: count(5)?,
                failed: count(6)?,
                rejected: count(7)?,
                expired: count(8)?,
                partial: count(9)?,
            },
            spent: usd(10)?,
            committed: usd(11)?,
            open: usd(12)?,
            usage: Usage {
                input_tokens: count(13)?,
                output_tokens: count(14)?,
                cache_read_tokens: count(15)?,
                cache_write_tokens: count(16)?,
            },
            sealed: row.get(17)?,
            completion: count(18)?,
            announced: row.get(19)?,
            forgetting: row.get(20)?,
            first: Timestamp(row.get(21)?),
            last: Timestamp(row.get(22)?),
            dirty: false,
        })
    }

    pub(super) fn store(&self, conn: &Connection, now: Timestamp) -> rusqlite::Result<()> {
        conn.prepare_cached(
            "UPDATE batch SET queued = ?2, running = ?3, succeeded = ?4, failed = ?5, rejected = ?6, expired = ?7,
                partial = ?8, spent = ?9, committed = ?10, open = ?11, input_tokens = ?12, output_tokens = ?13,
                cache_read_tokens = ?14, cache_write_tokens = ?15, sealed = ?16, completion = ?17, announced = ?18,
                last = ?19
             WHERE no = ?1",
        )?
        .execute(params![
            self.no,
            int(self.counts.queued),
            int(self.counts.running),
            int(self.counts.succeeded),
            int(self.counts.failed),
            int(self.counts.rejected),
            int(self.counts.expired),
            int(self.counts.partial),
            int(self.spent.nanos()),
            int(self.committed.nanos()),
            int(self.open.nanos()),
            int(self.usage.input_tokens),
            int(self.usage.output_tokens),
            int(self.usage.cache_read_tokens),
            int(self.usage.cache_write_tokens),
            self.sealed,
            int(self.completion),
            self.announced,
            now.0,
        ])?;
        Ok(())
    }
}

fn fold(a: Usage, b: Usage, with: fn(u64, u64) -> u64) -> Usage {
    Usage {
        input_tokens: with(a.input_tokens, b.input_tokens),
        output_tokens: with(a.output_tokens, b.output_tokens),
        cache_read_tokens: with(a.cache_read_tokens, b.cache_read_tokens),
        cache_write_tokens: with(a.cache_write_tokens, b.cache_write_tokens),
    }
}
