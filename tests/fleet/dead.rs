//! Dead letters of a fleet, by the real binary: each is found again by its name, put back with its job, or thrown away.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aquifer::aws::{Fleet, Settings};
use aquifer::job::failure::{Class, Failure};
use aquifer::job::ident::{BatchName, JobId, Tenant};
use aquifer::job::intake::{Defaults, parse_message};
use aquifer::job::lifecycle::{State, Status};
use aquifer::job::outcome::{Ending, Usage};
use aquifer::job::spec::Priority;
use aquifer::job::trail::Trail;
use aquifer::ports::{ClaimReply, Message, Outgoing};
use serde_json::{Value, json};

use crate::check::{aquifer, configured, said};
use crate::{Stopped, ministack};

const HIDE: Duration = Duration::from_secs(60);

struct Place {
    dir: tempfile::TempDir,
    settings: Settings,
}

impl Place {
    fn new() -> Self {
        let (dir, settings) = configured();
        let created = aquifer(dir.path(), &["check", "--create"]);
        assert_eq!(created.status.code(), Some(0), "{}", said(&created));
        Self { dir, settings }
    }

    fn fleet(&self) -> Fleet {
        Fleet::connect_to(&ministack::emulated(ministack::url()), self.settings.clone(), Arc::new(Stopped))
    }

    /// What the command says on standard output.
    fn dead(&self, arguments: &[&str], code: i32) -> String {
        let output = aquifer(self.dir(), &[&["dead"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn list(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.dead(&[&["list", "--json"], arguments].concat(), 0);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }
}

async fn deliver(fleet: &Fleet, body: &str) -> Message {
    let outgoing = Outgoing {
        body: body.to_owned(),
        batch: BatchName::none(),
        tenant: Tenant::unnamed(),
        model: None,
        priority: Priority::default(),
        delay: Duration::ZERO,
        trace: None,
    };
    fleet.queue().send(vec![outgoing]).await.unwrap().remove(0).unwrap();
    receive(fleet).await
}

async fn receive(fleet: &Fleet) -> Message {
    fleet.queue().receive(1, &[], HIDE, Duration::from_secs(5)).await.unwrap().remove(0)
}

/// What a worker does with a message that is no job, and with a job that kills.
async fn bury(fleet: &Fleet) {
    let garbage = deliver(fleet, "the secret of a message that is no job").await;
    fleet.queue().dead_letter(&garbage, "bad_input: not JSON").await.unwrap().unwrap();
    let poison = deliver(fleet, &json!({ "batch": "demo", "model": "nova", "prompt": "p" }).to_string()).await;
    let batch = BatchName::none();
    let defaults = Defaults {
        batch: &batch,
        model: None,
        only_model: None,
        is_known: &|_| true,
        answers_callbacks: true,
        documents: Ok(aquifer::job::document::Place::S3),
        no_ingestions: None,
    };
    let job = parse_message(&poison.body, &poison.id.0, &defaults).unwrap();
    let claimed = fleet.ledger().claim(&job.key, job.digest(), poison.sent, HIDE).await.unwrap();
    let ClaimReply::Claimed(claimed) = claimed else { panic!("{claimed:?}") };
    let result = fleet.bodies().append(&job.key.batch_key(), "{}".into()).await.unwrap();
    let error = Some(Failure::new(Class::Poison, "claimed 5 times"));
    let ending = Ending { status: Status::Failed, model_used: None, usage: Usage::default(), error, result };
    fleet.ledger().finish(&claimed.fence, claimed.tally, ending, Trail::default()).await.unwrap();
    fleet.queue().dead_letter(&poison, "poison: claimed too often").await.unwrap().unwrap();
}

#[test]
fn o6_dead_letters_are_listed_shown_put_back_and_dropped_by_name() {
    let place = Place::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { bury(&place.fleet()).await });

    let all = place.list(&[]);
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(!place.dead(&["list"], 0).contains("secret"), "only `show` shows what a message holds");
    let one = |class: &str| place.list(&["--class", class]).remove(0);
    let (garbage, poison) = (one("bad_input"), one("poison"));
    assert_eq!((&garbage["id"], &poison["batch"]), (&Value::Null, &json!("demo")));
    assert_eq!(place.list(&["--batch", "demo"]).len(), 1);
    assert_eq!(place.list(&["--batch", "elsewhere"]).len(), 0);
    let name = |letter: &Value| letter["message_id"].as_str().unwrap().to_owned();
    assert_eq!(place.dead(&["show", &name(&garbage)], 0), "the secret of a message that is no job\n");
    place.dead(&["show", "no-such-letter"], 2);
    place.dead(&["redrive"], 2);
    place.dead(&["drop", "--all"], 2);
    assert_eq!(place.list(&[]).len(), 2, "looking takes nothing away");

    // The job had no id but its message's, and keeps it under another message.
    let told: Value = serde_json::from_str(&place.dead(&["redrive", "--id", &name(&poison), "--json"], 0)).unwrap();
    assert_eq!(told, json!({ "redriven": 1, "run_again": 1 }));
    assert_eq!(place.list(&[]).len(), 1);
    let job = runtime.block_on(async {
        let fleet = place.fleet();
        let message = receive(&fleet).await;
        let body: Value = serde_json::from_str(&message.body).unwrap();
        assert_eq!(body["id"], poison["id"], "and not that of its new message, {}", message.id.0);
        let reports = fleet.jobs(None, &JobId::new(body["id"].as_str().unwrap()).unwrap(), None).await.unwrap();
        (reports[0].state, reports[0].generation)
    });
    assert_eq!(job, (State::Queued, 1));

    let told: Value = serde_json::from_str(&place.dead(&["drop", "--all", "--yes", "--json"], 0)).unwrap();
    assert_eq!(told, json!({ "dropped": 1 }));
    assert_eq!(place.list(&[]).len(), 0);
}

#[test]
fn a_redrive_of_all_comes_to_an_end_though_workers_kill_them_again_at_once() {
    let place = Place::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let fleet = place.fleet();
        bury(&fleet).await;
        let mut letters = fleet.dead_letters();
        let mut put_back = 0;
        loop {
            let page = letters.next().await.unwrap();
            if page.is_empty() {
                break;
            }
            for letter in &page {
                letters.put_back(letter, None).await.unwrap();
                put_back += 1;
                let again = receive(&fleet).await;
                fleet.queue().dead_letter(&again, "bad_input: as before").await.unwrap().unwrap();
            }
            assert!(put_back <= 2, "it goes round in circles");
        }
        letters.let_go().await;
        assert_eq!(put_back, 2);
    });
    assert_eq!(place.list(&[]).len(), 2, "they lie there for the next one");
}

#[test]
fn dead_letters_that_somebody_looks_at_are_not_said_to_be_none() {
    let place = Place::new();
    let list = |arguments: &[&str]| said(&aquifer(place.dir(), &[&["dead", "list"], arguments].concat()));
    assert!(list(&[]).contains("there are no dead letters"), "{}", list(&[]));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let letters = runtime.block_on(async {
        bury(&place.fleet()).await;
        let mut letters = place.fleet().dead_letters();
        assert_eq!(letters.next().await.unwrap().len(), 2);
        letters
    });
    assert!(list(&[]).contains("none of the 2 dead letters can be seen now"), "{}", list(&[]));
    runtime.block_on(letters.let_go());
    assert!(
        list(&["--batch", "elsewhere"]).contains("no dead letter is like that"),
        "{}",
        list(&["--batch", "elsewhere"])
    );
}
