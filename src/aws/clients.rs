//! With what are the services reached? One SDK client each, on the SDK's own chain of credentials and region.

use std::error::Error;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_http_client::pool::{self, ConnectionPool};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::SharedHttpClient;

/// A service that takes longer to accept a connection is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is waited for; a long poll takes 20 s of it.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// Off EC2, asking the instance for credentials would hang far longer.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);

/// Which queue, table, bucket and topic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Where jobs come from.
    pub queue_url: String,
    /// Where messages go that are no jobs, and poison.
    pub dead_letter_url: String,
    /// The DynamoDB table of the ledger.
    pub table: String,
    /// The bucket of results, rolls, manifests and claim checks.
    pub bucket: String,
    /// What every key in it begins with; empty, or ends with `/`.
    pub prefix: String,
    /// Where notices go; `None` publishes none.
    pub topic_arn: Option<String>,
    /// How result lines are stored.
    pub results: Results,
    /// How long the row of an ended job is kept: so long the same job sent again is not run again.
    pub keep: Duration,
}

/// How result lines are stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Results {
    /// Many to an object: a million results cost thousands of requests.
    Segment,
    /// One to an object: a million results cost a million requests.
    Object,
}

/// Services that are not Amazon's own: an emulator, or a proxy before it. Nothing is read from the
/// environment then.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Emulated {
    /// Where all of them answer, as `http://127.0.0.1:4566`.
    pub endpoint_url: String,
    /// Where DynamoDB answers instead, if it is another's.
    pub dynamodb_url: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
    /// The access key id. The secret is `test`: an emulator does not look, and Amazon would refuse it.
    pub access_key_id: String,
}

/// Why the services cannot be called at all. Each message says what to set.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The SDK finds no region.
    #[error("no region for SQS, DynamoDB, S3 and SNS: set AWS_REGION, or `region` in the AWS profile")]
    NoRegion,
    /// The SDK finds no credentials.
    #[error("no AWS credentials: {why}")]
    NoCredentials {
        /// What the chain of providers said.
        why: String,
    },
    /// The HTTP client could not be made.
    #[error("cannot set up HTTPS ({why}): check that the system's CA certificates are installed")]
    Https {
        /// What the library said.
        why: String,
    },
}

/// One client a service, all on one pool of connections.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    pub(super) sqs: aws_sdk_sqs::Client,
    pub(super) dynamodb: aws_sdk_dynamodb::Client,
    pub(super) s3: aws_sdk_s3::Client,
    pub(super) sns: aws_sdk_sns::Client,
    pub(super) sfn: aws_sdk_sfn::Client,
}

impl Clients {
    /// From the environment, as every AWS tool does; an endpoint of one's own (`AWS_ENDPOINT_URL`) included.
    pub(super) async fn connect() -> Result<Self, ConnectError> {
        let config = tokio::time::timeout(CREDENTIALS_TIMEOUT, environment()).await.map_err(|_| {
            let why = format!("none found within {} s", CREDENTIALS_TIMEOUT.as_secs());
            ConnectError::NoCredentials { why }
        })??;
        // A host that is no name of the service's own, such as an emulator's, cannot have the bucket put before it.
        let by_path = config.endpoint_url().is_some() || std::env::var_os("AWS_ENDPOINT_URL_S3").is_some();
        Ok(Self::with(&config, by_path))
    }

    /// To one address, with what is given and nothing else.
    pub(super) fn connect_to(emulated: &Emulated) -> Self {
        let credentials = Credentials::new(&emulated.access_key_id, "test", None, None, "Emulated");
        let mut config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&emulated.endpoint_url)
            .region(Region::new(emulated.region.clone()))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .retry_config(RetryConfig::standard())
            .timeout_config(timeouts());
        if emulated.endpoint_url.starts_with("http://") {
            // Reading the host's root certificates, once a client, is most of what connecting costs.
            config.set_http_client(Some(aws_smithy_http_client::Builder::new().build_http()));
        }
        let mut clients = Self::with(&config.build(), true);
        if let Some(url) = &emulated.dynamodb_url {
            let config = clients.dynamodb.config().to_builder().endpoint_url(url).build();
            clients.dynamodb = aws_sdk_dynamodb::Client::from_conf(config);
        }
        clients
    }

    pub(super) fn with(config: &SdkConfig, s3_by_path: bool) -> Self {
        let s3 = aws_sdk_s3::config::Builder::from(config).force_path_style(s3_by_path).build();
        Self {
            sqs: aws_sdk_sqs::Client::new(config),
            dynamodb: aws_sdk_dynamodb::Client::new(config),
            s3: aws_sdk_s3::Client::from_conf(s3),
            sns: aws_sdk_sns::Client::new(config),
            sfn: aws_sdk_sfn::Client::new(config),
        }
    }
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(ATTEMPT_TIMEOUT).build()
}

fn http_client() -> Result<SharedHttpClient, ConnectError> {
    let pool = ConnectionPool::builder().tcp_nodelay(true).proxy_config(ProxyConfig::from_env());
    let pool = pool.tls_provider(Provider::rustls(CryptoMode::AwsLc)).build_https();
    let pool = pool.map_err(|error| ConnectError::Https { why: in_words(&error) })?;
    let client = pool::Client::new(&pool).map_err(|error| ConnectError::Https { why: in_words(&error) })?;
    Ok(SharedHttpClient::new(client))
}

async fn environment() -> Result<SdkConfig, ConnectError> {
    let config = aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard())
        .timeout_config(timeouts())
        // Left to themselves, clients would have a pool each, and each read the host's root certificates.
        .http_client(http_client()?)
        .load()
        .await;
    if config.region().is_none() {
        return Err(ConnectError::NoRegion);
    }
    let no_credentials = |why: String| ConnectError::NoCredentials { why };
    let provider = config.credentials_provider().ok_or_else(|| no_credentials("no provider".to_owned()))?;
    provider.provide_credentials().await.map_err(|error| no_credentials(in_words(&error)))?;
    Ok(config)
}

/// An error and its causes, in one line.
pub(super) fn in_words(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let mut words: Vec<String> = causes.map(ToString::to_string).collect();
    // Many wrappers say what their cause says.
    words.dedup_by(|next, previous| previous.contains(next.as_str()));
    words.join(": ")
}
