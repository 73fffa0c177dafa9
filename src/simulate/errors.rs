//! Which errors does the service give, in which form?
//!
//! The names, statuses and texts as they were seen on the wire. The name travels in a header, not in the body, and
//! the same status serves several names, which is why a client must read the name first.

use std::borrow::Cow;
use std::time::Duration;

/// An error the service knows.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) name: &'static str,
    pub(super) status: u16,
    pub(super) message: &'static str,
    /// Found out only after the call was admitted: it holds its reservation until then.
    pub(super) late: bool,
    /// Its name within an event stream, if it can come there.
    pub(super) in_stream: Option<&'static str>,
}

const fn early(name: &'static str, status: u16, message: &'static str) -> Known {
    Known { name, status, message, late: false, in_stream: None }
}

const fn late(name: &'static str, status: u16, message: &'static str) -> Known {
    Known { name, status, message, late: true, in_stream: None }
}

/// Throttled by the tokens of a minute.
pub(super) const TOO_MANY_TOKENS: &str = "Too many tokens, please wait before trying again.";
/// Throttled by the requests of a minute.
pub(super) const TOO_MANY_REQUESTS: &str = "Too many requests, please wait before trying again.";
/// Throttled by the tokens of a day; nothing but this text tells it from the minute.
pub(super) const TOO_MANY_A_DAY: &str = "Too many tokens per day, please wait before trying again.";
/// The other text of a 503.
pub(super) const TOO_MANY_CONNECTIONS: &str = "Too many connections, please wait before trying again.";

pub(super) const THROTTLING: &str = "ThrottlingException";
pub(super) const VALIDATION: &str = "ValidationException";
pub(super) const UNAVAILABLE: &str = "ServiceUnavailableException";
pub(super) const OVERLOADED: &str = "overloaded";
/// The name is nobody's: a client must cope with what it has never heard of.
pub(super) const UNKNOWN: &str = "unknown";

/// Every error that can be ordered by name. The overloaded error has a vendor's name and form.
pub(super) static KNOWN: [Known; 26] = [
    Known { in_stream: Some("throttlingException"), ..early(THROTTLING, 429, TOO_MANY_TOKENS) },
    Known {
        in_stream: Some("serviceUnavailableException"),
        ..early(UNAVAILABLE, 503, "Bedrock is unable to process your request.")
    },
    Known {
        in_stream: Some("internalServerException"),
        ..late(
            "InternalServerException",
            500,
            "The system encountered an unexpected error during processing. Try your request again.",
        )
    },
    late("ModelTimeoutException", 408, "Model has timed out in processing the request. Try your request again."),
    late(
        "ModelErrorException",
        424,
        "The system encountered an error while processing the model. Try your request again.",
    ),
    Known {
        in_stream: Some("modelStreamErrorException"),
        ..late("ModelStreamErrorException", 424, "The model stream was interrupted. Retry your request.")
    },
    early("ModelNotReadyException", 429, "The model is not ready to serve inference requests. Try your request again."),
    early(
        "ServiceQuotaExceededException",
        400,
        "Your request exceeds the service quota for your account. Resubmit your request later.",
    ),
    Known {
        in_stream: Some("validationException"),
        ..early(VALIDATION, 400, "Malformed input request, please reformat your input and try again.")
    },
    Known {
        in_stream: Some("accessDeniedException"),
        ..early("AccessDeniedException", 403, "You don't have access to the model with the specified model ID.")
    },
    Known {
        in_stream: Some("dependencyFailedException"),
        ..late(
            "DependencyFailedException",
            424,
            "There was an issue with a dependency. Check the resource configurations and retry the request.",
        )
    },
    Known {
        in_stream: Some("badGatewayException"),
        ..late(
            "BadGatewayException",
            502,
            "There was an issue with a dependency due to a server issue. Retry your request.",
        )
    },
    Known {
        in_stream: Some("conflictException"),
        ..early(
            "ConflictException",
            409,
            "There was a conflict performing an operation. Resolve the conflict and retry your request.",
        )
    },
    early(
        "ResourceNotFoundException",
        404,
        "Could not resolve the foundation model from the provided model identifier.",
    ),
    early("ExpiredTokenException", 403, "The security token included in the request is expired"),
    early("UnrecognizedClientException", 403, "The security token included in the request is invalid."),
    early("MissingAuthenticationTokenException", 403, "Missing Authentication Token"),
    early(
        "InvalidClientTokenId",
        403,
        "The X.509 certificate or AWS access key ID provided does not exist in our records.",
    ),
    early("IncompleteSignature", 400, "The request signature does not conform to AWS standards."),
    early("NotAuthorized", 400, "You do not have permission to perform this action."),
    early("RequestExpired", 400, "The request reached the service more than 15 minutes after its date stamp."),
    early("InvalidAction", 400, "The action or operation requested is invalid."),
    early("FTUFormNotFilled", 404, "Model use case details have not been submitted for this account."),
    early(
        "MPAgreementBeingCreated",
        403,
        "Your AWS Marketplace subscription for this model is being processed. Try again after 15 minutes.",
    ),
    early(OVERLOADED, 529, "Overloaded"),
    early(UNKNOWN, 400, "Something happened that has never happened before."),
];

/// The error of this name.
pub(super) fn known(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// An error as it goes out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refused {
    pub(super) name: &'static str,
    pub(super) status: u16,
    pub(super) message: Cow<'static, str>,
    pub(super) original_status: Option<u16>,
    pub(super) retry_after: Option<Duration>,
}

impl Refused {
    /// As the service would say it by itself.
    pub(super) fn plain(known: &'static Known) -> Self {
        Self {
            name: known.name,
            status: known.status,
            message: Cow::Borrowed(known.message),
            original_status: None,
            retry_after: None,
        }
    }

    /// A 400 for the request itself.
    pub(super) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self { name: VALIDATION, status: 400, message: message.into(), original_status: None, retry_after: None }
    }

    /// A 429.
    pub(super) fn throttled(message: &'static str) -> Self {
        Self {
            name: THROTTLING,
            status: 429,
            message: Cow::Borrowed(message),
            original_status: None,
            retry_after: None,
        }
    }

    /// A request without a signature or key.
    pub(super) fn no_credentials() -> Self {
        Self {
            name: "MissingAuthenticationTokenException",
            status: 403,
            ..Self::invalid("Missing Authentication Token")
        }
    }

    /// A path or method that is nothing of ours.
    pub(super) fn no_operation() -> Self {
        Self { name: "UnknownOperationException", status: 404, ..Self::invalid("Unknown operation.") }
    }

    /// Its name on the wire.
    pub(super) fn type_name(&self) -> &'static str {
        match self.name {
            OVERLOADED => "overloaded_error",
            UNKNOWN => "UnheardOfException",
            name => name,
        }
    }

    /// The value of `x-amzn-ErrorType`.
    pub(super) fn type_header(&self) -> String {
        format!("{}:http://internal.amazon.com/coral/com.amazon.bedrock/", self.type_name())
    }

    /// The value of `Retry-After`: whole seconds, and never sooner than meant.
    pub(super) fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(|time| u64::try_from(time.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX))
    }

    /// The JSON body.
    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = serde_json::json!({ "message": self.message });
        if let Some(status) = self.original_status {
            body["originalStatusCode"] = status.into();
        }
        if self.name == OVERLOADED {
            body["type"] = "error".into();
            body["error"] = serde_json::json!({ "type": "overloaded_error", "message": self.message });
        }
        body.to_string().into_bytes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_is_the_63_bytes_seen_on_the_wire() {
        let refused = Refused::throttled(TOO_MANY_TOKENS);
        assert_eq!(refused.body(), br#"{"message":"Too many tokens, please wait before trying again."}"#);
        assert_eq!(refused.body().len(), 63);
        assert_eq!(refused.type_header(), "ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/");
    }

    #[test]
    fn names_are_unique_and_statuses_are_those_of_the_service_model() {
        for (place, one) in KNOWN.iter().enumerate() {
            assert!(KNOWN[place + 1..].iter().all(|other| other.name != one.name), "{}", one.name);
        }
        for (name, status) in [
            ("ModelTimeoutException", 408),
            ("ModelErrorException", 424),
            ("ModelNotReadyException", 429),
            ("ServiceQuotaExceededException", 400),
            ("overloaded", 529),
        ] {
            assert_eq!(known(name).unwrap().status, status, "{name}");
        }
    }
}
