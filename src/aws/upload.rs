//! How is an object written whose size nobody knows beforehand? In parts, as its bytes come, so that memory does not grow with it.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};

use super::objects::Objects;
use super::{Inner, trouble};
use crate::ports::{StoreError, StoreTrouble};

/// Larger objects are written in parts of this size. Ten thousand parts are the most: 78 GiB.
const PART_BYTES: usize = 8 << 20;
/// What JSON lines are called among content types.
pub(super) const JSON_LINES: &str = "application/x-ndjson";

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
            let objects = Objects::new(inner.clients.s3.clone(), inner.settings.bucket.clone());
            return objects.put(self.doing, &self.key, JSON_LINES, rest).await;
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
                let created = create.content_type(JSON_LINES).checksum_algorithm(ChecksumAlgorithm::Crc32).send().await;
                let created = created.map_err(|error| trouble::of_sdk(self.doing, &error))?;
                let id = created.upload_id().ok_or_else(|| {
                    trouble::of_ours(StoreTrouble::Other, self.doing, "S3 began an upload without a name")
                })?;
                self.parts.insert(Parts { id: id.to_owned(), done: Vec::new() })
            }
        };
        let number = i32::try_from(parts.done.len() + 1).unwrap_or(i32::MAX);
        let upload = s3.upload_part().bucket(bucket).key(&self.key).upload_id(&parts.id).part_number(number);
        let sent = upload.checksum_algorithm(ChecksumAlgorithm::Crc32).body(ByteStream::from(bytes)).send().await;
        let sent = sent.map_err(|error| trouble::of_sdk(self.doing, &error))?;
        // S3 checks each part again by the checksum the SDK sent with it.
        let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag().map(str::to_owned));
        parts.done.push(part.set_checksum_crc32(sent.checksum_crc32().map(str::to_owned)).build());
        Ok(())
    }
}
