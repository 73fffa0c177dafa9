//! What do all workers of the fleet know of a lane? One item a lane, replaced by one conditional write under the version that
//! was read; whoever loses is told in the same reply what the winner wrote.
//!
//! ```text
//! pk lane/us-west-2/us.vendor.m-v1:0   sk -    v 18  z <state>  t 1795300000123  w 5f3a9c0d11e2b874/31
//! pk lanes   sk us-west-2/us.vendor.m-v1:0     (so that `aquifer lanes` finds them; written before a worker's first swap)
//! ```
//!
//! `z` is the state deflated, since a write is paid for by the kilobyte; one that does not become smaller stands as it is under `s`.
//! `w` is the write's own name: the SDK repeats a write whose reply was lost, and the repetition must know its own first try from
//! another worker's. `t` is the time at which the writer wrote, so that whoever reads it is not earlier. Workers know the store's clock
//! to a second (see `store_clock`), and two that only read may differ by as much.

use std::collections::HashSet;
use std::io::Read as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::{DateTime, Format};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::{DeflateDecoder, DeflateEncoder};
use tokio::time::Instant;

use super::store_clock::StoreClock;
use super::table::{self, ALONE, Fields, Item};
use super::{Inner, trouble};
use crate::job::units::Timestamp;
use crate::ports::{Allowance, LANE_STATE_BYTES, LaneId, Shared, StoreError, StoreTrouble, Swap, Version};

const READING: &str = "reading the state of a lane";
/// A swap is a write of the whole row: what it costs does not hang on how many calls it is for.
pub(super) const PACE: Duration = Duration::from_secs(1);
const WRITING: &str = "writing the state of a lane";

/// The lanes of one table, and what this process remembers of them.
#[derive(Debug)]
pub(super) struct FleetAllowance {
    inner: Arc<Inner>,
    clock: Arc<Mutex<StoreClock>>,
    /// Of the monotonic clock's times.
    origin: Instant,
    indexed: Mutex<HashSet<LaneId>>,
    writes: AtomicU64,
}

#[async_trait]
impl Allowance for FleetAllowance {
    async fn read(&self, lane: &LaneId) -> Result<Shared, StoreError> {
        let table = &self.inner.settings.table;
        let get = self.inner.clients.dynamodb.get_item().table_name(table).set_key(Some(table::key(pk(lane), ALONE)));
        let got = get.consistent_read(true).customize().interceptor(self.stopwatch()).send().await;
        let got = got.map_err(|error| trouble::of_sdk(READING, &error))?;
        self.standing(READING, lane, got.item())
    }

    async fn swap(&self, lane: &LaneId, expected: Version, state: Bytes) -> Result<Swap, StoreError> {
        if state.len() > LANE_STATE_BYTES {
            let why = format!("{} bytes for {lane}, and {LANE_STATE_BYTES} are the most", state.len());
            return Err(trouble::of_ours(StoreTrouble::Other, WRITING, why));
        }
        self.index(lane).await?;
        let write = format!("{}/{}", self.inner.epoch, self.writes.fetch_add(1, Ordering::Relaxed));
        let next = Version(expected.0.saturating_add(1));
        let put = self.inner.clients.dynamodb.put_item().table_name(&self.inner.settings.table);
        let put = put.set_item(Some(table::key(pk(lane), ALONE))).item("v", table::number(next.0));
        let (name, packed) = pack(&state);
        let put = put.item(name, table::bytes(&packed)).item("w", table::text(write.as_str()));
        let put = put.item("t", table::number(self.now().0));
        let put = match expected {
            Version(0) => put.condition_expression("attribute_not_exists(pk)"),
            Version(expected) => {
                let put = put.condition_expression("v = :expected");
                put.expression_attribute_values(":expected", table::number(expected))
            }
        };
        let put = put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let error = match put.customize().interceptor(self.stopwatch()).send().await {
            Ok(_) => return Ok(Swap::Swapped { version: next, now: self.now() }),
            Err(error) => error,
        };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(refusal)) => {
                let stands = refusal.item();
                let ours = stands.and_then(|item| item.get("w")).is_some_and(|by| *by == table::text(write.as_str()));
                Ok(match self.standing(WRITING, lane, stands)? {
                    shared if ours => Swap::Swapped { version: shared.version, now: shared.now },
                    shared => Swap::Stale(shared),
                })
            }
            _ => Err(trouble::of_sdk(WRITING, &error)),
        }
    }

    fn pace(&self) -> Duration {
        PACE
    }
}

impl FleetAllowance {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        let (clock, indexed) = (Arc::default(), Mutex::default());
        Self { inner: Arc::clone(inner), clock, origin: Instant::now(), indexed, writes: AtomicU64::new(0) }
    }

    /// Puts a lane on the list of all, before this process writes to it for the first time.
    async fn index(&self, lane: &LaneId) -> Result<(), StoreError> {
        let indexed = &self.indexed;
        if indexed.lock().unwrap_or_else(PoisonError::into_inner).contains(lane) {
            return Ok(());
        }
        let put = self.inner.clients.dynamodb.put_item().table_name(&self.inner.settings.table);
        let put = put.item("pk", table::text(INDEX)).item("sk", table::text(lane.to_string()));
        put.send().await.map_err(|error| trouble::of_sdk("putting a lane on the list", &error))?;
        indexed.lock().unwrap_or_else(PoisonError::into_inner).insert(lane.clone());
        Ok(())
    }

    /// What an item says; its reply has just come.
    fn standing(&self, doing: &str, lane: &LaneId, item: Option<&Item>) -> Result<Shared, StoreError> {
        let Some(item) = item else {
            return Ok(Shared { version: Version(0), state: Bytes::new(), now: self.now() });
        };
        let (version, state) = state_of(item).ok_or_else(|| {
            trouble::of_ours(StoreTrouble::Damaged, doing, format!("the item of {lane} is not one of ours"))
        })?;
        if let Some(written) = Fields(item).number("t")? {
            self.clock().not_before(Timestamp(written), self.origin.elapsed());
        }
        Ok(Shared { version, state, now: self.now() })
    }

    /// The store's time; of a store that never says it, ours.
    fn now(&self) -> Timestamp {
        let told = self.clock().now(self.origin.elapsed());
        told.unwrap_or_else(|| self.inner.clock.now())
    }

    fn stopwatch(&self) -> Stopwatch {
        Stopwatch { clock: Arc::clone(&self.clock), origin: self.origin, sent: Mutex::new(None) }
    }

    fn clock(&self) -> MutexGuard<'_, StoreClock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The partition that lists all lanes.
pub(super) const INDEX: &str = "lanes";

/// The partition of a lane's item.
pub(super) fn pk(lane: &LaneId) -> String {
    // A region holds no `/`, so the first one ends it; a model id may hold more.
    format!("lane/{lane}")
}

/// Version and state of a lane's item; `None` if it is not one.
pub(super) fn state_of(item: &Item) -> Option<(Version, Bytes)> {
    let version = item.get("v")?.as_n().ok()?.parse().ok()?;
    let state = match item.get("z") {
        Some(packed) => unpack(packed.as_b().ok()?.as_ref())?,
        None => Bytes::copy_from_slice(item.get("s")?.as_b().ok()?.as_ref()),
    };
    Some((Version(version), state))
}

/// The state as it is written, and under which name.
fn pack(state: &Bytes) -> (&'static str, Bytes) {
    let mut packed = Vec::new();
    let whole = DeflateEncoder::new(state.as_ref(), Compression::fast()).read_to_end(&mut packed);
    if whole.is_ok() && packed.len() < state.len() { ("z", packed.into()) } else { ("s", state.clone()) }
}

fn unpack(packed: &[u8]) -> Option<Bytes> {
    let mut state = Vec::new();
    // What would be larger than any state is none.
    let most = u64::try_from(LANE_STATE_BYTES).ok()?;
    DeflateDecoder::new(packed).take(most.saturating_add(1)).read_to_end(&mut state).ok()?;
    (state.len() <= LANE_STATE_BYTES).then(|| state.into())
}

/// Tells the clock when each try of a request was sent, when its reply came, and what the reply is dated.
#[derive(Debug)]
struct Stopwatch {
    clock: Arc<Mutex<StoreClock>>,
    origin: Instant,
    sent: Mutex<Option<Instant>>,
}

#[dyn_dispatch_hint]
impl Intercept for Stopwatch {
    fn name(&self) -> &'static str {
        "aquifer stopwatch"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner).take();
        let header = context.response().headers().get("date");
        let date = header.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        if let (Some(date), Some(sent)) = (date, sent) {
            let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
            clock.heard(date.secs(), sent.duration_since(self.origin), self.origin.elapsed());
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn r16_a_profile_that_is_an_arn_keeps_its_slashes_and_its_region() {
        let arn = "arn:aws:bedrock:us-west-2:1:inference-profile/us.vendor.m-v1:0";
        let lane = LaneId { region: "us-west-2".into(), model_id: arn.into() };
        let pk = pk(&lane);
        assert_eq!(LaneId::parse(pk.strip_prefix("lane/").unwrap()), Some(lane));
    }

    #[test]
    fn a_state_reads_back_whether_it_became_smaller_or_not() {
        let same = Bytes::from(vec![b'7'; LANE_STATE_BYTES]);
        let every_byte: Bytes = (0..=u8::MAX).collect();
        for (state, under) in [(same, "z"), (every_byte, "s"), (Bytes::new(), "s")] {
            let (name, packed) = pack(&state);
            assert_eq!(name, under, "{} bytes", state.len());
            let item = Item::from([("v".to_owned(), table::number(1)), (name.to_owned(), table::bytes(&packed))]);
            assert_eq!(state_of(&item), Some((Version(1), state)));
        }
    }

    #[test]
    fn a_state_beyond_the_most_is_none_however_small_it_is_written() {
        let (name, packed) = pack(&Bytes::from(vec![b'7'; LANE_STATE_BYTES + 1]));
        let item = Item::from([("v".to_owned(), table::number(1)), (name.to_owned(), table::bytes(&packed))]);
        assert_eq!((name, state_of(&item)), ("z", None));
        let torn = packed.slice(..packed.len() / 2);
        let item = Item::from([("v".to_owned(), table::number(1)), ("z".to_owned(), table::bytes(&torn))]);
        assert_eq!(state_of(&item), None);
    }

    #[test]
    fn an_item_without_a_version_or_a_state_is_not_one_of_ours() {
        let whole = Item::from([("v".to_owned(), table::number(7)), ("s".to_owned(), table::bytes(b"a"))]);
        assert_eq!(state_of(&whole), Some((Version(7), "a".into())));
        for missing in ["v", "s"] {
            let mut item = whole.clone();
            item.remove(missing);
            assert_eq!(state_of(&item), None, "without {missing}");
        }
    }
}
