//! Which text does a Word file hold? Paragraphs, tables and notes of `word/document.xml`, as Markdown where Word says what
//! they are.
//!
//! By hand over the XML: what is wanted is the text in its order, and every part of the archive is read against a bound.

use std::io::{Cursor, Read as _};

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use zip::ZipArchive;
use zip::result::ZipError;

use crate::job::document::Kind;

use super::extract::{TEXT_BYTES, Unreadable, too_much_text};

/// The XML around a text is many times as long, and this is read piece by piece.
const XML_BYTES: u64 = 8 * TEXT_BYTES as u64;
const DOCUMENT: &str = "word/document.xml";
/// Read after it, where they are there.
const NOTES: [&str; 2] = ["word/footnotes.xml", "word/endnotes.xml"];

pub(super) fn text(bytes: &[u8]) -> Result<String, Unreadable> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| broken(&error))?;
    let mut text = part(&mut archive, DOCUMENT)?.ok_or_else(|| corrupt("its text is missing"))?;
    for name in NOTES {
        if let Some(notes) = part(&mut archive, name)?.filter(|notes| !notes.trim().is_empty()) {
            text.push('\n');
            text.push_str(&notes);
        }
    }
    Ok(text)
}

fn part(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str) -> Result<Option<String>, Unreadable> {
    let entry = match archive.by_name(name) {
        Ok(entry) => entry,
        Err(ZipError::FileNotFound) => return Ok(None),
        Err(error) => return Err(broken(&error)),
    };
    if entry.encrypted() {
        return Err(Unreadable::Encrypted { kind: Kind::Docx });
    }
    // What the archive says of sizes is not believed.
    let reader = std::io::BufReader::new(entry.take(XML_BYTES + 1));
    let mut reader = Reader::from_reader(reader);
    reader.config_mut().check_end_names = true;
    let mut writer = Writer::default();
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        match reader.read_event_into(&mut buffer).map_err(|_| corrupt("its XML does not parse"))? {
            Event::Start(tag) => writer.open(&tag),
            Event::Empty(tag) => {
                writer.open(&tag);
                writer.close(tag.local_name().as_ref());
            }
            Event::End(tag) => writer.close(tag.local_name().as_ref()),
            Event::Text(text) => writer.text(&text),
            Event::GeneralRef(name) => writer.reference(&name),
            Event::Eof => break,
            Event::CData(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
        if reader.buffer_position() > XML_BYTES || writer.text.len() > TEXT_BYTES {
            return Err(too_much_text());
        }
    }
    Ok(Some(writer.text))
}

/// Text as it is put together.
#[derive(Default)]
struct Writer {
    text: String,
    /// Inside `w:t`.
    is_text: bool,
    /// Of the paragraph that is open.
    heading: usize,
    is_list: bool,
    paragraph: String,
    /// Cells of the row that is open, of the innermost table.
    row: Vec<String>,
    tables: usize,
    cells: usize,
}

impl Writer {
    fn open(&mut self, tag: &BytesStart<'_>) {
        match tag.local_name().as_ref() {
            "t" => self.is_text = true,
            "tab" => self.paragraph.push('\t'),
            "br" | "cr" => self.paragraph.push('\n'),
            "noBreakHyphen" => self.paragraph.push('\u{2011}'),
            "pStyle" => self.heading = value(tag).as_deref().map_or(0, heading),
            "numPr" => self.is_list = true,
            "tbl" => self.tables += 1,
            "tc" => {
                self.cells += 1;
                self.row.push(String::new());
            }
            _ => {}
        }
    }

    fn close(&mut self, name: &str) {
        match name {
            "t" => self.is_text = false,
            "p" => self.end_paragraph(),
            "tc" => self.cells = self.cells.saturating_sub(1),
            // Rows of a table inside a cell have become part of that cell's own.
            "tr" if self.tables == 1 => {
                let row = std::mem::take(&mut self.row);
                self.text.push_str("| ");
                self.text.push_str(&row.join(" | "));
                self.text.push_str(" |\n");
            }
            "tbl" => {
                self.tables = self.tables.saturating_sub(1);
                if self.tables == 0 {
                    self.text.push('\n');
                }
            }
            _ => {}
        }
    }

    fn text(&mut self, text: &str) {
        if self.is_text {
            self.paragraph.push_str(text);
        }
    }

    fn reference(&mut self, name: &str) {
        let code = name.strip_prefix("#x").map_or_else(
            || name.strip_prefix('#').and_then(|digits| digits.parse().ok()),
            |digits| u32::from_str_radix(digits, 16).ok(),
        );
        match (name, code.and_then(char::from_u32)) {
            (_, Some(c)) => self.text(c.encode_utf8(&mut [0; 4])),
            (name, None) => self.text(quick_xml::escape::resolve_predefined_entity(name).unwrap_or_default()),
        }
    }

    fn end_paragraph(&mut self) {
        let paragraph = std::mem::take(&mut self.paragraph);
        let (heading, is_list) = (std::mem::take(&mut self.heading), std::mem::take(&mut self.is_list));
        if self.cells > 0
            && let Some(cell) = self.row.last_mut()
        {
            if !cell.is_empty() {
                cell.push(' ');
            }
            cell.push_str(&paragraph);
            return;
        }
        if paragraph.trim().is_empty() {
            return;
        }
        if heading > 0 {
            self.text.push_str(&"#".repeat(heading));
            self.text.push(' ');
        } else if is_list {
            self.text.push_str("- ");
        }
        self.text.push_str(&paragraph);
        self.text.push_str(if is_list { "\n" } else { "\n\n" });
    }
}

/// `w:val`.
fn value(tag: &BytesStart<'_>) -> Option<String> {
    let attribute = tag.attributes().flatten().find(|attribute| attribute.key.local_name().as_ref() == "val")?;
    Some(attribute.value.into_owned())
}

/// Of a style's id: `Heading2`, `berschrift2`, `Title`. Word keeps the number in every language.
fn heading(style: &str) -> usize {
    if style.eq_ignore_ascii_case("title") {
        return 1;
    }
    let digit = style.chars().last().and_then(|c| c.to_digit(10)).filter(|level| (1..=6).contains(level));
    let name = style.trim_end_matches(|c: char| c.is_ascii_digit()).to_lowercase();
    let is_heading =
        ["heading", "berschrift", "überschrift", "titre", "ttulo", "titolo", "kop"].contains(&name.as_str());
    digit.filter(|_| is_heading).and_then(|level| usize::try_from(level).ok()).unwrap_or(0)
}

fn broken(error: &ZipError) -> Unreadable {
    match error {
        ZipError::UnsupportedArchive(why) if why.contains("assword") => Unreadable::Encrypted { kind: Kind::Docx },
        _ => corrupt("it is no whole archive"),
    }
}

fn corrupt(why: &str) -> Unreadable {
    Unreadable::Corrupt { kind: Kind::Docx, why: why.to_owned() }
}
