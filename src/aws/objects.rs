//! How are objects of any size read and written? By ranges, by pages of names, and in parts, so that memory does not grow with
//! what lies in the bucket.

use std::collections::VecDeque;
use std::ops::Range;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};

use super::{Inner, trouble};
use crate::job::outcome::Pointer;
use crate::ports::{StoreError, StoreTrouble};

/// An object beyond this is written in parts, and read in ranges, of this size. Ten thousand parts are the most: 78 GiB.
pub(super) const PART_BYTES: usize = 8 << 20;

/// How pointers and notices name an object.
pub(super) fn uri(inner: &Inner, key: &str) -> String {
    format!("s3://{}/{key}", inner.settings.bucket)
}

/// Bucket and key of a pointer.
pub(super) fn place_of<'p>(doing: &str, pointer: &'p Pointer) -> Result<(&'p str, &'p str), StoreError> {
    let place = pointer.uri.strip_prefix("s3://").and_then(|rest| rest.split_once('/'));
    place.ok_or_else(|| trouble::of_ours(StoreTrouble::Damaged, doing, format!("{} is no object's URI", pointer.uri)))
}

/// All of an object.
pub(super) async fn get(inner: &Inner, doing: &str, key: &str) -> Result<Bytes, StoreError> {
    let get = inner.clients.s3.get_object().bucket(&inner.settings.bucket).key(key);
    let got = get.send().await.map_err(|error| trouble::of_sdk(doing, &error))?;
    collect(doing, got.body).await
}

/// Some bytes of an object; the range is not empty.
pub(super) async fn get_range(
    inner: &Inner,
    doing: &str,
    (bucket, key): (&str, &str),
    range: Range<u64>,
) -> Result<Bytes, StoreError> {
    let bytes = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
    let get = inner.clients.s3.get_object().bucket(bucket).key(key).range(bytes);
    let got = get.send().await.map_err(|error| trouble::of_sdk(doing, &error))?;
    collect(doing, got.body).await
}

async fn collect(doing: &str, body: ByteStream) -> Result<Bytes, StoreError> {
    let body = body.collect().await.map_err(|error| {
        // The connection broke while the body was on its way.
        trouble::of_ours(StoreTrouble::Away, doing, super::clients::in_words(&error))
    })?;
    Ok(body.into_bytes())
}

/// Writes a whole object.
pub(super) async fn put(inner: &Inner, doing: &str, key: &str, body: Bytes) -> Result<(), StoreError> {
    let put = inner.clients.s3.put_object().bucket(&inner.settings.bucket).key(key);
    let put = put.content_type("application/jsonl").body(ByteStream::from(body));
    put.send().await.map_err(|error| trouble::of_sdk(doing, &error))?;
    Ok(())
}

/// An object in a listing.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
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
            let list = inner.clients.s3.list_objects_v2().bucket(&inner.settings.bucket).prefix(&self.prefix);
            let list = list.set_continuation_token(token.clone());
            let listed = match list.send().await {
                Ok(listed) => listed,
                Err(error) => {
                    // Whoever asks again gets the same page.
                    self.more = Some(token);
                    return Err(trouble::of_sdk(doing, &error));
                }
            };
            self.more = listed.next_continuation_token().map(|token| Some(token.to_owned()));
            self.page.extend(listed.contents().iter().filter_map(|object| {
                let written_s = object.last_modified().map_or(0, aws_smithy_types::DateTime::secs);
                let bytes = object.size().unwrap_or_default().unsigned_abs();
                Some(Listed { written_s, key: object.key()?.into(), bytes })
            }));
        }
        Ok(self.page.pop_front())
    }
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

/// An object on its way up: in one piece if it is small, else in parts. It is there when [`Upload::finish`] has returned, and
/// never in half.
#[derive(Debug)]
pub(super) struct Upload {
    doing: &'static str,
    key: String,
    buffer: BytesMut,
    parts: Option<Parts>,
}

#[derive(Debug)]
struct Parts {
    id: String,
    done: Vec<CompletedPart>,
}

impl Upload {
    pub(super) fn new(doing: &'static str, key: String) -> Self {
        Self { doing, key, buffer: BytesMut::new(), parts: None }
    }

    pub(super) async fn write(&mut self, inner: &Inner, bytes: &[u8]) -> Result<(), StoreError> {
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() > PART_BYTES {
            let part = self.buffer.split_to(PART_BYTES).freeze();
            self.send(inner, part).await?;
        }
        Ok(())
    }

    pub(super) async fn finish(mut self, inner: &Inner) -> Result<(), StoreError> {
        let rest = std::mem::take(&mut self.buffer).freeze();
        if self.parts.is_none() {
            return put(inner, self.doing, &self.key, rest).await;
        }
        self.send(inner, rest).await?;
        let Some(Parts { id, done }) = self.parts else { return Ok(()) };
        let parts = CompletedMultipartUpload::builder().set_parts(Some(done)).build();
        let complete = inner.clients.s3.complete_multipart_upload().bucket(&inner.settings.bucket).key(&self.key);
        let complete = complete.upload_id(id).multipart_upload(parts);
        complete.send().await.map_err(|error| trouble::of_sdk(self.doing, &error))?;
        Ok(())
    }

    /// Gives up what was sent; what cannot be given up now, the bucket's lifecycle does (parts of unfinished uploads cost).
    pub(super) async fn abort(self, inner: &Inner) {
        if let Some(Parts { id, .. }) = self.parts {
            let abort = inner.clients.s3.abort_multipart_upload().bucket(&inner.settings.bucket).key(self.key);
            let _ = abort.upload_id(id).send().await;
        }
    }

    async fn send(&mut self, inner: &Inner, bytes: Bytes) -> Result<(), StoreError> {
        let (s3, bucket) = (&inner.clients.s3, &inner.settings.bucket);
        let parts = match &mut self.parts {
            Some(parts) => parts,
            None => {
                let create = s3.create_multipart_upload().bucket(bucket).key(&self.key);
                let created = create.content_type("application/jsonl").send().await;
                let created = created.map_err(|error| trouble::of_sdk(self.doing, &error))?;
                let id = created.upload_id().ok_or_else(|| {
                    trouble::of_ours(StoreTrouble::Other, self.doing, "S3 began an upload without a name")
                })?;
                self.parts.insert(Parts { id: id.to_owned(), done: Vec::new() })
            }
        };
        let number = i32::try_from(parts.done.len() + 1).unwrap_or(i32::MAX);
        let upload = s3.upload_part().bucket(bucket).key(&self.key).upload_id(&parts.id).part_number(number);
        let sent = upload.body(ByteStream::from(bytes)).send().await;
        let sent = sent.map_err(|error| trouble::of_sdk(self.doing, &error))?;
        // S3 checks each part again by the checksum the SDK sent with it.
        let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag().map(str::to_owned));
        parts.done.push(part.set_checksum_crc32(sent.checksum_crc32().map(str::to_owned)).build());
        Ok(())
    }
}
