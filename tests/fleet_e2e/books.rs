//! Do results, notices, counts, rows and queue agree with the input?

use std::collections::BTreeSet;

use aquifer::aws::Order;
use aquifer::job::ident::BatchName;
use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::ears::Heard;
use crate::ministack;
use crate::support::{assert_all_succeeded, job_ids, json_lines, sum};
use crate::world::{BATCH, World};

/// Result lines that are fetched at once.
const AT_ONCE: usize = 16;

/// Everything that must be true of a batch whose jobs have all succeeded; its results, in the order of the input.
pub(crate) fn assert_complete(world: &World, heard: &Heard, jobs: usize) -> Vec<Value> {
    let text = results(world, Order::Input);
    let results = json_lines(text.join("\n").as_bytes());
    assert_all_succeeded(&results, jobs);
    let in_order = |(result, number): (&Value, usize)| result["id"] == format!("job-{number}");
    assert!(results.iter().zip(1..).all(in_order), "results stand in the order of the input");
    let as_ended = json_lines(self::results(world, Order::Done).join("\n").as_bytes());
    assert_all_succeeded(&as_ended, jobs);

    assert_told(world, heard, jobs, &text.into_iter().collect());
    assert_counted(world, heard, jobs, sum(&results, "cost_usd"));
    let rows = world.rows();
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), (1..=jobs).collect::<Vec<_>>());
    assert!(rows.values().all(|row| row.state == "succeeded"), "{rows:?}");
    results
}

fn results(world: &World, order: Order) -> Vec<String> {
    world.wait(async {
        let mut lines = world.fleet.results(&BatchName::new(BATCH).unwrap(), order).await.unwrap();
        let mut all = Vec::new();
        while let Some(line) = lines.next().await {
            all.push(String::from_utf8(line.unwrap().to_vec()).unwrap());
        }
        all
    })
}

/// Every job was made known, always in the same words, and where its notice says its result line lies, it lies.
fn assert_told(world: &World, heard: &Heard, jobs: usize, lines: &BTreeSet<String>) {
    let mut ids: Vec<&str> = heard.jobs.keys().map(String::as_str).collect();
    ids.sort_unstable();
    assert_eq!(ids, job_ids(jobs), "every job was made known");
    for notices in heard.jobs.values() {
        assert!(
            notices.iter().all(|notice| notice == &notices[0]),
            "a job is made known in the same words: {notices:?}"
        );
    }
    let notice_ids: BTreeSet<&str> = heard.jobs.values().map(|told| told[0]["notice_id"].as_str().unwrap()).collect();
    assert_eq!(notice_ids.len(), jobs, "a notice id is one job's");

    let s3 = ministack::s3(&world.sdk);
    let fetched = stream::iter(heard.jobs.values().map(|told| fetch(&s3, world, &told[0]))).buffered(AT_ONCE);
    let fetched: Vec<Vec<u8>> = world.wait(fetched.collect());
    for (told, line) in heard.jobs.values().zip(fetched) {
        let notice = &told[0];
        let digest: String = Sha256::digest(&line).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(notice["result"]["sha256"], digest.as_str(), "{notice}");
        let line = String::from_utf8(line).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["id"], notice["id"]);
        assert!(lines.contains(&line), "what a notice names is the job's one result: {line}");
    }
}

async fn fetch(s3: &aws_sdk_s3::Client, world: &World, notice: &Value) -> Vec<u8> {
    let result = &notice["result"];
    let bucket = &world.settings.bucket;
    let key = result["uri"].as_str().unwrap().strip_prefix(&format!("s3://{bucket}/")).unwrap();
    let (offset, length) = (result["offset"].as_u64().unwrap(), result["length"].as_u64().unwrap());
    let range = format!("bytes={offset}-{}", offset + length - 1);
    let got = s3.get_object().bucket(bucket).key(key).range(range).send().await.unwrap();
    got.body.collect().await.unwrap().to_vec()
}

/// The batch was announced under one notice id, with the counts that the table has.
fn assert_counted(world: &World, heard: &Heard, jobs: usize, cost: f64) {
    let jobs = jobs as u64;
    let first = &heard.batches[0];
    for notice in &heard.batches {
        assert_eq!(notice["notice_id"], first["notice_id"], "{:?}", heard.batches);
        assert_eq!((&notice["total"], &notice["succeeded"]), (&jobs.into(), &jobs.into()), "{notice}");
        assert_eq!((&notice["status"], &notice["failed"]), (&"succeeded".into(), &0.into()), "{notice}");
    }
    let batches = world.wait(world.fleet.batches(Some(&BatchName::new(BATCH).unwrap()))).unwrap();
    let [batch] = &batches[..] else { panic!("one batch: {batches:?}") };
    assert_eq!((batch.jobs, batch.sealed, batch.announced), (Some(jobs), true, 1), "{batch:?}");
    assert_eq!((batch.ended.total, batch.ended.succeeded), (jobs, jobs), "{batch:?}");
    let counted = serde_json::to_value(batch.ended.cost_usd).unwrap();
    assert_eq!(first["cost_usd"], counted);
    assert!((counted.as_f64().unwrap() - cost).abs() < 1e-6, "counted {counted}, results {cost}");
}
