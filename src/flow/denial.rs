//! For how long is a lane out that does not permit our calls? For a run, to its end: whoever waits for it is told what to mend.
//! A worker asks again now and then: a permission may be on its way, and nobody restarts a fleet when it has come.

use std::time::Duration;

use crate::job::failure::Failure;
use crate::job::units::Timestamp;

use super::patience::Patience;

/// A worker asks again after this, with one call.
const AGAIN: Duration = Duration::from_secs(60);
/// For so long jobs wait that no other lane can take; after that it is no permission on its way, but none.
pub(super) const ON_ITS_WAY: Duration = Duration::from_secs(15 * 60);
/// And what they wait for, in words.
pub(super) const AWAITED: &str = "a permission that is refused so far";

/// Why a lane is out.
#[derive(Clone, Debug)]
pub struct Denial {
    /// What the service said.
    pub failure: Failure,
    /// Since when.
    since: Timestamp,
    /// When the next call finds out; `None`: never.
    again_at: Option<Timestamp>,
}

impl Denial {
    /// A call was denied, maybe not for the first time.
    pub fn new(failure: Failure, earlier: Option<&Self>, now: Timestamp, patience: Patience) -> Self {
        let again_at = match patience {
            Patience::Bounded => None,
            Patience::Endless => Some(now.after(AGAIN)),
        };
        Self { failure, since: earlier.map_or(now, |earlier| earlier.since), again_at }
    }

    /// Whether nothing is sent there now.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.again_at.is_none_or(|at| now < at)
    }

    /// One call goes to find out; the next, not before a while.
    pub fn asks(&mut self, now: Timestamp) {
        self.again_at = self.again_at.map(|_| now.after(AGAIN));
    }

    /// How long until a call finds out; `None` if none does.
    pub fn asks_in(&self, now: Timestamp) -> Option<Duration> {
        Some(self.again_at?.since(now))
    }

    /// For how long a job that has no other lane waits before it looks again; `None` if it need not hope any more.
    pub fn hope(&self, now: Timestamp) -> Option<Duration> {
        self.asks_in(now).filter(|_| now < self.since.after(ON_ITS_WAY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::failure::Class;

    const START: Timestamp = Timestamp(0);

    fn denied(earlier: Option<&Denial>, now: Timestamp, patience: Patience) -> Denial {
        Denial::new(Failure::new(Class::Denied, "no"), earlier, now, patience)
    }

    #[test]
    fn a_run_asks_once_and_hopes_for_nothing() {
        let denial = denied(None, START, Patience::Bounded);
        assert!(denial.holds(START.after(ON_ITS_WAY * 100)));
        assert_eq!(denial.hope(START), None);
    }

    #[test]
    fn a_worker_asks_once_a_minute_and_gives_its_jobs_up_after_a_quarter_of_an_hour() {
        let (mut denial, mut now, mut asked) = (denied(None, START, Patience::Endless), START, 0);
        while denial.hope(now).is_some() {
            if !denial.holds(now) {
                denial.asks(now);
                asked += 1;
                assert!(denial.holds(now), "one call at a time");
                denial = denied(Some(&denial), now, Patience::Endless);
            }
            now = now.after(Duration::from_secs(1));
        }
        assert_eq!((now, asked), (START.after(ON_ITS_WAY), 14));
        assert!(!denial.holds(now.after(AGAIN)), "for jobs that come later it is asked all the same");
    }
}
