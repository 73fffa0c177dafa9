//! How is a text cut? At the boundaries of its meaning, every character into some chunk, the same bytes the same way.

use std::ops::Range;

use text_splitter::{ChunkConfig, ChunkSizer, MarkdownSplitter, TextSplitter};

use crate::job::document::Kind;

use super::extract::Extracted;

/// Between two pages, so that neither runs into the other.
const PAGE_BREAK: &str = "\n\n";

/// The whole text of a document, and where its pages begin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Text {
    /// All pages.
    pub text: String,
    /// Byte offsets in it.
    starts: Vec<usize>,
    has_pages: bool,
    is_markdown: bool,
}

/// A piece of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chunk {
    /// Its bytes in the text.
    pub range: Range<usize>,
    /// The page on which it begins, from 1, where its kind has pages.
    pub page: Option<u32>,
    /// Its first character's place in the text, in characters from 0.
    pub offset: u64,
    /// Its characters.
    pub length: u64,
}

impl Text {
    /// Puts the pages together.
    pub fn of(extracted: &Extracted) -> Self {
        let mut text = String::new();
        let mut starts = Vec::with_capacity(extracted.pages.len());
        for page in &extracted.pages {
            if !starts.is_empty() {
                text.push_str(PAGE_BREAK);
            }
            starts.push(text.len());
            text.push_str(page);
        }
        let (has_pages, is_markdown) = match extracted.kind {
            Kind::Pdf => (true, false),
            Kind::Docx | Kind::Html | Kind::Markdown => (false, true),
            Kind::Text => (false, false),
        };
        Self { text, starts, has_pages, is_markdown }
    }

    /// Cuts it into chunks of at most so many estimated tokens, each beginning with up to `overlap` of those before it. A chunk of
    /// nothing but white space is left to the one before it.
    pub fn chunks(&self, tokens: usize, overlap: usize) -> Vec<Chunk> {
        let config = || {
            let plain = ChunkConfig::new(tokens).with_sizer(Estimate).with_trim(false);
            // An overlap must be smaller than the chunk; whoever reads the settings has seen to it.
            plain
                .with_overlap(overlap)
                .unwrap_or_else(|_| ChunkConfig::new(tokens).with_sizer(Estimate).with_trim(false))
        };
        let ranges: Vec<Range<usize>> = if self.is_markdown {
            let splitter = MarkdownSplitter::new(config());
            splitter.chunk_indices(&self.text).map(|(at, chunk)| at..at + chunk.len()).collect()
        } else {
            let splitter = TextSplitter::new(config());
            splitter.chunk_indices(&self.text).map(|(at, chunk)| at..at + chunk.len()).collect()
        };
        self.described(whole(ranges, &self.text))
    }

    fn described(&self, ranges: Vec<Range<usize>>) -> Vec<Chunk> {
        let (mut at, mut chars) = (0, 0);
        let count = |range: Range<usize>| self.text.get(range).map_or(0, |text| text.chars().count() as u64);
        let mut chunks = Vec::with_capacity(ranges.len());
        for range in ranges {
            chars = if range.start >= at { chars + count(at..range.start) } else { chars - count(range.start..at) };
            at = range.start;
            // Where its first word stands: white space in front belongs to the page before.
            let blank = self.text.get(range.clone()).map_or(0, |text| text.len() - text.trim_start().len());
            let pages = self.starts.partition_point(|start| *start <= range.start + blank);
            let page = u32::try_from(pages).ok().filter(|_| self.has_pages);
            chunks.push(Chunk { page, offset: chars, length: count(range.clone()), range });
        }
        chunks
    }
}

/// Closes what a splitter left open: gaps, the end, and pieces without a word.
fn whole(ranges: Vec<Range<usize>>, text: &str) -> Vec<Range<usize>> {
    let is_blank = |range: &Range<usize>| text.get(range.clone()).is_none_or(|text| text.trim().is_empty());
    let mut whole: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for mut range in ranges {
        let covered = whole.last().map_or(0, |last| last.end);
        range.start = range.start.min(covered);
        match whole.last_mut() {
            Some(last) if is_blank(&(covered..range.end.max(covered))) => last.end = last.end.max(range.end),
            Some(_) | None => whole.push(range),
        }
    }
    if let Some(last) = whole.last_mut() {
        last.end = text.len();
    }
    // The first may be blank when nothing stood before it.
    if whole.len() > 1 && whole.first().is_some_and(is_blank) {
        whole.remove(0);
        if let Some(first) = whole.first_mut() {
            first.start = 0;
        }
    }
    whole
}

/// Tokens as they are estimated before any model has counted them: four characters of a Latin script are one, and about one
/// and a half letters of other alphabets; a Chinese, Japanese or Korean character is one by itself.
#[derive(Clone, Copy, Debug)]
pub struct Estimate;

impl ChunkSizer for Estimate {
    fn size(&self, chunk: &str) -> usize {
        let quarters: usize = chunk
            .chars()
            .map(|c| match c {
                '\0'..='\u{24f}' => 1,
                '\u{250}'..='\u{10ff}' | '\u{1200}'..='\u{1fff}' => 3,
                _ => 4,
            })
            .sum();
        quarters.div_ceil(4)
    }
}

/// As [`Estimate`] has it.
pub fn estimated_tokens(text: &str) -> usize {
    Estimate.size(text)
}
