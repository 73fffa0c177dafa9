//! What lies in the bucket? Names in the order of keys, a page at a time, so that memory does not grow with them.

use std::collections::VecDeque;

use super::{Inner, trouble};
use crate::ports::StoreError;

/// An object in a listing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Listed {
    /// When it was written last, in seconds since 1970: S3 says no more.
    pub(super) written_s: i64,
    pub(super) key: Box<str>,
    pub(super) bytes: u64,
}

/// The objects below a prefix, in the order of their keys, a page at a time.
#[derive(Debug)]
pub(super) struct Listing {
    prefix: String,
    page: VecDeque<Listed>,
    /// From where the next page goes on; `None` at the end.
    more: Option<Option<String>>,
}

impl Listing {
    pub(super) fn below(prefix: String) -> Self {
        Self { prefix, page: VecDeque::new(), more: Some(None) }
    }

    pub(super) async fn next(&mut self, inner: &Inner, doing: &str) -> Result<Option<Listed>, StoreError> {
        while self.page.is_empty() {
            let Some(token) = self.more.take() else { return Ok(None) };
            match page(inner, doing, &self.prefix, token.clone()).await {
                Ok((page, next)) => {
                    self.page = page.into();
                    self.more = next.map(Some);
                }
                Err(error) => {
                    // Whoever asks again gets the same page.
                    self.more = Some(token);
                    return Err(error);
                }
            }
        }
        Ok(self.page.pop_front())
    }
}

/// The first objects below a prefix, a thousand at most.
pub(super) async fn first(inner: &Inner, doing: &str, prefix: &str) -> Result<Vec<Listed>, StoreError> {
    page(inner, doing, prefix, None).await.map(|(listed, _)| listed)
}

/// The page that begins there, and from where the next goes on.
async fn page(
    inner: &Inner,
    doing: &str,
    prefix: &str,
    from: Option<String>,
) -> Result<(Vec<Listed>, Option<String>), StoreError> {
    let list = inner.clients.s3.list_objects_v2().bucket(&inner.settings.bucket).prefix(prefix);
    let listed = list.set_continuation_token(from).send().await.map_err(|error| trouble::of_sdk(doing, &error))?;
    let objects = listed.contents().iter().filter_map(|object| {
        let written_s = object.last_modified().map_or(0, aws_smithy_types::DateTime::secs);
        let bytes = object.size().unwrap_or_default().unsigned_abs();
        Some(Listed { written_s, key: object.key()?.into(), bytes })
    });
    Ok((objects.collect(), listed.next_continuation_token().map(str::to_owned)))
}

/// The names right below a prefix that lead further down, each with its `/`.
pub(super) async fn folders(inner: &Inner, doing: &str, prefix: &str) -> Result<Vec<String>, StoreError> {
    let list = inner.clients.s3.list_objects_v2().bucket(&inner.settings.bucket).prefix(prefix).delimiter("/");
    let mut pages = list.into_paginator().send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| trouble::of_sdk(doing, &error))?;
        found.extend(page.common_prefixes().iter().filter_map(|folder| folder.prefix()).map(str::to_owned));
    }
    Ok(found)
}
