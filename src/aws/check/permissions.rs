//! What may these credentials do? Each action is tried in a way that comes to nothing: under a condition that is never met, on a
//! key where nothing lies, with a handle that stands for no message. Only a refusal for want of permission is a finding.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};

use crate::aws::table::{self, ALONE};
use crate::aws::{Inner, trouble};
use crate::ports::{Finding, StoreTrouble};

const PERMISSIONS: &str = "permissions";
/// Where nothing ever stands.
const NOWHERE: &str = "check";
/// Calls at once.
const AT_ONCE: usize = 4;

/// An action as IAM calls it, whether only a worker needs it, and the attempt: what it said if it was refused.
type Attempt<'a> = (&'static str, bool, BoxFuture<'a, Option<String>>);

pub(super) async fn check(inner: &Inner) -> Vec<Finding> {
    let attempts = queue(inner).into_iter().chain(rows(inner)).chain(objects(inner));
    let attempts: Vec<_> = attempts
        .map(|(action, is_workers, attempt)| attempt.map(move |refused| (action, is_workers, refused)))
        .collect();
    let tried = attempts.len();
    let outcomes: Vec<_> = stream::iter(attempts).buffered(AT_ONCE).collect().await;
    let mut findings: Vec<Finding> = outcomes
        .into_iter()
        .filter_map(|(action, is_workers, refused)| {
            let what = format!("{action} is refused: {}", refused?);
            Some(if is_workers {
                Finding::advice(
                    PERMISSIONS,
                    what,
                    format!("a worker needs {action}; check with the worker's own role, see infra/roles.tf"),
                )
            } else {
                Finding::error(PERMISSIONS, what, format!("allow {action}, see infra/roles.tf"))
            })
        })
        .collect();
    let allowed = tried - findings.len();
    let untried = "not tried, since it would be seen: sqs:SendMessage, sqs:ReceiveMessage, sns:Publish";
    findings
        .push(Finding::ok(PERMISSIONS, format!("{allowed} of {tried} actions that were tried are allowed; {untried}")));
    findings
}

fn queue(inner: &Inner) -> Vec<Attempt<'_>> {
    let (sqs, url) = (&inner.clients.sqs, &inner.settings.queue_url);
    let delete = sqs.delete_message().queue_url(url).receipt_handle(NOWHERE);
    let hide = sqs.change_message_visibility().queue_url(url).receipt_handle(NOWHERE).visibility_timeout(0);
    vec![
        ("sqs:DeleteMessage", true, async { refusal(delete.send().await) }.boxed()),
        ("sqs:ChangeMessageVisibility", true, async { refusal(hide.send().await) }.boxed()),
    ]
}

fn rows(inner: &Inner) -> Vec<Attempt<'_>> {
    let (dynamodb, name) = (&inner.clients.dynamodb, &inner.settings.table);
    let nowhere = || Some(table::key(NOWHERE.to_owned(), ALONE));
    const NEVER: &str = "attribute_exists(pk)";
    let get = dynamodb.get_item().table_name(name).set_key(nowhere());
    let query = dynamodb.query().table_name(name).key_condition_expression("pk = :pk");
    let query = query.expression_attribute_values(":pk", table::text(NOWHERE));
    let put = dynamodb.put_item().table_name(name).set_item(nowhere()).condition_expression(NEVER);
    let update = dynamodb.update_item().table_name(name).set_key(nowhere()).condition_expression(NEVER);
    let delete = dynamodb.delete_item().table_name(name).set_key(nowhere()).condition_expression(NEVER);
    vec![
        ("dynamodb:GetItem", false, async { refusal(get.send().await) }.boxed()),
        ("dynamodb:Query", false, async { refusal(query.send().await) }.boxed()),
        ("dynamodb:PutItem", false, async { refusal(put.send().await) }.boxed()),
        ("dynamodb:UpdateItem", false, async { refusal(update.send().await) }.boxed()),
        // Of a worker only gates are deleted, which its role may be limited to.
        ("dynamodb:DeleteItem", true, async { refusal(delete.send().await) }.boxed()),
    ]
}

fn objects(inner: &Inner) -> Vec<Attempt<'_>> {
    let (s3, bucket) = (&inner.clients.s3, &inner.settings.bucket);
    let key = format!("{}{NOWHERE}", inner.settings.prefix);
    let list = s3.list_objects_v2().bucket(bucket).prefix(&key).max_keys(1);
    let get = s3.get_object().bucket(bucket).key(&key);
    let begin = s3.create_multipart_upload().bucket(bucket).key(&key);
    let abort = move |upload: String| s3.abort_multipart_upload().bucket(bucket).key(&key).upload_id(upload).send();
    // An upload that is begun and given up leaves nothing.
    let put = async move {
        match begin.send().await {
            Ok(begun) => match begun.upload_id {
                Some(upload) => refusal(abort(upload).await),
                None => None,
            },
            refused => refusal(refused),
        }
    };
    vec![
        ("s3:ListBucket", false, async { refusal(list.send().await) }.boxed()),
        ("s3:GetObject", false, async { refusal(get.send().await) }.boxed()),
        ("s3:PutObject and s3:AbortMultipartUpload", false, put.boxed()),
    ]
}

/// What the service said, if it was that these credentials may not.
fn refusal<T, E, R>(attempt: Result<T, SdkError<E, R>>) -> Option<String>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let error = trouble::of_sdk("trying", &attempt.err()?);
    (error.kind == StoreTrouble::Denied).then_some(error.why)
}
