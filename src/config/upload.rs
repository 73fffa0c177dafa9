//! What is done with a document that is dropped in? `[[upload]]`: by where it lies and what its name ends in.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::error::ConfigError;
use super::typed::{Named, Section};
use crate::job::document::{Document, Mode, Partial};

/// `[[upload]]`, the first whose `prefix` and `suffix` fit a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UploadSettings {
    /// `prefix`: with what the file's path begins, as it is given to the command. Default `""`: any.
    pub prefix: String,
    /// `suffix`: with what its name ends, in whatever case. Default `""`: any.
    pub suffix: String,
    /// `model`: who is asked, by a name of `[[model]]` or an id. Default: `--model`, else the first `[[model]]`.
    pub model: Option<Arc<str>>,
    /// `template`: what each chunk is asked, with `{{chunk}}`, `{{document.name}}`, `{{chunk.number}}` and `{{chunk.count}}`.
    /// What stands before the first word of a chunk is cached where the model can. Default `"{{chunk}}"`.
    pub template: Option<String>,
    /// `mode`: `"text"` (default) or `"native"`, which sends the file itself, up to 4.5 MB, to models that read images; it needs a
    /// `template`.
    pub mode: Mode,
    /// `chunk_tokens`: the size of a chunk, in estimated tokens. 50 to 100,000, default 1,500. Larger ones cost fewer repeated
    /// instructions, smaller ones are answered in more detail.
    pub chunk_tokens: Option<NonZeroU32>,
    /// `overlap_tokens`: how much of a chunk the next one repeats. 1 to half of `chunk_tokens`; default none.
    pub overlap_tokens: Option<u32>,
    /// `partial`: `"keep"` (default) ends a document `partial` when some of its chunks did not succeed, `"fail"` as `failed`, so
    /// that `--retry-failed` asks those again.
    pub partial: Partial,
    /// `reduce`: what is asked of all answers together, with `{{answers}}`. Default none: they are put one after the other.
    pub reduce: Option<String>,
    /// `max_tokens`: the cap on each answer. At least 1; default: the model's.
    pub max_tokens: Option<NonZeroU32>,
}

impl UploadSettings {
    /// Whether it is for the file at this path.
    pub fn is_for(&self, path: &str) -> bool {
        let (path, suffix) = (path.to_lowercase(), self.suffix.to_lowercase());
        path.starts_with(&self.prefix.to_lowercase()) && path.ends_with(&suffix)
    }

    /// The document at this place, done with as it says.
    pub fn document(&self, source: &str) -> Document {
        Document {
            mode: self.mode,
            template: self.template.clone(),
            chunk_tokens: self.chunk_tokens,
            overlap_tokens: self.overlap_tokens,
            partial: self.partial,
            reduce: self.reduce.clone(),
            ..Document::at(source)
        }
    }
}

pub(super) fn read(top: &mut Section<'_>) -> Vec<UploadSettings> {
    let mut rules = Vec::new();
    for Named { path, table } in top.tables("upload") {
        let mut section = Section::new(path, table, top.problems());
        let bounds = Document::CHUNK_BOUNDS;
        let rule = UploadSettings {
            prefix: section.text("prefix").unwrap_or_default(),
            suffix: section.text("suffix").unwrap_or_default(),
            model: section.text("model").map(Into::into),
            template: section.text("template"),
            mode: one_of(&mut section, "mode", &[("text", Mode::Text), ("native", Mode::Native)]),
            chunk_tokens: section.number("chunk_tokens", bounds.clone()),
            overlap_tokens: section.number("overlap_tokens", 1..=bounds.end() / 2).map(NonZeroU32::get),
            partial: one_of(&mut section, "partial", &[("keep", Partial::Keep), ("fail", Partial::Fail)]),
            reduce: section.text("reduce"),
            max_tokens: section.number("max_tokens", 1..=u32::MAX),
        };
        section.later("folder");
        if let Err(why) = rule.document("x").check() {
            // It begins with the key, in the quotes of messages.
            let mut words = why.splitn(3, '`').skip(1);
            let key = words.next().and_then(|key| key.split(' ').next()).unwrap_or("template");
            let key = section.key(key);
            let why = words.next().unwrap_or(&why).trim_start_matches(": ").trim_start().to_owned();
            section.problem(ConfigError::Unreadable { key, why });
        }
        section.finish();
        rules.push(rule);
    }
    rules
}

fn one_of<T: Copy + Default>(section: &mut Section<'_>, key: &'static str, known: &[(&str, T)]) -> T {
    let Some(word) = section.text(key) else { return T::default() };
    if let Some((_, value)) = known.iter().find(|(name, _)| *name == word) {
        return *value;
    }
    let names: Vec<_> = known.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    section.out_of_bounds(key, &word, names.join(" or "));
    T::default()
}
