//! The rules, one function each.

use std::collections::BTreeSet;

use serde_json::Value;

use super::graph::{caught, caught_all, cycling, longest, onward, reachable};
use super::{Fault, Kind, Machine, Rule, entries, errors, waits};
use crate::actions_of;

/// What is asked of the services: the integration, what IAM calls it, and which of its errors pass.
const ACTIONS: [(&str, &[&str], &[&str]); 7] = [
    ("arn:aws:states:::sqs:sendMessage", &["sqs:SendMessage"], SQS),
    ("arn:aws:states:::sqs:sendMessage.waitForTaskToken", &["sqs:SendMessage"], SQS),
    ("arn:aws:states:::dynamodb:getItem", &["dynamodb:GetItem"], DYNAMODB),
    ("arn:aws:states:::dynamodb:putItem", &["dynamodb:PutItem"], DYNAMODB),
    (
        "arn:aws:states:::sns:publish",
        &["sns:Publish"],
        &[
            "SNS.AmazonSNSException",
            "SNS.InternalErrorException",
            "SNS.KMSThrottlingException",
            "SNS.SdkClientException",
            "SNS.ThrottledException",
        ],
    ),
    ("arn:aws:states:::aws-sdk:s3:headObject", &["s3:GetObject"], &["S3.S3Exception", "S3.SdkClientException"]),
    (
        "arn:aws:states:::bedrock:invokeModel",
        // The answer goes to the bucket in the role's name.
        &["bedrock:InvokeModel", "s3:PutObject"],
        &[
            "Bedrock.InternalServerException",
            "Bedrock.ModelNotReadyException",
            "Bedrock.ModelTimeoutException",
            "Bedrock.SdkClientException",
            "Bedrock.ServiceUnavailableException",
            "Bedrock.ThrottlingException",
        ],
    ),
];
const DYNAMODB: &[&str] = &[
    "DynamoDB.AmazonDynamoDBException",
    "DynamoDB.InternalServerErrorException",
    "DynamoDB.ProvisionedThroughputExceededException",
    "DynamoDB.RequestLimitExceededException",
    "DynamoDB.SdkClientException",
    "DynamoDB.ThrottlingException",
];
const SQS: &[&str] = &["SQS.AmazonSQSException", "SQS.SdkClientException"];

/// The state on which whatever failed is made known.
const MADE_KNOWN: &str = "PublishFailure";
/// The most transitions of a document (the bar of issue 5), and of anything else.
const TRANSITIONS: usize = 15;
/// The most events in the history of an execution (source: Step Functions, quotas), and what a state adds to it: entered
/// and exited, a task scheduled, started, submitted and ended, and three for each more attempt.
const EVENTS: u64 = 25_000;
const EVENTS_OF_A_STATE: u64 = 2;
const EVENTS_OF_A_TASK: u64 = 6;
const EVENTS_OF_A_RETRY: u64 = 3;
/// How often a circle is gone round, by the rule with which the only one begins.
const ROUNDS: u64 = 10;
/// An Express workflow ends after this (source: Step Functions, quotas), in seconds.
const EXPRESS_SECONDS: u64 = 300;
/// What is picked of a worker's answer or a service's: none of it grows with the work.
const PICKED: [&str; 13] = [
    "ContentLength",
    "cost_usd",
    "expired",
    "failed",
    "manifest",
    "model_used",
    "partial",
    "rejected",
    "result",
    "status",
    "succeeded",
    "total",
    "usage",
];
const JSON_PATH: [&str; 7] =
    ["InputPath", "OutputPath", "Parameters", "ResultPath", "ResultSelector", "SecondsPath", "TimeoutSecondsPath"];

pub(super) fn faults(machine: &Machine) -> Vec<Fault> {
    let found = [retry, catch, time, actions, ways, text, history, data, writes];
    found.iter().flat_map(|rule| rule(machine)).collect()
}

fn fault(rule: Rule, at: impl ToString) -> Fault {
    Fault { rule, at: at.to_string() }
}

fn retry(machine: &Machine) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (name, state) in machine.tasks() {
        if entries(state, "Retry").next().is_none() {
            faults.push(fault(Rule::Retry, name));
        }
        let transient = ACTIONS.iter().find(|(resource, ..)| state["Resource"] == *resource).map(|(.., names)| *names);
        for retrier in entries(state, "Retry") {
            let bounded = retrier["MaxDelaySeconds"].as_u64().is_some_and(|seconds| seconds <= 60)
                && retrier["MaxAttempts"].as_u64().is_some_and(|attempts| (1..=6).contains(&attempts));
            if retrier["JitterStrategy"] != "FULL" || !bounded {
                faults.push(fault(Rule::Retry, name));
            }
            // That nobody answered in time is no reason to ask for the same again.
            let is_transient = |error: &str| {
                transient.is_some_and(|names| names.contains(&error)) || (error == "States.Timeout" && !waits(state))
            };
            if !errors(retrier).all(is_transient) {
                faults.push(fault(Rule::RetriesTransient, name));
            }
        }
    }
    faults
}

/// All that is not foreseen leads to one state, and from there to where it is made known; and on the way there to no end
/// but that.
fn catch(machine: &Machine) -> Vec<Fault> {
    let mut faults = Vec::new();
    let leads: Vec<(&String, Option<&str>)> = machine.tasks().map(|(name, state)| (name, caught_all(state))).collect();
    let first = leads.iter().find_map(|(_, next)| *next).unwrap_or_default();
    let on_the_way = reachable(machine, first);
    for (name, next) in leads {
        let ends = |next: &str| machine.states()[next]["Type"] == "Fail";
        let sound = match next {
            Some(next) if name == MADE_KNOWN => ends(next),
            // Once on the way, further along it.
            Some(next) if on_the_way.contains(name.as_str()) => reachable(machine, next).contains(MADE_KNOWN),
            Some(next) => next == first && reachable(machine, next).contains(MADE_KNOWN),
            None => false,
        };
        if !sound {
            faults.push(fault(Rule::Catch, name));
        }
    }
    faults
}

fn time(machine: &Machine) -> Vec<Fault> {
    let mut faults = Vec::new();
    let circle = cycling(machine);
    let mut longest = 0;
    for (name, state) in machine.tasks() {
        let seconds = state["TimeoutSeconds"].as_u64().unwrap_or(0);
        if seconds == 0 || !state["HeartbeatSeconds"].is_null() {
            faults.push(fault(Rule::Timeout, name));
        }
        let gives = state["Arguments"].to_string().contains("$states.context.Task.Token");
        if gives != waits(state) || (waits(state) && machine.kind == Kind::Express) {
            faults.push(fault(Rule::Token, name));
        }
        if waits(state) && !deadline(state).is_some_and(|deadline| (1..seconds).contains(&deadline)) {
            faults.push(fault(Rule::Deadline, name));
        }
        let tries = |timed: bool| {
            let of = |retrier: &&Value| !timed || errors(retrier).any(|error| error == "States.Timeout");
            entries(state, "Retry").filter(of).filter_map(|retrier| retrier["MaxAttempts"].as_u64()).sum::<u64>()
        };
        // A refusal takes no time but the pause after it; for an answer of Bedrock's there is none that is as quick.
        let timed = if waits(state) { 0 } else { tries(machine.kind == Kind::Standard) };
        let delays: u64 = entries(state, "Retry")
            .map(|retrier| {
                retrier["MaxAttempts"].as_u64().unwrap_or(0) * retrier["MaxDelaySeconds"].as_u64().unwrap_or(0)
            })
            .sum();
        let rounds = if circle.contains(name.as_str()) { ROUNDS } else { 1 };
        longest += rounds * (seconds * (1 + timed) + delays);
    }
    let all = machine.definition["TimeoutSeconds"].as_u64().unwrap_or(0);
    let short = machine.kind == Kind::Express && all >= EXPRESS_SECONDS;
    if all <= longest || short {
        faults.push(fault(Rule::Overtime, format!("{all} s for {longest} s of tasks")));
    }
    faults
}

/// After so many seconds what a message asks for is worth nothing: before nobody waits for it any more.
fn deadline(state: &Value) -> Option<u64> {
    let body = state["Arguments"]["MessageBody"].as_str()?;
    let (_, millis) = body.split_once("'deadline': $fromMillis($millis() + ")?;
    millis.split_once(')')?.0.parse::<u64>().ok().map(|millis| millis / 1_000)
}

fn actions(machine: &Machine) -> Vec<Fault> {
    let allowed = actions_of(match machine.kind {
        Kind::Standard => "standard",
        Kind::Express => "express",
    });
    let is_allowed = |state: &Value| {
        let action = ACTIONS.iter().find(|(resource, ..)| state["Resource"] == *resource);
        action.is_some_and(|(_, needed, _)| needed.iter().all(|action| allowed.contains(*action)))
    };
    machine.tasks().filter(|(_, state)| !is_allowed(state)).map(|(name, _)| fault(Rule::Action, name)).collect()
}

fn ways(machine: &Machine) -> Vec<Fault> {
    let states = machine.states();
    let seen = reachable(machine, machine.start());
    let unseen = states.keys().filter(|name| !seen.contains(name.as_str()));
    let mut faults: Vec<Fault> = unseen.map(|name| fault(Rule::Reached, name)).collect();
    for (name, state) in states {
        let ends = |name: &&str| {
            let state = &states[*name];
            state["End"] == true || state["Type"] == "Succeed" || state["Type"] == "Fail"
        };
        let next: Vec<&str> = onward(state).into_iter().chain(caught(state)).collect();
        let somewhere = next.iter().all(|next| states.contains_key(*next));
        let without = state["Type"] == "Choice" && state["Default"].is_null();
        if !somewhere || without || !reachable(machine, name).iter().any(ends) {
            faults.push(fault(Rule::Ends, name));
        }
    }
    let path = longest(machine);
    if path.len() > TRANSITIONS {
        faults.push(fault(Rule::Transitions, format!("{} states: {path:?}", path.len())));
    }
    faults
}

/// The names in `${...}`.
pub(super) fn placeholders(text: &str) -> BTreeSet<String> {
    text.split("${").skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name.to_owned()).collect()
}

fn text(machine: &Machine) -> Vec<Fault> {
    const KNOWN: [&str; 8] =
        ["bucket", "keep_seconds", "model", "model_id", "prefix", "queue_url", "table", "topic_arn"];
    let unknown = placeholders(&machine.text).into_iter().filter(|name| !KNOWN.contains(&name.as_str()));
    let mut faults: Vec<Fault> = unknown.map(|name| fault(Rule::Placeholder, name)).collect();
    if machine.text.contains("%{") {
        faults.push(fault(Rule::Placeholder, "%{"));
    }
    let speaks = |state: &Value| JSON_PATH.iter().any(|field| !state[*field].is_null());
    let other = machine.states().iter().filter(|(_, state)| speaks(state) || !state["QueryLanguage"].is_null());
    faults.extend(other.map(|(name, _)| fault(Rule::Language, name)));
    if machine.definition["QueryLanguage"] != "JSONata" {
        faults.push(fault(Rule::Language, "the top"));
    }
    faults
}

fn history(machine: &Machine) -> Vec<Fault> {
    let circle = cycling(machine);
    let mut events = 3;
    for (name, state) in machine.states() {
        let attempts: u64 = entries(state, "Retry").filter_map(|retrier| retrier["MaxAttempts"].as_u64()).sum();
        let of = match state["Type"] == "Task" {
            true => EVENTS_OF_A_TASK + EVENTS_OF_A_RETRY * attempts,
            false => EVENTS_OF_A_STATE,
        };
        events += of * if circle.contains(name.as_str()) { ROUNDS + 1 } else { 1 };
    }
    let mut faults = Vec::new();
    if events >= EVENTS {
        faults.push(fault(Rule::Events, events));
    }
    // What goes round counts down, and begins no higher than the rounds that are reckoned with.
    let rules = || circle.iter().flat_map(|name| entries(&machine.states()[*name], "Choices"));
    let counts = |rule: &Value| {
        rule["Condition"].as_str().is_some_and(|text| text.contains("$redrives > 0"))
            && rule["Assign"]["redrives"] == "{% $redrives - 1 %}"
    };
    let begins = entries(&machine.states()[machine.start()], "Choices")
        .all(|rule| rule["Condition"].as_str().is_some_and(|text| text.contains(&format!("in [0..{ROUNDS}]"))));
    let is_bounded = begins && rules().any(counts);
    if !circle.is_empty() && !is_bounded {
        faults.push(fault(Rule::Events, format!("nothing bounds {circle:?}")));
    }
    faults
}

fn data(machine: &Machine) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (name, state) in machine.states() {
        // What says nothing of its output passes on all that it was answered.
        let says = |entry: &Value| entry.get("Output").is_some();
        let must = state["Type"] == "Task" || state["Type"] == "Pass";
        if (must && !says(state)) || !entries(state, "Catch").all(says) {
            faults.push(fault(Rule::Data, name));
        }
        let text = state.to_string();
        let of_result = text.split("$states.result").skip(1).map(|rest| rest.strip_prefix('.').unwrap_or_default());
        let of_told = text.split("$parse($trouble.cause)").skip(1).filter_map(|rest| rest.strip_prefix('.'));
        for rest in of_result.chain(of_told) {
            let field = rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
            // A sum of two of them stands in brackets.
            let is_picked = PICKED.contains(&field) || rest.starts_with("(failed + expired)");
            // Of a row, whether it is there, of which content it is, and where a result lies.
            let is_of_row = ["Item)", "Item.dig.S", "Item.uri.S"].iter().any(|picked| rest.starts_with(picked));
            if !is_picked && !is_of_row {
                faults.push(fault(Rule::Data, format!("{name}: {field:?}")));
            }
        }
        if text.contains("$states.errorOutput ") || text.contains("$states.errorOutput}") {
            faults.push(fault(Rule::Data, name));
        }
        let is_bounded = |rest: &str| rest.starts_with(" & '', 0, 32768)") || rest.starts_with(" & '', 0, 1000)");
        if !text.split("$states.errorOutput.Cause").skip(1).all(is_bounded) {
            faults.push(fault(Rule::Cause, name));
        }
    }
    faults
}

fn writes(machine: &Machine) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (name, state) in machine.tasks() {
        let resource = state["Resource"].as_str().unwrap_or_default();
        let arguments = &state["Arguments"];
        let condition = arguments["ConditionExpression"].as_str().unwrap_or_default();
        if resource.ends_with(":putItem") && !condition.starts_with("attribute_not_exists(pk)") {
            faults.push(fault(Rule::Conditional, name));
        }
        let attributes = &arguments["MessageAttributes"];
        let has = |attribute: &&str| attributes[*attribute]["DataType"] == "String";
        if resource.ends_with(":publish") && !["kind", "status", "tenant", "batch"].iter().all(has) {
            faults.push(fault(Rule::Attributes, name));
        }
    }
    faults
}
