//! Which lines do these inputs hold?
//!
//! One file after the other, each read as [`LineReader`] says. Reading blocks: call it where blocking is fine.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::flow::line_reader::LineReader;
use crate::job::ident::BatchName;

pub use crate::flow::line_reader::{LineKind, MAX_LINE};

/// Why an input cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// There is none.
    #[error("no input: name a file, or `-` for standard input")]
    None,
    /// There is only one standard input.
    #[error("`-` stands for standard input and can be named only once")]
    StdinTwice,
    /// There is nothing at this path.
    #[error("{}: there is no such file", path.display())]
    Missing {
        /// As typed.
        path: PathBuf,
    },
    /// A folder has no lines.
    #[error("{}: is a directory; name the files in it", path.display())]
    Directory {
        /// As typed.
        path: PathBuf,
    },
    /// Somebody meant it as something else: no job is written in TOML.
    #[error("{}: is a TOML file, not jobs; a scenario is named by --simulate={}, a configuration by --config {}",
        path.display(), path.display(), path.display())]
    Toml {
        /// As typed.
        path: PathBuf,
    },
    /// The system does not let us open it.
    #[error("{}: cannot be opened: {source}", path.display())]
    Unreadable {
        /// As typed.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Reading stopped in the middle: a disk's fault, or a compressed file that is cut off or damaged. Every line
    /// up to `line` was read whole.
    #[error("{file}: reading stopped {}: {source}", if *line == 0 { "before its first line".to_owned() } else { format!("after line {line}") })]
    Broken {
        /// As typed.
        file: Arc<str>,
        /// The last line that was read.
        line: u64,
        /// What went wrong.
        source: io::Error,
    },
}

/// Which line this is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LineAt {
    /// Its file, as typed; `-` for standard input.
    pub file: Arc<str>,
    /// Its number in that file, from 1; blank lines count.
    pub number: u64,
    /// What there is of it.
    pub kind: LineKind,
}

/// The lines of several inputs, one input after the other.
#[derive(Debug)]
pub struct Lines {
    waiting: VecDeque<PathBuf>,
    current: Option<Source>,
}

impl Lines {
    /// Checks all inputs as [`check_inputs`] does; each is opened when its turn comes.
    ///
    /// # Errors
    /// [`InputError`], for the first input that cannot be read.
    pub fn open(inputs: &[PathBuf]) -> Result<Self, InputError> {
        check_inputs(inputs)?;
        Ok(Self { waiting: inputs.iter().cloned().collect(), current: None })
    }

    /// The next line that is not blank, read into `buf` in place of what was there; `None` after the last.
    ///
    /// # Errors
    /// [`InputError`]. After [`InputError::Broken`] the next call goes on with the next input.
    pub fn next_line(&mut self, buf: &mut Vec<u8>) -> Result<Option<LineAt>, InputError> {
        loop {
            let source = match &mut self.current {
                Some(source) => source,
                None => match self.waiting.pop_front() {
                    Some(path) => self.current.insert(Source::open(&path)?),
                    None => return Ok(None),
                },
            };
            match source.lines.next_line(buf) {
                Ok(Some(kind)) => {
                    return Ok(Some(LineAt { file: Arc::clone(&source.file), number: source.lines.number(), kind }));
                }
                Ok(None) => self.current = None,
                Err(error) => {
                    let broken = InputError::Broken {
                        file: Arc::clone(&source.file),
                        line: source.lines.number(),
                        source: error,
                    };
                    self.current = None;
                    return Err(broken);
                }
            }
        }
    }
}

/// Is every input there, a file, and open to us? Nothing is read: a pipe can be read only once.
///
/// # Errors
/// [`InputError`], for the first input that cannot be read.
pub fn check_inputs(inputs: &[PathBuf]) -> Result<(), InputError> {
    if inputs.is_empty() {
        return Err(InputError::None);
    }
    if inputs.iter().filter(|path| is_stdin(path)).count() > 1 {
        return Err(InputError::StdinTwice);
    }
    for path in inputs.iter().filter(|path| !is_stdin(path)) {
        let metadata = std::fs::metadata(path).map_err(|error| unopened(path, error))?;
        if metadata.is_dir() {
            return Err(InputError::Directory { path: path.clone() });
        }
        if path.extension().is_some_and(|ending| ending == "toml") {
            return Err(InputError::Toml { path: path.clone() });
        }
        if metadata.is_file() {
            File::open(path).map_err(|error| unopened(path, error))?;
        }
    }
    Ok(())
}

/// The batch that these inputs make: the first one's file stem, `stdin` for `-`. Of `reviews.jsonl.gz` that is
/// `reviews`; what a batch name may not hold becomes `_`.
pub fn batch_name_of(inputs: &[PathBuf]) -> BatchName {
    const LIMIT: usize = 128;
    let stem = match inputs.first() {
        Some(path) if is_stdin(path) => "stdin".to_owned(),
        Some(path) => stem(path),
        None => String::new(),
    };
    let name: String = stem.chars().take(LIMIT).map(|c| if c.is_control() || c == '/' { '_' } else { c }).collect();
    BatchName::new(&name).unwrap_or_else(|_| BatchName::none())
}

fn stem(path: &Path) -> String {
    const COMPRESSED: [&str; 4] = ["gz", "gzip", "zst", "zstd"];
    const LINES: [&str; 5] = ["jsonl", "ndjson", "jsonlines", "json", "txt"];
    let ends_in = |path: &Path, of: &[&str]| {
        path.extension()
            .and_then(|ending| ending.to_str())
            .is_some_and(|ending| of.iter().any(|known| known.eq_ignore_ascii_case(ending)))
    };
    let without = |path: &Path| PathBuf::from(path.file_stem().unwrap_or_default());
    let name = if ends_in(path, &COMPRESSED) {
        // `reviews.2026.gz` is about 2026.
        let inner = without(path);
        if ends_in(&inner, &LINES) { without(&inner) } else { inner }
    } else {
        without(path)
    };
    name.to_string_lossy().into_owned()
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn unopened(path: &Path, source: io::Error) -> InputError {
    let path = path.to_path_buf();
    if source.kind() == io::ErrorKind::NotFound {
        InputError::Missing { path }
    } else {
        InputError::Unreadable { path, source }
    }
}

#[derive(Debug)]
struct Source {
    file: Arc<str>,
    lines: LineReader,
}

impl Source {
    fn open(path: &Path) -> Result<Self, InputError> {
        let file: Arc<str> = path.to_string_lossy().into();
        let raw: Box<dyn Read + Send> = if is_stdin(path) {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path).map_err(|error| unopened(path, error))?)
        };
        match LineReader::new(raw) {
            Ok(lines) => Ok(Self { file, lines }),
            Err(source) => Err(InputError::Broken { file, line: 0, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

    use std::io::Write as _;

    use flate2::write::GzEncoder;

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        }
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn read(inputs: &[PathBuf]) -> Result<Vec<(u64, String)>, InputError> {
        let mut lines = Lines::open(inputs)?;
        let mut buf = Vec::new();
        let mut read = Vec::new();
        while let Some(at) = lines.next_line(&mut buf)? {
            assert_eq!(at.kind, LineKind::Text);
            read.push((at.number, String::from_utf8(buf.clone()).unwrap()));
        }
        Ok(read)
    }

    #[track_caller]
    fn assert_lines(content: impl AsRef<[u8]>, expected: &[(u64, &str)]) {
        let folder = Folder::new();
        let lines = read(&[folder.file("input", content)]).unwrap();
        let lines: Vec<_> = lines.iter().map(|(number, text)| (*number, text.as_str())).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn lines_end_as_they_may() {
        assert_lines("a\nb\n", &[(1, "a"), (2, "b")]);
        assert_lines("a\nb", &[(1, "a"), (2, "b")]);
        assert_lines("a\r\nb\r\n", &[(1, "a"), (2, "b")]);
        assert_lines("a\r\nb\r", &[(1, "a"), (2, "b")]);
        assert_lines("a\rb\n", &[(1, "a\rb")]);
    }

    #[test]
    fn blank_lines_are_skipped_and_counted() {
        assert_lines("", &[]);
        assert_lines("\n\n \t\r\n", &[]);
        assert_lines("\n  \na\n\n", &[(3, "a")]);
    }

    #[test]
    fn a_byte_order_mark_is_skipped_at_the_start_alone() {
        assert_lines("\u{feff}a\n\u{feff}b\n", &[(1, "a"), (2, "\u{feff}b")]);
        assert_lines("\u{feff}\na", &[(2, "a")]);
        assert_lines("\u{feff}", &[]);
    }

    #[test]
    fn compression_is_told_by_content_and_not_by_name() {
        assert_lines(gzip(b"a\nb\n"), &[(1, "a"), (2, "b")]);
        assert_lines([gzip(b"a\nb"), gzip(b"c\n")].concat(), &[(1, "a"), (2, "bc")]);
        assert_lines(gzip(b""), &[]);
        let zstd = |content: &[u8]| zstd::stream::encode_all(content, 1).unwrap();
        assert_lines(zstd(b"\xef\xbb\xbfa\nb\n"), &[(1, "a"), (2, "b")]);
        assert_lines([zstd(b"a\nb"), zstd(b"c\n")].concat(), &[(1, "a"), (2, "bc")]);
        let folder = Folder::new();
        assert_eq!(read(&[folder.file("plain.jsonl.gz", "a\n")]).unwrap(), [(1, "a".to_owned())]);
    }

    #[test]
    fn a_compressed_file_that_is_cut_off_gives_its_lines_and_then_an_error() {
        let folder = Folder::new();
        let content: String = (0..100_000_u32).map(|n| format!("{}\n", n.wrapping_mul(2_654_435_761))).collect();
        for (name, packed) in
            [("x.gz", gzip(content.as_bytes())), ("x.zst", zstd::stream::encode_all(content.as_bytes(), 1).unwrap())]
        {
            let path = folder.file(name, packed.get(..packed.len() / 2).unwrap());
            let mut lines = Lines::open(std::slice::from_ref(&path)).unwrap();
            let mut buf = Vec::new();
            let mut reached = 0;
            let error = loop {
                match lines.next_line(&mut buf) {
                    Ok(at) => reached = at.unwrap().number,
                    Err(error) => break error,
                }
            };
            let InputError::Broken { file, line, .. } = &error else { panic!("{error}") };
            assert!(reached > 0 && *line == reached, "{line} {reached}");
            assert_eq!(**file, *path.to_string_lossy());
            assert!(lines.next_line(&mut buf).unwrap().is_none(), "and no second time");
        }
    }

    #[test]
    fn a_line_above_the_limit_is_measured_and_not_held() {
        let folder = Folder::new();
        let limit = usize::try_from(MAX_LINE).unwrap();
        let mut content = b"a\n".to_vec();
        content.extend(std::iter::repeat_n(b'x', limit));
        content.push(b'\n');
        content.extend(std::iter::repeat_n(b'y', limit + 1));
        content.extend(b"\nb");
        let mut lines = Lines::open(&[folder.file("input", &content)]).unwrap();
        let mut buf = Vec::new();
        let mut next = |buf: &mut Vec<u8>| lines.next_line(buf).unwrap().map(|at| (at.number, at.kind));
        assert_eq!(next(&mut buf), Some((1, LineKind::Text)));
        assert_eq!(next(&mut buf), Some((2, LineKind::Text)));
        assert_eq!(buf.len(), limit);
        assert_eq!(next(&mut buf), Some((3, LineKind::TooLong { length: MAX_LINE + 1 })));
        assert_eq!((buf.len(), buf.capacity()), (0, 0));
        assert_eq!(next(&mut buf), Some((4, LineKind::Text)));
        assert_eq!(next(&mut buf), None);
    }

    #[test]
    fn several_inputs_are_read_in_turn_each_with_its_own_numbers() {
        let folder = Folder::new();
        let inputs = [folder.file("one", "a\nb"), folder.file("none", ""), folder.file("two", gzip(b"\nc"))];
        let mut lines = Lines::open(&inputs).unwrap();
        let mut buf = Vec::new();
        let mut read = Vec::new();
        while let Some(at) = lines.next_line(&mut buf).unwrap() {
            read.push((at.file.rsplit('/').next().unwrap().to_owned(), at.number, buf.clone()));
        }
        let expected = [("one", 1, b"a"), ("one", 2, b"b"), ("two", 2, b"c")];
        assert_eq!(read, expected.map(|(file, number, text)| (file.to_owned(), number, text.to_vec())));
    }

    #[test]
    fn inputs_that_cannot_be_read_are_told_before_anything_is() {
        let folder = Folder::new();
        let good = folder.file("good", "a");
        let missing = folder.0.path().join("missing.jsonl");
        let found = |inputs: &[PathBuf]| Lines::open(inputs).unwrap_err();
        let error = found(&[good, missing.clone()]);
        assert!(matches!(&error, InputError::Missing { path } if *path == missing), "{error}");
        assert!(error.to_string().ends_with("missing.jsonl: there is no such file"));
        assert!(matches!(found(&[folder.0.path().to_owned()]), InputError::Directory { .. }));
        assert!(matches!(found(&[]), InputError::None));
        assert!(matches!(found(&["-".into(), "-".into()]), InputError::StdinTwice));
        let below_a_file = folder.file("file", "").join("x");
        assert!(matches!(found(&[below_a_file]), InputError::Unreadable { .. }));
    }

    #[test]
    fn a_batch_is_named_by_its_first_input() {
        let name = |path: &str| batch_name_of(&[path.into(), "other".into()]).to_string();
        assert_eq!(name("in/2026-11-21-reviews.jsonl"), "2026-11-21-reviews");
        assert_eq!(name("reviews.jsonl.gz"), "reviews");
        assert_eq!(name("reviews.JSONL.zst"), "reviews");
        assert_eq!(name("reviews.2026.gz"), "reviews.2026");
        assert_eq!(name("reviews.v2.ndjson"), "reviews.v2");
        assert_eq!(name("reviews"), "reviews");
        assert_eq!(name("my file.jsonl"), "my file");
        assert_eq!(name("a\tb.jsonl"), "a_b");
        assert_eq!(name("-"), "stdin");
        assert_eq!(name(&format!("{}.jsonl", "é".repeat(200))), "é".repeat(128));
        assert_eq!(name(".."), "-");
    }
}
