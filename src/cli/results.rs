//! `aquifer results`: the result lines of a batch, at constant memory however many there are.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};

use crate::embedded::Order;
use crate::job::ident::BatchName;

use super::args::{ResultOrder, ResultsArgs};
use super::exit::{Exit, Report};
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
        Some(path) => Box::new(OpenOptions::new().write(true).create_new(true).open(path).map_err(cannot)?),
    };
    let mut buffered = BufWriter::new(&mut out);
    for line in state.reader.results(&batch, order)? {
        let line = line?;
        buffered.write_all(&line).and_then(|()| buffered.write_all(b"\n")).map_err(cannot)?;
    }
    buffered.flush().map_err(cannot)?;
    Ok(Exit::AllSucceeded)
}
