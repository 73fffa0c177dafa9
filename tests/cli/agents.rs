//! Jobs for agents from the command line, without an account.

use serde_json::{Value, json};

use crate::support::{Place, SIMULATED, assert_all_succeeded};

const AGENT: &str = "agent/AGENT12345/TSTALIASID";

fn agent_jobs(place: &Place, count: usize) {
    let job = |number: usize| {
        let agent = json!({ "agentId": "AGENT12345", "agentAliasId": "TSTALIASID",
            "inputText": format!("A private question, number {number}.") });
        json!({ "id": format!("job-{number}"), "agent": agent })
    };
    place.write_lines("demo.jsonl", &(1..=count).map(job).collect::<Vec<_>>());
}

#[test]
fn agents_are_called_and_their_results_say_that_nobody_knows_what_they_cost() {
    let place = Place::new();
    agent_jobs(&place, 5);
    let ended = place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    let results = place.results();
    assert_all_succeeded(&results, 5);
    for result in &results {
        let text = result["text"].as_str().unwrap();
        assert!(!text.is_empty() && result["output"]["completion"] == text, "{result}");
        assert_eq!((&result["model"], &result["model_used"]), (&json!(AGENT), &json!(AGENT)));
        assert_eq!((&result["cost_usd"], &result["model_calls"]), (&json!(0.0), &json!(1)), "{result}");
        assert_eq!(result["usage"]["output_tokens"], 0);
    }
    assert!(ended.stderr.contains(AGENT), "its price is not known, and that is said: {}", ended.stderr);
    assert!(!ended.stderr.contains("private"), "{}", ended.stderr);
    let told = place.aquifer(["explain", "job-1", "--state", SIMULATED]).exits(0);
    assert!(String::from_utf8_lossy(&told.stdout).contains(AGENT), "{told:?}");
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    assert_eq!(place.results().len(), 5, "run again, nothing is called twice");
    assert!(place.results().iter().all(|result| result["model_calls"] == 1));
}

#[test]
fn f09_an_agents_throttles_after_the_200_are_waited_for_and_its_other_troubles_have_their_class() {
    let place = Place::new();
    agent_jobs(&place, 3);
    place.write(
        "scenario.toml",
        "[latency]\nconstant = '1ms'\n\
         [[fault]]\nkind = 'stream_error'\nerror = 'ThrottlingException'\ncalls = '1'\n\
         [[fault]]\nkind = 'stream_error'\nerror = 'ValidationException'\n\
         message = 'A private question, number 2. cannot be read'\ncalls = '3'\n",
    );
    let ended = place.aquifer(["run", "demo.jsonl", "--simulate=scenario.toml"]).exits(3);
    let results = place.results();
    let (good, bad): (Vec<&Value>, Vec<&Value>) = results.iter().partition(|result| result["status"] == "succeeded");
    assert_eq!((good.len(), bad.len()), (2, 1), "{results:?}");
    assert!(good.iter().all(|result| result["attempts"] == 0), "a throttle is no attempt: {good:?}");
    assert_eq!((&bad[0]["status"], &bad[0]["error"]["class"]), (&json!("failed"), &json!("invalid")));
    assert!(!bad[0]["error"].to_string().contains("private") && !ended.stderr.contains("private"), "{bad:?}");
}

#[test]
fn what_agents_cost_cannot_be_bounded_and_a_plan_says_that_it_is_not_known() {
    let place = Place::new();
    agent_jobs(&place, 4);
    let capped = place.aquifer(["run", "demo.jsonl", "--simulate", "--max-cost", "5"]).exits(2);
    assert!(capped.stderr.contains("an agent's tokens are not known"), "{}", capped.stderr);
    assert!(place.results().is_empty(), "nothing was asked");
    assert!(place.status("demo").is_none_or(|status| status["total"] == 0), "nothing is queued");
    let plan = place.aquifer(["plan", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!((&plan["jobs"], &plan["cost_usd"], &plan["input_tokens"]), (&json!(4), &Value::Null, &json!(0)));
    assert_eq!(plan["models"][0]["model"], AGENT);
    assert!(plan["assumptions"].to_string().contains("4 calls, whose tokens and price are not known"), "{plan}");
}

#[test]
fn an_agents_quota_is_that_of_requests_and_its_table_takes_nothing_of_tokens() {
    let place = Place::new();
    agent_jobs(&place, 3);
    let config = |more: &str| {
        format!(
            "[[model]]\nname = 'helper'\nid = '{AGENT}'\nrequests_per_minute = 600\n{more}\n\
                 [[endpoint]]\nregion = 'us-east-1'\nregion_profile_prefix = 'us'\n"
        )
    };
    place.write("aquifer.toml", config(""));
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    assert_all_succeeded(&place.results(), 3);
    assert!(place.results().iter().all(|result| result["model_used"] == AGENT), "no geography is put before it");
    for more in ["tokens_per_minute = 5", "price = { input = 1.0, output = 1.0 }"] {
        place.write("aquifer.toml", config(more));
        let ended = place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(2);
        assert!(ended.stderr.contains("an agent's tokens are not known"), "{more}: {}", ended.stderr);
    }
    place.write("aquifer.toml", config(""));
    place.write("prompt.jsonl", "{\"id\":\"p\",\"prompt\":\"Hi\",\"model\":\"helper\"}\n");
    place.aquifer(["run", "prompt.jsonl", "--simulate", "-o", "prompt.out"]).exits(3);
    let refused = String::from_utf8(place.read("prompt.out")).unwrap();
    assert!(refused.contains("no model is called `helper`"), "{refused}");
}

#[test]
fn the_simulator_has_no_knowledge_bases_and_a_plan_counts_no_ingestion() {
    let place = Place::new();
    let ingest = json!({ "knowledge_base_id": "KB12345678", "data_source_id": "DS12345678" });
    place.write_lines("demo.jsonl", &[json!({ "id": "up", "ingest": ingest }), crate::support::job(1)]);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(3);
    let results = place.results();
    let refused = results.iter().find(|result| result["id"] == "up").unwrap();
    assert_eq!(refused["status"], "rejected");
    assert!(
        refused["error"]["message"].as_str().unwrap().contains("the simulator has no knowledge bases"),
        "{refused}"
    );
    assert!(results.iter().any(|result| result["status"] == "succeeded"), "the rest runs");
    let ended = place.aquifer(["plan", "demo.jsonl", "--simulate", "--json"]).exits(0);
    assert!(ended.stderr.contains("1 ingestions ask no model"), "{}", ended.stderr);
    assert_eq!(ended.json()["jobs"], 1);
}
