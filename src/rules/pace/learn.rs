//! How does the service count a minute? It does not say, so three hypotheses stand until its own doing contradicts them.
//!
//! A refusal that a hypothesis cannot explain strikes it as too lax; an admission that it would have forbidden strikes it
//! as too strict. Two agreeing strikes and it falls: one may be an estimate that was off, or a stranger on the account.
//! When none is left, nothing that was believed holds: the sliding minute stands, which is safe whichever way the
//! service counts and in the long run uses all of its quota, and beside it clock minutes, if they fell for being too strict:
//! that was under a limit that turned out to be wrong.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::units::Timestamp;

/// A way to count a minute.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hypothesis {
    /// A token bucket that holds one minute's quota and refills evenly.
    Bucket,
    /// Any 60 seconds.
    Sliding,
    /// Minutes of the UTC clock.
    Fixed,
}

impl Hypothesis {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::Bucket, Self::Sliding, Self::Fixed];

    /// As it is configured.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bucket => "bucket",
            Self::Sliding => "sliding",
            Self::Fixed => "fixed",
        }
    }
}

/// What the service's doing has said of a hypothesis.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// Nothing speaks against it but so many strikes.
    Stands {
        lax: u8,
        strict: u8,
    },
    TooLax,
    TooStrict,
}

const FRESH: Verdict = Verdict::Stands { lax: 0, strict: 0 };
const STRIKES: u8 = 2;
/// A hypothesis that fell as too lax is given another chance after this, at the price of one call; what fell as too strict
/// is not.
const RETEST: Duration = Duration::from_secs(30 * 60);

/// What is believed of one lane.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Beliefs {
    bucket: Verdict,
    sliding: Verdict,
    fixed: Verdict,
    /// When the last of them fell or was given another chance.
    changed: Timestamp,
}

impl Default for Beliefs {
    fn default() -> Self {
        Self { bucket: FRESH, sliding: FRESH, fixed: FRESH, changed: Timestamp::default() }
    }
}

/// What a strike came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Struck {
    /// Something still stands.
    Standing,
    /// All have fallen because the service refused: the limit is too high.
    AllTooLax,
    /// Some fell one way and some the other: nothing fits.
    Mixed,
}

impl Beliefs {
    /// What still stands; never nothing.
    pub(super) fn standing(&self) -> impl Iterator<Item = Hypothesis> + use<'_> {
        Hypothesis::ALL.into_iter().filter(|hypothesis| matches!(self.of(*hypothesis), Verdict::Stands { .. }))
    }

    /// The only one that stands, if it is only one.
    pub(super) fn settled(&self) -> Option<Hypothesis> {
        let mut standing = self.standing();
        standing.next().filter(|_| standing.next().is_none())
    }

    /// The service refused what these admit.
    pub(super) fn strike_too_lax(&mut self, now: Timestamp, these: &[Hypothesis]) -> Struck {
        self.weigh_too_lax(now, these, 1)
    }

    /// The service does what none of these would.
    pub(super) fn fell_too_lax(&mut self, now: Timestamp, these: &[Hypothesis]) -> Struck {
        self.weigh_too_lax(now, these, STRIKES)
    }

    /// The service admitted what these forbid.
    pub(super) fn strike_too_strict(&mut self, now: Timestamp, these: &[Hypothesis]) -> Struck {
        for hypothesis in these {
            if let Verdict::Stands { strict, .. } = self.of_mut(*hypothesis) {
                *strict += 1;
                if *strict >= STRIKES {
                    *self.of_mut(*hypothesis) = Verdict::TooStrict;
                    self.changed = now;
                }
            }
        }
        self.outcome(now)
    }

    /// What fell as too lax is tried again, one at a time: its next refusal fells it.
    pub(super) fn retest(&mut self, now: Timestamp) {
        if self.changed.after(RETEST) > now {
            return;
        }
        self.changed = now;
        let fallen = [Hypothesis::Fixed, Hypothesis::Bucket].into_iter().find(|h| self.of(*h) == Verdict::TooLax);
        if let Some(hypothesis) = fallen {
            *self.of_mut(hypothesis) = Verdict::Stands { lax: STRIKES - 1, strict: 0 };
        }
    }

    fn weigh_too_lax(&mut self, now: Timestamp, these: &[Hypothesis], strikes: u8) -> Struck {
        for hypothesis in these {
            if let Verdict::Stands { lax, .. } = self.of_mut(*hypothesis) {
                *lax += strikes;
                if *lax >= STRIKES {
                    *self.of_mut(*hypothesis) = Verdict::TooLax;
                    self.changed = now;
                }
            }
        }
        self.outcome(now)
    }

    fn outcome(&mut self, now: Timestamp) -> Struck {
        if self.standing().next().is_some() {
            return Struck::Standing;
        }
        let all_too_lax = Hypothesis::ALL.into_iter().all(|hypothesis| self.of(hypothesis) == Verdict::TooLax);
        self.sliding = FRESH;
        if self.fixed == Verdict::TooStrict {
            self.fixed = FRESH;
        }
        self.changed = now;
        if all_too_lax { Struck::AllTooLax } else { Struck::Mixed }
    }

    fn of(&self, hypothesis: Hypothesis) -> Verdict {
        match hypothesis {
            Hypothesis::Bucket => self.bucket,
            Hypothesis::Sliding => self.sliding,
            Hypothesis::Fixed => self.fixed,
        }
    }

    fn of_mut(&mut self, hypothesis: Hypothesis) -> &mut Verdict {
        match hypothesis {
            Hypothesis::Bucket => &mut self.bucket,
            Hypothesis::Sliding => &mut self.sliding,
            Hypothesis::Fixed => &mut self.fixed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Hypothesis::{Bucket, Fixed, Sliding};
    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    fn standing(beliefs: &Beliefs) -> Vec<Hypothesis> {
        beliefs.standing().collect()
    }

    #[test]
    fn two_agreeing_strikes_fell_a_hypothesis_and_two_that_disagree_do_not() {
        let mut beliefs = Beliefs::default();
        beliefs.strike_too_lax(START, &[Bucket]);
        beliefs.strike_too_strict(START, &[Bucket, Sliding]);
        assert_eq!(standing(&beliefs), Hypothesis::ALL);
        beliefs.strike_too_lax(START, &[Bucket]);
        assert_eq!(standing(&beliefs), [Sliding, Fixed]);
        assert_eq!(beliefs.settled(), None);
        beliefs.strike_too_strict(START, &[Sliding]);
        assert_eq!(beliefs.settled(), Some(Fixed));
    }

    #[test]
    fn when_all_were_too_lax_it_is_the_limit() {
        let mut beliefs = Beliefs::default();
        assert_eq!(beliefs.strike_too_lax(START, &Hypothesis::ALL), Struck::Standing);
        assert_eq!(beliefs.strike_too_lax(START, &Hypothesis::ALL), Struck::AllTooLax);
        assert_eq!(beliefs.settled(), Some(Sliding));
    }

    #[test]
    fn when_nothing_fits_the_sliding_minute_stands() {
        let mut beliefs = Beliefs::default();
        for _ in 0..2 {
            beliefs.strike_too_strict(START, &[Bucket, Sliding]);
        }
        assert_eq!(beliefs.strike_too_lax(START, &[Fixed]), Struck::Standing);
        assert_eq!(beliefs.strike_too_lax(START, &[Fixed]), Struck::Mixed);
        assert_eq!(beliefs.settled(), Some(Sliding));
    }

    /// The premise: a limit was told a third too low; the minutes that went beyond it felled all but the bucket, whose limit then
    /// rose beyond what clock minutes allow, and those were never thought of again.
    #[test]
    fn when_the_bucket_falls_last_clock_minutes_that_were_too_strict_stand_again() {
        let mut beliefs = Beliefs::default();
        for _ in 0..2 {
            beliefs.strike_too_strict(START, &[Sliding, Fixed]);
        }
        assert_eq!(beliefs.fell_too_lax(START, &[Bucket]), Struck::Mixed);
        assert_eq!(standing(&beliefs), [Sliding, Fixed]);
    }

    #[test]
    fn what_fell_as_too_lax_gets_another_chance_one_at_a_time_and_falls_by_one_refusal() {
        let mut beliefs = Beliefs::default();
        for _ in 0..2 {
            beliefs.strike_too_lax(START, &[Bucket, Fixed]);
        }
        beliefs.retest(START.after(RETEST) - Duration::from_millis(1));
        assert_eq!(standing(&beliefs), [Sliding]);
        let second_chance = START.after(RETEST);
        beliefs.retest(second_chance);
        assert_eq!(standing(&beliefs), [Sliding, Fixed]);
        beliefs.strike_too_lax(second_chance, &[Fixed]);
        assert_eq!(standing(&beliefs), [Sliding]);
        beliefs.retest(second_chance.after(RETEST / 2));
        assert_eq!(standing(&beliefs), [Sliding], "half an hour from then");
    }

    #[test]
    fn what_fell_as_too_strict_stays_down() {
        let mut beliefs = Beliefs::default();
        for _ in 0..2 {
            beliefs.strike_too_strict(START, &[Sliding, Fixed]);
        }
        for hour in 1..48 {
            beliefs.retest(START.after(Duration::from_secs(3_600 * hour)));
        }
        assert_eq!(standing(&beliefs), [Bucket]);
    }
}
