//! How does a command that only looks work beside processes that write? On a read-only connection of its own, with no
//! epoch, seeing what is committed.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::{Connection, params};

use super::batch::BatchRow;
use super::dead::{self, DeadMessage};
use super::report::{self, BatchSummary, JobReport, LaneGate, LaneRow};
use super::rows::{int, pointer};
use super::{roll, schema, segments, trouble};
use crate::job::ident::{BatchName, JobId, Tenant};
use crate::job::outcome::Pointer;
use crate::ports::{MessageId, StoreError, StoreTrouble};

/// Pointers read at a time: results go out at constant memory.
const PAGE: usize = 256;

/// A state directory, for looking only.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    connection: Connection,
}

/// In which order results come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// As the lines of the newest input.
    Input,
    /// As they ended.
    Done,
}

impl Reader {
    /// Opens a state directory that is there already. Its methods block.
    ///
    /// # Errors
    /// `Other` if there is no database, `Newer` or `Damaged` if it is not one we can read, else what the system said.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { dir: dir.to_owned(), connection: schema::open_reader(dir)? })
    }

    /// Every batch, by name and tenant.
    ///
    /// # Errors
    /// What the database said.
    pub fn batches(&self) -> Result<Vec<BatchSummary>, StoreError> {
        self.look("listing batches", report::summaries)
    }

    /// The result lines of a batch: of the lines of its newest input, or of all its jobs if it never had one. What has
    /// not ended is left out.
    ///
    /// # Errors
    /// `Other` if there is no such batch, else what the database said.
    pub fn results(&self, batch: &BatchName, order: Order) -> Result<Results<'_>, StoreError> {
        let doing = "reading results";
        if self.look(doing, |conn| BatchRow::list(conn, Some(batch)))?.is_empty() {
            let why = format!("there is no batch {batch} in {}", self.dir.display());
            return Err(trouble::of_ours(StoreTrouble::Other, doing, why));
        }
        let roll = self.look(doing, |conn| roll::newest(conn, batch))?;
        let cursor = match (roll, order) {
            (Some(roll), Order::Input) => Cursor::Positions { roll, after: -1 },
            (Some(roll), Order::Done) => Cursor::Ends { roll, after: roll::DoneSeq(0) },
            (None, Order::Input) => Cursor::Rows { after: -1 },
            (None, Order::Done) => Cursor::RowEnds { after: 0 },
        };
        Ok(Results { reader: self, batch: batch.clone(), cursor, page: VecDeque::new() })
    }

    /// Every job of that id, in that batch and of that tenant if they are named.
    ///
    /// # Errors
    /// What the database said.
    pub fn job(
        &self,
        batch: Option<&BatchName>,
        id: &JobId,
        tenant: Option<&Tenant>,
    ) -> Result<Vec<JobReport>, StoreError> {
        self.look("looking up a job", |conn| report::jobs(conn, batch, id, tenant))
    }

    /// Every part of that name (`3`, `reduce-1.1`) of the documents of that id, in that batch if it is named.
    ///
    /// # Errors
    /// What the database said.
    pub fn part(&self, batch: Option<&BatchName>, id: &JobId, part: &JobId) -> Result<Vec<JobReport>, StoreError> {
        self.look("looking up a part of a document", |conn| report::parts(conn, batch, id, part))
    }

    /// Why lanes let nothing through, as the working processes post it.
    ///
    /// # Errors
    /// What the database said.
    pub fn gates(&self) -> Result<Vec<LaneGate>, StoreError> {
        self.look("reading what lanes wait for", report::gates)
    }

    /// What the workers know of each lane.
    ///
    /// # Errors
    /// What the database said.
    pub fn lanes(&self) -> Result<Vec<LaneRow>, StoreError> {
        self.look("reading what is known of lanes", report::lanes)
    }

    /// The dead letters, oldest first, without what they hold.
    ///
    /// # Errors
    /// What the database said.
    pub fn dead(&self) -> Result<Vec<DeadMessage>, StoreError> {
        self.look("listing dead letters", dead::list)
    }

    /// What one of them holds: a prompt, more likely than not. `None` if it is not there.
    ///
    /// # Errors
    /// What the database said.
    pub fn dead_body(&self, id: &MessageId) -> Result<Option<String>, StoreError> {
        self.look("reading a dead letter", |conn| dead::body(conn, id))
    }

    fn look<R>(&self, doing: &str, look: impl FnOnce(&Connection) -> rusqlite::Result<R>) -> Result<R, StoreError> {
        look(&self.connection).map_err(|error| trouble::of_sqlite(doing, &error))
    }
}

/// Result lines, each without its line feed; see [`Reader::results`].
#[derive(Debug)]
pub struct Results<'r> {
    reader: &'r Reader,
    batch: BatchName,
    cursor: Cursor,
    page: VecDeque<Pointer>,
}

/// Behind which line the next page begins.
#[derive(Clone, Copy, Debug)]
enum Cursor {
    Positions { roll: i64, after: i64 },
    Ends { roll: i64, after: roll::DoneSeq },
    Rows { after: i64 },
    RowEnds { after: i64 },
    Done,
}

impl Iterator for Results<'_> {
    type Item = Result<Bytes, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.page.is_empty() {
            if matches!(self.cursor, Cursor::Done) {
                return None;
            }
            let turned = self.reader.look("reading results", |conn| turn(conn, &self.batch, self.cursor));
            match turned {
                Ok((page, cursor)) => (self.page, self.cursor) = (page, cursor),
                Err(error) => {
                    self.cursor = Cursor::Done;
                    return Some(Err(error));
                }
            }
        }
        self.page.pop_front().map(|pointer| segments::read(&self.reader.dir, &pointer))
    }
}

fn turn(conn: &Connection, batch: &BatchName, cursor: Cursor) -> rusqlite::Result<(VecDeque<Pointer>, Cursor)> {
    match cursor {
        Cursor::Positions { roll, after } => {
            let sql = "SELECT l.position, coalesce(j.uri, r.uri), coalesce(j.offset, r.offset),
                    coalesce(j.length, r.length), coalesce(j.sha256, r.sha256)
                 FROM roll_line l LEFT JOIN job j ON j.no = l.job LEFT JOIN refusal r ON r.no = l.refusal
                 WHERE l.roll = ?1 AND l.position > ?2 ORDER BY l.position LIMIT ?3";
            let (page, last) = by_number(conn, sql, roll, after)?;
            Ok((page, last.map_or(Cursor::Done, |after| Cursor::Positions { roll, after })))
        }
        Cursor::Ends { roll, after } => {
            let ends = roll::finals(conn, roll, after, PAGE)?;
            let next = ends.last().map_or(Cursor::Done, |end| Cursor::Ends { roll, after: end.done });
            Ok((ends.into_iter().map(|end| end.result).collect(), next))
        }
        Cursor::Rows { after } => {
            let sql = "SELECT j.no, j.uri, j.offset, j.length, j.sha256 FROM job j JOIN batch b ON b.no = j.batch
                 WHERE b.name = ?1 AND j.no > ?2 ORDER BY j.no LIMIT ?3";
            let (page, last) = by_number(conn, sql, batch.as_str(), after)?;
            Ok((page, last.map_or(Cursor::Done, |after| Cursor::Rows { after })))
        }
        Cursor::RowEnds { after } => {
            let sql = "SELECT j.done, j.uri, j.offset, j.length, j.sha256
                 FROM job j INDEXED BY job_done JOIN batch b ON b.no = j.batch
                 WHERE b.name = ?1 AND j.done > ?2 ORDER BY j.done LIMIT ?3";
            let (page, last) = by_number(conn, sql, batch.as_str(), after)?;
            Ok((page, last.map_or(Cursor::Done, |after| Cursor::RowEnds { after })))
        }
        Cursor::Done => Ok((VecDeque::new(), Cursor::Done)),
    }
}

/// One page of rows of a number and a pointer that may be null; the pointers, and the last number.
fn by_number(
    conn: &Connection,
    sql: &str,
    of: impl rusqlite::ToSql,
    after: i64,
) -> rusqlite::Result<(VecDeque<Pointer>, Option<i64>)> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params![of, after, int(PAGE as u64)])?;
    let (mut page, mut last) = (VecDeque::new(), None);
    while let Some(row) = rows.next()? {
        last = Some(row.get(0)?);
        if row.get_ref(1)? != rusqlite::types::ValueRef::Null {
            page.push_back(pointer(row, 1)?);
        }
    }
    Ok((page, last))
}
