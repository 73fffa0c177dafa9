//! How are many rows read at once? A hundred to a call; what the service leaves over is asked for again.

use std::collections::{HashMap, HashSet};

use aws_sdk_dynamodb::types::KeysAndAttributes;

use super::table::{self, Fields, Item};
use super::transact::pauses;
use super::{Inner, trouble};
use crate::ports::{StoreError, StoreTrouble};

/// Rows in one call (source: DynamoDB's quotas).
pub(super) const ROWS: usize = 100;

/// The rows of these partitions, by partition, each read after all that was written before; those there are none of are
/// left out. `attributes` are needed of each, all if there are none.
pub(super) async fn rows(
    inner: &Inner,
    doing: &str,
    partitions: impl IntoIterator<Item = String>,
    attributes: &[&str],
) -> Result<HashMap<String, Item>, StoreError> {
    let distinct: HashSet<String> = partitions.into_iter().collect();
    let mut left: Vec<Item> = distinct.into_iter().map(|pk| table::key(pk, table::ALONE)).collect();
    let mut found = HashMap::with_capacity(left.len());
    let mut pauses = pauses();
    while !left.is_empty() {
        let now = left.split_off(left.len().saturating_sub(ROWS));
        let asked = now.len();
        let mut reply = inner
            .clients
            .dynamodb
            .batch_get_item()
            .request_items(&inner.settings.table, request(doing, now, attributes)?)
            .send()
            .await
            .map_err(|error| trouble::of_sdk(doing, &error))?;
        let items = reply.responses.as_mut().and_then(|tables| tables.remove(&inner.settings.table));
        for item in items.unwrap_or_default() {
            let pk = table::needed("pk", Fields(&item).text("pk")?)?.to_owned();
            found.insert(pk, item);
        }
        let over = reply.unprocessed_keys.as_mut().and_then(|tables| tables.remove(&inner.settings.table));
        let over = over.map(|over| over.keys).unwrap_or_default();
        // Some of it, because of its size: the rest can be had at once.
        if over.len() == asked {
            let Some(pause) = pauses.next() else {
                return Err(trouble::of_ours(StoreTrouble::Away, doing, "the table is asked for too much at once"));
            };
            tokio::time::sleep(pause).await;
        }
        left.extend(over);
    }
    Ok(found)
}

fn request(doing: &str, keys: Vec<Item>, attributes: &[&str]) -> Result<KeysAndAttributes, StoreError> {
    let mut request = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true);
    if !attributes.is_empty() {
        let names: Vec<String> = ["pk"].iter().chain(attributes).map(|name| format!("#{name}")).collect();
        request = request.projection_expression(names.join(", "));
        for name in ["pk"].iter().chain(attributes) {
            request = request.expression_attribute_names(format!("#{name}"), *name);
        }
    }
    request.build().map_err(|error| trouble::of_ours(StoreTrouble::Other, doing, error.to_string()))
}
