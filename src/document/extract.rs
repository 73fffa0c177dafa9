//! Which text does this file hold, page by page? Told by its content and never by its name.
//!
//! A function from bytes to text, without a clock and without a limit of its own on time or memory: it runs in a process
//! that has them, see [`child`](super::child).

use serde::{Deserialize, Serialize};

use crate::job::document::Kind;
use crate::job::failure::Class;

use super::{docx, html, kind, pdf};

/// A file's text holds at most so many bytes: a thousand pages are three million.
pub const TEXT_BYTES: usize = 32 << 20;

/// The text of a file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Extracted {
    /// What the file is.
    pub kind: Kind,
    /// The text of each page, in order; a kind without pages is one.
    pub pages: Vec<String>,
}

impl Extracted {
    /// How many pages it has, where its kind has pages.
    pub fn page_count(&self) -> Option<u32> {
        match self.kind {
            Kind::Pdf => u32::try_from(self.pages.len()).ok(),
            Kind::Docx | Kind::Html | Kind::Markdown | Kind::Text => None,
        }
    }
}

/// Why a file gives no text. Holds nothing of its content.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
pub enum Unreadable {
    /// It has no bytes, or nothing but white space.
    #[error("the file is empty")]
    Empty,
    /// It is of no kind that is read here.
    #[error("this is {found}, and read are PDF, DOCX, HTML, Markdown and plain text")]
    UnknownType {
        /// What it is.
        found: String,
    },
    /// It cannot be opened without a password.
    #[error("the {kind} is encrypted; remove its password and send it again")]
    Encrypted {
        /// What it is.
        kind: Kind,
    },
    /// It is cut off or damaged.
    #[error("the {kind} is damaged: {why}; mend it or export it again")]
    Corrupt {
        /// What it is.
        kind: Kind,
        /// What is wrong, in words of ours.
        why: String,
    },
    /// There are pages, but no text on them.
    #[error(
        "the {kind} has no text on its {pages} pages: they are pictures, more likely than not; use a model that reads \
         images, with \"mode\": \"native\", or run it through OCR first"
    )]
    NoText {
        /// What it is.
        kind: Kind,
        /// How many pages there are.
        pages: usize,
    },
    /// It takes more memory, time or text than a document may.
    #[error("{what}; split it into several files")]
    TooLarge {
        /// More of what than is allowed.
        what: String,
    },
}

impl Unreadable {
    /// How it is counted.
    pub fn class(&self) -> Class {
        match self {
            Self::Empty | Self::UnknownType { .. } | Self::Encrypted { .. } | Self::Corrupt { .. } => Class::BadInput,
            Self::NoText { .. } => Class::NoText,
            Self::TooLarge { .. } => Class::TooLarge,
        }
    }

    /// What the file is, as far as it is known: the kind's word, else what was found.
    pub fn found(&self) -> Option<String> {
        match self {
            Self::Empty | Self::TooLarge { .. } => None,
            Self::UnknownType { found } => Some(found.clone()),
            Self::Encrypted { kind } | Self::Corrupt { kind, .. } | Self::NoText { kind, .. } => Some(kind.to_string()),
        }
    }
}

/// The text of a file.
///
/// # Errors
/// [`Unreadable`], with what helps against it.
pub fn extract(bytes: &[u8]) -> Result<Extracted, Unreadable> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Unreadable::Empty);
    }
    let (kind, pages) = match kind::detect(bytes)? {
        kind::Found::Pdf => (Kind::Pdf, pdf::pages(bytes)?),
        kind::Found::Docx => (Kind::Docx, vec![docx::text(bytes)?]),
        kind::Found::Text { kind: Kind::Html, text } => (Kind::Html, vec![html::to_markdown(&text)?]),
        kind::Found::Text { kind, text } => (kind, vec![text]),
    };
    let length: usize = pages.iter().map(String::len).sum();
    if length > TEXT_BYTES {
        return Err(too_much_text());
    }
    if pages.iter().all(|page| page.trim().is_empty()) {
        return Err(Unreadable::NoText { kind, pages: pages.len() });
    }
    Ok(Extracted { kind, pages })
}

/// More text than a document may have.
pub(super) fn too_much_text() -> Unreadable {
    Unreadable::TooLarge { what: format!("its text is larger than {} MiB", TEXT_BYTES >> 20) }
}
