//! Services that answer what a test says, and remember what they were asked: for what no emulator does, such as losing a
//! reply or refusing one item of a transaction.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use serde_json::Value;

use super::Inner;
use super::clients::{Clients, Results, Settings};
use crate::job::units::Timestamp;
use crate::ports::Clock;

/// One request, as it came in.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// The operation.
    pub(super) operation: String,
    /// What it was asked with.
    pub(super) body: Value,
}

/// Status and body; `None` loses the reply.
pub(super) type Said = Option<(u16, Value)>;
type Script = dyn Fn(&Asked) -> Said + Send + Sync;

/// What was asked so far.
#[derive(Clone, Default)]
pub(super) struct Heard(Arc<Mutex<Vec<Asked>>>);

impl Heard {
    /// The bodies of all requests of that operation, in order.
    pub(super) fn of(&self, operation: &str) -> Vec<Value> {
        let asked = self.0.lock().unwrap();
        asked.iter().filter(|asked| asked.operation == operation).map(|asked| asked.body.clone()).collect()
    }
}

/// A fleet on services that answer so. Its clock stands still.
pub(super) fn inner(script: impl Fn(&Asked) -> Said + Send + Sync + 'static) -> (Arc<Inner>, Heard) {
    let heard = Heard::default();
    let service = Service { script: Arc::new(script), heard: heard.clone() };
    let credentials = Credentials::new("test", "test", None, None, "tests");
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url("http://service.invalid")
        .region(Region::from_static("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(SharedHttpClient::new(service))
        .build();
    let settings = Settings {
        queue_url: "http://service.invalid/q".to_owned(),
        dead_letter_url: "http://service.invalid/q-dead".to_owned(),
        table: "aquifer".to_owned(),
        bucket: "bucket".to_owned(),
        prefix: String::new(),
        topic_arn: None,
        results: Results::Segment,
        keep: Duration::from_secs(86_400),
    };
    let clients = Clients::with(&config, true);
    (Arc::new(Inner { clients, settings, clock: Arc::new(Still), epoch: "00ff".to_owned() }), heard)
}

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp(1_795_284_000_000)
    }
}

#[derive(Clone)]
struct Service {
    script: Arc<Script>,
    heard: Heard,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

impl HttpClient for Service {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Service {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let operation = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = operation.rsplit('.').next().unwrap().to_owned();
        let asked = Asked { operation, body: serde_json::from_slice(request.body().bytes().unwrap()).unwrap() };
        let said = (self.script)(&asked);
        self.heard.0.lock().unwrap().push(asked);
        HttpConnectorFuture::ready(match said {
            Some((status, body)) => {
                let body = SdkBody::from(body.to_string());
                Ok(HttpResponse::new(status.try_into().unwrap(), body))
            }
            None => Err(ConnectorError::io("the reply was lost".into())),
        })
    }
}
