//! What bodies must do; see `ports::Bodies`.

use std::collections::HashMap;
use std::sync::Arc;

use aquifer::job::ident::{BatchKey, Tenant};
use aquifer::job::outcome::Pointer;
use aquifer::ports::StoreTrouble;
use bytes::Bytes;

use crate::world::{World, batch_key};

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
    let segments: HashMap<&str, &Pointer> = pointers.iter().map(|pointer| (pointer.uri.as_str(), pointer)).collect();
    if w.can.append {
        assert_eq!(segments.len(), 1);
    } else {
        assert!(segments.len() <= 20, "{} segments for 200 lines that came at once", segments.len());
    }
    let mut lines = 0;
    for pointer in segments.values() {
        lines += String::from_utf8(w.place.segment(pointer).await).unwrap().lines().count();
    }
    assert_eq!(lines, 200);
    let theirs = BatchKey { tenant: Tenant::new("acme").unwrap(), ..batch_key() };
    let pointer = w.bodies.append(&theirs, Bytes::from_static(b"{}")).await.unwrap();
    assert_ne!(pointer.uri, pointers[0].uri, "a segment holds lines of one batch of one tenant");
}

pub(crate) async fn a_damaged_line_is_not_an_answer(w: World) {
    let pointer = w.bodies.append(&batch_key(), Bytes::from_static(b"{\"text\":\"yes\"}")).await.unwrap();
    w.place.damage(&pointer, Some("{\"text\":\"no!\"}\n")).await;
    assert_eq!(w.bodies.read(&pointer).await.unwrap_err().kind, StoreTrouble::Damaged);
    w.place.damage(&pointer, Some("{")).await;
    assert_eq!(w.bodies.read(&pointer).await.unwrap_err().kind, StoreTrouble::Damaged);
    w.place.damage(&pointer, None).await;
    w.bodies.read(&pointer).await.unwrap_err();
}

pub(crate) async fn a_pointer_out_of_the_store_is_refused(w: World) {
    let pointer = w.bodies.append(&batch_key(), Bytes::from_static(b"{}")).await.unwrap();
    for uri in w.place.astray() {
        let astray = Pointer { uri: uri.clone(), ..pointer.clone() };
        assert_eq!(w.bodies.read(&astray).await.unwrap_err().kind, StoreTrouble::Damaged, "{uri}");
    }
}
