//! Kills in the middle of documents.

use std::collections::BTreeSet;

use crate::made;
use crate::support::Place;
use crate::world::{Life, Service, configure, dice, moment};

const DOCUMENTS: usize = 6;
const KILLS: usize = 8;
const SLOTS: usize = 6;

#[test]
fn w4_f1_documents_survive_kills_with_one_result_and_one_notice_each_and_pay_only_for_slots_held_twice() {
    let mut dice = dice("documents");
    let place = Place::new();
    configure(&place, &format!("slots = {SLOTS}"));
    // The relay tells prompts by the number at their end.
    let mut config = place.read("aquifer.toml");
    config.extend_from_slice(b"\n[[upload]]\nchunk_tokens = 100\ntemplate = '{{chunk}} number {{chunk.number}}'\nreduce = '{{answers}} number 0'\n");
    place.write("aquifer.toml", config);
    std::fs::create_dir(place.path("in")).unwrap();
    for number in 0..DOCUMENTS {
        place.write(&format!("in/{number}.pdf"), made::pages(4 + number));
    }
    let service = Service::start(&place, "300ms");
    let run = ["run", "--documents", "in", "--json"];
    let mut dead = Vec::new();
    for _ in 0..KILLS {
        let life = Life::start(&place, &run, &service);
        life.until_asked();
        std::thread::sleep(moment(&mut dice, 0..600));
        dead.push(life.kill());
    }
    let (ended, log) = Life::start(&place, &run, &service).finish();
    let summary = ended.exits(0).json();
    assert_eq!(summary["succeeded"], DOCUMENTS, "{summary}");
    let killed: usize = dead.into_iter().map(|corpse| corpse.bury().requests.len()).sum();
    let made_calls = killed + log.requests.len();

    let results = place.results();
    assert_eq!(results.len(), DOCUMENTS);
    let mut needed = 0;
    for result in &results {
        let chunks = result["output"]["chunks"].as_array().unwrap();
        assert_eq!(result["document"]["chunks"], chunks.len(), "{}", result["id"]);
        assert!(chunks.iter().all(|chunk| chunk["status"] == "succeeded" && chunk["text"].is_string()));
        needed += chunks.len() + 1;
    }
    assert!((needed..=needed + KILLS * SLOTS).contains(&made_calls), "{made_calls} calls for {needed} parts");
    let events = String::from_utf8(place.read(".aquifer/events.jsonl")).unwrap();
    let told: BTreeSet<&str> = events.lines().filter(|line| line.contains("\"kind\":\"job\"")).map(id_of).collect();
    assert_eq!(told.len(), DOCUMENTS, "one notice a document, however often it is told, and none of a chunk");
    println!("{needed} parts, {KILLS} kills: {made_calls} calls");
    service.finish();
}

fn id_of(line: &str) -> &str {
    let (_, after) = line.split_once("\"notice_id\":\"").unwrap();
    after.split('"').next().unwrap()
}
