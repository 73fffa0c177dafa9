//! Which state is looked at? The real one, and the simulated one beside it, if they are there.

use std::path::{Path, PathBuf};

use crate::embedded::{LaneGate, Reader};
use crate::ports::Clock;

use super::SystemClock;
use super::exit::Report;
use super::wiring::SIMULATED;

/// Where a state lies that was opened below this directory.
pub(crate) fn place_of(dir: &Path, is_simulated: bool) -> PathBuf {
    let below = dir.join(SIMULATED);
    if is_simulated && below.exists() { below } else { dir.to_owned() }
}

/// The states below one state directory, the real one first.
pub(crate) struct States {
    /// At least one.
    pub(crate) readers: Vec<State>,
}

/// One of them.
pub(crate) struct State {
    /// Reads it.
    pub(crate) reader: Reader,
    /// Whether the simulator answered there.
    pub(crate) simulated: bool,
}

impl States {
    /// Opens what is there.
    ///
    /// # Errors
    /// A report: nothing is there, or it cannot be read.
    pub(crate) fn open(dir: &Path) -> Result<Self, Report> {
        let simulated = dir.join(SIMULATED);
        let mut readers = Vec::new();
        for (place, is_simulated) in [(dir, dir.file_name().is_some_and(|name| name == SIMULATED)), (&simulated, true)]
        {
            if place.join("aquifer.db").exists() {
                readers.push(State { reader: Reader::open(place)?, simulated: is_simulated });
            }
        }
        if readers.is_empty() {
            return Err(Report::usage(format!("no state in {}", dir.display()))
                .hint("`aquifer run` makes it; name another directory with --state"));
        }
        Ok(Self { readers })
    }

    /// The first state that holds this batch, real before simulated.
    ///
    /// # Errors
    /// A report: none does, or they cannot be read.
    pub(crate) fn holding(&self, batch: &str) -> Result<&State, Report> {
        for state in &self.readers {
            if state.reader.batches()?.iter().any(|summary| summary.batch.as_str() == batch) {
                return Ok(state);
            }
        }
        Err(no_batch(batch))
    }

    /// Every lane that lets nothing through.
    ///
    /// # Errors
    /// A report: they cannot be read.
    pub(crate) fn gates(&self) -> Result<Vec<LaneGate>, Report> {
        let (mut gates, now) = (Vec::new(), SystemClock.now());
        for state in &self.readers {
            gates.extend(state.reader.gates()?.into_iter().filter(|gate| gate.gate.until > now));
        }
        Ok(gates)
    }
}

/// The report for a batch that nobody knows.
pub(crate) fn no_batch(name: &str) -> Report {
    Report::usage(format!("no batch is called `{name}`")).hint("`aquifer status` lists them all")
}
