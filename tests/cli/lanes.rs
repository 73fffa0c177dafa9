//! What a person sees of lanes, and has to say of their breakers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Place, Running, SIMULATED, assert_all_succeeded, json_lines};

const LANE: &str = "us-east-1/vendor.one-v1:0";
const LIMIT: Duration = Duration::from_secs(60);

fn config(place: &Place, tokens_per_minute: u64) {
    place.write(
        "aquifer.toml",
        format!(
            "[[model]]\nname = \"one\"\nid = \"vendor.one-v1:0\"\ntokens_per_minute = {tokens_per_minute}\n\
             [[model]]\nname = \"two\"\nid = \"vendor.two-v1:0\"\n[[endpoint]]\nregion = \"us-east-1\"\n[worker]\nslots = 4\n"
        ),
    );
}

/// What `explain --json` says of one of these jobs, once it is there and `is_so`.
fn explained(place: &Place, ids: &[&str], is_so: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    for id in ids.iter().cycle() {
        let ended = place.aquifer(["explain", id, "--json", "--state", SIMULATED]);
        let said = if ended.code == 0 { json_lines(&ended.stdout).pop() } else { None };
        if let Some(said) = said.as_ref().filter(|said| is_so(said)) {
            return said.clone();
        }
        assert!(began.elapsed() < LIMIT, "{said:?}");
    }
    unreachable!("no job is asked for")
}

fn reasons(said: &Value) -> Vec<&str> {
    said["gates"].as_array().unwrap().iter().map(|gate| gate["reason"].as_str().unwrap()).collect()
}

#[test]
fn b4_a_breaker_is_opened_and_closed_by_hand_while_a_run_goes_on() {
    let place = Place::new();
    config(&place, 1_000_000);
    place.write_jobs("demo.jsonl", 60);
    place.write("slow.toml", "[latency]\nconstant = \"700ms\"\n");
    let running = Running::start(place.command(["run", "demo.jsonl", "--simulate=slow.toml", "--json"]));
    place.until_succeeded("demo", 4);
    place.aquifer(["lanes", "open", LANE, "--state", SIMULATED]).exits(0);
    let held = explained(&place, &["job-60"], |said| reasons(said).contains(&"open breaker"));
    assert_eq!(held["attempts"], 0, "a gate shut by hand is nobody's failure: {held}");
    let shown = place.aquifer(["lanes", "--json", "--state", SIMULATED]).exits(0);
    let lane = json_lines(&shown.stdout).into_iter().find(|lane| lane["lane"] == LANE).unwrap();
    assert_eq!((&lane["breaker"], &lane["tokens_per_minute"]), (&json!("open by hand"), &json!(1_000_000)), "{lane}");

    let before = place.status("demo").unwrap()["succeeded"].clone();
    assert_ne!(before, json!(60), "nothing was to be held any more");
    place.aquifer(["lanes", "close", LANE, "--state", SIMULATED]).exits(0);
    running.finish().exits(0);
    assert_all_succeeded(&place.results(), 60);
    let log = json_lines(&place.read(&format!("{SIMULATED}/events.jsonl")));
    let turns: Vec<&Value> = log.iter().filter(|notice| notice["kind"] == "breaker").collect();
    let states: Vec<&str> = turns.iter().map(|notice| notice["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["open by hand", "closed"], "each is made known once: {turns:?}");
    let attempts: u64 = place.results().iter().map(|result| result["attempts"].as_u64().unwrap()).sum();
    assert_eq!(attempts, 0);
}

#[test]
fn b4_a_lane_that_nobody_knows_is_a_mistake_of_usage() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 1);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    place.aquifer(["lanes", "open", "us-east-1/nobody"]).exits(2).says(&["us-east-1/nobody", "aquifer lanes"]);
}

/// Issue 3, honest waiting: the gates of another model are not what holds this job.
#[test]
fn explain_names_the_gate_of_the_jobs_own_model() {
    let place = Place::new();
    config(&place, 1_000);
    place.write("long.toml", "[answer]\nfrom_prompt = true\n");
    let line = |id: &str, model: &str| json!({ "id": id, "model": model, "prompt": "What is a brick for? [answer: 600 tokens]", "max_tokens": 600 });
    place.write_lines("demo.jsonl", &[line("one", "one"), line("another", "one"), line("free", "two")]);
    let mut running = Running::start(place.command(["run", "demo.jsonl", "--simulate=long.toml"]));
    // Both are claimed at once, and whichever is quicker is called.
    let held = explained(&place, &["one", "another"], |said| reasons(said) == ["tokens a minute"]);
    let gate = &held["gates"][0];
    assert_eq!(gate["lane"], LANE, "{held}");
    assert!(gate["since"].is_string() && gate["until"].as_str() > gate["since"].as_str(), "{gate}");
    let free = explained(&place, &["free"], |_| true);
    assert_eq!(reasons(&free), Vec::<&str>::new(), "{free}");
    running.child.kill().unwrap();
    running.child.wait().unwrap();
}

#[test]
fn where_nothing_was_called_lanes_says_so_and_is_not_silent() {
    let place = Place::new();
    config(&place, 1_000);
    place.write_jobs("demo.jsonl", 1);
    place.aquifer(["enqueue", "demo.jsonl", "--simulate"]).exits(0);
    place.aquifer(["lanes", "--state", SIMULATED]).exits(0).says(&["no lane is known"]);
    assert_eq!(place.aquifer(["lanes", "--json", "--state", SIMULATED]).exits(0).stdout, b"");
}
