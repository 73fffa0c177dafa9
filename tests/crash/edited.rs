//! Killed while it takes in, seals and projects an input that was edited since.

use std::collections::BTreeSet;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};

use crate::books::audit;
use crate::support::Place;
use crate::world::{Life, Service, configure, dice, moment};

#[test]
fn d2_an_input_that_is_edited_between_kills_ends_with_exactly_its_own_lines_and_pays_for_no_other() {
    let mut dice = dice("edited");
    let place = Place::new();
    configure(&place, "slots = 32");
    let service = Service::start(&place, "300ms");
    let run = ["run", "demo.jsonl", "--json"];
    let mut dead = Vec::new();
    for _ in 0..12 {
        let numbers = edit(&mut dice, 1_500);
        write(&place, &numbers);
        let life = Life::start(&place, &run, &service);
        life.sleep_until_aged(moment(&mut dice, 50..1_000));
        dead.push((life.kill(), numbers));
    }
    let numbers = edit(&mut dice, 300);
    write(&place, &numbers);
    let (ended, log) = Life::start(&place, &run, &service).finish();
    let summary = ended.exits(0).json();
    assert_eq!(summary["succeeded"], numbers.len(), "{summary}");
    let mut told: Vec<usize> = place.results().iter().map(number).collect();
    told.sort_unstable();
    let mut expected = numbers.clone();
    expected.sort_unstable();
    assert_eq!(told, expected, "the results are the lines of the input");
    let called: Vec<usize> = log.requests.iter().map(|request| request.job).collect();
    let wanted: BTreeSet<usize> = numbers.into_iter().collect();
    assert!(called.iter().all(|job| wanted.contains(job)), "nothing was called that was taken out of the input");
    let once: BTreeSet<usize> = called.iter().copied().collect();
    assert_eq!(once.len(), called.len(), "nothing was called twice in one life");
    for (corpse, numbers) in dead {
        let wanted: BTreeSet<usize> = numbers.into_iter().collect();
        for request in corpse.bury().requests {
            assert!(wanted.contains(&request.job), "job {} was not in the input of that life", request.job);
        }
    }
    let status = place.aquifer(["status", "demo", "--json"]).exits(0).json();
    assert_eq!((&status["queued"], &status["running"]), (&0.into(), &0.into()), "nothing waits for ever: {status}");
    service.finish();
}

#[test]
fn what_a_killed_process_held_is_not_called_once_the_input_has_lost_it() {
    let place = Place::new();
    configure(&place, "slots = 8");
    let service = Service::start(&place, "3s");
    write(&place, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let life = Life::start(&place, &["run", "demo.jsonl"], &service);
    let log = life.relay.until("a call for each", |log| log.requests.len() == 8);
    let dead = life.kill();
    // The very first call of a lane goes alone and is answered before the others; the last one is open.
    let kept = log.requests.last().unwrap().job;
    let recorded = audit(&place, &mut BTreeSet::new()).finals;
    assert!(recorded <= 1, "{recorded} on record");
    write(&place, &[kept, 9]);
    let (ended, log) = Life::start(&place, &["run", "demo.jsonl", "--json"], &service).finish();
    let summary = ended.exits(0).json();
    let mut called: Vec<usize> = log.requests.iter().map(|request| request.job).collect();
    called.sort_unstable();
    assert_eq!(called, [kept, 9]);
    let dollars = |field: &str| summary[field].as_f64().unwrap();
    assert!(dollars("committed_usd") > dollars("cost_usd"), "calls that nobody saw end still count: {summary}");
    let status = place.aquifer(["status", "demo", "--json"]).exits(0).json();
    let told = Value::from(2 + recorded);
    assert_eq!((&status["total"], &status["succeeded"]), (&told, &told), "what is paid for stays: {status}");
    dead.bury();
    service.finish();
}

/// So many lines, some of them new, in an order of their own.
fn edit(dice: &mut StdRng, lines: usize) -> Vec<usize> {
    let mut numbers: Vec<usize> = (1..=4_000).collect();
    numbers.shuffle(dice);
    numbers.truncate(dice.random_range(lines / 2..=lines));
    numbers
}

/// Lines without ids: what a line says is what it is.
fn write(place: &Place, numbers: &[usize]) {
    let line = |number: &usize| json!({ "prompt": format!("Summarise review number {number}."), "metadata": { "number": number } });
    place.write_lines("demo.jsonl", &numbers.iter().map(line).collect::<Vec<_>>());
}

fn number(result: &Value) -> usize {
    assert_eq!(result["status"], "succeeded", "{result}");
    usize::try_from(result["metadata"]["number"].as_u64().unwrap()).unwrap()
}
