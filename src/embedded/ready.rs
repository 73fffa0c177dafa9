//! Which messages are next? Found by leaps through the index of what is deliverable: a leap skips all that a batch has of a
//! model, so that a million messages of a model that is passed over are not read to get past them.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::queue;
use super::rows::int;
use crate::job::ident::BatchName;
use crate::job::units::Timestamp;

const NEXT_POOL: &str = "SELECT min(pool) FROM message WHERE hidden_until IS NULL AND pool > ?1";
const NEXT_MODEL: &str = "SELECT min(model) FROM message WHERE pool = ?1 AND hidden_until IS NULL AND model > ?2";
const FIRST: &str = "SELECT priority, seq, id FROM message WHERE pool = ?1 AND model = ?2 AND hidden_until IS NULL
    ORDER BY priority, seq LIMIT ?3";

/// What one receiver draws from the queue.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Of this batch name; `None`: of all.
    pub(super) only: Option<BatchName>,
    /// Nothing of these models.
    pub(super) passing_over: Vec<Arc<str>>,
}

impl Wanted {
    /// The ids of the next so many, in order.
    pub(super) fn next(&self, conn: &Connection, max: usize) -> rusqlite::Result<Vec<i64>> {
        let passed = self.passed(conn)?;
        let mut found = Vec::new();
        for pool in self.pools(conn)? {
            for model in models(conn, pool)?.into_iter().filter(|model| !passed.contains(model)) {
                let mut statement = conn.prepare_cached(FIRST)?;
                let ready = statement.query_map(params![pool, model, int(max as u64)], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
                })?;
                for message in ready {
                    found.push(message?);
                }
            }
        }
        found.sort_unstable();
        found.truncate(max);
        Ok(found.into_iter().map(|(_, _, id)| id).collect())
    }

    /// Whether asking for the next may bring any. What has lapsed is not in the index yet, so it counts whatever it is;
    /// being asked for puts it there.
    pub(super) fn are_there(&self, conn: &Connection, now: Timestamp) -> rusqlite::Result<bool> {
        let lapsed: bool = conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM message WHERE hidden_until <= ?1)")?
            .query_row([now.0], |row| row.get(0))?;
        Ok(lapsed || !self.next(conn, 1)?.is_empty())
    }

    /// The numbers of the models that are passed over; what has none was never sent.
    fn passed(&self, conn: &Connection) -> rusqlite::Result<Vec<i64>> {
        let mut found = Vec::new();
        for name in &self.passing_over {
            let mut statement = conn.prepare_cached("SELECT no FROM model WHERE name = ?1")?;
            found.extend(statement.query_row([&**name], |row| row.get::<_, i64>(0)).optional()?);
        }
        Ok(found)
    }

    /// The batch names to draw from: the one, or all that have something ready.
    fn pools(&self, conn: &Connection) -> rusqlite::Result<Vec<i64>> {
        if let Some(name) = &self.only {
            return Ok(queue::pool(conn, name)?.into_iter().collect());
        }
        let mut next = conn.prepare_cached(NEXT_POOL)?;
        leaps(|last| next.query_row([last], |row| row.get(0)))
    }
}

/// The models of which a batch name has something ready.
fn models(conn: &Connection, pool: i64) -> rusqlite::Result<Vec<i64>> {
    let mut next = conn.prepare_cached(NEXT_MODEL)?;
    leaps(|last| next.query_row([pool, last], |row| row.get(0)))
}

/// All values there are, by asking for the next one after each.
fn leaps(mut next: impl FnMut(i64) -> rusqlite::Result<Option<i64>>) -> rusqlite::Result<Vec<i64>> {
    let mut found = Vec::new();
    let mut last = i64::MIN;
    while let Some(value) = next(last)? {
        found.push(value);
        last = value;
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::embedded::schema;

    #[test]
    fn every_leap_is_a_search_of_the_index_and_nothing_is_sorted() {
        let dir = tempfile::tempdir().unwrap();
        let conn = schema::open_writer(dir.path()).unwrap();
        for (sql, search) in [
            (NEXT_POOL, "USING INDEX message_ready (pool>?)"),
            (NEXT_MODEL, "USING INDEX message_ready (pool=? AND model>?)"),
            (FIRST, "USING INDEX message_ready (pool=? AND model=?)"),
        ] {
            let mut explain = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let none = vec![rusqlite::types::Null; explain.parameter_count()];
            let steps = explain.query_map(rusqlite::params_from_iter(none), |row| row.get::<_, String>(3)).unwrap();
            let steps: Vec<String> = steps.collect::<Result<_, _>>().unwrap();
            assert_eq!(steps, [format!("SEARCH message {search}")], "{sql}");
        }
    }
}
