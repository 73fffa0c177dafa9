//! To which trace does a job belong? The W3C Trace Context that travels beside its message: as message attributes on SQS,
//! in a column of its own on one machine, and never in the body, so that what a job is does not depend on who watches it.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};
use std::str::FromStr;

/// Where a trace goes on: a `traceparent` of version 00, and the `tracestate` beside it, if there is one.
///
/// Shown and read back, it is the 55 characters of the first, then, behind a space, the second.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TraceContext {
    trace: NonZeroU128,
    parent: NonZeroU64,
    flags: u8,
    state: Option<Box<str>>,
}

/// It is no `traceparent` of version 00.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "no traceparent of version 00: `00-`, 32 hexadecimal digits, `-`, 16 of them, `-`, 2 of them, in small letters"
)]
pub struct NoTraceparent;

impl TraceContext {
    /// The name of the message attribute that holds the first of the two.
    pub const TRACEPARENT: &'static str = "traceparent";
    /// The name of the message attribute that holds the second.
    pub const TRACESTATE: &'static str = "tracestate";
    /// Of a `tracestate` no more characters are carried on (source: W3C Trace Context, 3.3.1.5); a longer one is left out.
    pub const LONGEST_STATE: usize = 512;
    /// In characters.
    const LENGTH: usize = 55;

    /// From its parts; flags as in the standard, of which bit 0 is "sampled".
    pub fn new(trace: NonZeroU128, parent: NonZeroU64, flags: u8) -> Self {
        Self { trace, parent, flags, state: None }
    }

    /// From what stands in the two attributes. A `tracestate` that cannot be carried is left out, as the standard has it.
    ///
    /// # Errors
    /// [`NoTraceparent`]; all zeros, or capital letters, are none either.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Result<Self, NoTraceparent> {
        let bytes = traceparent.as_bytes();
        let is_shaped = bytes.len() == Self::LENGTH
            && bytes.iter().enumerate().all(|(place, byte)| match place {
                2 | 35 | 52 => *byte == b'-',
                _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(byte),
            });
        let mut parts = traceparent.split('-');
        let (Some("00"), Some(trace), Some(parent), Some(flags), true) =
            (parts.next(), parts.next(), parts.next(), parts.next(), is_shaped)
        else {
            return Err(NoTraceparent);
        };
        let trace = u128::from_str_radix(trace, 16).ok().and_then(NonZeroU128::new).ok_or(NoTraceparent)?;
        let parent = u64::from_str_radix(parent, 16).ok().and_then(NonZeroU64::new).ok_or(NoTraceparent)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| NoTraceparent)?;
        Ok(Self { trace, parent, flags, state: None }.with_state(tracestate.unwrap_or_default()))
    }

    /// With this `tracestate`; without one if it is empty, too long, or no printable ASCII.
    #[must_use]
    pub fn with_state(self, state: &str) -> Self {
        let state = state.trim_matches([' ', '\t']);
        let can_be_carried = !state.is_empty()
            && state.len() <= Self::LONGEST_STATE
            && state.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        Self { state: can_be_carried.then(|| state.into()), ..self }
    }

    /// Which trace.
    pub fn trace(&self) -> NonZeroU128 {
        self.trace
    }

    /// Which span of it goes on.
    pub fn parent(&self) -> NonZeroU64 {
        self.parent
    }

    /// The flags, those without a meaning yet included.
    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// Its `traceparent`.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.parent, self.flags)
    }

    /// Its `tracestate`.
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.traceparent())?;
        self.tracestate().map_or(Ok(()), |state| write!(f, " {state}"))
    }
}

impl FromStr for TraceContext {
    type Err = NoTraceparent;

    fn from_str(text: &str) -> Result<Self, NoTraceparent> {
        match text.split_once(' ') {
            Some((traceparent, tracestate)) => Self::parse(traceparent, Some(tracestate)),
            None => Self::parse(text, None),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of the standard.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_standard_is_read() {
        let context = TraceContext::parse(EXAMPLE, Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")).unwrap();
        assert_eq!(context.trace().get(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(context.parent().get(), 0x00f0_67aa_0ba9_02b7);
        assert_eq!(context.flags(), 1);
        assert_eq!(context.traceparent(), EXAMPLE);
        assert_eq!(context.tracestate(), Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"));
    }

    #[test]
    fn what_is_no_traceparent_of_version_00_is_refused() {
        let bad = [
            "",
            "00",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e47360-0f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47é-00f067aa0ba902b7-01",
        ];
        for text in bad {
            assert_eq!(TraceContext::parse(text, None), Err(NoTraceparent), "{text}");
        }
    }

    #[test]
    fn a_state_that_cannot_be_carried_is_left_out_and_the_trace_goes_on() {
        let long = "x".repeat(TraceContext::LONGEST_STATE + 1);
        for state in ["", "  ", "a=\u{7f}", "a=ü", "a=1\nb=2", &long] {
            assert_eq!(TraceContext::parse(EXAMPLE, Some(state)).unwrap().tracestate(), None, "{state:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(
            trace in 1..=u128::MAX,
            parent in 1..=u64::MAX,
            flags in any::<u8>(),
            state in prop::option::of("[a-z0-9]{1,8}=[!-+\\--<>-~]{1,20}(,[a-z]{1,4}=[a-z ]{0,9}z)?"),
        ) {
            let context = TraceContext::new(NonZeroU128::new(trace).unwrap(), NonZeroU64::new(parent).unwrap(), flags)
                .with_state(state.as_deref().unwrap_or_default());
            prop_assert_eq!(context.tracestate(), state.as_deref());
            prop_assert_eq!(context.traceparent().len(), 55);
            prop_assert_eq!(context.flags(), flags);
            prop_assert_eq!(&context.to_string().parse::<TraceContext>().unwrap(), &context);
            let read = TraceContext::parse(&context.traceparent(), context.tracestate()).unwrap();
            prop_assert_eq!(&read, &context);
        }

        #[test]
        fn no_text_is_read_as_another(text in "(00|01)-[0-9a-f]{31,32}-[0-9a-f]{16}-[0-9a-f]{2}") {
            if let Ok(context) = TraceContext::parse(&text, None) {
                prop_assert_eq!(context.traceparent(), text);
            }
        }
    }
}
