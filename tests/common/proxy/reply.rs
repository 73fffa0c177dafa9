//! How do the services say that something went wrong? Each in its own wire format, so that what reads it is the SDK's own
//! parser.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Response;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::{Value, json};

use super::Lost;
use super::call::Service;

const JSON: &str = "application/x-amz-json-1.0";
const XML: &str = "text/xml";

/// As something in between answers that knows nothing of the service.
pub(super) fn bare(status: u16) -> Response<Full<Bytes>> {
    reply(status, "text/html", "<html><body>no backend</body></html>".to_owned())
}

pub(super) fn internal(service: Service) -> Response<Full<Bytes>> {
    let message = "We encountered an internal error. Please try again.";
    match service {
        Service::Sqs => json_error(500, "com.amazonaws.sqs#InternalError", message),
        Service::DynamoDb => json_error(500, "com.amazonaws.dynamodb.v20120810#InternalServerError", message),
        Service::Sfn => json_error(500, "InternalFailure", message),
        Service::BedrockAgent => named(500, "InternalServerException", message),
        Service::S3 => s3_error(500, "InternalError", message),
        Service::Sns => sns_error(500, "Receiver", "InternalError", message),
    }
}

pub(super) fn throttled(service: Service) -> Response<Full<Bytes>> {
    let message = "Rate exceeded";
    match service {
        Service::Sqs => json_error(400, "com.amazonaws.sqs#RequestThrottled", message),
        Service::DynamoDb => json_error(400, "com.amazon.coral.availability#ThrottlingException", message),
        Service::Sfn => json_error(400, "com.amazon.coral.availability#ThrottlingException", message),
        Service::BedrockAgent => named(429, "ThrottlingException", message),
        Service::S3 => s3_error(503, "SlowDown", "Please reduce your request rate."),
        Service::Sns => sns_error(400, "Sender", "Throttling", message),
    }
}

/// Something else is under way that this may not run beside.
pub(super) fn conflict() -> Response<Full<Bytes>> {
    named(409, "ConflictException", "There is an ongoing ingestion job for this knowledge base.")
}

/// The answer to a batch of which nothing was left to carry out.
pub(super) fn to_nothing(service: Service) -> Response<Full<Bytes>> {
    match service {
        Service::Sqs | Service::DynamoDb | Service::Sfn | Service::S3 | Service::BedrockAgent => {
            reply(200, JSON, json!({ "Successful": [], "Failed": [] }).to_string())
        }
        Service::Sns => {
            let result = "<PublishBatchResult><Successful/><Failed/></PublishBatchResult>";
            let text = format!("<PublishBatchResponse xmlns=\"{SNS}\">{result}{REQUEST}</PublishBatchResponse>");
            reply(200, XML, text)
        }
    }
}

/// The answer with one more entry that failed, through no fault of the sender.
pub(super) async fn with_failed(
    service: Service,
    answer: Response<Full<Bytes>>,
    id: &str,
) -> Result<Response<Full<Bytes>>, Lost> {
    let (mut head, body) = answer.into_parts();
    let body = body.collect().await.map_err(|_| Lost)?.to_bytes();
    if !head.status.is_success() {
        return Ok(Response::from_parts(head, Full::new(body)));
    }
    let body = match service {
        Service::Sns => {
            let member = format!(
                "<member><Id>{id}</Id><Code>InternalError</Code><Message>lost on order</Message>\
                 <SenderFault>false</SenderFault></member>"
            );
            xml_with_failed(&String::from_utf8_lossy(&body), &member)
        }
        Service::Sqs | Service::DynamoDb | Service::Sfn | Service::S3 | Service::BedrockAgent => {
            let mut reply: Value = serde_json::from_slice(&body).map_err(|_| Lost)?;
            let failed = json!({ "Id": id, "Code": "InternalError", "Message": "lost on order", "SenderFault": false });
            match reply["Failed"].as_array_mut() {
                Some(list) => list.push(failed),
                None => reply["Failed"] = json!([failed]),
            }
            reply.to_string()
        }
    };
    head.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(head, Full::new(body.into())))
}

/// The list may be filled, empty in either notation, or not there.
fn xml_with_failed(text: &str, member: &str) -> String {
    let list = format!("<Failed>{member}</Failed>");
    for (found, instead) in [("<Failed/>", &list), ("<Failed />", &list), ("</Failed>", &format!("{member}</Failed>"))]
    {
        if text.contains(found) {
            return text.replacen(found, instead, 1);
        }
    }
    text.replacen("</PublishBatchResult>", &format!("{list}</PublishBatchResult>"), 1)
}

/// As services answer whose errors are named in a header.
fn named(status: u16, name: &'static str, message: &str) -> Response<Full<Bytes>> {
    let mut answer = reply(status, "application/json", json!({ "message": message }).to_string());
    answer.headers_mut().insert("x-amzn-errortype", hyper::header::HeaderValue::from_static(name));
    answer
}

const SNS: &str = "http://sns.amazonaws.com/doc/2010-03-31/";
const REQUEST: &str = "<ResponseMetadata><RequestId>proxy</RequestId></ResponseMetadata>";

fn json_error(status: u16, code: &str, message: &str) -> Response<Full<Bytes>> {
    reply(status, JSON, json!({ "__type": code, "message": message }).to_string())
}

fn s3_error(status: u16, code: &str, message: &str) -> Response<Full<Bytes>> {
    let error = format!("<Error><Code>{code}</Code><Message>{message}</Message><RequestId>proxy</RequestId></Error>");
    reply(status, XML, format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{error}"))
}

fn sns_error(status: u16, fault: &str, code: &str, message: &str) -> Response<Full<Bytes>> {
    let error = format!("<Error><Type>{fault}</Type><Code>{code}</Code><Message>{message}</Message></Error>");
    reply(status, XML, format!("<ErrorResponse xmlns=\"{SNS}\">{error}<RequestId>proxy</RequestId></ErrorResponse>"))
}

fn reply(status: u16, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    Response::builder().status(status).header(CONTENT_TYPE, kind).body(Full::new(text.into())).unwrap()
}
