//! Who else is told on one machine: `notify.webhook`.

use std::collections::{BTreeSet, VecDeque};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use crate::support::{Ended, Place, Running, SIMULATED, assert_all_succeeded, json_lines};

/// Somebody who listens, answers with these statuses in turn and then always 204, and keeps what it was told and when it
/// accepted that.
struct Listener {
    url: String,
    told: Arc<Mutex<Vec<(u16, Value)>>>,
}

impl Listener {
    fn answering(statuses: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hooks/hunter2", listener.local_addr().unwrap());
        let told: Arc<Mutex<Vec<(u16, Value)>>> = Arc::default();
        let (statuses, kept) = (Arc::new(Mutex::new(VecDeque::from(statuses.to_vec()))), Arc::clone(&told));
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (statuses, kept) = (Arc::clone(&statuses), Arc::clone(&kept));
                thread::spawn(move || serve(&connection.unwrap(), &statuses, &kept));
            }
        });
        Self { url, told }
    }

    fn ids_of(&self, is_such: impl Fn(u16) -> bool) -> Vec<String> {
        let told = self.told.lock().unwrap();
        let such = told.iter().filter(|(status, _)| is_such(*status));
        such.map(|(_, notice)| notice["notice_id"].as_str().unwrap().to_owned()).collect()
    }
}

/// The requests of one connection, one after another.
fn serve(connection: &TcpStream, statuses: &Mutex<VecDeque<u16>>, told: &Mutex<Vec<(u16, Value)>>) {
    let mut reader = BufReader::new(connection);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head).unwrap_or_default() == 0 {
                return;
            }
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(
            head.starts_with("post /hooks/hunter2 ") && head.contains("content-type: application/json\r\n"),
            "{head}"
        );
        let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let status = statuses.lock().unwrap().pop_front().unwrap_or(204);
        told.lock().unwrap().push((status, serde_json::from_slice(&body).unwrap()));
        let answer = format!("HTTP/1.1 {status} As Ordered\r\ncontent-length: 0\r\n\r\n");
        if (&*connection).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Runs three jobs on a service that is not "simulated", and tells this listener.
fn run(place: &Place, service: &str, listener: &Listener) -> Ended {
    place.write_jobs("demo.jsonl", 3);
    place.write(
        "aquifer.toml",
        format!(
            "[[model]]\nname = \"nova\"\nid = \"amazon.nova-micro-v1:0\"\n[[endpoint]]\nregion = \"us-east-1\"\n\
             endpoint_url = \"{service}\"\n[notify]\nwebhook = \"{}\"\n",
            listener.url
        ),
    );
    let mut command = place.command(["run", "demo.jsonl"]);
    command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "y");
    Running::start(command).finish()
}

fn service(place: &Place) -> (Running, String) {
    let mut service = Running::start(place.command(["simulate", "--listen", "127.0.0.1:0"]));
    let said = service.until_said_with("http://");
    let url = said.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    let url = url.trim_end_matches([',', '.', ';']).to_owned();
    (service, url)
}

#[test]
fn d9_every_notice_is_accepted_by_the_webhook_before_it_is_done_with() {
    let place = Place::new();
    let (_service, url) = service(&place);
    let listener = Listener::answering(&[503, 429]);
    run(&place, &url, &listener).exits(0);
    assert_all_succeeded(&place.results(), 3);

    let accepted = listener.ids_of(|status| status == 204);
    let logged = json_lines(&place.read(".aquifer/events.jsonl"));
    assert_eq!(logged.len(), 4, "three jobs and their batch: {logged:?}");
    let logged: BTreeSet<&str> = logged.iter().map(|notice| notice["notice_id"].as_str().unwrap()).collect();
    assert_eq!(accepted.iter().map(String::as_str).collect::<BTreeSet<_>>(), logged);
    let refused = listener.ids_of(|status| status != 204);
    assert_eq!(refused.len(), 2);
    assert!(refused.iter().all(|id| accepted.contains(id)), "sent again as the same notice");
    let told = listener.told.lock().unwrap();
    assert!(told.iter().all(|(_, notice)| !notice.to_string().contains("text")), "{told:?}");
}

#[test]
fn d9_a_webhook_that_refuses_stops_the_run_and_the_next_one_tells_it_without_a_call() {
    let place = Place::new();
    let (_service, url) = service(&place);
    let gone = Listener::answering(&[404; 16]);
    let ended = run(&place, &url, &gone).exits(1).says(&["notify.webhook", "404", "http://127.0.0.1:"]);
    assert!(!ended.stderr.contains("hunter2"), "the URL may be a secret");

    let back = Listener::answering(&[]);
    run(&place, &url, &back).exits(0);
    let results = place.results();
    assert_all_succeeded(&results, 3);
    assert!(results.iter().all(|result| result["model_calls"] == 1), "{results:?}");
    assert_eq!(back.ids_of(|_| true).iter().collect::<BTreeSet<_>>().len(), 4);
}

#[test]
fn a_simulated_run_tells_nobody() {
    let place = Place::new();
    let listener = Listener::answering(&[]);
    let model = "[[model]]\nname = \"nova\"\nid = \"amazon.nova-micro-v1:0\"";
    place.write("aquifer.toml", format!("{model}\n[notify]\nwebhook = \"{}\"\n", listener.url));
    place.write_jobs("demo.jsonl", 2);
    place.aquifer(["run", "demo.jsonl", "--simulate"]).exits(0);
    assert_eq!(json_lines(&std::fs::read(place.path(SIMULATED).join("events.jsonl")).unwrap()).len(), 3);
    assert_eq!(listener.ids_of(|_| true), [""; 0]);
}
