//! Does every rule see what it is there to see? Each is broken in a copy of a definition that keeps it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Fault, Machine, Rule, all, rules};

/// What is broken, in which machine, and the rule that must see it.
type Planted = (Rule, usize, fn(&mut Value));

const DOCUMENT: usize = 0;
const BATCH: usize = 1;
const EXPRESS: usize = 2;

const PLANTED: &[Planted] = &[
    (Rule::Retry, DOCUMENT, |states| drop(states["Record"].as_object_mut().unwrap().remove("Retry"))),
    (Rule::Retry, BATCH, |states| states["Publish"]["Retry"][0]["JitterStrategy"] = json!("NONE")),
    (Rule::Retry, BATCH, |states| states["Publish"]["Retry"][0]["MaxDelaySeconds"] = Value::Null),
    (Rule::RetriesTransient, DOCUMENT, |states| push(&mut states["Document"]["Retry"][0]["ErrorEquals"], "States.ALL")),
    (Rule::RetriesTransient, DOCUMENT, |states| {
        push(&mut states["Ingest"]["Retry"][0]["ErrorEquals"], "States.Timeout");
    }),
    (Rule::RetriesTransient, EXPRESS, |states| {
        push(&mut states["Invoke"]["Retry"][0]["ErrorEquals"], "Bedrock.ValidationException");
    }),
    (Rule::Catch, DOCUMENT, |states| drop(states["Publish"].as_object_mut().unwrap().remove("Catch"))),
    (Rule::Catch, DOCUMENT, |states| states["Document"]["Catch"][1]["ErrorEquals"] = json!(["States.TaskFailed"])),
    (Rule::Catch, DOCUMENT, |states| states["Analyse"]["Catch"][0]["Next"] = json!("Failed")),
    (Rule::Catch, DOCUMENT, |states| states["RecordFailure"]["Catch"][0]["Next"] = json!("Done")),
    (Rule::Catch, BATCH, |states| states["PublishFailure"]["Catch"][0]["Next"] = json!("Done")),
    (Rule::Timeout, DOCUMENT, |states| drop(states["Document"].as_object_mut().unwrap().remove("TimeoutSeconds"))),
    (Rule::Timeout, BATCH, |states| states["Enqueue"]["HeartbeatSeconds"] = json!(60)),
    (Rule::Token, DOCUMENT, |states| states["Ingest"]["Arguments"]["MessageBody"] = json!("{% {} %}")),
    (Rule::Token, EXPRESS, |states| {
        states["Queue"]["Resource"] = json!("arn:aws:states:::sqs:sendMessage.waitForTaskToken");
        states["Queue"]["Arguments"]["MessageBody"] = json!("{% $states.context.Task.Token %}");
    }),
    (Rule::Deadline, BATCH, |states| {
        let body = &mut states["Redrive"]["Arguments"]["MessageBody"];
        *body = json!(body.as_str().unwrap().replace("'deadline'", "'until'"));
    }),
    (Rule::Deadline, DOCUMENT, |states| states["Document"]["TimeoutSeconds"] = json!(604_800)),
    (Rule::Overtime, DOCUMENT, |states| states["Document"]["TimeoutSeconds"] = json!(864_000)),
    (Rule::Overtime, EXPRESS, |states| states["Invoke"]["TimeoutSeconds"] = json!(120)),
    (Rule::Action, DOCUMENT, |states| states["Record"]["Resource"] = json!("arn:aws:states:::dynamodb:putItems")),
    // It exists, but not for this role.
    (Rule::Action, DOCUMENT, |states| states["Record"]["Resource"] = json!("arn:aws:states:::bedrock:invokeModel")),
    (Rule::Reached, DOCUMENT, |states| states["IsIngested"]["Choices"] = json!([])),
    (Rule::Ends, BATCH, |states| states["CheckManifest"]["Next"] = json!("Nowhere")),
    (Rule::Ends, BATCH, |states| drop(states["IsWhole"].as_object_mut().unwrap().remove("Default"))),
    (Rule::Placeholder, EXPRESS, |states| states["Invoke"]["Arguments"]["ModelId"] = json!("${modle_id}")),
    (Rule::Placeholder, EXPRESS, |states| states["Queue"]["Comment"] = json!("%{ if true }")),
    (Rule::Transitions, DOCUMENT, |states| {
        for step in 0..6 {
            let next = if step == 5 { "Publish".to_owned() } else { format!("Step{}", step + 1) };
            states[format!("Step{step}")] = json!({ "Type": "Pass", "Output": {}, "Next": next });
        }
        states["Record"]["Next"] = json!("Step0");
    }),
    (Rule::Events, BATCH, |states| states["Redrive"]["Retry"][0]["MaxAttempts"] = json!(1_000)),
    (Rule::Events, BATCH, |states| states["IsRedriven"]["Choices"][0]["Assign"]["redrives"] = json!("{% $redrives %}")),
    (Rule::Data, DOCUMENT, |states| drop(states["Ingest"].as_object_mut().unwrap().remove("Output"))),
    (Rule::Data, DOCUMENT, |states| states["Analyse"]["Assign"]["analysis"] = json!("{% $states.result %}")),
    (Rule::Data, DOCUMENT, |states| states["Analyse"]["Assign"]["text"] = json!("{% $states.result.text %}")),
    (Rule::Data, BATCH, |states| {
        states["Redrive"]["Catch"][1]["Assign"]["trouble"] = json!("{% $states.errorOutput %}")
    }),
    (Rule::Cause, DOCUMENT, |states| {
        states["Record"]["Catch"][1]["Assign"]["trouble"]["cause"] = json!("{% $states.errorOutput.Cause %}");
    }),
    (Rule::Conditional, EXPRESS, |states| {
        drop(states["Record"]["Arguments"].as_object_mut().unwrap().remove("ConditionExpression"));
    }),
    (Rule::Attributes, BATCH, |states| {
        drop(states["PublishFailure"]["Arguments"]["MessageAttributes"].as_object_mut().unwrap().remove("status"));
    }),
    (Rule::Language, BATCH, |states| states["CheckManifest"]["ResultPath"] = json!("$.head")),
];

#[test]
fn w1_every_rule_sees_the_fault_that_is_planted_for_it() {
    let sound = all();
    for (number, (rule, machine, plant)) in PLANTED.iter().enumerate() {
        let mut broken = sound[*machine].definition.clone();
        plant(&mut broken["States"]);
        assert_ne!(broken, sound[*machine].definition, "fault {number} of {rule:?} changes nothing");
        let broken = Machine::of(sound[*machine].name, sound[*machine].kind, broken.to_string());
        let found = rules::faults(&broken);
        assert!(found.iter().any(|fault: &Fault| fault.rule == *rule), "fault {number} of {rule:?}: {found:?}");
    }
    let planted: BTreeSet<Rule> = PLANTED.iter().map(|(rule, ..)| *rule).collect();
    assert_eq!(planted.into_iter().collect::<Vec<_>>(), Rule::ALL, "a rule that nothing is planted for may be empty");
}

fn push(list: &mut Value, name: &str) {
    list.as_array_mut().unwrap().push(json!(name));
}
