//! Jobs that come by themselves and stand in no input, as files in a watched folder do.

use aquifer::embedded::{Order, Reader};
use aquifer::job::ident::{BatchName, JobKey};
use aquifer::job::lifecycle::Status;
use aquifer::job::outcome::Tally;
use aquifer::job::spec::Job;
use aquifer::job::trail::Trail;
use aquifer::job::units::Timestamp;
use aquifer::ports::ClaimReply;

use crate::world::{LEASE, Local, embedded, job, named, open};

fn arrival(id: &str, prompt: &str) -> Job {
    let job = job(id, prompt);
    Job { key: JobKey { batch: BatchName::none(), ..job.key.clone() }, ..job }
}

/// Works it to its end.
async fn work(w: &Local, job: &Job) {
    let reply = w.ledger.claim(&job.key, job.digest(), Timestamp(5), LEASE).await.unwrap();
    let ClaimReply::Claimed(claimed) = reply else { panic!("{reply:?}") };
    let ending = w.ending(job.key.id.as_str(), Status::Succeeded).await;
    w.ledger.finish(&claimed.fence, Tally::default(), ending, Trail::default()).await.unwrap();
}

#[tokio::test]
async fn w8_a_job_that_comes_by_itself_is_queued_once_whoever_dies() {
    let w = embedded().await;
    let (a, b) = (arrival("a", "A"), arrival("b", "B"));
    assert!(w.store.take_in(a.clone()).await.unwrap());
    assert!(!w.store.take_in(a.clone()).await.unwrap(), "told of twice");
    assert!(!w.store.take_in(arrival("a", "asked otherwise")).await.unwrap(), "what was asked first stands");
    assert!(w.store.take_in(b.clone()).await.unwrap());
    work(&w, &a).await;
    w.store.abandon();

    let next = open(w.dir.path(), &w.clock).await;
    assert!(!next.take_in(a).await.unwrap(), "it has ended");
    assert!(!next.take_in(b.clone()).await.unwrap(), "it waits");
    assert_eq!(next.queue(None).depth().await.unwrap().ready, 2, "no message twice");
    let found = next.ledger().look_up(&b.key).await.unwrap();
    assert!(found.is_some(), "row and message are one");
}

#[tokio::test]
async fn no_input_withdraws_what_came_by_itself_and_all_of_it_is_a_batch() {
    let w = embedded().await;
    let arrived = arrival("a", "A");
    w.store.take_in(arrived.clone()).await.unwrap();
    let run = w.store.begin_run(&BatchName::none()).await.unwrap();
    run.enrol(vec![named(0, "b", "B")], false).await.unwrap();
    assert_eq!(run.seal().await.unwrap().withdrawn, 0);
    assert!(w.ledger.look_up(&arrived.key).await.unwrap().is_some());
}

#[tokio::test]
async fn what_came_by_itself_can_be_forgotten_once_it_has_ended_and_comes_anew() {
    let w = embedded().await;
    let (a, b) = (arrival("a", "A"), arrival("b", "B"));
    w.store.take_in(a.clone()).await.unwrap();
    w.store.take_in(b.clone()).await.unwrap();
    work(&w, &a).await;
    let why = w.store.forget(&BatchName::none()).await.unwrap_err().to_string();
    assert!(why.contains("1 jobs"), "{why}");
    work(&w, &b).await;
    let reader = Reader::open(w.dir.path()).unwrap();
    assert_eq!(reader.results(&BatchName::none(), Order::Input).unwrap().count(), 2);
    assert_eq!(w.store.forget(&BatchName::none()).await.unwrap().jobs, 2);
    assert!(w.store.take_in(a).await.unwrap());
}
