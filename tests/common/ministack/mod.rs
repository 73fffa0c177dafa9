//! The AWS services to test against: one ministack a test binary, installed on first use.
//!
//! What is installed is pinned with hashes and lies below `target/`; without it these tests fail, and say why. Tests of
//! one binary share the process and stay apart by the names of what they make.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aquifer::aws::{Emulated, Results, Settings};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;

pub(crate) const REGION: &str = "us-east-1";
/// Anything that is not twelve digits, which ministack would take for another account.
const ACCESS_KEY: &str = "test";
const ACCOUNT: &str = "000000000000";
/// It takes half a second; a machine that builds beside it takes longer.
const START: Duration = Duration::from_secs(60);
const REQUIREMENTS: &str = include_str!("requirements.txt");

struct Running {
    url: String,
    /// Its standard input closes when this process ends, and then it ends too.
    process: Child,
}

/// Where the services of this test binary answer.
///
/// # Panics
/// If they cannot be installed or started: a suite that is skipped proves nothing.
pub(crate) fn url() -> &'static str {
    &running().url
}

/// The process that they are, for those who ask what it uses.
#[allow(dead_code, reason = "most tests do not ask")]
pub(crate) fn process() -> u32 {
    running().process.id()
}

fn running() -> &'static Running {
    static RUNNING: OnceLock<Result<Running, String>> = OnceLock::new();
    match RUNNING.get_or_init(|| start(&install()?)) {
        Ok(running) => running,
        Err(why) => panic!("no AWS services to test against: {why}"),
    }
}

/// How a fleet reaches them, or whatever else is at `url`.
pub(crate) fn emulated(url: &str) -> Emulated {
    Emulated {
        endpoint_url: url.to_owned(),
        dynamodb_url: None,
        region: REGION.to_owned(),
        access_key_id: ACCESS_KEY.to_owned(),
    }
}

/// How a test's own clients reach them: to look behind the back end, and to call the services as others would.
pub(crate) fn sdk(url: &str) -> SdkConfig {
    let credentials = Credentials::new(ACCESS_KEY, "test", None, None, "tests");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(url)
        .region(Region::from_static(REGION))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build()
}

/// S3's client: a bucket cannot be put before an address that is no name.
pub(crate) fn s3(sdk: &SdkConfig) -> aws_sdk_s3::Client {
    aws_sdk_s3::Client::from_conf(aws_sdk_s3::config::Builder::from(sdk).force_path_style(true).build())
}

/// Names that no other test uses.
pub(crate) fn settings() -> Settings {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("aquifer-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let queue_url = format!("{}/{ACCOUNT}/{name}", url());
    Settings {
        dead_letter_url: format!("{queue_url}-dead"),
        queue_url,
        table: name.clone(),
        bucket: name.clone(),
        prefix: "aquifer/".to_owned(),
        topic_arn: Some(format!("arn:aws:sns:{REGION}:{ACCOUNT}:{name}")),
        results: Results::Segment,
        keep: Duration::from_secs(30 * 24 * 60 * 60),
    }
}

// ------------------------------------------------------------------------------------------------ installation

/// The Python that has ministack; made if it is not there, by one test binary at a time.
fn install() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let lock = fs::create_dir_all(root).and_then(|()| File::create(root.join("ministack.lock")));
    let lock = lock.map_err(|error| format!("{}: {error}", root.display()))?;
    lock.lock().map_err(|error| format!("locking {}: {error}", root.display()))?;

    let place = root.join("ministack");
    let python = place.join("bin").join("python");
    // Written last, and with the versions in it: half an installation, or one of other versions, is none.
    let stamp = place.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == REQUIREMENTS) {
        return Ok(python);
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/ministack/requirements.txt");
    succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place), "python3 3.10 or later with venv")?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--require-hashes",
        "--only-binary",
        ":all:",
    ];
    succeed(Command::new(&python).args(pip).arg("-r").arg(&here), "PyPI, or an index set by PIP_INDEX_URL")?;
    fs::write(&stamp, REQUIREMENTS).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(python)
}

/// `needs` says what must be there for the command to work.
fn succeed(command: &mut Command, needs: &str) -> Result<(), String> {
    let run = command.output().map_err(|error| format!("{command:?}: {error}; it needs {needs}"))?;
    if run.status.success() {
        return Ok(());
    }
    let said = [run.stdout, run.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    Err(format!("{command:?}: {}; it needs {needs}\n{said}", run.status))
}

// -------------------------------------------------------------------------------------------------- the process

fn start(python: &Path) -> Result<Running, String> {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ministack-run");
    fs::create_dir_all(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
    let log = scratch.join(format!("{}.log", binary()));
    let stderr = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let serve = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/ministack/serve.py");
    let mut command = Command::new(python);
    // A developer's own settings must not change what is tested.
    command.env_clear().env("TMPDIR", &scratch).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.arg(serve).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
    let mut process = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    let mut said = String::new();
    let port = process.stdout.take().and_then(|stdout| BufReader::new(stdout).read_line(&mut said).ok());
    let url = match (port, said.trim().parse::<u16>()) {
        (Some(_), Ok(port)) => format!("http://127.0.0.1:{port}"),
        _ => return Err(format!("ministack did not start, see {}", log.display())),
    };
    let deadline = Instant::now() + START;
    while !healthy(&url) {
        if Instant::now() > deadline {
            return Err(format!("ministack is not well after {} s, see {}", START.as_secs(), log.display()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(Running { url, process })
}

/// The name of the test binary, without Cargo's hash: the log of the last run is all that anybody looks for.
fn binary() -> String {
    let exe = std::env::current_exe().unwrap_or_default();
    let name = exe.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    name.rsplit_once('-').map_or(name.clone(), |(name, _hash)| name.to_owned())
}

fn healthy(url: &str) -> bool {
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(url.trim_start_matches("http://"))?;
        stream.set_read_timeout(Some(START))?;
        stream.write_all(b"GET /_ministack/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    answer().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
