//! What goes wrong, and when? Faults on order: a kind, and conditions that must all hold.

use std::time::Duration;

use super::chance::Dice;
use super::errors::Refused;
use super::scope::{Scope, Target};

/// One `[[fault]]` of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) scope: Scope,
    /// Drawn for each call by itself; `None` is certainty.
    pub(super) probability: Option<f64>,
    /// Among the calls that model, region and `kind` concern, from 1.
    pub(super) calls: Option<Calls>,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Refused at the door: no quota is asked.
    Error(Refused),
    /// The connection closes at once, as if nobody listened: no quota is asked.
    Refuse,
    /// Admitted, and fails while it is worked on: its reservation is given back.
    LateError(Refused),
    /// No answer until the caller goes away.
    Hang,
    /// Worked on and charged, but the connection closes before the answer.
    Drop,
    /// Worked on and charged, but the body ends halfway.
    Truncate,
    /// The whole answer, its body spread over this time.
    SlowBody(Duration),
    /// 200 without content.
    Empty,
    /// 200 with a body that is no JSON, or no event stream.
    Garbage,
    /// An exception frame halfway through the stream; unary calls are not concerned.
    StreamError { exception: &'static str, message: String },
}

/// Which calls by their number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Calls {
    /// Both included.
    Range(u64, u64),
    /// This one and every multiple of it.
    Every(u64),
}

impl Calls {
    /// `"5"`, `"10-20"` or `"every 7"`; numbers start at 1.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.trim().parse().ok().filter(|number| *number > 0);
        if let Some(step) = text.trim().strip_prefix("every ") {
            return number(step).map(Self::Every);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(Self::Range(number(first)?, number(last)?)).filter(|_| number(first) <= number(last))
    }

    fn includes(self, number: u64) -> bool {
        match self {
            Self::Range(first, last) => (first..=last).contains(&number),
            Self::Every(step) => number.is_multiple_of(step),
        }
    }
}

impl Fault {
    /// Whether such a call could be struck at all; only these are numbered.
    pub(super) fn concerns(&self, target: Target<'_>, streaming: bool) -> bool {
        let here = streaming || !matches!(self.kind, Kind::StreamError { .. });
        here && self.scope.concerns(target)
    }

    /// Whether this call, the `number`th it concerns, is struck; `dice` is asked last.
    pub(super) fn strikes(&self, now: Duration, number: u64, dice: impl FnOnce() -> Dice) -> bool {
        self.scope.holds(now)
            && self.calls.is_none_or(|calls| calls.includes(number))
            && self.probability.is_none_or(|probability| dice().strikes(probability))
    }

    /// The word of the scenario and the report.
    pub(super) fn name(&self) -> &'static str {
        match &self.kind {
            Kind::Error(refused) | Kind::LateError(refused) => refused.name,
            Kind::Refuse => "refuse",
            Kind::Hang => "hang",
            Kind::Drop => "drop",
            Kind::Truncate => "truncate",
            Kind::SlowBody(_) => "slow_body",
            Kind::Empty => "empty",
            Kind::Garbage => "garbage",
            Kind::StreamError { .. } => "stream_error",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::super::chance::Purpose;
    use super::*;

    fn fault() -> Fault {
        Fault { kind: Kind::Hang, scope: Scope::default(), probability: None, calls: None }
    }

    fn dice() -> Dice {
        Dice::new(1, 1, 0, Purpose::Fault(0))
    }

    fn struck(fault: &Fault, seconds: u64) -> Vec<u64> {
        (1..=30).filter(|number| fault.strikes(Duration::from_secs(seconds), *number, dice)).collect()
    }

    #[test]
    fn calls_are_selected_by_number() {
        for (text, expected) in
            [("5", vec![5]), ("10-13", vec![10, 11, 12, 13]), ("every 7", vec![7, 14, 21, 28]), (" 2 - 3 ", vec![2, 3])]
        {
            let fault = Fault { calls: Some(Calls::parse(text).unwrap()), ..fault() };
            assert_eq!(struck(&fault, 0), expected, "{text}");
        }
        for bad in ["", "0", "x", "5-", "9-3", "every", "every 0", "-1", "1-2-3"] {
            assert_eq!(Calls::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn conditions_hold_together_or_not_at_all() {
        let (from, until) = (Duration::from_secs(30), Some(Duration::from_secs(60)));
        let scope = Scope { from, until, ..Scope::default() };
        let fault = Fault { scope, calls: Some(Calls::Every(10)), ..fault() };
        assert_eq!(struck(&fault, 29), [0_u64; 0]);
        assert_eq!(struck(&fault, 30), [10, 20, 30]);
        assert_eq!(struck(&fault, 60), [0_u64; 0]);
        assert_eq!(struck(&Fault { probability: Some(0.0), ..fault }, 30), [0_u64; 0]);
    }

    #[test]
    fn an_exception_in_a_stream_concerns_streams_only() {
        let in_stream = Fault { kind: Kind::StreamError { exception: "x", message: String::new() }, ..fault() };
        let target = Target { region: "", id: "us.amazon.nova-lite-v1:0" };
        assert!(in_stream.concerns(target, true));
        assert!(!in_stream.concerns(target, false));
    }
}
