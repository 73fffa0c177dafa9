//! How do the parts fit together? Settings in, a worker's context out.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::aws::{self, Fleet};
use crate::bedrock::{Bedrock, ConnectError, Credentials, Endpoint, KnowledgeBases};
use crate::config::{self, AwsSettings, EndpointSettings, ModelSettings, ResultObjects, Settings};
use crate::document::Desk;
use crate::embedded::Store;
use crate::flow::context;
use crate::flow::lanes::{CallTimeout, Catalogue, PlanSpec, RouteSpec};
use crate::flow::patience::Patience;
use crate::flow::senders::Senders;
use crate::job::intake::is_plausible_model_id;
use crate::job::units::{Timestamp, Usd};
use crate::job::upload::{Origin, Uploads};
use crate::ports::{Clock, Documents, Ingestions, LaneId, Model, Sources};
use crate::rules::breaker::BreakerRules;
use crate::rules::pace::{Counting, Hypothesis, Limits};
use crate::simulate::{Scenario, Simulator};

use super::args::Places;
use super::exit::Report;

/// The configuration that is looked for where none is named.
const DEFAULT_CONFIG: &str = "aquifer.toml";
/// Where simulated runs keep their state, below the state directory, so that they never mix with real ones.
pub(crate) const SIMULATED: &str = "simulated";

/// The wall clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(jiff::Timestamp::now().as_millisecond())
    }
}

/// The configuration that is read: the one that was named, or the one that is here.
pub(crate) fn config_file(named: Option<&Path>) -> Option<&Path> {
    named.or_else(|| Some(Path::new(DEFAULT_CONFIG)).filter(|file| file.exists()))
}

/// Reads and resolves the configuration.
///
/// # Errors
/// A report that lists everything wrong with it.
pub(crate) fn settings(file: Option<&Path>, simulate: bool) -> Result<Settings, Report> {
    let found = config_file(file);
    let text = match found {
        Some(file) => Some((file.display().to_string(), read(file)?)),
        None => None,
    };
    let environment: BTreeMap<String, String> =
        std::env::vars().filter(|(name, _)| name.starts_with("AQUIFER_")).collect();
    let typed = text.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    let folder = found.and_then(Path::parent).unwrap_or(Path::new(""));
    let read_endpoints = |path: &str| {
        let path = folder.join(path);
        std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let mut settings = config::resolve(typed, &environment, read_endpoints).map_err(Report::usage)?;
    for rule in &mut settings.uploads {
        if let Origin::Folder(watched) = &mut rule.origin {
            *watched = folder.join(&*watched);
        }
    }
    if typed.is_none() && simulate {
        let built_in = config::simulated();
        settings.models = built_in.models;
        if settings.endpoints.is_empty() {
            settings.endpoints = built_in.endpoints;
        }
    }
    Ok(settings)
}

/// Opens a state directory to work in it.
///
/// # Errors
/// A report that names the database.
pub(crate) async fn store(dir: &Path) -> Result<Store, Report> {
    Store::open(dir, Arc::new(SystemClock)).await.map_err(|mut error| {
        error.doing = format!("{} ({})", error.doing, dir.join("aquifer.db").display());
        error.into()
    })
}

/// The same to work with: one that tells who is to be told. What is simulated is nobody else's business.
///
/// # Errors
/// A report, as [`store`]; or this machine has no certificates by which to know who is told.
pub(crate) async fn working_store(dir: &Path, settings: &Settings, is_simulated: bool) -> Result<Store, Report> {
    let store = store(dir).await?;
    match &settings.notify.webhook {
        Some(url) if !is_simulated => Ok(store.telling(url.clone())?),
        Some(_) | None => Ok(store),
    }
}

/// Connects to the services of a fleet.
///
/// # Errors
/// A report: no region, or no credentials.
pub(crate) async fn fleet(settings: &AwsSettings, keep: Duration) -> Result<Fleet, Report> {
    let settings = aws::Settings {
        queue_url: settings.queue_url.clone(),
        dead_letter_url: settings.dead_letter_url.clone(),
        table: settings.table.clone(),
        bucket: settings.bucket.clone(),
        prefix: settings.prefix.clone(),
        topic_arn: settings.topic_arn.clone(),
        results: match settings.results {
            ResultObjects::Segment => aws::Results::Segment,
            ResultObjects::Object => aws::Results::Object,
        },
        keep,
    };
    Fleet::connect(settings, Arc::new(SystemClock)).await.map_err(|error| match error {
        aws::ConnectError::NoCredentials { why } => no_credentials(
            &why,
            "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; renew an expired login with `aws sso login`",
        ),
        other => Report::usage(other),
    })
}

/// Below the first line of what the SDK says stands what each provider in turn did not find.
fn no_credentials(why: &str, hint: &str) -> Report {
    let why = why.lines().next().unwrap_or_default();
    Report::usage(format!("no AWS credentials: {}", why.trim_end_matches(". Attempted:"))).hint(hint)
}

/// The fleet that the configuration names, if it names one: what a command looks at that has no input of its own.
///
/// # Errors
/// A report: the configuration is wrong, or there are no credentials.
pub(crate) async fn configured_fleet(places: &Places) -> Result<Option<Fleet>, Report> {
    let settings = settings(places.config.as_deref(), false)?;
    match &settings.backend {
        config::Backend::Embedded => Ok(None),
        config::Backend::Aws(aws) => Ok(Some(fleet(aws, settings.keep).await?)),
    }
}

/// Reads a small text file that a person named.
///
/// # Errors
/// A report with its path.
pub(crate) fn read(file: &Path) -> Result<String, Report> {
    std::fs::read_to_string(file).map_err(|error| Report::usage(format!("cannot read {}: {error}", file.display())))
}

/// Starts the simulator on a free port of this machine.
///
/// # Errors
/// A report: the scenario is wrong, or no port is to be had.
pub(crate) async fn simulator(listen: SocketAddr, scenario: Option<&PathBuf>) -> Result<Simulator, Report> {
    let scenario = match scenario {
        Some(file) => {
            let text = read(file)?;
            Scenario::from_toml(&text).map_err(|error| Report::usage(format!("{}: {error}", file.display())))?
        }
        None => Scenario::default(),
    };
    crate::simulate::start(listen, scenario)
        .await
        .map_err(|error| Report::usage(format!("the simulator cannot listen on {listen}: {error}")))
}

/// Who answers, and where.
pub(crate) struct Connected {
    pub(crate) model: Arc<dyn Model>,
    /// Who ingests; nobody, where all is simulated.
    pub(crate) ingestions: Option<Arc<dyn Ingestions>>,
    /// The built-in simulator, if that is who answers.
    pub(crate) simulator: Option<Simulator>,
    pub(crate) endpoints: Vec<EndpointSettings>,
}

/// Connects to Bedrock, or to a simulator that is started for it.
///
/// # Errors
/// As [`bedrock`] or [`simulator`].
pub(crate) async fn connect(simulate: Option<&Option<PathBuf>>, settings: &Settings) -> Result<Connected, Report> {
    let endpoints = endpoints(settings, simulate.is_some()).await?;
    let Some(scenario) = simulate else {
        let model = bedrock(&endpoints).await?;
        let ingestions = Some(ingestions(&model, settings));
        return Ok(Connected { model: Arc::new(model), ingestions, simulator: None, endpoints });
    };
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let simulator = simulator(any_port, scenario.as_ref()).await?;
    let model = simulated_bedrock(simulator.address(), &endpoints).await?;
    Ok(Connected { model: Arc::new(model), ingestions: None, simulator: Some(simulator), endpoints })
}

/// The endpoints to call: the configured ones, else the region the SDK would use.
///
/// # Errors
/// A report: there is no region.
pub(crate) async fn endpoints(settings: &Settings, is_simulated: bool) -> Result<Vec<EndpointSettings>, Report> {
    if !settings.endpoints.is_empty() {
        return Ok(settings.endpoints.clone());
    }
    if is_simulated {
        return Ok(vec![EndpointSettings::bare("us-east-1")]);
    }
    let region = crate::bedrock::default_region().await.ok_or_else(|| {
        Report::usage("no region").hint("set AWS_REGION, or name an [[endpoint]] in aquifer.toml, or try --simulate")
    })?;
    Ok(vec![EndpointSettings::bare(&region)])
}

/// Connects to Bedrock, and finds out before anything is queued whether that can work at all.
///
/// # Errors
/// A report: no credentials, or no endpoint can be reached.
pub(crate) async fn bedrock(endpoints: &[EndpointSettings]) -> Result<Bedrock, Report> {
    let bedrock = signed(endpoints).await?;
    reach(endpoints).await?;
    Ok(bedrock)
}

/// Bedrock with somebody to sign the calls; none is made.
///
/// # Errors
/// A report: no credentials.
pub(crate) async fn signed(endpoints: &[EndpointSettings]) -> Result<Bedrock, Report> {
    let connected = Bedrock::connect(to_endpoints(endpoints), Credentials::FromEnvironment).await;
    connected.map_err(|error| match error {
        ConnectError::NoCredentials { why } => no_credentials(
            &why,
            "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_BEARER_TOKEN_BEDROCK; renew an \
             expired login with `aws sso login`; --simulate needs none",
        ),
        other => Report::usage(other),
    })
}

/// Connects to a simulator on this machine.
///
/// # Errors
/// A report, if the address is no endpoint.
pub(crate) async fn simulated_bedrock(address: SocketAddr, endpoints: &[EndpointSettings]) -> Result<Bedrock, Report> {
    let mut endpoints = to_endpoints(endpoints);
    for endpoint in &mut endpoints {
        endpoint.endpoint_url = Some(format!("http://{address}"));
    }
    Bedrock::connect(endpoints, Credentials::Simulator).await.map_err(Report::usage)
}

fn to_endpoints(endpoints: &[EndpointSettings]) -> Vec<Endpoint> {
    let endpoint = |endpoint: &EndpointSettings| Endpoint {
        region: Arc::clone(&endpoint.region),
        endpoint_url: endpoint.endpoint_url.clone(),
    };
    endpoints.iter().map(endpoint).collect()
}

const REACH_WITHIN: Duration = Duration::from_secs(5);

/// A misspelt region or endpoint shows now; a service that goes away later is waited for. One that answers will do.
///
/// # Errors
/// A report: none can be reached.
pub(crate) async fn reach(endpoints: &[EndpointSettings]) -> Result<(), Report> {
    // Through a proxy only the proxy knows.
    if ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].iter().any(|name| std::env::var_os(name).is_some()) {
        return Ok(());
    }
    let mut troubles = Vec::new();
    for endpoint in endpoints {
        let (host, port) = host_of(endpoint)?;
        let connect = tokio::net::TcpStream::connect((host.as_str(), port));
        match tokio::time::timeout(REACH_WITHIN, connect).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => troubles.push(format!("{host}:{port}: {error}")),
            Err(_) => troubles.push(format!("{host}:{port}: no answer within {} s", REACH_WITHIN.as_secs())),
        }
    }
    Err(Report::usage(format!("no endpoint can be reached ({})", troubles.join("; ")))
        .hint("check the region, `endpoint_url` or AWS_ENDPOINT_URL, and the network; nothing was queued"))
}

fn host_of(endpoint: &EndpointSettings) -> Result<(String, u16), Report> {
    let from_environment = ["AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "AWS_ENDPOINT_URL"];
    let url = endpoint
        .endpoint_url
        .clone()
        .or_else(|| from_environment.iter().find_map(|name| std::env::var(name).ok()))
        .unwrap_or_else(|| format!("https://bedrock-runtime.{}.amazonaws.com", endpoint.region));
    let wrong =
        || Report::usage(format!("`{url}` is no endpoint URL")).hint("write it as http://host:port or https://host");
    let uri: hyper::Uri = url.parse().map_err(|_| wrong())?;
    let port = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        Some(_) | None => return Err(wrong()),
    };
    let host = uri.host().ok_or_else(wrong)?;
    Ok((host.trim_matches(['[', ']']).to_owned(), uri.port_u16().unwrap_or(port)))
}

/// Models and lanes as the flow knows them.
pub(crate) fn catalogue(settings: &Settings, endpoints: &[EndpointSettings]) -> Catalogue {
    let specs = settings.models.iter().map(|model| plan_spec(settings, model, endpoints)).collect();
    let (later, places) = (settings.clone(), endpoints.to_vec());
    Catalogue::new(SystemClock.now(), specs, breaker_rules(settings), move |name| {
        is_plausible_model_id(name).then(|| plan_spec(&later, &ModelSettings::bare(name), &places))
    })
}

fn plan_spec(settings: &Settings, model: &ModelSettings, endpoints: &[EndpointSettings]) -> PlanSpec {
    let route = |endpoint: &EndpointSettings| RouteSpec {
        lane: LaneId {
            region: Arc::clone(&endpoint.region),
            model_id: endpoint.model_id(&model.id, settings.routing.cross_region_inference),
        },
        primary: endpoint.primary,
        not_before: endpoint.next_available_time,
        limits: limits(model, endpoint),
        account_tokens_per_day: endpoint.tokens_per_day,
        counting: counting(model.counting),
    };
    let mut names = vec![Arc::clone(&model.name)];
    if model.is_agent() {
        // Its name is for people and variables: a prompt that named it could not be sent.
        names = vec![Arc::clone(&model.id)];
    } else if model.name != model.id {
        names.push(Arc::clone(&model.id));
    }
    PlanSpec {
        names,
        price: model.price,
        burndown: model.output_burndown,
        default_cap: model.max_tokens,
        call_timeout: CallTimeout {
            base: model.call_timeout_for(0),
            per_token: model.call_timeout_for(1).saturating_sub(model.call_timeout_for(0)),
        },
        fallback: model.fallback.clone(),
        routes: endpoints.iter().map(route).collect(),
    }
}

/// Every lane of a region, as the configuration has them; where that names no region, any is.
pub(crate) fn routes(settings: &Settings, region: &str) -> Vec<RouteSpec> {
    let bare = [EndpointSettings::bare(region)];
    let endpoints = if settings.endpoints.is_empty() { &bare[..] } else { &settings.endpoints };
    settings.models.iter().flat_map(|model| plan_spec(settings, model, endpoints).routes).collect()
}

fn limits(model: &ModelSettings, endpoint: &EndpointSettings) -> Limits {
    let quota = endpoint.quota_of(model);
    Limits {
        tokens_per_minute: quota.tokens_per_minute,
        requests_per_minute: quota.requests_per_minute,
        tokens_per_day: quota.tokens_per_day,
    }
}

fn counting(told: config::Counting) -> Counting {
    match told {
        config::Counting::Learn => Counting::Learn,
        config::Counting::Bucket => Counting::Known(Hypothesis::Bucket),
        config::Counting::Sliding => Counting::Known(Hypothesis::Sliding),
        config::Counting::Fixed => Counting::Known(Hypothesis::Fixed),
    }
}

pub(crate) fn breaker_rules(settings: &Settings) -> BreakerRules {
    BreakerRules {
        failures: settings.breaker.failures,
        open_for: settings.breaker.open_for,
        probes: settings.breaker.probes,
    }
}

/// The settings of the flow.
pub(crate) fn flow_settings(
    settings: &Settings,
    simulated: bool,
    cost_cap: Option<Usd>,
    patience: Patience,
) -> context::Settings {
    context::Settings {
        slots: count(settings.worker.slots),
        receive_batch: count(settings.worker.receive_batch),
        lease: settings.worker.lease,
        drain: settings.worker.drain,
        patience,
        senders: senders(settings),
        uploads: uploads(settings),
        max_claims: settings.worker.max_claims.get(),
        max_attempts: settings.routing.max_attempts.get(),
        attempts_per_endpoint: settings.routing.attempts_per_endpoint,
        multi_region: settings.routing.multi_region,
        spread_primaries: settings.routing.spread_primaries,
        cool_down: settings.routing.cool_down,
        give_up_after: settings.routing.give_up_after,
        breaker: breaker_rules(settings),
        notify_jobs: settings.notify.jobs,
        notify_batches: settings.notify.batches,
        simulated,
        cost_cap,
    }
}

/// Who reads documents: this program, in processes of its own. They are fetched from `sources`; without any they are files.
pub(crate) fn reader(settings: &Settings, sources: Option<Arc<dyn Sources>>) -> Arc<dyn Documents> {
    let models = settings.clone();
    let minimum = move |name: &str| {
        let id = models.model(name).map_or_else(|| name.to_owned(), |model| model.id.to_string());
        config::cache_minimum_of(&id)
    };
    // Where the system does not say, it is looked for by its name; a reader that cannot be started is told with each document.
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("aquifer"));
    let desk = Desk::new(program, Arc::new(minimum));
    Arc::new(match sources {
        Some(sources) => desk.fetching(sources),
        None => desk,
    })
}

fn uploads(settings: &Settings) -> Uploads {
    let default_model = settings.default_model().map(|model| Arc::clone(&model.name));
    Uploads::new(settings.uploads.clone(), default_model, settings.own_place())
}

/// Who brings data sources up to date: the service, in the region of this machine, else that of the first endpoint.
fn ingestions(models: &Bedrock, settings: &Settings) -> Arc<dyn Ingestions> {
    let first = settings.endpoints.first().map_or_else(|| Arc::from("us-east-1"), |first| Arc::clone(&first.region));
    Arc::new(KnowledgeBases::beside(models, first))
}

fn senders(settings: &Settings) -> Senders {
    let named = settings.tenants.iter().filter_map(|tenant| Some((tenant.name.clone(), tenant.senders.clone()?)));
    Senders::new(named.collect())
}

fn count(number: NonZeroU32) -> usize {
    usize::try_from(number.get()).unwrap_or(usize::MAX)
}
