//! A worker that works whatever is queued, until it is told to stop; and how it says that it is well.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Place, Running, assert_all_succeeded, json_lines, sum};

const STOPPED_WITHIN: Duration = Duration::from_secs(20);

/// A worker on the simulator, and where it listens.
fn start(place: &Place, simulate: &str) -> (Running, String) {
    let mut worker = Running::start(place.command(["worker", simulate, "--listen", "127.0.0.1:0"]));
    let line = worker.until_said_with("/healthz");
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    (worker, address)
}

/// Status and body of a GET.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Asks until it is answered so; each question waits for its answer.
fn until_answered(address: &str, path: &str, status: u16) -> String {
    let began = Instant::now();
    loop {
        let (answered, body) = get(address, path);
        if answered == status {
            return body;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{path}: {answered} {body}");
    }
}

fn results(place: &Place, batch: &str) -> Vec<Value> {
    json_lines(&place.aquifer(["results", batch]).exits(0).stdout)
}

#[test]
fn d10_a_worker_works_what_is_queued_meanwhile_and_exits_0_on_sigterm() {
    let place = Place::new();
    place.write_jobs("first.jsonl", 20);
    place.write_jobs("second.jsonl", 30);
    place.aquifer(["enqueue", "first.jsonl", "--simulate"]).exits(0);
    let (worker, address) = start(&place, "--simulate");
    place.until_succeeded("first", 20);
    place.aquifer(["enqueue", "second.jsonl", "--simulate"]).exits(0);
    place.until_succeeded("second", 30);

    assert_eq!(get(&address, "/healthz"), (200, "alive\n".to_owned()));
    assert_eq!(until_answered(&address, "/readyz", 200), "ready\n");
    assert_eq!(get(&address, "/elsewhere").0, 404);
    let status: Value = serde_json::from_str(&until_answered(&address, "/api/status", 200)).unwrap();
    assert_eq!((&status["ended"], &status["without_success"], &status["ready"]), (&50.into(), &0.into(), &true.into()));
    assert_eq!(status["model_calls"], 50);
    assert!(!status.to_string().contains("Summarise"), "no prompt leaves by this door: {status}");
    let metrics = get(&address, "/metrics").1;
    assert!(metrics.contains("aquifer_jobs_ended_total{tenant=\"default\",status=\"succeeded\"} 50\n"), "{metrics}");
    assert!(!metrics.contains("Summarise"), "nor by this one: {metrics}");

    worker.signal("TERM");
    let ended = worker.finish().exits(0);
    for (batch, count) in [("first", 20), ("second", 30)] {
        assert_all_succeeded(&results(&place, batch), count);
    }
    let log = json_lines(ended.stderr.as_bytes());
    assert!(log.iter().all(|line| line["level"].is_string() && line["timestamp"].is_string()), "{}", ended.stderr);
    assert!(log.iter().any(|line| line["message"].as_str().unwrap().contains("50 jobs ended")), "{}", ended.stderr);
    assert!(log.iter().all(|line| line["_aws"].is_null()), "CloudWatch does not read this log: {}", ended.stderr);
    assert!(ended.stdout.is_empty());
}

#[test]
fn d10_a_worker_finishes_what_is_paid_for_and_the_next_one_pays_for_nothing_twice() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 400);
    place.write("slow.toml", "[latency]\nconstant = \"1s\"\n");
    place.aquifer(["enqueue", "demo.jsonl", "--simulate"]).exits(0);
    // So few at once that most of it is left when the signal comes, however late that is.
    let mut command = place.command(["worker", "--simulate=slow.toml", "--listen", "127.0.0.1:0"]);
    command.env("AQUIFER_WORKER_SLOTS", "32");
    let first = Running::start(command);
    place.until_succeeded("demo", 1);
    first.signal("TERM");
    first.finish().exits(0);
    let status = place.status("demo").unwrap();
    assert_eq!(status["running"], 0, "all is finished or handed back: {status}");
    assert!(status["queued"].as_u64().unwrap() > 0, "{status}");

    let (second, _) = start(&place, "--simulate");
    place.until_succeeded("demo", 400);
    second.signal("INT");
    second.finish().exits(0);
    let results = results(&place, "demo");
    assert_all_succeeded(&results, 400);
    assert!((sum(&results, "model_calls") - 400.0).abs() < f64::EPSILON, "each job was called exactly once");
}

#[test]
fn d10_a_second_sigterm_hands_back_at_once_and_until_then_it_is_not_ready() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 20);
    // The first call is answered, all others never are.
    place.write("hangs.toml", "[[fault]]\nkind = \"hang\"\ncalls = \"2-100000\"\n");
    place.aquifer(["enqueue", "demo.jsonl", "--simulate"]).exits(0);
    let (mut worker, address) = start(&place, "--simulate=hangs.toml");
    place.until_succeeded("demo", 1);
    worker.signal("TERM");
    worker.until_said(&["stopping"]);
    assert_eq!(until_answered(&address, "/readyz", 503), "stopping\n");
    assert_eq!(get(&address, "/healthz").0, 200, "it lives while it drains");
    let began = Instant::now();
    worker.signal("TERM");
    worker.finish().exits(0);
    assert!(began.elapsed() < STOPPED_WITHIN, "it waited for hanging calls: {:?}", began.elapsed());
    let status = place.status("demo").unwrap();
    assert_eq!((status["running"].as_u64(), status["queued"].as_u64()), (Some(0), Some(19)), "handed back: {status}");
}

#[test]
fn a_port_that_was_asked_for_must_be_had_and_the_default_one_need_not() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    place.aquifer(["worker", "--simulate", "--listen", &address]).exits(1).says(&["cannot listen on"]);
    let mut command = place.command(["worker", "--simulate"]);
    command.env("AQUIFER_WORKER_LISTEN", &address);
    Running::start(command).finish().exits(1).says(&["cannot listen on"]);
    place.write_jobs("demo.jsonl", 1);
    place.aquifer(["run", "demo.jsonl", "--simulate", "--listen", &address]).exits(1).says(&["cannot listen on"]);

    // Whoever has it, it is taken.
    let _default = TcpListener::bind("127.0.0.1:9464");
    let mut worker = Running::start(place.command(["worker", "--simulate"]));
    worker.until_said(&["warning: cannot listen on 127.0.0.1:9464"]);
    worker.until_said(&["working all batches"]);
    worker.signal("TERM");
    worker.finish().exits(0);
}

#[test]
fn a_run_serves_its_health_where_it_is_asked_to() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 20);
    place.write("hangs.toml", "[[fault]]\nkind = \"hang\"\ncalls = \"2-100000\"\n");
    let arguments = ["run", "demo.jsonl", "--simulate=hangs.toml", "--listen", "127.0.0.1:0"];
    let mut run = Running::start(place.command(arguments));
    let line = run.until_said_with("/healthz");
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    assert_eq!(until_answered(&address, "/readyz", 200), "ready\n");
    run.signal("INT");
    run.until_said(&["stopping"]);
    run.signal("INT");
    run.finish().exits(130);
}
