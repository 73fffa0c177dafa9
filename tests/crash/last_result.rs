//! Killed where a batch comes to its end: among its last results, its notices, its manifest, its results file.

use crate::books::assert_complete;
use crate::support::Place;
use crate::world::{Life, Service, configure, dice, moment};

#[test]
fn d9_killed_around_its_last_result_a_batch_is_announced_under_one_id_and_pays_once() {
    let mut dice = dice("last_result");
    let place = Place::new();
    configure(&place, "");
    let service = Service::start(&place, "50ms");
    place.write_jobs("demo.jsonl", 5);
    for number in 0..20 {
        let (batch, output) = (format!("b{number}"), format!("{number}.out"));
        let run = ["run", "demo.jsonl", "--batch", &batch, "-o", &output];
        let life = Life::start(&place, &run, &service);
        life.relay.until("the last answer", |log| log.answers == 5);
        std::thread::sleep(moment(&mut dice, 0..80));
        let first = life.end();
        let (ended, second) = Life::start(&place, &run, &service).finish();
        ended.exits(0);
        let results = assert_complete(&place, &batch, 5, &[&output]);
        let counted: u64 = results.iter().map(|result| result["model_calls"].as_u64().unwrap()).sum();
        assert_eq!(counted, (first.requests.len() + second.requests.len()) as u64, "every call is on record");
    }
    service.finish();
}
