//! A service that answers what a test tells it to, one answer a request, and remembers what it was asked. The SDK in
//! front of it is the real one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{Emulated, Fleet, Results, Settings};
use crate::job::units::Timestamp;
use crate::ports::Clock;

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Canned {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    /// So many bytes of the body come, and then the connection breaks off.
    cut: Option<usize>,
}

impl Canned {
    pub(super) fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None }
    }

    /// As S3 says it.
    pub(super) fn of_s3(status: u16, code: &str) -> Self {
        Self::new(status, format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>"))
    }

    pub(super) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(super) fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// What came: operation, or method and path, and body.
type Requests = Arc<Mutex<Vec<(String, String)>>>;

/// All services of a fleet at one address.
pub(super) struct Service {
    pub(super) fleet: Fleet,
    requests: Requests,
}

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp(1_700_000_000_000)
    }
}

impl Service {
    /// Gives these answers in their order, and the last of them for ever.
    pub(super) async fn answering(answers: impl IntoIterator<Item = Canned>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (requests, answers) = (Requests::default(), Arc::new(Mutex::new(answers.into_iter().collect())));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&seen), Arc::clone(&answers)));
            }
        });
        let (region, access_key_id) = ("us-east-1".to_owned(), "test".to_owned());
        let emulated = Emulated { endpoint_url: url.clone(), dynamodb_url: None, region, access_key_id };
        let settings = Settings {
            queue_url: format!("{url}/000000000000/jobs"),
            dead_letter_url: format!("{url}/000000000000/dead"),
            table: "t".to_owned(),
            bucket: "b".to_owned(),
            prefix: "p/".to_owned(),
            topic_arn: Some("arn:aws:sns:us-east-1:000000000000:t".to_owned()),
            results: Results::Segment,
            keep: Duration::from_secs(86_400),
        };
        Self { fleet: Fleet::connect_to(&emulated, settings, Arc::new(Fixed)), requests }
    }

    /// What was asked for, in order.
    pub(super) fn asked(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(asked, _)| asked.clone()).collect()
    }

    /// The JSON of the request at that place.
    pub(super) fn json(&self, place: usize) -> serde_json::Value {
        serde_json::from_str(&self.requests.lock().unwrap()[place].1).unwrap()
    }
}

async fn serve(stream: TcpStream, requests: Requests, answers: Arc<Mutex<VecDeque<Canned>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_until(b'\n', &mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let head = String::from_utf8(head).unwrap();
        let field = |name: &str| {
            let mut fields = head.lines().filter_map(|line| line.split_once(": "));
            fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        if field("expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        }
        let mut body = vec![0; field("content-length").map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body).await.unwrap();
        let asked = match field("x-amz-target") {
            Some(target) => target.rsplit('.').next().unwrap().to_owned(),
            None => head.split(" HTTP").next().unwrap().to_owned(),
        };
        requests.lock().unwrap().push((asked, String::from_utf8_lossy(&body).into_owned()));
        let answer = {
            let mut answers = answers.lock().unwrap();
            if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
        };
        let Canned { status, headers, body, cut } = answer.unwrap();
        let headers: String = headers.into_iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("HTTP/1.1 {status} Canned\r\n{headers}content-length: {}\r\n\r\n", body.len());
        if let Some(cut) = cut {
            let _ = stream.write_all((head + &body[..cut]).as_bytes()).await;
            return;
        }
        // Whoever asked may have hung up over an answer that is too long.
        let _ = stream.write_all((head + &body).as_bytes()).await;
    }
}
