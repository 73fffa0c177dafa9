//! What did SQLite or the file system say, and what does that mean to the flow?

use std::io;

use rusqlite::ErrorCode;

use crate::ports::{StoreError, StoreTrouble};

/// An SQLite error in the words of the ports.
pub(super) fn of_sqlite(doing: &str, error: &rusqlite::Error) -> StoreError {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreTrouble::Away,
        Some(ErrorCode::DiskFull) => StoreTrouble::Full,
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => StoreTrouble::Denied,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreTrouble::Damaged,
        Some(_) => StoreTrouble::Other,
        // No code: a value that does not read back as what we wrote.
        None => StoreTrouble::Damaged,
    };
    StoreError { kind, doing: doing.to_owned(), why: error.to_string() }
}

/// A file system error in the words of the ports.
pub(super) fn of_io(doing: impl Into<String>, error: &io::Error) -> StoreError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the kinds of io errors are open")]
    let kind = match error.kind() {
        // The state directory is made where it is missing, so that only a path which cannot be one ends here.
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::AlreadyExists
        | io::ErrorKind::NotFound => StoreTrouble::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => StoreTrouble::Full,
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => StoreTrouble::Away,
        _ => StoreTrouble::Other,
    };
    StoreError { kind, doing: doing.into(), why: error.to_string() }
}

/// Trouble that neither of them reported.
pub(super) fn of_ours(kind: StoreTrouble, doing: impl Into<String>, why: impl Into<String>) -> StoreError {
    StoreError { kind, doing: doing.into(), why: why.into() }
}

/// A stored value that says nothing we could have written.
pub(super) fn unreadable(column: &str) -> rusqlite::Error {
    let why = format!("`{column}` holds a value that this program never writes");
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Null, why.into())
}
