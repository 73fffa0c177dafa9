//! `aquifer status --watch`, at a terminal and where there is none.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Place, SIMULATED, json_lines};

const ENTERED: &str = "\x1b[?1049h";
const LEFT: &str = "\x1b[?1049l";
const CURSOR_SHOWN: &str = "\x1b[?25h";
const RED: &str = "\x1b[38;5;9m";

/// It ends at once; who waits for a line to write would never.
const AT_ONCE: Duration = Duration::from_secs(30);

/// A batch in which every job has ended, one without success.
fn worked() -> Place {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 7);
    let mut lines = place.read("demo.jsonl");
    lines.extend(b"{\"id\": \"broken\"\n");
    place.write("demo.jsonl", lines);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(3);
    place
}

/// What a person does to `status --watch`, and what comes of it.
fn at_a_terminal(place: &Place, steps: &[&str], environment: &[(&str, &str)]) -> Value {
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/at_a_terminal.py")).args(steps).arg("--");
    command.arg(env!("CARGO_BIN_EXE_aquifer")).args(["status", "--watch", "--state", SIMULATED]);
    command.current_dir(place.path("")).env("TERM", "xterm-256color").env_remove("NO_COLOR");
    command.envs(environment.iter().copied());
    let ended = command.stdin(Stdio::null()).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    serde_json::from_slice(&ended.stdout).unwrap()
}

fn seen(told: &Value, step: usize) -> &str {
    told["steps"][step]["seen"].as_str().unwrap()
}

/// The terminal is as it was, and whatever was on it before is there again.
fn is_given_back(told: &Value, status: i64) {
    let all = told["all"].as_str().unwrap();
    assert_eq!((&told["restored"], &told["status"]), (&Value::Bool(true), &Value::from(status)), "{all:?}");
    assert_eq!((all.matches(ENTERED).count(), all.matches(LEFT).count()), (1, 1), "{all:?}");
    assert!(all.rfind(LEFT) > all.rfind("demo") && all.contains(CURSOR_SHOWN), "{all:?}");
}

#[test]
fn o4_a_terminal_shows_the_table_until_a_key_says_enough() {
    let place = worked();
    for key in ["press:q", "press:\\x1b", "press:\\x03"] {
        let told = at_a_terminal(&place, &["size:24x120", "see:q to quit", key, "end"], &[]);
        let table = seen(&told, 0);
        assert!(table.contains(ENTERED) && table.contains("BATCH"), "{table:?}");
        assert!(table.contains("demo (simulated)") && table.contains("done"), "{table:?}");
        is_given_back(&told, 0);
    }
}

#[test]
fn o4_a_resize_is_drawn_at_once_for_the_size_that_it_now_has() {
    let place = worked();
    let steps = ["size:24x120", "see:q to quit", "size:40x60", "see:\x1b[40;1H", "press:q", "end"];
    let told = at_a_terminal(&place, &steps, &[]);
    assert!(!seen(&told, 0).contains("\x1b[40;1H") && seen(&told, 0).contains("\x1b[24;1H"), "{told}");
    assert!(seen(&told, 2).contains("demo (simulated)"), "{told}");
    is_given_back(&told, 0);
}

#[test]
fn o4_it_is_looked_up_again_while_it_is_shown() {
    let place = worked();
    // Nothing is pressed, and the signal changes nothing: what changes is the time of the look.
    let steps = ["size:24x120", "see:q to quit", "signal:CONT", "see:as of", "press:q", "end"];
    let told = at_a_terminal(&place, &steps, &[]);
    let all = told["all"].as_str().unwrap();
    let seconds: Vec<&str> = all.split("as of ").skip(1).map(|text| &text[.."2026-11-22T00:07:20".len()]).collect();
    assert!(seconds.len() >= 2 && seconds.first() < seconds.last(), "{seconds:?}");
}

#[test]
fn o4_a_signal_gives_the_terminal_back() {
    let place = worked();
    let told = at_a_terminal(&place, &["size:24x120", "see:q to quit", "signal:TERM", "end"], &[]);
    is_given_back(&told, 0);
}

#[test]
fn o4_colours_are_left_out_for_those_who_want_none() {
    let place = worked();
    let steps = ["size:24x120", "see:q to quit", "press:q", "end"];
    let told = at_a_terminal(&place, &steps, &[]);
    assert!(told["all"].as_str().unwrap().contains(RED), "one job did not succeed: {told}");
    let told = at_a_terminal(&place, &steps, &[("NO_COLOR", "1")]);
    let all = told["all"].as_str().unwrap();
    assert!(!all.contains("\x1b[3") && all.contains("demo (simulated)"), "{all:?}");
}

#[test]
fn o4_a_terminal_that_cannot_move_its_cursor_gets_lines() {
    let place = worked();
    let steps = ["size:24x120", "see:demo (simulated): 8/8", "signal:INT", "end"];
    let told = at_a_terminal(&place, &steps, &[("TERM", "dumb")]);
    assert!(!told["all"].as_str().unwrap().contains('\x1b'), "{told}");
    assert_eq!((&told["status"], &told["restored"]), (&Value::from(0), &Value::Bool(true)));
}

/// The first line that it writes into a pipe.
fn first_line(place: &Place, arguments: &[&str]) -> String {
    let mut command = place.command(arguments);
    let mut running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(running.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let killed = Command::new("kill").args(["-TERM", &running.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let ended = running.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
    line
}

#[test]
fn o4_where_nobody_watches_it_is_a_line_and_nothing_of_a_terminal() {
    let place = worked();
    let line = first_line(&place, &["status", "--watch", "--state", SIMULATED]);
    assert!(line.starts_with("demo (simulated): 8/8 \u{b7} 1 without success \u{b7} done \u{b7} $"), "{line:?}");
    assert!(!line.contains('\x1b'), "{line:?}");
}

#[test]
fn it_ends_quietly_when_its_reader_has_seen_enough_though_nothing_more_is_to_be_said() {
    let place = worked();
    for more in [&[][..], &["--json"]] {
        let arguments = [&["status", "--watch", "--state", SIMULATED], more].concat();
        let mut running = place.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::new(running.stdout.take().unwrap());
        reader.read_line(&mut String::new()).unwrap();
        drop(reader);
        let began = Instant::now();
        let ended = running.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
        assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
    }
}

#[test]
fn o4_as_json_it_is_one_object_a_look_with_the_figures_of_status() {
    let place = worked();
    let line = first_line(&place, &["status", "demo", "--watch", "--json", "--state", SIMULATED]);
    let look: Value = serde_json::from_str(&line).unwrap();
    let status = place.aquifer(["status", "demo", "--json", "--state", SIMULATED]).exits(0);
    assert_eq!(look["batches"], Value::Array(json_lines(&status.stdout)));
    assert!(look["at"].is_string() && look["gates"].is_array() && look["queue"].is_null(), "{look}");
}

#[test]
fn o4_what_is_not_there_is_named_and_not_watched() {
    let place = worked();
    place.aquifer(["status", "nonesuch", "--watch", "--state", SIMULATED]).says(&["nonesuch"]).exits(2);
    place.aquifer(["status", "--watch", "--state", "elsewhere"]).says(&["elsewhere"]).exits(2);
}
