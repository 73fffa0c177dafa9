//! How does a trace travel with a message of SQS? As two of its attributes, named as the headers of W3C Trace Context are, which any
//! producer can set. What a message says of its trace is never a reason to refuse it.

use std::collections::HashMap;

use aws_sdk_sqs::types::MessageAttributeValue;
use aws_smithy_types::error::operation::BuildError;

use crate::job::trace::TraceContext;

/// As attributes; none where nobody traces.
pub(super) fn attributes(
    trace: Option<&TraceContext>,
) -> Result<Option<HashMap<String, MessageAttributeValue>>, BuildError> {
    let Some(trace) = trace else { return Ok(None) };
    let said = [
        (TraceContext::TRACEPARENT, Some(trace.traceparent())),
        (TraceContext::TRACESTATE, trace.tracestate().map(str::to_owned)),
    ];
    let said = said.into_iter().filter_map(|(name, text)| Some((name, text?)));
    let attribute = |(name, text): (&str, String)| {
        let value = MessageAttributeValue::builder().data_type("String").string_value(text).build()?;
        Ok((name.to_owned(), value))
    };
    said.map(attribute).collect::<Result<_, _>>().map(Some)
}

/// From the attributes of a message; `None` if they name none.
pub(super) fn of(attributes: &HashMap<String, MessageAttributeValue>) -> Option<TraceContext> {
    let said = |name: &str| attributes.get(name).and_then(MessageAttributeValue::string_value);
    TraceContext::parse(said(TraceContext::TRACEPARENT)?, said(TraceContext::TRACESTATE)).ok()
}
