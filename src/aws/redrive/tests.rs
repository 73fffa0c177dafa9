//! Redrives that the table refuses.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Mutex;

use serde_json::{Value, json};

use super::super::scripted;
use super::*;
use crate::job::ident::{BatchName, JobId, Tenant};

fn key() -> JobKey {
    JobKey { tenant: Tenant::unnamed(), batch: BatchName::new("b").unwrap(), id: JobId::new("a").unwrap() }
}

fn row(state: &str, token: u64) -> Value {
    let zero = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [0; 32]);
    json!({
        "st": { "S": state }, "tok": { "N": token.to_string() }, "dig": { "B": zero }, "enq": { "N": "5" }, "end": { "N": "6" },
        "cost": { "N": "7" }, "use": { "S": "10 3 0 0" }, "uri": { "S": "s3://b/k" }, "sha": { "B": zero },
    })
}

fn cancelled(row: &str, counter: &str) -> Value {
    let kind = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException";
    json!({ "__type": kind, "Message": "", "CancellationReasons": [{ "Code": row }, { "Code": counter }] })
}

#[tokio::test(start_paused = true)]
async fn f22_a_refused_redrive_leaves_row_and_count_as_they_were_and_is_tried_as_a_whole() {
    let refusals = Mutex::new(vec![cancelled("None", "TransactionConflict"), cancelled("TransactionConflict", "None")]);
    let (inner, heard) = scripted::inner(move |asked| match asked.operation.as_str() {
        "GetItem" => Some((200, json!({ "Item": row("failed", 3) }))),
        _ => match refusals.lock().unwrap().pop() {
            Some(refusal) => Some((400, refusal)),
            None => Some((200, json!({}))),
        },
    });
    assert_eq!(redrive(&inner, &key(), None, None).await.unwrap(), Redriven::Queued { generation: 1 });
    let sent = heard.of("TransactWriteItems");
    assert_eq!(sent.len(), 3);
    for transaction in &sent {
        let items = transaction["TransactItems"].as_array().unwrap();
        assert_eq!(items.len(), 2, "a row and its counter: {items:?}");
        let (row, counter) = (&items[0]["Update"], &items[1]["Update"]["ExpressionAttributeValues"]);
        assert_eq!(row["ExpressionAttributeValues"][":fence"]["N"], "3");
        assert_eq!((&counter[":failed"]["N"], &counter[":cost"]["N"]), (&json!("-1"), &json!("-7")));
        assert_eq!(counter[":ends"], Value::Null, "ends only grow");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_another_redrove_meanwhile_is_not_redriven_twice() {
    let read = Mutex::new(0);
    let (inner, heard) = scripted::inner(move |asked| match asked.operation.as_str() {
        "GetItem" => {
            let mut read = read.lock().unwrap();
            *read += 1;
            Some((200, json!({ "Item": if *read == 1 { row("failed", 3) } else { row("queued", 3 + GENERATION) } })))
        }
        _ => Some((400, cancelled("ConditionalCheckFailed", "None"))),
    });
    assert_eq!(redrive(&inner, &key(), None, None).await.unwrap(), Redriven::NotFrom(State::Queued));
    assert_eq!(heard.of("TransactWriteItems").len(), 1);
}
