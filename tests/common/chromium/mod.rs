//! A headless Chromium to look at the page with: the one that `CHROME` names, else one on the PATH, else one that is
//! installed on first use below `target/`, pinned by digest. Without any the tests fail, and say what would help.
//!
//! It is spoken to in Chromium's own protocol over two pipes, which takes no port, no WebSocket and no library: the crates
//! that wrap the protocol bring tens of thousands of generated lines for the dozen calls that a test makes. The browser ends
//! when the pipes do.

mod tab;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use tab::{Screen, Tab};

/// Nothing takes that long unless it hangs.
const LIMIT: Duration = Duration::from_secs(90);
const ON_PATH: [&str; 6] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chromium-headless-shell"];
const INSTALL: &str = include_str!("install.py");

/// A browser under way.
pub(crate) struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    /// What it told unasked and nobody has looked at yet.
    told: VecDeque<Value>,
    asked: u64,
    _profile: TempDir,
}

impl Browser {
    /// Starts one of one's own, with nothing in it.
    ///
    /// # Panics
    /// If there is none: a suite that is skipped proves nothing.
    pub(crate) fn start() -> Self {
        let found = find().unwrap_or_else(|why| panic!("no browser to test the page with: {why}"));
        let profile = tempfile::tempdir().unwrap();
        // The protocol speaks on the descriptors 3 and 4.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>&2"]).arg(&found.program);
        command.args(["--headless", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check"]);
        // Tests run as root in containers, where its sandbox cannot; it shows nothing but our own page.
        command.args(["--no-sandbox", "--no-zygote", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.args(["--disable-default-apps", "--disable-extensions", "--no-pings", "--hide-scrollbars"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        command.envs(found.env).env("HOME", profile.path());
        let log = File::create(profile.path().join("log")).unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (to, mut out) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (send, from) = channel();
        thread::spawn(move || {
            let mut message = Vec::new();
            while out.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                message.pop();
                if send.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    break;
                }
                message.clear();
            }
        });
        Self { child, to, from, told: VecDeque::new(), asked: 0, _profile: profile }
    }

    /// A new tab on a screen.
    pub(crate) fn tab(&mut self, screen: Screen) -> Tab<'_> {
        Tab::open(self, screen)
    }

    /// Asks it to do something, in a session if one is named, and waits for the answer.
    fn call(&mut self, session: Option<&str>, method: &str, params: &Value) -> Value {
        self.asked += 1;
        let mut message = json!({ "id": self.asked, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        self.to.flush().unwrap();
        loop {
            let message = self.next(method);
            if message["id"] != self.asked {
                self.told.push_back(message);
                continue;
            }
            assert!(message["error"].is_null(), "{method}: {}", message["error"]);
            return message["result"].clone();
        }
    }

    fn next(&mut self, waiting_for: &str) -> Value {
        match self.from.recv_timeout(LIMIT) {
            Ok(message) => message,
            Err(error) => panic!("{waiting_for}: the browser does not answer ({error}); {:?}", self.child.try_wait()),
        }
    }

    /// What it told so far.
    fn told(&mut self) -> impl Iterator<Item = Value> + '_ {
        self.told.extend(self.from.try_iter());
        self.told.drain(..)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ------------------------------------------------------------------------------------------------ installation

/// A program, and what it needs in its environment.
struct Found {
    program: PathBuf,
    env: Vec<(&'static str, PathBuf)>,
}

fn find() -> Result<Found, String> {
    let bare = |program| Ok(Found { program, env: Vec::new() });
    if let Some(named) = std::env::var_os("CHROME") {
        return bare(PathBuf::from(named));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::env::split_paths(&path).flat_map(|folder| ON_PATH.map(|name| folder.join(name)));
    match all.find(|program| program.is_file()) {
        Some(program) => bare(program),
        None => install(),
    }
}

/// By one test binary at a time.
fn install() -> Result<Found, String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("put Chromium or Chrome on the PATH, or name it in CHROME".to_owned());
    }
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let lock = fs::create_dir_all(root).and_then(|()| File::create(root.join("chromium.lock")));
    let lock = lock.map_err(|error| format!("{}: {error}", root.display()))?;
    lock.lock().map_err(|error| format!("locking {}: {error}", root.display()))?;

    let place = root.join("chromium");
    // Written last, and with the version in it: half an installation, or one of another version, is none.
    let stamp = place.join("installed.txt");
    if !fs::read_to_string(&stamp).is_ok_and(|installed| installed == INSTALL) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/chromium/install.py");
        let needs = "python3 3.10 or later with venv, npm's registry, and PyPI unless npm is here; \
                     or Chromium or Chrome on the PATH, or its name in CHROME";
        let run = Command::new("python3").arg(script).arg(&place).output();
        let run = run.map_err(|error| format!("python3: {error}; it needs {needs}"))?;
        if !run.status.success() {
            let said = [run.stdout, run.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
            return Err(format!("it could not be installed ({}); it needs {needs}\n{said}", run.status));
        }
        fs::write(&stamp, INSTALL).map_err(|error| format!("{}: {error}", stamp.display()))?;
    }
    let env = vec![("LD_LIBRARY_PATH", place.join("libraries/lib")), ("FONTCONFIG_FILE", place.join("fonts.conf"))];
    Ok(Found { program: place.join("chromium"), env })
}
