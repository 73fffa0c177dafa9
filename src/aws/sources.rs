//! What does a document in S3 hold? Its bytes, if there are no more than its reader has room for: its size is known before the
//! first of them is fetched.
//!
//! What S3 says of the object itself, that it is not there or not for us, is an answer, and final. What it says of us or of
//! nothing at all (credentials, too many requests, no connection) is none.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use bytes::{Bytes, BytesMut};

use super::Inner;
use super::objects::{self, Objects};
use crate::job::failure::{Class, Failure};
use crate::ports::{Sources, StoreError, StoreTrouble, Unopened};

/// A document that takes longer to fetch is tried again later.
const FETCH_TIME: Duration = Duration::from_secs(120);
const DOING: &str = "fetching a document";
const MIB: u64 = 1 << 20;
/// What helps where the permission is missing.
pub(super) const NOT_READABLE: &str = "the worker may not read it, or it is not there: its role needs s3:GetObject and \
    s3:GetObjectVersion on it, and kms:Decrypt if it is encrypted with a key";

/// The objects that these credentials may read.
#[derive(Debug)]
pub(super) struct S3Sources {
    pub(super) inner: Arc<Inner>,
}

#[async_trait]
impl Sources for S3Sources {
    async fn fetch(&self, source: &str, version: Option<&str>, most: u64) -> Result<Bytes, Unopened> {
        let Some((bucket, key)) = Objects::place(source) else {
            return Err(refused(Class::BadInput, "this names no object: write it as s3://bucket/key"));
        };
        let fetched = tokio::time::timeout(FETCH_TIME, self.get(bucket, key, version, most)).await;
        fetched.unwrap_or_else(|_| {
            let why = format!("it was not fetched within {} s", FETCH_TIME.as_secs());
            Err(Unopened::Away { why })
        })
    }
}

impl S3Sources {
    async fn get(&self, bucket: &str, key: &str, version: Option<&str>, most: u64) -> Result<Bytes, Unopened> {
        let request = self.inner.clients.s3.get_object().bucket(bucket).key(key);
        let found = request.set_version_id(version.map(str::to_owned)).send().await;
        let mut found = found.map_err(|error| unopened(bucket, &error))?;
        let too_large = || {
            let why = format!("the file is larger than {} MiB; split it into several files", most / MIB);
            refused(Class::TooLarge, &why)
        };
        if found.content_length().is_some_and(|length| length.unsigned_abs() > most) {
            return Err(too_large());
        }
        let length = found.content_length().map_or(0, i64::unsigned_abs);
        let mut bytes = BytesMut::with_capacity(usize::try_from(length).unwrap_or_default());
        while let Some(some) = found.body.next().await {
            let some = some.map_err(|error| Unopened::Away { why: error.to_string() })?;
            if (bytes.len() + some.len()) as u64 > most {
                return Err(too_large());
            }
            bytes.extend_from_slice(&some);
        }
        Ok(bytes.freeze())
    }
}

/// What a refusal of S3's makes of the document.
pub(super) fn unopened<E>(bucket: &str, error: &SdkError<E, HttpResponse>) -> Unopened
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let no = |why: &str| refused(Class::BadInput, why);
    let away = |why: &str| Unopened::Away { why: why.to_owned() };
    match error.code() {
        Some("NoSuchKey") => no("there is no such object: it was removed, or never there"),
        Some("NoSuchVersion" | "MethodNotAllowed") => no("there is no such version of the object: it was removed"),
        Some("NoSuchBucket") => no("there is no such bucket"),
        // A permission that is missing is the worker's fault, and may be on its way. It is said, too, of an object that is not
        // there, to those who may not list the bucket.
        Some("AccessDenied" | "AllAccessDisabled") => away(NOT_READABLE),
        Some("InvalidObjectState") => no("the object is archived: restore it and send it again"),
        Some(_) | None => {
            let StoreError { kind, why, .. } = objects::of_s3(DOING, bucket, error);
            match kind {
                // Our credentials, which are loaded anew: no word on the object.
                StoreTrouble::Denied | StoreTrouble::Away | StoreTrouble::Full => Unopened::Away { why },
                StoreTrouble::Newer | StoreTrouble::Damaged | StoreTrouble::Other => no(&why),
            }
        }
    }
}

fn refused(class: Class, why: &str) -> Unopened {
    Unopened::Refused { failure: Failure::new(class, why), kind: None }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::super::canned::{Canned, Service};
    use super::*;

    async fn fetched(answer: Canned, version: Option<&str>) -> (Result<Bytes, Unopened>, Vec<String>) {
        let service = Service::answering([answer]).await;
        let fetched = service.fleet.sources().fetch("s3://up/in/a b.pdf", version, 5).await;
        (fetched, service.asked())
    }

    #[tokio::test]
    async fn the_version_that_is_meant_is_fetched() {
        let (fetched, asked) = fetched(Canned::new(200, "12345"), Some("3/L4")).await;
        assert_eq!(fetched, Ok(Bytes::from_static(b"12345")));
        assert!(asked[0].starts_with("GET /up/in/a%20b.pdf?"), "{asked:?}");
        assert!(asked[0].contains("versionId=3%2FL4"), "{asked:?}");
    }

    #[tokio::test]
    async fn one_that_is_too_large_is_refused() {
        let (fetched, _) = fetched(Canned::new(200, "123456"), None).await;
        let Err(Unopened::Refused { failure, .. }) = fetched else { panic!("{fetched:?}") };
        assert_eq!(failure.class, Class::TooLarge);
    }

    #[tokio::test]
    async fn what_is_not_there_is_refused_and_what_passes_is_waited_for() {
        for (status, code, words) in [
            (404, "NoSuchKey", "no such object"),
            (404, "NoSuchVersion", "no such version"),
            (405, "MethodNotAllowed", "no such version"),
            (404, "NoSuchBucket", "no such bucket"),
            (403, "InvalidObjectState", "restore"),
            (301, "PermanentRedirect", "AWS_REGION"),
        ] {
            let (fetched, _) = fetched(Canned::of_s3(status, code), None).await;
            let Err(Unopened::Refused { failure, .. }) = fetched else { panic!("{code}: {fetched:?}") };
            assert_eq!(failure.class, Class::BadInput, "{code}");
            assert!(failure.message.contains(words), "{code}: {failure:?}");
        }
        for (status, code) in [
            (503, "SlowDown"),
            (500, "InternalError"),
            (400, "ExpiredToken"),
            (403, "InvalidAccessKeyId"),
            (403, "AccessDenied"),
        ] {
            let (fetched, _) = fetched(Canned::of_s3(status, code), None).await;
            assert!(matches!(fetched, Err(Unopened::Away { .. })), "{code}: {fetched:?}");
        }
    }

    #[tokio::test]
    async fn a_uri_without_a_key_names_nothing() {
        let service = Service::answering([Canned::new(200, "")]).await;
        let fetched = service.fleet.sources().fetch("s3://bucket", None, 5).await;
        assert!(matches!(fetched, Err(Unopened::Refused { .. })), "{fetched:?}");
        assert!(service.asked().is_empty());
    }
}
