//! What is set, and what holds where nothing is?
//!
//! Two shapes: what people type (`aquifer.toml` and `AQUIFER_*` variables), read by hand in `typed`, and the
//! [`Settings`] that the program works with. The typed shape is no derived `Deserialize`, because that stops at the
//! first mistake and does not know the bounds: here all mistakes are found at once, and each names key, value and bound.

mod aws;
mod builtin;
mod endpoint;
mod endpoints_file;
mod environment;
mod error;
mod model;
mod page_token;
mod telemetry;
mod tenant;
mod typed;
mod upload;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use http::Uri;

pub use self::aws::{AwsSettings, ResultObjects};
pub use self::builtin::simulated;
pub use self::endpoint::{EndpointSettings, QuotaOverride};
pub use self::error::{ConfigError, ConfigErrors};
pub use self::model::{Counting, ModelSettings, Quota, burndown_of, cache_minimum_of};
pub use self::page_token::PageToken;
pub use self::tenant::TenantSettings;

use self::endpoints_file::EndpointsFile;
use self::typed::{Problems, Section};
use crate::job::upload::{OwnPlace, UploadRule};
use crate::job::webhook::WebhookUrl;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Everything that can be set, checked and complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `backend`: where queue, ledger and bodies are. Default `"embedded"`.
    pub backend: Backend,
    /// `[[model]]`, in their order: the first is the default of lines that name none. May be empty.
    pub models: Vec<ModelSettings>,
    /// What `routing.endpoints_file` lists, and then `[[endpoint]]`, each in their order. Empty: the region that the SDK
    /// finds is the only one.
    ///
    /// `endpoints_file` (`AQUIFER_ROUTING_ENDPOINTS_FILE`): the path of a JSON list of `region`, `next_available_time`,
    /// `primary` and `region_profile_prefix`, as a well-known helper keeps it; relative to the folder of the configuration
    /// file, else to the working directory. It is read once, at the start, and never written. Default none: leave it
    /// alone unless you have such a file. At least one entry, each region once, further keys are passed over;
    /// `next_available_time` is in seconds since 1970 or an ISO 8601 time (UTC where it has no offset), at most the end
    /// of 9999. An `[[endpoint]]` of a region that it lists goes over the entry, key by key.
    pub endpoints: Vec<EndpointSettings>,
    /// `[routing]`.
    pub routing: RoutingSettings,
    /// `[breaker]`.
    pub breaker: BreakerSettings,
    /// `[worker]`.
    pub worker: WorkerSettings,
    /// `[state] keep`: for so long bodies and rows of complete batches are kept, and with them the knowledge that a
    /// job was done. 1 s to 3,650 days, default 30 days.
    pub keep: Duration,
    /// `[notify]`.
    pub notify: NotifySettings,
    /// `[telemetry] traces`: where traces of jobs are sent, by OTLP over HTTP. The URL of a collector; without a path it is
    /// asked at `/v1/traces`. Default none: then there are no traces, and no message carries any of one.
    pub traces: Option<Uri>,
    /// `[tenant.NAME]`, of those of which something is said.
    pub tenants: Vec<TenantSettings>,
    /// `[[upload]]`, in their order: the first that fits a file is for it.
    pub uploads: Vec<UploadRule>,
}

/// Where queue, ledger and bodies are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Backend {
    /// SQLite and files, on one machine.
    Embedded,
    /// SQS, DynamoDB, S3 and SNS, for a fleet.
    Aws(AwsSettings),
}

/// `[routing]`: which endpoint a job is sent to, and how often it is tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RoutingSettings {
    /// `max_attempts`: failures that count, over the job's life; then it has failed. 1 to 100, default 5. More makes
    /// outlasting trouble likelier and a hopeless job dearer; waiting for quota never counts.
    pub max_attempts: NonZeroU32,
    /// `attempts_per_endpoint`: so many failures in a row before the next endpoint. 1 to `max_attempts`, default 1.
    pub attempts_per_endpoint: NonZeroU32,
    /// `multi_region`: whether a job may go to another endpoint than the first it was sent to. Default true.
    pub multi_region: bool,
    /// `spread_primaries`: whether primaries share the jobs evenly; else the first is filled first. Default true.
    pub spread_primaries: bool,
    /// `cross_region_inference`: whether an endpoint's `region_profile_prefix` is put before model ids. Default true.
    pub cross_region_inference: bool,
    /// `cool_down`: for so long an endpoint is left alone after a job left it with a failure; doubles while failures
    /// repeat. 1 s to 1 h, default 30 s.
    pub cool_down: Duration,
    /// `give_up_after`: for so long a job without a deadline waits for a service that is away. 1 s to 365 days,
    /// default 24 h.
    pub give_up_after: Duration,
}

/// `[breaker]`: when a lane is taken for broken. The defaults suit the service; change them for a proxy in between.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BreakerSettings {
    /// `failures`: so many 5xx, timeouts and overloads in a row open it. 1 to 1,000, default 5.
    pub failures: NonZeroU32,
    /// `open_for`: for so long no call is made. 1 s to 1 h, default 60 s.
    pub open_for: Duration,
    /// `probes`: so many calls at most then find out whether it is well again. 1 to 100, default 1.
    pub probes: NonZeroU32,
}

/// `[worker]`: how much is in hand, and for how long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WorkerSettings {
    /// `slots`: jobs in hand at most, waiting ones included. 1 to 10,000, default 256. What is in hand at a `kill -9`
    /// may be paid for twice, so leave it alone unless quota is left over while all slots are in calls.
    pub slots: NonZeroU32,
    /// `receive_batch`: messages asked for at once. 1 to 10, default 10.
    pub receive_batch: NonZeroU32,
    /// `lease`: for so long a job is ours without a sign of life. 2 s to 11 h, default 120 s. Shorter finds a dead
    /// machine sooner and writes more; on one machine a dead process is noticed at once in any case.
    pub lease: Duration,
    /// `max_claims`: claims in which its work had begun and that left no outcome, before a job counts as poison.
    /// 1 to 1,000, default 5.
    pub max_claims: NonZeroU32,
    /// `drain`: for so long calls in progress may go on after SIGTERM or the first Ctrl-C. 0 s to 1 h, default 25 s.
    pub drain: Duration,
    /// `listen`: where a worker serves its page and whether it is well. An address and port, default `127.0.0.1:9464`.
    pub listen: Listen,
    /// `page_token`: with it whoever knows it may act from the page: pause and resume the worker, open, close and probe
    /// breakers, put dead letters back. At least 16 visible ASCII characters; default none, and then the page only shows,
    /// which is what to leave it at unless somebody is to act from there. Better set as `AQUIFER_WORKER_PAGE_TOKEN` than in
    /// a file; it is never shown or logged.
    pub page_token: Option<PageToken>,
}

/// Where a worker serves its page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listen {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// Whether somebody asked for it. What nobody asked for may be taken, by another worker on this machine.
    pub is_set: bool,
}

/// `[notify]`: which ends are made known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NotifySettings {
    /// `jobs`: one notice for every job that ends. Default true.
    pub jobs: bool,
    /// `batches`: one notice for every batch that completes. Default true.
    pub batches: bool,
    /// `webhook`: on one machine, a URL to which each is POSTed as well. Default none.
    pub webhook: Option<WebhookUrl>,
}

impl Settings {
    /// The model of this name, else the first with this id.
    pub fn model(&self, name_or_id: &str) -> Option<&ModelSettings> {
        let by_name = self.models.iter().find(|model| &*model.name == name_or_id);
        by_name.or_else(|| self.models.iter().find(|model| &*model.id == name_or_id))
    }

    /// Where we write ourselves, as far as events of a bucket tell of it.
    pub fn own_place(&self) -> Option<OwnPlace> {
        upload::own_place(&self.backend)
    }

    /// The model of jobs that name none: the only one, else the first. Agents are called by those alone who name them.
    pub fn default_model(&self) -> Option<&ModelSettings> {
        self.models.iter().find(|model| !model.is_agent())
    }
}

impl Default for Settings {
    /// What holds where nothing is set: no model, no endpoint.
    fn default() -> Self {
        let mut problems = Problems::default();
        settings(toml::Table::new(), |_| Err("nothing is read for the defaults".to_owned()), &mut problems)
    }
}

/// Reads a configuration file (its name, for messages, and its text) and lays the `AQUIFER_*` variables over it.
/// Variables of other names are passed over, and so is `AQUIFER_LOG`, which belongs to the log. `read` gets the text of
/// the file that `routing.endpoints_file` names, by its path as typed, or says why not; it is not called where none is named.
///
/// # Errors
/// [`ConfigErrors`], with everything that is wrong.
pub fn resolve(
    text: Option<(&str, &str)>,
    env: &BTreeMap<String, String>,
    read: impl FnOnce(&str) -> Result<String, String>,
) -> Result<Settings, ConfigErrors> {
    let file = text.map(|(file, _)| file.to_owned());
    let mut problems = Problems::default();
    let mut table = match toml::from_str::<toml::Table>(text.map_or("", |(_, text)| text)) {
        Ok(table) => table,
        Err(error) => {
            let errors = vec![ConfigError::Syntax { message: error.to_string().trim_end().to_owned() }];
            return Err(ConfigErrors { file, errors });
        }
    };
    environment::lay_over(&mut table, env, &mut problems);
    let settings = settings(table, read, &mut problems);
    if problems.errors.is_empty() { Ok(settings) } else { Err(ConfigErrors { file, errors: problems.errors }) }
}

/// Reads all of it; where something is wrong it is noted and the default put in its place.
fn settings(
    table: toml::Table,
    read: impl FnOnce(&str) -> Result<String, String>,
    problems: &mut Problems,
) -> Settings {
    let mut top = Section::new(String::new(), table, problems);
    let backend = backend(&mut top);
    let models: Vec<_> =
        top.tables("model").into_iter().filter_map(|table| model::read(table, top.problems())).collect();
    let (routing, endpoints_file) = routing(&mut top);
    let listed = endpoints_file.map(|file| file.endpoints(read, top.problems())).unwrap_or_default();
    let tables = top.tables("endpoint").into_iter();
    let endpoints: Vec<_> = tables.filter_map(|table| endpoint::read(table, &listed, top.problems())).collect();
    let breaker = breaker(&mut top);
    let worker = worker(&mut top);
    let mut state = top.section("state");
    let keep = state.duration("keep", SECOND..=3_650 * DAY).unwrap_or(30 * DAY);
    state.finish();
    let notify = notify(&mut top);
    if let Backend::Aws(AwsSettings { topic_arn: None, .. }) = &backend
        && (notify.jobs || notify.batches)
    {
        top.problem(ConfigError::Missing { key: "aws.topic_arn".to_owned() });
    }
    if let (Backend::Aws(_), Some(webhook)) = (&backend, &notify.webhook) {
        let bound = "none beside backend = \"aws\": the topic tells its subscribers".to_owned();
        top.problem(ConfigError::Contradiction { key: "notify.webhook".to_owned(), value: webhook.to_string(), bound });
    }
    let traces = telemetry::read(&mut top);
    let tenants = tenant::read(&mut top);
    let uploads = upload::read(&mut top, &backend);
    top.finish();
    model::check(&models, problems);
    endpoint::check(&endpoints, &models, problems);
    let endpoints = endpoint::merge(listed, endpoints);
    Settings { backend, models, endpoints, routing, breaker, worker, keep, notify, traces, tenants, uploads }
}

fn backend(top: &mut Section<'_>) -> Backend {
    match top.text("backend").as_deref() {
        None | Some("embedded") => {
            // A configuration may hold both and be switched by a variable.
            aws::read(top, false);
            Backend::Embedded
        }
        Some("aws") => aws::read(top, true).map_or(Backend::Embedded, Backend::Aws),
        Some(other) => {
            top.out_of_bounds("backend", other, "\"embedded\" or \"aws\"");
            Backend::Embedded
        }
    }
}

fn routing(top: &mut Section<'_>) -> (RoutingSettings, Option<EndpointsFile>) {
    let mut section = top.section("routing");
    let max_attempts = section.number("max_attempts", 1..=100).unwrap_or(number(5));
    let attempts_per_endpoint = section.number("attempts_per_endpoint", 1..=100).unwrap_or(number(1));
    if attempts_per_endpoint > max_attempts {
        let key = section.key("attempts_per_endpoint");
        let bound = format!("at most `routing.max_attempts`, which is {max_attempts}");
        section.problem(ConfigError::Contradiction { key, value: attempts_per_endpoint.to_string(), bound });
    }
    let settings = RoutingSettings {
        max_attempts,
        attempts_per_endpoint,
        multi_region: section.flag("multi_region").unwrap_or(true),
        spread_primaries: section.flag("spread_primaries").unwrap_or(true),
        cross_region_inference: section.flag("cross_region_inference").unwrap_or(true),
        cool_down: section.duration("cool_down", SECOND..=HOUR).unwrap_or(30 * SECOND),
        give_up_after: section.duration("give_up_after", SECOND..=365 * DAY).unwrap_or(DAY),
    };
    let key = section.key("endpoints_file");
    let endpoints_file = section.text("endpoints_file").map(|path| EndpointsFile { key, path });
    section.finish();
    (settings, endpoints_file)
}

fn breaker(top: &mut Section<'_>) -> BreakerSettings {
    let mut section = top.section("breaker");
    let settings = BreakerSettings {
        failures: section.number("failures", 1..=1_000).unwrap_or(number(5)),
        open_for: section.duration("open_for", SECOND..=HOUR).unwrap_or(60 * SECOND),
        probes: section.number("probes", 1..=100).unwrap_or(number(1)),
    };
    section.finish();
    settings
}

fn worker(top: &mut Section<'_>) -> WorkerSettings {
    let mut section = top.section("worker");
    let settings = WorkerSettings {
        slots: section.number("slots", 1..=10_000).unwrap_or(number(256)),
        receive_batch: section.number("receive_batch", 1..=10).unwrap_or(number(10)),
        lease: section.duration("lease", 2 * SECOND..=11 * HOUR).unwrap_or(120 * SECOND),
        max_claims: section.number("max_claims", 1..=1_000).unwrap_or(number(5)),
        drain: section.duration("drain", Duration::ZERO..=HOUR).unwrap_or(25 * SECOND),
        listen: listen(&mut section),
        page_token: page_token::read(&mut section),
    };
    section.finish();
    settings
}

fn listen(section: &mut Section<'_>) -> Listen {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 9464));
    let Some(typed) = section.text("listen") else { return Listen { address: default, is_set: false } };
    let address = typed.parse().unwrap_or_else(|_| {
        section.out_of_bounds("listen", &typed, "an address and port, such as \"127.0.0.1:9464\"");
        default
    });
    Listen { address, is_set: true }
}

fn notify(top: &mut Section<'_>) -> NotifySettings {
    let mut section = top.section("notify");
    let (jobs, batches) = (section.flag("jobs").unwrap_or(true), section.flag("batches").unwrap_or(true));
    let webhook = section.text("webhook").and_then(|typed| {
        let url = typed.parse();
        if url.is_err() {
            // What stands in it may be a secret.
            section.out_of_bounds(
                "webhook",
                "...",
                "a URL that begins with http:// or https:// and names a host, but no user",
            );
        }
        url.ok()
    });
    section.finish();
    NotifySettings { jobs, batches, webhook }
}

/// A default; none of them is zero.
fn number(default: u32) -> NonZeroU32 {
    NonZeroU32::new(default).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests;
