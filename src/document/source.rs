//! Where do a document's bytes come from? A file of this machine; for the worker of a fleet, an object in S3.

use std::io;
use std::path::Path;

use bytes::Bytes;
use tokio::io::AsyncReadExt as _;

use crate::job::document::Document;
use crate::job::failure::{Class, Failure};
use crate::job::ident::Digest;
use crate::ports::{Sources, Unopened};

/// A file of this size is read, and no larger one.
pub const FILE_BYTES: u64 = 64 << 20;

/// The bytes of a document, if they are those that were meant.
///
/// # Errors
/// [`Unopened`].
pub(super) async fn load(document: &Document, sources: Option<&dyn Sources>) -> Result<Bytes, Unopened> {
    let bytes = match sources {
        Some(sources) => sources.fetch(&document.source, document.version.as_deref(), FILE_BYTES).await?,
        None => Bytes::from(read(Path::new(&document.source)).await?),
    };
    if document.sha256.is_some_and(|meant| Digest::of(&bytes) != meant) {
        let why = "the file was changed after it was queued (its digest is another); send it again".to_owned();
        return Err(refused(Class::BadInput, why));
    }
    Ok(bytes)
}

async fn read(path: &Path) -> Result<Vec<u8>, Unopened> {
    let trouble = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput => refused(
            Class::BadInput,
            "there is no such file: a path counts from where the worker was started".to_owned(),
        ),
        io::ErrorKind::PermissionDenied => refused(Class::BadInput, "the file may not be read by this user".to_owned()),
        io::ErrorKind::IsADirectory => refused(Class::BadInput, "this is a folder; name a file".to_owned()),
        _ => Unopened::Away { why: error.to_string() },
    };
    let file = tokio::fs::File::open(path).await.map_err(trouble)?;
    if !file.metadata().await.map_err(trouble)?.is_file() {
        return Err(refused(Class::BadInput, "this is no file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).await.map_err(trouble)?;
    if bytes.len() as u64 > FILE_BYTES {
        let why = format!("the file is larger than {} MiB; split it into several files", FILE_BYTES >> 20);
        return Err(refused(Class::TooLarge, why));
    }
    Ok(bytes)
}

pub(super) fn refused(class: Class, why: String) -> Unopened {
    Unopened::Refused { failure: Failure::new(class, why), kind: None }
}
