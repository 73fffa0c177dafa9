//! How does a batch go from a fleet without a trace? Marked first, in the index of batches; then its jobs' rows, as its rolls and
//! results name them, then its objects, then its counts; and the entry in the index last, so that whoever finds it marked carries on.
//!
//! Memory holds one part of a roll, or one page of a listing. Bodies of large jobs stay: they are named by content, and may be
//! another batch's too; a lifecycle rule of the bucket removes them. So do messages: SQS does not give them out by batch.

use std::sync::Arc;

use aws_sdk_dynamodb::types::{DeleteRequest, WriteRequest};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use super::batches::{self, Standing};
use super::listing::{self, Listing};
use super::parts::rounds;
use super::rolls::{Place, Rolls};
use super::segment_lines::SegmentLines;
use super::segments::in_key;
use super::table::{self, ALONE, BATCHES, Fields, Item, number};
use super::transact::pauses;
use super::update::Update;
use super::{Fleet, Inner, look_up, mark, report, trouble};
use crate::job::ident::{BatchKey, BatchName};
use crate::ports::{StoreError, StoreTrouble};

const DOING: &str = "forgetting a batch";
/// Items that DynamoDB writes in one call, and objects that S3 deletes in one (sources: their quotas).
const ROWS: usize = 25;
const OBJECTS: usize = 1_000;
/// The attribute of a batch in the index that is on its way out.
const GOING: &str = "going";

/// What was purged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Forgotten {
    /// Rows of jobs.
    pub jobs: u64,
    /// Objects: results, rolls and manifests.
    pub objects: u64,
}

/// Why a batch was not purged, or not wholly.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unforgotten {
    /// There is no such batch, or it is not complete; nothing was touched.
    #[error("{0}")]
    NotYet(String),
    /// What a service said.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Fleet {
    /// Purges a complete batch, of all its tenants: rows, results, rolls, manifests and counts. Interrupted, it may be repeated.
    ///
    /// # Errors
    /// See [`Unforgotten`].
    pub async fn forget(&self, batch: &BatchName) -> Result<Forgotten, Unforgotten> {
        let inner = &self.inner;
        let entries = look_up::partition(inner, DOING, BATCHES).await?;
        let mut keys: Vec<(BatchKey, bool)> = Vec::new();
        for item in &entries {
            let (key, _) = report::indexed(item)?;
            if key.batch == *batch {
                keys.push((key, Fields(item).count::<u8>(GOING)? > 0));
            }
        }
        if keys.is_empty() {
            return Err(Unforgotten::NotYet(format!("there is no batch {batch}")));
        }
        let mut ended = 0;
        for (key, is_going) in &keys {
            let standing = batches::standing(inner, key).await?;
            if !is_going && let Some(why) = why_not(batch, &standing) {
                return Err(Unforgotten::NotYet(why));
            }
            ended += standing.counts.ended();
        }
        for (key, _) in &keys {
            let entry = table::key(BATCHES.to_owned(), table::batch_sk(key));
            Update::default().set(GOING, number(1)).carry_out(inner, DOING, entry).await?;
        }
        let jobs = forget_jobs(inner, batch, ended).await?;
        let mut objects = 0;
        for (key, _) in &keys {
            objects += forget_parts(inner, key).await?;
        }
        objects += forget_objects(inner, batch).await?;
        for (key, _) in &keys {
            let pk = table::batch_pk(key);
            let counts = look_up::partition(inner, DOING, &pk).await?;
            remove(inner, counts.iter().map(key_of).collect::<Result<_, _>>()?).await?;
        }
        let marks = look_up::partition(inner, DOING, &mark::pk(batch)).await?;
        remove(inner, marks.iter().map(key_of).collect::<Result<_, _>>()?).await?;
        let entries = keys.iter().map(|(key, _)| table::key(BATCHES.to_owned(), table::batch_sk(key)));
        remove(inner, entries.collect()).await?;
        Ok(Forgotten { jobs, objects })
    }
}

fn why_not(batch: &BatchName, standing: &Standing) -> Option<String> {
    let Some(seal) = &standing.head.seal else {
        return Some(format!("{batch} is not complete: nobody said yet that all of it is sent"));
    };
    let open = seal.total.saturating_sub(standing.counts.ended());
    if open > 0 {
        return Some(format!("{open} jobs of {batch} have not ended"));
    }
    let is_news = standing.waits_for_announcement().is_some();
    is_news.then(|| format!("{batch} is complete, and no worker has announced it yet"))
}

/// Removes the row of every job that the batch is known to have had; how many those are. `ended` are counted: if the rolls name
/// that many, there are no others.
async fn forget_jobs(inner: &Arc<Inner>, batch: &BatchName, ended: u64) -> Result<u64, StoreError> {
    let mut count = 0;
    let mut rolls = Rolls::of_all(inner, batch).await?;
    while let Some(part) = rolls.next_part().await? {
        let jobs = part.iter().filter_map(|place| match place {
            Place::Job(job) => Some(table::job(job)),
            Place::Refused(_) => None,
        });
        count += remove(inner, jobs.collect()).await?;
    }
    // Counts that are gone already say nothing.
    if count >= ended && ended > 0 {
        return Ok(count);
    }
    let mut segments = SegmentLines::of(inner, batch, None).await?;
    while let Some(lines) = segments.next().await? {
        count += remove(inner, lines.iter().map(|line| table::job(&line.job)).collect()).await?;
    }
    Ok(count)
}

/// Removes what the jobs of a batch had as parts; how many objects. Their rows are no jobs that anybody counted.
async fn forget_parts(inner: &Arc<Inner>, batch: &BatchKey) -> Result<u64, StoreError> {
    let mut objects = 0;
    for round in rounds::of_batch(inner, batch).await? {
        let parts = BatchKey { tenant: batch.tenant.clone(), batch: round.batch.clone() };
        forget_jobs(inner, &parts.batch, 0).await?;
        objects += forget_objects(inner, &parts.batch).await?;
        let counts = look_up::partition(inner, DOING, &table::batch_pk(&parts)).await?;
        remove(inner, counts.iter().map(key_of).collect::<Result<_, _>>()?).await?;
        remove(inner, vec![rounds::key_of(&round)]).await?;
    }
    Ok(objects)
}

async fn forget_objects(inner: &Inner, batch: &BatchName) -> Result<u64, StoreError> {
    let (prefix, name) = (&inner.settings.prefix, in_key(batch.as_str()));
    let days = listing::folders(inner, DOING, &format!("{prefix}results/")).await?;
    let results = days.into_iter().map(|day| format!("{day}batch={name}/"));
    // Rolls last: they name the jobs.
    let others = ["manifests", "rolls"].map(|kind| format!("{prefix}{kind}/batch={name}/"));
    let mut count = 0;
    for below in results.chain(others) {
        let mut listing = Listing::below(below);
        let mut keys = Vec::new();
        while let Some(object) = listing.next(inner, DOING).await? {
            keys.push(object.key);
            if keys.len() == OBJECTS {
                count += remove_objects(inner, std::mem::take(&mut keys)).await?;
            }
        }
        count += remove_objects(inner, keys).await?;
    }
    Ok(count)
}

async fn remove_objects(inner: &Inner, keys: Vec<Box<str>>) -> Result<u64, StoreError> {
    if keys.is_empty() {
        return Ok(0);
    }
    let unbuilt =
        |error: aws_sdk_s3::error::BuildError| trouble::of_ours(StoreTrouble::Other, DOING, error.to_string());
    let objects = keys.iter().map(|key| ObjectIdentifier::builder().key(&**key).build());
    let objects = objects.collect::<Result<Vec<_>, _>>().map_err(unbuilt)?;
    let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build().map_err(unbuilt)?;
    let deleted = inner.clients.s3.delete_objects().bucket(&inner.settings.bucket).delete(delete).send().await;
    let deleted = deleted.map_err(|error| trouble::of_sdk(DOING, &error))?;
    match deleted.errors().first() {
        None => Ok(keys.len() as u64),
        Some(first) => {
            let (key, code) = (first.key().unwrap_or_default(), first.code());
            let why = format!("{key}: {}", first.message().or(code).unwrap_or_default());
            Err(trouble::of_ours(trouble::of_code(code), DOING, why))
        }
    }
}

/// Removes these items, whether or not they are there; how many were asked for.
async fn remove(inner: &Inner, keys: Vec<Item>) -> Result<u64, StoreError> {
    let name = &inner.settings.table;
    let requests = keys.iter().map(|key| {
        let delete = DeleteRequest::builder().set_key(Some(key.clone())).build();
        delete.map(|delete| WriteRequest::builder().delete_request(delete).build())
    });
    let requests: Result<Vec<WriteRequest>, _> = requests.collect();
    let mut left = requests.map_err(|error| trouble::of_ours(StoreTrouble::Other, DOING, error.to_string()))?;
    let mut pauses = pauses();
    while !left.is_empty() {
        let now = left.split_off(left.len().saturating_sub(ROWS));
        let asked = now.len();
        let reply = inner.clients.dynamodb.batch_write_item().request_items(name, now).send().await;
        let reply = reply.map_err(|error| trouble::of_sdk(DOING, &error))?;
        let over = reply.unprocessed_items.and_then(|mut tables| tables.remove(name)).unwrap_or_default();
        if over.len() == asked {
            let Some(pause) = pauses.next() else {
                return Err(trouble::of_ours(StoreTrouble::Away, DOING, "the table is asked for too much at once"));
            };
            tokio::time::sleep(pause).await;
        }
        left.extend(over);
    }
    Ok(keys.len() as u64)
}

fn key_of(item: &Item) -> Result<Item, StoreError> {
    let fields = Fields(item);
    let pk = table::needed("pk", fields.text("pk")?)?.to_owned();
    Ok(table::key(pk, fields.text("sk")?.unwrap_or(ALONE)))
}
