//! From which objects was a batch enqueued? Their items stand beside the batch's head, so that what failed can be read again when it
//! is to run again. An object that is enqueued once more, perhaps edited, takes its own place: its newest edition counts.

use super::Inner;
use super::look_up;
use super::table::{self, Fields, needed, text, unreadable};
use super::update::Update;
use crate::job::ident::{BatchKey, Digest};
use crate::ports::StoreError;
use crate::ports::inputs::Edition;
use crate::ports::rolls::Origin;

/// What their sort keys begin with.
const FROM: &str = "from/";

/// Puts one on record.
pub(super) async fn add(inner: &Inner, batch: &BatchKey, origin: &Origin) -> Result<(), StoreError> {
    let Origin { uri, edition: Edition { etag, version }, model } = origin;
    let name = Digest::of(format!("{} {uri}", model.as_deref().unwrap_or_default()).as_bytes());
    let update = Update::default()
        .set("uri", text(uri))
        .set("etag", text(etag))
        .set_or_remove("version", version.as_deref().map(text))
        .set_or_remove("model", model.as_deref().map(text));
    let key = table::key(table::batch_pk(batch), format!("{FROM}{name}"));
    update.carry_out(inner, "recording from where a batch is enqueued", key).await.map(|_| ())
}

/// All of them, in no order.
pub(super) async fn of(inner: &Inner, batch: &BatchKey) -> Result<Vec<Origin>, StoreError> {
    let items = look_up::partition(inner, "reading from where a batch was enqueued", &table::batch_pk(batch)).await?;
    let mut origins = Vec::new();
    for item in &items {
        let fields = Fields(item);
        if !fields.text("sk")?.ok_or_else(|| unreadable("sk"))?.starts_with(FROM) {
            continue;
        }
        let owned = |name| Ok::<_, StoreError>(fields.text(name)?.map(str::to_owned));
        let edition = Edition { etag: needed("etag", owned("etag")?)?, version: owned("version")? };
        origins.push(Origin { uri: needed("uri", owned("uri")?)?, edition, model: owned("model")? });
    }
    Ok(origins)
}
