//! What a ledger must do; see `ports::Ledger`.

use std::sync::Arc;
use std::time::Duration;

use aquifer::job::failure::{Class, Failure};
use aquifer::job::ident::{BatchKey, Digest, JobKey, Tenant};
use aquifer::job::lifecycle::{State, Status};
use aquifer::job::outcome::{Ending, Savings, Tally, Usage};
use aquifer::job::trail::Trail;
use aquifer::job::units::{Timestamp, Usd};
use aquifer::ports::{BeginReply, ClaimReply, Entry, EntryError, Fence, FencingToken, FinishReply};

use crate::world::{LEASE, World, batch, batch_key, content, key};

const CENT: Usd = Usd::from_nanos(10_000_000);

fn calls(model_calls: u32, spent: Usd) -> Tally {
    Tally { model_calls, spent, ..Tally::default() }
}

/// `Some(batch_complete)` if it was recorded.
fn recorded(reply: &FinishReply) -> Option<bool> {
    match reply {
        FinishReply::Recorded { batch_complete, .. } => Some(*batch_complete),
        FinishReply::Lost => None,
    }
}

/// What holds of a cap where none can be kept: no call begins under one.
async fn no_call_begins_under_a_cap(w: &World, fence: &Fence) {
    let refused =
        w.ledger.begin(fence, calls(1, Usd::ZERO), CENT, Some(Usd::from_nanos(100 * CENT.nanos()))).await.unwrap_err();
    assert!(refused.why.contains("cap"), "{refused}");
    // And nothing was written.
    assert_eq!(w.ledger.begin(fence, calls(1, Usd::ZERO), CENT, None).await.unwrap(), BeginReply::Begun);
}

async fn finish(w: &World, fence: &Fence, status: Status) -> FinishReply {
    let ending = w.ending(fence.key.id.as_str(), status).await;
    w.ledger.finish(fence, calls(1, CENT), ending, Trail::default()).await.unwrap()
}

pub(crate) async fn d3_of_sixteen_claims_one_wins(w: World) {
    let racers: Vec<_> = (0..16)
        .map(|_| {
            let ledger = Arc::clone(&w.ledger);
            tokio::spawn(async move { ledger.claim(&key("a"), content(), Timestamp(5), LEASE).await.unwrap() })
        })
        .collect();
    let (mut won, mut busy) = (0, 0);
    for racer in racers {
        match racer.await.unwrap() {
            ClaimReply::Claimed(claimed) => {
                assert_eq!(claimed.fence.token, FencingToken(1));
                won += 1;
            }
            ClaimReply::Busy { .. } => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((won, busy), (1, 15));
}

pub(crate) async fn d3_f02_a_late_writer_is_refused(w: World) {
    let slow = w.claim("a").await.fence;
    w.clock.pass(LEASE);
    let quick = w.claim("a").await.fence;
    assert!(quick.token > slow.token);
    assert_eq!(w.ledger.begin(&slow, calls(1, Usd::ZERO), CENT, None).await.unwrap(), BeginReply::Lost);
    assert_eq!(w.ledger.extend(vec![slow.clone()], LEASE).await.unwrap(), [Err(EntryError::NotOurs)]);
    assert_eq!(w.ledger.hand_back(&slow, Tally::default(), Trail::default()).await.unwrap(), Err(EntryError::NotOurs));
    assert_eq!(finish(&w, &slow, Status::Failed).await, FinishReply::Lost);
    assert!(recorded(&finish(&w, &quick, Status::Succeeded).await).is_some());
    assert_eq!(finish(&w, &slow, Status::Failed).await, FinishReply::Lost, "also after the end");
    let (state, _) = w.ledger.look_up(&key("a")).await.unwrap().unwrap();
    assert_eq!(state, State::Final(Status::Succeeded));
}

pub(crate) async fn d2_an_end_is_recorded_once_and_counted_once(w: World) {
    let fence = w.claim("a").await.fence;
    let ending = w.ending("a", Status::Succeeded).await;
    let first = w.ledger.finish(&fence, calls(1, CENT), ending.clone(), Trail::default()).await.unwrap();
    let second = w.ledger.finish(&fence, calls(1, CENT), ending, Trail::default()).await.unwrap();
    assert_eq!(first, second);
    w.seal(&batch(), 1).await;
    let complete = w.ledger.complete_unannounced(&batch_key()).await.unwrap().unwrap();
    assert_eq!((complete.sums.total, complete.sums.succeeded), (1, 1));
    assert_eq!(complete.sums.cost_usd, CENT);
    match w.ledger.claim(&key("a"), content(), Timestamp(9), LEASE).await.unwrap() {
        ClaimReply::AlreadyFinal(row) => assert!(matches!(first, FinishReply::Recorded { row: r, .. } if *r == row)),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a_final_row_never_changes(w: World) {
    for (id, status) in
        ["a", "b", "c", "d"].into_iter().zip([Status::Succeeded, Status::Failed, Status::Rejected, Status::Expired])
    {
        let fence = w.claim(id).await.fence;
        let reply = finish(&w, &fence, status).await;
        let FinishReply::Recorded { row, .. } = reply else { panic!("lost") };
        assert_eq!(finish(&w, &fence, Status::Partial).await, FinishReply::Lost, "another result, same fence");
        assert_eq!(
            w.ledger.hand_back(&fence, Tally::default(), Trail::default()).await.unwrap(),
            Err(EntryError::NotOurs)
        );
        assert_eq!(w.ledger.begin(&fence, calls(2, CENT), CENT, None).await.unwrap(), BeginReply::Lost);
        assert_eq!(w.ledger.extend(vec![fence], LEASE).await.unwrap(), [Err(EntryError::NotOurs)]);
        w.clock.pass(LEASE * 2);
        assert_eq!(w.ledger.look_up(&key(id)).await.unwrap(), Some((State::Final(status), Some(*row))));
    }
    assert_eq!(w.ledger.look_up(&key("nobody")).await.unwrap(), None);
}

pub(crate) async fn d12_other_content_under_the_same_identity_is_refused(w: World) {
    let other = Digest::of(b"other content");
    let fence = w.claim("a").await.fence;
    assert_eq!(w.ledger.claim(&key("a"), other, Timestamp(5), LEASE).await.unwrap(), ClaimReply::Conflict);
    finish(&w, &fence, Status::Succeeded).await;
    assert_eq!(w.ledger.claim(&key("a"), other, Timestamp(5), LEASE).await.unwrap(), ClaimReply::Conflict);
}

pub(crate) async fn tenants_do_not_share_ids(w: World) {
    w.claim("a").await;
    let theirs = JobKey { tenant: Tenant::new("acme").unwrap(), ..key("a") };
    let reply = w.ledger.claim(&theirs, Digest::of(b"other"), Timestamp(5), LEASE).await.unwrap();
    assert!(matches!(reply, ClaimReply::Claimed(_)), "{reply:?}");
}

pub(crate) async fn handing_back_raises_no_suspicion(w: World) {
    for round in 1..=7 {
        let claimed = w.claim("a").await;
        assert_eq!((claimed.suspicion, claimed.tally.model_calls), (0.0, round - 1));
        assert_eq!(claimed.enqueued, Timestamp(5));
        w.ledger.begin(&claimed.fence, calls(round, Usd::ZERO), CENT, None).await.unwrap();
        assert_eq!(
            w.ledger.hand_back(&claimed.fence, calls(round, Usd::ZERO), Trail::default()).await.unwrap(),
            Ok(())
        );
        assert_eq!(w.ledger.look_up(&key("a")).await.unwrap(), Some((State::Queued, None)));
        assert_eq!(finish(&w, &claimed.fence, Status::Failed).await, FinishReply::Lost, "given is given");
    }
    assert_eq!(w.claim("a").await.tally.unknown, Usd::ZERO);
}

pub(crate) async fn a_lapsed_lease_is_taken_over_with_the_next_token(w: World) {
    let first = w.claim("a").await;
    w.clock.pass(LEASE - Duration::from_millis(1));
    match w.ledger.claim(&key("a"), content(), Timestamp(5), LEASE).await.unwrap() {
        ClaimReply::Busy { until } => assert_eq!(until.since(Timestamp(0)).as_millis() % 1_000, 0),
        other => panic!("{other:?}"),
    }
    w.clock.pass(Duration::from_millis(1));
    let second = w.claim("a").await;
    assert_eq!(second.fence.token.0, first.fence.token.0 + 1);
    assert_eq!(second.suspicion, 0.0, "its work had not begun");
    w.ledger.begin(&second.fence, calls(1, Usd::ZERO), CENT, None).await.unwrap();
    w.clock.pass(LEASE);
    assert_eq!(w.claim("a").await.suspicion, 1.0, "now it had");
}

pub(crate) async fn an_extended_lease_is_not_taken_over(w: World) {
    let fence = w.claim("a").await.fence;
    w.clock.pass(LEASE / 2);
    let stranger = Fence { key: key("nobody"), token: FencingToken(1) };
    let replies: Vec<Entry> = w.ledger.extend(vec![stranger, fence], LEASE).await.unwrap();
    assert_eq!(replies, [Err(EntryError::NotOurs), Ok(())]);
    w.clock.pass(LEASE / 2);
    let reply = w.ledger.claim(&key("a"), content(), Timestamp(5), LEASE).await.unwrap();
    assert!(matches!(reply, ClaimReply::Busy { .. }), "{reply:?}");
}

pub(crate) async fn calls_nobody_settled_are_counted_as_unknown(w: World) {
    let first = w.claim("a").await;
    w.ledger.begin(&first.fence, calls(1, Usd::ZERO), CENT, None).await.unwrap();
    w.clock.pass(LEASE);
    let second = w.claim("a").await;
    assert_eq!(second.tally, Tally { unknown: CENT, ..calls(1, Usd::ZERO) });
    if !w.can.cap_cost {
        return no_call_begins_under_a_cap(&w, &second.fence).await;
    }
    // It goes on counting against the cap, and is shown nowhere as a cost.
    let cap = Some(Usd::from_nanos(2 * CENT.nanos() - 1));
    let tally = Tally { model_calls: 2, ..second.tally };
    let reply = w.ledger.begin(&second.fence, tally, CENT, cap).await.unwrap();
    assert_eq!(reply, BeginReply::OverCap { committed: CENT, open: Usd::ZERO });
}

pub(crate) async fn the_cap_holds_under_concurrency(w: World) {
    if !w.can.cap_cost {
        let fence = w.claim("a").await.fence;
        return no_call_begins_under_a_cap(&w, &fence).await;
    }
    let cap = Usd::from_nanos(CENT.nanos() * 10);
    let racers: Vec<_> = (0..40)
        .map(|n| {
            let ledger = Arc::clone(&w.ledger);
            tokio::spawn(async move {
                let fence = crate::world::claim(ledger.as_ref(), &format!("job-{n}")).await.fence;
                ledger.begin(&fence, calls(1, Usd::ZERO), CENT, Some(cap)).await.unwrap()
            })
        })
        .collect();
    let (mut begun, mut over) = (0, 0);
    for racer in racers {
        match racer.await.unwrap() {
            BeginReply::Begun => begun += 1,
            BeginReply::OverCap { committed, open } => {
                assert_eq!((committed, open), (cap, cap));
                over += 1;
            }
            BeginReply::Lost => panic!("lost"),
        }
    }
    assert_eq!((begun, over), (10, 30));
}

pub(crate) async fn the_cap_is_one_for_all_tenants_of_a_batch(w: World) {
    let a = w.claim("a").await.fence;
    let theirs = JobKey { tenant: Tenant::new("acme").unwrap(), ..key("b") };
    let reply = w.ledger.claim(&theirs, content(), Timestamp(5), LEASE).await.unwrap();
    let ClaimReply::Claimed(b) = reply else { panic!("{reply:?}") };
    if !w.can.cap_cost {
        return no_call_begins_under_a_cap(&w, &b.fence).await;
    }
    assert_eq!(w.ledger.begin(&a, calls(1, Usd::ZERO), CENT, Some(CENT)).await.unwrap(), BeginReply::Begun);
    let reply = w.ledger.begin(&b.fence, calls(1, Usd::ZERO), CENT, Some(CENT)).await.unwrap();
    assert_eq!(reply, BeginReply::OverCap { committed: CENT, open: CENT });
}

pub(crate) async fn an_open_call_makes_room_when_it_settles_lower(w: World) {
    let cap = Some(Usd::from_nanos(CENT.nanos() * 3 / 2));
    let (a, b) = (w.claim("a").await.fence, w.claim("b").await.fence);
    if !w.can.cap_cost {
        return no_call_begins_under_a_cap(&w, &a).await;
    }
    assert_eq!(w.ledger.begin(&a, calls(1, Usd::ZERO), CENT, cap).await.unwrap(), BeginReply::Begun);
    let refused = BeginReply::OverCap { committed: CENT, open: CENT };
    assert_eq!(w.ledger.begin(&b, calls(1, Usd::ZERO), CENT, cap).await.unwrap(), refused);
    // The same job's next call replaces its open one: what it settled at counts, not what it had reserved.
    let half = Usd::from_nanos(CENT.nanos() / 2);
    assert_eq!(w.ledger.begin(&a, calls(2, half), CENT, cap).await.unwrap(), BeginReply::Begun);
    let ending = w.ending("a", Status::Succeeded).await;
    w.ledger.finish(&a, calls(2, half), ending, Trail::default()).await.unwrap();
    assert_eq!(w.ledger.begin(&b, calls(1, Usd::ZERO), CENT, cap).await.unwrap(), BeginReply::Begun);
}

pub(crate) async fn a_batch_completes_exactly_when_its_last_job_does(w: World) {
    let (a, b) = (w.claim("a").await.fence, w.claim("b").await.fence);
    w.seal(&batch(), 2).await;
    assert_eq!(recorded(&finish(&w, &a, Status::Succeeded).await), Some(false));
    assert_eq!(w.ledger.complete_unannounced(&batch_key()).await.unwrap(), None);
    assert_eq!(recorded(&finish(&w, &b, Status::Failed).await), Some(true));
    let complete = w.ledger.complete_unannounced(&batch_key()).await.unwrap().unwrap();
    assert_eq!((complete.completion, complete.sums.total), (0, 2));
    assert_eq!((complete.sums.succeeded, complete.sums.failed), (1, 1));
    assert_eq!(complete.sums.status(), Status::Partial);
    let other = BatchKey { tenant: Tenant::new("acme").unwrap(), ..batch_key() };
    assert_eq!(w.ledger.complete_unannounced(&other).await.unwrap(), None, "not another tenant's");
}

pub(crate) async fn a_batch_that_is_not_marked_is_announced_again(w: World) {
    let fence = w.claim("a").await.fence;
    finish(&w, &fence, Status::Succeeded).await;
    w.seal(&batch(), 1).await;
    let first = w.ledger.complete_unannounced(&batch_key()).await.unwrap().unwrap();
    let again = w.ledger.complete_unannounced(&batch_key()).await.unwrap().unwrap();
    assert_eq!(first, again);
    w.ledger.mark_announced(&batch_key(), first.completion).await.unwrap();
    w.ledger.mark_announced(&batch_key(), first.completion).await.unwrap();
    assert_eq!(w.ledger.complete_unannounced(&batch_key()).await.unwrap(), None);
    // Added to, it completes a second time; the word on the first one counts for nothing then.
    let fence = w.claim("b").await.fence;
    w.ledger.mark_announced(&batch_key(), first.completion).await.unwrap();
    assert_eq!(recorded(&finish(&w, &fence, Status::Succeeded).await), Some(true));
    let second = w.ledger.complete_unannounced(&batch_key()).await.unwrap().unwrap();
    assert_eq!((second.completion, second.sums.total), (1, 2));
}

pub(crate) async fn an_unsealed_batch_is_never_complete(w: World) {
    let fence = w.claim("a").await.fence;
    assert_eq!(recorded(&finish(&w, &fence, Status::Succeeded).await), Some(false));
    assert_eq!(w.ledger.complete_unannounced(&batch_key()).await.unwrap(), None);
}

pub(crate) async fn f15_cost_and_usage_are_sums_over_final_rows(w: World) {
    const JOBS: u64 = 6;
    for n in 0..JOBS {
        let fence = w.claim(&format!("job-{n}")).await.fence;
        w.ledger.begin(&fence, calls(1, Usd::ZERO), CENT, None).await.unwrap();
        w.ledger.begin(&fence, calls(2, CENT), CENT, None).await.unwrap();
        let ending = w.ending(&format!("job-{n}"), Status::Succeeded).await;
        let tally = calls(2, Usd::from_nanos(CENT.nanos() + n));
        for _ in 0..2 {
            w.ledger.finish(&fence, tally, ending.clone(), Trail::default()).await.unwrap();
        }
    }
    w.seal(&batch(), JOBS).await;
    let sums = w.ledger.complete_unannounced(&batch_key()).await.unwrap().unwrap().sums;
    assert_eq!(sums.cost_usd.nanos(), JOBS * CENT.nanos() + (0..JOBS).sum::<u64>());
    assert_eq!(sums.usage, Usage { input_tokens: 10 * JOBS, output_tokens: 3 * JOBS, ..Usage::default() });
}

pub(crate) async fn a_failure_reads_back_as_it_was_written(w: World) {
    let fence = w.claim("a").await.fence;
    let error = Failure {
        class: Class::Invalid,
        message: "the model refused it".to_owned(),
        request_id: Some("req-1".to_owned()),
    };
    let ending = Ending { error: Some(error), model_used: None, ..w.ending("a", Status::Failed).await };
    let tally = Tally { attempts: 3, model_calls: 5, spent: CENT, unknown: CENT, ..Tally::default() };
    let reply = w.ledger.finish(&fence, tally, ending.clone(), Trail::default()).await.unwrap();
    let FinishReply::Recorded { row, .. } = reply else { panic!("lost") };
    assert_eq!((&row.ending, row.tally, row.generation), (&ending, tally, 0));
    assert_eq!(w.ledger.look_up(&key("a")).await.unwrap(), Some((State::Final(Status::Failed), Some(*row))));
}

/// What right-sizing counted for an open job is there for whoever claims it next.
pub(crate) async fn reruns_are_kept_from_claim_to_claim(w: World) {
    let cut = |reruns: u32| {
        let savings = Savings {
            reruns: reruns.into(),
            rerun_cost: Usd::from_nanos(CENT.nanos() * u64::from(reruns)),
            ..Savings::default()
        };
        Tally { savings, ..calls(reruns, CENT) }
    };
    let first = w.claim("a").await;
    assert_eq!(first.tally.savings, Savings::default());
    w.ledger.begin(&first.fence, calls(1, Usd::ZERO), CENT, None).await.unwrap();
    w.ledger.settle(&first.fence, cut(1), Trail::default()).await.unwrap().unwrap();
    w.ledger.hand_back(&first.fence, cut(1), Trail::default()).await.unwrap().unwrap();
    let second = w.claim("a").await;
    assert_eq!(second.tally, cut(1));
    w.ledger.begin(&second.fence, Tally { model_calls: 2, ..second.tally }, CENT, None).await.unwrap();
    w.clock.pass(LEASE);
    let third = w.claim("a").await;
    assert_eq!(third.tally.savings, cut(1).savings, "also when its owner left nothing but that");
    w.ledger.hand_back(&third.fence, cut(2), Trail::default()).await.unwrap().unwrap();
    let fourth = w.claim("a").await;
    assert_eq!(fourth.tally, cut(2), "counted in what is handed back");
    let ending = w.ending("a", Status::Succeeded).await;
    let reply = w.ledger.finish(&fourth.fence, cut(2), ending, Trail::default()).await.unwrap();
    let FinishReply::Recorded { row, .. } = reply else { panic!("lost") };
    assert_eq!(w.ledger.look_up(&key("a")).await.unwrap(), Some((State::Final(Status::Succeeded), Some(*row))));
}
