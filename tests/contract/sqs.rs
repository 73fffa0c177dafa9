//! What only the queue of a fleet has: claim checks, the attributes of dead letters, and the tenant as the message group.

use std::sync::Arc;
use std::time::Duration;

use aquifer::aws::{Fleet, Settings};
use aquifer::job::ident::Tenant;
use aquifer::ports::{BATCH_ENTRIES, Clock, Message, Outgoing, Queue};
use aws_sdk_sqs::types::{Message as Raw, MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName};
use serde_json::{Value, json};

use crate::ministack;
use crate::world::{ManualClock, outgoing};

const HIDE: Duration = Duration::from_secs(30);

struct Place {
    queue: Arc<dyn Queue>,
    settings: Settings,
}

impl Place {
    async fn new() -> Self {
        let settings = ministack::settings();
        let clock = ManualClock::new() as Arc<dyn Clock>;
        let fleet = Fleet::connect_to(&ministack::emulated(ministack::url()), settings.clone(), clock);
        fleet.create_missing().await.unwrap();
        Self { queue: fleet.queue(), settings }
    }

    async fn send(&self, body: &Value) {
        self.queue.send(vec![outgoing(&body.to_string())]).await.unwrap().remove(0).unwrap();
    }

    async fn receive(&self) -> Vec<Message> {
        self.queue.receive(BATCH_ENTRIES, &[], HIDE, Duration::ZERO).await.unwrap()
    }

    /// As it lies in a queue.
    async fn raw(&self, queue_url: &str) -> Raw {
        let sqs = aws_sdk_sqs::Client::new(&ministack::sdk(ministack::url()));
        let request = sqs.receive_message().queue_url(queue_url).message_attribute_names("All");
        let got = request.message_system_attribute_names(MessageSystemAttributeName::All).send().await.unwrap();
        got.messages.unwrap().remove(0)
    }

    async fn put(&self, key: &str, body: &Value) -> String {
        let s3 = ministack::s3(&ministack::sdk(ministack::url()));
        let body = body.to_string().into_bytes().into();
        s3.put_object().bucket(&self.settings.bucket).key(key).body(body).send().await.unwrap();
        format!("s3://{}/{key}", self.settings.bucket)
    }
}

fn large() -> Value {
    json!({ "id": "large", "batch": "b", "tenant": "acme", "prompt": "x".repeat(2 << 20) })
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fits_no_message_goes_by_s3() {
    let place = Place::new().await;
    place.send(&large()).await;
    let sent = json_of(&place.raw(&place.settings.queue_url).await.body.unwrap());
    let jobs = format!("s3://{}/{}jobs/", place.settings.bucket, place.settings.prefix);
    assert!(sent["payload"].as_str().unwrap().starts_with(&jobs), "{sent}");
    assert_eq!((&sent["id"], &sent["batch"], &sent["tenant"]), (&json!("large"), &json!("b"), &json!("acme")));
    assert_eq!(sent.as_object().unwrap().len(), 4);
    place.send(&large()).await;
    assert_eq!(json_of(&place.receive().await[0].body), large());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_is_in_the_attributes_that_any_producer_can_set() {
    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let place = Place::new().await;
    let sqs = aws_sdk_sqs::Client::new(&ministack::sdk(ministack::url()));
    place.send(&json!({ "id": "untraced" })).await;
    let untraced = place.raw(&place.settings.queue_url).await;
    assert_eq!(untraced.message_attributes, None, "none where nobody traces");

    let text = |text: &str| MessageAttributeValue::builder().data_type("String").string_value(text).build().unwrap();
    for (body, traceparent) in [("another's", TRACEPARENT), ("no trace", "00-not-a-trace-01")] {
        let request = sqs.send_message().queue_url(&place.settings.queue_url).message_body(body);
        let request = request.message_attributes("traceparent", text(traceparent));
        request.message_attributes("tracestate", text("vendor=1")).send().await.unwrap();
    }
    let mut received = place.receive().await;
    received.sort_by(|one, other| one.body.cmp(&other.body));
    let traces: Vec<_> = received.iter().map(|message| message.trace.as_ref().map(ToString::to_string)).collect();
    assert_eq!(traces, [Some(format!("{TRACEPARENT} vendor=1")), None], "what is none is passed over");

    place.queue.dead_letter(&received[0], "by hand").await.unwrap().unwrap();
    let dead = place.raw(&place.settings.dead_letter_url).await.message_attributes.unwrap();
    assert_eq!(dead["traceparent"].string_value(), Some(TRACEPARENT), "a dead letter is found from its trace");
    assert_eq!(dead["aquifer.reason"].string_value(), Some("by hand"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_queue_takes_is_asked_of_it_and_the_dead_letters_of_theirs() {
    let place = Place::new().await;
    let sqs = aws_sdk_sqs::Client::new(&ministack::sdk(ministack::url()));
    for (url, bytes) in [(&place.settings.queue_url, 262_144), (&place.settings.dead_letter_url, 131_072)] {
        let set = sqs.set_queue_attributes().queue_url(url);
        set.attributes(QueueAttributeName::MaximumMessageSize, bytes.to_string()).send().await.unwrap();
    }
    let job = |bytes: usize| json!({ "id": "large", "batch": "b", "tenant": "acme", "prompt": "x".repeat(bytes) });
    for (bytes, is_whole) in [(200_000, true), (300_000, false)] {
        place.send(&job(bytes)).await;
        let raw = place.raw(&place.settings.queue_url).await;
        let sent = json_of(&raw.body.unwrap());
        assert_eq!(sent.get("payload").is_none(), is_whole, "{bytes} bytes");
        let gone = sqs.delete_message().queue_url(&place.settings.queue_url);
        gone.receipt_handle(raw.receipt_handle.unwrap()).send().await.unwrap();
    }
    // Ten that fit one by one, and not together.
    let ten = (0..10).map(|_| outgoing(&job(100_000).to_string())).collect();
    for sent in place.queue.send(ten).await.unwrap() {
        sent.unwrap();
    }
    let message = place.receive().await.remove(0);
    place.queue.dead_letter(&message, "poison: claimed too often").await.unwrap().unwrap();
    assert!(place.raw(&place.settings.dead_letter_url).await.body.unwrap().len() > 100_000);
    place.send(&job(200_000)).await;
    loop {
        let message = place.receive().await.remove(0);
        if message.body.len() > 200_000 {
            place.queue.dead_letter(&message, "poison: claimed too often").await.unwrap().unwrap();
            break;
        }
    }
    let dead = place.raw(&place.settings.dead_letter_url).await;
    assert!(json_of(&dead.body.unwrap())["payload"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_somebody_else_put_into_s3_is_fetched() {
    let place = Place::new().await;
    let uri = place.put("theirs/job 1.json", &json!({ "id": "inner", "prompt": "p", "priority": 2 })).await;
    place.send(&json!({ "id": "outer", "payload": uri })).await;
    let got = place.receive().await.remove(0);
    assert_eq!(json_of(&got.body), json!({ "id": "outer", "prompt": "p", "priority": 2 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_a_claim_check_to_nothing_is_delivered_for_its_refusal() {
    let place = Place::new().await;
    let checks = [
        json!({ "payload": format!("s3://{}/not-there", place.settings.bucket) }),
        json!({ "payload": format!("s3://not-{}/k", place.settings.bucket) }),
        json!({ "payload": "https://example.com/k" }),
    ];
    for check in &checks {
        place.send(check).await;
    }
    let got: Vec<Value> = place.receive().await.iter().map(|message| json_of(&message.body)).collect();
    assert_eq!(got.len(), checks.len());
    assert!(checks.iter().all(|check| got.contains(check)), "{got:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_a_dead_letter_says_why_and_which_message_it_was() {
    let place = Place::new().await;
    place.queue.send(vec![outgoing("no job at all")]).await.unwrap().remove(0).unwrap();
    let message = place.receive().await.remove(0);
    let reason = format!("line 1: no JSON\u{0}{}", "e".repeat(5_000));
    place.queue.dead_letter(&message, &reason).await.unwrap().unwrap();
    let dead = place.raw(&place.settings.dead_letter_url).await;
    assert_eq!(dead.body.as_deref(), Some("no job at all"));
    let attributes = dead.message_attributes.unwrap();
    let words = |name: &str| attributes[name].string_value.clone().unwrap();
    assert_eq!(words("aquifer.message_id"), message.id.0);
    assert_eq!(words("aquifer.reason").chars().count(), 1_024);
    assert!(words("aquifer.reason").starts_with("line 1: no JSONeee"), "without what cannot be sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_a_large_dead_letter_goes_by_s3_too() {
    let place = Place::new().await;
    place.send(&large()).await;
    let message = place.receive().await.remove(0);
    place.queue.dead_letter(&message, "").await.unwrap().unwrap();
    let dead = json_of(&place.raw(&place.settings.dead_letter_url).await.body.unwrap());
    assert_eq!((&dead["id"], dead["payload"].is_string()), (&json!("large"), true));
    assert_eq!(place.queue.depth().await.unwrap().in_flight, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_tenant_are_a_group_and_what_is_too_heavy_together_goes_in_two_calls() {
    let place = Place::new().await;
    let tenant = Tenant::new("acme:eu").unwrap();
    let half = json!({ "id": "half", "prompt": "x".repeat(700_000) }).to_string();
    let entries = (0..3).map(|_| Outgoing { tenant: tenant.clone(), ..outgoing(&half) }).collect();
    for reply in place.queue.send(entries).await.unwrap() {
        reply.unwrap();
    }
    assert_eq!(place.queue.depth().await.unwrap().ready, 3);
    let raw = place.raw(&place.settings.queue_url).await;
    let group = raw.attributes.unwrap().remove(&MessageSystemAttributeName::MessageGroupId);
    assert_eq!(group.as_deref(), Some("acme:eu"));
    assert_eq!(raw.body, Some(half), "as it was sent");
}
