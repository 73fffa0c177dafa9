//! Which upload is it, and what is to be done with it? One object in a bucket, however many events tell of it, and the
//! `[[upload]]` rules, of which the first that fits makes it a job.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::document::{Document, Mode, Partial};
use super::dropped::DroppedFile;
use super::ident::{BatchName, Digest, JobId, JobKey, NameError, Tenant};
use super::spec::{Job, MaxTokens, Priority, Request};

/// An object that somebody put into a bucket.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Upload {
    /// Its bucket.
    pub bucket: String,
    /// Its key, as the service has it: decoded.
    pub key: String,
    /// Which of the objects that were put under that key.
    pub revision: Revision,
}

/// What tells an upload from another under the same key, and is the same in every event of it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Revision {
    /// The version id, in a bucket that keeps versions.
    Version(String),
    /// The sequencer of the event, in one that does not.
    Sequencer(String),
}

impl Upload {
    /// Where it lies.
    pub fn uri(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.key)
    }

    /// What it is called as a job, and as an execution: a digest of bucket, key and revision, so that all events of an upload
    /// are one job, and the same bytes uploaded again are another.
    pub fn digest(&self) -> Digest {
        let (kind, revision) = match &self.revision {
            Revision::Version(id) => ("version", id),
            Revision::Sequencer(number) => ("sequencer", number),
        };
        // As JSON, so that no two identities run together into one text.
        Digest::of(json!([self.bucket, self.key, kind, revision]).to_string().as_bytes())
    }

    fn version(&self) -> Option<&str> {
        match &self.revision {
            Revision::Version(id) => Some(id),
            Revision::Sequencer(_) => None,
        }
    }
}

/// As messages show it.
impl fmt::Display for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 256;
        let uri = self.uri();
        uri.chars().take(SHOWN).try_for_each(|c| write!(f, "{}", c.escape_debug()))?;
        if uri.chars().nth(SHOWN).is_some() { f.write_str("...") } else { Ok(()) }
    }
}

/// Of what a rule is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// Of files that are given to a command, and of objects in any bucket.
    Any,
    /// `bucket`: of objects in this bucket alone.
    Bucket(String),
    /// `folder`: of files that are put into this folder of the machine, or below it, while it is watched.
    Folder(PathBuf),
}

/// `[[upload]]`, the first whose `prefix` and `suffix` fit a file or an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UploadRule {
    /// `bucket` or `folder`, of which there can be one. Default neither: [`Origin::Any`].
    pub origin: Origin,
    /// `prefix`: with what the file's path begins, as it is given to the command or counted from the folder that is watched, or
    /// an object's key, in whatever case. Default `""`: any.
    pub prefix: String,
    /// `suffix`: with what its name ends, in whatever case. Default `""`: any.
    pub suffix: String,
    /// `model`: who is asked, by a name of `[[model]]` or an id. Default: `--model`, else the first `[[model]]`.
    pub model: Option<Arc<str>>,
    /// `template`: what each chunk is asked, with `{{chunk}}`, `{{document.name}}`, `{{chunk.number}}` and `{{chunk.count}}`.
    /// What stands before the first word of a chunk is cached where the model can. Default `"{{chunk}}"`.
    pub template: Option<String>,
    /// `mode`: `"text"` (default) or `"native"`, which sends the file itself, up to 4.5 MB, to models that read images; it needs a
    /// `template`.
    pub mode: Mode,
    /// `chunk_tokens`: the size of a chunk, in estimated tokens. 50 to 100,000, default 1,500. Larger ones cost fewer repeated
    /// instructions, smaller ones are answered in more detail.
    pub chunk_tokens: Option<NonZeroU32>,
    /// `overlap_tokens`: how much of a chunk the next one repeats. 1 to half of `chunk_tokens`; default none.
    pub overlap_tokens: Option<u32>,
    /// `partial`: `"keep"` (default) ends a document `partial` when some of its chunks did not succeed, `"fail"` as `failed`, so
    /// that `--retry-failed` asks those again.
    pub partial: Partial,
    /// `reduce`: what is asked of all answers together, with `{{answers}}`. Default none: they are put one after the other.
    pub reduce: Option<String>,
    /// `max_tokens`: the cap on each answer. At least 1; default: the model's.
    pub max_tokens: Option<NonZeroU32>,
    /// `pipeline`: who is given an object that is dropped into a bucket, instead of the queue. Default: nobody.
    pub pipeline: Option<Pipeline>,
}

/// A workflow that is begun for an upload; see `statemachine/`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pipeline {
    /// `pipeline`: the ARN of a Standard state machine of Step Functions, or of its alias or version.
    pub state_machine: String,
    /// `ingest`: `knowledge_base_id` and `data_source_id` of what takes in the document's bucket. Default: nothing does.
    pub ingest: Option<Ingest>,
    /// `agent`: who analyses the result: `agent_id`, `agent_alias_id` and `input_text`, with `{{document.source}}` and
    /// `{{document.result}}`. Default: the `reduce` answer is the analysis.
    pub agent: Option<Agent>,
}

/// A data source of a knowledge base, in the words of an `ingest` job.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Ingest {
    /// The knowledge base.
    pub knowledge_base_id: String,
    /// The data source.
    pub data_source_id: String,
}

/// An agent and what it is told, in the words of an `agent` job.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// The agent.
    pub agent_id: String,
    /// Which of its aliases.
    pub agent_alias_id: String,
    /// What it is told.
    pub input_text: String,
}

impl Pipeline {
    /// What an execution is given for this job.
    pub fn input(&self, job: &Job) -> String {
        #[derive(Serialize)]
        struct Input<'a> {
            job: &'a RawValue,
            #[serde(skip_serializing_if = "Option::is_none")]
            ingest: Option<&'a Ingest>,
            #[serde(skip_serializing_if = "Option::is_none")]
            agent: Option<&'a Agent>,
        }
        // A message is JSON, and the rest are texts: there is nothing here that JSON cannot say.
        let job = RawValue::from_string(job.to_message()).unwrap_or_default();
        let input = Input { job: &job, ingest: self.ingest.as_ref(), agent: self.agent.as_ref() };
        serde_json::to_string(&input).unwrap_or_default()
    }
}

/// Why an upload does not become a job.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoJob {
    /// Nobody is named who could be asked.
    #[error("the [[upload]] rule names no `model`, and there is no default: name one there or as [[model]]")]
    NoModel,
    /// Its digest cannot be an id.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl UploadRule {
    /// Whether it is for the file at this path.
    pub fn is_for(&self, path: &str) -> bool {
        let (path, suffix) = (path.to_lowercase(), self.suffix.to_lowercase());
        path.starts_with(&self.prefix.to_lowercase()) && path.ends_with(&suffix)
    }

    /// The document at this place, done with as it says.
    pub fn document(&self, source: &str) -> Document {
        Document {
            mode: self.mode,
            template: self.template.clone(),
            chunk_tokens: self.chunk_tokens,
            overlap_tokens: self.overlap_tokens,
            partial: self.partial,
            reduce: self.reduce.clone(),
            ..Document::at(source)
        }
    }

    /// The job of this upload; `default` is the model where the rule names none. In batch `-`, as all that comes by the queue
    /// alone.
    ///
    /// # Errors
    /// [`NoJob`].
    pub fn job(&self, upload: &Upload, default: Option<&str>) -> Result<Job, NoJob> {
        let document = Document { version: upload.version().map(str::to_owned), ..self.document(&upload.uri()) };
        let id = JobId::new(&upload.digest().to_string())?;
        self.job_of(id, document, [("bucket", &upload.bucket), ("key", &upload.key)], default)
    }

    /// The job of this file, likewise.
    ///
    /// # Errors
    /// [`NoJob`].
    pub fn job_of_file(&self, file: &DroppedFile, default: Option<&str>) -> Result<Job, NoJob> {
        let document = Document { sha256: file.sha256(), ..self.document(&file.path()) };
        self.job_of(file.id()?, document, [("folder", &file.folder), ("file", &file.name)], default)
    }

    fn job_of(
        &self,
        id: JobId,
        document: Document,
        said: [(&str, &String); 2],
        default: Option<&str>,
    ) -> Result<Job, NoJob> {
        let model = self.model.as_deref().or(default).ok_or(NoJob::NoModel)?;
        let metadata: Map<String, Value> =
            said.into_iter().map(|(name, text)| (name.to_owned(), Value::String(text.clone()))).collect();
        Ok(Job {
            key: JobKey { tenant: Tenant::unnamed(), batch: BatchName::none(), id },
            model: model.to_owned(),
            request: Request::Document(Box::new(document)),
            max_tokens: self.max_tokens.map_or(MaxTokens::Unsaid, MaxTokens::Cap),
            fallback: true,
            deadline: None,
            priority: Priority::default(),
            residency: None,
            callback: None,
            metadata,
        })
    }
}

/// What is done with uploads.
#[derive(Clone, Debug, Default)]
pub struct Uploads {
    rules: Arc<[UploadRule]>,
    default_model: Option<Arc<str>>,
    own: Option<OwnPlace>,
}

/// Where we write ourselves: what lies there is nobody's upload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OwnPlace {
    /// The bucket.
    pub bucket: String,
    /// What our keys there begin with; empty if the whole bucket is ours.
    pub prefix: String,
}

impl Uploads {
    /// By these rules, in their order.
    pub fn new(rules: Vec<UploadRule>, default_model: Option<Arc<str>>, own: Option<OwnPlace>) -> Self {
        Self { rules: rules.into(), default_model, own }
    }

    /// The rule that this upload is done with, if one fits.
    pub fn rule_for(&self, upload: &Upload) -> Option<&UploadRule> {
        let is_there = |rule: &&UploadRule| match &rule.origin {
            Origin::Any => true,
            Origin::Bucket(bucket) => *bucket == upload.bucket,
            Origin::Folder(_) => false,
        };
        self.rules.iter().filter(is_there).find(|rule| rule.is_for(&upload.key))
    }

    /// The model of rules that name none.
    pub fn default_model(&self) -> Option<&str> {
        self.default_model.as_deref()
    }

    /// Whether we put it there ourselves: what came out must not go in again.
    pub fn is_own(&self, upload: &Upload) -> bool {
        self.own.as_ref().is_some_and(|own| upload.bucket == own.bucket && upload.key.starts_with(&own.prefix))
    }
}

impl OwnPlace {
    /// How the names of our objects end.
    const ENDINGS: [&'static str; 2] = [".jsonl", ".json"];

    /// Whether this rule would be for objects of ours, or for nothing else: such a rule is a mistake, since what lies here is
    /// never taken for an upload.
    pub fn is_met_by(&self, rule: &UploadRule) -> bool {
        let names_it = match &rule.origin {
            Origin::Any => false,
            Origin::Bucket(bucket) if *bucket == self.bucket => true,
            Origin::Bucket(_) | Origin::Folder(_) => return false,
        };
        let [own, prefix, suffix] = [&self.prefix, &rule.prefix, &rule.suffix].map(|text| text.to_lowercase());
        let is_inside = prefix.starts_with(&own) && (!own.is_empty() || names_it);
        let meets = prefix.starts_with(&own) || own.starts_with(&prefix);
        let names_ours = Self::ENDINGS.iter().any(|ours| ours.ends_with(&suffix) || suffix.ends_with(ours));
        is_inside || (meets && names_ours)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn upload(key: &str, revision: Revision) -> Upload {
        Upload { bucket: "drop".to_owned(), key: key.to_owned(), revision }
    }

    fn version(id: &str) -> Revision {
        Revision::Version(id.to_owned())
    }

    fn sequencer(number: &str) -> Revision {
        Revision::Sequencer(number.to_owned())
    }

    fn rule(prefix: &str, suffix: &str) -> UploadRule {
        UploadRule {
            origin: Origin::Any,
            prefix: prefix.to_owned(),
            suffix: suffix.to_owned(),
            model: Some("haiku".into()),
            template: None,
            mode: Mode::default(),
            chunk_tokens: None,
            overlap_tokens: None,
            partial: Partial::default(),
            reduce: None,
            max_tokens: None,
            pipeline: None,
        }
    }

    #[test]
    fn w8_an_upload_is_its_bucket_its_key_and_its_version_or_sequencer() {
        let base = upload("in/a.pdf", version("v1"));
        assert_eq!(base.digest(), base.clone().digest());
        for other in [
            Upload { bucket: "other".to_owned(), ..base.clone() },
            upload("in/b.pdf", version("v1")),
            upload("in/a.pdf", version("v2")),
            // The same text, but of another kind.
            upload("in/a.pdf", sequencer("v1")),
            // The border between two parts is elsewhere.
            Upload { bucket: "dropin/".to_owned(), key: "a.pdf".to_owned(), revision: version("v1") },
        ] {
            assert_ne!(other.digest(), base.digest(), "{other:?}");
        }
    }

    #[test]
    fn w8_the_first_rule_that_fits_makes_it_a_job_that_names_bucket_key_and_version() {
        let elsewhere = UploadRule { origin: Origin::Bucket("elsewhere".to_owned()), ..rule("in/", "") };
        let sonnet = UploadRule {
            model: None,
            template: Some("Sum up {{chunk}}".to_owned()),
            max_tokens: NonZeroU32::new(7),
            ..rule("in/", ".pdf")
        };
        let uploads = Uploads::new(vec![elsewhere, sonnet, rule("in/", "")], Some("sonnet".into()), None);
        let upload = upload("in/Ü b+c.PDF", version("v1"));
        let job = uploads.rule_for(&upload).unwrap().job(&upload, uploads.default_model()).unwrap();
        let message: Value = serde_json::from_str(&job.to_message()).unwrap();
        assert_eq!(
            message,
            json!({
                "id": upload.digest().to_string(), "batch": "-", "tenant": "default", "model": "sonnet", "max_tokens": 7,
                "document": { "source": "s3://drop/in/Ü b+c.PDF", "version": "v1", "template": "Sum up {{chunk}}" },
                "metadata": { "bucket": "drop", "key": "in/Ü b+c.PDF" },
            })
        );
        let without = super::tests::upload("in/x.docx", sequencer("0055"));
        let job = uploads.rule_for(&without).unwrap().job(&without, None).unwrap();
        assert!(job.to_message().contains(r#""document":{"source":"s3://drop/in/x.docx"}"#), "{}", job.to_message());
        assert_eq!(uploads.rule_for(&super::tests::upload("out/x.pdf", version("v1"))), None);
        let nobody = rule("", "");
        let nobody = UploadRule { model: None, ..nobody };
        assert_eq!(nobody.job(&without, None), Err(NoJob::NoModel));
    }

    #[test]
    fn w8_what_we_wrote_ourselves_is_nobodys_upload() {
        let own = OwnPlace { bucket: "drop".to_owned(), prefix: "aquifer/".to_owned() };
        let uploads = Uploads::new(Vec::new(), None, Some(own.clone()));
        assert!(uploads.is_own(&upload("aquifer/results/x.jsonl", version("v"))));
        assert!(!uploads.is_own(&upload("aquifers/x.pdf", version("v"))));
        let elsewhere = Upload { bucket: "b".to_owned(), ..upload("aquifer/x.pdf", version("v")) };
        assert!(!uploads.is_own(&elsewhere));

        for (prefix, suffix, bucket, is_mistake) in [
            ("inbox/", "", None, false),
            ("", ".pdf", None, false),
            ("", "", None, true),
            ("", ".JSON", None, true),
            ("aqui", "l", None, true),
            ("aquifer/inbox/", ".pdf", None, true),
            ("", "", Some("other"), false),
            ("", "", Some("drop"), true),
            ("aquifer/inbox/", ".pdf", Some("other"), false),
        ] {
            let origin = bucket.map_or(Origin::Any, |bucket| Origin::Bucket(bucket.to_owned()));
            let rule = UploadRule { origin, ..rule(prefix, suffix) };
            assert_eq!(own.is_met_by(&rule), is_mistake, "{prefix:?} {suffix:?} {bucket:?}");
        }
        let whole = OwnPlace { prefix: String::new(), ..own };
        assert!(!whole.is_met_by(&rule("inbox/", ".pdf")), "of another bucket it may be");
        assert!(whole.is_met_by(&UploadRule { origin: Origin::Bucket("drop".to_owned()), ..rule("inbox/", ".pdf") }));
    }

    #[test]
    fn w7_an_execution_is_given_the_job_as_it_is_queued_and_what_its_rule_says_besides() {
        let upload = upload("in/a.pdf", version("v1"));
        let job = rule("", "").job(&upload, None).unwrap();
        let bare = Pipeline { state_machine: "arn".to_owned(), ingest: None, agent: None };
        let said: Value = serde_json::from_str(&bare.input(&job)).unwrap();
        assert_eq!(said, json!({ "job": serde_json::from_str::<Value>(&job.to_message()).unwrap() }));
        let [knowledge_base_id, data_source_id, agent_id, agent_alias_id, input_text] =
            ["kb", "ds", "a", "b", "{{document.source}}"].map(str::to_owned);
        let ingest = Some(Ingest { knowledge_base_id, data_source_id });
        let agent = Some(Agent { agent_id, agent_alias_id, input_text });
        let said: Value = serde_json::from_str(&Pipeline { ingest, agent, ..bare }.input(&job)).unwrap();
        assert_eq!(said["ingest"], json!({ "knowledge_base_id": "kb", "data_source_id": "ds" }));
        assert_eq!(said["agent"], json!({ "agentId": "a", "agentAliasId": "b", "inputText": "{{document.source}}" }));
    }
}
