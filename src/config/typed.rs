//! What did somebody type? Reads one table key by key: type, bounds, and what is left over.
//!
//! Values from the environment are text whatever they mean, so text that stands for a number, a flag or a list is
//! read as such if, and only if, a variable set it.
#![expect(clippy::wildcard_enum_match_arm, reason = "every type of TOML value but the one asked for is the wrong one")]

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::{Table, Value};

use super::environment::in_variables;
use super::error::ConfigError;

/// In seconds.
const DAY: u64 = 86_400;

/// What was found wrong so far, and which keys the environment has set.
#[derive(Debug, Default)]
pub(super) struct Problems {
    pub(super) errors: Vec<ConfigError>,
    /// From dotted key to variable.
    pub(super) variables: BTreeMap<String, String>,
}

/// One table of an array, and how messages call it.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) path: String,
    pub(super) table: Table,
}

/// A table that is being read: what is asked for is taken out, what stays is unknown.
pub(super) struct Section<'a> {
    path: String,
    table: Table,
    asked: Vec<&'static str>,
    problems: &'a mut Problems,
}

impl<'a> Section<'a> {
    pub(super) fn new(path: String, table: Table, problems: &'a mut Problems) -> Self {
        Self { path, table, asked: Vec::new(), problems }
    }

    /// The full name of a key, as messages show it.
    pub(super) fn key(&self, key: &str) -> String {
        let dotted = self.dotted(key);
        self.problems.variables.get(&dotted).cloned().unwrap_or(dotted)
    }

    pub(super) fn problems(&mut self) -> &mut Problems {
        self.problems
    }

    pub(super) fn problem(&mut self, error: ConfigError) {
        self.problems.errors.push(error);
    }

    pub(super) fn out_of_bounds(&mut self, key: &str, value: &str, bound: impl Into<String>) {
        let (key, value) = (self.key(key), format!("\"{value}\""));
        self.problem(ConfigError::OutOfBounds { key, value, bound: bound.into() });
    }

    /// Reads what must be there.
    pub(super) fn required<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>, key: &str) -> Option<T> {
        if self.has(key) {
            return read(self);
        }
        // Read all the same, so that the key counts as known.
        let nothing = read(self);
        let key = self.key(key);
        self.problem(ConfigError::Missing { key });
        nothing
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            other => self.wrong_type(key, &other, "a string"),
        }
    }

    /// A text that no message shows.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            _ => self.wrong_type(key, &Value::String("..".to_owned()), "a string"),
        }
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        match self.take_parsed(key)? {
            Value::Boolean(flag) => Some(flag),
            other => self.wrong_type(key, &other, "true or false"),
        }
    }

    pub(super) fn number(&mut self, key: &'static str, bounds: RangeInclusive<u32>) -> Option<NonZeroU32> {
        let (low, high) = bounds.into_inner();
        let number = self.count(key, u64::from(low)..=u64::from(high))?;
        NonZeroU32::try_from(number).ok()
    }

    pub(super) fn count(&mut self, key: &'static str, bounds: RangeInclusive<u64>) -> Option<NonZeroU64> {
        let expected = if *bounds.end() < i64::MAX.unsigned_abs() {
            format!("a whole number from {} to {}", bounds.start(), bounds.end())
        } else {
            format!("a whole number, at least {}", bounds.start())
        };
        match self.take_parsed(key)? {
            Value::Integer(number) => {
                let count = u64::try_from(number).ok().filter(|count| bounds.contains(count)).and_then(NonZeroU64::new);
                if count.is_none() {
                    let key = self.key(key);
                    self.problem(ConfigError::OutOfBounds { key, value: number.to_string(), bound: expected });
                }
                count
            }
            other => self.wrong_type(key, &other, &expected),
        }
    }

    pub(super) fn duration(&mut self, key: &'static str, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        // Beyond days humantime counts in months of 30.44 days, which nobody types.
        let shown = |duration: &Duration| match duration.as_secs() / DAY {
            0..=1 => humantime::format_duration(*duration).to_string(),
            days => format!("{days}d"),
        };
        let expected = format!("a duration from \"{}\" to \"{}\"", shown(bounds.start()), shown(bounds.end()));
        match self.take(key)? {
            Value::String(text) => match humantime::parse_duration(&text) {
                Ok(duration) if bounds.contains(&duration) => Some(duration),
                Ok(_) => {
                    self.out_of_bounds(key, &text, expected);
                    None
                }
                Err(_) => self.wrong_type(key, &Value::String(text), &expected),
            },
            other => self.wrong_type(key, &other, &expected),
        }
    }

    /// A list of texts; from the environment, separated by commas.
    pub(super) fn names(&mut self, key: &'static str) -> Option<Vec<String>> {
        let expected = "an array of strings";
        let is_variable = self.is_variable(key);
        match self.take(key)? {
            Value::String(text) if is_variable => {
                Some(text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect())
            }
            Value::Array(items) => {
                let names: Option<Vec<_>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
                names.or_else(|| self.wrong_type(key, &Value::Array(items), expected))
            }
            other => self.wrong_type(key, &other, expected),
        }
    }

    /// A number of US dollars, not negative.
    pub(super) fn dollars(&mut self, key: &'static str) -> Option<f64> {
        let expected = "a number of US dollars from 0 to 1000000";
        let dollars = match self.take_parsed(key)? {
            Value::Float(dollars) => dollars,
            #[expect(clippy::cast_precision_loss, reason = "the bound below is far under 2^53")]
            Value::Integer(dollars) => dollars as f64,
            other => return self.wrong_type(key, &other, expected),
        };
        if (0.0..=1e6).contains(&dollars) {
            return Some(dollars);
        }
        let key = self.key(key);
        self.problem(ConfigError::OutOfBounds { key, value: dollars.to_string(), bound: expected.to_owned() });
        None
    }

    /// A table inside this one; empty where there is none.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'_> {
        let table = match self.take_parsed(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => self.wrong_type(key, &other, &format!("a table: [{key}]")).unwrap_or_default(),
        };
        Section::new(self.dotted(key), table, self.problems)
    }

    /// The tables of an array.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Named> {
        let expected = format!("an array of tables: [[{key}]]");
        let Some(value) = self.take_parsed(key) else { return Vec::new() };
        let Value::Array(items) = value else {
            return self.wrong_type(key, &value, &expected).unwrap_or_default();
        };
        let mut tables = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Value::Table(table) => {
                    let path = format!("{}.{}", self.dotted(key), label(&table).unwrap_or_else(|| index.to_string()));
                    tables.push(Named { path, table });
                }
                other => {
                    let _: Option<()> = self.wrong_type(key, &other, &expected);
                }
            }
        }
        tables
    }

    /// The tables inside a table, by their keys.
    pub(super) fn named_tables(&mut self, key: &'static str) -> Vec<(String, Named)> {
        let Section { path, table, .. } = self.section(key);
        let mut tables = Vec::with_capacity(table.len());
        for (name, value) in table {
            match value {
                Value::Table(table) => {
                    let path = format!("{path}.{name}");
                    tables.push((name, Named { path, table }));
                }
                other => {
                    let (key, value) = (format!("{path}.{name}"), shortened(other.to_string()));
                    let expected = format!("a table: [{key}]");
                    self.problem(ConfigError::WrongType { key, value, expected });
                }
            }
        }
        tables
    }

    /// A key of a version to come.
    pub(super) fn later(&mut self, key: &'static str) {
        if self.take(key).is_some() {
            let key = self.key(key);
            self.problem(ConfigError::Later { key });
        }
    }

    /// Reports what nobody asked for.
    pub(super) fn finish(self) {
        for left in self.table.keys() {
            let dotted = self.dotted(left);
            let meant = closest(left, &self.asked);
            let (key, meant) = match self.problems.variables.get(&dotted) {
                Some(variable) => {
                    let before = variable.strip_suffix(&in_variables(left)).unwrap_or(variable);
                    (variable.clone(), meant.map(|meant| format!("{before}{}", in_variables(meant))))
                }
                None => (dotted, meant.map(|meant| self.dotted(meant))),
            };
            self.problems.errors.push(ConfigError::UnknownKey { key, meant });
        }
    }

    fn dotted(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn is_variable(&self, key: &str) -> bool {
        self.problems.variables.contains_key(&self.dotted(key))
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.table.remove(key)
    }

    /// Like `take`; a variable's text that is a TOML value is that value.
    fn take_parsed(&mut self, key: &'static str) -> Option<Value> {
        let is_variable = self.is_variable(key);
        let value = self.take(key)?;
        match &value {
            Value::String(text) if is_variable => Some(parsed(text).unwrap_or(value)),
            _ => Some(value),
        }
    }

    fn wrong_type<T>(&mut self, key: &str, value: &Value, expected: &str) -> Option<T> {
        let (key, value) = (self.key(key), shortened(value.to_string()));
        self.problem(ConfigError::WrongType { key, value, expected: expected.to_owned() });
        None
    }
}

/// As much of a value as a message has room for.
pub(super) fn shortened(mut value: String) -> String {
    const SHOWN: usize = 60;
    if let Some((end, _)) = value.char_indices().nth(SHOWN) {
        value.truncate(end);
        value.push_str("...");
    }
    value
}

/// What a table of an array is called: by its name, or its region.
pub(super) fn label(table: &Table) -> Option<String> {
    ["name", "region", "model"].into_iter().find_map(|key| table.get(key)).and_then(Value::as_str).map(str::to_owned)
}

fn parsed(text: &str) -> Option<Value> {
    let line = format!("value = {text}");
    toml::from_str::<Table>(&line).ok().filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"))
}

/// The key that is written almost so.
pub(super) fn closest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|candidate| (strsim::osa_distance(&key.to_ascii_lowercase(), candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
