//! What is done with a document that is dropped in? `[[upload]]`: by where it lies and what its name ends in.

use std::num::NonZeroU32;

use super::Backend;
use super::error::ConfigError;
use super::typed::{Named, Section};
use crate::job::document::{Document, Mode, Partial};
use crate::job::upload::{Agent, Ingest, Origin, OwnPlace, Pipeline, UploadRule};

/// Where a back end keeps what is its own, as far as events tell of it.
pub(super) fn own_place(backend: &Backend) -> Option<OwnPlace> {
    match backend {
        Backend::Embedded => None,
        Backend::Aws(aws) => Some(OwnPlace { bucket: aws.bucket.clone(), prefix: aws.prefix.clone() }),
    }
}

pub(super) fn read(top: &mut Section<'_>, backend: &Backend) -> Vec<UploadRule> {
    let own = own_place(backend);
    let mut rules = Vec::new();
    for Named { path, table } in top.tables("upload") {
        let mut section = Section::new(path, table, top.problems());
        let bounds = Document::CHUNK_BOUNDS;
        let rule = UploadRule {
            origin: origin(&mut section, backend),
            prefix: section.text("prefix").unwrap_or_default(),
            suffix: section.text("suffix").unwrap_or_default(),
            model: section.text("model").map(Into::into),
            template: section.text("template"),
            mode: one_of(&mut section, "mode", &[("text", Mode::Text), ("native", Mode::Native)]),
            chunk_tokens: section.number("chunk_tokens", bounds.clone()),
            overlap_tokens: section.number("overlap_tokens", 1..=bounds.end() / 2).map(NonZeroU32::get),
            partial: one_of(&mut section, "partial", &[("keep", Partial::Keep), ("fail", Partial::Fail)]),
            reduce: section.text("reduce"),
            max_tokens: section.number("max_tokens", 1..=u32::MAX),
            pipeline: pipeline(&mut section, backend),
        };
        if let Some(own) = own.as_ref().filter(|own| own.is_met_by(&rule)) {
            let bound = format!(
                "outside of `aws.prefix`, which is \"{}\" (as \"inbox/\" is), or go with a `suffix` or a `bucket` that results of \
                 our own do not have",
                own.prefix
            );
            section.out_of_bounds("prefix", &rule.prefix, bound);
        }
        if let Err(why) = rule.document("x").check() {
            // It begins with the key, in the quotes of messages.
            let mut words = why.splitn(3, '`').skip(1);
            let key = words.next().and_then(|key| key.split(' ').next()).unwrap_or("template");
            let key = section.key(key);
            let why = words.next().unwrap_or(&why).trim_start_matches(": ").trim_start().to_owned();
            section.problem(ConfigError::Unreadable { key, why });
        }
        section.finish();
        rules.push(rule);
    }
    rules
}

/// A folder is watched by the machine that has it, and what begins in S3 does not begin there.
fn origin(section: &mut Section<'_>, backend: &Backend) -> Origin {
    let others = ["bucket", "pipeline", "ingest", "agent"].map(|key| (key, section.has(key)));
    let bucket = section.text("bucket").map_or(Origin::Any, Origin::Bucket);
    let Some(folder) = section.text("folder") else { return bucket };
    if folder.trim().is_empty() {
        section.out_of_bounds("folder", &folder, "the path of a folder");
    }
    if matches!(backend, Backend::Aws(_)) {
        let (key, value) = (section.key("folder"), format!("\"{folder}\""));
        let bound =
            "left out beside backend = \"aws\": a fleet is told of files by their bucket, and a folder is watched by \
                     the worker of one machine"
                .to_owned();
        section.problem(ConfigError::Contradiction { key, value, bound });
    }
    for (other, _) in others.into_iter().filter(|(_, is_there)| *is_there) {
        let (key, value) = (section.key(other), "a value".to_owned());
        let bound =
            format!("left out beside `{}`: it is of objects in S3, and those are in no folder", section.key("folder"));
        section.problem(ConfigError::Contradiction { key, value, bound });
    }
    Origin::Folder(folder.into())
}

fn pipeline(section: &mut Section<'_>, backend: &Backend) -> Option<Pipeline> {
    let state_machine = section.text("pipeline");
    let (ingest, agent) = (ingest(section), agent(section));
    if let Some(arn) = &state_machine {
        if !is_state_machine(arn) {
            let bound = "the ARN of a Standard state machine, arn:aws:states:REGION:ACCOUNT:stateMachine:NAME";
            section.out_of_bounds("pipeline", arn, bound);
        }
        if *backend == Backend::Embedded {
            let (key, value) = (section.key("pipeline"), arn.clone());
            let bound = "left out: state machines are begun by the workers of backend = \"aws\" alone".to_owned();
            section.problem(ConfigError::Contradiction { key, value, bound });
        }
    } else if ingest.is_some() || agent.is_some() {
        let key = section.key("pipeline");
        section.problem(ConfigError::Missing { key });
    }
    Some(Pipeline { state_machine: state_machine?, ingest, agent })
}

fn is_state_machine(arn: &str) -> bool {
    let mut parts = arn.splitn(7, ':');
    let [head, _, service, region, account, kind, name] = [(); 7].map(|()| parts.next().unwrap_or_default());
    (head, service, kind) == ("arn", "states", "stateMachine") && ![region, account, name].contains(&"")
}

fn ingest(section: &mut Section<'_>) -> Option<Ingest> {
    let is_there = section.has("ingest");
    let mut ingest = section.section("ingest");
    let knowledge_base_id = one_text(&mut ingest, "knowledge_base_id", is_there);
    let data_source_id = one_text(&mut ingest, "data_source_id", is_there);
    ingest.finish();
    Some(Ingest { knowledge_base_id: knowledge_base_id?, data_source_id: data_source_id? })
}

fn agent(section: &mut Section<'_>) -> Option<Agent> {
    let is_there = section.has("agent");
    let mut agent = section.section("agent");
    let agent_id = one_text(&mut agent, "agent_id", is_there);
    let agent_alias_id = one_text(&mut agent, "agent_alias_id", is_there);
    let input_text = one_text(&mut agent, "input_text", is_there);
    agent.finish();
    Some(Agent { agent_id: agent_id?, agent_alias_id: agent_alias_id?, input_text: input_text? })
}

fn one_text(section: &mut Section<'_>, key: &'static str, is_needed: bool) -> Option<String> {
    if is_needed { section.required(|section| section.text(key), key) } else { section.text(key) }
}

fn one_of<T: Copy + Default>(section: &mut Section<'_>, key: &'static str, known: &[(&str, T)]) -> T {
    let Some(word) = section.text(key) else { return T::default() };
    if let Some((_, value)) = known.iter().find(|(name, _)| *name == word) {
        return *value;
    }
    let names: Vec<_> = known.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    section.out_of_bounds(key, &word, names.join(" or "));
    T::default()
}
