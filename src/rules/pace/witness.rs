//! What does an admission prove, now that the calls before it are settled?
//!
//! A call that was admitted where a counting, or the limit, forbade it contradicts them only if it really was one too
//! many; and how much the calls before it counted for is known when they are settled, some seconds later. So an
//! admission is remembered for a minute, and looked at again whenever a call is settled.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::caution::Caution;
use super::learn::Hypothesis;
use super::limit::Quota;
use super::{Amount, JUDGED_AFTER, LaneLedger, MINUTE, turn_before};
use crate::job::units::Timestamp;

/// More are not remembered: the newest have the most before them.
const WITNESSES: usize = 8;
/// What was charged so long after an admission was certainly not before it, and nothing is charged in between: a call
/// that tries something goes alone.
const ALONE: Duration = Duration::from_millis(150);

/// A limit that was learned is as exact as this, one part in so many: what exceeds it by less contradicts nothing.
const FOUND_WITHIN: u64 = 50;

/// A call that was admitted, and what it tried.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Witness {
    made: Timestamp,
    tries: Tried,
}

/// What its admission may still contradict.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tried {
    /// The countings that forbid it.
    Counting { forbid: Vec<Hypothesis> },
    /// The limit.
    Limit(Quota),
}

impl LaneLedger {
    pub(super) fn remember(&mut self, made: Timestamp, tries: Tried) {
        let witnesses = &mut self.book.witnesses;
        if witnesses.len() >= WITNESSES {
            witnesses.remove(0);
        }
        witnesses.push(Witness { made, tries });
    }

    /// Asks everyone again. What they say may strike a counting, or change the limit.
    pub(super) fn hear_witnesses(&mut self, now: Timestamp) {
        for mut witness in std::mem::take(&mut self.book.witnesses) {
            let has_more_to_say = match &mut witness.tries {
                Tried::Counting { forbid } => {
                    let contradicted: Vec<_> =
                        forbid.iter().copied().filter(|h| self.was_beyond(*h, witness.made)).collect();
                    forbid.retain(|hypothesis| !contradicted.contains(hypothesis));
                    if !contradicted.is_empty() {
                        self.book.beliefs.strike_too_strict(now, &contradicted);
                    }
                    !forbid.is_empty()
                }
                Tried::Limit(quota) => {
                    let quota = *quota;
                    let counted = self.book.beliefs.settled().and_then(|h| self.counted_at(h, witness.made));
                    let configured = self.configured();
                    let limit = self.book.learned.limit_of(configured, quota);
                    match counted.zip(limit) {
                        Some((counted, limit)) if counted.of(quota) > limit => {
                            let may_run = self.book.beliefs.settled() == Some(Hypothesis::Sliding);
                            if self.book.learned.admitted_so_much(now, configured, quota, counted.of(quota), may_run) {
                                self.book.caution = Some(Caution::default());
                            }
                            false
                        }
                        Some(_) | None => true,
                    }
                }
            };
            if has_more_to_say && witness.made.after(MINUTE) > now {
                self.book.witnesses.push(witness);
            }
        }
        self.weigh_what_was_found();
    }

    /// Whether more than the limit certainly counted by this counting, and it was admitted all the same.
    fn was_beyond(&self, hypothesis: Hypothesis, made: Timestamp) -> bool {
        let (limits, told) = (self.minute_limits(), self.configured());
        let most = |limit: Option<u64>, told: Option<u64>| {
            limit.map(|limit| if Some(limit) == told { limit } else { limit.saturating_add(limit / FOUND_WITHIN) })
        };
        let (tokens, requests) = (most(limits.0, told.0), most(limits.1, told.1));
        self.counted_at(hypothesis, made).is_some_and(|counted| {
            tokens.is_some_and(|limit| counted.tokens > limit) || requests.is_some_and(|limit| counted.requests > limit)
        })
    }

    /// What certainly counted, by this counting, when the call that was made then was admitted, itself included and
    /// admitted as late as can be. `None` for a bucket: what it held then, nobody can tell afterwards.
    fn counted_at(&self, hypothesis: Hypothesis, made: Timestamp) -> Option<Amount> {
        let late = made.after(JUDGED_AFTER + self.terms.slack);
        let since = match hypothesis {
            Hypothesis::Bucket => return None,
            Hypothesis::Sliding => late - MINUTE,
            Hypothesis::Fixed => {
                let turn = turn_before(late);
                if turn != turn_before(made - self.terms.slack) {
                    return None;
                }
                turn.after(self.terms.slack)
            }
        };
        Some(self.book.charges.least_between(since, made.after(ALONE)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_names_the_countings_that_admitted_a_call_can_still_be_read() {
        let row = r#"{"made":7,"tries":{"counting":{"admit":["bucket"],"forbid":["sliding"]}}}"#;
        let tries = Tried::Counting { forbid: vec![Hypothesis::Sliding] };
        assert_eq!(serde_json::from_str::<Witness>(row).unwrap(), Witness { made: Timestamp(7), tries });
    }
}
