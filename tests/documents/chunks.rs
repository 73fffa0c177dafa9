//! W3: every character of a text is in some chunk, in order, and the same bytes give the same chunks.

use aquifer::document::{Chunk, Extracted, Text, estimated_tokens};
use aquifer::job::document::Kind;
use proptest::prelude::*;

use crate::made;

fn text_of(kind: Kind, pages: Vec<String>) -> Text {
    Text::of(&Extracted { kind, pages })
}

fn assert_covered(text: &Text, chunks: &[Chunk], tokens: usize) {
    let mut covered = 0;
    let mut before = 0;
    for chunk in chunks {
        assert!(chunk.range.start <= covered, "{}..{} is in no chunk", covered, chunk.range.start);
        assert!(chunk.range.start >= before, "chunks are in order");
        let own = text.text.get(chunk.range.clone()).expect("chunks end where characters do");
        assert_eq!(own.chars().count() as u64, chunk.length);
        assert_eq!(text.text[..chunk.range.start].chars().count() as u64, chunk.offset);
        assert!(estimated_tokens(own.trim()) <= tokens + 1, "{} tokens", estimated_tokens(own));
        (covered, before) = (covered.max(chunk.range.end), chunk.range.start);
    }
    assert_eq!(covered, text.text.len(), "the end is in some chunk");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn w3_every_character_belongs_to_a_chunk_and_the_same_bytes_give_the_same_chunks(
        pages in prop::collection::vec("(\\PC|\n| |#|- |本|\\. ){0,300}", 1..4),
        tokens in 50_usize..200,
        overlap in 0_usize..25,
        is_markdown in any::<bool>(),
    ) {
        let kind = if is_markdown { Kind::Markdown } else { Kind::Pdf };
        let text = text_of(kind, pages.clone());
        let chunks = text.chunks(tokens, overlap);
        prop_assume!(!text.text.trim().is_empty());
        assert_covered(&text, &chunks, tokens);
        prop_assert_eq!(text_of(kind, pages).chunks(tokens, overlap), chunks);
    }
}

#[test]
fn w3_chunks_say_on_which_page_they_begin() {
    let pages: Vec<String> = (1..=9).map(|page| format!("Page {page}. ").repeat(60)).collect();
    let text = text_of(Kind::Pdf, pages);
    let chunks = text.chunks(200, 20);
    assert_covered(&text, &chunks, 200);
    for chunk in &chunks {
        let word = text.text[chunk.range.clone()].trim_start();
        let expected: u32 = word.trim_start_matches("Page ").chars().next().unwrap().to_digit(10).unwrap_or(0);
        if expected > 0 {
            assert_eq!(chunk.page, Some(expected), "{word:.12}");
        }
    }
    assert_eq!(chunks.last().unwrap().page, Some(9));
}

#[test]
fn a_chunk_is_filled_and_ends_where_a_sentence_does() {
    let sentence = "The committee met on Monday and decided nothing at all. ";
    let text = text_of(Kind::Text, vec![sentence.repeat(100)]);
    let chunks = text.chunks(100, 0);
    for chunk in chunks.iter().rev().skip(1) {
        let own = &text.text[chunk.range.clone()];
        assert!(own.trim_end().ends_with('.'), "{own}");
        assert!(estimated_tokens(own) > 70, "{} of 100 tokens", estimated_tokens(own));
    }
}

#[test]
fn a_long_document_is_cut_at_its_pages_and_not_lost_between_them() {
    let extracted = aquifer::document::extract(&made::pages(30)).unwrap();
    let text = Text::of(&extracted);
    let chunks = text.chunks(1_500, 100);
    assert_covered(&text, &chunks, 1_500);
    let joined: String = chunks.iter().map(|chunk| &text.text[chunk.range.clone()]).collect();
    for page in 1..=30 {
        assert!(joined.contains(&format!("Page {page}, line 40:")), "page {page}");
    }
}
