//! Every message three times, for three workers at once.

use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, SendMessageBatchRequestEntry};

use crate::books::assert_complete;
use crate::ears::Ears;
use crate::support::sum;
use crate::world::{World, calls, stop_all};

const JOBS: usize = 90;
const COPIES: usize = 3;

#[test]
fn d3_f16_f17_a_message_that_is_delivered_three_times_at_once_is_one_call_and_one_result() {
    let world = World::new("1s");
    world.configure("", "slots = 48\nlease = \"20s\"");
    let ears = Ears::open(&world);
    world.enqueue(JOBS);
    // Behind the jobs comes the message that seals the batch.
    assert_eq!(world.wait(send_again(&world)), JOBS + 1);
    let alive = vec![world.worker(), world.worker(), world.worker()];
    let heard = ears.hear(&world, JOBS);
    world.until_queue_is_empty();
    let logs = stop_all(alive);

    let calls = calls(&logs);
    assert_eq!(calls.len(), JOBS);
    assert!(calls.values().all(|calls| *calls == 1), "one call a job: {calls:?}");
    assert!(logs.iter().all(|log| !log.requests.is_empty()), "all three worked");
    let results = assert_complete(&world, &heard, JOBS);
    let on_record = sum(&results, "model_calls");
    assert!((on_record - JOBS as f64).abs() < f64::EPSILON, "{on_record} calls on record");
    println!("{JOBS} jobs, {COPIES} messages each: one call each");
}

/// Takes all messages out of the queue, and puts each in three times, side by side; how many there were.
pub(crate) async fn send_again(world: &World) -> usize {
    let (sqs, url) = (aws_sdk_sqs::Client::new(&world.sdk), &world.settings.queue_url);
    let mut bodies = Vec::new();
    loop {
        let received = sqs.receive_message().queue_url(url).max_number_of_messages(10).send().await.unwrap();
        let messages = received.messages.unwrap_or_default();
        if messages.is_empty() {
            break;
        }
        let entries = messages.iter().enumerate().map(|(place, message)| {
            let handle = message.receipt_handle.clone().unwrap();
            DeleteMessageBatchRequestEntry::builder().id(place.to_string()).receipt_handle(handle).build().unwrap()
        });
        sqs.delete_message_batch().queue_url(url).set_entries(Some(entries.collect())).send().await.unwrap();
        bodies.extend(messages.into_iter().map(|message| message.body.unwrap()));
    }
    for body in &bodies {
        let entries = (0..COPIES).map(|copy| {
            SendMessageBatchRequestEntry::builder().id(copy.to_string()).message_body(body).build().unwrap()
        });
        let sent = sqs.send_message_batch().queue_url(url).set_entries(Some(entries.collect())).send().await.unwrap();
        assert_eq!(sent.successful.len(), COPIES);
    }
    bodies.len()
}
