//! How far is it? A bar where somebody watches, a line every few seconds where nobody does.
//!
//! The estimate of the end is made from what was done in the last half minute, so that it is honest about a throttle
//! or a pause; it is left out until there is something to go by, and while a lane is held shut.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::terminal;
use crate::job::units::Usd;
use crate::ports::Gate;
use crate::rules::budget::projected_total;

/// What is shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Jobs of the input.
    pub(crate) total: u64,
    /// Of these, ended.
    pub(crate) done: u64,
    /// Of these, without success.
    pub(crate) failed: u64,
    /// What the batch has cost so far.
    pub(crate) spent: Usd,
    /// Jobs whose cost is in `spent`: rejected lines cost nothing and foretell nothing.
    pub(crate) paid: u64,
    /// Quota tokens charged in the last minute, over all lanes that count them.
    pub(crate) tokens: u64,
    /// What the quota allows in a minute, over the same lanes.
    pub(crate) quota: Option<u64>,
    /// Lanes that let nothing through, and why.
    pub(crate) gates: Vec<(String, Gate)>,
    /// Credentials that are refused: everything waits.
    pub(crate) credentials: Option<String>,
    /// Whether it is coming to an end before it is done.
    pub(crate) stopping: bool,
}

/// Shows views as they come.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    last_line: Option<(Instant, String)>,
    pace: Pace,
}

/// Between two lines where nobody watches.
const LINE_EVERY: Duration = Duration::from_secs(5);

impl Progress {
    /// On standard error, if that is a terminal a bar.
    pub(crate) fn new(total: u64) -> Self {
        let bar = terminal::can_draw().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8));
            if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos}/{len} {wide_msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            terminal::share_with(Some(bar.clone()));
            bar
        });
        Self { bar, last_line: None, pace: Pace::default() }
    }

    /// Shows one view.
    pub(crate) fn show(&mut self, now: Instant, view: &View) {
        self.pace.note(now, view.done);
        let text = describe(view, self.pace.per_second());
        match &self.bar {
            Some(bar) => {
                bar.set_length(view.total);
                bar.set_position(view.done);
                bar.set_message(text);
            }
            None => {
                let due = self
                    .last_line
                    .as_ref()
                    .is_none_or(|(at, last)| now.duration_since(*at) >= LINE_EVERY && *last != text);
                if due {
                    terminal::say(&format!("{}/{} {text}", view.done, view.total));
                    self.last_line = Some((now, text));
                }
            }
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            terminal::share_with(None);
            bar.finish_and_clear();
        }
    }
}

/// How fast it went lately.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    samples: VecDeque<(Instant, u64)>,
}

const LATELY: Duration = Duration::from_secs(30);

impl Pace {
    /// So many are done by now.
    pub(crate) fn note(&mut self, now: Instant, done: u64) {
        self.samples.push_back((now, done));
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= LATELY) {
            self.samples.pop_front();
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "shown, never added up")]
    pub(crate) fn per_second(&self) -> Option<f64> {
        let ((first, before), (last, after)) = (self.samples.front()?, self.samples.back()?);
        let seconds = last.duration_since(*first).as_secs_f64();
        (after > before && seconds >= 1.0).then(|| (after - before) as f64 / seconds)
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown, never added up")]
fn describe(view: &View, per_second: Option<f64>) -> String {
    // What matters most comes first: a narrow terminal shows no more than the beginning.
    let mut parts = Vec::new();
    if view.failed > 0 {
        parts.push(format!("{} without success", view.failed));
    }
    let left = view.total.saturating_sub(view.done);
    if view.stopping {
        parts.push("stopping".to_owned());
    } else if let Some(rate) = per_second.filter(|_| left > 0 && view.gates.is_empty()) {
        // While a lane waits, how fast it went before foretells nothing.
        parts.push(format!("ETA {}", span(Duration::from_secs_f64(left as f64 / rate))));
    }
    match projected_total(view.spent, view.paid, left) {
        Some(whole) if left > 0 => parts.push(format!("{} of about {whole}", view.spent)),
        Some(_) | None => parts.push(view.spent.to_string()),
    }
    if let Some(why) = &view.credentials {
        parts.push(format!("waiting for credentials: {why}"));
    }
    for (lane, gate) in view.gates.iter().take(2) {
        parts.push(format!("waiting until {}: {} ({lane})", clock(gate.until.0), gate.reason));
    }
    if let Some(rate) = per_second {
        parts.push(if rate >= 10.0 { format!("{rate:.0}/s") } else { format!("{rate:.1}/s") });
    }
    match view.quota {
        Some(quota) => parts.push(format!("{} of {} tokens/min", short(view.tokens), short(quota))),
        None if view.tokens > 0 => parts.push(format!("{} tokens/min", short(view.tokens))),
        None => {}
    }
    parts.join(" · ")
}

/// `1234567` as `1.2M`.
#[expect(clippy::cast_precision_loss, reason = "shown, never added up")]
pub(crate) fn short(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..1_000_000 => format!("{:.0}k", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", count as f64 / 1e6),
        _ => format!("{:.1}G", count as f64 / 1e9),
    }
}

/// A duration in its two largest units.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// The time of day in UTC.
pub(crate) fn clock(millis: i64) -> String {
    let seconds = millis.div_euclid(1_000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::units::Timestamp;

    #[test]
    fn a_view_names_the_gate_and_until_when() {
        let gate = Gate {
            reason: "throttled by the service".to_owned(),
            since: Timestamp(0),
            until: Timestamp(86_400_000 + 3_661_000),
        };
        let view = View {
            total: 10,
            done: 4,
            failed: 1,
            spent: Usd::from_nanos(40_000_000),
            paid: 4,
            gates: vec![("us-east-1/m".to_owned(), gate)],
            ..View::default()
        };
        assert_eq!(
            describe(&view, Some(2.0)),
            "1 without success · $0.0400 of about $0.1000 · waiting until 01:01:01Z: throttled by the service \
             (us-east-1/m) · 2.0/s"
        );
    }

    #[test]
    fn the_end_is_foretold_only_while_nothing_waits() {
        let view = View { total: 10, done: 4, ..View::default() };
        assert_eq!(describe(&view, Some(2.0)), "ETA 3s · $0.00 · 2.0/s");
    }

    #[test]
    fn an_estimate_needs_something_to_go_by() {
        let mut pace = Pace::default();
        let start = Instant::now();
        pace.note(start, 0);
        pace.note(start + Duration::from_secs(2), 0);
        assert_eq!(pace.per_second(), None, "nothing was done yet");
        pace.note(start + Duration::from_secs(4), 8);
        assert_eq!(pace.per_second(), Some(2.0));
        pace.note(start + Duration::from_secs(40), 8);
        assert_eq!(pace.per_second(), None, "a pause is not hidden by what was done before it");
    }

    #[test]
    fn large_numbers_are_short() {
        assert_eq!([short(9_999), short(12_345), short(1_250_000)], ["9999", "12k", "1.2M"]);
        assert_eq!(span(Duration::from_secs(3_725)), "1h 02m");
    }
}
