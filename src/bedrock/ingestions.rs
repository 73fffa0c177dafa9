//! How are knowledge bases brought up to date? [`Ingestions`] on the SDK of the control plane, which knows of agents as well.
//!
//! Connected when it is first asked: most work ingests nothing. What the service takes for nobody's is asked next by a client with
//! credentials that are loaded anew, as models are. Unlike calls to models nothing here is paid by the call, so the SDK may
//! repeat what it thinks worth repeating.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_bedrockagent::Client;
use aws_sdk_bedrockagent::error::ProvideErrorMetadata;
use aws_sdk_bedrockagent::operation::RequestId as _;
use aws_sdk_bedrockagent::types::{
    IngestionJobSortBy, IngestionJobSortByAttribute, IngestionJobStatistics, IngestionJobStatus, IngestionJobSummary,
    SortOrder,
};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use serde_json::json;
use tokio::sync::Mutex;

use super::connect::{self, default_region};
use super::wire::{Body, Left, Seen};
use super::{Bedrock, Credentials, Endpoint, errors};
use crate::job::agent::{AgentId, AliasId};
use crate::job::failure::{Class, Failure};
use crate::job::ingest::{Counts, DataSource, IngestToken, Ingestion, Phase};
use crate::job::units::Timestamp;
use crate::ports::{Begun, Ingestions};

/// One look is to be over well before the lease of its job.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Models go on being called with it, so that nothing waits for other credentials.
const ONLY_A_KEY: &str =
    "a Bedrock API key calls models alone: knowledge bases need credentials of AWS beside AWS_BEARER_TOKEN_BEDROCK";
/// Only one ingestion runs at a time, so that what runs is among so many of the newest, and with it what ended lately.
const NEWEST: i32 = 50;

/// The control plane of knowledge bases, in one region.
pub struct KnowledgeBases {
    pub(super) endpoint: Endpoint,
    pub(super) credentials: Credentials,
    pub(super) is_fallback: bool,
    pub(super) http: Option<SharedHttpClient>,
    pub(super) client: Mutex<Option<Client>>,
}

impl KnowledgeBases {
    /// In the region of this endpoint; where it has no URL, at `AWS_ENDPOINT_URL_BEDROCK_AGENT`, `AWS_ENDPOINT_URL`, what the
    /// profile says, else the region's own address.
    pub fn new(endpoint: Endpoint, credentials: Credentials) -> Self {
        Self { endpoint, credentials, is_fallback: false, http: None, client: Mutex::new(None) }
    }

    /// Beside these models, on their connections: in the region that the SDK would use, and in this one if it finds none.
    pub fn beside(models: &Bedrock, region: Arc<str>) -> Self {
        let endpoint = Endpoint { region, endpoint_url: None };
        let http = Some(models.http.clone());
        Self { is_fallback: true, http, ..Self::new(endpoint, models.credentials) }
    }

    /// What the service says of an agent's alias, in a word such as `PREPARED`: whether it is there, without asking it anything.
    ///
    /// # Errors
    /// [`Failure`]: it is not there, may not be looked at, or the service does not answer.
    pub async fn agent_alias(&self, agent: &AgentId, alias: &AliasId) -> Result<String, Failure> {
        let left = Left::default();
        let asked = self.client().await?.get_agent_alias().agent_id(agent.as_str()).agent_alias_id(alias.as_str());
        let told = self.judged(asked.customize().interceptor(left.clone()).send().await, &left).await?;
        Ok(told.agent_alias().map(|alias| alias.agent_alias_status().to_string()).unwrap_or_default())
    }

    async fn client(&self) -> Result<Client, Failure> {
        let mut client = self.client.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        Ok(client.insert(self.connect().await?).clone())
    }

    async fn connect(&self) -> Result<Client, Failure> {
        let http = match &self.http {
            Some(http) => http.clone(),
            None => connect::http_client(self.credentials)
                .map_err(|error| Failure::new(Class::Unknown, error.to_string()))?,
        };
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT).build();
        let given = || self.endpoint.region.to_string();
        let shared = match self.credentials {
            Credentials::FromEnvironment => {
                let home = if self.is_fallback { default_region().await } else { None };
                let region = home.unwrap_or_else(given);
                let chain = aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone());
                chain.region(Region::new(region)).load().await
            }
            Credentials::Simulator => connect::dummy().to_builder().region(Region::new(given())).build(),
        };
        let shared = shared
            .to_builder()
            .http_client(http)
            .retry_config(RetryConfig::standard())
            .timeout_config(timeouts)
            .build();
        let mut config = aws_sdk_bedrockagent::config::Builder::from(&shared);
        if let Some(url) = &self.endpoint.endpoint_url {
            config = config.endpoint_url(url);
        }
        Ok(Client::from_conf(config.build()))
    }

    /// The answer, or why there is none. Credentials that were refused are loaded anew before the next question.
    async fn judged<T, E>(&self, told: Result<T, SdkError<E, HttpResponse>>, left: &Left) -> Result<T, Failure>
    where
        E: Error + ProvideErrorMetadata + 'static,
    {
        let error = match told {
            Ok(told) => return Ok(told),
            Err(error) => error,
        };
        let failure = failure(&error, left);
        if failure.class != Class::Credentials {
            return Err(failure);
        }
        *self.client.lock().await = None;
        if connect::has_api_key() {
            return Err(Failure::new(Class::Denied, ONLY_A_KEY));
        }
        Err(failure)
    }
}

impl fmt::Debug for KnowledgeBases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnowledgeBases").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[async_trait]
impl Ingestions for KnowledgeBases {
    async fn region(&self) -> String {
        let region = match self.client().await {
            Ok(client) => client.config().region().map(ToString::to_string),
            Err(_) => None,
        };
        region.unwrap_or_default()
    }

    async fn newest(&self, source: &DataSource) -> Result<Vec<Ingestion>, Failure> {
        let by = IngestionJobSortBy::builder()
            .attribute(IngestionJobSortByAttribute::StartedAt)
            .order(SortOrder::Descending)
            .build()
            .map_err(|error| Failure::new(Class::Unknown, error.to_string()))?;
        let left = Left::default();
        let listed = self
            .client()
            .await?
            .list_ingestion_jobs()
            .knowledge_base_id(source.knowledge_base_id.as_str())
            .data_source_id(source.data_source_id.as_str())
            .sort_by(by)
            .max_results(NEWEST)
            .customize()
            .interceptor(left.clone())
            .send()
            .await;
        let listed = self.judged(listed, &left).await?;
        let mut newest: Vec<Ingestion> = listed.ingestion_job_summaries().iter().map(ingestion).collect();
        newest.sort_by_key(|ingestion| std::cmp::Reverse(ingestion.began));
        Ok(newest)
    }

    async fn begin(&self, source: &DataSource, token: &IngestToken) -> Result<Begun, Failure> {
        let left = Left::default();
        let begun = self
            .client()
            .await?
            .start_ingestion_job()
            .knowledge_base_id(source.knowledge_base_id.as_str())
            .data_source_id(source.data_source_id.as_str())
            .client_token(token.as_str())
            .description(Ingestion::description(token))
            .customize()
            .interceptor(left.clone())
            .send()
            .await;
        // One at a time for a data source and for a knowledge base: it ends. The account's limit may be one that stays.
        if let Err(error) = &begun
            && error.as_service_error().is_some_and(|refused| refused.is_conflict_exception())
        {
            return Ok(Begun::Busy);
        }
        self.judged(begun, &left).await.map(|_| Begun::Yes)
    }

    async fn reasons(&self, source: &DataSource, id: &str) -> Result<Vec<String>, Failure> {
        let left = Left::default();
        let told = self
            .client()
            .await?
            .get_ingestion_job()
            .knowledge_base_id(source.knowledge_base_id.as_str())
            .data_source_id(source.data_source_id.as_str())
            .ingestion_job_id(id)
            .customize()
            .interceptor(left.clone())
            .send()
            .await;
        let told = self.judged(told, &left).await?;
        Ok(told.ingestion_job().map(|job| job.failure_reasons().to_vec()).unwrap_or_default())
    }
}

fn ingestion(job: &IngestionJobSummary) -> Ingestion {
    Ingestion {
        id: job.ingestion_job_id().to_owned(),
        token: job.description().and_then(Ingestion::token_in),
        phase: match job.status() {
            IngestionJobStatus::Complete => Phase::Complete,
            IngestionJobStatus::Failed | IngestionJobStatus::Stopped => Phase::Failed,
            // What is not known yet has not ended yet.
            _ => Phase::Running,
        },
        began: Timestamp(job.started_at().to_millis().unwrap_or_default()),
        counts: job.statistics().map(counts).unwrap_or_default(),
    }
}

fn counts(statistics: &IngestionJobStatistics) -> Counts {
    let count = |documents: i64| documents.unsigned_abs();
    Counts {
        documents_scanned: count(statistics.number_of_documents_scanned()),
        new_documents_indexed: count(statistics.number_of_new_documents_indexed()),
        modified_documents_indexed: count(statistics.number_of_modified_documents_indexed()),
        documents_deleted: count(statistics.number_of_documents_deleted()),
        documents_failed: count(statistics.number_of_documents_failed()),
    }
}

/// By the table that calls to models are judged by.
fn failure<E>(error: &SdkError<E, HttpResponse>, left: &Left) -> Failure
where
    E: Error + ProvideErrorMetadata + 'static,
{
    let SdkError::ServiceError(refused) = error else { return errors::unanswered(error, left.is_so()).failure };
    let code = refused.err().code().map(|code| ("x-amzn-errortype".to_owned(), code.to_owned()));
    let id = error.request_id().map(|id| ("x-amzn-requestid".to_owned(), id.to_owned()));
    let seen = Seen {
        status: refused.raw().status().as_u16(),
        headers: code.into_iter().chain(id).collect(),
        body: Body::Json(json!({ "message": refused.err().message().unwrap_or_default() })),
    };
    errors::refused(&seen, b"{}").failure
}
