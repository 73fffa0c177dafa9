//! What does a queue take? A message may weigh 1 MiB, unless the queue was told otherwise: those made by older tools stop at 256 KiB.
//! Each is asked once.

use aws_sdk_sqs::types::QueueAttributeName;
use tokio::sync::OnceCell;

use super::Inner;

/// Where nobody says: what every queue took before 2025, and the default of many tools.
const COMMON: usize = 256 << 10;
/// For the attributes with which a message becomes a dead letter: a reason of 1,024 characters, a name, and theirs.
const ATTRIBUTES: usize = 8 << 10;

/// What the body of a message to one queue may weigh.
#[derive(Debug)]
pub(super) struct MessageSize {
    url: String,
    limit: OnceCell<usize>,
}

impl MessageSize {
    pub(super) fn of(url: &str) -> Self {
        Self { url: url.to_owned(), limit: OnceCell::new() }
    }

    /// In bytes; with the body there is room for the attributes of a dead letter. An answer is kept; without one it is asked again.
    pub(super) async fn bytes(&self, inner: &Inner) -> usize {
        let limit = self.limit.get_or_try_init(|| async { ask(inner, &self.url).await.ok_or(()) }).await;
        limit.copied().unwrap_or(COMMON).saturating_sub(ATTRIBUTES)
    }
}

async fn ask(inner: &Inner, url: &str) -> Option<usize> {
    let name = QueueAttributeName::MaximumMessageSize;
    let asked = inner.clients.sqs.get_queue_attributes().queue_url(url).attribute_names(name.clone()).send().await;
    let said = asked.inspect_err(|error| tracing::debug!(url, %error, "nobody says what the queue takes")).ok()?;
    said.attributes?.get(&name)?.parse().ok()
}
