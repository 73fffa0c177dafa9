//! Do both queues keep what they are given for as long as SQS can, and does nothing take jobs out of them but workers?

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName as Name;
use serde::Deserialize;

use super::{Expected, Looked, absent, region, unseen};
use crate::aws::Inner;
use crate::ports::Finding;

const QUEUE: &str = "queue";
const DEAD: &str = "dead-letter queue";
/// The longest that SQS keeps a message, in seconds.
const RETENTION: u64 = 14 * 24 * 60 * 60;
/// SQS counts each receive, and a message that waits for quota is received again and again.
const RECEIVES: u64 = 1_000;
/// So few that a job which merely waits for a day's quota uses them up.
const FEW_RECEIVES: u64 = 100;
/// What a message may weigh, since 2025.
const MESSAGE_BYTES: u64 = 1 << 20;

type Attributes = HashMap<Name, String>;

pub(super) async fn check(inner: &Inner, expected: &Expected) -> Looked {
    let settings = &inner.settings;
    match look_at_both(inner).await {
        Ok((queue, dead)) => {
            let mut findings = of_queue(&settings.queue_url, &queue, &dead, expected);
            findings.extend(of_dead(&settings.dead_letter_url, &dead));
            Looked::There(findings)
        }
        Err(looked) => looked,
    }
}

/// Whether both are there.
pub(super) async fn find(inner: &Inner) -> Result<(), Looked> {
    look_at_both(inner).await.map(drop)
}

async fn look_at_both(inner: &Inner) -> Result<(Attributes, Attributes), Looked> {
    let settings = &inner.settings;
    let both = futures_util::join!(
        look(inner, QUEUE, "aws.queue_url", &settings.queue_url),
        look(inner, DEAD, "aws.dead_letter_url", &settings.dead_letter_url)
    );
    match both {
        (Ok(queue), Ok(dead)) => Ok((queue, dead)),
        (Err(Looked::Unfit(queue)), Err(Looked::Unfit(dead))) => Err(Looked::Unfit([queue, dead].concat())),
        // What is known to be wrong is told before what nobody can say.
        (Err(unfit @ Looked::Unfit(_)), _) | (_, Err(unfit @ Looked::Unfit(_))) => Err(unfit),
        (Err(looked), _) | (_, Err(looked)) => Err(looked),
    }
}

async fn look(inner: &Inner, subject: &'static str, key: &str, url: &str) -> Result<Attributes, Looked> {
    let asked = inner.clients.sqs.get_queue_attributes().queue_url(url).attribute_names(Name::All).send().await;
    match asked {
        Ok(reply) => Ok(reply.attributes.unwrap_or_default()),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_queue_does_not_exist()) => {
            Err(Looked::Unfit(vec![absent(subject, format!("there is no queue {url} in {}", region(inner)), key)]))
        }
        Err(error) => Err(Looked::Unseen(vec![unseen(subject, url, "sqs:GetQueueAttributes", &error)])),
    }
}

fn of_queue(url: &str, queue: &Attributes, dead: &Attributes, expected: &Expected) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(QUEUE, url)];
    findings.extend(order(QUEUE, url, queue));
    findings.push(retention(QUEUE, url, queue));
    findings.push(visibility(url, queue, expected));
    findings.push(redrive(url, queue, dead.get(&Name::QueueArn)));
    findings.push(size(QUEUE, url, queue));
    if number(queue, &Name::DelaySeconds) > Some(0) {
        let remedy = set(url, "DelaySeconds=0");
        findings.push(Finding::advice(QUEUE, "every job waits for `DelaySeconds` before anybody sees it", remedy));
    }
    findings
}

fn of_dead(url: &str, dead: &Attributes) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(DEAD, url)];
    findings.extend(order(DEAD, url, dead));
    findings.push(retention(DEAD, url, dead));
    findings.push(size(DEAD, url, dead));
    let waiting = number(dead, &Name::ApproximateNumberOfMessages).unwrap_or(0);
    if waiting > 0 {
        let remedy = "`aquifer dead list` shows why; after 14 days they are gone";
        findings.push(Finding::advice(DEAD, format!("some {waiting} dead letters wait for somebody"), remedy));
    }
    findings
}

fn order(subject: &'static str, url: &str, attributes: &Attributes) -> Option<Finding> {
    let is_fifo = attributes.get(&Name::FifoQueue).is_some_and(|value| value == "true");
    is_fifo.then(|| {
        let what = format!("{url} is a FIFO queue: one job that waits holds back its whole tenant");
        Finding::error(subject, what, "name a standard queue; order is not kept between jobs")
    })
}

fn retention(subject: &'static str, url: &str, attributes: &Attributes) -> Finding {
    match number(attributes, &Name::MessageRetentionPeriod) {
        Some(seconds) if seconds >= RETENTION => Finding::ok(subject, "keeps messages for 14 days"),
        seconds => {
            let kept = seconds.map_or_else(|| "nobody knows how long".to_owned(), time);
            let what = format!(
                "it keeps messages for {kept}: what is not worked by then is lost; SQS can keep it for 14 days"
            );
            Finding::error(subject, what, set(url, &format!("MessageRetentionPeriod={RETENTION}")))
        }
    }
}

/// Workers name a visibility timeout of their own with every receive, so that the queue's is for others.
fn visibility(url: &str, attributes: &Attributes, expected: &Expected) -> Finding {
    let seconds = number(attributes, &Name::VisibilityTimeout).unwrap_or(0);
    let (lease, longest) = (expected.lease.as_secs(), expected.longest_call.as_secs());
    if Duration::from_secs(seconds) >= expected.lease {
        let what = format!(
            "visibility timeout {}, lease {}; a call may take {}, for which its lease is extended",
            time(seconds),
            time(lease),
            time(longest)
        );
        return Finding::ok(QUEUE, what);
    }
    let what = format!(
        "visibility timeout {} is shorter than `worker.lease`, {}: workers ask for the lease, but whoever looks into the queue by \
         other means gives jobs back too soon",
        time(seconds),
        time(lease)
    );
    Finding::advice(QUEUE, what, set(url, &format!("VisibilityTimeout={lease}")))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    dead_letter_target_arn: String,
    max_receive_count: serde_json::Value,
}

fn redrive(url: &str, queue: &Attributes, dead: Option<&String>) -> Finding {
    let remedy = |dead: Option<&String>| {
        let arn = dead.map_or("ARN-OF-THE-DEAD-LETTER-QUEUE", String::as_str);
        let policy = serde_json::json!({ "deadLetterTargetArn": arn, "maxReceiveCount": RECEIVES.to_string() });
        let value = serde_json::json!({ "RedrivePolicy": policy.to_string() });
        format!("aws sqs set-queue-attributes --queue-url {url} --attributes '{value}'")
    };
    let policy = queue.get(&Name::RedrivePolicy).filter(|text| !text.is_empty());
    let Some(policy) = policy.and_then(|text| serde_json::from_str::<Policy>(text).ok()) else {
        let what = "it has no redrive policy: a message that kills every worker it meets comes back for 14 days";
        return Finding::error(QUEUE, what, remedy(dead));
    };
    if dead.is_some_and(|dead| *dead != policy.dead_letter_target_arn) {
        let what = format!(
            "its redrive policy moves messages to {}, which is not `aws.dead_letter_url`: `aquifer dead` would not show them",
            policy.dead_letter_target_arn
        );
        return Finding::error(QUEUE, what, remedy(dead));
    }
    // SQS writes it as a number or as a text.
    let receives = policy.max_receive_count.to_string().trim_matches('"').parse().unwrap_or(0);
    let what = format!("maxReceiveCount {receives}: SQS also counts receives of jobs that merely waited for quota");
    match receives {
        RECEIVES.. => {
            Finding::ok(QUEUE, format!("redrive policy: after {receives} receives, to the dead-letter queue"))
        }
        FEW_RECEIVES..RECEIVES => Finding::advice(QUEUE, what, remedy(dead)),
        0..FEW_RECEIVES => Finding::error(QUEUE, format!("{what}; they would end as dead letters"), remedy(dead)),
    }
}

fn size(subject: &'static str, url: &str, attributes: &Attributes) -> Finding {
    match number(attributes, &Name::MaximumMessageSize) {
        Some(bytes) if bytes < MESSAGE_BYTES => {
            let what = format!(
                "it takes messages up to {} KiB; larger jobs go through the bucket, at a request each",
                bytes / 1_024
            );
            Finding::advice(subject, what, set(url, &format!("MaximumMessageSize={MESSAGE_BYTES}")))
        }
        Some(_) | None => Finding::ok(subject, "takes messages up to 1 MiB"),
    }
}

fn number(attributes: &Attributes, name: &Name) -> Option<u64> {
    attributes.get(name)?.parse().ok()
}

fn set(url: &str, attribute: &str) -> String {
    format!("aws sqs set-queue-attributes --queue-url {url} --attributes {attribute}")
}

fn time(seconds: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400, "days"), (3_600, "h"), (60, "min")];
    let whole = UNITS.iter().find(|(unit, _)| seconds >= 2 * unit && seconds.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{seconds} s"), |(unit, name)| format!("{} {name}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Severity;

    fn with(name: Name, value: impl ToString) -> Attributes {
        Attributes::from([(name, value.to_string())])
    }

    fn policy(receives: &str, arn: &str) -> Attributes {
        with(Name::RedrivePolicy, format!("{{\"deadLetterTargetArn\":\"{arn}\",\"maxReceiveCount\":{receives}}}"))
    }

    #[test]
    fn a_job_is_kept_as_long_as_sqs_can_or_it_is_an_error() {
        let of = |seconds: u64| retention(QUEUE, "u", &with(Name::MessageRetentionPeriod, seconds));
        assert_eq!(of(RETENTION).severity, Severity::Ok);
        let short = of(4 * 86_400);
        assert_eq!(short.severity, Severity::Error);
        assert!(short.what.contains("4 days"), "{}", short.what);
        assert!(short.remedy.is_some_and(|remedy| remedy.contains("MessageRetentionPeriod=1209600")));
    }

    #[test]
    fn f3_a_redrive_policy_that_counts_waiting_as_failing_is_found() {
        let dead = "arn:dead".to_owned();
        let of = |attributes: &Attributes| redrive("u", attributes, Some(&dead)).severity;
        assert_eq!(of(&policy("1000", &dead)), Severity::Ok);
        assert_eq!(of(&policy("\"1000\"", &dead)), Severity::Ok);
        assert_eq!(of(&policy("999", &dead)), Severity::Advice);
        assert_eq!(of(&policy("5", &dead)), Severity::Error);
        assert_eq!(of(&policy("1000", "arn:another")), Severity::Error);
        assert_eq!(of(&Attributes::new()), Severity::Error);
    }

    #[test]
    fn a_visibility_timeout_is_held_against_the_lease() {
        let (lease, longest_call) = (Duration::from_secs(120), Duration::from_secs(171));
        let of =
            |seconds: u64| visibility("u", &with(Name::VisibilityTimeout, seconds), &Expected { lease, longest_call });
        assert_eq!((of(120).severity, of(119).severity), (Severity::Ok, Severity::Advice));
        assert!(of(120).what.contains("171 s"));
    }

    #[test]
    fn times_are_told_in_the_largest_unit_that_divides_them() {
        assert_eq!([30, 120, 171, 7_200, 1_209_600].map(time), ["30 s", "2 min", "171 s", "2 h", "14 days"]);
    }
}
