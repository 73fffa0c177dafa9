//! The document set: made by the project, each for one thing that goes wrong with documents. Nothing here is downloaded, and
//! nothing is kept that can be made.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each target uses what it needs, and fails by panicking"
)]

use std::io::{Cursor, Write as _};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// A PDF under construction: objects by number, from 1.
#[derive(Default)]
pub struct Pdf {
    objects: Vec<Vec<u8>>,
}

impl Pdf {
    pub fn add(&mut self, object: impl Into<Vec<u8>>) -> usize {
        self.objects.push(object.into());
        self.objects.len()
    }

    pub fn stream(&mut self, entries: &str, content: &[u8]) -> usize {
        let mut object = format!("<< {entries} /Length {} >>\nstream\n", content.len()).into_bytes();
        object.extend_from_slice(content);
        object.extend_from_slice(b"\nendstream");
        self.add(object)
    }

    /// The file, with its table of objects.
    pub fn file(&self, root: usize, trailer: &str) -> Vec<u8> {
        let mut file = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n".to_vec();
        let mut places = Vec::new();
        for (index, object) in self.objects.iter().enumerate() {
            places.push(file.len());
            file.extend_from_slice(format!("{} 0 obj\n", index + 1).as_bytes());
            file.extend_from_slice(object);
            file.extend_from_slice(b"\nendobj\n");
        }
        let start = file.len();
        file.extend_from_slice(format!("xref\n0 {}\n0000000000 65535 f \n", places.len() + 1).as_bytes());
        for place in &places {
            file.extend_from_slice(format!("{place:010} 00000 n \n").as_bytes());
        }
        let size = places.len() + 1;
        let end = format!("trailer\n<< /Size {size} /Root {root} 0 R {trailer} >>\nstartxref\n{start}\n%%EOF\n");
        file.extend_from_slice(end.as_bytes());
        file
    }
}

/// A PDF with one page for each content, in these fonts: `F1` Western, `F2` Chinese as UTF-16, `F3` Hebrew and ligatures by a map.
pub fn pdf(contents: &[String]) -> Vec<u8> {
    pdf_of(contents, "")
}

fn pdf_of(contents: &[String], trailer: &str) -> Vec<u8> {
    let mut pdf = Pdf::default();
    let pages = 1 + 6;
    let f1 = pdf.add("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>");
    let below = pdf.add("<< /Type /Font /Subtype /CIDFontType0 /BaseFont /SimSun /CIDSystemInfo << /Registry (Adobe) /Ordering (GB1) /Supplement 2 >> /DW 1000 >>");
    let f2 = pdf.add(format!(
        "<< /Type /Font /Subtype /Type0 /BaseFont /SimSun /Encoding /UniGB-UCS2-H /DescendantFonts [{below} 0 R] >>"
    ));
    // Codes are the characters' own, but for the ligatures: that is what a map is for.
    let map = "/CIDInit /ProcSet findresource begin\n12 dict begin\nbegincmap\n/CIDSystemInfo\n<< /Registry (Adobe)\n/Ordering (UCS)\n\
        /Supplement 0\n>> def\n/CMapName /Adobe-Identity-UCS def\n/CMapType 2 def\n1 begincodespacerange\n<0000> <FFFF>\n\
        endcodespacerange\n3 beginbfrange\n<0020> <00FF> <0020>\n<05D0> <05EA> <05D0>\n<FB00> <FB06> <FB00>\nendbfrange\nendcmap\n\
        CMapName currentdict /CMap defineresource pop\nend\nend\n";
    let map = pdf.stream("", map.as_bytes());
    let f3_below = pdf.add("<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Sans /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> /DW 500 >>");
    let f3 = pdf.add(format!("<< /Type /Font /Subtype /Type0 /BaseFont /Sans /Encoding /Identity-H /ToUnicode {map} 0 R /DescendantFonts [{f3_below} 0 R] >>"));
    let fonts = format!("/Font << /F1 {f1} 0 R /F2 {f2} 0 R /F3 {f3} 0 R >>");
    let first = pages + 1;
    let kids: String = (0..contents.len()).map(|index| format!("{} 0 R ", first + 2 * index)).collect();
    let listed = pdf.add(format!(
        "<< /Type /Pages /Kids [{kids}] /Count {} /MediaBox [0 0 595 842] /Resources << {fonts} >> >>",
        contents.len()
    ));
    assert_eq!(listed, pages);
    for content in contents {
        let page = pdf.add(Vec::new());
        let content = pdf.stream("/Filter /FlateDecode", &packed(content.as_bytes()));
        pdf.objects[page - 1] = format!("<< /Type /Page /Parent {pages} 0 R /Contents {content} 0 R >>").into_bytes();
    }
    let root = pdf.add(format!("<< /Type /Catalog /Pages {pages} 0 R >>"));
    pdf.file(root, trailer)
}

pub fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Lines of Western text from this place downwards.
pub fn lines(x: u32, y: u32, lines: &[&str]) -> String {
    let shown: String = lines.iter().map(|line| format!("({}) Tj T* ", escaped(line))).collect();
    format!("BT /F1 11 Tf 14 TL {x} {y} Td {shown} ET\n")
}

fn escaped(line: &str) -> String {
    line.replace('\\', "\\\\").replace('(', "\\(").replace(')', "\\)")
}

fn hex(text: &str) -> String {
    text.encode_utf16().map(|unit| format!("{unit:04X}")).collect()
}

/// A page of plain text, as long as one usually is.
pub fn prose(page: usize) -> String {
    let text: Vec<String> = (1..=40)
        .map(|line| format!("Page {page}, line {line}: the quick brown fox jumps over the lazy dog once more."))
        .collect();
    lines(60, 780, &text.iter().map(String::as_str).collect::<Vec<_>>())
}

pub fn text_pdf() -> Vec<u8> {
    pdf(&[
        lines(60, 780, &["Annual report", "The year was good.", "Costs \\(net\\) fell."]),
        lines(60, 780, &["Second page."]),
    ])
}

/// So many pages of prose.
pub fn pages(count: usize) -> Vec<u8> {
    pdf(&(1..=count).map(prose).collect::<Vec<_>>())
}

pub fn tables() -> Vec<u8> {
    let row = |y: u32, cells: [&str; 3]| -> String {
        [60, 220, 380].iter().zip(cells).map(|(x, cell)| lines(*x, y, &[cell])).collect()
    };
    pdf(&[row(780, ["Item", "Count", "Price"])
        + &row(760, ["Apples", "12", "3.40"])
        + &row(740, ["Pears", "7", "2.10"])])
}

pub fn two_columns() -> Vec<u8> {
    pdf(&[lines(60, 780, &["Left one", "Left two", "Left three"]) + &lines(320, 780, &["Right one", "Right two"])])
}

/// Hebrew as pages show it: from left to right, last letter first.
pub fn right_to_left() -> Vec<u8> {
    let seen: String = HEBREW.chars().rev().collect();
    pdf(&[format!("BT /F3 12 Tf 300 700 Td <{}> Tj ET", hex(&seen))])
}

pub const HEBREW: &str = "שלום לכל העולם";

pub fn chinese() -> Vec<u8> {
    pdf(&[format!("BT /F2 12 Tf 60 700 Td <{}> Tj ET", hex(CHINESE))])
}

pub const CHINESE: &str = "本报告总结了去年的主要结果。";

/// German, with the ligatures that a typesetter makes, and umlauts in the Western font.
pub fn ligatures() -> Vec<u8> {
    let set = "Die o\u{fb03}zielle Au\u{fb02}age";
    let german = "BT /F1 12 Tf 60 680 Td (Stra\\337e, \\374ber, \\304pfel) Tj ET";
    pdf(&[format!("BT /F3 12 Tf 60 700 Td <{}> Tj ET {german}", hex(set))])
}

/// Pages that hold a picture and no text.
pub fn scanned() -> Vec<u8> {
    pdf(&["q 500 0 0 700 40 60 cm /Im1 Do Q".to_owned(), "0 0 595 842 re f".to_owned()])
}

/// Says that it is encrypted, under a password that nobody has.
pub fn encrypted() -> Vec<u8> {
    let key = "<0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef>";
    let trailer = format!(
        "/ID [<00112233445566778899aabbccddeeff> <00112233445566778899aabbccddeeff>] /Encrypt << /Filter /Standard /V 2 /R 3 /Length 128 /P -44 /O {key} /U {key} >>"
    );
    pdf_of(&[prose(1)], &trailer)
}

/// The first half of a file.
pub fn truncated() -> Vec<u8> {
    let whole = pages(20);
    whole[..whole.len() / 2].to_vec()
}

/// A page whose content is 256 MiB of spaces, in a file of a few kilobytes: packed three times over.
pub fn bomb_pdf() -> Vec<u8> {
    let mut pdf = Pdf::default();
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    let spaces = vec![b' '; 1 << 20];
    for _ in 0..256 {
        encoder.write_all(&spaces).unwrap();
    }
    let content = packed(&packed(&encoder.finish().unwrap()));
    let content = pdf.stream("/Filter [/FlateDecode /FlateDecode /FlateDecode]", &content);
    pdf.add("<< /Type /Page /Parent 3 0 R /Contents 1 0 R /MediaBox [0 0 9 9] >>");
    let pages = pdf.add("<< /Type /Pages /Kids [2 0 R] /Count 1 >>");
    assert_eq!((content, pages), (1, 3));
    let root = pdf.add("<< /Type /Catalog /Pages 3 0 R >>");
    pdf.file(root, "")
}

/// Its pages are their own parents, and a form shows itself.
pub fn loops() -> Vec<u8> {
    let mut pdf = Pdf::default();
    let pages = pdf.add("<< /Type /Pages /Kids [2 0 R 1 0 R 3 0 R] /Count 3 /Parent 1 0 R /MediaBox [0 0 9 9] >>");
    pdf.add("<< /Type /Page /Parent 1 0 R /Contents 4 0 R /Resources << /XObject << /Fm 5 0 R >> /Font 6 0 R >> >>");
    pdf.add("<< /Type /Pages /Kids [1 0 R 3 0 R] /Count 9 /Parent 3 0 R >>");
    pdf.stream("", b"/Fm Do BT /F1 9 Tf (text) Tj ET");
    pdf.stream(
        "/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /Fm 5 0 R >> >>",
        b"/Fm Do /Fm Do /Fm Do /Fm Do /Fm Do /Fm Do",
    );
    pdf.add("6 0 R");
    let root = pdf.add(format!("<< /Type /Catalog /Pages {pages} 0 R >>"));
    pdf.file(root, "")
}

/// Arrays in arrays, as deep as a parser's stack.
pub fn deep() -> Vec<u8> {
    let mut pdf = Pdf::default();
    let depth = 200_000;
    pdf.add("[".repeat(depth) + &"]".repeat(depth));
    pdf.add("<< /Type /Page /Parent 3 0 R /Annots 1 0 R /MediaBox [0 0 9 9] >>");
    pdf.add("<< /Type /Pages /Kids [2 0 R] /Count 1 >>");
    let root = pdf.add("<< /Type /Catalog /Pages 3 0 R >>");
    pdf.file(root, "")
}

/// Elements in elements, likewise.
pub fn deep_html() -> Vec<u8> {
    let depth = 100_000;
    format!("<!doctype html><html><body>{}text{}", "<div>".repeat(depth), "</div>".repeat(depth)).into_bytes()
}

const XML: &str = r#"<?xml version="1.0" encoding="UTF-8" standalone="yes"?>"#;

/// A Word file with this body.
pub fn docx(body: &str) -> Vec<u8> {
    let document = format!(
        r#"{XML}<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>{body}</w:body></w:document>"#
    );
    archive(&[("[Content_Types].xml", format!("{XML}<Types/>").as_bytes()), ("word/document.xml", document.as_bytes())])
}

fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        archive.start_file(*name, SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

pub fn word_file() -> Vec<u8> {
    let p = |style: &str, text: &str| format!("<w:p><w:pPr>{style}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>");
    let cell = |text: &str| format!("<w:tc>{}</w:tc>", p("", text));
    docx(
        &(p(r#"<w:pStyle w:val="Heading1"/>"#, "Report")
            + &p("", "Fish &amp; chips cost &#8364;9.")
            + &p("<w:numPr/>", "a point")
            + &format!(
                "<w:tbl><w:tr>{}{}</w:tr><w:tr>{}{}</w:tr></w:tbl>",
                cell("a"),
                cell("b"),
                cell("1"),
                cell("2")
            )
            + "<w:p><w:r><w:instrText>SECRET</w:instrText><w:t>End</w:t><w:tab/><w:t>.</w:t></w:r></w:p>"),
    )
}

/// 256 MiB of text in a file of a few hundred kilobytes.
pub fn bomb_docx() -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    archive.start_file("[Content_Types].xml", SimpleFileOptions::default()).unwrap();
    archive.start_file("word/document.xml", SimpleFileOptions::default()).unwrap();
    archive.write_all(b"<w:document xmlns:w='x'><w:body><w:p><w:r><w:t>").unwrap();
    let letters = vec![b'a'; 1 << 20];
    for _ in 0..256 {
        archive.write_all(&letters).unwrap();
    }
    archive.write_all(b"</w:t></w:r></w:p></w:body></w:document>").unwrap();
    archive.finish().unwrap().into_inner()
}
