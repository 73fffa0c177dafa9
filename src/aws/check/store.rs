//! Are table and bucket ours to work with?

use aws_sdk_dynamodb::types::{
    BillingMode, KeyType, ScalarAttributeType, TableDescription, TableStatus, TimeToLiveStatus,
};
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::types::{BucketLocationConstraint, ExpirationStatus, LifecycleRule};

use super::{Looked, absent, region, unseen};
use crate::aws::Inner;
use crate::ports::{Finding, Severity};

const TABLE: &str = "table";
const BUCKET: &str = "bucket";
/// A job waits in the queue for up to 14 days, and as many again as a dead letter; a day more for the hours of rules.
const JOB_DAYS: i32 = 29;

pub(super) async fn check_table(inner: &Inner) -> Looked {
    match find_table(inner).await {
        Ok(table) => Looked::There(of_table(inner, &table).await),
        Err(looked) => looked,
    }
}

/// The table, if it is there and ours.
pub(super) async fn find_table(inner: &Inner) -> Result<TableDescription, Looked> {
    let name = &inner.settings.table;
    let table = match inner.clients.dynamodb.describe_table().table_name(name).send().await {
        Ok(described) => described.table.unwrap_or_else(|| TableDescription::builder().build()),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
            let what = format!("there is no table {name} in {}", region(inner));
            return Err(Looked::Unfit(vec![absent(TABLE, what, "aws.table")]));
        }
        Err(error) => return Err(Looked::Unseen(vec![unseen(TABLE, name, "dynamodb:DescribeTable", &error)])),
    };
    match other_schema(&table) {
        None => Ok(table),
        Some(other) => {
            let remedy = "name a table of ours in aws.table; `aquifer check --create` makes one that is not there";
            let what = format!("{name} is a table of something else: {other}");
            Err(Looked::Unfit(vec![Finding::error(TABLE, what, remedy)]))
        }
    }
}

async fn of_table(inner: &Inner, table: &TableDescription) -> Vec<Finding> {
    let name = &inner.settings.table;
    let mut findings = vec![Finding::ok(TABLE, format!("{name}, with keys pk and sk"))];
    if let Some(status) =
        table.table_status().filter(|status| !matches!(status, TableStatus::Active | TableStatus::Updating))
    {
        findings.push(Finding::error(
            TABLE,
            format!("it is {}", status.as_str().to_lowercase()),
            "wait until it is active",
        ));
    }
    let provisioned =
        table.billing_mode_summary().and_then(|billing| billing.billing_mode()) != Some(&BillingMode::PayPerRequest);
    findings.push(if provisioned {
        let remedy = format!("aws dynamodb update-table --table-name {name} --billing-mode PAY_PER_REQUEST");
        let what = "its capacity is provisioned: a cloudburst of jobs is throttled at it, and idle hours are paid for";
        Finding::advice(TABLE, what, remedy)
    } else {
        Finding::ok(TABLE, "capacity on demand")
    });
    findings.push(match inner.clients.dynamodb.describe_time_to_live().table_name(name).send().await {
        Err(error) => unseen(TABLE, name, "dynamodb:DescribeTimeToLive", &error),
        Ok(reply) => {
            let expiry = reply.time_to_live_description;
            let is_on = expiry.as_ref().is_some_and(|expiry| {
                let on = [TimeToLiveStatus::Enabled, TimeToLiveStatus::Enabling];
                expiry.attribute_name() == Some("ttl") && expiry.time_to_live_status().is_some_and(|is| on.contains(is))
            });
            if is_on {
                Finding::ok(TABLE, "rows of what ended go by themselves, by `ttl`")
            } else {
                let remedy = format!(
                    "aws dynamodb update-time-to-live --table-name {name} --time-to-live-specification Enabled=true,AttributeName=ttl"
                );
                Finding::advice(TABLE, "no expiry by `ttl`: rows of what ended are kept, and paid for, for ever", remedy)
            }
        }
    });
    findings
}

/// What its keys are, if they are not ours.
fn other_schema(table: &TableDescription) -> Option<String> {
    let is_text = |name: &str| {
        let mut kinds = table.attribute_definitions().iter().filter(|defined| defined.attribute_name() == name);
        kinds.any(|defined| *defined.attribute_type() == ScalarAttributeType::S)
    };
    let keys: Vec<(&str, &KeyType)> =
        table.key_schema().iter().map(|key| (key.attribute_name(), key.key_type())).collect();
    if keys == [("pk", &KeyType::Hash), ("sk", &KeyType::Range)] && is_text("pk") && is_text("sk") {
        return None;
    }
    let names: Vec<&str> = keys.iter().map(|(name, _)| *name).collect();
    Some(format!("its keys are {}, and not the texts pk and sk", names.join(" and ")))
}

// ------------------------------------------------------------------------------------------------------ bucket

pub(super) async fn check_bucket(inner: &Inner) -> Looked {
    if let Err(looked) = find_bucket(inner).await {
        return looked;
    }
    let mut findings = vec![Finding::ok(BUCKET, format!("{}, in {}", inner.settings.bucket, region(inner)))];
    findings.extend(lifecycle(inner).await);
    Looked::There(findings)
}

/// Whether the bucket is there, and in the region that calls go to.
pub(super) async fn find_bucket(inner: &Inner) -> Result<(), Looked> {
    let name = &inner.settings.bucket;
    let here = region(inner);
    let elsewhere = |there: &str| {
        let what = format!("{name} lies in {there}, and calls go to {here}: S3 refuses them");
        let remedy = format!("set AWS_REGION to the bucket's region, or name a bucket in {here}");
        Err(Looked::Unfit(vec![Finding::error(BUCKET, what, remedy)]))
    };
    let error = match inner.clients.s3.get_bucket_location().bucket(name).send().await {
        Ok(reply) => {
            // The oldest regions go by other names than their own.
            let there = match reply.location_constraint().map_or("", BucketLocationConstraint::as_str) {
                "" => "us-east-1",
                "EU" => "eu-west-1",
                there => there,
            };
            return if there == here { Ok(()) } else { elsewhere(there) };
        }
        Err(error) => error,
    };
    let response = error.raw_response();
    let is_redirect = response.is_some_and(|response| response.status().as_u16() == 301);
    match error.code() {
        Some("NoSuchBucket") => {
            Err(Looked::Unfit(vec![absent(BUCKET, format!("there is no bucket {name}"), "aws.bucket")]))
        }
        Some("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => elsewhere(
            response.and_then(|response| response.headers().get("x-amz-bucket-region")).unwrap_or("another region"),
        ),
        _ if is_redirect => elsewhere("another region"),
        Some("AccessDenied") => {
            let what = format!("{name} belongs to somebody else, or these credentials may not see it");
            let remedy = "allow s3:GetBucketLocation on it, or name a bucket of yours";
            Err(Looked::Unseen(vec![Finding::error(BUCKET, what, remedy)]))
        }
        _ => Err(Looked::Unseen(vec![unseen(BUCKET, name, "s3:GetBucketLocation", &error)])),
    }
}

async fn lifecycle(inner: &Inner) -> Vec<Finding> {
    let (name, prefix) = (&inner.settings.bucket, &inner.settings.prefix);
    let rules = match inner.clients.s3.get_bucket_lifecycle_configuration().bucket(name).send().await {
        Ok(reply) => reply.rules.unwrap_or_default(),
        Err(error) if error.code() == Some("NoSuchLifecycleConfiguration") => Vec::new(),
        // That nobody may look does not keep anybody from working.
        Err(error) => {
            let unseen = unseen(BUCKET, name, "s3:GetLifecycleConfiguration", &error);
            return vec![Finding { severity: Severity::Advice, ..unseen }];
        }
    };
    judge(&rules, prefix)
}

fn judge(rules: &[LifecycleRule], prefix: &str) -> Vec<Finding> {
    let in_force: Vec<&LifecycleRule> =
        rules.iter().filter(|rule| *rule.status() == ExpirationStatus::Enabled).collect();
    let jobs = format!("{prefix}jobs/");
    let days = in_force.iter().filter(|rule| covers(rule, &jobs)).filter_map(|rule| rule.expiration()?.days()).min();
    let terraform = "infra/bucket.tf has the rules; `aws s3api put-bucket-lifecycle-configuration` sets them by hand";
    let expiry = match days {
        None => Finding::advice(
            BUCKET,
            format!("no lifecycle rule for {jobs}: bodies of large jobs are kept for ever"),
            terraform,
        ),
        Some(days) if days < JOB_DAYS => {
            let what = format!(
                "bodies of large jobs below {jobs} go after {days} days, and a job can wait for 14, and as many again as a dead letter"
            );
            Finding::error(BUCKET, what, format!("let that rule wait for {JOB_DAYS} days"))
        }
        Some(days) => Finding::ok(BUCKET, format!("bodies of large jobs go after {days} days")),
    };
    let aborts = in_force.iter().any(|rule| covers(rule, prefix) && rule.abort_incomplete_multipart_upload().is_some());
    let uploads = if aborts {
        Finding::ok(BUCKET, "uploads that nobody ended go by themselves")
    } else {
        let what = "no lifecycle rule for incomplete uploads: what a killed worker left of one is kept, and paid for, for ever";
        Finding::advice(BUCKET, what, terraform)
    };
    vec![expiry, uploads]
}

/// Whether a rule is for all that lies below this. One with tags or sizes is for some of it.
fn covers(rule: &LifecycleRule, below: &str) -> bool {
    let Some(filter) = rule.filter() else {
        #[expect(deprecated, reason = "rules of before 2016 stand there as they were written")]
        return rule.prefix().is_none_or(|prefix| below.starts_with(prefix));
    };
    let has_more = filter.tag().is_some()
        || filter.object_size_greater_than().is_some()
        || filter.object_size_less_than().is_some()
        || filter.and().is_some();
    !has_more && below.starts_with(filter.prefix().unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use aws_sdk_s3::types::{AbortIncompleteMultipartUpload, LifecycleExpiration, LifecycleRuleFilter};

    use super::*;

    fn rule(prefix: &str, days: Option<i32>) -> LifecycleRule {
        let expiration = days.map(|days| LifecycleExpiration::builder().days(days).build());
        let abort = AbortIncompleteMultipartUpload::builder().days_after_initiation(1).build();
        LifecycleRule::builder()
            .filter(LifecycleRuleFilter::builder().prefix(prefix).build())
            .set_abort_incomplete_multipart_upload(days.is_none().then_some(abort))
            .set_expiration(expiration)
            .status(ExpirationStatus::Enabled)
            .build()
            .unwrap()
    }

    fn severities(rules: &[LifecycleRule]) -> [Severity; 2] {
        let [jobs, uploads] = &judge(rules, "p/")[..] else { unreachable!() };
        [jobs.severity, uploads.severity]
    }

    #[test]
    fn a_body_outlives_its_message_and_its_dead_letter() {
        assert_eq!(severities(&[]), [Severity::Advice, Severity::Advice]);
        assert_eq!(severities(&[rule("p/jobs/", Some(29)), rule("", None)]), [Severity::Ok, Severity::Ok]);
        assert_eq!(severities(&[rule("p/", Some(28)), rule("p/jobs/", None)]), [Severity::Error, Severity::Advice]);
        assert_eq!(severities(&[rule("other/jobs/", Some(1))]), [Severity::Advice, Severity::Advice]);
    }
}
