//! Which document, and what is to be done with it? The `document` of a job, read and checked by hand, so that every
//! complaint names its key.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ident::Digest;
use super::prompt_template::{Purpose, Template};

/// What is known of the kinds of documents that are read.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// PDF.
    Pdf,
    /// Word, since 2007.
    Docx,
    /// HTML.
    Html,
    /// Markdown.
    Markdown,
    /// Plain text, in whatever encoding.
    Text,
}

impl Kind {
    /// The word used in results.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pdf => "pdf",
            Self::Docx => "docx",
            Self::Html => "html",
            Self::Markdown => "markdown",
            Self::Text => "text",
        }
    }

    /// What a Converse document block calls it.
    pub const fn format(self) -> &'static str {
        match self {
            Self::Pdf => "pdf",
            Self::Docx => "docx",
            Self::Html => "html",
            Self::Markdown => "md",
            Self::Text => "txt",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How a document reaches the model.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// As text, in chunks.
    #[default]
    Text,
    /// As the file itself, in one call: for models that read images.
    Native,
}

/// What a document comes to when some of its chunks did not succeed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Partial {
    /// It ends `partial`, with the answers that there are.
    #[default]
    Keep,
    /// It has failed; run again, it asks again only what failed.
    Fail,
}

/// Where documents lie that can be read by whoever works them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Files of the machine.
    Files,
    /// Objects in S3: what is a path on one machine of a fleet is none on another, and a path in a message would let whoever
    /// sends it read the worker's own files.
    S3,
}

/// The `document` of a job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Document {
    /// A path, or an `s3://` URI.
    pub source: String,
    /// Which version of an object is meant, as S3 names it; the newest where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The digest of the file's bytes, if a changed file is to be another job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// How it reaches the model.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: Mode,
    /// What each chunk is asked; `{{chunk}}` alone where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The size of a chunk, in estimated tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_tokens: Option<NonZeroU32>,
    /// How much of a chunk the next one repeats, in estimated tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap_tokens: Option<u32>,
    /// What becomes of it when chunks fail.
    #[serde(skip_serializing_if = "is_default")]
    pub partial: Partial,
    /// What is asked of the answers, brought together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reduce: Option<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Document {
    /// Estimated tokens of a chunk where nothing is said.
    pub const CHUNK_TOKENS: u32 = 1_500;
    /// The longest name of a version (source: the S3 API).
    const VERSION_BYTES: usize = 1_024;
    /// The bounds of `chunk_tokens`.
    pub const CHUNK_BOUNDS: std::ops::RangeInclusive<u32> = 50..=100_000;
    const KEYS: [&'static str; 9] =
        ["source", "version", "sha256", "mode", "template", "chunk_tokens", "overlap_tokens", "partial", "reduce"];

    /// The document at this place, with nothing else said.
    pub fn at(source: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            version: None,
            sha256: None,
            mode: Mode::Text,
            template: None,
            chunk_tokens: None,
            overlap_tokens: None,
            partial: Partial::Keep,
            reduce: None,
        }
    }

    /// Reads what stands under `document`.
    ///
    /// # Errors
    /// The first thing wrong, by its key and in words safe to log.
    pub fn read(fields: &Map<String, Value>) -> Result<Self, String> {
        if let Some(unknown) = fields.keys().find(|key| !Self::KEYS.contains(&key.as_str())) {
            let unknown: String = unknown.chars().take(40).collect();
            return Err(format!("unknown key `{unknown}` in `document`; there are {}", Self::KEYS.join(", ")));
        }
        let source = text(fields, "source")?.filter(|source| !source.trim().is_empty());
        let source = source.ok_or("`document.source` must say where the file lies: a path or s3://bucket/key")?;
        let document = Self {
            source,
            version: text(fields, "version")?,
            sha256: text(fields, "sha256")?.map(|hex| digest(&hex)).transpose()?,
            mode: one_of(fields, "mode", &[("text", Mode::Text), ("native", Mode::Native)])?,
            template: text(fields, "template")?,
            chunk_tokens: count(fields, "chunk_tokens")?
                .map(|tokens| NonZeroU32::new(tokens).unwrap_or(NonZeroU32::MIN)),
            overlap_tokens: count(fields, "overlap_tokens")?,
            partial: one_of(fields, "partial", &[("keep", Partial::Keep), ("fail", Partial::Fail)])?,
            reduce: text(fields, "reduce")?,
        };
        document.check()?;
        Ok(document)
    }

    /// What is wrong with it, if anything is.
    ///
    /// # Errors
    /// The first thing wrong, by its key and in words safe to log.
    pub fn check(&self) -> Result<(), String> {
        if let Some(version) = &self.version {
            if self.place() == Place::Files {
                return Err("`document.version` is of objects in S3, and this source is a file".to_owned());
            }
            if version.is_empty() || version.len() > Self::VERSION_BYTES {
                let most = Self::VERSION_BYTES;
                return Err(format!("`document.version` must have from 1 to {most} bytes, found {}", version.len()));
            }
        }
        let chunk = self.chunk_tokens().get();
        if !Self::CHUNK_BOUNDS.contains(&chunk) {
            let (low, high) = Self::CHUNK_BOUNDS.into_inner();
            return Err(format!("`chunk_tokens` must be a whole number from {low} to {high}, found {chunk}"));
        }
        if self.overlap_tokens().saturating_mul(2) > chunk {
            let overlap = self.overlap_tokens();
            return Err(format!("`overlap_tokens` must be at most half of `chunk_tokens` ({chunk}), found {overlap}"));
        }
        if self.mode == Mode::Native && self.template.is_none() {
            return Err("`mode = \"native\"` needs a `template`: the model is sent the file and that".to_owned());
        }
        self.question().map_err(|why| format!("`template`: {why}"))?;
        self.synthesis().map_err(|why| format!("`reduce`: {why}"))?;
        Ok(())
    }

    /// Where it lies.
    pub fn place(&self) -> Place {
        if self.source.starts_with("s3://") { Place::S3 } else { Place::Files }
    }

    /// Its file's name, without its folders.
    pub fn name(&self) -> &str {
        self.source.rsplit(['/', '\\']).next().unwrap_or(&self.source)
    }

    /// The size of a chunk, in estimated tokens.
    pub fn chunk_tokens(&self) -> NonZeroU32 {
        self.chunk_tokens.or_else(|| NonZeroU32::new(Self::CHUNK_TOKENS)).unwrap_or(NonZeroU32::MIN)
    }

    /// How much of a chunk the next one repeats, in estimated tokens: none where nothing is said.
    pub fn overlap_tokens(&self) -> u32 {
        self.overlap_tokens.unwrap_or(0)
    }

    /// What each chunk is asked.
    ///
    /// # Errors
    /// See [`Template::new`].
    pub fn question(&self) -> Result<Template, super::prompt_template::TemplateError> {
        let purpose = match self.mode {
            Mode::Text => Purpose::Chunk,
            Mode::Native => Purpose::Native,
        };
        Template::new(self.template.as_deref().unwrap_or("{{chunk}}"), purpose)
    }

    /// What the answers are asked, if they are brought together.
    ///
    /// # Errors
    /// See [`Template::new`].
    pub fn synthesis(&self) -> Result<Option<Template>, super::prompt_template::TemplateError> {
        self.reduce.as_deref().map(|text| Template::new(text, Purpose::Reduce)).transpose()
    }
}

fn text(fields: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("`document.{key}` must be a string")),
    }
}

fn count(fields: &Map<String, Value>, key: &str) -> Result<Option<u32>, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
            count.map(Some).ok_or_else(|| format!("`document.{key}` must be a whole number of tokens"))
        }
    }
}

fn one_of<T: Copy + Default>(fields: &Map<String, Value>, key: &str, known: &[(&str, T)]) -> Result<T, String> {
    let Some(word) = text(fields, key)? else { return Ok(T::default()) };
    let found = known.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        format!("`document.{key}` must be {}", names.join(" or "))
    })
}

fn digest(hex: &str) -> Result<Digest, String> {
    Digest::from_hex(hex).ok_or_else(|| "`document.sha256` must be 64 hexadecimal digits".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(json: Value) -> Result<Document, String> {
        Document::read(json.as_object().unwrap())
    }

    #[test]
    fn it_reads_back_as_it_is_written() {
        let json = serde_json::json!({
            "source": "s3://b/in/a.pdf", "version": "3/L4kqt", "sha256": "0".repeat(64), "mode": "text", "template": "Sum up: {{chunk}}", "chunk_tokens": 800,
            "overlap_tokens": 50, "partial": "fail", "reduce": "Bring together: {{answers}}",
        });
        let document = read(json).unwrap();
        let written = serde_json::to_value(&document).unwrap();
        assert_eq!(read(written).unwrap(), document);
        assert_eq!(document.name(), "a.pdf");
        assert_eq!(serde_json::to_value(Document::at("a")).unwrap(), serde_json::json!({ "source": "a" }));
    }

    #[test]
    fn every_key_that_is_wrong_is_named() {
        for (json, said) in [
            (serde_json::json!({}), "document.source"),
            (serde_json::json!({ "source": 7 }), "`document.source` must be a string"),
            (serde_json::json!({ "source": "a", "tempalte": "x" }), "unknown key `tempalte`"),
            (serde_json::json!({ "source": "a", "template": "{{chunck}}" }), "{{chunck}}"),
            (serde_json::json!({ "source": "a", "chunk_tokens": 1 }), "from 50 to 100000, found 1"),
            (serde_json::json!({ "source": "a", "chunk_tokens": 100, "overlap_tokens": 51 }), "half of `chunk_tokens`"),
            (serde_json::json!({ "source": "a", "mode": "images" }), "\"text\" or \"native\""),
            (serde_json::json!({ "source": "a", "mode": "native" }), "needs a `template`"),
            (serde_json::json!({ "source": "a", "partial": "maybe" }), "\"keep\" or \"fail\""),
            (serde_json::json!({ "source": "a", "reduce": "all of it" }), "no {{answers}}"),
            (serde_json::json!({ "source": "a", "sha256": "12" }), "64 hexadecimal digits"),
            (serde_json::json!({ "source": "a", "version": "1" }), "this source is a file"),
            (serde_json::json!({ "source": "s3://b/a", "version": "" }), "from 1 to 1024 bytes, found 0"),
        ] {
            let error = read(json.clone()).unwrap_err();
            assert!(error.contains(said), "{json}: {error}");
        }
    }
}
