//! Who waits for a batch in a workflow? Each task token is an item of its own beside the batch's head, so that any number may wait,
//! none takes the place of another, and each is marked once it is answered: whether it came before the batch was complete or long after.
//!
//! The items stand before the counters and the head in their partition, and a partition is read in its order: who is seen to wait
//! came before what is read behind him, so that nobody is answered with an end from before he asked.

use super::Inner;
use super::table::{self, Item, number, text};
use super::update::Update;
use crate::job::ident::{BatchKey, Digest};
use crate::job::spec::TaskToken;
use crate::ports::StoreError;

/// What the sort keys of those who wait begin with.
pub(super) const ASKS: &str = "asks/";
/// The attribute of the token.
pub(super) const TASK: &str = "task";

/// Puts on record that somebody waits, unless he was answered before. For as long as it takes: a batch may take longer than rows
/// are kept.
pub(super) async fn add(inner: &Inner, batch: &BatchKey, token: &TaskToken) -> Result<(), StoreError> {
    let update = Update::default().set(TASK, text(token.as_str()));
    let update = update.only_if("attribute_not_exists(#answered)", []);
    update.carry_out(inner, "recording who waits for a batch", key(batch, token)).await.map(|_| ())
}

/// Puts on record that he was answered. The item stays: a request that is delivered again is not answered again.
pub(super) async fn answered(inner: &Inner, batch: &BatchKey, token: &TaskToken) -> Result<(), StoreError> {
    let now = inner.clock.now();
    let update = Update::default().set("answered", number(now.0)).remove(TASK);
    let update = update.set("ttl", table::ttl(now, inner.settings.keep));
    update.carry_out(inner, "recording that a batch's token is answered", key(batch, token)).await.map(|_| ())
}

/// A token is longer than a key may be.
fn key(batch: &BatchKey, token: &TaskToken) -> Item {
    table::key(table::batch_pk(batch), format!("{ASKS}{}", Digest::of(token.as_str().as_bytes())))
}
