//! What bodies and notices must do; see `ports::Bodies` and `ports::Notices`.

use std::sync::Arc;

use aquifer::job::ident::{BatchKey, Tenant};
use aquifer::job::lifecycle::Status;
use aquifer::job::notice::Notice;
use aquifer::job::outcome::{Pointer, Tally};
use aquifer::ports::StoreTrouble;
use bytes::Bytes;

use crate::world::{World, batch_key, key};

pub(crate) async fn a_line_reads_back(w: World) {
    for line in ["", "{}", "{\"text\":\"a\\nb\"}", &"x".repeat(3 << 20)] {
        let line = Bytes::copy_from_slice(line.as_bytes());
        let pointer = w.bodies.append(&batch_key(), line.clone()).await.unwrap();
        assert_eq!(pointer.length, line.len() as u64);
        assert_eq!(w.bodies.read(&pointer).await.unwrap(), line);
    }
}

pub(crate) async fn d8_lines_of_many_jobs_share_a_segment(w: World) {
    let writers: Vec<_> = (0..200)
        .map(|n| {
            let bodies = Arc::clone(&w.bodies);
            tokio::spawn(async move {
                let line = Bytes::from(format!("{{\"n\":{n}}}"));
                (bodies.append(&batch_key(), line.clone()).await.unwrap(), line)
            })
        })
        .collect();
    let mut pointers = Vec::new();
    for writer in writers {
        let (pointer, line) = writer.await.unwrap();
        assert_eq!(w.bodies.read(&pointer).await.unwrap(), line);
        pointers.push(pointer);
    }
    assert!(pointers.iter().all(|pointer| pointer.uri == pointers[0].uri));
    let file = std::fs::read_to_string(w.file(&pointers[0])).unwrap();
    assert_eq!(file.lines().count(), 200);
    let theirs = BatchKey { tenant: Tenant::new("acme").unwrap(), ..batch_key() };
    let pointer = w.bodies.append(&theirs, Bytes::from_static(b"{}")).await.unwrap();
    assert_ne!(pointer.uri, pointers[0].uri, "a segment holds lines of one batch of one tenant");
}

pub(crate) async fn a_damaged_line_is_not_an_answer(w: World) {
    let pointer = w.bodies.append(&batch_key(), Bytes::from_static(b"{\"text\":\"yes\"}")).await.unwrap();
    let file = w.file(&pointer);
    std::fs::write(&file, "{\"text\":\"no!\"}\n").unwrap();
    assert_eq!(w.bodies.read(&pointer).await.unwrap_err().kind, StoreTrouble::Damaged);
    std::fs::write(&file, "{").unwrap();
    assert_eq!(w.bodies.read(&pointer).await.unwrap_err().kind, StoreTrouble::Damaged);
    std::fs::remove_file(&file).unwrap();
    w.bodies.read(&pointer).await.unwrap_err();
}

pub(crate) async fn a_pointer_out_of_the_store_is_refused(w: World) {
    let pointer = w.bodies.append(&batch_key(), Bytes::from_static(b"{}")).await.unwrap();
    for uri in ["/etc/passwd", "../x", "bodies/../../x"] {
        let astray = Pointer { uri: uri.to_owned(), ..pointer.clone() };
        assert_eq!(w.bodies.read(&astray).await.unwrap_err().kind, StoreTrouble::Damaged, "{uri}");
    }
}

pub(crate) async fn d9_notices_may_be_repeated(w: World) {
    let ending = w.ending("a", Status::Succeeded).await;
    let notice = Notice::of_job(&key("a"), 0, &Tally::default(), &ending);
    for _ in 0..2 {
        w.notices.publish(&notice).await.unwrap();
    }
    let log = std::fs::read_to_string(w.dir.path().join("events.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], lines[1]);
    assert_eq!(lines[0]["kind"], "job");
}
