//! What does `aquifer check` find? A judgement of one thing, and what mends it: each back end judges its own.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It works, and could be better.
    Advice,
    /// Work fails, or can be lost.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at, in a word or two: `queue`, `table`, ...
    pub subject: &'static str,
    /// What was found, with the name of the thing.
    pub what: String,
    /// What to do about it, if anything is to be done: a command or a setting, to the letter where there is one.
    pub remedy: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn ok(subject: &'static str, what: impl Into<String>) -> Self {
        Self { severity: Severity::Ok, subject, what: what.into(), remedy: None }
    }

    /// It works, and could be better.
    pub fn advice(subject: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Advice, subject, what: what.into(), remedy: Some(remedy.into()) }
    }

    /// Work fails, or can be lost.
    pub fn error(subject: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Error, subject, what: what.into(), remedy: Some(remedy.into()) }
    }
}
