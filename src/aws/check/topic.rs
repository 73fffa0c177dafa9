//! Can notices go out?

use super::{absent, unseen};
use crate::aws::Inner;
use crate::ports::Finding;

const TOPIC: &str = "topic";

pub(super) async fn check(inner: &Inner) -> Vec<Finding> {
    let Some(arn) = &inner.settings.topic_arn else {
        return vec![Finding::ok(TOPIC, "none: notices are off")];
    };
    let attributes = match inner.clients.sns.get_topic_attributes().topic_arn(arn).send().await {
        Ok(reply) => reply.attributes.unwrap_or_default(),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found_exception()) => {
            return vec![absent(TOPIC, format!("there is no topic {arn}"), "aws.topic_arn")];
        }
        Err(error) => return vec![unseen(TOPIC, arn, "sns:GetTopicAttributes", &error)],
    };
    let mut findings = vec![Finding::ok(TOPIC, arn)];
    // Not tried: whoever is subscribed would get it.
    if attributes.get("SubscriptionsConfirmed").is_some_and(|count| count == "0") {
        let remedy = format!("aws sns subscribe --topic-arn {arn} --protocol sqs --notification-endpoint QUEUE-ARN");
        findings.push(Finding::advice(TOPIC, "nobody is subscribed: notices go nowhere", remedy));
    }
    findings
}
