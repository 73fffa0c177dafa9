//! Two processes at once: on one results file, on one input.

use crate::support::{Place, Running, assert_all_succeeded, json_lines, sum};

/// Two seconds a call: there is always work in hand.
const SLOW: &str = "[latency]\nconstant = \"2s\"\n";

#[test]
fn a_results_file_belongs_to_one_process_at_a_time() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 200);
    place.write("slow.toml", SLOW);
    let mut command = place.command(["run", "demo.jsonl", "--simulate=slow.toml"]);
    command.env("AQUIFER_WORKER_SLOTS", "64");
    let first = Running::start(command);
    place.until_succeeded("demo", 1);
    let second = place.aquifer(["run", "demo.jsonl", "--simulate=slow.toml"]).says(&["results.jsonl"]);
    assert!([1, 2].contains(&second.code), "{second:?}");
    first.finish().exits(0);
    assert_all_succeeded(&place.results(), 200);
}

#[test]
fn two_processes_on_one_input_share_the_work_and_both_have_all_results() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 300);
    place.write("some.toml", "[latency]\nconstant = \"200ms\"\n");
    let start = |output: &str| {
        Running::start(place.command(["run", "demo.jsonl", "--simulate=some.toml", "-o", output, "--json"]))
    };
    let (one, two) = (start("one.jsonl"), start("two.jsonl"));
    let (one, two) = (one.finish().exits(0), two.finish().exits(0));
    for output in ["one.jsonl", "two.jsonl"] {
        let results = json_lines(&place.read(output));
        assert_all_succeeded(&results, 300);
        let calls = sum(&results, "model_calls");
        assert!((calls - 300.0).abs() < f64::EPSILON, "{output}: each job was called once: {calls}");
    }
    let calls = one.json()["model_calls"].as_u64().unwrap() + two.json()["model_calls"].as_u64().unwrap();
    assert_eq!(calls, 300, "and the two summaries add up to that");
}

#[test]
fn two_batches_in_one_state_directory_do_not_disturb_each_other() {
    let place = Place::new();
    place.write_jobs("one.jsonl", 40);
    place.write_jobs("two.jsonl", 60);
    let start = |name: &str| {
        let (input, output) = (format!("{name}.jsonl"), format!("{name}.out"));
        Running::start(place.command(["run", input.as_str(), "--simulate", "-o", output.as_str()]))
    };
    let (one, two) = (start("one"), start("two"));
    one.finish().exits(0);
    two.finish().exits(0);
    assert_all_succeeded(&json_lines(&place.read("one.out")), 40);
    assert_all_succeeded(&json_lines(&place.read("two.out")), 60);
}

#[test]
fn f3_a_killed_process_leaves_its_work_to_the_next_one() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 64);
    place.write("slow.toml", SLOW);
    let first = Running::start(place.command(["run", "demo.jsonl", "--simulate=slow.toml"]));
    place.until_succeeded("demo", 1);
    first.signal("KILL");
    drop(first);
    let summary = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!(summary["succeeded"], 64);
    let results = place.results();
    assert_all_succeeded(&results, 64);
}
