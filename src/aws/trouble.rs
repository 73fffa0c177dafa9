//! What does a failed call mean to the flow? The SDK's errors in the words of [`StoreError`].

use aws_sdk_dynamodb::error::{ErrorMetadata, ProvideErrorMetadata, SdkError};

use super::clients::in_words;
use crate::ports::{StoreError, StoreTrouble};

/// What it says when credentials are no good (any more): a person mends it, and then the call goes through.
const DENIED: [&str; 12] = [
    "AccessDenied",
    "AccessDeniedException",
    "AuthorizationError",
    "AuthorizationErrorException",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "MissingAuthenticationTokenException",
    "SignatureDoesNotMatch",
    "UnauthorizedOperation",
    "UnrecognizedClientException",
];

/// What it says when there is too much at once; the SDK has tried again a few times by then.
const BUSY: [&str; 15] = [
    "InternalServerError",
    "InternalFailure",
    "InternalError",
    "OverLimit",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottledException",
    "ThrottlingException",
    "TransactionConflictException",
    "TransactionInProgressException",
];

/// A failed call, and what was being done.
pub(super) fn of_sdk<E, R>(doing: &str, error: &SdkError<E, R>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let kind = match error {
        // It may or may not have arrived: whoever asks again must be able to bear both.
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => StoreTrouble::Away,
        SdkError::ServiceError(service) => of_code(service.err().code()),
        _ => StoreTrouble::Other,
    };
    let why = match error {
        // What the SDK says of a service's error is the Rust of it, where the operation does not list its code.
        SdkError::ServiceError(service) => said(service.err().meta()).unwrap_or_else(|| in_words(error)),
        _ => in_words(error),
    };
    StoreError { kind, doing: doing.to_owned(), why }
}

/// Code and message of a service, as far as it gave any.
fn said(error: &ErrorMetadata) -> Option<String> {
    let code = error.code()?;
    Some(error.message().map_or_else(|| code.to_owned(), |message| format!("{code}: {message}")))
}

/// What an error code means, whether of a call or of one of its entries.
pub(super) fn of_code(code: Option<&str>) -> StoreTrouble {
    match code {
        Some("KMS.ThrottlingException" | "KmsThrottled") => StoreTrouble::Away,
        // The key that the queue or the topic is encrypted with: missing, disabled, or not for us.
        Some(code) if code.starts_with("KMS.") || code.starts_with("Kms") => StoreTrouble::Denied,
        Some(code) if DENIED.contains(&code) => StoreTrouble::Denied,
        Some(code) if BUSY.contains(&code) => StoreTrouble::Away,
        // Nothing that one of the services says: a proxy in between, or a service that is falling over.
        None => StoreTrouble::Away,
        Some(_) => StoreTrouble::Other,
    }
}

/// Trouble that we found ourselves.
pub(super) fn of_ours(kind: StoreTrouble, doing: &str, why: impl Into<String>) -> StoreError {
    StoreError { kind, doing: doing.to_owned(), why: why.into() }
}
