//! Killed while it forgets: what is forgotten is forgotten wholly, at the latest by the next process.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rand::RngExt as _;

use crate::support::{Place, Running, assert_all_succeeded};
use crate::world::dice;

const JOBS: usize = 2_500;
const STATE: &str = ".aquifer/simulated";

#[test]
fn d2_a_kill_while_it_forgets_leaves_a_whole_batch_or_one_that_the_next_process_purges() {
    let mut dice = dice("forget");
    let place = Place::new();
    place.write_jobs("demo.jsonl", JOBS);
    place.write("instant.toml", "[latency]\nconstant = \"0s\"\nper_output_token = \"0s\"\n[answer]\nmean = 20.0\n");
    let run = ["run", "demo.jsonl", "--simulate=instant.toml", "--json"];
    place.aquifer(run).exits(0);
    copy(&place, ".aquifer", "kept");

    let forget = ["forget", "demo", "--state", STATE];
    let began = Instant::now();
    place.aquifer(forget).exits(0);
    let whole = began.elapsed();
    assert_forgotten(&place);

    let (mut untouched, mut halfway, mut again_done) = (0, 0, 0);
    for round in 0..16 {
        copy(&place, "kept", ".aquifer");
        let mut running = Running::start(place.command(forget));
        // The first ones at once: before anything is marked, whatever else the machine did while `whole` was measured.
        let is_at_once = round < 3;
        if !is_at_once {
            std::thread::sleep(dice.random_range(Duration::ZERO..whole));
        }
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        drop(running);
        if is_at_once || dice.random_bool(0.7) {
            // Somebody asks again: it is done now, or had been.
            let again = place.aquifer(forget);
            assert!(again.code == 0 || again.stderr.contains("no batch is called"), "{again:?}");
            again_done += usize::from(again.code == 0);
            assert_forgotten(&place);
        } else {
            let summary = place.aquifer(run).exits(0).json();
            let calls = usize::try_from(summary["model_calls"].as_u64().unwrap()).unwrap();
            assert!([0, JOBS].contains(&calls), "all of it was there, or nothing: {calls}");
            if calls == 0 {
                untouched += 1
            } else {
                halfway += 1
            }
            assert_all_succeeded(&place.results(), JOBS);
        }
    }
    println!("forgetting takes {whole:?}; of the reruns {untouched} found everything and {halfway} nothing");
    assert!(again_done > 0, "no kill was early enough to leave anything to forget");
}

/// No row, no file, and not a word of any prompt in the whole state directory.
fn assert_forgotten(place: &Place) {
    let said = place.aquifer(["status", "demo", "--json", "--state", STATE]);
    assert_eq!(said.code, 2, "{said:?}");
    for file in place.files_below(STATE) {
        let content = std::fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&content);
        assert!(!text.contains("Summarise review number"), "{} holds a prompt", file.display());
        assert!(!text.contains("\"stop_reason\""), "{} holds an answer", file.display());
    }
}

fn copy(place: &Place, from: &str, to: &str) {
    let to = place.path(to);
    if Path::new(&to).exists() {
        std::fs::remove_dir_all(&to).unwrap();
    }
    assert!(Command::new("cp").arg("-a").arg(place.path(from)).arg(to).status().unwrap().success());
}
