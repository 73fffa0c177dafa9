//! A directory to work in, and the binary started in it.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Nothing here takes that long unless it hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Where a simulated run keeps its state, for the commands that look at it.
pub(crate) const SIMULATED: &str = ".aquifer/simulated";

/// An empty directory, gone after the test.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Writes one line for each of these.
    pub(crate) fn write_lines(&self, name: &str, lines: &[Value]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.write(name, text);
    }

    /// Writes so many small jobs with the ids `job-1`, `job-2`, ...
    pub(crate) fn write_jobs(&self, name: &str, count: usize) {
        self.write_lines(name, &(1..=count).map(job).collect::<Vec<_>>());
    }

    /// The binary, in this directory and with nothing in its environment that a machine might add.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aquifer"));
        command.args(arguments).current_dir(self.0.path()).env_clear();
        command.env("HOME", self.0.path()).env("AWS_EC2_METADATA_DISABLED", "true");
        command.stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn aquifer<const N: usize>(&self, arguments: [&str; N]) -> Ended {
        Running::start(self.command(arguments)).finish()
    }

    /// Runs it to its end with this on its standard input.
    pub(crate) fn aquifer_reading<const N: usize>(&self, input: &[u8], arguments: [&str; N]) -> Ended {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped());
        let mut running = Running::start(command);
        running.child.stdin.take().unwrap().write_all(input).unwrap();
        running.finish()
    }

    /// The lines of `results.jsonl`, the default results file.
    pub(crate) fn results(&self) -> Vec<Value> {
        json_lines(&self.read("results.jsonl"))
    }

    /// What `status --json` says of a batch of simulated runs; `None` as long as there is none.
    pub(crate) fn status(&self, batch: &str) -> Option<Value> {
        let ended = self.aquifer(["status", batch, "--json", "--state", SIMULATED]);
        if ended.code != 0 { None } else { json_lines(&ended.stdout).pop() }
    }

    /// Returns once so many jobs of the batch have succeeded. Each look is a process that reads the state.
    pub(crate) fn until_succeeded(&self, batch: &str, count: u64) {
        let began = Instant::now();
        while self.status(batch).and_then(|status| status["succeeded"].as_u64()).unwrap_or(0) < count {
            assert!(began.elapsed() < LIMIT, "{count} jobs of {batch} did not succeed: {:?}", self.status(batch));
        }
    }

    /// Nothing was queued, sent or written down as a result.
    pub(crate) fn assert_nothing_queued(&self) {
        assert!(!self.path("results.jsonl").exists(), "there is a results file");
        for state in [".aquifer", SIMULATED] {
            if self.path(state).is_dir() {
                let ended = self.aquifer(["status", "--json", "--state", state]);
                for status in json_lines(&ended.stdout) {
                    assert_eq!(status["total"], 0, "{state}: {status}");
                }
            }
        }
    }

    /// All files below a directory of this place.
    pub(crate) fn files_below(&self, name: &str) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                } else {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.path(name), &mut found);
        found
    }
}

/// A small job with the id `job-N`.
pub(crate) fn job(number: usize) -> Value {
    json!({ "id": format!("job-{number}"), "prompt": format!("Summarise review number {number}."), "max_tokens": 100 })
}

/// One JSON value a line.
pub(crate) fn json_lines(text: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The field of each, as sorted texts.
pub(crate) fn sorted(values: &[Value], field: &str) -> Vec<String> {
    let mut all: Vec<_> = values.iter().map(|value| value[field].as_str().unwrap().to_owned()).collect();
    all.sort();
    all
}

/// The ids `job-1` to `job-N`, sorted as texts.
pub(crate) fn job_ids(count: usize) -> Vec<String> {
    let mut all: Vec<_> = (1..=count).map(|number| format!("job-{number}")).collect();
    all.sort();
    all
}

/// The sum of a field that is a number.
pub(crate) fn sum(values: &[Value], field: &str) -> f64 {
    values.iter().map(|value| value[field].as_f64().unwrap()).sum()
}

/// Each job of `job_ids(count)` has exactly one result, and it succeeded.
pub(crate) fn assert_all_succeeded(results: &[Value], count: usize) {
    assert_eq!(sorted(results, "id"), job_ids(count));
    for result in results {
        assert_eq!(result["status"], "succeeded", "{result}");
    }
}

/// A process under way.
pub(crate) struct Running {
    pub(crate) child: Child,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<String>,
    said: String,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (send_out, stdout) = channel();
        let (send_line, stderr) = channel();
        thread::spawn(move || {
            let mut all = Vec::new();
            out.read_to_end(&mut all).unwrap();
            // Fails only when nobody waits for it any more.
            let _ = send_out.send(all);
        });
        thread::spawn(move || {
            for line in BufReader::new(err).lines() {
                let Ok(line) = line else { break };
                if send_line.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, stdout, stderr, said: String::new() }
    }

    /// Sends it a signal by name, as `kill` knows it.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "kill -{name}: {status}");
    }

    /// Waits for a line on stderr that holds one of these, in whatever case; that line.
    pub(crate) fn until_said(&mut self, words: &[&str]) -> String {
        loop {
            let line = match self.stderr.recv_timeout(LIMIT) {
                Ok(line) => line,
                Err(error) => panic!("none of {words:?} was said ({error}): {}", self.said),
            };
            self.hear(&line);
            let lower = line.to_lowercase();
            if words.iter().any(|word| lower.contains(word)) {
                return line;
            }
        }
    }

    /// Waits for a line on stderr that holds this, and returns it.
    pub(crate) fn until_said_with(&mut self, word: &str) -> String {
        self.until_said(&[word]);
        self.said.lines().rfind(|line| line.contains(word)).unwrap().to_owned()
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Ended {
        loop {
            match self.stderr.recv_timeout(LIMIT) {
                Ok(line) => self.hear(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it hangs: {}", self.said),
            }
        }
        let stdout = self.stdout.recv_timeout(LIMIT).unwrap();
        let status = self.child.wait().unwrap();
        let code = status.code().unwrap_or_else(|| panic!("{status}: {}", self.said));
        let ended = Ended { code, stdout, stderr: std::mem::take(&mut self.said) };
        assert!(!ended.stderr.contains("panicked at"), "it panicked: {}", ended.stderr);
        ended
    }

    fn hear(&mut self, line: &str) {
        self.said.push_str(line);
        self.said.push('\n');
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that fails half-way must not leave a process behind; one that has ended cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    /// Checks the exit status, and shows what was said when it is another.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stderr:\n{}\nstdout:\n{}", self.stderr, String::from_utf8_lossy(&self.stdout));
        self
    }

    /// Checks that stderr holds one of these, in whatever case.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        let said = self.stderr.to_lowercase();
        assert!(words.iter().any(|word| said.contains(word)), "none of {words:?} in:\n{}", self.stderr);
        self
    }

    /// The one JSON object on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.stdout)))
    }
}
