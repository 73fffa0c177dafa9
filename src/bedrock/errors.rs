//! What went wrong with a call, what may it have cost, and what of it may be shown?
//!
//! One table, by error code first and message second. The HTTP status alone decides nothing that has a code: 429 may be
//! a quota or a model that is not ready, 400 a quota, 424 and 408 a model that failed. An unknown code is `unknown`:
//! the job fails, is counted and shown, and nobody repeats what nobody understands. Only an answer with neither code
//! nor known text (a load balancer, a proxy) is judged by its status, and only where HTTP itself says "not now".
//!
//! Cost: what the service refused before the model worked is [`Billing::Nothing`]; so is its own 500 or 503, which
//! speaks of a request that got no model. A model that timed out or failed while it worked (408, 424) may have
//! produced tokens, and of a call whose end nobody saw nothing is known: [`Billing::Unknown`]. AWS does not say.

use std::error::Error;
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::result::{ConnectorError, SdkError};
use aws_smithy_types::date_time::{DateTime, Format};
use serde_json::Value;

use super::connect::in_words;
use super::redact::{self, Trust};
use super::wire::Seen;
use crate::job::failure::{Class, Failure};
use crate::ports::{Billing, CallFailure};

/// How a code is read.
#[derive(Clone, Copy)]
enum Reading {
    /// It is of this class, whatever it says.
    Is(Class),
    /// A quota or the model's capacity, by its text; a quota for the minute when the text is not known.
    Throttle,
    /// The service, or the model's capacity, by its text.
    Service,
    /// No access, or a key that is no key, by its text.
    Access,
    /// The request, or no access, by its text.
    Request,
    /// By the status that the model itself had answered.
    Model,
}

use Reading::{Access, Is, Model, Request, Service, Throttle};

/// Codes without the ending `Exception`, in any case of letters. Sources: the service models, "Troubleshooting Amazon
/// Bedrock API Error Codes", the common errors of AWS APIs, and the vendors' own shapes.
const CODES: &[(&str, Reading)] = &[
    ("Throttling", Throttle),
    ("Throttled", Throttle),
    ("RequestThrottled", Throttle),
    ("TooManyRequests", Throttle),
    ("RequestLimitExceeded", Throttle),
    ("rate_limit_error", Throttle),
    ("ServiceQuotaExceeded", Is(Class::QuotaDay)),
    ("ModelNotReady", Is(Class::Overloaded)),
    ("overloaded_error", Is(Class::Overloaded)),
    ("ServiceUnavailable", Service),
    ("InternalServer", Service),
    ("InternalServerError", Service),
    ("InternalFailure", Service),
    ("InternalError", Service),
    ("api_error", Service),
    ("ModelTimeout", Is(Class::Timeout)),
    ("RequestTimeout", Is(Class::Timeout)),
    ("timeout_error", Is(Class::Timeout)),
    ("ModelError", Model),
    ("ModelStreamError", Model),
    // Of agents: what they call did not do its work, or another turn of the same session is under way.
    ("DependencyFailed", Model),
    ("Conflict", Model),
    ("BadGateway", Is(Class::Unavailable)),
    ("Validation", Request),
    ("ValidationError", Request),
    ("Serialization", Request),
    ("invalid_request_error", Request),
    ("request_too_large", Request),
    ("AccessDenied", Access),
    ("NotAuthorized", Access),
    ("permission_error", Access),
    ("ResourceNotFound", Access),
    ("not_found_error", Access),
    ("FTUFormNotFilled", Access),
    ("MPAgreementBeingCreated", Access),
    ("OptInRequired", Access),
    ("SubscriptionRequired", Access),
    ("UnknownOperation", Access),
    ("InvalidAction", Access),
    ("ExpiredToken", Is(Class::Credentials)),
    ("InvalidSignature", Is(Class::Credentials)),
    ("SignatureDoesNotMatch", Is(Class::Credentials)),
    ("IncompleteSignature", Is(Class::Credentials)),
    ("UnrecognizedClient", Is(Class::Credentials)),
    ("InvalidClientTokenId", Is(Class::Credentials)),
    ("InvalidToken", Is(Class::Credentials)),
    ("RequestExpired", Is(Class::Credentials)),
    ("RequestTimeTooSkewed", Is(Class::Credentials)),
    ("MissingAuthenticationToken", Is(Class::Credentials)),
    ("AuthFailure", Is(Class::Credentials)),
    ("authentication_error", Is(Class::Credentials)),
];

/// Texts, in lower case, that say what it is; the first that occurs decides. Source: observed in public issues.
const TEXTS: &[(&str, Class)] = &[
    ("per day", Class::QuotaDay),
    ("daily", Class::QuotaDay),
    ("overloaded", Class::Overloaded),
    ("too many connections", Class::Unavailable),
    ("unable to process your request", Class::Unavailable),
    ("too many tokens", Class::QuotaMinute),
    ("too many requests", Class::QuotaMinute),
    ("security token", Class::Credentials),
    ("token has expired", Class::Credentials),
    ("api key", Class::Credentials),
    ("signature", Class::Credentials),
    ("access to the model", Class::Denied),
    ("access to bedrock models", Class::Denied),
    ("operation not allowed", Class::Denied),
    ("not authorized", Class::Denied),
];

/// The failure that an error response says. `request` is what was sent, so that none of it is shown.
pub(super) fn refused(seen: &Seen, request: &[u8]) -> CallFailure {
    let said = Said::of(seen);
    let class = classify(said.code, said.message, seen.status, said.original_status);
    let failure = Failure { class, message: shown(&said, class, seen.status, request), request_id: seen.request_id() };
    CallFailure { failure, billing: billing(class, seen.status), retry_after: retry_after(seen, SystemTime::now()) }
}

/// The failure of a call that brought no response. `left`: whether it got past credentials and signing.
pub(super) fn unanswered<E, R>(error: &SdkError<E, R>, left: bool) -> CallFailure
where
    E: Error + 'static,
    R: std::fmt::Debug + 'static,
{
    let (class, billing, message) = match error {
        SdkError::ConstructionFailure(_) => (Class::Unknown, Billing::Nothing, in_words(error)),
        SdkError::TimeoutError(_) => (Class::Timeout, Billing::Unknown, "no response in time".into()),
        SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
            Some(error) if left => undelivered(error),
            Some(error) => unsigned(error),
            None => (Class::Unavailable, Billing::Unknown, "the request failed on its way".into()),
        },
        SdkError::ResponseError(_) | SdkError::ServiceError(_) | _ => {
            (Class::Unavailable, Billing::Unknown, "the response broke off".into())
        }
    };
    CallFailure { failure: Failure::new(class, message), billing, retry_after: None }
}

/// The failure of a call whose deadline passed.
pub(super) fn out_of_time(timeout: Duration) -> CallFailure {
    let message = format!("no answer within {} s", timeout.as_secs_f64());
    CallFailure { failure: Failure::new(Class::Timeout, message), billing: Billing::Unknown, retry_after: None }
}

/// The SDK reports success and there was no response: cannot be, so nothing is assumed of it.
pub(super) fn lost() -> CallFailure {
    let failure = Failure::new(Class::Unknown, "the response was lost within the SDK");
    CallFailure { failure, billing: Billing::Unknown, retry_after: None }
}

/// What an error response says, in AWS's form or a vendor's.
struct Said<'a> {
    code: Option<&'a str>,
    message: &'a str,
    original_status: Option<u64>,
}

impl<'a> Said<'a> {
    fn of(seen: &'a Seen) -> Self {
        let json = seen.json();
        let at = |path: &str| json.and_then(|json| json.pointer(path)?.as_str());
        let code = seen.error_code().or_else(|| at("/error/type")).or_else(|| at("/code"));
        let message = ["/message", "/Message", "/errorMessage", "/error/message"].into_iter().find_map(at);
        let original_status = json.and_then(|json| json.get("originalStatusCode").and_then(Value::as_u64));
        Self { code, message: message.unwrap_or_default(), original_status }
    }
}

fn classify(code: Option<&str>, message: &str, status: u16, original_status: Option<u64>) -> Class {
    let text = by_text(message);
    let Some(code) = code else { return text.or_else(|| by_status(status)).unwrap_or(Class::Unknown) };
    let Some(reading) = reading(code) else { return Class::Unknown };
    match (reading, text) {
        (Is(class), _) => class,
        (Throttle, Some(class @ (Class::QuotaDay | Class::Overloaded | Class::Unavailable))) => class,
        (Throttle, _) => Class::QuotaMinute,
        (Service, Some(class @ Class::Overloaded)) => class,
        (Service, _) => Class::Unavailable,
        (Access, Some(class @ Class::Credentials)) => class,
        (Access, _) => Class::Denied,
        (Request, Some(class @ Class::Denied)) => class,
        (Request, _) => Class::Invalid,
        // 408 and 429 pass by themselves, whoever answered them.
        (Model, _) if matches!(original_status, Some(400..=407 | 409..=428 | 430..=499)) => Class::Invalid,
        (Model, _) => Class::ModelError,
    }
}

fn reading(code: &str) -> Option<Reading> {
    let stem = |code: &str| {
        let at = code.len().checked_sub("Exception".len())?;
        code.get(at..)?.eq_ignore_ascii_case("Exception").then(|| code.get(..at).map(str::to_owned))?
    };
    let code = stem(code).unwrap_or_else(|| code.to_owned());
    CODES.iter().find(|(known, _)| known.eq_ignore_ascii_case(&code)).map(|&(_, reading)| reading)
}

fn by_text(message: &str) -> Option<Class> {
    let message = message.to_lowercase();
    TEXTS.iter().find(|(text, _)| message.contains(text)).map(|&(_, class)| class)
}

fn by_status(status: u16) -> Option<Class> {
    match status {
        408 => Some(Class::Timeout),
        // Busy, and nobody says with what.
        429 | 529 => Some(Class::Overloaded),
        500 | 502 | 503 | 504 => Some(Class::Unavailable),
        _ => None,
    }
}

fn billing(class: Class, status: u16) -> Billing {
    match class {
        Class::Timeout | Class::ModelError => Billing::Unknown,
        // What it was nobody knows, but HTTP says whether it was refused.
        Class::Unknown if !matches!(status, 400..=407 | 409..=423 | 425..=499) => Billing::Unknown,
        Class::Unknown
        | Class::QuotaMinute
        | Class::QuotaDay
        | Class::Overloaded
        | Class::Unavailable
        | Class::Invalid
        | Class::Denied
        | Class::Credentials
        | Class::Empty
        | Class::BadInput
        | Class::IdConflict
        | Class::TooLarge
        | Class::OverBudget
        | Class::Residency
        | Class::NoText
        | Class::Expired
        | Class::Poison
        | Class::LostLease
        | Class::Shutdown => Billing::Nothing,
    }
}

/// Code and text; of a model that failed only the code, as its text may hold a piece of the answer, which there is
/// nothing to compare with.
fn shown(said: &Said<'_>, class: Class, status: u16, request: &[u8]) -> String {
    let code = said.code.map_or_else(|| format!("HTTP {status}"), |code| redact::word(code).to_owned());
    let trust = match class {
        Class::ModelError | Class::Timeout => return with_status(&code, said.original_status),
        Class::Invalid if said.original_status.is_some() => return with_status(&code, said.original_status),
        Class::QuotaMinute
        | Class::QuotaDay
        | Class::Overloaded
        | Class::Unavailable
        | Class::Denied
        | Class::Credentials => Trust::Fixed,
        Class::Invalid
        | Class::Unknown
        | Class::Empty
        | Class::BadInput
        | Class::IdConflict
        | Class::TooLarge
        | Class::OverBudget
        | Class::Residency
        | Class::NoText
        | Class::Expired
        | Class::Poison
        | Class::LostLease
        | Class::Shutdown => Trust::Quoting,
    };
    let text = redact::safe(said.message, request, trust);
    if text.is_empty() { code } else { format!("{code}: {text}") }
}

fn with_status(code: &str, original_status: Option<u64>) -> String {
    original_status.map_or_else(|| code.to_owned(), |status| format!("{code} (the model answered {status})"))
}

/// Seconds or an HTTP date, or AWS's own header in milliseconds.
fn retry_after(seen: &Seen, now: SystemTime) -> Option<Duration> {
    if let Some(millis) = seen.header("x-amz-retry-after").and_then(|text| text.trim().parse().ok()) {
        return Some(Duration::from_millis(millis));
    }
    let text = seen.header("retry-after")?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text: &str| SystemTime::try_from(DateTime::from_str(text, Format::HttpDate).ok()?).ok();
    // By the service's own clock where it gives one: ours may be off.
    let now = seen.header("date").and_then(date).unwrap_or(now);
    Some(date(text)?.duration_since(now).unwrap_or_default())
}

/// The request was made and signed, and no response came.
fn undelivered(error: &ConnectorError) -> (Class, Billing, String) {
    if error.connection_metadata().is_some() {
        let message = format!("the connection broke before the response: {}", innermost(error));
        return (Class::Unavailable, Billing::Unknown, message);
    }
    // The pool names the connection of everything that it handed to one: without, nothing was sent.
    let class = if error.is_user() { Class::Unknown } else { Class::Unavailable };
    (class, Billing::Nothing, format!("no connection: {}", innermost(error)))
}

/// The request never got as far as a signature.
fn unsigned(error: &ConnectorError) -> (Class, Billing, String) {
    let why = in_words(error);
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    let provider = causes.into_iter().any(<dyn Error>::is::<CredentialsError>);
    let speaks = |word: &str| why.to_lowercase().contains(word);
    if provider || (["credential", "identity", "token", "auth"].into_iter().any(speaks) && !speaks("endpoint")) {
        return (Class::Credentials, Billing::Nothing, format!("no credentials: {why}"));
    }
    (Class::Unknown, Billing::Nothing, format!("the request could not be signed: {why}"))
}

fn innermost(error: &dyn Error) -> String {
    let last = std::iter::successors(Some(error), |error| (*error).source()).last();
    last.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bedrock::wire::Body;

    fn response(status: u16, code: Option<&str>, body: Value) -> Seen {
        let code = code.map(|code| ("x-amzn-errortype".to_owned(), code.to_owned()));
        let id = ("x-amzn-requestid".to_owned(), "r-7".to_owned());
        Seen { status, headers: code.into_iter().chain([id]).collect(), body: Body::Json(body) }
    }

    fn class(status: u16, code: &str, message: &str) -> Class {
        let failure = refused(&response(status, Some(code), json!({ "message": message })), b"{}");
        assert_eq!(failure.failure.request_id.as_deref(), Some("r-7"));
        failure.failure.class
    }

    /// Every row of the service model and of the troubleshooting page, with its status.
    #[test]
    fn t1_each_documented_error_has_its_class_and_its_cost_by_code_first() {
        use Billing::{Nothing, Unknown};
        let minute = "Too many tokens, please wait before trying again.";
        let day = "Too many tokens per day, please wait before trying again.";
        let rows = [
            (429, "ThrottlingException", minute, Class::QuotaMinute, Nothing),
            (
                429,
                "ThrottlingException",
                "Too many requests, please wait before trying again.",
                Class::QuotaMinute,
                Nothing,
            ),
            (429, "ThrottlingException", day, Class::QuotaDay, Nothing),
            (429, "ThrottlingException", "words never seen", Class::QuotaMinute, Nothing),
            (429, "ThrottlingException", "", Class::QuotaMinute, Nothing),
            (429, "ThrottlingException", "The model is currently overloaded.", Class::Overloaded, Nothing),
            (429, "ModelNotReadyException", "not ready", Class::Overloaded, Nothing),
            (429, "ModelNotReadyException", minute, Class::Overloaded, Nothing),
            (400, "ServiceQuotaExceededException", "resubmit later", Class::QuotaDay, Nothing),
            (
                503,
                "ServiceUnavailableException",
                "Too many connections, please wait before trying again.",
                Class::Unavailable,
                Nothing,
            ),
            (
                503,
                "ServiceUnavailableException",
                "Bedrock is unable to process your request.",
                Class::Unavailable,
                Nothing,
            ),
            (503, "ServiceUnavailableException", "Model currently overloaded", Class::Overloaded, Nothing),
            (500, "InternalServerException", "", Class::Unavailable, Nothing),
            (500, "InternalFailure", "", Class::Unavailable, Nothing),
            (408, "ModelTimeoutException", "", Class::Timeout, Unknown),
            (424, "ModelErrorException", "", Class::ModelError, Unknown),
            (424, "ModelStreamErrorException", "", Class::ModelError, Unknown),
            (400, "ValidationException", "Input is too long for requested model.", Class::Invalid, Nothing),
            (400, "ValidationError", "", Class::Invalid, Nothing),
            (400, "ValidationException", "Operation not allowed", Class::Denied, Nothing),
            (
                403,
                "AccessDeniedException",
                "You don't have access to the model with the specified model ID.",
                Class::Denied,
                Nothing,
            ),
            (
                403,
                "AccessDeniedException",
                "Authentication failed: Please make sure your API Key is valid.",
                Class::Credentials,
                Nothing,
            ),
            (404, "ResourceNotFoundException", "", Class::Denied, Nothing),
            (404, "UnknownOperationException", "", Class::Denied, Nothing),
            (404, "FTUFormNotFilled", "", Class::Denied, Nothing),
            (403, "MPAgreementBeingCreated", "", Class::Denied, Nothing),
            (400, "NotAuthorized", "", Class::Denied, Nothing),
            (400, "IncompleteSignature", "", Class::Credentials, Nothing),
            (400, "RequestExpired", "", Class::Credentials, Nothing),
            (403, "InvalidClientTokenId", "", Class::Credentials, Nothing),
            (403, "ExpiredTokenException", "", Class::Credentials, Nothing),
            (403, "ExpiredToken", "", Class::Credentials, Nothing),
            (403, "InvalidSignatureException", "", Class::Credentials, Nothing),
            (403, "UnrecognizedClientException", "", Class::Credentials, Nothing),
            (403, "RequestTimeTooSkewed", "", Class::Credentials, Nothing),
            (403, "MissingAuthenticationTokenException", "", Class::Credentials, Nothing),
            (529, "overloaded_error", "", Class::Overloaded, Nothing),
            (503, "BrandNewException", minute, Class::Unknown, Unknown),
            (429, "BrandNewException", "", Class::Unknown, Nothing),
        ];
        for (status, code, message, class, billing) in rows {
            let failure = refused(&response(status, Some(code), json!({ "message": message })), b"{}");
            assert_eq!((failure.failure.class, failure.billing), (class, billing), "{status} {code} {message}");
        }
    }

    #[test]
    fn the_code_ends_at_the_colon_and_needs_no_header() {
        let uri = "ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/";
        assert_eq!(class(429, uri, "Too many tokens per day"), Class::QuotaDay);
        assert_eq!(class(503, "serviceUnavailableException", ""), Class::Unavailable);
        let in_body = json!({ "__type": "com.amazon.bedrock#ModelNotReadyException", "message": "" });
        assert_eq!(refused(&response(429, None, in_body), b"{}").failure.class, Class::Overloaded);
    }

    #[test]
    fn the_typographic_apostrophe_changes_nothing() {
        let text = "Invocation of model ID anthropic.claude with on-demand throughput isn’t supported. Retry your \
                    request with the ID or ARN of an inference profile that contains this model.";
        let failure = refused(&response(400, Some("ValidationException"), json!({ "message": text })), b"{}").failure;
        assert_eq!(failure.class, Class::Invalid);
        assert_eq!(failure.message, format!("ValidationException: {text}"));
    }

    #[test]
    fn the_vendors_form_is_read() {
        let body = json!({ "type": "error", "request_id": "req-v",
                           "error": { "type": "overloaded_error", "message": "Overloaded" } });
        let mut seen = response(529, None, body);
        seen.headers = vec![("retry-after".to_owned(), "17".to_owned())];
        let failure = refused(&seen, b"{}");
        assert_eq!(failure.failure.class, Class::Overloaded);
        assert_eq!(failure.failure.request_id.as_deref(), Some("req-v"));
        assert_eq!(failure.retry_after, Some(Duration::from_secs(17)));
    }

    #[test]
    fn a_failed_model_is_tried_again_by_its_own_status() {
        for (original, class) in [
            (json!(500), Class::ModelError),
            (json!(503), Class::ModelError),
            (json!(429), Class::ModelError),
            (Value::Null, Class::ModelError),
            (json!(400), Class::Invalid),
            (json!(413), Class::Invalid),
        ] {
            let body = json!({ "message": "half an answer", "originalStatusCode": original });
            let failure = refused(&response(424, Some("ModelErrorException"), body), b"{}").failure;
            assert_eq!(failure.class, class, "{original}");
            assert!(!failure.message.contains("half"), "{}", failure.message);
        }
    }

    #[test]
    fn the_status_speaks_only_when_nothing_else_does() {
        for (status, message, class) in [
            (503, "", Class::Unavailable),
            (502, "", Class::Unavailable),
            (529, "", Class::Overloaded),
            (429, "", Class::Overloaded),
            (429, "Too many tokens per day, please wait before trying again.", Class::QuotaDay),
            (400, "", Class::Unknown),
            (403, "", Class::Unknown),
            (404, "", Class::Unknown),
            (418, "", Class::Unknown),
        ] {
            let failure = refused(&response(status, None, json!({ "message": message })), b"{}").failure;
            assert_eq!(failure.class, class, "{status} {message}");
        }
    }

    #[test]
    fn no_echoed_prompt_is_shown() {
        let prompt = "canary-5512 sings to nobody";
        let request = json!({ "messages": [{ "role": "user", "content": [{ "text": prompt }] }] }).to_string();
        for code in ["ValidationException", "BrandNewException", "AccessDeniedException", "ThrottlingException"] {
            for said in [format!("bad: {prompt}"), format!("bad: {{\"text\":\"{prompt}\"}}"), prompt[..11].to_owned()] {
                let seen = response(400, Some(code), json!({ "message": said }));
                let failure = refused(&seen, request.as_bytes()).failure;
                assert!(failure.message.starts_with(code), "{failure}");
                assert!(!failure.message.contains("canary"), "{failure}");
            }
        }
    }

    #[test]
    fn a_server_says_when_in_three_ways() {
        let at = |name: &str, value: &str| {
            let mut seen = response(429, None, json!({}));
            seen.headers = vec![
                (name.to_owned(), value.to_owned()),
                ("date".to_owned(), "Sun, 06 Nov 1994 08:49:00 GMT".to_owned()),
            ];
            retry_after(&seen, SystemTime::UNIX_EPOCH)
        };
        assert_eq!(at("retry-after", "3"), Some(Duration::from_secs(3)));
        assert_eq!(at("x-amz-retry-after", "1500"), Some(Duration::from_millis(1_500)));
        assert_eq!(at("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(37)));
        assert_eq!(at("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(at("retry-after", "soon"), None);
    }
}
