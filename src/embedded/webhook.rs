//! Who else hears of an end on one machine? Whoever listens at `notify.webhook`: every notice is POSTed to it.
//!
//! It is accepted if the answer is a 2xx; else it is trouble as that of a store, and the notice is sent again, with the same
//! `notice_id`, until it is accepted. Redirects are not followed: a notice goes where the configuration says and nowhere else.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::trouble;
use crate::job::webhook::WebhookUrl;
use crate::ports::{StoreError, StoreTrouble};

/// For one attempt, the answer included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of an answer at most so much is read, for the sake of the connection; nobody looks at it.
const ANSWER_BYTES: usize = 64 << 10;
const AGENT: &str = concat!("aquifer/", env!("CARGO_PKG_VERSION"));

/// One that is told.
#[derive(Clone, Debug)]
pub(super) struct Webhook {
    url: WebhookUrl,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Webhook {
    /// # Errors
    /// This machine has no certificates by which to know an `https://` server.
    pub(super) fn new(url: WebhookUrl) -> Result<Self, StoreError> {
        let connector = HttpsConnectorBuilder::new().with_native_roots().map_err(|error| {
            trouble::of_ours(StoreTrouble::Denied, "reading this machine's certificates", error.to_string())
        })?;
        let connector = connector.https_or_http().enable_http1().build();
        Ok(Self { url, client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// Returns once the notice is accepted; tries a few times over some seconds.
    pub(super) async fn post(&self, notice: &Bytes) -> Result<(), StoreError> {
        (|| self.try_post(notice.clone()))
            .retry(
                ExponentialBuilder::default()
                    .with_min_delay(Duration::from_millis(200))
                    .with_jitter()
                    .with_max_times(4),
            )
            .when(|error| error.kind == StoreTrouble::Away)
            .await
    }

    async fn try_post(&self, notice: Bytes) -> Result<(), StoreError> {
        let trouble = |kind, why: String| trouble::of_ours(kind, format!("posting a notice to {}", self.url), why);
        let request = Request::post(self.url.uri().clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, AGENT)
            .body(Full::new(notice))
            .map_err(|error| trouble(StoreTrouble::Other, error.to_string()))?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| in_words(&error))?;
            let status = answer.status();
            // A connection can be used again once its answer has been read; one that is not is closed.
            let _ = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
            Ok(status)
        };
        let status = tokio::time::timeout(PATIENCE, exchange)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
            .map_err(|why| trouble(StoreTrouble::Away, why))?;
        match refusal(status) {
            None => Ok(()),
            Some(kind) => Err(trouble(kind, format!("it answered {status}; check notify.webhook"))),
        }
    }
}

/// What kind of trouble an answer is; `None` if the notice was accepted.
fn refusal(status: StatusCode) -> Option<StoreTrouble> {
    match status {
        status if status.is_success() => None,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Some(StoreTrouble::Away),
        status if status.is_server_error() => Some(StoreTrouble::Away),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some(StoreTrouble::Denied),
        _ => Some(StoreTrouble::Other),
    }
}

/// The error and what it came of: the outermost alone says "client error (Connect)".
fn in_words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |words, cause| format!("{words}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again_at_once() {
        for (status, kind) in [
            (200, None),
            (204, None),
            (301, Some(StoreTrouble::Other)),
            (401, Some(StoreTrouble::Denied)),
            (404, Some(StoreTrouble::Other)),
            (429, Some(StoreTrouble::Away)),
            (503, Some(StoreTrouble::Away)),
        ] {
            assert_eq!(StatusCode::from_u16(status).ok().and_then(refusal), kind, "{status}");
        }
    }
}
