//! SIGTERM while all slots are at work.

use std::time::{Duration, Instant};

use crate::books::assert_complete;
use crate::ears::Ears;
use crate::support::sum;
use crate::world::{World, answers, calls, stop_all, until};

const JOBS: usize = 250;
const DRAIN: Duration = Duration::from_secs(10);

#[test]
fn d10_f12_sigterm_under_load_finishes_what_is_paid_for_hands_back_the_rest_and_wastes_no_claim() {
    let world = World::new("2s");
    world.configure("", &format!("slots = 32\ndrain = \"{}s\"", DRAIN.as_secs()));
    let ears = Ears::open(&world);
    world.enqueue(JOBS);
    let alive = vec![world.worker(), world.worker(), world.worker()];
    until("answers", || answers(&alive) >= 40);
    let told = Instant::now();
    let mut logs = stop_all(alive);
    let took = told.elapsed();
    assert!(took <= DRAIN, "stopped after {took:?}");

    let (rows, ended) = (world.rows(), world.ended());
    assert!(rows.values().all(|row| row.state != "running"), "nobody holds what nobody works: {rows:?}");
    assert!(!rows.values().any(|row| row.suspicion), "a claim that was handed back speaks against no job");
    assert!(!ended.is_empty() && ended.len() < JOBS, "stopped in the middle: {}", ended.len());
    let called = calls(&logs);
    assert!(called.keys().all(|job| ended.contains(job)), "what was paid for is on record");
    let left = (JOBS - ended.len()) as u64;
    // A message that came although its model had enough of them was handed back for a few seconds later.
    let back = Instant::now();
    until("all to be handed back", || world.depth().in_flight == 0);
    assert!(back.elapsed() <= DRAIN, "nobody waits for a lease: {:?}", back.elapsed());
    let depth = world.depth();
    // The message that seals the batch may be among them, or gone.
    assert!((left..=left + 1).contains(&depth.ready), "{depth:?}, {left} left");
    assert_eq!(depth.dead, 0, "{depth:?}");

    let next = vec![world.worker()];
    let heard = ears.hear(&world, JOBS);
    world.until_queue_is_empty();
    logs.extend(stop_all(next));
    assert!(calls(&logs).values().all(|calls| *calls == 1), "nothing was called twice");
    let results = assert_complete(&world, &heard, JOBS);
    assert!((sum(&results, "model_calls") - JOBS as f64).abs() < f64::EPSILON);
    println!("three workers at work stopped in {took:?}: {} of {JOBS} jobs ended, {left} left", ended.len());
}
