#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test may fail loudly"
)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn batch() -> BatchName {
    BatchName::new("reviews").unwrap()
}

fn known(name: &str) -> bool {
    name == "haiku" || is_plausible_model_id(name)
}

fn line_with(text: &[u8], model: Option<&str>, only_model: Option<&str>) -> Result<Draft, Refusal> {
    parse_line(
        text,
        &Defaults {
            batch: &batch(),
            model,
            only_model,
            answers_callbacks: true,
            documents: Ok(Place::Files),
            no_ingestions: None,
            is_known: &known,
        },
    )
}

fn line(text: impl AsRef<[u8]>) -> Result<Draft, Refusal> {
    line_with(text.as_ref(), None, Some("haiku"))
}

fn message(body: &str) -> Result<Job, Refusal> {
    let defaults = Defaults {
        batch: &batch(),
        model: None,
        only_model: Some("haiku"),
        answers_callbacks: true,
        documents: Ok(Place::Files),
        no_ingestions: None,
        is_known: &known,
    };
    parse_message(body, "5fea7756-0ea4-451a-a703-a558b933e274", &defaults)
}

fn converse_of(draft: &Draft) -> Value {
    match &draft.job.request {
        Request::Converse(request) => Value::Object(request.clone()),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(text: &str, column: usize, reason: &str) {
    let refusal = line(text).expect_err(text);
    assert_eq!((refusal.column, refusal.reason.as_str()), (Some(column), reason), "{text}");
    assert_eq!(refusal.class, Class::BadInput);
}

// ------------------------------------------------------------------------------------------------ contract form

#[test]
fn a_job_with_everything_is_read_as_written() {
    let draft = line(
        r#"{"id":"order-1841","batch":"other","tenant":"acme","model":"sonnet","prompt":"Hello","max_tokens":800,
        "fallback":false,"deadline":"2026-11-21T18:00:00.5+01:00","priority":0,"residency":["us-east-1"],
        "metadata":{"n":1}}"#,
    )
    .unwrap();
    let job = draft.job;
    assert!(!draft.auto_id);
    assert_eq!(job.key.to_string(), "acme/reviews/order-1841", "a file's lines are one batch");
    assert_eq!(job.model, "sonnet");
    assert_eq!(job.request, Request::Prompt("Hello".into()));
    assert_eq!(job.max_tokens, MaxTokens::of(800));
    assert!(!job.fallback);
    assert_eq!(job.deadline.unwrap().to_string(), "2026-11-21T17:00:00.5Z");
    assert_eq!(job.priority.get(), 0);
    assert_eq!(job.residency.unwrap(), ["us-east-1"]);
    assert_eq!(Value::Object(job.metadata), json!({"n": 1}));
}

#[test]
fn null_counts_as_left_out() {
    let draft = line(r#"{"prompt":"Hi","id":null,"converse":null,"deadline":null,"metadata":null,"document":null}"#);
    assert_eq!(draft, line(r#"{"prompt":"Hi"}"#));
}

#[test]
fn a_line_without_an_id_is_named_by_its_content() {
    let draft = line(r#"{"prompt":"Hello"}"#).unwrap();
    assert!(draft.auto_id);
    assert_eq!(draft.job.key.id.as_str(), draft.job.digest().to_string());
}

#[test]
fn model_flag_fills_in_what_a_line_lacks_and_no_more() {
    let model = |text: &str| line_with(text.as_bytes(), Some("sonnet"), Some("haiku")).unwrap().job.model;
    assert_eq!(model(r#"{"prompt":"Hi"}"#), "sonnet");
    assert_eq!(model(r#"{"prompt":"Hi","model":"nova"}"#), "nova");
    let none = line_with(br#""Hi""#, None, None).unwrap_err();
    assert!(none.reason.contains("--model"), "{none}");
}

#[test]
fn a_message_without_batch_and_id_gets_dash_and_its_message_id() {
    let job = message(r#"{"prompt":"Hello"}"#).unwrap();
    assert_eq!(job.key.to_string(), "default/-/5fea7756-0ea4-451a-a703-a558b933e274");
}

#[test]
fn d5_a_message_that_is_no_job_is_refused_with_a_reason() {
    for (body, reason) in [
        ("", "not complete JSON: EOF while parsing a value"),
        ("hello", "not valid JSON: expected value"),
        ("\"hello\"", "a job is a JSON object, this is a string"),
        (r#"{"recordId":"a","modelInput":{"x":1}}"#, "unknown key `recordId` in a job"),
    ] {
        assert_eq!(message(body).unwrap_err().reason, reason, "{body}");
    }
}

#[test]
fn f13_a_bad_line_says_where_and_why() {
    refused("{", 1, "not complete JSON: EOF while parsing an object");
    refused(r#"{"prompt":"a"} x"#, 16, "not valid JSON: trailing characters");
    refused("nonsense", 2, "not valid JSON: expected ident");
    refused("  [1]", 3, "a job is a JSON object, this is an array");
    refused("17", 1, "a job is a JSON object, this is a number");
    refused(r#"{"prompt":"é","promt":"b"}"#, 15, "unknown key `promt` in a job; did you mean `prompt`?");
    refused(r#"{"maxTokens":1}"#, 2, "unknown key `maxTokens` in a job; did you mean `max_tokens`?");
    refused(r#"{"zzz":1}"#, 2, "unknown key `zzz` in a job");
    refused(r#"{"messages":[]}"#, 2, "unknown key `messages`; a Converse request stands inside `converse`");
    refused(r#"{"prompt":"a","invoke":{"x":1}}"#, 15, "both `prompt` and `invoke`: a job is exactly one of them");
    refused(r#"{"prompt":7}"#, 11, "`prompt` must be a string, found a number");
    refused(r#"{"prompt":" \n"}"#, 11, "the prompt is empty");
    refused(r#"{"prompt":"a","prompt":"b"}"#, 15, "`prompt` stands here twice");
    refused(r#"{"prompt":"a","id":"a b"}"#, 20, "`id` holds ' '; allowed are A-Z a-z 0-9 . _ : -");
    refused(r#"{"prompt":"a","id":""}"#, 20, "`id` is empty");
    refused(
        r#"{"prompt":"a","max_tokens":0}"#,
        28,
        "`max_tokens` must be a whole number from 1 to 4294967295 or \"auto\", found 0",
    );
    refused(
        r#"{"prompt":"a","max_tokens":"many"}"#,
        28,
        "`max_tokens` must be a whole number from 1 to 4294967295 or \"auto\", found a string",
    );
    refused(
        r#"{"prompt":"a","priority":10}"#,
        26,
        "`priority` must be a whole number from 0 (first) to 9 (last), found 10",
    );
    refused(
        r#"{"prompt":"a","deadline":"tomorrow"}"#,
        26,
        "`deadline` must be an RFC 3339 time with its offset, such as 2026-11-21T18:00:00Z",
    );
    refused(
        r#"{"prompt":"a","residency":[]}"#,
        27,
        "`residency` is empty: leave it out to allow every configured region",
    );
    refused(r#"{"prompt":"a","residency":[1]}"#, 27, "`residency` must be an array of strings, found a number");
    refused(r#"{"prompt":"a","fallback":"no"}"#, 26, "`fallback` must be true or false, found a string");
    refused(r#"{"prompt":"a","metadata":[]}"#, 26, "`metadata` must be an object, found an array");
    refused(r#"{"converse":{"system":[]}}"#, 13, "`converse` has no `messages`");
    refused(r#"{"converse":{"messages":[]}}"#, 13, "`converse.messages` is empty");
    refused(
        r#"{"converse":{"messages":[1],"modelId":"x"}}"#,
        13,
        "`converse.modelId`: leave it out, the job's `model` says it",
    );
    refused(r#"{"invoke":{}}"#, 11, "`invoke` is empty");
    let nothing = line(r#"{"id":"a"}"#).unwrap_err();
    assert_eq!(nothing.column, None);
}

#[test]
fn an_agent_is_called_by_its_own_name_whatever_the_default_and_is_read_back_as_written() {
    let text = r#"{"id":"a","agent":{"agentId":"AGENT12345","agentAliasId":"TSTALIASID","inputText":"Hello"}}"#;
    let job = line_with(text.as_bytes(), Some("sonnet"), Some("haiku")).unwrap().job;
    assert_eq!(job.model, "agent/AGENT12345/TSTALIASID");
    assert_eq!(line_with(text.as_bytes(), None, None).unwrap().job, job, "it needs no default");
    assert_eq!(message(&job.to_message()).unwrap().digest(), job.digest());
    assert_eq!((text_bytes(&job.request), output_cap(&job.request, job.max_tokens)), (0, None));
    assert!(!takes_output_cap(&job.request) && !has_place_for_cap(&job.request));
    let WireBody::Agent(call) = wire_body(&job, 0) else { panic!("{:?}", job.request) };
    assert!(call.session_id.is_some(), "it is sent in a session");
    let other = text.replace("Hello", "Goodbye");
    assert_ne!(line(&other).unwrap().job.digest(), job.digest());
}

#[test]
fn an_ingestion_asks_no_model_and_is_refused_where_nobody_ingests() {
    let text = r#"{"id":"a","ingest":{"knowledge_base_id":"KB12345678","data_source_id":"DS12345678"}}"#;
    let job = line_with(text.as_bytes(), Some("sonnet"), Some("haiku")).unwrap().job;
    assert_eq!(job.model, "");
    assert_eq!(line_with(text.as_bytes(), None, None).unwrap().job, job, "it needs no default");
    assert!(!job.to_message().contains("model"), "{}", job.to_message());
    assert_eq!(message(&job.to_message()).unwrap().digest(), job.digest());
    for more in [r#""model":"haiku","#, r#""max_tokens":9,"#] {
        let refusal = line(text.replacen('{', &format!("{{{more}"), 1)).unwrap_err();
        assert_eq!(refusal.reason, "`ingest` asks no model: leave out `model` and `max_tokens`");
    }
    let nobody = Defaults {
        batch: &batch(),
        model: None,
        only_model: None,
        answers_callbacks: true,
        documents: Ok(Place::Files),
        no_ingestions: Some(NO_INGESTIONS_HERE),
        is_known: &known,
    };
    let refusal = parse_line(text.as_bytes(), &nobody).unwrap_err();
    assert_eq!(refusal.reason, "`ingest`: the simulator has no knowledge bases");
    assert_eq!(refusal.id.unwrap().as_str(), "a");
}

#[test]
fn what_an_agent_does_not_take_is_refused_by_name() {
    let with = |more: &str| {
        let text = format!(r#"{{"agent":{{"agentId":"A","agentAliasId":"B","inputText":"Hi"}}{more}}}"#);
        line(&text).map(|draft| draft.job.model).map_err(|refusal| refusal.reason)
    };
    assert_eq!(with(r#","model":"agent/A/B""#).unwrap(), "agent/A/B");
    assert!(with(r#","model":"haiku""#).unwrap_err().starts_with("`model`: leave it out"));
    assert!(with(r#","max_tokens":9"#).unwrap_err().starts_with("`max_tokens`: an agent takes none"));
    assert!(with(r#","prompt":"Hi""#).unwrap_err().contains("exactly one of them"));
    refused(r#"{"agent":{}}"#, 10, "`agent` has no `agentId`");
    refused(r#"{"agent":[]}"#, 10, "`agent` must be an object, found an array");
    let prompt = line(r#"{"prompt":"Hi","model":"agent/A/B"}"#).unwrap_err();
    assert!(prompt.reason.contains("is an agent, which is called by `agent`"), "{prompt}");
}

#[test]
fn a_document_is_read_where_somebody_reads_documents() {
    let text = r#"{"id":"a","document":{"source":"in/a.pdf","template":"Sum up {{chunk}}"}}"#;
    let job = line(text).unwrap().job;
    let Request::Document(document) = &job.request else { panic!("{:?}", job.request) };
    assert_eq!(document.source, "in/a.pdf");
    assert_eq!(message(&job.to_message()).unwrap().digest(), job.digest());
    let refusal = line(r#"{"document":{"source":"a","template":"{{chunck}} {{chunk}}"}}"#).unwrap_err();
    assert!(refusal.reason.contains("unknown variable {{chunck}}"), "{}", refusal.reason);
    let refusal = line(r#"{"document":{"source":"s3://b/k"}}"#).unwrap_err();
    assert!(refusal.reason.starts_with("`document`: documents in S3"), "{}", refusal.reason);
    let nobody = Defaults {
        batch: &batch(),
        model: None,
        only_model: Some("haiku"),
        answers_callbacks: true,
        documents: Err("nobody reads them"),
        no_ingestions: None,
        is_known: &known,
    };
    assert_eq!(parse_line(text.as_bytes(), &nobody).unwrap_err().reason, "`document`: nobody reads them");
    let fleet = Defaults { documents: Ok(Place::S3), ..nobody };
    let refusal = parse_line(text.as_bytes(), &fleet).unwrap_err();
    assert!(refusal.reason.contains("name it s3://bucket/key"), "{}", refusal.reason);
    let pinned = r#"{"document":{"source":"s3://b/k","version":"3/L4"}}"#;
    let job = parse_line(pinned.as_bytes(), &fleet).unwrap().job;
    let Request::Document(document) = &job.request else { panic!("{:?}", job.request) };
    assert_eq!(document.version.as_deref(), Some("3/L4"));
}

#[test]
fn a_callback_is_a_task_token_and_only_where_somebody_answers_it() {
    let with = |callback: &str| format!(r#"{{"prompt":"a","callback":{callback}}}"#);
    assert_eq!(line(with(r#"{"task_token":"t"}"#)).unwrap().job.callback, TaskToken::new("t"));
    let longest = "x".repeat(TaskToken::LONGEST);
    assert!(line(with(&format!(r#"{{"task_token":"{longest}"}}"#))).is_ok());
    for bad in ["\"t\"", "{}", r#"{"task_token":""}"#, r#"{"task_token":1}"#, r#"{"task_token":"t","more":1}"#] {
        assert!(line(with(bad)).is_err(), "{bad}");
    }
    assert!(line(with(&format!(r#"{{"task_token":"{longest}x"}}"#))).is_err());

    let text = with(r#"{"task_token":"secret"}"#);
    let nobody = Defaults {
        batch: &batch(),
        model: None,
        only_model: Some("haiku"),
        answers_callbacks: false,
        documents: Ok(Place::Files),
        no_ingestions: None,
        is_known: &known,
    };
    let refusal = parse_line(text.as_bytes(), &nobody).unwrap_err();
    assert_eq!(refusal.column, Some(15));
    assert!(refusal.reason.contains("`callback`") && !refusal.reason.contains("secret"), "{refusal}");
    let shown = format!("{:?}", TaskToken::new("secret"));
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn a_claim_check_that_reaches_intake_stands_for_nothing() {
    refused(r#"{"payload":"s3://b/k"}"#, 12, "`payload` is for messages of a fleet's queue: put the job itself here");
    let refused = |body: &str, column, reason: &str| {
        let refusal = message(body).unwrap_err();
        assert_eq!((refusal.column, refusal.reason.as_str()), (Some(column), reason), "{body}");
    };
    let nothing = "`payload`: there is nothing to read at s3://b/k: no JSON object of at most 16 MiB";
    refused(r#"{"payload":"s3://b/k"}"#, 12, nothing);
    refused(r#"{"payload":"a prompt"}"#, 12, "`payload` must say where the job lies, such as s3://bucket/key");
    refused(r#"{"payload":5}"#, 12, "`payload` must be a string, found a number");
    let both = "both `prompt` and `payload`: a job is exactly one of them";
    refused(r#"{"prompt":"a","payload":"s3://b/k"}"#, 15, both);
    refused(r#"{"payload":"s3://b/k","prompt":"a"}"#, 2, both);
    let long = message(&format!(r#"{{"payload":"s3://b/{}"}}"#, "k".repeat(10_000))).unwrap_err();
    assert!(long.reason.len() < 400, "{}", long.reason.len());
}

#[test]
fn deadlines_in_other_notations_than_rfc_3339_are_refused() {
    for bad in ["2026-11-21", "2026-11-21 18:00:00Z", "2026-11-21T18:00:00", "20261121T180000Z", "2026-11-21T18:00Z"] {
        assert!(line(format!(r#"{{"prompt":"a","deadline":"{bad}"}}"#)).is_err(), "{bad}");
    }
    for good in ["2026-11-21T18:00:00Z", "2026-11-21t18:00:00.123456z", "2026-11-21T18:00:00-08:00"] {
        assert!(line(format!(r#"{{"prompt":"a","deadline":"{good}"}}"#)).is_ok(), "{good}");
    }
}

#[test]
fn no_reason_quotes_a_prompt() {
    let secret = "SECRET";
    for text in [
        r#"{"prompt":"SECRET" "id":1}"#,
        r#"{"prompt":["SECRET"]}"#,
        r#"{"converse":"SECRET"}"#,
        r#"{"invoke":"SECRET"}"#,
        r#"{"prompt":"SECRET","max_tokens":"SECRET"}"#,
        r#"{"converse":{"messages":"SECRET"}}"#,
        r#"{"metadata":"SECRET","prompt":"SECRET"}"#,
        r#"{"prompt":"a","deadline":"SECRET"}"#,
        r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":{"a":"SECRET"}}]}}"#,
        r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"messages":"SECRET"}}"#,
    ] {
        let refusal = line(text).expect_err(text);
        assert!(!refusal.reason.contains(secret), "{}", refusal.reason);
    }
}

#[test]
fn a_bad_line_keeps_the_id_and_tenant_that_could_be_read() {
    let refusal = line(r#"{"id":"a-1","tenant":"acme","prompt":"cut off he"#).unwrap_err();
    assert_eq!(refusal.id, Some(JobId::new("a-1").unwrap()));
    assert_eq!(refusal.tenant, Some(Tenant::new("acme").unwrap()));
    assert_eq!(line(r#"{"custom_id":"c","url":"/v1/x","body":{}}"#).unwrap_err().id.unwrap().as_str(), "c");
    assert_eq!(line(b"{\"id\":\"u\",\"prompt\":\"\xff\"}").unwrap_err().id.unwrap().as_str(), "u");
}

#[test]
fn invalid_utf_8_is_refused_at_its_character() {
    let refusal = line(b"{\"prompt\":\"\xc3\xa9\xff\"}").unwrap_err();
    assert_eq!((refusal.column, refusal.reason.as_str()), (Some(13), "not valid UTF-8"));
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow_the_stack() {
    let deep = format!(r#"{{"invoke":{}1{}}}"#, r#"{"a":"#.repeat(200_000), "}".repeat(200_000));
    assert_eq!(line(deep).unwrap_err().reason, "not valid JSON: recursion limit exceeded");
    assert!(line("[".repeat(200_000)).is_err());
    assert!(line(r#"{"a":"#.repeat(200_000)).is_err());
}

#[test]
fn the_largest_line_is_read() {
    let text = format!(r#"{{"prompt":"{}"}}"#, "x".repeat(10 << 20));
    assert_eq!(text_bytes(&line(text).unwrap().job.request), 10 << 20);
}

// ------------------------------------------------------------------------------------------------- other forms

#[test]
fn a_bare_string_is_a_prompt() {
    let draft = line(" \"Hello\" ").unwrap();
    assert_eq!(draft.job.request, Request::Prompt("Hello".into()));
    assert!(draft.auto_id);
    refused(r#""""#, 1, "the prompt is empty");
}

#[test]
fn a_bedrock_batch_record_is_invoke_or_converse_by_its_shape() {
    let record = |input: &str| line(format!(r#"{{"recordId":"r1","modelInput":{input}}}"#)).unwrap();
    let anthropic = record(
        r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":9,
            "messages":[{"role":"user","content":[{"type":"text","text":"a"}]}]}"#,
    );
    assert_eq!(anthropic.job.key.id.as_str(), "r1");
    assert!(matches!(anthropic.job.request, Request::Invoke(_)));
    let nova = record(r#"{"schemaVersion":"messages-v1","messages":[{"role":"user","content":[{"text":"a"}]}]}"#);
    assert!(matches!(nova.job.request, Request::Invoke(_)));
    let titan = record(r#"{"inputText":"a"}"#);
    assert!(matches!(titan.job.request, Request::Invoke(_)));
    let converse =
        record(r#"{"messages":[{"role":"user","content":[{"text":"a"}]}],"inferenceConfig":{"maxTokens":5}}"#);
    assert!(matches!(converse.job.request, Request::Converse(_)));
    assert!(line(r#"{"modelInput":{"inputText":"a"}}"#).unwrap().auto_id);
    refused(
        r#"{"recordId":"CALL 1","modelInput":{"a":1}}"#,
        13,
        "`recordId` holds ' '; allowed are A-Z a-z 0-9 . _ : -",
    );
    refused(
        r#"{"recordId":"r","modelInput":{"a":1},"prompt":"x"}"#,
        38,
        "unknown key `prompt` in a Bedrock batch record",
    );
}

fn openai(body: &Value) -> Result<Draft, Refusal> {
    line(json!({"custom_id": "c1", "method": "POST", "url": "/v1/chat/completions", "body": body}).to_string())
}

#[test]
fn an_openai_batch_line_becomes_converse() {
    let draft = openai(&json!({
        "model": "gpt-4.1-mini",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One"},
            {"role": "user", "content": [{"type": "text", "text": "Two"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw==", "detail": "low"}}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]},
            {"role": "tool", "tool_call_id": "t1", "content": "42"},
        ],
        "max_tokens": 10, "max_completion_tokens": 20, "temperature": 0.5, "top_p": 0.9, "stop": "END",
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
        "tool_choice": "required", "user": "u", "stream": false, "n": 1, "logit_bias": null,
    }))
    .unwrap();
    assert_eq!(draft.job.model, "haiku", "another vendor's model gives way to the default");
    assert_eq!(draft.job.key.id.as_str(), "c1");
    assert_eq!(
        converse_of(&draft),
        json!({
            "system": [{"text": "Be brief."}],
            "messages": [
                {"role": "user", "content": [{"text": "One"}, {"text": "Two"},
                    {"image": {"format": "png", "source": {"bytes": "iVBORw=="}}}]},
                {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t1", "name": "f", "input": {"a": 1}}}]},
                {"role": "user", "content": [{"toolResult": {"toolUseId": "t1", "content": [{"text": "42"}]}}]},
            ],
            "inferenceConfig": {"maxTokens": 20, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]},
            "toolConfig": {
                "tools": [{"toolSpec": {"name": "f", "description": "d", "inputSchema": {"json": {"type": "object"}}}}],
                "toolChoice": {"any": {}},
            },
        })
    );
}

#[test]
fn an_openai_line_keeps_a_model_that_is_known() {
    let body = |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]});
    assert_eq!(openai(&body("haiku")).unwrap().job.model, "haiku");
    assert_eq!(openai(&body("us.amazon.nova-lite-v1:0")).unwrap().job.model, "us.amazon.nova-lite-v1:0");
    let text = json!({"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": body("gpt-4o")});
    let draft = line_with(text.to_string().as_bytes(), Some("sonnet"), Some("haiku")).unwrap();
    assert_eq!(draft.job.model, "sonnet");
}

#[test]
fn what_an_openai_line_asks_and_converse_cannot_do_is_refused_by_name() {
    let user = json!([{"role": "user", "content": "Hi"}]);
    for (field, value) in [
        ("n", json!(2)),
        ("stream", json!(true)),
        ("seed", json!(1)),
        ("response_format", json!({"type": "json_object"})),
        ("logprobs", json!(true)),
        ("reasoning_effort", json!("low")),
        ("tool_choice", json!("auto")),
        ("max_tokens", json!(0)),
        ("stop", json!([1])),
        ("tools", json!([{"type": "web_search"}])),
    ] {
        let refusal = openai(&json!({"messages": user, field: value})).expect_err(field);
        assert!(refusal.reason.contains(&format!("body.{field}")), "{refusal}");
        assert_eq!(refusal.id.unwrap().as_str(), "c1");
    }
    for (message, at) in [
        (json!({"role": "user", "content": ""}), "body.messages[0].content"),
        (json!({"role": "user", "content": "a", "name": "x"}), "body.messages[0].name"),
        (json!({"role": "narrator", "content": "a"}), "body.messages[0].role"),
        (
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.b/c.png"}}]}),
            "body.messages[0].content[0].image_url.url",
        ),
        (json!({"role": "user", "content": [{"type": "input_audio"}]}), "body.messages[0].content[0]"),
    ] {
        let refusal = openai(&json!({"messages": [message]})).unwrap_err();
        assert!(refusal.reason.contains(at), "{refusal}");
    }
    let other = line(r#"{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{}}"#).unwrap_err();
    assert_eq!(other.reason, "`url` /v1/embeddings is not supported; /v1/chat/completions is");
}

// --------------------------------------------------------------------------------------------------- wire form

fn invoke(body: Value) -> Request {
    match body {
        Value::Object(body) => Request::Invoke(body),
        other => panic!("{other}"),
    }
}

fn sent(request: Request, cap: u32) -> Value {
    let mut job = line(r#"{"id":"a","prompt":"Hi"}"#).unwrap().job;
    job.request = request;
    match wire_body(&job, cap) {
        WireBody::Converse(body) | WireBody::Invoke(body) => serde_json::from_slice(&body).unwrap(),
        WireBody::Agent(call) => serde_json::to_value(call).unwrap(),
    }
}

#[test]
fn q8_the_cap_stands_in_every_request_that_has_a_place_for_it() {
    assert_eq!(
        sent(Request::Prompt("Hi".into()), 7),
        json!({"messages": [{"role": "user", "content": [{"text": "Hi"}]}], "inferenceConfig": {"maxTokens": 7}})
    );
    let converse = json!({"messages": [], "inferenceConfig": {"temperature": 0.5}});
    assert_eq!(
        sent(Request::Converse(converse.as_object().unwrap().clone()), 7)["inferenceConfig"],
        json!({"temperature": 0.5, "maxTokens": 7})
    );
    for (body, pointer) in [
        (json!({"anthropic_version": "x", "messages": []}), "/max_tokens"),
        (json!({"anthropic_version": "x", "messages": [], "max_tokens": 9}), "/max_tokens"),
        (json!({"schemaVersion": "messages-v1", "messages": []}), "/inferenceConfig/maxTokens"),
        (json!({"messages": [], "inferenceConfig": {"max_new_tokens": 9}}), "/inferenceConfig/max_new_tokens"),
        (json!({"prompt": "x", "max_gen_len": 9}), "/max_gen_len"),
    ] {
        let before = body.as_object().unwrap().len();
        let sent = sent(invoke(body.clone()), 7);
        assert_eq!(sent.pointer(pointer), Some(&json!(7)), "{body}");
        assert!(sent.as_object().unwrap().len() <= before + 1);
    }
}

#[test]
fn embeddings_get_no_cap() {
    for body in [
        json!({"inputText": "a", "dimensions": 256}),
        json!({"texts": ["a"], "input_type": "search_document", "max_tokens": 9}),
        json!({"taskType": "SINGLE_EMBEDDING"}),
    ] {
        let request = invoke(body.clone());
        assert!(!takes_output_cap(&request), "{body}");
        assert_eq!(output_cap(&request, MaxTokens::Unsaid), None);
        assert_eq!(sent(request, 7), body);
    }
    assert!(takes_output_cap(&invoke(json!({"prompt": "of a family that is not known"}))));
}

#[test]
fn the_jobs_own_cap_wins_over_the_requests() {
    let request = line(r#"{"converse":{"messages":[1],"inferenceConfig":{"maxTokens":5}}}"#).unwrap().job.request;
    assert_eq!(output_cap(&request, MaxTokens::of(3)), Some(3));
    for written in [MaxTokens::Unsaid, MaxTokens::Auto] {
        assert_eq!(output_cap(&request, written), Some(5));
        assert_eq!(output_cap(&invoke(json!({"anthropic_version": "x", "max_tokens": 9})), written), Some(9));
        assert_eq!(output_cap(&Request::Prompt("a".into()), written), None);
    }
}

#[test]
fn auto_is_a_cap_of_its_own_kind() {
    let job = line(r#"{"prompt":"a","max_tokens":"auto"}"#).unwrap().job;
    assert_eq!(job.max_tokens, MaxTokens::Auto);
    assert!(job.to_message().contains(r#""max_tokens":"auto""#));
    let unsaid = line(r#"{"prompt":"a","max_tokens":null}"#).unwrap().job;
    assert_ne!(job.digest(), unsaid.digest(), "what is written is content");
    refused(
        r#"{"prompt":"a","max_tokens":"Auto"}"#,
        28,
        "`max_tokens` must be a whole number from 1 to 4294967295 or \"auto\", found a string",
    );
}

#[test]
fn a_cap_has_its_place_in_the_bodies_of_known_families() {
    assert!(has_place_for_cap(&Request::Prompt("a".into())));
    assert!(has_place_for_cap(&invoke(json!({"anthropic_version": "x", "messages": []}))));
    assert!(has_place_for_cap(&invoke(json!({"prompt": "a", "max_gen_len": 9}))));
    assert!(!has_place_for_cap(&invoke(json!({"prompt": "of a family that is not known"}))));
    assert!(!has_place_for_cap(&invoke(json!({"inputText": "an embedding"}))));
}

#[test]
fn the_thinking_budget_is_found_where_each_form_has_it() {
    let thinking = json!({"type": "enabled", "budget_tokens": 4_000});
    let converse = |fields: Value| {
        let body = json!({"messages": [1], "additionalModelRequestFields": fields});
        Request::Converse(body.as_object().unwrap().clone())
    };
    assert_eq!(thinking_budget(&converse(json!({"thinking": thinking}))), Some(4_000));
    assert_eq!(thinking_budget(&converse(json!({"reasoning_config": thinking}))), Some(4_000));
    assert_eq!(thinking_budget(&invoke(json!({"anthropic_version": "x", "thinking": thinking}))), Some(4_000));
    assert_eq!(thinking_budget(&converse(json!({"thinking": {"type": "adaptive"}}))), None);
    assert_eq!(thinking_budget(&converse(json!(null))), None);
    assert_eq!(thinking_budget(&Request::Prompt("a".into())), None);
}

#[test]
fn text_is_counted_in_bytes_and_pictures_as_a_constant() {
    assert_eq!(text_bytes(&Request::Prompt("naïve".into())), 6);
    let request = json!({
        "system": [{"text": "abc"}, {"cachePoint": {"type": "default"}}],
        "messages": [{"role": "user", "content": [
            {"text": "défg"},
            {"image": {"format": "png", "source": {"bytes": "AAAA"}}},
            {"document": {"format": "pdf", "name": "x", "source": {"bytes": "AAAA"}}},
            {"document": {"format": "txt", "name": "x", "source": {"bytes": "AAAAAAAA"}}},
        ]}],
        "inferenceConfig": {"stopSequences": ["long stop sequence"]},
    });
    let request = Request::Converse(request.as_object().unwrap().clone());
    assert_eq!(text_bytes(&request), 3 + 5 + BYTES_PER_IMAGE + BYTES_PER_DOCUMENT + 6);
    let anthropic = json!({
        "anthropic_version": "bedrock-2023-05-31",
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": "abc"},
            {"type": "image", "source": {"type": "base64", "data": "AAAA"}},
        ]}],
    });
    assert_eq!(text_bytes(&invoke(anthropic)), 3 + BYTES_PER_IMAGE);
}

// -------------------------------------------------------------------------------------------------- properties

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map(any::<String>(), any_json(), 0..4).prop_map(|map| map.into_iter().collect())
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        "[a-zé\"\\\\\n]{0,20}x".prop_map(Request::Prompt),
        (any_object(), prop::collection::vec(any_json(), 1..3)).prop_map(|(mut request, messages)| {
            request.remove("modelId");
            request.remove("inferenceConfig");
            request.insert("messages".into(), messages.into());
            Request::Converse(request)
        }),
        any_object().prop_map(|mut body| {
            body.insert("k".into(), Value::Null);
            Request::Invoke(body)
        }),
    ]
}

fn any_max_tokens() -> impl Strategy<Value = MaxTokens> {
    prop_oneof![Just(MaxTokens::Unsaid), Just(MaxTokens::Auto), any::<u32>().prop_map(MaxTokens::of)]
}

prop_compose! {
    fn any_job()(
        (tenant, batch, id) in ("[A-Za-z0-9._:-]{1,128}", "[^/\\p{Cc}]{1,128}", "[A-Za-z0-9._:-]{1,128}"),
        model in "[a-zA-Z0-9.:/-]{1,40}",
        request in any_request(),
        max_tokens in any_max_tokens(),
        fallback in any::<bool>(),
        deadline in prop::option::of(-60_000_000_000_000i64..253_000_000_000_000),
        priority in 0u64..10,
        residency in prop::option::of(prop::collection::vec("[a-z0-9-]{1,20}", 1..4)),
        callback in prop::option::of("[a-zA-Z0-9+/=]{1,40}"),
        metadata in any_object(),
    ) -> Job {
        Job {
            key: JobKey {
                tenant: Tenant::new(&tenant).unwrap(),
                batch: BatchName::new(&batch).unwrap(),
                id: JobId::new(&id).unwrap(),
            },
            model, request, max_tokens, fallback,
            deadline: deadline.map(Timestamp),
            priority: Priority::new(priority).unwrap(),
            residency,
            callback: callback.and_then(|token| TaskToken::new(&token)),
            metadata,
            trace: None,
        }
    }
}

fn shuffled(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let fields: Vec<_> =
                map.iter().rev().map(|(key, value)| format!("{}: {}", json!(key), shuffled(value))).collect();
            format!("{{ {} }}", fields.join(" ,\t"))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(shuffled).collect::<Vec<_>>().join(" , ")),
        other => other.to_string(),
    }
}

proptest! {
    #[test]
    fn a_job_survives_the_way_through_the_queue(job in any_job()) {
        let read = message(&job.to_message()).unwrap();
        prop_assert_eq!(read.digest(), job.digest());
        prop_assert_eq!(read, job);
    }

    #[test]
    fn d12_content_is_told_by_what_is_asked_and_not_by_how_it_is_written(job in any_job()) {
        let written: Value = serde_json::from_str(&job.to_message()).unwrap();
        let same = message(&shuffled(&written)).unwrap();
        prop_assert_eq!(same.digest(), job.digest());
        let mut same = job.clone();
        same.priority = Priority::default();
        same.deadline = None;
        same.residency = None;
        same.metadata.clear();
        same.key.id = JobId::new("another").unwrap();
        prop_assert_eq!(same.digest(), job.digest());
        let mut other = job.clone();
        other.model.push('x');
        prop_assert_ne!(other.digest(), job.digest());
        other = job.clone();
        for max_tokens in [MaxTokens::Unsaid, MaxTokens::Auto, MaxTokens::of(1)] {
            other.max_tokens = max_tokens;
            prop_assert_eq!(other.digest() == job.digest(), max_tokens == job.max_tokens);
        }
    }

    #[test]
    fn f13_no_bytes_make_intake_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = line(&bytes);
    }

    #[test]
    fn f13_no_mangled_job_makes_intake_panic(job in any_job(), cut in any::<prop::sample::Index>(), byte: u8) {
        let mut text = job.to_message().into_bytes();
        let at = cut.index(text.len());
        if let Some(place) = text.get_mut(at) {
            *place = byte;
        }
        for text in [text.as_slice(), text.get(..at).unwrap()] {
            if let Err(refusal) = line(text) {
                let length = String::from_utf8_lossy(text).chars().count();
                prop_assert!(refusal.column.is_none_or(|column| column >= 1 && column <= length + 1));
            }
        }
    }

    #[test]
    fn f13_no_json_makes_intake_panic(value in any_json(), key in "(id|prompt|converse|invoke|max_tokens|deadline|body|url|recordId|modelInput)") {
        let _ = line(value.to_string());
        let _ = line(json!({ key.clone(): value }).to_string());
        let _ = line(json!({"recordId": "a", "modelInput": value}).to_string());
        let _ = line(json!({"custom_id": "a", "url": "/v1/chat/completions", "body": value}).to_string());
        let body = json!({"messages": value, "tools": value});
        let _ = line(json!({"custom_id": "a", "url": "/v1/chat/completions", "body": body}).to_string());
        let _ = text_bytes(&Request::Invoke(json!({ key: value }).as_object().unwrap().clone()));
    }
}
