//! Which job is it? A job is `(tenant, batch, id)`; its content is told apart by a digest.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Why a name was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NameError {
    /// Nothing between the quotes.
    #[error("`{field}` is empty")]
    Empty {
        /// The key of the job that held it.
        field: &'static str,
    },
    /// More than 128 characters.
    #[error("`{field}` has {length} characters, at most 128 are allowed")]
    TooLong {
        /// The key of the job that held it.
        field: &'static str,
        /// Its length in characters.
        length: usize,
    },
    /// A character outside the allowed set.
    #[error("`{field}` holds {found:?}; allowed are {allowed}")]
    Character {
        /// The key of the job that held it.
        field: &'static str,
        /// The first offender.
        found: char,
        /// The allowed set, in words.
        allowed: &'static str,
    },
}

const NAME_LIMIT: usize = 128;
/// With which the names of batches of parts begin.
const PARTS: &str = "document#";

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $field:literal, $allowed:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks length and characters.
            ///
            /// # Errors
            /// [`NameError`], with the first thing wrong.
            pub fn new(text: &str) -> Result<Self, NameError> {
                let length = text.chars().count();
                if length == 0 {
                    return Err(NameError::Empty { field: $field });
                }
                if length > NAME_LIMIT {
                    return Err(NameError::TooLong { field: $field, length });
                }
                let ok: fn(char) -> bool = $ok;
                match text.chars().find(|c| !ok(*c)) {
                    Some(found) => Err(NameError::Character { field: $field, found, allowed: $allowed }),
                    None => Ok(Self(text.into())),
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

fn plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-')
}

name!(
    /// The idempotency key of a job within its batch: 1 to 128 of `A-Z a-z 0-9 . _ : -`.
    JobId, "id", "A-Z a-z 0-9 . _ : -", plain
);
name!(
    /// Whose job it is: 1 to 128 of `A-Z a-z 0-9 . _ : -`.
    Tenant, "tenant", "A-Z a-z 0-9 . _ : -", plain
);
name!(
    /// The name of a batch: 1 to 128 characters. File stems become batch names, so anything but control
    /// characters and `/` is allowed.
    BatchName, "batch", "anything but control characters and `/`", |c| !c.is_control() && c != '/'
);

name!(
    /// The name of a roll, the list of one input: 1 to 128 of `A-Z a-z 0-9 . _ : -`.
    RollId, "roll", "A-Z a-z 0-9 . _ : -", plain
);

impl RollId {
    /// The roll of that number, in hexadecimal.
    pub fn of(number: u64) -> Self {
        Self(format!("{number:016x}").into())
    }
}

impl Tenant {
    /// The tenant of jobs that name none.
    pub fn unnamed() -> Self {
        Self("default".into())
    }
}

impl BatchName {
    /// The batch of a document's parts, told from other batches by its form: it is counted in no list of batches.
    pub fn of_parts(parts: &Digest) -> Self {
        Self(format!("{PARTS}{parts}").into())
    }

    /// Whether this is a batch of a document's parts.
    pub fn is_of_parts(&self) -> bool {
        self.0.strip_prefix(PARTS).is_some_and(|digest| Digest::from_hex(digest).is_some())
    }

    /// The batch of queue messages that name none.
    pub fn none() -> Self {
        Self("-".into())
    }
}

/// The identity of a batch: its name, and whose it is.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BatchKey {
    /// Whose batch it is.
    pub tenant: Tenant,
    /// Its name.
    pub batch: BatchName,
}

/// A job's name within the batches of that name, as short as [`Digest::half`].
pub fn short_name(tenant: &Tenant, id: &JobId) -> u128 {
    Digest::of(format!("{tenant}/{id}").as_bytes()).half()
}

/// The identity of a job.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct JobKey {
    /// Whose job it is.
    pub tenant: Tenant,
    /// The batch it belongs to.
    pub batch: BatchName,
    /// Its id within the batch.
    pub id: JobId,
}

impl JobKey {
    /// The batch this job belongs to.
    pub fn batch_key(&self) -> BatchKey {
        BatchKey { tenant: self.tenant.clone(), batch: self.batch.clone() }
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tenant, self.batch, self.id)
    }
}

/// A SHA-256 digest; shown and stored as 64 hexadecimal digits.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// From the raw 32 bytes; `None` for any other length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// From 64 hexadecimal digits; `None` for anything else.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let digits: Option<Vec<u8>> =
            hex.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
        let digits = digits.filter(|digits| digits.len() == 64)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().fold(0, |byte, digit| byte << 4 | digit);
        }
        Some(Self(bytes))
    }

    /// Half of it: short enough that millions fit in memory, and long enough that no two are alike.
    pub fn half(&self) -> u128 {
        let (half, _) = self.0.split_at(size_of::<u128>());
        half.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
    }

    /// The raw 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_id_holds_what_the_contract_allows_and_nothing_else() {
        assert!(JobId::new("order-1841.A_b:c").is_ok());
        assert!(JobId::new(&"x".repeat(128)).is_ok());
        assert_eq!(JobId::new(""), Err(NameError::Empty { field: "id" }));
        assert_eq!(JobId::new(&"x".repeat(129)), Err(NameError::TooLong { field: "id", length: 129 }));
        assert!(matches!(JobId::new("a b"), Err(NameError::Character { found: ' ', .. })));
    }

    #[test]
    fn jobs_of_two_tenants_are_told_apart_by_their_short_names() {
        let id = JobId::new("o-1").unwrap();
        assert_ne!(short_name(&Tenant::unnamed(), &id), short_name(&Tenant::new("acme").unwrap(), &id));
        assert_eq!(Digest::of(b"").half(), 0xe3b0_c442_98fc_1c14_9afb_f4c8_996f_b924);
    }

    #[test]
    fn a_digest_reads_as_sha_256() {
        assert_eq!(Digest::of(b"").to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
