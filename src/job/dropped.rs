//! Which file is it that somebody put into a watched folder? Its path and the digest of its content: touched, restored from a
//! backup or copied over itself it is the same upload and costs nothing, where its size and its time would make it another;
//! changed, it is another. The same name is said in the id, for people.

use serde_json::json;

use super::ident::{Digest, JobId, NameError};

/// Of a job's id, so much is of the path.
const NAME: usize = 100;
/// Hexadecimal digits of what tells it from others, behind that.
const DIGITS: usize = 12;

/// A file in a folder that is watched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DroppedFile {
    /// The folder, from the root and without links.
    pub folder: String,
    /// The file below it, with `/` between folders.
    pub name: String,
    /// Which of the files that were put there under that name.
    pub content: DroppedContent,
}

/// What tells a file from another at the same place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DroppedContent {
    /// The digest of all its bytes.
    Whole(Digest),
    /// It is larger than any that is read: its size and the time of its last change, in milliseconds since 1970.
    TooLarge {
        /// In bytes.
        bytes: u64,
        /// When it was changed.
        modified: u128,
    },
}

impl DroppedFile {
    /// Where it lies, from the root.
    pub fn path(&self) -> String {
        format!("{}/{}", self.folder.trim_end_matches('/'), self.name)
    }

    /// The digest of its bytes, by which whoever reads it later knows that it is still the same.
    pub fn sha256(&self) -> Option<Digest> {
        match self.content {
            DroppedContent::Whole(digest) => Some(digest),
            DroppedContent::TooLarge { .. } => None,
        }
    }

    /// What it is called as a job: the last folder's name and its own, and a digest of path and content.
    ///
    /// # Errors
    /// It cannot be an id.
    pub fn id(&self) -> Result<JobId, NameError> {
        let content = match self.content {
            DroppedContent::Whole(digest) => digest.to_string(),
            DroppedContent::TooLarge { bytes, modified } => format!("{bytes} bytes, {modified}"),
        };
        let place = Digest::of(json!([self.path(), content]).to_string().as_bytes());
        let folder = self.folder.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        id_of(&format!("{folder}/{}", self.name), &place)
    }
}

/// The id of a file: the end of this path, and the beginning of what tells it from others of that name.
///
/// # Errors
/// It cannot be an id.
pub fn id_of(path: &str, place: &Digest) -> Result<JobId, NameError> {
    JobId::new(&format!("{}-{}", named(path), place.to_string().get(..DIGITS).unwrap_or_default()))
}

/// The end of a path, in the letters of an id.
pub fn named(path: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let name: Vec<char> = path.chars().map(|c| if matches!(c, '/' | '\\') { ':' } else { plain(c) }).collect();
    name.iter().skip(name.len().saturating_sub(NAME)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn file(folder: &str, name: &str, content: &str) -> DroppedFile {
        let content = DroppedContent::Whole(Digest::of(content.as_bytes()));
        DroppedFile { folder: folder.to_owned(), name: name.to_owned(), content }
    }

    #[test]
    fn w8_a_file_is_its_path_and_its_content_and_its_id_says_its_name() {
        let base = file("/home/a/inbox", "q3/report 1.pdf", "x");
        let id = base.id().unwrap();
        assert!(id.as_str().starts_with("inbox:q3:report_1.pdf-"), "{id}");
        assert_eq!(base.path(), "/home/a/inbox/q3/report 1.pdf");
        let large = |bytes, modified| {
            DroppedFile { content: DroppedContent::TooLarge { bytes, modified }, ..base.clone() }.id().unwrap()
        };
        let ids = [
            id,
            file("/home/b/inbox", "q3/report 1.pdf", "x").id().unwrap(),
            file("/home/a/inbox", "q3/report_1.pdf", "x").id().unwrap(),
            file("/home/a/inbox", "q3/report 1.pdf", "y").id().unwrap(),
            large(1 << 30, 7),
            large(1 << 30, 8),
            large(1 << 31, 7),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().map(JobId::as_str).collect();
        assert_eq!(distinct.len(), ids.len(), "{ids:?}");
        assert_eq!(file("/", "a.txt", "x").path(), "/a.txt");
        assert!(file("/inbox", &"long/".repeat(300), "x").id().is_ok());
    }
}
