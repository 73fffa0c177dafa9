//! What do all processes on this directory know of a lane? One row, replaced only under the version that was read.
//!
//! A swap runs in the group commit like every other write, so that one transaction decides any number of them and tells
//! the losers what the winner wrote. A read goes beside the writer: it sees whatever any process has committed.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::process::Inner;
use super::rows::int;
use super::trouble;
use crate::ports::{Allowance, LANE_STATE_BYTES, LaneId, Shared, StoreError, StoreTrouble, Swap, Version};

/// The lanes of one state directory.
#[derive(Clone, Debug)]
pub(super) struct EmbeddedAllowance {
    pub(super) inner: Arc<Inner>,
}

#[async_trait]
impl Allowance for EmbeddedAllowance {
    async fn read(&self, lane: &LaneId) -> Result<Shared, StoreError> {
        let id = lane.to_string();
        let look = move |conn: &Connection| standing(conn, &id);
        let (version, state) = self.inner.readers.read("reading the state of a lane", look).await?;
        Ok(Shared { version, state, now: self.inner.clock.now() })
    }

    async fn swap(&self, lane: &LaneId, expected: Version, state: Bytes) -> Result<Swap, StoreError> {
        let doing = "writing the state of a lane";
        if state.len() > LANE_STATE_BYTES {
            let why = format!("{} bytes for {lane}, and {LANE_STATE_BYTES} are the most", state.len());
            return Err(trouble::of_ours(StoreTrouble::Other, doing, why));
        }
        let id = lane.to_string();
        let outcome = self.inner.committer.commit(doing, move |tx| swap(tx.conn, &id, expected, &state)).await?;
        // Not the transaction's time: that of the reply, which comes after the disk has it.
        let now = self.inner.clock.now();
        Ok(match outcome {
            Outcome::Swapped(version) => Swap::Swapped { version, now },
            Outcome::Stale(version, state) => Swap::Stale(Shared { version, state, now }),
        })
    }
}

/// A [`Swap`] before its time is known.
enum Outcome {
    Swapped(Version),
    Stale(Version, Bytes),
}

fn swap(conn: &Connection, id: &str, expected: Version, state: &[u8]) -> rusqlite::Result<Outcome> {
    let changed = if expected == Version(0) {
        conn.prepare_cached("INSERT INTO lane (id, version, state) VALUES (?1, 1, ?2) ON CONFLICT (id) DO NOTHING")?
            .execute(params![id, state])?
    } else {
        conn.prepare_cached("UPDATE lane SET version = version + 1, state = ?3 WHERE id = ?1 AND version = ?2")?
            .execute(params![id, int(expected.0), state])?
    };
    if changed == 1 {
        return Ok(Outcome::Swapped(Version(expected.0 + 1)));
    }
    let (version, state) = standing(conn, id)?;
    Ok(Outcome::Stale(version, state))
}

fn standing(conn: &Connection, id: &str) -> rusqlite::Result<(Version, Bytes)> {
    let row = conn
        .prepare_cached("SELECT version, state FROM lane WHERE id = ?1")?
        .query_row([id], |row| Ok((Version(row.get::<_, i64>(0)?.unsigned_abs()), row.get::<_, Vec<u8>>(1)?.into())))
        .optional()?;
    Ok(row.unwrap_or_default())
}
