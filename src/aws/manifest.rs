//! Which jobs made up a batch that is complete, and where does each result lie?
//!
//! The manifest is written before the batch is announced: one line a job, in the order of its newest input, then those that only
//! earlier inputs held, then those that no input of `aquifer enqueue` held. A batch that only producers sent has no list: there all
//! lines stand in the order in which results were written. Written again after a crash, it is the same object.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;

use super::batches::Standing;
use super::rolls::{Place, Refused, Rolls};
use super::segment_lines::SegmentLines;
use super::segments::in_key;
use super::upload::Upload;
use super::{Inner, look_up, trouble};
use crate::job::ident::{BatchKey, Digest, JobKey, short_name};
use crate::job::lifecycle::Status;
use crate::job::outcome::Pointer;
use crate::ports::{StoreError, StoreTrouble};

const DOING: &str = "writing a manifest";

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    status: &'a str,
    object: &'a str,
    offset: u64,
    length: u64,
    sha256: Digest,
}

/// Writes the manifest of that completion of a batch that stands so; its URI.
pub(super) async fn of(
    inner: &Arc<Inner>,
    batch: &BatchKey,
    standing: &Standing,
    completion: u64,
) -> Result<String, StoreError> {
    let (name, tenant) = (in_key(batch.batch.as_str()), in_key(batch.tenant.as_str()));
    let key = format!("{}manifests/batch={name}/{tenant}-{completion}.jsonl", inner.settings.prefix);
    let uri = format!("s3://{}/{key}", inner.settings.bucket);
    let mut manifest = Manifest { inner, batch, upload: Upload::new(DOING, key), jobs: 0 };
    match manifest.write(standing.counts.ended()).await {
        Ok(()) => manifest.upload.finish(inner).await.map(|()| uri),
        Err(error) => {
            manifest.upload.abort(inner).await;
            Err(error)
        }
    }
}

struct Manifest<'a> {
    inner: &'a Arc<Inner>,
    batch: &'a BatchKey,
    upload: Upload,
    /// Of those that have ended, so many are written.
    jobs: u64,
}

impl Manifest<'_> {
    async fn write(&mut self, ended: u64) -> Result<(), StoreError> {
        if let Some(mut rolls) = Rolls::of_batch(self.inner, self.batch).await? {
            while let Some(part) = rolls.next_part().await? {
                self.write_part(part).await?;
            }
        }
        if self.jobs < ended { self.write_unlisted().await } else { Ok(()) }
    }

    async fn write_part(&mut self, mut part: Vec<Place>) -> Result<(), StoreError> {
        part.retain(|place| *tenant_of(place) == self.batch.tenant);
        let jobs = part.iter().filter_map(|place| match place {
            Place::Job(job) => Some(job.clone()),
            Place::Refused(_) => None,
        });
        let rows = look_up::rows(self.inner, DOING, jobs).await?;
        for place in part {
            match place {
                Place::Refused(Refused { id, pointer, .. }) => {
                    self.write_line(&id, Status::Rejected, &pointer).await?;
                }
                Place::Job(job) => {
                    // Redriven since, or sent for an input that is only now being enqueued.
                    let Some(row) = rows.get(&job).and_then(|row| row.ended.as_ref()) else { continue };
                    self.jobs += 1;
                    self.write_line(job.id.as_str(), row.ending.status, &row.ending.result).await?;
                }
            }
        }
        Ok(())
    }

    /// What producers sent, whether or not somebody enqueued an input to the same batch.
    async fn write_unlisted(&mut self) -> Result<(), StoreError> {
        let BatchKey { tenant, batch } = self.batch;
        let mut listed = HashSet::new();
        if self.jobs > 0
            && let Some(mut rolls) = Rolls::of_batch(self.inner, self.batch).await?
        {
            while let Some(part) = rolls.next_part().await? {
                listed.extend(part.iter().filter_map(|place| match place {
                    Place::Job(JobKey { tenant, id, .. }) => Some(short_name(tenant, id)),
                    Place::Refused(_) => None,
                }));
            }
        }
        let mut segments = SegmentLines::of(self.inner, batch, Some(tenant)).await?;
        while let Some(lines) = segments.next().await? {
            for line in lines {
                if !listed.contains(&short_name(&line.job.tenant, &line.job.id)) {
                    self.write_line(line.job.id.as_str(), line.status, &line.pointer).await?;
                }
            }
        }
        Ok(())
    }

    async fn write_line(&mut self, id: &str, status: Status, at: &Pointer) -> Result<(), StoreError> {
        let Pointer { uri, offset, length, sha256 } = at;
        let line = Line { id, status: status.word(), object: uri, offset: *offset, length: *length, sha256: *sha256 };
        let mut line = serde_json::to_vec(&line)
            .map_err(|error| trouble::of_ours(StoreTrouble::Other, DOING, error.to_string()))?;
        line.push(b'\n');
        self.upload.write(self.inner, &line).await
    }
}

fn tenant_of(place: &Place) -> &crate::job::ident::Tenant {
    match place {
        Place::Job(job) => &job.tenant,
        Place::Refused(refused) => &refused.tenant,
    }
}
