//! Does an ingestion cover what a job was sent for, and if none does, what is to be done? Arithmetic over what the service
//! shows: no memory, no clock.
//!
//! An ingestion reads what lies in its source when it begins. So one that began after a job was queued covers it, whoever began
//! it, and one that runs already and began before does not: jobs that are queued meanwhile share the next. Only one runs at a
//! time; the service sees to that by refusing a second, which is no failure but a reason to wait.

use std::time::Duration;

use crate::job::ingest::{IngestToken, Ingestion, Phase};
use crate::job::units::Timestamp;

/// What a job does next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next<'a> {
    /// This one covers it, and has ended.
    Ended(&'a Ingestion),
    /// One runs: look again later.
    Wait,
    /// None runs, and none covers it.
    Start,
}

/// What a job does that was queued then and begins ingestions under this token, if these are the newest of its source.
///
/// Of several that cover it, one that is complete counts, then one that runs, then a failure.
pub fn next<'a>(queued: Timestamp, own: &IngestToken, ingestions: &'a [Ingestion]) -> Next<'a> {
    // Its own covers it by what it is: the clock of the service and that of the queue need not agree on the order.
    let covers = |of: &&Ingestion| of.token.as_ref() == Some(own) || of.began > queued;
    let ended = |phase: Phase| ingestions.iter().filter(covers).find(|of| of.phase == phase);
    if let Some(complete) = ended(Phase::Complete) {
        return Next::Ended(complete);
    }
    if ingestions.iter().any(|of| of.phase == Phase::Running) {
        return Next::Wait;
    }
    ended(Phase::Failed).map_or(Next::Start, Next::Ended)
}

/// A job looks again after this share of its age.
const SHARE: u32 = 20;
const LEAST: Duration = Duration::from_secs(1);
/// At most after this, until it is old.
const MOST: Duration = Duration::from_secs(60);
/// From then on after this share, so that two weeks of waiting are fewer than a thousand deliveries.
const SHARE_WHEN_OLD: u32 = 100;

/// When a job of this age looks again.
pub fn rest(age: Duration) -> Duration {
    (age / SHARE).clamp(LEAST, MOST.max(age / SHARE_WHEN_OLD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f05_waiting_for_two_weeks_does_not_use_up_a_thousand_deliveries() {
        let (mut age, mut deliveries) = (Duration::ZERO, 0);
        while age < Duration::from_secs(14 * 24 * 60 * 60) {
            assert!(rest(age) >= LEAST && (rest(age) <= MOST || age > Duration::from_secs(6_000)), "{age:?}");
            age += rest(age);
            deliveries += 1;
        }
        assert!((500..900).contains(&deliveries), "{deliveries}");
    }
}
