//! No room: what happened is said, what was recorded stays, and once there is room the run goes on without paying for
//! it again.

use std::collections::BTreeSet;
use std::process::Command;

use crate::books::{assert_complete, audit};
use crate::support::Place;
use crate::world::{Life, Service, configure};

const JOBS: usize = 300;
const SLOTS: usize = 32;

/// The limit on the size of a file, in blocks of 512 bytes, from one that the database cannot even be made in to one that
/// only the last results pass.
const LIMITS: [u32; 8] = [4, 64, 200, 500, 1_000, 1_500, 2_000, 3_000];

#[test]
fn f18_a_file_that_cannot_grow_stops_the_run_and_costs_nothing_that_was_recorded() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", JOBS);
    configure(&place, &format!("slots = {SLOTS}\ndrain = \"1s\""));
    let service = Service::start_with(&place, "50ms", "mean = 1000.0");
    let mut stopped_after = Vec::new();
    for limit in LIMITS {
        let _ = std::fs::remove_dir_all(place.path(".aquifer"));
        let _ = std::fs::remove_file(place.path("results.jsonl"));
        let script = format!("trap '' 25; ulimit -f {limit}; exec \"$0\" run demo.jsonl");
        let limited = Life::start_by(&place, &["sh", "-c", &script], &service);
        stopped_after.push(recovers(&place, limited, &service));
    }
    println!("jobs recorded before each limit was met: {stopped_after:?}");
    assert!(stopped_after.iter().any(|recorded| *recorded > 0), "a limit was met at work: {stopped_after:?}");
    service.finish();
}

#[test]
fn f18_a_full_file_system_stops_the_run_and_costs_nothing_that_was_recorded() {
    let namespaces = Command::new("unshare").args(["-rm", "true"]).status();
    if !namespaces.is_ok_and(|status| status.success()) {
        println!("NOT CHECKED: a small file system can only be made with user namespaces");
        return;
    }
    let place = Place::new();
    place.write_jobs("demo.jsonl", JOBS);
    configure(&place, &format!("slots = {SLOTS}\ndrain = \"1s\""));
    let service = Service::start_with(&place, "50ms", "mean = 1000.0");
    let mut stopped_after = Vec::new();
    for kibibytes in [64, 300, 800, 1_200, 1_600, 2_200] {
        for old in [".aquifer", "kept"] {
            let _ = std::fs::remove_dir_all(place.path(old));
        }
        let _ = std::fs::remove_file(place.path("results.jsonl"));
        std::fs::create_dir(place.path(".aquifer")).unwrap();
        let script = format!(
            "mount -t tmpfs -o size={kibibytes}k tmpfs .aquifer && {{ \"$0\" run demo.jsonl; code=$?; \
             cp -a .aquifer kept; exit $code; }}"
        );
        let limited = Life::start_by(&place, &["unshare", "-rm", "sh", "-c", &script], &service);
        let (ended, log) = limited.finish();
        std::fs::remove_dir(place.path(".aquifer")).unwrap();
        std::fs::rename(place.path("kept"), place.path(".aquifer")).unwrap();
        stopped_after.push(goes_on(&place, ended, log, &service));
    }
    println!("jobs recorded before each file system was full: {stopped_after:?}");
    assert!(stopped_after.iter().any(|recorded| *recorded > 0), "one was met at work: {stopped_after:?}");
    service.finish();
}

#[test]
fn results_that_cannot_be_written_stop_the_run_and_cost_nothing_that_was_recorded() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", JOBS);
    configure(&place, &format!("slots = {SLOTS}"));
    let service = Service::start(&place, "50ms");
    let (ended, log) = Life::start(&place, &["run", "demo.jsonl", "-o", "/dev/full"], &service).finish();
    let ended = ended.exits(1).says(&["space"]);
    assert!(ended.stderr.contains("/dev/full"), "{}", ended.stderr);
    let recorded = audit(&place, &mut BTreeSet::new()).finals;
    assert_eq!(log.requests.len(), recorded, "what was called was recorded before it stopped");
    let (ended, log) = Life::start(&place, &["run", "demo.jsonl"], &service).finish();
    ended.exits(0);
    assert_eq!(log.requests.len(), JOBS - recorded, "and is not paid for again");
    assert_complete(&place, "demo", JOBS, &["results.jsonl"]);
    service.finish();
}

fn recovers(place: &Place, limited: Life, service: &Service) -> usize {
    let (ended, log) = limited.finish();
    goes_on(place, ended, log, service)
}

/// It said what happened, and goes on when it can; how many jobs had been recorded by then.
fn goes_on(place: &Place, ended: crate::support::Ended, log: crate::relay::Log, service: &Service) -> usize {
    let ended = ended.exits(1).says(&["full", "too large", "no space", "i/o error"]);
    assert!(ended.stderr.contains("hint:"), "{}", ended.stderr);
    let recorded = audit(place, &mut BTreeSet::new()).finals;
    let told = std::fs::read(place.path("results.jsonl")).unwrap_or_default();
    assert!(
        log.requests.len() <= recorded + SLOTS,
        "it stopped calling: {} calls, {recorded} recorded",
        log.requests.len()
    );
    let (ended, log) = Life::start(place, &["run", "demo.jsonl"], service).finish();
    ended.exits(0);
    assert_eq!(log.requests.len(), JOBS - recorded, "what was recorded is not paid for again");
    assert_complete(place, "demo", JOBS, &["results.jsonl"]);
    let whole = told.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    assert!(place.read("results.jsonl").starts_with(&told[..whole]), "what was told stands");
    recorded
}
