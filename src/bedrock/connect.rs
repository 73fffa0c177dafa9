//! With what is Bedrock reached? Clients, credentials and connections, and everything that can be found wrong with
//! them before a job is queued.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use aws_config::default_provider::region::DefaultRegionChain;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_bedrockruntime::config;
use aws_smithy_http_client::pool::{self, ConnectionPool};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use hyper::Uri;

use super::{Client, Credentials, Endpoint};

/// Connections that take longer are given up: a call that never left costs nothing, and another lane may be well.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Gateways drop connections that are silent for 350 s, without a word; AWS suggests this (source: "Troubleshooting
/// Amazon Bedrock API Error Codes").
const KEEP_ALIVE: Duration = Duration::from_secs(45);
/// Off EC2, asking the instance for credentials would hang far longer.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);
/// Likewise for its region.
const REGION_TIMEOUT: Duration = Duration::from_secs(1);
/// A host that is merely slow to accept is not a wrong one.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there can be no calls at all. Each message says what to set.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No endpoint was given.
    #[error("no region: set AWS_REGION, or `region` of an [[endpoint]] in aquifer.toml")]
    NoRegion,
    /// Not the name of a region.
    #[error("`{region}` is no AWS region: set AWS_REGION to a name like us-east-1")]
    BadRegion {
        /// As given.
        region: String,
    },
    /// Two endpoints for one region.
    #[error("two endpoints for {region}: keep one [[endpoint]] for each region")]
    RegionTwice {
        /// The region.
        region: Arc<str>,
    },
    /// Not a URL that can be called.
    #[error("`{url}` is no endpoint URL ({why}): set {key} to http(s)://host[:port], or leave it out")]
    BadEndpointUrl {
        /// As given.
        url: String,
        /// Where it was given.
        key: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nobody answers there.
    #[error("nobody answers at {url} ({why}): start what should listen there, or set `endpoint_url` to what does")]
    Unreachable {
        /// As given.
        url: String,
        /// What the system said.
        why: String,
    },
    /// No credentials could be loaded.
    #[error(
        "no AWS credentials ({why}): set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
         AWS_BEARER_TOKEN_BEDROCK; after `aws sso login` expired, log in again; --simulate needs none"
    )]
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

/// The region as the SDK finds it: `AWS_REGION`, `AWS_DEFAULT_REGION`, the profile, the instance; takes 1 s at most.
pub async fn default_region() -> Option<String> {
    let chain = DefaultRegionChain::builder().build();
    let region = tokio::time::timeout(REGION_TIMEOUT, chain.region()).await.ok().flatten()?;
    Some(region.as_ref().to_owned()).filter(|region| !region.is_empty())
}

/// What can be found wrong without asking anybody.
pub(super) fn check(endpoints: &[Endpoint], credentials: Credentials) -> Result<(), ConnectError> {
    if endpoints.is_empty() {
        return Err(ConnectError::NoRegion);
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let region = &endpoint.region;
        let in_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if region.is_empty() || !region.chars().all(in_name) {
            return Err(ConnectError::BadRegion { region: region.to_string() });
        }
        if endpoints[..index].iter().any(|earlier| earlier.region == *region) {
            return Err(ConnectError::RegionTwice { region: Arc::clone(region) });
        }
        match (&endpoint.endpoint_url, credentials) {
            (Some(url), _) => check_url(url, "`endpoint_url`")?,
            (None, Credentials::Simulator) => {
                let why = "the simulator has no default";
                return Err(ConnectError::BadEndpointUrl { url: String::new(), key: "`endpoint_url`", why });
            }
            (None, Credentials::FromEnvironment) => check_url_of_environment()?,
        }
    }
    Ok(())
}

/// One pool for all endpoints: unlimited connections, as the flow already bounds the calls in flight.
pub(super) fn http_client(credentials: Credentials) -> Result<SharedHttpClient, ConnectError> {
    let pool = ConnectionPool::builder().tcp_keepalive(KEEP_ALIVE).tcp_nodelay(true);
    let pool = match credentials {
        // Never through a proxy, and without the tens of milliseconds that loading CA certificates takes.
        Credentials::Simulator => pool.build_http(),
        Credentials::FromEnvironment => {
            pool.proxy_config(ProxyConfig::from_env()).tls_provider(Provider::rustls(CryptoMode::AwsLc)).build_https()
        }
    };
    let pool = pool.map_err(|error| ConnectError::Https { why: in_words(&error) })?;
    let client = pool::Client::new(&pool).map_err(|error| ConnectError::Https { why: in_words(&error) })?;
    Ok(SharedHttpClient::new(client))
}

/// One client an endpoint, with credentials loaded just now.
pub(super) async fn clients(
    endpoints: &[Endpoint],
    credentials: Credentials,
    http: &SharedHttpClient,
) -> Result<BTreeMap<Arc<str>, Client>, ConnectError> {
    let shared = match credentials {
        Credentials::FromEnvironment => Some(environment(endpoints, http).await?),
        Credentials::Simulator => None,
    };
    let shared = shared.unwrap_or_else(dummy);
    let client = |endpoint: &Endpoint| {
        let config = shared
            .to_builder()
            .region(Region::new(endpoint.region.to_string()))
            .http_client(http.clone())
            // Every HTTP request is counted, paid for and paced; one that the SDK repeats would not be.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts())
            // A model that thinks for minutes before its first byte is not a stalled stream.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .build();
        let mut models = config::Builder::from(&config);
        let mut agents = aws_sdk_bedrockagentruntime::config::Builder::from(&config);
        if let Some(url) = &endpoint.endpoint_url {
            // Said to the clients themselves: it comes before whatever the environment says of their services.
            models = models.endpoint_url(url);
            agents = agents.endpoint_url(url);
        }
        Client {
            models: aws_sdk_bedrockruntime::Client::from_conf(models.build()),
            agents: aws_sdk_bedrockagentruntime::Client::from_conf(agents.build()),
        }
    };
    Ok(endpoints.iter().map(|endpoint| (Arc::clone(&endpoint.region), client(endpoint))).collect())
}

/// With fixed dummy keys, and nothing of the environment.
pub(super) fn dummy() -> SdkConfig {
    let credentials = config::Credentials::new("simulator", "simulator", None, None, "simulator");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}

/// Finds an endpoint URL that leads nowhere. Only what is certain counts: a name that does not resolve, a port that
/// refuses. Behind a proxy this machine cannot tell.
pub(super) async fn probe(endpoints: &[Endpoint]) -> Result<(), ConnectError> {
    let proxied = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
        .into_iter()
        .any(|key| std::env::var_os(key).is_some_and(|value| !value.is_empty()));
    for url in endpoints.iter().filter_map(|endpoint| endpoint.endpoint_url.as_deref()) {
        let Some((host, port)) = address(url) else { continue };
        let local = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        if proxied && !local {
            continue;
        }
        if let Ok(Err(error)) = tokio::time::timeout(PROBE_TIMEOUT, tokio::net::TcpStream::connect((host, port))).await
        {
            return Err(ConnectError::Unreachable { url: url.to_owned(), why: error.to_string() });
        }
    }
    Ok(())
}

/// An error and its causes, in one line.
pub(super) fn in_words(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let mut words: Vec<String> = causes.map(ToString::to_string).collect();
    // Many wrappers say what their cause says.
    words.dedup_by(|next, previous| previous.contains(next.as_str()));
    words.join(": ")
}

async fn environment(endpoints: &[Endpoint], http: &SharedHttpClient) -> Result<SdkConfig, ConnectError> {
    let no_credentials = |why: String| ConnectError::NoCredentials { why };
    let first = endpoints.first().ok_or(ConnectError::NoRegion)?;
    let loading = async {
        let shared = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(first.region.to_string()))
            .http_client(http.clone())
            .load()
            .await;
        // With a Bedrock API key nothing else is asked.
        if has_api_key() {
            return Ok(shared);
        }
        let provider = shared.credentials_provider().ok_or_else(|| no_credentials("no provider".to_owned()))?;
        provider.provide_credentials().await.map_err(|error| no_credentials(in_words(&error)))?;
        Ok(shared)
    };
    let waited = format!("none found within {} s", CREDENTIALS_TIMEOUT.as_secs());
    tokio::time::timeout(CREDENTIALS_TIMEOUT, loading).await.map_err(|_| no_credentials(waited))?
}

/// Whether calls carry a Bedrock API key instead of a signature. The service takes one for models, not for agents.
pub(super) fn has_api_key() -> bool {
    std::env::var_os("AWS_BEARER_TOKEN_BEDROCK").is_some_and(|token| !token.is_empty())
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        // The call's own deadline bounds everything else, whatever a profile says.
        .disable_read_timeout()
        .disable_operation_timeout()
        .disable_operation_attempt_timeout()
        .build()
}

fn check_url(url: &str, key: &'static str) -> Result<(), ConnectError> {
    let bad = |why| Err(ConnectError::BadEndpointUrl { url: url.to_owned(), key, why });
    let Ok(uri) = url.parse::<Uri>() else { return bad("not a URL") };
    match uri.scheme_str() {
        Some("http" | "https") => {}
        Some(_) => return bad("neither http nor https"),
        None => return bad("no http:// or https://"),
    }
    if uri.host().is_none_or(str::is_empty) {
        return bad("no host");
    }
    if uri.query().is_some() {
        return bad("it has a query");
    }
    Ok(())
}

fn check_url_of_environment() -> Result<(), ConnectError> {
    let ignored = std::env::var("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_ok_and(|v| v.eq_ignore_ascii_case("true"));
    let keys = ["AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "AWS_ENDPOINT_URL_BEDROCK_AGENT_RUNTIME", "AWS_ENDPOINT_URL"];
    for key in keys.into_iter().filter(|_| !ignored) {
        if let Ok(url) = std::env::var(key)
            && !url.is_empty()
        {
            check_url(&url, key)?;
        }
    }
    Ok(())
}

fn address(url: &str) -> Option<(String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some((host, uri.port_u16().unwrap_or(default)))
}
