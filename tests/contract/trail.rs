//! What is told of a job by those who worked it: kept from claim to claim, whoever made them, and never in the way.

use std::time::Duration;

use aquifer::job::failure::Class;
use aquifer::job::lifecycle::Status;
use aquifer::job::outcome::Tally;
use aquifer::job::trail::{Call, CameTo, KEPT, Trail, What};
use aquifer::ports::{EntryError, FinishReply};

use crate::world::{LEASE, World, key};

fn call(came_to: CameTo) -> What {
    let (region, model) = ("us-west-2".to_owned(), "us.vendor.m-v1:0".to_owned());
    What::Called(Call { region, model, took: Duration::from_millis(340), came_to })
}

fn calls(model_calls: u32) -> Tally {
    Tally { model_calls, ..Tally::default() }
}

fn whats(trail: &Trail) -> Vec<&What> {
    trail.events().map(|event| &event.what).collect()
}

pub(crate) async fn o3_what_happened_is_told_from_claim_to_claim(w: World) {
    let start = w.clock.now_is();
    let first = w.claim("a").await;
    let [claimed] = whats(&first.trail)[..] else { panic!("{:?}", first.trail) };
    assert!(matches!(claimed, What::Claimed { by } if !by.is_empty()), "{claimed:?}");
    assert_eq!(first.trail.events().next().map(|event| event.at), Some(start));
    assert_eq!(w.place.trail("a").await, (first.trail.clone(), None), "at work, and nothing written since the claim");

    let mut trail = first.trail;
    trail.add(start.after(Duration::from_millis(1)), call(CameTo::Failed(Class::QuotaMinute)));
    w.ledger.settle(&first.fence, calls(1), trail.clone()).await.unwrap().unwrap();
    assert_eq!(w.place.trail("a").await, (trail.clone(), None));
    trail.add(start.after(Duration::from_millis(2)), What::HandedBack { after: Duration::ZERO });
    w.ledger.hand_back(&first.fence, calls(1), trail.clone()).await.unwrap().unwrap();
    assert_eq!(w.place.trail("a").await, (trail.clone(), None), "queued again");

    w.clock.pass(Duration::from_secs(1));
    let second = w.claim("a").await;
    let mut longer = second.trail;
    let events: Vec<_> = longer.events().collect();
    assert!(events.starts_with(&trail.events().collect::<Vec<_>>()) && events.len() == 4, "{events:?}");
    longer.add(w.clock.now_is(), call(CameTo::Answered));
    let ending = w.ending("a", Status::Succeeded).await;
    let reply = w.ledger.finish(&second.fence, calls(2), ending, longer.clone()).await.unwrap();
    assert!(matches!(reply, FinishReply::Recorded { .. }));
    assert_eq!(w.place.trail("a").await, (longer.clone(), None), "recorded, and nobody was told yet");

    w.clock.pass(Duration::from_millis(700));
    let told = w.clock.now_is();
    w.ledger.notified(&key("a"), told).await.unwrap();
    assert_eq!(w.place.trail("a").await, (longer, Some(told)));
}

pub(crate) async fn o3_a_worker_that_was_gone_is_told_of(w: World) {
    let first = w.claim("a").await;
    w.clock.pass(LEASE);
    let second = w.claim("a").await;
    let [before, gone, after] = whats(&second.trail)[..] else { panic!("{:?}", second.trail) };
    assert!(matches!((before, after), (What::Claimed { .. }, What::Claimed { .. })), "{:?}", second.trail);
    assert_eq!(*gone, What::Abandoned);

    let mut late = first.trail;
    late.add(w.clock.now_is(), call(CameTo::Answered));
    let entry = w.ledger.settle(&first.fence, calls(1), late).await.unwrap();
    assert_eq!(entry, Err(EntryError::NotOurs));
    assert_eq!(w.place.trail("a").await.0, second.trail, "who lost the job has no say in it");
}

pub(crate) async fn the_newest_events_are_kept_however_many_there_were(w: World) {
    let claimed = w.claim("a").await;
    let mut trail = claimed.trail;
    for _ in 0..1_000 {
        trail.add(w.clock.now_is(), call(CameTo::Failed(Class::Overloaded)));
    }
    trail.add(w.clock.now_is(), call(CameTo::Answered));
    let ending = w.ending("a", Status::Succeeded).await;
    w.ledger.finish(&claimed.fence, calls(1_001), ending, trail.clone()).await.unwrap();
    let (kept, _) = w.place.trail("a").await;
    assert_eq!(kept.events().last().map(|event| &event.what), Some(&call(CameTo::Answered)));
    assert_eq!(kept.events().count() as u64 + kept.older(), 1_002, "counted, where they are not kept");
    assert!((4..=KEPT).contains(&kept.events().count()), "{kept:?}");
}
