//! Several processes on one state directory, and what a death among them leaves. Two stores on one directory hold
//! two locks, as two processes do; `abandon` frees a lock as a kill does.

use std::path::Path;
use std::time::Duration;

use aquifer::embedded::{Standing, Store};
use aquifer::job::lifecycle::{State, Status};
use aquifer::job::outcome::Tally;
use aquifer::job::trail::Trail;
use aquifer::job::units::{Timestamp, Usd};
use aquifer::ports::{
    BATCH_ENTRIES, BeginReply, ClaimReply, Claimed, FinishReply, Gate, LaneId, Ledger, StoreTrouble, Swap, Version,
};

use crate::world::{LEASE, batch, claim, content, embedded, job, key, named, open, outgoing};

const HOUR: Duration = Duration::from_secs(3_600);
const CENT: Usd = Usd::from_nanos(10_000_000);

#[tokio::test]
async fn d2_f03_what_a_killed_process_held_is_anybodys_at_once() {
    let w = embedded().await;
    let next = open(w.dir.path(), &w.clock).await;
    w.queue.send(vec![outgoing("a"), outgoing("b")]).await.unwrap();
    let held = w.queue.receive(1, &[], HOUR, Duration::ZERO).await.unwrap().remove(0);
    let dead = w.claim("a").await;
    w.ledger.begin(&dead.fence, Tally { model_calls: 1, ..Tally::default() }, CENT, None).await.unwrap();

    assert_eq!(next.reap().await.unwrap(), 0, "alive");
    let reply = next.ledger().claim(&key("a"), content(), Timestamp(5), LEASE).await.unwrap();
    assert!(matches!(reply, ClaimReply::Busy { .. }), "{reply:?}");

    w.store.abandon();
    // The watch that runs by itself may have been first; either way it is done now.
    assert!(next.reap().await.unwrap() <= 1);
    let again = next.queue(None).receive(BATCH_ENTRIES, &[], HOUR, Duration::ZERO).await.unwrap();
    let order: Vec<_> = again.iter().map(|message| (message.body.as_str(), message.receives)).collect();
    assert_eq!(order, [("b", 1), ("a", 2)], "behind what waits already");
    let taken = claim(next.ledger().as_ref(), "a").await;
    assert_eq!(taken.fence.token.0, dead.fence.token.0 + 1);
    assert_eq!((taken.suspicion, taken.tally.unknown), (1.0, CENT));

    w.queue.delete(vec![held.handle]).await.unwrap().remove(0).unwrap_err();
    let ending = w.ending("a", Status::Succeeded).await;
    assert_eq!(
        w.ledger.finish(&dead.fence, Tally::default(), ending, Trail::default()).await.unwrap(),
        FinishReply::Lost
    );
}

#[tokio::test]
async fn d6_a_death_weighs_one_over_the_jobs_it_had_begun() {
    let w = embedded().await;
    let next = open(w.dir.path(), &w.clock).await;
    for id in ["a", "b", "c", "d", "idle"] {
        let claimed = w.claim(id).await;
        if id != "idle" {
            w.ledger.begin(&claimed.fence, Tally::default(), CENT, None).await.unwrap();
        }
    }
    w.store.abandon();
    next.reap().await.unwrap();
    assert_eq!(claim(next.ledger().as_ref(), "a").await.suspicion, 0.25);
    assert_eq!(claim(next.ledger().as_ref(), "idle").await.suspicion, 0.0);
}

#[tokio::test]
async fn a_killed_process_leaves_its_jobs_queued_and_none_of_its_calls_open() {
    let w = embedded().await;
    let lines = |ids: &[&str]| (0..).zip(ids).map(|(position, id)| named(position, id, id)).collect::<Vec<_>>();
    w.store.begin_run(&batch()).await.unwrap().enrol(lines(&["a", "b"]), false).await.unwrap();
    for id in ["a", "b"] {
        w.queue.receive(1, &[], HOUR, Duration::ZERO).await.unwrap();
        let claimed = claim_of(w.ledger.as_ref(), id).await;
        w.ledger.begin(&claimed.fence, Tally::default(), CENT, None).await.unwrap();
    }
    w.store.abandon();
    let next = open(w.dir.path(), &w.clock).await;
    // The input has lost a line meanwhile, of a job that was at work.
    let run = next.begin_run(&batch()).await.unwrap();
    assert_eq!(run.enrol(lines(&["a"]), false).await.unwrap(), [Standing::Queued]);
    assert_eq!(run.seal().await.unwrap().withdrawn, 1, "nobody asks for it any more");
    let taken = claim_of(next.ledger().as_ref(), "a").await;
    let reply = next.ledger().begin(&taken.fence, taken.tally, CENT, Some(CENT)).await.unwrap();
    let both = Usd::from_nanos(2 * CENT.nanos());
    assert_eq!(
        reply,
        BeginReply::OverCap { committed: both, open: Usd::ZERO },
        "what b may have cost is not forgotten"
    );
}

async fn claim_of(ledger: &dyn Ledger, id: &str) -> Claimed {
    match ledger.claim(&key(id), job(id, id).digest(), Timestamp(5), LEASE).await.unwrap() {
        ClaimReply::Claimed(claimed) => claimed,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_rerun_finds_the_dead_before_its_first_receive() {
    let w = embedded().await;
    w.queue.send(vec![outgoing("a")]).await.unwrap();
    w.queue.receive(1, &[], HOUR, Duration::ZERO).await.unwrap();
    w.store.abandon();
    let next = open(w.dir.path(), &w.clock).await;
    assert_eq!(next.queue(None).receive(1, &[], HOUR, Duration::ZERO).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_process_that_leaves_raises_no_suspicion() {
    let w = embedded().await;
    let next = open(w.dir.path(), &w.clock).await;
    w.queue.send(vec![outgoing("a")]).await.unwrap();
    w.queue.receive(1, &[], HOUR, Duration::ZERO).await.unwrap();
    let claimed = w.claim("a").await;
    w.ledger.begin(&claimed.fence, Tally::default(), CENT, None).await.unwrap();
    w.store.clone().close().await.unwrap();
    assert_eq!(next.queue(None).receive(1, &[], HOUR, Duration::ZERO).await.unwrap().len(), 1);
    let taken = claim(next.ledger().as_ref(), "a").await;
    assert_eq!((taken.suspicion, taken.tally.unknown), (0.0, CENT));
    assert_eq!(next.reap().await.unwrap(), 0);
}

#[tokio::test]
async fn another_processes_message_is_heard_of() {
    let w = embedded().await;
    let other = open(w.dir.path(), &w.clock).await;
    let queue = other.queue(None);
    let waiting = tokio::spawn(async move { queue.receive(1, &[], HOUR, HOUR).await.unwrap() });
    w.queue.send(vec![outgoing("a")]).await.unwrap();
    assert_eq!(waiting.await.unwrap().len(), 1);
}

#[tokio::test]
async fn two_processes_race_to_one_owner() {
    let w = embedded().await;
    let other = open(w.dir.path(), &w.clock).await;
    for n in 0..50 {
        let key = key(&format!("job-{n}"));
        let (ours, theirs) = (w.store.ledger(), other.ledger());
        let (a, b) = tokio::join!(
            ours.claim(&key, content(), Timestamp(5), LEASE),
            theirs.claim(&key, content(), Timestamp(5), LEASE)
        );
        let won = [a.unwrap(), b.unwrap()].iter().filter(|reply| matches!(reply, ClaimReply::Claimed(_))).count();
        assert_eq!(won, 1);
    }
}

#[tokio::test]
async fn everything_survives_a_reopening() {
    let w = embedded().await;
    w.queue.send(vec![outgoing("a")]).await.unwrap();
    let fence = w.claim("a").await.fence;
    let ending = w.ending("a", Status::Succeeded).await;
    w.ledger.finish(&fence, Tally::default(), ending.clone(), Trail::default()).await.unwrap();
    w.store.abandon();
    let next = open(w.dir.path(), &w.clock).await;
    let (_, row) = next.ledger().look_up(&key("a")).await.unwrap().unwrap();
    assert_eq!(row.unwrap().ending, ending);
    assert_eq!(&next.bodies().read(&ending.result).await.unwrap()[..], b"{\"id\":\"a\"}");
    assert_eq!(next.queue(None).depth().await.unwrap().ready, 1);
}

#[tokio::test]
async fn r12_what_is_known_of_a_lane_survives_a_kill() {
    let w = embedded().await;
    let lane = LaneId { region: "us-west-2".into(), model_id: "m".into() };
    w.allowance.swap(&lane, Version(0), "cooled".into()).await.unwrap();
    w.store.abandon();
    let next = open(w.dir.path(), &w.clock).await;
    let shared = next.allowance().read(&lane).await.unwrap();
    assert_eq!((shared.version, &shared.state[..]), (Version(1), &b"cooled"[..]));
}

#[tokio::test]
async fn a_gate_goes_with_its_process() {
    let w = embedded().await;
    let gate = Gate { reason: "tokens a minute".to_owned(), since: Timestamp(1), until: Timestamp(2) };
    w.ledger.post_gate("us-west-2/m", Some(gate.clone())).await.unwrap();
    let reader = aquifer::embedded::Reader::open(w.dir.path()).unwrap();
    assert_eq!(reader.gates().unwrap()[0].gate, gate);
    w.ledger.post_gate("us-west-2/m", None).await.unwrap();
    assert!(reader.gates().unwrap().is_empty());
    w.ledger.post_gate("us-west-2/m", Some(gate)).await.unwrap();
    w.store.abandon();
    let _next = open(w.dir.path(), &w.clock).await;
    assert!(reader.gates().unwrap().is_empty());
}

#[tokio::test]
async fn a_torn_event_is_not_glued_to_the_next_one() {
    let w = embedded().await;
    std::fs::write(w.dir.path().join("events.jsonl"), "{\"kind\":\"jo").unwrap();
    let ending = w.ending("a", Status::Succeeded).await;
    let notice = aquifer::job::notice::Notice::of_job(&key("a"), 0, &Tally::default(), &ending);
    w.notices.publish(&notice).await.unwrap();
    let log = std::fs::read_to_string(w.dir.path().join("events.jsonl")).unwrap();
    let lines: Vec<_> = log.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, "{\"kind\":\"jo"));
    serde_json::from_str::<serde_json::Value>(lines[1]).unwrap();
}

#[tokio::test]
async fn a_directory_that_is_not_ours_to_work_is_refused_and_left_alone() {
    let refused = async |prepare: &str| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("aquifer.db");
        if prepare == "garbage" {
            std::fs::write(&file, "not a database, but long enough to look like one ".repeat(100)).unwrap();
        } else {
            let database = rusqlite::Connection::open(&file).unwrap();
            database.execute_batch(prepare).unwrap();
        }
        let before = std::fs::read(&file).unwrap();
        let clock = crate::world::ManualClock::new();
        let error = Store::open(dir.path(), clock).await.unwrap_err();
        assert_eq!(std::fs::read(&file).unwrap(), before, "{prepare}");
        error.kind
    };
    assert_eq!(refused("garbage").await, StoreTrouble::Damaged);
    assert_eq!(refused("CREATE TABLE theirs (x)").await, StoreTrouble::Damaged);
    let newer = "PRAGMA application_id = 0x41717569; PRAGMA user_version = 1000000; CREATE TABLE t (x)";
    assert_eq!(refused(newer).await, StoreTrouble::Newer);
}

#[tokio::test]
async fn a_directory_of_the_first_schema_is_brought_up_and_keeps_its_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("aquifer.db");
    rusqlite::Connection::open(&file).unwrap().execute_batch(include_str!("schema_1.sql")).unwrap();
    let reader = aquifer::embedded::Reader::open(dir.path()).unwrap();
    assert_eq!(reader.batches().unwrap()[0].counts.total(), 2, "looking changes nothing and works all the same");
    assert_eq!(schema_of(&file).0, 1);

    for time in ["when it is brought up", "when it is opened again"] {
        let clock = crate::world::ManualClock::new();
        let store = open(dir.path(), &clock).await;
        let (state, row) = store.ledger().look_up(&key("ended")).await.unwrap().unwrap();
        assert_eq!(state, State::Final(Status::Succeeded), "{time}");
        assert_eq!(row.unwrap().tally.spent, Usd::from_nanos(13_000), "{time}");
        assert_eq!(store.queue(None).depth().await.unwrap().ready, 1, "{time}");
        store.close().await.unwrap();
    }
    let clock = crate::world::ManualClock::new();
    let store = open(dir.path(), &clock).await;
    let passed = store.queue(None).receive(1, &["haiku".into()], HOUR, Duration::ZERO).await.unwrap();
    assert!(passed.is_empty(), "what was there already has a model too: {passed:?}");
    let message = store.queue(None).receive(1, &[], HOUR, Duration::ZERO).await.unwrap().remove(0);
    assert!(message.body.contains("another prompt"), "{}", message.body);
    let prompt = job("waiting", "another prompt").digest();
    let reply = store.ledger().claim(&key("waiting"), prompt, Timestamp(5), LEASE).await.unwrap();
    assert!(matches!(reply, ClaimReply::Claimed(_)), "{reply:?}");
    let lane = LaneId { region: "us-west-2".into(), model_id: "m".into() };
    let swap = store.allowance().swap(&lane, Version(0), "a".into()).await.unwrap();
    assert!(matches!(swap, Swap::Swapped { .. }), "{swap:?}");

    let fresh = embedded().await;
    assert_eq!(schema_of(&file), schema_of(&fresh.dir.path().join("aquifer.db")), "brought up, it is like a new one");
}

/// The version of a database, and everything that is defined in it.
fn schema_of(file: &Path) -> (i64, Vec<(String, String)>) {
    let database = rusqlite::Connection::open(file).unwrap();
    let version = database.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let mut statement =
        database.prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
    let defined = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    (version, defined.collect::<Result<_, _>>().unwrap())
}
