//! What must hold on a disk after the power failed?
//!
//! * The state directory opens, and every final row's body is there with the right digest.
//! * A job that was final for certain stays so.
//! * A line that others could read, of the results file or of the event log, names a job that is final for certain; a
//!   batch's notice comes when every job of it is, and its manifest is there for certain.
//! * A job whose message is gone has its notice.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use aquifer::embedded::Store;
use aquifer::job::ident::{BatchName, JobId, JobKey, Tenant};
use aquifer::job::lifecycle::State;
use aquifer::job::units::Timestamp;
use aquifer::ports::Clock;
use serde_json::Value;
use tempfile::TempDir;

use crate::disk::{Disk, Event, Fate};
use crate::trace::{BATCH, Trace, results, state};

/// Something that must not be.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Trouble {
    DoesNotOpen { after: usize, why: String },
    MissingBody { after: usize, job: String, why: String },
    NoLongerFinal { after: usize, jobs: Vec<String> },
    BrokenPromise { after: usize, file: &'static str, why: String },
    LostNotice { after: usize, deleted: u64, notices: u64 },
}

impl Trouble {
    pub(crate) fn is_missing_body(&self) -> bool {
        matches!(self, Self::MissingBody { .. })
    }

    pub(crate) fn is_lost_notice(&self) -> bool {
        matches!(self, Self::LostNotice { .. })
    }

    pub(crate) fn is_broken_promise(&self) -> bool {
        matches!(self, Self::BrokenPromise { .. })
    }
}

/// What a replay came to.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) troubles: BTreeSet<Trouble>,
    /// The jobs that are final for certain in the end.
    pub(crate) certain: BTreeSet<String>,
    /// How often there were more of them.
    pub(crate) growths: usize,
    /// How many disks were looked at.
    pub(crate) cuts: usize,
}

/// One trouble shows what is wrong; a thousand more of its kind take minutes to find.
const ENOUGH: usize = 3;

/// Replays the log on a disk on which some syncs have no effect, and looks at every disk that a power failure could leave:
/// after every sync with nothing that was not synced, after every write with some of it.
pub(crate) fn troubles(trace: &Trace, ignored: fn(&Path) -> bool) -> Found {
    let mut disk = Disk::without_syncs_of(&trace.root, ignored);
    let mut found = Found::default();
    let mut chance = Chance(0x5eed);
    for (after, event) in trace.events.iter().enumerate() {
        if disk.apply(event) {
            found.look_at_certain(trace, &disk, after);
        } else if !matches!(event, Event::SyncBegins { .. } | Event::SyncEnds { .. }) && !is_index(event) {
            found.look_at_possible(trace, &disk, after, &mut chance);
        }
        found.look_at_promises(trace, &disk, event, after);
        if found.troubles.len() >= ENOUGH {
            break;
        }
    }
    found
}

/// What is certain after so many events.
pub(crate) fn certain_after(trace: &Trace, events: usize) -> TempDir {
    let mut disk = Disk::new(&trace.root);
    trace.events.iter().take(events).for_each(|event| {
        disk.apply(event);
    });
    laid_out(&disk, &mut || Fate::Lost)
}

/// Everything that was written, synced or not.
pub(crate) fn as_the_program_sees_it(trace: &Trace) -> TempDir {
    let mut disk = Disk::new(&trace.root);
    trace.events.iter().for_each(|event| {
        disk.apply(event);
    });
    laid_out(&disk, &mut || Fate::Kept)
}

/// The id that a line of a results file or of the event log names.
pub(crate) fn id_of(line: &str) -> Option<String> {
    let value: Value = serde_json::from_str(line).ok()?;
    Some(value.get("id")?.as_str()?.to_owned())
}

impl Found {
    fn look_at_certain(&mut self, trace: &Trace, disk: &Disk, after: usize) {
        let cut = laid_out(disk, &mut || Fate::Lost);
        let Some(finals) = self.look(trace, cut.path(), after) else { return };
        if finals.len() > self.certain.len() {
            self.growths += 1;
        }
        self.certain = finals;
    }

    fn look_at_possible(&mut self, trace: &Trace, disk: &Disk, after: usize, chance: &mut Chance) {
        let kept_of_ten = [1, 5, 9][chance.below(3)];
        let cut = laid_out(disk, &mut || match chance.below(10) {
            die if die < kept_of_ten => Fate::Kept,
            _ if chance.below(2) == 0 => Fate::Torn(chance.next()),
            _ => Fate::Lost,
        });
        self.look(trace, cut.path(), after);
    }

    /// Opens a cut as the next start would; the jobs that are final there.
    fn look(&mut self, trace: &Trace, cut: &Path, after: usize) -> Option<BTreeSet<String>> {
        self.cuts += 1;
        let trouble = match RUNTIME.block_on(see(trace, cut)) {
            Ok(seen) => {
                let gone: Vec<_> = self.certain.difference(&seen.finals).cloned().collect();
                let (deleted, notices) = (seen.known.saturating_sub(seen.messages), notices(&state(cut)));
                if !gone.is_empty() {
                    Trouble::NoLongerFinal { after, jobs: gone }
                } else if deleted > notices {
                    Trouble::LostNotice { after, deleted, notices }
                } else {
                    return Some(seen.finals);
                }
            }
            Err(Failing::Open(why)) => Trouble::DoesNotOpen { after, why },
            Err(Failing::Body { job, why }) => Trouble::MissingBody { after, job, why },
        };
        self.troubles.insert(trouble);
        None
    }

    /// What was just written where others read it must be certain already.
    fn look_at_promises(&mut self, trace: &Trace, disk: &Disk, event: &Event, after: usize) {
        let Event::Write { path, .. } = event else { return };
        let file = match path {
            path if *path == results(&trace.root) => "results file",
            path if path.file_name().is_some_and(|name| name == "events.jsonl") => "event log",
            _ => return,
        };
        let text = String::from_utf8(disk.visible(path).unwrap()).unwrap();
        let mut break_promise = |why: String| {
            self.troubles.insert(Trouble::BrokenPromise { after, file, why });
        };
        for line in text.lines() {
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            if value["kind"] == "batch" {
                if self.certain.len() != trace.ids.len() {
                    break_promise(format!("the batch was announced with {} jobs certain", self.certain.len()));
                }
                let manifest = value["manifest"].as_str().unwrap().to_owned();
                if lines_for_certain(disk, &state(Path::new("")).join(manifest)) != Some(trace.ids.len()) {
                    break_promise("the batch was announced and its manifest is not certain".into());
                }
            } else if let Some(id) = value["id"].as_str()
                && !self.certain.contains(id)
            {
                break_promise(format!("{id} was made known and is not final for certain"));
            }
        }
    }
}

enum Failing {
    Open(String),
    Body { job: String, why: String },
}

/// What stands in a state directory.
#[derive(Default)]
struct Seen {
    /// Jobs that have a row.
    known: u64,
    /// Of these, final and with a body.
    finals: BTreeSet<String>,
    messages: u64,
}

async fn see(trace: &Trace, cut: &Path) -> Result<Seen, Failing> {
    let state = state(cut);
    let mut seen = Seen::default();
    if !state.join("aquifer.db").exists() {
        return Ok(seen);
    }
    let open = |error: aquifer::ports::StoreError| Failing::Open(error.to_string());
    let store = Store::open(&state, Arc::new(WallClock)).await.map_err(open)?;
    let (ledger, bodies) = (store.ledger(), store.bodies());
    let depth = store.queue(None).depth().await.map_err(open)?;
    seen.messages = depth.ready + depth.in_flight + depth.delayed + depth.dead;
    for id in &trace.ids {
        let key =
            JobKey { tenant: Tenant::unnamed(), batch: BatchName::new(BATCH).unwrap(), id: JobId::new(id).unwrap() };
        let Some((standing, row)) = ledger.look_up(&key).await.map_err(open)? else { continue };
        seen.known += 1;
        let State::Final(_) = standing else { continue };
        let missing = |why: String| Failing::Body { job: id.clone(), why };
        let row = row.ok_or_else(|| missing("the row names none".into()))?;
        let body = bodies.read(&row.ending.result).await.map_err(|error| missing(error.to_string()))?;
        if id_of(&String::from_utf8_lossy(&body)).as_ref() != Some(id) {
            return Err(missing("the body is another job's".into()));
        }
        seen.finals.insert(id.clone());
    }
    drop((ledger, bodies));
    store.close().await.map_err(open)?;
    Ok(seen)
}

/// How many jobs have a notice in the event log.
fn notices(state: &Path) -> u64 {
    let text = std::fs::read(state.join("events.jsonl")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().filter_map(id_of).collect::<BTreeSet<_>>().len() as u64
}

/// How many lines a file has for certain; `None` if it is not there for certain.
fn lines_for_certain(disk: &Disk, file: &Path) -> Option<usize> {
    let cut = laid_out(disk, &mut || Fate::Lost);
    let text = std::fs::read_to_string(cut.path().join(file)).ok()?;
    Some(text.lines().count())
}

fn laid_out(disk: &Disk, fate: &mut dyn FnMut() -> Fate) -> TempDir {
    // Thousands of small files are written and synced here; in memory that takes seconds.
    let memory = PathBuf::from("/dev/shm");
    let at = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    disk.lay_out(at.path(), fate);
    at
}

/// The write-ahead log's index is rebuilt at every start.
fn is_index(event: &Event) -> bool {
    match event {
        Event::Create { path, .. }
        | Event::Write { path, .. }
        | Event::Resize { path, .. }
        | Event::Remove { path } => path.to_string_lossy().ends_with("-shm"),
        Event::CreateFolder { .. }
        | Event::SyncBegins { .. }
        | Event::SyncEnds { .. }
        | Event::Rename { .. }
        | Event::Link { .. } => false,
    }
}

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());

#[derive(Debug)]
struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Timestamp(i64::try_from(since.as_millis()).unwrap())
    }
}

/// A generator that gives the same numbers in every run (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> usize {
        usize::try_from(self.next() % limit).unwrap()
    }
}
