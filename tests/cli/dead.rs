//! Dead letters: shown without what they hold, put back with their jobs, and thrown away only by somebody who means it.

use std::sync::Arc;
use std::time::Duration;

use aquifer::cli::SystemClock;
use aquifer::embedded::Store;
use aquifer::job::failure::{Class, Failure};
use aquifer::job::ident::{BatchName, Tenant};
use aquifer::job::intake::{Defaults, parse_message};
use aquifer::job::lifecycle::Status;
use aquifer::job::outcome::{Ending, Usage};
use aquifer::job::spec::Priority;
use aquifer::job::trail::Trail;
use aquifer::ports::{ClaimReply, FinishReply, Message, Outgoing, Queue};
use serde_json::Value;

use crate::support::{Place, Running, SIMULATED, json_lines};

/// Who comes by a message of nonsense, and by a job that kills: what a worker does with them, without one.
#[tokio::main]
async fn bury_garbage_and_poison(place: &Place) {
    let store = Store::open(&place.path(SIMULATED), Arc::new(SystemClock)).await.unwrap();
    let queue = store.queue(None);
    let poison = receive(&*queue).await;
    let batch = BatchName::none();
    let defaults = Defaults {
        batch: &batch,
        model: None,
        only_model: None,
        is_known: &|_| true,
        answers_callbacks: false,
        documents: Ok(aquifer::job::document::Place::Files),
        no_ingestions: None,
    };
    let job = parse_message(&poison.body, &poison.id.0, &defaults).unwrap();
    let lease = Duration::from_secs(60);
    let reply = store.ledger().claim(&job.key, job.digest(), poison.sent, lease).await.unwrap();
    let ClaimReply::Claimed(claimed) = reply else { panic!("{reply:?}") };
    let result = store.bodies().append(&job.key.batch_key(), "{}".into()).await.unwrap();
    let error = Some(Failure::new(Class::Poison, "claimed 5 times"));
    let ending = Ending { status: Status::Failed, model_used: None, usage: Usage::default(), error, result };
    let finished = store.ledger().finish(&claimed.fence, claimed.tally, ending, Trail::default()).await.unwrap();
    assert!(matches!(finished, FinishReply::Recorded { .. }), "{finished:?}");
    queue.dead_letter(&poison, "poison: claimed too often").await.unwrap().unwrap();

    let garbage = Outgoing {
        body: "the secret of a message that is no job".to_owned(),
        batch: BatchName::new("demo").unwrap(),
        tenant: Tenant::unnamed(),
        model: None,
        priority: Priority::default(),
        delay: Duration::ZERO,
        trace: None,
    };
    queue.send(vec![garbage]).await.unwrap().remove(0).unwrap();
    let garbage = receive(&*queue).await;
    queue.dead_letter(&garbage, "bad_input: not JSON").await.unwrap().unwrap();
    store.close().await.unwrap();
}

async fn receive(queue: &dyn Queue) -> Message {
    queue.receive(1, &[], Duration::from_secs(60), Duration::ZERO).await.unwrap().remove(0)
}

fn with_dead_letters() -> Place {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 1);
    place.aquifer(["enqueue", "demo.jsonl", "--simulate"]).exits(0);
    bury_garbage_and_poison(&place);
    place
}

fn list<const N: usize>(place: &Place, arguments: [&str; N]) -> Vec<Value> {
    let all = ["dead", "list", "--json"].into_iter().chain(arguments);
    json_lines(&Running::start(place.command(all)).finish().exits(0).stdout)
}

#[test]
fn o6_dead_letters_are_listed_with_reasons_and_without_what_they_hold() {
    let place = with_dead_letters();
    let all = list(&place, []);
    let told: Vec<[&str; 3]> =
        all.iter().map(|letter| ["batch", "class", "id"].map(|key| letter[key].as_str().unwrap_or("-"))).collect();
    assert_eq!(told, [["demo", "poison", "job-1"], ["demo", "bad_input", "-"]]);
    assert_eq!(list(&place, ["--class", "bad_input"]).len(), 1);
    assert_eq!(list(&place, ["--batch", "elsewhere"]).len(), 0);
    let table = place.aquifer(["dead", "list"]).exits(0);
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(text.contains("poison: claimed too often") && text.contains("job-1"), "{text}");
    assert!(!text.contains("secret") && !text.contains("Summarise"), "{text}");

    let id = all[1]["message_id"].as_str().unwrap();
    let shown = place.aquifer(["dead", "show", id]).exits(0);
    assert_eq!(shown.stdout, b"the secret of a message that is no job\n");
    let shown = place.aquifer(["dead", "show", id, "--json"]).exits(0).json();
    assert_eq!(shown["body"], "the secret of a message that is no job");
    place.aquifer(["dead", "show", "4711"]).exits(2).says(&["no dead letter"]);
    place.aquifer(["dead", "list", "--class", "nonsense"]).exits(2).says(&["no class"]);
}

#[test]
fn o6_a_redriven_job_runs_again_and_says_so() {
    let place = with_dead_letters();
    let before = place.status("demo").unwrap();
    assert_eq!((&before["failed"], &before["queued"]), (&1.into(), &0.into()));
    place.aquifer(["dead", "redrive"]).exits(2).says(&["which of them"]);
    let redriven = place.aquifer(["dead", "redrive", "--class", "poison", "--json"]).exits(0).json();
    assert_eq!(redriven, serde_json::json!({ "redriven": 1, "run_again": 1 }));
    let after = place.status("demo").unwrap();
    assert_eq!((&after["failed"], &after["queued"], &after["total"]), (&0.into(), &1.into(), &1.into()));
    assert_eq!(list(&place, []).len(), 1, "the other one stays");
    let told = place.aquifer(["explain", "job-1", "--json"]).exits(0).json();
    assert_eq!((&told["state"], &told["generation"]), (&"queued".into(), &1.into()));
    assert_eq!(told["redriven"]["dead_letter"], "poison: claimed too often");

    let worker = Running::start(place.command(["worker", "--simulate", "--listen", "127.0.0.1:0"]));
    place.until_succeeded("demo", 1);
    worker.signal("TERM");
    worker.finish().exits(0);
    let told = place.aquifer(["explain", "job-1"]).exits(0);
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(text.contains("redriven") && text.contains("poison: claimed too often"), "it stays visible: {text}");
}

#[test]
fn o6_a_message_that_is_no_job_comes_back_to_the_dead_letters_when_it_is_redriven() {
    let place = with_dead_letters();
    let id = list(&place, ["--class", "bad_input"])[0]["message_id"].as_str().unwrap().to_owned();
    let redriven = place.aquifer(["dead", "redrive", "--id", &id, "--json"]).exits(0).json();
    assert_eq!(redriven, serde_json::json!({ "redriven": 1, "run_again": 0 }));
    assert_eq!(list(&place, ["--class", "bad_input"]).len(), 0);
    let mut worker = Running::start(place.command(["worker", "--simulate", "--listen", "127.0.0.1:0"]));
    worker.until_said(&["dead-lettered"]);
    worker.signal("TERM");
    let ended = worker.finish().exits(0);
    assert!(!ended.stderr.contains("secret"), "{}", ended.stderr);
    assert_eq!(list(&place, ["--class", "bad_input"]).len(), 1);
}

#[test]
fn o6_dead_letters_are_dropped_only_by_somebody_who_says_yes() {
    let place = with_dead_letters();
    place.aquifer(["dead", "drop", "--yes"]).exits(2).says(&["which of them"]);
    place.aquifer(["dead", "drop", "--all"]).exits(2).says(&["2 messages would be thrown away"]);
    assert_eq!(list(&place, []).len(), 2);
    let id = list(&place, [])[1]["message_id"].as_str().unwrap().to_owned();
    place.aquifer(["dead", "drop", "--id", &id, "--yes"]).exits(0);
    assert_eq!(list(&place, []).len(), 1);
    let dropped = place.aquifer(["dead", "drop", "--all", "--yes", "--json"]).exits(0).json();
    assert_eq!(dropped["dropped"], 1);
    place.aquifer(["dead", "list"]).exits(0).says(&["no dead letters"]);
    place.aquifer(["dead", "drop", "--all", "--yes"]).exits(2).says(&["no dead letter"]);
}
