//! Which of a job's lanes gets its next call?
//!
//! Lanes are ranked by how often the job has left them after failures, then primaries before the rest. So an endpoint
//! that is no primary gets a job only when every primary allowed for it is cooled or has failed it, and when all have
//! failed it the round starts again. Waiting for tokens does not change the rank: it is no reason to leave a primary.

use std::num::NonZeroU32;

use crate::job::units::Timestamp;

/// How lanes are chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RoutingRules {
    /// Whether a job may go to another lane than the first it was sent to.
    pub multi_region: bool,
    /// Whether primaries share the jobs evenly; else they are filled in order.
    pub spread_primaries: bool,
    /// So many failures in a row on one lane before a job leaves it.
    pub attempts_per_endpoint: NonZeroU32,
}

/// One lane as it stands for one job. Always all lanes of a model, in configured order.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Whether its endpoint is a primary.
    pub primary: bool,
    /// Whether this job can never go there: access denied, outside its residency, larger than the quota.
    pub out: bool,
    /// End of its cool-down.
    pub available_at: Timestamp,
    /// End of its breaker's open time.
    pub shut_until: Timestamp,
    /// When its quota, and any pause the service imposed, lets this job start.
    pub admits_at: Timestamp,
    /// Whether this job was sent there at all.
    pub sent: bool,
    /// How many of this job's calls there failed in a way that counts.
    pub failures: u32,
    /// Whether its last call failed there.
    pub last: bool,
}

/// Where next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Choice {
    /// To the candidate at this index, which can start now.
    Lane(usize),
    /// Lanes that are well have no tokens before that; ask again then.
    WaitUntil(Timestamp),
    /// No lane that it may use is well before that; ask again then.
    RestUntil(Timestamp),
    /// Every lane is out.
    NoneLeft,
}

/// Who got the last jobs. One for each list of candidates.
///
/// The lane that was chosen longest ago comes next. Unlike a cursor that moves on over lanes which are out, that
/// does not give a double share to the neighbour of a missing one; and unlike a count, it does not flood the one that comes back.
#[derive(Debug, Default)]
pub struct Spread {
    chosen: Vec<u64>,
    choices: u64,
}

impl Spread {
    /// Nobody was chosen yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn last(&self, lane: usize) -> u64 {
        self.chosen.get(lane).copied().unwrap_or(0)
    }

    fn note(&mut self, lane: usize) {
        if self.chosen.len() <= lane {
            self.chosen.resize(lane + 1, 0);
        }
        self.choices += 1;
        if let Some(last) = self.chosen.get_mut(lane) {
            *last = self.choices;
        }
    }
}

/// Chooses for one job.
pub fn choose(now: Timestamp, rules: &RoutingRules, candidates: &[Candidate], spread: &mut Spread) -> Choice {
    let mut allowed = allowed(rules, candidates);
    // A job stays for its tries in a row; cool-downs are stamped when it leaves, so none of its own is in the way.
    if let Some(current) = allowed.iter().find(|(_, lane)| is_staying(rules, lane)).copied() {
        allowed = vec![current];
    } else if allowed.len() > 1 {
        // More tries in a row there are not allowed, whatever the others are waiting for.
        allowed.retain(|(_, lane)| !lane.last);
    }
    let is_cooled = |lane: &Candidate| now < lane.shut_until || (now < lane.available_at && !is_staying(rules, lane));
    let back_at = |lane: &Candidate| {
        let rest = if is_staying(rules, lane) { now } else { lane.available_at };
        rest.max(lane.shut_until).max(lane.admits_at)
    };
    let Some(best) = allowed.iter().filter(|(_, lane)| !is_cooled(lane)).map(|(_, lane)| rank(rules, lane)).min()
    else {
        return allowed.iter().map(|(_, lane)| back_at(lane)).min().map_or(Choice::NoneLeft, Choice::RestUntil);
    };
    let able = allowed
        .iter()
        .filter(|(_, lane)| !is_cooled(lane) && rank(rules, lane) == best && lane.admits_at <= now)
        .map(|(index, _)| *index);
    let chosen = if rules.spread_primaries && best.is_primary() {
        able.min_by_key(|index| spread.last(*index))
    } else {
        able.min()
    };
    if let Some(index) = chosen {
        spread.note(index);
        return Choice::Lane(index);
    }
    // A lane that comes back from its cool-down may overtake those that wait for tokens.
    let soonest = allowed.iter().filter(|(_, lane)| rank(rules, lane) <= best).map(|(_, lane)| back_at(lane)).min();
    soonest.map_or(Choice::NoneLeft, Choice::WaitUntil)
}

/// Whether the job has had its tries in a row where its last call failed, and has somewhere else to go: then it has left,
/// even while all others are cooled.
pub fn has_left(rules: &RoutingRules, candidates: &[Candidate]) -> bool {
    let allowed = allowed(rules, candidates);
    allowed.len() > 1 && allowed.iter().any(|(_, lane)| lane.last && !is_staying(rules, lane))
}

fn allowed<'c>(rules: &RoutingRules, candidates: &'c [Candidate]) -> Vec<(usize, &'c Candidate)> {
    let bound = !rules.multi_region && candidates.iter().any(|lane| lane.sent);
    candidates.iter().enumerate().filter(|(_, lane)| !lane.out && (!bound || lane.sent)).collect()
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Rank {
    times_left: u32,
    secondary: bool,
}

impl Rank {
    fn is_primary(self) -> bool {
        !self.secondary
    }
}

fn rank(rules: &RoutingRules, lane: &Candidate) -> Rank {
    Rank { times_left: lane.failures / rules.attempts_per_endpoint, secondary: !lane.primary }
}

fn is_staying(rules: &RoutingRules, lane: &Candidate) -> bool {
    !lane.failures.is_multiple_of(rules.attempts_per_endpoint.get())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    const SECOND: Duration = Duration::from_secs(1);

    fn rules() -> RoutingRules {
        RoutingRules { multi_region: true, spread_primaries: true, attempts_per_endpoint: NonZeroU32::MIN }
    }

    fn in_order() -> RoutingRules {
        RoutingRules { spread_primaries: false, ..rules() }
    }

    fn lane(now: Timestamp, primary: bool) -> Candidate {
        Candidate {
            primary,
            out: false,
            available_at: now,
            shut_until: now,
            admits_at: now,
            sent: false,
            failures: 0,
            last: false,
        }
    }

    fn once(now: Timestamp, rules: &RoutingRules, lanes: &[Candidate]) -> Choice {
        choose(now, rules, lanes, &mut Spread::new())
    }

    fn shares(now: Timestamp, lanes: &[Candidate], spread: &mut Spread, jobs: usize) -> Vec<usize> {
        let mut shares = vec![0; lanes.len()];
        for _ in 0..jobs {
            if let Choice::Lane(index) = choose(now, &rules(), lanes, spread) {
                *shares.get_mut(index).unwrap() += 1;
            }
        }
        shares
    }

    #[test]
    fn r01_primaries_share_evenly_and_the_rest_gets_nothing() {
        let now = START;
        let lanes = [true, false, true, true, false].map(|primary| lane(now, primary));
        assert_eq!(shares(now, &lanes, &mut Spread::new(), 3_000), [1_000, 0, 1_000, 1_000, 0]);
    }

    #[test]
    fn r02_spread_survives_a_cooled_primary() {
        let now = START;
        let mut lanes = [true, true, true, false].map(|primary| lane(now, primary));
        let mut spread = Spread::new();
        lanes[1].available_at = now + SECOND;
        assert_eq!(shares(now, &lanes, &mut spread, 2_000), [1_000, 0, 1_000, 0]);
        let shares = shares(now + SECOND, &lanes, &mut spread, 3_000);
        assert_eq!(shares, [1_000, 1_000, 1_000, 0], "it comes back without a flood");
    }

    #[test]
    fn r02_a_primary_without_tokens_leaves_its_share_to_the_others() {
        let now = START;
        let mut lanes = [true, true, true].map(|primary| lane(now, primary));
        lanes[0].admits_at = now + SECOND;
        assert_eq!(shares(now, &lanes, &mut Spread::new(), 2_000), [0, 1_000, 1_000]);
    }

    #[test]
    fn r03_without_spread_each_group_is_filled_in_order() {
        let now = START;
        let mut lanes = [false, true, false, true].map(|primary| lane(now, primary));
        let mut order = Vec::new();
        while let Choice::Lane(index) = once(now, &in_order(), &lanes) {
            order.push(index);
            lanes[index].available_at = now + SECOND;
        }
        assert_eq!(order, [1, 3, 0, 2]);
    }

    #[test]
    fn r04_a_normal_endpoint_waits_until_every_primary_is_cooled_or_has_failed() {
        let now = START;
        let mut lanes = [true, true, false].map(|primary| lane(now, primary));
        lanes[0].failures = 1;
        assert_eq!(once(now, &rules(), &lanes), Choice::Lane(1));
        lanes[1].available_at = now + SECOND;
        assert_eq!(once(now, &rules(), &lanes), Choice::Lane(2));
    }

    #[test]
    fn r04_waiting_for_tokens_does_not_open_normal_endpoints() {
        let now = START;
        let mut lanes = [true, true, false].map(|primary| lane(now, primary));
        lanes[0].admits_at = now + 3 * SECOND;
        lanes[1].admits_at = now + 2 * SECOND;
        assert_eq!(once(now, &rules(), &lanes), Choice::WaitUntil(now + 2 * SECOND));
    }

    #[test]
    fn r04_when_all_have_failed_the_round_starts_again() {
        let now = START;
        let mut lanes = [true, false].map(|primary| lane(now, primary));
        let mut order = Vec::new();
        for _ in 0..5 {
            if let Choice::Lane(index) = once(now, &rules(), &lanes) {
                order.push(index);
                lanes[index].failures += 1;
            }
        }
        assert_eq!(order, [0, 1, 0, 1, 0]);
    }

    #[test]
    fn r04_a_lane_that_is_out_neither_holds_the_others_back_nor_is_called() {
        let now = START;
        let mut lanes = [true, false].map(|primary| lane(now, primary));
        lanes[0].out = true;
        assert_eq!(once(now, &rules(), &lanes), Choice::Lane(1));
        lanes[1].out = true;
        assert_eq!(once(now, &rules(), &lanes), Choice::NoneLeft);
        assert_eq!(once(now, &rules(), &[]), Choice::NoneLeft);
    }

    #[test]
    fn r05_a_job_stays_for_its_attempts_in_a_row() {
        let now = START;
        let rules = RoutingRules { attempts_per_endpoint: NonZeroU32::new(3).unwrap(), ..rules() };
        let mut lanes = [true, true].map(|primary| lane(now, primary));
        let mut spread = Spread::new();
        let mut order = Vec::new();
        for _ in 0..8 {
            if let Choice::Lane(index) = choose(now, &rules, &lanes, &mut spread) {
                order.push(index);
                lanes[index].failures += 1;
                // Other jobs leave it meanwhile and cool it: that holds newcomers back, not this job.
                lanes[index].available_at = if lanes[index].failures % 3 == 0 { now } else { now + SECOND };
            }
        }
        assert_eq!(order, [0, 0, 0, 1, 1, 1, 0, 0]);
    }

    #[test]
    fn r05_a_job_that_stays_waits_for_tokens_there() {
        let now = START;
        let rules = RoutingRules { attempts_per_endpoint: NonZeroU32::new(2).unwrap(), ..rules() };
        let mut lanes = [true, true].map(|primary| lane(now, primary));
        lanes[1] = Candidate { failures: 1, sent: true, admits_at: now + SECOND, ..lanes[1] };
        assert_eq!(once(now, &rules, &lanes), Choice::WaitUntil(now + SECOND));
        lanes[1].out = true;
        assert_eq!(once(now, &rules, &lanes), Choice::Lane(0));
    }

    #[test]
    fn b2_a_job_that_stays_waits_for_an_open_breaker() {
        let now = START;
        let rules = RoutingRules { attempts_per_endpoint: NonZeroU32::new(2).unwrap(), ..rules() };
        let mut lanes = [lane(now, true)];
        lanes[0] = Candidate { failures: 1, sent: true, shut_until: now + SECOND, ..lanes[0] };
        lanes[0].available_at = now + 9 * SECOND;
        assert_eq!(once(now, &rules, &lanes), Choice::RestUntil(now + SECOND), "its own stamp is not in the way");
        assert_eq!(once(now + SECOND, &rules, &lanes), Choice::Lane(0));
    }

    #[test]
    fn r06_one_region_only_is_the_first_that_was_chosen() {
        let now = START;
        let rules = RoutingRules { multi_region: false, ..rules() };
        let mut lanes = [true, true, false].map(|primary| lane(now, primary));
        lanes[1] = Candidate { sent: true, failures: 1, ..lanes[1] };
        assert_eq!(once(now, &rules, &lanes), Choice::Lane(1));
        lanes[1].available_at = now + SECOND;
        assert_eq!(once(now, &rules, &lanes), Choice::RestUntil(now + SECOND));
        lanes[1].out = true;
        assert_eq!(once(now, &rules, &lanes), Choice::NoneLeft);
    }

    #[test]
    fn r07_a_lane_is_available_at_the_very_instant() {
        let now = START;
        let mut lanes = [lane(now, true)];
        lanes[0].available_at = now + SECOND;
        let just_before = now + SECOND - Duration::from_millis(1);
        assert_eq!(once(just_before, &rules(), &lanes), Choice::RestUntil(now + SECOND));
        assert_eq!(once(now + SECOND, &rules(), &lanes), Choice::Lane(0));
    }

    #[test]
    fn r15_when_all_are_cooled_no_call_is_made_before_the_first_is_back() {
        let now = START;
        let mut lanes = [true, false].map(|primary| lane(now, primary));
        lanes[0].available_at = now + 5 * SECOND;
        lanes[1].available_at = now + 3 * SECOND;
        assert_eq!(once(now, &rules(), &lanes), Choice::RestUntil(now + 3 * SECOND));
    }

    #[test]
    fn a_primary_that_comes_back_overtakes_normals_that_wait_for_tokens() {
        let now = START;
        let mut lanes = [true, false].map(|primary| lane(now, primary));
        lanes[0].available_at = now + 2 * SECOND;
        lanes[1].admits_at = now + 9 * SECOND;
        assert_eq!(once(now, &rules(), &lanes), Choice::WaitUntil(now + 2 * SECOND));
    }
}
