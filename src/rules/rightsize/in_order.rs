//! Which answers are a fair sample of a batch? Those of the calls that were sent first, not those that came back first: of
//! calls in flight together the short answers arrive before the long ones, and who learns as they arrive believes that
//! all of them are short.
//!
//! So answers are handed on in the order in which their calls were sent, each when all before it have ended.

use std::collections::VecDeque;

use crate::job::units::Tokens;

/// With so many open behind it, a call is no longer waited for.
const PATIENCE: usize = 4_096;

/// The calls of a batch from sending to end.
#[derive(Debug, Default)]
pub(super) struct InOrder {
    /// The ticket of the call in front.
    first: u64,
    calls: VecDeque<Call>,
}

/// A call that was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ticket(u64);

#[derive(Clone, Copy, Debug)]
enum Call {
    Open,
    /// `None`: without an answer.
    Ended(Option<Tokens>),
}

impl InOrder {
    /// A call is sent.
    pub(super) fn sent(&mut self) -> Ticket {
        let ticket = Ticket(self.first + self.calls.len() as u64);
        self.calls.push_back(Call::Open);
        ticket
    }

    /// A call ended; the lengths that may be learned from now are handed to `learn`, in order.
    pub(super) fn ended(&mut self, ticket: Ticket, length: Option<Tokens>, mut learn: impl FnMut(Tokens)) {
        match ticket.0.checked_sub(self.first) {
            Some(place) => {
                if let Some(call) = usize::try_from(place).ok().and_then(|place| self.calls.get_mut(place)) {
                    *call = Call::Ended(length);
                }
            }
            // It was no longer waited for, but it is as true as the others.
            None => length.into_iter().for_each(&mut learn),
        }
        while let Some(front) = self.calls.front() {
            match front {
                Call::Ended(length) => length.iter().copied().for_each(&mut learn),
                Call::Open if self.calls.len() > PATIENCE => {}
                Call::Open => break,
            }
            self.calls.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(calls: &mut InOrder, ticket: Ticket, length: Option<u64>) -> Vec<u64> {
        let mut learned = Vec::new();
        calls.ended(ticket, length.map(Tokens), |length| learned.push(length.0));
        learned
    }

    #[test]
    fn an_answer_waits_for_those_of_calls_sent_before_it() {
        let mut calls = InOrder::default();
        let [a, b, c, d] = [calls.sent(), calls.sent(), calls.sent(), calls.sent()];
        assert!(end(&mut calls, b, Some(2)).is_empty());
        assert!(end(&mut calls, c, None).is_empty());
        assert_eq!(end(&mut calls, a, Some(1)), [1, 2]);
        assert_eq!(end(&mut calls, d, Some(4)), [4]);
    }

    #[test]
    fn a_call_that_hangs_holds_up_the_others_only_so_long() {
        let mut calls = InOrder::default();
        let hung = calls.sent();
        let mut learned = 0;
        for _ in 0..PATIENCE {
            let next = calls.sent();
            learned += end(&mut calls, next, Some(7)).len();
        }
        assert_eq!(learned, PATIENCE, "all of them, once the first was given up");
        assert_eq!(end(&mut calls, hung, Some(9)), [9], "and it is heard when it comes after all");
        assert!(calls.calls.is_empty());
    }
}
