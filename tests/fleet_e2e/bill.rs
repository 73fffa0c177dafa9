//! What does a job cost beside its call? All calls to AWS, counted by the proxy from `enqueue` to the batch's notice, and
//! their list prices.

use std::time::Instant;

use crate::books::assert_complete;
use crate::ears::Ears;
use crate::proxy::{Call, Seen, Service};
use crate::world::{World, answers, setting, stop_all, until};

/// US dollars for a million, us-east-1, November 2026.
const SQS_REQUESTS: f64 = 0.40;
const DYNAMODB_WRITES: f64 = 0.625;
const DYNAMODB_READS: f64 = 0.125;
const S3_WRITES: f64 = 5.0;
const S3_READS: f64 = 0.40;
const SNS_REQUESTS: f64 = 0.50;

#[test]
fn d12_f20_a_job_costs_two_calls_and_three_millionths_of_a_dollar_beside_its_model() {
    costs("");
}

/// Every call is charged to a row that all workers share, which is written once a second.
#[test]
fn d12_q12_f20_a_job_under_a_quota_costs_no_more() {
    costs("tokens_per_minute = 10_000_000\nrequests_per_minute = 10_000\ncounting = \"sliding\"");
}

/// What is said of the model beside its name and price.
fn costs(model: &str) {
    let jobs = setting("FLEET_JOBS", 1_200);
    let world = World::new("300ms");
    // So many that the emulator keeps up with them; at more a second, more share a call.
    world.configure(model, &format!("slots = {}", setting("FLEET_SLOTS", 128)));
    let ears = Ears::open(&world);
    world.proxy.count_anew();
    world.enqueue(jobs);
    let alive = vec![world.worker()];
    until("a first answer", || answers(&alive) > 0);
    let began = Instant::now();
    until("all answers", || answers(&alive) >= jobs);
    let rate = jobs as f64 / began.elapsed().as_secs_f64();
    until("the end", || {
        let batches = world.wait(world.fleet.batches(None)).unwrap();
        batches.iter().any(|batch| batch.announced == 1)
    });
    world.until_queue_is_empty();
    let seen = world.proxy.seen();
    let heard = ears.hear(&world, jobs);
    stop_all(alive);
    assert_complete(&world, &heard, jobs);

    // By the message that seals it, and by the group of results, or two at once, that completed it.
    assert!(heard.batches.len() <= 3, "a batch is not announced by every job: {}", heard.batches.len());

    println!("{jobs} jobs at {rate:.0} a second; calls, and what they carried, for a thousand jobs:");
    let of_thousand = |count: u64| count as f64 * 1_000.0 / jobs as f64;
    for (call, Seen { calls, entries, bytes, .. }) in &seen {
        println!(
            "{:>40} {:>8.1} {:>8.1} {bytes:>10} B in all",
            call.to_string(),
            of_thousand(*calls),
            of_thousand(*entries)
        );
    }
    let calls = seen.values().map(|seen| seen.calls).sum::<u64>() as f64 / jobs as f64;
    // Dollars for a million things are millionths of a dollar for one.
    let dollars = seen.iter().map(|(call, seen)| price(call, seen)).sum::<f64>() / jobs as f64;
    println!("{calls:.2} calls a job (bar: 2.0); USD {dollars:.2} for a million jobs (bar: 3)");
    assert!(rate >= 30.0, "{rate:.1} jobs/s");
    assert!(calls <= 2.0, "{calls:.2} calls a job");
    assert!(dollars <= 3.0, "USD {dollars:.2} for a million jobs");
}

/// In millionths of a dollar. Rows are at most 1,024 bytes: a unit each, two in a transaction; rows that are read take a unit
/// each. Other items are charged by what was sent, which is more than what is stored.
fn price(call: &Call, seen: &Seen) -> f64 {
    let of = |size: u64| seen.calls.max(seen.bytes.div_ceil(size)) as f64;
    match (call.service, call.operation.as_str()) {
        (Service::Sqs, _) => of(64 << 10) * SQS_REQUESTS,
        (Service::Sns, _) => of(64 << 10) * SNS_REQUESTS,
        (Service::S3, "GetObject" | "HeadObject") => seen.calls as f64 * S3_READS,
        (Service::S3, _) => seen.calls as f64 * S3_WRITES,
        (Service::DynamoDb, "GetItem" | "BatchGetItem") => seen.entries as f64 * DYNAMODB_READS,
        // A batch's head and 16 counters are less than 8 KiB.
        (Service::DynamoDb, "Query") => 2.0 * seen.calls as f64 * DYNAMODB_READS,
        (Service::DynamoDb, "PutItem") => (seen.calls + seen.bytes / 1_024) as f64 * DYNAMODB_WRITES,
        (Service::DynamoDb, "UpdateItem" | "DeleteItem") => seen.calls as f64 * DYNAMODB_WRITES,
        (Service::DynamoDb, "TransactWriteItems") => 2.0 * seen.entries as f64 * DYNAMODB_WRITES,
        // Asked once at the start, and not billed.
        (Service::DynamoDb, "DescribeTable" | "DescribeTimeToLive") => 0.0,
        (Service::DynamoDb | Service::Sfn | Service::BedrockAgent, other) => panic!("what does {other} cost?"),
    }
}
