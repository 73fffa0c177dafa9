//! What is wrong with a configuration?

use std::fmt;

/// Everything that is wrong, in the order of reading.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct ConfigErrors {
    /// The file, as given; `None` if there is none and the environment alone is wrong.
    pub file: Option<String>,
    /// Never empty.
    pub errors: Vec<ConfigError>,
}

impl fmt::Display for ConfigErrors {
    /// One line each, but for syntax errors, which show the place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            match &self.file {
                Some(file) if !error.names_its_source() => write!(f, "{file}: {error}")?,
                Some(_) | None => write!(f, "{error}")?,
            }
        }
        Ok(())
    }
}

/// One thing that is wrong. `key` is the dotted path in the file (`worker.slots`, `model.haiku.max_tokens`), or the
/// name of the variable that set it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// It is no TOML.
    #[error("not valid TOML: {message}")]
    Syntax {
        /// What the parser said, with the place.
        message: String,
    },
    /// There is no such key.
    #[error("unknown key `{key}`{}", did_you_mean(meant.as_deref()))]
    UnknownKey {
        /// As written.
        key: String,
        /// A key that is written almost so.
        meant: Option<String>,
    },
    /// The variable names no key.
    #[error("the environment variable {variable} names no key of the configuration: {why}")]
    UnknownVariable {
        /// Its name.
        variable: String,
        /// What would be one.
        why: String,
    },
    /// A value of another type.
    #[error("`{key}` must be {expected}, found {value}")]
    WrongType {
        /// Which key.
        key: String,
        /// What stands there.
        value: String,
        /// What should.
        expected: String,
    },
    /// A value of the right type that is not allowed.
    #[error("`{key}` must be {bound}, found {value}")]
    OutOfBounds {
        /// Which key.
        key: String,
        /// What stands there.
        value: String,
        /// What is allowed.
        bound: String,
    },
    /// A key that must be there.
    #[error("`{key}` is missing")]
    Missing {
        /// Which key.
        key: String,
    },
    /// Two of what there can be only one of.
    #[error("`{key}`: {value} stands there twice")]
    Twice {
        /// Which key.
        key: String,
        /// The name they share.
        value: String,
    },
    /// A name that no `[[model]]` has.
    #[error("`{key}`: there is no [[model]] named \"{value}\"; there are: {known}")]
    NoSuchModel {
        /// Which key.
        key: String,
        /// The name.
        value: String,
        /// The names there are.
        known: String,
    },
    /// A value that does not go with another.
    #[error("`{key}` must be {bound}, found {value}")]
    Contradiction {
        /// Which key.
        key: String,
        /// What stands there.
        value: String,
        /// What the other key demands.
        bound: String,
    },
    /// A text that does not read as what it should be.
    #[error("`{key}`: {why}")]
    Unreadable {
        /// Which key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file that is named as the endpoints file and is none.
    #[error("`{key}` must be the path of a file with a JSON list of endpoints, found \"{value}\": {why}")]
    NoEndpointsFile {
        /// Which key.
        key: String,
        /// The path, as typed.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something wrong in the endpoints file.
    #[error("{file}, entry {entry}: {error}")]
    InEndpointsFile {
        /// Its path, as typed.
        file: String,
        /// In which entry of its list, counted from 1.
        entry: usize,
        /// What it is; its `key` is the entry's.
        error: Box<ConfigError>,
    },
    /// A key of a version to come.
    #[error("`{key}` belongs to a later version; leave it out")]
    Later {
        /// Which key.
        key: String,
    },
}

impl ConfigError {
    /// Whether it says by itself that a variable or the endpoints file is to blame.
    fn names_its_source(&self) -> bool {
        match self {
            Self::UnknownVariable { .. } | Self::InEndpointsFile { .. } => true,
            Self::UnknownKey { key, .. }
            | Self::WrongType { key, .. }
            | Self::OutOfBounds { key, .. }
            | Self::Missing { key }
            | Self::Twice { key, .. }
            | Self::NoSuchModel { key, .. }
            | Self::Contradiction { key, .. }
            | Self::NoEndpointsFile { key, .. }
            | Self::Unreadable { key, .. }
            | Self::Later { key } => key.starts_with("AQUIFER_"),
            Self::Syntax { .. } => false,
        }
    }
}

fn did_you_mean(meant: Option<&str>) -> String {
    meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default()
}
