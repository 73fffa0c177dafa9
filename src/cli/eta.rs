//! When will all jobs of a batch have ended? At the rate since it was first queued; for `status`, and for the page.

use crate::aws;
use crate::embedded::BatchSummary;
use crate::job::units::Timestamp;

/// In seconds, of a batch on this machine; `None` where nobody works it, or nothing has ended yet.
pub(super) fn of_embedded(batch: &BatchSummary, now: Timestamp) -> Option<f64> {
    let (open, ended) = (batch.counts.open(), batch.counts.total() - batch.counts.open());
    match open {
        0 => Some(0.0),
        // Where nobody works there is no end to foretell.
        _ => (batch.counts.running > 0).then(|| at_that_rate(open, ended, batch.first, now)).flatten(),
    }
}

/// Likewise of a batch of a fleet, whose workers are not known here; `None` where nobody has said how many jobs it has.
pub(super) fn of_fleet(batch: &aws::BatchSummary, now: Timestamp) -> Option<f64> {
    at_that_rate(batch.open()?, batch.ended.total, batch.first, now)
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn at_that_rate(open: u64, ended: u64, first: Timestamp, now: Timestamp) -> Option<f64> {
    (ended > 0).then(|| open as f64 * now.since(first).as_secs_f64() / ended as f64)
}
