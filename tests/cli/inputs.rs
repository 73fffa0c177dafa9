//! What may stand before `--simulate`: files, several of them, compressed ones, standard input, and the forms of lines
//! that people already have.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::support::{Place, assert_all_succeeded, job, sorted};

fn lines(numbers: impl IntoIterator<Item = usize>) -> String {
    numbers.into_iter().map(|number| format!("{}\n", job(number))).collect()
}

#[test]
fn standard_input_is_read_and_names_its_batch() {
    let place = Place::new();
    place.aquifer_reading(lines(1..=4).as_bytes(), ["run", "-", "--simulate"]).exits(0);
    let results = place.results();
    assert_all_succeeded(&results, 4);
    assert!(results.iter().all(|result| result["batch"] == "stdin"), "{results:?}");
}

#[test]
fn a_bad_line_of_standard_input_is_named_so() {
    let place = Place::new();
    place.aquifer_reading(b"{\"prompt\": 1}\n", ["run", "-", "--simulate"]).exits(3);
    let message = place.results()[0]["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("stdin") || message.contains("standard input"), "{message}");
}

#[test]
fn a_gzip_file_is_read_as_what_is_in_it() {
    let place = Place::new();
    // Two members in one file are one stream, as `cat a.gz b.gz` makes them.
    let mut bytes = Vec::new();
    for numbers in [1..=2, 3..=4] {
        let mut encoder = flate2::write::GzEncoder::new(&mut bytes, flate2::Compression::fast());
        encoder.write_all(lines(numbers).as_bytes()).unwrap();
        encoder.finish().unwrap();
    }
    place.write("demo.jsonl.gz", bytes);
    place.aquifer(["run", "demo.jsonl.gz", "--simulate"]).exits(0);
    assert_all_succeeded(&place.results(), 4);
}

#[test]
fn a_zstd_file_is_read_as_what_is_in_it() {
    let place = Place::new();
    place.write("demo.jsonl.zst", zstd::encode_all(lines(1..=4).as_bytes(), 3).unwrap());
    place.aquifer(["run", "demo.jsonl.zst", "--simulate"]).exits(0);
    assert_all_succeeded(&place.results(), 4);
}

#[test]
fn a_compressed_file_that_is_cut_off_is_said_and_is_no_success() {
    let place = Place::new();
    let whole = zstd::encode_all(lines(1..=400).as_bytes(), 3).unwrap();
    place.write("demo.jsonl.zst", &whole[..whole.len() / 2]);
    let ended = place.aquifer(["run", "demo.jsonl.zst", "--simulate"]);
    assert!([1, 2].contains(&ended.code), "{ended:?}");
    assert!(ended.stderr.contains("demo.jsonl.zst"), "{}", ended.stderr);
}

#[test]
fn several_files_are_one_batch_named_after_the_first() {
    let place = Place::new();
    place.write("one.jsonl", lines(1..=2));
    place.write("two.jsonl", lines(3..=5));
    place.aquifer(["run", "one.jsonl", "two.jsonl", "--simulate"]).exits(0);
    let results = place.results();
    assert_all_succeeded(&results, 5);
    assert!(results.iter().all(|result| result["batch"] == "one"), "{results:?}");
}

#[test]
fn a_bad_line_names_the_file_it_stands_in() {
    let place = Place::new();
    place.write("one.jsonl", lines(1..=2));
    place.write("two.jsonl", format!("{}{{\n", lines(3..=3)));
    place.aquifer(["run", "one.jsonl", "two.jsonl", "--simulate"]).exits(3);
    let results = place.results();
    let bad = results.iter().find(|result| result["status"] == "rejected").unwrap();
    let message = bad["error"]["message"].as_str().unwrap();
    assert!(message.contains("two.jsonl") && message.contains('2'), "{message}");
}

#[test]
fn the_batch_is_named_by_hand_if_wanted() {
    let place = Place::new();
    place.write("demo.jsonl", lines(1..=1));
    place.aquifer(["run", "demo.jsonl", "--simulate", "--batch", "2026-11-21-reviews"]).exits(0);
    assert_eq!(place.results()[0]["batch"], "2026-11-21-reviews");
}

#[test]
fn the_same_id_in_two_batches_is_two_jobs() {
    let place = Place::new();
    place.write_lines("one.jsonl", &[json!({ "id": "a", "prompt": "One." })]);
    place.write_lines("two.jsonl", &[json!({ "id": "a", "prompt": "Two." })]);
    place.aquifer(["run", "one.jsonl", "--simulate", "-o", "one.out"]).exits(0);
    place.aquifer(["run", "two.jsonl", "--simulate", "-o", "two.out"]).exits(0);
}

#[test]
fn lines_that_people_already_have_run_as_they_are() {
    let place = Place::new();
    place.write_lines(
        "demo.jsonl",
        &[
            json!("A bare string is a prompt."),
            json!({ "recordId": "record-1", "modelInput": { "anthropic_version": "bedrock-2023-05-31", "max_tokens": 50,
                "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Hello" }] }] } }),
            json!({ "custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": {
                "model": "another-vendors-model", "max_tokens": 50,
                "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Hello" }] } }),
            json!({ "id": "converse-1", "converse": { "system": [{ "text": "Be brief." }],
                "messages": [{ "role": "user", "content": [{ "text": "Hello" }] }], "inferenceConfig": { "maxTokens": 50 } } }),
            json!({ "id": "invoke-1", "invoke": { "anthropic_version": "bedrock-2023-05-31", "max_tokens": 50,
                "messages": [{ "role": "user", "content": "Hello" }] } }),
        ],
    );
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    let results = place.results();
    assert_eq!(results.len(), 5);
    for result in &results {
        assert!(!result["text"].as_str().unwrap().is_empty(), "{result}");
        assert!(result["usage"]["output_tokens"].as_u64().unwrap() <= 1024, "{result}");
    }
    for id in ["record-1", "request-1", "converse-1", "invoke-1"] {
        assert!(results.iter().any(|result| result["id"] == id), "{id}");
    }
}

#[test]
fn the_id_of_a_line_without_one_is_the_digest_of_its_content() {
    let place = Place::new();
    place.write_lines(
        "demo.jsonl",
        &[json!("Hello"), json!({ "prompt": "Hello" }), json!({ "prompt": "Hello", "priority": 3 })],
    );
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    let results = place.results();
    let model = results[0]["model"].as_str().unwrap();
    let canonical = format!("{{\"max_tokens\":null,\"model\":\"{model}\",\"request\":{{\"prompt\":\"Hello\"}}}}");
    let digest: String =
        <sha2::Sha256 as sha2::Digest>::digest(canonical.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut wanted = vec![digest.clone(), format!("{digest}-2"), format!("{digest}-3")];
    wanted.sort();
    assert_eq!(sorted(&results, "id"), wanted);
}

#[test]
fn the_cap_of_a_job_is_kept_and_named_when_it_cuts_the_answer() {
    let place = Place::new();
    place.write_lines("demo.jsonl", &[json!({ "id": "short", "prompt": "Tell me everything.", "max_tokens": 3 })]);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    let result: &Value = &place.results()[0];
    assert_eq!(result["stop_reason"], "max_tokens");
    assert!(result["usage"]["output_tokens"].as_u64().unwrap() <= 3, "{result}");
}
