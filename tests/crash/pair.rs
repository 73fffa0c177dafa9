//! Two processes on one state directory and one input: one is killed, one sleeps past its lease.

use std::time::{Duration, Instant};

use rand::RngExt as _;

use crate::books::{assert_complete, is_at_rest, recorded_by};
use crate::relay::Log;
use crate::support::Place;
use crate::world::{Life, Service, configure, dice, moment};

const JOBS: usize = 500;
const KILLS: usize = 10;
const SLOTS: usize = 16;

#[test]
fn d2_f3_two_processes_share_a_run_while_one_or_the_other_is_killed() {
    let mut dice = dice("two_processes");
    let place = Place::new();
    place.write_jobs("demo.jsonl", JOBS);
    configure(&place, &format!("slots = {SLOTS}\nlease = \"10m\""));
    let service = Service::start(&place, "2s");
    let outputs = ["one.jsonl", "two.jsonl"];
    let start = |which: usize| {
        let life = Life::start(&place, &["run", "demo.jsonl", "-o", outputs[which]], &service);
        // One after the other, so that the lives are numbered as the ledger numbers its processes.
        life.until_asked();
        life
    };

    let mut lives = vec![(1, start(0)), (2, start(1))];
    let mut dead = Vec::new();
    for kill in 1..=KILLS {
        let which = dice.random_range(0..lives.len());
        std::thread::sleep(moment(&mut dice, 0..2_000));
        let (epoch, life) = lives.remove(which);
        dead.push((epoch, life.kill()));
        if kill < KILLS {
            lives.insert(which, (kill + 2, start(which)));
        }
    }
    // Nobody comes in the place of the last one: who is left takes over at once, and does not wait for a lease.
    let began = Instant::now();
    let (epoch, left) = lives.remove(0);
    let (ended, log) = left.finish();
    ended.exits(0);
    assert!(began.elapsed() < Duration::from_secs(500), "{:?}", began.elapsed());
    let mut logs: Vec<(usize, Log, usize)> = vec![(epoch, log, 0)];
    logs.extend(dead.into_iter().map(|(epoch, dead)| (epoch, dead.bury(), SLOTS)));

    let (made, silence) = Life::start(&place, &["run", "demo.jsonl", "-o", "one.jsonl"], &service).finish();
    made.exits(0);
    let (again, more_silence) = Life::start(&place, &["run", "demo.jsonl", "-o", "two.jsonl"], &service).finish();
    again.exits(0);
    assert_eq!(silence.requests.len() + more_silence.requests.len(), 0, "whoever comes after only copies");

    let results = assert_complete(&place, "demo", JOBS, &outputs);
    let recorded = recorded_by(&place);
    let (mut requests, mut lost) = (0, 0);
    for (epoch, log, held) in logs {
        let unrecorded = log.requests.len() - recorded.get(&epoch).copied().unwrap_or(0);
        assert!(unrecorded <= held, "life {epoch}: {unrecorded} calls without a record, {held} slots held");
        requests += log.requests.len();
        lost += unrecorded;
    }
    println!("{JOBS} jobs, {KILLS} kills, {SLOTS} slots each: {requests} requests, {lost} for slots held at the kills");
    assert_eq!(requests, JOBS + lost);
    let counted: u64 = results.iter().map(|result| result["model_calls"].as_u64().unwrap()).sum();
    let counted = usize::try_from(counted).unwrap();
    assert!((requests..=requests + KILLS * SLOTS).contains(&counted), "{counted} on record, {requests} made");
    assert_eq!(service.finish().answered, requests);
}

#[test]
fn d3_f2_a_process_that_slept_past_its_lease_writes_nothing_over_what_the_next_one_recorded() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 12);
    configure(&place, "slots = 4\nlease = \"2s\"");
    let service = Service::start(&place, "1s");
    let sleeper = Life::start(&place, &["run", "demo.jsonl", "-o", "one.jsonl"], &service);
    loop {
        sleeper.relay.until("all slots at work", |log| log.requests.len() == log.answers + 4);
        sleeper.signal("STOP");
        // Asleep in the middle of a write it would hold everybody up; that is another test.
        if is_at_rest(&place) {
            break;
        }
        sleeper.signal("CONT");
    }
    let asleep =
        sleeper.relay.until("its calls to be answered", |log| log.answers == log.requests.len()).requests.len();
    let (ended, log) = Life::start(&place, &["run", "demo.jsonl", "-o", "two.jsonl"], &service).finish();
    ended.exits(0);
    let before = place.read("two.jsonl");
    assert!(log.requests.len() >= 4, "it took over what the sleeper held");
    sleeper.signal("CONT");
    let (woken, log) = sleeper.finish();
    woken.exits(0);
    assert_eq!(log.requests.len(), asleep, "awake, it asks for nothing more");
    assert_complete(&place, "demo", 12, &["one.jsonl", "two.jsonl"]);
    assert_eq!(place.read("two.jsonl"), before);
    let (again, _) = Life::start(&place, &["run", "demo.jsonl", "-o", "two.jsonl"], &service).finish();
    again.exits(0);
    assert_eq!(place.read("two.jsonl"), before, "what was recorded stands");
}
