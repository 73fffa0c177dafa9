//! The results file: what a line holds, and that the file is right after whatever was done to it.

use serde_json::{Value, json};

use crate::support::{Place, assert_all_succeeded, job, json_lines, sorted, sum};

const FIELDS: [&str; 20] = [
    "attempts",
    "batch",
    "cost_usd",
    "degraded",
    "error",
    "id",
    "metadata",
    "model",
    "model_calls",
    "model_used",
    "output",
    "region",
    "simulated",
    "status",
    "stop_reason",
    "tenant",
    "text",
    "text_bytes",
    "timing",
    "usage",
];

fn fields(result: &Value) -> Vec<&str> {
    let mut fields: Vec<_> = result.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    fields
}

/// A field that a result which never reached a model holds as null.
const ANSWER: [&str; 6] = ["model_used", "region", "text", "output", "stop_reason", "text_bytes"];

#[test]
fn a_result_that_succeeded_has_every_field_of_the_contract() {
    let place = Place::new();
    place.write_lines(
        "demo.jsonl",
        &[json!({ "id": "one", "prompt": "Say something.", "metadata": { "row": 7, "tags": ["a", "b"] } })],
    );
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    let results = place.results();
    assert_eq!(results.len(), 1);
    let result = &results[0];
    assert_eq!(fields(result), FIELDS);
    assert_eq!(result["id"], "one");
    assert_eq!(result["batch"], "demo");
    assert_eq!(result["tenant"], "default");
    assert_eq!(result["status"], "succeeded");
    assert_eq!(result["degraded"], false);
    assert_eq!(result["simulated"], true);
    assert_eq!(result["attempts"], 0);
    assert_eq!(result["model_calls"], 1);
    assert_eq!(result["error"], Value::Null);
    assert_eq!(result["metadata"], json!({ "row": 7, "tags": ["a", "b"] }));
    for field in ["model", "model_used", "region", "text", "stop_reason"] {
        assert!(!result[field].as_str().unwrap().is_empty(), "{field}: {result}");
    }
    assert!(result["output"].is_object(), "{result}");
    assert!(result["cost_usd"].as_f64().unwrap() > 0.0, "{result}");
    for field in ["input_tokens", "output_tokens"] {
        assert!(result["usage"][field].as_u64().unwrap() > 0, "{field}: {result}");
    }
    for field in ["cache_read_tokens", "cache_write_tokens"] {
        assert_eq!(result["usage"][field], 0, "{field}: {result}");
    }
    for field in ["queued_ms", "paced_ms", "model_ms"] {
        assert!(result["timing"][field].is_u64(), "{field}: {result}");
    }
}

#[test]
fn a_result_that_was_rejected_has_the_same_fields_and_no_answer() {
    let place = Place::new();
    place.write("demo.jsonl", "{\"id\":\"one\",\"prompt\":\"Hello\",\"colour\":\"red\"}\n");
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(3);
    let results = place.results();
    assert_eq!(results.len(), 1);
    let result = &results[0];
    assert_eq!(fields(result), FIELDS);
    assert_eq!((&result["id"], &result["status"]), (&json!("one"), &json!("rejected")));
    assert_eq!(result["error"]["class"], "bad_input");
    assert!(!result["error"]["message"].as_str().unwrap().is_empty());
    assert_eq!(result["error"]["request_id"], Value::Null);
    assert_eq!((&result["model_calls"], &result["attempts"]), (&json!(0), &json!(0)));
    assert!(result["cost_usd"].as_f64().unwrap().abs() < f64::EPSILON);
    for field in ANSWER {
        assert_eq!(result[field], Value::Null, "{field}: {result}");
    }
}

#[test]
fn d2_running_it_again_after_success_makes_no_call_and_says_so() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 20);
    let first = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!((&first["total"], &first["succeeded"]), (&json!(20), &json!(20)));
    assert_eq!(first["model_calls"], 20);
    let before = place.read("results.jsonl");

    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0).says(&["no call", "nothing to do", "nothing left"]);
    assert_eq!(place.read("results.jsonl"), before);

    let again = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!(again["model_calls"], 0);
    assert_eq!((&again["total"], &again["succeeded"]), (&json!(20), &json!(20)));
    assert_eq!(place.read("results.jsonl"), before);
}

#[test]
fn the_exit_status_is_judged_over_all_jobs_of_the_input_also_when_nothing_was_left_to_do() {
    let place = Place::new();
    place.write("demo.jsonl", format!("{}\n{{\"id\":\"bad\",\"prompt\":1}}\n", job(1)));
    for _ in 0..2 {
        place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(3);
        assert_eq!(sorted(&place.results(), "status"), ["rejected", "succeeded"]);
    }
}

#[test]
fn an_edited_input_pays_only_for_what_is_new_and_the_file_holds_exactly_its_lines() {
    let place = Place::new();
    let prompts = |texts: &[&str]| texts.iter().map(|text| json!({ "prompt": text })).collect::<Vec<_>>();
    place.write_lines("demo.jsonl", &prompts(&["one", "two", "three", "four", "four"]));
    let first = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!(first["model_calls"], 5);
    let before = place.results();
    let mut ids: Vec<_> = before.iter().map(|result| result["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5, "lines without an id, repeated ones too, have ids of their own");

    // Reordered, "two" removed, "three" mended, "five" added, one of the two "four" removed.
    place.write_lines("demo.jsonl", &prompts(&["five", "four", "three!", "one"]));
    let second = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!(second["model_calls"], 2, "only `three!` and `five` are new");
    assert_eq!(second["total"], 4);
    let after = place.results();
    assert_eq!(after.len(), 4);
    let kept = after.iter().filter(|result| before.contains(result)).count();
    assert_eq!(kept, 2, "`one` and `four` are as they were");
    let calls = sum(&after, "model_calls");
    assert!((calls - 4.0).abs() < f64::EPSILON, "each was called once: {calls}");

    // Back to the first input: everything was paid for.
    place.write_lines("demo.jsonl", &prompts(&["one", "two", "three", "four", "four"]));
    let third = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!(third["model_calls"], 0);
    assert_eq!(sorted(&place.results(), "id"), ids);
}

#[test]
fn a_line_that_was_rejected_runs_once_it_is_mended() {
    let place = Place::new();
    place.write_lines("demo.jsonl", &[job(1), json!({ "id": "job-2", "prompt": "Hello", "max_tokens": 0 })]);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(3);
    place.write_lines("demo.jsonl", &[job(1), json!({ "id": "job-2", "prompt": "Hello", "max_tokens": 10 })]);
    let summary = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!(summary["model_calls"], 1);
    assert_all_succeeded(&place.results(), 2);
}

#[test]
fn what_is_not_content_may_change_without_a_new_call() {
    let place = Place::new();
    place.write_lines("demo.jsonl", &[json!({ "id": "job-1", "prompt": "Hello" })]);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    place.write_lines(
        "demo.jsonl",
        &[json!({ "id": "job-1", "prompt": "Hello", "priority": 1, "metadata": { "a": 1 } })],
    );
    let summary = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!(summary["model_calls"], 0);
}

#[test]
fn a_deleted_results_file_is_rebuilt_without_a_call() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 12);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    let mut before = place.results();
    std::fs::remove_file(place.path("results.jsonl")).unwrap();
    let summary = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!(summary["model_calls"], 0);
    let mut after = place.results();
    for results in [&mut before, &mut after] {
        results.sort_by_key(|result| result["id"].to_string());
    }
    assert_eq!(after, before);
}

#[test]
fn a_torn_last_line_is_mended_without_a_call() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 12);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    let before = place.read("results.jsonl");
    // Within the last line, only its line feed, and half of the file.
    for cut in [40, 1, before.len() / 2] {
        place.write("results.jsonl", &before[..before.len() - cut]);
        let summary = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
        assert_eq!(summary["model_calls"], 0);
        assert_all_succeeded(&place.results(), 12);
    }
}

#[test]
fn a_file_that_is_not_ours_is_never_overwritten() {
    for content in ["my shopping list\n", "{\"id\":\"job-1\",\"mine\":true}\n", "\u{feff}", "no line feed at the end"] {
        let place = Place::new();
        place.write_jobs("demo.jsonl", 3);
        place.write("precious.jsonl", content);
        place.aquifer(["run", "demo.jsonl", "--simulate", "-o", "precious.jsonl"]).exits(2).says(&["precious.jsonl"]);
        assert_eq!(place.read("precious.jsonl"), content.as_bytes());
        place.assert_nothing_queued();
    }
}

#[test]
fn the_input_is_never_taken_for_the_results_file() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 3);
    let before = place.read("demo.jsonl");
    place.aquifer(["run", "demo.jsonl", "--simulate", "-o", "demo.jsonl"]).exits(2);
    assert_eq!(place.read("demo.jsonl"), before);
}

#[test]
fn an_empty_file_is_taken_as_the_results_file() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 3);
    place.write("results.jsonl", "");
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    assert_all_succeeded(&place.results(), 3);
}

#[test]
fn results_go_to_stdout_if_asked_and_nothing_else_does() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 5);
    let ended = place.aquifer(["run", "demo.jsonl", "--simulate", "-o", "-"]).exits(0);
    assert_all_succeeded(&json_lines(&ended.stdout), 5);
    assert!(!place.path("results.jsonl").exists());
    let again = place.aquifer(["run", "demo.jsonl", "--simulate", "-o", "-"]).exits(0);
    assert_all_succeeded(&json_lines(&again.stdout), 5);
}

#[test]
fn f14_two_results_files_of_one_batch_are_paid_for_once() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 5);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    let summary = place.aquifer(["run", "demo.jsonl", "--simulate", "-o", "other.jsonl", "--json"]).exits(0).json();
    assert_eq!(summary["model_calls"], 0);
    assert_all_succeeded(&json_lines(&place.read("other.jsonl")), 5);
}

#[test]
fn f15_the_summary_adds_up_to_the_results() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 30);
    let summary = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    let results = place.results();
    assert!((summary["cost_usd"].as_f64().unwrap() - sum(&results, "cost_usd")).abs() < 1e-9);
    assert!((summary["model_calls"].as_f64().unwrap() - sum(&results, "model_calls")).abs() < f64::EPSILON);
}
