//! How many calls at once, after the service refused one that was allowed? One, then two, then four: had it been a wrong
//! number that allowed it, as many as were waiting would be refused, and each is a call that came to nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::units::Timestamp;

/// A step lasts so long: more than a refusal usually takes (`feel`), so that after one nobody is in doubt whether the step
/// before was refused as well. It costs little, since the steps are few.
const STEP: Duration = Duration::from_millis(250);
/// Then as many as like.
const STEPS: u32 = 7;

/// What has gone since the refusal.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Caution {
    /// When the first call went.
    since: Option<Timestamp>,
    calls: u32,
}

impl Caution {
    /// When the next call may go; `None` if it may now.
    pub(super) fn holds_until(&self, now: Timestamp) -> Option<Timestamp> {
        let since = self.since?;
        (0..STEPS).map(|step| (step, since.after(STEP * step))).find_map(|(step, begins)| {
            let allowed = (2 << step) - 1;
            (self.calls < allowed).then(|| (begins > now).then_some(begins))
        })?
    }

    /// One more goes.
    pub(super) fn count(&mut self, now: Timestamp) {
        self.since.get_or_insert(now);
        self.calls = self.calls.saturating_add(1);
    }

    /// Whether nothing has to be watched any more.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.since.is_some_and(|since| since.after(STEP * STEPS) <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    #[test]
    fn one_call_goes_then_two_then_four_and_then_as_many_as_like() {
        let mut caution = Caution::default();
        assert_eq!(caution.holds_until(START), None, "the first is waited for, however long it takes");
        for (step, calls) in (0..STEPS).zip([1, 2, 4, 8, 16, 32, 64]) {
            let now = START.after(STEP * step);
            for _ in 0..calls {
                assert_eq!(caution.holds_until(now), None, "step {step}");
                caution.count(now);
            }
            assert!(!caution.is_over(now));
            if step + 1 < STEPS {
                assert_eq!(caution.holds_until(now), Some(now.after(STEP)), "step {step}");
            }
        }
        assert!(caution.is_over(START.after(STEP * STEPS)));
    }
}
