//! Which data source is to be brought up to date, and what became of the ingestions of it? The `ingest` of a job, read and
//! checked by hand, so that every complaint names its key.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::agent::resource;
use super::ident::{Digest, JobKey};
use super::units::Timestamp;

resource!(
    /// The id of a knowledge base or of a data source: 10 of `A-Z a-z 0-9` (source: the service model of `StartIngestionJob`).
    ResourceId, (10..=10)
);

/// The `ingest` of a job.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct DataSource {
    /// Which knowledge base.
    pub knowledge_base_id: ResourceId,
    /// Which of its data sources.
    pub data_source_id: ResourceId,
}

impl DataSource {
    const KEYS: [&'static str; 2] = ["knowledge_base_id", "data_source_id"];

    /// Reads what stands under `ingest`.
    ///
    /// # Errors
    /// The first thing wrong, by its key and in words safe to log.
    pub fn read(fields: &Map<String, Value>) -> Result<Self, String> {
        if let Some(unknown) = fields.keys().find(|key| !Self::KEYS.contains(&key.as_str())) {
            let shown: String = unknown.chars().take(40).flat_map(char::escape_debug).collect();
            return Err(format!("unknown key `{shown}` in `ingest`; it has {}", Self::KEYS.join(" and ")));
        }
        let id = |key: &str| {
            let id = fields.get(key).and_then(Value::as_str).and_then(ResourceId::new);
            id.ok_or_else(|| format!("`ingest.{key}` must be a string of 10 letters and digits"))
        };
        Ok(Self { knowledge_base_id: id(Self::KEYS[0])?, data_source_id: id(Self::KEYS[1])? })
    }
}

impl fmt::Display for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.knowledge_base_id, self.data_source_id)
    }
}

/// What an ingestion is begun under: begun again under the same one, it is the same ingestion.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct IngestToken(String);

impl IngestToken {
    /// That of a job; run again by a person, it has another.
    pub fn of(job: &JobKey, generation: u32) -> Self {
        let name = json!([job.tenant, job.batch, job.id, generation]).to_string();
        Self(Digest::of(name.as_bytes()).to_string())
    }

    /// As text: 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How far an ingestion is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// It reads, or is about to begin or to stop.
    Running,
    /// It has read everything that there was when it began.
    Complete,
    /// It failed, or somebody stopped it.
    Failed,
}

/// An ingestion of a data source.
#[derive(Clone, Debug, PartialEq)]
pub struct Ingestion {
    /// The service's id of it.
    pub id: String,
    /// Under what it was begun, if by a job.
    pub token: Option<IngestToken>,
    /// How far it is.
    pub phase: Phase,
    /// When it began, by the service's clock.
    pub began: Timestamp,
    /// What it did so far.
    pub counts: Counts,
}

impl Ingestion {
    /// What `description` an ingestion is begun with, by which its job knows it again.
    pub fn description(token: &IngestToken) -> String {
        format!("{DESCRIBED}{}", token.as_str())
    }

    /// Under which token an ingestion with this description was begun.
    pub fn token_in(description: &str) -> Option<IngestToken> {
        let token = description.strip_prefix(DESCRIBED)?;
        token.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| IngestToken(token.to_owned()))
    }
}

const DESCRIBED: &str = "aquifer ";

/// Documents of a data source, by what an ingestion did to them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// Looked at: new, changed and unchanged ones.
    pub documents_scanned: u64,
    /// New ones that were taken in.
    pub new_documents_indexed: u64,
    /// Changed ones that were taken in.
    pub modified_documents_indexed: u64,
    /// Taken out, for they are gone.
    pub documents_deleted: u64,
    /// That could not be taken in.
    pub documents_failed: u64,
}

/// What an ingestion came to, as the result of a job says it.
pub fn output(source: &DataSource, ingestion: &Ingestion) -> Value {
    json!({
        "knowledge_base_id": source.knowledge_base_id,
        "data_source_id": source.data_source_id,
        "ingestion_job_id": ingestion.id,
        "started_at": ingestion.began.to_string(),
        "statistics": ingestion.counts,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::job::ident::{BatchName, JobId, Tenant};

    #[test]
    fn ids_are_those_of_the_service_and_each_complaint_names_its_key() {
        let read = |value: Value| DataSource::read(value.as_object().unwrap());
        let source = read(json!({ "knowledge_base_id": "KB12345678", "data_source_id": "DS12345678" })).unwrap();
        assert_eq!(source.to_string(), "KB12345678/DS12345678");
        for (bad, says) in [
            (json!({ "knowledge_base_id": "KB12345678" }), "`ingest.data_source_id`"),
            (json!({ "knowledge_base_id": "KB1", "data_source_id": "DS12345678" }), "`ingest.knowledge_base_id`"),
            (json!({ "knowledge_base_id": "KB1234567/", "data_source_id": "DS12345678" }), "10 letters and digits"),
            (json!({ "knowledge_base_id": 7, "data_source_id": "DS12345678" }), "`ingest.knowledge_base_id`"),
            (json!({ "knowledgeBaseId": "KB12345678" }), "unknown key `knowledgeBaseId` in `ingest`"),
        ] {
            assert!(read(bad.clone()).unwrap_err().contains(says), "{bad}");
        }
    }

    #[test]
    fn a_token_is_a_jobs_own_and_is_known_again_by_the_description() {
        let key = |id: &str| JobKey {
            tenant: Tenant::unnamed(),
            batch: BatchName::new("b").unwrap(),
            id: JobId::new(id).unwrap(),
        };
        let token = IngestToken::of(&key("1"), 0);
        assert_eq!(token, IngestToken::of(&key("1"), 0));
        assert_ne!(token, IngestToken::of(&key("2"), 0));
        assert_ne!(token, IngestToken::of(&key("1"), 1), "run again by a person it begins anew");
        // Source: the service model: 33 to 256 letters, digits and hyphens; descriptions have up to 200 characters.
        assert!((33..=256).contains(&token.as_str().len()) && Ingestion::description(&token).len() <= 200);
        assert_eq!(Ingestion::token_in(&Ingestion::description(&token)), Some(token));
        assert_eq!(Ingestion::token_in("nightly"), None);
    }
}
