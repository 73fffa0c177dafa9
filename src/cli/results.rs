//! `aquifer results`: the result lines of a batch, at constant memory however many there are.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

use crate::embedded::Order;
use crate::job::ident::BatchName;

use super::args::{ResultOrder, ResultsArgs};
use super::exit::{Exit, Report};
use super::out;
use super::states::States;

/// Lists them.
///
/// # Errors
/// A report: no such batch, or they cannot be read or written.
pub(crate) async fn results(args: &ResultsArgs) -> Result<Exit, Report> {
    let states = States::open(&args.places.state)?;
    let state = states.holding(&args.batch)?;
    let batch = BatchName::new(&args.batch).map_err(Report::usage)?;
    let order = match args.order {
        ResultOrder::Input => Order::Input,
        ResultOrder::Done => Order::Done,
    };
    let name = args.output.as_ref().map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
    let cannot = |error: std::io::Error| Report::stuck(format!("cannot write to {name}: {error}"));
    let mut out: Box<dyn Write> = match args.output.as_deref() {
        None => Box::new(std::io::stdout().lock()),
        Some(path) if path.as_os_str() == "-" => Box::new(std::io::stdout().lock()),
        Some(path) => Box::new(new_file(path)?),
    };
    let mut buffered = BufWriter::new(&mut out);
    for line in state.reader.results(&batch, order)? {
        let line = line?;
        match buffered.write_all(&line).and_then(|()| buffered.write_all(b"\n")) {
            Ok(()) => {}
            Err(error) if out::is_enough(&error) => return Ok(Exit::AllSucceeded),
            Err(error) => return Err(cannot(error)),
        }
    }
    match buffered.flush() {
        Err(error) if !out::is_enough(&error) => Err(cannot(error)),
        Ok(()) | Err(_) => Ok(Exit::AllSucceeded),
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
