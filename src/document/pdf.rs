//! Which text stands on each page of a PDF? Its content streams are read for where text is shown, and [`layout`](super::layout)
//! makes lines of that.
//!
//! `lopdf` reads the file; what it makes of a page's text is one run of characters, so the reading of content is ours: spaces
//! and lines exist in a PDF only as distances.

use std::collections::HashMap;
use std::rc::Rc;

use lopdf::content::Content;
use lopdf::{Dictionary, Document, Error, LoadOptions, Object, ObjectId};

use crate::job::document::Kind;

use super::extract::{TEXT_BYTES, Unreadable, too_much_text};
use super::font::Font;
use super::layout::{Page, Run};

/// One stream holds at most so much, unpacked: pages of a million operators are below.
const STREAM_BYTES: usize = 32 << 20;
/// Forms may show forms; a form that shows itself ends here.
const DEPTH: usize = 8;
/// The mark of the end stands within so many bytes of it.
const END_WITHIN: usize = 64 << 10;

pub(super) fn pages(bytes: &[u8]) -> Result<Vec<String>, Unreadable> {
    let tail = bytes.get(bytes.len().saturating_sub(END_WITHIN)..).unwrap_or_default();
    if memchr::memmem::rfind(tail, b"%%EOF").is_none() {
        return Err(corrupt("it is cut off"));
    }
    let mut document = Document::load_mem_with_options(bytes, LoadOptions::with_max_decompressed_size(STREAM_BYTES))
        .map_err(|error| refusal(&error))?;
    if document.is_encrypted() {
        return Err(Unreadable::Encrypted { kind: Kind::Pdf });
    }
    prefer_unicode(&mut document);
    let ids: Vec<ObjectId> = document.get_pages().into_values().collect();
    if ids.is_empty() && memchr::memmem::find(bytes, b"/Encrypt").is_some() {
        return Err(Unreadable::Encrypted { kind: Kind::Pdf });
    }
    if ids.is_empty() {
        return Err(corrupt("it has no pages"));
    }
    let mut reader = Reader { document: &document, fonts: HashMap::new() };
    let (mut pages, mut length) = (Vec::with_capacity(ids.len()), 0);
    for id in ids {
        let page = reader.page(id)?;
        length += page.len();
        if length > TEXT_BYTES {
            return Err(too_much_text());
        }
        pages.push(page);
    }
    Ok(pages)
}

/// What a font says its characters mean goes before how it is encoded: subsets are encoded at random.
fn prefer_unicode(document: &mut Document) {
    let has_map: Vec<ObjectId> = document
        .objects
        .iter()
        .filter_map(|(id, object)| object.as_dict().ok().map(|font| (id, font)))
        .filter(|(_, font)| font.has_type(b"Font"))
        .filter(|(_, font)| font.get_deref(b"ToUnicode", document).is_ok_and(|map| map.as_stream().is_ok()))
        .map(|(id, _)| *id)
        .collect();
    for id in has_map {
        if let Ok(font) = document.get_dictionary_mut(id) {
            font.remove(b"Encoding");
        }
    }
}

/// Row vectors, as in the specification: `[a b c d e f]`.
type Matrix = [f64; 6];
const IDENTITY: Matrix = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0];

/// First `a`, then `b`.
fn then(a: Matrix, b: Matrix) -> Matrix {
    [
        a[0] * b[0] + a[1] * b[2],
        a[0] * b[1] + a[1] * b[3],
        a[2] * b[0] + a[3] * b[2],
        a[2] * b[1] + a[3] * b[3],
        a[4] * b[0] + a[5] * b[2] + b[4],
        a[4] * b[1] + a[5] * b[3] + b[5],
    ]
}

struct Reader<'d> {
    document: &'d Document,
    /// Most pages share their fonts; `None` for one that cannot be read.
    fonts: HashMap<ObjectId, Option<Rc<Font<'d>>>>,
}

/// What the text operators change.
#[derive(Clone)]
struct TextState<'d> {
    font: Option<Rc<Font<'d>>>,
    size: f64,
    char_spacing: f64,
    word_spacing: f64,
    scale: f64,
    leading: f64,
    rise: f64,
}

struct State<'d> {
    ctm: Matrix,
    text: TextState<'d>,
    saved: Vec<(Matrix, TextState<'d>)>,
    matrix: Matrix,
    line: Matrix,
}

impl<'d> Reader<'d> {
    fn page(&mut self, id: ObjectId) -> Result<String, Unreadable> {
        let content = self.document.get_page_content_with_limit(id, STREAM_BYTES).map_err(|error| refusal(&error))?;
        let (own, others) = self.document.get_page_resources(id).map_err(|error| refusal(&error))?;
        let others = others.iter().filter_map(|id| self.document.get_dictionary(*id).ok());
        let resources: Vec<&'d Dictionary> = own.into_iter().chain(others).collect();
        let mut page = Page::default();
        self.show(&content, &resources, IDENTITY, DEPTH, &mut page)?;
        Ok(page.into_text())
    }

    fn show(
        &mut self,
        content: &[u8],
        resources: &[&'d Dictionary],
        ctm: Matrix,
        depth: usize,
        page: &mut Page,
    ) -> Result<(), Unreadable> {
        let content = Content::decode(content).map_err(|error| refusal(&error))?;
        let text = TextState {
            font: None,
            size: 0.0,
            char_spacing: 0.0,
            word_spacing: 0.0,
            scale: 1.0,
            leading: 0.0,
            rise: 0.0,
        };
        let mut state = State { ctm, text, saved: Vec::new(), matrix: IDENTITY, line: IDENTITY };
        for operation in &content.operations {
            let operands = &operation.operands;
            match operation.operator.as_str() {
                "Tf" => {
                    let name = operands.first().and_then(|name| name.as_name().ok());
                    state.text.font = name.and_then(|name| self.font(resources, name));
                    state.text.size = number(operands, 1);
                }
                "Do" if depth > 0 => {
                    if let Some(name) = operands.first().and_then(|name| name.as_name().ok()) {
                        self.show_form(resources, name, state.ctm, depth - 1, page)?;
                    }
                }
                operator => state.apply(operator, operands, page),
            }
            if page.length() > TEXT_BYTES {
                return Err(too_much_text());
            }
        }
        Ok(())
    }

    fn show_form(
        &mut self,
        resources: &[&'d Dictionary],
        name: &[u8],
        ctm: Matrix,
        depth: usize,
        page: &mut Page,
    ) -> Result<(), Unreadable> {
        let Some((_, Object::Stream(form))) = self.resource(resources, b"XObject", name) else { return Ok(()) };
        if !form.dict.get(b"Subtype").and_then(Object::as_name).is_ok_and(|subtype| subtype == b"Form") {
            return Ok(());
        }
        let matrix = form.dict.get_deref(b"Matrix", self.document).and_then(Object::as_array);
        let matrix = matrix
            .ok()
            .filter(|matrix| matrix.len() == 6)
            .map_or(IDENTITY, |matrix| std::array::from_fn(|index| number(matrix, index)));
        let content = match form.get_plain_content_with_limit(STREAM_BYTES) {
            Ok(content) => content,
            Err(error) => return Err(refusal(&error)),
        };
        let own = form.dict.get_deref(b"Resources", self.document).and_then(Object::as_dict).ok();
        // A form without resources of its own uses the page's.
        let resources: Vec<&'d Dictionary> = own.into_iter().chain(resources.iter().copied()).collect();
        self.show(&content, &resources, then(matrix, ctm), depth, page)
    }

    fn font(&mut self, resources: &[&'d Dictionary], name: &[u8]) -> Option<Rc<Font<'d>>> {
        let (id, font) = self.resource(resources, b"Font", name)?;
        let font = font.as_dict().ok()?;
        let Some(id) = id else { return Font::read(self.document, font).map(Rc::new) };
        let document = self.document;
        self.fonts.entry(id).or_insert_with(|| Font::read(document, font).map(Rc::new)).clone()
    }

    fn resource(
        &self,
        resources: &[&'d Dictionary],
        kind: &[u8],
        name: &[u8],
    ) -> Option<(Option<ObjectId>, &'d Object)> {
        let document = self.document;
        resources.iter().find_map(|resources| {
            let found = resources.get_deref(kind, document).ok()?.as_dict().ok()?.get(name).ok()?;
            document.dereference(found).ok()
        })
    }
}

impl State<'_> {
    fn apply(&mut self, operator: &str, operands: &[Object], page: &mut Page) {
        match operator {
            "q" if self.saved.len() < 1_000 => self.saved.push((self.ctm, self.text.clone())),
            "Q" => {
                if let Some((ctm, text)) = self.saved.pop() {
                    (self.ctm, self.text) = (ctm, text);
                }
            }
            "cm" => self.ctm = then(matrix(operands), self.ctm),
            "BT" => (self.matrix, self.line) = (IDENTITY, IDENTITY),
            "Tc" => self.text.char_spacing = number(operands, 0),
            "Tw" => self.text.word_spacing = number(operands, 0),
            "Tz" => self.text.scale = number(operands, 0) / 100.0,
            "TL" => self.text.leading = number(operands, 0),
            "Ts" => self.text.rise = number(operands, 0),
            "Tm" => {
                self.line = matrix(operands);
                self.matrix = self.line;
            }
            "Td" => self.next_line(number(operands, 0), number(operands, 1)),
            "TD" => {
                self.text.leading = -number(operands, 1);
                self.next_line(number(operands, 0), number(operands, 1));
            }
            "T*" => self.next_line(0.0, -self.text.leading),
            "Tj" => self.show_strings(operands, page),
            "TJ" => {
                if let Some(Object::Array(parts)) = operands.first() {
                    self.show_strings(parts, page);
                }
            }
            "'" => {
                self.next_line(0.0, -self.text.leading);
                self.show_strings(operands, page);
            }
            "\"" => {
                (self.text.word_spacing, self.text.char_spacing) = (number(operands, 0), number(operands, 1));
                self.next_line(0.0, -self.text.leading);
                self.show_strings(operands.get(2..).unwrap_or_default(), page);
            }
            _ => {}
        }
    }

    fn next_line(&mut self, x: f64, y: f64) {
        self.line = then([1.0, 0.0, 0.0, 1.0, x, y], self.line);
        self.matrix = self.line;
    }

    fn show_strings(&mut self, parts: &[Object], page: &mut Page) {
        for part in parts {
            match part {
                Object::String(bytes, _) => self.show_string(bytes, page),
                Object::Integer(_) | Object::Real(_) => {
                    self.advance(-value(part) / 1_000.0 * self.text.size * self.text.scale);
                }
                _ => {}
            }
        }
    }

    fn show_string(&mut self, bytes: &[u8], page: &mut Page) {
        let Some(font) = self.text.font.clone() else { return };
        let shown = font.decode(bytes);
        #[expect(clippy::cast_precision_loss, reason = "counts of characters in one string")]
        let spaces = self.text.char_spacing * shown.codes as f64 + self.text.word_spacing * shown.spaces as f64;
        let width = (shown.width / 1_000.0 * self.text.size + spaces) * self.text.scale;
        let place = then(self.matrix, self.ctm);
        let (x, y) = (place[4], place[5] + self.text.rise * place[3]);
        let size = (self.text.size * place[2].hypot(place[3])).abs();
        self.advance(width);
        let end = then(self.matrix, self.ctm);
        // Text that runs upwards or downwards is laid out as if it ran to the right: along its own line.
        let (along, across) = direction(place);
        let turned = |x: f64, y: f64| (x * along.0 + y * along.1, x * across.0 + y * across.1);
        let ((x, y), (end, _)) = (turned(x, y), turned(end[4], end[5]));
        page.push(Run { x, y, end, size, text: shown.text });
    }

    fn advance(&mut self, by: f64) {
        self.matrix = then([1.0, 0.0, 0.0, 1.0, by, 0.0], self.matrix);
    }
}

/// Unit vectors along and across a line of text under this matrix.
fn direction(matrix: Matrix) -> ((f64, f64), (f64, f64)) {
    let length = matrix[0].hypot(matrix[1]);
    if length <= f64::EPSILON || !length.is_finite() {
        return ((1.0, 0.0), (0.0, 1.0));
    }
    let (x, y) = (matrix[0] / length, matrix[1] / length);
    ((x, y), (-y, x))
}

fn matrix(operands: &[Object]) -> Matrix {
    std::array::from_fn(|index| number(operands, index))
}

fn number(operands: &[Object], index: usize) -> f64 {
    operands.get(index).map_or(0.0, value)
}

fn value(object: &Object) -> f64 {
    object.as_float().map_or(0.0, f64::from)
}

/// What the parser says, in words of ours: its own can quote what stands in the file.
fn refusal(error: &Error) -> Unreadable {
    match error {
        Error::InvalidPassword | Error::Decryption(_) | Error::UnsupportedSecurityHandler(_) => {
            Unreadable::Encrypted { kind: Kind::Pdf }
        }
        Error::Decompress(lopdf::DecompressError::MemoryLimitExceeded { .. }) => {
            Unreadable::TooLarge { what: format!("a part of the pdf unpacks to more than {} MiB", STREAM_BYTES >> 20) }
        }
        Error::ReferenceCycle(_) | Error::ReferenceLimit | Error::RecursionLimit => {
            corrupt("its objects refer to each other in a circle")
        }
        Error::Xref(_) | Error::MissingXrefEntry | Error::ObjectNotFound(_) => corrupt("objects are missing"),
        _ => corrupt("it does not parse"),
    }
}

fn corrupt(why: &str) -> Unreadable {
    Unreadable::Corrupt { kind: Kind::Pdf, why: why.to_owned() }
}
