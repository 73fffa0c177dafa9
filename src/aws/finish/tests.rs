//! Ends against a DynamoDB that is told what to say.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::HashMap;
use std::sync::Mutex;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::super::ledger::DynamoLedger;
use super::super::scripted::{self, Asked, Heard, Said};
use super::*;
use crate::job::ident::{BatchName, Digest, JobId, Tenant};
use crate::job::lifecycle::Status;
use crate::job::outcome::{Pointer, Usage};
use crate::job::trail::Trail;
use crate::job::units::Usd;
use crate::ports::{BeginReply, FencingToken, Ledger};

const TRANSACT: &str = "TransactWriteItems";

fn ended(batch: &str, id: &str) -> Ended {
    let key = JobKey { tenant: Tenant::unnamed(), batch: BatchName::new(batch).unwrap(), id: JobId::new(id).unwrap() };
    let tally = Tally { model_calls: 1, spent: Usd::from_nanos(7), ..Tally::default() };
    Ended::new(&Fence { key, token: FencingToken(1) }, tally, ending(id), &Trail::default())
}

fn ending(id: &str) -> Ending {
    let uri = "s3://bucket/results/00ff-1.jsonl".to_owned();
    let result = Pointer { uri, offset: 0, length: 9, sha256: Digest::of(id.as_bytes()) };
    let usage = Usage { input_tokens: 10, output_tokens: 3, ..Usage::default() };
    Ending { status: Status::Succeeded, model_used: None, usage, error: None, result }
}

/// What a table says in which everything goes well.
fn well(asked: &Asked) -> Said {
    Some((200, if asked.operation == "Query" { json!({ "Items": [], "Count": 0 }) } else { json!({}) }))
}

/// The jobs of a transaction, and how many ends it counts in each batch. Panics where these are not the same.
fn read(transaction: &Value) -> (Vec<String>, u64) {
    let (mut jobs, mut counted, mut of_batch) = (Vec::new(), 0, HashMap::<String, u64>::new());
    for item in transaction["TransactItems"].as_array().unwrap() {
        let update = &item["Update"];
        let key = update["Key"]["pk"]["S"].as_str().unwrap();
        if let Some((batch, id)) = key.strip_prefix("job/").and_then(|name| name.rsplit_once('/')) {
            *of_batch.entry(batch.to_owned()).or_default() += 1;
            jobs.push(id.to_owned());
        } else {
            let batch = key.strip_prefix("batch/").unwrap();
            let values = &update["ExpressionAttributeValues"];
            let number = |name: &str| values[name]["N"].as_str().unwrap().parse::<u64>().unwrap();
            let ends = number(":ends");
            assert_eq!((number(":succeeded"), number(":cost"), number(":output")), (ends, 7 * ends, 3 * ends));
            assert_eq!(of_batch.remove(batch), Some(ends), "rows and counts of {batch} differ");
            counted += ends;
        }
    }
    assert_eq!(of_batch, HashMap::new(), "rows without a counter");
    (jobs, counted)
}

fn cancelled(reasons: &[Value]) -> Said {
    let kind = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException";
    Some((400, json!({ "__type": kind, "Message": "cancelled", "CancellationReasons": reasons })))
}

/// Reasons for the items of a transaction: what `of_job` says of each row, and nothing of the counters.
fn reasons(transaction: &Value, of_job: impl Fn(&str) -> Value) -> Vec<Value> {
    let (jobs, _) = read(transaction);
    let items = transaction["TransactItems"].as_array().unwrap().len();
    let rows = jobs.iter().map(|job| of_job(job));
    rows.chain(std::iter::repeat_n(json!({ "Code": "None" }), items - jobs.len())).collect()
}

async fn commit(inner: Arc<Inner>, group: Vec<Ended>) -> Vec<&'static str> {
    let replies = Finisher::new(inner).commit(group).await;
    let word = |reply: Result<FinishReply, StoreError>| match reply {
        Ok(FinishReply::Recorded { .. }) => "recorded",
        Ok(FinishReply::Lost) => "lost",
        Err(_) => "error",
    };
    replies.into_iter().map(word).collect()
}

fn transactions(heard: &Heard) -> Vec<Value> {
    heard.of(TRANSACT)
}

#[tokio::test(start_paused = true)]
async fn d2_a_transaction_whose_reply_was_lost_is_sent_again_under_its_token() {
    let lost = Mutex::new(4);
    let (inner, heard) = scripted::inner(move |asked| {
        let mut lost = lost.lock().unwrap();
        if asked.operation == TRANSACT && *lost > 0 {
            *lost -= 1;
            return None;
        }
        well(asked)
    });
    assert_eq!(commit(inner, vec![ended("b", "a"), ended("b", "b")]).await, ["recorded", "recorded"]);
    let sent = transactions(&heard);
    assert_eq!(sent.len(), 5);
    assert!(sent.iter().all(|again| *again == sent[0]), "another token, or other items: {sent:?}");
    assert!(sent[0]["ClientRequestToken"].as_str().is_some_and(|token| token.len() == 32));
}

#[tokio::test(start_paused = true)]
async fn rows_that_others_are_at_are_tried_in_halves_and_never_without_their_counter() {
    let done = Arc::new(Mutex::new(Vec::new()));
    let committed = Arc::clone(&done);
    let (inner, heard) = scripted::inner(move |asked| {
        if asked.operation != TRANSACT {
            return well(asked);
        }
        let (jobs, ends) = read(&asked.body);
        // Somebody is at job 3 whenever anything else is asked for with it.
        if jobs.len() > 1 && jobs.iter().any(|job| job == "3") {
            let busy = json!({ "Code": "TransactionConflict", "Message": "ongoing" });
            return cancelled(&reasons(
                &asked.body,
                |job| if job == "3" { busy.clone() } else { json!({ "Code": "None" }) },
            ));
        }
        committed.lock().unwrap().push((jobs, ends));
        well(asked)
    });
    let group = (0..8).map(|n| ended(if n % 2 == 0 { "even" } else { "odd" }, &n.to_string())).collect();
    assert_eq!(commit(inner, group).await, ["recorded"; 8]);
    let done = done.lock().unwrap();
    let mut jobs: Vec<_> = done.iter().flat_map(|(jobs, _)| jobs.clone()).collect();
    jobs.sort_unstable();
    assert_eq!(jobs, ["0", "1", "2", "3", "4", "5", "6", "7"]);
    assert_eq!(done.iter().map(|(_, ends)| ends).sum::<u64>(), 8);
    // 8, then 4 + 4, 2 + 2 of that with job 3 in it, 1 + 1 of that.
    assert_eq!(transactions(&heard).len(), 7);
    let tokens: HashSet<_> = transactions(&heard).iter().map(|sent| sent["ClientRequestToken"].to_string()).collect();
    assert_eq!(tokens.len(), 7, "another set of items is another transaction");
}

#[tokio::test(start_paused = true)]
async fn d3_what_is_final_already_under_our_fence_counts_nothing_again() {
    let row = |id: &str, token: u64, line: &str| {
        let bytes = Digest::of(line.as_bytes());
        let encode = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
        json!({
            "pk": { "S": format!("job/default/b/{id}") }, "sk": { "S": "-" }, "st": { "S": "succeeded" },
            "tok": { "N": token.to_string() }, "dig": { "B": encode(&[0; 32]) }, "enq": { "N": "5" }, "end": { "N": "6" },
            "use": { "S": "10 3 0 0" }, "uri": { "S": "s3://bucket/results/00ff-1.jsonl" }, "len": { "N": "9" },
            "sha": { "B": encode(bytes.as_bytes()) },
        })
    };
    let (inner, heard) = scripted::inner(move |asked| {
        if asked.operation != TRANSACT {
            return well(asked);
        }
        let refused = |item: Option<Value>| json!({ "Code": "ConditionalCheckFailed", "Message": "", "Item": item });
        let reasons = reasons(&asked.body, |job| match job {
            "ours" => refused(Some(row("ours", 1, "ours"))),
            "another-line" => refused(Some(row("another-line", 1, "something else"))),
            "taken-over" => refused(Some(row("taken-over", 2, "taken-over"))),
            "gone" => refused(None),
            _ => json!({ "Code": "None" }),
        });
        if reasons.iter().all(|reason| reason["Code"] == "None") { well(asked) } else { cancelled(&reasons) }
    });
    let group = ["ours", "another-line", "new", "taken-over", "gone"].map(|id| ended("b", id)).to_vec();
    assert_eq!(commit(inner, group).await, ["recorded", "lost", "recorded", "lost", "lost"]);
    let sent = transactions(&heard);
    assert_eq!(sent.len(), 2);
    assert_eq!(read(&sent[1]), (vec!["new".to_owned()], 1));
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_asked_for_too_much_is_an_error_and_not_a_loss() {
    let (inner, heard) = scripted::inner(|asked| {
        if asked.operation != TRANSACT {
            return well(asked);
        }
        let busy = json!({ "Code": "ThrottlingError", "Message": "slower" });
        cancelled(&reasons(&asked.body, |_| busy.clone()))
    });
    assert_eq!(commit(inner, vec![ended("b", "a")]).await, ["error"]);
    assert!(transactions(&heard).len() > 3);
}

#[tokio::test(start_paused = true)]
async fn two_hundred_ends_take_three_transactions_and_are_counted_exactly() {
    let (inner, heard) = scripted::inner(well);
    let ledger = DynamoLedger::new(inner);
    let finishes = (0..200).map(|n| {
        let Ended { fence, tally, ending, .. } = ended("b", &format!("job-{n}"));
        let ledger = &ledger;
        async move { ledger.finish(&fence, tally, ending, Trail::default()).await.unwrap() }
    });
    let replies = join_all(finishes).await;
    assert!(replies.iter().all(|reply| matches!(reply, FinishReply::Recorded { batch_complete: false, .. })));
    let sent = transactions(&heard);
    assert_eq!(sent.len(), 3);
    assert_eq!(sent.iter().map(|sent| read(sent).1).sum::<u64>(), 200);
    assert_eq!((heard.of("Query").len(), heard.of("UpdateItem").len()), (3, 1), "standings, and listing the batch");
}

#[tokio::test(start_paused = true)]
async fn calls_that_begin_together_take_two_requests() {
    let (inner, heard) = scripted::inner(|asked| {
        let keys = asked.body["RequestItems"]["aquifer"]["Keys"].as_array().cloned().unwrap_or_default();
        let row = |key: &Value| json!({ "pk": key["pk"], "st": { "S": "running" }, "tok": { "N": if key["pk"]["S"] == "job/default/b/7" { "2" } else { "1" } } });
        Some((200, json!({ "Responses": { "aquifer": keys.iter().map(row).collect::<Vec<_>>() } })))
    });
    let ledger = DynamoLedger::new(inner);
    let begins = (0..90).map(|n| {
        let fence = ended("b", &n.to_string()).fence;
        let ledger = &ledger;
        async move { ledger.begin(&fence, Tally::default(), Usd::from_nanos(5), None).await.unwrap() }
    });
    let replies = join_all(begins).await;
    let lost: Vec<_> = replies.iter().enumerate().filter(|(_, reply)| **reply == BeginReply::Lost).collect();
    assert_eq!(lost, [(7, &BeginReply::Lost)], "one was taken over");
    assert_eq!((heard.of("PutItem").len(), heard.of("BatchGetItem").len()), (1, 1));
}

#[test]
fn a_transaction_holds_different_jobs_and_has_room_for_their_counters() {
    let one = vec![ended("b", "a"), ended("b", "b"), ended("b", "a")];
    assert_eq!(parted(&one), [vec![0, 1], vec![2]]);
    let apart: Vec<Ended> = (0..90).map(|n| ended(&format!("b-{n}"), "a")).collect();
    let sizes: Vec<usize> = parted(&apart).iter().map(Vec::len).collect();
    assert_eq!(sizes, [50, 40]);
    let together: Vec<Ended> = (0..90).map(|n| ended("b", &n.to_string())).collect();
    assert_eq!(parted(&together).len(), 1);
}
