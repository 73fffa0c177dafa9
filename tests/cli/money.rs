//! What it will cost, and what it must not cost.

use serde_json::Value;

use crate::support::{Place, SIMULATED, assert_all_succeeded, json_lines, sum};

#[test]
fn a_dry_run_validates_and_prices_and_sends_nothing() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 10);
    let ended = place.aquifer(["run", "demo.jsonl", "--simulate", "--dry-run"]).exits(0);
    let said = format!("{}{}", ended.stderr, String::from_utf8_lossy(&ended.stdout));
    assert!(said.contains("10") && said.contains('$'), "{said}");
    place.assert_nothing_queued();

    let plan = place.aquifer(["run", "demo.jsonl", "--simulate", "--dry-run", "--json"]).exits(0).json();
    assert_eq!(plan["jobs"], 10);
    assert!(plan["cost_usd"].as_f64().unwrap() > 0.0, "{plan}");
    assert!(plan["input_tokens"].as_u64().unwrap() > 0, "{plan}");
    place.assert_nothing_queued();
}

#[test]
fn a_dry_run_names_bad_lines() {
    let place = Place::new();
    place.write("demo.jsonl", "{\"id\":\"a\",\"prompt\":\"Hello\",\"colour\":1}\n");
    let ended = place.aquifer(["run", "demo.jsonl", "--simulate", "--dry-run"]).says(&["colour"]);
    assert_ne!(ended.code, 0);
    place.assert_nothing_queued();
}

#[test]
fn a_dry_run_leaves_an_earlier_run_as_it_is() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 3);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    let before = place.read("results.jsonl");
    place.write_jobs("demo.jsonl", 5);
    place.aquifer(["run", "demo.jsonl", "--simulate", "--dry-run"]).exits(0);
    assert_eq!(place.read("results.jsonl"), before);
    assert_eq!(place.status("demo").unwrap()["total"], 3);
}

/// What a batch of so many jobs costs when nothing stops it.
fn whole_cost(count: usize) -> f64 {
    let place = Place::new();
    place.write_jobs("demo.jsonl", count);
    let summary = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    summary["cost_usd"].as_f64().unwrap()
}

#[test]
fn a_cost_cap_stops_before_it_is_exceeded_and_is_cumulative_and_nothing_is_paid_twice() {
    let whole = whole_cost(60);
    let place = Place::new();
    place.write_jobs("demo.jsonl", 60);
    let cap = format!("{:.9}", whole / 2.0);
    let stopped =
        place.aquifer(["run", "demo.jsonl", "--simulate", "--max-cost", &cap]).exits(1).says(&["left", "queued"]);
    let done = place.results();
    assert!(!done.is_empty() && done.len() < 60, "{} of 60 done: {}", done.len(), stopped.stderr);
    let spent = sum(&done, "cost_usd");
    assert!(spent <= whole / 2.0, "{spent} of {cap}");
    let status = place.status("demo").unwrap();
    assert_eq!(status["queued"].as_u64().unwrap(), 60 - u64::try_from(done.len()).unwrap(), "{status}");

    // The same cap again: what was spent counts, whoever spent it.
    place.aquifer(["run", "demo.jsonl", "--simulate", "--max-cost", &cap]).exits(1);
    let spent = sum(&place.results(), "cost_usd");
    assert!(spent <= whole / 2.0, "{spent} of {cap}");

    // Without a cap it goes on where it stopped.
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    let results = place.results();
    assert_all_succeeded(&results, 60);
    assert!((sum(&results, "cost_usd") - whole).abs() < 1e-9);
    assert!(results.iter().all(|result| result["model_calls"] == 1), "nothing is called twice");
}

#[test]
fn a_cost_cap_that_is_not_reached_changes_nothing() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 10);
    place.aquifer(["run", "demo.jsonl", "--simulate", "--max-cost", "100"]).exits(0);
    assert_all_succeeded(&place.results(), 10);
}

#[test]
fn a_cost_cap_needs_a_price() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 3);
    place.write(
        "aquifer.toml",
        "[[model]]\nname = \"plain\"\nid = \"vendor.plain-v1:0\"\n\n[[endpoint]]\nregion = \"us-east-1\"\nprimary = true\n",
    );
    place.aquifer(["run", "demo.jsonl", "--simulate", "--max-cost", "1"]).exits(2).says(&["price"]);
    place.assert_nothing_queued();
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
}

#[test]
fn jobs_that_the_cap_left_are_explained() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 3);
    place.aquifer(["run", "demo.jsonl", "--simulate", "--max-cost", "0.000001"]).exits(1);
    let ended = place.aquifer(["explain", "job-1", "--json", "--state", SIMULATED]).exits(0);
    let said = json_lines(&ended.stdout);
    let queued: Vec<&Value> = said.iter().filter(|value| value.to_string().contains("queued")).collect();
    assert!(!queued.is_empty(), "{said:?}");
}
