//! What is done with a document that is dropped in? `[[upload]]`: by where it lies and what its name ends in.

use std::num::NonZeroU32;

use super::Backend;
use super::error::ConfigError;
use super::typed::{Named, Section};
use crate::job::document::{Document, Mode, Partial};
use crate::job::upload::{OwnPlace, UploadRule};

/// Where a back end keeps what is its own, as far as events tell of it.
pub(super) fn own_place(backend: &Backend) -> Option<OwnPlace> {
    match backend {
        Backend::Embedded => None,
        Backend::Aws(aws) => Some(OwnPlace { bucket: aws.bucket.clone(), prefix: aws.prefix.clone() }),
    }
}

pub(super) fn read(top: &mut Section<'_>, backend: &Backend) -> Vec<UploadRule> {
    let own = own_place(backend);
    let mut rules = Vec::new();
    for Named { path, table } in top.tables("upload") {
        let mut section = Section::new(path, table, top.problems());
        let bounds = Document::CHUNK_BOUNDS;
        let rule = UploadRule {
            bucket: section.text("bucket"),
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
        if let Some(own) = own.as_ref().filter(|own| own.is_met_by(&rule)) {
            let bound = format!(
                "outside of `aws.prefix`, which is \"{}\" (as \"inbox/\" is), or go with a `suffix` or a `bucket` that results of \
                 our own do not have",
                own.prefix
            );
            section.out_of_bounds("prefix", &rule.prefix, bound);
        }
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
