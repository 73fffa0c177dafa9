//! How do changes of several items become one? In a transaction that bears a token of ours: sent again after a lost
//! reply, it is still carried out once.

use std::time::Duration;

use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{CancellationReason, TransactWriteItem};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::{Inner, trouble};
use crate::ports::{StoreError, StoreTrouble};

/// Items in one transaction (source: DynamoDB's quotas).
pub(super) const ITEMS: usize = 100;
/// After a refusal that says nothing of the items themselves, or after none at all.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const PAUSES: usize = 8;

/// What came of it.
#[derive(Debug)]
pub(super) enum Transacted {
    /// All of it was carried out, once.
    Done,
    /// Nothing was; why, item by item in their order.
    Cancelled(Vec<CancellationReason>),
}

/// Carries all of it out, or nothing. Items must be different ones, at most [`ITEMS`].
pub(super) async fn transact(
    inner: &Inner,
    doing: &str,
    items: Vec<TransactWriteItem>,
) -> Result<Transacted, StoreError> {
    let token = format!("{:032x}", rand::random::<u128>());
    let mut pauses = pauses();
    loop {
        let sent = inner
            .clients
            .dynamodb
            .transact_write_items()
            .client_request_token(&token)
            .set_transact_items(Some(items.clone()))
            .send()
            .await;
        let error = match sent {
            Ok(_) => return Ok(Transacted::Done),
            Err(error) => error,
        };
        if let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error() {
            return Ok(Transacted::Cancelled(cancelled.cancellation_reasons().to_vec()));
        }
        let error = trouble::of_sdk(doing, &error);
        // It may have been carried out and its reply lost: under the same token, asking again does no harm.
        match (error.kind, pauses.next()) {
            (StoreTrouble::Away, Some(pause)) => tokio::time::sleep(pause).await,
            (StoreTrouble::Away, None) => return Err(error),
            (
                StoreTrouble::Full
                | StoreTrouble::Denied
                | StoreTrouble::Newer
                | StoreTrouble::Damaged
                | StoreTrouble::Other,
                _,
            ) => return Err(error),
        }
    }
}

/// Pauses between tries that got in each other's way, with jitter.
pub(super) fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_max_times(PAUSES)
        .with_jitter()
        .build()
}

/// Why one item stood in the way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum InTheWay {
    /// It did not.
    No,
    /// Its condition did not hold.
    Condition,
    /// Another transaction was at it, or it is asked for too often: to be tried again.
    Traffic,
    /// Anything else.
    Other,
}

impl InTheWay {
    pub(super) fn of(reason: &CancellationReason) -> Self {
        match reason.code() {
            None | Some("None") => Self::No,
            Some("ConditionalCheckFailed") => Self::Condition,
            Some("TransactionConflict" | "ThrottlingError" | "ProvisionedThroughputExceeded") => Self::Traffic,
            Some(_) => Self::Other,
        }
    }
}

/// A cancellation in words.
pub(super) fn in_words(reasons: &[CancellationReason]) -> String {
    let said = reasons.iter().filter(|reason| InTheWay::of(reason) != InTheWay::No);
    let mut codes: Vec<_> = said.filter_map(CancellationReason::code).collect();
    codes.sort_unstable();
    codes.dedup();
    format!("the transaction was cancelled: {}", codes.join(", "))
}
