//! In which state is a job, and where may it go from there? The only transition table of the program.
//!
//! ```text
//! queued --claim--> running --record--> succeeded | failed | rejected | expired | partial   (final)
//!                   running --release-> queued      (throttled, service away, shutting down, lease lost)
//!                   running --takeover-> running    (lease ran out: next owner, next fencing token)
//! failed, expired --redrive-> queued                (by a person: generation + 1)
//! ```
//!
//! `succeeded` is never left.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a job ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The model answered.
    Succeeded,
    /// The model refused it, its own failures used up its attempts, or the service stayed away too long.
    Failed,
    /// Never sent: bad input, over budget, too large, refused residency.
    Rejected,
    /// Its deadline passed.
    Expired,
    /// Some parts succeeded; documents and batches only.
    Partial,
}

impl Status {
    /// Every status, in the order in which they are listed to people.
    pub const ALL: [Self; 5] = [Self::Succeeded, Self::Failed, Self::Rejected, Self::Expired, Self::Partial];

    /// The word used in results, notices, ledger and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Partial => "partial",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// Waiting for a worker.
    Queued,
    /// Claimed by a worker under a fencing token.
    Running,
    /// Ended; stays so unless a person redrives it.
    Final(Status),
}

impl State {
    /// The word used in ledger, `status` and `explain`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Final(status) => status.word(),
        }
    }

    /// The state of that name.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Queued, Self::Running]
            .into_iter()
            .chain(Status::ALL.into_iter().map(State::Final))
            .find(|state| state.word() == word)
    }

    /// Where `step` leads from here; `None` if the table has no such edge.
    pub const fn after(self, step: Step) -> Option<Self> {
        match (self, step) {
            (Self::Queued, Step::Claim) | (Self::Running, Step::Takeover) => Some(Self::Running),
            (Self::Running, Step::Record(status)) => Some(Self::Final(status)),
            (Self::Running, Step::Release) | (Self::Final(Status::Failed | Status::Expired), Step::Redrive) => {
                Some(Self::Queued)
            }
            (Self::Queued | Self::Running | Self::Final(_), _) => None,
        }
    }
}

/// An edge of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// A worker takes a queued job.
    Claim,
    /// A worker takes a running job whose lease ran out.
    Takeover,
    /// The owner writes the outcome.
    Record(Status),
    /// The owner hands the job back.
    Release,
    /// A person runs an ended job again.
    Redrive,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn succeeded_is_never_left() {
        let steps = [Step::Claim, Step::Takeover, Step::Record(Status::Failed), Step::Release, Step::Redrive];
        for step in steps {
            assert_eq!(State::Final(Status::Succeeded).after(step), None, "{step:?}");
        }
    }

    #[test]
    fn only_failed_and_expired_are_redriven() {
        for status in Status::ALL {
            let redriven = State::Final(status).after(Step::Redrive);
            let expected = matches!(status, Status::Failed | Status::Expired).then_some(State::Queued);
            assert_eq!(redriven, expected, "{status}");
        }
    }

    #[test]
    fn words_read_back() {
        for state in [State::Queued, State::Running].into_iter().chain(Status::ALL.map(State::Final)) {
            assert_eq!(State::from_word(state.word()), Some(state));
        }
    }
}
