//! `max_tokens = "auto"`, from the line of a file to what `status` says of it.

use serde_json::{Value, json};

use crate::support::{Place, SIMULATED, assert_all_succeeded};

/// Twenty calls under the full cap fill the quota; their answers are a few dozen tokens long, but one.
#[test]
fn auto_reserves_less_runs_again_what_was_cut_and_says_so() {
    let place = Place::new();
    place.write(
        "aquifer.toml",
        "[[model]]\nname = \"m\"\nid = \"us.anthropic.claude-haiku-4-5-20251001-v1:0\"\nmax_tokens = 60000\n\
         tokens_per_minute = 1200000\noutput_burndown = 1\nprice = { input = 1.0, output = 5.0 }\n",
    );
    place.write("slow.toml", "[latency]\nconstant = \"250ms\"\n[answer]\nfrom_prompt = true\n");
    let lines: Vec<Value> = (1..=150)
        .map(|number| {
            let tokens = if number == 140 { 4_000 } else { 20 + number % 7 };
            json!({ "id": format!("job-{number}"), "prompt": format!("Review {number} [answer: {tokens} tokens]"),
                    "max_tokens": "auto" })
        })
        .collect();
    place.write_lines("demo.jsonl", &lines);
    place.aquifer(["run", "demo.jsonl", "--simulate=slow.toml"]).exits(0);

    let results = place.results();
    assert_all_succeeded(&results, 150);
    assert!(results.iter().all(|result| result["stop_reason"] == "end_turn"), "no cut answer is final");
    let small = results.iter().filter(|result| result["right_sized"]["cap"].as_u64().unwrap() < 60_000).count();
    assert!((50..=100).contains(&small), "{small} were right-sized, after fifty");
    let long = results.iter().find(|result| result["id"] == "job-140").unwrap();
    assert_eq!((&long["model_calls"], &long["attempts"]), (&json!(2), &json!(0)), "{long}");
    assert_eq!((&long["right_sized"]["cap"], &long["right_sized"]["reruns"]), (&json!(60_000), &json!(1)));
    let rerun_cost = long["right_sized"]["rerun_cost_usd"].as_f64().unwrap();
    let whole = long["usage"]["input_tokens"].as_f64().unwrap() * 1e-6 + 4_000.0 * 5e-6;
    assert!((long["cost_usd"].as_f64().unwrap() - whole - rerun_cost).abs() < 1e-9 && rerun_cost > 0.0, "{long}");

    let saved: u64 = results.iter().map(|result| 60_000 - result["right_sized"]["cap"].as_u64().unwrap()).sum();
    let told = &place.status("demo").unwrap()["right_sized"];
    assert_eq!((&told["tokens_saved"], &told["reruns"]), (&json!(saved), &json!(1)), "{told}");
    assert!((told["rerun_cost_usd"].as_f64().unwrap() - rerun_cost).abs() < 1e-9, "{told}");
    let table = place.aquifer(["status", "demo", "--state", SIMULATED]).exits(0);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("right-sizing") && table.contains("1 rerun for"), "{table}");
}

#[test]
fn without_auto_nothing_is_said_of_it() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 3);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    assert!(place.results().iter().all(|result| result.get("right_sized").is_none()));
    assert!(place.status("demo").unwrap().get("right_sized").is_none());
}
