//! One upload, one document job: whatever the events that tell of it look like, however often they come, and whoever dies in
//! between. The job itself is done with as in `documents`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use aquifer::embedded::{DeadMessage, Reader, Store};
use aquifer::flow::context::Context;
use aquifer::flow::stop::Reason;
use aquifer::flow::worker::Worker;
use aquifer::job::document::Document;
use aquifer::job::ident::{BatchName, JobId, JobKey, Tenant};
use aquifer::job::lifecycle::{State as JobState, Status};
use aquifer::job::outcome::JobResult;
use aquifer::job::spec::Priority;
use aquifer::job::upload::{Origin, OwnPlace, Pipeline, Revision, Upload, UploadRule, Uploads};
use aquifer::ports::{
    Depth, Entry, Message, MessageId, Outgoing, Pipelines, Queue, ReceiptHandle, StoreError, StoreTrouble,
};

use crate::common::mortal::make_mortal;
use crate::documents::{Shelf, echoing, with_documents};
use crate::harness::*;

const CHUNKS: u64 = 3;

fn rule(prefix: &str, suffix: &str) -> UploadRule {
    let Document { mode, template, chunk_tokens, overlap_tokens, partial, reduce, .. } = Document::at("x");
    UploadRule {
        origin: Origin::Any,
        prefix: prefix.to_owned(),
        suffix: suffix.to_owned(),
        model: Some("m".into()),
        template,
        mode,
        chunk_tokens,
        overlap_tokens,
        partial,
        reduce,
        max_tokens: None,
        pipeline: None,
    }
}

/// A worker of all that the queue holds, with one rule.
fn worker_on(store: &Store, state: &State, model: Arc<Scripted>) -> Arc<Context> {
    let mut setup = Setup::default();
    let own = OwnPlace { bucket: "drop".to_owned(), prefix: "aquifer/".to_owned() };
    setup.settings.uploads = Uploads::new(vec![rule("in/", ".pdf")], None, Some(own));
    let mut context = with_documents(store, state, model, &Shelf::in_s3(CHUNKS), setup);
    Arc::get_mut(&mut context).unwrap().queue = store.queue(None);
    context
}

fn record(key: &str, sequencer: &str) -> Value {
    json!({
        "eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
        "s3": { "bucket": { "name": "drop" }, "object": { "key": key, "size": 9, "sequencer": sequencer } },
    })
}

fn notification(key: &str, sequencer: &str) -> Value {
    json!({ "Records": [record(key, sequencer)] })
}

fn in_envelope(message: &Value) -> Value {
    json!({ "Type": "Notification", "TopicArn": "arn:aws:sns:us-west-2:111122223333:t", "Message": message.to_string() })
}

fn bridge(key: &str, sequencer: &str) -> Value {
    json!({
        "source": "aws.s3", "detail-type": "Object Created",
        "detail": { "bucket": { "name": "drop" }, "object": { "key": key, "size": 9, "sequencer": sequencer } },
    })
}

fn key_of(key: &str, sequencer: &str) -> JobKey {
    let revision = Revision::Sequencer(sequencer.to_owned());
    let upload = Upload { bucket: "drop".to_owned(), key: key.to_owned(), revision };
    let id = JobId::new(&upload.digest().to_string()).unwrap();
    JobKey { tenant: Tenant::unnamed(), batch: BatchName::none(), id }
}

async fn send(context: &Context, events: &[Value]) {
    let outgoing = |event: &Value| Outgoing {
        body: event.to_string(),
        batch: BatchName::none(),
        tenant: Tenant::unnamed(),
        model: None,
        priority: Priority::default(),
        delay: Duration::ZERO,
    };
    for entry in context.queue.send(events.iter().map(outgoing).collect()).await.unwrap() {
        entry.unwrap();
    }
}

/// Works until the queue holds nothing but dead letters; how many those are.
async fn work_off(context: &Arc<Context>) -> u64 {
    let worker = Worker::new(Arc::clone(context));
    let working = tokio::spawn(async move { worker.run().await });
    let mut look = tokio::time::interval(Duration::from_millis(100));
    let dead = loop {
        let Depth { ready, in_flight, delayed, dead } = context.queue.depth().await.unwrap();
        if ready + in_flight + delayed == 0 {
            break dead;
        }
        look.tick().await;
    };
    context.stop.drain(Reason::Done);
    working.await.unwrap();
    dead
}

async fn result(context: &Context, key: &JobKey) -> JobResult {
    let (state, row) = context.ledger.look_up(key).await.unwrap().expect("it has a row");
    assert!(matches!(state, JobState::Final(_)), "{state:?}");
    serde_json::from_slice(&context.bodies.read(&row.unwrap().ending.result).await.unwrap()).unwrap()
}

/// The notices of jobs, by their identities.
fn notice_ids(state: &State) -> std::collections::BTreeSet<String> {
    let notices = notices(state).into_iter().filter(|notice| notice["kind"] == "job");
    notices.map(|notice| notice["notice_id"].to_string()).collect()
}

fn letters(state: &State) -> Vec<DeadMessage> {
    Reader::open(state.dir.path()).unwrap().dead().unwrap()
}

#[tokio::test(start_paused = true)]
async fn f1_w8_an_upload_is_one_run_in_whatever_forms_and_however_often_it_is_told_of() {
    let state = State::new();
    let store = state.open().await;
    let model = echoing();
    let context = worker_on(&store, &state, model.clone());
    let plain = notification("in/a+b.pdf", "0A");
    let told = [in_envelope(&plain), bridge("in/a b.pdf", "0A"), plain];
    for _ in 0..3 {
        send(&context, &told).await;
    }
    assert_eq!(work_off(&context).await, 0);
    let result = result(&context, &key_of("in/a b.pdf", "0A")).await;
    assert_eq!((result.status, u64::from(result.model_calls), model.calls()), (Status::Succeeded, CHUNKS, CHUNKS));
    assert_eq!(result.document.unwrap().source, "s3://drop/in/a b.pdf");
    assert_eq!((&result.metadata["bucket"], &result.metadata["key"]), (&json!("drop"), &json!("in/a b.pdf")));
    assert_eq!(notice_ids(&state).len(), 1);

    // Long after its end, with rules that say something else by now.
    let mut context = worker_on(&store, &state, model.clone());
    let edited = UploadRule { template: Some("Otherwise: {{chunk}}".to_owned()), ..rule("", "") };
    Arc::get_mut(&mut context).unwrap().settings.uploads = Uploads::new(vec![edited], None, None);
    send(&context, &told).await;
    assert_eq!((work_off(&context).await, model.calls(), notice_ids(&state).len()), (0, CHUNKS, 1));
}

#[tokio::test(start_paused = true)]
async fn w8_the_same_key_uploaded_again_is_another_run() {
    let state = State::new();
    let store = state.open().await;
    let model = echoing();
    let context = worker_on(&store, &state, model.clone());
    send(&context, &[notification("in/a.pdf", "0A"), notification("in/a.pdf", "0B")]).await;
    assert_eq!(work_off(&context).await, 0);
    for sequencer in ["0A", "0B"] {
        assert_eq!(result(&context, &key_of("in/a.pdf", sequencer)).await.status, Status::Succeeded);
    }
    assert_eq!((model.calls(), notice_ids(&state).len()), (2 * CHUNKS, 2));
}

#[tokio::test(start_paused = true)]
async fn d5_of_several_records_each_is_a_run_and_a_bad_one_is_kept_with_its_reason() {
    let state = State::new();
    let store = state.open().await;
    let context = worker_on(&store, &state, echoing());
    let mut bad = record("in/bad.pdf", "0C");
    bad["s3"]["object"] = json!({ "key": "in/bad.pdf" });
    let mut records: Vec<Value> =
        (0..12).map(|number| record(&format!("in/{number}.pdf"), &format!("{number:02X}"))).collect();
    records.insert(5, bad);
    let several = json!({ "Records": records });
    send(&context, &[several.clone(), several]).await;
    // As often as it was told of: nothing of it is known by which it could be the same.
    assert_eq!(work_off(&context).await, 2);
    for number in 0..12 {
        let key = key_of(&format!("in/{number}.pdf"), &format!("{number:02X}"));
        assert_eq!(result(&context, &key).await.status, Status::Succeeded, "{number}");
    }
    assert_eq!(notice_ids(&state).len(), 12);
    for letter in letters(&state) {
        assert!(letter.letter.reason.contains("neither a version id nor a `sequencer`"), "{}", letter.letter.reason);
    }
}

#[tokio::test(start_paused = true)]
async fn w8_what_no_rule_is_for_is_kept_and_what_is_no_upload_or_our_own_is_not() {
    let state = State::new();
    let store = state.open().await;
    let model = echoing();
    let context = worker_on(&store, &state, model.clone());
    let test = json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "drop" });
    let own = notification("aquifer/results/date=2026-11-22/in/x.pdf", "0D");
    send(&context, &[in_envelope(&test), test, own, notification("out/a.pdf", "0A"), bridge("in/a.png", "0B")]).await;
    assert_eq!(work_off(&context).await, 2);
    assert_eq!((model.calls(), notice_ids(&state).len()), (0, 0));
    let mut reasons: Vec<String> = letters(&state).into_iter().map(|letter| letter.letter.reason).collect();
    reasons.sort();
    for (reason, source) in reasons.iter().zip(["s3://drop/in/a.png", "s3://drop/out/a.pdf"]) {
        assert!(reason.starts_with(&format!("bad_input: no [[upload]] rule is for {source}: ")), "{reason}");
    }
}

/// A queue that is told to delete an event and does not: as if the worker had died in between.
struct Forgetful(Arc<dyn Queue>);

#[async_trait]
impl Queue for Forgetful {
    async fn send(&self, entries: Vec<Outgoing>) -> Result<Vec<Entry<MessageId>>, StoreError> {
        self.0.send(entries).await
    }

    async fn receive(
        &self,
        max: usize,
        passing_over: &[Arc<str>],
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Message>, StoreError> {
        self.0.receive(max, passing_over, visibility, wait).await
    }

    async fn change_visibility(&self, entries: Vec<(ReceiptHandle, Duration)>) -> Result<Vec<Entry>, StoreError> {
        self.0.change_visibility(entries).await
    }

    async fn delete(&self, _handles: Vec<ReceiptHandle>) -> Result<Vec<Entry>, StoreError> {
        std::future::pending().await
    }

    async fn dead_letter(&self, message: &Message, reason: &str) -> Result<Entry, StoreError> {
        self.0.dead_letter(message, reason).await
    }

    async fn depth(&self) -> Result<Depth, StoreError> {
        self.0.depth().await
    }
}

#[tokio::test(start_paused = true)]
async fn f2_w8_a_worker_that_is_killed_between_the_job_and_the_event_makes_no_second_run() {
    let state = State::new();
    let first = state.open().await;
    let model = echoing();
    let mut doomed = worker_on(&first, &state, model.clone());
    let dead = CancellationToken::new();
    let of_doomed = Arc::get_mut(&mut doomed).unwrap();
    of_doomed.queue = Arc::new(Forgetful(Arc::clone(&of_doomed.queue)));
    make_mortal(of_doomed, &dead);
    let several = json!({ "Records": [record("in/a.pdf", "0A"), record("in/b.pdf", "0B")] });
    send(&doomed, &[several, notification("in/c.pdf", "0C")]).await;
    let working = tokio::spawn(async move { Worker::new(doomed).run().await });
    model.called(3 * CHUNKS).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    dead.cancel();
    first.abandon();
    working.abort();

    let store = state.open().await;
    let context = worker_on(&store, &state, model.clone());
    assert!(context.queue.depth().await.unwrap().ready >= 2, "the events are still there");
    assert_eq!(work_off(&context).await, 0);
    for (key, sequencer) in [("in/a.pdf", "0A"), ("in/b.pdf", "0B"), ("in/c.pdf", "0C")] {
        assert_eq!(result(&context, &key_of(key, sequencer)).await.status, Status::Succeeded);
    }
    assert_eq!((model.calls(), notice_ids(&state).len()), (3 * CHUNKS, 3));
}

/// State machines that keep what they were asked, and whose service says what the test wants.
#[derive(Default)]
struct Machines {
    begun: Mutex<Vec<(String, String, Value)>>,
    asked: Mutex<Vec<tokio::time::Instant>>,
    trouble: Mutex<Option<StoreTrouble>>,
}

#[async_trait]
impl Pipelines for Machines {
    async fn begin(&self, pipeline: &str, name: &str, input: &str) -> Result<(), StoreError> {
        self.asked.lock().unwrap().push(tokio::time::Instant::now());
        if let Some(kind) = *self.trouble.lock().unwrap() {
            return Err(StoreError { kind, doing: "beginning".to_owned(), why: "as the test says".to_owned() });
        }
        let mut begun = self.begun.lock().unwrap();
        if begun.iter().all(|(_, known, _)| known != name) {
            begun.push((pipeline.to_owned(), name.to_owned(), serde_json::from_str(input).unwrap()));
        }
        Ok(())
    }
}

fn with_pipeline(store: &Store, state: &State, model: Arc<Scripted>, machines: &Arc<Machines>) -> Arc<Context> {
    let mut context = worker_on(store, state, model);
    let of = Arc::get_mut(&mut context).unwrap();
    let pipeline = Pipeline { state_machine: "arn:documents".to_owned(), ingest: None, agent: None };
    of.settings.uploads = Uploads::new(vec![UploadRule { pipeline: Some(pipeline), ..rule("in/", "") }], None, None);
    of.pipelines = Some(Arc::clone(machines) as Arc<dyn Pipelines>);
    context
}

#[tokio::test(start_paused = true)]
async fn f1_w7_an_upload_begins_one_execution_by_the_name_of_its_identity_which_queues_its_job() {
    let state = State::new();
    let store = state.open().await;
    let (model, machines) = (echoing(), Arc::<Machines>::default());
    let context = with_pipeline(&store, &state, model.clone(), &machines);
    let plain = notification("in/a.pdf", "0A");
    let told = [plain.clone(), bridge("in/a.pdf", "0A"), in_envelope(&plain)];
    send(&context, &told).await;
    assert_eq!((work_off(&context).await, model.calls()), (0, 0), "the workers do nothing of it by themselves");
    let begun = machines.begun.lock().unwrap().clone();
    let [(pipeline, name, input)] = &begun[..] else { panic!("{begun:?}") };
    let key = key_of("in/a.pdf", "0A");
    assert_eq!((pipeline.as_str(), name.as_str()), ("arn:documents", key.id.as_str()));
    assert_eq!(input["job"]["document"]["source"], "s3://drop/in/a.pdf");

    // The execution queues the job; once that has a row, no name need be remembered: it stands for the run.
    let context = with_pipeline(&store, &state, model.clone(), &machines);
    send(&context, &[input["job"].clone()]).await;
    assert_eq!(work_off(&context).await, 0);
    assert_eq!(result(&context, &key).await.status, Status::Succeeded);
    let asked = machines.asked.lock().unwrap().len();
    let context = with_pipeline(&store, &state, model.clone(), &machines);
    send(&context, &told).await;
    assert_eq!((work_off(&context).await, model.calls()), (0, CHUNKS));
    assert_eq!(machines.asked.lock().unwrap().len(), asked, "it is not asked for again");
}

#[tokio::test(start_paused = true)]
async fn w7_f6_a_pipeline_that_cannot_be_begun_is_asked_for_less_and_less_and_the_upload_is_kept() {
    for trouble in [StoreTrouble::Away, StoreTrouble::Denied] {
        let state = State::new();
        let store = state.open().await;
        let machines = Arc::<Machines>::default();
        *machines.trouble.lock().unwrap() = Some(trouble);
        let context = with_pipeline(&store, &state, echoing(), &machines);
        send(&context, &[notification("in/a.pdf", "0A")]).await;
        let worker = Worker::new(Arc::clone(&context));
        let working = tokio::spawn(async move { worker.run().await });
        tokio::time::sleep(Duration::from_secs(400)).await;
        let asked = machines.asked.lock().unwrap().clone();
        assert!((40..=80).contains(&asked.len()), "{trouble:?}: {} times in 400 s", asked.len());
        let (first, last) = (asked[1] - asked[0], asked[asked.len() - 1] - asked[asked.len() - 2]);
        assert!(first >= Duration::from_secs(5) && last >= Duration::from_secs(7), "{first:?} {last:?}");
        let depth = context.queue.depth().await.unwrap();
        assert_eq!((depth.dead, depth.ready + depth.in_flight + depth.delayed), (0, 1), "{trouble:?}");
        assert!(!context.stop.is_draining(), "it stops nobody");

        *machines.trouble.lock().unwrap() = None;
        emptied(&context).await;
        context.stop.drain(Reason::Done);
        working.await.unwrap();
        assert_eq!(machines.begun.lock().unwrap().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn w7_f6_an_upload_whose_pipeline_is_not_begun_in_thirteen_days_and_a_half_is_kept_with_the_reason() {
    const KEPT: Duration = Duration::from_secs(27 * 12 * 60 * 60);
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let state = State::new();
    let store = state.open().await;
    let machines = Arc::<Machines>::default();
    *machines.trouble.lock().unwrap() = Some(StoreTrouble::Denied);
    let context = with_pipeline(&store, &state, echoing(), &machines);
    send(&context, &[notification("in/old.pdf", "0A")]).await;
    // Nobody works meanwhile, so that the time costs nothing.
    tokio::time::advance(2 * HOUR).await;
    send(&context, &[notification("in/young.pdf", "0B")]).await;
    tokio::time::advance(KEPT - HOUR).await;
    let worker = Worker::new(Arc::clone(&context));
    let working = tokio::spawn(async move { worker.run().await });
    tokio::time::sleep(Duration::from_secs(30)).await;
    let dead = letters(&state);
    let [letter] = &dead[..] else { panic!("{dead:?}") };
    let reason = &letter.letter.reason;
    assert!(reason.contains("in all that time: as the test says"), "a queue would throw it away soon: {reason}");
    assert_eq!(machines.asked.lock().unwrap().len(), 2, "each was asked for once, and the young one waits for an hour");
    context.stop.drain(Reason::Done);
    working.await.unwrap();
}
