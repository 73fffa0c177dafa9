//! `aquifer enqueue`: check an input and queue it, for workers to work. Everything is read to its end before anything is queued,
//! so that a file that breaks off in the middle queues nothing; sent again, the same input queues nothing twice.

use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tempfile::NamedTempFile;

use crate::config::{self, Settings};
use crate::flow::intake::Intake;
use crate::flow::stop::Stop;
use crate::job::document::Place;
use crate::job::ident::BatchKey;
use crate::job::intake::NO_INGESTIONS_HERE;
use crate::telemetry::traces::Traces;

use super::args::EnqueueArgs;
use super::backend::Backend;
use super::default_model;
use super::exit::{Exit, Report};
use super::intake::{self, Enrolled, STDIN, Source};
use super::run::counted;
use super::terminal::say;
use super::worker::TRACES_END_WITHIN;
use super::{input, out, signals, wiring};

/// Queues it.
///
/// # Errors
/// A report: the input cannot be read, or the back end cannot take it.
pub(crate) async fn enqueue(args: &EnqueueArgs) -> Result<Exit, Report> {
    let settings = wiring::settings(args.places.config.as_deref(), args.simulate)?;
    input::check_inputs(&args.inputs).map_err(Report::usage)?;
    let batch = intake::batch_name(args.batch.as_deref(), &args.inputs)?;
    let default = default_model::default_model(&settings, args.model.as_deref(), None)?;
    if default.is_none() {
        default_model::check_models(&args.inputs, &batch, &settings)?;
    }
    let stop = Stop::default();
    let signals = signals::watch(stop.clone(), "stopping");
    let Some((inputs, spool)) = spool(&args.inputs, &stop).await? else { return Ok(interrupted(NOTHING_QUEUED)) };
    let endpoints = wiring::endpoints(&settings, args.simulate).await?;
    let is_fleet = matches!(settings.backend, config::Backend::Aws(_)) && !args.simulate;
    let lines = Intake {
        batch,
        tenant: None,
        named: args.model.clone(),
        default,
        catalogue: Arc::new(wiring::catalogue(&settings, &endpoints)),
        answers_callbacks: is_fleet,
        documents_in: if is_fleet { Place::S3 } else { Place::Files },
        no_ingestions: args.simulate.then_some(NO_INGESTIONS_HERE),
        simulated: args.simulate,
        traces: Traces::default(),
    };
    let mut source = Source {
        inputs,
        lines,
        cost_cap: None,
        retry_failed: args.retry_failed,
        documents: None,
        stop,
        spooled: spool.as_ref().map(|file| file.path().to_owned()),
    };
    if intake::check(&source).await?.is_none() {
        return Ok(interrupted(NOTHING_QUEUED));
    }
    let backend = Backend::open(&settings, &args.places, args.simulate).await?;
    let traces = backend.traces(&settings, &args.places, args.simulate)?;
    source.lines.traces = traces.clone();
    let enrolled = send(&backend, &source, &settings).await;
    let enrolled = if is_fleet { enrolled.map_err(Report::of_fleet) } else { enrolled };
    traces.end(settings.worker.drain.min(TRACES_END_WITHIN)).await;
    signals.abort();
    backend.close().await?;
    let Some(enrolled) = enrolled? else { return Ok(interrupted("not all of it is queued")) };
    tell(&enrolled, args.json)?;
    Ok(if enrolled.refused > 0 { Exit::SomeDidNotSucceed } else { Exit::AllSucceeded })
}

const NOTHING_QUEUED: &str = "nothing more was queued";

fn interrupted(so_far: &str) -> Exit {
    say(&format!("interrupted: {so_far}; run the same command again to go on"));
    Exit::Interrupted
}

async fn send(backend: &Backend, source: &Source, settings: &Settings) -> Result<Option<Enrolled>, Report> {
    let roll = backend.begin(&source.lines.batch).await?;
    roll.go_on(|lines| intake::digest_of(source, lines)).await?;
    let Some(enrolled) = intake::enrol(source, &roll).await? else { return Ok(None) };
    for tenant in &enrolled.tenants {
        let batch = BatchKey { tenant: tenant.clone(), batch: enrolled.batch.clone() };
        backend.announce(&batch, settings.notify.batches).await?;
    }
    Ok(Some(enrolled))
}

/// Standard input can be read only once: it is kept in a file that goes with the command. `None` if the person stopped it.
async fn spool(inputs: &[PathBuf], stop: &Stop) -> Result<Option<(Vec<PathBuf>, Option<NamedTempFile>)>, Report> {
    if !inputs.iter().any(|input| input.as_path() == Path::new(STDIN)) {
        return Ok(Some((inputs.to_vec(), None)));
    }
    let reading = tokio::task::spawn_blocking(|| {
        let mut file = NamedTempFile::new()?;
        std::io::copy(&mut std::io::stdin().lock(), &mut file)?;
        file.flush()?;
        file.rewind()?;
        std::io::Result::Ok(file)
    });
    let file = tokio::select! {
        biased;
        () = stop.drained() => return Ok(None),
        read = reading => read.map_err(Report::stuck)?,
    };
    let file = file.map_err(|error| {
        Report::stuck(format!("cannot keep standard input in a file: {error}"))
            .hint("nothing more was queued; make room there, or name another directory in TMPDIR")
    })?;
    let replaced =
        |input: &PathBuf| if input.as_path() == Path::new(STDIN) { file.path().to_owned() } else { input.clone() };
    Ok(Some((inputs.iter().map(replaced).collect(), Some(file))))
}

fn tell(enrolled: &Enrolled, as_json: bool) -> Result<(), Report> {
    let Enrolled { batch, jobs, queued, refused, withdrawn, .. } = enrolled;
    let known = jobs - queued - refused;
    if as_json {
        let told = json!({
            "batch": batch,
            "lines": jobs,
            "enqueued": queued,
            "known": known,
            "rejected": refused,
            "withdrawn": withdrawn,
        });
        return out::line(&told.to_string());
    }
    say(&format!("{} queued, {known} known already, {} refused", counted(*queued, "job"), counted(*refused, "line")));
    out::line(batch.as_str())
}
