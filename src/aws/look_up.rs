//! How do very many jobs stand? Their rows, a hundred to a call and some calls at once.

use std::collections::{HashMap, HashSet};

use aws_sdk_dynamodb::types::KeysAndAttributes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::rows::Row;
use super::table::{self, Item};
use super::transact::pauses;
use super::{Inner, trouble};
use crate::job::ident::JobKey;
use crate::ports::{StoreError, StoreTrouble};

/// Rows to a call (source: DynamoDB's quotas).
const ROWS: usize = 100;
/// Calls at once.
const CALLS: usize = 8;

/// The rows of these jobs, all that was committed before; a job that nobody has claimed yet has none.
pub(super) async fn rows(
    inner: &Inner,
    doing: &str,
    jobs: impl IntoIterator<Item = JobKey>,
) -> Result<HashMap<JobKey, Row>, StoreError> {
    let jobs: HashMap<String, JobKey> = jobs.into_iter().map(|job| (table::job_pk(&job), job)).collect();
    let keys: Vec<Item> = jobs.values().map(table::job).collect();
    let calls = keys.chunks(ROWS).map(|keys| items(inner, doing, keys.to_vec()));
    let found: Vec<Vec<Item>> = stream::iter(calls).buffer_unordered(CALLS).try_collect().await?;
    let mut rows = HashMap::with_capacity(jobs.len());
    for item in found.iter().flatten() {
        let pk = table::needed("pk", table::Fields(item).text("pk")?)?;
        if let Some(job) = jobs.get(pk) {
            rows.insert(job.clone(), Row::read(job, item)?);
        }
    }
    Ok(rows)
}

/// At most [`ROWS`] items, by different keys; what is not there is left out.
pub(super) async fn items(inner: &Inner, doing: &str, keys: Vec<Item>) -> Result<Vec<Item>, StoreError> {
    let table = &inner.settings.table;
    let mut pauses = pauses();
    let (mut wanted, mut found) = (keys, Vec::new());
    while !wanted.is_empty() {
        let ask = KeysAndAttributes::builder().set_keys(Some(wanted)).consistent_read(true).build();
        let ask = ask.map_err(|error| trouble::of_ours(StoreTrouble::Other, doing, error.to_string()))?;
        let got = inner.clients.dynamodb.batch_get_item().request_items(table, ask).send().await;
        let got = got.map_err(|error| trouble::of_sdk(doing, &error))?;
        found.extend(got.responses.unwrap_or_default().remove(table).unwrap_or_default());
        // What was beyond 16 MB, or asked for too often.
        let left = got.unprocessed_keys.unwrap_or_default().remove(table);
        wanted = left.map_or_else(Vec::new, |left| left.keys);
        if !wanted.is_empty() {
            let busy = || trouble::of_ours(StoreTrouble::Away, doing, "DynamoDB leaves rows unread, again and again");
            tokio::time::sleep(pauses.next().ok_or_else(busy)?).await;
        }
    }
    Ok(found)
}

/// All items of a partition, a page at a time.
pub(super) async fn partition(inner: &Inner, doing: &str, pk: &str) -> Result<Vec<Item>, StoreError> {
    let query = inner.clients.dynamodb.query().table_name(&inner.settings.table).consistent_read(true);
    let query = query.key_condition_expression("pk = :pk").expression_attribute_values(":pk", table::text(pk));
    query.into_paginator().items().send().try_collect().await.map_err(|error| trouble::of_sdk(doing, &error))
}
