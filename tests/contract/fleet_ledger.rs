//! What only the ledger of a fleet has: other processes' logs, counters in shards, generations.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use aquifer::aws::{Fleet, Seal};
use aquifer::job::ident::{BatchKey, BatchName, Digest, JobKey, Tenant};
use aquifer::job::lifecycle::{State, Status};
use aquifer::job::notice::BatchSums;
use aquifer::job::outcome::{Ending, Pointer, Tally, Usage};
use aquifer::job::spec::TaskToken;
use aquifer::job::trail::Trail;
use aquifer::job::units::{Timestamp, Usd};
use aquifer::ports::inputs::Edition;
use aquifer::ports::rolls::{Origin, Redriven};
use aquifer::ports::{BeginReply, ClaimReply, Claimed, Clock, Fence, FinalRow, FinishReply, Ledger};

use crate::ministack;
use crate::world::{LEASE, ManualClock, batch_key, claim, content, key};

const CENT: Usd = Usd::from_nanos(10_000_000);

/// Workers on one table, each with an epoch of its own.
async fn workers<const N: usize>() -> ([Fleet; N], Arc<ManualClock>) {
    let (settings, clock) = (ministack::settings(), ManualClock::new());
    let emulated = ministack::emulated(ministack::url());
    let connect = || Fleet::connect_to(&emulated, settings.clone(), Arc::clone(&clock) as Arc<dyn Clock>);
    let workers = std::array::from_fn(|_| connect());
    workers[0].create_missing().await.unwrap();
    (workers, clock)
}

fn called(model_calls: u32) -> Tally {
    Tally { model_calls, spent: CENT, ..Tally::default() }
}

fn ending(id: &str, status: Status) -> Ending {
    let result = Pointer { uri: format!("s3://b/{id}"), offset: 0, length: 2, sha256: Digest::of(id.as_bytes()) };
    let usage = Usage { input_tokens: 10, output_tokens: 3, ..Usage::default() };
    Ending { status, model_used: None, usage, error: None, result }
}

async fn end(ledger: &dyn Ledger, id: &str, status: Status) -> (FinalRow, bool) {
    let fence = claim(ledger, id).await.fence;
    finish(ledger, &fence, status).await
}

async fn finish(ledger: &dyn Ledger, fence: &Fence, status: Status) -> (FinalRow, bool) {
    match ledger.finish(fence, called(1), ending(fence.key.id.as_str(), status), Trail::default()).await.unwrap() {
        FinishReply::Recorded { row, batch_complete } => (*row, batch_complete),
        FinishReply::Lost => panic!("lost"),
    }
}

async fn sums(fleet: &Fleet, batch: &BatchKey) -> BatchSums {
    let batches = fleet.batches(Some(&batch.batch)).await.unwrap();
    batches.into_iter().find(|summary| summary.key == *batch).unwrap().ended
}

fn sealed(total: u64) -> Seal {
    Seal { total, refused: 0, roll: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_weighs_one_over_the_jobs_it_left_open() {
    let ([dies, lives, later], clock) = workers().await;
    let (dies, lives, later) = (dies.ledger(), lives.ledger(), later.ledger());
    let mut fences = Vec::new();
    for id in ["open-1", "open-2", "settled", "not-begun"] {
        fences.push(claim(dies.as_ref(), id).await.fence);
    }
    for fence in &fences[..3] {
        let reply = dies.begin(fence, called(1), CENT, None).await.unwrap();
        assert_eq!(reply, BeginReply::Begun);
    }
    dies.settle(&fences[2], called(1), Trail::default()).await.unwrap().unwrap();
    clock.pass(LEASE);
    // One is taken over by another than the rest: each finds out how many there were.
    let expected = [("settled", 0.0, Usd::ZERO), ("open-1", 0.5, CENT), ("not-begun", 0.0, Usd::ZERO)];
    for (id, suspicion, unknown) in expected {
        let Claimed { suspicion: found, tally, .. } = claim(lives.as_ref(), id).await;
        assert_eq!((found, tally.unknown), (suspicion, unknown), "{id}");
    }
    let last = claim(later.as_ref(), "open-2").await;
    assert_eq!((last.suspicion, last.tally), (0.5, Tally { unknown: CENT, ..called(1) }));
    // What was found out is in the row: another death, before anything was begun, adds nothing to it.
    clock.pass(LEASE);
    let again = claim(lives.as_ref(), "open-2").await;
    assert_eq!((again.suspicion, again.tally), (last.suspicion, last.tally));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d2_an_end_is_recorded_again_by_a_process_that_remembers_nothing() {
    let ([one, other], _clock) = workers().await;
    let fence = claim(one.ledger().as_ref(), "a").await.fence;
    one.seal(&batch_key(), &sealed(1)).await.unwrap();
    let first = finish(one.ledger().as_ref(), &fence, Status::Succeeded).await;
    let again = finish(other.ledger().as_ref(), &fence, Status::Succeeded).await;
    assert_eq!((&first, first.1), (&again, true));
    let sums = sums(&one, &batch_key()).await;
    assert_eq!((sums.total, sums.cost_usd), (1, CENT));
    let reply =
        other.ledger().finish(&fence, called(1), ending("b", Status::Succeeded), Trail::default()).await.unwrap();
    assert_eq!(reply, FinishReply::Lost, "another line");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d2_ends_of_many_workers_are_counted_exactly_and_one_of_them_sees_the_batch_complete() {
    const EACH: usize = 50;
    let (workers, _clock) = workers::<4>().await;
    workers[0].seal(&batch_key(), &sealed(4 * EACH as u64)).await.unwrap();
    let ends: Vec<_> = workers
        .iter()
        .enumerate()
        .flat_map(|(worker, fleet)| (0..EACH).map(move |n| (fleet.ledger(), format!("{worker}-{n}"))))
        .map(|(ledger, id)| {
            let status = if id.ends_with("-7") { Status::Failed } else { Status::Succeeded };
            tokio::spawn(async move { end(ledger.as_ref(), &id, status).await.1 })
        })
        .collect();
    let mut complete = 0;
    for end in ends {
        complete += usize::from(end.await.unwrap());
    }
    assert!(complete > 0, "nobody saw the batch complete");
    let sums = sums(&workers[3], &batch_key()).await;
    assert_eq!((sums.total, sums.succeeded, sums.failed), (200, 196, 4));
    assert_eq!(sums.cost_usd.nanos(), 200 * CENT.nanos());
    assert_eq!(sums.usage, Usage { input_tokens: 2_000, output_tokens: 600, ..Usage::default() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_seal_says_what_was_added_and_takes_back_nothing_that_the_first_said() {
    let ([fleet], _clock) = workers().await;
    let ledger = fleet.ledger();
    let first = Seal { refused: 1, roll: Some("roll-1".to_owned()), ..sealed(1) };
    fleet.seal(&batch_key(), &first).await.unwrap();
    // A producer beside the one who enqueued: it knows of no input.
    fleet.seal(&batch_key(), &sealed(2)).await.unwrap();
    // A message of the first may be delivered behind that.
    fleet.seal(&batch_key(), &first).await.unwrap();
    assert!(!end(ledger.as_ref(), "one", Status::Succeeded).await.1, "there are two in all");
    assert!(end(ledger.as_ref(), "two", Status::Succeeded).await.1);
    let complete = ledger.complete_unannounced(&batch_key()).await.unwrap().unwrap();
    assert_eq!(
        (complete.sums.total, complete.sums.rejected),
        (3, 1),
        "what the input held in refused lines is still told"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redriven_job_leaves_the_counts_and_completes_its_batch_again() {
    let ([fleet], clock) = workers().await;
    let ledger = fleet.ledger();
    fleet.seal(&batch_key(), &sealed(2)).await.unwrap();
    end(ledger.as_ref(), "good", Status::Succeeded).await;
    let (before, complete) = end(ledger.as_ref(), "bad", Status::Failed).await;
    assert!(complete);
    let first = ledger.complete_unannounced(&batch_key()).await.unwrap().unwrap();
    // Redriven before the announcement is marked: it is not covered by it.
    assert_eq!(fleet.redrive(&key("good"), None).await.unwrap(), Redriven::NotFrom(State::Final(Status::Succeeded)));
    assert_eq!(fleet.redrive(&key("nobody"), None).await.unwrap(), Redriven::Unknown);
    let mended = Digest::of(b"mended");
    assert_eq!(fleet.redrive(&key("bad"), Some(mended)).await.unwrap(), Redriven::Queued { generation: 1 });
    assert_eq!(fleet.redrive(&key("bad"), None).await.unwrap(), Redriven::NotFrom(State::Queued));
    ledger.mark_announced(&batch_key(), first.completion).await.unwrap();
    let meanwhile = sums(&fleet, &batch_key()).await;
    assert_eq!((meanwhile.total, meanwhile.failed, meanwhile.cost_usd), (1, 0, CENT));
    assert_eq!(ledger.complete_unannounced(&batch_key()).await.unwrap(), None);
    // The old content is not it any more, and the old fence opens nothing.
    assert_eq!(ledger.claim(&key("bad"), content(), Timestamp(5), LEASE).await.unwrap(), ClaimReply::Conflict);
    let ClaimReply::Claimed(again) = ledger.claim(&key("bad"), mended, Timestamp(5), LEASE).await.unwrap() else {
        panic!("not claimed");
    };
    assert_eq!((again.generation, again.suspicion, again.tally), (1, 0.0, before.tally));
    assert_eq!(again.enqueued, clock.now());
    let (row, complete) = finish(ledger.as_ref(), &again.fence, Status::Succeeded).await;
    assert_eq!((row.generation, complete), (1, true));
    let second = ledger.complete_unannounced(&batch_key()).await.unwrap().unwrap();
    assert_eq!((second.completion, second.sums.total, second.sums.succeeded), (1, 2, 2));
    ledger.mark_announced(&batch_key(), second.completion).await.unwrap();
    assert_eq!(ledger.complete_unannounced(&batch_key()).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w6_whoever_waits_for_a_batch_is_named_until_he_is_answered_however_late_he_asks() {
    let ([fleet], _clock) = workers().await;
    let (ledger, seals) = (fleet.ledger(), fleet.seals());
    let token = |name: &str| TaskToken::new(name).unwrap();
    fleet.seal(&batch_key(), &sealed(1)).await.unwrap();
    for name in ["first", "second", "first"] {
        seals.wait(&batch_key(), &token(name)).await.unwrap();
    }
    assert_eq!(ledger.complete_unannounced(&batch_key()).await.unwrap(), None, "not complete");
    end(ledger.as_ref(), "job", Status::Failed).await;
    let news = ledger.complete_unannounced(&batch_key()).await.unwrap().unwrap();
    let waiting: HashSet<&str> = news.waiting.iter().map(TaskToken::as_str).collect();
    assert_eq!((news.is_news, waiting, news.waiting.len()), (true, HashSet::from(["first", "second"]), 2));
    seals.answered(&batch_key(), &token("first")).await.unwrap();
    ledger.mark_announced(&batch_key(), news.completion).await.unwrap();

    // What was announced stays so; only those are named who are still to be answered.
    let late = ledger.complete_unannounced(&batch_key()).await.unwrap().unwrap();
    assert_eq!((late.is_news, &late.waiting), (false, &vec![token("second")]));
    assert_eq!((late.completion, &late.sums, &late.manifest), (news.completion, &news.sums, &news.manifest));
    seals.answered(&batch_key(), &token("second")).await.unwrap();
    seals.wait(&batch_key(), &token("first")).await.unwrap();
    assert_eq!(ledger.complete_unannounced(&batch_key()).await.unwrap(), None, "delivered again, and answered before");
    seals.wait(&batch_key(), &token("third")).await.unwrap();
    assert_eq!(fleet.redrive(&key("job"), None).await.unwrap(), Redriven::Queued { generation: 1 });
    assert_eq!(ledger.complete_unannounced(&batch_key()).await.unwrap(), None, "it is open again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w5_a_request_that_is_delivered_again_runs_no_job_again_twice() {
    let ([fleet], _clock) = workers().await;
    let (ledger, rolls) = (fleet.ledger(), fleet.rolls());
    fleet.seal(&batch_key(), &sealed(1)).await.unwrap();
    end(ledger.as_ref(), "job", Status::Failed).await;
    let redrive = async |request: &str| rolls.redrive(&key("job"), content(), Some(request)).await.unwrap();
    assert!(rolls.is_unfinished(&batch_key()).await.unwrap());
    assert_eq!(redrive("redrive-1").await, Redriven::Queued { generation: 1 });
    assert_eq!(redrive("redrive-1").await, Redriven::NotFrom(State::Queued), "its message may not be sent yet");
    end(ledger.as_ref(), "job", Status::Failed).await;
    assert_eq!(redrive("redrive-1").await, Redriven::NotFrom(State::Final(Status::Failed)));
    assert_eq!(redrive("redrive-2").await, Redriven::Queued { generation: 2 });
    end(ledger.as_ref(), "job", Status::Succeeded).await;
    assert!(!rolls.is_unfinished(&batch_key()).await.unwrap());

    let edition = |etag: &str| Edition { etag: etag.to_owned(), version: Some("v".to_owned()) };
    let origin = |etag: &str, model: Option<&str>| {
        let uri = "s3://up/k.jsonl".to_owned();
        Origin { uri, edition: edition(etag), model: model.map(str::to_owned) }
    };
    for origin in [origin("old", None), origin("e", Some("m")), origin("new", None)] {
        rolls.note_origin(&batch_key(), &origin).await.unwrap();
    }
    let mut origins = rolls.origins(&batch_key()).await.unwrap();
    origins.sort_by_key(|origin| origin.model.clone());
    assert_eq!(origins, [origin("new", None), origin("e", Some("m"))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_no_batch_and_batches_of_long_names_are_kept_apart() {
    let ([fleet], _clock) = workers().await;
    let ledger = fleet.ledger();
    let names = ["-".to_owned(), "\u{1f30a}".repeat(128), format!("{}x", "\u{1f30a}".repeat(127))];
    let mut fences = Vec::new();
    for name in &names {
        let key = JobKey { batch: BatchName::new(name).unwrap(), ..key("a") };
        let ClaimReply::Claimed(claimed) = ledger.claim(&key, content(), Timestamp(5), LEASE).await.unwrap() else {
            panic!("{name} is taken");
        };
        fences.push(claimed.fence);
    }
    for fence in &fences {
        let (row, complete) = finish(ledger.as_ref(), fence, Status::Succeeded).await;
        assert_eq!((&row.key, complete), (&fence.key, false));
        assert_eq!(ledger.look_up(&fence.key).await.unwrap(), Some((State::Final(Status::Succeeded), Some(row))));
    }
    let of = |name: &String| BatchKey { tenant: Tenant::unnamed(), batch: BatchName::new(name).unwrap() };
    let listed = fleet.batches(None).await.unwrap();
    assert!(listed.iter().all(|batch| batch.ended.total == 1), "{listed:?}");
    let listed: HashSet<BatchKey> = listed.into_iter().map(|batch| batch.key).collect();
    assert_eq!(listed, names.iter().map(of).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_batches_are_listed_the_newest_first() {
    let ([fleet], clock) = workers().await;
    for (name, enqueued) in [("old", 5), ("newest", 15_000), ("newer", 10_000)] {
        let key = JobKey { batch: BatchName::new(name).unwrap(), ..key("a") };
        let ledger = fleet.ledger();
        let claimed = ledger.claim(&key, content(), Timestamp(enqueued), LEASE).await.unwrap();
        let ClaimReply::Claimed(claimed) = claimed else { panic!("{name} is taken") };
        finish(ledger.as_ref(), &claimed.fence, Status::Succeeded).await;
        clock.pass(Duration::from_secs(1));
    }
    let all = fleet.newest_batches(10).await.unwrap();
    assert!(all.windows(2).all(|pair| pair[0].first >= pair[1].first) && all[0].first > all[2].first, "{all:?}");
    assert_eq!(fleet.newest_batches(2).await.unwrap(), all[..2]);
    assert!(fleet.newest_batches(0).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_open_for_longer_than_a_lease_is_found_all_the_same() {
    let ([dies, lives], clock) = workers().await;
    let (dies, lives) = (dies.ledger(), lives.ledger());
    let fence = claim(dies.as_ref(), "slow").await.fence;
    dies.begin(&fence, called(1), CENT, None).await.unwrap();
    for _ in 0..10 {
        clock.pass(LEASE / 2);
        assert_eq!(dies.extend(vec![fence.clone()], LEASE).await.unwrap(), [Ok(())]);
    }
    clock.pass(LEASE + Duration::from_secs(1));
    let claimed = claim(lives.as_ref(), "slow").await;
    assert_eq!((claimed.suspicion, claimed.tally.unknown), (1.0, CENT));
}
