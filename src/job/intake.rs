//! What does this line ask for?
//!
//! Four forms are understood: a job in the contract's own form, a Bedrock batch record, an `OpenAI` batch line and a
//! bare JSON string. Whatever the form, the outcome is a complete [`Job`] or a [`Refusal`] that says where and why:
//! a bad line never stops a run. The text is split into its top-level fields first and each is read by hand, not
//! by a derived `Deserialize`, for three reasons: every complaint gets the column of the field that caused it, what
//! could be read of a bad line still names its id, and no message can quote a prompt.

mod bedrock_batch;
mod contract;
mod fields;
mod model_id;
mod openai;
mod template;
mod upload_event;
mod wire;

use serde::Deserialize;
use serde_json::{Map, Value};

pub use self::contract::{PAYLOAD_BYTES, REQUESTS};
pub(in crate::job) use self::contract::{callback, deadline, model, name, unknown_key_among};
pub(in crate::job) use self::fields::{Fault, Field, of_object};
pub use self::model_id::is_plausible_model_id;
pub use self::template::template_of;
pub use self::upload_event::{NotAnUpload, UploadEvent, parse_upload_event};
pub use self::wire::{
    BYTES_PER_DOCUMENT, BYTES_PER_IMAGE, BYTES_PER_MEDIA, WireBody, has_place_for_cap, output_cap, takes_output_cap,
    text_bytes, thinking_budget, wire_body,
};

use self::contract::Found;
use self::fields::{Kind, shown};
use super::agent::names_an_agent;
use super::document::Place;
use super::failure::{Class, Failure};
use super::ident::{BatchName, JobId, JobKey, Tenant};
use super::spec::{Job, MaxTokens, Priority, Request, TaskToken};
use super::units::Timestamp;

/// What fills in where a line says nothing.
#[derive(Clone, Copy)]
pub struct Defaults<'a> {
    /// The batch of every line of a file: a file's lines are one batch, so a `batch` key in a line gives way to it.
    pub batch: &'a BatchName,
    /// `--model`.
    pub model: Option<&'a str>,
    /// The only `[[model]]`, else the first.
    pub only_model: Option<&'a str>,
    /// Whether there is somebody who answers `callback.task_token`; else such a job is refused.
    pub answers_callbacks: bool,
    /// Where documents lie that are read; else why `document` jobs are refused.
    pub documents: Result<Place, &'a str>,
    /// Why `ingest` jobs are refused, where nobody ingests.
    pub no_ingestions: Option<&'a str>,
    /// Whether this names a configured model or is a plausible model or profile id
    /// ([`is_plausible_model_id`]). Asked only of `OpenAI` lines, whose model names are another vendor's.
    pub is_known: &'a dyn Fn(&str) -> bool,
}

impl std::fmt::Debug for Defaults<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Defaults")
            .field("batch", &self.batch)
            .field("model", &self.model)
            .field("only_model", &self.only_model)
            .field("answers_callbacks", &self.answers_callbacks)
            .field("documents", &self.documents)
            .field("no_ingestions", &self.no_ingestions)
            .finish_non_exhaustive()
    }
}

/// A job read from a line of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// The job.
    pub job: Job,
    /// No id was given: `job.key.id` is the full hexadecimal content digest, and repeats of the same content in
    /// the same input are still to be told apart.
    pub auto_id: bool,
}

/// A line or message that is no job.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// Always [`Class::BadInput`].
    pub class: Class,
    /// Where, counted from 1 in characters (not bytes), as editors do; in a message of several lines, from its
    /// very beginning. `None` when what is wrong is what is not there.
    pub column: Option<usize>,
    /// Why, in words safe to log: names of keys and types of values, never a prompt.
    pub reason: String,
    /// The job's id, where it could be read in spite of all.
    pub id: Option<JobId>,
    /// The job's tenant, where it could be read in spite of all.
    pub tenant: Option<Tenant>,
}

impl Refusal {
    /// As it stands in results and notices.
    pub fn failure(&self) -> Failure {
        Failure::new(self.class, self.reason.clone())
    }
}

/// Reads one line of a file, in any of the four forms, without its line feed.
///
/// The deadline is not compared with a clock: there is none here.
///
/// # Errors
/// [`Refusal`], with the first thing wrong.
pub fn parse_line(text: &[u8], defaults: &Defaults<'_>) -> Result<Draft, Refusal> {
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            let valid = text.get(..error.valid_up_to()).unwrap_or_default();
            let valid = std::str::from_utf8(valid).unwrap_or_default();
            return Err(refusal(valid, Fault::at(valid.len(), "not valid UTF-8")));
        }
    };
    let draft = || match fields::kind(text) {
        Kind::Text => {
            let prompt = Field::whole(text).text()?;
            draft(Parts::new(contract::prompt(prompt, 0)?), defaults)
        }
        Kind::Object => {
            let fields = fields::of_object(text, 0)?;
            let has = |key| fields.iter().any(|field| field.key == key);
            let parts = if has("recordId") || has("modelInput") {
                bedrock_batch::read(&fields)?
            } else if has("custom_id") || (has("url") && has("body")) {
                openai::read(&fields, defaults.is_known)?
            } else {
                contract::read(&fields, Found::Line)?
            };
            draft(parts, defaults)
        }
        Kind::Null | Kind::Boolean | Kind::Number | Kind::Array | Kind::Nothing => Err(not_an_object(text)),
    };
    draft().map_err(|fault| refusal(text, fault))
}

/// Reads a queue message: the contract's own form only. A message that names no batch is in batch `-`
/// (`defaults.batch` is for files), one that has no `id` gets its message id.
///
/// # Errors
/// [`Refusal`], with the first thing wrong.
pub fn parse_message(body: &str, message_id: &str, defaults: &Defaults<'_>) -> Result<Job, Refusal> {
    let job = || {
        if fields::kind(body) != Kind::Object {
            return Err(not_an_object(body));
        }
        let mut parts = contract::read(&fields::of_object(body, 0)?, Found::Message)?;
        let id = match parts.id.take() {
            Some(id) => id,
            None => JobId::new(message_id)
                .map_err(|error| Fault::nowhere(format!("no `id`, and the message id cannot be one: {error}")))?,
        };
        let batch = parts.batch.take().unwrap_or_else(BatchName::none);
        job(parts, batch, defaults, |_| id)
    };
    job().map_err(|fault| refusal(body, fault))
}

/// Who waits in a workflow for what a message asks, also of one that is no job.
pub fn task_token_of(body: &str) -> Option<TaskToken> {
    #[derive(Deserialize)]
    struct Waits {
        callback: Callback,
    }
    #[derive(Deserialize)]
    struct Callback {
        task_token: String,
    }
    let waits: Waits = serde_json::from_str(body).ok()?;
    TaskToken::new(&waits.callback.task_token)
}

/// What a line says, whatever its form; what it does not say is `None`.
struct Parts {
    id: Option<JobId>,
    batch: Option<BatchName>,
    tenant: Option<Tenant>,
    model: Option<String>,
    request: Request,
    max_tokens: MaxTokens,
    fallback: Option<bool>,
    deadline: Option<Timestamp>,
    priority: Option<Priority>,
    residency: Option<Vec<String>>,
    callback: Option<Callback>,
    metadata: Map<String, Value>,
}

/// Who waits, and where the line says so.
pub(in crate::job) struct Callback {
    pub(in crate::job) token: TaskToken,
    at: usize,
}

impl Parts {
    fn new(request: Request) -> Self {
        Self {
            id: None,
            batch: None,
            tenant: None,
            model: None,
            request,
            max_tokens: MaxTokens::Unsaid,
            fallback: None,
            deadline: None,
            priority: None,
            residency: None,
            callback: None,
            metadata: Map::new(),
        }
    }
}

fn draft(mut parts: Parts, defaults: &Defaults<'_>) -> Result<Draft, Fault> {
    let given = parts.id.take();
    let auto_id = given.is_none();
    let job = job(parts, defaults.batch.clone(), defaults, |digest| given.unwrap_or(digest))?;
    Ok(Draft { job, auto_id })
}

/// Why `document` jobs are refused by a worker that has no reader of documents.
pub const NO_DOCUMENTS_HERE: &str = "nobody reads documents here";

/// Why `ingest` jobs are refused where the simulator answers.
pub const NO_INGESTIONS_HERE: &str = "the simulator has no knowledge bases";

/// Why a document that lies in S3 is refused on one machine.
const NO_S3_HERE: &str =
    "documents in S3 are read by the workers of `backend = \"aws\"`; on one machine give the path of a file";

/// Why a file is refused where a fleet works.
const NO_FILES_HERE: &str =
    "the workers of a fleet read documents in S3 alone: put the file there and name it s3://bucket/key";

/// Why a line is refused that names no model where there is no default.
pub const NO_MODEL: &str = "no `model`, and there is no default: name one here, by --model or as [[model]]";

/// Completes a job; `id` chooses its id and is offered the one made from its content.
fn job(parts: Parts, batch: BatchName, defaults: &Defaults<'_>, id: impl FnOnce(JobId) -> JobId) -> Result<Job, Fault> {
    let model = model_of(parts.model, &parts.request, parts.max_tokens, defaults)?;
    let callback = match parts.callback {
        Some(Callback { at, .. }) if !defaults.answers_callbacks => {
            return Err(Fault::at(at, "`callback`: task tokens are answered by workers of `backend = \"aws\"` alone"));
        }
        callback => callback.map(|callback| callback.token),
    };
    if let Request::Document(document) = &parts.request {
        let why = match (defaults.documents, document.place()) {
            (Ok(Place::Files), Place::Files) | (Ok(Place::S3), Place::S3) => None,
            (Ok(Place::Files), Place::S3) => Some(NO_S3_HERE),
            (Ok(Place::S3), Place::Files) => Some(NO_FILES_HERE),
            (Err(why), Place::Files | Place::S3) => Some(why),
        };
        if let Some(why) = why {
            return Err(Fault::nowhere(format!("`document`: {why}")));
        }
    }
    if let (Request::Ingest(_), Some(why)) = (&parts.request, defaults.no_ingestions) {
        return Err(Fault::nowhere(format!("`ingest`: {why}")));
    }
    let digest = super::spec::content_digest(&model, &parts.request, parts.max_tokens).to_string();
    let digest = JobId::new(&digest).map_err(|error| Fault::nowhere(error.to_string()))?;
    Ok(Job {
        key: JobKey { tenant: parts.tenant.unwrap_or_else(Tenant::unnamed), batch, id: id(digest) },
        model,
        request: parts.request,
        max_tokens: parts.max_tokens,
        fallback: parts.fallback.unwrap_or(true),
        deadline: parts.deadline,
        priority: parts.priority.unwrap_or_default(),
        residency: parts.residency,
        callback,
        metadata: parts.metadata,
        trace: None,
    })
}

/// What is called: the model that the line names, else the default. An agent is called by its own name, whatever the default,
/// and an ingestion asks no model.
fn model_of(
    named: Option<String>,
    request: &Request,
    max_tokens: MaxTokens,
    defaults: &Defaults<'_>,
) -> Result<String, Fault> {
    if matches!(request, Request::Ingest(_)) {
        if named.is_some() || !max_tokens.is_unsaid() {
            return Err(Fault::nowhere("`ingest` asks no model: leave out `model` and `max_tokens`"));
        }
        return Ok(String::new());
    }
    let Request::Agent(call) = request else {
        return match named.or_else(|| defaults.model.or(defaults.only_model).map(str::to_owned)) {
            Some(model) if names_an_agent(&model) => {
                Err(Fault::nowhere(format!("`model`: `{}` is an agent, which is called by `agent`", shown(&model, 40))))
            }
            Some(model) => Ok(model),
            None => Err(Fault::nowhere(NO_MODEL)),
        };
    };
    let name = call.name();
    if named.is_some_and(|named| named != name) {
        return Err(Fault::nowhere(format!("`model`: leave it out, `agent` says what is called, or write `{name}`")));
    }
    if !max_tokens.is_unsaid() {
        return Err(Fault::nowhere(
            "`max_tokens`: an agent takes none; how long its answers may be is set with the agent",
        ));
    }
    Ok(name)
}

fn not_an_object(text: &str) -> Fault {
    // A syntax error says more than "found a number" would.
    match fields::check_syntax(text) {
        Err(fault) => fault,
        Ok(()) => Fault::at(
            text.len() - text.trim_start().len(),
            format!("a job is a JSON object, this is {}", fields::kind(text).words()),
        ),
    }
}

fn refusal(text: &str, fault: Fault) -> Refusal {
    let readable = fields::readable_prefix(text);
    let first = |keys: &[&str]| {
        readable.iter().find(|field| keys.contains(&field.key.as_ref())).and_then(|field| field.text().ok())
    };
    Refusal {
        class: Class::BadInput,
        column: fault.at.map(|at| text.char_indices().take_while(|(index, _)| *index < at).count() + 1),
        reason: fault.reason,
        id: first(&["id", "recordId", "custom_id"]).and_then(|id| JobId::new(&id).ok()),
        tenant: first(&["tenant"]).and_then(|tenant| Tenant::new(&tenant).ok()),
    }
}

#[cfg(test)]
mod tests;
