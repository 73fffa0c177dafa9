//! What if a file is made to hurt? It is read by a process of its own, which has a bound on memory and on time: a parser that
//! crashes, loops or eats memory ends that process, and the document is refused with a reason.
//!
//! The process is this very program under a hidden command. The file goes in on standard input, one JSON object comes out.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::extract::{Extracted, TEXT_BYTES, Unreadable, extract};

/// The hidden command.
pub const COMMAND: &str = "extract-text";
/// A reader of one file may use so much memory of its own, in bytes.
pub const MEMORY: u64 = 200 << 20;
/// A file may take so much time of a processor. Not of the clock: what can be read must not depend on what else is going on.
pub const TIME: Duration = Duration::from_secs(9);
/// And on a machine that has no processor for it, so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// JSON makes text longer: every character can be escaped.
const OUTPUT: u64 = 2 * TEXT_BYTES as u64 + (1 << 20);
/// What a dying process says is looked at up to here, and never shown.
const LAST_WORDS: u64 = 64 << 10;

#[derive(Deserialize, Serialize)]
enum Reply {
    Text(Extracted),
    Refused(Unreadable),
}

/// Why a file could not be given to a reader. It says nothing about the file: another time it may work.
#[derive(Debug, thiserror::Error)]
#[error("the reader of documents {doing}: {why}")]
pub struct NoReader {
    doing: &'static str,
    why: String,
}

/// The life of the process that reads: limits itself, reads a file from `input` and writes what it holds to `output`.
///
/// # Errors
/// What the system said.
pub fn serve(mut input: impl Read, mut output: impl Write) -> std::io::Result<()> {
    limit()?;
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    let reply = match extract(&bytes) {
        Ok(text) => Reply::Text(text),
        Err(refusal) => Reply::Refused(refusal),
    };
    serde_json::to_writer(&mut output, &reply)?;
    output.flush()
}

fn limit() -> std::io::Result<()> {
    let to = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    // Data, not address space: what the program maps of itself is no matter of the file. Elsewhere than on Linux it bounds less.
    setrlimit(Resource::Data, to(MEMORY))?;
    setrlimit(Resource::Cpu, to(TIME.as_secs()))?;
    setrlimit(Resource::Core, to(0))?;
    Ok(())
}

/// Who reads files.
#[derive(Clone, Debug)]
pub struct Readers {
    program: PathBuf,
}

impl Readers {
    /// By this program, which is Aquifer's own.
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// The text of a file.
    ///
    /// # Errors
    /// [`NoReader`] if nobody could read it; inside, [`Unreadable`] if it is the file's fault.
    pub async fn read(&self, bytes: &[u8]) -> Result<Result<Extracted, Unreadable>, NoReader> {
        let mut command = Command::new(&self.program);
        command.arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // What it finds in its environment can change nothing.
        command.env_clear();
        let failed = |doing| move |error: std::io::Error| NoReader { doing, why: error.to_string() };
        let mut child = command.spawn().map_err(failed("does not start"))?;
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let talk = async {
            let feed = async {
                if let Some(mut input) = input {
                    // One that dies early has not read all of it.
                    let _ = input.write_all(bytes).await;
                }
            };
            let (_, reply, last_words) = tokio::join!(feed, all_of(output, OUTPUT), all_of(errors, LAST_WORDS));
            child.wait().await.map(|status| (status, reply, last_words))
        };
        let Ok(ended) = tokio::time::timeout(PATIENCE, talk).await else {
            // Dropped, it is killed.
            return Ok(Err(too_long()));
        };
        let (status, reply, last_words) = ended.map_err(failed("was lost"))?;
        if status.success() {
            return match serde_json::from_slice(&reply) {
                Ok(Reply::Text(text)) => Ok(Ok(text)),
                Ok(Reply::Refused(refusal)) => Ok(Err(refusal)),
                Err(_) => Err(NoReader { doing: "said nothing that is understood", why: status.to_string() }),
            };
        }
        match of_death(status, &last_words) {
            Some(refusal) => Ok(Err(refusal)),
            None => Err(NoReader { doing: "failed", why: status.to_string() }),
        }
    }
}

/// Up to so many bytes; the rest is read and forgotten, so that nobody waits for room in a pipe.
async fn all_of(pipe: Option<impl AsyncRead + Unpin>, most: u64) -> Vec<u8> {
    let mut read = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = (&mut pipe).take(most).read_to_end(&mut read).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    read
}

/// What killed it, if it was the file; `None` if it ended by itself.
fn of_death(status: ExitStatus, last_words: &[u8]) -> Option<Unreadable> {
    use std::os::unix::process::ExitStatusExt as _;
    const SIGXCPU: i32 = 24;
    const SIGKILL: i32 = 9;
    if memchr::memmem::find(last_words, b"memory allocation of").is_some() {
        return Some(too_much_memory());
    }
    match status.signal() {
        Some(SIGXCPU | SIGKILL) => Some(too_long()),
        Some(_) => Some(crashed()),
        // A panic of a parser; main's own errors are others.
        None if status.code() == Some(101) => Some(crashed()),
        None => None,
    }
}

fn too_long() -> Unreadable {
    Unreadable::TooLarge { what: format!("reading it takes more than {} s of processor time", TIME.as_secs()) }
}

fn too_much_memory() -> Unreadable {
    Unreadable::TooLarge { what: format!("reading it takes more than {} MiB of memory", MEMORY >> 20) }
}

fn crashed() -> Unreadable {
    Unreadable::UnknownType { found: "a damaged file (its reader crashed on it)".to_owned() }
}
