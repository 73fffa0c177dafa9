//! Can the models be called? Regions, credentials and the network for nothing; whether the account may call a model is only said
//! by a call, which costs money and is made when asked for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::as_error;
use crate::bedrock::{Bedrock, Credentials, Endpoint, KnowledgeBases};
use crate::cli::wiring;
use crate::config::{EndpointSettings, Settings};
use crate::job::agent::AgentCall;
use crate::job::failure::Consequence;
use crate::job::outcome::Usage;
use crate::job::units::Usd;
use crate::ports::{Answer, CallBody, CallFailure, Finding, LaneId, Model as _, ModelCall};

const CREDENTIALS: &str = "credentials";
const ENDPOINT: &str = "endpoint";
const ACCESS: &str = "model access";
const AGENT: &str = "agent";
const AGENT_REMEDY: &str = "check its ids, keep its jobs to its region by `residency`, and allow bedrock:GetAgentAlias for \
    this look and bedrock:InvokeAgent for the calls";
/// A model that needs longer for one token is away.
const CALL_TIME: Duration = Duration::from_secs(60);

pub(super) async fn check(settings: &Settings, calls: bool) -> Vec<Finding> {
    let endpoints = match wiring::endpoints(settings, false).await {
        Ok(endpoints) => endpoints,
        Err(report) => return vec![as_error(ENDPOINT, report)],
    };
    let mut findings = Vec::new();
    for endpoint in &endpoints {
        findings.push(match wiring::reach(std::slice::from_ref(endpoint)).await {
            Ok(()) => Finding::ok(ENDPOINT, format!("{} can be reached", endpoint.region)),
            Err(report) => {
                let found = as_error(ENDPOINT, report);
                Finding { what: format!("{}: {}", endpoint.region, found.what), ..found }
            }
        });
    }
    let bedrock = match wiring::signed(&endpoints).await {
        Ok(bedrock) => bedrock,
        Err(report) => {
            findings.push(as_error(CREDENTIALS, report));
            return findings;
        }
    };
    findings.push(Finding::ok(CREDENTIALS, "found; whether they are good is for the first call to say"));
    findings.extend(agents(settings, &endpoints).await);
    if calls {
        findings.extend(call_all(&bedrock, settings, &endpoints).await);
    } else if !settings.models.is_empty() {
        let what = "not tried: only a call says whether this account may use a model; --call-models makes one for each, of a few tokens";
        findings.push(Finding::ok(ACCESS, what));
    }
    findings
}

/// Whether the agents are there, which is for nothing to ask; they themselves are not asked anything.
async fn agents(settings: &Settings, endpoints: &[EndpointSettings]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for model in &settings.models {
        let Some((agent, alias)) = AgentCall::ids(&model.id) else { continue };
        for endpoint in endpoints {
            let place = Endpoint { region: Arc::clone(&endpoint.region), endpoint_url: None };
            let looked = KnowledgeBases::new(place, Credentials::FromEnvironment).agent_alias(&agent, &alias).await;
            let name = format!("`{}` as {}/{}", model.name, endpoint.region, model.id);
            findings.push(match looked {
                Ok(status) => Finding::ok(AGENT, format!("{name}: {status}")),
                Err(failure) => Finding::advice(AGENT, format!("{name}: {failure}"), AGENT_REMEDY),
            });
        }
    }
    findings
}

async fn call_all(bedrock: &Bedrock, settings: &Settings, endpoints: &[EndpointSettings]) -> Vec<Finding> {
    let catalogue = wiring::catalogue(settings, endpoints);
    let mut findings = Vec::new();
    for model in &settings.models {
        // Whatever an agent is asked, it may act on.
        if model.is_agent() {
            continue;
        }
        let Some(plan) = catalogue.find(&model.name) else { continue };
        for route in &plan.routes {
            let lane = route.lane.id.clone();
            findings.push(match bedrock.call(smallest(&lane)).await {
                Ok(Answer { usage, .. }) => Finding::ok(
                    ACCESS,
                    format!(
                        "`{}` answers as {lane}, for {}",
                        model.name,
                        price(&usage, plan.price.map(|price| price.of(&usage)))
                    ),
                ),
                Err(failure) => refused(&model.name, &lane, &failure),
            });
        }
    }
    findings
}

fn smallest(lane: &LaneId) -> ModelCall {
    let body = json!({
        "messages": [{ "role": "user", "content": [{ "text": "Hi" }] }],
        "inferenceConfig": { "maxTokens": 1 },
    });
    ModelCall { lane: lane.clone(), body: CallBody::Converse(Bytes::from(body.to_string())), timeout: CALL_TIME }
}

fn price(usage: &Usage, cost: Option<Usd>) -> String {
    let tokens = usage.input_tokens + usage.output_tokens;
    cost.map_or_else(|| format!("{tokens} tokens"), |cost| format!("{tokens} tokens, {cost}"))
}

fn refused(model: &str, lane: &LaneId, failure: &CallFailure) -> Finding {
    let failure = &failure.failure;
    let what = format!("`{model}` as {lane}: {}: {}", failure.class.word(), failure.message);
    match failure.class.consequence() {
        Consequence::LaneOut => {
            let remedy = "ask for access to the model in the Bedrock console of the region, allow bedrock:InvokeModel on it, and check its id";
            Finding::error(ACCESS, what, remedy)
        }
        Consequence::Pause => {
            Finding::error(CREDENTIALS, what, "renew the credentials, and check the clock of this machine")
        }
        Consequence::Wait | Consequence::Again => {
            Finding::advice(ACCESS, what, "it may be called, but not just now: a worker waits for it")
        }
        // It was asked for a conversation.
        Consequence::Fail => Finding::advice(
            ACCESS,
            what,
            "nothing, if it is a model for embeddings or images: those are called otherwise",
        ),
        Consequence::Reject | Consequence::Expire | Consequence::HandBack => {
            Finding::error(ACCESS, what, "this is no answer of a model: look at what stands before it")
        }
    }
}
