//! Claims against a DynamoDB that loses replies, and lapsed owners that are alive after all.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Mutex;

use serde_json::{Value, json};

use super::super::scripted::{self, Asked, Said};
use super::*;
use crate::job::ident::{BatchName, JobId, Tenant};
use crate::job::outcome::Tally;
use crate::job::units::Usd;
use crate::ports::FencingToken;

const LEASE: Duration = Duration::from_secs(120);

fn key() -> JobKey {
    JobKey { tenant: Tenant::unnamed(), batch: BatchName::new("b").unwrap(), id: JobId::new("a").unwrap() }
}

async fn claim(claims: &Claims) -> ClaimReply {
    claims.claim(&key(), Digest::of(b"content"), Timestamp(5), LEASE).await.unwrap()
}

/// The row that an update makes of nothing, or of `before`.
fn carried_out(asked: &Asked, before: &Value) -> Value {
    let mut row = before.clone();
    for (name, value) in asked.body["ExpressionAttributeValues"].as_object().unwrap() {
        let name = name.trim_start_matches(':');
        // Values of the condition are no attributes.
        if asked.body["UpdateExpression"].as_str().unwrap().contains(&format!(":{name}")) {
            row[name] = value.clone();
        }
    }
    let claims: u64 = before["tok"]["N"].as_str().map_or(0, |claims| claims.parse().unwrap());
    let added = asked.body["UpdateExpression"].as_str().unwrap().contains("ADD #tok");
    row["tok"] = json!({ "N": (claims + u64::from(added)).to_string() });
    row
}

fn refused(row: &Value) -> Said {
    let kind = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException";
    Some((400, json!({ "__type": kind, "message": "The conditional request failed", "Item": row })))
}

/// A row that another process holds, up to a moment ago.
fn lapsed() -> Value {
    let digest = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, Digest::of(b"content").as_bytes());
    json!({
        "pk": { "S": "job/default/b/a" }, "sk": { "S": "-" }, "st": { "S": "running" }, "tok": { "N": "1" },
        "own": { "S": "dead" }, "nth": { "N": "7" }, "since": { "N": "1795283800000" }, "until": { "N": "1795283999999" },
        "dig": { "B": digest }, "enq": { "N": "5" },
    })
}

#[tokio::test(start_paused = true)]
async fn d3_a_claim_whose_reply_was_lost_knows_its_own_write() {
    let row = Mutex::new(None);
    let (inner, heard) = scripted::inner(move |asked| {
        let mut row = row.lock().unwrap();
        match row.as_ref() {
            None => {
                *row = Some(carried_out(asked, &json!({})));
                None
            }
            Some(row) => refused(row),
        }
    });
    let claims = Claims::new(inner);
    let ClaimReply::Claimed(claimed) = claim(&claims).await else { panic!("its own claim stood in its way") };
    assert_eq!((claimed.fence.token, claimed.enqueued), (FencingToken(1), Timestamp(5)));
    assert_eq!(heard.of("UpdateItem").len(), 2);
    // The next one of the same process in the same millisecond is another.
    let until = Timestamp(1_795_284_000_000).after(LEASE);
    assert_eq!(claim(&claims).await, ClaimReply::Busy { until });
}

#[tokio::test(start_paused = true)]
async fn d3_what_a_lapsed_owner_begins_while_it_is_taken_over_is_counted() {
    let row = Mutex::new(lapsed());
    let (inner, heard) = scripted::inner(move |asked| {
        let mut row = row.lock().unwrap();
        let taken = row["own"]["S"] == "00ff";
        match asked.operation.as_str() {
            "UpdateItem"
                if asked.body["ConditionExpression"].as_str().unwrap().contains("attribute_not_exists(#pk)") =>
            {
                refused(&row)
            }
            "UpdateItem" => {
                *row = carried_out(asked, &row);
                Some((200, json!({ "Attributes": *row })))
            }
            // The owner's log shows its call only once the job was taken over.
            "Query" if taken => {
                let calls = json!([["job/default/b/a", 1, 0, 1, 0, 0, 900, 0, 0]]).to_string();
                let item = json!({
                    "pk": { "S": "calls/dead" }, "sk": { "S": "1795283999000/4" }, "calls": { "S": calls },
                });
                Some((200, json!({ "Items": [item], "Count": 1 })))
            }
            "Query" => Some((200, json!({ "Items": [], "Count": 0 }))),
            "BatchGetItem" => Some((200, json!({ "Responses": { "aquifer": [*row] } }))),
            other => panic!("{other}"),
        }
    });
    let ClaimReply::Claimed(claimed) = claim(&Claims::new(inner)).await else { panic!("not claimed") };
    assert_eq!(claimed.fence.token, FencingToken(2));
    assert_eq!(claimed.suspicion, 1.0);
    assert_eq!(claimed.tally, Tally { model_calls: 1, unknown: Usd::from_nanos(900), ..Tally::default() });
    assert_eq!((heard.of("UpdateItem").len(), heard.of("Query").len()), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_extends_just_in_time_keeps_its_job() {
    let row = Mutex::new(lapsed());
    let (inner, _) = scripted::inner(move |asked| {
        let mut row = row.lock().unwrap();
        if asked.operation == "Query" {
            // While we read its log, it extends its lease.
            row["until"] = json!({ "N": "1795284060000" });
            return Some((200, json!({ "Items": [], "Count": 0 })));
        }
        refused(&row)
    });
    let reply = claim(&Claims::new(inner)).await;
    assert_eq!(reply, ClaimReply::Busy { until: Timestamp(1_795_284_060_000) });
}
