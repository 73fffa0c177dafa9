//! A folder that a worker watches: one run for each file that is put into it, whoever dies.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;

use crate::support::{Place, Running, SIMULATED, json_lines, sum};

const CONFIG: &str = r#"
[[model]]
name = "haiku"
id = "anthropic.claude-haiku-4-5-20251001-v1:0"
price = { input = 1.0, output = 5.0 }
[[endpoint]]
region = "us-west-2"
[[upload]]
folder = "inbox"
suffix = ".txt"
template = "Sum up {{document.name}}: {{chunk}}"
[[upload]]
folder = "inbox"
prefix = "deep/"
template = "Translate {{chunk}}"
"#;

/// What comes by itself is in this batch.
const BATCH: &str = "-";

fn inbox() -> Place {
    let place = Place::new();
    place.write("aquifer.toml", CONFIG);
    std::fs::create_dir_all(place.path("inbox/deep")).unwrap();
    place
}

fn worker(place: &Place, simulate: &str) -> Running {
    let mut worker = Running::start(place.command(["worker", simulate, "--listen", "127.0.0.1:0"]));
    worker.until_said(&["watching"]);
    worker
}

/// Takes traces; where, and what it was sent, in which names stand as they are.
fn collector() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let heard = Arc::<Mutex<Vec<u8>>>::default();
    let hears = Arc::clone(&heard);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut head, mut length) = (String::new(), 0);
            while stream.read_line(&mut head).unwrap() > 2 {
                let line = head.lines().last().unwrap_or_default().to_ascii_lowercase();
                length = line.strip_prefix("content-length: ").map_or(length, |length| length.parse().unwrap());
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            hears.lock().unwrap().extend(body);
            let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.get_mut().write_all(reply);
        }
    });
    (url, heard)
}

/// Returns once so many files are known. Each look is a process that reads the state.
fn until_known(place: &Place, count: u64) {
    let began = Instant::now();
    while place.status(BATCH).and_then(|status| status["total"].as_u64()).unwrap_or(0) < count {
        assert!(began.elapsed().as_secs() < 60, "{count} files were not taken in: {:?}", place.status(BATCH));
    }
}

fn results(place: &Place) -> Vec<Value> {
    json_lines(&place.aquifer(["results", BATCH, "--state", SIMULATED]).exits(0).stdout)
}

#[test]
fn w8_files_that_are_dropped_in_are_run_once_each_though_the_worker_is_killed() {
    let place = inbox();
    // Two are answered and all others wait for ever: the kill finds some ended, some at work.
    place.write("hangs.toml", "[[fault]]\nkind = \"hang\"\ncalls = \"3-100000\"\n");
    place.write("inbox/first.txt", "All is well.");
    place.write("inbox/second.txt", "All is better.");
    let first = worker(&place, "--simulate=hangs.toml");
    place.until_succeeded(BATCH, 2);
    place.write("inbox/third.txt", "All is best.");
    place.write("inbox/deep/fourth.md", "# Alles ist gut\n\nSehr.");
    place.write("inbox/no-rule.md", "for nobody");
    place.write("inbox/.hidden.txt", "for nobody");
    place.write("inbox/fifth.txt.part", "All is");
    until_known(&place, 4);
    first.signal("KILL");
    drop(first);
    place.write("inbox/fifth.txt.part", "All is good.");
    std::fs::rename(place.path("inbox/fifth.txt.part"), place.path("inbox/fifth.txt")).unwrap();
    place.write("inbox/empty.txt", "");

    let second = worker(&place, "--simulate");
    place.until_succeeded(BATCH, 5);
    until_known(&place, 6);
    // What lies there unchanged is taken in at each start, before what comes next.
    place.write("inbox/first.txt", "All is different.");
    place.until_succeeded(BATCH, 6);
    second.signal("TERM");
    let ended = second.finish().exits(0);
    let log = json_lines(ended.stderr.as_bytes());
    assert!(log.iter().all(|line| line["level"] != "WARN"), "{}", ended.stderr);

    let results = results(&place);
    let mut runs: Vec<String> = results
        .iter()
        .map(|result| {
            format!("{} {}", result["metadata"]["file"].as_str().unwrap(), result["status"].as_str().unwrap())
        })
        .collect();
    runs.sort();
    let expected = [
        "deep/fourth.md succeeded",
        "empty.txt rejected",
        "fifth.txt succeeded",
        "first.txt succeeded",
        "first.txt succeeded",
        "second.txt succeeded",
        "third.txt succeeded",
    ];
    assert_eq!(runs, expected);
    let calls = sum(&results, "model_calls");
    assert!((6.0..=8.0).contains(&calls), "one call each, and one more for what was at work at the kill: {calls}");
    let ids: BTreeSet<&str> = results.iter().map(|result| result["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 7);
    assert!(ids.iter().any(|id| id.starts_with("inbox:deep:fourth.md-")), "{ids:?}");
    let notices = json_lines(&place.read(&format!("{SIMULATED}/events.jsonl")));
    let told: BTreeSet<String> = notices.iter().map(|notice| notice["notice_id"].to_string()).collect();
    assert_eq!(told.len(), 7, "one notice's identity each: {notices:?}");
}

#[test]
fn a_folder_that_is_not_there_is_said_once_and_taken_up_when_it_comes() {
    let place = inbox();
    std::fs::remove_dir_all(place.path("inbox")).unwrap();
    let (url, heard) = collector();
    let mut command = place.command(["worker", "--simulate", "--listen", "127.0.0.1:0"]);
    command.env("AQUIFER_TELEMETRY_TRACES", url);
    let mut worker = Running::start(command);
    worker.until_said(&["it is waited for"]);
    std::fs::create_dir(place.path("inbox")).unwrap();
    place.write("inbox/a.txt", "All is well.");
    worker.until_said(&["can be read again"]);
    place.until_succeeded(BATCH, 1);
    worker.signal("TERM");
    let ended = worker.finish().exits(0);
    assert_eq!(ended.stderr.matches("it is waited for").count(), 1, "{}", ended.stderr);
    let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
    assert!(heard.contains("process ") && heard.contains("inbox:a.txt-"), "the document is traced");
    assert!(heard.contains("create "), "from the file on");
}

#[test]
fn what_would_be_watched_twice_or_is_our_own_is_named_at_start_and_by_check() {
    let place = inbox();
    for (rule, said) in [
        ("[[upload]]\nfolder = 'inbox/deep'\n", "hold the same files"),
        ("[[upload]]\nfolder = '.aquifer/bodies'\n", "is our own"),
        ("[[upload]]\nfolder = 'other'\npipeline = 'arn:aws:states:r:1:stateMachine:m'\n", "beside `upload.2.folder`"),
    ] {
        place.write("aquifer.toml", format!("{CONFIG}{rule}"));
        let ended = place.aquifer(["worker", "--simulate"]).exits(2);
        assert!(ended.stderr.contains(said), "{rule}: {}", ended.stderr);
    }
    place.write("aquifer.toml", format!("{CONFIG}[[upload]]\nfolder = 'inbox/deep'\n[[upload]]\nfolder = 'gone'\n"));
    place.write("inbox/a.txt", "All is well.");
    place.write("inbox/b.pdf", "no rule is for it");
    let mut command = place.command(["check", "--json"]);
    command
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .env("AWS_ACCESS_KEY_ID", "x")
        .env("AWS_SECRET_ACCESS_KEY", "y");
    let told = Running::start(command).finish().exits(2).json();
    let of = |severity: &str| -> Vec<&str> {
        let all = told["findings"].as_array().unwrap().iter();
        let meant = all.filter(|found| found["subject"] == "folder" && found["severity"] == severity);
        meant.map(|found| found["what"].as_str().unwrap()).collect()
    };
    let errors = of("error");
    assert!(errors.iter().any(|what| what.contains("hold the same files")), "{errors:?}");
    assert!(errors.iter().any(|what| what.starts_with("gone cannot be watched")), "{errors:?}");
    assert!(of("ok").iter().any(|what| what.starts_with("inbox is") && what.ends_with(": 1")), "{told}");

    place.write("aquifer.toml", CONFIG.replace("folder = \"inbox\"", "folder = \".\""));
    let mut worker = worker(&place, "--simulate");
    worker.until_said(&["lies in it and is our own"]);
    worker.signal("TERM");
    worker.finish().exits(0);
}
