//! A model whose day is used up has its jobs in the same queue as one that could run.

use std::ops::Range;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lives::MODEL;
use crate::proxy::Service;
use crate::world::{World, answers, setting, stop_all, until};

/// The one whose day is used up by a single call.
const PARKED: &str = "amazon.nova-lite-v1:0";
/// For a batch to come through by which the others are measured; the emulator and its neighbours are never twice as slow.
const SLACK: Duration = Duration::from_secs(5);

#[test]
fn q9_f16_a_model_whose_day_is_used_up_holds_up_no_other_and_its_jobs_do_not_go_round() {
    let (jobs, slots) = (setting("FLEET_JOBS", 400), setting("FLEET_SLOTS", 64));
    let scenario = format!(
        "latency = {{ constant = '300ms', per_output_token = '0s' }}\nanswer = {{ mean = 40.0 }}\n\
         [[model]]\nid = '{MODEL}'\n[[model]]\nid = '{PARKED}'\ntokens_per_day = 150\n"
    );
    let world = World::playing(&scenario);
    let parked = format!("[[model]]\nname = \"lite\"\nid = \"{PARKED}\"\nmax_tokens = 100");
    world.configure(&parked, &format!("slots = {slots}"));
    let worker = world.worker();

    let alone = worked(&world, "alone", 0..jobs);
    // Those of the other were there first.
    enqueue(&world, "parked", "lite", 2 * jobs..3 * jobs);
    until("the end of the other's day", || answers([&worker]) > jobs + 1);
    world.proxy.count_anew();
    let began = Instant::now();
    let beside = worked(&world, "beside", jobs..2 * jobs);
    let (depth, seen) = (world.depth(), world.proxy.seen());
    let entries = |operation: &str| {
        let of = seen.iter().filter(|(call, _)| call.service == Service::Sqs && call.operation == operation);
        of.map(|(_, seen)| (seen.calls, seen.entries)).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    let (receives, _) = entries("ReceiveMessage");
    let (hides, hidden) = entries("ChangeMessageVisibilityBatch");
    println!("{jobs} jobs alone in {alone:.1?}, beside {jobs} that cannot run in {beside:.1?}");
    println!(
        "in {:.1?}: {receives} receives, {hidden} messages hidden again in {hides} calls; {depth:?}",
        began.elapsed()
    );
    stop_all(vec![worker]);

    assert!(beside <= alone.mul_f64(1.5) + SLACK, "{beside:?} beside them, {alone:?} alone");
    let most = jobs as u64;
    // The last of the others may not have been deleted yet.
    assert!(depth.in_flight <= most + slots as u64 && depth.dead == 0, "{depth:?}");
    // Each is put away once, and those in hand are held on to.
    assert!(hidden <= 2 * most, "{hidden} of {most} messages were hidden again");
}

/// From enqueueing so many jobs that can run to the end of the last of them.
fn worked(world: &World, batch: &str, numbers: Range<usize>) -> Duration {
    enqueue(world, batch, "haiku", numbers);
    let began = Instant::now();
    until("the end of those that can run", || {
        let batches = world.wait(world.fleet.batches(None)).unwrap();
        batches.iter().any(|known| known.key.batch.as_str() == batch && known.announced > 0)
    });
    began.elapsed()
}

fn enqueue(world: &World, batch: &str, model: &str, numbers: Range<usize>) {
    let line = |number| json!({ "id": format!("job-{number}"), "model": model, "prompt": format!("Summarise review number {number}.") });
    world.place.write_lines("input.jsonl", &numbers.map(line).collect::<Vec<Value>>());
    world.run(&["enqueue", "input.jsonl", "--batch", batch]).exits(0);
}
