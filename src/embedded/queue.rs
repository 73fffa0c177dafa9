//! What is to be worked next? SQS's semantics on one small row a message.
//!
//! A message is deliverable while `hidden_until` is null; a partial index keeps those of each batch and model in order,
//! another one those that are hidden by the moment they come back, so that neither a million queued nor thousands in
//! flight slow a delivery down. A receipt handle is the message's id and the count of its deliveries: the next delivery makes
//! it stale by itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::process::Inner;
use super::ready::Wanted;
use super::transaction::Tx;
use super::trouble;
use crate::job::ident::BatchName;
use crate::job::trace::TraceContext;
use crate::job::units::Timestamp;
use crate::ports::{
    BATCH_ENTRIES, Depth, Entry, EntryError, Message, MessageId, Outgoing, Queue, ReceiptHandle, StoreError,
    StoreTrouble,
};

/// How often a waiting receiver looks for what other processes sent.
const LOOK: Duration = Duration::from_millis(250);
/// Lapsed messages made deliverable in one transaction at most.
const PROMOTIONS: i64 = 10_000;
/// Stands for the model of a message whose sender did not name one.
const NO_MODEL: i64 = 0;
/// Larger bodies are refused: far above any model's context, far below what SQLite can hold.
const BODY_LIMIT: usize = 64 << 20;

/// The queue of one batch name, or of all.
#[derive(Clone, Debug)]
pub(super) struct EmbeddedQueue {
    pub(super) inner: Arc<Inner>,
    pub(super) only: Option<BatchName>,
}

#[async_trait]
impl Queue for EmbeddedQueue {
    async fn send(&self, entries: Vec<Outgoing>) -> Result<Vec<Entry<MessageId>>, StoreError> {
        let doing = "sending messages";
        check(doing, entries.len())?;
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let work = move |tx: &mut Tx<'_>| {
            entries
                .iter()
                .map(|entry| {
                    if entry.body.len() > BODY_LIMIT {
                        return Ok(Err(EntryError::Refused(format!("the message is larger than {BODY_LIMIT} bytes"))));
                    }
                    let hidden = (!entry.delay.is_zero()).then(|| tx.now.after(entry.delay));
                    let pool = pool_or_new(tx.conn, &entry.batch)?;
                    let (model, trace) = (entry.model.as_deref(), entry.trace.as_ref());
                    let id = put(tx, pool, model, entry.priority.get(), (&entry.body, trace), hidden)?;
                    Ok(Ok(MessageId(id.to_string())))
                })
                .collect()
        };
        self.inner.committer.commit(doing, work).await
    }

    async fn receive(
        &self,
        max: usize,
        passing_over: &[Arc<str>],
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Message>, StoreError> {
        let doing = "receiving messages";
        check(doing, max)?;
        if max == 0 {
            return Ok(Vec::new());
        }
        let wanted = Arc::new(Wanted { only: self.only.clone(), passing_over: passing_over.to_vec() });
        let end = tokio::time::Instant::now() + wait;
        loop {
            // Before looking, so that nothing can arrive in between unheard.
            let arrival = self.inner.bell.arrivals.notified();
            tokio::pin!(arrival);
            arrival.as_mut().enable();

            let until = self.inner.clock.now().after(visibility);
            let these = Arc::clone(&wanted);
            let work = move |tx: &mut Tx<'_>| take(tx, &these, max, visibility, until);
            let messages = self.inner.committer.commit(doing, work).await?;
            if !messages.is_empty() || tokio::time::Instant::now() >= end {
                return Ok(messages);
            }
            // Looking costs a read; only what may succeed costs a place in the write queue.
            loop {
                let nap = (tokio::time::Instant::now() + LOOK).min(end);
                tokio::select! {
                    () = arrival.as_mut() => break,
                    () = tokio::time::sleep_until(nap) => {}
                }
                let (these, now) = (Arc::clone(&wanted), self.inner.clock.now());
                let look = move |conn: &Connection| these.are_there(conn, now);
                if tokio::time::Instant::now() >= end || self.inner.readers.read(doing, look).await? {
                    break;
                }
            }
        }
    }

    async fn change_visibility(&self, entries: Vec<(ReceiptHandle, Duration)>) -> Result<Vec<Entry>, StoreError> {
        let doing = "changing the visibility of messages";
        check(doing, entries.len())?;
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let work = move |tx: &mut Tx<'_>| {
            entries.iter().map(|(handle, hide)| change(tx, handle, *hide)).collect::<rusqlite::Result<Vec<_>>>()
        };
        self.inner.committer.commit(doing, work).await
    }

    async fn delete(&self, handles: Vec<ReceiptHandle>) -> Result<Vec<Entry>, StoreError> {
        let doing = "deleting messages";
        check(doing, handles.len())?;
        if handles.is_empty() {
            return Ok(Vec::new());
        }
        let work = move |tx: &mut Tx<'_>| {
            handles
                .iter()
                .map(|handle| match held(tx.conn, handle)? {
                    Some(id) => remove(tx.conn, id).map(Ok),
                    None => Ok(Err(EntryError::NotOurs)),
                })
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        self.inner.committer.commit(doing, work).await
    }

    async fn dead_letter(&self, message: &Message, reason: &str) -> Result<Entry, StoreError> {
        let (handle, reason) = (message.handle.clone(), reason.to_owned());
        let work = move |tx: &mut Tx<'_>| {
            let Some(id) = held(tx.conn, &handle)? else { return Ok(Err(EntryError::NotOurs)) };
            tx.conn
                .prepare_cached(
                    "INSERT INTO dead (id, pool, priority, receives, sent, died, reason, text)
                     SELECT id, pool, priority, receives, sent, ?2, ?3, text
                     FROM message JOIN body ON body.message = message.id WHERE id = ?1",
                )?
                .execute(params![id, tx.now.0, reason])?;
            remove(tx.conn, id).map(Ok)
        };
        self.inner.committer.commit("moving a message to the dead letters", work).await
    }

    async fn depth(&self) -> Result<Depth, StoreError> {
        let (only, now) = (self.only.clone(), self.inner.clock.now());
        self.inner.readers.read("counting messages", move |conn| depth(conn, only.as_ref(), now)).await
    }
}

/// The number of a batch name, made if there is none.
pub(super) fn pool_or_new(conn: &Connection, name: &BatchName) -> rusqlite::Result<i64> {
    if let Some(no) = pool(conn, name)? {
        return Ok(no);
    }
    conn.prepare_cached("INSERT INTO pool (name) VALUES (?1)")?.execute([name.as_str()])?;
    Ok(conn.last_insert_rowid())
}

/// The number of a batch name.
pub(super) fn pool(conn: &Connection, name: &BatchName) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT no FROM pool WHERE name = ?1")?.query_row([name.as_str()], |row| row.get(0)).optional()
}

/// Puts a message into the queue, with the trace that it belongs to; its id.
pub(super) fn put(
    tx: &mut Tx<'_>,
    pool: i64,
    model: Option<&str>,
    priority: u8,
    (body, trace): (&str, Option<&TraceContext>),
    hidden_until: Option<Timestamp>,
) -> rusqlite::Result<i64> {
    let id = tx.next_message()?;
    let model = model.map_or(Ok(NO_MODEL), |name| tx.model_or_new(name))?;
    tx.conn
        .prepare_cached(
            "INSERT INTO message (id, pool, model, priority, seq, hidden_until, receives, sent, trace)
             VALUES (?1, ?2, ?3, ?4, ?1, ?5, 0, ?6, ?7)",
        )?
        .execute(params![
            id,
            pool,
            model,
            priority,
            hidden_until.map(|until| until.0),
            tx.now.0,
            trace.map(ToString::to_string)
        ])?;
    tx.conn.prepare_cached("INSERT INTO body (message, text) VALUES (?1, ?2)")?.execute(params![id, body])?;
    tx.effects.arrived |= hidden_until.is_none();
    Ok(id)
}

/// Removes a message and its body.
pub(super) fn remove(conn: &Connection, id: i64) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM message WHERE id = ?1")?.execute([id])?;
    conn.prepare_cached("DELETE FROM body WHERE message = ?1")?.execute([id])?;
    Ok(())
}

/// Makes what a dead process held deliverable, behind what waits already: should it be the jobs that kill,
/// the next process does not begin with the same ones.
pub(super) fn release_held_by(tx: &mut Tx<'_>, epoch: i64) -> rusqlite::Result<()> {
    let held: Vec<i64> = tx
        .conn
        .prepare_cached("SELECT id FROM message WHERE hidden_until IS NOT NULL AND epoch = ?1 ORDER BY seq")?
        .query_map([epoch], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for id in held {
        let seq = tx.next_message()?;
        tx.conn
            .prepare_cached("UPDATE message SET hidden_until = NULL, epoch = NULL, seq = ?2 WHERE id = ?1")?
            .execute([id, seq])?;
        tx.effects.arrived = true;
    }
    Ok(())
}

fn check(doing: &str, entries: usize) -> Result<(), StoreError> {
    if entries <= BATCH_ENTRIES {
        return Ok(());
    }
    let why = format!("{entries} entries in one call, at most {BATCH_ENTRIES} are allowed");
    Err(trouble::of_ours(StoreTrouble::Other, doing, why))
}

fn take(
    tx: &mut Tx<'_>,
    wanted: &Wanted,
    max: usize,
    visibility: Duration,
    until: Timestamp,
) -> rusqlite::Result<Vec<Message>> {
    if !tx.promoted {
        tx.promoted = true;
        promote(tx)?;
    }
    let hidden = tx.now.after(visibility);
    let mut messages = Vec::new();
    for id in wanted.next(tx.conn, max)? {
        let (receives, sent, body, trace) = tx
            .conn
            .prepare_cached(
                "UPDATE message SET hidden_until = ?2, epoch = ?3, receives = receives + 1 WHERE id = ?1
                 RETURNING receives, sent, (SELECT text FROM body WHERE body.message = message.id), trace",
            )?
            .query_row(params![id, hidden.0, tx.epoch], |row| {
                let trace: Option<String> = row.get(3)?;
                Ok((row.get::<_, u32>(0)?, Timestamp(row.get(1)?), row.get::<_, String>(2)?, trace))
            })?;
        messages.push(Message {
            handle: ReceiptHandle(format!("{id}.{receives}")),
            id: MessageId(id.to_string()),
            body,
            receives,
            sent,
            hidden_until: until.min(hidden),
            sender: None,
            trace: trace.and_then(|trace| trace.parse().ok()),
        });
    }
    Ok(messages)
}

fn promote(tx: &mut Tx<'_>) -> rusqlite::Result<()> {
    tx.conn
        .prepare_cached(
            "UPDATE message SET hidden_until = NULL, epoch = NULL WHERE id IN
                (SELECT id FROM message WHERE hidden_until <= ?1 ORDER BY hidden_until LIMIT ?2)",
        )?
        .execute([tx.now.0, PROMOTIONS])?;
    Ok(())
}

/// The id of the message, if the handle is its newest.
fn held(conn: &Connection, handle: &ReceiptHandle) -> rusqlite::Result<Option<i64>> {
    let Some((id, receives)) = handle.0.split_once('.') else { return Ok(None) };
    let (Ok(id), Ok(receives)) = (id.parse::<i64>(), receives.parse::<i64>()) else { return Ok(None) };
    conn.prepare_cached("SELECT id FROM message WHERE id = ?1 AND receives = ?2")?
        .query_row([id, receives], |row| row.get(0))
        .optional()
}

fn change(tx: &mut Tx<'_>, handle: &ReceiptHandle, hide: Duration) -> rusqlite::Result<Entry> {
    let Some(id) = held(tx.conn, handle)? else { return Ok(Err(EntryError::NotOurs)) };
    let (until, epoch) = if hide.is_zero() {
        tx.effects.arrived = true;
        (None, None)
    } else {
        (Some(tx.now.after(hide).0), Some(tx.epoch))
    };
    tx.conn
        .prepare_cached("UPDATE message SET hidden_until = ?2, epoch = ?3 WHERE id = ?1")?
        .execute(params![id, until, epoch])?;
    Ok(Ok(()))
}

fn depth(conn: &Connection, only: Option<&BatchName>, now: Timestamp) -> rusqlite::Result<Depth> {
    let number = match only {
        Some(name) => Some(pool(conn, name)?.unwrap_or(-1)),
        None => None,
    };
    let count = |sql: &str| -> rusqlite::Result<u64> {
        let found: i64 = conn.prepare_cached(sql)?.query_row(params![number, now.0], |row| row.get(0))?;
        Ok(found.unsigned_abs())
    };
    let of_pool = "(?1 IS NULL OR pool = ?1)";
    Ok(Depth {
        ready: count(&format!("SELECT count(*) FROM message WHERE hidden_until IS NULL AND {of_pool} AND ?2 = ?2"))?
            + count(&format!("SELECT count(*) FROM message WHERE hidden_until <= ?2 AND {of_pool}"))?,
        in_flight: count(&format!(
            "SELECT count(*) FROM message WHERE hidden_until > ?2 AND epoch IS NOT NULL AND {of_pool}"
        ))?,
        delayed: count(&format!(
            "SELECT count(*) FROM message WHERE hidden_until > ?2 AND epoch IS NULL AND {of_pool}"
        ))?,
        dead: count(&format!("SELECT count(*) FROM dead WHERE {of_pool} AND ?2 = ?2"))?,
    })
}
