//! What only the parts of a fleet have: steps between which a worker can die, and messages of their own for jobs that wake.

use std::sync::Arc;
use std::time::Duration;

use aquifer::aws::{Fleet, Settings};
use aquifer::job::lifecycle::{State, Status};
use aquifer::job::outcome::Tally;
use aquifer::job::trail::Trail;
use aquifer::ports::{BATCH_ENTRIES, Clock};
use aws_sdk_dynamodb::types::AttributeValue;

use crate::ministack;
use crate::parts::{about, begin, document, round, taken, work};
use crate::world::{self, World, batch};

const HOUR: Duration = Duration::from_secs(3_600);
/// A job that somebody looks at is woken some seconds later, and surely by then.
const WOKEN: Duration = Duration::from_secs(20);

async fn fleet() -> (World, Settings, Fleet) {
    let (world, settings) = world::aws::world_of().await;
    let emulated = ministack::emulated(ministack::url());
    let fleet = Fleet::connect_to(&emulated, settings.clone(), Arc::clone(&world.clock) as Arc<dyn Clock>);
    (world, settings, fleet)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f2_a_round_whose_sender_died_is_sent_to_its_end_without_the_document() {
    let (w, settings, _) = fleet().await;
    let of = document("a");
    let (message, claimed) = begin(&w, &of).await;
    let round = round(&of, 0, 12);
    assert!(w.parts.hand_out(&claimed.fence, 0, &message.id, round.clone()).await.unwrap());
    taken(&w, 12).await;
    // It is as if nobody had got further than its row, and two parts of twelve.
    work(&w, &round.parts[4], Status::Succeeded).await;
    work(&w, &round.parts[7], Status::Failed).await;
    let dynamodb = aws_sdk_dynamodb::Client::new(&ministack::sdk(ministack::url()));
    let text = |value: &str| AttributeValue::S(value.to_owned());
    let row = dynamodb.update_item().table_name(&settings.table).key("pk", text(&format!("parts/default/{}", batch())));
    let row = row.key("sk", text("a/0/0")).update_expression("REMOVE #out").expression_attribute_names("#out", "out");
    row.condition_expression("attribute_exists(#out)").send().await.unwrap();

    let standing = w.parts.standing(&claimed.fence, 0, 0).await.unwrap().unwrap();
    assert_eq!((standing.open, standing.total, standing.about), (10, 12, about(0)));
    let sent = taken(&w, 10).await;
    assert!(!sent.contains(&"5".to_owned()) && !sent.contains(&"8".to_owned()), "what has ended stays: {sent:?}");
    assert_eq!(w.parts.standing(&claimed.fence, 0, 0).await.unwrap().unwrap().open, 10);
    taken(&w, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_looked_at_is_woken_when_that_is_over() {
    let (w, _, _) = fleet().await;
    let of = document("a");
    let (message, claimed) = begin(&w, &of).await;
    let round = round(&of, 0, 1);
    w.parts.hand_out(&claimed.fence, 0, &message.id, round.clone()).await.unwrap();
    taken(&w, 1).await;
    work(&w, &round.parts[0], Status::Succeeded).await;
    w.parts.wake(&round.parts[0].key.batch_key()).await.unwrap();
    taken(&w, 0).await;
    w.ledger.hand_back(&claimed.fence, Tally::default(), Trail::default()).await.unwrap().unwrap();
    let woken = w.queue.receive(BATCH_ENTRIES, &[], HOUR, WOKEN).await.unwrap();
    assert_eq!(woken.iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), [of.to_message()]);
}

/// Its row is dropped by its age, or by a person's hand: delivered, it would be a new job that begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_has_no_row_any_more_is_not_woken() {
    let (w, settings, _) = fleet().await;
    let of = document("a");
    let (message, claimed) = begin(&w, &of).await;
    let round = round(&of, 0, 1);
    w.parts.hand_out(&claimed.fence, 0, &message.id, round.clone()).await.unwrap();
    taken(&w, 1).await;
    work(&w, &round.parts[0], Status::Succeeded).await;
    w.ledger.hand_back(&claimed.fence, Tally::default(), Trail::default()).await.unwrap().unwrap();
    let dynamodb = aws_sdk_dynamodb::Client::new(&ministack::sdk(ministack::url()));
    let text = |value: &str| AttributeValue::S(value.to_owned());
    let row = dynamodb.delete_item().table_name(&settings.table).key("sk", text("-"));
    let row = row.key("pk", text(&format!("job/default/{}/a", batch())));
    row.condition_expression("attribute_exists(pk)").send().await.unwrap();
    w.parts.wake(&round.parts[0].key.batch_key()).await.unwrap();
    assert!(w.queue.receive(BATCH_ENTRIES, &[], HOUR, Duration::from_secs(1)).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_in_no_list_and_go_with_their_jobs_batch() {
    let (w, settings, fleet) = fleet().await;
    let of = document("a");
    let (message, claimed) = begin(&w, &of).await;
    let round = round(&of, 0, 3);
    w.parts.hand_out(&claimed.fence, 0, &message.id, round.clone()).await.unwrap();
    for part in &round.parts {
        work(&w, part, Status::Succeeded).await;
    }
    assert!(fleet.batches(None).await.unwrap().is_empty(), "of a document's chunks nothing is listed");
    w.ledger.hand_back(&claimed.fence, Tally::default(), Trail::default()).await.unwrap().unwrap();
    work(&w, &of, Status::Succeeded).await;
    w.seal(&batch(), 1).await;
    let complete = w.ledger.complete_unannounced(&of.key.batch_key()).await.unwrap().unwrap();
    assert_eq!((complete.sums.total, complete.sums.succeeded), (1, 1), "one document is one job");
    w.ledger.mark_announced(&of.key.batch_key(), complete.completion).await.unwrap();
    let listed = fleet.batches(None).await.unwrap();
    assert_eq!(listed.iter().map(|batch| batch.key.batch.clone()).collect::<Vec<_>>(), [batch()]);
    let told = fleet.jobs(None, &of.key.id, None).await.unwrap().remove(0).parts;
    assert_eq!(told.iter().map(|parts| (parts.total, parts.ended.succeeded)).collect::<Vec<_>>(), [(3, 3)]);
    let second = fleet.part(None, &of.key.id, &round.parts[1].key.id).await.unwrap().remove(0);
    assert_eq!((second.key.batch, second.state), (batch(), State::Final(Status::Succeeded)), "found where its job is");

    fleet.forget(&batch()).await.unwrap();
    let sdk = ministack::sdk(ministack::url());
    let rows = aws_sdk_dynamodb::Client::new(&sdk).scan().table_name(&settings.table).send().await.unwrap();
    let left: Vec<&String> = rows.items().iter().map(|item| item["pk"].as_s().unwrap()).collect();
    assert!(left.is_empty(), "{left:?}");
    let objects = ministack::s3(&sdk).list_objects_v2().bucket(&settings.bucket).send().await.unwrap();
    let left: Vec<&str> = objects.contents().iter().filter_map(|object| object.key()).collect();
    assert!(left.iter().all(|key| key.starts_with("aquifer/jobs/")), "{left:?}");
}
