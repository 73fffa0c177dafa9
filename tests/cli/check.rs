//! `check` on one machine: what is wrong with a state directory or a configuration, each with its remedy.

use serde_json::Value;

use crate::support::{Place, Running, SIMULATED};

/// The findings of a check that ends with this status; nothing of AWS is there but a region that cannot be reached.
fn check(place: &Place, arguments: &[&str], code: i32) -> Vec<Value> {
    let mut command = place.command(["check", "--json"].iter().chain(arguments));
    command.env("AWS_REGION", "us-east-1").env("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "y");
    let told = Running::start(command).finish().exits(code).json();
    told["findings"].as_array().unwrap().clone()
}

/// What is said of one subject, by severity.
fn of(findings: &[Value], severity: &str, subject: &str) -> Vec<String> {
    let meant = findings.iter().filter(|found| found["severity"] == severity && found["subject"] == subject);
    meant.map(|found| found["what"].as_str().unwrap().to_owned()).collect()
}

fn worked() -> Place {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 60);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    place
}

#[test]
fn without_a_configuration_it_says_what_holds_and_that_nothing_can_be_called() {
    let place = Place::new();
    let findings = check(&place, &[], 2);
    assert_eq!(of(&findings, "error", "endpoint").len(), 1, "{findings:?}");
    assert_eq!(of(&findings, "error", "state directory"), [""; 0]);
    assert!(of(&findings, "ok", "configuration")[0].contains("no aquifer.toml here"), "{findings:?}");
    assert!(findings.iter().all(|found| found["severity"] == "ok" || found["remedy"].is_string()), "{findings:?}");
    assert!(!place.path(".aquifer").exists(), "nothing is made");
    let said = place.aquifer(["check", "--create"]).exits(2);
    assert!(said.stderr.contains("backend = \"aws\""), "{}", said.stderr);
}

#[test]
fn a_sound_state_directory_is_told_from_a_damaged_one() {
    let place = worked();
    let findings = check(&place, &["--state", SIMULATED], 2);
    assert_eq!(of(&findings, "error", "state database"), [""; 0]);
    assert!(of(&findings, "ok", "state database").iter().any(|what| what.contains("quick check")), "{findings:?}");
    assert!(of(&findings, "ok", "results")[0].starts_with("60 "), "{findings:?}");

    for file in place.files_below(&format!("{SIMULATED}/bodies")) {
        std::fs::remove_file(file).unwrap();
    }
    let findings = check(&place, &["--state", SIMULATED], 2);
    assert!(of(&findings, "error", "results")[0].starts_with("60 of 60"), "{findings:?}");

    let database = format!("{SIMULATED}/aquifer.db");
    place.write(&database, "this is no database at all, and never was one".repeat(100));
    let findings = check(&place, &["--state", SIMULATED], 2);
    assert_eq!(of(&findings, "error", "state database").len(), 1, "{findings:?}");
}

#[test]
fn a_state_directory_that_is_none_is_an_error() {
    let place = Place::new();
    place.write("taken", "");
    let findings = check(&place, &["--state", "taken"], 2);
    assert!(of(&findings, "error", "state directory")[0].contains("no directory"), "{findings:?}");
}

#[test]
fn f24_a_cap_far_beyond_the_answers_and_one_beyond_the_quota_are_found() {
    let place = worked();
    let name = &place.results()[0]["model"];
    let model = |cap: u32, quota: u32| {
        format!("[[model]]\nname = {name}\nid = \"m.micro-v1:0\"\nmax_tokens = {cap}\ntokens_per_minute = {quota}\n")
    };
    place.write("aquifer.toml", model(40_000, 50_000));
    let findings = check(&place, &["--state", SIMULATED], 2);
    assert!(of(&findings, "advice", "model").iter().any(|what| what.contains("max_tokens is 40000")), "{findings:?}");
    place.write("aquifer.toml", model(40_000, 30_000));
    let findings = check(&place, &[], 2);
    assert!(of(&findings, "error", "model")[0].contains("no job fits"), "{findings:?}");
    assert!(of(&findings, "advice", "model").iter().any(|what| what.contains("no price")), "{findings:?}");
}

#[test]
fn calls_are_made_only_when_asked_for_and_say_what_they_cost() {
    let place = Place::new();
    let mut simulator = Running::start(place.command(["simulate", "--listen", "127.0.0.1:0"]));
    let said = simulator.until_said_with("http://");
    let url =
        said.split_whitespace().find(|word| word.starts_with("http://")).unwrap().trim_end_matches([',', '.', ';']);
    place.write(
        "aquifer.toml",
        "[[model]]\nname = \"nova\"\nid = \"amazon.nova-micro-v1:0\"\ntokens_per_minute = 200000\nprice = { input = 1.0, output = 5.0 }\n",
    );
    let check = |arguments: &[&str]| {
        let mut command = place.command(["check", "--json"].iter().chain(arguments));
        command.env("AWS_REGION", "us-east-1").env("AWS_ENDPOINT_URL", url);
        command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "y");
        let told = Running::start(command).finish().exits(0).json();
        of(told["findings"].as_array().unwrap(), "ok", "model access").remove(0)
    };
    assert!(check(&[]).starts_with("not tried"));
    let called = check(&["--call-models"]);
    assert!(called.contains("`nova` answers") && called.contains('$'), "{called}");
}

#[test]
fn an_agent_that_cannot_be_looked_at_is_named_with_what_helps_and_is_never_asked() {
    let place = Place::new();
    place.write(
        "aquifer.toml",
        "[[model]]\nname = 'helper'\nid = 'agent/AGENT12345/TSTALIASID'\n[[endpoint]]\nregion = 'us-west-2'\n",
    );
    let findings = check(&place, &["--call-models"], 2);
    let named = of(&findings, "advice", "agent");
    assert!(named.len() == 1 && named[0].contains("`helper` as us-west-2/agent/AGENT12345/TSTALIASID"), "{findings:?}");
    let remedy = findings.iter().find(|found| found["subject"] == "agent").unwrap()["remedy"].as_str().unwrap();
    assert!(remedy.contains("bedrock:InvokeAgent") && remedy.contains("residency"), "{remedy}");
    assert!(of(&findings, "ok", "model access").is_empty(), "nothing was called: {findings:?}");
}
