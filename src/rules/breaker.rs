//! Is the service behind a lane well enough to be called?
//!
//! Three states: closed (calls go), open (none goes for a while), half-open (a few probes decide). A call carries a
//! [`Permit`] from [`admit`](Breaker::admit) to the report of how it ended; reports of calls that were let
//! through in an earlier state change nothing, so an answer that comes late neither closes a breaker that has opened since nor
//! takes the place of a probe.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::failure::Class;
use crate::job::units::Timestamp;

/// When a breaker opens, and how it closes again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BreakerRules {
    /// So many failures in a row that count ([`Class::trips_breaker`]) open it; what was sent before a call that has been
    /// answered since does not count.
    pub failures: NonZeroU32,
    /// It stays open for so long.
    pub open_for: Duration,
    /// So many calls at most are on their way while it is half-open.
    pub probes: NonZeroU32,
}

/// May a call be made?
#[derive(Debug, Eq, PartialEq)]
pub enum Gate {
    /// Yes.
    Go(Permit),
    /// Yes, as a probe: if it fails, that does not count against the job that carries it.
    Probe(Permit),
    /// No; ask again then.
    Open {
        /// The end of the open time; while probes are out, shortly after now, because their end is nobody's to foretell.
        until: Timestamp,
    },
}

/// The right to one call; exactly one of the three reports takes it back. One that never comes, because its worker died,
/// gives the place of a probe free after the open time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Permit {
    period: u64,
    made: Timestamp,
}

/// What a person says of a breaker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hand {
    /// No call is made until a person says so.
    Open,
    /// Calls are made again.
    Close,
    /// Probes decide, now.
    Probe,
}

/// The breaker of one lane.
#[derive(Clone, Debug)]
pub struct Breaker {
    rules: BreakerRules,
    standing: Standing,
}

/// How a breaker stands, in a form that workers share.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Standing {
    state: State,
    /// Counts the changes of state: what was let through before the last one has no say any more.
    period: u64,
    /// Whether what opened it last was that the service had too much to do.
    #[serde(default)]
    overload: bool,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Closed {
        failures: u32,
        /// When the newest call was sent that has been answered.
        #[serde(default)]
        answered: Timestamp,
    },
    Open {
        until: Timestamp,
    },
    HalfOpen {
        /// When each probe that is out was let through.
        probes: Vec<Timestamp>,
    },
    /// Opened by a person, until a person says otherwise.
    Held,
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0, answered: Timestamp::default() }
    }
}

/// In which of its states a breaker is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Calls go.
    Closed,
    /// No call goes before.
    Open {
        /// The end of the open time.
        until: Timestamp,
    },
    /// Probes decide.
    HalfOpen,
    /// Opened by a person.
    Held,
}

const PROBE_CHECK: Duration = Duration::from_secs(1);
/// Whoever waits for a person looks so often.
const HELD_CHECK: Duration = Duration::from_secs(5);

impl Standing {
    /// A person says how it is to stand. Calls on their way have no say any more.
    pub fn set_by_hand(&mut self, hand: Hand) {
        self.overload = false;
        self.enter(match hand {
            Hand::Open => State::Held,
            Hand::Close => State::default(),
            Hand::Probe => State::Open { until: Timestamp::default() },
        });
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.period += 1;
    }

    /// Whether others need not be told that it stands so: when the newest call was answered they learn along with what they
    /// have to know.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let is_same = match (&self.state, &other.state) {
            (State::Closed { failures, .. }, State::Closed { failures: others, .. }) => failures == others,
            (own, others) => own == others,
        };
        is_same && (self.period, self.overload) == (other.period, other.overload)
    }

    /// Its state, whatever the time is.
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Closed { .. } => Phase::Closed,
            State::Open { until } => Phase::Open { until: *until },
            State::HalfOpen { .. } => Phase::HalfOpen,
            State::Held => Phase::Held,
        }
    }

    /// In words.
    pub fn describe(&self, now: Timestamp) -> String {
        match &self.state {
            State::Closed { failures: 0, .. } => "closed".to_owned(),
            State::Closed { failures, .. } => format!("closed, {failures} failed in a row"),
            State::Open { until } if *until > now => format!("open until {until}"),
            State::Open { .. } => "open, the next call is a probe".to_owned(),
            State::HalfOpen { .. } => "half-open, a probe is out".to_owned(),
            State::Held => "open by hand".to_owned(),
        }
    }
}

impl Breaker {
    /// A closed one.
    pub fn new(rules: BreakerRules) -> Self {
        Self { rules, standing: Standing::default() }
    }

    /// How it stands.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Takes over how another worker left it.
    pub fn take_over(&mut self, mut standing: Standing) {
        if standing.period == self.standing.period
            && let State::Closed { answered, .. } = &mut standing.state
            && let State::Closed { answered: own, .. } = &self.standing.state
        {
            *answered = (*own).max(*answered);
        }
        self.standing = standing;
    }

    /// Lets a call through, or says when to ask again. Takes the place of a probe when half-open.
    pub fn admit(&mut self, now: Timestamp) -> Gate {
        if let Some(until) = self.shut_until(now) {
            return Gate::Open { until };
        }
        match &mut self.standing.state {
            State::Closed { .. } => return Gate::Go(self.permit(now)),
            State::Open { .. } | State::Held => self.standing.enter(State::HalfOpen { probes: vec![now] }),
            State::HalfOpen { probes } => {
                probes.retain(|made| now < made.after(self.rules.open_for));
                probes.push(now);
            }
        }
        Gate::Probe(self.permit(now))
    }

    /// Until when [`admit`](Self::admit) would answer [`Gate::Open`]; `None` if a call could go now. Takes nothing.
    pub fn shut_until(&self, now: Timestamp) -> Option<Timestamp> {
        match &self.standing.state {
            State::Closed { .. } => None,
            State::Open { until } => (now < *until).then_some(*until),
            State::Held => Some(now + HELD_CHECK),
            State::HalfOpen { probes } => {
                let out = probes.iter().filter(|made| now < made.after(self.rules.open_for)).count();
                (out >= usize::try_from(self.rules.probes.get()).unwrap_or(usize::MAX)).then(|| now + PROBE_CHECK)
            }
        }
    }

    /// Whether no call could go now because the service has too much to do: another model may help then.
    pub fn is_shut_by_overload(&self, now: Timestamp) -> bool {
        self.standing.overload && self.shut_until(now).is_some()
    }

    /// The call was answered.
    pub fn on_success(&mut self, permit: Permit) {
        if !self.is_current(permit) {
            return;
        }
        match &mut self.standing.state {
            State::Closed { failures, answered } => {
                (*failures, *answered) = (0, permit.made.max(*answered));
            }
            State::HalfOpen { .. } => self.standing.enter(State::Closed { failures: 0, answered: permit.made }),
            State::Open { .. } | State::Held => {}
        }
    }

    /// The call failed. A class that does not count leaves a closed breaker as it is, and frees the place of a probe:
    /// whether the service is well is still open.
    pub fn on_failure(&mut self, permit: Permit, now: Timestamp, class: Class) {
        if !self.is_current(permit) {
            return;
        }
        if !class.trips_breaker() {
            return self.on_abandoned(permit);
        }
        match &mut self.standing.state {
            // What was sent after it has been answered since: that it hung until now is no news of the service.
            State::Closed { answered, .. } if permit.made < *answered => return,
            State::Closed { failures, .. } => {
                *failures = failures.saturating_add(1);
                if *failures < self.rules.failures.get() {
                    return;
                }
            }
            State::HalfOpen { .. } => {}
            State::Open { .. } | State::Held => return,
        }
        self.standing.enter(State::Open { until: now + self.rules.open_for });
        self.standing.overload = class == Class::Overloaded;
    }

    /// The call was not made, or nobody waited for its end.
    pub fn on_abandoned(&mut self, permit: Permit) {
        if self.is_current(permit)
            && let State::HalfOpen { probes } = &mut self.standing.state
            && let Some(place) = probes.iter().position(|made| *made == permit.made)
        {
            probes.remove(place);
        }
    }

    fn permit(&self, made: Timestamp) -> Permit {
        Permit { period: self.standing.period, made }
    }

    fn is_current(&self, permit: Permit) -> bool {
        permit.period == self.standing.period
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    const OPEN_FOR: Duration = Duration::from_secs(60);

    fn breaker(failures: u32, probes: u32) -> Breaker {
        let rules = BreakerRules {
            failures: NonZeroU32::new(failures).unwrap(),
            open_for: OPEN_FOR,
            probes: NonZeroU32::new(probes).unwrap(),
        };
        Breaker::new(rules)
    }

    fn pass(gate: Gate) -> Permit {
        match gate {
            Gate::Go(permit) | Gate::Probe(permit) => permit,
            Gate::Open { until } => panic!("shut until {until:?}"),
        }
    }

    /// A call that is answered, and the phase after it.
    fn answer(breaker: &mut Breaker, permit: Permit) -> Phase {
        breaker.on_success(permit);
        breaker.standing().phase()
    }

    /// A call that fails at once, and the phase after it.
    fn fail(breaker: &mut Breaker, now: Timestamp, class: Class) -> Phase {
        let permit = pass(breaker.admit(now));
        breaker.on_failure(permit, now, class);
        breaker.standing().phase()
    }

    fn opened(now: Timestamp) -> Breaker {
        let mut breaker = breaker(1, 1);
        assert_eq!(fail(&mut breaker, now, Class::Unavailable), Phase::Open { until: now + OPEN_FOR });
        breaker
    }

    #[test]
    fn b1_opens_after_so_many_failures_in_a_row() {
        let now = START;
        let mut breaker = breaker(3, 1);
        for class in [Class::Unavailable, Class::Timeout] {
            assert_eq!(fail(&mut breaker, now, class), Phase::Closed);
        }
        let answered = pass(breaker.admit(now));
        assert_eq!(answer(&mut breaker, answered), Phase::Closed);
        for class in [Class::Overloaded, Class::Unavailable] {
            assert_eq!(fail(&mut breaker, now, class), Phase::Closed);
        }
        assert_eq!(fail(&mut breaker, now, Class::Timeout), Phase::Open { until: now + OPEN_FOR });
    }

    /// The premise: one call in ten failed, those that hung came to their time-out together, long after the others of their
    /// minute had been answered, and five of them shut a lane for a minute that was no worse than before.
    #[test]
    fn b1_calls_that_hung_while_later_ones_were_answered_are_no_failures_in_a_row() {
        let (sent, later) = (START, START + Duration::from_secs(1));
        let mut breaker = breaker(2, 1);
        let hung: Vec<_> = (0..5).map(|_| pass(breaker.admit(sent))).collect();
        let answered = pass(breaker.admit(later));
        assert_eq!(answer(&mut breaker, answered), Phase::Closed);
        let end = START + Duration::from_secs(20);
        for call in hung {
            breaker.on_failure(call, end, Class::Timeout);
        }
        assert_eq!(fail(&mut breaker, end, Class::Timeout), Phase::Closed);
        assert_eq!(fail(&mut breaker, end, Class::Timeout), Phase::Open { until: end + OPEN_FOR });
    }

    /// The premise: every answer was written into the row of a lane of which there was nothing else to say.
    #[test]
    fn an_answer_on_a_lane_that_is_well_is_no_news_and_is_not_forgotten_for_what_others_know() {
        let later = START + Duration::from_secs(1);
        let mut breaker = breaker(1, 1);
        let hung = pass(breaker.admit(START));
        let before = breaker.standing().clone();
        let answered = pass(breaker.admit(later));
        breaker.on_success(answered);
        assert!(before.says_the_same(breaker.standing()));
        breaker.take_over(before);
        breaker.on_failure(hung, later, Class::Timeout);
        assert_eq!(breaker.standing().phase(), Phase::Closed);
        let before = breaker.standing().clone();
        assert!(matches!(fail(&mut breaker, later, Class::Timeout), Phase::Open { .. }));
        assert!(!before.says_the_same(breaker.standing()));
    }

    #[test]
    fn b1_only_failures_of_the_service_count() {
        let now = START;
        for class in Class::ALL {
            let opened = fail(&mut breaker(1, 1), now, class) != Phase::Closed;
            assert_eq!(opened, matches!(class, Class::Overloaded | Class::Unavailable | Class::Timeout), "{class}");
        }
    }

    #[test]
    fn t5_it_says_whether_an_overload_shut_it_until_it_closes() {
        for class in [Class::Overloaded, Class::Unavailable, Class::Timeout] {
            let now = START;
            let mut breaker = breaker(1, 1);
            assert!(!breaker.is_shut_by_overload(now));
            fail(&mut breaker, now, class);
            assert_eq!(breaker.is_shut_by_overload(now), class == Class::Overloaded, "{class}");
            let probe = pass(breaker.admit(now + OPEN_FOR));
            assert_eq!(breaker.is_shut_by_overload(now + OPEN_FOR), class == Class::Overloaded, "{class}");
            breaker.on_success(probe);
            assert!(!breaker.is_shut_by_overload(now + OPEN_FOR), "{class}");
        }
    }

    #[test]
    fn b2_no_call_while_open_and_one_probe_at_its_end() {
        let now = START;
        let mut breaker = opened(now);
        let end = now + OPEN_FOR;
        assert_eq!(breaker.admit(end - Duration::from_millis(1)), Gate::Open { until: end });
        assert!(matches!(breaker.admit(end), Gate::Probe(_)));
        assert_eq!(breaker.admit(end), Gate::Open { until: end + PROBE_CHECK });
    }

    #[test]
    fn b2_at_most_so_many_probes_are_out_at_once() {
        let now = START;
        let mut breaker = breaker(1, 3);
        fail(&mut breaker, now, Class::Unavailable);
        let end = now + OPEN_FOR;
        let probes: Vec<_> = (0..3).map(|_| pass(breaker.admit(end))).collect();
        assert!(matches!(breaker.admit(end), Gate::Open { .. }));
        for probe in probes {
            breaker.on_abandoned(probe);
        }
        assert!(matches!(breaker.admit(end), Gate::Probe(_)));
    }

    #[test]
    fn b2_a_probe_that_is_answered_closes_it_and_forgets_the_failures() {
        let now = START;
        let mut breaker = breaker(2, 1);
        fail(&mut breaker, now, Class::Unavailable);
        fail(&mut breaker, now, Class::Unavailable);
        let end = now + OPEN_FOR;
        let probe = pass(breaker.admit(end));
        assert_eq!(answer(&mut breaker, probe), Phase::Closed);
        assert_eq!(fail(&mut breaker, end, Class::Unavailable), Phase::Closed);
    }

    #[test]
    fn b2_a_probe_that_fails_opens_it_for_a_fresh_time() {
        let now = START;
        let mut breaker = opened(now);
        let later = now + OPEN_FOR + Duration::from_secs(7);
        assert_eq!(fail(&mut breaker, later, Class::Timeout), Phase::Open { until: later + OPEN_FOR });
        assert_eq!(breaker.admit(later), Gate::Open { until: later + OPEN_FOR });
    }

    #[test]
    fn b2_a_probe_that_was_given_up_or_says_nothing_makes_room_for_the_next() {
        let now = START;
        let mut breaker = opened(now);
        let end = now + OPEN_FOR;
        let probe = pass(breaker.admit(end));
        breaker.on_abandoned(probe);
        assert_eq!(fail(&mut breaker, end, Class::Invalid), Phase::HalfOpen);
        assert!(matches!(breaker.admit(end), Gate::Probe(_)));
    }

    #[test]
    fn a_late_report_changes_nothing() {
        let now = START;
        let mut breaker = breaker(1, 1);
        let late: Vec<_> = (0..3).map(|_| pass(breaker.admit(now))).collect();
        fail(&mut breaker, now, Class::Unavailable);
        let end = now + OPEN_FOR;
        let mut late = late.into_iter();
        breaker.on_success(late.next().unwrap());
        assert_eq!(breaker.shut_until(now), Some(end), "an old answer does not close it");
        breaker.on_failure(late.next().unwrap(), end, Class::Timeout);
        assert_eq!(breaker.shut_until(now), Some(end), "an old failure does not lengthen it");
        let probe = pass(breaker.admit(end));
        breaker.on_failure(late.next().unwrap(), end, Class::Timeout);
        assert_eq!(breaker.standing().phase(), Phase::HalfOpen, "nor does it stand in for the probe");
        assert_eq!(answer(&mut breaker, probe), Phase::Closed);
    }

    #[test]
    fn b4_a_person_opens_closes_or_probes_it_and_that_is_nobodys_failure() {
        let now = START;
        let mut breaker = breaker(1, 1);
        let open_call = pass(breaker.admit(now));
        breaker.standing.set_by_hand(Hand::Open);
        let much_later = now + 1_000 * OPEN_FOR;
        assert!(matches!(breaker.admit(much_later), Gate::Open { .. }), "it stays open until a person says so");
        assert_eq!(answer(&mut breaker, open_call), Phase::Held, "and no answer closes it");
        breaker.standing.set_by_hand(Hand::Probe);
        let probe = pass(breaker.admit(much_later));
        assert!(matches!(breaker.admit(much_later), Gate::Open { .. }), "one probe at a time");
        assert_eq!(answer(&mut breaker, probe), Phase::Closed);
        breaker.standing.set_by_hand(Hand::Open);
        breaker.standing.set_by_hand(Hand::Close);
        assert!(matches!(breaker.admit(much_later), Gate::Go(_)));
        assert_eq!(breaker.standing.describe(much_later), "closed");
    }
}
