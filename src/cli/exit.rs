//! How does the program end? One status a way, and one friendly report: what, where, what to do.

use std::fmt;
use std::process::ExitCode;

use crate::ports::{StoreError, StoreTrouble};

/// The exit statuses of the contract.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// Every job succeeded.
    AllSucceeded,
    /// It could not go on; jobs may be left queued.
    CouldNotGoOn,
    /// The command line or the configuration is wrong; nothing was begun.
    Usage,
    /// Finished, but some jobs did not succeed.
    SomeDidNotSucceed,
    /// Interrupted; nothing is lost.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::AllSucceeded => 0,
            Exit::CouldNotGoOn => 1,
            Exit::Usage => 2,
            Exit::SomeDidNotSucceed => 3,
            Exit::Interrupted => 130,
        })
    }
}

/// Why a command ended early, for the person who typed it.
#[derive(Debug)]
pub struct Report {
    /// The exit status it ends with.
    pub exit: Exit,
    what: String,
    hint: Option<String>,
    /// What a back end had, if that is why: what helps against it is not the same behind each.
    trouble: Option<StoreTrouble>,
}

impl Report {
    /// The command line or the configuration is wrong.
    pub fn usage(what: impl fmt::Display) -> Self {
        Self { exit: Exit::Usage, what: what.to_string(), hint: None, trouble: None }
    }

    /// It could not go on.
    pub fn stuck(what: impl fmt::Display) -> Self {
        Self { exit: Exit::CouldNotGoOn, what: what.to_string(), hint: None, trouble: None }
    }

    /// What it says, and what to do about it: a finding of `aquifer check` is put in the same words.
    pub(crate) fn into_parts(self) -> (String, Option<String>) {
        (self.what, self.hint)
    }

    /// The same trouble, if a back end had any, with what helps against it on AWS.
    #[must_use]
    pub(crate) fn of_fleet(self) -> Self {
        let hint = match self.trouble {
            None => return self,
            Some(StoreTrouble::Denied) => {
                "if it does not say what to do, check the account, the region and the permissions of these credentials (infra/roles.tf lists them)"
            }
            Some(StoreTrouble::Away) => {
                "check AWS_REGION, AWS_ENDPOINT_URL and the network, and run the same command again"
            }
            Some(StoreTrouble::Full | StoreTrouble::Newer | StoreTrouble::Damaged | StoreTrouble::Other) => {
                "`aquifer check` says whether the services are as they should be, and what mends them"
            }
        };
        self.hint(hint)
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\n\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<StoreError> for Report {
    /// As behind the state directory of this machine.
    fn from(error: StoreError) -> Self {
        let hint = match error.kind {
            StoreTrouble::Away => "another process may be holding it; try again",
            StoreTrouble::Full => "make room and run the same command again; nothing is lost",
            StoreTrouble::Denied => {
                "check that the state directory exists and can be written, or name another with --state"
            }
            StoreTrouble::Newer => {
                "it was written by a newer aquifer: use that one, or name another directory with --state"
            }
            StoreTrouble::Damaged => {
                "nothing was changed; restore the state directory from a copy, or name another with --state; if only \
                 results of one batch are damaged, `aquifer forget` it and run it again, which pays for it again"
            }
            StoreTrouble::Other => "nothing is lost; run the same command again",
        };
        Self { trouble: Some(error.kind), ..Self::stuck(&error).hint(hint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_and_then_what_to_do() {
        let report = Report::usage("no region").hint("set AWS_REGION");
        assert_eq!(report.to_string(), "error: no region\n\nhint: set AWS_REGION");
    }
}
