//! Text out of files, chunks out of text.
//!
//! ```text
//! bytes --kind--> pdf | docx | html | markdown | text --extract--> pages --chunk--> chunks
//! ```
//!
//! [`extract()`] is a function; [`child`] runs it where it can do no harm; [`desk`] asks about what comes of it. Which files lie whole
//! in a folder that is watched is for [`drops`].

mod child;
mod chunk;
mod desk;
mod docx;
mod drops;
mod extract;
mod font;
mod html;
mod kind;
mod layout;
mod pdf;
mod source;

pub use child::{COMMAND, MEMORY, NoReader, Readers, TIME, serve};
pub use chunk::{Chunk, Estimate, Text, estimated_tokens};
pub use desk::{CacheMinimum, Desk};
pub use drops::{Dropped, Drops, Look, News, Stamp};
pub use extract::{Extracted, TEXT_BYTES, Unreadable, extract};
pub use source::FILE_BYTES;
