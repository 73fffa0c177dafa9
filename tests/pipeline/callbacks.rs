//! Who waits in a workflow is answered, each delivery's own token, and only after the end is on record.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aquifer::flow::stop::Reason;
use aquifer::flow::worker::Worker;
use aquifer::job::ident::{BatchName, Tenant};
use aquifer::job::notice::Notice;
use aquifer::job::spec::{Job, Priority, TaskToken};
use aquifer::ports::{Callbacks, Outgoing, StoreError, StoreTrouble};

use crate::common::{BATCH, State};
use crate::harness::{Scripted, Setup, context, emptied, job};

/// Keeps the answers; refuses the first ones, as a service that is away.
#[derive(Default)]
struct Workflows {
    answers: Mutex<Vec<(String, Notice)>>,
    refused: Mutex<Vec<(String, String)>>,
    refusals: Mutex<u32>,
}

#[async_trait::async_trait]
impl Callbacks for Workflows {
    async fn answer(&self, token: &TaskToken, notice: &Notice) -> Result<(), StoreError> {
        let mut refusals = self.refusals.lock().unwrap();
        if *refusals > 0 {
            *refusals -= 1;
            let (doing, why) = ("answering".to_owned(), "away".to_owned());
            return Err(StoreError { kind: StoreTrouble::Away, doing, why });
        }
        self.answers.lock().unwrap().push((token.as_str().to_owned(), notice.clone()));
        Ok(())
    }

    async fn refuse(&self, token: &TaskToken, reason: &str) -> Result<(), StoreError> {
        self.refused.lock().unwrap().push((token.as_str().to_owned(), reason.to_owned()));
        Ok(())
    }
}

fn message(token: &str) -> Outgoing {
    let waiting = Job { callback: TaskToken::new(token), ..job("job-0", "prompt 0") };
    Outgoing {
        body: waiting.to_message(),
        batch: BatchName::new(BATCH).unwrap(),
        tenant: Tenant::unnamed(),
        model: None,
        priority: Priority::default(),
        delay: Duration::ZERO,
        trace: None,
    }
}

#[tokio::test(start_paused = true)]
async fn w6_every_deliverys_own_token_is_answered_also_of_a_job_that_has_ended() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::answering();
    let mut context = context(&store, &state, model.clone(), Setup::default());
    let workflows = Arc::new(Workflows { refusals: Mutex::new(3), ..Workflows::default() });
    Arc::get_mut(&mut context).unwrap().callbacks = Some(workflows.clone());
    let worker = Worker::new(Arc::clone(&context));
    let working = tokio::spawn(async move { worker.run().await });
    for token in ["first", "second"] {
        context.queue.send(vec![message(token)]).await.unwrap().remove(0).unwrap();
        emptied(&context).await;
    }
    context.stop.drain(Reason::Done);
    working.await.unwrap();
    let answers = workflows.answers.lock().unwrap();
    let tokens: Vec<_> = answers.iter().map(|(token, _)| token.as_str()).collect();
    assert_eq!(tokens, ["first", "second"]);
    assert_eq!(answers[0].1, answers[1].1, "the same end, told the same way");
    assert_eq!(model.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_nobody_would_answer_is_no_job() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::answering();
    let context = context(&store, &state, model.clone(), Setup::default());
    let worker = Worker::new(Arc::clone(&context));
    let working = tokio::spawn(async move { worker.run().await });
    context.queue.send(vec![message("token")]).await.unwrap().remove(0).unwrap();
    let mut look = tokio::time::interval(Duration::from_millis(100));
    while context.queue.depth().await.unwrap().dead == 0 {
        look.tick().await;
    }
    context.stop.drain(Reason::Done);
    working.await.unwrap();
    assert_eq!((context.queue.depth().await.unwrap().dead, model.calls()), (1, 0));
}

/// The premise: a workflow that asked for an unknown model waited a week for its timeout.
#[tokio::test(start_paused = true)]
async fn w6_d5_who_waits_for_a_message_that_is_no_job_is_told_why() {
    let state = State::new();
    let store = state.open().await;
    let model = Scripted::answering();
    let mut context = context(&store, &state, model.clone(), Setup::default());
    let workflows = Arc::new(Workflows::default());
    Arc::get_mut(&mut context).unwrap().callbacks = Some(workflows.clone());
    let worker = Worker::new(Arc::clone(&context));
    let working = tokio::spawn(async move { worker.run().await });
    let body = r#"{"id": "o-1", "prompt": "secret", "fancy": 1, "callback": {"task_token": "waits"}}"#.to_owned();
    context.queue.send(vec![Outgoing { body, ..message("-") }]).await.unwrap().remove(0).unwrap();
    let mut look = tokio::time::interval(Duration::from_millis(100));
    while context.queue.depth().await.unwrap().dead == 0 {
        look.tick().await;
    }
    context.stop.drain(Reason::Done);
    working.await.unwrap();
    let refused = workflows.refused.lock().unwrap();
    let [(token, reason)] = refused.as_slice() else { panic!("{refused:?}") };
    assert_eq!(token, "waits");
    assert!(reason.contains("`fancy`") && !reason.contains("secret"), "{reason}");
    assert!(workflows.answers.lock().unwrap().is_empty());
    assert_eq!(model.calls(), 0);
}
