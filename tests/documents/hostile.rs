//! Files that are made to hurt, each read as a worker reads it: in a process of its own.

use std::path::PathBuf;

use aquifer::document::{Extracted, Readers, Unreadable};
use aquifer::job::failure::Class;

use crate::made;

async fn read(file: &[u8]) -> Result<Extracted, Unreadable> {
    let readers = Readers::new(PathBuf::from(env!("CARGO_BIN_EXE_aquifer")));
    // Bounded in processor time; how long that is by the clock is for `benches/documents`, on a machine that is quiet.
    readers.read(file).await.unwrap()
}

#[tokio::test]
async fn a_reader_says_what_the_file_holds() {
    let read = read(&made::text_pdf()).await.unwrap();
    assert_eq!(read.pages.len(), 2);
}

#[tokio::test]
async fn bombs_are_refused_as_too_large() {
    for (name, file) in [("pdf", made::bomb_pdf()), ("docx", made::bomb_docx())] {
        assert!(file.len() < 4 << 20, "{name}: {} bytes", file.len());
        let refusal = read(&file).await.unwrap_err();
        assert_eq!(refusal.class(), Class::TooLarge, "{name}: {refusal}");
    }
}

#[tokio::test]
async fn loops_and_depths_end_with_a_reason() {
    // What of the first can be read is read; nothing of the others can.
    match read(&made::loops()).await {
        Ok(read) => assert!(read.pages.len() < 100, "{} pages", read.pages.len()),
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
    for file in [made::deep(), made::deep_html()] {
        if let Err(refusal) = read(&file).await {
            assert!([Class::BadInput, Class::TooLarge, Class::NoText].contains(&refusal.class()), "{refusal}");
        }
    }
}

#[tokio::test]
async fn a_thousand_pages_are_read_and_ten_thousand_end_in_time() {
    let read_pages = read(&made::pages(1_000)).await.unwrap().pages;
    assert_eq!(read_pages.len(), 1_000);
    assert!(read_pages[999].starts_with("Page 1000, line 1:"));
    match read(&made::pages(10_000)).await {
        Ok(read) => assert_eq!(read.pages.len(), 10_000),
        Err(refusal) => assert_eq!(refusal.class(), Class::TooLarge, "{refusal}"),
    }
}

#[tokio::test]
async fn a_reader_that_cannot_be_started_is_not_the_documents_fault() {
    let readers = Readers::new(PathBuf::from("/there/is/no/such/program"));
    assert!(readers.read(b"text").await.is_err());
}
