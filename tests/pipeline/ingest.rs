//! A data source comes up to date: arrivals share what begins after them, and whatever fails or dies in between, nothing is begun
//! twice. The service is the test's own; the real SDK is asked in `tests/fleet_e2e`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use aquifer::embedded::Store;
use aquifer::flow::context::Context;
use aquifer::flow::worker::Worker;
use aquifer::job::failure::{Class, Failure};
use aquifer::job::ingest::{Counts, DataSource, IngestToken, Ingestion, Phase};
use aquifer::job::lifecycle::Status;
use aquifer::job::outcome::JobResult;
use aquifer::job::spec::{Job, MaxTokens, Request};
use aquifer::job::units::Usd;
use aquifer::ports::{Begun, Clock, Ingestions};

use crate::common::mortal::make_mortal;
use crate::common::{PausedClock, START};
use crate::harness::*;

const MINUTE: Duration = Duration::from_secs(60);

/// One ingestion at a time for each source, which takes so long.
struct Service {
    clock: Arc<PausedClock>,
    takes: Duration,
    ends_as: Phase,
    ingestions: Mutex<BTreeMap<String, Vec<Ingestion>>>,
    refused: AtomicU64,
    /// What the next calls meet instead.
    troubles: Mutex<VecDeque<Class>>,
    /// Whether every call is refused so.
    always: Option<Class>,
    /// Whether all that asks for an ingestion is refused so.
    begins: Option<Class>,
}

impl Service {
    fn new(state: &State, takes: Duration) -> Self {
        Self {
            clock: Arc::clone(&state.clock),
            takes,
            ends_as: Phase::Complete,
            ingestions: Mutex::default(),
            refused: AtomicU64::new(0),
            troubles: Mutex::default(),
            always: None,
            begins: None,
        }
    }

    fn meet_trouble(&self) -> Result<(), Failure> {
        let class = self.always.or_else(|| self.troubles.lock().unwrap().pop_front());
        class.map_or(Ok(()), |class| Err(Failure::new(class, "as the test says")))
    }

    fn all(&self, source: &DataSource) -> Vec<Ingestion> {
        let now = self.clock.now();
        let mut all = self.ingestions.lock().unwrap().get(&source.to_string()).cloned().unwrap_or_default();
        for ingestion in &mut all {
            let has_ended = now >= ingestion.began.after(self.takes);
            ingestion.phase = if has_ended { self.ends_as } else { Phase::Running };
            ingestion.counts = Counts { documents_scanned: 7, new_documents_indexed: 2, ..Counts::default() };
        }
        all
    }

    fn push(&self, source: &DataSource, token: Option<IngestToken>) {
        let mut ingestions = self.ingestions.lock().unwrap();
        let of_source = ingestions.entry(source.to_string()).or_default();
        let id = format!("IJ{:08}", of_source.len());
        let (began, counts) = (self.clock.now(), Counts::default());
        of_source.push(Ingestion { id, token, phase: Phase::Running, began, counts });
    }
}

#[async_trait]
impl Ingestions for Service {
    async fn region(&self) -> String {
        "us-east-1".to_owned()
    }

    async fn newest(&self, source: &DataSource) -> Result<Vec<Ingestion>, Failure> {
        tokio::time::sleep(Duration::from_millis(30)).await;
        self.meet_trouble()?;
        Ok(self.all(source).into_iter().rev().collect())
    }

    async fn begin(&self, source: &DataSource, token: &IngestToken) -> Result<Begun, Failure> {
        tokio::time::sleep(Duration::from_millis(30)).await;
        self.meet_trouble()?;
        if let Some(class) = self.begins {
            return Err(Failure::new(class, "five ingestions run in this account"));
        }
        let all = self.all(source);
        if all.iter().any(|ingestion| ingestion.token.as_ref() == Some(token)) {
            return Ok(Begun::Yes);
        }
        if all.iter().any(|ingestion| ingestion.phase == Phase::Running) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Ok(Begun::Busy);
        }
        self.push(source, Some(token.clone()));
        Ok(Begun::Yes)
    }

    async fn reasons(&self, _: &DataSource, _: &str) -> Result<Vec<String>, Failure> {
        self.meet_trouble()?;
        Ok(vec!["the role may not read the bucket".to_owned()])
    }
}

fn service_time(state: &State) -> Duration {
    state.clock.now().since(START)
}

fn source(knowledge_base: &str) -> DataSource {
    let fields = json!({ "knowledge_base_id": knowledge_base, "data_source_id": "DS12345678" });
    DataSource::read(fields.as_object().unwrap()).unwrap()
}

fn ingest_of(id: &str, knowledge_base: &str) -> Job {
    let request = Request::Ingest(source(knowledge_base));
    Job { model: String::new(), request, max_tokens: MaxTokens::Unsaid, ..job(id, "") }
}

fn ingest(id: &str) -> Job {
    ingest_of(id, "KB12345678")
}

fn with_service(store: &Store, state: &State, service: &Arc<Service>, setup: Setup) -> Arc<Context> {
    let mut context = context(store, state, Scripted::answering(), setup);
    Arc::get_mut(&mut context).unwrap().ingestions = Some(Arc::clone(service) as Arc<dyn Ingestions>);
    context
}

async fn ended_as(state: &State, service: &Arc<Service>, jobs: Vec<Job>, setup: Setup) -> Vec<JobResult> {
    let store = state.open().await;
    let count = jobs.len();
    let (run, _) = enrol(&store, jobs).await;
    drain(&with_service(&store, state, service, setup), &store, &run, count).await
}

#[tokio::test(start_paused = true)]
async fn a_source_is_ingested_once_and_the_result_says_what_was_taken_in() {
    let state = State::new();
    let service = Arc::new(Service::new(&state, 5 * MINUTE));
    let results = ended_as(&state, &service, vec![ingest("a")], Setup::default()).await;
    let result = &results[0];
    assert_eq!((result.status, result.cost_usd, result.model_calls), (Status::Succeeded, Usd::ZERO, 0));
    assert_eq!((result.model.as_deref(), result.region.as_deref()), (None, Some("us-east-1")));
    let output = result.output.as_ref().unwrap();
    assert_eq!(output["statistics"]["documents_scanned"], 7);
    assert_eq!(
        (&output["knowledge_base_id"], &output["ingestion_job_id"]),
        (&json!("KB12345678"), &json!("IJ00000000"))
    );
    assert_eq!(service.all(&source("KB12345678")).len(), 1);
    let took = service.clock.now().since(START);
    assert!((5 * MINUTE..6 * MINUTE + Duration::from_secs(20)).contains(&took), "looked at once a minute: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn arrivals_share_what_begins_after_them_and_what_ran_before_covers_none_of_them() {
    let state = State::new();
    let service = Arc::new(Service::new(&state, 10 * MINUTE));
    // Somebody else's runs already.
    service.push(&source("KB12345678"), None);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let jobs = (0..20).map(|number| ingest(&format!("a{number}"))).collect();
    let results = ended_as(&state, &service, jobs, Setup::default()).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded));
    let used: std::collections::BTreeSet<String> =
        results.iter().map(|result| result.output.as_ref().unwrap()["ingestion_job_id"].to_string()).collect();
    assert_eq!(used.len(), 1, "one ingestion for all of them: {used:?}");
    let all = service.all(&source("KB12345678"));
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all[1].began > all[0].began.after(10 * MINUTE), "it began when the other had ended");
}

#[tokio::test(start_paused = true)]
async fn two_that_would_begin_at_once_meet_a_conflict_and_the_other_waits() {
    let state = State::new();
    let service = Arc::new(Service::new(&state, MINUTE));
    let results = ended_as(&state, &service, vec![ingest("a"), ingest("b")], Setup::default()).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded && result.attempts == 0));
    assert_eq!(service.refused.load(Ordering::SeqCst), 1, "both saw that none runs, and one was refused");
    assert_eq!(service.all(&source("KB12345678")).len(), 1, "and was covered by the other's");
}

#[tokio::test(start_paused = true)]
async fn sources_of_different_knowledge_bases_do_not_wait_for_each_other() {
    let state = State::new();
    let service = Arc::new(Service::new(&state, 5 * MINUTE));
    let jobs = vec![ingest_of("a", "KB0000000A"), ingest_of("b", "KB0000000B")];
    ended_as(&state, &service, jobs, Setup::default()).await;
    assert!(service.clock.now().since(START) < 7 * MINUTE);
}

#[tokio::test(start_paused = true)]
async fn a_failed_ingestion_fails_its_job_with_the_services_reason() {
    let state = State::new();
    let service = Arc::new(Service { ends_as: Phase::Failed, ..Service::new(&state, MINUTE) });
    let results = ended_as(&state, &service, vec![ingest("a")], Setup::default()).await;
    let error = results[0].error.as_ref().unwrap();
    assert_eq!(results[0].status, Status::Failed);
    assert!(error.message.contains("IJ00000000") && error.message.contains("may not read the bucket"), "{error}");
    assert_eq!(results[0].output.as_ref().unwrap()["statistics"]["documents_scanned"], 7);
}

#[tokio::test(start_paused = true)]
async fn f10_a_deadline_ends_the_wait() {
    let state = State::new();
    let service = Arc::new(Service::new(&state, 100 * MINUTE));
    let late = Job { deadline: Some(START.after(10 * MINUTE)), ..ingest("a") };
    let results = ended_as(&state, &service, vec![late], Setup::default()).await;
    assert_eq!(results[0].status, Status::Expired);
    let took = service.clock.now().since(START);
    assert!((10 * MINUTE..10 * MINUTE + Duration::from_secs(30)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_comes_back_is_waited_for_and_one_that_stays_away_is_given_up() {
    let state = State::new();
    let troubles = [Class::Unavailable, Class::QuotaMinute, Class::Credentials, Class::Timeout];
    let service = Service::new(&state, MINUTE);
    *service.troubles.lock().unwrap() = troubles.into();
    let service = Arc::new(service);
    let results = ended_as(&state, &service, vec![ingest("a")], Setup::default()).await;
    assert_eq!((results[0].status, results[0].attempts), (Status::Succeeded, 0));
    assert_eq!(service.all(&source("KB12345678")).len(), 1);

    let state = State::new();
    let service = Arc::new(Service { always: Some(Class::Unavailable), ..Service::new(&state, MINUTE) });
    let mut setup = Setup::default();
    setup.settings.give_up_after = 30 * MINUTE;
    let results = ended_as(&state, &service, vec![ingest("a")], setup).await;
    assert_eq!(results[0].error.as_ref().unwrap().class, Class::Unavailable);
    let took = service.clock.now().since(START);
    assert!((30 * MINUTE..33 * MINUTE).contains(&took), "{took:?}");

    let state = State::new();
    let service = Arc::new(Service { always: Some(Class::Denied), ..Service::new(&state, MINUTE) });
    let results = ended_as(&state, &service, vec![ingest("a")], Setup::default()).await;
    assert_eq!(results[0].error.as_ref().unwrap().class, Class::Denied, "a run is told what to mend");
}

#[tokio::test(start_paused = true)]
async fn f10_patience_counts_from_the_trouble_and_not_from_when_the_job_was_queued() {
    let state = State::new();
    let service = Arc::new(Service::new(&state, 100 * MINUTE));
    let mut setup = Setup::default();
    setup.settings.give_up_after = 30 * MINUTE;
    let troubled = Arc::clone(&service);
    // Twice, with answers in between: each is far shorter than the patience, the time between them is longer.
    tokio::spawn(async move {
        for after in [60, 35] {
            tokio::time::sleep(after * MINUTE).await;
            *troubled.troubles.lock().unwrap() = [Class::Unavailable, Class::QuotaMinute].into();
        }
    });
    let results = ended_as(&state, &service, vec![ingest("a")], setup).await;
    assert_eq!((results[0].status, &results[0].error), (Status::Succeeded, &None));
    assert!(service.troubles.lock().unwrap().is_empty(), "both were met");
}

#[tokio::test(start_paused = true)]
async fn f10_a_limit_that_stays_is_waited_for_no_longer_than_a_service_that_is_away() {
    let state = State::new();
    let service = Arc::new(Service { begins: Some(Class::QuotaDay), ..Service::new(&state, MINUTE) });
    let mut setup = Setup::default();
    setup.settings.give_up_after = 30 * MINUTE;
    let results = ended_as(&state, &service, vec![ingest("a")], setup).await;
    assert_eq!(results[0].error.as_ref().unwrap().class, Class::QuotaDay);
    let took = service_time(&state);
    assert!((30 * MINUTE..33 * MINUTE).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn residency_holds_for_knowledge_bases_too() {
    let state = State::new();
    let service = Arc::new(Service::new(&state, MINUTE));
    let elsewhere = Job { residency: Some(vec!["eu-west-1".to_owned()]), ..ingest("a") };
    let results = ended_as(&state, &service, vec![elsewhere], Setup::default()).await;
    assert_eq!((results[0].status, results[0].error.as_ref().unwrap().class), (Status::Rejected, Class::Residency));
    assert!(service.all(&source("KB12345678")).is_empty());
}

/// Killed every few seconds of its life, wherever it is then: what has begun is known again.
#[tokio::test(start_paused = true)]
async fn a_job_that_outlives_its_workers_begins_one_ingestion() {
    let state = State::new();
    let service = Arc::new(Service::new(&state, 3 * MINUTE));
    {
        let store = state.open().await;
        enrol(&store, vec![ingest("a")]).await;
    }
    for life in [20, 45, 70, 1_010, 2_030, 95] {
        let store = state.open().await;
        let dead = CancellationToken::new();
        let mut doomed = with_service(&store, &state, &service, Setup::default());
        make_mortal(Arc::get_mut(&mut doomed).unwrap(), &dead);
        let working = tokio::spawn(async move { Worker::new(doomed).run().await });
        tokio::time::sleep(Duration::from_millis(life)).await;
        dead.cancel();
        store.abandon();
        working.abort();
    }
    let store = state.open().await;
    let (run, _) = enrol(&store, vec![ingest("a")]).await;
    let results = drain(&with_service(&store, &state, &service, Setup::default()), &store, &run, 1).await;
    assert_eq!(results[0].status, Status::Succeeded);
    assert_eq!(service.all(&source("KB12345678")).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn where_nobody_ingests_the_message_is_set_aside_with_the_reason() {
    let state = State::new();
    let store = state.open().await;
    enrol(&store, vec![ingest("a")]).await;
    let context = context(&store, &state, Scripted::answering(), Setup::default());
    let worker = Worker::new(Arc::clone(&context));
    let working = tokio::spawn(async move { worker.run().await });
    let reader = aquifer::embedded::Reader::open(state.dir.path()).unwrap();
    let mut look = tokio::time::interval(Duration::from_millis(100));
    while reader.dead().unwrap().is_empty() {
        look.tick().await;
        assert!(service_time(&state) < 10 * MINUTE, "it was never set aside");
    }
    context.stop.drain(aquifer::flow::stop::Reason::Done);
    working.await.unwrap();
    let dead = reader.dead().unwrap();
    assert!(dead.len() == 1 && dead[0].letter.reason.contains("`ingest`"), "{dead:?}");
}
