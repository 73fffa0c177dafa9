//! What does a job cost beside its call? All calls to AWS, counted by the proxy from `enqueue` to the batch's notice, and
//! their list prices; and what `aquifer plan` says beforehand of those, and afterwards of the next batch.

use std::time::{Duration, Instant};

use aquifer::aws::{Traffic, prices};
use serde_json::Value;

use crate::books::assert_complete;
use crate::ears::Ears;
use crate::proxy::{Call, Seen, Service};
use crate::support::sum;
use crate::world::{World, answers, setting, stop_all, until};

#[test]
fn d12_f20_a_job_costs_two_calls_and_three_millionths_of_a_dollar_beside_its_model() {
    let (world, results) = costs("");
    plans_the_next(&world, &results);
}

/// Every call is charged to a row that all workers share, which is written once a second.
#[test]
fn d12_q12_f20_a_job_under_a_quota_costs_no_more() {
    costs("tokens_per_minute = 10_000_000\nrequests_per_minute = 10_000\ncounting = \"sliding\"");
}

/// What is said of the model beside its name and price. The fleet, and the results.
fn costs(model: &str) -> (World, Vec<Value>) {
    let (jobs, slots) = (setting("FLEET_JOBS", 1_200), setting("FLEET_SLOTS", 128));
    let world = World::new("300ms");
    // So many that the emulator keeps up with them; at more a second, more share a call.
    world.configure(model, &format!("slots = {slots}"));
    let ears = Ears::open(&world);
    world.proxy.count_anew();
    world.enqueue(jobs);
    let alive = vec![world.worker()];
    until("a first answer", || answers(&alive) > 0);
    let began = Instant::now();
    until("all answers", || answers(&alive) >= jobs);
    let drained_in = began.elapsed();
    let rate = jobs as f64 / drained_in.as_secs_f64();
    until("the end", || {
        let batches = world.wait(world.fleet.batches(None)).unwrap();
        batches.iter().any(|batch| batch.announced == 1)
    });
    world.until_queue_is_empty();
    let seen = world.proxy.seen();
    let heard = ears.hear(&world, jobs);
    stop_all(alive);
    let results = assert_complete(&world, &heard, jobs);

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
    let traffic = Traffic {
        jobs: jobs as u64,
        message_bytes: seen[&Call::new(Service::Sqs, "SendMessageBatch")].bytes,
        drained_in,
        slots,
        lease: Duration::from_secs(120),
        paced_lanes: usize::from(!model.is_empty()),
        an_object_each: false,
        notices: true,
    };
    let bill = traffic.bill();
    let by_plan = [bill.sqs, bill.dynamodb, bill.s3, bill.sns].map(|part| part.dollars() * 1e6 / jobs as f64);
    let by_wire = [Service::Sqs, Service::DynamoDb, Service::S3, Service::Sns].map(|service| {
        let of = seen.iter().filter(|(call, _)| call.service == service);
        of.map(|(call, seen)| price(call, seen)).sum::<f64>() / jobs as f64
    });
    println!("SQS, DynamoDB, S3, SNS: USD {by_wire:.2?} for a million jobs, and by plan USD {by_plan:.2?}");
    println!("{calls:.2} calls a job (bar: 2.0); USD {dollars:.2} for a million jobs (bar: 3)");
    assert!(rate >= 30.0, "{rate:.1} jobs/s");
    assert!(calls <= 2.0, "{calls:.2} calls a job");
    assert!(dollars <= 3.0, "USD {dollars:.2} for a million jobs");
    for ((planned, counted), service) in by_plan.into_iter().zip(by_wire).zip(["SQS", "DynamoDB", "S3", "SNS"]) {
        assert!((planned - counted).abs() <= 0.15, "{service}: USD {planned:.2} by plan, {counted:.2} on the wire");
    }
    (world, results)
}

/// What the fleet has worked tells of the next batch, at the price of some reads.
fn plans_the_next(world: &World, results: &[Value]) {
    world.proxy.count_anew();
    let plan = world.run(&["plan", "demo.jsonl", "--json"]).exits(0).json();
    assert_eq!(plan["history_unknown"], Value::Null, "{plan}");
    let known = plan["models"][0]["history_calls"].as_u64().unwrap();
    assert!(known >= 200, "of {} answers {known} are known", results.len());
    for tokens in ["input_tokens", "output_tokens"] {
        let had: f64 = results.iter().map(|result| result["usage"][tokens].as_f64().unwrap()).sum();
        let planned = plan[tokens].as_f64().unwrap();
        assert!((planned / had - 1.0).abs() < 0.05, "{tokens}: {planned} by plan, {had} before");
    }
    assert!((plan["cost_usd"].as_f64().unwrap() / sum(results, "cost_usd") - 1.0).abs() < 0.05, "{plan}");
    assert!(plan["plumbing_usd"].as_f64().unwrap() > 0.0, "{plan}");

    let seen = world.proxy.seen();
    let is_read = |call: &Call| match call.service {
        Service::DynamoDb => matches!(call.operation.as_str(), "Query" | "BatchGetItem"),
        Service::S3 => matches!(call.operation.as_str(), "ListObjectsV2" | "GetObject"),
        Service::Sqs | Service::Sns | Service::Sfn | Service::BedrockAgent => false,
    };
    assert!(seen.keys().all(is_read), "a plan changes nothing: {seen:?}");
    let calls: u64 = seen.values().map(|seen| seen.calls).sum();
    assert!((3..=160).contains(&calls), "{calls} calls: {seen:?}");
}

/// In millionths of a dollar. Rows are at most 1,024 bytes: a unit each, two in a transaction; rows that are read take a unit
/// each. Other items are charged by what was sent, which is more than what is stored.
fn price(call: &Call, seen: &Seen) -> f64 {
    let of = |size: u64| seen.calls.max(seen.bytes.div_ceil(size)) as f64;
    match (call.service, call.operation.as_str()) {
        (Service::Sqs, _) => of(prices::BILLED_BYTES) * prices::SQS_REQUESTS,
        (Service::Sns, _) => of(prices::BILLED_BYTES) * prices::SNS_REQUESTS,
        (Service::S3, "GetObject" | "HeadObject") => seen.calls as f64 * prices::S3_READS,
        (Service::S3, _) => seen.calls as f64 * prices::S3_WRITES,
        (Service::DynamoDb, "GetItem" | "BatchGetItem") => seen.entries as f64 * prices::DYNAMODB_READS,
        // A batch's head and 16 counters are less than 8 KiB.
        (Service::DynamoDb, "Query") => 2.0 * seen.calls as f64 * prices::DYNAMODB_READS,
        (Service::DynamoDb, "PutItem") => {
            (seen.calls + seen.bytes / prices::WRITE_BYTES) as f64 * prices::DYNAMODB_WRITES
        }
        (Service::DynamoDb, "UpdateItem" | "DeleteItem") => seen.calls as f64 * prices::DYNAMODB_WRITES,
        (Service::DynamoDb, "TransactWriteItems") => 2.0 * seen.entries as f64 * prices::DYNAMODB_WRITES,
        // Asked once at the start, and not billed.
        (Service::DynamoDb, "DescribeTable" | "DescribeTimeToLive") => 0.0,
        (Service::DynamoDb | Service::Sfn | Service::BedrockAgent, other) => panic!("what does {other} cost?"),
    }
}
