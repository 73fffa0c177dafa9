//! Agents are paced, waited for and tried again as models are; what they cost nobody knows.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aquifer::flow::context::Context;
use aquifer::flow::lanes::PlanSpec;
use aquifer::job::failure::Class;
use aquifer::job::lifecycle::Status;
use aquifer::job::spec::{Job, MaxTokens, Request};
use aquifer::job::units::{PerMinute, Usd};
use aquifer::ports::{Billing, CallBody, ModelCall};
use aquifer::rules::pace::{Counting, Hypothesis, Limits};

use crate::common::context_of;
use crate::harness::*;

const AGENT: &str = "agent/AGENT12345/TSTALIASID";

fn agent_job(id: &str) -> Job {
    let fields = serde_json::json!({
        "agentId": "AGENT12345", "agentAliasId": "TSTALIASID", "inputText": format!("question of {id}"),
    });
    let call = aquifer::job::agent::AgentCall::read(fields.as_object().unwrap()).unwrap();
    Job { model: call.name(), request: Request::Agent(call), max_tokens: MaxTokens::Unsaid, ..job(id, "") }
}

/// As the configuration has it: no price, and at most requests a minute.
fn plan_of(requests_per_minute: Option<u64>, counting: Counting) -> PlanSpec {
    let limits = Limits { requests_per_minute: requests_per_minute.and_then(PerMinute::new), ..Limits::default() };
    let mut plan = plan(AGENT, limits, &Setup { counting, ..Setup::default() });
    for route in &mut plan.routes {
        route.lane.model_id = AGENT.into();
    }
    PlanSpec { price: None, ..plan }
}

fn session_of(call: &ModelCall) -> String {
    let CallBody::Agent(call) = &call.body else { panic!("{call:?}") };
    call.session_id.as_ref().unwrap().as_str().to_owned()
}

struct World {
    state: State,
    store: aquifer::embedded::Store,
    context: Arc<Context>,
}

async fn world(model: Arc<Scripted>, plan: PlanSpec) -> World {
    let state = State::new();
    let store = state.open().await;
    let context = context_of(&store, &state, model, crate::common::settings(), vec![plan]);
    World { state, store, context }
}

#[tokio::test(start_paused = true)]
async fn q2_an_agents_calls_keep_to_the_requests_a_minute_of_its_alias() {
    let counting = Counting::Known(Hypothesis::Sliding);
    let model = Scripted::new(Duration::from_millis(20), |_, _| {
        Reply::Answer("done", "end_turn", aquifer::job::outcome::Usage::default())
    });
    let World { state: _state, store, context } = world(model.clone(), plan_of(Some(10), counting)).await;
    let jobs: Vec<Job> = (0..30).map(|number| agent_job(&format!("a{number}"))).collect();
    let (run, _) = enrol(&store, jobs).await;
    let start = tokio::time::Instant::now();
    let results = drain(&context, &store, &run, 30).await;
    assert!(results.iter().all(|result| result.status == Status::Succeeded && result.attempts == 0));
    assert!(results.iter().all(|result| result.cost_usd == Usd::ZERO && result.model.as_deref() == Some(AGENT)));
    let mut times = model.times.lock().unwrap().clone();
    times.sort();
    for (index, from) in times.iter().enumerate() {
        let within = times[index..].iter().filter(|time| **time < *from + Duration::from_secs(60)).count();
        assert!(within <= 10, "{within} calls within a minute");
    }
    assert!(start.elapsed() < Duration::from_secs(240), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_throttled_agent_is_waited_for_whatever_the_service_calls_it_and_a_retry_is_in_the_same_session() {
    let sessions: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let seen = Arc::clone(&sessions);
    let model = Scripted::new(Duration::from_millis(20), move |number, call| {
        seen.lock().unwrap().insert(session_of(call));
        match number {
            1..=3 => Reply::Fail(Class::QuotaMinute, Billing::Nothing),
            4 => Reply::Fail(Class::ModelError, Billing::Unknown),
            _ => Reply::Answer("done", "end_turn", aquifer::job::outcome::Usage::default()),
        }
    });
    let World { state: _state, store, context } = world(model.clone(), plan_of(None, Counting::Learn)).await;
    let (run, _) = enrol(&store, vec![agent_job("only")]).await;
    let results = drain(&context, &store, &run, 1).await;
    let result = &results[0];
    assert_eq!((result.status, result.attempts, result.model_calls), (Status::Succeeded, 1, 5), "{result:?}");
    assert_eq!(sessions.lock().unwrap().len(), 1, "every call of a job is a turn of the same session");
    let lanes = context.catalogue.lanes();
    let lane = lanes.iter().find(|lane| &*lane.id.model_id == AGENT).unwrap();
    let limits = lane.state().book.ledger.tokens_per_minute();
    assert_eq!(limits, None, "a throttle of an agent says nothing of tokens");
}

#[tokio::test(start_paused = true)]
async fn jobs_of_one_agent_have_a_session_each() {
    let sessions: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&sessions);
    let model = Scripted::new(Duration::from_millis(20), move |_, call| {
        seen.lock().unwrap().push(session_of(call));
        Reply::Answer("done", "end_turn", aquifer::job::outcome::Usage::default())
    });
    let World { state: _state, store, context } = world(model, plan_of(None, Counting::Learn)).await;
    let (run, _) = enrol(&store, vec![agent_job("a"), agent_job("b"), agent_job("c")]).await;
    drain(&context, &store, &run, 3).await;
    let sessions = sessions.lock().unwrap();
    assert_eq!((sessions.len(), sessions.iter().collect::<BTreeSet<_>>().len()), (3, 3));
}
