//! What a person is told before anything is spent.

use serde_json::{Value, json};

use crate::support::{Place, SIMULATED, job_ids};

fn plan(place: &Place, more: &[&str]) -> Value {
    let arguments = ["plan", "demo.jsonl", "--simulate", "--json"].iter().chain(more).copied();
    crate::support::Running::start(place.command(arguments)).finish().exits(0).json()
}

/// One small model: so many tokens a minute, counted as told.
fn config(place: &Place, tokens_per_minute: u64) {
    place.write(
        "aquifer.toml",
        format!(
            "[[model]]\nname = 'one'\nid = 'vendor.one-v1:0'\ncounting = 'sliding'\n\
             tokens_per_minute = {tokens_per_minute}\nprice = {{ input = 1.0, output = 10.0 }}\n\
             [[endpoint]]\nregion = 'us-east-1'\n"
        ),
    );
}

#[test]
fn a_plan_names_jobs_tokens_price_time_and_the_quota_that_binds_and_sends_nothing() {
    let place = Place::new();
    config(&place, 1_000);
    place.write_jobs("demo.jsonl", 40);
    let plan = plan(&place, &["--output-tokens", "50"]);
    assert_eq!(plan["jobs"], 40);
    assert_eq!(plan["output_tokens"], 2_000);
    let input = plan["input_tokens"].as_u64().unwrap();
    let cost = (input as f64 + 20_000.0) / 1e6;
    assert!((plan["cost_usd"].as_f64().unwrap() - cost).abs() < 1e-6, "{plan}");
    assert!((plan["batch_cost_usd"].as_f64().unwrap() - cost / 2.0).abs() < 1e-6, "{plan}");
    // Some 70 tokens a job and 1,000 a minute: two whole minutes are waited for.
    assert!((110..=190).contains(&plan["finish_s"].as_u64().unwrap()), "{plan}");
    assert!(plan["binding"].as_str().unwrap().contains("1000 tokens a minute"), "{plan}");
    assert!(plan["doubled_quota"]["finish_s"].as_u64() < plan["finish_s"].as_u64(), "{plan}");
    assert_eq!(plan["max_tokens"]["wasted_share"], json!(0.5));
    assert_eq!(plan["lanes"][0]["lane"], "us-east-1/vendor.one-v1:0");
    assert!(plan["lanes"][0]["peak_tokens_per_minute"].as_u64().unwrap() <= 1_000, "{plan}");
    place.assert_nothing_queued();
}

#[test]
fn answers_of_earlier_runs_tell_how_long_the_next_ones_are() {
    let place = Place::new();
    place.write_jobs("pilot.jsonl", 60);
    place.write_jobs("demo.jsonl", 500);
    let unknown = plan(&place, &[]);
    assert_eq!(unknown["output_tokens"], 50_000, "as long as the cap");
    place.write("scenario.toml", "[latency]\nconstant = '10ms'\n[answer]\nmean = 30\nspread = 5\n");
    place.aquifer(["run", "pilot.jsonl", "--simulate=scenario.toml"]).exits(0);
    let results = place.results();
    assert_eq!(crate::support::sorted(&results, "id"), job_ids(60));
    let mean = |field: &str| results.iter().map(|r| r["usage"][field].as_u64().unwrap()).sum::<u64>() as f64 / 60.0;
    let known = plan(&place, &[]);
    assert_eq!(known["models"][0]["history_calls"], 60);
    for (field, each) in [("output_tokens", mean("output_tokens")), ("input_tokens", mean("input_tokens"))] {
        let planned = known[field].as_f64().unwrap() / 500.0;
        assert!((planned / each - 1.0).abs() < 0.1, "{field}: {planned} planned, {each} a job before");
    }
    assert!(place.path(SIMULATED).exists());
}

/// The premise: half of the answers were cut at caps of their own, which were taken for whole lengths; the plan for the same
/// jobs was 14 % too cheap.
#[test]
fn answers_that_were_cut_at_small_caps_do_not_make_those_of_large_ones_look_short() {
    let place = Place::new();
    let line = |number: usize| {
        let cap = [30, 300][number % 2];
        json!({ "id": format!("job-{number}"), "prompt": "Say how it went", "max_tokens": cap })
    };
    place.write_lines("demo.jsonl", &(0..200).map(line).collect::<Vec<_>>());
    place.write("scenario.toml", "[latency]\nconstant = '10ms'\n[answer]\nmean = 60\nspread = 15\n");
    place.aquifer(["run", "demo.jsonl", "--simulate=scenario.toml"]).exits(0);
    let results = place.results();
    let used: u64 = results.iter().map(|result| result["usage"]["output_tokens"].as_u64().unwrap()).sum();
    assert!(results.iter().any(|result| result["stop_reason"] == "max_tokens"), "some were to be cut");
    let planned = plan(&place, &[])["output_tokens"].as_u64().unwrap();
    assert!(planned.abs_diff(used) * 20 <= used, "{planned} planned, {used} used before");
}

#[test]
fn refused_lines_and_deadlines_are_told() {
    let place = Place::new();
    config(&place, 2_000);
    let deadline = "2999-01-01T00:00:00Z";
    place.write_lines(
        "demo.jsonl",
        &[
            json!({ "id": "a", "prompt": "Hello", "deadline": deadline }),
            json!({ "id": "b", "prompt": "Hello", "max_tokens": 5_000 }),
            json!({ "id": "c", "prompt": "Hello", "deadline": "2001-01-01T00:00:00Z" }),
        ],
    );
    let ended = place.aquifer(["plan", "demo.jsonl", "--simulate", "--json"]).exits(3).says(&["refused demo.jsonl:2"]);
    let plan = ended.json();
    assert_eq!((&plan["jobs"], &plan["rejected"]), (&json!(1), &json!(2)));
    assert_eq!(plan["deadlines"], json!({ "jobs": 1, "late": 0 }));
}

#[test]
fn in_words_it_says_what_the_figures_rest_on() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 10);
    let ended = place.aquifer(["plan", "demo.jsonl", "--simulate"]).exits(0);
    let said = String::from_utf8(ended.stdout).unwrap();
    for words in ["jobs           10", "$", "no quota binds", "as long as their cap", "assumed", "nothing was sent"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_fleet_that_cannot_be_asked_is_planned_for_all_the_same_and_it_is_said_why() {
    let place = Place::new();
    place.write(
        "aquifer.toml",
        "backend = 'aws'\n[aws]\nqueue_url = 'https://sqs.us-east-1.amazonaws.com/1/jobs'\n\
         dead_letter_url = 'https://sqs.us-east-1.amazonaws.com/1/dead'\nbucket = 'results'\n\
         topic_arn = 'arn:aws:sns:us-east-1:1:ends'\n[[model]]\nname = 'one'\nid = 'vendor.one-v1:0'\n\
         max_tokens = 100\nprice = { input = 1.0, output = 10.0 }\n[[endpoint]]\nregion = 'us-east-1'\n",
    );
    place.write_jobs("demo.jsonl", 40);
    // Nobody listens on that port.
    let unreachable = ("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
    let keys = [("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "none")];
    let region = ("AWS_REGION", "us-east-1");
    for (environment, why) in [
        (vec![], "no region"),
        (vec![region], "no AWS credentials"),
        ([vec![region, unreachable], keys.to_vec()].concat(), "reading what is known of lanes"),
    ] {
        let mut command = place.command(["plan", "demo.jsonl", "--json"]);
        command.envs(environment);
        let began = std::time::Instant::now();
        let ended = crate::support::Running::start(command).finish().exits(0);
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{why}: {:?}", began.elapsed());
        let said = &ended.stderr;
        assert!(said.starts_with("note: ") && said.contains(why) && said.lines().count() == 1, "{said}");
        let plan = ended.json();
        assert!(plan["history_unknown"].as_str().unwrap().contains(why), "{plan}");
        assert_eq!(plan["output_tokens"], 4_000, "as long as the cap: {plan}");
        let parts =
            ["sqs_usd", "dynamodb_usd", "s3_usd", "sns_usd"].map(|part| plan["plumbing"][part].as_f64().unwrap());
        let total = plan["plumbing_usd"].as_f64().unwrap();
        assert!((parts.iter().sum::<f64>() - total).abs() < 1e-9 && parts.iter().all(|part| *part > 0.0), "{plan}");
    }
    let simulated = plan(&place, &[]);
    assert_eq!((&simulated["plumbing_usd"], &simulated["history_unknown"]), (&Value::Null, &Value::Null));
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = String::from_utf8(place.aquifer(["completions", shell]).exits(0).stdout).unwrap();
        for word in ["explain", "forget", "output-tokens"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let page = String::from_utf8(place.aquifer(["man"]).exits(0).stdout).unwrap();
    assert!(page.contains(".TH aquifer 1"), "{page}");
    place.aquifer(["man", "--all", "pages"]).exits(0);
    for page in ["aquifer.1", "aquifer-run.1", "aquifer-plan.1"] {
        assert!(place.path("pages").join(page).exists(), "{page}");
    }
}
