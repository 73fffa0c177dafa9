//! DynamoDB is away in the middle.

use std::time::{Duration, Instant};

use crate::books::assert_complete;
use crate::ears::Ears;
use crate::lives::Life;
use crate::proxy::Service;
use crate::world::{World, answers, calls, setting, stop_all, until};

/// A call that was put on record before may still be made so long after; and in that time a rate is measured.
const SPAN: Duration = Duration::from_secs(5);
/// Requests a minute that the model's quota allows.
const QUOTA: usize = 1_200;

#[test]
fn d9_f21_f22_without_its_ledger_a_fleet_calls_nothing_and_is_back_in_full_seconds_after_it() {
    let away = Duration::from_secs(setting("FLEET_AWAY_S", 20) as u64);
    // For half a minute of work, and what a bucket that was filled meanwhile gives.
    let jobs = QUOTA / 2 + QUOTA / 4;
    let world = World::new("300ms");
    world.configure(&format!("requests_per_minute = {QUOTA}\ncounting = \"bucket\""), "slots = 64");
    let ears = Ears::open(&world);
    world.enqueue(jobs);
    let alive = vec![world.worker(), world.worker(), world.worker()];
    until("answers", || answers(&alive) >= jobs / 4);

    let gone = Instant::now();
    world.proxy.take_away(Service::DynamoDb);
    std::thread::sleep(away);
    world.proxy.bring_back(Service::DynamoDb);
    let back = Instant::now();
    let heard = ears.hear(&world, jobs);
    world.until_queue_is_empty();
    let before = made(&alive, gone - SPAN, gone);
    let on_record = made(&alive, gone, gone + SPAN);
    let within = made(&alive, gone + SPAN, back);
    let after = made(&alive, back, back + 2 * SPAN);
    println!("calls: {before} in the 5 s before, {on_record} in the 5 s after it went, {within} until it was back,");
    println!("{} in the 5 s after that, {after} in 10 s", made(&alive, back, back + SPAN));
    let logs = stop_all(alive);

    assert!(before > 0);
    assert!(on_record <= before.max(QUOTA / 12), "only what was on record is called: {on_record}");
    assert_eq!(within, 0, "nobody calls what cannot be put on record");
    let made_before = logs.iter().flat_map(|log| &log.requests).filter(|request| request.at < back).count();
    // Who is back in full within five seconds makes the calls of five seconds within ten.
    let full = before.min(QUOTA / 12).min(jobs - made_before);
    assert!(after * 10 >= full * 8, "{after} calls in 10 s, {full} in 5 s before it went");
    assert!(calls(&logs).values().all(|calls| *calls == 1), "nothing was called twice");
    assert_complete(&world, &heard, jobs);
}

/// Calls that all of them made in that time.
fn made(lives: &[Life], from: Instant, to: Instant) -> usize {
    let logs = lives.iter().map(|life| life.relay.seen());
    logs.map(|log| log.requests.iter().filter(|request| (from..to).contains(&request.at)).count()).sum()
}
