//! The table "Bad input gets", row by row: a bad line is one `rejected` result that says where and why, and the rest
//! runs.

use serde_json::{Value, json};

use crate::support::{Ended, Place, job, json_lines, sorted};

/// Runs the line between two good ones and returns the result it got, once all that holds for every bad line was seen
/// to hold. `words`: one of them is in the reason.
#[track_caller]
fn rejected(line: &[u8], words: &[&str]) -> Value {
    let place = Place::new();
    let mut input = format!("{}\n", job(1)).into_bytes();
    input.extend_from_slice(line);
    input.extend_from_slice(format!("\n{}\n", job(2)).as_bytes());
    place.write("input.jsonl", input);
    place.aquifer(["run", "input.jsonl", "--simulate"]).exits(3);
    let results = place.results();
    assert_eq!(results.len(), 3, "one result a line: {results:?}");
    let (bad, good): (Vec<_>, Vec<_>) = results.into_iter().partition(|result| result["status"] == "rejected");
    assert_eq!(sorted(&good, "id"), ["job-1", "job-2"]);
    assert_eq!(sorted(&good, "status"), ["succeeded", "succeeded"], "the rest runs");
    let bad = bad[0].clone();
    assert_eq!(bad["error"]["class"], "bad_input");
    assert_eq!(bad["model_calls"], 0);
    let message = bad["error"]["message"].as_str().unwrap();
    assert_eq!(place_of(message, "input.jsonl").0, 2, "{message}");
    assert!(words.iter().any(|word| message.contains(word)), "none of {words:?} in: {message}");
    bad
}

/// Line and column that a message names after the file; the column may be missing when the fault is what is not there.
fn place_of(message: &str, file: &str) -> (usize, Option<usize>) {
    let (_, after) = message.split_once(file).unwrap_or_else(|| panic!("{file} is not named in: {message}"));
    let mut numbers = after.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let mut next = || numbers.next().and_then(|digits| digits.parse().ok());
    (next().unwrap_or_else(|| panic!("no line in: {message}")), next())
}

/// The message names file, line 2 and this column.
#[track_caller]
fn assert_column(result: &Value, column: usize) {
    let message = result["error"]["message"].as_str().unwrap();
    assert_eq!(place_of(message, "input.jsonl"), (2, Some(column)), "{message}");
}

#[test]
fn f13_a_line_that_is_no_json() {
    let result = rejected(br#"{"id": "a", "prompt": "never closed}"#, &[""]);
    let message = result["error"]["message"].as_str().unwrap();
    assert!(place_of(message, "input.jsonl").1.is_some(), "no column in: {message}");
    assert!(!message.contains("never closed"), "a reason never quotes a prompt: {message}");
}

#[test]
fn f13_a_line_that_is_no_object_and_no_text() {
    rejected(b"42", &["number"]);
    rejected(b"[\"Hello\"]", &["array"]);
    rejected(b"null", &["null"]);
}

#[test]
fn f13_a_line_with_an_unknown_key() {
    let result = rejected(br#"{"id": "a", "prompt": "Hello", "max_tokns": 9}"#, &["max_tokns"]);
    assert_eq!(result["id"], "a");
    assert_column(&result, 32);
}

#[test]
fn f13_a_line_with_two_kinds() {
    rejected(br#"{"id": "a", "prompt": "Hello", "invoke": {"inputText": "Hello"}}"#, &["invoke", "prompt"]);
}

#[test]
fn f13_a_line_with_no_kind() {
    rejected(br#"{"id": "a", "max_tokens": 9}"#, &["prompt"]);
}

#[test]
fn f13_a_line_with_a_bad_type() {
    rejected(br#"{"id": "a", "prompt": 42}"#, &["prompt"]);
    rejected(br#"{"id": 7, "prompt": "Hello"}"#, &["id"]);
    rejected(br#"{"id": "a", "prompt": "Hello", "max_tokens": "many"}"#, &["max_tokens"]);
    rejected(br#"{"id": "a", "prompt": "Hello", "metadata": [1]}"#, &["metadata"]);
    rejected(br#"{"id": "a", "converse": "Hello"}"#, &["converse"]);
}

#[test]
fn f13_a_line_with_a_space_in_its_id() {
    rejected(br#"{"id": "order 1841", "prompt": "Hello"}"#, &["id"]);
}

#[test]
fn f13_a_line_with_an_id_that_is_too_long() {
    let line = json!({ "id": "x".repeat(129), "prompt": "Hello" }).to_string();
    rejected(line.as_bytes(), &["128"]);
}

#[test]
fn f13_a_line_with_max_tokens_zero_or_less() {
    rejected(br#"{"id": "a", "prompt": "Hello", "max_tokens": 0}"#, &["max_tokens"]);
    rejected(br#"{"id": "a", "prompt": "Hello", "max_tokens": -5}"#, &["max_tokens"]);
}

#[test]
fn f13_a_line_with_a_deadline_in_the_past_or_that_is_none() {
    rejected(br#"{"id": "a", "prompt": "Hello", "deadline": "2001-01-01T00:00:00Z"}"#, &["deadline"]);
    rejected(br#"{"id": "a", "prompt": "Hello", "deadline": "tomorrow"}"#, &["deadline"]);
}

#[test]
fn f13_a_line_with_a_priority_outside_0_to_9() {
    rejected(br#"{"id": "a", "prompt": "Hello", "priority": 10}"#, &["priority"]);
}

#[test]
fn f13_a_line_with_an_empty_prompt() {
    rejected(br#"{"id": "a", "prompt": ""}"#, &["prompt"]);
}

#[test]
fn f13_kinds_that_are_not_for_a_file_or_not_complete_are_refused_by_name() {
    rejected(br#"{"id": "a", "agent": {"agentId": "a"}}"#, &["agent"]);
    rejected(br#"{"id": "a", "payload": "s3://bucket/key"}"#, &["payload"]);
    rejected(br#"{"id": "a", "prompt": "Hello", "callback": {"task_token": "t"}}"#, &["callback"]);
}

#[test]
fn f13_a_line_that_is_not_utf_8() {
    let result = rejected(b"{\"id\": \"a\", \"prompt\": \"\xff\xfe\"}", &["UTF-8"]);
    assert_column(&result, 24);
}

#[test]
fn f13_a_line_with_a_nul_or_nesting_without_end() {
    rejected(b"{\"id\": \"a\", \"prompt\": \"\0\"}", &[""]);
    let deep = format!("{{\"id\": \"a\", \"converse\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    rejected(deep.as_bytes(), &[""]);
}

#[test]
fn the_same_id_with_other_content_is_a_conflict_and_the_first_stands() {
    let place = Place::new();
    let first = json!({ "id": "twin", "prompt": "The first." });
    place.write_lines("input.jsonl", &[first.clone(), json!({ "id": "twin", "prompt": "The second." })]);
    place.aquifer(["run", "input.jsonl", "--simulate"]).exits(3);
    let results = place.results();
    assert_eq!(sorted(&results, "id"), ["twin", "twin"]);
    let (bad, good): (Vec<_>, Vec<_>) = results.into_iter().partition(|result| result["status"] == "rejected");
    assert_eq!(good[0]["status"], "succeeded");
    assert_eq!(bad[0]["error"]["class"], "id_conflict");
    assert_eq!(place_of(bad[0]["error"]["message"].as_str().unwrap(), "input.jsonl").0, 2);

    // It was the first that ran: alone, it is done.
    place.write_lines("input.jsonl", &[first]);
    let summary = place.aquifer(["run", "input.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!(summary["model_calls"], 0);
}

#[test]
fn d12_an_id_of_an_earlier_run_with_other_content_is_a_conflict() {
    let place = Place::new();
    place.write_lines("input.jsonl", &[json!({ "id": "a", "prompt": "Before." })]);
    place.aquifer(["run", "input.jsonl", "--simulate"]).exits(0);
    place.write_lines("input.jsonl", &[json!({ "id": "a", "prompt": "After." })]);
    place.aquifer(["run", "input.jsonl", "--simulate"]).exits(3);
    let results = place.results();
    assert_eq!(results.len(), 1);
    assert_eq!((&results[0]["status"], &results[0]["error"]["class"]), (&json!("rejected"), &json!("id_conflict")));
}

#[test]
fn the_same_line_twice_is_one_job() {
    let place = Place::new();
    place.write_lines("input.jsonl", &[job(1), job(1), job(2)]);
    let summary = place.aquifer(["run", "input.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!(summary["model_calls"], 2);
    assert_eq!(sorted(&place.results(), "id"), ["job-1", "job-2"]);
}

// ------------------------------------------------------------------------------------------ shapes of the file

/// Runs a file that must work, and returns the ids of its results.
fn works(content: impl AsRef<[u8]>) -> Vec<String> {
    let place = Place::new();
    place.write("input.jsonl", content);
    place.aquifer(["run", "input.jsonl", "--simulate"]).exits(0);
    let results = place.results();
    assert!(results.iter().all(|result| result["status"] == "succeeded"), "{results:?}");
    sorted(&results, "id")
}

/// Runs a file without any job.
fn empty(content: &str) -> Ended {
    let place = Place::new();
    place.write("input.jsonl", content);
    let ended = place.aquifer(["run", "input.jsonl", "--simulate"]).exits(0);
    assert!(!place.path("results.jsonl").exists() || place.read("results.jsonl").is_empty());
    ended
}

#[test]
fn an_empty_file_is_a_finished_run_that_says_so() {
    empty("").says(&["no jobs", "no lines", "0 jobs", "empty", "nothing"]);
}

#[test]
fn a_file_of_blank_lines_is_a_finished_run_that_says_so() {
    empty("\n\r\n   \n\t\n\n").says(&["no jobs", "no lines", "0 jobs", "empty", "nothing"]);
}

#[test]
fn blank_lines_between_jobs_are_nothing_and_still_counted() {
    assert_eq!(works(format!("\n\n{}\n  \n{}\n\n", job(1), job(2))), ["job-1", "job-2"]);
    let place = Place::new();
    place.write("input.jsonl", format!("{}\n\n   \n{{\n", job(1)));
    place.aquifer(["run", "input.jsonl", "--simulate"]).exits(3);
    let results = place.results();
    let bad = results.iter().find(|result| result["status"] == "rejected").unwrap();
    assert_eq!(place_of(bad["error"]["message"].as_str().unwrap(), "input.jsonl").0, 4);
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_line() {
    assert_eq!(works(format!("\u{feff}{}\n{}\n", job(1), job(2))), ["job-1", "job-2"]);
}

#[test]
fn lines_may_end_in_crlf() {
    assert_eq!(works(format!("{}\r\n{}\r\n", job(1), job(2))), ["job-1", "job-2"]);
}

#[test]
fn the_last_line_needs_no_line_feed() {
    assert_eq!(works(format!("{}\n{}", job(1), job(2))), ["job-1", "job-2"]);
}

#[test]
fn a_line_of_ten_mebibytes_has_its_result_and_stops_nothing() {
    let place = Place::new();
    let long = json!({ "id": "long", "prompt": "review ".repeat(10 * 1024 * 1024 / 7), "max_tokens": 10 });
    place.write_lines("input.jsonl", &[job(1), long, job(2)]);
    let ended = place.aquifer(["run", "input.jsonl", "--simulate"]);
    assert!([0, 3].contains(&ended.code), "{ended:?}");
    let results = place.results();
    assert_eq!(sorted(&results, "id"), ["job-1", "job-2", "long"]);
    for result in &results {
        // The model's own word on what it cannot read is as good as ours.
        let said_no = result["status"] == "rejected" || result["error"]["class"] == "invalid";
        let refused = result["id"] == "long" && said_no && ended.code == 3;
        assert!(result["status"] == "succeeded" || refused, "{}: {}", result["status"], result["error"]);
    }
}

#[test]
fn ten_mebibytes_of_no_json_are_one_rejected_line() {
    rejected(&vec![b'x'; 10 * 1024 * 1024], &[""]);
}

#[test]
fn rejected_results_are_shown_to_the_person_as_well() {
    let place = Place::new();
    place.write("input.jsonl", format!("{}\n{{\"id\":\"a\",\"prompt\":\"Hello\",\"colour\":1}}\n", job(1)));
    place.aquifer(["run", "input.jsonl", "--simulate"]).exits(3).says(&["colour"]);
    let lines = json_lines(&place.read("results.jsonl"));
    assert_eq!(lines.len(), 2);
}
