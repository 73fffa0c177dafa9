//! Jobs that are parts of another: handed out once, counted exactly, and the last one to end has the other delivered again.

use std::time::Duration;

use aquifer::job::document::Document;
use aquifer::job::ident::{BatchName, Digest, JobId, JobKey};
use aquifer::job::lifecycle::Status;
use aquifer::job::outcome::{Ending, Tally, Usage};
use aquifer::job::spec::{Job, Request};
use aquifer::job::trace::TraceContext;
use aquifer::job::trail::Trail;
use aquifer::job::units::{Timestamp, Usd};
use aquifer::ports::{BATCH_ENTRIES, ClaimReply, Claimed, FinishReply, Message, Outgoing, Round};
use serde_json::Value;

use crate::world::{LEASE, World, job, outgoing};

/// What a call costs.
const CENT: Usd = cents(1);
/// What is received here does not come again by itself.
const HOUR: Duration = Duration::from_secs(3_600);
/// A message is there by then.
const ARRIVES: Duration = Duration::from_secs(20);

const fn cents(cents: u64) -> Usd {
    Usd::from_nanos(cents * 10_000_000)
}

pub(crate) fn document(id: &str) -> Job {
    Job { request: Request::Document(Box::new(Document::at("s3://b/a.pdf"))), ..job(id, "") }
}

/// So many parts of that job.
pub(crate) fn round(of: &Job, number: u32, parts: usize) -> Round {
    let batch = BatchName::of_parts(&Digest::of(format!("{}/{number}", of.key).as_bytes()));
    let part = |nth: usize| {
        let key = JobKey { batch: batch.clone(), id: JobId::new(&nth.to_string()).unwrap(), ..of.key.clone() };
        Job { key, request: Request::Prompt(format!("chunk {nth} of round {number}")), ..of.clone() }
    };
    Round { number, of: Box::new(of.clone()), parts: (1..=parts).map(part).collect(), about: about(number) }
}

pub(crate) fn about(number: u32) -> String {
    format!("{{\"round\":{number},\"says\":\"\u{1f980}\\n\"}}")
}

/// Sends the job, receives and claims it.
pub(crate) async fn begin(w: &World, job: &Job) -> (Message, Claimed) {
    let entry = Outgoing { trace: job.trace.clone(), ..outgoing(&job.to_message()) };
    w.queue.send(vec![entry]).await.unwrap().remove(0).unwrap();
    let message = w.queue.receive(1, &[], HOUR, ARRIVES).await.unwrap().remove(0);
    (message, claim(w, job).await)
}

async fn claim(w: &World, job: &Job) -> Claimed {
    match w.ledger.claim(&job.key, job.digest(), Timestamp(5), LEASE).await.unwrap() {
        ClaimReply::Claimed(claimed) => claimed,
        other => panic!("{other:?}"),
    }
}

/// Works a job to its end: one call. Whether its batch is complete.
pub(crate) async fn work(w: &World, job: &Job, status: Status) -> bool {
    let claimed = claim(w, job).await;
    let tally = Tally {
        attempts: claimed.tally.attempts + u32::from(status == Status::Failed),
        model_calls: claimed.tally.model_calls + 1,
        spent: claimed.tally.spent + CENT,
        ..claimed.tally
    };
    finish(w, &claimed, tally, status).await
}

async fn finish(w: &World, claimed: &Claimed, tally: Tally, status: Status) -> bool {
    let key = &claimed.fence.key;
    let result = w
        .bodies
        .append(&key.batch_key(), format!("{{\"id\":\"{}\",\"tenant\":\"{}\"}}", key.id, key.tenant).into())
        .await
        .unwrap();
    let ending = Ending { status, model_used: None, usage: Usage::default(), error: None, result };
    match w.ledger.finish(&claimed.fence, tally, ending, Trail::default()).await.unwrap() {
        FinishReply::Recorded { batch_complete, .. } => batch_complete,
        FinishReply::Lost => panic!("lost"),
    }
}

/// Takes all messages out of the queue, which are so many; the ids of their jobs.
pub(crate) async fn taken(w: &World, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    loop {
        let wait = if ids.len() < count { ARRIVES } else { Duration::ZERO };
        let got = w.queue.receive(BATCH_ENTRIES, &[], HOUR, wait).await.unwrap();
        if got.is_empty() {
            break;
        }
        for message in &got {
            let body: Value = serde_json::from_str(&message.body).unwrap();
            ids.push(body["id"].as_str().unwrap().to_owned());
        }
        let handles = got.into_iter().map(|message| message.handle).collect();
        assert!(w.queue.delete(handles).await.unwrap().iter().all(Result::is_ok));
    }
    ids.sort();
    assert_eq!(ids.len(), count, "{ids:?}");
    ids
}

fn ids(round: &Round) -> Vec<JobId> {
    round.parts.iter().map(|part| part.key.id.clone()).collect()
}

pub(crate) async fn parts_are_handed_out_once_and_counted_as_they_end(w: World) {
    let of = document("a");
    let (message, claimed) = begin(&w, &of).await;
    assert_eq!(w.parts.standing(&claimed.fence, 0, 0).await.unwrap(), None);
    let round = round(&of, 0, 3);
    for time in ["once", "again"] {
        assert!(w.parts.hand_out(&claimed.fence, 0, &message.id, round.clone()).await.unwrap(), "{time}");
    }
    assert_eq!(taken(&w, 3).await, ["1", "2", "3"]);

    let batch = round.parts[0].key.batch_key();
    for (part, open) in round.parts.iter().zip([3, 2, 1]) {
        let standing = w.parts.standing(&claimed.fence, 0, 0).await.unwrap().unwrap();
        assert_eq!((standing.open, standing.total, &standing.batch), (open, 3, &batch));
        assert_eq!(standing.about, about(0), "as it was handed out");
        assert_eq!(work(&w, part, Status::Succeeded).await, open == 1, "the last one completes the round");
    }
    assert_eq!(w.parts.standing(&claimed.fence, 0, 0).await.unwrap().unwrap().open, 0);
    assert_eq!(w.parts.standing(&claimed.fence, 0, 1).await.unwrap(), None, "of the next round nothing is there");
    let unknown = JobId::new("4").unwrap();
    let ends = w.parts.ends(&batch, &[ids(&round), vec![unknown]].concat()).await.unwrap();
    let ends: Vec<Option<Status>> = ends.iter().map(|end| end.as_ref().map(|row| row.ending.status)).collect();
    assert_eq!(ends, [Some(Status::Succeeded), Some(Status::Succeeded), Some(Status::Succeeded), None]);
    assert_eq!(w.ledger.complete_unannounced(&of.key.batch_key()).await.unwrap(), None, "nor is it the job's own end");
    taken(&w, 0).await;
}

pub(crate) async fn the_job_is_delivered_again_when_its_last_part_has_ended(w: World) {
    let trace: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 vendor=1".parse().unwrap();
    let of = Job { trace: Some(trace), ..document("a") };
    let (message, claimed) = begin(&w, &of).await;
    let round = round(&of, 0, 2);
    let batch = round.parts[0].key.batch_key();
    assert!(w.parts.hand_out(&claimed.fence, 0, &message.id, round.clone()).await.unwrap());
    taken(&w, 2).await;
    w.ledger.hand_back(&claimed.fence, Tally::default(), Trail::default()).await.unwrap().unwrap();
    w.parts.wake(&batch).await.unwrap();
    taken(&w, 0).await;
    work(&w, &round.parts[0], Status::Succeeded).await;
    w.parts.wake(&batch).await.unwrap();
    taken(&w, 0).await;
    work(&w, &round.parts[1], Status::Failed).await;
    w.parts.wake(&batch).await.unwrap();
    w.parts.wake(&batch).await.unwrap();
    let woken = w.queue.receive(BATCH_ENTRIES, &[], HOUR, ARRIVES).await.unwrap();
    assert_eq!(woken.iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), [of.to_message()]);
    assert_eq!(woken[0].trace, of.trace, "its trace goes on");
    let claimed = claim(&w, &of).await;
    assert_eq!(w.parts.standing(&claimed.fence, 0, 0).await.unwrap().unwrap().open, 0);
}

pub(crate) async fn parts_belong_to_the_trace_of_their_job(w: World) {
    let trace: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 vendor=1".parse().unwrap();
    let of = Job { trace: Some(trace), ..document("a") };
    let (message, claimed) = begin(&w, &of).await;
    assert!(w.parts.hand_out(&claimed.fence, 0, &message.id, round(&of, 0, 1)).await.unwrap());
    let parts = w.queue.receive(BATCH_ENTRIES, &[], HOUR, ARRIVES).await.unwrap();
    assert_eq!(parts.into_iter().map(|part| part.trace).collect::<Vec<_>>(), [of.trace]);
}

pub(crate) async fn who_lost_the_job_hands_nothing_out(w: World) {
    let of = document("a");
    let (message, slow) = begin(&w, &of).await;
    w.clock.pass(LEASE);
    let quick = claim(&w, &of).await;
    let round = round(&of, 0, 3);
    assert!(!w.parts.hand_out(&slow.fence, 0, &message.id, round.clone()).await.unwrap());
    assert_eq!(w.parts.standing(&quick.fence, 0, 0).await.unwrap(), None, "nothing was written");
    taken(&w, 0).await;
    assert!(w.parts.hand_out(&quick.fence, 0, &message.id, round.clone()).await.unwrap());
    taken(&w, 3).await;
    assert!(!w.parts.hand_out(&slow.fence, 0, &message.id, round).await.unwrap(), "nor is it his afterwards");
    taken(&w, 0).await;
}

pub(crate) async fn w5_a_job_that_runs_again_asks_only_what_failed(w: World) {
    let of = document("a");
    let (message, claimed) = begin(&w, &of).await;
    let round = round(&of, 0, 4);
    let batch = round.parts[0].key.batch_key();
    w.parts.hand_out(&claimed.fence, 0, &message.id, round.clone()).await.unwrap();
    taken(&w, 4).await;
    let ends = [Status::Succeeded, Status::Failed, Status::Expired, Status::Rejected];
    for (part, status) in round.parts.iter().zip(ends) {
        work(&w, part, status).await;
    }
    w.parts.wake(&batch).await.unwrap();
    finish(&w, &claimed, Tally::default(), Status::Failed).await;
    while !w.queue.receive(BATCH_ENTRIES, &[], HOUR, Duration::from_secs(3)).await.unwrap().is_empty() {}

    w.place.redrive(&of).await;
    let message = w.queue.receive(1, &[], HOUR, ARRIVES).await.unwrap().remove(0);
    let claimed = claim(&w, &of).await;
    assert_eq!(claimed.generation, 1);
    assert_eq!(w.parts.standing(&claimed.fence, 1, 0).await.unwrap(), None, "this generation asked nothing yet");
    for _ in 0..2 {
        assert!(w.parts.hand_out(&claimed.fence, 1, &message.id, round.clone()).await.unwrap());
    }
    assert_eq!(taken(&w, 2).await, ["2", "3"], "what succeeded or was refused stands");
    let standing = w.parts.standing(&claimed.fence, 1, 0).await.unwrap().unwrap();
    assert_eq!((standing.open, standing.total), (2, 4));
    assert!(!work(&w, &round.parts[1], Status::Succeeded).await);
    assert!(work(&w, &round.parts[2], Status::Failed).await, "it completes again");
    assert_eq!(w.parts.standing(&claimed.fence, 1, 0).await.unwrap().unwrap().open, 0);
    let ends = w.parts.ends(&batch, &ids(&round)).await.unwrap();
    let ends: Vec<(Status, u32)> =
        ends.into_iter().map(Option::unwrap).map(|row| (row.ending.status, row.generation)).collect();
    let first = |status| (status, 0);
    assert_eq!(ends, [first(Status::Succeeded), (Status::Succeeded, 1), (Status::Failed, 1), first(Status::Rejected)]);
    let sum = w.parts.sum(&claimed.fence).await.unwrap();
    assert_eq!((sum.model_calls, sum.attempts, sum.spent), (6, 1, cents(6)), "over all their lives");
}

pub(crate) async fn f15_the_sum_is_over_all_rounds(w: World) {
    let of = document("a");
    let (message, claimed) = begin(&w, &of).await;
    assert_eq!(w.parts.sum(&claimed.fence).await.unwrap(), Tally::default());
    for number in 0..2 {
        let round = round(&of, number, 2);
        w.parts.hand_out(&claimed.fence, 0, &message.id, round.clone()).await.unwrap();
        for part in &round.parts {
            work(&w, part, Status::Failed).await;
        }
    }
    let other = document("a-2");
    let (message, theirs) = begin_beside(&w, &other).await;
    let round = round(&other, 0, 1);
    w.parts.hand_out(&theirs.fence, 0, &message.id, round.clone()).await.unwrap();
    work(&w, &round.parts[0], Status::Succeeded).await;
    let sum = w.parts.sum(&claimed.fence).await.unwrap();
    assert_eq!((sum.model_calls, sum.attempts, sum.spent, sum.unknown), (4, 4, cents(4), Usd::ZERO));
    assert_eq!(w.parts.sum(&theirs.fence).await.unwrap().model_calls, 1);
}

/// As `begin`, with other messages in the queue.
async fn begin_beside(w: &World, job: &Job) -> (Message, Claimed) {
    w.queue.send(vec![outgoing(&job.to_message())]).await.unwrap().remove(0).unwrap();
    loop {
        let got = w.queue.receive(1, &[], HOUR, ARRIVES).await.unwrap().remove(0);
        if got.body == job.to_message() {
            return (got, claim(w, job).await);
        }
    }
}

pub(crate) async fn a_round_of_hundreds_is_handed_out_whole(w: World) {
    const PARTS: usize = 250;
    let of = document("a");
    let (message, claimed) = begin(&w, &of).await;
    let round = round(&of, 0, PARTS);
    assert!(w.parts.hand_out(&claimed.fence, 0, &message.id, round.clone()).await.unwrap());
    let standing = w.parts.standing(&claimed.fence, 0, 0).await.unwrap().unwrap();
    assert_eq!((standing.open, standing.total), (PARTS as u64, PARTS as u64));
    let mut expected: Vec<String> = ids(&round).iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(taken(&w, PARTS).await, expected, "each once");
}
