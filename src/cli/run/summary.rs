//! How did it end? A few lines for a person, or one JSON object, and the exit status of the contract.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::cli::exit::{Exit, Report};
use crate::cli::out;
use crate::cli::terminal::say;
use crate::flow::stop::Reason;
use crate::job::failure::Class;
use crate::job::ident::BatchName;
use crate::job::lifecycle::Status;
use crate::job::units::Usd;
use crate::simulate;
use crate::telemetry::Counts;

use super::{Outcome, short, span};

/// What is to be told.
pub(crate) struct Summary<'a> {
    pub(crate) batch: &'a BatchName,
    pub(crate) outcome: &'a Outcome,
    pub(crate) counts: Counts,
    pub(crate) reason: Option<Reason>,
    pub(crate) results: String,
    pub(crate) results_on_stdout: bool,
    pub(crate) cost_cap: Option<Usd>,
    pub(crate) simulated: Option<&'a simulate::Report>,
    pub(crate) elapsed: Duration,
}

/// The fields of `status --json`, and what only the run itself knows.
#[derive(Serialize)]
struct Json<'a> {
    batch: &'a BatchName,
    total: u64,
    queued: u64,
    running: u64,
    succeeded: u64,
    failed: u64,
    rejected: u64,
    expired: u64,
    partial: u64,
    cost_usd: Usd,
    committed_usd: Usd,
    eta_s: Option<f64>,
    ended_before: u64,
    model_calls: u64,
    throttled: u64,
    input_tokens: u64,
    output_tokens: u64,
    elapsed_s: f64,
    /// Why jobs failed or expired: how many by class.
    failures: BTreeMap<Class, u64>,
    stopped: Option<String>,
    results: &'a str,
    simulator: Option<&'a simulate::Report>,
}

impl Summary<'_> {
    /// Tells it: JSON as data, text as what it is. With results on standard output, the JSON goes beside them.
    ///
    /// # Errors
    /// A report: standard output is gone.
    pub(crate) fn tell(&self, json: bool) -> Result<(), Report> {
        if json {
            let text = serde_json::to_string(&self.json()).map_err(Report::stuck)?;
            if self.results_on_stdout {
                say(&text);
                return Ok(());
            }
            return out::line(&text);
        }
        for line in self.lines() {
            say(&line);
        }
        Ok(())
    }

    /// The exit status, judged over all jobs of the input.
    ///
    /// # Errors
    /// A report, if something kept it from going on that the person should mend.
    pub(crate) fn exit(&self) -> Result<Exit, Report> {
        if self.left() == Some(0) {
            let all = self.outcome.ended.of(Status::Succeeded) == self.outcome.ended.all();
            return Ok(if all { Exit::AllSucceeded } else { Exit::SomeDidNotSucceed });
        }
        match &self.reason {
            Some(Reason::Interrupted) => Ok(Exit::Interrupted),
            Some(Reason::Store(error)) => Err(error.clone().into()),
            Some(Reason::Credentials(why)) => {
                Err(Report::stuck(format!("the credentials were refused for 10 minutes: {why}"))
                    .hint("renew them and run the same command again; nothing is lost"))
            }
            // The summary has said it.
            Some(Reason::CapReached { .. } | Reason::Output | Reason::Done) | None => Ok(Exit::CouldNotGoOn),
        }
    }

    fn left(&self) -> Option<u64> {
        self.outcome.total.map(|total| total.saturating_sub(self.outcome.ended.all()))
    }

    fn json(&self) -> Json<'_> {
        let Outcome { ended, before, spent, committed, .. } = self.outcome;
        Json {
            batch: self.batch,
            total: self.outcome.total.unwrap_or(0),
            queued: self.left().unwrap_or(0),
            running: 0,
            succeeded: ended.of(Status::Succeeded),
            failed: ended.of(Status::Failed),
            rejected: ended.of(Status::Rejected),
            expired: ended.of(Status::Expired),
            partial: ended.of(Status::Partial),
            cost_usd: *spent,
            committed_usd: *committed,
            eta_s: (self.left() == Some(0)).then_some(0.0),
            ended_before: *before,
            model_calls: self.counts.calls,
            throttled: self.counts.throttles,
            input_tokens: self.counts.input_tokens,
            output_tokens: self.counts.output_tokens,
            elapsed_s: self.elapsed.as_secs_f64(),
            failures: self.outcome.why.all().into_iter().map(|(class, count, _)| (class, count)).collect(),
            stopped: self.stopped(),
            results: &self.results,
            simulator: self.simulated,
        }
    }

    fn stopped(&self) -> Option<String> {
        if self.left() == Some(0) {
            return None;
        }
        self.reason.as_ref().map(|reason| {
            match reason {
                Reason::Done => "done",
                Reason::Output => "output",
                Reason::Interrupted => "interrupted",
                Reason::CapReached { .. } => "max_cost",
                Reason::Store(_) => "storage",
                Reason::Credentials(_) => "credentials",
            }
            .to_owned()
        })
    }

    fn lines(&self) -> Vec<String> {
        let Outcome { ended, before, why, .. } = self.outcome;
        let Some(total) = self.outcome.total else {
            return vec!["interrupted while reading the input; run the same command again to go on".to_owned()];
        };
        if total == 0 {
            return vec!["the input holds no jobs".to_owned()];
        }
        let mut lines = Vec::new();
        let left = total.saturating_sub(ended.all());
        if left == 0 && *before == total {
            lines.push(self.nothing_to_do());
        } else {
            let counts = self.counted_by_status();
            let counts = if counts.is_empty() { "none ended".to_owned() } else { counts };
            let total = counted(total, "job");
            lines.push(format!("batch `{}`: {counts} of {total} in {}", self.batch, span(self.elapsed)));
        }
        for (class, count, one) in why.all() {
            lines.push(format!("  {count} {}, such as {one}", class.word()));
        }
        if self.counts.calls > 0 {
            lines.push(format!(
                "{} ({} throttled, {} failed), {} tokens in, {} out",
                counted(self.counts.calls, "call"),
                self.counts.throttles,
                self.counts.call_failures,
                short(self.counts.input_tokens),
                short(self.counts.output_tokens)
            ));
        }
        lines.push(self.cost());
        if !self.results_on_stdout {
            lines.push(format!("results in {}", self.results));
        }
        if let Some(report) = self.simulated.filter(|report| report.calls > 0) {
            lines.push(format!("simulator: {}", report.to_string().trim_end().replace('\n', "\n  ")));
        }
        if left > 0 {
            lines.push(self.why_left(left));
        } else if ended.of(Status::Failed) + ended.of(Status::Expired) > 0 {
            lines.push("run it again with --retry-failed to try those that failed or expired".to_owned());
        }
        lines
    }

    fn counted_by_status(&self) -> String {
        let ended = &self.outcome.ended;
        let counts = Status::ALL.into_iter().filter(|status| ended.of(*status) > 0);
        counts.map(|status| format!("{} {status}", ended.of(status))).collect::<Vec<_>>().join(", ")
    }

    fn nothing_to_do(&self) -> String {
        let ended = &self.outcome.ended;
        let rejected = ended.of(Status::Rejected);
        let jobs = ended.all() - rejected;
        if jobs == 0 {
            return format!("nothing to do: {} of the input, all refused; no call was made", counted(rejected, "line"));
        }
        let (all, counts) = (counted(jobs, "job"), self.counted_by_status());
        format!("nothing to do: all {all} of batch `{}` had ended already ({counts}); no call was made", self.batch)
    }

    fn cost(&self) -> String {
        let Outcome { spent, committed, unpriced, .. } = self.outcome;
        let open = committed.saturating_sub(*spent);
        let mut cost = format!("cost {spent}");
        if open > Usd::ZERO {
            cost.push_str(&format!(", and up to {open} for calls whose end was not seen"));
        }
        if !unpriced.is_empty() {
            let models: Vec<_> = unpriced.iter().map(|model| format!("`{model}`")).collect();
            cost.push_str(&format!(
                ", without the calls to {}: add a `price` to its [[model]] in aquifer.toml",
                models.join(", ")
            ));
        }
        cost
    }

    fn why_left(&self, left: u64) -> String {
        let are = if left == 1 { "is" } else { "are" };
        let left = counted(left, "job");
        match &self.reason {
            Some(Reason::CapReached { .. }) => {
                let cap = self.cost_cap.map(|cap| format!(" {cap}")).unwrap_or_default();
                format!(
                    "stopped: the next call could exceed --max-cost{cap}; {left} {are} left queued: run it again with a \
                     higher one to go on"
                )
            }
            Some(Reason::Interrupted) => {
                format!("interrupted: {left} {are} left queued; run the same command again to go on")
            }
            Some(Reason::Store(_) | Reason::Credentials(_) | Reason::Output | Reason::Done) | None => {
                format!("{left} {are} left queued; run the same command again to go on")
            }
        }
    }
}

/// `1 job`, `2 jobs`.
pub(crate) fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
