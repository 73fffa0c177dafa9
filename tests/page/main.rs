//! The page of a worker, looked at with a real browser: the real binary, a running simulator, and a person who presses keys.
//!
//! ```text
//! cargo test --test page                                                     all of it
//! PICTURE=tests/page/page.png cargo test --test page picture -- --ignored     takes the picture that the README shows
//! ```

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "../common/chromium/mod.rs"]
mod chromium;
mod doors;
mod sight;
#[allow(dead_code, reason = "shared with the tests of the command line, which need more")]
#[path = "../cli/support.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::Value;

use support::{Place, Running};

const TOKEN: &str = "a-token-for-the-tests-of-the-page";

/// A worker on a simulator, and where it listens.
struct Worker {
    running: Running,
    address: String,
}

impl Worker {
    fn start(place: &Place, simulate: &str) -> Self {
        Self::listening(place, simulate, "127.0.0.1:0", &[])
    }

    fn listening(place: &Place, simulate: &str, listen: &str, env: &[(&str, &str)]) -> Self {
        let mut command = place.command(["worker", simulate, "--listen", listen]);
        command.envs(env.iter().copied());
        Self::of(Running::start(command))
    }

    fn of(mut running: Running) -> Self {
        let line = running.until_said_with("/healthz");
        let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
        Self { running, address }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn status(&self) -> Value {
        let (status, _, body) =
            ask(&self.address, &format!("GET /api/status HTTP/1.1\r\nhost: {}\r\n", self.address), "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Asks for the status until it is like that; each question waits for its answer.
    fn until(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let status = self.status();
            if is_so(&status) {
                return status;
            }
            assert!(began.elapsed().as_secs() < 120, "it did not come to that: {status}");
        }
    }

    fn stop(self) {
        self.running.signal("TERM");
        self.running.finish().exits(0);
    }
}

/// Status, head in small letters, and body of the answer to a request whose head lacks its last line.
fn ask(address: &str, head: &str, body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("{head}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
}
