//! When will the rest have been worked, at the rate that the rehearsal has come to? By whole minutes, because all that
//! is limited is limited by the minute; a quota of the day is used up at that rate, and then the next one is waited for.

use std::time::Duration;

use super::{Hold, LaneForecast};

const MINUTE: Duration = Duration::from_secs(60);
/// What was used up in a day's first ten minutes comes back so long after it.
const DAY: Duration = Duration::from_secs((24 * 60 + 10) * 60);

/// What was sent in each minute.
#[derive(Clone, Debug, Default)]
pub(super) struct Minutes {
    sent: Vec<Sent>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    calls: u64,
    tokens: u64,
}

impl Minutes {
    /// A call of so many tokens was sent so long after the start.
    pub(super) fn note(&mut self, at: Duration, tokens: u64) {
        let minute = usize::try_from(at.as_secs() / MINUTE.as_secs()).unwrap_or(usize::MAX);
        if self.sent.len() <= minute {
            self.sent.resize(minute.saturating_add(1), Sent::default());
        }
        if let Some(sent) = self.sent.get_mut(minute) {
            sent.calls += 1;
            sent.tokens = sent.tokens.saturating_add(tokens);
        }
    }

    /// Calls a second when the flow was even: in the whole minutes before `end`, but for those with which it began, and for
    /// those in which a day's quota was waited for.
    pub(super) fn rate(&self, end: Duration) -> Option<f64> {
        let whole = usize::try_from(end.as_secs() / MINUTE.as_secs()).unwrap_or(usize::MAX);
        let begun = (whole / 4).max(1).min(whole.saturating_sub(1));
        let even = self.sent.iter().take(whole).skip(begun).filter(|sent| sent.calls > 0);
        let (minutes, calls) = even.fold((0_u64, 0_u64), |(minutes, calls), sent| (minutes + 1, calls + sent.calls));
        if minutes > 0 {
            return Some(float(calls) / (float(minutes) * MINUTE.as_secs_f64()));
        }
        let calls: u64 = self.sent.iter().map(|sent| sent.calls).sum();
        (calls > 0 && !end.is_zero()).then(|| float(calls) / end.as_secs_f64())
    }

    /// The lane over a drain that takes so long, and has `times` the calls that were rehearsed.
    pub(super) fn over(&self, finish: Duration, times: f64) -> LaneForecast {
        let sum = |of: fn(&Sent) -> u64| self.sent.iter().map(of).sum::<u64>();
        let peak = |of: fn(&Sent) -> u64| self.sent.iter().map(of).max().unwrap_or(0);
        let minutes = (finish.as_secs_f64() / MINUTE.as_secs_f64()).max(1.0);
        LaneForecast {
            steady_tokens: float(sum(|sent| sent.tokens)) * times / minutes,
            steady_requests: float(sum(|sent| sent.calls)) * times / minutes,
            peak_tokens: peak(|sent| sent.tokens),
            peak_requests: peak(|sent| sent.calls),
        }
    }
}

/// A quota of the day, as it was used since it was last waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct DayUse {
    /// Tokens a day.
    pub(super) limit: f64,
    /// Tokens since then.
    pub(super) used: f64,
    /// Tokens each call takes of it.
    pub(super) each: f64,
}

/// How long so many calls more take at this rate.
pub(super) fn rest(calls: f64, per_second: f64, day: Option<DayUse>) -> Duration {
    let plain = seconds(calls / per_second);
    let Some(DayUse { limit, used, each }) = day else { return plain };
    let in_a_day = limit / each.max(1.0);
    let before = (used / each.max(1.0)).min(in_a_day);
    let all = before + calls;
    let days = (all / in_a_day).floor();
    if days < 1.0 || in_a_day / per_second >= DAY.as_secs_f64() {
        return plain;
    }
    // From when this day's quota began to be used.
    let end = seconds(days * DAY.as_secs_f64() + (all - days * in_a_day) / per_second);
    end.saturating_sub(seconds(before / per_second))
}

/// Adds to what was waited for.
pub(super) fn add_hold(held: &mut Vec<(Hold, Duration)>, hold: Hold, waited: Duration) {
    match held.iter_mut().find(|(known, _)| *known == hold) {
        Some((_, sum)) => *sum += waited,
        None => held.push((hold, waited)),
    }
}

fn seconds(count: f64) -> Duration {
    Duration::try_from_secs_f64(count.max(0.0)).unwrap_or(Duration::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}
