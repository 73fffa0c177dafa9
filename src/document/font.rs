//! Which characters do the codes of a font stand for, and how wide are they?

use std::collections::HashMap;

use lopdf::{Dictionary, Document, Encoding, Object};

/// A character map holds at most so much, unpacked.
const MAP_BYTES: usize = 4 << 20;
/// Of a font that does not say, in thousandths of its size.
const SIMPLE_WIDTH: f64 = 500.0;
const WIDE_WIDTH: f64 = 1_000.0;
/// Widths of one font at most: there are no more codes.
const WIDTHS: usize = 1 << 16;

/// A font, as far as text needs it.
pub(super) struct Font<'d> {
    encoding: Encoding<'d>,
    /// Codes have two bytes.
    is_wide: bool,
    widths: HashMap<u16, f64>,
    otherwise: f64,
}

/// A string as it is shown.
pub(super) struct Shown {
    pub(super) text: String,
    /// In thousandths of the font's size.
    pub(super) width: f64,
    pub(super) codes: usize,
    /// Single-byte spaces, which word spacing widens.
    pub(super) spaces: usize,
}

impl<'d> Font<'d> {
    pub(super) fn read(document: &'d Document, font: &'d Dictionary) -> Option<Self> {
        let encoding = font.get_font_encoding_with_limit(document, MAP_BYTES).ok()?;
        let is_wide = font.get(b"Subtype").and_then(Object::as_name).is_ok_and(|subtype| subtype == b"Type0");
        // What stands in for a map that cannot be read knows codes of one byte alone: no text is better than a wrong one.
        if is_wide && matches!(encoding, Encoding::OneByteEncoding(_) | Encoding::Differences(_)) {
            return None;
        }
        let (widths, otherwise) = if is_wide { wide(document, font) } else { simple(document, font) };
        Some(Self { encoding, is_wide, widths, otherwise })
    }

    pub(super) fn decode(&self, bytes: &[u8]) -> Shown {
        // What cannot be decoded still takes its room: the text around it keeps its distances.
        let text = self.encoding.bytes_to_string(bytes).unwrap_or_default();
        let of = |code: u16| self.widths.get(&code).copied().unwrap_or(self.otherwise);
        let (width, codes) = if self.is_wide {
            let codes = bytes.chunks_exact(2).filter_map(|pair| <[u8; 2]>::try_from(pair).ok().map(u16::from_be_bytes));
            (codes.map(of).sum(), bytes.len() / 2)
        } else {
            (bytes.iter().map(|byte| of(u16::from(*byte))).sum(), bytes.len())
        };
        let spaces = if self.is_wide { 0 } else { bytes.iter().filter(|byte| **byte == b' ').count() };
        Shown { text: without_ligatures(&text), width, codes, spaces }
    }
}

/// `ﬁ` is one character of a font and two of the text.
fn without_ligatures(text: &str) -> String {
    let is_ligature = |c: char| ('\u{fb00}'..='\u{fb06}').contains(&c);
    if !text.contains(|c: char| is_ligature(c) || c == '\0' || c == '\u{ad}') {
        return text.to_owned();
    }
    let mut plain = String::with_capacity(text.len() + 4);
    for c in text.chars() {
        match c {
            '\u{fb00}' => plain.push_str("ff"),
            '\u{fb01}' => plain.push_str("fi"),
            '\u{fb02}' => plain.push_str("fl"),
            '\u{fb03}' => plain.push_str("ffi"),
            '\u{fb04}' => plain.push_str("ffl"),
            '\u{fb05}' | '\u{fb06}' => plain.push_str("st"),
            '\0' => {}
            // A soft hyphen is shown where a line ends in it.
            '\u{ad}' => plain.push('-'),
            other => plain.push(other),
        }
    }
    plain
}

fn simple(document: &Document, font: &Dictionary) -> (HashMap<u16, f64>, f64) {
    let first = font.get_deref(b"FirstChar", document).and_then(Object::as_i64).unwrap_or(0);
    let widths = font.get_deref(b"Widths", document).and_then(Object::as_array);
    let codes = (first.max(0)..).filter_map(|code| u16::try_from(code).ok());
    let widths = widths.map(|widths| codes.zip(widths.iter().take(256).map(|width| number(document, width))).collect());
    (widths.unwrap_or_default(), SIMPLE_WIDTH)
}

/// `W` of the font that stands below: `c [w1 w2 ...]`, or `first last w`.
fn wide(document: &Document, font: &Dictionary) -> (HashMap<u16, f64>, f64) {
    let below = font.get_deref(b"DescendantFonts", document).and_then(Object::as_array).ok();
    let below = below.and_then(|fonts| fonts.first()).and_then(|font| document.dereference(font).ok());
    let Some(below) = below.and_then(|(_, font)| font.as_dict().ok()) else { return (HashMap::new(), WIDE_WIDTH) };
    let otherwise = below.get_deref(b"DW", document).map_or(WIDE_WIDTH, |width| number(document, width));
    let mut widths = HashMap::new();
    let Ok(entries) = below.get_deref(b"W", document).and_then(Object::as_array) else { return (widths, otherwise) };
    let mut entries = entries.iter();
    while let (Some(first), Some(second)) = (entries.next(), entries.next()) {
        let Ok(first) = first.as_i64() else { break };
        match document.dereference(second) {
            Ok((_, Object::Array(each))) => {
                let codes = (first.max(0)..).filter_map(|code| u16::try_from(code).ok());
                widths.extend(codes.zip(each.iter().map(|width| number(document, width))));
            }
            Ok((_, last)) => {
                let (Ok(last), Some(width)) = (last.as_i64(), entries.next()) else { break };
                let (width, last) = (number(document, width), last.min(i64::from(u16::MAX)));
                widths.extend((first.max(0)..=last).filter_map(|code| Some((u16::try_from(code).ok()?, width))));
            }
            Err(_) => break,
        }
        if widths.len() >= WIDTHS {
            break;
        }
    }
    (widths, otherwise)
}

fn number(document: &Document, object: &Object) -> f64 {
    document.dereference(object).ok().and_then(|(_, object)| object.as_float().ok()).map_or(0.0, f64::from)
}
