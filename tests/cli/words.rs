//! What is said: enough to know what to do next, and nothing that nobody asked for.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Place, Running, assert_all_succeeded};

/// Every call is refused as invalid.
const ALL_INVALID: &str = "[[fault]]\nkind = \"ValidationException\"\n";

fn demo(jobs: usize) -> Place {
    let place = Place::new();
    place.write_jobs("demo.jsonl", jobs);
    place
}

#[test]
fn why_jobs_failed_is_said_at_the_end_with_one_of_them() {
    let place = demo(3);
    place.write("invalid.toml", ALL_INVALID);
    let ended = place.aquifer(["run", "demo.jsonl", "--simulate=invalid.toml"]).exits(3);
    let ended = ended.says(&["3 invalid, such as `job-"]).says(&["validationexception"]);
    assert!(!ended.stderr.contains("Summarise review"), "a prompt was said: {}", ended.stderr);

    let again = place.aquifer(["run", "demo.jsonl", "--simulate=invalid.toml", "--json"]).exits(3).json();
    assert_eq!(again["failures"], json!({ "invalid": 3 }));
}

#[test]
fn lines_that_were_all_refused_are_not_called_done() {
    let place = Place::new();
    place.write("demo.jsonl", "{\"prompt\":1}\nnot JSON\n");
    let ended =
        place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(3).says(&["2 lines of the input, all refused"]);
    assert!(!ended.stderr.contains("had ended already"), "{}", ended.stderr);
}

#[test]
fn a_run_that_calls_nothing_says_nothing_of_the_simulator() {
    let place = demo(2);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0).says(&["simulator: 2 calls"]);
    let again = place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    assert!(!again.stderr.contains("simulator"), "{}", again.stderr);
}

#[test]
fn no_model_anywhere_is_exit_2_before_anything_is_queued() {
    let place = demo(30);
    for arguments in [&["run", "demo.jsonl"][..], &["run", "demo.jsonl", "--dry-run"]] {
        let ended = Running::start(place.command(arguments)).finish().exits(2).says(&["--model"]);
        assert!(ended.stderr.lines().count() < 5, "one answer, not one a line: {}", ended.stderr);
    }
    place.write("aquifer.toml", "");
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(2).says(&["no model"]);
    place.assert_nothing_queued();
}

#[test]
fn a_dry_run_tells_of_twenty_refused_lines_and_counts_the_rest() {
    let place = Place::new();
    place.write("demo.jsonl", "{\"prompt\":1}\n".repeat(25));
    let ended = place.aquifer(["run", "demo.jsonl", "--simulate", "--dry-run"]).exits(3).says(&["and 5 more"]);
    assert_eq!(ended.stderr.matches("refused demo.jsonl:").count(), 20, "{}", ended.stderr);
}

#[test]
fn a_dry_run_says_when_the_cap_is_too_small() {
    let place = demo(5);
    let ended = place.aquifer(["run", "demo.jsonl", "--simulate", "--dry-run", "--max-cost", "0.0001"]).exits(0);
    assert!(String::from_utf8(ended.stdout).unwrap().contains("more than --max-cost"));
}

#[test]
fn a_cost_cap_that_is_no_amount_is_exit_2_and_named() {
    let place = demo(1);
    for cap in ["abc", "-1", "0", "nan", "1e400"] {
        let arguments = ["run", "demo.jsonl", "--simulate", "--max-cost", cap];
        place.aquifer(arguments).exits(2).says(&[&format!("--max-cost {cap}: not an amount").to_lowercase()]);
    }
    place.assert_nothing_queued();
}

#[test]
fn a_scenario_that_was_typed_like_an_input_is_told_apart() {
    let place = demo(1);
    place.write("storm.toml", "seed = 1\n");
    place.aquifer(["run", "demo.jsonl", "--simulate", "storm.toml"]).exits(2).says(&["--simulate=storm.toml"]);
    place.assert_nothing_queued();
}

#[test]
fn results_that_make_way_for_those_of_another_batch_are_named() {
    let place = demo(2);
    place.write_jobs("other.jsonl", 2);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    place.aquifer(["run", "other.jsonl", "--simulate"]).exits(0).says(&["`aquifer results demo` lists them"]);
    let listed = place.aquifer(["results", "demo"]).exits(0);
    assert_eq!(String::from_utf8(listed.stdout).unwrap().lines().count(), 2);
}

#[test]
fn listing_results_into_a_file_that_is_there_is_exit_2_and_leaves_it() {
    let place = demo(1);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    place.write("mine.txt", "my notes");
    place.aquifer(["results", "demo", "-o", "mine.txt"]).exits(2).says(&["never overwritten"]);
    assert_eq!(place.read("mine.txt"), b"my notes");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    // More than a pipe holds, so that the writer meets the closed end.
    let place = demo(400);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    let mut command = place.command(["results", "demo"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}

#[test]
fn prompts_and_answers_are_in_no_log_however_much_is_asked_for() {
    let place = Place::new();
    place.write_lines("demo.jsonl", &[json!({ "prompt": "Zebras of Zanzibar" })]);
    let mut command = place.command(["run", "demo.jsonl", "--simulate"]);
    command.env("AQUIFER_LOG", "trace");
    let ended = Running::start(command).finish().exits(0);
    let answer = place.results()[0]["text"].as_str().unwrap().chars().take(40).collect::<String>();
    assert!(!answer.is_empty());
    for text in ["Zebras", &answer] {
        assert!(!ended.stderr.contains(text), "{text:?} was logged: {}", ended.stderr);
    }
}

#[test]
fn a_log_filter_that_is_none_is_said() {
    let place = demo(1);
    let mut command = place.command(["run", "demo.jsonl", "--simulate"]);
    command.env("AQUIFER_LOG", "bogus==");
    Running::start(command).finish().exits(0).says(&["aquifer_log is not understood"]);
}

#[test]
fn a_variable_that_is_wrong_is_not_blamed_on_the_file() {
    let place = demo(1);
    place.write("aquifer.toml", "[[model]]\nname = \"m\"\nid = \"a.b\"\n");
    for (name, value, said) in [
        ("AQUIFER_WORKER_SLOTS", "0", "`aquifer_worker_slots` must be"),
        ("AQUIFER_WORKER_SLOT", "3", "did you mean `aquifer_worker_slots`?"),
        ("AQUIFER_FOO", "1", "aquifer_foo names no key"),
    ] {
        let mut command = place.command(["run", "demo.jsonl", "--simulate"]);
        command.env(name, value);
        let ended = Running::start(command).finish().exits(2).says(&[said]);
        assert!(!ended.stderr.contains("aquifer.toml"), "{}", ended.stderr);
    }
}

#[test]
fn a_state_directory_that_is_a_file_says_what_to_name() {
    let place = demo(1);
    place.write("notes.txt", "my notes");
    let ended = place.aquifer(["run", "demo.jsonl", "--simulate", "--state", "notes.txt"]);
    ended.exits(1).says(&["name another with --state"]);
    assert_eq!(place.read("notes.txt"), b"my notes");
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let place = demo(1);
    place.aquifer(["run", "demo.jsonl", "--simulate", "-o", "deep/results.jsonl"]).exits(2).says(&["no folder deep"]);
}

#[test]
fn a_database_that_was_taken_away_does_not_spoil_the_next_run() {
    let place = demo(20);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    for name in ["aquifer.db", "aquifer.db-wal", "aquifer.db-shm"] {
        let _ = std::fs::remove_file(place.path(".aquifer/simulated").join(name));
    }
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    assert_all_succeeded(&place.results(), 20);
}

#[test]
fn results_that_are_gone_are_called_damage_and_can_be_made_again() {
    let place = demo(3);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    std::fs::remove_dir_all(place.path(".aquifer/simulated/bodies")).unwrap();
    let ended = place.aquifer(["results", "demo"]).exits(1).says(&["the file is gone"]);
    assert!(!ended.stderr.contains("nothing is lost"), "{}", ended.stderr);
    place.aquifer(["forget", "demo"]).exits(0);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    assert_all_succeeded(&place.results(), 3);
}

#[test]
fn the_built_in_models_are_called_by_their_inference_profiles() {
    let place = demo(1);
    place.write("us.toml", "[[model]]\nid = \"us.anthropic.claude-haiku-4-5-20251001-v1:0\"\n");
    place.aquifer(["run", "demo.jsonl", "--simulate=us.toml"]).exits(0);
    let used: Vec<Value> = place.results().iter().map(|result| result["model_used"].clone()).collect();
    assert_eq!(used, ["us.anthropic.claude-haiku-4-5-20251001-v1:0"]);
}

#[test]
fn calls_of_a_model_without_a_price_are_not_called_free() {
    let place = demo(2);
    let ended = place.aquifer(["run", "demo.jsonl", "--simulate", "--model", "vendor.unpriced-v1:0"]).exits(0);
    ended.says(&["without the calls to `vendor.unpriced-v1:0`"]);
}

#[test]
fn a_help_text_breaks_its_lines_only_where_they_are_full() {
    let place = Place::new();
    let commands =
        ["run", "plan", "worker", "enqueue", "status", "results", "explain", "lanes", "dead", "check", "forget"];
    for command in commands {
        let help = String::from_utf8(place.aquifer([command, "--help"]).exits(0).stdout).unwrap();
        let lines: Vec<&str> = help.lines().collect();
        for pair in lines.windows(2) {
            let (line, next) = (pair[0], pair[1]);
            let is_text = |line: &str| !line.is_empty() && !line.starts_with(' ');
            let goes_on = is_text(line) && is_text(next) && !line.ends_with(['.', ':']);
            let word = next.split(' ').next().unwrap_or_default();
            assert!(!goes_on || line.len() + 1 + word.len() > 100, "{command}: {line:?}, {next:?}");
        }
    }
}

#[test]
fn results_for_which_there_is_no_room_are_said_not_to_be_whole() {
    let place = demo(3);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    let mut command = place.command(["results", "demo"]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = command.stdout(full).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("not all of it") && said.contains("run the same command again"), "{said}");
}
