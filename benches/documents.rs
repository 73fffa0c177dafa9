//! How fast is text taken out of documents, with how much memory, and how soon do hostile files end? As a worker does it: each
//! file in a process of its own, one core each.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing to report")]

mod common;
#[path = "../tests/documents/made.rs"]
mod made;

use std::fs::File;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use common::{figure, place, process, title};

/// Between two looks at the memory of a reader.
const LOOK: Duration = Duration::from_millis(2);

struct Read {
    took: Duration,
    cpu: Duration,
    /// In MiB.
    peak: f64,
    answer: Vec<u8>,
}

fn main() {
    title("documents");
    let pages = if common::is_short() { 500 } else { 1_000 };
    let text = read("text", &made::pages(pages));
    assert!(text.answer.starts_with(b"{\"Text\""), "a text PDF is read");
    #[allow(clippy::cast_precision_loss, reason = "pages")]
    let rate = pages as f64 / text.cpu.as_secs_f64().max(0.01);
    figure(&format!("text PDF of {pages} pages, a core"), format!("{rate:.0} pages/s"), Some(">= 50"));
    figure("  peak memory", format!("{:.1} MiB", text.peak), Some("<= 200 MiB"));
    let mut hostile: Vec<(&str, Vec<u8>)> = vec![
        ("bomb.pdf", made::bomb_pdf()),
        ("bomb.docx", made::bomb_docx()),
        ("loops.pdf", made::loops()),
        ("deep.pdf", made::deep()),
        ("deep.html", made::deep_html()),
    ];
    if !common::is_short() {
        hostile.push(("10,000 pages", made::pages(10_000)));
    }
    for (name, file) in hostile {
        let read = read(name, &file);
        let seconds = format!("{:.2} s, {:.0} MiB", read.took.as_secs_f64(), read.peak);
        figure(&format!("hostile: {name}, {} KiB", file.len() >> 10), seconds, Some("<= 10 s, <= 200 MiB"));
    }
}

fn read(name: &str, file: &[u8]) -> Read {
    let place = place();
    let path = place.path().join("file");
    std::fs::write(&path, file).unwrap();
    let before = process::cpu_of_children();
    let began = Instant::now();
    let mut command = process::aquifer(place.path());
    command
        .arg(aquifer::document::COMMAND)
        .stdin(File::open(&path).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let answer = thread::spawn(move || {
        let mut answer = Vec::new();
        std::io::Read::read_to_end(&mut output, &mut answer).unwrap();
        answer
    });
    let mut peak = 0.0;
    while child.try_wait().unwrap().is_none() {
        peak = process::peak_memory(child.id()).unwrap_or(peak);
        if began.elapsed() > aquifer::document::TIME {
            // As its worker does.
            let _ = child.kill();
        }
        thread::sleep(LOOK);
    }
    let took = began.elapsed();
    let answer = answer.join().unwrap();
    assert!(took < Duration::from_secs(10), "{name} took {took:?}");
    Read { took, cpu: process::cpu_of_children().saturating_sub(before), peak, answer }
}
