//! How does a document become questions to a model? Read, cut, and asked about by its template.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use crate::job::document::{Document, Mode, Place};
use crate::job::failure::{Class, Failure};
use crate::job::prompt_template::{Template, Variable};
use crate::job::spec::{Job, Request};
use crate::ports::{Documents, Opened, OpenedChunk, Sources, Unopened};

use super::chunk::{Text, estimated_tokens};
use super::extract::Extracted;
use super::{Readers, source};

/// A file sent along has at most so many bytes (source: the Converse API, document blocks).
const NATIVE_BYTES: usize = 4_500_000;
/// Answers are brought together in questions of at most so many estimated tokens: well within any model's context.
const REDUCE_TOKENS: usize = 24_000;
/// Between two answers.
const BETWEEN: &str = "\n\n---\n\n";

/// From which length a shared beginning is cached, by the model's id; `None` where it cannot be.
pub type CacheMinimum = dyn Fn(&str) -> Option<u32> + Send + Sync;

/// Reads documents with processes of their own, one a core at a time.
pub struct Desk {
    readers: Readers,
    /// From where documents are fetched; without them they are files.
    sources: Option<Arc<dyn Sources>>,
    turns: Semaphore,
    cache_minimum: Arc<CacheMinimum>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("readers", &self.readers).finish_non_exhaustive()
    }
}

impl Desk {
    /// `program` is this program's own file; `cache_minimum` is asked with a job's model, as the job names it.
    pub fn new(program: PathBuf, cache_minimum: Arc<CacheMinimum>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self { readers: Readers::new(program), sources: None, turns: Semaphore::new(cores), cache_minimum }
    }

    /// The same for documents that are fetched from there, and for no files.
    pub fn fetching(self, sources: Arc<dyn Sources>) -> Self {
        Self { sources: Some(sources), ..self }
    }

    async fn extract(&self, bytes: &[u8]) -> Result<Extracted, Unopened> {
        let read = self.readers.read(bytes).await.map_err(|error| Unopened::Away { why: error.to_string() })?;
        read.map_err(|refusal| Unopened::Refused {
            failure: Failure::new(refusal.class(), refusal.to_string()),
            kind: refusal.found(),
        })
    }

    fn cut(&self, job: &Job, document: &Document, extracted: &Extracted) -> Result<Vec<OpenedChunk>, Unopened> {
        let template = document.question().map_err(|error| broken(&error))?;
        let (tokens, overlap) = (document.chunk_tokens().get(), document.overlap_tokens());
        let text = Text::of(extracted);
        let chunks = text.chunks(usize_of(tokens), usize_of(overlap));
        let (count, minimum) = (chunks.len().to_string(), (self.cache_minimum)(&job.model));
        let ask = |(index, chunk): (usize, super::Chunk)| {
            let piece = text.text.get(chunk.range.clone()).unwrap_or_default();
            let number = (index + 1).to_string();
            let (shared, own) = fill(&template, document, piece, &number, &count, "");
            let is_cached = count != "1" && minimum.is_some_and(|least| estimated_tokens(&shared) >= usize_of(least));
            let request = if is_cached { cached(&shared, &own) } else { Request::Prompt(shared + &own) };
            OpenedChunk { request, page: chunk.page, offset: chunk.offset, length: chunk.length }
        };
        Ok(chunks.into_iter().enumerate().map(ask).collect())
    }

    fn native(
        &self,
        document: &Document,
        bytes: &[u8],
        kind: crate::job::document::Kind,
    ) -> Result<OpenedChunk, Unopened> {
        if bytes.len() > NATIVE_BYTES {
            let why = format!(
                "the file has {} bytes, and models take {NATIVE_BYTES} at most; split it, or leave `mode` out to send its text",
                bytes.len()
            );
            return Err(source::refused(Class::TooLarge, why));
        }
        let template = document.question().map_err(|error| broken(&error))?;
        let (shared, own) = fill(&template, document, "", "1", "1", "");
        let block = json!({ "document": {
            "format": kind.format(), "name": block_name(document.name()), "source": { "bytes": BASE64_STANDARD.encode(bytes) },
        } });
        let request = Request::Converse(user_message(vec![block, json!({ "text": shared + &own })]));
        Ok(OpenedChunk { request, page: None, offset: 0, length: 0 })
    }
}

#[async_trait]
impl Documents for Desk {
    async fn open(&self, job: &Job) -> Result<Opened, Unopened> {
        let Request::Document(document) = &job.request else {
            return Err(source::refused(Class::BadInput, "this is no document".to_owned()));
        };
        // Its time begins when its turn comes, and so few are held in memory at once. The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        let bytes = source::load(document, self.sources.as_deref()).await?;
        match document.mode {
            Mode::Text => {
                let extracted = self.extract(&bytes).await?;
                let chunks = self.cut(job, document, &extracted)?;
                Ok(Opened { kind: extracted.kind.to_string(), pages: extracted.page_count(), chunks })
            }
            Mode::Native => {
                let found = super::kind::detect(&bytes).map_err(|refusal| Unopened::Refused {
                    failure: Failure::new(refusal.class(), refusal.to_string()),
                    kind: refusal.found(),
                })?;
                let kind = found.kind();
                let chunks = vec![self.native(document, &bytes, kind)?];
                Ok(Opened { kind: kind.to_string(), pages: None, chunks })
            }
        }
    }

    fn reduce(&self, job: &Job, answers: &[String]) -> Option<Vec<Request>> {
        let Request::Document(document) = &job.request else { return None };
        // It was read once, when the job was.
        let template = document.synthesis().ok()??;
        let count = answers.len().to_string();
        let ask = |answers: &[String]| {
            let (shared, own) = fill(&template, document, "", "", &count, &answers.join(BETWEEN));
            Request::Prompt(shared + &own)
        };
        Some(groups(answers).into_iter().map(ask).collect())
    }

    fn place(&self) -> Place {
        if self.sources.is_some() { Place::S3 } else { Place::Files }
    }
}

/// As many as fit, in their order, and never fewer than two: so that each round is shorter than the one before.
fn groups(answers: &[String]) -> Vec<&[String]> {
    let mut groups = Vec::new();
    let mut rest = answers;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fitting = rest.iter().take_while(|answer| {
            tokens += estimated_tokens(answer) + estimated_tokens(BETWEEN);
            tokens <= REDUCE_TOKENS
        });
        let mut count = fitting.count().max(2).min(rest.len());
        // One left over would be brought together with nothing.
        if rest.len() - count == 1 {
            count += 1;
        }
        let (group, others) = rest.split_at(count);
        groups.push(group);
        rest = others;
    }
    groups
}

fn fill(
    template: &Template,
    document: &Document,
    chunk: &str,
    number: &str,
    count: &str,
    answers: &str,
) -> (String, String) {
    template.fill(|variable| match variable {
        Variable::Chunk => Cow::Owned(chunk.to_owned()),
        Variable::DocumentName => Cow::Owned(document.name().to_owned()),
        Variable::ChunkNumber => Cow::Owned(number.to_owned()),
        Variable::ChunkCount => Cow::Owned(count.to_owned()),
        Variable::Answers => Cow::Owned(answers.to_owned()),
    })
}

/// What all chunks share is read from the cache from the second one on, which is free of quota.
fn cached(shared: &str, own: &str) -> Request {
    let mark = json!({ "cachePoint": { "type": "default" } });
    Request::Converse(user_message(vec![json!({ "text": shared }), mark, json!({ "text": own })]))
}

fn user_message(content: Vec<Value>) -> Map<String, Value> {
    let messages = json!([{ "role": "user", "content": content }]);
    Map::from_iter([("messages".to_owned(), messages)])
}

/// Letters, digits, spaces, hyphens, parentheses and square brackets, no two spaces in a row (source: the Converse API).
fn block_name(name: &str) -> String {
    let name: String = name
        .chars()
        .take(200)
        .map(|c| if c.is_ascii_alphanumeric() || "-()[]".contains(c) { c } else { ' ' })
        .collect();
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.is_empty() { "document".to_owned() } else { name }
}

fn broken(error: &crate::job::prompt_template::TemplateError) -> Unopened {
    source::refused(Class::BadInput, format!("`template`: {error}"))
}

fn usize_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_of_bringing_together_is_shorter_than_the_one_before() {
        for (count, length) in [(1, 10), (2, 200_000), (3, 200_000), (5, 200_000), (100, 4_000), (1_000, 40)] {
            let answers = vec!["x".repeat(length); count];
            let groups = groups(&answers);
            assert_eq!(groups.iter().map(|group| group.len()).sum::<usize>(), count);
            assert!(groups.len() < count || count == 1, "{count} answers of {length}: {} groups", groups.len());
        }
    }

    #[test]
    fn the_name_of_a_block_has_only_what_the_service_takes() {
        assert_eq!(block_name("Jahres_bericht (2026).v2.pdf"), "Jahres bericht (2026) v2 pdf");
        assert_eq!(block_name("報告"), "document");
    }
}
