//! Which deliveries are being worked, since when are they queued, and at which step is each? What a person asks first when
//! nothing seems to move.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::job::units::Timestamp;

use super::lock;

/// Where a delivery stands on its way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// It is claimed.
    Admit,
    /// It waits for a lane: for quota, a cool-down, a breaker, a back-off.
    Route,
    /// It is with the model.
    Infer,
    /// Its end is written down.
    Record,
    /// Its end is made known.
    Notify,
    /// Its message is deleted or handed back.
    Acknowledge,
}

impl Step {
    /// Every step, in the order of the flow.
    pub const ALL: [Self; 6] = [Self::Admit, Self::Route, Self::Infer, Self::Record, Self::Notify, Self::Acknowledge];

    /// The word for it, that of its file in `flow`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Route => "route",
            Self::Infer => "infer",
            Self::Record => "record",
            Self::Notify => "notify",
            Self::Acknowledge => "acknowledge",
        }
    }
}

/// Jobs by step, in the order of [`Step::ALL`].
pub type BySteps = [u64; Step::ALL.len()];

/// All that are in hand.
#[derive(Debug, Default)]
pub(super) struct Hands {
    /// When those were queued that are in hand, and how many of each moment.
    queued: Mutex<BTreeMap<Timestamp, u64>>,
    steps: [AtomicU64; Step::ALL.len()],
}

impl Hands {
    pub(super) fn take(&self, queued: Timestamp) -> InHand<'_> {
        *lock(&self.queued).entry(queued).or_default() += 1;
        self.count(Step::Admit).fetch_add(1, Ordering::Relaxed);
        InHand { hands: self, queued, step: AtomicU8::new(Step::Admit as u8) }
    }

    pub(super) fn len(&self) -> u64 {
        lock(&self.queued).values().sum()
    }

    pub(super) fn oldest(&self) -> Option<Timestamp> {
        lock(&self.queued).keys().next().copied()
    }

    pub(super) fn by_steps(&self) -> BySteps {
        Step::ALL.map(|step| self.count(step).load(Ordering::Relaxed))
    }

    fn count(&self, step: Step) -> &AtomicU64 {
        &self.steps[step as usize]
    }
}

/// A delivery that is being worked.
#[derive(Debug)]
pub struct InHand<'a> {
    hands: &'a Hands,
    queued: Timestamp,
    step: AtomicU8,
}

impl InHand<'_> {
    /// It is at this step now.
    pub fn at(&self, step: Step) {
        let before = self.step.swap(step as u8, Ordering::Relaxed);
        self.leave(before);
        self.hands.count(step).fetch_add(1, Ordering::Relaxed);
    }

    fn leave(&self, step: u8) {
        if let Some(count) = self.hands.steps.get(usize::from(step)) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.leave(self.step.load(Ordering::Relaxed));
        let mut queued = lock(&self.hands.queued);
        if let Some(count) = queued.get_mut(&self.queued) {
            *count -= 1;
            if *count == 0 {
                queued.remove(&self.queued);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_delivery_counts_at_one_step_until_it_is_out_of_hand() {
        let hands = Hands::default();
        let (first, second) = (hands.take(Timestamp(7)), hands.take(Timestamp(5)));
        assert_eq!((hands.by_steps(), hands.len(), hands.oldest()), ([2, 0, 0, 0, 0, 0], 2, Some(Timestamp(5))));
        first.at(Step::Route);
        first.at(Step::Infer);
        first.at(Step::Route);
        second.at(Step::Acknowledge);
        assert_eq!(hands.by_steps(), [0, 1, 0, 0, 0, 1]);
        drop(second);
        assert_eq!((hands.by_steps(), hands.len(), hands.oldest()), ([0, 1, 0, 0, 0, 0], 1, Some(Timestamp(7))));
        drop(first);
        assert_eq!((hands.by_steps(), hands.len(), hands.oldest()), ([0; 6], 0, None));
    }
}
