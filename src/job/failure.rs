//! What can go wrong with a job, and what follows from each kind?
//!
//! A closed enum, matched exhaustively: a new class does not compile until someone has decided whether it is
//! retried, whether it counts, and how it is shown.

#![deny(clippy::wildcard_enum_match_arm)]

use std::fmt;

use serde::{Deserialize, Serialize};

use super::lifecycle::Status;

/// The class of a failure; the words are those of results, notices, metrics and `explain`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The account's quota for the minute is used up.
    QuotaMinute,
    /// The account's quota for the day is used up.
    QuotaDay,
    /// The model has no capacity just now.
    Overloaded,
    /// 500, 503, or no connection.
    Unavailable,
    /// 408, or our own deadline for the call.
    Timeout,
    /// 424 whose original status was a 5xx or is not known.
    ModelError,
    /// A 200 with no content.
    Empty,
    /// The model refused the request itself.
    Invalid,
    /// No access to this model, profile or region.
    Denied,
    /// Credentials are missing, expired or unsigned, or the clock is off.
    Credentials,
    /// Anything that is not known.
    Unknown,
    /// A line or message that is no job.
    BadInput,
    /// The same identity with other content.
    IdConflict,
    /// Larger than the quota of any lane allows at all.
    TooLarge,
    /// A budget does not allow it.
    OverBudget,
    /// No configured region may have it.
    Residency,
    /// A document without text.
    NoText,
    /// Its deadline passed.
    Expired,
    /// It was claimed too often and left no outcome.
    Poison,
    /// Another worker owns it now.
    LostLease,
    /// This worker is shutting down.
    Shutdown,
}

/// What follows from a failed call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Consequence {
    /// Wait for the lane; no attempt is used up.
    Wait,
    /// Try again after a back-off; an attempt is used up.
    Again,
    /// The lane is out; try another one. No attempt is used up.
    LaneOut,
    /// All lanes pause until credentials work again; no attempt is used up.
    Pause,
    /// The job has failed.
    Fail,
    /// The job was never sent.
    Reject,
    /// The job has run out of time.
    Expire,
    /// Not the job's fault: hand it back.
    HandBack,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 21] = [
        Self::QuotaMinute,
        Self::QuotaDay,
        Self::Overloaded,
        Self::Unavailable,
        Self::Timeout,
        Self::ModelError,
        Self::Empty,
        Self::Invalid,
        Self::Denied,
        Self::Credentials,
        Self::Unknown,
        Self::BadInput,
        Self::IdConflict,
        Self::TooLarge,
        Self::OverBudget,
        Self::Residency,
        Self::NoText,
        Self::Expired,
        Self::Poison,
        Self::LostLease,
        Self::Shutdown,
    ];

    /// The word used in results, notices, ledger and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::QuotaMinute => "quota_minute",
            Self::QuotaDay => "quota_day",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::ModelError => "model_error",
            Self::Empty => "empty",
            Self::Invalid => "invalid",
            Self::Denied => "denied",
            Self::Credentials => "credentials",
            Self::Unknown => "unknown",
            Self::BadInput => "bad_input",
            Self::IdConflict => "id_conflict",
            Self::TooLarge => "too_large",
            Self::OverBudget => "over_budget",
            Self::Residency => "residency",
            Self::NoText => "no_text",
            Self::Expired => "expired",
            Self::Poison => "poison",
            Self::LostLease => "lost_lease",
            Self::Shutdown => "shutdown",
        }
    }

    /// The class of that name.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.word() == word)
    }

    /// What follows. Unknown means: fail, count, show; never "retry".
    pub const fn consequence(self) -> Consequence {
        match self {
            Self::QuotaMinute | Self::QuotaDay => Consequence::Wait,
            Self::Overloaded | Self::Unavailable | Self::Timeout | Self::ModelError | Self::Empty => Consequence::Again,
            Self::Denied => Consequence::LaneOut,
            Self::Credentials => Consequence::Pause,
            Self::Invalid | Self::Unknown | Self::Poison => Consequence::Fail,
            Self::BadInput | Self::IdConflict | Self::TooLarge | Self::OverBudget | Self::Residency | Self::NoText => {
                Consequence::Reject
            }
            Self::Expired => Consequence::Expire,
            Self::LostLease | Self::Shutdown => Consequence::HandBack,
        }
    }

    /// The end that it means for a job that it ends.
    pub const fn end(self) -> Status {
        match self.consequence() {
            Consequence::Reject => Status::Rejected,
            Consequence::Expire => Status::Expired,
            Consequence::Wait
            | Consequence::Again
            | Consequence::LaneOut
            | Consequence::Pause
            | Consequence::Fail
            | Consequence::HandBack => Status::Failed,
        }
    }

    /// Does it count for the breaker of its lane? Only what says "this service is not well".
    pub const fn trips_breaker(self) -> bool {
        match self {
            Self::Overloaded | Self::Unavailable | Self::Timeout => true,
            Self::QuotaMinute
            | Self::QuotaDay
            | Self::ModelError
            | Self::Empty
            | Self::Invalid
            | Self::Denied
            | Self::Credentials
            | Self::Unknown
            | Self::BadInput
            | Self::IdConflict
            | Self::TooLarge
            | Self::OverBudget
            | Self::Residency
            | Self::NoText
            | Self::Expired
            | Self::Poison
            | Self::LostLease
            | Self::Shutdown => false,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A failure as it is shown: in results, notices and `explain`. The message never holds a prompt or an answer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failure {
    /// Its class.
    pub class: Class,
    /// What happened, in words safe to log.
    pub message: String,
    /// The service's id of the request, where there was one.
    pub request_id: Option<String>,
}

impl Failure {
    /// A failure that no request of the service stands behind.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), request_id: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_json() {
        for class in Class::ALL {
            assert_eq!(serde_json::to_value(class).unwrap(), class.word());
            assert_eq!(Class::from_word(class.word()), Some(class));
        }
    }

    #[test]
    fn t3_only_failures_of_the_service_are_tried_again() {
        let again: Vec<_> = Class::ALL.into_iter().filter(|c| c.consequence() == Consequence::Again).collect();
        assert_eq!(again, [Class::Overloaded, Class::Unavailable, Class::Timeout, Class::ModelError, Class::Empty]);
    }
}
