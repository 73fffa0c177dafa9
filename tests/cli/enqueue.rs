//! Queueing without working: everything is checked first, and nothing is queued twice.

use serde_json::{Value, json};

use crate::support::{Ended, Place, Running, assert_all_succeeded, job, job_ids, json_lines, sorted};

fn counts(ended: &Ended) -> [u64; 4] {
    let told = ended.json();
    ["enqueued", "known", "rejected", "withdrawn"].map(|key| told[key].as_u64().unwrap())
}

/// Works what is queued in the simulated state until so many jobs of the batch have succeeded.
fn work(place: &Place, batch: &str, count: u64) {
    let worker = Running::start(place.command(["worker", "--simulate", "--listen", "127.0.0.1:0"]));
    place.until_succeeded(batch, count);
    worker.signal("TERM");
    worker.finish().exits(0);
}

#[test]
fn an_enqueued_input_is_queued_once_however_often_it_is_sent() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 20);
    let first = place.aquifer(["enqueue", "demo.jsonl", "--simulate"]).exits(0);
    assert_eq!(first.stdout, b"demo\n", "the name of the batch, alone on its line");
    assert!(first.stderr.contains("20 jobs queued"), "{}", first.stderr);
    let again = place.aquifer(["enqueue", "demo.jsonl", "--simulate", "--json"]).exits(0);
    assert_eq!(counts(&again), [0, 20, 0, 0]);
    work(&place, "demo", 20);
    let again = place.aquifer(["enqueue", "demo.jsonl", "--simulate", "--json"]).exits(0);
    assert_eq!(counts(&again), [0, 20, 0, 0]);
    let results = json_lines(&place.aquifer(["results", "demo"]).exits(0).stdout);
    assert_all_succeeded(&results, 20);
    assert!(results.iter().all(|result| result["model_calls"] == 1));
}

#[test]
fn nothing_is_queued_of_an_input_that_cannot_be_read_to_its_end() {
    let place = Place::new();
    place.write_jobs("good.jsonl", 2_000);
    // A gzip file that breaks off.
    place.write("cut.jsonl.gz", [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xab]);
    let ended = place.aquifer(["enqueue", "good.jsonl", "cut.jsonl.gz", "--simulate"]).exits(1);
    assert!(ended.stdout.is_empty() && ended.stderr.contains("nothing was sent"), "{}", ended.stderr);
    place.assert_nothing_queued();
}

#[test]
fn refused_lines_are_told_and_become_rejected_results_and_the_others_are_queued() {
    let place = Place::new();
    let mut lines: Vec<Value> = (1..=3).map(job).collect();
    lines.insert(1, json!({ "id": "odd", "promt": "the secret of the prompt" }));
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let ended = place.aquifer_reading(text.as_bytes(), ["enqueue", "-", "--simulate", "--batch", "piped"]).exits(3);
    assert_eq!(ended.stdout, b"piped\n");
    assert!(ended.stderr.contains("stdin:2"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("secret"), "{}", ended.stderr);
    work(&place, "piped", 3);
    let results = json_lines(&place.aquifer(["results", "piped", "--order", "input"]).exits(0).stdout);
    let ids: Vec<&str> = results.iter().map(|result| result["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["job-1", "odd", "job-2", "job-3"]);
    assert_eq!(results[1]["status"], "rejected");
}

#[test]
fn an_edited_input_queues_what_is_new_and_withdraws_what_it_has_lost() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 10);
    place.aquifer(["enqueue", "demo.jsonl", "--simulate"]).exits(0);
    // Another batch on the same state is nobody's business.
    place.write_jobs("other.jsonl", 5);
    place.aquifer(["enqueue", "other.jsonl", "--simulate"]).exits(0);
    place.write_lines("demo.jsonl", &(4..=12).map(job).collect::<Vec<_>>());
    let edited = place.aquifer(["enqueue", "demo.jsonl", "--simulate", "--json"]).exits(0);
    assert_eq!(counts(&edited), [2, 7, 0, 3]);
    assert_eq!(place.status("other").unwrap()["queued"], 5);
    assert_eq!(place.status("demo").unwrap()["queued"], 9);
}

#[test]
fn a_run_works_what_was_enqueued_before_it_and_pays_once() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 10);
    place.aquifer(["enqueue", "demo.jsonl", "--simulate"]).exits(0);
    let summary = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!(summary["model_calls"], 10);
    assert_eq!(sorted(&place.results(), "id"), job_ids(10));
}

#[test]
fn d9_a_batch_in_which_nothing_is_left_to_work_is_announced_by_whoever_queued_it() {
    let place = Place::new();
    place.write("bad.jsonl", "{\"promt\": 1}\n");
    place.aquifer(["enqueue", "bad.jsonl", "--simulate"]).exits(3);
    let notices = json_lines(&place.read(".aquifer/simulated/events.jsonl"));
    let batches: Vec<&Value> = notices.iter().filter(|notice| notice["kind"] == "batch").collect();
    assert_eq!(batches.len(), 1, "{notices:?}");
    assert_eq!((&batches[0]["batch"], &batches[0]["rejected"]), (&"bad".into(), &1.into()));
}

#[test]
fn what_cannot_be_queued_is_said_before_anything_is() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 1);
    place.aquifer(["enqueue", "missing.jsonl", "--simulate"]).exits(2).says(&["no such file"]);
    place.aquifer(["enqueue", "demo.jsonl", "--simulate", "--batch", "a/b"]).exits(2).says(&["--batch"]);
    place.aquifer(["enqueue", "demo.jsonl", "--simulate", "--model", "nobody"]).exits(2).says(&["no model"]);
    place.assert_nothing_queued();
}
