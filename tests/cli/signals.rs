//! Ctrl-C, once and twice.

use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Place, Running, assert_all_succeeded, sum};

/// What the first Ctrl-C is answered with, in whatever words.
const HEARD: [&str; 6] = ["ctrl-c", "interrupt", "stopping", "finishing", "draining", "again"];

/// A run of 400 slow jobs that has most of them left when the signal comes, however late that is.
fn few_slots(place: &Place) -> Command {
    let mut command = place.command(["run", "demo.jsonl", "--simulate=slow.toml"]);
    command.env("AQUIFER_WORKER_SLOTS", "32");
    command
}

#[test]
fn d10_the_first_interrupt_finishes_what_is_paid_for_and_a_rerun_pays_for_nothing_twice() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 400);
    place.write("slow.toml", "[latency]\nconstant = \"1s\"\n");
    let first = Running::start(few_slots(&place));
    place.until_succeeded("demo", 1);
    first.signal("INT");
    let ended = first.finish().exits(130);
    assert!(ended.stderr.to_lowercase().contains("again"), "it says how to go on: {}", ended.stderr);
    let before = place.results();
    assert!(!before.is_empty() && before.len() < 400, "{} of 400 were done", before.len());
    assert!(before.iter().all(|result| result["status"] == "succeeded"));

    let summary = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    let results = place.results();
    assert_all_succeeded(&results, 400);
    assert!((sum(&results, "model_calls") - 400.0).abs() < f64::EPSILON, "each job was called exactly once");
    assert_eq!(summary["model_calls"].as_u64().unwrap(), 400 - u64::try_from(before.len()).unwrap());
    for result in &before {
        assert!(results.contains(result), "a result once written does not change: {result}");
    }
}

#[test]
fn d10_the_second_interrupt_hands_back_at_once() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 20);
    // The first call is answered, all others never are.
    place.write("hangs.toml", "[[fault]]\nkind = \"hang\"\ncalls = \"2-100000\"\n");
    let mut first = Running::start(place.command(["run", "demo.jsonl", "--simulate=hangs.toml"]));
    place.until_succeeded("demo", 1);
    first.signal("INT");
    first.until_said(&HEARD);
    let began = Instant::now();
    first.signal("INT");
    first.finish().exits(130);
    assert!(began.elapsed() < Duration::from_secs(20), "it waited for hanging calls: {:?}", began.elapsed());

    let status = place.status("demo").unwrap();
    assert_eq!((status["running"].as_u64(), status["queued"].as_u64()), (Some(0), Some(19)), "handed back: {status}");
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    assert_all_succeeded(&place.results(), 20);
}

#[test]
fn sigterm_is_taken_as_the_first_interrupt() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 400);
    place.write("slow.toml", "[latency]\nconstant = \"1s\"\n");
    let first = Running::start(few_slots(&place));
    place.until_succeeded("demo", 1);
    first.signal("TERM");
    first.finish().exits(130);
    assert!(place.results().iter().all(|result| result["model_calls"] == 1));
}

#[test]
fn an_interrupt_is_heard_while_standard_input_says_nothing() {
    let place = Place::new();
    let mut command = place.command(["run", "-", "--simulate"]);
    command.stdin(std::process::Stdio::piped());
    let mut running = Running::start(command);
    // The database is made after signals are listened to.
    let began = Instant::now();
    while place.status("stdin").is_none() && !place.path(".aquifer/simulated/aquifer.db").exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "it does not begin");
    }
    running.signal("INT");
    running.until_said(&HEARD);
    let began = Instant::now();
    // Whoever types has the other end open all the while.
    let typing = running.child.stdin.take();
    running.finish().exits(130);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    drop(typing);
}

#[test]
fn an_interrupted_enqueue_speaks_of_no_calls_and_says_that_nothing_is_queued() {
    let place = Place::new();
    let mut command = place.command(["enqueue", "-", "--batch", "demo", "--simulate"]);
    let (input, mut typed) = std::io::pipe().unwrap();
    command.stdin(input);
    let enqueueing = Running::start(command);
    // More than a pipe holds: once it is written, somebody is reading, and goes on as long as the other end is open.
    typed.write_all(&b"\"Hi\"\n".repeat(100_000)).unwrap();
    enqueueing.signal("INT");
    let ended = enqueueing.finish().exits(130).says(&["nothing more was queued", "run the same command again"]);
    assert!(!ended.stderr.contains("calls"), "{}", ended.stderr);
}
