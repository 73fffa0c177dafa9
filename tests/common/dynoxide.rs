//! A second opinion on every DynamoDB expression: dynoxide, one process a test binary, in memory, built on first use.
//!
//! It is a program and no dev-dependency, since its SQLite and ours cannot be linked into one binary. What is built is pinned,
//! with its own lock file, and lies below `target/`; without it these tests fail, and say why.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

const VERSION: &str = "3.2.0";
const FEATURES: &str = "native-sqlite,http-server,cli";
/// Its standard input closes when the tests end, however they end, and then it ends too.
const SERVE: &str = r#""$0" --host 127.0.0.1 --port "$1" & cat > /dev/null; kill $!"#;
/// What it says before its address.
const LISTENS: &str = "listening on ";

struct Running {
    url: String,
    /// Kept, because its standard input is.
    _process: Child,
}

/// Where it answers.
///
/// # Panics
/// If it cannot be built or started: a suite that is skipped proves nothing.
pub(crate) fn url() -> &'static str {
    static RUNNING: OnceLock<Result<Running, String>> = OnceLock::new();
    // A port that was free may be taken by now.
    let start = |program: &Path| (0..3).map(|_| start(program)).find(Result::is_ok).unwrap_or_else(|| start(program));
    match RUNNING.get_or_init(|| start(&install()?)) {
        Ok(running) => &running.url,
        Err(why) => panic!("no second opinion on DynamoDB: {why}"),
    }
}

/// The program; built if it is not there, by one test binary at a time.
fn install() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let at = |error: std::io::Error| format!("{}: {error}", root.display());
    fs::create_dir_all(root).map_err(at)?;
    let lock = File::create(root.join("dynoxide.lock")).map_err(at)?;
    lock.lock().map_err(at)?;

    // Named by its version, so that another one is not taken for it; put there last, and whole.
    let place = root.join(format!("dynoxide-{VERSION}"));
    let program = place.join("bin").join("dynoxide");
    if program.exists() {
        return Ok(program);
    }
    let mut command = Command::new(env!("CARGO"));
    command.args(["install", "dynoxide-rs", "--locked", "--debug", "--quiet", "--no-default-features"]);
    command.args(["--features", FEATURES, "--version"]).arg(format!("={VERSION}"));
    let build = root.join("dynoxide-build");
    command.arg("--root").arg(&place).arg("--target-dir").arg(&build);
    // What holds for the crate under test is not meant for this one.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_") && name != "CARGO_HOME" {
            command.env_remove(name);
        }
    }
    command.env_remove("RUSTFLAGS");
    let run = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if run.status.success() {
        fs::remove_dir_all(&build).map_err(at)?;
        return Ok(program);
    }
    let said = String::from_utf8_lossy(&run.stderr);
    Err(format!("{command:?}: {}; it needs crates.io, or what cargo is configured to use for it\n{said}", run.status))
}

fn start(program: &Path) -> Result<Running, String> {
    // It cannot be asked for any free one: it would not say which.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let port = free.map_err(|error| format!("no free port: {error}"))?.port();
    let mut command = Command::new("sh");
    command.arg("-c").arg(SERVE).arg(program).arg(port.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    let mut said = String::new();
    let mut lines =
        process.stderr.take().map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok);
    while let Some(line) = lines.next() {
        if let Some((_, address)) = line.split_once(LISTENS) {
            let url = address.trim().to_owned();
            // What else it says must not fill the pipe.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(Running { url, _process: process });
        }
        said.push_str(&line);
    }
    Err(format!("{} did not start: {said}", program.display()))
}
