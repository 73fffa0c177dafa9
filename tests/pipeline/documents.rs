//! One document, many calls, one result: exactly once, whatever fails or dies in between. The reader of documents is the test's own;
//! what real files hold is asked in `tests/documents`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use aquifer::embedded::Store;
use aquifer::flow::context::{Context, DocumentPorts};
use aquifer::flow::worker::Worker;
use aquifer::job::document::{Document, Partial, Place};
use aquifer::job::failure::{Class, Failure};
use aquifer::job::ident::{BatchKey, JobId};
use aquifer::job::lifecycle::Status;
use aquifer::job::outcome::{JobResult, Tally};
use aquifer::job::spec::{Job, Request};
use aquifer::job::units::{Timestamp, Usd};
use aquifer::ports::{
    Billing, Clock, Documents, Fence, FinalRow, MessageId, ModelCall, Opened, OpenedChunk, Parts, Round, RoundStanding,
    StoreError, Unopened,
};

use crate::common::mortal::make_mortal;
use crate::harness::*;

/// A reader whose documents have so many chunks, the text of each its source and its number.
pub(crate) struct Shelf {
    chunks: u64,
    opened: AtomicU64,
    /// Answers that fit into one question.
    fit: usize,
    place: Place,
}

impl Shelf {
    pub(crate) fn of(chunks: u64) -> Arc<Self> {
        Arc::new(Self { chunks, opened: AtomicU64::new(0), fit: usize::MAX, place: Place::Files })
    }
}

impl Shelf {
    pub(crate) fn in_s3(chunks: u64) -> Arc<Self> {
        Arc::new(Self { chunks, opened: AtomicU64::new(0), fit: usize::MAX, place: Place::S3 })
    }
}

#[async_trait]
impl Documents for Shelf {
    fn place(&self) -> Place {
        self.place
    }

    async fn open(&self, job: &Job) -> Result<Opened, Unopened> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        let Request::Document(document) = &job.request else { panic!("{:?}", job.request) };
        if document.source == "scan.pdf" {
            let failure = Failure::new(Class::NoText, "no text; use a model that reads images");
            return Err(Unopened::Refused { failure, kind: Some("pdf".to_owned()) });
        }
        let chunk = |number: u64| OpenedChunk {
            request: Request::Prompt(format!("{} {number}", document.source)),
            page: u32::try_from(number).ok(),
            offset: number * 100,
            length: 100,
        };
        Ok(Opened { kind: "pdf".to_owned(), pages: Some(9), chunks: (1..=self.chunks).map(chunk).collect() })
    }

    fn reduce(&self, job: &Job, answers: &[String]) -> Option<Vec<Request>> {
        let Request::Document(document) = &job.request else { panic!("{:?}", job.request) };
        document.reduce.as_ref()?;
        let groups = answers.chunks(self.fit.min(answers.len()));
        Some(groups.map(|group| Request::Prompt(format!("together {}", group.join(",")))).collect())
    }
}

fn document(id: &str, more: impl FnOnce(&mut Document)) -> Job {
    let mut of = Document::at(format!("{id}.pdf"));
    more(&mut of);
    Job { request: Request::Document(Box::new(of)), ..job(id, "") }
}

pub(crate) fn with_documents(
    store: &Store,
    state: &State,
    model: Arc<Scripted>,
    shelf: &Arc<Shelf>,
    setup: Setup,
) -> Arc<Context> {
    let mut context = context(store, state, model, setup);
    let ports = DocumentPorts { reader: Arc::clone(shelf) as Arc<dyn Documents>, parts: store.parts() };
    Arc::get_mut(&mut context).unwrap().documents = Some(ports);
    context
}

/// Answers with what was asked, in capitals.
pub(crate) fn echoing() -> Arc<Scripted> {
    Scripted::new(Duration::from_millis(20), |_, call| Reply::Text(prompt_of(call).to_uppercase().leak()))
}

/// As `echoing`, but for what is asked in these words.
fn failing(words: &'static str, class: Class) -> Arc<Scripted> {
    Scripted::new(Duration::from_millis(20), move |_, call: &ModelCall| {
        let prompt = prompt_of(call);
        if prompt.contains(words) {
            Reply::Fail(class, Billing::Nothing)
        } else {
            Reply::Text(prompt.to_uppercase().leak())
        }
    })
}

async fn ended_as(jobs: Vec<Job>, model: Arc<Scripted>, shelf: &Arc<Shelf>) -> (Vec<JobResult>, State) {
    let state = State::new();
    let store = state.open().await;
    let count = jobs.len();
    let (run, _) = enrol(&store, jobs).await;
    let context = with_documents(&store, &state, model, shelf, Setup::default());
    let mut results = drain(&context, &store, &run, count).await;
    results.sort_by(|a, b| a.id.cmp(&b.id));
    (results, state)
}

fn only(results: &[JobResult]) -> &JobResult {
    assert_eq!(results.len(), 1);
    &results[0]
}

#[tokio::test(start_paused = true)]
async fn a_document_ends_with_its_chunks_answers_in_order_and_one_notice() {
    let (model, shelf) = (echoing(), Shelf::of(30));
    let (results, state) = ended_as(vec![document("a", |_| {})], model.clone(), &shelf).await;
    let result = only(&results);
    assert_eq!((result.status, result.model_calls, model.calls()), (Status::Succeeded, 30, 30));
    let told = result.document.as_ref().unwrap();
    assert_eq!(
        (told.source.as_str(), told.kind.as_deref(), told.pages, told.chunks),
        ("a.pdf", Some("pdf"), Some(9), 30)
    );
    assert!(told.failed.is_empty());
    let answers: Vec<String> = (1..=30).map(|number| format!("A.PDF {number}")).collect();
    assert_eq!(result.text.as_deref(), Some(answers.join("\n\n").as_str()));
    let chunks = result.output.as_ref().unwrap()["chunks"].as_array().unwrap().clone();
    assert_eq!((&chunks[2]["id"], &chunks[2]["page"], &chunks[2]["offset"]), (&"a#3".into(), &3.into(), &300.into()));
    assert_eq!(result.cost_usd, Usd::from_nanos(30 * 15_000), "the sum over every billed call");
    assert_eq!(result.usage.input_tokens, 30 * USAGE.input_tokens);
    assert_eq!(shelf.opened.load(Ordering::SeqCst), 1, "it is read once");
    let notices = notices(&state);
    let jobs: Vec<_> = notices.iter().filter(|notice| notice["kind"] == "job").collect();
    assert_eq!(jobs.len(), 1, "chunks have no notice of their own");
    let batches: Vec<_> = notices.iter().filter(|notice| notice["kind"] == "batch").collect();
    assert_eq!((batches.len(), &batches[0]["total"]), (1, &1.into()));
}

#[tokio::test(start_paused = true)]
async fn w4_f11_throttled_parts_wait_and_failed_ones_make_it_partial_and_are_listed() {
    let (results, state) =
        ended_as(vec![document("a", |_| {})], failing("a.pdf 2", Class::Invalid), &Shelf::of(3)).await;
    let result = only(&results);
    assert_eq!(result.status, Status::Partial);
    let notices = notices(&state);
    let batch = notices.iter().find(|notice| notice["kind"] == "batch").unwrap();
    assert_eq!((&batch["status"], &batch["partial"], &batch["total"]), (&"partial".into(), &1.into(), &1.into()));
    assert_eq!(result.document.as_ref().unwrap().failed, ["a#2"]);
    assert_eq!(result.text.as_deref(), Some("A.PDF 1\n\nA.PDF 3"), "the answers of its siblings are kept");
    let error = result.error.as_ref().unwrap();
    assert!(
        error.class == Class::Invalid && error.message.contains("1 of its 3 parts") && error.message.contains("a#2")
    );

    let fail = |document: &mut Document| document.partial = Partial::Fail;
    let (results, _) = ended_as(vec![document("a", fail)], failing("a.pdf 2", Class::Invalid), &Shelf::of(3)).await;
    assert_eq!(only(&results).status, Status::Failed);

    let start = tokio::time::Instant::now();
    let throttled = Scripted::new(Duration::from_millis(20), move |_, call| {
        if prompt_of(call).contains("a.pdf 2") && start.elapsed() < Duration::from_secs(600) {
            Reply::Fail(Class::QuotaMinute, Billing::Nothing)
        } else {
            Reply::Text("fine")
        }
    });
    let (results, _) = ended_as(vec![document("a", |_| {})], throttled, &Shelf::of(3)).await;
    assert_eq!(
        (only(&results).status, only(&results).attempts),
        (Status::Succeeded, 0),
        "a throttled part is not dropped"
    );
}

#[tokio::test(start_paused = true)]
async fn f12_a_stalled_chunk_takes_nothing_from_its_siblings() {
    let stalled = Scripted::new(Duration::from_millis(20), |_, call| {
        if prompt_of(call).contains("a.pdf 2") {
            Reply::Fail(Class::Timeout, Billing::Unknown)
        } else {
            Reply::Text("kept")
        }
    });
    let (results, _) = ended_as(vec![document("a", |_| {}), document("b", |_| {})], stalled, &Shelf::of(4)).await;
    assert_eq!((results[0].status, results[1].status), (Status::Partial, Status::Succeeded));
    assert_eq!(results[0].text.as_deref(), Some("kept\n\nkept\n\nkept"));
    assert_eq!(results[0].document.as_ref().unwrap().failed, ["a#2"]);
    assert_eq!(results[0].attempts, 5, "it had its own attempts, and no more");
}

#[tokio::test(start_paused = true)]
async fn answers_that_do_not_fit_are_brought_together_in_rounds() {
    let shelf = Arc::new(Shelf { chunks: 10, opened: AtomicU64::new(0), fit: 4, place: Place::Files });
    let model = Scripted::new(Duration::from_millis(5), |_, call| {
        let prompt = prompt_of(call);
        match prompt.strip_prefix("together ") {
            Some(answers) => Reply::Text(format!("<{answers}>").leak()),
            None => Reply::Text(prompt.trim_start_matches("a.pdf ").to_owned().leak()),
        }
    });
    let reduce = |document: &mut Document| document.reduce = Some("{{answers}}".to_owned());
    let (results, _) = ended_as(vec![document("a", reduce)], model.clone(), &shelf).await;
    let result = only(&results);
    assert_eq!(result.text.as_deref(), Some("<<1,2,3,4>,<5,6,7,8>,<9,10>>"));
    assert_eq!((result.status, model.calls(), result.model_calls), (Status::Succeeded, 14, 14));
    assert_eq!(result.output.as_ref().unwrap()["chunks"].as_array().unwrap().len(), 10);

    let (results, _) = ended_as(vec![document("a", reduce)], failing("together", Class::Invalid), &Shelf::of(3)).await;
    let result = only(&results);
    assert_eq!(result.status, Status::Partial);
    assert_eq!(result.document.as_ref().unwrap().failed, ["a#reduce-1.1"]);
    assert_eq!(result.text.as_deref(), Some("A.PDF 1\n\nA.PDF 2\n\nA.PDF 3"), "the answers are not lost with it");
}

#[tokio::test(start_paused = true)]
async fn a_document_that_cannot_be_read_is_rejected_with_its_type_and_told_of() {
    let (results, state) = ended_as(vec![document("scan", |_| {})], echoing(), &Shelf::of(3)).await;
    let result = only(&results);
    assert_eq!((result.status, result.model_calls), (Status::Rejected, 0));
    assert_eq!(result.error.as_ref().unwrap().class, Class::NoText);
    assert_eq!(result.document.as_ref().unwrap().kind.as_deref(), Some("pdf"));
    let notices = notices(&state);
    let notice = notices.iter().find(|notice| notice["kind"] == "job").unwrap();
    assert_eq!(notice["error"]["class"], "no_text");
}

/// Parts of which it is written down when somebody asks how they stand.
struct Watched {
    parts: Arc<dyn Parts>,
    looks: Mutex<Vec<Timestamp>>,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Parts for Watched {
    async fn standing(&self, job: &Fence, generation: u32, round: u32) -> Result<Option<RoundStanding>, StoreError> {
        self.looks.lock().unwrap().push(self.clock.now());
        self.parts.standing(job, generation, round).await
    }
    async fn hand_out(&self, job: &Fence, nth: u32, message: &MessageId, round: Round) -> Result<bool, StoreError> {
        self.parts.hand_out(job, nth, message, round).await
    }
    async fn ends(&self, batch: &BatchKey, ids: &[JobId]) -> Result<Vec<Option<FinalRow>>, StoreError> {
        self.parts.ends(batch, ids).await
    }
    async fn sum(&self, job: &Fence) -> Result<Tally, StoreError> {
        self.parts.sum(job).await
    }
    async fn wake(&self, batch: &BatchKey) -> Result<(), StoreError> {
        self.parts.wake(batch).await
    }
}

/// Hundreds that were looked at after a quarter of their age took most of the deliveries from their own chunks.
#[tokio::test(start_paused = true)]
async fn a_document_whose_chunks_are_at_work_is_not_looked_at_before_it_is_half_as_old_again() {
    let (state, hour) = (State::new(), Duration::from_secs(3_600));
    let store = state.open().await;
    let (run, _) = enrol(&store, vec![document("a", |_| {})]).await;
    let slow = Scripted::new(hour, |_, _| Reply::Text("at last"));
    let mut context = with_documents(&store, &state, slow, &Shelf::of(1), Setup::default());
    let (looks, clock) = (Mutex::default(), Arc::clone(&context.clock));
    let began = clock.now();
    let watched = Arc::new(Watched { parts: store.parts(), looks, clock });
    let ports = Arc::get_mut(&mut context).unwrap().documents.as_mut().unwrap();
    ports.parts = Arc::clone(&watched) as Arc<dyn Parts>;
    let results = drain(&context, &store, &run, 1).await;
    assert_eq!(only(&results).status, Status::Succeeded);
    let looks: Vec<Duration> = watched.looks.lock().unwrap().iter().map(|look| look.since(began)).collect();
    assert!(looks.len() <= 24, "{looks:?}");
    // It was woken for the last one; the first is before its chunks are handed out, the second behind that.
    for pair in looks[1..looks.len() - 1].windows(2) {
        assert!(pair[1] >= (pair[0] * 3 / 2).max(pair[0] + Duration::from_secs(1)), "{looks:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn f1_one_upload_is_one_run_however_often_its_message_comes() {
    let state = State::new();
    let store = state.open().await;
    let (model, shelf) = (echoing(), Shelf::of(5));
    let job = document("a", |_| {});
    let (run, _) = enrol(&store, vec![job.clone()]).await;
    let context = with_documents(&store, &state, model.clone(), &shelf, Setup::default());
    let copy = || aquifer::ports::Outgoing {
        body: job.to_message(),
        batch: job.key.batch.clone(),
        tenant: job.key.tenant.clone(),
        model: None,
        priority: job.priority,
        delay: Duration::ZERO,
        trace: None,
    };
    context.queue.send(vec![copy(), copy()]).await.unwrap();
    let worker = Worker::new(Arc::clone(&context));
    let working = tokio::spawn(async move { worker.run().await });
    ended(&store, &run, 1).await;
    emptied(&context).await;
    context.stop.drain(aquifer::flow::stop::Reason::Done);
    working.await.unwrap();
    assert_eq!(model.calls(), 5);
    let ids: BTreeSet<String> = notices(&state).iter().map(|notice| notice["notice_id"].to_string()).collect();
    assert_eq!(ids.len(), 2, "one for the document and one for its batch, however often they are told");
}

#[tokio::test(start_paused = true)]
async fn f2_w4_a_worker_that_is_killed_in_the_middle_of_a_document_leaves_the_rest_to_the_next() {
    for after in [1, 3, 7] {
        let state = State::new();
        let first = state.open().await;
        let shelf = Shelf::of(8);
        enrol(&first, vec![document("a", |_| {})]).await;
        let hanging = Scripted::new(Duration::from_millis(20), move |number, call| {
            if number <= after { Reply::Text(prompt_of(call).to_uppercase().leak()) } else { Reply::Hang }
        });
        let mut doomed = with_documents(&first, &state, hanging.clone(), &shelf, Setup::default());
        let dead = CancellationToken::new();
        make_mortal(Arc::get_mut(&mut doomed).unwrap(), &dead);
        let working = tokio::spawn(async move { Worker::new(doomed).run().await });
        hanging.called(after + 1).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        dead.cancel();
        first.abandon();
        working.abort();

        let store = state.open().await;
        let (run, _) = enrol(&store, vec![document("a", |_| {})]).await;
        let model = echoing();
        let context = with_documents(&store, &state, model.clone(), &shelf, Setup::default());
        let results = drain(&context, &store, &run, 1).await;
        let result = only(&results);
        assert_eq!(result.status, Status::Succeeded);
        let answers: Vec<String> = (1..=8).map(|number| format!("A.PDF {number}")).collect();
        assert_eq!(result.text.as_deref(), Some(answers.join("\n\n").as_str()));
        assert_eq!(model.calls(), 8 - after, "what was answered is not asked again");
        assert_eq!(shelf.opened.load(Ordering::SeqCst), 1, "nor is it read again");
    }
}

#[tokio::test(start_paused = true)]
async fn w5_run_again_a_failed_document_asks_only_what_failed() {
    let state = State::new();
    let store = state.open().await;
    let shelf = Shelf::of(6);
    let fail = |document: &mut Document| document.partial = Partial::Fail;
    let (run, _) = enrol(&store, vec![document("a", fail)]).await;
    let context = with_documents(&store, &state, failing("a.pdf 4", Class::Invalid), &shelf, Setup::default());
    assert_eq!(only(&drain(&context, &store, &run, 1).await).status, Status::Failed);

    let run = store.begin_run(&document("a", fail).key.batch).await.unwrap();
    let line =
        aquifer::embedded::Line::Job { job: Box::new(document("a", fail)), auto_id: false, stale_deadline: false };
    run.enrol(vec![aquifer::embedded::Entry { position: 0, line }], true).await.unwrap();
    run.seal().await.unwrap();
    let model = echoing();
    let context = with_documents(&store, &state, model.clone(), &shelf, Setup::default());
    let results = drain(&context, &store, &run, 1).await;
    assert_eq!((only(&results).status, model.calls()), (Status::Succeeded, 1));
    assert_eq!(only(&results).model_calls, 7, "over its whole life");
}

#[tokio::test(start_paused = true)]
async fn the_cap_on_cost_counts_what_chunks_cost() {
    let state = State::new();
    let store = state.open().await;
    let (model, shelf) = (echoing(), Shelf::of(40));
    enrol(&store, vec![document("a", |_| {}), document("b", |_| {})]).await;
    let mut setup = Setup::default();
    // Room for some calls of 100 tokens at most and a little input, at a dollar a million; not for all eighty.
    let cap = Usd::from_nanos(600_000);
    setup.settings.cost_cap = Some(cap);
    let context = with_documents(&store, &state, model.clone(), &shelf, setup);
    Worker::new(Arc::clone(&context)).run().await;
    assert!(
        matches!(context.stop.reason(), Some(aquifer::flow::stop::Reason::CapReached { .. })),
        "{:?}",
        context.stop.reason()
    );
    let calls = model.calls();
    assert!((1..80).contains(&calls), "{calls} calls");
    assert!(Usd::from_nanos(calls * 15_000) <= cap);
}

#[tokio::test(start_paused = true)]
async fn a_document_past_its_deadline_expires_with_the_answers_that_came_in_time() {
    let slow = Scripted::new(Duration::from_secs(10), |number, _| {
        if number <= 2 { Reply::Text("in time") } else { Reply::Fail(Class::QuotaMinute, Billing::Nothing) }
    });
    let mut job = document("a", |_| {});
    job.deadline = Some(crate::common::START.after(Duration::from_secs(300)));
    let (results, _) = ended_as(vec![job], slow, &Shelf::of(4)).await;
    let result = only(&results);
    assert_eq!(result.status, Status::Partial);
    assert_eq!(result.text.as_deref(), Some("in time\n\nin time"));
    assert_eq!(result.document.as_ref().unwrap().failed.len(), 2);
    assert_eq!(result.error.as_ref().unwrap().class, Class::Expired);
}
