//! What did an input hold, line by line in its order? The roll says so long after the input is gone: results and manifests
//! follow it. And how far did whoever enqueued it come? The mark says that, so that a rerun goes on from there.
//!
//! ```text
//! s3://bucket/prefix/rolls/batch=reviews/4f0c2a9d11e2b874/000000.jsonl
//!     {"position":0,"id":"o-1","tenant":"acme"}
//!     {"position":1,"id":"line-2","tenant":"acme","result":{...}}       (a line that is no job: its result, complete)
//! pk roll/reviews   sk of/acme   roll=4f0c.. parts=3 lines=15000 dig=.. totals={"acme":[14998,2]} earlier="91b2.." ver=4 own=5f3a..
//! ```
//!
//! A part is written when the messages of its lines have been sent, and the mark after it: what the mark counts is sent. A rerun
//! compares the digest of its first lines with the mark's; if it is the same input, perhaps with more lines, only the rest is sent,
//! and what was sent twice is one job all the same. A batch that gets another input gets another roll.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde_json::value::RawValue;

use super::mark::{self, Mark};
use super::objects::Objects;
use super::rolls::{Place, Rolls};
use super::segments::in_key;
use super::upload::JSON_LINES;
use super::{Inner, batches, origins, redrive, trouble};
use crate::job::control::Seal;
use crate::job::ident::{BatchKey, BatchName, Digest, JobKey, RollId, Tenant, short_name};
use crate::ports::rolls::{self, AlreadySent, LineContent, Origin, Redriven, RollLine};
use crate::ports::{StoreError, StoreTrouble};

/// The rolls of a fleet's batches.
#[derive(Debug)]
pub(super) struct FleetRolls {
    pub(super) inner: Arc<Inner>,
}

#[async_trait]
impl rolls::Rolls for FleetRolls {
    async fn begin(&self, batch: &BatchName, of: Option<&Tenant>) -> Result<Box<dyn rolls::Roll>, StoreError> {
        let mark = mark::to_go_on(&self.inner, batch, of).await?;
        Ok(Box::new(Roll { inner: Arc::clone(&self.inner), batch: batch.clone(), mark, known: None }))
    }

    async fn redrive(&self, job: &JobKey, content: Digest, request: Option<&str>) -> Result<Redriven, StoreError> {
        redrive::redrive(&self.inner, job, Some(content), request).await
    }

    async fn is_unfinished(&self, batch: &BatchKey) -> Result<bool, StoreError> {
        let standing = batches::standing(&self.inner, batch).await?;
        let is_open = standing.head.seal.as_ref().is_none_or(|seal| standing.counts.ended() < seal.total);
        Ok(is_open || standing.counts.failed + standing.counts.expired > 0)
    }

    async fn note_origin(&self, batch: &BatchKey, origin: &Origin) -> Result<(), StoreError> {
        origins::add(&self.inner, batch, origin).await
    }

    async fn origins(&self, batch: &BatchKey) -> Result<Vec<Origin>, StoreError> {
        origins::of(&self.inner, batch).await
    }
}

/// The list of an input, in the making.
#[derive(Debug)]
struct Roll {
    inner: Arc<Inner>,
    batch: BatchName,
    mark: Mark,
    /// Jobs of the batch's earlier rolls: they count only once. Not read before it is needed.
    known: Option<HashSet<u128>>,
}

#[async_trait]
impl rolls::Roll for Roll {
    fn already_sent(&self) -> Option<AlreadySent> {
        let Mark { lines, digest, sealed, .. } = self.mark;
        digest.map(|digest| AlreadySent { lines, digest, sealed })
    }

    fn start_over(&mut self) -> Result<(), StoreError> {
        if self.already_sent().is_some_and(|sent| !sent.sealed) {
            let why = format!(
                "{} lines of another input are sent already, and not all of it: enqueue that one again, or name another batch",
                self.mark.lines
            );
            return Err(trouble::of_ours(StoreTrouble::Denied, "enqueueing a batch", why));
        }
        self.mark = self.mark.next();
        self.known = None;
        Ok(())
    }

    async fn part(&mut self, part: &[RollLine], lines: u64, digest: Digest) -> Result<(), StoreError> {
        let doing = "listing an input";
        if let Some(of) = &self.mark.of
            && let Some(line) = part.iter().find(|line| line.tenant != *of)
        {
            let why = format!(
                "the batch is enqueued for tenant {of} alone, and line {} is of {}: name another batch",
                line.position + 1,
                line.tenant
            );
            return Err(trouble::of_ours(StoreTrouble::Denied, doing, why));
        }
        let mut next = self.mark.clone();
        let fresh = self.count(part, &mut next.totals).await?;
        let key = part_key(&self.inner, &self.batch, &next.roll, next.parts);
        let objects = Objects::new(self.inner.clients.s3.clone(), self.inner.settings.bucket.clone());
        objects.put(doing, &key, JSON_LINES, encode(doing, part)?).await?;
        next.parts += 1;
        (next.lines, next.digest, next.sealed) = (lines, Some(digest), false);
        self.mark = mark::write(&self.inner, &self.batch, next).await?;
        if let Some(known) = &mut self.known {
            known.extend(fresh);
        }
        Ok(())
    }

    async fn seal(&mut self) -> Result<Seal, StoreError> {
        if self.mark.totals.is_empty() {
            return Err(trouble::of_ours(StoreTrouble::Other, "sealing a batch", "its input holds no line"));
        }
        if !self.mark.sealed {
            let sealed = Mark { sealed: true, ..self.mark.clone() };
            self.mark = mark::write(&self.inner, &self.batch, sealed).await?;
        }
        let totals = self.mark.totals.iter();
        let refused = totals.clone().filter(|(_, (_, refused))| *refused > 0);
        Ok(Seal {
            batch: self.batch.clone(),
            total: totals.map(|(tenant, (jobs, _))| (tenant.clone(), *jobs)).collect(),
            refused: refused.map(|(tenant, (_, refused))| (tenant.clone(), *refused)).collect(),
            roll: Some(self.mark.roll.clone()),
            callback: None,
        })
    }
}

impl Roll {
    /// Adds the lines to each tenant's totals; the jobs that are new to the batch.
    async fn count(
        &mut self,
        part: &[RollLine],
        totals: &mut BTreeMap<Tenant, (u64, u64)>,
    ) -> Result<Vec<u128>, StoreError> {
        if self.known.is_none() && !self.mark.earlier.is_empty() {
            self.known = Some(self.earlier_jobs().await?);
        }
        let mut fresh = Vec::new();
        for line in part {
            let (jobs, refused) = totals.entry(line.tenant.clone()).or_default();
            match &line.content {
                LineContent::Refused { .. } => *refused += 1,
                LineContent::Job(id) => {
                    let name = short_name(&line.tenant, id);
                    if self.known.as_ref().is_none_or(|known| !known.contains(&name)) {
                        *jobs += 1;
                        fresh.push(name);
                    }
                }
            }
        }
        Ok(fresh)
    }

    async fn earlier_jobs(&self) -> Result<HashSet<u128>, StoreError> {
        let mut known = HashSet::new();
        let mut earlier = Rolls::new(&self.inner, &self.batch, self.mark.earlier.clone(), 0);
        while let Some(part) = earlier.next_part().await? {
            known.extend(part.into_iter().filter_map(|place| match place {
                Place::Job(JobKey { tenant, id, .. }) => Some(short_name(&tenant, &id)),
                Place::Refused(_) => None,
            }));
        }
        Ok(known)
    }
}

/// Where the parts of a roll lie.
pub(super) fn folder(inner: &Inner, batch: &BatchName, roll: &RollId) -> String {
    format!("{}rolls/batch={}/{roll}/", inner.settings.prefix, in_key(batch.as_str()))
}

fn part_key(inner: &Inner, batch: &BatchName, roll: &RollId, part: u64) -> String {
    format!("{}{part:06}.jsonl", folder(inner, batch, roll))
}

/// As it stands in a part; `result` comes last, see [`decode`](super::rolls::decode).
#[derive(Serialize)]
struct Line<'a> {
    position: u64,
    id: &'a str,
    tenant: &'a Tenant,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
}

pub(super) fn encode(doing: &str, part: &[RollLine]) -> Result<Bytes, StoreError> {
    let no_json = |position: u64| {
        trouble::of_ours(StoreTrouble::Other, doing, format!("the result of line {position} is no line of JSON"))
    };
    let mut bytes = BytesMut::new();
    for RollLine { position, tenant, content } in part {
        let (id, result) = match content {
            LineContent::Job(id) => (id.as_str(), None),
            LineContent::Refused { id, result } => {
                let result: &RawValue = serde_json::from_slice(result).map_err(|_| no_json(*position))?;
                (id.as_str(), Some(result).filter(|result| !result.get().contains('\n')))
            }
        };
        if matches!(content, LineContent::Refused { .. }) && result.is_none() {
            return Err(no_json(*position));
        }
        let line = serde_json::to_vec(&Line { position: *position, id, tenant, result });
        bytes.extend_from_slice(&line.map_err(|_| no_json(*position))?);
        bytes.extend_from_slice(b"\n");
    }
    Ok(bytes.freeze())
}
