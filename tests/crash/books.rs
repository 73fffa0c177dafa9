//! Do the ledger, the results, the notices and the files agree? Read from a copy of what a kill left, and at the end
//! through the program itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::{Place, assert_all_succeeded, job_ids, json_lines, sum};

const STATE: &str = ".aquifer";

/// The ledger as the last kill left it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Processes that ever joined.
    pub(crate) newest_epoch: i64,
    /// Jobs that ended.
    pub(crate) finals: usize,
    /// Jobs in the hands of the newest process: its slots.
    pub(crate) held: usize,
    /// Of these, with a call on record that nobody saw end.
    pub(crate) open: usize,
}

/// Reads the ledger from a copy, and checks that it agrees with itself and with what lies beside it. `seen` remembers
/// whose bodies were checked before.
pub(crate) fn audit(place: &Place, seen: &mut BTreeSet<String>) -> Ledger {
    let Some(copy) = copy_of(&place.path(STATE)) else { return Ledger::default() };
    let db = open(&copy);
    let number = |sql: &str| -> usize {
        db.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|number| usize::try_from(number).unwrap()).unwrap()
    };
    if number("SELECT count(*) FROM sqlite_schema WHERE name = 'job'") == 0 {
        return Ledger::default();
    }
    let newest_epoch =
        db.query_row("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'process'), 0)", [], |row| {
            row.get(0)
        });
    let newest_epoch: i64 = newest_epoch.unwrap();
    let mut finals = BTreeSet::new();
    let mut rows = db.prepare("SELECT id, uri, offset, length, sha256 FROM job WHERE done IS NOT NULL").unwrap();
    let mut rows = rows.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let id: String = row.get(0).unwrap();
        if seen.insert(id.clone()) {
            let uri: String = row.get(1).unwrap();
            let sha256: Vec<u8> = row.get(4).unwrap();
            let number = |column| row.get::<_, i64>(column).unwrap().unsigned_abs();
            let line = slice(&place.path(STATE).join(uri), number(2), number(3));
            assert_eq!(Sha256::digest(&line).as_slice(), sha256, "a final row names a body that is not there: {id}");
        }
        finals.insert(id);
    }
    assert_eq!(
        number(
            "SELECT coalesce(sum(queued + running + succeeded + failed + rejected + expired + partial), 0) FROM batch"
        ),
        number("SELECT count(*) FROM job"),
        "the batch's counts are the jobs'"
    );
    assert_eq!(number("SELECT coalesce(sum(succeeded), 0) FROM batch"), finals.len());
    assert_eq!(
        number("SELECT coalesce(sum(spent), 0) FROM batch"),
        number("SELECT coalesce(sum(spent), 0) FROM job"),
        "the batch's cost is the jobs'"
    );
    assert_eq!(
        number(
            "SELECT count(*) FROM job WHERE done IS NULL AND NOT EXISTS (SELECT 1 FROM message WHERE id = job.message)"
        ),
        0,
        "a job that has not ended has its message"
    );
    let told: Vec<String> = whole_lines(place, "results.jsonl").iter().map(id_of).collect();
    let once: BTreeSet<&String> = told.iter().collect();
    assert_eq!(once.len(), told.len(), "no result stands twice");
    assert!(once.into_iter().all(|id| finals.contains(id)), "only what is on record is told");
    for notice in whole_lines(place, &format!("{STATE}/events.jsonl")) {
        assert!(notice["kind"] != "job" || finals.contains(&id_of(&notice)), "only what is on record is announced");
    }
    let of_newest = |more: &str| {
        number(&format!("SELECT count(*) FROM job WHERE state = 'running' AND epoch = {newest_epoch} {more}"))
    };
    Ledger { newest_epoch, finals: finals.len(), held: of_newest(""), open: of_newest("AND open IS NOT NULL") }
}

/// How many final rows name a body that a process wrote, by its epoch.
pub(crate) fn recorded_by(place: &Place) -> HashMap<usize, usize> {
    let copy = copy_of(&place.path(STATE)).unwrap();
    let db = open(&copy);
    let mut rows = db.prepare("SELECT uri FROM job WHERE done IS NOT NULL").unwrap();
    let mut by_epoch = HashMap::new();
    for uri in rows.query_map([], |row| row.get::<_, String>(0)).unwrap() {
        let uri = uri.unwrap();
        let (_, file) = uri.rsplit_once('/').unwrap();
        let (epoch, _) = file.split_once('-').unwrap();
        *by_epoch.entry(epoch.parse().unwrap()).or_default() += 1;
    }
    by_epoch
}

/// Everything that must be true of a batch whose jobs have all succeeded: results, ledger, notices, bodies, queue.
pub(crate) fn assert_complete(place: &Place, batch: &str, jobs: usize, outputs: &[&str]) -> Vec<Value> {
    let mut all = Vec::new();
    for output in outputs {
        all = json_lines(&place.read(output));
        assert_all_succeeded(&all, jobs);
    }
    for result in &all {
        assert_eq!(result["error"], Value::Null, "{result}");
        assert!(result["model_calls"].as_u64().unwrap() >= 1, "{result}");
    }

    let status = place.aquifer(["status", batch, "--json"]).exits(0).json();
    let count = |field: &str| usize::try_from(status[field].as_u64().unwrap()).unwrap();
    assert_eq!((count("total"), count("succeeded")), (jobs, jobs), "{status}");
    for none in ["queued", "running", "failed", "rejected", "expired"] {
        assert_eq!(count(none), 0, "{status}");
    }
    let nanos = |dollars: f64| (dollars * 1e9).round();
    let told: f64 = all.iter().map(|result| nanos(result["cost_usd"].as_f64().unwrap())).sum();
    assert!((nanos(status["cost_usd"].as_f64().unwrap()) - told).abs() < 0.5, "{status} against {told} billionths");
    assert!(told > 0.0);
    let kept = json_lines(&place.aquifer(["results", batch]).exits(0).stdout);
    let as_text = |lines: &[Value]| lines.iter().map(Value::to_string).collect::<BTreeSet<_>>();
    assert_eq!(as_text(&kept), as_text(&all), "`aquifer results` says the same");

    assert_notices(place, batch, &all);
    let copy = copy_of(&place.path(STATE)).unwrap();
    let db = open(&copy);
    for left in ["message", "body", "dead"] {
        let rows: i64 = db.query_row(&format!("SELECT count(*) FROM {left}"), [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "left in {left}");
    }
    all
}

/// One notice or more a job and for the batch, each with one id; each leads to the job's own line.
fn assert_notices(place: &Place, batch: &str, results: &[Value]) {
    let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut batches = BTreeSet::new();
    let by_id: HashMap<String, &Value> = results.iter().map(|result| (id_of(result), result)).collect();
    for notice in whole_lines(place, &format!("{STATE}/events.jsonl")) {
        let notice_id = notice["notice_id"].as_str().unwrap().to_owned();
        if notice["batch"] != batch {
            continue;
        }
        if notice["kind"] == "batch" {
            assert_eq!((&notice["total"], &notice["succeeded"]), (&results.len().into(), &results.len().into()));
            let cost = notice["cost_usd"].as_f64().unwrap();
            assert!((cost - sum(results, "cost_usd")).abs() < 1e-9, "{notice}");
            let manifest = whole_lines(place, &format!("{STATE}/{}", notice["manifest"].as_str().unwrap()));
            assert_eq!(manifest.len(), results.len(), "the manifest has a line for each job");
            batches.insert(notice_id);
            continue;
        }
        let id = id_of(&notice);
        let pointer = &notice["result"];
        let number = |field: &str| pointer[field].as_u64().unwrap();
        let file = place.path(STATE).join(pointer["uri"].as_str().unwrap());
        let line = slice(&file, number("offset"), number("length"));
        let sha256: String = Sha256::digest(&line).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(pointer["sha256"], sha256.as_str(), "{notice}");
        assert_eq!(serde_json::from_slice::<Value>(&line).unwrap(), *by_id[&id], "the line it points to is the result");
        assert!(notice.get("text").is_none() && notice.get("output").is_none(), "{notice}");
        ids.entry(id).or_default().insert(notice_id);
    }
    assert_eq!(batches.len(), 1, "one batch, one notice id");
    let mut expected = job_ids(results.len());
    expected.sort();
    assert_eq!(ids.keys().cloned().collect::<Vec<_>>(), expected, "every job was announced");
    assert!(ids.values().all(|ids| ids.len() == 1), "however often, under one id");
}

fn id_of(value: &Value) -> String {
    value["id"].as_str().unwrap().to_owned()
}

/// The lines of a file that are whole; a kill may tear one, and what follows begins a line of its own.
fn whole_lines(place: &Place, name: &str) -> Vec<Value> {
    let Ok(content) = std::fs::read(place.path(name)) else { return Vec::new() };
    content.split_inclusive(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

fn slice(file: &Path, offset: u64, length: u64) -> Vec<u8> {
    let mut line = vec![0; usize::try_from(length).unwrap()];
    std::fs::File::open(file).unwrap().read_exact_at(&mut line, offset).unwrap();
    line
}

/// Database and write-ahead log, without the index in shared memory, which recovery makes anew.
fn copy_of(state: &Path) -> Option<tempfile::TempDir> {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(state.join("aquifer.db"), copy.path().join("aquifer.db")).ok()?;
    let log = state.join("aquifer.db-wal");
    if log.exists() {
        std::fs::copy(log, copy.path().join("aquifer.db-wal")).unwrap();
    }
    Some(copy)
}

fn open(copy: &tempfile::TempDir) -> Connection {
    Connection::open_with_flags(copy.path().join("aquifer.db"), OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap()
}

/// Whether nobody is in the middle of a write.
pub(crate) fn is_at_rest(place: &Place) -> bool {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let db = Connection::open_with_flags(place.path(STATE).join("aquifer.db"), flags).unwrap();
    db.busy_timeout(std::time::Duration::ZERO).unwrap();
    db.execute_batch("BEGIN IMMEDIATE; ROLLBACK;").is_ok()
}
