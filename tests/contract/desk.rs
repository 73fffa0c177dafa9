//! How an input becomes jobs: rolls, reruns, edited inputs, redrives.

use aquifer::embedded::{DoneSeq, Entry, Line, Run, Standing};
use aquifer::job::lifecycle::{State, Status};
use aquifer::job::outcome::Tally;
use aquifer::job::trail::Trail;
use aquifer::job::units::{Timestamp, Usd};
use aquifer::ports::{BATCH_ENTRIES, ClaimReply, FinishReply, Queue};

use crate::world::{LEASE, Local, batch, batch_key, embedded, job, key, named, open, refused, unnamed};

const CENT: Usd = Usd::from_nanos(10_000_000);

async fn run(w: &Local, lines: Vec<Entry>) -> (Run, Vec<Standing>) {
    let run = w.store.begin_run(&batch()).await.unwrap();
    let standings = run.enrol(lines, false).await.unwrap();
    (run, standings)
}

/// Works the job of that id to an end.
async fn work(w: &Local, id: &str, prompt: &str, status: Status) {
    let reply = w.ledger.claim(&key(id), job(id, prompt).digest(), Timestamp(5), LEASE).await.unwrap();
    let ClaimReply::Claimed(claimed) = reply else { panic!("{reply:?}") };
    let tally = Tally { attempts: 1, model_calls: 1, spent: claimed.tally.spent + CENT, ..claimed.tally };
    let ending = w.ending(id, status).await;
    let reply = w.ledger.finish(&claimed.fence, tally, ending, Trail::default()).await.unwrap();
    assert!(matches!(reply, FinishReply::Recorded { .. }));
}

async fn bodies(queue: &dyn Queue) -> Vec<String> {
    let hour = std::time::Duration::from_secs(3_600);
    let mut all = Vec::new();
    loop {
        let got = queue.receive(BATCH_ENTRIES, &[], hour, std::time::Duration::ZERO).await.unwrap();
        if got.is_empty() {
            return all;
        }
        for message in got {
            let body: serde_json::Value = serde_json::from_str(&message.body).unwrap();
            all.push(body["id"].as_str().unwrap().to_owned());
            queue.delete(vec![message.handle]).await.unwrap().remove(0).unwrap();
        }
    }
}

fn ids(ends: &[aquifer::embedded::Ended]) -> Vec<&str> {
    ends.iter().map(|end| end.id.as_str()).collect()
}

#[tokio::test]
async fn f14_a_second_run_enrols_nothing_twice() {
    let w = embedded().await;
    let lines = || vec![named(0, "a", "A"), named(1, "b", "B"), named(2, "c", "C")];
    let (_, standings) = run(&w, lines()).await;
    assert_eq!(standings, [Standing::New; 3]);
    assert_eq!(w.queue.depth().await.unwrap().ready, 3);
    work(&w, "b", "B", Status::Succeeded).await;
    let c = w.ledger.claim(&key("c"), job("c", "C").digest(), Timestamp(5), LEASE).await.unwrap();
    assert!(matches!(c, ClaimReply::Claimed(_)));
    let (_, standings) = run(&w, lines()).await;
    assert_eq!(standings, [Standing::Queued, Standing::Final(Status::Succeeded), Standing::Running]);
    assert_eq!(w.queue.depth().await.unwrap().ready, 3, "no message twice");
}

#[tokio::test]
async fn lines_without_an_id_are_named_by_content_and_numbered() {
    let w = embedded().await;
    let first = job("x", "same").digest().to_string();
    let lines = || vec![unnamed(0, "same"), unnamed(1, "other"), unnamed(2, "same"), unnamed(3, "same")];
    let (desk, standings) = run(&w, lines()).await;
    assert_eq!(standings, [Standing::New; 4]);
    assert_eq!(desk.enrol(vec![unnamed(4, "same")], false).await.unwrap(), [Standing::New], "over calls too");
    let (_, again) = run(&w, lines()).await;
    assert_eq!(again, [Standing::Queued; 4]);
    let mut found = bodies(w.queue.as_ref()).await;
    found.sort();
    let mut expected = vec![job("x", "other").digest().to_string(), first.clone()];
    expected.extend(["-2", "-3", "-4"].map(|n| format!("{first}{n}")));
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn d12_the_same_id_twice_is_one_job_or_a_conflict() {
    let w = embedded().await;
    let lines = vec![named(0, "a", "A"), named(1, "a", "A"), named(2, "a", "other")];
    let (desk, standings) = run(&w, lines).await;
    let conflict = Standing::Conflict { with: State::Queued };
    assert_eq!(standings, [Standing::New, Standing::SameLineTwice, conflict]);
    assert_eq!(desk.enrol(vec![refused(2, "a")], false).await.unwrap(), [Standing::Refused], "its place is free");
    let sealed = desk.seal().await.unwrap();
    assert_eq!((sealed.lines, sealed.jobs, sealed.withdrawn), (2, 1, 0));
}

#[tokio::test]
async fn a_deadline_in_the_past_stops_only_what_is_not_known() {
    let w = embedded().await;
    let late = |position, id: &str| {
        let line = Line::Job { job: Box::new(job(id, "A")), auto_id: false, stale_deadline: true };
        Entry { position, line }
    };
    let (_, standings) = run(&w, vec![named(0, "a", "A")]).await;
    assert_eq!(standings, [Standing::New]);
    let (_, standings) = run(&w, vec![late(0, "a"), late(1, "b")]).await;
    assert_eq!(standings, [Standing::Queued, Standing::StaleDeadline]);
}

/// The premise: `--retry-failed` ran jobs again whose deadline had passed, only for each to expire once more.
#[tokio::test]
async fn what_would_only_expire_again_is_not_run_again() {
    let w = embedded().await;
    let (_, standings) = run(&w, vec![named(0, "a", "A"), named(1, "b", "B")]).await;
    assert_eq!(standings, [Standing::New, Standing::New]);
    work(&w, "a", "A", Status::Expired).await;
    work(&w, "b", "B", Status::Expired).await;
    let late = |position, id: &str, prompt: &str| {
        let line = Line::Job { job: Box::new(job(id, prompt)), auto_id: false, stale_deadline: true };
        Entry { position, line }
    };
    let desk = w.store.begin_run(&batch()).await.unwrap();
    let standings = desk.enrol(vec![late(0, "a", "A"), late(1, "b", "other")], true).await.unwrap();
    assert_eq!(standings, [Standing::Final(Status::Expired), Standing::StaleDeadline]);
    // With a deadline that is still to come it is another matter.
    let desk = w.store.begin_run(&batch()).await.unwrap();
    assert_eq!(desk.enrol(vec![named(0, "a", "A")], true).await.unwrap(), [Standing::Redriven]);
}

#[tokio::test]
async fn an_edited_input_pays_only_for_its_own_lines() {
    let w = embedded().await;
    let (first, _) = run(&w, vec![named(0, "a", "A"), named(1, "b", "B"), named(2, "c", "C")]).await;
    first.seal().await.unwrap();
    work(&w, "a", "A", Status::Succeeded).await;
    // Killed; the edited input has lost b and a, and gained d.
    w.store.abandon();
    let next = open(w.dir.path(), &w.clock).await;
    let second = next.begin_run(&batch()).await.unwrap();
    let standings = second.enrol(vec![named(0, "c", "C"), named(1, "d", "D")], false).await.unwrap();
    assert_eq!(standings, [Standing::Queued, Standing::New]);
    assert_eq!(second.seal().await.unwrap().withdrawn, 1);
    let mut left = bodies(next.queue(None).as_ref()).await;
    left.sort();
    assert_eq!(left, ["a", "c", "d"], "a's was not acknowledged yet");
    assert_eq!(next.ledger().look_up(&key("b")).await.unwrap(), None);
    assert!(next.ledger().look_up(&key("a")).await.unwrap().is_some(), "what has ended stays");
    assert!(second.finals(DoneSeq(0), 10).await.unwrap().is_empty(), "but is no line of this input");
}

#[tokio::test]
async fn two_runs_of_different_inputs_leave_each_others_lines_alone() {
    let w = embedded().await;
    let other = open(w.dir.path(), &w.clock).await;
    let theirs = other.begin_run(&batch()).await.unwrap();
    theirs.enrol(vec![named(0, "a", "A")], false).await.unwrap();
    let (ours, _) = run(&w, vec![named(0, "b", "B")]).await;
    assert_eq!(ours.seal().await.unwrap().withdrawn, 0);
    assert_eq!(theirs.seal().await.unwrap().withdrawn, 0);
    assert_eq!(w.queue.depth().await.unwrap().ready, 2);
}

#[tokio::test]
async fn the_last_run_to_end_its_input_completes_the_batch() {
    let w = embedded().await;
    let other = open(w.dir.path(), &w.clock).await;
    let (ours, _) = run(&w, vec![named(0, "a", "A")]).await;
    ours.seal().await.unwrap();
    let theirs = other.begin_run(&batch()).await.unwrap();
    work(&w, "a", "A", Status::Succeeded).await;
    assert_eq!(w.ledger.complete_unannounced(&batch_key()).await.unwrap(), None, "another input is still read");
    drop(theirs);
    other.abandon();
    w.store.reap().await.unwrap();
    assert!(w.ledger.complete_unannounced(&batch_key()).await.unwrap().is_some(), "a dead one is not waited for");
}

#[tokio::test]
async fn retry_failed_sets_failed_and_expired_running_again() {
    let w = embedded().await;
    let lines = || vec![named(0, "a", "A"), named(1, "b", "B"), named(2, "c", "C"), named(3, "d", "D")];
    let (first, _) = run(&w, lines()).await;
    first.seal().await.unwrap();
    let ends = [Status::Succeeded, Status::Failed, Status::Expired, Status::Rejected];
    for ((id, prompt), status) in [("a", "A"), ("b", "B"), ("c", "C"), ("d", "D")].into_iter().zip(ends) {
        work(&w, id, prompt, status).await;
    }
    bodies(w.queue.as_ref()).await;
    let complete = w.ledger.complete_unannounced(&batch_key()).await.unwrap().unwrap();
    w.ledger.mark_announced(&batch_key(), complete.completion).await.unwrap();

    let second = w.store.begin_run(&batch()).await.unwrap();
    let mut edited = lines();
    edited[1] = named(1, "b", "mended");
    let standings = second.enrol(edited, true).await.unwrap();
    let (kept, again) = (Standing::Final, Standing::Redriven);
    assert_eq!(standings, [kept(Status::Succeeded), again, again, kept(Status::Rejected)]);
    second.seal().await.unwrap();
    let mut waiting = bodies(w.queue.as_ref()).await;
    waiting.sort();
    assert_eq!(waiting, ["b", "c"]);
    let progress = second.progress().await.unwrap();
    assert_eq!((progress.counts.queued, progress.counts.succeeded, progress.counts.rejected), (2, 1, 1));

    let claim = w.ledger.claim(&key("b"), job("b", "mended").digest(), Timestamp(5), LEASE).await.unwrap();
    let ClaimReply::Claimed(claimed) = claim else { panic!("{claim:?}") };
    assert_eq!((claimed.generation, claimed.tally.attempts), (1, 0));
    assert_eq!((claimed.tally.model_calls, claimed.tally.spent), (1, CENT), "what was paid stays counted");
    let ending = w.ending("b", Status::Succeeded).await;
    w.ledger.finish(&claimed.fence, claimed.tally, ending, Trail::default()).await.unwrap();
    work(&w, "c", "C", Status::Succeeded).await;
    let complete = w.ledger.complete_unannounced(&batch_key()).await.unwrap().unwrap();
    assert_eq!((complete.completion, complete.sums.total, complete.sums.succeeded), (1, 4, 3));
}

#[tokio::test]
async fn ends_come_in_completion_order_with_refused_lines_among_them() {
    let w = embedded().await;
    let other = open(w.dir.path(), &w.clock).await;
    let (desk, standings) = run(&w, vec![refused(0, "line-1"), named(1, "a", "A"), named(2, "b", "B")]).await;
    assert_eq!(standings, [Standing::Refused, Standing::New, Standing::New]);
    desk.seal().await.unwrap();
    let mut ended = desk.ended();
    work(&w, "b", "B", Status::Succeeded).await;
    ended.changed().await.unwrap();
    let first = desk.finals(DoneSeq(0), 2).await.unwrap();
    assert_eq!(ids(&first), ["line-1", "b"]);
    // By another process.
    let reply = other.ledger().claim(&key("a"), job("a", "A").digest(), Timestamp(5), LEASE).await.unwrap();
    let ClaimReply::Claimed(claimed) = reply else { panic!("{reply:?}") };
    let ending = w.ending("a", Status::Failed).await;
    other.ledger().finish(&claimed.fence, Tally::default(), ending, Trail::default()).await.unwrap();
    let rest = desk.finals(first[1].done, 10).await.unwrap();
    assert_eq!(ids(&rest), ["a"]);
    let line = w.bodies.read(&first[0].result).await.unwrap();
    assert_eq!(&line[..], b"{\"id\":\"line-1\",\"status\":\"rejected\"}");

    let counts = desk.progress().await.unwrap().counts;
    assert_eq!((counts.rejected, counts.succeeded, counts.failed, counts.open()), (1, 1, 1, 0));
    assert_eq!(desk.census().await.unwrap(), counts);
    let complete = w.ledger.complete_unannounced(&batch_key()).await.unwrap().unwrap();
    assert_eq!((complete.sums.total, complete.sums.rejected), (3, 1));
    let manifest = std::fs::read_to_string(w.dir.path().join(&complete.manifest)).unwrap();
    let lines: Vec<serde_json::Value> = manifest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let order: Vec<_> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(order, ["line-1", "a", "b"], "input order");
    assert_eq!(lines[0]["status"], "rejected");

    // The same input again: the same ends in the same order.
    let (again, _) = run(&w, vec![refused(0, "line-1"), named(1, "a", "A"), named(2, "b", "B")]).await;
    again.seal().await.unwrap();
    assert_eq!(ids(&again.finals(DoneSeq(0), 10).await.unwrap()), ["line-1", "b", "a"]);
    assert_eq!(again.progress().await.unwrap().counts, counts);
}

#[tokio::test]
async fn a_mended_line_takes_its_place() {
    let w = embedded().await;
    let (first, _) = run(&w, vec![refused(0, "line-1"), named(1, "a", "A")]).await;
    first.seal().await.unwrap();
    let (second, standings) = run(&w, vec![named(0, "mended", "M"), named(1, "a", "A")]).await;
    assert_eq!(standings, [Standing::New, Standing::Queued]);
    second.seal().await.unwrap();
    assert!(second.finals(DoneSeq(0), 10).await.unwrap().is_empty());
}
