//! `aquifer worker`: work everything that is queued, whoever queued it and whenever, until told to stop. It waits for stores
//! that are away and says so, and being told to stop is how it ends: exit status 0 on SIGTERM and on Ctrl-C.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinSet;

use crate::config::{Listen, Settings};
use crate::flow::context::Context;
use crate::flow::figures::figures;
use crate::flow::patience::Patience;
use crate::flow::stop::{Reason, Stop};
use crate::flow::worker::Worker;
use crate::ports::Gate;
use crate::telemetry::emf::Emf;
use crate::telemetry::{Counts, Trouble};

use super::args::WorkerArgs;
use super::backend::{self, Backend};
use super::desk::BackendDesk;
use super::exit::{Exit, Report};
use super::folders::Folders;
use super::run::{Pace, clock, short};
use super::terminal::{can_draw, record, say, share_with};
use super::wiring::{self, Connected, connect};
use super::{serve, signals};

/// Between two looks at what is going on.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two lines in a log, where there is news.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Between two records of the metrics in the log.
const MEASURE_EVERY: Duration = Duration::from_secs(60);
/// The last traces are given so long, or `worker.drain` if that is shorter: whoever stops a worker waits little longer than that.
pub(crate) const TRACES_END_WITHIN: Duration = Duration::from_secs(3);
/// What has been complete for longer than `state.keep` is purged this often.
const PURGE_EVERY: Duration = Duration::from_secs(3_600);

/// Works.
///
/// # Errors
/// A report, if it could not begin or could not go on.
pub(crate) async fn worker(args: &WorkerArgs) -> Result<Exit, Report> {
    let is_simulated = args.simulate.is_some();
    let settings = wiring::settings(args.places.config.as_deref(), is_simulated)?;
    let stop = Stop::default();
    let signals = signals::watch(stop.clone(), signals::CALLS_FINISH);
    let Connected { model, ingestions, simulator, endpoints } = connect(args.simulate.as_ref(), &settings).await?;
    let backend = Backend::open(&settings, &args.places, is_simulated).await?;
    let folders = Folders::of(&settings, &args.places)?;
    let catalogue = Arc::new(wiring::catalogue(&settings, &endpoints));
    let flow = wiring::flow_settings(&settings, is_simulated, None, Patience::Endless);
    let traces = backend.traces(&settings, &args.places, is_simulated)?;
    let context = backend::context(backend.ports(None), &settings, (model, ingestions), catalogue, flow, stop, traces);
    let asked = args.listen.map(|address| Listen { address, is_set: true });
    let desk = BackendDesk::new(backend.clone(), &args.places, is_simulated, &settings);
    let token = settings.worker.page_token.as_ref();
    let page = serve::open(asked.unwrap_or(settings.worker.listen), &context, desk, token).await?;
    say(&format!("working {}: {}", backend.name(&args.places, is_simulated), what_answers(&settings, &context)));

    let mut watching = match &backend {
        Backend::Embedded(store) => folders.watch(store, &context),
        // The configuration of a fleet has none.
        Backend::Fleet(_) => JoinSet::new(),
    };
    let purging = tokio::spawn(purge(backend.clone(), settings.keep));
    // CloudWatch reads the log of a fleet; on a machine of its own, and in a simulated run, a worker is scraped.
    let is_fleet = matches!(backend, Backend::Fleet(_));
    watch(&context, is_fleet.then(Emf::default)).await;
    while watching.join_next().await.is_some() {}
    purging.abort();
    signals.abort();
    drop(page);
    if let Some(simulator) = simulator {
        simulator.stop().await;
    }
    context.meter.traces().end(settings.worker.drain.min(TRACES_END_WITHIN)).await;
    backend.close().await?;
    let counts = context.meter.counts();
    say(&format!(
        "stopped: {} jobs ended, {} without success, {} calls",
        counts.ended, counts.unsuccessful, counts.calls
    ));
    match context.stop.reason() {
        Some(Reason::Store(error)) => Err(error.into()),
        // A worker has no cap on cost and no results file, and waits for credentials.
        Some(
            Reason::Interrupted | Reason::Done | Reason::Output | Reason::CapReached { .. } | Reason::Credentials(_),
        )
        | None => Ok(Exit::AllSucceeded),
    }
}

/// Works until told to stop, and shows how it goes: to people, and to CloudWatch if that reads the log.
async fn watch(context: &Arc<Context>, mut emf: Option<Emf>) {
    let worker = Worker::new(Arc::clone(context));
    let mut working = tokio::spawn(async move { worker.run().await });
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut measure = tokio::time::interval(MEASURE_EVERY);
    let mut progress = Progress::new();
    while !working.is_finished() {
        tokio::select! {
            _ = look.tick() => progress.show(Instant::now(), &View::of(context)),
            _ = measure.tick() => record_metrics(context, emf.as_mut()),
            _ = &mut working => {}
        }
    }
    record_metrics(context, emf.as_mut());
    progress.finish();
}

fn record_metrics(context: &Context, emf: Option<&mut Emf>) {
    let lines = emf.map(|emf| emf.lines(context.now(), &figures(context)));
    lines.iter().flatten().for_each(record);
}

/// Purges what is complete and old, now and then. Should it fail, the next time will do.
async fn purge(backend: Backend, keep: Duration) {
    let mut tick = tokio::time::interval(PURGE_EVERY);
    loop {
        tick.tick().await;
        match backend.purge_older_than(keep).await {
            Ok(purged) if purged.is_empty() => {}
            Ok(purged) => {
                say(&format!("purged {} batches that were complete for longer than `state.keep`", purged.len()))
            }
            Err(error) => tracing::warn!(%error, "could not purge what is old"),
        }
    }
}

fn what_answers(settings: &Settings, context: &Context) -> String {
    let models: Vec<_> = settings.models.iter().map(|model| format!("`{}`", model.name)).collect();
    let models = if models.is_empty() { "any model that a job names".to_owned() } else { models.join(", ") };
    let mut lanes: Vec<_> = context.catalogue.lanes().iter().map(|lane| lane.id.region.to_string()).collect();
    lanes.sort();
    lanes.dedup();
    let where_to = if lanes.is_empty() { String::new() } else { format!(" in {}", lanes.join(", ")) };
    let by = if context.settings.simulated { ", answered by the simulator" } else { "" };
    format!("{models}{where_to}{by}, {} slots", context.settings.slots)
}

/// What is shown.
#[derive(Clone, Debug, Default)]
struct View {
    counts: Counts,
    gates: Vec<(String, Gate)>,
    troubles: Vec<Trouble>,
    credentials: Option<String>,
    is_paused: bool,
    is_stopping: bool,
}

impl View {
    fn of(context: &Context) -> Self {
        let now = context.now();
        Self {
            counts: context.meter.counts(),
            gates: context.meter.gates().into_iter().filter(|(_, gate)| gate.until > now).collect(),
            troubles: context.meter.troubles(),
            credentials: context.credentials.trouble().map(|(_, why)| why),
            is_paused: context.stop.is_paused(),
            is_stopping: context.stop.is_draining(),
        }
    }

    fn describe(&self, per_second: Option<f64>) -> String {
        let Counts { ended, unsuccessful, in_hand, spent, calls, throttles, .. } = self.counts;
        let mut parts = vec![format!("{in_hand} in hand"), format!("{ended} done")];
        if unsuccessful > 0 {
            parts.push(format!("{unsuccessful} without success"));
        }
        if self.is_stopping {
            parts.push("stopping".to_owned());
        } else if self.is_paused {
            parts.push("paused".to_owned());
        }
        if let Some(rate) = per_second {
            parts.push(if rate >= 10.0 { format!("{rate:.0}/s") } else { format!("{rate:.1}/s") });
        }
        if calls > 0 {
            parts.push(spent.to_string());
        }
        if throttles > 0 {
            parts.push(format!("{} of {} calls throttled", short(throttles), short(calls)));
        }
        if let Some(why) = &self.credentials {
            parts.push(format!("waiting for credentials: {why}"));
        }
        parts.extend(self.troubles.iter().take(1).map(|trouble| format!("waiting for a store: {trouble}")));
        for (lane, gate) in self.gates.iter().take(2) {
            parts.push(format!("waiting until {}: {} ({lane})", clock(gate.until.0), gate.reason));
        }
        parts.join(" · ")
    }
}

/// One line that changes where somebody watches; else a line now and then, if it says anything new.
struct Progress {
    bar: Option<ProgressBar>,
    last: Option<(Instant, String)>,
    pace: Pace,
}

impl Progress {
    fn new() -> Self {
        let bar = can_draw().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(4));
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(style);
            }
            share_with(Some(bar.clone()));
            bar
        });
        Self { bar, last: None, pace: Pace::default() }
    }

    fn show(&mut self, now: Instant, view: &View) {
        self.pace.note(now, view.counts.ended);
        if let Some(bar) = &self.bar {
            bar.set_message(view.describe(self.pace.per_second()));
            bar.tick();
            return;
        }
        if self.last.as_ref().is_some_and(|(at, _)| now.duration_since(*at) < LINE_EVERY) {
            return;
        }
        let text = view.describe(self.pace.per_second());
        if self.last.as_ref().is_none_or(|(_, last)| *last != text) {
            say(&text);
        }
        self.last = Some((now, text));
    }

    fn finish(self) {
        if let Some(bar) = self.bar {
            share_with(None);
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::units::{Timestamp, Usd};

    #[test]
    fn a_view_says_what_is_in_hand_what_was_done_and_what_it_waits_for() {
        let counts = Counts {
            in_hand: 12,
            ended: 340,
            unsuccessful: 2,
            calls: 350,
            throttles: 7,
            spent: Usd::from_nanos(1_250_000_000),
            ..Counts::default()
        };
        let gate = Gate { reason: "tokens a minute".to_owned(), since: Timestamp(0), until: Timestamp(3_661_000) };
        let view = View { counts, gates: vec![("us-east-1/m".to_owned(), gate)], ..View::default() };
        assert_eq!(
            view.describe(Some(2.5)),
            "12 in hand · 340 done · 2 without success · 2.5/s · $1.25 · 7 of 350 calls throttled · \
             waiting until 01:01:01Z: tokens a minute (us-east-1/m)"
        );
        assert_eq!(View::default().describe(None), "0 in hand · 0 done");
    }
}
