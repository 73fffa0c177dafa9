//! How long does it take from the start of the program to its first call? The real binary, with a configuration, dummy
//! credentials and an endpoint that is this program: the clock stops when the first byte of a request is here.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing to report")]

mod common;

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::{figure, median, place, process, title, worker};

fn main() {
    title("start");
    let times = if common::is_short() { 10 } else { 20 };
    let place = place();
    let (address, calls) = listen();
    let mut took: Vec<Duration> = (0..times)
        .map(|time| {
            let folder = place.path().join(time.to_string());
            std::fs::create_dir(&folder).unwrap();
            first_call(&folder, address, &calls)
        })
        .collect();
    let middle = median(&mut took);
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    figure(&format!("start to first call, median of {times}"), ms(middle), Some("<= 150 ms"));
    figure("  the fastest, the slowest", format!("{}, {}", ms(took[0]), ms(took[times - 1])), None);
}

/// Says when the first bytes of a call arrive. Connections on which nobody speaks are not calls.
fn listen() -> (SocketAddr, Receiver<Instant>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (arrived, calls) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, arrived) = (stream.unwrap(), arrived.clone());
            thread::spawn(move || {
                if stream.read(&mut [0; 1_024]).is_ok_and(|read| read > 0) {
                    let _ = arrived.send(Instant::now());
                }
                // Answered never: the program is killed.
                let _ = stream.read(&mut [0; 1_024]);
            });
        }
    });
    (address, calls)
}

fn first_call(folder: &Path, address: SocketAddr, calls: &Receiver<Instant>) -> Duration {
    std::fs::write(folder.join("aquifer.toml"), process::config(address)).unwrap();
    std::fs::write(folder.join("input.jsonl"), worker::line(0)).unwrap();
    let mut command = process::aquifer(folder);
    command.args(["run", "input.jsonl"]).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let mut run = command.spawn().unwrap();
    let arrived = calls.recv_timeout(Duration::from_secs(30)).unwrap();
    run.kill().unwrap();
    run.wait().unwrap();
    arrived.duration_since(began)
}
