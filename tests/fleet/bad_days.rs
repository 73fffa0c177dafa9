//! Does the proxy do what it says? Through the SDK, since it is the SDK's reading of a fault that counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer::aws::{Fleet, Settings};
use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sns::types::PublishBatchRequestEntry;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, QueueAttributeName,
    SendMessageBatchRequestEntry,
};

use crate::Stopped;
use crate::ministack;
use crate::proxy::{Fault, Odds, Proxy, Service};

/// A proxy before the services, and clients of it.
struct Day {
    proxy: Proxy,
    settings: Settings,
    sqs: aws_sdk_sqs::Client,
    dynamodb: aws_sdk_dynamodb::Client,
    s3: aws_sdk_s3::Client,
    sns: aws_sdk_sns::Client,
    sfn: aws_sdk_sfn::Client,
}

impl Day {
    /// On which nothing is tried twice.
    async fn new() -> Self {
        Self::with(RetryConfig::disabled()).await
    }

    async fn with(retries: RetryConfig) -> Self {
        let settings = ministack::settings();
        let fleet = Fleet::connect_to(&ministack::emulated(ministack::url()), settings.clone(), Arc::new(Stopped));
        fleet.create_missing().await.unwrap();
        let proxy = Proxy::start(ministack::url(), 1);
        let sdk: SdkConfig = ministack::sdk(proxy.url()).to_builder().retry_config(retries).build();
        Self {
            settings,
            sqs: aws_sdk_sqs::Client::new(&sdk),
            dynamodb: aws_sdk_dynamodb::Client::new(&sdk),
            s3: ministack::s3(&sdk),
            sns: aws_sdk_sns::Client::new(&sdk),
            sfn: aws_sdk_sfn::Client::new(&sdk),
            proxy,
        }
    }

    async fn send(&self, bodies: &[&str]) -> (Vec<String>, Vec<String>) {
        let entries = bodies
            .iter()
            .map(|body| SendMessageBatchRequestEntry::builder().id(*body).message_body(*body).build().unwrap());
        let request = self.sqs.send_message_batch().queue_url(&self.settings.queue_url);
        let reply = request.set_entries(Some(entries.collect())).send().await.unwrap();
        let failed = reply.failed.iter().inspect(|entry| assert!(!entry.sender_fault)).map(|entry| entry.id.clone());
        (reply.successful.iter().map(|entry| entry.id.clone()).collect(), failed.collect())
    }

    /// Receipt handles and bodies, in the order of the bodies.
    async fn receive(&self) -> Vec<(String, String)> {
        let request = self.sqs.receive_message().queue_url(&self.settings.queue_url).max_number_of_messages(10);
        let messages = request.send().await.unwrap().messages.unwrap_or_default();
        let parts = |message: aws_sdk_sqs::types::Message| (message.body.unwrap(), message.receipt_handle.unwrap());
        let mut messages: Vec<_> = messages.into_iter().map(parts).collect();
        messages.sort();
        messages
    }

    /// Messages that can be received, and that are held.
    async fn depth(&self) -> (String, String) {
        let asked = self.sqs.get_queue_attributes().queue_url(&self.settings.queue_url);
        let asked = asked.attribute_names(QueueAttributeName::All).send().await.unwrap().attributes.unwrap();
        let number = |name| asked[&name].clone();
        (
            number(QueueAttributeName::ApproximateNumberOfMessages),
            number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        )
    }

    /// One small call to each service, and the word for what went wrong with it.
    async fn each(&self) -> [(Service, &'static str, Result<(), Trouble>); 5] {
        let Settings { queue_url, table, bucket, topic_arn, .. } = &self.settings;
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let sqs = self.sqs.send_message().queue_url(queue_url).message_body("a").send().await;
        let put = self.dynamodb.put_item().table_name(table).item("pk", text("a")).item("sk", text("-"));
        let s3 = self.s3.put_object().bucket(bucket).key("a").body(b"a".to_vec().into()).send().await;
        let sns = self.sns.publish().topic_arn(topic_arn.clone().unwrap()).message("a").send().await;
        let sfn = self.sfn.list_state_machines().send().await;
        [
            (Service::Sqs, "SendMessage", said(sqs)),
            (Service::DynamoDb, "PutItem", said(put.send().await)),
            (Service::S3, "PutObject", said(s3)),
            (Service::Sns, "Publish", said(sns)),
            (Service::Sfn, "ListStateMachines", said(sfn)),
        ]
    }
}

#[derive(Debug, Eq, PartialEq)]
enum Trouble {
    /// No answer.
    Lost,
    /// Status and code.
    Said(u16, Option<String>),
}

fn said<T, E: ProvideErrorMetadata + std::fmt::Debug>(
    reply: Result<T, SdkError<E, aws_sdk_sqs::config::http::HttpResponse>>,
) -> Result<(), Trouble> {
    match reply {
        Ok(_) => Ok(()),
        Err(SdkError::ServiceError(error)) => {
            Err(Trouble::Said(error.raw().status().as_u16(), error.err().code().map(str::to_owned)))
        }
        Err(SdkError::DispatchFailure(_)) => Err(Trouble::Lost),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_nothing_is_ordered_for_passes_and_is_counted() {
    let day = Day::new().await;
    for (service, operation, reply) in day.each().await {
        reply.unwrap();
        let seen = day.proxy.seen_of(service, operation);
        assert_eq!((seen.calls, seen.entries, seen.faults), (1, 1, 0), "{service:?} {operation}");
    }
    assert_eq!(day.send(&["b", "c", "d"]).await, (["b", "c", "d"].map(str::to_owned).to_vec(), Vec::new()));
    let seen = day.proxy.seen_of(Service::Sqs, "SendMessageBatch");
    assert_eq!((seen.calls, seen.entries), (1, 3));
    assert!(seen.bytes > 100, "{seen:?}");
    assert_eq!(day.proxy.seen().len(), 6, "{:?}", day.proxy.seen());
    day.proxy.count_anew();
    assert!(day.proxy.seen().is_empty());
}

#[tokio::test]
async fn objects_pass_unchanged() {
    let day = Day::new().await;
    let object: Vec<u8> = (0..6_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 4]).collect();
    let key = "a=b/c%20d e+f.jsonl";
    let (bucket, name) = (&day.settings.bucket, key);
    day.s3.put_object().bucket(bucket).key(name).body(object.clone().into()).send().await.unwrap();
    let whole = day.s3.get_object().bucket(bucket).key(name).send().await.unwrap();
    assert!(whole.body.collect().await.unwrap().into_bytes() == object, "not what was put");
    let part = day.s3.get_object().bucket(bucket).key(name).range("bytes=4999998-5000001").send().await.unwrap();
    assert_eq!(part.body.collect().await.unwrap().into_bytes(), object[4_999_998..=5_000_001]);
    let head = day.s3.head_object().bucket(bucket).key(name).send().await.unwrap();
    assert_eq!(head.content_length(), Some(6_000_000));
    let list = day.s3.list_objects_v2().bucket(bucket).send().await.unwrap();
    assert_eq!(list.contents()[0].key(), Some(key));
    let counted: Vec<String> = day.proxy.seen().keys().map(ToString::to_string).collect();
    assert_eq!(counted, ["S3 GetObject", "S3 HeadObject", "S3 ListObjectsV2", "S3 PutObject"]);
}

#[tokio::test]
async fn a_lost_request_was_never_heard_of_and_a_lost_reply_was_carried_out() {
    let day = Day::new().await;
    for (fault, ready) in [(Fault::LoseRequest, "0"), (Fault::LoseReply, "1")] {
        day.proxy.next(Service::Sqs, "SendMessage", fault);
        let send = day.sqs.send_message().queue_url(&day.settings.queue_url).message_body("a");
        assert_eq!(said(send.send().await), Err(Trouble::Lost), "{fault:?}");
        assert_eq!(day.depth().await.0, ready, "{fault:?}");
    }
    let seen = day.proxy.seen_of(Service::Sqs, "SendMessage");
    assert_eq!((seen.calls, seen.faults), (2, 2));
}

#[tokio::test]
async fn each_service_says_too_much_and_internal_in_its_own_words() {
    let day = Day::new().await;
    let words = [
        (
            Fault::Throttle,
            [
                (400, "RequestThrottled"),
                (400, "ThrottlingException"),
                (503, "SlowDown"),
                (400, "Throttling"),
                (400, "ThrottlingException"),
            ],
        ),
        (
            Fault::Internal,
            [
                (500, "InternalError"),
                (500, "InternalServerError"),
                (500, "InternalError"),
                (500, "InternalError"),
                (500, "InternalFailure"),
            ],
        ),
    ];
    let calls = day.each().await.map(|(service, operation, reply)| {
        reply.unwrap();
        (service, operation)
    });
    for (fault, words) in words {
        for (service, operation) in calls {
            day.proxy.next(service, operation, fault);
        }
        for ((service, _, reply), (status, code)) in day.each().await.into_iter().zip(words) {
            assert_eq!(reply, Err(Trouble::Said(status, Some(code.to_owned()))), "{service:?} {fault:?}");
        }
    }
    for (service, operation) in calls {
        day.proxy.next(service, operation, Fault::Status(503));
    }
    for (service, _, reply) in day.each().await {
        assert!(matches!(reply, Err(Trouble::Said(503, _))), "{service:?}: {reply:?}");
    }
}

#[tokio::test]
async fn the_sdk_tries_again_what_it_takes_for_passing() {
    let day = Day::with(RetryConfig::standard().with_initial_backoff(Duration::from_millis(1))).await;
    for fault in [Fault::LoseRequest, Fault::LoseReply, Fault::Status(503), Fault::Internal, Fault::Throttle] {
        day.proxy.count_anew();
        for (service, operation) in [
            (Service::Sqs, "SendMessage"),
            (Service::DynamoDb, "PutItem"),
            (Service::S3, "PutObject"),
            (Service::Sns, "Publish"),
            (Service::Sfn, "ListStateMachines"),
        ] {
            day.proxy.next(service, operation, fault);
        }
        for (service, operation, reply) in day.each().await {
            assert_eq!(reply, Ok(()), "{service:?} {fault:?}");
            let seen = day.proxy.seen_of(service, operation);
            assert_eq!((seen.calls, seen.faults), (2, 1), "{service:?} {fault:?}");
        }
    }
}

#[tokio::test]
async fn f19_one_entry_fails_and_the_others_are_done() {
    let day = Day::new().await;
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    day.proxy.next(Service::Sqs, "SendMessageBatch", Fault::FailEntry(1));
    assert_eq!(day.send(&["a", "b", "c"]).await, (ids(&["a", "c"]), ids(&["b"])));
    assert_eq!(day.send(&["d"]).await, (ids(&["d"]), ids(&[])));
    day.proxy.next(Service::Sqs, "SendMessageBatch", Fault::FailEntry(7));
    assert_eq!(day.send(&["e"]).await, (ids(&[]), ids(&["e"])), "the last there is");

    let held = day.receive().await;
    assert_eq!(held.iter().map(|(body, _)| body.as_str()).collect::<Vec<_>>(), ["a", "c", "d"]);
    assert_eq!(day.depth().await, ("0".to_owned(), "3".to_owned()));
    day.proxy.next(Service::Sqs, "ChangeMessageVisibilityBatch", Fault::FailEntry(0));
    let entries = held.iter().map(|(body, handle)| {
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(body).receipt_handle(handle);
        entry.visibility_timeout(0).build().unwrap()
    });
    let request = day.sqs.change_message_visibility_batch().queue_url(&day.settings.queue_url);
    let reply = request.set_entries(Some(entries.collect())).send().await.unwrap();
    assert_eq!((reply.successful.len(), reply.failed[0].id.as_str()), (2, "a"));
    assert_eq!(day.depth().await, ("2".to_owned(), "1".to_owned()));

    let held = day.receive().await;
    day.proxy.next(Service::Sqs, "DeleteMessageBatch", Fault::FailEntry(1));
    let entries = held.iter().map(|(body, handle)| {
        DeleteMessageBatchRequestEntry::builder().id(body).receipt_handle(handle).build().unwrap()
    });
    let request = day.sqs.delete_message_batch().queue_url(&day.settings.queue_url);
    let reply = request.set_entries(Some(entries.collect())).send().await.unwrap();
    assert_eq!((reply.successful[0].id.as_str(), reply.failed[0].id.as_str()), ("c", "d"));
    assert_eq!(day.depth().await, ("0".to_owned(), "2".to_owned()), "a and d");
}

#[tokio::test]
async fn f19_one_notice_of_a_batch_fails_and_the_others_are_published() {
    let day = Day::new().await;
    let topic = day.settings.topic_arn.clone().unwrap();
    let arn = day.sqs.get_queue_attributes().queue_url(&day.settings.queue_url);
    let arn = arn.attribute_names(QueueAttributeName::QueueArn).send().await.unwrap().attributes.unwrap();
    let arn = arn[&QueueAttributeName::QueueArn].clone();
    let subscribe = day.sns.subscribe().topic_arn(&topic).protocol("sqs").endpoint(arn);
    subscribe.attributes("RawMessageDelivery", "true").send().await.unwrap();
    for (place, done, failed) in [(0, vec!["b & <c>", "c=+%"], "1"), (2, vec!["a", "b & <c>"], "3")] {
        day.proxy.next(Service::Sns, "PublishBatch", Fault::FailEntry(place));
        let entries = ["a", "b & <c>", "c=+%"]
            .iter()
            .zip(1..)
            .map(|(text, id)| PublishBatchRequestEntry::builder().id(id.to_string()).message(*text).build().unwrap());
        let request = day.sns.publish_batch().topic_arn(&topic);
        let reply = request.set_publish_batch_request_entries(Some(entries.collect())).send().await.unwrap();
        let refused: Vec<_> = reply.failed().iter().map(|entry| (entry.id(), entry.sender_fault())).collect();
        assert_eq!((reply.successful().len(), refused), (2, vec![(failed, false)]));
        let mut heard = Vec::new();
        let end = Instant::now() + Duration::from_secs(60);
        while heard.len() < 2 && Instant::now() < end {
            for (body, handle) in day.receive().await {
                let delete = day.sqs.delete_message().queue_url(&day.settings.queue_url).receipt_handle(handle);
                delete.send().await.unwrap();
                heard.push(body);
            }
        }
        heard.sort();
        assert_eq!(heard, done);
    }
    day.proxy.next(Service::Sns, "PublishBatch", Fault::FailEntry(0));
    let entry = PublishBatchRequestEntry::builder().id("1").message("a").build().unwrap();
    let reply = day.sns.publish_batch().topic_arn(&topic).publish_batch_request_entries(entry).send().await.unwrap();
    assert_eq!((reply.successful().len(), reply.failed().len()), (0, 1), "a batch of one");
}

#[tokio::test]
async fn a_service_that_is_away_is_away_alone_until_it_is_back() {
    let day = Day::new().await;
    day.proxy.take_away(Service::DynamoDb);
    for (service, _, reply) in day.each().await {
        let wanted = if service == Service::DynamoDb { Err(Trouble::Lost) } else { Ok(()) };
        assert_eq!(reply, wanted, "{service:?}");
    }
    day.proxy.bring_back(Service::DynamoDb);
    for (service, _, reply) in day.each().await {
        assert_eq!(reply, Ok(()), "{service:?}");
    }
}

#[tokio::test]
async fn a_delayed_call_is_answered_all_the_same() {
    let day = Day::new().await;
    let delay = Duration::from_millis(300);
    day.proxy.next(Service::Sqs, "SendMessageBatch", Fault::Delay(delay));
    let start = Instant::now();
    assert_eq!(day.send(&["a"]).await.0, ["a"]);
    assert!(start.elapsed() >= delay);
}

#[tokio::test]
async fn by_chance_every_fault_comes_as_often_as_it_is_likely_and_again_from_the_same_seed() {
    let meet = async || {
        let day = Day::new().await;
        day.proxy.set_odds(Odds { delay: (0.1, Duration::from_millis(1)), ..Odds::in_all(0.7) });
        let mut met = Vec::new();
        for _ in 0..300 {
            let entry = SendMessageBatchRequestEntry::builder().id("a").message_body("a").build().unwrap();
            let request = day.sqs.send_message_batch().queue_url(&day.settings.queue_url).entries(entry);
            met.push(match request.send().await {
                Ok(reply) if reply.failed.is_empty() => "done".to_owned(),
                Ok(_) => "entry".to_owned(),
                Err(SdkError::ServiceError(error)) => format!("{:?}", error.err().code()),
                Err(SdkError::DispatchFailure(_)) => "lost".to_owned(),
                Err(other) => panic!("{other:?}"),
            });
        }
        let faults = day.proxy.seen_of(Service::Sqs, "SendMessageBatch").faults;
        assert!((170..=250).contains(&faults), "{faults} of 300, 210 were likely");
        met
    };
    let met = meet().await;
    for (kind, wanted) in [("done", 120), ("entry", 30), ("lost", 60), ("Some(\"RequestThrottled\")", 30)] {
        let count = met.iter().filter(|met| *met == kind).count();
        assert!(count.abs_diff(wanted) <= 25, "{count} times {kind}, {wanted} were likely");
    }
    assert_eq!(met, meet().await);
}

#[tokio::test]
async fn a_conflict_is_said_in_the_services_own_words() {
    let day = Day::new().await;
    day.proxy.next(Service::BedrockAgent, "StartIngestionJob", Fault::Conflict);
    let agents = aws_sdk_bedrockagent::Client::new(&ministack::sdk(day.proxy.url()));
    let begin = agents.start_ingestion_job().knowledge_base_id("KB12345678").data_source_id("DS12345678");
    let refused = begin.send().await.unwrap_err();
    assert!(refused.as_service_error().unwrap().is_conflict_exception(), "{refused:?}");
    assert_eq!(day.proxy.seen_of(Service::BedrockAgent, "StartIngestionJob").calls, 1, "the SDK does not ask again");
}
