//! Documents in S3, worked by two workers of which one is killed in the middle of them.

use std::collections::BTreeMap;
use std::time::Duration;

use aquifer::aws::{Order, Seal};
use aquifer::job::ident::{BatchKey, BatchName, Tenant};
use aquifer::job::spec::Priority;
use aquifer::ports::Outgoing;
use serde_json::{Value, json};

use crate::ears::Ears;
use crate::proxy::Service;
use crate::support::json_lines;
use crate::world::{BATCH, World, answers, calls, stop_all, until};
use crate::{made, ministack};

const DOCUMENTS: usize = 3;
const SLOTS: usize = 6;

#[test]
fn w4_f1_documents_in_s3_come_to_one_result_each_though_a_worker_is_killed_in_the_middle() {
    let world = World::new("500ms");
    world.configure("", &format!("slots = {SLOTS}\nlease = \"10s\""));
    let ears = Ears::open(&world);
    let batch = BatchKey { tenant: Tenant::unnamed(), batch: BatchName::new(BATCH).unwrap() };
    for number in 1..=DOCUMENTS {
        upload(&world, number, made::pages(number + 1));
    }
    // The last one names an object that nobody uploaded.
    let messages = (1..=DOCUMENTS + 1).map(|number| message(number, &world.settings.bucket));
    let letters: Vec<Outgoing> = messages.map(|body| letter(&batch, &body)).collect();
    assert!(world.wait(world.fleet.queue().send(letters)).unwrap().iter().all(Result::is_ok));
    let seal = Seal { total: DOCUMENTS as u64 + 1, refused: 0, roll: None };
    world.wait(world.fleet.seal(&batch, &seal)).unwrap();

    let alive = [world.worker(), world.worker()];
    until("answers", || answers(&alive) > 3);
    // Whoever came first may have had all of them.
    let [one, other] = alive;
    let (doomed, survivor) = if answers([&one]) > answers([&other]) { (one, other) } else { (other, one) };
    let corpse = doomed.kill();
    let heard = ears.hear(&world, DOCUMENTS + 1);
    world.until_queue_is_empty();
    let mut logs = stop_all(vec![survivor]);
    logs.push(corpse.relay.finish());

    let results = results(&world);
    assert_eq!(results.keys().map(String::as_str).collect::<Vec<_>>(), ["doc-1", "doc-2", "doc-3", "doc-4"]);
    assert!(results.values().all(|lines| lines.len() == 1), "one result each: {results:?}");
    let mut needed = 0;
    for number in 1..=DOCUMENTS {
        let result = &results[&format!("doc-{number}")][0];
        assert_eq!(result["status"], "succeeded", "{result}");
        let told = &result["document"];
        assert_eq!((&told["type"], &told["pages"]), (&"pdf".into(), &(number + 1).into()), "{told}");
        let chunks = result["output"]["chunks"].as_array().unwrap();
        assert!(chunks.len() > number && told["chunks"] == chunks.len(), "{told}");
        let ids: Vec<&str> = chunks.iter().map(|chunk| chunk["id"].as_str().unwrap()).collect();
        let expected: Vec<String> = (1..=chunks.len()).map(|nth| format!("doc-{number}#{nth}")).collect();
        assert_eq!(ids, expected, "in the document's order");
        assert!(chunks.iter().all(|chunk| chunk["status"] == "succeeded" && chunk["text"].is_string()));
        let explained = |id: &str| String::from_utf8(world.run(&["explain", id]).exits(0).stdout).unwrap();
        let (document, last) = (explained(&format!("doc-{number}")), explained(ids[chunks.len() - 1]));
        let all = format!("chunks     {0} of {0} ended\n", chunks.len());
        assert!(document.contains(&all), "{all}: {document}");
        assert!(last.contains("state      succeeded"), "{last}");
        needed += chunks.len();
    }
    let missing = &results["doc-4"][0];
    assert_eq!(
        (&missing["status"], &missing["error"]["class"]),
        (&"rejected".into(), &"bad_input".into()),
        "{missing}"
    );

    let calls = calls(&logs);
    let made: usize = calls.values().sum();
    println!("{needed} chunks of {DOCUMENTS} documents: {made} calls");
    assert_eq!(calls.len(), needed, "every chunk was asked");
    assert!(
        calls.values().all(|calls| *calls <= 2) && made <= needed + SLOTS,
        "only what was in flight, again: {calls:?}"
    );

    assert_eq!(heard.jobs.keys().collect::<Vec<_>>(), results.keys().collect::<Vec<_>>(), "no chunk has a notice");
    for notices in heard.jobs.values() {
        assert!(notices.iter().all(|notice| notice == &notices[0]), "always in the same words: {notices:?}");
    }
    let first = &heard.batches[0];
    assert_eq!((&first["total"], &first["succeeded"], &first["rejected"]), (&4.into(), &3.into(), &1.into()));
    let listed = world.wait(world.fleet.batches(None)).unwrap();
    assert_eq!(listed.len(), 1, "chunks are in no list: {listed:?}");
    let answered: u64 =
        world.proxy.seen().iter().filter(|(call, _)| call.service == Service::Sfn).map(|(_, seen)| seen.calls).sum();
    assert!(answered > DOCUMENTS as u64, "who waits under the token of a document is answered: {answered}");
}

fn message(number: usize, bucket: &str) -> Value {
    // The relay tells prompts by the number at their end.
    let template = format!("{{{{chunk}}}} number {number}00{{{{chunk.number}}}}");
    let source = format!("s3://{bucket}/inbox/doc {number}.pdf");
    json!({
        "id": format!("doc-{number}"), "batch": BATCH, "model": "haiku",
        "document": { "source": source, "template": template, "chunk_tokens": 300 },
        "callback": { "task_token": format!("token-{number}") },
    })
}

fn letter(batch: &BatchKey, body: &Value) -> Outgoing {
    let BatchKey { tenant, batch } = batch.clone();
    let priority = Priority::default();
    Outgoing { body: body.to_string(), batch, tenant, model: None, priority, delay: Duration::ZERO, trace: None }
}

fn upload(world: &World, number: usize, bytes: Vec<u8>) {
    let put =
        ministack::s3(&world.sdk).put_object().bucket(&world.settings.bucket).key(format!("inbox/doc {number}.pdf"));
    world.wait(put.body(bytes.into()).send()).unwrap();
}

/// Every result line of the batch, by id.
fn results(world: &World) -> BTreeMap<String, Vec<Value>> {
    let lines = world.wait(async {
        let mut lines = world.fleet.results(&BatchName::new(BATCH).unwrap(), Order::Done).await.unwrap();
        let mut all = Vec::new();
        while let Some(line) = lines.next().await {
            all.extend_from_slice(&line.unwrap());
            all.push(b'\n');
        }
        all
    });
    let mut results: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for result in json_lines(&lines) {
        results.entry(result["id"].as_str().unwrap().to_owned()).or_default().push(result);
    }
    results
}
