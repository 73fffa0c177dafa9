//! A fleet with everything that it needs, and a look at its table and its queue.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aquifer::aws::{Fleet, Settings};
use aquifer::cli::SystemClock;
use aquifer::ports::Depth;
use aws_config::SdkConfig;

use crate::lives::{Life, MODEL, Service};
use crate::ministack;
use crate::proxy::Proxy;
use crate::relay::Log;
use crate::support::{Ended, Place, Running};

/// The batch of every test: its input's name.
pub(crate) const BATCH: &str = "demo";
/// Between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// One fleet, all its own.
pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) proxy: Proxy,
    pub(crate) service: Service,
    pub(crate) settings: Settings,
    /// Past the proxy.
    pub(crate) fleet: Fleet,
    pub(crate) sdk: SdkConfig,
    runtime: tokio::runtime::Runtime,
    _alone: MutexGuard<'static, ()>,
}

/// A row of the table, as far as it matters here.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) state: String,
    pub(crate) suspicion: bool,
}

impl World {
    /// With a model that takes so long for every answer.
    pub(crate) fn new(latency: &str) -> Self {
        Self::answered_by(|place| Service::start(place, latency))
    }

    /// With a model that plays this scenario.
    pub(crate) fn playing(scenario: &str) -> Self {
        Self::answered_by(|place| Service::playing(place, scenario, "127.0.0.1:0"))
    }

    fn answered_by(service: impl FnOnce(&Place) -> Service) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        // A test that failed leaves nothing that the next one uses.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let settings = ministack::settings();
        let emulated = ministack::emulated(ministack::url());
        let fleet = runtime.block_on(async {
            let fleet = Fleet::connect_to(&emulated, settings.clone(), Arc::new(SystemClock));
            fleet.create_missing().await.unwrap();
            fleet
        });
        let place = Place::new();
        let service = service(&place);
        let sdk = ministack::sdk(ministack::url());
        let proxy = Proxy::start(ministack::url(), rand::random());
        Self { place, proxy, service, settings, fleet, sdk, runtime, _alone: alone }
    }

    /// Writes the configuration: what is said here of the model and of the worker, and where everything is.
    pub(crate) fn configure(&self, model: &str, worker: &str) {
        let Settings { queue_url, dead_letter_url, table, bucket, topic_arn, .. } = &self.settings;
        let topic = topic_arn.as_deref().unwrap();
        self.place.write(
            "aquifer.toml",
            format!(
                "backend = \"aws\"\n[aws]\nqueue_url = \"{queue_url}\"\ndead_letter_url = \"{dead_letter_url}\"\n\
                 table = \"{table}\"\nbucket = \"{bucket}\"\ntopic_arn = \"{topic}\"\n\
                 [[model]]\nname = \"haiku\"\nid = \"{MODEL}\"\nmax_tokens = 100\n\
                 price = {{ input = 1.0, output = 5.0 }}\n{model}\n[[endpoint]]\nregion = \"us-west-2\"\n\
                 [worker]\n{worker}\n"
            ),
        );
    }

    /// Enqueues so many jobs, through the proxy.
    pub(crate) fn enqueue(&self, jobs: usize) -> Ended {
        self.place.write_jobs("demo.jsonl", jobs);
        self.run(&["enqueue", "demo.jsonl", "--json"]).exits(0)
    }

    /// Runs a command to its end, through the proxy.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = self.place.command(arguments);
        command.envs(self.environment()).env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE").env("AWS_SECRET_ACCESS_KEY", "none");
        Running::start(command).finish()
    }

    /// A worker, behind the proxy and a relay of its own.
    pub(crate) fn worker(&self) -> Life {
        let environment = self.environment();
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Life::start_in(&self.place, &environment, &["worker", "--listen", "127.0.0.1:0"], &self.service)
    }

    fn environment(&self) -> [(&'static str, String); 2] {
        [("AWS_ENDPOINT_URL", self.proxy.url().to_owned()), ("AWS_REGION", ministack::REGION.to_owned())]
    }

    /// Carries out what is asynchronous.
    pub(crate) fn wait<T>(&self, doing: impl Future<Output = T>) -> T {
        self.runtime.block_on(doing)
    }

    /// The rows of all jobs, by the number that their ids give them.
    pub(crate) fn rows(&self) -> BTreeMap<usize, Row> {
        let table = &self.settings.table;
        let dynamodb = aws_sdk_dynamodb::Client::new(&self.sdk);
        let pages = dynamodb.scan().table_name(table).filter_expression("begins_with(pk, :job)");
        let job = aws_sdk_dynamodb::types::AttributeValue::S("job/".to_owned());
        let items =
            pages.expression_attribute_values(":job", job).consistent_read(true).into_paginator().items().send();
        let items: Vec<_> = self.wait(items.collect::<Result<_, _>>()).unwrap();
        let row = |item: std::collections::HashMap<String, aws_sdk_dynamodb::types::AttributeValue>| {
            let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned().unwrap();
            let (_, number) = text("pk").rsplit_once("job-").map(|(a, b)| (a.to_owned(), b.parse().unwrap())).unwrap();
            (number, Row { state: text("st"), suspicion: item.contains_key("susp") })
        };
        items.into_iter().map(row).collect()
    }

    /// The jobs that have ended, by number.
    pub(crate) fn ended(&self) -> BTreeSet<usize> {
        let is_open = |row: &Row| matches!(row.state.as_str(), "queued" | "running");
        self.rows().into_iter().filter(|(_, row)| !is_open(row)).map(|(number, _)| number).collect()
    }

    /// What the queue and its dead letters hold.
    pub(crate) fn depth(&self) -> Depth {
        self.wait(self.fleet.queue().depth()).unwrap()
    }

    /// Waits until the queue holds nothing, nobody holds anything of it, and nothing was buried.
    pub(crate) fn until_queue_is_empty(&self) {
        let none = Depth { ready: 0, in_flight: 0, delayed: 0, dead: 0 };
        let began = Instant::now();
        while self.depth() != none {
            let left = || (self.depth(), self.wait(self.fleet.dead_letters().next()).unwrap());
            assert!(began.elapsed() < limit(), "waited in vain for an empty queue: {:?}", left());
            std::thread::sleep(LOOK);
        }
    }
}

/// Nothing that is waited for here takes that long unless it hangs; the long forms say more.
pub(crate) fn limit() -> Duration {
    Duration::from_secs(setting("FLEET_LIMIT_S", 180) as u64)
}

/// Waits until that is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < limit(), "waited in vain for {what}");
        std::thread::sleep(LOOK);
    }
}

/// Whole answers of the model to these lives.
pub(crate) fn answers<'a>(lives: impl IntoIterator<Item = &'a Life>) -> usize {
    lives.into_iter().map(|life| life.relay.seen().answers).sum()
}

/// Tells all to stop, and waits for them; what they asked.
pub(crate) fn stop_all(lives: Vec<Life>) -> Vec<Log> {
    for life in &lives {
        life.signal("TERM");
    }
    lives
        .into_iter()
        .map(|life| {
            let (ended, log) = life.finish();
            ended.exits(0);
            log
        })
        .collect()
}

/// How often each job was called.
pub(crate) fn calls<'a>(logs: impl IntoIterator<Item = &'a Log>) -> BTreeMap<usize, usize> {
    let mut calls = BTreeMap::new();
    for request in logs.into_iter().flat_map(|log| &log.requests) {
        *calls.entry(request.job).or_default() += 1;
    }
    calls
}

/// A number from the environment, for the long form of a test.
pub(crate) fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}
