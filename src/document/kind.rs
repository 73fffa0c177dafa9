//! What is this file? By its first bytes, else by whether it reads as text, and in which encoding.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use crate::job::document::Kind;

use super::extract::Unreadable;

/// What a file turned out to be.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Found {
    Pdf,
    Docx,
    /// Decoded.
    Text {
        kind: Kind,
        text: String,
    },
}

impl Found {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Pdf => Kind::Pdf,
            Self::Docx => Kind::Docx,
            Self::Text { kind, .. } => *kind,
        }
    }
}

/// A PDF's header may stand behind other bytes, up to here (source: ISO 32000-1, implementation note 13).
const PDF_HEADER_WITHIN: usize = 1_024;
/// How much is looked at to tell one encoding or one kind of text from another.
const LOOKED_AT: usize = 64 << 10;
/// Of a hundred characters, so many that no text has make it no text.
const GARBAGE_PERCENT: usize = 1;
const ZIP: &[u8] = b"PK\x03\x04";
/// A Word file that is encrypted, or older than 2007.
const OLE: &[u8] = &[0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1];

pub(super) fn detect(bytes: &[u8]) -> Result<Found, Unreadable> {
    let head = bytes.get(..PDF_HEADER_WITHIN.min(bytes.len())).unwrap_or_default();
    if memchr::memmem::find(head, b"%PDF-").is_some() {
        return Ok(Found::Pdf);
    }
    if bytes.starts_with(ZIP) {
        return if is_docx(bytes) { Ok(Found::Docx) } else { Err(unknown(bytes, "a ZIP archive")) };
    }
    if bytes.starts_with(OLE) {
        // Names in it are UTF-16: what Office wraps an encrypted file in.
        let name: Vec<u8> = "EncryptedPackage".bytes().flat_map(|byte| [byte, 0]).collect();
        return Err(match memchr::memmem::find(bytes, &name) {
            Some(_) => Unreadable::Encrypted { kind: Kind::Docx },
            None => Unreadable::UnknownType { found: "an Office file from before 2007".to_owned() },
        });
    }
    let (text, is_sure) = decode(bytes);
    let looks_binary = is_garbage(&text);
    if looks_binary
        || (!is_sure && infer::get(bytes).is_some_and(|kind| kind.matcher_type() != infer::MatcherType::Text))
    {
        return Err(unknown(bytes, "binary data"));
    }
    Ok(Found::Text { kind: kind_of(&text), text })
}

fn is_docx(bytes: &[u8]) -> bool {
    // The names of an archive's entries stand in it as they are, in front of each and in the directory at its end. One that is
    // cut off still shows the first.
    memchr::memmem::find(bytes, b"word/").is_some() && memchr::memmem::find(bytes, b"[Content_Types].xml").is_some()
}

fn unknown(bytes: &[u8], otherwise: &str) -> Unreadable {
    let found = infer::get(bytes).map(|kind| kind.mime_type()).filter(|mime| *mime != "application/zip");
    Unreadable::UnknownType { found: found.unwrap_or(otherwise).to_owned() }
}

/// The text, and whether its encoding is beyond doubt.
fn decode(bytes: &[u8]) -> (String, bool) {
    if let Some((encoding, length)) = Encoding::for_bom(bytes) {
        let text = encoding.decode_without_bom_handling(bytes.get(length..).unwrap_or_default()).0;
        return (text.into_owned(), true);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        return (text.to_owned(), true);
    }
    let head = bytes.get(..LOOKED_AT.min(bytes.len())).unwrap_or_default();
    let encoding = utf_16(head).or_else(|| declared(head)).unwrap_or_else(|| {
        let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
        detector.feed(bytes, true);
        detector.guess(None, Utf8Detection::Allow)
    });
    (encoding.decode_without_bom_handling(bytes).0.into_owned(), false)
}

/// UTF-16 without a mark: every other byte of Western text is zero, and of other text a large share.
fn utf_16(head: &[u8]) -> Option<&'static Encoding> {
    let (mut even, mut odd) = (0_usize, 0_usize);
    for (index, _) in head.iter().enumerate().filter(|(_, byte)| **byte == 0) {
        if index % 2 == 0 { even += 1 } else { odd += 1 }
    }
    let many = (head.len() / 8).max(1);
    match (even >= many, odd >= many) {
        (false, true) if even * 8 < odd => Some(UTF_16LE),
        (true, false) if odd * 8 < even => Some(UTF_16BE),
        (false | true, false | true) => None,
    }
}

/// What an HTML file says of itself: `charset=` near its beginning.
fn declared(head: &[u8]) -> Option<&'static Encoding> {
    let near = head.get(..head.len().min(2_048))?;
    let at = memchr::memmem::find(near, b"charset=")? + b"charset=".len();
    let label = near.get(at..)?.iter().skip_while(|byte| matches!(byte, b'"' | b'\''));
    let label: Vec<u8> =
        label.copied().take_while(|byte| byte.is_ascii_alphanumeric() || b"-_:".contains(byte)).collect();
    // What it says of UTF-8 was found to be wrong.
    Encoding::for_label(&label).filter(|encoding| *encoding != UTF_8)
}

fn is_garbage(text: &str) -> bool {
    let (mut all, mut bad) = (0_usize, 0_usize);
    for c in text.chars().take(LOOKED_AT) {
        all += 1;
        bad += usize::from(c == '\u{fffd}' || (c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{c}' | '\u{b}')));
    }
    bad * 100 > all * GARBAGE_PERCENT
}

fn kind_of(text: &str) -> Kind {
    let head: String = text.chars().take(2_048).collect::<String>().to_ascii_lowercase();
    let start = head.trim_start();
    let is_html = start.starts_with("<!doctype html")
        || start.starts_with("<html")
        || (start.starts_with('<') && ["<html", "<head", "<body"].iter().any(|tag| head.contains(tag)));
    if is_html {
        Kind::Html
    } else if is_markdown(text) {
        Kind::Markdown
    } else {
        Kind::Text
    }
}

/// Two signs of different sorts, or one that nobody writes by chance.
fn is_markdown(text: &str) -> bool {
    let (mut heading, mut list, mut link, mut table) = (false, false, false, false);
    for line in text.lines().take(400) {
        let line = line.trim_end();
        let marks = line.len() - line.trim_start_matches('#').len();
        heading |= (1..=6).contains(&marks) && line.get(marks..).is_some_and(|rest| rest.starts_with(' '));
        if line.starts_with("```") || line.starts_with("~~~") {
            return true;
        }
        list |= ["- ", "* ", "+ ", "1. "].iter().any(|mark| line.trim_start().starts_with(mark));
        link |= line.contains("](");
        table |= line.starts_with('|') && line.contains("--");
    }
    [heading, list, link, table].into_iter().filter(|sign| *sign).count() >= 2 || heading && text.starts_with('#')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn text_of(bytes: &[u8]) -> (Kind, String) {
        match detect(bytes).unwrap() {
            Found::Text { kind, text } => (kind, text),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn text_is_read_in_whatever_encoding_it_is_written() {
        let german = "Die Straße führt über die Brücke, und schöne Grüße kommen von allen Gästen. ".repeat(4);
        assert_eq!(text_of(german.as_bytes()).1, german);
        assert_eq!(text_of(&encoding_rs::WINDOWS_1252.encode(&german).0).1, german);
        let marked = [&[0xef, 0xbb, 0xbf], german.as_bytes()].concat();
        assert_eq!(text_of(&marked).1, german, "the mark is not text");
        let little: Vec<u8> = german.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(text_of(&little).1, german, "UTF-16 without a mark");
        let big: Vec<u8> = [0xfe, 0xff].into_iter().chain(german.encode_utf16().flat_map(u16::to_be_bytes)).collect();
        assert_eq!(text_of(&big).1, german, "UTF-16 with a mark");
        let chinese = "本报告总结了去年的主要结果，并说明下一步的工作计划。".repeat(8);
        assert_eq!(text_of(&encoding_rs::GBK.encode(&chinese).0).1, chinese);
        let russian = "Этот отчёт описывает результаты прошлого года и планы на следующий. ".repeat(4);
        assert_eq!(text_of(&encoding_rs::WINDOWS_1251.encode(&russian).0).1, russian);
    }

    #[test]
    fn html_says_its_own_encoding() {
        let page = b"<html><head><meta charset='windows-1250'></head><body>P\xf8\xedli\x9a</body></html>";
        assert_eq!(text_of(page), (Kind::Html, page_in("windows-1250", "Příliš")));
    }

    fn page_in(charset: &str, word: &str) -> String {
        format!("<html><head><meta charset='{charset}'></head><body>{word}</body></html>")
    }

    #[test]
    fn kinds_are_told_by_content() {
        assert_eq!(text_of(b"# Title\n\nText.").0, Kind::Markdown);
        assert_eq!(text_of(b"Notes\n\n- one\n- [two](x)\n").0, Kind::Markdown);
        assert_eq!(text_of(b"Dear all,\n\n- one thing\n\nBest").0, Kind::Text);
        assert_eq!(text_of(b"\n<!DOCTYPE html><p>x").0, Kind::Html);
        assert_eq!(text_of(b"a < b and <head> is a word").0, Kind::Text);
        assert_eq!(detect(b"junk\n%PDF-1.7\n").unwrap(), Found::Pdf);
    }

    #[test]
    fn what_is_not_read_is_named() {
        let png = [&b"\x89PNG\r\n\x1a\n"[..], &[0; 64]].concat();
        assert_eq!(detect(&png), Err(Unreadable::UnknownType { found: "image/png".to_owned() }));
        let noise: Vec<u8> = (0..4_096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert!(matches!(detect(&noise), Err(Unreadable::UnknownType { .. })));
        assert!(matches!(detect(b"PK\x03\x04 nothing of Word's"), Err(Unreadable::UnknownType { .. })));
    }
}
