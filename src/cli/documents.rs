//! Which jobs are these documents? One a file, named by its path and its content: the same file is the same job, and one that
//! was changed is another.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::document::FILE_BYTES;
use crate::job::document::Document;
use crate::job::dropped::{id_of, named};
use crate::job::failure::Class;
use crate::job::ident::{BatchName, Digest, JobId, JobKey, Tenant};
use crate::job::intake::{Draft, NO_MODEL, Refusal};
use crate::job::spec::{Job, MaxTokens, Priority, Request};
use crate::job::upload::{Origin, UploadRule};

use super::exit::Report;

/// How documents are read.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// `[[upload]]`.
    pub(crate) uploads: Vec<UploadRule>,
    /// What is ours, and no document: results, state, configuration.
    pub(crate) ours: Vec<PathBuf>,
}

/// The files among these inputs and below them, in the order of their names.
///
/// # Errors
/// A report: an input is not there, or there is no file at all.
pub(crate) fn files(inputs: &[PathBuf], rules: &Rules) -> Result<Vec<PathBuf>, Report> {
    let ours: Vec<PathBuf> = rules.ours.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let mut found = Vec::new();
    for input in inputs {
        if !input.exists() {
            return Err(Report::usage(format!("{}: there is no such file or folder", input.display())));
        }
        walk(input, true, &ours, &mut found)?;
    }
    if found.is_empty() {
        return Err(Report::usage("no documents: there is no file in what was named"));
    }
    Ok(found)
}

fn walk(path: &Path, is_named: bool, ours: &[PathBuf], found: &mut Vec<PathBuf>) -> Result<(), Report> {
    let cannot = |error: std::io::Error| Report::usage(format!("{}: cannot be read: {error}", path.display()));
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let is_ours = !ours.is_empty() && path.canonicalize().is_ok_and(|path| ours.contains(&path));
    if !is_named && (hidden || is_ours || path.is_symlink() && path.is_dir()) {
        return Ok(());
    }
    if !path.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    let mut entries: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(path).map_err(cannot)? {
        entries.push(entry.map_err(cannot)?.path());
    }
    entries.sort();
    entries.iter().try_for_each(|entry| walk(entry, false, ours, found))
}

/// The job of a file.
///
/// # Errors
/// [`Refusal`]: it cannot be read, or there is nobody to ask.
pub(crate) fn job(
    path: &Path,
    rules: &Rules,
    batch: &BatchName,
    model: Option<&str>,
    default: Option<&str>,
) -> Result<Draft, Refusal> {
    let shown = path.to_string_lossy();
    let shown = shown.strip_prefix("./").unwrap_or(&shown);
    let refused = |class, reason: String| Refusal {
        class,
        column: None,
        reason,
        id: JobId::new(&named(shown)).ok(),
        tenant: None,
    };
    let digest = match digest(path) {
        Ok(Content::Whole(digest)) => digest,
        Ok(Content::TooLarge) => return Err(refused(Class::TooLarge, too_large())),
        Err(error) => return Err(refused(Class::BadInput, format!("cannot be read: {error}"))),
    };
    // Files that are named lie in no bucket, and wait in no folder.
    let rule = rules.uploads.iter().find(|rule| rule.origin == Origin::Any && rule.is_for(shown));
    let document = rule.map_or_else(|| Document::at(shown), |rule| rule.document(shown));
    let document = Document { sha256: Some(digest), ..document };
    let model = rule.and_then(|rule| rule.model.as_deref()).or(model).or(default);
    let model = model.ok_or_else(|| refused(Class::BadInput, NO_MODEL.to_owned()))?;
    let place = Digest::of(format!("{shown}\0{digest}").as_bytes());
    let id = id_of(shown, &place).map_err(|error| refused(Class::BadInput, error.to_string()))?;
    let job = Job {
        key: JobKey { tenant: Tenant::unnamed(), batch: batch.clone(), id },
        model: model.to_owned(),
        request: Request::Document(Box::new(document)),
        max_tokens: rule.and_then(|rule| rule.max_tokens).map_or(MaxTokens::Unsaid, MaxTokens::Cap),
        fallback: true,
        deadline: None,
        priority: Priority::default(),
        residency: None,
        callback: None,
        metadata: serde_json::Map::new(),
    };
    Ok(Draft { job, auto_id: false })
}

/// What a file holds, as far as it is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Content {
    /// All of it, by its digest.
    Whole(Digest),
    /// More than is ever read.
    TooLarge,
}

/// Reads a file for its digest. Blocks.
///
/// # Errors
/// What the system said.
pub(crate) fn digest(path: &Path) -> io::Result<Content> {
    let mut file = File::open(path)?.take(FILE_BYTES + 1);
    let (mut hasher, mut buffer, mut length) = (Sha256::new(), vec![0; 1 << 16], 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        length += read as u64;
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
    if length > FILE_BYTES {
        return Ok(Content::TooLarge);
    }
    Digest::from_bytes(&hasher.finalize()).map(Content::Whole).ok_or_else(|| io::Error::other("it has no digest"))
}

fn too_large() -> String {
    format!("the file is larger than {} MiB; split it into several files", FILE_BYTES >> 20)
}
