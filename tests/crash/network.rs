//! The service goes away in the middle of a run and comes back.

use crate::books::assert_complete;
use crate::support::Place;
use crate::world::{Life, Service, configure};

const BREAKER: &str = "slots = 8\n\n[breaker]\nopen_for = \"3s\"";
const JOBS: usize = 60;

/// What a run says while its only lane is shut.
const WHY: &str = "waiting until";

#[test]
fn t3_a_service_that_is_gone_for_a_while_is_waited_for_and_no_job_fails() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", JOBS);
    configure(&place, BREAKER);
    let service = Service::start(&place, "200ms");
    let mut life = Life::start(&place, &["run", "demo.jsonl"], &service);
    life.relay.until("answers", |log| log.answers >= 20);
    service.signal("KILL");
    drop(service);
    let line = life.until_said(WHY);
    assert!(line.contains("us-west-2"), "it names the lane: {line}");
    let asked = life.relay.seen().requests.len();
    life.relay.until("more probes while it is away", |log| log.requests.len() >= asked + 4);
    let service = Service::start(&place, "200ms");
    life.relay.lead_to(service.address);
    let (ended, _) = life.finish();
    ended.exits(0);
    assert_complete(&place, "demo", JOBS, &["results.jsonl"]);
    service.finish();
}

#[test]
fn t3_a_service_that_does_not_answer_for_a_while_is_waited_for_and_no_job_fails() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", JOBS);
    configure(&place, BREAKER);
    let service = Service::start(&place, "200ms");
    let patience = [("AQUIFER_MODEL_HAIKU_CALL_TIMEOUT", "2s")];
    let mut life = Life::start_in(&place, &patience, &["run", "demo.jsonl"], &service);
    life.relay.until("answers", |log| log.answers >= 20);
    service.signal("STOP");
    let line = life.until_said(WHY);
    assert!(line.contains("us-west-2"), "it names the lane: {line}");
    service.signal("CONT");
    let (ended, _) = life.finish();
    ended.exits(0);
    assert_complete(&place, "demo", JOBS, &["results.jsonl"]);
    service.finish();
}
