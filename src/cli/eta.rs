//! When will all jobs of a batch have ended? At the rate since it was first queued; for `status`, and for the page. What was rejected
//! took no time, and says nothing of the rate.

use crate::aws;
use crate::embedded::BatchSummary;
use crate::job::units::Timestamp;

/// In seconds, of a batch on this machine; `None` where nobody works it, or nothing has ended yet.
pub(super) fn of_embedded(batch: &BatchSummary, now: Timestamp) -> Option<f64> {
    let counts = &batch.counts;
    let (open, worked) = (counts.open(), counts.total() - counts.open() - counts.rejected);
    match open {
        0 => Some(0.0),
        // Where nobody works there is no end to foretell.
        _ => (counts.running > 0).then(|| at_that_rate(open, worked, batch.first, now)).flatten(),
    }
}

/// Likewise of a batch of a fleet, whose workers are not known here; `None` where nobody has said how many jobs it has.
pub(super) fn of_fleet(batch: &aws::BatchSummary, now: Timestamp) -> Option<f64> {
    match batch.open()? {
        0 => Some(0.0),
        open => at_that_rate(open, batch.ended.total.saturating_sub(batch.ended.rejected), batch.first, now),
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn at_that_rate(open: u64, worked: u64, first: Timestamp, now: Timestamp) -> Option<f64> {
    (worked > 0).then(|| open as f64 * now.since(first).as_secs_f64() / worked as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::ident::{BatchKey, BatchName, Tenant};
    use crate::job::notice::BatchSums;
    use crate::job::outcome::Savings;

    /// After a minute, of 301 lines of which one was refused before it was queued.
    fn of_fleet_with(succeeded: u64) -> Option<f64> {
        let batch = aws::BatchSummary {
            key: BatchKey { tenant: Tenant::unnamed(), batch: BatchName::none() },
            jobs: Some(300),
            ended: BatchSums { total: succeeded + 1, succeeded, rejected: 1, ..BatchSums::default() },
            refused: 1,
            savings: Savings::default(),
            sealed: true,
            announced: 0,
            first: Timestamp(0),
        };
        of_fleet(&batch, Timestamp(60_000))
    }

    #[test]
    fn refused_lines_are_no_work_that_tells_when_the_rest_is_done() {
        assert_eq!(of_fleet_with(0), None, "nobody has worked yet");
        assert_eq!(of_fleet_with(150), Some(60.0));
        assert_eq!(of_fleet_with(300), Some(0.0));
    }
}
