//! Thirty kills at random moments of one run.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::books::{Ledger, assert_complete, audit};
use crate::relay::Log;
use crate::support::Place;
use crate::world::{Life, Service, assert_prompt, configure, dice, moment};

/// When a life ends.
enum End {
    /// So long after its start, wherever it is by then.
    AtAge(Duration),
    /// So long after it heard so many answers: among the writes of results, rows and notices.
    AfterAnswers(usize, Duration),
}

/// What the kills of one run cost.
#[derive(Debug, Default)]
struct Toll {
    requests: usize,
    answers: usize,
    /// Slots held at the kills.
    held: usize,
    /// Calls on record at the kills that nobody saw end.
    open: usize,
    slowest_start: Duration,
}

/// Milliseconds that a call takes. A life that ends before twice that has heard one round of answers at most, so that with
/// as many slots as below there is work left at every kill.
const ROUND: u64 = 2_000;

#[test]
fn d2_f3_f14_a_run_survives_thirty_kills_with_one_result_a_job_and_pays_only_for_slots_held_twice() {
    let (jobs, kills) = (setting("CRASH_JOBS", 2_000), setting("CRASH_KILLS", 30));
    let mut dice = dice("thirty_kills");
    let place = Place::new();
    place.write_jobs("demo.jsonl", jobs);
    let slots = jobs / (kills + 1);
    configure(&place, &format!("slots = {slots}"));
    let service = Service::start(&place, "2s");
    let run = ["run", "demo.jsonl", "--json"];

    let (mut dead, mut seen, mut before) = (Vec::new(), BTreeSet::new(), Ledger::default());
    for end in ends(&mut dice, kills, slots) {
        let life = Life::start(&place, &run, &service);
        match end {
            End::AtAge(age) => life.sleep_until_aged(age),
            End::AfterAnswers(count, then) => {
                life.relay.until("answers", |log| log.answers >= count);
                std::thread::sleep(then);
            }
        }
        let corpse = life.kill();
        let now = audit(&place, &mut seen);
        assert!(now.finals < jobs, "killed with work in hand");
        // A life that was killed before it joined holds nothing, and the newest process on record is the one before it.
        let (held, open) = if now.newest_epoch > before.newest_epoch { (now.held, now.open) } else { (0, 0) };
        assert!(held <= slots, "{held} of {slots} slots");
        dead.push((corpse, now.finals - before.finals, held, open));
        before = now;
    }
    let last = Life::start(&place, &run, &service);
    let (ended, log) = last.finish();
    let summary = ended.exits(0).json();
    assert_eq!(summary["succeeded"], jobs, "{summary}");
    assert_eq!(summary["model_calls"], log.requests.len(), "{summary}");
    assert_prompt(&log);
    let mut toll = Toll::default();
    toll.note(&log, 0, 0);
    for (corpse, recorded, held, open) in dead {
        let log = corpse.bury();
        assert!(log.requests.len() <= recorded + open, "only calls on record are made: {recorded} + {open}, {log:?}");
        toll.note(&log, held, open);
    }

    let results = assert_complete(&place, "demo", jobs, &["results.jsonl"]);
    assert!(results.iter().all(|result| result["attempts"] == 0), "a kill is no failure of the job");
    let (again, silence) = Life::start(&place, &run, &service).finish();
    assert_eq!((again.exits(0).json()["model_calls"].as_u64(), silence.requests.len()), (Some(0), 0));
    println!("{jobs} jobs, {kills} kills, {slots} slots: {toll:?}");
    assert_eq!(toll.requests, toll.answers, "the service answers what it was asked, heard or not");
    assert!(toll.answers <= jobs + toll.held, "answered calls <= jobs + slots held at the kills: {toll:?}");
    // A call is on record before it is made: what a kill prevented was counted and not made.
    let counted: usize =
        results.iter().map(|result| usize::try_from(result["model_calls"].as_u64().unwrap()).unwrap()).sum();
    assert_eq!(counted, jobs + toll.open, "every call on record was recorded or open at a kill: {toll:?}");
    assert!(toll.requests <= counted, "{toll:?}");
    let count = service.finish();
    assert_eq!(count.answered, toll.answers, "the service's own count");
    assert!(count.twice <= toll.held);
}

/// Two kills in three at any moment; one in ten while lines are taken in; the others among the writes.
fn ends(dice: &mut StdRng, kills: usize, slots: usize) -> Vec<End> {
    let mut ends = Vec::with_capacity(kills);
    for number in 0..kills {
        ends.push(match number % 30 {
            0..20 => End::AtAge(moment(dice, 0..2 * ROUND)),
            20..23 => End::AtAge(moment(dice, 0..150)),
            _ => End::AfterAnswers(dice.random_range(1..=slots), moment(dice, 0..120)),
        });
    }
    ends.shuffle(dice);
    ends
}

impl Toll {
    fn note(&mut self, log: &Log, held: usize, open: usize) {
        self.requests += log.requests.len();
        self.answers += log.answers;
        self.held += held;
        self.open += open;
        self.slowest_start = self.slowest_start.max(log.first.map_or(Duration::ZERO, |first| first.after));
    }
}

fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}
