//! The state machines of `statemachine/`, as they stand there, executed on the emulator. What it cannot do is played by
//! `tests/common/ministack/played.json`, and said so at the test.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sfn::types::{ExecutionStatus, StateMachineType};
use serde_json::{Value, json};

use crate::ears::Ears;
use crate::ingest::data_source;
use crate::proxy::Service;
use crate::support::job;
use crate::world::{BATCH, World, stop_all, until};

/// The most that may travel from state to state here, in bytes; Step Functions allows 256 KiB.
const PAYLOAD: usize = 4 << 10;
/// The bar of issue 5.
const TRANSITIONS: usize = 15;

/// A state machine on the emulator.
struct Machine<'w> {
    world: &'w World,
    sfn: aws_sdk_sfn::Client,
    arn: String,
    definition: Value,
}

/// How an execution ended.
#[derive(Debug)]
struct Execution {
    status: ExecutionStatus,
    error: String,
    output: Value,
    /// The states that were entered.
    states: Vec<String>,
}

impl<'w> Machine<'w> {
    /// With its placeholders filled in, and otherwise as it stands but for what `edit` does to its states.
    fn make(world: &'w World, name: &str, kind: StateMachineType, edit: impl FnOnce(&mut Value)) -> Self {
        let file = format!("{}/statemachine/{name}.asl.json", env!("CARGO_MANIFEST_DIR"));
        let mut text = std::fs::read_to_string(file).unwrap();
        let settings = &world.settings;
        for (placeholder, value) in [
            ("bucket", settings.bucket.as_str()),
            ("keep_seconds", "86400"),
            ("model", "haiku"),
            ("model_id", crate::lives::MODEL),
            ("prefix", &settings.prefix),
            ("queue_url", &settings.queue_url),
            ("table", &settings.table),
            ("topic_arn", settings.topic_arn.as_deref().unwrap()),
        ] {
            text = text.replace(&format!("${{{placeholder}}}"), value);
        }
        let mut definition: Value = serde_json::from_str(&text).unwrap();
        edit(&mut definition["States"]);
        let sfn = aws_sdk_sfn::Client::new(&world.sdk);
        // What is played is played by the machine's name; else every test has its own.
        let name = match kind {
            StateMachineType::Express => name.to_owned(),
            _ => format!("{name}-{}", world.settings.bucket),
        };
        let made = sfn.create_state_machine().name(name).definition(definition.to_string()).r#type(kind);
        let made = world.wait(made.role_arn("arn:aws:iam::000000000000:role/workflows").send()).unwrap();
        Self { world, sfn, arn: made.state_machine_arn, definition }
    }

    /// From now on with its states as `edit` leaves them.
    fn change(&mut self, edit: impl FnOnce(&mut Value)) {
        edit(&mut self.definition["States"]);
        let changed = self.sfn.update_state_machine().state_machine_arn(&self.arn);
        self.world.wait(changed.definition(self.definition.to_string()).send()).unwrap();
    }

    fn start(&self, input: &Value) -> String {
        self.start_case("", input)
    }

    /// With what is played in a case.
    fn start_case(&self, case: &str, input: &impl ToString) -> String {
        let arn = if case.is_empty() { self.arn.clone() } else { format!("{}#{case}", self.arn) };
        let started = self.sfn.start_execution().state_machine_arn(arn).input(input.to_string());
        self.world.wait(started.send()).unwrap().execution_arn
    }

    /// Waits for its end.
    fn end(&self, execution: &str) -> Execution {
        let mut described = None;
        until("the end of an execution", || {
            let asked = self.sfn.describe_execution().execution_arn(execution);
            let now = self.world.wait(asked.send()).unwrap();
            let has_ended = now.status != ExecutionStatus::Running;
            described = Some(now);
            has_ended
        });
        let described = described.unwrap();
        let history = self.sfn.get_execution_history().execution_arn(execution).max_results(1_000);
        let events = self.world.wait(history.send()).unwrap().events;
        let entered = events.iter().filter_map(|event| event.state_entered_event_details.as_ref());
        for (place, state) in entered.clone().enumerate() {
            let size = state.input.as_deref().unwrap_or_default().len();
            assert!(place == 0 || size < PAYLOAD, "{size} bytes travel to {}", state.name);
        }
        let output = described.output.as_deref().map(|text| serde_json::from_str(text).unwrap()).unwrap_or_default();
        Execution {
            status: described.status,
            error: described.error.unwrap_or_default(),
            output,
            states: entered.map(|state| state.name.clone()).collect(),
        }
    }
}

impl Execution {
    fn assert_succeeded(&self) {
        assert_eq!(self.status, ExecutionStatus::Succeeded, "{self:?}");
        assert!(self.states.len() <= TRANSITIONS, "{self:?}");
    }

    fn assert_failed(&self, error: &str) {
        assert_eq!((&self.status, self.error.as_str()), (&ExecutionStatus::Failed, error), "{self:?}");
        assert!(self.states.contains(&"PublishFailure".to_owned()), "it was made known: {self:?}");
    }
}

/// Takes one message out of the queue, as a worker would; the test answers in the worker's place.
fn take(world: &World) -> Value {
    let sqs = aws_sdk_sqs::Client::new(&world.sdk);
    let url = &world.settings.queue_url;
    let mut taken = None;
    until("a message", || {
        let received = sqs.receive_message().queue_url(url).max_number_of_messages(1).wait_time_seconds(1);
        let message = world.wait(received.send()).unwrap().messages.unwrap_or_default().pop();
        taken = message;
        taken.is_some()
    });
    let message = taken.unwrap();
    world.wait(sqs.delete_message().queue_url(url).receipt_handle(message.receipt_handle.unwrap()).send()).unwrap();
    serde_json::from_str(&message.body.unwrap()).unwrap()
}

/// What a worker's notice of an ended job says.
fn notice(id: &Value, status: &str, error: &Value) -> Value {
    json!({
        "kind": "job", "notice_id": "n", "id": id, "batch": "-", "tenant": "default", "status": status, "model_used": "m",
        "attempts": 0, "usage": { "input_tokens": 812, "output_tokens": 97 }, "cost_usd": 0.25, "error": error,
        "result": { "uri": format!("s3://b/results/{}", id.as_str().unwrap()), "offset": 7, "length": 9, "sha256": "ab" },
    })
}

fn succeed(world: &World, message: &Value) {
    let sfn = aws_sdk_sfn::Client::new(&world.sdk);
    let output = notice(&message["id"], "succeeded", &Value::Null).to_string();
    let token = message["callback"]["task_token"].as_str().unwrap();
    world.wait(sfn.send_task_success().task_token(token).output(output).send()).unwrap();
}

fn fail(world: &World, message: &Value, error: &str, cause: &Value) {
    let sfn = aws_sdk_sfn::Client::new(&world.sdk);
    let token = message["callback"]["task_token"].as_str().unwrap();
    let failure = sfn.send_task_failure().task_token(token).error(error).cause(cause.to_string());
    world.wait(failure.send()).unwrap();
}

fn row(world: &World, pk: &str) -> HashMap<String, String> {
    let dynamodb = aws_sdk_dynamodb::Client::new(&world.sdk);
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let got = dynamodb.get_item().table_name(&world.settings.table).key("pk", text(pk)).key("sk", text("-"));
    let item = world.wait(got.consistent_read(true).send()).unwrap().item.unwrap_or_default();
    let plain = |value: AttributeValue| value.as_s().or_else(|_| value.as_n()).cloned().unwrap_or_default();
    item.into_iter().map(|(name, value)| (name, plain(value))).collect()
}

fn document(id: &str) -> Value {
    json!({ "job": { "id": id, "document": { "source": "s3://b/inbox/report.pdf" }, "model": "haiku" } })
}

/// What is asked of the workers is asserted message by message; the test answers for them.
#[test]
fn w1_w4_w7_a_document_goes_through_every_stage_and_one_that_does_not_is_made_known() {
    let world = World::new("1ms");
    let ears = Ears::open(&world);
    let machine = Machine::make(&world, "document-pipeline", StateMachineType::Standard, |_| ());
    let mut input = document("d-1");
    input["ingest"] = json!({ "knowledge_base_id": "KB", "data_source_id": "DS" });
    let text = "What of {{document.source}}, and of {{document.result}}?";
    input["agent"] = json!({ "agentId": "A", "agentAliasId": "B", "inputText": text });
    let execution = machine.start(&input);

    let asked = take(&world);
    assert_eq!((&asked["id"], &asked["document"]), (&"d-1".into(), &input["job"]["document"]), "{asked}");
    assert!(asked["deadline"].is_string(), "a job for which nobody waits any more ends: {asked}");
    succeed(&world, &asked);
    let asked = take(&world);
    assert_eq!(asked["ingest"], input["ingest"], "{asked}");
    succeed(&world, &asked);
    let asked = take(&world);
    assert_eq!(asked["agent"]["agentAliasId"], "B");
    assert_eq!(asked["agent"]["inputText"], "What of s3://b/inbox/report.pdf, and of s3://b/results/d-1 (bytes 7-15)?");
    let analysis = format!("s3://b/results/{}", asked["id"].as_str().unwrap());
    succeed(&world, &asked);
    let ended = machine.end(&execution);
    ended.assert_succeeded();
    assert_eq!(
        (&ended.output["status"], &ended.output["analysis"]["uri"]),
        (&"succeeded".into(), &analysis.clone().into())
    );
    println!("a document with all its stages: {} transitions", ended.states.len());
    let recorded = row(&world, "analysis/default/-/d-1");
    assert_eq!((recorded["st"].as_str(), recorded["at"].as_str()), ("succeeded", analysis.as_str()));
    assert_eq!((recorded["by"].as_str(), recorded["cost"].as_str()), ("agent", "500000000"));

    // The same document again, which fails this time: what succeeded stays.
    let execution = machine.start(&document("d-1"));
    fail(&world, &take(&world), "unknown", &json!("a worker of another version"));
    machine.end(&execution).assert_failed("unknown");
    assert_eq!(row(&world, "analysis/default/-/d-1")["st"], "succeeded");

    let execution = machine.start(&document("d-2"));
    let asked = take(&world);
    let why = json!({ "class": "no_text", "message": "the pages are pictures", "request_id": null });
    fail(&world, &asked, "no_text", &notice(&asked["id"], "rejected", &why));
    machine.end(&execution).assert_failed("no_text");
    let recorded = row(&world, "analysis/default/-/d-2");
    assert_eq!((recorded["st"].as_str(), recorded["msg"].as_str()), ("rejected", "the pages are pictures"));

    let execution = machine.start(&document("d-3"));
    let asked = take(&world);
    fail(&world, &asked, "partial", &notice(&asked["id"], "partial", &Value::Null));
    let ended = machine.end(&execution);
    assert_eq!((&ended.status, ended.error.as_str()), (&ExecutionStatus::Failed, "partial"), "partial is not success");
    assert_eq!(row(&world, "analysis/default/-/d-3")["at"], "s3://b/results/d-3", "and what there is is kept");

    machine.end(&machine.start(&json!({ "jobs": [] }))).assert_failed("bad_input");

    let heard = ears.hear_until(&world, |heard| heard.workflows.len() == 5);
    let statuses: Vec<&str> = heard.workflows.iter().map(|told| told["status"].as_str().unwrap()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == "succeeded").count(), 1);
    for status in ["failed", "rejected", "partial"] {
        assert!(statuses.contains(&status), "{statuses:?}");
    }
    let ids: std::collections::BTreeSet<_> = heard.workflows.iter().map(|told| told["notice_id"].to_string()).collect();
    assert_eq!(ids.len(), 5);
}

/// Nobody answers for the worker here: it reads the document in the bucket, has its chunks asked, brings the data source up to
/// date, asks the agent, and answers every token.
#[test]
fn w1_w4_a_document_is_worked_by_the_worker_and_its_analysis_lies_where_row_and_notice_say() {
    let world = World::new("1ms");
    world.configure("", "slots = 8");
    let ears = Ears::open(&world);
    let machine = Machine::make(&world, "document-pipeline", StateMachineType::Standard, |_| ());
    let (s3, bucket) = (crate::ministack::s3(&world.sdk), &world.settings.bucket);
    let text = "Every chunk of this is asked by the worker. ".repeat(200);
    world.wait(s3.put_object().bucket(bucket).key("inbox/a.txt").body(text.into_bytes().into()).send()).unwrap();
    let job = |id: &str, key: &str| {
        // The relay before the model tells prompts by the number at their end.
        let template = "{{chunk}} number 1{{chunk.number}}";
        let document = json!({ "source": format!("s3://{bucket}/{key}"), "template": template, "chunk_tokens": 300 });
        json!({ "job": { "id": id, "batch": "inbox", "model": "haiku", "document": document } })
    };
    let mut first = job("d-1", "inbox/a.txt");
    let text = "What of {{document.result}}, which is number 9?";
    first["ingest"] = json!(data_source(&world));
    first["agent"] = json!({ "agentId": "AGENT12345", "agentAliasId": "TSTALIASID", "inputText": text });
    let executions = [first, job("d-2", "inbox/nobody-put-this.txt")].map(|input| machine.start(&input));
    let alive = vec![world.worker()];
    let ended = machine.end(&executions[0]);
    ended.assert_succeeded();
    assert!(["Ingest", "Analyse"].iter().all(|stage| ended.states.iter().any(|state| state == stage)), "{ended:?}");
    machine.end(&executions[1]).assert_failed("bad_input");
    stop_all(alive);
    assert!(world.proxy.seen_of(Service::BedrockAgent, "StartIngestionJob").calls > 0);

    let recorded = row(&world, "analysis/default/inbox/d-1");
    assert_eq!((recorded["st"].as_str(), recorded["by"].as_str()), ("succeeded", "agent"), "{recorded:?}");
    assert_eq!(row(&world, "analysis/default/inbox/d-2")["st"], "rejected");
    let heard = ears.hear_until(&world, |heard| heard.workflows.len() == 2 && heard.jobs.len() == 4);
    let told = heard.workflows.iter().find(|told| told["id"] == "d-1").unwrap();
    assert_eq!((&told["status"], &told["analysis"]["by"]), (&"succeeded".into(), &"agent".into()));
    let lies_at = |place: &Value| (place["uri"].clone(), place["offset"].to_string(), place["length"].to_string());
    let analysis = &told["analysis"]["result"];
    let row_says = (recorded["at"].as_str().into(), recorded["off"].clone(), recorded["len"].clone());
    assert_eq!(lies_at(analysis), row_says);

    let line = |place: &Value| -> Value {
        let key = place["uri"].as_str().unwrap().strip_prefix(&format!("s3://{bucket}/")).unwrap();
        let (from, length) = (place["offset"].as_u64().unwrap(), place["length"].as_u64().unwrap());
        let range = format!("bytes={from}-{}", from + length - 1);
        let line = world.wait(async {
            let got = s3.get_object().bucket(bucket).key(key).range(range).send().await.unwrap();
            got.body.collect().await.unwrap().to_vec()
        });
        serde_json::from_slice(&line).unwrap()
    };
    let document = line(&told["result"]);
    assert_eq!((&document["id"], &document["status"]), (&"d-1".into(), &"succeeded".into()), "{document}");
    assert!(document["document"]["chunks"].as_u64().unwrap() > 3, "{}", document["document"]);
    let analysis = line(analysis);
    assert_eq!(analysis["status"], "succeeded", "{analysis}");
    assert!(analysis["output"]["completion"].is_string(), "an agent's answer: {analysis}");
}

#[test]
fn w1_a_token_that_nobody_answers_ends_by_its_timeout_and_is_made_known() {
    let world = World::new("1ms");
    let ears = Ears::open(&world);
    let soon = |states: &mut Value| states["Document"]["TimeoutSeconds"] = json!(1);
    let machine = Machine::make(&world, "document-pipeline", StateMachineType::Standard, soon);
    let execution = machine.start(&document("d-1"));
    machine.end(&execution).assert_failed("States.Timeout");
    assert_eq!(row(&world, "analysis/default/-/d-1")["st"], "expired");
    let heard = ears.hear_until(&world, |heard| !heard.workflows.is_empty());
    assert_eq!(heard.workflows[0]["error"]["class"], "States.Timeout", "{:?}", heard.workflows);
}

/// Nobody answers for the worker here: it reads the file in the bucket, queues its lines, runs the job again that failed, and
/// answers every token.
#[test]
fn w5_w6_f11_a_file_of_jobs_is_worked_to_its_end_and_what_failed_is_redriven() {
    const JOBS: usize = 6;
    let latency = "[latency]\nconstant = \"1ms\"\nper_output_token = \"0s\"\n";
    // The third call is refused for good: its job fails, until the definition has it run again.
    let world = World::playing(&format!("{latency}[[fault]]\nkind = \"ValidationException\"\ncalls = \"3\"\n"));
    world.configure("", "slots = 4");
    let ears = Ears::open(&world);
    let machine = Machine::make(&world, "batch-inference", StateMachineType::Standard, |_| ());
    let (s3, bucket) = (crate::ministack::s3(&world.sdk), &world.settings.bucket);
    let put = |key: &str, lines: &[String]| {
        let put = s3.put_object().bucket(bucket).key(key).body((lines.join("\n") + "\n").into_bytes().into());
        world.wait(put.send()).unwrap();
        format!("s3://{bucket}/{key}")
    };
    let jobs: Vec<String> = (1..=JOBS).map(|number| job(number).to_string()).collect();
    let whole = put("inbox/whole.jsonl", &jobs);
    let flawed = put("inbox/flawed.jsonl", &[jobs[0].clone(), "{\"prompt\": 7}".to_owned()]);
    let start = |source: &str, batch: &str| {
        machine.start(&json!({ "source": source, "batch": batch, "model": "haiku", "redrives": 1 }))
    };
    let execution = start(&whole, BATCH);
    let alive = vec![world.worker()];
    let ended = machine.end(&execution);
    ended.assert_succeeded();
    println!("a batch with a redrive: {} transitions", ended.states.len());
    assert!(ended.states.contains(&"Redrive".to_owned()), "{ended:?}");
    let manifest = ended.output["manifest"].as_str().unwrap().to_owned();
    let key = manifest.strip_prefix(&format!("s3://{bucket}/")).unwrap();
    let lines = world.wait(async {
        let got = s3.get_object().bucket(bucket).key(key).send().await.unwrap();
        got.body.collect().await.unwrap().to_vec()
    });
    let lines = crate::support::json_lines(&lines);
    let listed: Vec<_> =
        lines.iter().map(|line| (line["id"].as_str().unwrap(), line["status"].as_str().unwrap())).collect();
    let expected: Vec<String> = (1..=JOBS).map(|number| format!("job-{number}")).collect();
    assert_eq!(listed, expected.iter().map(|id| (id.as_str(), "succeeded")).collect::<Vec<_>>(), "in the file's order");

    // A second execution of the same batch finds everything done; one of a file with a bad line says so; one without a file fails.
    let executions = [(&whole, BATCH), (&flawed, "flawed"), (&format!("s3://{bucket}/inbox/none.jsonl"), "none")]
        .map(|(source, batch)| start(source, batch));
    let again = machine.end(&executions[0]);
    again.assert_succeeded();
    assert_eq!(again.output["manifest"], manifest);
    let partial = machine.end(&executions[1]);
    assert_eq!((&partial.status, partial.error.as_str()), (&ExecutionStatus::Failed, "partial"), "{partial:?}");
    assert!(partial.states.contains(&"Publish".to_owned()), "it is made known with its counts: {partial:?}");
    machine.end(&executions[2]).assert_failed("bad_input");
    let logs = stop_all(alive);
    assert_eq!(
        crate::world::calls(&logs).values().sum::<usize>(),
        JOBS + 1 + 1,
        "one call a job, and one for the redrive"
    );

    let heard = ears.hear_until(&world, |heard| heard.workflows.len() == 4);
    let told = |batch: &str| -> Vec<&Value> { heard.workflows.iter().filter(|told| told["batch"] == batch).collect() };
    for told in told(BATCH) {
        assert_eq!((&told["status"], &told["total"]), (&"succeeded".into(), &JOBS.into()), "{told}");
    }
    let flawed = told("flawed")[0];
    assert_eq!((&flawed["succeeded"], &flawed["rejected"], &flawed["total"]), (&1.into(), &1.into(), &2.into()));
    let why = told("none")[0]["error"]["message"].as_str().unwrap();
    assert!(why.contains("inbox/none.jsonl") && why.contains("no such object"), "{why}");
}

/// That Bedrock answers or throttles is played: the emulator has no such integration. What comes of it is real.
#[test]
fn w2_an_express_job_is_answered_once_or_handed_to_the_workers() {
    let world = World::new("1ms");
    world.configure("", "slots = 8");
    let ears = Ears::open(&world);
    let mut machine = Machine::make(&world, "express-inference", StateMachineType::Express, |_| ());
    let body = json!({
        "anthropic_version": "bedrock-2023-05-31", "max_tokens": 100,
        "messages": [{ "role": "user", "content": "Summarise review number 7." }],
    });
    let input = json!({ "job": { "id": "e-1", "invoke": body } });

    let first = machine.end(&machine.start_case("answered", &input));
    first.assert_succeeded();
    let recorded = row(&world, "express/default/-/e-1");
    assert_eq!(first.output["result"], recorded["uri"].as_str(), "{recorded:?}");
    // Express runs at least once, and people ask again: the answer stands, and nobody is asked for another.
    let again = machine.end(&machine.start_case("throttled", &input));
    again.assert_succeeded();
    assert_eq!(again.output, first.output);
    assert!(again.states.iter().all(|state| state != "Invoke"), "{again:?}");

    // In another order it is the same content; anything else under the id is a conflict, and nobody gets another's answer.
    let turned = r#"{"job":{"invoke":{"messages":[{"role":"user","content":"Summarise review number 7."}],
        "max_tokens":100,"anthropic_version":"bedrock-2023-05-31"},"id":"e-1"}}"#;
    let again = machine.end(&machine.start_case("throttled", &turned));
    assert_eq!(again.output, first.output, "{again:?}");
    let mut conflict = input.clone();
    conflict["job"]["invoke"]["messages"][0]["content"] = json!("Summarise review number 8.");
    let refused = machine.end(&machine.start_case("answered", &conflict));
    refused.assert_failed("id_conflict");
    assert!(refused.states.iter().all(|state| state != "Invoke"), "{refused:?}");

    let other = json!({ "job": { "id": "e-2", "invoke": body } });
    // What was handed over stays with the workers, though it could be answered here now.
    for case in ["throttled", "answered"] {
        let handed = machine.end(&machine.start_case(case, &other));
        handed.assert_succeeded();
        assert_eq!(handed.output, json!({ "id": "e-2", "status": "queued" }), "{case}");
    }
    let marked = row(&world, "express/default/-/e-2");
    assert_eq!((marked["st"].as_str(), marked.get("uri")), ("queued", None), "its result is the workers'");

    // Two at once, neither of which saw the other when it looked: what the first wrote stands.
    machine.change(|states| states["IsShort"]["Choices"][0]["Next"] = json!("Invoke"));
    for (case, input, output) in [
        ("answered", &input, &first.output),
        ("throttled", &input, &first.output),
        ("answered", &other, &json!({ "id": "e-2", "status": "queued" })),
    ] {
        let late = machine.end(&machine.start_case(case, input));
        late.assert_succeeded();
        assert_eq!(&late.output, output, "{case}: {late:?}");
    }
    machine.end(&machine.start_case("answered", &conflict)).assert_failed("id_conflict");
    assert_eq!(row(&world, "express/default/-/e-1"), recorded);
    machine.end(&machine.start(&json!({ "prompt": "?" }))).assert_failed("bad_input");
    let alive = vec![world.worker()];
    let heard = ears.hear_until(&world, |heard| heard.jobs.contains_key("e-2") && !heard.workflows.is_empty());
    assert_eq!(heard.jobs["e-2"][0]["status"], "succeeded", "{:?}", heard.jobs);
    assert_eq!(heard.workflows[0]["status"], "rejected");
    stop_all(alive);
}
