//! What is read out of each document of the set, what hostile ones come to, and how text is cut.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

mod chunks;
mod hostile;
mod made;

use aquifer::document::{Extracted, Unreadable, extract};
use aquifer::job::document::Kind;
use aquifer::job::failure::Class;

fn pages_of(file: &[u8]) -> Vec<String> {
    let Extracted { kind, pages } = extract(file).unwrap();
    assert_eq!(kind, Kind::Pdf);
    pages
}

#[test]
fn a_pdf_is_read_page_by_page() {
    let pages = pages_of(&made::text_pdf());
    assert_eq!(pages[0], "Annual report\nThe year was good.\nCosts \\(net\\) fell.");
    assert_eq!(pages[1], "Second page.");
    let pages = pages_of(&made::pages(3));
    assert_eq!(pages[2], pages[0].replace("Page 1,", "Page 3,"));
}

#[test]
fn cells_of_a_table_stay_apart_and_columns_together() {
    assert_eq!(pages_of(&made::tables())[0], "Item\tCount\tPrice\nApples\t12\t3.40\nPears\t7\t2.10");
    assert_eq!(pages_of(&made::two_columns())[0], "Left one\nLeft two\nLeft three\n\nRight one\nRight two");
}

#[test]
fn every_script_is_read_as_it_is_read_by_people() {
    assert_eq!(pages_of(&made::right_to_left())[0], made::HEBREW);
    assert_eq!(pages_of(&made::chinese())[0], made::CHINESE);
    assert_eq!(pages_of(&made::ligatures())[0], "Die offizielle Auflage\nStraße, über, Äpfel");
}

#[test]
fn a_word_file_is_read_with_its_headings_lists_and_tables() {
    let Extracted { kind, pages } = extract(&made::word_file()).unwrap();
    assert_eq!(kind, Kind::Docx);
    let expected = "# Report\n\nFish & chips cost €9.\n\n- a point\n| a | b |\n| 1 | 2 |\n\nEnd\t.\n\n";
    assert_eq!(pages, [expected]);
}

#[test]
fn what_gives_no_text_says_why_and_what_helps() {
    let refusal = |file: &[u8]| extract(file).unwrap_err();
    let scanned = refusal(&made::scanned());
    assert_eq!(scanned, Unreadable::NoText { kind: Kind::Pdf, pages: 2 });
    assert_eq!(scanned.class(), Class::NoText);
    assert!(scanned.to_string().contains("\"mode\": \"native\""), "{scanned}");
    assert_eq!(refusal(b" \r\n"), Unreadable::Empty);
    assert_eq!(refusal(b""), Unreadable::Empty);
    assert_eq!(refusal(&made::encrypted()), Unreadable::Encrypted { kind: Kind::Pdf });
    assert!(matches!(refusal(&made::truncated()), Unreadable::Corrupt { kind: Kind::Pdf, .. }));
    let word = made::word_file();
    assert!(matches!(refusal(&word[..word.len() / 2]), Unreadable::Corrupt { kind: Kind::Docx, .. }));
    let program = [&b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0"[..], &[0; 64]].concat();
    let other = refusal(&program);
    assert!(matches!(&other, Unreadable::UnknownType { found } if found.contains("executable")), "{other:?}");
}
