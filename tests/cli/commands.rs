//! The other commands, and what all of them have in common.

use serde_json::{Value, json};

use crate::support::{Ended, Place, SIMULATED, job_ids, json_lines, sorted, sum};

/// A place where five jobs have run and one line was refused.
fn worked() -> Place {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 5);
    let mut input = place.read("demo.jsonl");
    input.extend_from_slice(b"{\"id\":\"bad\",\"prompt\":1}\n");
    place.write("demo.jsonl", input);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(3);
    place
}

fn stdout(ended: &Ended) -> &str {
    std::str::from_utf8(&ended.stdout).unwrap()
}

#[test]
fn status_tells_a_person_and_a_program_how_a_batch_stands() {
    let place = worked();
    let ended = place.aquifer(["status", "demo", "--state", SIMULATED]).exits(0);
    assert!(stdout(&ended).contains("demo") && stdout(&ended).contains('5'), "{ended:?}");

    let status = place.aquifer(["status", "demo", "--json", "--state", SIMULATED]).exits(0).json();
    assert_eq!((&status["batch"], &status["succeeded"]), (&json!("demo"), &json!(5)));
    for field in ["total", "queued", "running", "failed", "rejected", "expired"] {
        assert!(status[field].is_u64(), "{field}: {status}");
    }
    assert_eq!((&status["queued"], &status["running"]), (&json!(0), &json!(0)));
    assert!((status["cost_usd"].as_f64().unwrap() - sum(&place.results(), "cost_usd")).abs() < 1e-9, "{status}");
    assert!(status.as_object().unwrap().contains_key("eta_s"), "{status}");
}

#[test]
fn status_without_a_batch_shows_all_of_them() {
    let place = worked();
    place.write_jobs("other.jsonl", 2);
    place.aquifer(["run", "other.jsonl", "--simulate", "-o", "other.out"]).exits(0);
    let ended = place.aquifer(["status", "--state", SIMULATED]).exits(0);
    assert!(stdout(&ended).contains("demo") && stdout(&ended).contains("other"), "{ended:?}");
}

#[test]
fn status_of_what_was_never_there_is_an_error() {
    let place = worked();
    let ended = place.aquifer(["status", "nonesuch", "--state", SIMULATED]).says(&["nonesuch"]);
    assert_ne!(ended.code, 0);
    let ended = place.aquifer(["status", "--state", "no-such-folder"]).says(&["no-such-folder"]);
    assert_ne!(ended.code, 0);
    assert!(!place.path("no-such-folder").exists(), "looking makes no state");
}

#[test]
fn results_come_in_the_order_of_the_input_or_of_completion() {
    let place = Place::new();
    // The second call takes two seconds, all others next to nothing: its job ends last.
    place.write_jobs("demo.jsonl", 40);
    place.write(
        "scenario.toml",
        "[latency]\nconstant = \"10ms\"\n\n[[fault]]\nkind = \"slow_body\"\nover = \"2s\"\ncalls = \"2\"\n",
    );
    place.aquifer(["run", "demo.jsonl", "--simulate=scenario.toml"]).exits(0);
    let ids = |results: &[Value]| results.iter().map(|result| result["id"].clone()).collect::<Vec<_>>();

    let ended = place.aquifer(["results", "demo", "--state", SIMULATED, "--order", "input"]).exits(0);
    let by_input = json_lines(&ended.stdout);
    let wanted: Vec<_> = (1..=40).map(|number| json!(format!("job-{number}"))).collect();
    assert_eq!(ids(&by_input), wanted);

    let ended =
        place.aquifer(["results", "demo", "--state", SIMULATED, "--order", "done", "-o", "done.jsonl"]).exits(0);
    assert!(ended.stdout.is_empty());
    let by_end = json_lines(&place.read("done.jsonl"));
    let last = |results: &[Value]| results.last().unwrap()["id"].clone();
    assert_ne!(last(&by_end), "job-40");
    assert_eq!(last(&by_end), last(&place.results()), "as in the results file");
    assert_eq!(sorted(&by_end, "id"), job_ids(40));
    for result in &by_end {
        assert!(by_input.contains(result), "the same results in another order");
    }
}

#[test]
fn explain_says_what_became_of_a_job() {
    let place = worked();
    let ended = place.aquifer(["explain", "job-3", "--state", SIMULATED]).exits(0);
    assert!(stdout(&ended).contains("job-3") && stdout(&ended).contains("succeeded"), "{ended:?}");
    assert!(!stdout(&ended).contains("Summarise review"), "never a prompt: {ended:?}");
    let ended = place.aquifer(["explain", "job-3", "--json", "--state", SIMULATED]).exits(0);
    let explained = ended.json();
    assert_eq!((&explained["id"], &explained["batch"]), (&json!("job-3"), &json!("demo")));
    let timeline = explained["timeline"].as_array().unwrap();
    let events: Vec<&str> = timeline.iter().map(|event| event["event"].as_str().unwrap()).collect();
    let (first, last) = (&events[..2], &events[events.len() - 3..]);
    assert_eq!((first, last), (&["queued", "claimed"][..], &["called", "recorded", "notified"][..]), "{timeline:?}");
    let called = &timeline[timeline.len() - 3];
    assert_eq!(called["class"], "answered", "{called}");
    assert_eq!(called["region"], place.results().iter().find(|result| result["id"] == "job-3").unwrap()["region"]);
    assert!(called["ms"].is_u64() && called["model"].as_str().unwrap().contains("haiku"), "{called}");
    let moment = |event: &Value| event["at"].as_str().unwrap().trim_end_matches('Z').to_owned();
    let moments: Vec<String> = timeline.iter().map(moment).collect();
    assert!(moments.is_sorted(), "{moments:?}");
    let text = place.aquifer(["explain", "job-3", "--state", SIMULATED]).exits(0);
    assert!(stdout(&text).contains("answered after") && stdout(&text).contains("notified"), "{text:?}");

    let ended = place.aquifer(["explain", "nonesuch", "--state", SIMULATED]).says(&["nonesuch"]);
    assert_ne!(ended.code, 0);
}

/// The files of the state that hold this text.
fn files_with(place: &Place, text: &str) -> Vec<std::path::PathBuf> {
    let holds = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    place.files_below(".aquifer").into_iter().filter(holds).collect()
}

#[test]
fn forget_leaves_no_trace_of_prompts_and_answers() {
    let place = Place::new();
    let secret = "the-word-that-must-go";
    place.write_lines("demo.jsonl", &[json!({ "id": "a", "prompt": "Hello", "metadata": { "note": secret } })]);
    place.write_jobs("other.jsonl", 2);
    place.aquifer(["run", "other.jsonl", "--simulate", "-o", "other.out"]).exits(0);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    assert!(!files_with(&place, secret).is_empty(), "the result line, metadata and all, is kept until then");

    place.aquifer(["forget", "demo", "--state", SIMULATED]).exits(0);
    assert_eq!(files_with(&place, secret), Vec::<std::path::PathBuf>::new());
    assert_ne!(place.aquifer(["status", "demo", "--state", SIMULATED]).code, 0);

    // Other batches stay, and what was forgotten is a new job.
    assert_eq!(place.status("other").unwrap()["succeeded"], 2);
    std::fs::remove_file(place.path("results.jsonl")).unwrap();
    let summary = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!(summary["model_calls"], 1);
}

#[test]
fn forget_refuses_a_batch_that_is_not_complete() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 3);
    place.aquifer(["run", "demo.jsonl", "--simulate", "--max-cost", "0.000001"]).exits(1);
    let ended = place.aquifer(["forget", "demo", "--state", SIMULATED]);
    assert_ne!(ended.code, 0);
    assert_eq!(place.status("demo").unwrap()["queued"], 3);
}

#[test]
fn simulated_and_real_never_mix() {
    let place = worked();
    let ended = place.aquifer(["status", "--json"]);
    for status in json_lines(&ended.stdout) {
        assert_eq!(status["simulated"], true, "a simulated batch shows as a real one: {status}");
    }
}

#[test]
fn wrong_usage_is_exit_2() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 1);
    for arguments in [
        &["run"][..],
        &["run", "demo.jsonl", "--simulat"],
        &["run", "nonesuch.jsonl", "--simulate"],
        &["run", "demo.jsonl", "--simulate", "--max-cost", "-1"],
        &["run", "demo.jsonl", "--simulate", "--max-cost", "plenty"],
        &["run", "demo.jsonl", "--simulate", "--batch", "a/b"],
        &["run", "demo.jsonl", "--simulate", "--batch", ""],
        &["results", "demo", "--order", "random"],
        &["explain"],
        &["forget"],
        &["rum", "demo.jsonl"],
        &[],
    ] {
        let ended = crate::support::Running::start(place.command(arguments)).finish();
        assert_eq!(ended.code, 2, "{arguments:?}: {ended:?}");
        assert!(!ended.stderr.is_empty(), "{arguments:?} says nothing");
        assert!(ended.stdout.is_empty(), "{arguments:?}: {ended:?}");
    }
    place.assert_nothing_queued();
}

#[test]
fn help_and_version_are_data_and_exit_0() {
    let place = Place::new();
    let help = place.aquifer(["--help"]).exits(0);
    for command in ["run", "status", "results", "explain", "forget", "simulate"] {
        assert!(stdout(&help).contains(command), "{command}: {}", stdout(&help));
    }
    let version = place.aquifer(["--version"]).exits(0);
    assert!(stdout(&version).contains(env!("CARGO_PKG_VERSION")), "{version:?}");
}

#[test]
fn o5_prompts_and_answers_are_never_among_the_messages() {
    let place = Place::new();
    let secret = "the-word-that-must-not-be-said";
    place.write_lines(
        "demo.jsonl",
        &[json!({ "id": "a", "prompt": secret }), json!({ "id": "b", "prompt": secret, "colour": 1 })],
    );
    let mut command = place.command(["run", "demo.jsonl", "--simulate"]);
    command.env("RUST_LOG", "debug");
    let ended = crate::support::Running::start(command).finish().exits(3);
    assert!(!ended.stderr.contains(secret), "{}", ended.stderr);
    let answer = place.results().iter().find_map(|result| result["text"].as_str().map(str::to_owned)).unwrap();
    let some: String = answer.chars().take(40).collect();
    assert!(!ended.stderr.contains(&some), "{}", ended.stderr);
}

#[test]
fn what_is_no_terminal_gets_plain_lines() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 20);
    for colour in [None, Some(("NO_COLOR", "1"))] {
        let mut command = place.command(["run", "demo.jsonl", "--simulate"]);
        command.envs(colour);
        let ended = crate::support::Running::start(command).finish().exits(0);
        assert!(!ended.stderr.contains(['\u{1b}', '\r']), "{:?}", ended.stderr);
        assert!(ended.stderr.contains("20"), "it says how many: {}", ended.stderr);
        std::fs::remove_dir_all(place.path(".aquifer")).unwrap();
        std::fs::remove_file(place.path("results.jsonl")).unwrap();
    }
}

#[test]
fn r13_the_endpoints_file_lies_beside_the_configuration_that_names_it() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 3);
    std::fs::create_dir(place.path("conf")).unwrap();
    let list = |region: &str, prefix: &str| json!([{ "region": region, "region_profile_prefix": prefix }]).to_string();
    place.write("conf/list.conf", list("eu-west-3", "eu"));
    place.write("list.conf", list("us-east-2", "us"));
    let model = "[[model]]\nname = 'm'\nid = 'vendor.m'\n";
    place.write("conf/aquifer.toml", format!("{model}[routing]\nendpoints_file = 'list.conf'\n"));
    let called = |place: &Place| {
        let results = place.results();
        assert_eq!(results.len(), 3);
        let mut called: Vec<_> = results.iter().map(|r| (r["region"].clone(), r["model_used"].clone())).collect();
        called.dedup();
        called
    };

    place.aquifer(["run", "demo.jsonl", "--simulate", "--config", "conf/aquifer.toml", "--model", "m"]).exits(0);
    assert_eq!(called(&place), [("eu-west-3".into(), "eu.vendor.m".into())]);

    // Without a configuration it is named by the environment, and lies in the working directory.
    let mut command = place.command(["run", "demo.jsonl", "--simulate", "--batch", "other", "--model", "nova-lite"]);
    command.env("AQUIFER_ROUTING_ENDPOINTS_FILE", "list.conf");
    std::fs::remove_file(place.path("results.jsonl")).unwrap();
    crate::support::Running::start(command).finish().exits(0);
    assert_eq!(called(&place), [("us-east-2".into(), "us.amazon.nova-lite-v1:0".into())]);
}

#[test]
fn an_endpoints_file_that_is_not_there_is_named_before_anything_is_queued() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 1);
    place.write("aquifer.toml", "[routing]\nendpoints_file = 'lists/none.conf'\n");
    let ended = place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(2);
    let said = "aquifer.toml: `routing.endpoints_file` must be the path of a file with a JSON list of endpoints, found \
                \"lists/none.conf\": cannot read lists/none.conf: ";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    place.assert_nothing_queued();
}
