//! What happens to a lane's quota that none of its callers does? Strangers use it, and the service changes it.
//!
//! Nothing runs by itself: whoever next asks the lane something first brings it up to date, in the order of time, so
//! that the result is the same whenever that is.

use std::collections::VecDeque;
use std::time::Duration;

use super::scenario::Scenario;
use super::scope::{Scope, Target};

/// Others on the account: they are charged without being asked, and may put the quota into debt.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stranger {
    pub(super) scope: Scope,
    pub(super) tokens_per_minute: u64,
    pub(super) requests_per_minute: u64,
    /// A charge comes for so much time at its beginning.
    pub(super) every: Duration,
}

/// The service's limits are others from a moment on; `None` leaves one as it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) scope: Scope,
    pub(super) tokens_per_minute: Option<u64>,
    pub(super) requests_per_minute: Option<u64>,
}

/// What is still to come to one lane.
#[derive(Debug)]
pub(super) struct Unseen {
    strangers: Vec<Course>,
    /// By time.
    changes: VecDeque<Change>,
}

/// Something that has happened to a lane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Event {
    /// Strangers have used so much.
    Used { tokens: u64, requests: u64 },
    /// The limits a minute are others from now on.
    Changed { tokens: Option<u64>, requests: Option<u64> },
}

impl Unseen {
    pub(super) fn new(scenario: &Scenario, target: Target<'_>) -> Self {
        let strangers = scenario.strangers.iter().filter(|stranger| stranger.scope.concerns(target));
        let strangers = strangers.map(Course::new).collect();
        let changes = scenario.changes.iter().filter(|change| change.scope.concerns(target));
        let mut changes: Vec<_> = changes.cloned().collect();
        changes.sort_by_key(|change| change.scope.from);
        Self { strangers, changes: changes.into() }
    }

    /// The earliest of what has happened until now and was not told yet.
    pub(super) fn next(&mut self, now: Duration) -> Option<(Duration, Event)> {
        let stranger = self.strangers.iter_mut().filter_map(|course| Some((course.next()?, course)));
        let stranger = stranger.filter(|(at, _)| *at <= now).min_by_key(|(at, _)| *at);
        let charged = stranger.as_ref().map_or(Duration::MAX, |(at, _)| *at);
        if let Some(change) = self.changes.pop_front_if(|change| change.scope.from <= now.min(charged)) {
            let (tokens, requests) = (change.tokens_per_minute, change.requests_per_minute);
            return Some((change.scope.from, Event::Changed { tokens, requests }));
        }
        stranger.map(|(at, course)| (at, course.charge()))
    }
}

/// How far a stranger has come on one lane.
#[derive(Debug)]
struct Course {
    stranger: Stranger,
    at: Duration,
    charges: u64,
}

impl Course {
    fn new(stranger: &Stranger) -> Self {
        Self { stranger: stranger.clone(), at: stranger.scope.from, charges: 0 }
    }

    /// When the next charge comes, if one does.
    fn next(&self) -> Option<Duration> {
        self.stranger.scope.holds(self.at).then_some(self.at)
    }

    fn charge(&mut self) -> Event {
        let before = self.charges;
        self.charges += 1;
        self.at += self.stranger.every;
        let used = |per_minute| self.used(per_minute, self.charges) - self.used(per_minute, before);
        Event::Used { tokens: used(self.stranger.tokens_per_minute), requests: used(self.stranger.requests_per_minute) }
    }

    /// By so many charges in all: what is no whole token yet comes with a later one.
    fn used(&self, per_minute: u64, charges: u64) -> u64 {
        const MINUTE: u128 = 60_000_000_000;
        let nanos = self.stranger.every.as_nanos().saturating_mul(u128::from(charges));
        u64::try_from(nanos.saturating_mul(u128::from(per_minute)) / MINUTE).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn from(seconds: f64) -> Scope {
        Scope { from: at(seconds), ..Scope::default() }
    }

    fn stranger(scope: Scope, tokens_per_minute: u64, every: f64) -> Stranger {
        Stranger { scope, tokens_per_minute, requests_per_minute: 7, every: at(every) }
    }

    fn unseen(strangers: Vec<Stranger>, changes: Vec<Change>) -> Unseen {
        let scenario = Scenario { strangers, changes, ..Scenario::default() };
        Unseen::new(&scenario, Target { region: "", id: "a.b" })
    }

    fn told(unseen: &mut Unseen, now: f64) -> Vec<(Duration, Event)> {
        std::iter::from_fn(|| unseen.next(at(now))).collect()
    }

    #[test]
    fn a_stranger_uses_exactly_his_rate_however_seldom_the_lane_is_asked() {
        for (every, asked) in [(0.5, vec![60.0]), (0.5, vec![0.3, 17.0, 17.0, 59.9, 60.0]), (0.7, vec![1.0, 60.0])] {
            let mut unseen = unseen(vec![stranger(from(0.0), 1_001, every)], Vec::new());
            let mut sums = (0, 0);
            let mut last = Duration::ZERO;
            for now in asked {
                for (made, event) in told(&mut unseen, now) {
                    assert!(made >= last && made <= at(now));
                    last = made;
                    let Event::Used { tokens, requests } = event else { unreachable!() };
                    sums = (sums.0 + tokens, sums.1 + requests);
                }
            }
            // The charge at 60 s is for the time that follows.
            let charges = (60.0_f64 / every).floor() + 1.0;
            let expected = |rate: f64| (rate * charges * every / 60.0 + 1e-6).floor();
            assert_eq!((f64::from(u32::try_from(sums.0).unwrap_or(0))), expected(1_001.0), "every {every} s");
            assert_eq!((f64::from(u32::try_from(sums.1).unwrap_or(0))), expected(7.0), "every {every} s");
        }
    }

    #[test]
    fn strangers_come_and_go() {
        let scope = Scope { until: Some(at(31.0)), ..from(30.0) };
        let mut unseen = unseen(vec![stranger(scope, 6_000, 0.5)], Vec::new());
        assert_eq!(told(&mut unseen, 29.999), []);
        let used = Event::Used { tokens: 50, requests: 0 };
        assert_eq!(told(&mut unseen, 1_000.0), [(at(30.0), used), (at(30.5), used)]);
    }

    #[test]
    fn everything_is_told_in_the_order_of_time() {
        let change =
            |seconds, limit| Change { scope: from(seconds), tokens_per_minute: Some(limit), requests_per_minute: None };
        let strangers = vec![stranger(from(0.0), 60, 20.0), stranger(from(10.0), 60, 20.0)];
        let mut unseen = unseen(strangers, vec![change(30.0, 2), change(5.0, 1)]);
        let times: Vec<_> = told(&mut unseen, 40.0)
            .into_iter()
            .map(|(at, event)| (at.as_secs(), matches!(event, Event::Changed { .. })))
            .collect();
        let expected = [(0, false), (5, true), (10, false), (20, false), (30, true), (30, false), (40, false)];
        assert_eq!(times, expected);
    }
}
