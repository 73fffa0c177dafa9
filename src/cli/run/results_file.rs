//! Where do results go? To a file that is ours alone, or to standard output.
//!
//! The file is a projection of the ledger: the lines of the current input's ended jobs in the order in which they ended. On
//! start it is compared with that projection and cut where it first differs, so it is right after any crash, is
//! rebuilt when deleted, and is not written again when nothing changed. A file that is not ours is left alone.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cli::exit::Report;
use crate::job::ident::{BatchName, JobId, JobKey, Tenant};
use crate::job::lifecycle::Status;

/// Takes result lines in order.
pub(crate) enum Results {
    /// Standard output.
    Stdout(BufWriter<std::io::Stdout>),
    /// A file.
    File(ResultsFile),
}

/// A results file under our lock.
pub(crate) struct ResultsFile {
    path: PathBuf,
    /// Only regular files are compared and cut; a pipe or a device is written to.
    is_regular: bool,
    old: Option<Old>,
    out: BufWriter<File>,
}

/// What the file held when it was opened, as far as it was not compared yet.
struct Old {
    lines: BufReader<File>,
    /// Where the part that is known to be right ends.
    right_until: u64,
    buffer: Vec<u8>,
}

impl Results {
    /// Opens and locks the file, or standard output for `-`.
    ///
    /// # Errors
    /// A report: it cannot be opened, another process writes it, or it is one of the inputs.
    pub(crate) fn open(path: &Path, inputs: &[PathBuf]) -> Result<Self, Report> {
        if path == Path::new("-") {
            return Ok(Self::Stdout(BufWriter::new(std::io::stdout())));
        }
        refuse_input(path, inputs)?;
        let cannot = |error: std::io::Error| {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists());
            let hint = match folder {
                Some(folder) => {
                    format!("there is no folder {}: make it, or name another file with -o", folder.display())
                }
                None => "name a file with -o".to_owned(),
            };
            Report::usage(format!("cannot write results to {}: {error}", path.display())).hint(hint)
        };
        let is_regular = !path.exists() || path.is_file();
        let mut options = OpenOptions::new();
        options.write(true);
        if is_regular {
            options.read(true).create(true).truncate(false);
        }
        let file = options.open(path).map_err(cannot)?;
        if is_regular {
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Report::usage(format!("{} is being written by another aquifer", path.display()))
                        .hint("wait for it to end, or name another file with -o: both will share the work"));
                }
                Err(TryLockError::Error(error)) => return Err(cannot(error)),
            }
        }
        let old = if is_regular {
            let lines = BufReader::new(File::open(path).map_err(cannot)?);
            Some(Old { lines, right_until: 0, buffer: Vec::new() })
        } else {
            None
        };
        Ok(Self::File(ResultsFile { path: path.to_owned(), is_regular, old, out: BufWriter::new(file) }))
    }

    /// Where it is, for people.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Stdout(_) => "standard output".to_owned(),
            Self::File(file) => file.path.display().to_string(),
        }
    }

    /// What the file holds, for the caller to check against the ledger.
    ///
    /// # Errors
    /// A report, if a line is no result: the file is not ours.
    pub(crate) fn claims(&self) -> Result<Claims, Report> {
        let mut claims = Claims::default();
        let Self::File(file) = self else { return Ok(claims) };
        if !file.is_regular {
            return Ok(claims);
        }
        let mut lines = BufReader::new(File::open(&file.path).map_err(|error| file.trouble(&error))?);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = lines.read_until(b'\n', &mut line).map_err(|error| file.trouble(&error))?;
            if read == 0 {
                return Ok(claims);
            }
            // A torn last line is what a crash leaves; alone it could be anybody's.
            let is_torn = line.last() != Some(&b'\n');
            match serde_json::from_slice::<Named>(&line) {
                Ok(named) => {
                    if !claims.batches.contains(&named.batch) {
                        claims.batches.push(named.batch.clone());
                    }
                    let costs_nothing = named.simulated || named.status == Status::Rejected;
                    if !costs_nothing && claims.jobs.len() < CLAIMS_CHECKED {
                        let id = JobId::new(&named.id).map_err(|error| file.not_ours(&error.to_string()))?;
                        claims.jobs.push(JobKey { tenant: named.tenant, batch: named.batch, id });
                    }
                }
                Err(_) if is_torn && (line.starts_with(b"{\"id\":") || !claims.jobs.is_empty()) => {}
                Err(_) => return Err(file.not_ours("it holds lines that are no results")),
            }
        }
    }

    /// The report for a file that names jobs which this state directory does not know.
    pub(crate) fn not_ours(&self, why: &str) -> Report {
        match self {
            Self::Stdout(_) => Report::usage(why),
            Self::File(file) => file.not_ours(why),
        }
    }

    /// Adds the next line of the projection, without its line feed.
    ///
    /// # Errors
    /// A report: it cannot be written.
    pub(crate) fn append(&mut self, line: &[u8]) -> Result<(), Report> {
        match self {
            Self::Stdout(out) => write_line(out, line).map_err(|error| trouble("standard output", &error)),
            Self::File(file) => {
                if file.agrees(line)? {
                    return Ok(());
                }
                write_line(&mut file.out, line).map_err(|error| file.trouble(&error))
            }
        }
    }

    /// Everything that was appended is handed to the system.
    ///
    /// # Errors
    /// A report: it cannot be written.
    pub(crate) fn flush(&mut self) -> Result<(), Report> {
        match self {
            Self::Stdout(out) => out.flush().map_err(|error| trouble("standard output", &error)),
            Self::File(file) => file.out.flush().map_err(|error| trouble(&file.path.display().to_string(), &error)),
        }
    }

    /// The projection is as long as it is going to be for now: what the file holds beyond it is not part of it.
    ///
    /// # Errors
    /// A report: it cannot be cut or written.
    pub(crate) fn cut(&mut self) -> Result<(), Report> {
        if let Self::File(file) = self {
            file.stop_comparing()?;
        }
        self.flush()
    }
}

/// What a results file held when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// Jobs that it names, but for those whose loss would cost nothing: simulated ones, and rejected ones, which are
    /// made again from the input.
    pub(crate) jobs: Vec<JobKey>,
    /// Whose results they are: one batch, but where several runs were given one file.
    pub(crate) batches: Vec<BatchName>,
}

/// Enough to tell whose file it is, without a look-up for each of a million lines.
const CLAIMS_CHECKED: usize = 1_000;

impl ResultsFile {
    /// Whether the file already holds this line at this place.
    fn agrees(&mut self, line: &[u8]) -> Result<bool, Report> {
        let Some(old) = &mut self.old else { return Ok(false) };
        old.buffer.clear();
        let limit = u64::try_from(line.len()).unwrap_or(u64::MAX).saturating_add(1);
        let read = (&mut old.lines).take(limit).read_until(b'\n', &mut old.buffer);
        if let Err(error) = read {
            return Err(self.trouble(&error));
        }
        if old.buffer.strip_suffix(b"\n") == Some(line) {
            old.right_until += limit;
            return Ok(true);
        }
        self.stop_comparing()?;
        Ok(false)
    }

    fn stop_comparing(&mut self) -> Result<(), Report> {
        let Some(old) = self.old.take() else { return Ok(()) };
        let file = self.out.get_mut();
        let cut = file.set_len(old.right_until).and_then(|()| file.seek(SeekFrom::Start(old.right_until)));
        cut.map(|_| ()).map_err(|error| self.trouble(&error))
    }

    fn trouble(&self, error: &std::io::Error) -> Report {
        trouble(&self.path.display().to_string(), error)
    }

    fn not_ours(&self, why: &str) -> Report {
        Report::usage(format!("{} is not a results file of this state directory: {why}", self.path.display()))
            .hint("nothing was changed; move it away, or name another file with -o")
    }
}

#[derive(Deserialize)]
struct Named {
    // A refused line is listed under the id it came with, whatever that is.
    id: String,
    batch: BatchName,
    tenant: Tenant,
    status: Status,
    simulated: bool,
}

fn refuse_input(path: &Path, inputs: &[PathBuf]) -> Result<(), Report> {
    let same = |input: &PathBuf| match (input.canonicalize(), path.canonicalize()) {
        (Ok(input), Ok(path)) => input == path,
        (_, Err(_)) | (Err(_), _) => false,
    };
    if inputs.iter().any(same) {
        return Err(Report::usage(format!("{} is an input: results would overwrite it", path.display()))
            .hint("name another file with -o"));
    }
    Ok(())
}

fn write_line(out: &mut impl Write, line: &[u8]) -> std::io::Result<()> {
    out.write_all(line)?;
    out.write_all(b"\n")
}

fn trouble(name: &str, error: &std::io::Error) -> Report {
    Report::stuck(format!("cannot write results to {name}: {error}"))
        .hint("nothing is lost: results are kept in the state directory; run the same command again, or use `aquifer results`")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const LINE: &str = r#"{"id":"a","batch":"b","tenant":"default","status":"succeeded","simulated":false}"#;

    fn open(path: &Path) -> Results {
        Results::open(path, &[]).unwrap()
    }

    #[test]
    fn a_file_is_cut_where_it_first_differs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.jsonl");
        std::fs::write(&path, "one\ntwo\nthr").unwrap();
        let mut results = open(&path);
        for line in ["one", "2", "three"] {
            results.append(line.as_bytes()).unwrap();
        }
        results.cut().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n2\nthree\n");
    }

    #[test]
    fn what_stands_beyond_the_projection_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.jsonl");
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        let mut results = open(&path);
        results.append(b"one").unwrap();
        results.cut().unwrap();
        results.append(b"next").unwrap();
        results.flush().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\nnext\n");
    }

    #[test]
    fn a_longer_line_with_the_same_beginning_is_another_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.jsonl");
        std::fs::write(&path, "one and more\n").unwrap();
        let mut results = open(&path);
        results.append(b"one").unwrap();
        results.cut().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
    }

    #[test]
    fn a_file_of_somebody_else_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.jsonl");
        std::fs::write(&path, format!("{LINE}\n{{\"id\":\"tor")).unwrap();
        assert_eq!(open(&path).claims().unwrap().jobs.len(), 1, "a torn last line is a crash's");
        for foreign in ["my notes\n", "{\"id\":\"a\"}\n", "x"] {
            std::fs::write(&path, foreign).unwrap();
            assert!(open(&path).claims().is_err(), "{foreign:?}");
        }
    }

    #[test]
    fn two_cannot_write_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.jsonl");
        let _first = open(&path);
        let refused = Results::open(&path, &[]).err().unwrap().to_string();
        assert!(refused.contains("another aquifer"), "{refused}");
    }
}
