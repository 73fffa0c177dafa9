//! Where do result lines lie? In segments: files of JSON lines, many jobs of one batch to a file.
//!
//! A file holds lines of one batch only, so that forgetting a batch is deleting files. Each process writes its own
//! files and starts new ones when it starts, so a torn tail after a crash is never written behind. A file whose write
//! or sync failed is not trusted again either: what the kernel kept of it is anybody's guess.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::appender::Sink;
use super::process::Inner;
use super::trouble;
use crate::job::ident::{BatchKey, Digest};
use crate::job::outcome::Pointer;
use crate::ports::{Bodies, StoreError, StoreTrouble};

/// The folder of all segments below the state directory.
pub(super) const FOLDER: &str = "bodies";
/// A segment that has reached this size gets no more lines.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Files kept open at most: batches that were written to last.
const OPEN_FILES: usize = 64;

/// The bodies of one state directory.
#[derive(Clone, Debug)]
pub(super) struct EmbeddedBodies {
    pub(super) inner: Arc<Inner>,
}

#[async_trait]
impl Bodies for EmbeddedBodies {
    async fn append(&self, batch: &BatchKey, line: Bytes) -> Result<Pointer, StoreError> {
        self.inner.segments.append(batch.clone(), line).await
    }

    async fn read(&self, pointer: &Pointer) -> Result<Bytes, StoreError> {
        let (dir, pointer) = (self.inner.dir.clone(), pointer.clone());
        let read = tokio::task::spawn_blocking(move || read(&dir, &pointer));
        read.await.map_err(|gone| trouble::of_ours(StoreTrouble::Other, "reading a result", gone.to_string()))?
    }
}

/// The name of a batch's folder and of its manifests: names of batches may hold anything, file names may not.
pub(super) fn folder_name(batch: &BatchKey) -> String {
    let mut name = Digest::of(format!("{}\0{}", batch.tenant, batch.batch).as_bytes()).to_string();
    name.truncate(32);
    name
}

/// Reads a line and checks that it is the one that was written.
pub(super) fn read(dir: &Path, pointer: &Pointer) -> Result<Bytes, StoreError> {
    line(&open(dir, pointer)?, pointer)
}

/// Likewise many lines, in their order; neighbours that lie in one file share its opening.
pub(super) fn read_all(dir: &Path, pointers: &[Pointer]) -> Result<Vec<Bytes>, StoreError> {
    let mut lines = Vec::with_capacity(pointers.len());
    for neighbours in pointers.chunk_by(|one, next| one.uri == next.uri) {
        let Some(first) = neighbours.first() else { continue };
        let file = open(dir, first)?;
        for pointer in neighbours {
            lines.push(line(&file, pointer)?);
        }
    }
    Ok(lines)
}

fn open(dir: &Path, pointer: &Pointer) -> Result<File, StoreError> {
    let path = Path::new(&pointer.uri);
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        let why = "it lies outside the state directory";
        return Err(trouble::of_ours(StoreTrouble::Damaged, reading(pointer), why));
    }
    File::open(dir.join(path)).map_err(|error| match error.kind() == io::ErrorKind::NotFound {
        true => trouble::of_ours(StoreTrouble::Damaged, reading(pointer), "the file is gone"),
        false => trouble::of_io(reading(pointer), &error),
    })
}

fn line(file: &File, pointer: &Pointer) -> Result<Bytes, StoreError> {
    let io = |error: io::Error| trouble::of_io(reading(pointer), &error);
    let damaged = |why: &str| trouble::of_ours(StoreTrouble::Damaged, reading(pointer), why);
    let length = usize::try_from(pointer.length).map_err(|_| damaged("the line is longer than memory"))?;
    let size = file.metadata().map_err(io)?.len();
    if pointer.offset.checked_add(pointer.length).is_none_or(|end| end > size) {
        return Err(damaged("the file ends before the line does"));
    }
    let mut line = vec![0; length];
    file.read_exact_at(&mut line, pointer.offset).map_err(io)?;
    if Digest::of(&line) != pointer.sha256 {
        return Err(damaged("the line is not the one that was written"));
    }
    Ok(line.into())
}

fn reading(pointer: &Pointer) -> String {
    format!("reading a result from {}", pointer.uri)
}

/// Makes a folder's entries durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// What writes segments.
#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    epoch: i64,
    next: u64,
    open: HashMap<BatchKey, Segment>,
    groups: u64,
}

#[derive(Debug)]
struct Segment {
    file: File,
    uri: String,
    length: u64,
    used: u64,
}

impl Segment {
    /// Whether it still has a name: its batch may have been forgotten meanwhile, by whichever process.
    fn is_there(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() > 0)
    }
}

impl Segments {
    pub(super) fn new(dir: PathBuf, epoch: i64) -> Self {
        Self { dir, epoch, next: 1, open: HashMap::new(), groups: 0 }
    }

    /// Writes lines of one batch and syncs them; at an error none of them counts.
    fn write_batch(&mut self, batch: &BatchKey, lines: &[&Bytes]) -> Result<Vec<Pointer>, StoreError> {
        let doing = || format!("writing {} results", lines.len());
        // Taken out, and put back only if everything went well.
        let mut segment = match self.open.remove(batch) {
            Some(segment) if segment.length < SEGMENT_BYTES && segment.is_there() => segment,
            Some(_) | None => self.create(batch).map_err(|error| trouble::of_io(doing(), &error))?,
        };
        let mut block = Vec::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
        let mut pointers = Vec::with_capacity(lines.len());
        for line in lines {
            pointers.push(Pointer {
                uri: segment.uri.clone(),
                offset: segment.length + block.len() as u64,
                length: line.len() as u64,
                sha256: Digest::of(line),
            });
            block.extend_from_slice(line);
            block.push(b'\n');
        }
        let written = segment.file.write_all(&block).and_then(|()| segment.file.sync_data());
        written.map_err(|error| trouble::of_io(doing(), &error))?;
        segment.length += block.len() as u64;
        segment.used = self.groups;
        self.open.insert(batch.clone(), segment);
        Ok(pointers)
    }

    fn create(&mut self, batch: &BatchKey) -> io::Result<Segment> {
        let all = self.dir.join(FOLDER);
        let name = folder_name(batch);
        let folder = all.join(&name);
        if !folder.is_dir() {
            std::fs::create_dir_all(&folder)?;
            sync_folder(&all)?;
        }
        // Files of an earlier database, which somebody took away without them, may bear our epoch.
        let (file, file_name) = loop {
            let name = format!("{}-{}.jsonl", self.epoch, self.next);
            self.next += 1;
            match OpenOptions::new().append(true).create_new(true).open(folder.join(&name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                opened => break (opened?, name),
            }
        };
        sync_folder(&folder)?;
        Ok(Segment { file, uri: format!("{FOLDER}/{name}/{file_name}"), length: 0, used: self.groups })
    }

    fn close_idle(&mut self) {
        while self.open.len() > OPEN_FILES {
            let oldest = self.open.iter().min_by_key(|(_, segment)| segment.used).map(|(batch, _)| batch.clone());
            if let Some(batch) = oldest {
                self.open.remove(&batch);
            }
        }
    }
}

impl Sink for Segments {
    type Place = BatchKey;
    type Receipt = Pointer;

    fn write(&mut self, lines: &[(BatchKey, Bytes)]) -> Vec<Result<Pointer, StoreError>> {
        self.groups += 1;
        let mut by_batch: HashMap<&BatchKey, Vec<usize>> = HashMap::new();
        for (place, (batch, _)) in lines.iter().enumerate() {
            by_batch.entry(batch).or_default().push(place);
        }
        let mut receipts: Vec<Option<Result<Pointer, StoreError>>> = lines.iter().map(|_| None).collect();
        for (batch, places) in by_batch {
            let block: Vec<&Bytes> =
                places.iter().filter_map(|place| lines.get(*place)).map(|(_, line)| line).collect();
            let outcomes: Vec<_> = match self.write_batch(batch, &block) {
                Ok(pointers) => pointers.into_iter().map(Ok).collect(),
                Err(error) => places.iter().map(|_| Err(error.clone())).collect(),
            };
            for (place, outcome) in places.into_iter().zip(outcomes) {
                if let Some(receipt) = receipts.get_mut(place) {
                    *receipt = Some(outcome);
                }
            }
        }
        self.close_idle();
        let missing = || Err(trouble::of_ours(StoreTrouble::Other, "writing a result", "it was not written"));
        receipts.into_iter().map(|receipt| receipt.unwrap_or_else(missing)).collect()
    }
}
