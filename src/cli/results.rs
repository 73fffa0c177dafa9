//! `aquifer results`: the result lines of a batch, at constant memory however many there are.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

use crate::aws::{self, Fleet};
use crate::embedded;
use crate::job::ident::BatchName;

use super::args::{ResultOrder, ResultsArgs};
use super::exit::{Exit, Report};
use super::states::{States, no_batch};
use super::{out, wiring};

/// Lists them.
///
/// # Errors
/// A report: no such batch, or they cannot be read or written.
pub(crate) async fn results(args: &ResultsArgs) -> Result<Exit, Report> {
    let batch = BatchName::new(&args.batch).map_err(Report::usage)?;
    match wiring::configured_fleet(&args.places).await? {
        Some(fleet) => of_fleet(&fleet, &batch, args).await.map_err(Report::of_fleet),
        None => of_states(&batch, args),
    }
}

fn of_states(batch: &BatchName, args: &ResultsArgs) -> Result<Exit, Report> {
    let states = States::open(&args.places.state)?;
    let state = states.holding(batch.as_str())?;
    let order = match args.order {
        ResultOrder::Input => embedded::Order::Input,
        ResultOrder::Done => embedded::Order::Done,
    };
    let mut out = Out::open(args)?;
    for line in state.reader.results(batch, order)? {
        if !out.line(&line?)? {
            return Ok(Exit::AllSucceeded);
        }
    }
    out.finish()
}

async fn of_fleet(fleet: &Fleet, batch: &BatchName, args: &ResultsArgs) -> Result<Exit, Report> {
    let order = match args.order {
        ResultOrder::Input => aws::Order::Input,
        ResultOrder::Done => aws::Order::Done,
    };
    if fleet.batches(Some(batch)).await?.is_empty() {
        return Err(no_batch(batch.as_str()));
    }
    let mut lines = fleet.results(batch, order).await?;
    let mut out = Out::open(args)?;
    while let Some(line) = lines.next().await {
        if !out.line(&line?)? {
            return Ok(Exit::AllSucceeded);
        }
    }
    out.finish()
}

/// Where they go.
struct Out {
    name: String,
    to: BufWriter<Box<dyn Write>>,
}

impl Out {
    fn open(args: &ResultsArgs) -> Result<Self, Report> {
        let (name, to): (_, Box<dyn Write>) = match args.output.as_deref() {
            Some(path) if path.as_os_str() != "-" => (path.display().to_string(), Box::new(new_file(path)?)),
            Some(_) | None => ("standard output".to_owned(), Box::new(std::io::stdout())),
        };
        Ok(Self { name, to: BufWriter::new(to) })
    }

    /// Writes one; whether more are wanted.
    fn line(&mut self, line: &[u8]) -> Result<bool, Report> {
        let written = self.to.write_all(line).and_then(|()| self.to.write_all(b"\n"));
        self.goes_on(written)
    }

    fn finish(mut self) -> Result<Exit, Report> {
        let written = self.to.flush();
        self.goes_on(written).map(|_| Exit::AllSucceeded)
    }

    fn goes_on(&self, written: std::io::Result<()>) -> Result<bool, Report> {
        match written {
            Ok(()) => Ok(true),
            Err(error) if out::is_enough(&error) => Ok(false),
            Err(error) => Err(Report::stuck(format!("cannot write to {}: {error}", self.name)).hint(
                "what was written is not all of it: remove it, and run the same command again where there is room",
            )),
        }
    }
}

fn new_file(path: &Path) -> Result<File, Report> {
    OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
        let report = Report::usage(format!("cannot write to {}: {error}", path.display()));
        match error.kind() == ErrorKind::AlreadyExists {
            true => report.hint("a file that is there is never overwritten; name another"),
            false => report,
        }
    })
}
