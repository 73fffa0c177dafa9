//! How much does the quota really allow? The configured limit, until the service says otherwise.
//!
//! A refusal that no counting explains means that the limit is lower than believed (strangers on the account, a number
//! out of date): it falls to what was certainly admitted in the last minute. Upwards it is tried with single calls: one
//! call beyond the limit costs at most one refusal. One that is admitted raises the limit to what it has proven, once the
//! calls before it are settled; of a bucket it proves nothing, so there the second on each raises it, by twice as much
//! every time, and a raise that meets a refusal before the next try is taken back and says nothing about the counting.
//! Tries that succeed follow each other at once; one that fails puts off the next. Many in a row that succeed far below what
//! is told mean that strangers have left, and what is told holds at once: it was no more than others' use that held it down.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Amount;
use crate::job::units::Timestamp;

/// What a quota that is not told anywhere is at least.
const LEAST: u64 = 1;
/// The limit never falls below this share of what it was by one refusal.
pub(super) const DEEPEST_CUT: u64 = 4;
/// One call that is admitted beyond the limit raises it by a thirty-second part at most, or by its own size if that is
/// more: what follows should not be a burst of refusals.
const STEP: u64 = 32;
/// Who is refused soon after the limit fell, with as much admitted as it allows, cuts more: it is far too high.
const SOON_AGAIN: Duration = Duration::from_secs(60);
const REPEATED_CUT: u64 = 8;
/// What was sent before the limit fell is refused within this.
const JUST_NOW: Duration = Duration::from_secs(4);
/// So many tries that are admitted in a row, while the limit is far below what is told, are no chance: whoever took the rest
/// has left, and what is told holds again.
const RUN: u8 = 6;
/// A bucket that was taken for a little slower than it is has saved up for many: more are asked for.
const RUN_OF_A_BUCKET: u8 = 9;
/// One call beyond the limit may have been let through by what our clock and the service's see differently.
const PROOFS: u8 = 2;
/// Doublings of a raise that make no difference any more.
const DOUBLINGS: u8 = 30;

/// So many calls at least between two tries that fail, so that tries stay below a third of a call in a hundred ...
const CALLS_BETWEEN: u64 = 300;
/// ... but no longer than this while the limit stands below the configured one, so that strangers who leave are noticed; where
/// nothing is told, the first pause.
const SOON: Duration = Duration::from_secs(155);
/// A limit that was in full use before, a minute ago or more, may have fallen by a mishap.
const AT_ONCE: Duration = Duration::from_secs(5);
const SOONEST: Duration = Duration::from_secs(30);
/// At the configured limit and beyond, tries that fail become rare.
const RARELY: Duration = Duration::from_secs(60 * 60);
/// Where nothing is told there is no number that strangers hold down: what was found out is tried less and less often as well.
const RARELY_UNTOLD: Duration = Duration::from_secs(10 * 60);
const FIRST_TRY: Duration = Duration::from_secs(240);

/// The limits of a lane as learned; `None` is as configured.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Learned {
    tokens: Option<u64>,
    requests: Option<u64>,
    /// What was configured when this was learned: other numbers start anew.
    configured: Option<Configured>,
    next_try: Option<Timestamp>,
    pause: Option<u64>,
    /// When it last fell, and how deep it can by the same burst.
    shrunk: Option<(Timestamp, u64)>,
    /// Tries that were admitted in a row.
    admitted: u8,
    /// The limit before the newest raise, until a try beyond that is admitted.
    proven: Option<(Quota, u64)>,
}

/// Which of the two limits.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Quota {
    /// Tokens a minute.
    Tokens,
    /// Requests a minute.
    Requests,
}

/// The limits of a minute that are configured.
pub(super) type Configured = (Option<u64>, Option<u64>);

impl Learned {
    /// The limits that hold.
    pub(super) fn limits(&self, configured: Configured) -> Configured {
        if self.configured != Some(configured) {
            return configured;
        }
        (self.tokens.or(configured.0), self.requests.or(configured.1))
    }

    /// The service refused, and no counting explains it: `admitted` was certainly admitted in the last minute.
    pub(super) fn shrink(&mut self, now: Timestamp, configured: Configured, quota: Quota, admitted: Amount) {
        let before = self.limit_of(configured, quota);
        self.begin(configured);
        if let Some((before, told)) = before.zip(above(before, configured, quota)) {
            // What is told is believed first, unless it has long been passed: then it may be out of date. What was sent before the
            // limit fell says nothing new.
            if self.shrunk.is_none_or(|(shrunk, _)| shrunk.after(JUST_NOW) <= now) {
                *self.of_mut(quota) = Some(if before - told <= told / 4 { told } else { told.midpoint(before) });
                self.shrunk = Some((now, (told / DEEPEST_CUT).max(LEAST)));
            }
            return self.fell(now, configured, admitted.requests);
        }
        let deepest = before.map_or(LEAST, |before| (before / DEEPEST_CUT).max(LEAST));
        let again = self.shrunk.replace((now, deepest)).is_some_and(|(shrunk, _)| shrunk.after(SOON_AGAIN) > now);
        *self.of_mut(quota) = Some(cut(before, admitted.of(quota), again).max(deepest));
        self.fell(now, configured, admitted.requests);
    }

    /// No more than so much was admitted, as more refusals of the same burst have shown, or a bucket that was empty twice.
    pub(super) fn lower(&mut self, configured: Configured, quota: Quota, admitted: u64) {
        if let Some(before) = self.limit_of(configured, quota) {
            let deepest = self.shrunk.map_or(before / DEEPEST_CUT, |(_, deepest)| deepest).max(LEAST);
            let deepest = above(Some(before), configured, quota).unwrap_or(deepest);
            self.begin(configured);
            *self.of_mut(quota) = Some(before.min(admitted.max(deepest)));
        }
    }

    /// It was found out how much flows into a bucket: no more than that holds, whatever is told.
    pub(super) fn measured(&mut self, configured: Configured, quota: Quota, flow: u64) {
        if let Some(before) = self.limit_of(configured, quota).filter(|before| flow < *before) {
            self.begin(configured);
            *self.of_mut(quota) = Some(flow.max(before / DEEPEST_CUT).max(LEAST));
        }
    }

    /// What was believed of the counting fits nothing; so the limit is what was admitted in the last minute, more or less
    /// than what was believed.
    pub(super) fn replace(&mut self, now: Timestamp, configured: Configured, quota: Quota, admitted: Amount) {
        self.begin(configured);
        *self.of_mut(quota) = Some(admitted.of(quota).max(LEAST));
        self.fell(now, configured, admitted.requests);
    }

    /// From when a call beyond the limit may be tried.
    pub(super) fn next_try(&mut self, now: Timestamp) -> Timestamp {
        *self.next_try.get_or_insert(now.after(FIRST_TRY))
    }

    /// A call of `size` beyond the limit was admitted; the next may be tried after `rest`. By how much the limit rises.
    pub(super) fn try_succeeded(
        &mut self,
        now: Timestamp,
        configured: Configured,
        quota: Quota,
        size: Amount,
        rest: Duration,
    ) -> u64 {
        let admitted = self.admitted.saturating_add(1);
        let Some(before) = self.limit_of(configured, quota).filter(|_| admitted >= PROOFS) else {
            (self.admitted, self.next_try) = (admitted, Some(now));
            return 0;
        };
        let run = far_below(before, configured, quota).filter(|_| admitted >= RUN_OF_A_BUCKET);
        let size = size.of(quota).max(1);
        let doubled = size.saturating_mul(1 << (admitted - PROOFS).min(DOUBLINGS));
        let raised = before.saturating_add(doubled.min((before / STEP).max(size)));
        let raised = run.unwrap_or_else(|| up_to_told(before, raised, configured, quota));
        self.begin(configured);
        *self.of_mut(quota) = Some(raised);
        if self.proven.replace((quota, before)).is_some() {
            self.try_often(configured, quota);
        }
        self.admitted = admitted;
        // What is told is believed again: beyond it nothing is tried for a while.
        self.next_try = Some(now.after(if run.is_some() { FIRST_TRY } else { rest }));
        raised - before
    }

    /// A call beyond the limit was admitted, and what that proves will be seen: the next may be tried.
    pub(super) fn try_again(&mut self, now: Timestamp) {
        self.admitted = self.admitted.saturating_add(1);
        self.next_try = Some(now);
    }

    /// The limit fell, which had been in full use before: it is tried soon whether that was a mishap.
    pub(super) fn try_soon(&mut self, now: Timestamp) {
        self.next_try = self.next_try.map(|next| next.min(now.after(AT_ONCE)));
    }

    /// A call was certainly admitted when so much counted: that is proven. Whether the limit is what is told from now on,
    /// although that is not.
    pub(super) fn admitted_so_much(
        &mut self,
        now: Timestamp,
        configured: Configured,
        quota: Quota,
        counted: u64,
        may_run: bool,
    ) -> bool {
        let before = self.limit_of(configured, quota).unwrap_or(LEAST);
        let proven = up_to_told(before, counted, configured, quota);
        let told = far_below(proven, configured, quota).filter(|_| may_run && self.admitted >= RUN);
        self.begin(configured);
        *self.of_mut(quota) = Some(told.unwrap_or(proven));
        self.proven = told.map(|_| (quota, proven));
        self.try_often(configured, quota);
        if told.is_some() {
            self.next_try = Some(now.after(FIRST_TRY));
        }
        told.is_some()
    }

    /// Takes back a raise that nothing has proven yet, if there is one: a refusal was its doing.
    pub(super) fn take_back(&mut self, now: Timestamp, configured: Configured, calls: u64) -> bool {
        let Some((quota, before)) = self.proven.take().filter(|_| self.configured == Some(configured)) else {
            return false;
        };
        *self.of_mut(quota) = Some(before);
        self.give_up_try(now, configured, calls);
        true
    }

    /// Whether the limit that holds is lower than what is configured, or nobody has configured one.
    pub(super) fn is_below(&self, configured: Configured) -> bool {
        let limits = self.limits(configured);
        let is_untold = |now: Option<u64>, told: Option<u64>| now.is_some() && told.is_none();
        self.is_below_told(configured) || is_untold(limits.0, configured.0) || is_untold(limits.1, configured.1)
    }

    /// Whether the limit that holds is lower than what is configured.
    fn is_below_told(&self, configured: Configured) -> bool {
        let limits = self.limits(configured);
        let below = |now: Option<u64>, told: Option<u64>| now.zip(told).is_some_and(|(now, told)| now < told);
        below(limits.0, configured.0) || below(limits.1, configured.1)
    }

    /// A call beyond the limit was refused; `calls` were made in the last minute.
    pub(super) fn give_up_try(&mut self, now: Timestamp, configured: Configured, calls: u64) {
        self.admitted = 0;
        self.proven = None;
        let pause = if self.is_below_told(configured) {
            Duration::from_secs(CALLS_BETWEEN * 60 / calls.max(1)).clamp(SOONEST, SOON)
        } else {
            let (first, most) = if self.is_below(configured) { (SOON, RARELY_UNTOLD) } else { (2 * FIRST_TRY, RARELY) };
            let pause = self.pause.map_or(first, |seconds| 2 * Duration::from_secs(seconds)).min(most);
            self.pause = Some(pause.as_secs());
            pause
        };
        self.next_try = Some(now.after(pause));
    }

    /// The limit fell; where nothing is told, it is new, and no try of it has failed.
    fn fell(&mut self, now: Timestamp, configured: Configured, calls: u64) {
        if self.is_below(configured) && !self.is_below_told(configured) {
            self.pause = None;
        }
        self.give_up_try(now, configured, calls);
    }

    /// What was proven says that there may be more; where nothing is told, what is proven is a little that had been missing.
    fn try_often(&mut self, configured: Configured, quota: Quota) {
        self.pause = self.pause.filter(|_| told(configured, quota).is_none());
    }

    pub(super) fn limit_of(&self, configured: Configured, quota: Quota) -> Option<u64> {
        let limits = self.limits(configured);
        match quota {
            Quota::Tokens => limits.0,
            Quota::Requests => limits.1,
        }
    }

    fn of_mut(&mut self, quota: Quota) -> &mut Option<u64> {
        match quota {
            Quota::Tokens => &mut self.tokens,
            Quota::Requests => &mut self.requests,
        }
    }

    fn begin(&mut self, configured: Configured) {
        if self.configured != Some(configured) {
            let (next_try, pause) = (self.next_try, self.pause);
            *self = Self { configured: Some(configured), next_try, pause, ..Self::default() };
        }
    }
}

/// What is told, if the limit is above that.
fn above(limit: Option<u64>, configured: Configured, quota: Quota) -> Option<u64> {
    told(configured, quota).filter(|told| limit.is_some_and(|limit| limit > *told))
}

/// What is told, if that is half as much again at least: what is missing less comes back soon enough by steps.
fn far_below(limit: u64, configured: Configured, quota: Quota) -> Option<u64> {
    told(configured, quota).filter(|told| limit.saturating_add(limit / 2) <= *told)
}

/// What is told is a step of its own on the way up: a limit from below it does not jump beyond it.
fn up_to_told(before: u64, raised: u64, configured: Configured, quota: Quota) -> u64 {
    told(configured, quota).filter(|told| before < *told).map_or(raised, |told| raised.min(told))
}

fn told(configured: Configured, quota: Quota) -> Option<u64> {
    match quota {
        Quota::Tokens => configured.0,
        Quota::Requests => configured.1,
    }
}

fn cut(before: Option<u64>, admitted: u64, again: bool) -> u64 {
    let Some(before) = before else { return admitted };
    let step = before - before / STEP;
    if again && admitted > step { before - before / REPEATED_CUT } else { admitted.min(step) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);
    const TOLD: Configured = (Some(3_200), None);

    fn tokens(tokens: u64) -> Amount {
        Amount { tokens, requests: 10 }
    }

    fn shrunk_to(admitted: u64) -> Learned {
        let mut learned = Learned::default();
        learned.shrink(START, TOLD, Quota::Tokens, tokens(admitted));
        learned
    }

    fn succeed(learned: &mut Learned, size: u64) {
        learned.try_succeeded(START, TOLD, Quota::Tokens, tokens(size), Duration::from_secs(2));
    }

    #[test]
    fn a_refusal_leaves_what_was_admitted_but_takes_a_step_at_least_and_three_quarters_at_most() {
        assert_eq!(shrunk_to(2_000).limits(TOLD), (Some(2_000), None));
        assert_eq!(shrunk_to(3_190).limits(TOLD), (Some(3_100), None));
        assert_eq!(shrunk_to(9_000).limits(TOLD), (Some(3_100), None));
        assert_eq!(shrunk_to(5).limits(TOLD), (Some(800), None));
    }

    /// The premise: strangers who had used half of a quota left, and it took four minutes to creep back to what was told.
    #[test]
    fn after_a_run_of_calls_that_are_certainly_beyond_the_limit_what_is_told_holds_again() {
        let mut learned = shrunk_to(1_600);
        let prove = |learned: &mut Learned, counted: u64, may_run: bool| {
            learned.try_again(START);
            learned.admitted_so_much(START, TOLD, Quota::Tokens, counted, may_run)
        };
        for counted in (1_610..1_660).step_by(10) {
            assert!(!prove(&mut learned, counted, true));
            assert_eq!(learned.limits(TOLD).0, Some(counted));
        }
        let mut of_clock_minutes = learned.clone();
        assert!(!prove(&mut of_clock_minutes, 1_660, false), "there the strangers may only not have come yet");
        assert!(prove(&mut learned, 1_660, true));
        assert_eq!(learned.limits(TOLD).0, TOLD.0);
        assert!(learned.take_back(START, TOLD, 10));
        assert_eq!(learned.limits(TOLD).0, Some(1_660), "what is refused then was not proven");
    }

    /// The premise: under clock minutes that were taken for sliding ones a limit that was told a third too high held again
    /// every three minutes, and six calls were refused each time.
    #[test]
    fn no_run_brings_back_what_is_told_where_little_is_missing() {
        let mut learned = shrunk_to(2_500);
        for counted in (2_510..2_600).step_by(10) {
            learned.try_again(START);
            assert!(!learned.admitted_so_much(START, TOLD, Quota::Tokens, counted, true));
            assert_eq!(learned.limits(TOLD).0, Some(counted));
        }
    }

    #[test]
    fn what_is_told_holds_again_when_a_bucket_that_lost_much_admits_nine_in_a_row() {
        for (admitted, comes_back) in [(1_600, true), (2_500, false)] {
            let mut learned = shrunk_to(admitted);
            (0..9).for_each(|_| succeed(&mut learned, 10));
            assert_eq!(learned.limits(TOLD).0 == TOLD.0, comes_back, "{admitted}");
        }
    }

    #[test]
    fn what_is_measured_of_a_bucket_holds_whatever_is_told_and_raises_nothing() {
        let mut learned = Learned::default();
        learned.measured(TOLD, Quota::Tokens, 4_000);
        assert_eq!(learned.limits(TOLD), TOLD);
        learned.measured(TOLD, Quota::Tokens, 3_000);
        assert_eq!(learned.limits(TOLD).0, Some(3_000));
    }

    /// The premise: a burst at the end of a clock minute cut a limit that had been found above what was told twice in three
    /// seconds, to the middle and to the middle again.
    #[test]
    fn a_limit_above_what_is_told_falls_once_for_what_was_sent_before_it_fell() {
        let mut learned = Learned::default();
        learned.admitted_so_much(START, TOLD, Quota::Tokens, 3_200, false);
        for _ in 0..12 {
            learned.try_succeeded(START, TOLD, Quota::Tokens, tokens(500), Duration::ZERO);
        }
        let (before, told) = (learned.limits(TOLD).0.unwrap_or(0), TOLD.0.unwrap_or(0));
        assert!(before > told * 5 / 4, "{before}");
        learned.shrink(START, TOLD, Quota::Tokens, tokens(3_000));
        let middle = told.midpoint(before);
        assert_eq!(learned.limits(TOLD).0, Some(middle));
        learned.shrink(START.after(Duration::from_secs(3)), TOLD, Quota::Tokens, tokens(3_000));
        assert_eq!(learned.limits(TOLD).0, Some(middle));
        learned.shrink(START.after(Duration::from_secs(30)), TOLD, Quota::Tokens, tokens(3_000));
        assert!(learned.limits(TOLD).0 < Some(middle));
    }

    #[test]
    fn other_numbers_in_the_configuration_start_anew() {
        let learned = shrunk_to(2_000);
        assert_eq!(learned.limits((Some(9_000), None)), (Some(9_000), None));
        assert_eq!(learned.limits(TOLD), (Some(2_000), None), "and the old ones find what was learned");
    }

    #[test]
    fn a_limit_that_nobody_told_is_learned_and_is_never_nothing() {
        let mut learned = Learned::default();
        learned.shrink(START, (None, None), Quota::Tokens, tokens(700));
        assert_eq!(learned.limits((None, None)), (Some(700), None));
        let mut learned = Learned::default();
        learned.shrink(START, (None, None), Quota::Requests, Amount::default());
        assert_eq!(learned.limits((None, None)), (None, Some(1)));
    }

    #[test]
    fn what_nobody_told_is_tried_less_and_less_often_until_it_falls() {
        const NOTHING: Configured = (None, None);
        let mut learned = Learned::default();
        learned.shrink(START, NOTHING, Quota::Tokens, tokens(700));
        let mut pauses = Vec::new();
        let mut fail = |learned: &mut Learned| {
            learned.try_succeeded(START, NOTHING, Quota::Tokens, tokens(10), Duration::ZERO);
            learned.try_succeeded(START, NOTHING, Quota::Tokens, tokens(10), Duration::ZERO);
            learned.give_up_try(START, NOTHING, 100);
            pauses.push(learned.next_try(START).since(START).as_secs());
        };
        (0..3).for_each(|_| fail(&mut learned));
        learned.shrink(START, NOTHING, Quota::Tokens, tokens(600));
        fail(&mut learned);
        assert_eq!(pauses, [310, 600, 600, 310]);
    }

    #[test]
    fn from_the_second_try_that_succeeds_on_it_rises_by_twice_as_much_each_time_up_to_a_step() {
        let mut learned = shrunk_to(2_560);
        succeed(&mut learned, 10);
        assert_eq!(learned.limits(TOLD).0, Some(2_560), "one may be luck");
        assert_eq!(learned.next_try(START), START, "so the next is tried at once");
        succeed(&mut learned, 10);
        assert_eq!(learned.limits(TOLD).0, Some(2_560 + 10));
        assert_eq!(learned.next_try(START), START.after(Duration::from_secs(2)));
        let raised = [20, 40, 80, 80].map(|raise| {
            let before = learned.limits(TOLD).0.unwrap_or(0);
            succeed(&mut learned, 10);
            (learned.limits(TOLD).0.unwrap_or(0) - before, raise)
        });
        assert!(raised.iter().all(|(raised, most)| (most * 15 / 16..=most * 17 / 16).contains(raised)), "{raised:?}");
        succeed(&mut learned, 500);
        assert_eq!(learned.limits(TOLD).0, TOLD.0, "what is told is a step of its own");
        let before = learned.limits(TOLD).0.unwrap_or(0);
        succeed(&mut learned, 500);
        assert_eq!(learned.limits(TOLD).0, Some(before + 500), "a call that is larger counts whole");
    }

    #[test]
    fn a_try_that_fails_is_put_off_the_longer_the_fewer_calls_there_are() {
        for (calls, seconds) in [(1_000, 30), (300, 60), (120, 150), (0, 155)] {
            let mut learned = shrunk_to(2_000);
            learned.give_up_try(START, TOLD, calls);
            assert_eq!(learned.next_try(START), START.after(Duration::from_secs(seconds)), "{calls} calls a minute");
        }
        let mut learned = shrunk_to(2_000);
        succeed(&mut learned, 10);
        learned.give_up_try(START, TOLD, 10);
        succeed(&mut learned, 10);
        assert_eq!(learned.limits(TOLD).0, Some(2_000), "a refusal between two proofs makes them one");
    }

    #[test]
    fn a_raise_is_taken_back_by_a_refusal_that_comes_before_a_try_beyond_it_and_tries_become_rarer() {
        let mut learned = Learned::default();
        learned.give_up_try(START, TOLD, 10);
        for _ in 0..2 {
            succeed(&mut learned, 10);
        }
        assert_eq!(learned.limits(TOLD).0, Some(3_210));
        assert!(learned.take_back(START, TOLD, 10));
        assert_eq!(learned.limits(TOLD).0, Some(3_200));
        assert_eq!(learned.next_try(START), START.after(4 * FIRST_TRY), "as if it had failed at once");
        assert!(!learned.take_back(START, TOLD, 10));

        for _ in 0..3 {
            succeed(&mut learned, 10);
        }
        assert_eq!(learned.limits(TOLD).0, Some(3_230));
        assert!(learned.take_back(START, TOLD, 10));
        assert_eq!(learned.limits(TOLD).0, Some(3_210), "what the third was admitted beyond is proven");
    }

    #[test]
    fn one_burst_cuts_no_deeper_than_one_refusal() {
        let mut learned = shrunk_to(900);
        for admitted in [700, 300, 0] {
            learned.lower(TOLD, Quota::Tokens, admitted);
        }
        assert_eq!(learned.limits(TOLD).0, Some(800));
    }

    #[test]
    fn at_the_configured_limit_tries_become_rare() {
        let mut learned = Learned::default();
        assert_eq!(learned.next_try(START), START.after(FIRST_TRY));
        let mut waits = Vec::new();
        for _ in 0..6 {
            learned.give_up_try(START, TOLD, 1_000);
            waits.push(learned.next_try(START).since(START).as_secs());
        }
        assert_eq!(waits, [480, 960, 1_920, 3_600, 3_600, 3_600]);
    }
}
