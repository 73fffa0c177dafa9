//! What does a job cost beside its call? A model that answers at once, on the embedded back end: every job is claimed,
//! called, recorded, made known and acknowledged, and each of these is on the disk before the next.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing to report")]

mod common;

use std::sync::Arc;

use async_trait::async_trait;
use common::{each, figure, place, process, rate, title, worker};

use aquifer::job::outcome::Usage;
use aquifer::ports::{Answer, CallFailure, Model, ModelCall};

/// Answers at once.
struct Null;

#[async_trait]
impl Model for Null {
    async fn call(&self, _: ModelCall) -> Result<Answer, CallFailure> {
        let text = "Good value, but the lid does not last; would not buy again.";
        Ok(Answer {
            text: Some(text.to_owned()),
            output: serde_json::json!({ "message": { "role": "assistant", "content": [{ "text": text }] } }),
            stop_reason: Some("end_turn".to_owned()),
            usage: Usage { input_tokens: 60, output_tokens: 15, cache_read_tokens: 0, cache_write_tokens: 0 },
        })
    }

    async fn refresh_credentials(&self) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::main]
async fn main() {
    title("overhead");
    let jobs = if common::is_short() { 10_000 } else { 200_000 };
    let place = place();
    figure("sync of the disk", format!("{:.0} us", common::sync_cost(place.path()).as_secs_f64() * 1e6), None);
    for slots in [256, 1_000] {
        let folder = place.path().join(slots.to_string());
        let queued = worker::enrol(&folder, jobs).await;
        figure(&format!("lines enrolled, {slots} slots"), rate(jobs, queued.took), None);
        let before = process::cpu(std::process::id());
        let took = worker::drain(&queued, Arc::new(Null), slots).await;
        let used = process::cpu(std::process::id()) - before;
        figure(&format!("jobs, {slots} slots"), rate(jobs, took), Some(">= 10,000 /s"));
        figure(&format!("CPU a job, {slots} slots"), each(used, jobs), None);
        queued.store.close().await.unwrap();
    }
}
