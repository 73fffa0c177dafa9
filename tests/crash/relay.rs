//! What did one life of a worker ask of the service, and when? A relay on loopback that reads whole HTTP messages.
//!
//! It does not hang up on the service when its caller dies: a call that was sent is answered, and counts.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Nothing that is waited for here takes that long unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A relay for one life.
pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

/// What it saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    /// Whole requests, in the order in which they arrived.
    pub(crate) requests: Vec<Request>,
    /// When the first of them had arrived.
    pub(crate) first: Option<First>,
    /// Whole answers of the service, whether or not anybody was left to hear them.
    pub(crate) answers: usize,
}

/// The first request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First {
    /// Since the relay was started.
    pub(crate) after: Duration,
    /// For how much of that time something on this machine waited for a processor or a disk, as Linux counts it; nothing elsewhere.
    pub(crate) starved: Duration,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The number that its prompt gives the job.
    pub(crate) job: usize,
    /// When it had arrived.
    pub(crate) at: Instant,
}

struct Shared {
    started: Instant,
    starved: Duration,
    upstream: Mutex<SocketAddr>,
    log: Mutex<Log>,
    changed: Condvar,
    closing: Mutex<bool>,
}

impl Relay {
    /// Relays to the service at `upstream`.
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            started: Instant::now(),
            starved: starvation(),
            upstream: Mutex::new(upstream),
            log: Mutex::default(),
            changed: Condvar::new(),
            closing: Mutex::new(false),
        });
        let ours = Arc::clone(&shared);
        let acceptor = thread::spawn(move || {
            let mut connections = Vec::new();
            for client in listener.incoming() {
                // Whoever connected before the relay was closed is served before this is seen.
                if *ours.closing.lock().unwrap() {
                    break;
                }
                let (client, ours) = (client.unwrap(), Arc::clone(&ours));
                // A caller that was killed breaks its connection, at whatever point.
                connections.push(thread::spawn(move || drop(serve(&client, &ours))));
            }
            for connection in connections {
                connection.join().unwrap();
            }
        });
        Self { address, shared, acceptor }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on relays new connections to this address: nobody can count on a port that was given up.
    pub(crate) fn lead_to(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().unwrap() = upstream;
    }

    /// Waits until what it saw satisfies `enough`; that.
    pub(crate) fn until(&self, what: &str, enough: impl Fn(&Log) -> bool) -> Log {
        let began = Instant::now();
        let mut log = self.log();
        while !enough(&log) {
            let left = LIMIT.checked_sub(began.elapsed());
            let left = left.unwrap_or_else(|| panic!("waited in vain for {what}: {:?}", *log));
            log = self.shared.changed.wait_timeout(log, left).unwrap().0;
        }
        log.clone()
    }

    /// Waits until everything that was sent has been answered; all of what it saw. The caller must have ended.
    pub(crate) fn finish(self) -> Log {
        *self.shared.closing.lock().unwrap() = true;
        drop(TcpStream::connect(self.address).unwrap());
        self.acceptor.join().unwrap();
        self.shared.log.lock().unwrap().clone()
    }

    /// What it saw so far.
    pub(crate) fn seen(&self) -> Log {
        self.log().clone()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.shared.log.lock().unwrap()
    }
}

fn serve(client: &TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut from_client = BufReader::new(client);
    let mut service: Option<BufReader<TcpStream>> = None;
    while let Some(request) = read_message(&mut from_client)? {
        shared.note(|log| {
            log.first.get_or_insert_with(|| First {
                after: shared.started.elapsed(),
                starved: starvation().saturating_sub(shared.starved),
            });
            log.requests.push(Request { job: job_of(&request), at: Instant::now() });
        });
        let from_service = match &mut service {
            Some(service) => service,
            None => {
                let upstream = *shared.upstream.lock().unwrap();
                let connection = TcpStream::connect(upstream)?;
                connection.set_nodelay(true)?;
                service.insert(BufReader::new(connection))
            }
        };
        from_service.get_mut().write_all(&request)?;
        let Some(answer) = read_message(from_service)? else { return Ok(()) };
        shared.note(|log| log.answers += 1);
        (&mut &*client).write_all(&answer)?;
    }
    Ok(())
}

impl Shared {
    fn note(&self, change: impl FnOnce(&mut Log)) {
        change(&mut self.log.lock().unwrap());
        self.changed.notify_all();
    }
}

/// Head and body of one message as they came; `None` where the connection ends between two.
fn read_message(from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let (mut message, mut length) = (Vec::new(), 0);
    loop {
        let begin = message.len();
        if from.read_until(b'\n', &mut message)? == 0 {
            return if begin == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        let line = String::from_utf8_lossy(&message[begin..]).to_lowercase();
        assert!(!line.starts_with("transfer-encoding"), "this relay only knows bodies of a stated length: {line}");
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let head = message.len();
    message.resize(head + length, 0);
    from.read_exact(&mut message[head..])?;
    Ok(Some(message))
}

/// For how long, since it was started, some task of this machine waited for a processor or a disk.
fn starvation() -> Duration {
    let total = |resource: &str| -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/pressure/{resource}")).ok()?;
        let (_, after) = text.lines().next()?.split_once("total=")?;
        after.parse().ok()
    };
    Duration::from_micros(["cpu", "io"].into_iter().filter_map(total).sum())
}

/// Every prompt of these tests says "number N".
fn job_of(request: &[u8]) -> usize {
    let text = String::from_utf8_lossy(request);
    let (_, after) = text.rsplit_once("number ").unwrap_or_else(|| panic!("a request without a number: {text}"));
    after.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}
