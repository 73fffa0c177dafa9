//! How do very many jobs stand? Their rows, some calls at once.

use std::collections::HashMap;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};

use super::fetch::{self, ROWS};
use super::rows::Row;
use super::table::{self, Item};
use super::{Inner, trouble};
use crate::job::ident::JobKey;
use crate::ports::StoreError;

/// Calls at once.
const CALLS: usize = 8;

/// The rows of these jobs, all that was committed before; a job that nobody has claimed yet has none.
pub(super) async fn rows(
    inner: &Inner,
    doing: &str,
    jobs: impl IntoIterator<Item = JobKey>,
) -> Result<HashMap<JobKey, Row>, StoreError> {
    let jobs: HashMap<String, JobKey> = jobs.into_iter().map(|job| (table::job_pk(&job), job)).collect();
    let partitions: Vec<String> = jobs.keys().cloned().collect();
    let mut calls: Vec<BoxFuture<'_, Result<HashMap<String, Item>, StoreError>>> = Vec::new();
    for partitions in partitions.chunks(ROWS) {
        calls.push(fetch::rows(inner, doing, partitions.to_vec(), &[]).boxed());
    }
    let found: Vec<HashMap<String, Item>> = stream::iter(calls).buffer_unordered(CALLS).try_collect().await?;
    let mut rows = HashMap::with_capacity(jobs.len());
    for (pk, item) in found.iter().flatten() {
        if let Some(job) = jobs.get(pk) {
            rows.insert(job.clone(), Row::read(job, item)?);
        }
    }
    Ok(rows)
}

/// All items of a partition.
pub(super) async fn partition(inner: &Inner, doing: &str, pk: &str) -> Result<Vec<Item>, StoreError> {
    let query = inner.clients.dynamodb.query().table_name(&inner.settings.table).consistent_read(true);
    let query = query.key_condition_expression("pk = :pk").expression_attribute_values(":pk", table::text(pk));
    let items = query.into_paginator().items().send().collect::<Result<Vec<Item>, _>>().await;
    items.map_err(|error| trouble::of_sdk(doing, &error))
}
