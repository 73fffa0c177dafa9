//! Can this directory hold a queue and a ledger, and is what it holds sound? Looked at beside the processes that work it, and
//! nothing is changed.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension};

use super::rows::pointer;
use super::{process, schema, segments};
use crate::job::outcome::Pointer;
use crate::ports::{Finding, StoreError, StoreTrouble};

const DIRECTORY: &str = "state directory";
const DATABASE: &str = "state database";
const RESULTS: &str = "results";
/// Below this a worker could fill the disk within minutes; in bytes.
const LITTLE_ROOM: u64 = 1 << 30;
/// Below this it may fail at any moment.
const NO_ROOM: u64 = 64 << 20;
/// A database of tens of gigabytes takes minutes; longer than this nobody waits.
const SOUND_WITHIN: Duration = Duration::from_secs(10);
/// Results that are looked up, spread over all there are.
const SAMPLE: i64 = 100;

/// Looks at a state directory, whether it is there or is only going to be made. Blocks, up to some 15 s.
pub fn check(dir: &Path) -> Vec<Finding> {
    let place = existing(dir);
    let mut findings = vec![writable(dir, &place)];
    findings.push(room(&place));
    if !dir.join(schema::FILE).exists() {
        findings.push(Finding::ok(DATABASE, "none yet: the first `aquifer run` or `aquifer enqueue` makes it"));
        return findings;
    }
    let connection = match schema::open_reader(dir) {
        Ok(connection) => connection,
        Err(error) => {
            findings.push(unreadable(dir, &error));
            return findings;
        }
    };
    findings.push(Finding::ok(
        DATABASE,
        format!("{}, of a version that this program reads", dir.join(schema::FILE).display()),
    ));
    findings.push(alive(dir, &connection));
    findings.push(sound(&connection));
    findings.push(results(dir, &connection));
    findings
}

/// The directory itself, or the nearest above it that is there.
fn existing(dir: &Path) -> PathBuf {
    let above = dir.ancestors().find(|place| place.is_dir());
    above.filter(|place| *place != Path::new("")).unwrap_or(Path::new(".")).to_owned()
}

/// Files can be made there, and locked so that another handle notices: that is how a dead process is told from a live one.
fn writable(dir: &Path, place: &Path) -> Finding {
    let name = dir.display();
    if dir.exists() && !dir.is_dir() {
        return Finding::error(DIRECTORY, format!("{name} is no directory"), "name another with --state");
    }
    let remedy = "make it writable, or name another with --state";
    let file = match tempfile::NamedTempFile::new_in(place) {
        Ok(file) => file,
        Err(error) => {
            let what = format!("no file can be made in {}: {}", place.display(), error.kind());
            return Finding::error(DIRECTORY, what, remedy);
        }
    };
    let unlocked = |why: String| {
        let what = format!(
            "file locks do not hold in {}: {why}; two processes would take each other for dead",
            place.display()
        );
        Finding::error(DIRECTORY, what, "name a directory on a disk of this machine with --state")
    };
    if let Err(error) = file.as_file().lock() {
        return unlocked(error.kind().to_string());
    }
    match File::open(file.path()).map(|other| other.try_lock()) {
        Ok(Err(TryLockError::WouldBlock)) if dir.is_dir() => {
            Finding::ok(DIRECTORY, format!("{name}, writable, and locks hold"))
        }
        Ok(Err(TryLockError::WouldBlock)) => Finding::ok(DIRECTORY, format!("{name} is made when it is needed")),
        Ok(Ok(())) => unlocked("what is locked can be locked again".to_owned()),
        Ok(Err(TryLockError::Error(error))) | Err(error) => unlocked(error.kind().to_string()),
    }
}

fn room(place: &Path) -> Finding {
    let free = match fs4::available_space(place) {
        Ok(free) => free,
        Err(error) => {
            let what = format!("nobody says how much room there is: {}", error.kind());
            return Finding::advice(DIRECTORY, what, "a million results take some gigabytes");
        }
    };
    let what = format!("{} MiB free", free >> 20);
    let remedy = "make room, or name another with --state; a full disk stops work and loses nothing";
    match free {
        LITTLE_ROOM.. => Finding::ok(DIRECTORY, what),
        NO_ROOM..LITTLE_ROOM => Finding::advice(DIRECTORY, what, remedy),
        0..NO_ROOM => Finding::error(DIRECTORY, what, remedy),
    }
}

fn unreadable(dir: &Path, error: &StoreError) -> Finding {
    let remedy = match error.kind {
        StoreTrouble::Newer => "use the newer aquifer, or name another directory with --state",
        StoreTrouble::Damaged => "restore it from a copy, or name another directory with --state",
        StoreTrouble::Denied => "make it readable, or name another with --state",
        StoreTrouble::Away | StoreTrouble::Full | StoreTrouble::Other => {
            "try again; if it stays so, name another directory with --state"
        }
    };
    Finding::error(DATABASE, format!("{}: {}", dir.join(schema::FILE).display(), error.why), remedy)
}

fn alive(dir: &Path, connection: &Connection) -> Finding {
    match process::count(dir, connection) {
        Ok((0, 0)) => Finding::ok(DIRECTORY, "no process works it just now"),
        Ok((alive, 0)) => Finding::ok(DIRECTORY, format!("{alive} processes work it just now")),
        Ok((alive, dead)) => {
            let what = format!("{alive} processes work it, and {dead} died: the next one takes over what they held");
            Finding::ok(DIRECTORY, what)
        }
        Err(error) => Finding::error(DATABASE, error.to_string(), DAMAGED),
    }
}

const DAMAGED: &str = "stop what works it, copy the directory, and restore it from a copy that is sound";

fn sound(connection: &Connection) -> Finding {
    let (done, waiting) = channel::<()>();
    let handle = connection.get_interrupt_handle();
    let watch = std::thread::spawn(move || {
        if waiting.recv_timeout(SOUND_WITHIN) == Err(RecvTimeoutError::Timeout) {
            handle.interrupt();
        }
    });
    let said = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    drop(done);
    // It only waits.
    let _ = watch.join();
    match said {
        Ok(said) if said == "ok" => Finding::ok(DATABASE, "sound, says SQLite's quick check"),
        Ok(said) => Finding::error(DATABASE, format!("damaged, says SQLite's quick check: {said}"), DAMAGED),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            let what = format!("so large that SQLite's quick check did not end within {} s", SOUND_WITHIN.as_secs());
            Finding::advice(DATABASE, what, "sqlite3 DIR/aquifer.db 'PRAGMA quick_check' takes its time")
        }
        Err(error) => Finding::error(DATABASE, format!("it cannot be checked: {error}"), DAMAGED),
    }
}

fn results(dir: &Path, connection: &Connection) -> Finding {
    let pointers = match sample(connection) {
        Ok(pointers) => pointers,
        Err(error) => return Finding::error(DATABASE, format!("it cannot be read: {error}"), DAMAGED),
    };
    let lost: Vec<StoreError> = pointers.iter().filter_map(|pointer| segments::read(dir, pointer).err()).collect();
    match lost.first() {
        None if pointers.is_empty() => Finding::ok(RESULTS, "none yet"),
        None => Finding::ok(RESULTS, format!("{} that were looked up are where their rows say", pointers.len())),
        Some(first) => {
            let what =
                format!("{} of {} that were looked up cannot be read: {}", lost.len(), pointers.len(), first.why);
            let remedy = "restore the folder `bodies` from a copy; or `aquifer forget` the batch and run it again, which pays again";
            Finding::error(RESULTS, what, remedy)
        }
    }
}

fn sample(connection: &Connection) -> rusqlite::Result<Vec<Pointer>> {
    let (first, last): (Option<i64>, Option<i64>) =
        connection.query_row("SELECT min(done), max(done) FROM job WHERE done IS NOT NULL", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let (Some(first), Some(last)) = (first, last) else { return Ok(Vec::new()) };
    let span = last - first;
    let mut from: Vec<i64> = (0..SAMPLE).map(|n| first + span.saturating_mul(n) / (SAMPLE - 1)).collect();
    from.dedup();
    let mut statement = connection.prepare(
        "SELECT uri, offset, length, sha256 FROM job WHERE done >= ?1 AND uri IS NOT NULL ORDER BY done LIMIT 1",
    )?;
    let found = from.into_iter().map(|done| statement.query_row([done], |row| pointer(row, 0)).optional());
    found.filter_map(Result::transpose).collect()
}
