//! The binary under test: so many processes on one input, one state directory and one batch.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use serde_json::Value;

use crate::common::process;

/// Processes of `aquifer run`.
#[derive(Debug)]
pub(crate) struct Workers {
    folder: PathBuf,
    children: Vec<(Child, Option<ExitStatus>)>,
}

impl Workers {
    /// Starts them with this configuration. Each writes all results to a file of its own.
    pub(crate) fn start(folder: &Path, config: &str, input: &Path, count: usize) -> Self {
        fs::write(folder.join("aquifer.toml"), config).unwrap();
        let start = |which| {
            let mut command = process::aquifer(folder);
            command.args(["run", "--state", "state", "--batch", "backlog", "-o", &results(which)]).arg(input);
            command.stdout(File::create(folder.join(format!("stdout-{which}"))).unwrap());
            command.stderr(File::create(folder.join(said(which))).unwrap());
            (command.spawn().unwrap(), None)
        };
        Self { folder: folder.to_owned(), children: (0..count).map(start).collect() }
    }

    pub(crate) fn are_running(&mut self) -> bool {
        let still = |(child, ended): &mut (Child, Option<ExitStatus>)| {
            if ended.is_none() {
                *ended = child.try_wait().unwrap();
            }
            ended.is_none()
        };
        // Every one is asked, so that none is left unburied.
        self.children.iter_mut().map(still).fold(false, |any, running| any | running)
    }

    pub(crate) fn kill(&mut self) {
        for (child, ended) in self.children.iter_mut().filter(|(_, ended)| ended.is_none()) {
            let _ = child.kill();
            *ended = child.wait().ok();
        }
    }

    /// CPU time of those that run.
    pub(crate) fn cpu(&self) -> Duration {
        let running = self.children.iter().filter(|(_, ended)| ended.is_none());
        running.map(|(child, _)| process::cpu(child.id())).sum()
    }

    /// The text of every job that succeeded, by its id: what stands in the first one's results file.
    pub(crate) fn answers(&self) -> BTreeMap<String, String> {
        let text = fs::read_to_string(self.folder.join(results(0))).unwrap_or_default();
        // The last line of a process that was killed may be half a line.
        let results = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let word = |result: &Value, key: &str| result[key].as_str().unwrap_or_default().to_owned();
        let succeeded = results.filter(|result| result["status"] == "succeeded");
        succeeded.map(|result| (word(&result, "id"), word(&result, "text"))).collect()
    }

    /// What the first one said last that ended otherwise than with all jobs succeeded.
    pub(crate) fn trouble(&self) -> Option<String> {
        let failed =
            |(_, (_, ended)): &(usize, &(Child, Option<ExitStatus>))| ended.is_none_or(|ended| !ended.success());
        let (which, (_, ended)) = self.children.iter().enumerate().find(failed)?;
        let said = fs::read_to_string(self.folder.join(said(which))).unwrap_or_default();
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        Some(format!("{}: {last}", ended.map_or_else(|| "still running".to_owned(), |ended| ended.to_string())))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.kill();
    }
}

fn results(which: usize) -> String {
    format!("results-{which}.jsonl")
}

fn said(which: usize) -> String {
    format!("stderr-{which}")
}
