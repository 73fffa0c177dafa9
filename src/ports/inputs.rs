//! From where is an input read that is no file of this machine? As a stream, and each time the same bytes.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One state of an object. What is read of it is this state, or nothing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Edition {
    /// What the store calls these bytes.
    pub etag: String,
    /// Which version they are, where the store keeps more than one.
    pub version: Option<String>,
}

/// Why an object is not read, or not read on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unread {
    /// It will not be the next time either, unless somebody mends it: it is not there, may not be read, or is another by now.
    Refused {
        /// Why, and what helps.
        why: String,
    },
    /// Another time it may work.
    Away {
        /// What was in the way.
        why: String,
    },
}

/// The objects that hold inputs.
#[async_trait]
pub trait Inputs: Send + Sync {
    /// Begins to read the object of that `s3://` URI: this edition of it, or the newest.
    async fn open(&self, source: &str, edition: Option<&Edition>) -> Result<Box<dyn InputStream>, Unread>;
}

/// An object that is being read.
#[async_trait]
pub trait InputStream: Send {
    /// Which edition it is.
    fn edition(&self) -> &Edition;

    /// The next bytes; `None` behind the last. A connection that breaks off is mended as far as that can be done at once.
    async fn next(&mut self) -> Result<Option<Bytes>, Unread>;
}
