//! How do bytes get into S3 and out of it? Whole or in parts going in, whole or a range coming out, and never more of a
//! stranger's object than the reader has room for.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};

use super::trouble;
use crate::ports::{StoreError, StoreTrouble};

/// Larger objects go in parts of this size, so that one lost connection costs no more than that.
const PART_BYTES: usize = 8 << 20;

/// The objects of one bucket, and for reading those of any other.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    s3: Client,
    bucket: String,
}

/// Which bytes of an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    /// All, if there are at most so many.
    Whole {
        /// In bytes.
        limit: usize,
    },
    /// From the first to the last, both included.
    Range {
        /// Counted from 0.
        first: u64,
        /// Not before `first`.
        last: u64,
    },
}

impl Objects {
    pub(super) fn new(s3: Client, bucket: String) -> Self {
        Self { s3, bucket }
    }

    /// `s3://bucket/key`.
    pub(super) fn uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    /// The bucket and key of an `s3://` URI.
    pub(super) fn place(uri: &str) -> Option<(&str, &str)> {
        let (bucket, key) = uri.strip_prefix("s3://")?.split_once('/')?;
        (!bucket.is_empty() && !key.is_empty()).then_some((bucket, key))
    }

    /// Writes an object, over what was there. It is there as a whole, or not at all.
    pub(super) async fn put(&self, doing: &str, key: &str, content_type: &str, body: Bytes) -> Result<(), StoreError> {
        if body.len() > PART_BYTES {
            return self.put_in_parts(doing, key, content_type, body).await;
        }
        let request = self.s3.put_object().bucket(&self.bucket).key(key).content_type(content_type);
        let sent = request.body(ByteStream::from(body)).send().await;
        sent.map(|_| ()).map_err(|error| of_s3(doing, &self.bucket, &error))
    }

    async fn put_in_parts(&self, doing: &str, key: &str, content_type: &str, body: Bytes) -> Result<(), StoreError> {
        let request = self.s3.create_multipart_upload().bucket(&self.bucket).key(key).content_type(content_type);
        let begun = request.send().await.map_err(|error| of_s3(doing, &self.bucket, &error))?;
        let Some(upload) = begun.upload_id() else {
            return Err(trouble::of_ours(StoreTrouble::Away, doing, "S3 named no upload"));
        };
        let done = self.upload(doing, key, upload, body).await;
        if done.is_err() {
            // Parts of an upload that nobody ends are paid for until a lifecycle rule of the bucket removes them.
            let request = self.s3.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(upload);
            if let Err(error) = request.send().await {
                let error = of_s3("giving up an upload", &self.bucket, &error);
                tracing::debug!(key, %error, "an upload was left unended");
            }
        }
        done
    }

    async fn upload(&self, doing: &str, key: &str, upload: &str, mut body: Bytes) -> Result<(), StoreError> {
        let mut parts = Vec::new();
        let mut number = 1;
        while !body.is_empty() {
            let part = body.split_to(body.len().min(PART_BYTES));
            let request = self.s3.upload_part().bucket(&self.bucket).key(key).upload_id(upload).part_number(number);
            let sent = request.body(ByteStream::from(part)).send().await;
            let sent = sent.map_err(|error| of_s3(doing, &self.bucket, &error))?;
            // The SDK sends a checksum with each part, and S3 wants it back.
            let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag);
            parts.push(part.set_checksum_crc32(sent.checksum_crc32).build());
            number += 1;
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.s3.complete_multipart_upload().bucket(&self.bucket).key(key).upload_id(upload);
        let ended = request.multipart_upload(parts).send().await;
        ended.map(|_| ()).map_err(|error| of_s3(doing, &self.bucket, &error))
    }

    /// Reads from the bucket of results; see [`read_from`](Self::read_from).
    pub(super) async fn read(&self, doing: &str, key: &str, part: Part) -> Result<Option<Bytes>, StoreError> {
        self.read_from(doing, &self.bucket, key, part).await
    }

    /// Reads from any bucket. `None`: there is no such object, it ends before the range begins, or it is larger than
    /// the limit. A range that begins inside is read up to the end of the object.
    pub(super) async fn read_from(
        &self,
        doing: &str,
        bucket: &str,
        key: &str,
        part: Part,
    ) -> Result<Option<Bytes>, StoreError> {
        let (range, limit) = match part {
            Part::Whole { limit } => (None, limit),
            Part::Range { first, last } => {
                let length = last.checked_sub(first).and_then(|more| more.checked_add(1));
                let Some(length) = length.and_then(|length| usize::try_from(length).ok()) else { return Ok(None) };
                (Some(format!("bytes={first}-{last}")), length)
            }
        };
        let request = self.s3.get_object().bucket(bucket).key(key).set_range(range);
        let mut found = match request.send().await {
            Ok(found) => found,
            Err(error) if is_nothing(&error) => return Ok(None),
            Err(error) => return Err(of_s3(doing, bucket, &error)),
        };
        let mut bytes = BytesMut::new();
        while let Some(chunk) = found.body.next().await {
            let chunk = chunk.map_err(|error| trouble::of_ours(StoreTrouble::Away, doing, error.to_string()))?;
            if bytes.len() + chunk.len() > limit {
                return Ok(None);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes.freeze()))
    }
}

/// Whether the service says that nothing is there, as opposed to: not now, or not for you.
fn is_nothing<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    matches!(error.code(), Some("NoSuchKey" | "InvalidRange"))
}

/// A failed call. S3 answers for a bucket of another region with a redirection that the SDK does not follow and that says
/// little by itself.
pub(super) fn of_s3<E>(doing: &str, bucket: &str, error: &SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let response = error.raw_response();
    let is_redirect = response.is_some_and(|response| response.status().as_u16() == 301);
    let is_elsewhere = matches!(error.code(), Some("PermanentRedirect" | "AuthorizationHeaderMalformed"));
    if !is_redirect && !is_elsewhere {
        return trouble::of_sdk(doing, error);
    }
    let region = response.and_then(|response| response.headers().get("x-amz-bucket-region"));
    let region = region.map_or_else(|| "another region".to_owned(), |region| format!("the region {region}"));
    let why =
        format!("the bucket {bucket} lies in {region}, which is not the one that is called: set AWS_REGION to it");
    trouble::of_ours(StoreTrouble::Other, doing, why)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::canned::{Canned, Service};
    use super::*;

    async fn answering(answers: impl IntoIterator<Item = Canned>) -> (Service, Objects) {
        let service = Service::answering(answers).await;
        let objects = Objects::new(service.fleet.inner.clients.s3.clone(), "b".to_owned());
        (service, objects)
    }

    #[tokio::test]
    async fn a_bucket_in_another_region_is_named_so() {
        let moved = Canned::of_s3(301, "PermanentRedirect").header("x-amz-bucket-region", "eu-west-1");
        for answer in [moved, Canned::of_s3(400, "AuthorizationHeaderMalformed")] {
            let (_service, objects) = answering([answer]).await;
            let read = objects.read("reading", "k", Part::Whole { limit: 5 }).await.unwrap_err();
            let put = objects.put("writing", "k", "text/plain", Bytes::from_static(b"x")).await.unwrap_err();
            for error in [read, put] {
                assert_eq!(error.kind, StoreTrouble::Other);
                assert!(error.why.contains("region") && error.why.contains("AWS_REGION"), "{error}");
            }
        }
        let (_service, objects) =
            answering([Canned::of_s3(301, "PermanentRedirect").header("x-amz-bucket-region", "eu-west-1")]).await;
        let error = objects.read("reading", "k", Part::Whole { limit: 5 }).await.unwrap_err();
        assert!(error.why.contains("eu-west-1"), "{error}");
    }

    #[tokio::test]
    async fn nothing_there_is_told_from_not_now_and_not_for_you() {
        let read = |status, code| async move {
            let (_service, objects) = answering([Canned::of_s3(status, code)]).await;
            objects.read("reading", "k", Part::Range { first: 0, last: 4 }).await
        };
        assert_eq!(read(404, "NoSuchKey").await, Ok(None));
        assert_eq!(read(416, "InvalidRange").await, Ok(None));
        assert_eq!(read(403, "AccessDenied").await.unwrap_err().kind, StoreTrouble::Denied);
        assert_eq!(read(503, "SlowDown").await.unwrap_err().kind, StoreTrouble::Away);
        assert_eq!(read(404, "NoSuchBucket").await.unwrap_err().kind, StoreTrouble::Other);
    }

    #[tokio::test]
    async fn no_more_is_read_than_there_is_room_for() {
        let (_service, objects) = answering([Canned::new(200, "12345")]).await;
        assert_eq!(
            objects.read("reading", "k", Part::Whole { limit: 5 }).await,
            Ok(Some(Bytes::from_static(b"12345")))
        );
        assert_eq!(objects.read("reading", "k", Part::Whole { limit: 4 }).await, Ok(None));
    }

    #[tokio::test]
    async fn an_upload_that_fails_is_given_up() {
        let begun = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
        let (service, objects) = answering([
            Canned::new(200, begun),
            Canned::new(200, "").header("etag", "e"),
            Canned::of_s3(403, "AccessDenied"),
            Canned::new(204, ""),
        ])
        .await;
        let body = Bytes::from(vec![b'x'; PART_BYTES + 1]);
        let error = objects.put("writing", "k", "text/plain", body).await.unwrap_err();
        assert_eq!(error.kind, StoreTrouble::Denied);
        let asked = service.asked();
        let methods: Vec<_> = asked.iter().map(|asked| asked.split(' ').next().unwrap()).collect();
        assert_eq!(methods, ["POST", "PUT", "PUT", "DELETE"], "{asked:?}");
        assert!(asked[3].contains("uploadId=u"), "{asked:?}");
    }

    #[test]
    fn a_uri_names_a_bucket_and_a_key() {
        assert_eq!(Objects::place("s3://b/a/c d"), Some(("b", "a/c d")));
        for bad in ["", "b/k", "s3://", "s3://b", "s3://b/", "s3:///k", "https://b/k"] {
            assert_eq!(Objects::place(bad), None, "{bad}");
        }
    }
}
