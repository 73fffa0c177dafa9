//! A workflow asks for a batch: what is in an object is queued, what failed runs again, and every token gets one answer. The services
//! are on paper: what is sent to them is looked at, and no job is worked.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aquifer::flow::batch_request::BatchPorts;
use aquifer::flow::context::Context;
use aquifer::flow::stop::{Reason, Stop};
use aquifer::flow::worker::Worker;
use aquifer::job::control::Seal;
use aquifer::job::failure::{Class, Failure};
use aquifer::job::ident::{BatchKey, BatchName, Digest, JobId, JobKey, Tenant};
use aquifer::job::lifecycle::{State as JobState, Status};
use aquifer::job::notice::{BatchSums, Notice};
use aquifer::job::outcome::{Ending, Pointer, Tally, Usage};
use aquifer::job::spec::TaskToken;
use aquifer::job::trail::Trail;
use aquifer::job::units::{Timestamp, Usd};
use aquifer::ports::inputs::{Edition, InputStream, Inputs, Unread};
use aquifer::ports::rolls::{AlreadySent, LineContent, Origin, Redriven, Roll, RollLine, Rolls};
use aquifer::ports::{
    BeginReply, Callbacks, ClaimReply, CompleteBatch, Depth, Entry, Fence, FinalRow, FinishReply, Gate, Ledger,
    Message, MessageId, Notices, Outgoing, Queue, ReceiptHandle, Seals, StoreError,
};
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Notify;

use crate::common::State;
use crate::harness::{Scripted, Setup, context};

const SOURCE: &str = "s3://up/in/reviews.jsonl";

/// What became of the one message.
#[derive(Clone, Debug, Eq, PartialEq)]
enum End {
    Deleted,
    Dead(String),
    Back(Duration),
}

/// How an object is read, the next time.
enum Piece {
    Bytes(Bytes),
    /// Nothing more comes, ever, which matters once so many messages are sent.
    HangsBehind(usize),
    Fails(Unread),
}

#[derive(Default)]
struct Facts {
    waiting_message: VecDeque<String>,
    ends: Vec<End>,
    /// Bodies, as they were sent.
    sent: Vec<Value>,
    /// What each reading of the object brings; the last one for ever.
    readings: VecDeque<Vec<Piece>>,
    content: Bytes,
    hangs_behind: Option<usize>,
    opened: usize,
    mark: Option<AlreadySent>,
    listed: Vec<RollLine>,
    sealed: Option<Seal>,
    origins: Vec<Origin>,
    rows: HashMap<String, (JobState, Option<Class>)>,
    redriven: Vec<String>,
    is_unfinished: bool,
    complete: Option<bool>,
    waiting: Vec<TaskToken>,
    answered: Vec<TaskToken>,
    answers: Vec<(String, u64)>,
    refusals: Vec<(String, String)>,
    published: usize,
    marked: usize,
    order: Vec<&'static str>,
}

/// All services, on paper.
struct Paper {
    facts: Mutex<Facts>,
    happened: Notify,
    ledger: Arc<dyn Ledger>,
}

impl Paper {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap()
    }
}

#[async_trait]
impl Queue for Paper {
    async fn send(&self, entries: Vec<Outgoing>) -> Result<Vec<Entry<MessageId>>, StoreError> {
        let bodies: Vec<Value> = entries.iter().map(|entry| serde_json::from_str(&entry.body).unwrap()).collect();
        let ids = bodies.iter().map(|_| Ok(MessageId("sent".to_owned()))).collect();
        let mut facts = self.facts();
        facts.sent.extend(bodies);
        if facts.hangs_behind.is_some_and(|enough| facts.sent.len() >= enough) {
            self.happened.notify_one();
        }
        Ok(ids)
    }
    async fn receive(
        &self,
        _max: usize,
        _passing_over: &[Arc<str>],
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Message>, StoreError> {
        let Some(body) = self.facts().waiting_message.pop_front() else {
            tokio::time::sleep(wait).await;
            return Ok(Vec::new());
        };
        let sent = Timestamp(1_795_000_000_000);
        let (handle, id) = (ReceiptHandle("h".to_owned()), MessageId("message".to_owned()));
        Ok(vec![Message {
            handle,
            id,
            body,
            receives: 1,
            sent,
            hidden_until: sent.after(visibility),
            sender: None,
            trace: None,
        }])
    }
    async fn change_visibility(&self, entries: Vec<(ReceiptHandle, Duration)>) -> Result<Vec<Entry>, StoreError> {
        self.facts().ends.extend(entries.iter().map(|(_, after)| End::Back(*after)));
        self.happened.notify_one();
        Ok(entries.iter().map(|_| Ok(())).collect())
    }
    async fn delete(&self, handles: Vec<ReceiptHandle>) -> Result<Vec<Entry>, StoreError> {
        self.facts().ends.push(End::Deleted);
        self.happened.notify_one();
        Ok(handles.iter().map(|_| Ok(())).collect())
    }
    async fn dead_letter(&self, _message: &Message, reason: &str) -> Result<Entry, StoreError> {
        self.facts().ends.push(End::Dead(reason.to_owned()));
        self.happened.notify_one();
        Ok(Ok(()))
    }
    async fn depth(&self) -> Result<Depth, StoreError> {
        Ok(Depth::default())
    }
}

#[async_trait]
impl Ledger for Paper {
    async fn claim(
        &self,
        key: &JobKey,
        content: Digest,
        enqueued: Timestamp,
        lease: Duration,
    ) -> Result<ClaimReply, StoreError> {
        self.ledger.claim(key, content, enqueued, lease).await
    }
    async fn begin(&self, fence: &Fence, tally: Tally, open: Usd, cap: Option<Usd>) -> Result<BeginReply, StoreError> {
        self.ledger.begin(fence, tally, open, cap).await
    }
    async fn settle(&self, fence: &Fence, tally: Tally, trail: Trail) -> Result<Entry, StoreError> {
        self.ledger.settle(fence, tally, trail).await
    }
    async fn extend(&self, fences: Vec<Fence>, lease: Duration) -> Result<Vec<Entry>, StoreError> {
        self.ledger.extend(fences, lease).await
    }
    async fn hand_back(&self, fence: &Fence, tally: Tally, trail: Trail) -> Result<Entry, StoreError> {
        self.ledger.hand_back(fence, tally, trail).await
    }
    async fn finish(
        &self,
        fence: &Fence,
        tally: Tally,
        ending: Ending,
        trail: Trail,
    ) -> Result<FinishReply, StoreError> {
        self.ledger.finish(fence, tally, ending, trail).await
    }
    async fn notified(&self, key: &JobKey, at: Timestamp) -> Result<(), StoreError> {
        self.ledger.notified(key, at).await
    }
    async fn look_up(&self, key: &JobKey) -> Result<Option<(JobState, Option<FinalRow>)>, StoreError> {
        let Some((state, class)) = self.facts().rows.get(key.id.as_str()).copied() else { return Ok(None) };
        let JobState::Final(status) = state else { return Ok(Some((state, None))) };
        let result = Pointer { uri: "s3://b/k".to_owned(), offset: 0, length: 1, sha256: Digest::of(b"") };
        let error = class.map(|class| Failure::new(class, "so it is written"));
        let ending = Ending { status, model_used: None, usage: Usage::default(), error, result };
        let row = FinalRow { key: key.clone(), generation: 0, tally: Tally::default(), ending };
        Ok(Some((state, Some(row))))
    }
    async fn complete_unannounced(&self, _batch: &BatchKey) -> Result<Option<CompleteBatch>, StoreError> {
        let facts = self.facts();
        let waiting: Vec<TaskToken> = facts.waiting.clone();
        let Some(is_news) = facts.complete.filter(|is_news| *is_news || !waiting.is_empty()) else { return Ok(None) };
        let sums = BatchSums { total: 2, succeeded: 2, ..BatchSums::default() };
        Ok(Some(CompleteBatch { completion: 0, sums, manifest: "s3://b/manifest".to_owned(), is_news, waiting }))
    }
    async fn mark_announced(&self, _batch: &BatchKey, _completion: u64) -> Result<(), StoreError> {
        let mut facts = self.facts();
        facts.marked += 1;
        facts.complete = Some(false);
        Ok(())
    }
    async fn post_gate(&self, lane: &str, gate: Option<Gate>) -> Result<(), StoreError> {
        self.ledger.post_gate(lane, gate).await
    }
}

/// One writer's view of the roll.
struct PaperRoll(Arc<Paper>);

#[async_trait]
impl Roll for PaperRoll {
    fn already_sent(&self) -> Option<AlreadySent> {
        self.0.facts().mark
    }
    fn start_over(&mut self) -> Result<(), StoreError> {
        panic!("it is the same input")
    }
    async fn part(&mut self, part: &[RollLine], lines: u64, digest: Digest) -> Result<(), StoreError> {
        let mut facts = self.0.facts();
        facts.listed.extend_from_slice(part);
        facts.mark = Some(AlreadySent { lines, digest, sealed: false });
        Ok(())
    }
    async fn seal(&mut self) -> Result<Seal, StoreError> {
        let facts = self.0.facts();
        let (mut total, mut refused) = (BTreeMap::new(), BTreeMap::new());
        for RollLine { tenant, content, .. } in &facts.listed {
            *total.entry(tenant.clone()).or_default() += u64::from(matches!(content, LineContent::Job(_)));
            if let LineContent::Refused { .. } = content {
                *refused.entry(tenant.clone()).or_default() += 1;
            }
        }
        let batch = BatchName::new("reviews").unwrap();
        Ok(Seal { batch, total, refused, roll: None, callback: None })
    }
}

struct Shared(Arc<Paper>);

#[async_trait]
impl Rolls for Shared {
    async fn begin(&self, _batch: &BatchName, _of: Option<&Tenant>) -> Result<Box<dyn Roll>, StoreError> {
        Ok(Box::new(PaperRoll(Arc::clone(&self.0))))
    }
    async fn redrive(&self, job: &JobKey, _content: Digest, request: Option<&str>) -> Result<Redriven, StoreError> {
        let mut facts = self.0.facts();
        facts.redriven.push(format!("{} for {}", job.id, request.unwrap()));
        facts.rows.insert(job.id.to_string(), (JobState::Queued, None));
        Ok(Redriven::Queued { generation: 1 })
    }
    async fn is_unfinished(&self, _batch: &BatchKey) -> Result<bool, StoreError> {
        Ok(self.0.facts().is_unfinished)
    }
    async fn note_origin(&self, _batch: &BatchKey, origin: &Origin) -> Result<(), StoreError> {
        self.0.facts().origins = vec![origin.clone()];
        Ok(())
    }
    async fn origins(&self, _batch: &BatchKey) -> Result<Vec<Origin>, StoreError> {
        Ok(self.0.facts().origins.clone())
    }
}

#[async_trait]
impl Seals for Paper {
    async fn seal(&self, seal: &Seal) -> Result<(), StoreError> {
        let mut facts = self.facts();
        facts.sealed = Some(seal.clone());
        facts.order.push("sealed");
        Ok(())
    }
    async fn wait(&self, _batch: &BatchKey, token: &TaskToken) -> Result<(), StoreError> {
        let mut facts = self.facts();
        facts.order.push("waits");
        if !facts.answered.contains(token) && !facts.waiting.contains(token) {
            facts.waiting.push(token.clone());
        }
        Ok(())
    }
    async fn answered(&self, _batch: &BatchKey, token: &TaskToken) -> Result<(), StoreError> {
        let mut facts = self.facts();
        facts.waiting.retain(|waits| waits != token);
        facts.answered.push(token.clone());
        Ok(())
    }
}

#[async_trait]
impl Callbacks for Paper {
    async fn answer(&self, token: &TaskToken, notice: &Notice) -> Result<(), StoreError> {
        let Notice::Batch(batch) = notice else { panic!("{notice:?}") };
        self.facts().answers.push((token.as_str().to_owned(), batch.sums.total));
        Ok(())
    }
    async fn refuse(&self, token: &TaskToken, reason: &str) -> Result<(), StoreError> {
        self.facts().refusals.push((token.as_str().to_owned(), reason.to_owned()));
        Ok(())
    }
}

#[async_trait]
impl Notices for Paper {
    async fn publish(&self, _notice: &Notice) -> Result<(), StoreError> {
        self.facts().published += 1;
        Ok(())
    }
}

struct Stream {
    paper: Arc<Paper>,
    edition: Edition,
    pieces: VecDeque<Piece>,
}

#[async_trait]
impl Inputs for Shared {
    async fn open(&self, source: &str, edition: Option<&Edition>) -> Result<Box<dyn InputStream>, Unread> {
        assert_eq!(source, SOURCE);
        let newest = Edition { etag: "e".to_owned(), version: None };
        assert!(edition.is_none_or(|edition| *edition == newest));
        let mut facts = self.0.facts();
        facts.opened += 1;
        let pieces = match facts.readings.pop_front() {
            Some(pieces) => pieces.into(),
            None => VecDeque::from([Piece::Bytes(facts.content.clone())]),
        };
        Ok(Box::new(Stream { paper: Arc::clone(&self.0), edition: newest, pieces }))
    }
}

#[async_trait]
impl InputStream for Stream {
    fn edition(&self) -> &Edition {
        &self.edition
    }
    async fn next(&mut self) -> Result<Option<Bytes>, Unread> {
        match self.pieces.pop_front() {
            None => Ok(None),
            Some(Piece::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Piece::Fails(unread)) => Err(unread),
            Some(Piece::HangsBehind(sent)) => {
                self.paper.facts().hangs_behind = Some(sent);
                std::future::pending().await
            }
        }
    }
}

/// A worker on paper.
struct World {
    state: State,
    store: aquifer::embedded::Store,
    paper: Arc<Paper>,
}

impl World {
    async fn new(content: impl Into<Bytes>) -> Self {
        let state = State::new();
        let store = state.open().await;
        let facts = Facts { content: content.into(), ..Facts::default() };
        let paper = Paper { facts: Mutex::new(facts), happened: Notify::new(), ledger: store.ledger() };
        Self { state, store, paper: Arc::new(paper) }
    }

    fn context(&self) -> Arc<Context> {
        let mut context = context(&self.store, &self.state, Scripted::answering(), Setup::default());
        let own = Arc::get_mut(&mut context).unwrap();
        own.settings.patience = aquifer::flow::patience::Patience::Endless;
        own.queue = Arc::clone(&self.paper) as Arc<dyn Queue>;
        own.ledger = Arc::clone(&self.paper) as Arc<dyn Ledger>;
        own.notices = Arc::clone(&self.paper) as Arc<dyn Notices>;
        own.callbacks = Some(Arc::clone(&self.paper) as Arc<dyn Callbacks>);
        own.batches = Some(BatchPorts {
            rolls: Arc::new(Shared(Arc::clone(&self.paper))),
            seals: Arc::clone(&self.paper) as Arc<dyn Seals>,
            inputs: Arc::new(Shared(Arc::clone(&self.paper))),
            turn: Arc::default(),
        });
        own.stop = Stop::default();
        context
    }

    /// Delivers a message to a worker, and tells it to stop at the first thing that happens; what became of the message.
    async fn deliver(&self, body: &str) -> End {
        // What happened at the end of the last one is no news.
        let _ = tokio::time::timeout(Duration::ZERO, self.paper.happened.notified()).await;
        self.paper.facts().waiting_message.push_back(body.to_owned());
        let context = self.context();
        let worker = Worker::new(Arc::clone(&context));
        let working = tokio::spawn(async move { worker.run().await });
        self.paper.happened.notified().await;
        context.stop.drain(Reason::Done);
        working.await.unwrap();
        self.paper.facts().ends.pop().unwrap()
    }

    fn sent(&self) -> HashMap<String, usize> {
        let mut sent = HashMap::new();
        for body in &self.paper.facts().sent {
            *sent.entry(body["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        sent
    }
}

fn enqueue(token: &str) -> String {
    format!(
        r#"{{"id":"enqueue-1","tenant":"acme","batch":"reviews","enqueue":{{"source":"{SOURCE}","model":"m"}},"callback":{{"task_token":"{token}"}}}}"#
    )
}

fn redrive(token: &str, class: &str) -> String {
    format!(r#"{{"id":"redrive-1","batch":"reviews","redrive":{{{class}}},"callback":{{"task_token":"{token}"}}}}"#)
}

fn lines(from: usize, to: usize) -> String {
    (from..to).map(|number| format!("{{\"id\":\"o-{number}\",\"prompt\":\"p {number}\"}}\n")).collect()
}

#[tokio::test(start_paused = true)]
async fn w6_one_that_is_told_to_stop_in_the_middle_is_gone_on_with_by_the_next() {
    const LINES: usize = 6_000;
    let world = World::new(lines(0, LINES)).await;
    let beginning = Piece::Bytes(lines(0, 5_700).into());
    // It is read once to see that it can be, and breaks off when it is read to be sent.
    let readings = [vec![Piece::Bytes(lines(0, LINES).into())], vec![beginning, Piece::HangsBehind(5_500)]];
    world.paper.facts().readings.extend(readings);
    assert_eq!(world.deliver(&enqueue("t")).await, End::Back(Duration::ZERO));
    world.paper.facts().hangs_behind = None;
    let (before, marked) = (world.sent(), world.paper.facts().mark.unwrap().lines);
    assert!(before.len() > 5_000 && before.len() < LINES && marked >= 5_000, "{} {marked}", before.len());
    assert!(world.paper.facts().waiting.is_empty() && world.paper.facts().sealed.is_none());

    assert_eq!(world.deliver(&enqueue("t")).await, End::Deleted);
    let sent = world.sent();
    assert_eq!(sent.len(), LINES, "every line is sent");
    let twice = sent.iter().filter(|(_, times)| **times > 1).count();
    assert!(twice <= before.len() - usize::try_from(marked).unwrap(), "{twice} were sent again: what is marked is not");
    let facts = world.paper.facts();
    let listed: Vec<u64> = facts.listed.iter().map(|line| line.position).collect();
    assert_eq!(listed, (0..LINES as u64).collect::<Vec<_>>(), "and listed once, in order");
    let total: u64 = facts.sealed.as_ref().unwrap().total.values().sum();
    assert_eq!((total, facts.waiting.as_slice()), (LINES as u64, &[TaskToken::new("t").unwrap()][..]));
    assert_eq!(facts.order, ["sealed", "waits"], "who waits comes behind what he waits for");
    assert!(facts.answers.is_empty(), "it is not complete");
}

#[tokio::test(start_paused = true)]
async fn w5_a_line_that_is_refused_late_is_listed_though_who_reads_stops_right_behind_it() {
    const LINES: usize = 6_200;
    const REPEATED: usize = 10;
    let mut all: Vec<String> = (0..LINES).map(|number| lines(number, number + 1)).collect();
    // The repetition shifts parts against lots, so that a part is full in the middle of the lot with the conflict.
    all[REPEATED] = all[0].clone();
    all[5_100] = "{\"id\":\"o-0\",\"prompt\":\"another\"}\n".to_owned();
    let world = World::new(all.concat()).await;
    let beginning = Piece::Bytes(all[..6_100].concat().into());
    let readings = [vec![Piece::Bytes(all.concat().into())], vec![beginning, Piece::HangsBehind(5_998)]];
    world.paper.facts().readings.extend(readings);
    assert_eq!(world.deliver(&enqueue("t")).await, End::Back(Duration::ZERO));
    world.paper.facts().hangs_behind = None;
    assert_eq!(world.deliver(&enqueue("t")).await, End::Deleted);
    let facts = world.paper.facts();
    let listed: Vec<u64> = facts.listed.iter().map(|line| line.position).collect();
    assert_eq!(listed, (0..LINES as u64).filter(|position| *position != REPEATED as u64).collect::<Vec<_>>());
    assert_eq!(facts.sealed.as_ref().unwrap().refused.values().sum::<u64>(), 1);
}

#[tokio::test(start_paused = true)]
async fn w5_lines_that_are_no_jobs_are_refused_where_the_one_who_asked_counts_them() {
    let content = "{\"id\":\"a\",\"prompt\":\"x\"}\n{\"prompt\":7}\n\n{\"id\":\"b\",\"prompt\":\"x\",\"tenant\":\"other\"}\n\
        {\"id\":\"a\",\"prompt\":\"y\"}\n\"only a prompt\"\n";
    let world = World::new(content).await;
    assert_eq!(world.deliver(&enqueue("t")).await, End::Deleted);
    let facts = world.paper.facts();
    let tenants: Vec<&str> = facts.sent.iter().map(|body| body["tenant"].as_str().unwrap()).collect();
    assert_eq!((facts.sent[0]["id"].as_str(), tenants), (Some("a"), vec!["acme", "acme"]));
    let seal = facts.sealed.as_ref().unwrap();
    let acme = Tenant::new("acme").unwrap();
    assert_eq!((seal.total.get(&acme), seal.refused.get(&acme)), (Some(&2), Some(&3)));
    assert_eq!(seal.total.len(), 1, "nobody else has anything in it: {seal:?}");
    let why: Vec<String> = facts
        .listed
        .iter()
        .filter_map(|line| match &line.content {
            LineContent::Job(_) => None,
            LineContent::Refused { result, .. } => {
                let result: Value = serde_json::from_slice(result).unwrap();
                Some(result["error"]["message"].as_str().unwrap().to_owned())
            }
        })
        .collect();
    for (why, says) in
        why.iter().zip(["reviews.jsonl:2:", "reviews.jsonl:4: `tenant` is not acme", "reviews.jsonl:5: id `a`"])
    {
        assert!(why.contains(says), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn w6_what_cannot_be_enqueued_is_told_at_once_and_queues_nothing() {
    let gone = || Unread::Refused { why: "the worker may not read it".to_owned() };
    let cut_off = Bytes::from_static(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b]);
    let late = enqueue("t").replacen('{', "{\"deadline\":\"2001-01-01T00:00:00Z\",", 1);
    for (content, reading, body, says) in [
        (Bytes::new(), Some(Piece::Fails(gone())), enqueue("t"), "may not read it"),
        (Bytes::from("\n \n"), None, enqueue("t"), "holds no line"),
        (Bytes::from("%PDF-1.7\n1 0 obj\n"), None, enqueue("t"), "is no JSON lines: none of its 2 lines"),
        (cut_off, None, enqueue("t"), "reading stopped before its first line"),
        (lines(0, 2).into(), None, enqueue("t").replace("\"m\"", "\"nobody\""), "no model is called `nobody`"),
        (lines(0, 2).into(), None, late, "expired: its deadline passed"),
        (lines(0, 2).into(), None, enqueue("t").replace("s3://up", "up"), "`source` names no object"),
        (lines(0, 2).into(), None, redrive("t", ""), "no object is known from which this batch was enqueued"),
    ] {
        let world = World::new(content).await;
        world.paper.facts().is_unfinished = true;
        world.paper.facts().readings.extend(reading.map(|piece| vec![piece]));
        let End::Dead(reason) = world.deliver(&body).await else { panic!("{says}") };
        assert!(reason.contains(says), "{reason}");
        let facts = world.paper.facts();
        let [(token, told)] = facts.refusals.as_slice() else { panic!("{:?}", facts.refusals) };
        assert_eq!((token.as_str(), told), ("t", &reason));
        assert!(facts.sent.is_empty() && facts.waiting.is_empty() && facts.answers.is_empty(), "{says}");
    }
}

#[tokio::test(start_paused = true)]
async fn w6_a_service_that_is_away_is_waited_for() {
    let world = World::new(lines(0, 3)).await;
    let away = || vec![Piece::Fails(Unread::Away { why: "503".to_owned() })];
    // In the middle of a line, too: half a line is no line.
    let half = vec![Piece::Bytes(lines(0, 3).into_bytes()[..40].to_vec().into()), away().remove(0)];
    world.paper.facts().readings.extend([away(), away(), half]);
    assert_eq!(world.deliver(&enqueue("t")).await, End::Deleted);
    assert_eq!(world.sent(), HashMap::from(["o-0", "o-1", "o-2"].map(|id| (id.to_owned(), 1))));
    assert!(world.paper.facts().refusals.is_empty());
}

#[tokio::test(start_paused = true)]
async fn w5_what_failed_of_the_class_that_is_meant_runs_again_once_for_a_request() {
    let world = World::new(lines(0, 5)).await;
    {
        let mut facts = world.paper.facts();
        let failed = JobState::Final(Status::Failed);
        facts.is_unfinished = true;
        facts.rows = HashMap::from([
            ("o-0".to_owned(), (failed, Some(Class::Timeout))),
            ("o-1".to_owned(), (failed, Some(Class::Invalid))),
            ("o-2".to_owned(), (JobState::Final(Status::Succeeded), None)),
            // Opened again by a worker that died before it sent it.
            ("o-3".to_owned(), (JobState::Queued, None)),
            ("o-4".to_owned(), (JobState::Running, None)),
        ]);
        let edition = Edition { etag: "e".to_owned(), version: None };
        facts.origins = vec![Origin { uri: SOURCE.to_owned(), edition, model: Some("m".to_owned()) }];
    }
    assert_eq!(world.deliver(&redrive("t", r#""class":"timeout""#)).await, End::Deleted);
    assert_eq!(world.paper.facts().redriven, ["o-0 for redrive-1"]);
    assert_eq!(world.sent(), HashMap::from(["o-0", "o-3"].map(|id| (id.to_owned(), 1))));
    assert_eq!(world.paper.facts().waiting, [TaskToken::new("t").unwrap()]);
    assert_eq!(JobId::new("o-0").unwrap().as_str(), world.paper.facts().sent[0]["id"].as_str().unwrap());
}

/// The premise: what was queued for an execution that had ended was worked and paid for; and jobs that had expired were run again only
/// to expire again, with another notice each.
#[tokio::test(start_paused = true)]
async fn w6_jobs_are_worth_nothing_once_nobody_waits_for_them_and_none_runs_again_that_would_only_expire() {
    let (own, until) = ("2127-01-01T00:00:00Z", "2127-01-02T00:00:00Z");
    let asks = |body: String, until: &str| body.replacen('{', &format!("{{\"deadline\":\"{until}\","), 1);
    let line = |id: &str, deadline: &str| format!("{{\"id\":\"{id}\",\"prompt\":\"x\"{deadline}}}\n");
    let content = [
        line("none", ""),
        line("sooner", &format!(",\"deadline\":\"{own}\"")),
        line("later", ",\"deadline\":\"2128-01-01T00:00:00Z\""),
    ];
    let world = World::new(content.concat()).await;
    let sent = || -> HashMap<String, String> {
        let facts = world.paper.facts();
        let text = |body: &Value, key: &str| body[key].as_str().unwrap().to_owned();
        facts.sent.iter().map(|body| (text(body, "id"), text(body, "deadline"))).collect()
    };
    assert_eq!(world.deliver(&asks(enqueue("t"), until)).await, End::Deleted);
    let deadlines = [("none", until), ("sooner", own), ("later", until)].map(|(id, at)| (id.to_owned(), at.to_owned()));
    assert_eq!(sent(), HashMap::from(deadlines));
    // Asked for again by an execution that waits for longer, it is the same input: nothing is sent twice.
    let number = world.paper.facts().sent.len();
    assert_eq!(world.deliver(&asks(enqueue("u"), "2127-02-01T00:00:00Z")).await, End::Deleted);
    assert_eq!(world.paper.facts().sent.len(), number);

    let past = ",\"deadline\":\"2001-01-01T00:00:00Z\"";
    let world = World::new([line("none", ""), line("past", past)].concat()).await;
    {
        let mut facts = world.paper.facts();
        facts.is_unfinished = true;
        facts.rows = ["none", "past"].map(|id| (id.to_owned(), (JobState::Final(Status::Expired), None))).into();
        let edition = Edition { etag: "e".to_owned(), version: None };
        facts.origins = vec![Origin { uri: SOURCE.to_owned(), edition, model: Some("m".to_owned()) }];
    }
    assert_eq!(world.deliver(&asks(redrive("t", ""), until)).await, End::Deleted);
    let facts = world.paper.facts();
    assert_eq!(facts.redriven, ["none for redrive-1"]);
    assert_eq!((facts.sent.len(), facts.sent[0]["deadline"].as_str()), (1, Some(until)));
}

#[tokio::test(start_paused = true)]
async fn w6_with_nothing_to_run_again_the_token_is_answered_at_once_and_nothing_is_read() {
    let world = World::new("").await;
    world.paper.facts().complete = Some(false);
    assert_eq!(world.deliver(&redrive("t", "")).await, End::Deleted);
    let facts = world.paper.facts();
    assert_eq!((facts.answers.as_slice(), facts.opened), (&[("t".to_owned(), 2)][..], 0));
    assert_eq!((facts.published, facts.marked), (0, 0), "it was announced before");
}

/// The premise: a token that came after its batch was announced, and the first of two, were never answered.
#[tokio::test(start_paused = true)]
async fn w6_every_token_of_a_batch_gets_one_answer_whenever_it_comes_and_however_often_it_is_delivered() {
    let world = World::new(lines(0, 2)).await;
    assert_eq!(world.deliver(&enqueue("first")).await, End::Deleted);
    assert!(world.paper.facts().answers.is_empty());
    world.paper.facts().complete = Some(true);
    for token in ["second", "second", "first", "late"] {
        assert_eq!(world.deliver(&enqueue(token)).await, End::Deleted);
    }
    let facts = world.paper.facts();
    let answers: Vec<&str> = facts.answers.iter().map(|(token, _)| token.as_str()).collect();
    assert_eq!(answers, ["first", "second", "late"]);
    assert_eq!((facts.published, facts.marked), (1, 1));
    assert_eq!(facts.sent.len(), 2, "and its jobs are sent once");
}
