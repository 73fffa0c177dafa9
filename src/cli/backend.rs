//! Behind which back end does a command work? The one place where that is chosen: commands ask [`Backend`] for what they
//! need and do not know which it is.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::aws::{self, Fleet};
use crate::config::{self, Settings};
use crate::embedded::{self, Entry, Run, Sealed, Standing, Store};
use crate::flow::batch_request::BatchPorts;
use crate::flow::context::{self, Context, DocumentPorts};
use crate::flow::credentials::CredentialsGate;
use crate::flow::ingest::Troubles;
use crate::flow::lanes::Catalogue;
use crate::flow::notify::Announcer;
use crate::flow::patience::ClaimGate;
use crate::flow::roster::{Roster, Sender};
use crate::flow::stop::Stop;
use crate::job::ident::{BatchKey, BatchName, Digest};
use crate::ports::{
    Allowance, Bodies, Callbacks, Finding, Ingestions, Ledger, Model, Notices, Parts, Pipelines, Queue, Sources,
    StoreError,
};
use crate::telemetry::Meter;
use crate::telemetry::traces::{TracedQueue, Traces};

use super::args::Places;
use super::exit::Report;
use super::wiring::{self, SIMULATED};
use super::{SystemClock, check};

/// An open back end.
#[derive(Clone, Debug)]
pub(crate) enum Backend {
    /// SQLite and files below the state directory.
    Embedded(Store),
    /// SQS, DynamoDB, S3 and SNS.
    Fleet(Fleet),
}

/// What a worker needs of a back end.
pub(crate) struct Ports {
    queue: Arc<dyn Queue>,
    ledger: Arc<dyn Ledger>,
    bodies: Arc<dyn Bodies>,
    notices: Arc<dyn Notices>,
    allowance: Arc<dyn Allowance>,
    callbacks: Option<Arc<dyn Callbacks>>,
    batches: Option<BatchPorts>,
    pipelines: Option<Arc<dyn Pipelines>>,
    parts: Arc<dyn Parts>,
    sources: Option<Arc<dyn Sources>>,
}

impl Backend {
    /// Opens the configured one. What is simulated never leaves this machine.
    ///
    /// # Errors
    /// A report: it cannot be reached, or it is not one of ours.
    pub(crate) async fn open(settings: &Settings, places: &Places, is_simulated: bool) -> Result<Self, Report> {
        match &settings.backend {
            config::Backend::Aws(aws) if !is_simulated => {
                let fleet = wiring::fleet(aws, settings.keep).await?;
                fit(&fleet).await.map(|()| Self::Fleet(fleet))
            }
            config::Backend::Aws(_) | config::Backend::Embedded => {
                let dir = state_dir(places, is_simulated);
                Ok(Self::Embedded(wiring::working_store(&dir, settings, is_simulated).await?))
            }
        }
    }

    /// Makes the services of a fleet that are missing; what was made, for a person.
    ///
    /// # Errors
    /// A report: there is no fleet in the configuration, or something cannot be made.
    pub(crate) async fn create_missing(settings: &Settings) -> Result<Vec<String>, Report> {
        let config::Backend::Aws(aws) = &settings.backend else {
            return Err(Report::usage(
                "there is nothing to make: the back end is `embedded`, which makes its own directory",
            )
            .hint("set backend = \"aws\" and an [aws] section in aquifer.toml"));
        };
        let made = wiring::fleet(aws, settings.keep).await?.create_missing().await.map_err(of_fleet)?;
        Ok(made.iter().map(ToString::to_string).collect())
    }

    /// Looks at the configured one; nothing is opened or made.
    ///
    /// # Errors
    /// A report: not even that can be done.
    pub(crate) async fn check(settings: &Settings, places: &Places) -> Result<Vec<Finding>, Report> {
        match &settings.backend {
            config::Backend::Aws(aws) => {
                let expected =
                    aws::Expected { lease: settings.worker.lease, longest_call: check::longest_call(settings) };
                let fleet = wiring::fleet(aws, settings.keep).await?;
                let begun = settings.uploads.iter().filter_map(|rule| Some(&*rule.pipeline.as_ref()?.state_machine));
                let pipelines: BTreeSet<&str> = begun.collect();
                Ok([fleet.check(&expected).await, fleet.check_pipelines(pipelines).await].concat())
            }
            config::Backend::Embedded => {
                let dir = state_dir(places, false);
                tokio::task::spawn_blocking(move || embedded::check(&dir)).await.map_err(Report::stuck)
            }
        }
    }

    /// Traces of what goes through its queue, if the configuration names a collector.
    ///
    /// # Errors
    /// A report: nothing can be sent to that.
    pub(crate) fn traces(&self, settings: &Settings, places: &Places, is_simulated: bool) -> Result<Traces, Report> {
        let Some(collector) = &settings.traces else { return Ok(Traces::default()) };
        let queue = match self {
            Self::Embedded(_) => {
                let dir = state_dir(places, is_simulated);
                TracedQueue { system: "aquifer", name: dir.display().to_string().into() }
            }
            Self::Fleet(fleet) => {
                let url = &fleet.settings().queue_url;
                TracedQueue { system: "aws_sqs", name: url.rsplit('/').next().unwrap_or(url).into() }
            }
        };
        Traces::to(collector, queue).map_err(Report::usage)
    }

    /// What it is, for a person.
    pub(crate) fn name(&self, places: &Places, is_simulated: bool) -> String {
        match self {
            Self::Embedded(_) => format!("all batches in {}", state_dir(places, is_simulated).display()),
            Self::Fleet(fleet) => fleet.settings().queue_url.clone(),
        }
    }

    /// Its ports; the queue that of one batch, or of all.
    pub(crate) fn ports(&self, batch: Option<BatchName>) -> Ports {
        match self {
            Self::Embedded(store) => Ports {
                queue: store.queue(batch),
                ledger: store.ledger(),
                bodies: store.bodies(),
                notices: store.notices(),
                allowance: store.allowance(),
                callbacks: None,
                batches: None,
                pipelines: None,
                parts: store.parts(),
                sources: None,
            },
            // Whoever works for a fleet works what comes.
            Self::Fleet(fleet) => Ports {
                queue: fleet.queue(),
                ledger: fleet.ledger(),
                bodies: fleet.bodies(),
                notices: fleet.notices(),
                allowance: fleet.allowance(),
                callbacks: Some(fleet.callbacks()),
                batches: Some(BatchPorts {
                    rolls: fleet.rolls(),
                    seals: fleet.seals(),
                    inputs: fleet.inputs(),
                    turn: Arc::default(),
                }),
                pipelines: Some(fleet.pipelines()),
                parts: fleet.parts(),
                sources: Some(fleet.sources()),
            },
        }
    }

    /// Starts the list of an input.
    ///
    /// # Errors
    /// What the back end said.
    pub(crate) async fn begin(&self, batch: &BatchName) -> Result<Roll, StoreError> {
        match self {
            Self::Embedded(store) => Ok(Roll::Embedded(Arc::new(store.begin_run(batch).await?))),
            Self::Fleet(fleet) => {
                let (queue, ledger) = (fleet.queue(), fleet.ledger());
                let with = Sender { queue, ledger, rolls: fleet.rolls(), seals: fleet.seals(), until: None };
                Ok(Roll::Fleet(Box::new(Roster::begin(with, batch, None).await?)))
            }
        }
    }

    /// Makes the end of a batch known in which nothing is left to work: on one machine no worker ever will. In a fleet the message
    /// that seals the batch makes one look, so that who enqueues need not be allowed to publish and to write manifests.
    /// `is_told` as in [`Announcer`].
    ///
    /// # Errors
    /// What the back end said.
    pub(crate) async fn announce(&self, batch: &BatchKey, is_told: bool) -> Result<(), StoreError> {
        let Self::Embedded(store) = self else { return Ok(()) };
        let (ledger, notices) = (store.ledger(), store.notices());
        let announcer = Announcer { ledger: &*ledger, notices: &*notices, callbacks: None, seals: None, is_told };
        announcer.announce(batch).await
    }

    /// Purges what has been complete for longer than `keep`.
    ///
    /// # Errors
    /// What the back end said.
    pub(crate) async fn purge_older_than(&self, keep: Duration) -> Result<Vec<BatchName>, StoreError> {
        match self {
            Self::Embedded(store) => store.purge_older_than(keep).await,
            // Rows carry the time at which the table drops them, and the bucket has rules of its own.
            Self::Fleet(_) => Ok(Vec::new()),
        }
    }

    /// Leaves it.
    ///
    /// # Errors
    /// What the back end said.
    pub(crate) async fn close(self) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.close().await,
            Self::Fleet(fleet) => {
                fleet.flush().await;
                Ok(())
            }
        }
    }
}

/// The fleet, if the configuration has one; for what is done otherwise there than on one machine.
///
/// # Errors
/// A report: it cannot be reached, or something of it is missing.
pub(crate) async fn fleet(settings: &Settings) -> Result<Option<Fleet>, Report> {
    let config::Backend::Aws(aws) = &settings.backend else { return Ok(None) };
    let fleet = wiring::fleet(aws, settings.keep).await?;
    fit(&fleet).await?;
    Ok(Some(fleet))
}

/// What is missing or is something else will not come by waiting for it.
async fn fit(fleet: &Fleet) -> Result<(), Report> {
    let unfit = fleet.unfit().await;
    let Some(first) = unfit.first() else { return Ok(()) };
    let all: Vec<&str> = unfit.iter().map(|finding| finding.what.as_str()).collect();
    let report = Report::usage(all.join("; "));
    Err(match (&first.remedy, all.len()) {
        (Some(remedy), 1) => report.hint(remedy),
        _ => report.hint("`aquifer check` says what mends each; `aquifer check --create` makes what is missing"),
    })
}

/// The same trouble, with what helps against it on AWS.
pub(crate) fn of_fleet(error: StoreError) -> Report {
    Report::from(error).of_fleet()
}

/// Where the embedded back end keeps its state.
pub(crate) fn state_dir(places: &Places, is_simulated: bool) -> PathBuf {
    if is_simulated { places.state.join(SIMULATED) } else { places.state.clone() }
}

/// The list of an input that is being taken in.
#[derive(Debug)]
pub(crate) enum Roll {
    /// In the state database.
    Embedded(Arc<Run>),
    /// In a fleet's bucket.
    Fleet(Box<Roster>),
}

impl Roll {
    /// Looks whether an earlier process has sent the beginning of this input already, as `digest_of` so many lines says.
    ///
    /// # Errors
    /// A report: what was begun there is another input; or this one cannot be read.
    pub(crate) async fn go_on<F>(&self, digest_of: impl FnOnce(u64) -> F) -> Result<(), Report>
    where
        F: Future<Output = Result<Digest, Report>>,
    {
        match self {
            // Its jobs are on the roll or not, one by one.
            Self::Embedded(_) => Ok(()),
            Self::Fleet(roll) => {
                let Some((lines, digest)) = roll.sent_before().await else { return Ok(()) };
                Ok(roll.go_on(digest_of(lines).await? == digest).await?)
            }
        }
    }

    /// Takes lines in, in input order; see [`Run::enrol`].
    ///
    /// # Errors
    /// What the back end said; then no line of the call was taken in.
    pub(crate) async fn enrol(&self, entries: Vec<Entry>, retry_failed: bool) -> Result<Vec<Standing>, StoreError> {
        match self {
            Self::Embedded(run) => run.enrol(entries, retry_failed).await,
            Self::Fleet(roll) => roll.enrol(entries, retry_failed).await,
        }
    }

    /// Ends the input; see [`Run::seal`].
    ///
    /// # Errors
    /// What the back end said; the call may be repeated.
    pub(crate) async fn seal(&self) -> Result<Sealed, StoreError> {
        match self {
            Self::Embedded(run) => run.seal().await,
            Self::Fleet(roll) => {
                let (jobs, refused) = roll.counts().await;
                // An input without a line has no batch that could be complete.
                if jobs + refused > 0 {
                    let seal = roll.seal().await?;
                    roll.send_seal(seal).await?;
                }
                Ok(Sealed { lines: jobs + refused, jobs, withdrawn: 0 })
            }
        }
    }
}

/// Everything a worker works with, put together.
pub(crate) fn context(
    ports: Ports,
    configured: &Settings,
    (model, ingestions): (Arc<dyn Model>, Option<Arc<dyn Ingestions>>),
    catalogue: Arc<Catalogue>,
    settings: context::Settings,
    stop: Stop,
    traces: Traces,
) -> Arc<Context> {
    let Ports { queue, ledger, bodies, notices, allowance, callbacks, batches, pipelines, parts, sources } = ports;
    let documents = Some(DocumentPorts { reader: wiring::reader(configured, sources), parts });
    Arc::new(Context {
        queue,
        ledger,
        bodies,
        notices,
        callbacks,
        batches,
        documents,
        ingestions,
        ingest_troubles: Troubles::default(),
        pipelines,
        allowance,
        model,
        clock: Arc::new(SystemClock),
        catalogue,
        credentials: CredentialsGate::default(),
        claims: ClaimGate::default(),
        settings,
        meter: Meter::tracing(traces),
        stop,
    })
}
