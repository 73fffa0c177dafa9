//! Looking at a state directory, and forgetting what is in it.

use std::time::Duration;

use aquifer::embedded::{Order, Reader};
use aquifer::job::ident::{BatchName, JobId};
use aquifer::job::lifecycle::{State, Status};
use aquifer::job::outcome::{Savings, Tally};
use aquifer::job::trail::Trail;
use aquifer::job::units::{Timestamp, Tokens, Usd};
use aquifer::ports::{ClaimReply, LaneId, StoreTrouble, Version};

use crate::world::{LEASE, Local, batch, batch_key, embedded, job, key, named, refused};

async fn worked(w: &Local) {
    let run = w.store.begin_run(&batch()).await.unwrap();
    let secret = "the prompt that must not lie about";
    run.enrol(vec![named(0, "a", secret), refused(1, "line-2"), named(2, "b", "B")], false).await.unwrap();
    run.seal().await.unwrap();
    let hour = Duration::from_secs(3_600);
    for message in w.queue.receive(10, &[], hour, Duration::ZERO).await.unwrap() {
        w.queue.delete(vec![message.handle]).await.unwrap().remove(0).unwrap();
    }
    for (id, prompt) in [("b", "B"), ("a", secret)] {
        let reply = w.ledger.claim(&key(id), job(id, prompt).digest(), Timestamp(5), LEASE).await.unwrap();
        let ClaimReply::Claimed(claimed) = reply else { panic!("{reply:?}") };
        let ending = w.ending(id, Status::Succeeded).await;
        w.ledger.finish(&claimed.fence, Tally::default(), ending, Trail::default()).await.unwrap();
    }
    let complete = w.ledger.complete_unannounced(&batch_key()).await.unwrap().unwrap();
    w.ledger.mark_announced(&batch_key(), complete.completion).await.unwrap();
}

fn lines(reader: &Reader, order: Order) -> Vec<String> {
    let results = reader.results(&batch(), order).unwrap();
    let id = |line: bytes::Bytes| {
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        line["id"].as_str().unwrap().to_owned()
    };
    results.map(|line| id(line.unwrap())).collect()
}

#[tokio::test]
async fn results_come_in_either_order() {
    let w = embedded().await;
    worked(&w).await;
    let reader = Reader::open(w.dir.path()).unwrap();
    assert_eq!(lines(&reader, Order::Input), ["a", "line-2", "b"]);
    assert_eq!(lines(&reader, Order::Done), ["line-2", "b", "a"]);
    assert!(reader.results(&BatchName::new("nobody").unwrap(), Order::Done).is_err());
    let summary = reader.batches().unwrap().remove(0);
    assert_eq!((summary.counts.total(), summary.counts.succeeded, summary.counts.rejected), (3, 2, 1));
    assert!(summary.sealed && summary.announced);
}

#[tokio::test]
async fn results_go_on_over_many_pages() {
    let w = embedded().await;
    let run = w.store.begin_run(&batch()).await.unwrap();
    run.enrol((0..1_000).map(|n| refused(n, &format!("line-{n}"))).collect(), false).await.unwrap();
    run.seal().await.unwrap();
    let expected: Vec<_> = (0..1_000).map(|n| format!("line-{n}")).collect();
    let reader = Reader::open(w.dir.path()).unwrap();
    assert_eq!(lines(&reader, Order::Input), expected);
    assert_eq!(lines(&reader, Order::Done), expected);
}

#[tokio::test]
async fn a_job_is_explained_at_every_step() {
    let w = embedded().await;
    let run = w.store.begin_run(&batch()).await.unwrap();
    run.enrol(vec![named(0, "a", "A")], false).await.unwrap();
    let reader = Reader::open(w.dir.path()).unwrap();
    let look = || reader.job(None, &JobId::new("a").unwrap(), None).unwrap().remove(0);
    assert_eq!(look().state, State::Queued);
    assert_eq!(look().waiting.unwrap().hidden_until, None);
    let message = w.queue.receive(1, &[], LEASE, Duration::ZERO).await.unwrap().remove(0);
    let waiting = look().waiting.unwrap();
    assert!(waiting.held && waiting.hidden_until.is_some() && waiting.receives == 1);
    w.ledger.claim(&key("a"), job("a", "A").digest(), Timestamp(5), LEASE).await.unwrap();
    assert_eq!((look().state, look().claims), (State::Running, 1));
    assert!(look().owner.is_some() && look().lease_until.is_some());
    w.queue.dead_letter(&message, "poison").await.unwrap().unwrap();
    assert_eq!((look().waiting, look().dead.unwrap().reason.as_str()), (None, "poison"));
    assert!(reader.job(Some(&BatchName::none()), &JobId::new("a").unwrap(), None).unwrap().is_empty());
}

#[tokio::test]
async fn a_directory_without_a_database_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Reader::open(dir.path()).unwrap_err();
    assert!(error.why.contains("aquifer.db"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
}

#[tokio::test]
async fn forgetting_leaves_no_trace_of_a_prompt_or_an_answer() {
    let w = embedded().await;
    worked(&w).await;
    let lane = LaneId { region: "us-west-2".into(), model_id: "m".into() };
    w.allowance.swap(&lane, Version(0), "charges".into()).await.unwrap();
    let error = w.store.forget(&batch()).await.unwrap_err();
    assert!(error.why.contains("working on"), "our own run is on it: {error}");
    w.store.clone().close().await.unwrap();

    let store = crate::world::open(w.dir.path(), &w.clock).await;
    let forgotten = store.forget(&batch()).await.unwrap();
    assert_eq!(forgotten.jobs, 2);
    assert!(store.forget(&batch()).await.unwrap_err().why.contains("no batch"));
    assert_eq!(std::fs::read_dir(w.dir.path().join("bodies")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(w.dir.path().join("manifests")).unwrap().count(), 0);
    for file in ["aquifer.db", "aquifer.db-wal", "events.jsonl"] {
        let bytes = std::fs::read(w.dir.path().join(file)).unwrap_or_default();
        let found = bytes.windows(10).any(|window| window == b"the prompt");
        assert!(!found, "{file}");
    }
    assert!(Reader::open(w.dir.path()).unwrap().batches().unwrap().is_empty());
    let shared = store.allowance().read(&lane).await.unwrap();
    assert_eq!(&shared.state[..], b"charges", "a lane is no batch's, and holds nothing of it");
}

#[tokio::test]
async fn only_complete_batches_are_forgotten() {
    let w = embedded().await;
    w.claim("a").await;
    let error = w.store.forget(&batch()).await.unwrap_err();
    assert_eq!(error.kind, StoreTrouble::Denied);
    assert!(error.why.contains("1 jobs"), "{error}");
}

#[tokio::test]
async fn what_is_older_than_it_is_kept_goes() {
    let w = embedded().await;
    worked(&w).await;
    w.store.clone().close().await.unwrap();
    let store = crate::world::open(w.dir.path(), &w.clock).await;
    let keep = Duration::from_secs(30 * 86_400);
    w.clock.pass(keep);
    assert!(store.purge_older_than(keep).await.unwrap().is_empty(), "not older yet");
    w.clock.pass(Duration::from_millis(1));
    assert_eq!(store.purge_older_than(keep).await.unwrap(), [batch()]);
}

/// Sums of a batch are those of its jobs, whatever was settled, handed back or finished twice on the way.
#[tokio::test]
async fn what_right_sizing_saved_is_summed_by_batch_and_forgotten_with_it() {
    let w = embedded().await;
    let cost = |reruns: u64| Usd::from_nanos(reruns * 7);
    let tally = |saved: u64, reruns: u64| {
        let savings = Savings { saved: Tokens(saved), reruns, rerun_cost: cost(reruns) };
        Tally { model_calls: 1, savings, ..Tally::default() }
    };
    let sums = || Reader::open(w.dir.path()).unwrap().batches().unwrap().remove(0).savings;
    let (a, b, c) = (w.claim("a").await, w.claim("b").await, w.claim("c").await);
    assert_eq!(sums(), Savings::default());
    w.ledger.settle(&a.fence, tally(0, 1), Trail::default()).await.unwrap().unwrap();
    w.ledger.settle(&a.fence, tally(0, 1), Trail::default()).await.unwrap().unwrap();
    assert_eq!(sums(), Savings { saved: Tokens(0), reruns: 1, rerun_cost: cost(1) }, "at once, and once");
    w.ledger.hand_back(&a.fence, tally(0, 2), Trail::default()).await.unwrap().unwrap();
    let a = w.claim("a").await;
    for (claimed, id, tally) in [(a, "a", tally(0, 3)), (b, "b", tally(500, 0)), (c, "c", Tally::default())] {
        let ending = w.ending(id, Status::Succeeded).await;
        for _ in 0..2 {
            w.ledger.finish(&claimed.fence, tally, ending.clone(), Trail::default()).await.unwrap();
        }
    }
    assert_eq!(sums(), Savings { saved: Tokens(500), reruns: 3, rerun_cost: cost(3) });
    w.seal(&batch(), 3).await;
    w.store.clone().close().await.unwrap();
    let store = crate::world::open(w.dir.path(), &w.clock).await;
    store.forget(&batch()).await.unwrap();
    store.close().await.unwrap();
    let database = rusqlite::Connection::open(w.dir.path().join("aquifer.db")).unwrap();
    for table in ["batch_savings", "job_savings"] {
        let rows: i64 = database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}
