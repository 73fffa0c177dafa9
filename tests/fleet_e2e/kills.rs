//! Three workers, of which a random one is killed again and again, while one call in twenty to AWS fails in some way.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt as _;

use crate::books::assert_complete;
use crate::ears::Ears;
use crate::lives::{dice, moment};
use crate::proxy::Odds;
use crate::relay::Relay;
use crate::world::{World, answers, calls, setting, stop_all, until};

/// A call to AWS that fails, of all.
const FAULTS: f64 = 0.05;

#[test]
fn d2_d3_f01_f19_kills_and_faults_lose_no_job_and_pay_twice_only_for_what_was_in_flight_at_a_kill() {
    let (jobs, kills) = (setting("FLEET_JOBS", 300), setting("FLEET_KILLS", 6));
    let slots = setting("FLEET_SLOTS", 16);
    let mut dice = dice("fleet kills");
    let world = World::new("1s");
    world.configure("", &format!("slots = {slots}\nlease = \"20s\""));
    let ears = Ears::open(&world);
    world.proxy.set_odds(Odds::in_all(FAULTS));
    world.enqueue(jobs);

    let mut alive = vec![world.worker(), world.worker(), world.worker()];
    let mut dead: Vec<(Relay, BTreeSet<usize>)> = Vec::new();
    let mut heard_by_dead = 0;
    for kill in 1..=kills {
        // Spread over all of the work, so that there is some left at the last.
        let enough = jobs * kill / (kills + 6);
        until("answers", || heard_by_dead + answers(&alive) >= enough);
        std::thread::sleep(moment(&mut dice, 0..500));
        let victim = alive.swap_remove(dice.random_range(0..alive.len()));
        let corpse = victim.kill();
        let ended = world.ended();
        assert!(ended.len() < jobs, "killed with work left");
        heard_by_dead += corpse.relay.seen().answers;
        dead.push((corpse.relay, ended));
        alive.push(world.worker());
    }
    let heard = ears.hear(&world, jobs);
    world.until_queue_is_empty();
    world.proxy.set_odds(Odds::default());
    let mut logs = stop_all(alive);

    // What a dead worker had asked for and what had not ended by then may be asked for once more.
    let mut in_flight: BTreeMap<usize, usize> = BTreeMap::new();
    for (relay, ended) in dead {
        let log = relay.finish();
        let asked: BTreeSet<usize> = log.requests.iter().map(|request| request.job).collect();
        let open: Vec<usize> = asked.difference(&ended).copied().collect();
        assert!(open.len() <= slots, "{} open calls in {slots} slots", open.len());
        for job in open {
            *in_flight.entry(job).or_default() += 1;
        }
        logs.push(log);
    }
    let calls = calls(&logs);
    let allowed: usize = in_flight.values().sum();
    let beyond = calls.values().sum::<usize>() - jobs;
    println!("{jobs} jobs, {kills} kills: {beyond} calls beyond one a job, {allowed} in flight at the kills");
    for (job, calls) in &calls {
        let lost = in_flight.get(job).copied().unwrap_or(0);
        assert!(*calls <= 1 + lost, "job {job}: {calls} calls, in flight at {lost} kills");
    }
    let results = assert_complete(&world, &heard, jobs);
    assert!(results.iter().all(|result| result["attempts"] == 0), "a kill is no failure of the job");
    let faults: u64 = world.proxy.seen().values().map(|seen| seen.faults).sum();
    assert!(faults > 0, "the proxy was asked for faults");
    let told: usize = heard.jobs.values().map(Vec::len).sum();
    println!("{faults} faults; {told} notices of {jobs} jobs, {} of the batch", heard.batches.len());
}
