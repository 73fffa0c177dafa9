//! How is the model called? [`Model`] on the Bedrock SDK.
//!
//! The SDK does what is hard to do well: credentials, signing, endpoints, TLS, a pool of connections. Everything
//! that must be *exactly one HTTP request with exactly this body* is taken out of its hands: retries are off, the
//! body of a job replaces what the SDK would serialise (`wire`), and answers (`answers`) and errors (`errors`) are
//! read from the bytes of the response. A job holds any Converse JSON, also what the SDK's types do not know yet;
//! translating it through them would lose it. An agent's answer is a stream of events (`events`).

mod answers;
mod connect;
mod errors;
mod events;
mod ingestions;
mod redact;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use crate::job::failure::{Class, Failure};
use crate::ports::{Answer, Billing, CallBody, CallFailure, Model, ModelCall};

use wire::Exchanged;

pub use connect::{ConnectError, default_region};
pub use ingestions::KnowledgeBases;

/// Where Bedrock is called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// The region; calls find their endpoint by it.
    pub region: Arc<str>,
    /// `http(s)://host[:port]`, for models and agents; `None` means the SDK's usual way (`AWS_ENDPOINT_URL_BEDROCK_RUNTIME`,
    /// `AWS_ENDPOINT_URL_BEDROCK_AGENT_RUNTIME`, `AWS_ENDPOINT_URL`, the profile, else the region's own).
    pub endpoint_url: Option<String>,
}

/// Who signs the calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Credentials {
    /// The SDK's usual chain: environment, profile, SSO, web identity, container, instance; or a Bedrock API key in
    /// `AWS_BEARER_TOKEN_BEDROCK`.
    FromEnvironment,
    /// Fixed dummy keys for the simulator in this process; nothing is read from the environment.
    Simulator,
}

/// The model service behind the Bedrock SDK: one client an endpoint, all on one pool of connections.
pub struct Bedrock {
    http: SharedHttpClient,
    endpoints: Vec<Endpoint>,
    credentials: Credentials,
    clients: RwLock<Clients>,
}

type Clients = Arc<BTreeMap<Arc<str>, Client>>;

/// What calls the models of one endpoint, and what its agents.
#[derive(Clone, Debug)]
struct Client {
    models: aws_sdk_bedrockruntime::Client,
    agents: aws_sdk_bedrockagentruntime::Client,
}

impl Bedrock {
    /// Makes the clients. Credentials are loaded once, so that missing ones are found before anything is queued; that
    /// takes 5 s at most. No call is made.
    ///
    /// # Errors
    ///
    /// Each says what to set.
    pub async fn connect(endpoints: Vec<Endpoint>, credentials: Credentials) -> Result<Self, ConnectError> {
        connect::check(&endpoints, credentials)?;
        let http = connect::http_client(credentials)?;
        let clients = connect::clients(&endpoints, credentials, &http).await?;
        connect::probe(&endpoints).await?;
        Ok(Self { http, endpoints, credentials, clients: RwLock::new(Arc::new(clients)) })
    }

    fn client(&self, region: &str) -> Option<Client> {
        self.clients.read().unwrap_or_else(PoisonError::into_inner).get(region).cloned()
    }
}

impl fmt::Debug for Bedrock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bedrock")
            .field("endpoints", &self.endpoints)
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Model for Bedrock {
    async fn call(&self, call: ModelCall) -> Result<Answer, CallFailure> {
        let Some(client) = self.client(&call.lane.region) else {
            let failure = Failure::new(Class::Denied, format!("no endpoint is configured for {}", call.lane.region));
            return Err(CallFailure { failure, billing: Billing::Nothing, retry_after: None });
        };
        let exchanged = match tokio::time::timeout(call.timeout, wire::exchange(&client, &call.lane, &call.body)).await
        {
            Ok(exchanged) => exchanged?,
            Err(_) => return Err(errors::out_of_time(call.timeout)),
        };
        let Exchanged { seen, stream } = exchanged;
        let request = wire::told(&call.body);
        if seen.is_error() {
            return Err(errors::refused(&seen, &request));
        }
        match &call.body {
            CallBody::Converse(_) => answers::converse(&seen),
            CallBody::Invoke(_) => answers::invoke(&seen),
            CallBody::Agent(_) => events::agent(&seen, stream, &request),
        }
    }

    /// Bounded like [`Bedrock::connect`]; clients and their connections go on with the new credentials.
    async fn refresh_credentials(&self) -> Result<(), String> {
        let fresh = connect::clients(&self.endpoints, self.credentials, &self.http).await;
        let fresh = fresh.map_err(|error| error.to_string())?;
        *self.clients.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        Ok(())
    }
}
