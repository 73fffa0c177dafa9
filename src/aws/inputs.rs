//! How is an input read that lies in S3? From its first byte to its last in one request, and where the connection breaks off from
//! there on in another one, which names what was read so far: an object that was replaced meanwhile is noticed and not mixed up.
//! Where it breaks off behind the last byte there is nothing to ask for, and S3 would refuse to be asked: that is the end.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_types::error::display::DisplayErrorContext;
use bytes::Bytes;

use super::Inner;
use super::objects::Objects;
use super::sources::{self, NOT_READABLE};
use crate::ports::Unopened;
use crate::ports::inputs::{Edition, InputStream, Inputs, Unread};

/// A service that says nothing for so long is away.
const SILENCE: Duration = Duration::from_secs(60);
/// So often in a row a connection may break off that brought nothing.
const BREAKS: u32 = 3;
const REPLACED: &str = "it is another one by now: it was replaced since it was first read";
/// How the SDK says, behind the last byte, that they are not those that were stored.
const DAMAGED: &str = "checksum mismatch";

/// The inputs that these credentials may read.
#[derive(Debug)]
pub(super) struct S3Inputs {
    pub(super) inner: Arc<Inner>,
}

#[async_trait]
impl Inputs for S3Inputs {
    async fn open(&self, source: &str, edition: Option<&Edition>) -> Result<Box<dyn InputStream>, Unread> {
        let (bucket, key) = Objects::place(source)
            .map(|(bucket, key)| (bucket.to_owned(), key.to_owned()))
            .ok_or_else(|| refused("this names no object: write it as s3://bucket/key"))?;
        let object = Object { inner: Arc::clone(&self.inner), bucket, key };
        let found = object.get(edition, 0).await?;
        let edition = Edition {
            etag: found.e_tag.clone().ok_or_else(|| refused("S3 gives it no ETag"))?,
            version: found.version_id.clone(),
        };
        let length = found.content_length.map(i64::unsigned_abs);
        Ok(Box::new(Reading { object, edition, length, body: found.body, read: 0, breaks: 0 }))
    }
}

struct Object {
    inner: Arc<Inner>,
    bucket: String,
    key: String,
}

impl Object {
    /// From that byte on.
    async fn get(&self, edition: Option<&Edition>, from: u64) -> Result<GetObjectOutput, Unread> {
        let request = self.inner.clients.s3.get_object().bucket(&self.bucket).key(&self.key);
        let request = request
            .set_if_match(edition.map(|edition| edition.etag.clone()))
            .set_version_id(edition.and_then(|edition| edition.version.clone()))
            .set_range((from > 0).then(|| format!("bytes={from}-")));
        let found = tokio::time::timeout(SILENCE, request.send()).await.map_err(|_| silent())?;
        found.map_err(|error| match error.code() {
            // Nothing is asked for behind the end of the one that was opened: this one is shorter.
            Some("PreconditionFailed" | "InvalidRange") => refused(REPLACED),
            Some("AccessDenied" | "AllAccessDisabled") => refused(NOT_READABLE),
            Some(_) | None => match sources::unopened(&self.bucket, &error) {
                Unopened::Refused { failure, .. } => Unread::Refused { why: failure.message },
                Unopened::Away { why } => Unread::Away { why },
            },
        })
    }
}

struct Reading {
    object: Object,
    edition: Edition,
    /// Of all of it, in bytes, if S3 said.
    length: Option<u64>,
    body: ByteStream,
    read: u64,
    breaks: u32,
}

#[async_trait]
impl InputStream for Reading {
    fn edition(&self) -> &Edition {
        &self.edition
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Unread> {
        loop {
            let broken = match tokio::time::timeout(SILENCE, self.body.next()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(bytes))) => {
                    (self.read, self.breaks) = (self.read + bytes.len() as u64, 0);
                    return Ok(Some(bytes));
                }
                Ok(Some(Err(error))) => Unread::Away { why: DisplayErrorContext(&error).to_string() },
                Err(_) => silent(),
            };
            if self.length == Some(self.read) {
                // Bytes that came wrong do not come right by asking for the rest: all of it is to be read again.
                let is_damaged = matches!(&broken, Unread::Away { why } if why.contains(DAMAGED));
                return if is_damaged { Err(broken) } else { Ok(None) };
            }
            self.breaks += 1;
            if self.breaks > BREAKS {
                return Err(broken);
            }
            self.body = self.object.get(Some(&self.edition), self.read).await?.body;
        }
    }
}

fn refused(why: &str) -> Unread {
    Unread::Refused { why: why.to_owned() }
}

fn silent() -> Unread {
    Unread::Away { why: format!("S3 said nothing for {} s", SILENCE.as_secs()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::canned::{Canned, Service};
    use super::*;

    async fn whole(service: &Service) -> Result<(Vec<u8>, Edition), Unread> {
        let mut stream = service.fleet.inputs().open("s3://up/in/k.jsonl", None).await?;
        let mut read = Vec::new();
        while let Some(bytes) = stream.next().await? {
            read.extend_from_slice(&bytes);
        }
        Ok((read, stream.edition().clone()))
    }

    #[tokio::test]
    async fn what_breaks_off_is_read_on_and_only_of_the_same_edition() {
        let part = |status, body: &str| {
            Canned::new(status, body)
                .header("etag", "\"e1\"")
                .header("x-amz-version-id", "v1")
                .header("connection", "close")
        };
        let service = Service::answering([part(200, "12345").cut_after(3), part(206, "45")]).await;
        let (read, edition) = whole(&service).await.unwrap();
        assert_eq!((read.as_slice(), edition.etag.as_str()), (&b"12345"[..], "\"e1\""));
        assert_eq!(edition.version.as_deref(), Some("v1"));
        let asked = service.asked();
        assert!(asked.len() == 2 && asked[1].contains("versionId=v1"), "{asked:?}");

        // A store may look at the range before it looks at the edition.
        for (status, code) in [(412, "PreconditionFailed"), (416, "InvalidRange")] {
            let service = Service::answering([part(200, "12345").cut_after(3), Canned::of_s3(status, code)]).await;
            let error = whole(&service).await.unwrap_err();
            assert!(matches!(&error, Unread::Refused { why } if why.contains("replaced")), "{code}: {error:?}");
            assert_eq!(service.asked().len(), 2, "{code}: it is not asked for again");
        }
    }

    /// A body whose connection ends badly behind its last byte.
    fn ends_with(words: &'static str) -> ByteStream {
        let pieces = [Ok(Bytes::from_static(b"12345")), Err(std::io::Error::other(words))];
        let frames = futures_util::stream::iter(pieces.map(|piece| piece.map(hyper::body::Frame::data)));
        ByteStream::from_body_1_x(http_body_util::StreamBody::new(frames))
    }

    #[tokio::test]
    async fn what_breaks_off_behind_its_last_byte_was_read_to_its_end() {
        let service = Service::answering([Canned::of_s3(416, "InvalidRange")]).await;
        let reading = |length, words| Reading {
            object: Object { inner: Arc::clone(&service.fleet.inner), bucket: "up".to_owned(), key: "k".to_owned() },
            edition: Edition { etag: "e1".to_owned(), version: None },
            length,
            body: ends_with(words),
            read: 0,
            breaks: 0,
        };
        let mut whole = reading(Some(5), "connection reset");
        assert_eq!(whole.next().await.unwrap().as_deref(), Some(&b"12345"[..]));
        assert_eq!(whole.next().await, Ok(None));
        assert!(service.asked().is_empty(), "{:?}", service.asked());

        let mut damaged = reading(Some(5), "body checksum mismatch. expected body checksum to be 00 but it was 01");
        assert!(damaged.next().await.unwrap().is_some());
        assert!(matches!(damaged.next().await, Err(Unread::Away { .. })), "it is to be read again, from its beginning");
        assert!(service.asked().is_empty(), "{:?}", service.asked());
    }

    #[tokio::test]
    async fn what_is_not_there_or_not_for_us_is_refused_and_what_passes_is_waited_for() {
        for (status, code, words) in [
            (404, "NoSuchKey", "no such object"),
            (404, "NoSuchBucket", "no such bucket"),
            (403, "AccessDenied", "s3:GetObject"),
            (403, "InvalidObjectState", "restore"),
        ] {
            let error = whole(&Service::answering([Canned::of_s3(status, code)]).await).await.unwrap_err();
            assert!(matches!(&error, Unread::Refused { why } if why.contains(words)), "{code}: {error:?}");
        }
        for (status, code) in [(503, "SlowDown"), (400, "ExpiredToken")] {
            let error = whole(&Service::answering([Canned::of_s3(status, code)]).await).await.unwrap_err();
            assert!(matches!(error, Unread::Away { .. }), "{code}: {error:?}");
        }
    }
}
