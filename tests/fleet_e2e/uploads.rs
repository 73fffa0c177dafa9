//! Files that are dropped into the bucket, every event sent three times, and workers killed at random: one run for each.

use std::collections::{BTreeMap, BTreeSet};

use aquifer::job::ident::Digest;
use aquifer::job::outcome::Pointer;
use aws_sdk_s3::types::{Event, NotificationConfiguration, QueueConfiguration};
use aws_sdk_sqs::types::QueueAttributeName;
use rand::RngExt as _;
use serde_json::Value;

use crate::ears::Ears;
use crate::lives::{dice, moment};
use crate::ministack;
use crate::thrice::send_again;
use crate::world::{World, answers, calls, setting, stop_all, until};

const SLOTS: usize = 6;

#[test]
fn f1_w8_an_upload_told_of_three_times_is_one_run_one_result_and_one_notice_while_workers_are_killed() {
    let (uploads, kills) = (setting("FLEET_UPLOADS", 20), setting("FLEET_UPLOAD_KILLS", 2));
    let mut dice = dice("fleet uploads");
    let world = World::new("300ms");
    world.configure(
        "",
        &format!("slots = {SLOTS}\nlease = \"10s\"\n[[upload]]\nprefix = \"inbox/\"\nsuffix = \".txt\""),
    );
    let ears = Ears::open(&world);
    tell_of_uploads(&world);
    for number in 1..=uploads {
        // The relay tells prompts by the number at their end.
        let text = format!("The report number {number}");
        let put = ministack::s3(&world.sdk).put_object().bucket(&world.settings.bucket);
        world.wait(put.key(format!("inbox/report {number}.txt")).body(text.into_bytes().into()).send()).unwrap();
    }
    let told = uploads as u64 + 1;
    until("events of all, and the test of the bucket's notifications", || world.depth().ready == told);
    assert_eq!(world.wait(send_again(&world)), uploads + 1);

    let mut alive = vec![world.worker(), world.worker()];
    let (mut logs, mut heard_by_dead) = (Vec::new(), 0);
    for kill in 1..=kills {
        let enough = uploads * kill / (kills + 2);
        until("answers", || heard_by_dead + answers(&alive) >= enough);
        std::thread::sleep(moment(&mut dice, 0..300));
        let corpse = alive.swap_remove(dice.random_range(0..alive.len())).kill();
        heard_by_dead += corpse.relay.seen().answers;
        logs.push(corpse.relay.finish());
        alive.push(world.worker());
    }
    let heard = ears.hear_jobs(&world, uploads);
    world.until_queue_is_empty();
    logs.extend(stop_all(alive));

    let calls = calls(&logs);
    let made: usize = calls.values().sum();
    println!("{uploads} uploads, {told} events three times each, {kills} kills: {made} calls");
    assert_eq!(calls.keys().copied().collect::<Vec<_>>(), (1..=uploads).collect::<Vec<_>>(), "every one was asked");
    assert!(made <= uploads + SLOTS * kills, "only what was in flight at a kill, again: {calls:?}");

    assert_eq!(heard.jobs.len(), uploads, "one job each");
    let (mut notice_ids, mut results) = (BTreeSet::new(), BTreeMap::new());
    for notices in heard.jobs.values() {
        let first = &notices[0];
        assert!(notices.iter().all(|notice| notice == first), "always in the same words: {notices:?}");
        assert!(first["status"] == "succeeded" && first["batch"] == "-", "{first}");
        notice_ids.insert(first["notice_id"].to_string());
        let result = result(&world, &first["result"]);
        let key = result["metadata"]["key"].as_str().unwrap().to_owned();
        assert_eq!(result["document"]["source"], format!("s3://{}/{key}", world.settings.bucket));
        results.insert(key, result);
    }
    let expected: BTreeSet<String> = (1..=uploads).map(|number| format!("inbox/report {number}.txt")).collect();
    assert_eq!(results.into_keys().collect::<BTreeSet<_>>(), expected, "one result each");
    assert_eq!(notice_ids.len(), uploads);
}

/// Lets the bucket tell the queue of all that is put into it, our own results included.
fn tell_of_uploads(world: &World) {
    let sqs = aws_sdk_sqs::Client::new(&world.sdk);
    world.wait(async {
        let asked = sqs.get_queue_attributes().queue_url(&world.settings.queue_url);
        let asked = asked.attribute_names(QueueAttributeName::QueueArn).send().await.unwrap();
        let arn = &asked.attributes.unwrap()[&QueueAttributeName::QueueArn];
        let queue = QueueConfiguration::builder().queue_arn(arn).events(Event::S3ObjectCreated).build().unwrap();
        let told = NotificationConfiguration::builder().queue_configurations(queue).build();
        let put = ministack::s3(&world.sdk).put_bucket_notification_configuration().bucket(&world.settings.bucket);
        put.notification_configuration(told).send().await.unwrap();
    });
}

/// The result line to which a notice points.
fn result(world: &World, pointer: &Value) -> Value {
    let pointer = Pointer {
        uri: pointer["uri"].as_str().unwrap().to_owned(),
        offset: pointer["offset"].as_u64().unwrap(),
        length: pointer["length"].as_u64().unwrap(),
        sha256: Digest::from_hex(pointer["sha256"].as_str().unwrap()).unwrap(),
    };
    serde_json::from_slice(&world.wait(world.fleet.bodies().read(&pointer)).unwrap()).unwrap()
}
