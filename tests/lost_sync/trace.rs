//! The program's own run, with a log of what it wrote and synced.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use crate::check;
use crate::disk::{Event, read_log};

/// One traced run.
pub(crate) struct Trace {
    /// Everything below was logged: the state directory and the results file.
    pub(crate) root: PathBuf,
    pub(crate) ids: Vec<String>,
    pub(crate) events: Vec<Event>,
    input: PathBuf,
    scenario: PathBuf,
    _folder: tempfile::TempDir,
}

pub(crate) const BATCH: &str = "power";
const JOBS: usize = 24;

/// The one run that all tests replay.
pub(crate) fn trace() -> &'static Trace {
    static TRACE: LazyLock<Trace> = LazyLock::new(Trace::record);
    &TRACE
}

/// Where the state of a simulated run lies below the traced folder.
pub(crate) fn state(root: &Path) -> PathBuf {
    root.join("state").join("simulated")
}

pub(crate) fn results(root: &Path) -> PathBuf {
    root.join("results.jsonl")
}

impl Trace {
    fn record() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        let root = at.join("traced");
        std::fs::create_dir(&root).unwrap();
        let ids: Vec<_> = (1..=JOBS).map(|number| format!("job-{number}")).collect();
        let line =
            |id: &String| format!("{{\"id\": \"{id}\", \"prompt\": \"Write about {id}.\", \"max_tokens\": 200}}\n");
        let (input, scenario) = (at.join("input.jsonl"), at.join("scenario.toml"));
        std::fs::write(&input, ids.iter().map(line).collect::<String>()).unwrap();
        // Spread out, so that the jobs end in many commits rather than in one.
        std::fs::write(&scenario, "seed = 1\nlatency = { p50 = \"20ms\", p99 = \"200ms\" }\n").unwrap();
        let mut trace = Self { root, ids, events: Vec::new(), input, scenario, _folder: folder };

        let (shim, log) = (build_shim(&at), at.join("log"));
        let mut command = trace.run(&trace.root);
        command.env("LD_PRELOAD", shim).env("LOST_SYNC_DIR", &trace.root).env("LOST_SYNC_LOG", &log);
        succeed(command.output().unwrap());
        trace.events = read_log(&log);
        trace
    }

    /// The command, with its state and its results below `root`.
    fn run(&self, root: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aquifer"));
        // A developer's own settings must not change what is tested.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AQUIFER_") || name.to_string_lossy().starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        command.env("AQUIFER_WORKER_SLOTS", "6").current_dir(self.input.parent().unwrap());
        command.arg("run").arg(&self.input).arg(format!("--simulate={}", self.scenario.display()));
        command.args(["--batch", BATCH, "--state"]).arg(root.join("state")).arg("-o").arg(results(root));
        command
    }

    /// Lays out what is certain after a share of the events, runs the same command there, and looks at its results.
    pub(crate) fn run_again_after(&self, share: f64) {
        let cut = check::certain_after(self, (self.events.len() as f64 * share) as usize);
        succeed(self.run(cut.path()).output().unwrap());
        let text = std::fs::read_to_string(results(cut.path())).unwrap();
        let lines: Vec<_> = text.lines().map(|line| check::id_of(line).expect("a line that is no result")).collect();
        assert_eq!(lines.len(), self.ids.len(), "cut at {share}");
        assert_eq!(lines.iter().collect::<BTreeSet<_>>(), self.ids.iter().collect(), "cut at {share}");
    }
}

/// Fails unless two folders hold the same files with the same contents.
pub(crate) fn compare(written: &Path, replayed: &Path) {
    let (written, replayed) = (contents(written), contents(replayed));
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&written), names(&replayed));
    for ((name, written), (_, replayed)) in written.iter().zip(&replayed) {
        assert!(written == replayed, "{}: the log is not whole", name.display());
    }
}

fn contents(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.to_string_lossy().ends_with("-shm") {
                files.push((path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

fn build_shim(at: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lost_sync/shim.c");
    let shim = at.join("shim.so");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(&compiler);
    command.args(["-Wall", "-O1", "-shared", "-fPIC", "-o"]).arg(&shim).arg(source).args(["-ldl", "-lpthread"]);
    let output = command.output().unwrap_or_else(|error| {
        panic!("this test needs a C compiler, as building SQLite does; {} did not run: {error}", compiler.display())
    });
    succeed(output);
    shim
}

fn succeed(output: Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}:\n{error}", output.status);
}
