//! A lost sync is found: whenever the power fails, nothing is lost that was said to be done.
//!
//! The real program works a batch while `shim.c` logs its writes and syncs. The log is then replayed on a model of a
//! disk ([`disk`]) that holds for certain only what was synced. At every sync, and at every write with some of what was
//! not synced, the state directory is laid out as the disk may hold it and opened as the next start would; [`check`] says
//! what must hold there. The same log with some syncs left out shows that the check can fail.
//!
//! Needs a C compiler, as building SQLite does, and Linux's way of preloading.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod check;
mod disk;
mod trace;

use std::path::Path;

use check::{Trouble, troubles};
use trace::trace;

#[test]
fn d1_whenever_the_power_fails_nothing_is_lost_that_was_said_to_be_done() {
    let found = troubles(trace(), |_| false);
    assert!(found.troubles.is_empty(), "{} cuts: {:#?}", found.cuts, found.troubles);
    assert_eq!(found.certain.len(), trace().ids.len(), "every job is final in the end");
    assert!(found.cuts > 100, "only {} cuts", found.cuts);
    assert!(found.growths > 3, "the jobs became final in only {} steps", found.growths);
}

#[test]
fn d2_a_run_after_any_power_failure_brings_every_job_to_one_result() {
    for share in [0.1, 0.35, 0.6, 0.85] {
        trace().run_again_after(share);
    }
}

#[test]
fn the_log_holds_all_that_was_written() {
    let trace = trace();
    let replayed = check::as_the_program_sees_it(trace);
    trace::compare(&trace.root, replayed.path());
}

#[test]
fn a_body_that_is_not_synced_is_found() {
    let is_segment = |path: &Path| path.extension().is_some_and(|kind| kind == "jsonl") && is_in_bodies(path);
    let found = troubles(trace(), is_segment);
    assert!(found.troubles.iter().any(Trouble::is_missing_body), "{:#?}", found.troubles);
}

#[test]
fn a_folder_of_bodies_that_is_not_synced_is_found() {
    let found = troubles(trace(), |path: &Path| path.extension().is_none() && is_in_bodies(path));
    assert!(found.troubles.iter().any(Trouble::is_missing_body), "{:#?}", found.troubles);
}

#[test]
fn a_database_that_is_not_synced_is_found() {
    let found = troubles(trace(), |path: &Path| path.to_string_lossy().ends_with(".db-wal"));
    assert!(found.troubles.iter().any(Trouble::is_broken_promise), "{:#?}", found.troubles);
}

#[test]
fn an_event_log_that_is_not_synced_is_found() {
    let found = troubles(trace(), |path: &Path| path.to_string_lossy().ends_with("events.jsonl"));
    assert!(found.troubles.iter().any(Trouble::is_lost_notice), "{:#?}", found.troubles);
}

fn is_in_bodies(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "bodies")
}
