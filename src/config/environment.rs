//! Which keys does the environment set?
//!
//! A variable is put into the table as text before anything is read, so that its value meets the same checks as a
//! value from the file; messages then name the variable.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::error::ConfigError;
use super::typed::{Problems, closest, label};
use super::{endpoint, model};

const PREFIX: &str = "AQUIFER_";
/// The log's own filter; read before there is a configuration.
const LOG: &str = "AQUIFER_LOG";
const SECTIONS: [&str; 7] = ["routing", "breaker", "worker", "state", "notify", "telemetry", "aws"];

pub(super) fn lay_over(table: &mut Table, env: &BTreeMap<String, String>, problems: &mut Problems) {
    for (variable, text) in env {
        let Some(rest) = variable.strip_prefix(PREFIX) else { continue };
        if variable == LOG {
            continue;
        }
        if rest.starts_with("TENANT_") {
            let why = "what is said of tenants stands in the file alone".to_owned();
            problems.errors.push(ConfigError::UnknownVariable { variable: variable.clone(), why });
            continue;
        }
        if rest.starts_with("UPLOAD_") {
            let why = "rules for documents stand in the file alone".to_owned();
            problems.errors.push(ConfigError::UnknownVariable { variable: variable.clone(), why });
        } else if let Err(why) = lay(table, rest, variable, text, problems) {
            problems.errors.push(ConfigError::UnknownVariable { variable: variable.clone(), why });
        }
    }
}

fn lay(table: &mut Table, rest: &str, variable: &str, text: &str, problems: &mut Problems) -> Result<(), String> {
    let mut set = |table: &mut Table, path: &str, key: String| {
        let dotted = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        problems.variables.insert(dotted, variable.to_owned());
        table.insert(key, Value::String(text.to_owned()));
    };
    if rest == "BACKEND" {
        set(table, "", "backend".to_owned());
        return Ok(());
    }
    for (array, keys) in [("model", &model::KEYS[..]), ("endpoint", &endpoint::KEYS[..])] {
        if let Some(rest) = rest.strip_prefix(&format!("{}_", in_variables(array))) {
            let (path, entry, key) = entry_of(table, array, keys, rest)?;
            set(entry, &path, key.to_owned());
            return Ok(());
        }
    }
    for section in SECTIONS {
        if let Some(key) = rest.strip_prefix(&format!("{}_", in_variables(section))) {
            // A section that is no table is reported when it is read.
            if let Value::Table(entries) = table.entry(section).or_insert_with(|| Value::Table(Table::new())) {
                set(entries, section, key.to_ascii_lowercase());
            }
            return Ok(());
        }
    }
    let known = ["backend", "model", "endpoint"].into_iter().chain(SECTIONS).collect::<Vec<_>>();
    let section = rest.split('_').next().unwrap_or_default();
    Err(match closest(section, &known) {
        Some(meant) => format!("there is no section `{}`; did you mean `{meant}`?", section.to_ascii_lowercase()),
        None => format!("there is no section `{}`", section.to_ascii_lowercase()),
    })
}

/// The table of an array that `NAME_KEY` is about. Names may hold what separates them from the key, so that the key
/// decides: `HAIKU_4_MAX_TOKENS` is `max_tokens` of `haiku-4`.
fn entry_of<'t>(
    table: &'t mut Table,
    array: &str,
    keys: &[&'static str],
    rest: &str,
) -> Result<(String, &'t mut Table, &'static str), String> {
    let names: Vec<String> = match table.get(array) {
        Some(Value::Array(entries)) => {
            entries.iter().map(|entry| entry.as_table().and_then(label).unwrap_or_default()).collect()
        }
        _ => Vec::new(),
    };
    let key_of = |name: &str| {
        let written = rest.strip_prefix(&in_variables(name))?.strip_prefix('_')?;
        keys.iter().find(|key| in_variables(key) == written).copied()
    };
    let mut found = names.iter().enumerate().filter_map(|(index, name)| Some((index, name, key_of(name)?)));
    let first = found.next();
    if let (Some((_, one, _)), Some((_, other, _))) = (first, found.next()) {
        return Err(format!("it may be about {array} \"{one}\" or \"{other}\""));
    }
    let entry = first.and_then(|(index, name, key)| {
        let entry = table.get_mut(array)?.as_array_mut()?.get_mut(index)?.as_table_mut()?;
        Some((format!("{array}.{name}"), entry, key))
    });
    entry.ok_or_else(|| {
        let names = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
        format!("it must be {PREFIX}{}_<NAME>_<KEY> of a configured {array} ({names})", in_variables(array))
    })
}

/// As names are written in variables: upper case, and `_` for everything but letters and digits.
pub(super) fn in_variables(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}
