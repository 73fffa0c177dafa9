//! Where do the parts of a round lie before they are sent? In one object in S3, a line a part behind a line about all of them:
//! what a worker began to send the next one goes on with, whatever has become of the document. It lies below `jobs/`, and is
//! removed like what lies there: when no message can be left of it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{DOING, Due};
use crate::aws::objects::{Objects, Part};
use crate::aws::upload::Upload;
use crate::aws::{Inner, trouble};
use crate::job::ident::{Digest, JobId};
use crate::ports::{Fence, Round, StoreError, StoreTrouble};

/// Read of the object at a time.
const PIECE_BYTES: u64 = 8 << 20;

/// Where a round lies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Lies {
    /// The object.
    pub(super) key: String,
    /// The length of its first line, without its line feed: what is said about the round, as JSON.
    pub(super) about: u64,
}

/// A part as it is sent.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct StagedPart {
    pub(super) id: JobId,
    /// It runs again, if it was redriven as often as this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) again: Option<u32>,
    /// Its message.
    pub(super) job: Box<RawValue>,
    /// To which trace it belongs, as a [`TraceContext`] shows itself.
    ///
    /// [`TraceContext`]: crate::job::trace::TraceContext
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) trace: Option<String>,
}

/// Writes those parts of a round that are due. Two claims of a job never write the same object.
pub(super) async fn write(
    inner: &Arc<Inner>,
    job: &Fence,
    round: &Round,
    due: &HashMap<JobId, Due>,
) -> Result<Lies, StoreError> {
    let about = serde_json::to_string(&round.about).map_err(|error| unwritable(&error))?;
    let name = Digest::of(format!("{}\0{}\0{}", job.key, job.token.0, round.number).as_bytes());
    let key = format!("{}jobs/round-{name}.jsonl", inner.settings.prefix);
    let mut upload = Upload::new(DOING, key.clone());
    let written = async {
        upload.write(inner, format!("{about}\n").as_bytes()).await?;
        for part in &round.parts {
            let again = match due.get(&part.key.id) {
                Some(Due::Open) => None,
                Some(Due::Again(generation)) => Some(*generation),
                None => continue,
            };
            let job = RawValue::from_string(part.to_message()).map_err(|error| unwritable(&error))?;
            let trace = part.trace.as_ref().map(ToString::to_string);
            let staged = StagedPart { id: part.key.id.clone(), again, job, trace };
            let mut line = serde_json::to_vec(&staged).map_err(|error| unwritable(&error))?;
            line.push(b'\n');
            upload.write(inner, &line).await?;
        }
        Ok(())
    };
    match written.await {
        Ok(()) => upload.finish(inner).await?,
        Err(error) => {
            upload.abort(inner).await;
            return Err(error);
        }
    }
    Ok(Lies { key, about: about.len() as u64 })
}

/// What is said about a round.
pub(super) async fn about(inner: &Inner, lies: &Lies) -> Result<String, StoreError> {
    let objects = Objects::new(inner.clients.s3.clone(), inner.settings.bucket.clone());
    let part = Part::Range { first: 0, last: lies.about.saturating_sub(1) };
    let line = objects.read(DOING, &lies.key, part).await?.ok_or_else(gone)?;
    serde_json::from_slice(&line).map_err(|_| unreadable())
}

/// The parts of a round, on the way through them.
#[derive(Debug)]
pub(super) struct Staged {
    objects: Objects,
    key: String,
    /// From where the next piece is read; `None` behind the last.
    next: Option<u64>,
    /// What is still to come of the first line.
    about: u64,
    /// The beginning of a line whose end is not read yet.
    rest: BytesMut,
}

impl Staged {
    pub(super) fn open(inner: &Inner, lies: &Lies) -> Self {
        let objects = Objects::new(inner.clients.s3.clone(), inner.settings.bucket.clone());
        Self { objects, key: lies.key.clone(), next: Some(0), about: lies.about + 1, rest: BytesMut::new() }
    }

    /// Some more of them; `None` behind the last. There may be none among what was read.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<StagedPart>>, StoreError> {
        let Some(first) = self.next else { return Ok(None) };
        let part = Part::Range { first, last: first + PIECE_BYTES - 1 };
        let piece = match self.objects.read(DOING, &self.key, part).await? {
            Some(piece) => piece,
            None if first == 0 => return Err(gone()),
            None => Bytes::new(),
        };
        let length = piece.len() as u64;
        self.next = (length == PIECE_BYTES).then_some(first + length);
        let about = self.about.min(length);
        self.about -= about;
        self.rest.extend_from_slice(piece.get(usize::try_from(about).unwrap_or(usize::MAX)..).unwrap_or_default());
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let whole = self.rest.split_to(whole);
        if self.next.is_none() && !self.rest.is_empty() {
            return Err(unreadable());
        }
        let lines = whole.as_ref().split(|byte: &u8| *byte == b'\n').filter(|line| !line.is_empty());
        let parts = lines.map(|line| serde_json::from_slice(line).map_err(|_| unreadable()));
        parts.collect::<Result<Vec<_>, _>>().map(Some)
    }
}

fn gone() -> StoreError {
    trouble::of_ours(StoreTrouble::Damaged, DOING, "the object of the round is gone")
}

fn unreadable() -> StoreError {
    trouble::of_ours(StoreTrouble::Damaged, DOING, "the object of the round is not as it was written")
}

fn unwritable(error: &serde_json::Error) -> StoreError {
    trouble::of_ours(StoreTrouble::Other, DOING, error.to_string())
}
