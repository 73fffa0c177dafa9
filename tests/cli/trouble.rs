//! What stands in the way is said before anything is queued (exit 2), or without losing anything (exit 1).

use std::path::PathBuf;

use crate::support::{Ended, Place, Running, SIMULATED, assert_all_succeeded, json_lines};

/// A configuration as for a real account.
const REAL: &str = "[[model]]\nname = \"haiku\"\nid = \"anthropic.claude-haiku-4-5-20251001-v1:0\"\n\n[[endpoint]]\nregion = \"us-west-2\"\nprimary = true\n";

fn place_with(configuration: &str) -> Place {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 3);
    place.write("aquifer.toml", configuration);
    place
}

/// Runs against what claims to be the real service, with credentials that nobody ever issued.
fn run_with_credentials(place: &Place, environment: &[(&str, &str)]) -> Ended {
    let mut command = place.command(["run", "demo.jsonl"]);
    command.env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE").env("AWS_SECRET_ACCESS_KEY", "not-a-secret");
    command.envs(environment.iter().copied());
    Running::start(command).finish()
}

#[test]
fn an_unknown_model_is_exit_2_before_anything_is_queued() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 3);
    place.aquifer(["run", "demo.jsonl", "--simulate", "--model", "nonesuch"]).exits(2).says(&["nonesuch"]);
    place.assert_nothing_queued();
}

#[test]
fn no_credentials_are_exit_2_before_anything_is_queued() {
    let place = place_with(REAL);
    place.aquifer(["run", "demo.jsonl"]).exits(2).says(&["credentials"]);
    place.assert_nothing_queued();
}

#[test]
fn no_region_is_exit_2_before_anything_is_queued() {
    let place = place_with("[[model]]\nname = \"haiku\"\nid = \"anthropic.claude-haiku-4-5-20251001-v1:0\"\n");
    run_with_credentials(&place, &[]).exits(2).says(&["region"]);
    place.assert_nothing_queued();
}

#[test]
fn an_endpoint_that_is_no_address_is_exit_2_before_anything_is_queued() {
    let place = place_with(&format!("{REAL}endpoint_url = \"no address at all\"\n"));
    run_with_credentials(&place, &[]).exits(2).says(&["endpoint_url"]);
    place.assert_nothing_queued();
}

#[test]
fn an_endpoint_where_nobody_listens_is_exit_2_before_anything_is_queued() {
    // A port that no system gives to whoever asks for any: one that was free a moment ago may be another test's by now.
    let address = "127.0.0.1:1";
    let place = place_with(&format!("{REAL}endpoint_url = \"http://{address}\"\n"));
    run_with_credentials(&place, &[]).exits(2).says(&[address]);
    place.assert_nothing_queued();
}

#[test]
fn a_configuration_with_a_fault_is_exit_2_and_names_key_value_and_bound() {
    for (line, words) in [
        ("[worker]\nslots = 0\n", ["slots", "0"]),
        ("[worker]\nslotz = 5\n", ["slotz", "unknown"]),
        ("[routing]\ncool_down = \"soon\"\n", ["cool_down", "soon"]),
        ("[routing]\nmax_attempts = -1\n", ["max_attempts", "-1"]),
    ] {
        let place = place_with(&format!("{REAL}{line}"));
        let ended = place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(2);
        for word in words {
            assert!(ended.stderr.contains(word), "{word} is not named: {}", ended.stderr);
        }
        place.assert_nothing_queued();
    }
}

#[test]
fn a_configuration_or_scenario_that_is_not_there_is_exit_2() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 3);
    place.aquifer(["run", "demo.jsonl", "--simulate", "--config", "no.toml"]).exits(2).says(&["no.toml"]);
    place.aquifer(["run", "demo.jsonl", "--simulate=no.toml"]).exits(2).says(&["no.toml"]);
    place.write("bad.toml", "colour = 1\n");
    place.aquifer(["run", "demo.jsonl", "--simulate=bad.toml"]).exits(2).says(&["colour"]);
    place.assert_nothing_queued();
}

#[test]
fn the_environment_wins_over_the_file_and_is_checked_like_it() {
    let place = place_with(REAL);
    let mut command = place.command(["run", "demo.jsonl", "--simulate"]);
    command.env("AQUIFER_WORKER_SLOTS", "none");
    Running::start(command).finish().exits(2).says(&["aquifer_worker_slots"]);
    place.assert_nothing_queued();
}

#[test]
fn a_state_directory_that_cannot_be_made_is_exit_1_and_says_which() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 3);
    place.write("taken", "a file, not a directory");
    for state in ["taken", "taken/below"] {
        place.aquifer(["run", "demo.jsonl", "--simulate", "--state", state]).exits(1).says(&["taken"]);
        assert_eq!(place.read("taken"), b"a file, not a directory");
    }
}

#[test]
fn a_results_file_that_cannot_be_written_is_said_before_anything_is_queued() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 3);
    let ended = place.aquifer(["run", "demo.jsonl", "--simulate", "-o", "no/such/folder/out.jsonl"]);
    assert!([1, 2].contains(&ended.code), "{ended:?}");
    assert!(ended.stderr.contains("no/such/folder"), "{}", ended.stderr);
    place.assert_nothing_queued();
}

/// The database of a simulated run.
fn database(place: &Place) -> PathBuf {
    let is_one = |path: &PathBuf| std::fs::read(path).unwrap().starts_with(b"SQLite format 3\0");
    let found: Vec<_> = place.files_below(".aquifer").into_iter().filter(is_one).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn a_database_of_a_newer_version_is_exit_1_and_left_as_it_is() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 3);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    let path = database(&place);
    let connection = rusqlite::Connection::open(&path).unwrap();
    let ours: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert!(ours > 0, "the database names its version");
    connection.execute_batch("PRAGMA user_version = 9999; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    let before = std::fs::read(&path).unwrap();
    place.write_jobs("demo.jsonl", 5);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(1).says(&["newer"]);
    assert_eq!(std::fs::read(&path).unwrap(), before);

    // Nothing was lost: with its version back, it goes on.
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch(&format!("PRAGMA user_version = {ours}")).unwrap();
    drop(connection);
    let summary = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!(summary["model_calls"], 2);
    assert_all_succeeded(&place.results(), 5);
}

#[test]
fn a_corrupted_database_is_exit_1_and_left_as_it_is() {
    for spoil in [
        |bytes: &mut Vec<u8>| bytes.fill(b'?'),
        |bytes: &mut Vec<u8>| bytes.iter_mut().skip(100).for_each(|byte| *byte = 0xa5),
        |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2 + 17),
    ] {
        let place = Place::new();
        place.write_jobs("demo.jsonl", 300);
        place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
        let path = database(&place);
        let results = place.read("results.jsonl");
        // Everything into the one file first, so that no write-ahead log heals it.
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        drop(connection);
        let mut bytes = std::fs::read(&path).unwrap();
        spoil(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let ended = place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(1);
        assert!(ended.stderr.contains(path.file_name().unwrap().to_str().unwrap()), "{}", ended.stderr);
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "the database was touched");
        assert_eq!(place.read("results.jsonl"), results, "the results file was touched");
    }
}

#[test]
fn f23_a_model_that_does_not_exist_is_never_an_answer() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 5);
    place.write("none.toml", "[[fault]]\nkind = \"ResourceNotFoundException\"\n");
    place.aquifer(["run", "demo.jsonl", "--simulate=none.toml"]).exits(3);
    let results = place.results();
    assert_eq!(results.len(), 5);
    for result in &results {
        assert_eq!((result["status"].as_str(), result["error"]["class"].as_str()), (Some("failed"), Some("denied")));
        assert!(result["text"].is_null(), "{result}");
    }
}

#[test]
fn f5_throttles_fail_no_job_and_use_up_no_attempt() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 20);
    place.write("throttled.toml", "[[fault]]\nkind = \"ThrottlingException\"\ncalls = \"1-2\"\n");
    place.aquifer(["run", "demo.jsonl", "--simulate=throttled.toml"]).exits(0);
    let results = place.results();
    assert_all_succeeded(&results, 20);
    assert!(results.iter().all(|result| result["attempts"] == 0), "{results:?}");
}

#[test]
fn t3_what_the_model_refuses_is_called_once_and_tried_again_only_on_demand() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 5);
    place.write("refuses.toml", "[[fault]]\nkind = \"ValidationException\"\ncalls = \"1\"\n");
    place.aquifer(["run", "demo.jsonl", "--simulate=refuses.toml"]).exits(3);
    let results = place.results();
    let failed: Vec<_> = results.iter().filter(|result| result["status"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{results:?}");
    assert_eq!((&failed[0]["error"]["class"], &failed[0]["model_calls"]), (&"invalid".into(), &1.into()));

    // A plain rerun leaves it failed; --retry-failed does not.
    let again = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(3).json();
    assert_eq!((&again["model_calls"], &again["failed"]), (&0.into(), &1.into()));
    let retried = place.aquifer(["run", "demo.jsonl", "--simulate", "--retry-failed", "--json"]).exits(0).json();
    assert_eq!((&retried["model_calls"], &retried["failed"]), (&1.into(), &0.into()));
    assert_all_succeeded(&place.results(), 5);
}

#[test]
fn d9_a_job_whose_notice_could_not_be_written_is_made_known_by_the_next_run() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 1);
    let log = place.path(SIMULATED).join("events.jsonl");
    std::fs::create_dir_all(&log).unwrap();
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(1).says(&["events.jsonl", "notice"]);
    std::fs::remove_dir(&log).unwrap();
    let summary = place.aquifer(["run", "demo.jsonl", "--simulate", "--json"]).exits(0).json();
    assert_eq!(summary["model_calls"], 0);
    let notices = json_lines(&std::fs::read(&log).unwrap());
    let kinds: Vec<_> = notices.iter().map(|notice| notice["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"job"), "{kinds:?}");
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0).says(&["nothing to do"]);
    assert_eq!(json_lines(&std::fs::read(&log).unwrap()).len(), notices.len(), "and not again");
}

#[test]
fn a_results_file_outlives_the_state_that_it_came_from() {
    let place = Place::new();
    let mut service = Running::start(place.command(["simulate", "--listen", "127.0.0.1:0"]));
    let address = service.until_said_with("http://");
    let address = address.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    let place = place_with(&format!("{REAL}endpoint_url = \"{address}\"\n"));
    run_with_credentials(&place, &[]).exits(0);
    let results = place.read("results.jsonl");
    let connection = rusqlite::Connection::open(place.path(".aquifer/aquifer.db")).unwrap();
    assert!(connection.execute("UPDATE batch SET last = 0", []).unwrap() > 0);
    drop(connection);
    // `[state] keep` is over: the batch goes, and the only copy of what was paid for must not go with it.
    run_with_credentials(&place, &[]).exits(2).says(&["results.jsonl"]);
    assert_eq!(place.read("results.jsonl"), results);
}

#[test]
fn a_collector_that_needs_no_certificates_is_sent_to_from_a_machine_that_has_none() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 2);
    place.write("none.pem", "");
    let run = |collector: &str| {
        let mut command = place.command(["run", "demo.jsonl", "--simulate"]);
        command.env("SSL_CERT_FILE", place.path("none.pem")).env("SSL_CERT_DIR", place.path("none"));
        // Nobody listens on that port.
        command.env("AQUIFER_TELEMETRY_TRACES", format!("{collector}://127.0.0.1:9"));
        Running::start(command).finish()
    };
    run("https").exits(2).says(&["certificates"]);
    run("http").exits(0).says(&["the collector at 127.0.0.1:9 takes no traces"]);
}
